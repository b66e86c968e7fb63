"""Folder listings, indexes and the snapshot: what makes a run's packs a backup; and destinations that lag behind."""

from __future__ import annotations

from prefect import task

from backupiq.archive.tree_builder import TreeCounts
from backupiq.repository.snapshot import Snapshot
from backupiq.resilience.retry import STANDARD
from backupiq.telemetry import correlation
from flows.active import find_active
from flows.guard import guarded
from flows.tasks.options import STEP, retried


@task(name="trees", task_run_name="write folder listings", **STEP)
async def build_trees(run: str) -> str:
    """Write every folder listing; returns the root's id."""
    return await find_active(run).session.build_trees()


@task(name="partial trees", task_run_name="write folder listings of a checkpoint", **STEP)
async def build_partial_trees(run: str) -> tuple[str, TreeCounts]:
    """Write the folder listings of what is stored by now; the root's id, and what went into them."""
    return await find_active(run).session.build_partial_trees()


async def publish_snapshot(run: str, snapshot: Snapshot, lane: int, destination: str) -> str:
    """Write the indexes and the snapshot; returns the snapshot's id."""
    return str(await _publish(run, snapshot, lane, destination))


@task(name="publish", task_run_name="publish snapshot to {destination}", **retried(STANDARD))
@guarded(lambda call: find_active(call["run"]).writing.breaker(call["lane"]))
async def _publish(run: str, snapshot: Snapshot, lane: int, destination: str) -> str:
    with correlation(destination=destination):
        return await find_active(run).writing.lanes.lanes[lane].publisher.publish(snapshot)


@task(name="checkpoint", task_run_name="publish checkpoint to {destination}", **retried(STANDARD))
@guarded(lambda call: find_active(call["run"]).writing.breaker(call["lane"]))
async def publish_checkpoint(run: str, snapshot: Snapshot, lane: int, destination: str) -> str | None:
    """Write the indexes and a checkpoint; its id, or None when packs that its indexes name are still on their way."""
    with correlation(destination=destination):
        publisher = find_active(run).writing.lanes.lanes[lane].publisher
        return await publisher.publish_checkpoint(snapshot)


@task(name="catch up", task_run_name="catch {destination} up", **retried(STANDARD))
@guarded(lambda call: find_active(call["run"]).writing.breaker(call["lane"]))
async def catch_up(run: str, lane: int, destination: str, snapshot: str | None = None) -> int:
    """Copy to the destination what it lacks and others have; returns how many objects.

    At the end of a run the ``snapshot``'s id is given, which must then be there.
    """
    backup = find_active(run)
    with correlation(destination=destination):
        name = backup.writing.lanes.lanes[lane].name
        report = await backup.writing.catch_up(name, backup.session.spool_folder, snapshot=snapshot)
    if report.lost:
        backup.session.warn(
            f"{len(report.lost)} objects of the repository are damaged wherever they are, so {destination} could not "
            "be given them. Check it with `restic check --read-data`."
        )
    return report.stored.get(name, 0)

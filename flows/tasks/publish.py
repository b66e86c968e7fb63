"""Folder listings, indexes and the snapshot: what makes a run's packs a backup."""

from __future__ import annotations

from prefect import task

from backupiq.repository.snapshot import Snapshot
from backupiq.telemetry import correlation
from flows.active import find_active
from flows.tasks.options import RETRIED, STEP


@task(name="trees", task_run_name="write folder listings", **STEP)
async def build_trees(run: str) -> str:
    """Write every folder listing; returns the root's id."""
    return await find_active(run).session.build_trees()


async def publish_snapshot(run: str, snapshot: Snapshot, destination: str) -> str:
    """Write the indexes and the snapshot; returns the snapshot's id."""
    return str(await _publish(run, snapshot, destination))


@task(name="publish", task_run_name="publish snapshot to {destination}", **RETRIED)
async def _publish(run: str, snapshot: Snapshot, destination: str) -> str:
    publisher = find_active(run).session.publisher
    if publisher is None:
        raise AssertionError("a dry run publishes nothing")
    with correlation(destination=destination):
        return await publisher.publish(snapshot)

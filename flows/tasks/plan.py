"""Deciding what must be read, and in which batches."""

from __future__ import annotations

from collections.abc import Iterable

from prefect import task

from backupiq.archive.spool import default_parent
from backupiq.planning.batches import plan_batches
from backupiq.planning.order import WORTH_SECONDS, Pace, expected_pace, waves
from backupiq.planning.resources import look
from flows.active import ActiveBackup, find_active
from flows.tasks.options import STEP


@task(name="compare", task_run_name="compare with the last snapshot", **STEP)
async def compare_with_parent(run: str) -> dict[str, int]:
    """Find what is new or changed; returns the counts."""
    backup = find_active(run)
    changes = await backup.session.compare(backup.parent_tree, same_user=backup.same_user)
    return {
        "files_new": changes.files_new,
        "files_changed": changes.files_changed,
        "files_unmodified": changes.files_unmodified,
        "bytes_to_read": changes.bytes_to_read,
    }


def expect(backup: ActiveBackup) -> float:
    """How many seconds storing is expected to take; noted in the backup."""
    changes = backup.session.changes
    backup.expected_seconds = _pace(backup).seconds(changes.bytes_to_read, len(changes.to_read))
    return backup.expected_seconds


def _pace(backup: ActiveBackup) -> Pace:
    return expected_pace([lane.provider.kind for lane in backup.session.lanes.lanes], backup.limit_upload)


@task(name="plan", task_run_name="plan batches", **STEP)
async def plan(run: str) -> int:
    """Divide what must be read into batches; returns how many."""
    backup = find_active(run)
    session, changes = backup.session, backup.session.changes
    cut: Iterable[Iterable[tuple[int, int]]] = [zip(changes.to_read, changes.sizes, strict=True)]
    importance = backup.importance
    if importance is not None and expect(backup) >= WORTH_SECONDS:
        files, smallest = (changes.to_read, changes.sizes, importance), _pace(backup).smallest_wave
        cut = await session.in_thread(lambda: list(waves(*files, backup.waited_days, smallest=smallest)))
    backup.batches = plan_batches(cut, changes.bytes_to_read, most_bytes=look(default_parent()).batch_bytes)
    return len(backup.batches)

"""Deciding what must be read, and in which batches."""

from __future__ import annotations

from prefect import task

from backupiq.planning.batches import plan_batches
from flows.active import find_active
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


@task(name="plan", task_run_name="plan batches", **STEP)
async def plan(run: str) -> int:
    """Divide what must be read into batches; returns how many."""
    backup = find_active(run)
    changes = backup.session.changes
    pairs = zip(changes.to_read, changes.sizes, strict=True)
    backup.batches = plan_batches(pairs, changes.bytes_to_read)
    return len(backup.batches)

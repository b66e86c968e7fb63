"""Finding out what the files of a run are."""

from __future__ import annotations

from prefect import task

from flows.active import find_active
from flows.tasks.options import STEP


@task(name="leave out", task_run_name="leave out what can be made again", **STEP)
async def leave_out_regenerable(run: str) -> int:
    """Take folders that can be made again out of the run; returns how many."""
    backup = find_active(run)
    return await backup.session.in_thread(backup.understanding.leave_out_regenerable)


@task(name="analyze", task_run_name="analyze new and changed files", **STEP)
async def analyze(run: str) -> int:
    """Read what contents tell, and decide what each file is worth; returns how many files were read for that."""
    backup = find_active(run)
    session, analysis = backup.session, backup.understanding
    read = await session.in_thread(analysis.read_contents)
    backup.importance = await session.in_thread(analysis.importance)
    if backup.parent_tree is not None:  # in a first backup nothing has been waiting for its turn
        backup.waited_days = await session.in_thread(analysis.waited_days)
    return read


@task(name="summarize", task_run_name="add up what the backup holds", **STEP)
async def summarize(run: str) -> dict[str, int]:
    """Add up what the run holds; returns bytes by category."""
    backup = find_active(run)
    summary = await backup.session.in_thread(backup.understanding.count)
    return {amount.name: amount.bytes for amount in summary.categories}

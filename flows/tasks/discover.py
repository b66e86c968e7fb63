"""Finding the files of one source."""

from __future__ import annotations

from prefect import task

from flows.active import find_active
from flows.tasks.options import STEP


@task(name="discover", task_run_name="discover {label}", **STEP)
async def discover_source(run: str, number: int, label: str) -> int:
    """Walk one group of sources; returns how many entries it holds."""
    backup = find_active(run)
    return await backup.session.discover(number, backup.groups[number])

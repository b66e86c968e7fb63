"""A restore in a process of its own, for tests that kill it: prints its helpers' ids, then its progress."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from backupiq.archive import restore_helpers
from backupiq.archive.restore import execute_restore
from backupiq.archive.restore_plan import plan_restore
from backupiq.archive.worker_process import WorkerProcess
from backupiq.repository.reader import BlobReader
from backupiq.repository.repository import Repository
from backupiq.repository.snapshot import Snapshot
from backupiq.storage.local import LocalProvider
from tests.unit.repository.repositories import PASSWORD


class _Told(WorkerProcess):
    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        print("helper", self.pid, flush=True)


async def main(repository: Path, tree: str, target: Path) -> None:
    """Restore the tree of the repository below the target, with helper processes whatever its size."""
    restore_helpers.WorkerProcess = _Told  # type: ignore[misc, attr-defined]
    restore_helpers.PAYS_FROM = 1
    restore_helpers.MOST_FILES = 20
    restore_helpers.processors = lambda: 2  # type: ignore[attr-defined]
    async with LocalProvider(repository) as provider:
        opened = await Repository.open(provider, PASSWORD)
        await opened.load_index()
        reader = BlobReader(opened)
        plan = await plan_restore(reader, Snapshot(time="2020-01-01T00:00:00Z", tree=tree, paths=["/"]), target=target)
        await execute_restore(plan, reader, target, on_progress=lambda files, _: print("done", files, flush=True))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])))

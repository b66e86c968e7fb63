"""Sends packs to destinations with the library's providers: ``python -m benchmarks.upload FOLDER DEST ...``.

What a run does after packing, and nothing else: no Prefect, no reading of files, no encryption.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from backupiq.archive.delivery import UPLOADS_AT_ONCE
from backupiq.repository.repository import pack_key
from backupiq.storage.factory import open_destination
from backupiq.storage.provider import StorageProvider

BATCHES_AT_ONCE = 3
"""As in ``flows/backup.py``, which is not imported: Prefect takes seconds and memory that belong to no upload."""
AT_ONCE = BATCHES_AT_ONCE * UPLOADS_AT_ONCE
"""Packs that a run sends to one destination at the same time."""


async def send_all(packs: Sequence[Path], destinations: Sequence[str]) -> None:
    """Sends every pack to every destination, all destinations at once. Storage errors pass through."""
    async with asyncio.TaskGroup() as group:
        for destination in destinations:
            group.create_task(_send_to(open_destination(destination), packs))


async def _send_to(provider: StorageProvider, packs: Sequence[Path]) -> None:
    slots = asyncio.Semaphore(AT_ONCE)

    async def send(pack: Path) -> None:
        async with slots:
            await provider.upload_file(pack, pack_key(pack.name), sha256=pack.name)

    async with provider, asyncio.TaskGroup() as group:
        for pack in packs:
            group.create_task(send(pack))


if __name__ == "__main__":
    asyncio.run(send_all(sorted(path for path in Path(sys.argv[1]).rglob("*") if path.is_file()), sys.argv[2:]))

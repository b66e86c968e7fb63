"""What makes stored packs part of the repository: indexes while the run goes on, the snapshot at its end.

Order is everything here (repository format, section 13): packs are durable before an index names them, and every index
is durable before the snapshot that needs it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from backupiq.errors import RepositoryDamagedError, StorageError
from backupiq.repository.envelope import encode_unpacked
from backupiq.repository.index import encode_index
from backupiq.repository.pack import FinishedPack, PackBlob, packed_size
from backupiq.repository.repository import FileType, Repository
from backupiq.repository.snapshot import Snapshot, encode_snapshot
from backupiq.telemetry import get_logger

INDEX_BLOBS = 50_000
INDEX_SECONDS = 300.0
HEADERS_AT_ONCE = 8

log = get_logger("backupiq.archive.publisher")


class Publisher:
    """Keeps the packs that are confirmed at the destination and not yet named by an index.

    Invariants: ``confirm`` and the coroutines are called from one event loop; a pack is named by exactly one index of
    this run; no index names a pack that was not confirmed.
    """

    def __init__(self, repository: Repository, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._repository = repository
        self._clock = clock
        self._unindexed: list[tuple[bytes, Sequence[PackBlob]]] = []
        self._blobs = 0
        self._last = clock()
        self._writing = asyncio.Lock()
        # What was sealed and not yet confirmed: a second try stores the same bytes under the same name, so that an
        # answer that was lost leaves no second copy.
        self._index_begun: tuple[int, int, bytes] | None = None
        self._snapshot_begun: tuple[bytes, bytes] | None = None
        self.packs = 0
        self.bytes_sent = 0
        self.indexes = 0

    def confirm(self, pack: FinishedPack) -> None:
        """The destination holds this pack."""
        self._unindexed.append((pack.id, pack.blobs))
        self._blobs += len(pack.blobs)
        self.packs += 1
        self.bytes_sent += pack.size

    async def write_interim_index(self) -> bool:
        """Name the confirmed packs when enough have come together (50,000 blobs, or after 5 minutes).

        An interrupted run is resumed from these. Returns whether an index was written.
        """
        if self._blobs < INDEX_BLOBS and (not self._blobs or self._clock() - self._last < INDEX_SECONDS):
            return False
        await self.write_index()
        return True

    async def write_index(self) -> None:
        """Name every pack that is confirmed by now, in files of about 50,000 blobs."""
        async with self._writing:
            # What is confirmed while the flush runs may not be on the disk when it ends, and waits for the next index.
            durable = len(self._unindexed)
            if durable:
                await self._repository.provider.flush()
            while durable:
                if self._index_begun is None:
                    self._index_begun = await self._next_index(durable)
                count, blobs, stored = self._index_begun
                await self._repository.save_raw(FileType.INDEX, stored)
                self._index_begun = None
                del self._unindexed[:count]
                durable -= count
                self._blobs -= blobs
                self.indexes += 1
                self.bytes_sent += len(stored)
            self._last = self._clock()

    async def publish(self, snapshot: Snapshot) -> str:
        """Write the last indexes and then the snapshot; returns its id in hex."""
        await self.write_index()
        json = encode_snapshot(snapshot)
        if self._snapshot_begun is None or self._snapshot_begun[0] != json:
            self._snapshot_begun = json, encode_unpacked(self._repository.master, json)
        stored = self._snapshot_begun[1]
        snapshot_id = await self._repository.save_raw(FileType.SNAPSHOT, stored)
        self.bytes_sent += len(stored)
        return snapshot_id

    async def _next_index(self, most: int) -> tuple[int, int, bytes]:
        """Of the first ``most`` confirmed packs those that fit: how many, their blobs, the index that names them."""
        part: list[tuple[bytes, Sequence[PackBlob]]] = []
        blobs = 0
        for pack in self._unindexed[:most]:
            if part and blobs + len(pack[1]) > INDEX_BLOBS:
                break
            part.append(pack)
            blobs += len(pack[1])
        stored = await asyncio.to_thread(lambda: encode_unpacked(self._repository.master, encode_index(part)))
        return len(part), blobs, stored


async def forget_lost_packs(repository: Repository) -> int:
    """Take packs that are not there, or cut short, out of the index in memory; returns how many.

    What they held counts as unknown from then on, so a backup reads and stores it again instead of relying on them. The
    index must have been loaded before: whoever publishes an index has stored its packs by then.
    """
    index, listed = repository.index, await repository.list_ids(FileType.PACK)
    lost = {pack for pack in index.packs() if listed.get(pack.hex(), 0) <= index.pack_end(pack)}
    if lost:
        log.warning("packs.lost", packs=[pack.hex() for pack in sorted(lost)][:10], count=len(lost))
        repository.index = await asyncio.to_thread(index.without, lost)
    return len(lost)


async def adopt_orphans(repository: Repository) -> tuple[int, int]:
    """Take packs that no index names, left by an interrupted run, into an index; returns how many and their bytes.

    Only for a run that is alone in the repository: the packs of a run under way are not in an index yet either. A pack
    whose header cannot be read, or does not account for every byte of it, is left alone.
    """
    listed = await repository.list_ids(FileType.PACK)
    orphans = {name: size for name, size in listed.items() if not repository.index.has_pack(bytes.fromhex(name))}
    if not orphans:
        return 0, 0
    slots = asyncio.Semaphore(HEADERS_AT_ONCE)

    async def header(name: str, size: int) -> tuple[str, list[PackBlob]] | None:
        async with slots:
            try:
                blobs = await repository.read_pack_header(name, size)
            except (RepositoryDamagedError, StorageError) as error:
                log.warning("orphan.unreadable", pack=name, error=error.code)
                return None
        return (name, blobs) if packed_size(blobs) == size else None

    found = await asyncio.gather(*(header(name, size) for name, size in sorted(orphans.items())))
    adopted = [item for item in found if item is not None]
    at = 0
    while at < len(adopted):
        part: list[tuple[bytes, Sequence[PackBlob]]] = []
        blobs_in_part = 0
        while at < len(adopted) and (not part or blobs_in_part + len(adopted[at][1]) <= INDEX_BLOBS):
            name, blobs = adopted[at]
            part.append((bytes.fromhex(name), blobs))
            blobs_in_part += len(blobs)
            at += 1
        await repository.save_file(FileType.INDEX, encode_index(part))
        for pack_id, blobs_of_pack in part:
            repository.index.add_pack(pack_id, blobs_of_pack)
    return len(adopted), sum(orphans[name] for name, _ in adopted)

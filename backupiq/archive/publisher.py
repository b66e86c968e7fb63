"""What makes stored packs part of the repository: indexes while the run goes on, the snapshot at its end.

Order is everything here (repository format, section 13): packs are durable before an index names them, and every index
is durable before the snapshot that needs it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import itertools
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence

from backupiq.errors import RepositoryDamagedError, StorageCorruptError, StorageError
from backupiq.repository.crypto import MasterKey
from backupiq.repository.envelope import encode_unpacked
from backupiq.repository.index import encode_index
from backupiq.repository.pack import FinishedPack, PackBlob, packed_size
from backupiq.repository.repository import FileType, Repository
from backupiq.repository.snapshot import Snapshot, encode_snapshot
from backupiq.telemetry import get_logger

INDEX_BLOBS = 50_000
INDEX_SECONDS = 300.0
HEADERS_AT_ONCE = 8

_Named = tuple[bytes, Sequence[PackBlob]]
"""A pack as an index names it: id and blobs."""

log = get_logger("backupiq.archive.publisher")


@dataclasses.dataclass(frozen=True, slots=True)
class Segment:
    """An index file, sealed once so that all replicas hold the same bytes, and the packs that it names."""

    packs: frozenset[bytes]
    blobs: int
    stored: bytes


class IndexBook:
    """The packs of a run that no index names yet, and the index files made of them.

    Invariants: used in one event loop; each pack is named by exactly one segment, and only once some destination has
    confirmed it; segments are kept until every reader has passed them.
    """

    def __init__(self, master: MasterKey, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._master = master
        self._clock = clock
        self._pending: list[_Named] = []
        self._known: set[bytes] = set()
        self._blobs = 0
        self._last = clock()
        self._cutting = asyncio.Lock()
        self._first = 0
        self._segments: list[Segment] = []
        self._readers: dict[int, int] = {}
        self._own: set[str] = set()
        self._snapshots: dict[bytes, bytes] = {}

    def is_own(self, name: str) -> bool:
        """Whether an index or snapshot of that name was made here."""
        return name in self._own

    def note(self, pack: FinishedPack) -> None:
        """Some destination holds this pack."""
        if pack.id not in self._known:
            self._known.add(pack.id)
            self._pending.append((pack.id, pack.blobs))
            self._blobs += len(pack.blobs)

    @property
    def due(self) -> bool:
        """Whether enough has come together for an interim index: 50,000 blobs, or anything after 5 minutes."""
        return self._blobs >= INDEX_BLOBS or (self._blobs > 0 and self._clock() - self._last >= INDEX_SECONDS)

    async def cut(self, packs: Container[bytes]) -> None:
        """Make segments of about 50,000 blobs of the pending packs that are among ``packs``."""
        async with self._cutting:
            for part in _parts([pack for pack in self._pending if pack[0] in packs]):
                await self._seal(part)

    async def _seal(self, part: Sequence[_Named]) -> None:
        blobs = sum(len(named) for _, named in part)
        stored = await asyncio.to_thread(lambda: encode_unpacked(self._master, encode_index(part)))
        named = frozenset(pack for pack, _ in part)
        self._pending = [pack for pack in self._pending if pack[0] not in named]
        self._blobs -= blobs
        self._segments.append(Segment(named, blobs, stored))
        self._own.add(hashlib.sha256(stored).hexdigest())
        self._last = self._clock()

    def seal_snapshot(self, snapshot: Snapshot) -> bytes:
        """The snapshot's sealed bytes: the same at every call with the same snapshot."""
        json = encode_snapshot(snapshot)
        stored = self._snapshots.get(json)
        if stored is None:
            stored = self._snapshots[json] = encode_unpacked(self._master, json)
            self._own.add(hashlib.sha256(stored).hexdigest())
        return stored

    # --- readers ------------------------------------------------------------------------------------------------------

    def add_reader(self) -> int:
        """A new reader, at the first segment; its number."""
        number = len(self._readers) if not self._readers else max(self._readers) + 1
        self._readers[number] = self._first
        return number

    def current(self, reader: int) -> Segment | None:
        """The segment that the reader is at; None when it has passed all there are, or was removed."""
        if reader not in self._readers:
            return None
        at = self._readers[reader] - self._first
        return self._segments[at] if at < len(self._segments) else None

    def advance(self, reader: int) -> None:
        """The reader has passed its segment; nothing happens when it was removed meanwhile."""
        if reader in self._readers:
            self._readers[reader] += 1
            self._forget()

    def remove_reader(self, reader: int) -> None:
        """The reader needs no more segments."""
        self._readers.pop(reader, None)
        self._forget()

    def _forget(self) -> None:
        passed = min(self._readers.values(), default=self._first) - self._first
        del self._segments[:passed]
        self._first += passed


class Publisher:
    """Names a run's packs in indexes at one destination, and publishes the snapshot there.

    Invariants: ``confirm`` and the coroutines are called from one event loop; no index is written here that names a
    pack which was not confirmed here; an index is written once.
    """

    def __init__(
        self,
        repository: Repository,
        *,
        book: IndexBook | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._repository = repository
        self._book = book or IndexBook(repository.master, clock=clock)
        self._reader = self._book.add_reader()
        self._confirmed: set[bytes] = set()
        self._retired = False
        self._writing = asyncio.Lock()
        self.packs = 0
        self.bytes_sent = 0
        self.indexes = 0
        self.checkpoints: list[str] = []
        """Ids of the checkpoints that stand there until the snapshot itself does."""

    def confirm(self, pack: FinishedPack) -> None:
        """The destination holds this pack."""
        self._confirmed.add(pack.id)
        self._book.note(pack)
        self.packs += 1
        self.bytes_sent += pack.size

    async def write_interim_index(self) -> bool:
        """Name the confirmed packs when enough have come together (50,000 blobs, or after 5 minutes).

        An interrupted run is resumed from these. Returns whether an index was written.
        """
        if not self._book.due and self._book.current(self._reader) is None:
            return False
        before = self.indexes
        await self._write(cut=self._book.due)
        return self.indexes > before

    async def write_index(self) -> None:
        """Name every pack that is confirmed by now, in files of about 50,000 blobs."""
        await self._write(cut=True)

    async def _write(self, *, cut: bool) -> None:
        async with self._writing:
            # What is confirmed while the flush runs may not be on the disk when it ends, and waits for the next index.
            durable = frozenset(self._confirmed)
            flushed = False
            if cut:
                await self._book.cut(durable)
            while (segment := self._book.current(self._reader)) is not None:
                if not segment.packs <= durable:
                    return
                if not flushed:
                    await self._repository.provider.flush()
                    flushed = True
                await self._repository.save_raw(FileType.INDEX, segment.stored)
                self._book.advance(self._reader)
                self.indexes += 1
                self.bytes_sent += len(segment.stored)

    async def publish(self, snapshot: Snapshot) -> str:
        """Write the last indexes and then the snapshot; returns its id in hex.

        StorageCorruptError when an index names a pack that this destination has not confirmed: then it must be caught
        up first.
        """
        if not await self._all_named():
            raise StorageCorruptError(
                f"{self._repository.provider.location} lacks packs of this run. {StorageCorruptError.hint}"
            )
        return await self._save(snapshot)

    async def publish_checkpoint(self, snapshot: Snapshot) -> str | None:
        """The same while the run goes on, once all packs that the snapshot needs are confirmed here.

        None when an index that names some of them names later ones too, which another destination has and this one has
        not yet: try again when more packs are here.
        """
        if not await self._all_named():
            return None
        snapshot_id = await self._save(snapshot)
        self.checkpoints.append(snapshot_id)
        return snapshot_id

    async def _all_named(self) -> bool:
        await self.write_index()
        return not self._retired and self._book.current(self._reader) is None

    async def _save(self, snapshot: Snapshot) -> str:
        stored = self._book.seal_snapshot(snapshot)
        snapshot_id = await self._repository.save_raw(FileType.SNAPSHOT, stored)
        self.bytes_sent += len(stored)
        return snapshot_id

    def retire(self) -> None:
        """No snapshot is published here in this run; what was made for it may be forgotten."""
        self._retired = True
        self._book.remove_reader(self._reader)


async def forget_lost_packs(repository: Repository, listed: Mapping[str, int]) -> int:
    """Take packs that are not there, or cut short, out of the index in memory; returns how many.

    What they held counts as unknown from then on, so a backup reads and stores it again instead of relying on them. The
    index must have been loaded before the packs were ``listed`` (name to bytes): whoever publishes an index has stored
    its packs by then.
    """
    index = repository.index
    lost = {pack for pack in index.packs() if listed.get(pack.hex(), 0) <= index.pack_end(pack)}
    if lost:
        log.warning("packs.lost", packs=[pack.hex() for pack in sorted(lost)][:10], count=len(lost))
        repository.index = await asyncio.to_thread(index.without, lost)
    return len(lost)


async def adopt_orphans(
    repository: Repository,
    listed: Mapping[str, int],
    holders: Sequence[tuple[Repository, Container[str]]] = (),
    *,
    on_failure: Callable[[int, StorageError], None] | None = None,
) -> tuple[int, int]:
    """Take packs that no index names, left by an interrupted run, into an index; returns how many and their bytes.

    ``listed`` are the packs there are, name to bytes. The index is written to the repository, or to each of the
    ``holders`` (a replica, and the packs it has) that has all that it names; the others get it when they are caught up.
    Packs that are not at the same holders do not share an index, so that each index can stand somewhere. ``on_failure``
    is told the place of a holder that takes no index; without it the error is raised.

    Only for a run that is alone in the repository: the packs of a run under way are not in an index yet either. A pack
    whose header cannot be read, or does not account for every byte of it, is left alone.
    """
    orphans = {name: size for name, size in listed.items() if not repository.index.has_pack(bytes.fromhex(name))}
    if not orphans:
        return 0, 0
    places = holders or [(repository, listed)]
    slots = asyncio.Semaphore(HEADERS_AT_ONCE)

    async def header(name: str, size: int) -> tuple[str, list[PackBlob]] | None:
        async with slots:
            try:
                blobs = await repository.read_pack_header(name, size)
            except (RepositoryDamagedError, StorageError) as error:
                log.warning("orphan.unreadable", pack=name, error=error.code)
                return None
        return (name, blobs) if packed_size(blobs) == size else None

    def held_by(found: tuple[str, list[PackBlob]]) -> list[int]:
        return [number for number, (_, held) in enumerate(places) if found[0] in held]

    found = await asyncio.gather(*(header(name, size) for name, size in sorted(orphans.items())))
    adopted = [item for item in found if item is not None]
    count = size = 0
    for at, group in itertools.groupby(sorted(adopted, key=held_by), key=held_by):
        for part in _parts([(bytes.fromhex(name), blobs) for name, blobs in group]):
            stored = await asyncio.to_thread(encode_unpacked, repository.master, encode_index(part))
            saved = False
            for number in at:
                try:
                    await places[number][0].save_raw(FileType.INDEX, stored)
                    saved = True
                except StorageError as error:
                    if on_failure is None:
                        raise
                    on_failure(number, error)
            for pack_id, blobs in part if saved else ():
                repository.index.add_pack(pack_id, blobs)
                count, size = count + 1, size + orphans[pack_id.hex()]
    return count, size


def _parts(packs: Sequence[_Named]) -> Iterator[list[_Named]]:
    """The packs in parts of about 50,000 blobs, none of them empty."""
    part: list[_Named] = []
    blobs = 0
    for pack in packs:
        if part and blobs + len(pack[1]) > INDEX_BLOBS:
            yield part
            part, blobs = [], 0
        part.append(pack)
        blobs += len(pack[1])
    if part:
        yield part

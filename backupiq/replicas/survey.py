"""What a replica holds: its objects by listing, and whether their bytes are those that their names stand for."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from backupiq.errors import StorageCorruptError, StorageNeedsThawError, StorageNotFoundError
from backupiq.replicas.objects import ORDER, SMALL, PackedObjects, fill_order, kind_of, pack_object
from backupiq.replicas.workers import work_off
from backupiq.repository.repository import CONFIG_KEY, FileType
from backupiq.storage.provider import StorageProvider

CHUNK = 8 << 20
AT_ONCE = 4
_THREAD_FROM = 64 << 10

ConfigIsRight = Callable[[bytes], bool]
"""Whether these bytes are the repository's config: the one object whose name says nothing about its content."""


@dataclass(frozen=True, slots=True)
class ReplicaListing:
    """``objects``: key to size in bytes of every object of the repository; never locks or temporary files."""

    objects: Mapping[str, int]

    def pairs(self) -> Iterable[tuple[str, int]]:
        """Key and size of each object, in the order in which a replica is filled."""
        if isinstance(self.objects, PackedObjects):
            return self.objects.pairs()
        return sorted(self.objects.items(), key=lambda item: fill_order(item[0]))

    @property
    def bytes(self) -> int:
        """The size of all of them."""
        return sum(size for _, size in self.pairs())


async def list_replica(provider: StorageProvider) -> ReplicaListing:
    """List a replica's objects. StorageNotFoundError when the destination itself is gone, and its other errors."""
    found: list[bytes] = []  # packed at once: as texts a million of them would take 300 MB
    # Backwards: what a snapshot needs is stored before it, so it is listed too, whoever publishes meanwhile.
    for kind in reversed(ORDER):
        if kind is FileType.CONFIG:
            with suppress(StorageNotFoundError):
                found.append(pack_object(CONFIG_KEY, (await provider.get_file_info(CONFIG_KEY)).size))
            continue
        async for info in provider.list_files(kind):
            if kind_of(info.key) is kind:
                found.append(pack_object(info.key, info.size))
    return ReplicaListing(await asyncio.to_thread(PackedObjects.of_records, found))


@dataclass(slots=True)
class Reading:
    """Reads objects of one replica and notes those whose bytes are wrong.

    ``pending`` holds key and listed size of what is still to be read, so that `run` may be called again after an error
    of the destination and goes on where it stopped. ``damaged``: other bytes than the name stands for, or another size.
    ``vanished``: listed and then not there. ``unread``: in an archive class, from which nothing can be read now.
    """

    pending: deque[tuple[str, int]]
    damaged: set[str] = field(default_factory=set)
    vanished: set[str] = field(default_factory=set)
    unread: set[str] = field(default_factory=set)
    objects: int = 0
    bytes: int = 0

    @classmethod
    def of(cls, listing: ReplicaListing, *, data: bool) -> Reading:
        """Everything to be read: the small objects always, packs only with ``data``."""
        wanted = SMALL | {FileType.PACK} if data else SMALL
        return cls(deque((key, size) for key, size in listing.pairs() if kind_of(key) in wanted))

    async def run(
        self,
        provider: StorageProvider,
        config_is_right: ConfigIsRight,
        *,
        spool: Path,
        at_once: int = AT_ONCE,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Read all that is pending, streamed: at most ``at_once`` pieces of 8 MiB are in memory.

        ``spool`` takes whole objects for a moment where the destination cannot be read in pieces. ``progress`` is told
        objects and bytes. Raises errors of the destination as a whole (not reached, refused), never of one object.
        """

        async def look(item: tuple[str, int]) -> None:
            key, size = item
            try:
                if not await _is_right(provider, key, size, config_is_right, spool):
                    self.damaged.add(key)
            except StorageNotFoundError:
                self.vanished.add(key)
            except StorageCorruptError:
                self.damaged.add(key)
            except StorageNeedsThawError:
                self.unread.add(key)
            self.objects += 1
            self.bytes += size
            if progress is not None:
                progress(1, size)

        await work_off(self.pending, look, at_once)

    def corrected(self, listing: ReplicaListing) -> ReplicaListing:
        """The listing without what has vanished meanwhile."""
        if not self.vanished:
            return listing
        return ReplicaListing(PackedObjects(item for item in listing.pairs() if item[0] not in self.vanished))


async def _is_right(
    provider: StorageProvider, key: str, size: int, config_is_right: ConfigIsRight, spool: Path
) -> bool:
    if key == CONFIG_KEY:
        return config_is_right(await provider.read(key))
    if not provider.capabilities.ranged_reads:
        target = spool / f"read-{secrets.token_hex(8)}"
        try:
            done = await provider.download_file(key, target)
        finally:
            target.unlink(missing_ok=True)
        return done.sha256 == key[-64:] and done.size == size
    digest = hashlib.sha256()
    for offset in range(0, size, CHUNK):
        piece = await provider.read(key, offset, min(CHUNK, size - offset))
        if len(piece) < _THREAD_FROM:
            digest.update(piece)
        else:
            await asyncio.to_thread(digest.update, piece)
    return digest.hexdigest() == key[-64:]

"""Reading blobs and trees out of packs, each one checked against its id.

Format: repository format, sections 6 and 8. Reads are few and large; opening (decrypting, decompressing, hashing) is
CPU work and happens in threads, a batch at a time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass

from backupiq.errors import (
    BlobMissingError,
    CryptoError,
    PackError,
    RepositoryDamagedError,
    StorageCorruptError,
    StorageNotFoundError,
    TreeError,
)
from backupiq.repository.blob import open_blob
from backupiq.repository.copies import read_verified
from backupiq.repository.crypto import MasterKey
from backupiq.repository.index import BlobLocation
from backupiq.repository.pack import BlobType, damaged_pack
from backupiq.repository.repository import Repository, pack_key
from backupiq.repository.tree import Node, decode_tree

CACHE_BYTES = 64 << 20
SEGMENT = 4 << 20
MAX_GAP = 256 << 10  # reading this many unwanted bytes is cheaper than another request
MAX_BATCH_STORED = 8 << 20
MAX_BATCH_PLAIN = 32 << 20
_THREAD_FROM = 64 << 10

Wanted = tuple[bytes, BlobLocation]
OnDamaged = Callable[[bytes, RepositoryDamagedError], None]


@dataclass(frozen=True, slots=True)
class SealedBatch:
    """Stored bytes of a pack from ``offset`` on, and the blobs wanted of them in the order of their offsets."""

    pack: bytes
    offset: int
    data: bytes
    wanted: Sequence[Wanted]

    def open(self, master: MasterKey, on_damaged: OnDamaged | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Id and plaintext of each wanted blob. CPU work: iterate it in a thread.

        A damaged blob raises PackError naming the pack, or, with ``on_damaged``, is reported to it and left out.
        """
        view = memoryview(self.data)
        for blob_id, (_, offset, length, plain_length) in self.wanted:
            start = offset - self.offset
            try:
                plain = open_blob(master, view[start : start + length], blob_id, plain_length)
            except (CryptoError, PackError) as error:
                damage = _damaged_blob(self.pack, blob_id, error)
                if on_damaged is None:
                    raise damage from error
                on_damaged(blob_id, damage)
            else:
                yield blob_id, plain


def _damaged_blob(pack: bytes, blob_id: bytes, error: RepositoryDamagedError) -> PackError:
    return damaged_pack(pack.hex(), "holds a damaged blob", blob=blob_id.hex(), reason=error.message)


def plan_batches(wanted: Sequence[Wanted]) -> list[list[Wanted]]:
    """Blobs of one pack grouped into reads: in order of offset, small gaps read over, each bounded in size."""
    batches: list[list[Wanted]] = []
    first = end = plain = 0
    for item in sorted(wanted, key=_offset):
        _, offset, length, plain_length = item[1]
        size = plain_length or length
        if (
            not batches
            or offset - end > MAX_GAP
            or offset + length - first > MAX_BATCH_STORED
            or plain + size > MAX_BATCH_PLAIN
        ):
            batches.append([])
            first, end, plain = offset, offset, 0
        batches[-1].append(item)
        end = max(end, offset + length)
        plain += size
    return batches


def _offset(item: Wanted) -> int:
    return item[1].offset


class BlobReader:
    """Reads from one repository, whose index must be loaded.

    Tree packs are read in segments of 4 MiB that stay in a cache of ``cache_bytes`` (stored bytes, not plaintext, so
    the bound holds whatever they unpack to): walking a snapshot costs a few reads. A blob whose pack is damaged is
    taken from another copy of it, or from another pack, when one holds it. Belongs to one event loop; coroutines may
    run side by side.
    """

    def __init__(self, repo: Repository, cache_bytes: int = CACHE_BYTES) -> None:
        self.repository = repo
        self._capacity = max(cache_bytes, SEGMENT)
        self._segments: OrderedDict[tuple[bytes, int], bytes] = OrderedDict()
        self._cached = 0
        self._reading: dict[tuple[bytes, int], asyncio.Task[bytes]] = {}
        self._pack_ends: dict[bytes, int] = {}

    # --- single blobs and trees -------------------------------------------------------------------------------------

    async def load_blob(self, blob_id: bytes, type: BlobType) -> bytes:  # noqa: A002 - the agreed name of the field
        """The plaintext of a blob. Raises BlobMissingError when no index names it, PackError when it is damaged."""
        failure: RepositoryDamagedError | None = None
        for location in self._locations(blob_id, type):
            try:
                return await self._load_from(location, blob_id, type)
            except (CryptoError, PackError) as error:
                failure = failure or _named(location, blob_id, error)
        assert failure is not None  # noqa: S101 - _locations never returns an empty list
        raise failure

    async def _load_from(self, location: BlobLocation, blob_id: bytes, type: BlobType) -> bytes:  # noqa: A002
        """The blob out of one pack, of whichever copy of that pack is right."""

        async def check(sealed: bytes) -> bytes:
            master, length = self.repository.master, location.uncompressed_length
            if len(sealed) < _THREAD_FROM:
                return open_blob(master, sealed, blob_id, length)
            return await asyncio.to_thread(open_blob, master, sealed, blob_id, length)

        if type is BlobType.TREE:
            with contextlib.suppress(CryptoError, PackError):  # the damage may lie beside the blob, or in one copy
                return await check(await self._from_segments(location))
        return await self._read_verified(location.pack, check, location.offset, location.length)

    async def load_tree(self, tree_hex: str) -> list[Node]:
        """The nodes of a tree. Raises as ``load_blob`` does, and TreeError when it is not a valid tree."""
        plain = await self.load_blob(_tree_id(tree_hex), BlobType.TREE)
        if len(plain) < _THREAD_FROM:
            return _decode_tree(tree_hex, plain)
        return await asyncio.to_thread(_decode_tree, tree_hex, plain)

    def _locations(self, blob_id: bytes, type: BlobType) -> list[BlobLocation]:  # noqa: A002
        index = self.repository.index
        first = index.find(blob_id, type)
        if first is None:
            what = "folder listing (tree)" if type else "piece of data (blob)"
            raise BlobMissingError(
                f"No index of the repository names the {what} {blob_id.hex()}. Run `restic repair index` "
                "(`restic rebuild-index` before 0.16), then `restic check`.",
                blob=blob_id.hex(),
            )
        return index.find_all(blob_id, type)

    async def _read(self, pack: bytes, offset: int, length: int) -> bytes:
        return await self._read_verified(pack, _as_it_is, offset, length)

    async def _read_verified(
        self, pack: bytes, check: Callable[[bytes], Awaitable[bytes]], offset: int, length: int
    ) -> bytes:
        try:
            return await read_verified(self.repository.provider, pack_key(pack.hex()), check, offset, length)
        except StorageNotFoundError:
            raise damaged_pack(pack.hex(), "is missing") from None
        except StorageCorruptError as error:
            raise damaged_pack(pack.hex(), "is cut short", offset=offset, length=length) from error

    async def _from_segments(self, location: BlobLocation) -> bytes:
        pack, offset, length, _ = location
        first = offset // SEGMENT
        last = (offset + length - 1) // SEGMENT
        start = offset - first * SEGMENT
        if first == last:
            return (await self._segment(pack, first))[start : start + length]
        if (last - first + 1) * SEGMENT > self._capacity:
            return await self._read(pack, offset, length)
        joined = b"".join([await self._segment(pack, number) for number in range(first, last + 1)])
        return joined[start : start + length]

    async def _segment(self, pack: bytes, number: int) -> bytes:
        key = (pack, number)
        segment = self._segments.get(key)
        if segment is not None:
            self._segments.move_to_end(key)
            return segment
        task = self._reading.get(key)
        if task is None:
            task = self._reading[key] = asyncio.create_task(self._read_segment(pack, number))
            task.add_done_callback(lambda done: self._keep(key, done))
        return await asyncio.shield(task)

    async def _read_segment(self, pack: bytes, number: int) -> bytes:
        end = self._pack_ends.get(pack)
        if end is None:
            end = self._pack_ends[pack] = self.repository.index.pack_end(pack)
        start = number * SEGMENT
        return await self._read(pack, start, min(SEGMENT, end - start))

    def _keep(self, key: tuple[bytes, int], task: asyncio.Task[bytes]) -> None:
        del self._reading[key]
        if task.cancelled() or task.exception() is not None:
            return
        self._segments[key] = task.result()
        self._cached += len(task.result())
        while self._cached > self._capacity:
            _, dropped = self._segments.popitem(last=False)
            self._cached -= len(dropped)

    # --- many blobs of one pack -------------------------------------------------------------------------------------

    async def sealed_batches(
        self, pack_id: bytes, wanted: Sequence[Wanted], *, on_damaged: OnDamaged | None = None
    ) -> AsyncIterator[SealedBatch]:
        """The stored bytes of the wanted blobs of a pack, in few large reads, for opening in a thread of the caller's.

        A part of the pack that cannot be read raises PackError, or, with ``on_damaged``, the blobs in it are reported.
        """
        for batch in plan_batches(wanted):
            first = batch[0][1].offset
            end = max(location.offset + location.length for _, location in batch)
            try:
                data = await self._read(pack_id, first, end - first)
            except PackError:
                async for single in self._one_by_one(pack_id, batch, on_damaged):
                    yield single
            else:
                yield SealedBatch(pack_id, first, data, batch)

    async def _one_by_one(
        self, pack_id: bytes, batch: Sequence[Wanted], on_damaged: OnDamaged | None
    ) -> AsyncIterator[SealedBatch]:
        for blob_id, location in batch:
            try:
                data = await self._read(pack_id, location.offset, location.length)
            except PackError as error:
                if on_damaged is None:
                    raise
                on_damaged(blob_id, error)
            else:
                yield SealedBatch(pack_id, location.offset, data, [(blob_id, location)])

    async def read_blobs_of_pack(
        self, pack_id: bytes, wanted: Sequence[Wanted], *, on_damaged: OnDamaged | None = None
    ) -> AsyncIterator[tuple[bytes, bytes]]:
        """Id and plaintext of each wanted data blob of a pack, in order of offset.

        A blob that is damaged here is taken from another pack when one holds it; else it raises PackError, or, with
        ``on_damaged``, is reported to it and left out.
        """
        broken: list[tuple[bytes, RepositoryDamagedError]] = []

        def note(blob_id: bytes, error: RepositoryDamagedError) -> None:
            broken.append((blob_id, error))

        async for batch in self.sealed_batches(pack_id, wanted, on_damaged=note):
            for opened in await asyncio.to_thread(_open_all, batch, self.repository.master, note):
                yield opened
        for blob_id, error in broken:
            try:
                yield blob_id, await self.load_blob(blob_id, BlobType.DATA)
            except RepositoryDamagedError:
                if on_damaged is None:
                    raise error from None
                on_damaged(blob_id, error)


async def _as_it_is(data: bytes) -> bytes:
    return data


def _open_all(batch: SealedBatch, master: MasterKey, on_damaged: OnDamaged) -> list[tuple[bytes, bytes]]:
    return list(batch.open(master, on_damaged))


def _named(location: BlobLocation, blob_id: bytes, error: RepositoryDamagedError) -> RepositoryDamagedError:
    return error if "pack" in error.details else _damaged_blob(location.pack, blob_id, error)


def _tree_id(tree_hex: str) -> bytes:
    try:
        tree_id = bytes.fromhex(tree_hex)
    except ValueError:
        tree_id = b""
    if len(tree_id) != 32:
        raise TreeError(tree=tree_hex[:80])
    return tree_id


def _decode_tree(tree_hex: str, plain: bytes) -> list[Node]:
    try:
        return decode_tree(plain)
    except TreeError as error:
        error.details.setdefault("tree", tree_hex)
        raise

"""Blobs into packs: hash, skip what is known, compress, seal, append."""

from __future__ import annotations

import dataclasses
import hashlib
import random
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from backupiq.archive.claims import Claims
from backupiq.archive.compression import BlobCompressor
from backupiq.repository.crypto import MasterKey
from backupiq.repository.pack import BlobType, FinishedPack, PackFile

PACK_SIZE = 16 << 20
MOST_BLOBS = 50_000
"""A pack of tiny blobs is closed at this many: its header stays near 2 MiB, far from the format's 16."""
OPEN_PACKS = 2
"""Blobs are spread over two open packs of a kind, so that a pack's bytes do not tell the order of a file's chunks."""

_Sealed = tuple[bytes, bytes, int, int]
"""A blob ready to be appended: id, sealed bytes, plain length if compressed (else 0), plain length."""


class Room(Protocol):
    """Where packs are written: a folder with a limit."""

    @property
    def folder(self) -> Path:
        """The private folder that packs are made in."""
        ...

    def reserve(self, size: int, stopped: Callable[[], bool]) -> None:
        """Wait until there is room for ``size`` bytes more; CancelledRunError when ``stopped`` says so meanwhile."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class WriterCounts:
    """New blobs of a run, and their bytes before and after compressing and sealing."""

    data_blobs: int = 0
    tree_blobs: int = 0
    plain_bytes: int = 0
    stored_bytes: int = 0

    def __add__(self, other: WriterCounts) -> WriterCounts:
        return WriterCounts(
            self.data_blobs + other.data_blobs,
            self.tree_blobs + other.tree_blobs,
            self.plain_bytes + other.plain_bytes,
            self.stored_bytes + other.stored_bytes,
        )


class _OpenPack:
    __slots__ = ("blobs", "file", "lock", "plain_bytes", "stored_bytes")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.blobs = self.plain_bytes = self.stored_bytes = 0
        self.file: PackFile | None = None


class PackWriter:
    """Stores blobs in packs in the spool; used by many threads at once.

    Invariants:

    - a blob that ``save`` has returned the id of is known, in an open pack, or being sealed by another thread or
      process that will either put it there or fail the run;
    - a blob is given to at most one pack, however many save it at once (`Claims`);
    - ``on_finished`` is called once for every pack, after all of its blobs are known, and never under a lock;
    - once a blob could not be stored, every later ``save`` of a new blob and every ``flush`` raises the same error,
      since others may have been given its id;
    - after ``flush`` no pack is open; a failure leaves the packs that were finished, and ``discard`` removes the rest.
    """

    def __init__(
        self,
        *,
        master: MasterKey,
        claims: Claims,
        spool: Room,
        on_finished: Callable[[FinishedPack], None],
        stopped: Callable[[], bool],
        pack_size: int = PACK_SIZE,
    ) -> None:
        self._master = master
        self._claims = claims
        self._spool = spool
        self._on_finished = on_finished
        self._stopped = stopped
        self._pack_size = pack_size
        self._open = {kind: [_OpenPack() for _ in range(OPEN_PACKS)] for kind in BlobType}
        self._compressor = BlobCompressor()
        self._random = random.Random(hashlib.sha256(master.seal(b"")).digest())  # noqa: S311 (seeded by a sealed nonce)
        self._failure: BaseException | None = None

    @property
    def counts(self) -> WriterCounts:
        """What was new so far."""
        data, trees = self._open[BlobType.DATA], self._open[BlobType.TREE]
        return WriterCounts(
            data_blobs=sum(slot.blobs for slot in data),
            tree_blobs=sum(slot.blobs for slot in trees),
            plain_bytes=sum(slot.plain_bytes for slot in (*data, *trees)),
            stored_bytes=sum(slot.stored_bytes for slot in (*data, *trees)),
        )

    def save(self, data: bytes | memoryview, kind: BlobType) -> bytes:
        """Store a blob unless it is known, and return its raw id (SHA-256 of the plain bytes)."""
        return self.save_many([data], kind)[0]

    def save_many(self, blobs: Sequence[bytes | memoryview], kind: BlobType) -> list[bytes]:
        """The same for several blobs: ids in their order. Much less work a blob when they are small."""
        ids = [hashlib.sha256(blob).digest() for blob in blobs]
        if self._failure is not None:
            raise self._failure
        fresh = self._claims.claim(ids, kind)
        if fresh:
            self.store([(ids[at], blobs[at]) for at in fresh], kind)
        return ids

    def store(self, blobs: Sequence[tuple[bytes, bytes | memoryview]], kind: BlobType) -> None:
        """Store blobs (raw id, plain bytes) that were claimed, whoever did it."""
        if self._failure is not None:
            raise self._failure
        try:
            self._store(blobs, kind)
        except BaseException as error:
            self._failure = error
            raise

    def _store(self, blobs: Sequence[tuple[bytes, bytes | memoryview]], kind: BlobType) -> None:
        plain = [data for _, data in blobs]
        if kind is BlobType.TREE:
            forms = [self._compressor.compress_always(data) for data in plain]
        else:
            forms = self._compressor.compress_many(plain)
        seal, toss = self._master.seal, self._random.random
        shares: tuple[list[_Sealed], list[_Sealed]] = ([], [])
        for (blob_id, data), (stored, plain_length) in zip(blobs, forms, strict=True):
            shares[toss() < 0.5].append((blob_id, seal(stored), plain_length, len(data)))
        for slot, share in zip(self._open[kind], shares, strict=True):
            at = 0
            while at < len(share):
                at, finished = self._append(slot, share, at, kind)
                if finished is not None:
                    self._on_finished(finished)

    def _append(
        self, slot: _OpenPack, share: list[_Sealed], at: int, kind: BlobType
    ) -> tuple[int, FinishedPack | None]:
        """Append blobs from ``at`` on until the pack is finished or none is left; where it stopped, and the pack."""
        with slot.lock:
            while at < len(share):
                blob_id, sealed, plain_length, size = share[at]
                at += 1
                if slot.file is None:
                    self._spool.reserve(self._pack_size, self._stopped)
                    slot.file = PackFile(self._spool.folder, kind)
                slot.file.add(blob_id, sealed, plain_length)
                slot.blobs += 1
                slot.plain_bytes += size
                slot.stored_bytes += len(sealed)
                if slot.file.size >= self._pack_size or slot.file.count >= MOST_BLOBS:
                    return at, self._finish(slot)
        return at, None

    def _finish(self, slot: _OpenPack) -> FinishedPack:
        file = slot.file
        if file is None:
            raise AssertionError("only an open pack is finished")
        pack = file.finish(self._master)
        slot.file = None
        self._claims.keep(pack)
        return pack

    def flush(self) -> None:
        """Finish every open pack; raises what kept a blob from being stored, if anything did."""
        if self._failure is not None:
            raise self._failure
        for slots in self._open.values():
            for slot in slots:
                with slot.lock:
                    finished = self._finish(slot) if slot.file is not None and slot.file.count else None
                if finished is not None:
                    self._on_finished(finished)

    def discard(self) -> None:
        """Drop every open pack: the run has failed, and what they hold is read again by the next."""
        for slots in self._open.values():
            for slot in slots:
                with slot.lock:
                    if slot.file is not None:
                        slot.file.discard()
                        slot.file = None

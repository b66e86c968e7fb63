"""The side of packing that runs in helper processes: small files are read, hashed, compressed, sealed and put in packs.

Each request stores, of the files read for the request before, the blobs that turned out to be new, and reads the next
files. So only ids cross the pipe, never a file's content, and the parent alone decides what is new.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from backupiq.archive.pack_writer import PackWriter
from backupiq.archive.reading import NO_DESCRIPTORS, SMALL, open_file, restated
from backupiq.archive.worker_child import Child
from backupiq.archive.xattrs import Xattr, read_open_xattrs
from backupiq.discovery.entry import FileEntry, unreadable
from backupiq.errors import CancelledRunError, SourceReadError, TooManyOpenFilesError
from backupiq.repository.crypto import MasterKey
from backupiq.repository.pack import BlobType, FinishedPack, PackBlob

MODULE = "backupiq.archive.pack_process"
"""What `WorkerProcess` is to start."""


class Setup(msgspec.Struct, array_like=True):
    """What a packer is told once: the key, and the folder that finished packs are put in."""

    encrypt: bytes
    mac_k: bytes
    mac_r: bytes
    folder: str
    pack_size: int

    def __repr__(self) -> str:
        return "Setup(hidden)"


class Request(msgspec.Struct, array_like=True):
    """``fresh``: places, among the blobs of the answer before, of those to store. ``files``: paths and records."""

    fresh: list[int]
    files: list[tuple[bytes, FileEntry]]
    flush: bool = False


class ReadFile(msgspec.Struct, array_like=True):
    """What became of a file: ``id`` of its one blob (empty for an empty file), or why it was not read.

    ``entry`` is what it was when it was read, where that differs from what the walk saw. ``large``: it is no small file
    any more, and nothing of it was kept. ``attributes``: its extended attributes as `read_open_xattrs` gives them.
    """

    id: bytes = b""
    size: int = 0
    entry: FileEntry | None = None
    changed: bool = False
    large: bool = False
    reason: str = ""
    code: str = ""
    attributes: tuple[Xattr, ...] | None = None


class MadePack(msgspec.Struct, array_like=True):
    """A finished pack in the spool folder, named by its id in hex."""

    id: bytes
    size: int
    blobs: list[tuple[bytes, int, int, int]]

    def finished(self, folder: Path) -> FinishedPack:
        """The pack as `PackWriter` hands it over."""
        blobs = [PackBlob(i, BlobType.DATA, offset, length, plain) for i, offset, length, plain in self.blobs]
        return FinishedPack(self.id, folder / self.id.hex(), self.size, BlobType.DATA, blobs)


class Reply(msgspec.Struct, array_like=True):
    """The files in their order, the packs that were finished, and all counts so far: blobs, plain, stored bytes."""

    files: list[ReadFile]
    packs: list[MadePack]
    counts: tuple[int, int, int]


class _Everything:
    """The parent has decided: what is handed to the writer is to be stored."""

    def claim(self, ids: Sequence[bytes], kind: BlobType) -> list[int]:
        return list(range(len(ids)))

    def keep(self, pack: FinishedPack) -> None:
        """The parent is told."""


class _Folder:
    """The parent waits for room before it takes a finished pack over."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def reserve(self, size: int, stopped: Callable[[], bool]) -> None:
        """There is room for the open packs."""


class _Packer:
    """Answers requests. The blobs read for one request are kept until the next tells which of them are new."""

    def __init__(self, setup: Setup, child: Child) -> None:
        self._child = child
        self._finished: list[FinishedPack] = []
        self._held: list[tuple[bytes, bytes]] = []
        self._writer = PackWriter(
            master=MasterKey(setup.encrypt, setup.mac_k, setup.mac_r),
            claims=_Everything(),
            spool=_Folder(Path(setup.folder)),
            on_finished=self._finished.append,
            stopped=child.should_stop,
            pack_size=setup.pack_size,
        )
        self._decode = msgspec.msgpack.Decoder(Request).decode
        self._encode = msgspec.msgpack.Encoder().encode

    def answer(self, head: memoryview, bulk: memoryview) -> tuple[bytes, Sequence[bytes]]:
        request = self._decode(head)
        if request.fresh:
            self._writer.store([self._held[at] for at in request.fresh], BlobType.DATA)
        self._held.clear()
        files = [self._read(path, entry) for path, entry in request.files]
        if request.flush:
            self._writer.flush()
        counts = self._writer.counts
        packs = [MadePack(p.id, p.size, [(b.id, *b[2:]) for b in p.blobs]) for p in self._finished]
        self._finished.clear()
        return self._encode(Reply(files, packs, (counts.data_blobs, counts.plain_bytes, counts.stored_bytes))), ()

    def _read(self, path: bytes, entry: FileEntry) -> ReadFile:
        if self._child.should_stop():
            raise CancelledRunError
        try:
            return self._take(path, entry)
        except OSError as error:
            if error.errno in NO_DESCRIPTORS:
                raise TooManyOpenFilesError from error
            item = unreadable(path, error)
            return ReadFile(reason=item.reason, code=item.error)
        except SourceReadError as error:
            return ReadFile(reason=error.message, code=error.code)

    def _take(self, path: bytes, entry: FileEntry) -> ReadFile:
        descriptor = open_file(path)
        try:
            before = os.fstat(descriptor)
            if not stat.S_ISREG(before.st_mode):
                raise SourceReadError("it was replaced by something that is not a regular file")
            size = before.st_size
            if size >= SMALL:
                return ReadFile(large=True)
            data = os.read(descriptor, size + 1)
            if len(data) > size:
                return ReadFile(large=True)
            attributes = read_open_xattrs(descriptor, before.st_dev)
            after = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        changed = after.st_mtime_ns != before.st_mtime_ns or len(data) != size
        read = ReadFile(size=len(data), changed=changed, attributes=attributes)
        read.entry = restated(entry, before, len(data))
        if data:
            read.id = hashlib.sha256(data).digest()
            self._held.append((read.id, data))
        return read


def start_worker(setup: bytes, child: Child) -> Callable[[memoryview, memoryview], tuple[bytes, Sequence[bytes]]]:
    """See `backupiq.archive.worker_child`."""
    return _Packer(msgspec.msgpack.decode(setup, type=Setup), child).answer

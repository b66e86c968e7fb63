"""Files into blobs: open, read, chunk, save; holes are not read."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import NamedTuple

import msgspec

from backupiq.archive.content import ContentState, ContentTable
from backupiq.archive.pack_writer import PackWriter
from backupiq.archive.xattrs import Xattr, read_open_xattrs
from backupiq.discovery.entry import FileEntry, UnreadableItem, entry_from_stat, unreadable
from backupiq.discovery.longpath import open_long
from backupiq.errors import CancelledRunError, SourceReadError, TooManyOpenFilesError
from backupiq.repository.chunker import MIN, ZERO_BLOB, Chunker
from backupiq.repository.pack import BlobType

SMALL = MIN
"""Files below this are one blob, read in one call."""
IN_PARALLEL = 8 << 20
"""Files above this have their blobs compressed and sealed by several threads."""
BLOBS_IN_FLIGHT = 6
TOGETHER = 4 << 20
"""Small files are stored together up to this many bytes."""
SPARSE_FROM = 1 << 20
CHANGED_WHILE_READ = "changed while it was read; it is stored as it was read"
_OPEN = (
    os.O_RDONLY
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)
NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)


class _Whole(NamedTuple):
    """A small file as it was read: ``status`` is what it was when it was opened."""

    ordinal: int
    entry: FileEntry
    status: os.stat_result
    data: bytes
    attributes: tuple[Xattr, ...] | None


class FileReader:
    """Reads files and records their content; one object serves many threads.

    A file that cannot be read is recorded with its reason and never ends the run; a destination's or this machine's
    failure (a full spool disk, no descriptors left) does.
    """

    def __init__(
        self,
        *,
        writer: PackWriter,
        content: ContentTable,
        chunker_seed: int,
        blob_pool: ThreadPoolExecutor,
        stopped: Callable[[], bool],
        on_read: Callable[[int], None],
        warn: Callable[[bytes, str], None],
    ) -> None:
        self._writer = writer
        self._content = content
        self._seed = chunker_seed
        self._pool = blob_pool
        self._stopped = stopped
        self._on_read = on_read
        self._warn = warn
        self._local = threading.local()
        self._zero_id: bytes | None = None
        self._links: dict[tuple[int, int], tuple[FileEntry, bytes]] = {}

    def read(self, path: bytes, ordinal: int, entry: FileEntry) -> None:
        """Store one file's content. CancelledRunError when the run is stopped meanwhile."""
        self.read_all([(path, ordinal, entry)])

    def read_all(self, files: Iterable[tuple[bytes, int, FileEntry]]) -> None:
        """Store the content of several files: path, ordinal and entry of each.

        Small files are read first and stored together, a few MiB at a time: that keeps the threads from passing the
        interpreter's lock to and fro for each of them.
        """
        small: list[_Whole] = []
        held = 0
        for path, ordinal, entry in files:
            if self._stopped():
                raise CancelledRunError
            if entry.links > 1 and self._same_as_other_link(ordinal, entry):
                continue
            try:
                whole = self._read(path, ordinal, entry)
            except OSError as error:
                if error.errno in NO_DESCRIPTORS:
                    raise TooManyOpenFilesError from error
                self._content.fail(ordinal, unreadable(path, error))
            except SourceReadError as error:
                self._content.fail(ordinal, UnreadableItem(path, error.message, error.code))
            else:
                if whole is not None and entry.links > 1:
                    self._store_small([whole])  # at once, so that its other names are not read again
                elif whole is not None:
                    small.append(whole)
                    held += len(whole.data)
                    if held >= TOGETHER:
                        self._store_small(small)
                        small, held = [], 0
        if small:
            self._store_small(small)

    def _store_small(self, files: list[_Whole]) -> None:
        filled = [file for file in files if file.data]
        ids = iter(self._writer.save_many([file.data for file in filled], BlobType.DATA))
        for file in files:
            self._record(file, next(ids) if file.data else b"", len(file.data))

    def _same_as_other_link(self, ordinal: int, entry: FileEntry) -> bool:
        """Whether another name of the same file was read already: its content is taken, and nothing is read."""
        known = self._links.get((entry.device, entry.inode))
        if known is None or known[0].mtime_ns != entry.mtime_ns or known[0].size != entry.size:
            return False
        self._content.set(ordinal, known[1], ContentState.STORED)
        return True

    def _read(self, path: bytes, ordinal: int, entry: FileEntry) -> _Whole | None:
        """Read the file; a small one is returned whole, a larger one has been stored."""
        descriptor = open_file(path)
        try:
            before = os.fstat(descriptor)
            if not stat.S_ISREG(before.st_mode):
                raise SourceReadError("it was replaced by something that is not a regular file")
            data, ids, size = self._take(descriptor, before)
            attributes = read_open_xattrs(descriptor, before.st_dev)
            after = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        if after.st_mtime_ns != before.st_mtime_ns or size != before.st_size:
            self._warn(path, CHANGED_WHILE_READ)
        file = _Whole(ordinal, entry, before, data, attributes)
        if ids is None:
            return file
        self._record(file, ids, size)
        return None

    def _record(self, file: _Whole, ids: bytes, size: int) -> None:
        entry = file.entry
        now = restated(entry, file.status, size)
        if now is not None:
            entry = now
            self._content.restate(file.ordinal, now)
        self._content.set_read([(file.ordinal, ids, file.attributes)])
        if entry.links > 1:
            self._links[entry.device, entry.inode] = (entry, ids)

    def _take(self, descriptor: int, status: os.stat_result) -> tuple[bytes, bytes | None, int]:
        """A small file's bytes and None, else nothing and the file's blobs (raw ids one after another); its size."""
        size = status.st_size
        if size < SMALL:
            # One byte more than there should be tells whether the file has grown. A larger buffer would cost more than
            # the reading itself: it is mapped and unmapped for every file.
            data = os.read(descriptor, size + 1)
            if len(data) == size:
                self._on_read(size)
                return data, None, size
            ids, size = self._store_stream(descriptor, data, parallel=False)
        elif size >= SPARSE_FROM and _has_holes(status):
            ids, size = self._store_sparse(descriptor, size)
        else:
            ids, size = self._store_stream(descriptor, b"", parallel=size > IN_PARALLEL)
        return b"", ids, size

    def _store_stream(self, descriptor: int, begun: bytes, *, parallel: bool) -> tuple[bytes, int]:
        head = [begun] if begun else []

        def source(count: int) -> bytes:
            return head.pop() if head else os.read(descriptor, count)

        return self._save_all(self._chunker().chunks(source), parallel=parallel)

    def _store_sparse(self, descriptor: int, size: int) -> tuple[bytes, int]:
        """Data extents are chunked one by one; holes become runs of the zero blob without being read."""
        ids: list[bytes] = []
        total = 0
        place = 0
        while place < size:
            try:
                start = os.lseek(descriptor, place, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                start = size
            start = min(start, size)
            if start > place:
                ids.append(self._zeros(start - place))
                total += start - place
            if start >= size:
                break
            end = min(os.lseek(descriptor, start, os.SEEK_HOLE), size)
            os.lseek(descriptor, start, os.SEEK_SET)
            got, read = self._save_all(self._chunker().chunks(_limited(descriptor, end - start)), parallel=True)
            ids.append(got)
            total += read
            if read < end - start:
                break
            place = end
        return b"".join(ids), total

    def _zeros(self, count: int) -> bytes:
        if self._zero_id is None:
            self._zero_id = self._writer.save(ZERO_BLOB, BlobType.DATA)
        whole, rest = divmod(count, len(ZERO_BLOB))
        ids = self._zero_id * whole
        return ids + self._writer.save(ZERO_BLOB[:rest], BlobType.DATA) if rest else ids

    def _save_all(self, chunks: Iterator[bytes], *, parallel: bool) -> tuple[bytes, int]:
        if parallel:
            return self._save_in_parallel(chunks)
        ids = []
        total = 0
        for chunk in chunks:
            self._step(len(chunk))
            total += len(chunk)
            ids.append(self._writer.save(chunk, BlobType.DATA))
        return b"".join(ids), total

    def _save_in_parallel(self, chunks: Iterator[bytes]) -> tuple[bytes, int]:
        ids: list[bytes] = []
        total = 0
        waiting: list[Future[bytes]] = []
        try:
            for chunk in chunks:
                self._step(len(chunk))
                total += len(chunk)
                waiting.append(self._pool.submit(self._writer.save, chunk, BlobType.DATA))
                if len(waiting) >= BLOBS_IN_FLIGHT:
                    ids.append(waiting.pop(0).result())
            ids.extend(future.result() for future in waiting)
        finally:
            # None runs on when this file is given up: a pack it finished later would belong to no batch.
            wait([future for future in waiting if not future.cancel()])
        return b"".join(ids), total

    def _step(self, size: int) -> None:
        if self._stopped():
            raise CancelledRunError
        self._on_read(size)

    def _chunker(self) -> Chunker:
        found: Chunker | None = getattr(self._local, "chunker", None)
        if found is None:
            found = self._local.chunker = Chunker(self._seed)
        return found


def restated(entry: FileEntry, status: os.stat_result, size: int) -> FileEntry | None:
    """The entry as the file was when it was read, of ``size`` bytes; None when it was what the walk saw."""
    if (
        size == entry.size
        and status.st_mtime_ns == entry.mtime_ns
        and status.st_ctime_ns == entry.ctime_ns
        and status.st_ino == entry.inode
    ):
        return None
    return msgspec.structs.replace(entry_from_stat(entry.name, status), size=size)


def open_file(path: bytes) -> int:
    """A descriptor of the file itself (a symlink is refused, a FIFO never waited for); paths of any length work."""
    try:
        return os.open(path, _OPEN)
    except BlockingIOError:
        # Another program holds a lease on the file (as Samba does): the system asks for it back while this call waits.
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise
        return os.open(path, _OPEN & ~getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
    return open_long(path, _OPEN)


def _limited(descriptor: int, count: int) -> Callable[[int], bytes]:
    left = count

    def read(size: int) -> bytes:
        nonlocal left
        data = os.read(descriptor, min(size, left)) if left else b""
        left -= len(data)
        return data

    return read


def _has_holes(status: os.stat_result) -> bool:
    blocks = getattr(status, "st_blocks", None)
    return blocks is not None and hasattr(os, "SEEK_DATA") and blocks * 512 < status.st_size

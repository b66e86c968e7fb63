"""The side of a restore that runs in helper processes: small files are opened and written, whole.

Each request brings stored bytes of one pack and, for each blob in them, the files that it is all of. They are written
by `TargetWriter`, as in threads, so that what keeps a restore safe stands in one place.
"""

from __future__ import annotations

import itertools
import mmap
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from backupiq.archive.metadata import Attributes, reason_of
from backupiq.archive.restore_run import RestoreRun
from backupiq.archive.restore_table import AttributeTable, FileTable, PlannedFolder, RestorePlan
from backupiq.archive.restore_writer import Ordinals, TargetWriter
from backupiq.archive.safe_tree import SafeTree
from backupiq.archive.worker_child import Bytes, Child, Handler
from backupiq.errors import BackupIQError, CancelledRunError, CryptoError, PackError, RestoreWriteError, UnsafePathError
from backupiq.repository.blob import open_blob
from backupiq.repository.crypto import MasterKey

MODULE = "backupiq.archive.restore_process"
"""What `WorkerProcess` is to start."""
PAGE = 4096
"""Bytes shared with the parent; the first eight hold the number of the file at hand and 1, or 0."""

_MARK = struct.Struct("<Q")


class Setup(msgspec.Struct, array_like=True):
    """What a helper is told once.

    ``keys``: of the repository; ``token``: what its temporary files are named for; ``identity``: device and inode of
    the target.
    """

    target: bytes
    shown: str
    base: bytes
    sparse: bool
    keys: tuple[bytes, bytes, bytes]
    token: bytes
    identity: tuple[int, int]
    folders: list[tuple[int, bytes]]
    attributes: list[tuple[int, int, int, list[tuple[bytes, bytes]]]]

    def __repr__(self) -> str:
        return "Setup(hidden)"


FileOrder = tuple[int, int, bytes, int, int, int, int, int]
"""Number (row in the parent's plan), folder, name, size, mtime, atime, attributes, state of a file."""
BlobOrder = tuple[bytes, int, int, int, list[FileOrder]]
"""Id of a blob, where it begins in the bulk, stored and plain length, and the files it is the content of."""


class Report(msgspec.Struct, array_like=True):
    """What became of a request.

    ``states`` of its files in their order; ``size``: bytes of content dealt with; ``written``: bytes of files that are
    done; ``damaged`` blobs as their place in the request and the reason; ``fatal`` is what ends the restore: class,
    message and details.
    """

    states: bytes
    size: int
    written: int
    owners_kept: int = 0
    problems: list[tuple[bytes, str, str, str]] = []
    damaged: list[tuple[int, str]] = []
    fatal: tuple[str, str, dict[str, Any]] | None = None


def encode_xattr_name(name: str) -> bytes:
    """As bytes, whatever characters it holds."""
    return name.encode("utf-8", "surrogatepass")


def current_file(page: mmap.mmap) -> int:
    """The number of the file that the helper of this page is, or was, writing; -1 for none."""
    number: int = _MARK.unpack_from(page)[0]
    return number - 1


class _MarkingWriter(TargetWriter):
    """Says in the shared page which file it is at, so that an unfinished one is found if this process is killed."""

    def __init__(self, run: RestoreRun, tree: SafeTree, page: mmap.mmap) -> None:
        super().__init__(run, tree, None, no_umask=True)
        self.numbers: list[int] = []
        self._page = page

    def _write_whole(self, row: int, data: bytes) -> None:
        _MARK.pack_into(self._page, 0, self.numbers[row] + 1)
        try:
            super()._write_whole(row, data)
        finally:
            _MARK.pack_into(self._page, 0, 0)


class _Restorer:
    """Answers the requests of one restore."""

    def __init__(self, setup: Setup, child: Child) -> None:
        self._setup = setup
        self._should_stop: Callable[[], bool] = child.should_stop
        self._names = itertools.count()
        self._master = MasterKey(*setup.keys)
        self._orders = msgspec.msgpack.Decoder(list[BlobOrder])
        attributes = AttributeTable()
        for mode, uid, gid, xattrs in setup.attributes:
            named = tuple((name.decode("utf-8", "surrogatepass"), value) for name, value in xattrs)
            attributes.items.append(Attributes(mode, uid, gid, named))
        folders = [PlannedFolder(parent, name, -1, 0, 0) for parent, name in setup.folders]
        self._plan = RestorePlan(
            Path(), "", setup.base, folders, FileTable(), others=[], hard_links=[], attributes=attributes
        )
        assert child.shared is not None  # noqa: S101 - the parent starts it with a page
        self._writer = _MarkingWriter(self._new_run(b""), _open_target(setup, folders), child.shared)

    def _new_run(self, states: bytes | bytearray) -> RestoreRun:
        told = self._setup
        return RestoreRun(
            self._plan,
            told.shown,
            "always",
            told.sparse,
            self._should_stop,
            folders=bytearray(),
            rows=bytearray(states),
            token=told.token,
            counter=self._names,
        )

    def __call__(self, head: memoryview, bulk: memoryview) -> tuple[bytes, list[Bytes]]:
        """Write what one request asks for."""
        orders = self._orders.decode(head)
        writer = self._writer
        writer.run, ordinals = self._take_in(orders)
        run, kept = writer.run, writer.metadata.owners_kept
        report = Report(b"", 0, 0)
        try:
            writer.write_blobs(self._open(orders, bulk, report), ordinals)
        except CancelledRunError:
            raise
        except BackupIQError as error:
            report.fatal = type(error).__name__, error.message, error.details
        report.states = bytes(run.rows)
        report.size, report.written = run.counts.bytes_done, run.counts.bytes
        report.owners_kept = writer.metadata.owners_kept - kept
        report.problems = [(each.path, each.what, each.reason, each.code) for each in run.take_untold()]
        return msgspec.msgpack.encode(report, enc_hook=str), []

    def _take_in(self, orders: list[BlobOrder]) -> tuple[RestoreRun, Ordinals]:
        """The request's files as a plan of its own. Each has one blob, so rows and ordinals are the same numbers."""
        files = self._plan.files = FileTable()
        numbers = self._writer.numbers = []
        states = bytearray()
        ordinals: Ordinals = {}
        for blob_id, _, _, _, wanted in orders:
            first = len(files)
            for number, folder, name, size, mtime, atime, attributes, state in wanted:
                files.add(folder, name, size, mtime, atime, attributes, blob_id)
                numbers.append(number)
                states.append(state)
            ordinals[blob_id] = first if len(wanted) == 1 else list(range(first, first + len(wanted)))
        return self._new_run(states), ordinals

    def _open(self, orders: list[BlobOrder], bulk: memoryview, report: Report) -> Iterator[tuple[bytes, bytes]]:
        for place, (blob_id, offset, length, plain_length, _) in enumerate(orders):
            try:
                plain = open_blob(self._master, bulk[offset : offset + length], blob_id, plain_length)
            except (CryptoError, PackError) as error:
                report.damaged.append((place, error.message))
            else:
                yield blob_id, plain


def _open_target(setup: Setup, folders: list[PlannedFolder]) -> SafeTree:
    try:
        tree = SafeTree(setup.target, folders)
        root = tree.place(0)
        found = os.stat(root.path if root.fd is None else root.fd)
    except OSError as error:
        raise RestoreWriteError(
            f"The target {setup.shown} cannot be opened: {reason_of(error)}. Choose another folder."
        ) from error
    if (found.st_dev, found.st_ino) != setup.identity:
        raise UnsafePathError(f"The target {setup.shown} was replaced by something else. Nothing was written there.")
    return tree


def start_worker(setup: bytes, child: Child) -> Handler:
    """The handler of one restore's requests; ``setup`` is a `Setup`."""
    os.umask(0)
    return _Restorer(msgspec.msgpack.decode(setup, type=Setup), child)

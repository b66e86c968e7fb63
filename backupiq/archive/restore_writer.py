"""Contents of files: blobs come in as their packs are read, files go out whole with their metadata.

No file that stood in the target is ever opened for writing. A new one is created exclusively: under its own name in a
folder that this run made, under a temporary name elsewhere, which then replaces what stood there.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from backupiq.archive.metadata import APPLIES_TO_OPEN, Attributes, MetadataWriter, fatal_among, is_plain, raise_if_fatal
from backupiq.archive.restore_run import ItemState, PartialFile, RestoreRun
from backupiq.archive.safe_tree import CLOSE_ON_EXEC, NEW_FILE_FLAGS, NO_FOLLOW, Place, SafeTree, remove
from backupiq.errors import BackupIQError, RestoreError, RestoreWriteError, UnsafePathError
from backupiq.repository.crypto import OVERHEAD

if TYPE_CHECKING:
    from backupiq.repository.index import MasterIndex

_HOLE = 64 << 10
"""Zeros shorter than this are written: a hole saves nothing then."""
_ZEROS = bytes(_HOLE)
_REOPEN_FLAGS = os.O_WRONLY | NO_FOLLOW | CLOSE_ON_EXEC
_MODE = 0o600
_MOST_KINDS = 4096

Opened = Iterable[tuple[bytes, bytes]]
Ordinals = dict[bytes, int | list[int]]


class TargetWriter:
    """One worker's hands: its own folder descriptors and metadata writer. One thread at a time may use it.

    ``index`` is needed for files of several blobs. ``no_umask``: this process's umask is 0 and stays so. Then a plain
    file in a folder that this run made (closed to others until its end) is created with its final mode, and what the
    first of a kind came out as is not asked again for the others.
    """

    def __init__(self, run: RestoreRun, tree: SafeTree, index: MasterIndex | None, *, no_umask: bool = False) -> None:
        self.run = run
        self.tree = tree
        self.metadata = MetadataWriter()
        self._index = index
        self._plain: dict[tuple[int, int], os.stat_result] | None = {} if no_umask and APPLIES_TO_OPEN else None
        """By folder and attributes: the first plain file, as it came out."""

    def write_blobs(self, opened: Opened, ordinals: Ordinals) -> None:
        """Write each blob (id, plaintext) wherever the plan wants it: ``ordinals`` by blob id.

        A file that cannot be written becomes a problem; raises only what ends the restore.
        """
        run = self.run
        owner, start, rows = run.plan.files.owner, run.plan.files.start, run.rows
        size = 0
        try:
            for blob_id, data in opened:
                wanted = ordinals[blob_id]
                hole = run.sparse and data.startswith(_ZEROS) and not data.strip(b"\0")
                for ordinal in (wanted,) if isinstance(wanted, int) else wanted:
                    run.check_stop()
                    row = owner[ordinal]
                    if rows[row] <= ItemState.REPLACE:
                        self.write(row, ordinal - start[row], data, hole)
                    size += len(data)
        finally:
            run.advance(size)

    def write(self, row: int, part: int, data: bytes, hole: bool) -> None:
        """Write one part of a file, which is all of it where the plan names no more than one.

        What goes wrong is the file's problem; raises only what ends the restore.
        """
        try:
            if self.run.plan.files.blobs(row) <= 1:
                self._write_whole(row, data)
            else:
                self._write_part(row, part, data, hole)
        except OSError as error:
            raise_if_fatal(error, self.run.target)
            self.give_up(row, error)
        except RestoreError as error:
            self.give_up(row, error)

    def give_up(self, row: int, error: OSError | BackupIQError) -> None:
        """Record that a file cannot be restored and remove what there is of it."""
        partial = self.run.fail(row, "content", error)
        if partial is not None:
            self.discard(partial)

    def discard(self, partial: PartialFile) -> None:
        """Remove an unfinished file."""
        try:
            remove(self.tree.place(partial.folder), partial.name)
        except (OSError, RestoreError) as error:
            self.run.item_problem(partial.folder, partial.name, "temporary file", error)

    def _write_whole(self, row: int, data: bytes) -> None:
        """Create a file of at most one blob, with everything."""
        run = self.run
        files = run.plan.files
        name = files.names[row]
        place = self.tree.place(files.folder[row])
        direct = run.rows[row] == ItemState.DIRECT
        used = name if direct else run.temporary_name()
        wanted = run.plan.attributes.items[files.attributes[row]]
        plain = direct and self._plain is not None and is_plain(wanted)
        fd = os.open(place.at(used), NEW_FILE_FLAGS, wanted.mode if plain else _MODE, dir_fd=place.fd)
        try:
            try:
                if run.sparse and len(data) >= _HOLE:
                    _write_sparse(fd, data, 0)
                    if data.endswith(b"\0"):  # it may end in a hole, which nothing written makes it reach
                        os.ftruncate(fd, len(data))
                else:
                    _write(fd, data)
                if plain:
                    self._settle_plain(fd, row, wanted)
                else:
                    self._settle(fd, row)
            finally:
                os.close(fd)
            if not plain:
                self._move_in(place, used, name, row)
        except BaseException:
            remove(place, used)
            raise
        self._done(row, len(data))

    def _write_part(self, row: int, part: int, data: bytes, hole: bool) -> None:
        """Write one of a file's several blobs, and finish the file when it was the last."""
        run = self.run
        partial = run.partials.get(row) or self._begin(row)
        place = self.tree.place(partial.folder)
        fd = -1
        try:
            if not hole:
                fd = self._reopen(place, partial)
                if run.sparse:
                    _write_sparse(fd, data, partial.offsets[part])
                else:
                    _write(fd, data, partial.offsets[part])
            with run.lock:
                partial.missing -= 1
                if partial.missing or run.partials.pop(row, None) is None:
                    return
            try:
                if fd < 0:
                    fd = self._reopen(place, partial)
                self._settle(fd, row)
                os.close(fd)
                fd = -1
                self._move_in(place, partial.name, run.plan.files.names[row], row)
            except BaseException:
                self.discard(partial)
                raise
        finally:
            if fd >= 0:
                os.close(fd)
        self._done(row, partial.size)

    def _begin(self, row: int) -> PartialFile:
        """Create the file that several blobs, in any order and from any worker, will fill."""
        run = self.run
        files = run.plan.files
        offsets, size = self._offsets(files.ids(row))
        folder = files.folder[row]
        place = self.tree.place(folder)
        with run.lock:
            known = run.partials.get(row)
            if known is not None:
                return known
            used = files.names[row] if run.rows[row] == ItemState.DIRECT else run.temporary_name()
            fd = os.open(place.at(used), NEW_FILE_FLAGS, _MODE, dir_fd=place.fd)
            try:
                found = os.fstat(fd)
                partial = PartialFile(folder, used, (found.st_dev, found.st_ino), offsets, size, len(offsets))
                run.partials[row] = partial
                os.ftruncate(fd, size)
            finally:
                os.close(fd)
            return partial

    def _offsets(self, ids: bytes) -> tuple[array[int], int]:
        """Where each blob begins in the file, and the file's size, in bytes."""
        from backupiq.repository.pack import BlobType

        assert self._index is not None  # noqa: S101 - whoever writes files of several blobs gives it
        offsets = array("Q")
        at = 0
        for position in range(0, len(ids), 32):
            offsets.append(at)
            found = self._index.find(ids[position : position + 32], BlobType.DATA)
            if found is None:
                raise RestoreError("The index changed while it was used. Run the restore again.")
            at += found.uncompressed_length or found.length - OVERHEAD
        return offsets, at

    def _reopen(self, place: Place, partial: PartialFile) -> int:
        fd = os.open(place.at(partial.name), _REOPEN_FLAGS, dir_fd=place.fd)
        found = os.fstat(fd)
        if (found.st_dev, found.st_ino) != partial.identity:
            os.close(fd)
            raise UnsafePathError("Another program replaced a file while it was restored. Nothing was written to it.")
        return fd

    def _settle(self, fd: int, row: int) -> None:
        if APPLIES_TO_OPEN:
            files = self.run.plan.files
            wanted = self.run.plan.attributes.items[files.attributes[row]]
            failed = self.metadata.apply_open(fd, os.fstat(fd), wanted, files.mtime[row], files.atime[row])
            if failed:
                self.report(files.folder[row], files.names[row], failed)

    def _settle_plain(self, fd: int, row: int, wanted: Attributes) -> None:
        """The metadata of a file that was created with its final mode."""
        assert self._plain is not None  # noqa: S101 - whoever creates files so has it
        files = self.run.plan.files
        kind = files.folder[row], files.attributes[row]
        found = self._plain.get(kind)
        if found is None:
            found = self.metadata.came_out_plain(fd, wanted)
            if found is None:
                self._settle(fd, row)
                return
            if len(self._plain) >= _MOST_KINDS:
                self._plain.clear()
            self._plain[kind] = found
        failed = self.metadata.apply_plain(fd, found, wanted, files.mtime[row], files.atime[row])
        if failed:
            self.report(files.folder[row], files.names[row], failed)

    def _move_in(self, place: Place, used: bytes, name: bytes, row: int) -> None:
        if not APPLIES_TO_OPEN:
            files = self.run.plan.files
            wanted = self.run.plan.attributes.items[files.attributes[row]]
            failed = self.metadata.apply_named(place, used, wanted, files.mtime[row], files.atime[row], link=False)
            self.report(files.folder[row], name, failed)
        if used != name:
            os.replace(place.at(used), place.at(name), src_dir_fd=place.fd, dst_dir_fd=place.fd)

    def _done(self, row: int, size: int) -> None:
        self.run.complete(row, size)
        files = self.run.plan.files
        if size != files.size[row]:
            error = RestoreWriteError(
                f"The snapshot names {files.size[row]} bytes, its content has {size}. The content was restored."
            )
            self.run.item_problem(files.folder[row], files.names[row], "size", error)

    def report(self, folder: int, name: bytes, failed: list[tuple[str, BaseException]]) -> None:
        """Record metadata that could not be set; raise what ends the restore."""
        fatal_among(failed, self.run.target)
        for what, error in failed:
            self.run.item_problem(folder, name, what, error)


def _write(fd: int, data: bytes, offset: int = 0) -> None:
    written = _pwrite(fd, data, offset)
    if written != len(data):
        view = memoryview(data)
        while written < len(data):
            written += _pwrite(fd, view[written:], offset + written)


def _write_sparse(fd: int, data: bytes, offset: int) -> None:
    """Write the data but for its long runs of zeros; the file must be, or be made, long enough."""
    size = len(data)
    begin = at = 0
    view = memoryview(data)
    while at + _HOLE <= size:
        if data.startswith(_ZEROS, at):
            if begin < at:
                _write(fd, bytes(view[begin:at]), offset + begin)
            begin = at + _HOLE
        at += _HOLE
    if begin == 0:
        _write(fd, data, offset)
    elif begin < size:
        _write(fd, bytes(view[begin:]), offset + begin)


_PWRITE: Callable[[int, bytes | memoryview, int], int] | None = getattr(os, "pwrite", None)


def _pwrite(fd: int, data: bytes | memoryview, offset: int) -> int:
    if _PWRITE is not None:
        return _PWRITE(fd, data, offset)
    os.lseek(fd, offset, os.SEEK_SET)
    return os.write(fd, data)

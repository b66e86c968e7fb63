"""Writing files so that others see nothing or all of them, and that what was promised survives a power cut.

The blocking half of the local provider; every function may be called from any thread. ``OSError`` leaves here raw where
the caller maps it, and already mapped where source and destination must be told apart.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from backupiq.errors import CancelledRunError, StorageConflictError, StorageCorruptError
from backupiq.storage.oserrors import destination_errors, machine_errors
from backupiq.storage.provider import Progress, temporary_name
from backupiq.storage.throttle import Throttle
from backupiq.telemetry.text import printable

PIECE = 1 << 20  # bytes moved between two looks at the stop signal
SMALLEST_PIECE = 1 << 14
PIECE_SECONDS = 0.25  # of a limited transfer: its bytes flow rather than come in bursts
_WINDOWS = os.name == "nt"
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
# What file systems without hard links answer (FAT: EPERM, SMB: ENOTSUP, Android: EACCES).
_NO_LINKS = {errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
# What file systems without fsync (of folders, or at all) answer; restic passes over the same.
_NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


class Transfer:
    """One transfer's hash, count, progress, limit and stop signal; used by one thread, stopped from any."""

    def __init__(
        self, progress: Progress | None = None, sha256: str | None = None, throttle: Throttle | None = None
    ) -> None:
        self.size = 0
        self._progress = progress
        self._throttle = throttle
        self._known = sha256
        self._hash = hashlib.sha256()
        self._stop = threading.Event()

    @property
    def sha256(self) -> str:
        """The hash in hex: the one that was known, else that of all bytes seen."""
        return self._known or self._hash.hexdigest()

    @property
    def needs_hash(self) -> bool:
        """Whether the bytes must pass through this process to be hashed."""
        return self._known is None

    @property
    def piece(self) -> int:
        """Bytes to move at a time."""
        if self._throttle is None:
            return PIECE
        return max(SMALLEST_PIECE, min(PIECE, int(self._throttle.bytes_per_second * PIECE_SECONDS)))

    def knows(self, sha256: str) -> None:
        """Set the hash, so that the bytes need not be hashed as they pass."""
        self._known = sha256

    def stop(self) -> None:
        """Make the transfer end with ``CancelledRunError`` at its next piece."""
        self._stop.set()

    def check(self) -> None:
        """Raise ``CancelledRunError`` when the transfer was stopped."""
        if self._stop.is_set():
            raise CancelledRunError("The transfer was cancelled.")

    def saw(self, data: memoryview | bytes) -> None:
        """Take bytes that were moved into account."""
        if self._known is None:
            self.hashed(data)
        self.moved(len(data))

    def hashed(self, data: memoryview | bytes) -> None:
        """Take bytes into the hash alone; `moved` counts them."""
        self._hash.update(data)

    def moved(self, count: int) -> None:
        """Take a number of bytes into account whose hash is not needed, and wait as long as the limit wants."""
        self.renamed(count)
        if self._throttle is not None:
            self._throttle.take_blocking(count, self._stop.is_set)
        self.check()

    def renamed(self, count: int) -> None:
        """Take bytes into account that reached their place without being moved, which no limit is for."""
        self.size += count
        if self._progress is not None:
            self._progress(count)


@contextlib.contextmanager
def temporary_file(final: str) -> Iterator[tuple[io.FileIO, str]]:
    """A new file (0600) beside ``final``, removed at the end unless it was moved away; yields it and its path."""
    folder, name = os.path.split(final)
    path = os.path.join(folder, temporary_name(name))
    with io.FileIO(os.open(path, _NEW, 0o600), "w") as file:
        try:
            yield file, path
        finally:
            # Windows removes no open file.
            file.close()
            with contextlib.suppress(OSError):  # committed, or swept later: the first error is the one to report
                os.unlink(path)


def write_bytes(file: io.FileIO, data: bytes | memoryview, transfer: Transfer) -> None:
    """Write all of ``data`` in pieces; raises raw ``OSError`` of the file written to."""
    with memoryview(data).cast("B") as view:
        step = transfer.piece
        for start in range(0, len(view), step):
            piece = view[start : start + step]
            write_all(file, piece)
            transfer.saw(piece)


def write_all(file: io.FileIO, piece: memoryview) -> None:
    """Write a piece however often the system takes only part of it."""
    done = file.write(piece) or 0
    while done < len(piece):
        done += file.write(piece[done:]) or 0


def copy_in(source: io.FileIO, file: io.FileIO, transfer: Transfer) -> None:
    """Copy a file of this machine to the destination; ``ResourceError`` for reading, raw ``OSError`` for writing."""
    if not transfer.needs_hash and hasattr(os, "copy_file_range"):
        # In the kernel where it can; whatever it refuses, the loop below does, and tells which side is at fault.
        with contextlib.suppress(OSError):
            while count := os.copy_file_range(source.fileno(), file.fileno(), 8 * transfer.piece):
                transfer.moved(count)
    buffer = memoryview(bytearray(transfer.piece))
    while True:
        with machine_errors("read the file to upload"):
            count = source.readinto(buffer) or 0
        if not count:
            return
        write_all(file, buffer[:count])
        transfer.saw(buffer[:count])


def copy_out(source: io.FileIO, file: io.FileIO, transfer: Transfer, doing: str) -> None:
    """Copy a file of the destination to this machine; each side's errors are mapped as its own."""
    buffer = memoryview(bytearray(transfer.piece))
    expected = os.fstat(source.fileno()).st_size
    while True:
        with destination_errors(doing):
            count = source.readinto(buffer) or 0
        if not count:
            break
        with machine_errors("write the downloaded file"):
            write_all(file, buffer[:count])
        transfer.saw(buffer[:count])
    if transfer.size != expected:
        raise StorageCorruptError(f"{printable(doing)}: it ended early.", expected=expected, received=transfer.size)


def open_for_reading(path: str | Path, *, writable: bool = False) -> io.FileIO:
    """Open a file unbuffered; raw ``OSError``."""
    return io.FileIO(path, "r+" if writable else "r")


def read_range(path: str, offset: int, length: int | None) -> bytes:
    """Bytes of a file; raw ``OSError``; ``StorageCorruptError`` when they are not all there.

    The file's size is asked first, so a damaged index that names a huge length allocates nothing.
    """
    descriptor = os.open(path, _READ)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        wanted = status.st_size - offset if length is None else length
        if wanted < 0 or offset + wanted > status.st_size:
            raise StorageCorruptError(
                "An object at the destination is shorter than it should be. " + StorageCorruptError.hint,
                size=status.st_size,
                offset=offset,
                length=length,
            )
        data = _read_at(descriptor, wanted, offset)
        if len(data) == wanted:
            return data
        # One call moves at most 2 GiB on Linux.
        pieces = [data]
        while (done := sum(map(len, pieces))) < wanted:
            piece = _read_at(descriptor, wanted - done, offset + done)
            if not piece:
                raise StorageCorruptError(None, size=offset + done, offset=offset, length=length)
            pieces.append(piece)
        return b"".join(pieces)
    finally:
        os.close(descriptor)


def _read_at(descriptor: int, count: int, offset: int) -> bytes:
    if sys.platform != "win32":
        return os.pread(descriptor, count, offset)
    os.lseek(descriptor, offset, os.SEEK_SET)
    return os.read(descriptor, count)


def make_read_only(file: io.FileIO, mode: int) -> None:
    """Set a stored file's mode, where the file system has modes and (Windows) could still delete the file then."""
    if not _WINDOWS:
        with contextlib.suppress(PermissionError, NotImplementedError):
            os.chmod(file.fileno(), mode)


def sync_file(descriptor: int) -> None:
    """Have the file's bytes on the medium; raw ``OSError``."""
    try:
        if sys.platform == "darwin":
            import fcntl

            # fsync there leaves the bytes in the drive's cache.
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
        else:
            os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def sync_folder(path: str) -> None:
    """Have a folder's names on the medium, where the system has that notion; raw ``OSError``."""
    if _WINDOWS:
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync_file(descriptor)
    finally:
        os.close(descriptor)


def put_in_place(path: str, final: str, *, create_only: bool) -> None:
    """Give a finished file its final name in one step; consumes ``path``.

    With ``create_only`` raises ``StorageConflictError`` when the name is taken; exactly one of several callers wins.
    """
    if not create_only:
        os.replace(path, final)
        return
    try:
        if _WINDOWS:
            os.rename(path, final)  # refuses to replace, there
            return
        os.link(path, final)
    except FileExistsError:
        if not _is_same(path, final):
            raise conflict(final) from None
        # A network file system repeated a call whose first answer was lost: the link is ours.
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _put_under_marker(path, final)
        return
    with contextlib.suppress(OSError):  # the object is stored; a second name left over is swept later
        os.unlink(path)


def _put_under_marker(path: str, final: str) -> None:
    # Without links a reserved name decides who may look and rename. A marker left by a dead run is swept later; until
    # then the key cannot be created, which is the safe side.
    marker = f"{final}-tmp-0"
    try:
        os.close(os.open(marker, _NEW, 0o600))
    except FileExistsError:
        raise conflict(final) from None
    try:
        if os.path.lexists(final):
            raise conflict(final)
        os.rename(path, final)
    finally:
        os.unlink(marker)


def _is_same(path: str, final: str) -> bool:
    try:
        return os.path.samefile(path, final)
    except OSError:
        return False


def conflict(final: str) -> StorageConflictError:
    """The error for a name that is taken."""
    return StorageConflictError(None, name=os.path.basename(final))

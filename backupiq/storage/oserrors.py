"""One table from the operating system's error numbers to BackupIQ's errors.

Two sides are told apart, because the person must act elsewhere: the *destination* (a disk that receives the backup) and
*this machine* (the spool folder, the file that is downloaded into).
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

from backupiq.errors import (
    BackupIQError,
    DiskFullError,
    OutOfMemoryError,
    ResourceError,
    StorageConflictError,
    StorageConnectionError,
    StorageError,
    StorageNotFoundError,
    StoragePermissionError,
    StorageQuotaError,
    StorageTimeoutError,
    StorageUnsupportedError,
    TooManyOpenFilesError,
    ValidationError,
)
from backupiq.telemetry.text import printable


def _table(*rows: tuple[type[BackupIQError], str]) -> dict[int, type[BackupIQError]]:
    # Names, since no platform has them all.
    return {
        number: kind
        for kind, names in rows
        for name in names.split()
        if (number := getattr(errno, name, None)) is not None
    }


_EITHER_SIDE = (
    (TooManyOpenFilesError, "EMFILE ENFILE"),
    (OutOfMemoryError, "ENOMEM"),
    (ValidationError, "ENAMETOOLONG EILSEQ"),
)

AT_DESTINATION = _table(
    *_EITHER_SIDE,
    (StorageQuotaError, "ENOSPC EDQUOT"),
    (StoragePermissionError, "EACCES EPERM EROFS"),
    (StorageNotFoundError, "ENOENT ENOTDIR"),
    (StorageConflictError, "EEXIST EISDIR ENOTEMPTY ETXTBSY"),
    (StorageTimeoutError, "ETIMEDOUT"),
    (StorageConnectionError, "ESTALE ENOTCONN EHOSTDOWN EHOSTUNREACH ENETDOWN ENETUNREACH ECONNRESET ECONNABORTED"),
    (StorageConnectionError, "ECONNREFUSED EREMOTEIO ENOLINK EBUSY EAGAIN"),
    (StorageUnsupportedError, "EFBIG ENOTSUP EOPNOTSUPP ENOSYS"),
    (StorageError, "EIO ENODEV ENXIO ELOOP"),
)

AT_THIS_MACHINE = _table(*_EITHER_SIDE, (DiskFullError, "ENOSPC EDQUOT"))


def from_os_error(error: OSError, doing: str, *, at_destination: bool, **details: str) -> BackupIQError:
    """The error to raise for an ``OSError``; ``doing`` completes the sentence "Cannot ...", in plain text."""
    table, default = (AT_DESTINATION, StorageError) if at_destination else (AT_THIS_MACHINE, ResourceError)
    kind = table.get(error.errno or 0, default)
    reason = os.strerror(error.errno) if error.errno else type(error).__name__
    return kind(f"Cannot {printable(doing)}: {reason}. {kind.hint}", errno=error.errno, reason=reason, **details)


@contextlib.contextmanager
def destination_errors(doing: str, **details: str) -> Iterator[None]:
    """Turn an ``OSError`` inside the block into the storage error it stands for."""
    try:
        yield
    except OSError as error:
        raise from_os_error(error, doing, at_destination=True, **details) from error


@contextlib.contextmanager
def machine_errors(doing: str, **details: str) -> Iterator[None]:
    """Turn an ``OSError`` inside the block into the error of this machine's resource it stands for."""
    try:
        yield
    except OSError as error:
        raise from_os_error(error, doing, at_destination=False, **details) from error

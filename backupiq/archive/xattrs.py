"""Extended attributes (POSIX ACLs, capabilities, security labels and ``user.*``) read and written as raw values.

Only Linux offers them through Python; elsewhere nothing is read, and writing reports each one as not supported.
Targets are descriptors, or paths that are not followed when they are symlinks.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence

Xattr = tuple[str, bytes]
Target = int | str | bytes | os.PathLike[str] | os.PathLike[bytes]

_NOT_SUPPORTED = frozenset({errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
# A label the kernel or a security module keeps there by itself; taking it away is refused or undone.
_KEPT_BY_SYSTEM = "security."
MOST_BYTES = 64 << 10
"""Attributes of one file beyond this are not passed on by `read_open_xattrs`."""
_devices_without: set[int] = set()


def read_xattrs(target: Target, *, follow: bool = False, device: int | None = None) -> list[Xattr]:
    """Names and values in the order the file system lists them; empty where there are none or no such thing exists.

    ``device`` (``st_dev`` of the target) lets a file system that has none be asked only once. An attribute that goes
    away between listing and reading is left out. Raises ``OSError`` when they may not be read.
    """
    if sys.platform != "linux" or device in _devices_without:
        return []
    try:
        # A descriptor cannot be combined with follow_symlinks=False.
        names = os.listxattr(target) if follow or type(target) is int else os.listxattr(target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED:
            raise
        if device is not None:
            _devices_without.add(device)
        return []
    if not names:
        return []
    follow = follow or type(target) is int
    found: list[Xattr] = []
    for name in names:
        try:
            found.append((name, os.getxattr(target, name, follow_symlinks=follow)))
        except OSError as error:
            if error.errno != errno.ENODATA:
                raise
    return found


def read_open_xattrs(fd: int, device: int) -> tuple[Xattr, ...] | None:
    """All attributes of an open file on that device; None where they are better read by path, by `read_xattrs`.

    That is when they may not be read, are larger than MOST_BYTES together, or one has a name that is no text.
    """
    try:
        found = read_xattrs(fd, device=device)
        if not found:
            return ()
        size = sum(len(name.encode()) + len(value) for name, value in found)
    except (OSError, UnicodeEncodeError):
        return None
    return tuple(found) if size <= MOST_BYTES else None


def has_xattrs(fd: int) -> bool:
    """Whether the open file has any, or cannot tell."""
    if sys.platform != "linux":
        return False
    try:
        return bool(os.listxattr(fd))
    except OSError as error:
        return error.errno not in _NOT_SUPPORTED


def write_xattrs(target: Target, wanted: Sequence[Xattr], *, follow: bool = False) -> list[tuple[str, OSError]]:
    """Make the attributes of the target exactly ``wanted``; those not listed are removed, as restic does.

    Each one is tried; returned are the names that failed with their errors. Labels below ``security.`` that the system
    put there and does not let go are not counted as failures.
    """
    if sys.platform != "linux":
        return [(name, OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))) for name, _ in wanted]
    follow = follow or type(target) is int
    failed: list[tuple[str, OSError]] = []
    try:
        present = os.listxattr(target, follow_symlinks=follow)
    except OSError as error:
        if error.errno not in _NOT_SUPPORTED:
            return [("all", error)]
        return [(name, error) for name, _ in wanted]
    if not present and not wanted:
        return failed
    names = {name for name, _ in wanted}
    for name in present:
        if name not in names:
            try:
                os.removexattr(target, name, follow_symlinks=follow)
            except OSError as error:
                if error.errno != errno.ENODATA and not name.startswith(_KEPT_BY_SYSTEM):
                    failed.append((name, error))
    for name, value in wanted:
        try:
            if name not in present or os.getxattr(target, name, follow_symlinks=follow) != value:
                os.setxattr(target, name, value, follow_symlinks=follow)
        except (OSError, ValueError) as problem:
            failed.append((name, problem if isinstance(problem, OSError) else OSError(errno.EINVAL, "invalid name")))
    return failed

"""Giving restored items their owner, extended attributes, permissions and times, in the order that keeps them all.

The order is: owner (changing it clears setuid bits and capabilities), extended attributes (a file that its permissions
make read-only accepts none), permissions, times. Each step is tried whatever became of the others.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from backupiq.archive.safe_tree import CLOSE_ON_EXEC, NO_FOLLOW, Place
from backupiq.archive.xattrs import Xattr, has_xattrs, write_xattrs
from backupiq.errors import (
    BackupIQError,
    DiskFullError,
    RestoreWriteError,
    TooManyOpenFilesError,
)

_FULL = frozenset(number for name in ("ENOSPC", "EDQUOT") if (number := getattr(errno, name, None)) is not None)
_NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE})
_PATH_ONLY: int = getattr(os, "O_PATH", 0)
APPLIES_TO_OPEN = os.utime in os.supports_fd and hasattr(os, "fchmod")
"""Whether `MetadataWriter.apply_open` works here; otherwise `apply_named` after closing."""


class Attributes(NamedTuple):
    """What many items have in common: permission bits with setuid, setgid and sticky; numeric owner; xattrs."""

    mode: int
    uid: int
    gid: int
    xattrs: tuple[Xattr, ...] = ()


def is_plain(wanted: Attributes) -> bool:
    """Whether a file can be created with its final mode: no setuid and the like, no attributes, and we may write it."""
    return not wanted.xattrs and not wanted.mode & ~0o777 and bool(wanted.mode & stat.S_IWUSR)


@dataclass(frozen=True, slots=True)
class RestoreProblem:
    """One item that could not be restored, or not completely.

    ``path`` is its path in the snapshot, ``what`` the part concerned ("content", "owner", "permissions", ...),
    ``reason`` a line for a person, ``code`` that of the error in `backupiq.errors`.
    """

    path: bytes
    what: str
    reason: str
    code: str = RestoreWriteError.code

    def to_dict(self) -> dict[str, str]:
        """The problem as plain JSON values, the path escaped for printing."""
        from backupiq.telemetry.text import printable_path

        return {"path": printable_path(self.path), "what": self.what, "reason": self.reason, "code": self.code}

    @classmethod
    def of(cls, path: bytes, what: str, error: BaseException) -> RestoreProblem:
        """The problem an error stands for."""
        if isinstance(error, BackupIQError):
            return cls(path, what, error.message, error.code)
        return cls(path, what, reason_of(error))


Failure = tuple[str, BaseException]
"""A step that failed, in a word, and its error."""


def reason_of(error: BaseException) -> str:
    """A line for a person about an error of the system."""
    number = getattr(error, "errno", None)
    return os.strerror(number) if number else str(error) or type(error).__name__


def raise_if_fatal(error: OSError, target: str) -> None:
    """Raise what every further item would meet too: a full disk, no descriptors left, a read-only file system.

    That is ``DiskFullError``, ``TooManyOpenFilesError`` or ``RestoreWriteError``; for other errors nothing happens.
    """
    if error.errno in _FULL:
        raise DiskFullError(
            f"The disk that holds {target} is full. Free space on it and restore again with --overwrite if-changed; "
            "what was restored completely is kept."
        ) from error
    if error.errno in _NO_DESCRIPTORS:
        raise TooManyOpenFilesError from error
    if error.errno == errno.EROFS:
        raise RestoreWriteError(f"{target} lies on a read-only file system. Choose another target.") from error


class MetadataWriter:
    """Applies metadata as the user that runs this process.

    As root every owner is restored. Other users can give away nothing: of what is theirs the group is restored if they
    are in it, and the rest is counted in ``owners_kept`` without being a failure, as restic and tar do; setuid and
    setgid are then left out, because they would stand for another owner than the one they were meant for.
    """

    def __init__(self) -> None:
        get_uid = getattr(os, "geteuid", None)
        self._owners = get_uid is not None
        self._uid: int = get_uid() if get_uid is not None else -1
        self._groups = frozenset({os.getegid(), *os.getgroups()}) if self._owners else frozenset()
        self.owners_kept = 0

    def apply_open(
        self, fd: int, found: os.stat_result, wanted: Attributes, mtime_ns: int, atime_ns: int
    ) -> list[Failure]:
        """To an open file or folder; ``found`` is its ``fstat``.

        Returns the steps that failed; never raises ``OSError``.
        """
        failed: list[Failure] = []
        mode = wanted.mode
        if found.st_uid != wanted.uid or found.st_gid != wanted.gid:
            mode = self._chown(fd, None, found, wanted, failed)
        # Also with none wanted: a default ACL of the folder is inherited by what is made in it.
        failed += [(f"attribute {name}", error) for name, error in write_xattrs(fd, wanted.xattrs)]
        try:
            os.fchmod(fd, mode)
        except OSError as error:
            failed.append(("permissions", error))
        try:
            os.utime(fd, ns=(atime_ns, mtime_ns))
        except (OSError, OverflowError) as error:
            failed.append(("times", error))
        return failed

    def came_out_plain(self, fd: int, wanted: Attributes) -> os.stat_result | None:
        """Look at a file that was just created with the mode ``wanted`` names: its state, if that became its mode and
        nothing (a default ACL of its folder, a security module) gave it extended attributes; else ``None``.

        The next file that this process creates in the same folder with that mode comes out the same, as long as nobody
        changes the folder.
        """
        found = os.fstat(fd)
        if stat.S_IMODE(found.st_mode) != wanted.mode or has_xattrs(fd):
            return None
        return found

    def apply_plain(
        self, fd: int, found: os.stat_result, wanted: Attributes, mtime_ns: int, atime_ns: int
    ) -> list[Failure]:
        """To a new file like the one that `came_out_plain` and gave ``found``: only its owner and times are missing.

        ``wanted`` must be plain (`is_plain`). Returns the steps that failed; never raises ``OSError``.
        """
        failed: list[Failure] = []
        if found.st_uid != wanted.uid or found.st_gid != wanted.gid:
            self._chown(fd, None, found, wanted, failed)
        try:
            os.utime(fd, ns=(atime_ns, mtime_ns))
        except (OSError, OverflowError) as error:
            failed.append(("times", error))
        return failed

    def apply_named(
        self, place: Place, name: bytes, wanted: Attributes, mtime_ns: int, atime_ns: int, *, link: bool
    ) -> list[Failure]:
        """To a symlink (``link``) or special file, which cannot be opened; otherwise as `apply_open`."""
        failed: list[Failure] = []
        path = place.at(name)
        try:
            found = os.stat(path, dir_fd=place.fd, follow_symlinks=False)
        except OSError as error:
            return [("metadata", error)]
        mode = wanted.mode
        if found.st_uid != wanted.uid or found.st_gid != wanted.gid:
            mode = self._chown(path, place.fd, found, wanted, failed)
        # Extended attributes have no call relative to a descriptor; this path is one in disguise.
        in_folder = path if place.fd is None else b"/proc/self/fd/%d/%s" % (place.fd, name)
        failed += [(f"attribute {n}", error) for n, error in write_xattrs(in_folder, wanted.xattrs)]
        if not link:
            try:
                _chmod_special(place, path, mode, found)
            except OSError as error:
                failed.append(("permissions", error))
        try:
            if os.utime in os.supports_follow_symlinks:
                os.utime(path, ns=(atime_ns, mtime_ns), dir_fd=place.fd, follow_symlinks=False)
            elif not link:
                os.utime(path, ns=(atime_ns, mtime_ns))
        except (OSError, OverflowError) as error:
            failed.append(("times", error))
        return failed

    def _chown(
        self, target: int | bytes, dir_fd: int | None, found: os.stat_result, wanted: Attributes, failed: list[Failure]
    ) -> int:
        """Bring the owner about as far as we may; the mode that is safe to set afterwards."""
        if not self._owners:
            return wanted.mode
        uid = wanted.uid if self._uid == 0 else -1
        gid = wanted.gid if self._uid == 0 or (found.st_uid == self._uid and wanted.gid in self._groups) else -1
        done_uid, done_gid = found.st_uid, found.st_gid
        if uid != -1 or (gid != -1 and gid != found.st_gid):
            try:
                if isinstance(target, int):
                    os.fchown(target, uid, gid)
                else:
                    os.chown(target, uid, gid, dir_fd=dir_fd, follow_symlinks=False)
                done_uid = found.st_uid if uid == -1 else uid
                done_gid = found.st_gid if gid == -1 else gid
            except (OSError, OverflowError) as error:
                failed.append(("owner", error))
        mode = wanted.mode
        if done_uid != wanted.uid or done_gid != wanted.gid:
            self.owners_kept += self._uid != 0
            if done_uid != wanted.uid:
                mode &= ~stat.S_ISUID
            if done_gid != wanted.gid and not stat.S_ISDIR(found.st_mode):
                mode &= ~stat.S_ISGID
        return mode


def fatal_among(failed: Iterable[Failure], target: str) -> None:
    """Raise for a failure that ends the restore (`raise_if_fatal`)."""
    for _, error in failed:
        if isinstance(error, OSError):
            raise_if_fatal(error, target)


def _chmod_special(place: Place, path: bytes, mode: int, found: os.stat_result) -> None:
    """chmod of what must not be opened for reading or writing, without following a symlink put in its place."""
    if os.chmod in os.supports_follow_symlinks:
        os.chmod(path, mode, dir_fd=place.fd, follow_symlinks=False)
        return
    if not _PATH_ONLY or place.fd is None:
        os.chmod(path, mode)
        return
    fd = os.open(path, _PATH_ONLY | NO_FOLLOW | CLOSE_ON_EXEC, dir_fd=place.fd)
    try:
        now = os.fstat(fd)
        if (now.st_ino, now.st_dev) != (found.st_ino, found.st_dev):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        os.chmod(f"/proc/self/fd/{fd}", mode)
    finally:
        os.close(fd)

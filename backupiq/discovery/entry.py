"""What the walk finds: one record for each entry of a folder, and one for each folder with its entries."""

from __future__ import annotations

import enum
import errno
import os
import stat
from dataclasses import dataclass

import msgspec

from backupiq.errors import BackupIQError, SourceNotFoundError, SourcePermissionError, SourceReadError


class EntryKind(enum.IntEnum):
    """The kind of an entry, as its type bits in ``st_mode`` tell it."""

    FILE = 0
    DIR = 1
    SYMLINK = 2
    FIFO = 3
    CHARDEV = 4
    BLOCKDEV = 5
    SOCKET = 6


KIND_OF_FORMAT: dict[int, EntryKind] = {
    stat.S_IFREG: EntryKind.FILE,
    stat.S_IFDIR: EntryKind.DIR,
    stat.S_IFLNK: EntryKind.SYMLINK,
    stat.S_IFIFO: EntryKind.FIFO,
    stat.S_IFCHR: EntryKind.CHARDEV,
    stat.S_IFBLK: EntryKind.BLOCKDEV,
    stat.S_IFSOCK: EntryKind.SOCKET,
}
FORMAT_MASK = 0o170000


# gc=False: a record holds only bytes and ints, so no cycle can pass through it, and a walk makes a million of them.
class FileEntry(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One entry of a folder as ``lstat`` saw it. Sizes in bytes, times in nanoseconds since 1970 (may be negative).

    ``name`` is the last component of the path, raw; ``mode`` is the whole ``st_mode``; ``rdev`` is the raw ``st_rdev``
    of a device and 0 otherwise.
    """

    name: bytes
    kind: EntryKind
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int
    mode: int
    uid: int
    gid: int
    links: int
    rdev: int


class Directory(msgspec.Struct):
    """One folder of the walk with what it holds.

    ``path`` is absolute and raw; ``entry`` is the folder's own record (of the root folder the name is empty);
    ``children`` are sorted by raw name, subfolders among them, without what the rules leave out. ``complete`` is False
    when entries of the folder could not be read (each was reported), so that nobody takes them for deleted.
    """

    path: bytes
    entry: FileEntry
    children: list[FileEntry]
    complete: bool = True


@dataclass(frozen=True, slots=True)
class UnreadableItem:
    """Something that could not be read: where, why in a person's words, and the ``code`` of the error's class."""

    path: bytes
    reason: str
    error: str


def entry_from_stat(name: bytes, found: os.stat_result) -> FileEntry:
    """The record of an entry from its ``lstat`` result."""
    return FileEntry(
        name,
        KIND_OF_FORMAT.get(found.st_mode & FORMAT_MASK, EntryKind.FILE),
        found.st_size,
        found.st_mtime_ns,
        found.st_ctime_ns,
        found.st_ino,
        found.st_dev,
        found.st_mode,
        found.st_uid,
        found.st_gid,
        found.st_nlink,
        getattr(found, "st_rdev", 0),  # Windows has none
    )


_WORDS: dict[int, tuple[str, type[BackupIQError]]] = {
    errno.EACCES: ("this user may not read it", SourcePermissionError),
    errno.EPERM: ("this user may not read it", SourcePermissionError),
    errno.ENOENT: ("it vanished while it was being read", SourceNotFoundError),
    errno.ENOTDIR: ("it vanished while it was being read", SourceNotFoundError),
    errno.ESTALE: ("the network file system no longer knows it", SourceReadError),
    errno.EIO: ("the disk that holds it reported an error", SourceReadError),
    errno.ELOOP: ("its symbolic links lead in a circle, or it became a symbolic link", SourceReadError),
    errno.ENAMETOOLONG: ("its path is longer than the system allows", SourceReadError),
}


def unreadable(path: bytes, error: OSError) -> UnreadableItem:
    """The record of something that the system refused to read, its reason in a person's words."""
    words, kind = _WORDS.get(error.errno or 0, (error.strerror or type(error).__name__, SourceReadError))
    return UnreadableItem(path, words, kind.code)

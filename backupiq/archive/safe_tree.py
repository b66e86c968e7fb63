"""Folders below one root, reached one component at a time so that no symlink can lead out of it.

Where the system has calls relative to a directory descriptor (Linux, macOS), each folder is opened from its parent's
descriptor with ``O_NOFOLLOW | O_DIRECTORY``: what another process renames or plants meanwhile cannot move the work
elsewhere. Elsewhere (Windows) each component is looked at with ``lstat`` before its path is used, which stops a symlink
that is there already, but not one that is planted between look and use.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from backupiq.errors import RestoreConflictError, UnsafePathError

HAVE_DESCRIPTORS = {os.open, os.mkdir, os.stat, os.unlink, os.rename, os.symlink} <= os.supports_dir_fd

NO_FOLLOW: int = getattr(os, "O_NOFOLLOW", 0)
CLOSE_ON_EXEC: int = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOINHERIT", 0) | getattr(os, "O_BINARY", 0)
_FOLDER_FLAGS = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | NO_FOLLOW | CLOSE_ON_EXEC
NEW_FILE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_FOLLOW | CLOSE_ON_EXEC
_LEADS_ELSEWHERE = frozenset(b'\\/:*?"<>|\0') if os.name == "nt" else frozenset(b"/\0")


class FolderEntry(Protocol):
    """A folder as its parent's number and its own name; number 0 is the root."""

    @property
    def parent(self) -> int: ...

    @property
    def name(self) -> bytes: ...


class Place(NamedTuple):
    """Where names of one folder are looked up: relative to ``fd``, or below ``path`` where there are no descriptors.

    Every call takes the form ``os.call(place.at(name), dir_fd=place.fd)``.
    """

    fd: int | None
    path: bytes

    def at(self, name: bytes) -> bytes:
        """What to hand to the system for the name; ``UnsafePathError`` for one that is not a single component."""
        if self.fd is not None:
            return name
        if not _LEADS_ELSEWHERE.isdisjoint(name) or name in (b"", b".", b".."):
            raise UnsafePathError(f"The name {_printable(name)} cannot be stored safely in a folder of this system.")
        return os.path.join(self.path, name)


class SafeTree:
    """Opens folders of a plan below ``root``, keeping at most ``limit`` descriptors.

    Belongs to one thread at a time. A place stays valid until ``limit - 1`` other folders were asked for; whoever needs
    two at once asks for both right before use. ``root`` itself may be reached through symlinks: it is the person's own
    choice.
    """

    def __init__(
        self,
        root: str | bytes | os.PathLike[str],
        folders: Sequence[FolderEntry],
        *,
        limit: int = 256,
        descriptors: bool | None = None,
    ) -> None:
        if limit < 4:
            raise ValueError("a tree needs at least four descriptors")
        self._folders = folders
        self._limit = limit
        self._open: OrderedDict[int, Place] = OrderedDict()
        if descriptors is None:
            descriptors = HAVE_DESCRIPTORS
        path = os.fsencode(root)
        flags = _FOLDER_FLAGS & ~NO_FOLLOW
        self._root = Place(os.open(path, flags), b"") if descriptors else Place(None, os.path.abspath(path))

    def place(self, folder: int) -> Place:
        """The place of the folder with that number.

        ``UnsafePathError`` when a symlink stands where it or one above it should be, ``RestoreConflictError`` when
        something else does, ``OSError`` when it is missing or closed to us.
        """
        if folder == 0:
            return self._root
        known = self._open.get(folder)
        if known is not None:
            self._open.move_to_end(folder)
            return known
        chain = [folder]
        at = self._folders[folder].parent
        while at and at not in self._open:
            chain.append(at)
            at = self._folders[at].parent
        place = self._open[at] if at else self._root
        if at:
            self._open.move_to_end(at)
        for number in reversed(chain):
            place = self._enter(place, self._folders[number].name)
            self._open[number] = place
            if len(self._open) > self._limit:
                self._shut(self._open.popitem(last=False)[1])
        return place

    def make(self, folder: int) -> bool:
        """Create the folder (0700) in its parent; whether it was created, ``False`` when the name is taken."""
        entry = self._folders[folder]
        parent = self.place(entry.parent)
        try:
            os.mkdir(parent.at(entry.name), 0o700, dir_fd=parent.fd)
        except FileExistsError:
            return False
        return True

    def close(self) -> None:
        """Close every descriptor; calling it again does nothing."""
        while self._open:
            self._shut(self._open.popitem()[1])
        self._shut(self._root)
        self._root = Place(None, self._root.path)

    def _enter(self, parent: Place, name: bytes) -> Place:
        path = parent.at(name)
        if parent.fd is None:
            self._refuse(os.lstat(path).st_mode, name)
            return Place(None, path)
        try:
            return Place(os.open(path, _FOLDER_FLAGS, dir_fd=parent.fd), b"")
        except OSError as error:
            # Linux says ENOTDIR for a symlink too, other systems ELOOP or EMLINK.
            if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.EMLINK):
                self._refuse(os.stat(path, dir_fd=parent.fd, follow_symlinks=False).st_mode, name)
            raise

    @staticmethod
    def _refuse(mode: int, name: bytes) -> None:
        if stat.S_ISLNK(mode):
            raise UnsafePathError(
                f"A symlink stands in the target where the folder {_printable(name)} belongs. "
                "Nothing was written through it; remove it, or restore into another folder."
            )
        if not stat.S_ISDIR(mode):
            raise RestoreConflictError(
                f"Something that is not a folder stands in the target where the folder {_printable(name)} belongs. "
                "Move it away, or restore into another folder."
            )

    @staticmethod
    def _shut(place: Place) -> None:
        if place.fd is not None:
            os.close(place.fd)


def _printable(name: bytes) -> str:
    # Imported when needed: helper processes wait for all that is imported at their start.
    from backupiq.telemetry.text import printable_path

    return printable_path(name)


def lstat(place: Place, name: bytes) -> os.stat_result | None:
    """What stands under that name, not followed; ``None`` when nothing does."""
    try:
        return os.stat(place.at(name), dir_fd=place.fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


def remove(place: Place, name: bytes) -> None:
    """Remove a file, symlink or special file; nothing happens when it is not there."""
    try:
        os.unlink(place.at(name), dir_fd=place.fd)
    except FileNotFoundError:
        return

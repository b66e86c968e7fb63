"""The folders and files a person asks to back up, made absolute and merged into one tree of names."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from backupiq.discovery.entry import FileEntry, entry_from_stat
from backupiq.discovery.longpath import PIECE_BYTES, stat_long
from backupiq.errors import (
    MissingConfigurationError,
    SourceNotFoundError,
    SourcePermissionError,
    SourceReadError,
    ValidationError,
)

Source = os.PathLike[str] | os.PathLike[bytes] | str | bytes


@dataclass(slots=True)
class SourceNode:
    """A name on the way to a source. ``is_source`` marks the source itself; below it nothing is named."""

    path: bytes
    entry: FileEntry
    is_source: bool = False
    children: dict[bytes, SourceNode] = field(default_factory=dict)


def clean(source: Source) -> tuple[bytes, bool]:
    """The absolute path with ``.`` and ``..`` removed by name alone, and whether a symbolic link there is followed.

    As with restic, a link given plainly is stored as a link; with a slash behind it, as the folder it leads to.
    """
    raw = os.fsencode(source)
    if not raw or b"\0" in raw:
        raise SourceNotFoundError("An empty path, or one with a NUL byte, cannot be backed up; check the paths.")
    try:
        path = os.path.abspath(raw)
    except OSError as error:
        raise SourceNotFoundError(
            "The current folder no longer exists or may not be read; give absolute paths, or change to another folder."
        ) from error
    if path.startswith(b"//"):  # POSIX keeps two leading slashes; Linux means the root by them
        path = path[1:]
    return path, raw.endswith((b"/", b"/."))


def source_tree(sources: Sequence[Source]) -> SourceNode:
    """One tree from the root folder down to each source; a source below another one is covered by it.

    Raises MissingConfigurationError when there is no source, SourceNotFoundError, SourcePermissionError or
    SourceReadError when one cannot be looked at, ValidationError when they lie on different drives (Windows).
    """
    if not sources:
        raise MissingConfigurationError("There is nothing to back up: give at least one file or folder.")
    wanted: dict[bytes, bool] = {}
    for source in sources:
        path, follow = clean(source)
        wanted[path] = wanted.get(path, False) or follow
    # A link with another source behind it has to be a folder in the snapshot, so that the other one has its place.
    passed = {parent for path in wanted for parent in _parents(path)}
    root: SourceNode | None = None
    for path in sorted(wanted):
        follow = wanted[path] or path in passed
        drive, rest = os.path.splitdrive(path)
        names = [name for name in rest.replace(os.sep.encode(), b"/").split(b"/") if name]
        if root is not None and root.path != drive + b"/":
            raise ValidationError("The sources lie on different drives; back up one drive at a time.")
        if root is None:
            root = SourceNode(drive + b"/", _look(drive + b"/", b"", follow=True))
        node = root
        for depth, name in enumerate(names):
            if node.is_source:
                _look(path, name, follow=follow)  # covered, but one that is not there is still a mistake to name
                break
            is_last = depth == len(names) - 1
            below = node.children.get(name)
            if below is None:
                at = (node.path if node.path.endswith(b"/") else node.path + b"/") + name
                below = SourceNode(at, _look(at, name, follow=follow or not is_last))
                node.children[name] = below
            node = below
        node.is_source = True
    assert root is not None  # noqa: S101 - sources is not empty
    return root


def _parents(path: bytes) -> Iterator[bytes]:
    while (parent := os.path.dirname(path)) != path:
        yield parent
        path = parent


def _look(path: bytes, name: bytes, *, follow: bool) -> FileEntry:
    shown = os.fsdecode(path).encode("utf-8", "backslashreplace").decode()
    try:
        # Folders on the way are followed through symbolic links: their contents are what is stored below them.
        found = (
            os.stat(path, follow_symlinks=follow)
            if len(path) < PIECE_BYTES
            else stat_long(path, follow_symlinks=follow)
        )
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SourceNotFoundError(
            f"The file or folder to back up does not exist: {shown}. Check the path.", path=shown
        ) from error
    except PermissionError as error:
        raise SourcePermissionError(
            f"The file or folder to back up may not be read: {shown}. Run as a user who may, or leave it out.",
            path=shown,
        ) from error
    except OSError as error:
        raise SourceReadError(
            f"The file or folder to back up cannot be looked at: {shown}: {error.strerror}.", path=shown
        ) from error
    return entry_from_stat(name, found)

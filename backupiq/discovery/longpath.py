"""Files whose path is longer than the system takes in one call (``PATH_MAX``, 4,096 bytes on Linux).

A tree can be deeper than any path that names it. Such a path is opened piece by piece, each piece relative to a
descriptor of the one before, so one or two descriptors are in use however deep the tree is. Systems without
``dir_fd`` (Windows) get the plain call and its error.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

# Well below PATH_MAX everywhere (macOS has 1,024), so that a last name of 255 bytes still fits behind a piece.
PIECE_BYTES = 768

_DIRECTORY = getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


def _pieces(path: bytes) -> list[bytes]:
    """The path cut at separators into pieces that one call takes; joined by ``/`` they are the path again."""
    pieces: list[bytes] = []
    start = 0
    while len(path) - start > PIECE_BYTES:
        cut = path.rfind(b"/", start + 1, start + PIECE_BYTES)
        if cut < 0:
            cut = path.find(b"/", start + PIECE_BYTES)
            if cut < 0:
                break
        pieces.append(path[start:cut] or b"/")
        start = cut + 1
    pieces.append(path[start:])
    return pieces


@contextmanager
def parent_of(path: bytes) -> Iterator[tuple[int | None, bytes]]:
    """A descriptor for ``dir_fd`` and the short rest of ``path`` to use with it, valid inside the ``with`` block.

    Raises OSError as opening the folders on the way does; a folder that became a symbolic link is refused.
    """
    *heads, last = _pieces(path)
    held: int | None = None
    try:
        for number, head in enumerate(heads):
            # The first piece may pass through symbolic links, as the path of a source may.
            flags = os.O_RDONLY | (
                _DIRECTORY if number else getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
            )
            below = os.open(head, flags, dir_fd=held)
            if held is not None:
                os.close(held)
            held = below
        yield held, last
    finally:
        if held is not None:
            os.close(held)


def open_long(path: bytes, flags: int) -> int:
    """``os.open`` for a path of any length; the descriptor is the caller's to close."""
    with parent_of(path) as (folder, rest):
        return os.open(rest, flags, dir_fd=folder)


def stat_long(path: bytes, *, follow_symlinks: bool = False) -> os.stat_result:
    """``os.stat`` for a path of any length; like ``os.lstat`` unless told to follow a link in the last place."""
    with parent_of(path) as (folder, rest):
        return os.stat(rest, dir_fd=folder, follow_symlinks=follow_symlinks)


def readlink_long(path: bytes) -> bytes:
    """``os.readlink`` for a path of any length."""
    with parent_of(path) as (folder, rest):
        return os.readlink(rest, dir_fd=folder)


def open_folder_long(path: bytes) -> int:
    """A descriptor of the folder itself, for ``os.scandir``; a symbolic link in its place is refused."""
    return open_long(path, os.O_RDONLY | _DIRECTORY)

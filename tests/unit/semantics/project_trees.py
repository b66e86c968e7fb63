"""A tree of files in memory, seen as analysis sees a folder on the disk or a snapshot."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping

from backupiq.discovery.entry import Directory, EntryKind, FileEntry

Content = bytes | None
"""What a path holds: bytes for a file, None for a folder."""


class MemoryFiles:
    """``Files`` of the given paths (below ``/``), depth first, names in byte order. Folders above are made.

    Paths in ``links`` are symbolic links, those in ``unreadable`` fail when read, folders in ``incomplete`` could not
    be listed completely. ``reads`` notes (path, limit) of every read.
    """

    def __init__(
        self,
        tree: Mapping[str, Content] | Mapping[bytes, Content],
        *,
        links: tuple[str, ...] = (),
        unreadable: tuple[str, ...] = (),
        incomplete: tuple[str, ...] = (),
    ) -> None:
        self._contents: dict[bytes, bytes] = {}
        self._folders: dict[bytes, dict[bytes, FileEntry]] = {b"/": {}}
        self._unreadable = {path.encode() for path in unreadable}
        self._incomplete = {path.encode() for path in incomplete}
        self.reads: list[tuple[bytes, int]] = []
        for path, content in tree.items():
            raw = path.encode() if isinstance(path, str) else path
            if content is None:
                self._folder(raw)
            else:
                self._contents[raw] = content
                self._add(raw, EntryKind.FILE, len(content))
        for link in links:
            self._add(link.encode(), EntryKind.SYMLINK, 1)

    def directories(self) -> Iterator[Directory]:
        pending = [b"/"]
        while pending:
            path = pending.pop()
            children = [entry for _, entry in sorted(self._folders[path].items())]
            yield Directory(path, _entry(b"", EntryKind.DIR, 0), children, path not in self._incomplete)
            prefix = path.rstrip(b"/") + b"/"
            pending += [prefix + child.name for child in reversed(children) if child.kind is EntryKind.DIR]

    def read(self, path: bytes, limit: int) -> bytes:
        self.reads.append((path, limit))
        if path in self._unreadable:
            raise PermissionError(13, "not allowed")
        return self._contents[path][:limit]

    def _folder(self, path: bytes) -> dict[bytes, FileEntry]:
        if path not in self._folders:
            self._folders[path] = {}
            self._add(path, EntryKind.DIR, 0)
        return self._folders[path]

    def _add(self, path: bytes, kind: EntryKind, size: int) -> None:
        above, _, name = path.rpartition(b"/")
        self._folder(above or b"/")[name] = _entry(name, kind, size)


_FORMATS = {EntryKind.FILE: stat.S_IFREG | 0o644, EntryKind.DIR: stat.S_IFDIR | 0o755, EntryKind.SYMLINK: 0o120777}


def _entry(name: bytes, kind: EntryKind, size: int) -> FileEntry:
    return FileEntry(name, kind, size, 0, 0, 0, 0, _FORMATS[kind], 0, 0, 1, 0)

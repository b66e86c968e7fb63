"""Folders of a snapshot as values: out of the trees of a repository, and in a temporary file for reading them again."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from backupiq.catalog.rows import bounded
from backupiq.discovery.entry import Directory, EntryKind, FileEntry
from backupiq.errors import BackupIQError, CancelledRunError, TreeError, UnsafePathError
from backupiq.repository.tree import Node, check_name, posix_mode

MAX_ATTRIBUTE = 64 << 10
SPOOL_READ = 256 << 10

_TELLING = ("xdg.", "kMDItemWhereFroms", "Zone.Identifier")
_KINDS = {
    "file": EntryKind.FILE,
    "dir": EntryKind.DIR,
    "symlink": EntryKind.SYMLINK,
    "fifo": EntryKind.FIFO,
    "chardev": EntryKind.CHARDEV,
    "dev": EntryKind.BLOCKDEV,
    "socket": EntryKind.SOCKET,
}


class SnapshotDirectory(Directory):
    """A folder of a snapshot. ``contents`` has, for each of ``children``, the `content_digest` of a file, else None;
    ``attributes`` the extended attributes of those children that say where they came from."""

    contents: list[bytes | None] = msgspec.field(default_factory=list)
    attributes: dict[bytes, dict[str, bytes]] = msgspec.field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Listing:
    """A folder as it is stored: its entries sorted by name, without those that no folder can have."""

    entries: list[FileEntry]
    nodes: dict[bytes, Node]


def read_listing(nodes: Sequence[Node]) -> Listing:
    """A tree's nodes as a folder. Names that no folder can have, and second ones of a name, are left out; a time that
    is none is 0."""
    by_name: dict[bytes, Node] = {}
    entries: list[FileEntry] = []
    for node in nodes:
        try:
            name = node.raw_name()
            check_name(name)
            entry = _entry(name, node)
        except (TreeError, UnsafePathError):
            continue
        if name not in by_name:
            by_name[name] = node
            entries.append(entry)
    entries.sort(key=_name)
    return Listing(entries, by_name)


def _name(entry: FileEntry) -> bytes:
    return entry.name


def _entry(name: bytes, node: Node) -> FileEntry:
    kind = _KINDS.get(node.type)
    if kind is None:
        raise TreeError
    mtime_ns = _time(node.mtime_ns)
    return FileEntry(
        name,
        kind,
        node.size,
        mtime_ns,
        mtime_ns if node.ctime == node.mtime else _time(node.ctime_ns),
        node.inode,
        node.device_id,
        posix_mode(node.mode, node.type),
        node.uid,
        node.gid,
        node.links,
        node.device,
    )


def telling_attributes(node: Node) -> dict[str, bytes]:
    """The extended attributes that say where an entry came from."""
    return {
        each.name: each.value
        for each in node.extended_attributes or ()
        if each.value and len(each.value) <= MAX_ATTRIBUTE and any(part in each.name for part in _TELLING)
    }


def _time(parse: Callable[[], int]) -> int:
    try:
        return bounded(parse())
    except BackupIQError:
        return 0


class FolderSpool:
    """Folders in a temporary file, for reading them again much faster than from a repository. For several threads."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="backupiq-")  # noqa: SIM115 - closed by close()
        self._lock = threading.Lock()
        self._end = 0
        self._encoder = msgspec.msgpack.Encoder()

    def add(self, directory: SnapshotDirectory) -> None:
        """Keep one more; only before any is read. OSError."""
        data = self._encoder.encode(directory)
        self._file.write(len(data).to_bytes(8, "little") + data)
        self._end += 8 + len(data)

    def directories(self, stopped: threading.Event) -> Iterator[SnapshotDirectory]:
        """All of them, in order."""
        decoder = msgspec.msgpack.Decoder(SnapshotDirectory)
        position = 0
        data = b""
        while position < self._end or data:
            if stopped.is_set():
                raise CancelledRunError
            needed = 8 + int.from_bytes(data[:8], "little") if len(data) >= 8 else 8
            if len(data) < needed:
                with self._lock:
                    self._file.seek(position)
                    more = self._file.read(max(SPOOL_READ, needed - len(data)))
                position += len(more)
                data += more
                continue
            yield decoder.decode(memoryview(data)[8:needed])
            data = data[needed:]

    def close(self) -> None:
        """Give the file back."""
        with self._lock:
            self._file.close()

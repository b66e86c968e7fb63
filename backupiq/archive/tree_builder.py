"""Trees: the folders of a snapshot, written from the leaves up."""

from __future__ import annotations

import dataclasses
import errno
import os
from collections.abc import Callable, Container, Mapping, Sequence

from backupiq.archive.changes import NODE_TYPES, WITH_LINKS
from backupiq.archive.content import ContentTable
from backupiq.archive.inventory import Inventory
from backupiq.archive.owners import group_name, user_name
from backupiq.archive.pack_writer import PackWriter
from backupiq.archive.xattrs import Xattr, read_xattrs
from backupiq.discovery.entry import Directory, EntryKind, FileEntry, unreadable
from backupiq.discovery.longpath import parent_of, readlink_long
from backupiq.errors import CancelledRunError
from backupiq.repository.gojson import format_time_ns, quote_name
from backupiq.repository.pack import BlobType
from backupiq.repository.tree import ExtendedAttribute, Node, encode_tree, go_mode

MOST_SEEN = 4_096
"""Combinations of mode, owner and group that are remembered."""
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR})


@dataclasses.dataclass(slots=True)
class TreeCounts:
    """Folders and files that went into the trees."""

    dirs_new: int = 0
    dirs_changed: int = 0
    dirs_unmodified: int = 0
    files: int = 0
    bytes: int = 0


class TreeBuilder:
    """Writes one tree for each folder of an inventory, children before parents, in one thread.

    With ``partial``, what has not been read yet is left out instead of waited for, and nothing is said of what cannot
    be read: the trees of a checkpoint, on the way to those that say it.
    """

    def __init__(
        self,
        inventory: Inventory,
        content: ContentTable,
        *,
        writer: PackWriter,
        parent_trees: Mapping[bytes, str],
        reusable: Container[bytes] = frozenset(),
        stopped: Callable[[], bool],
        warn: Callable[[bytes, str], None],
        partial: bool = False,
    ) -> None:
        self._inventory = inventory
        self._content = content
        self._writer = writer
        self._parents = parent_trees
        self._reusable = reusable
        self._stopped = stopped
        self._warn = warn
        self._partial = partial
        self._seen: dict[tuple[int, int, int], tuple[int, str, str]] = {}
        self.counts = TreeCounts()

    def build(self) -> str:
        """Store every tree and return the root's id in hex.

        In the inventory a folder's own follow it at once, so a folder is stored when one comes that is not below it;
        those above the sources come last. May run while files are still being read: it waits for each.
        """
        done: dict[bytes, str] = {}
        open_folders: list[tuple[bytes, Directory, int]] = []

        def close() -> None:
            _, directory, first = open_folders.pop()
            done[directory.path] = self._store(directory, first, done)

        for number in range(self._inventory.above, len(self._inventory)):
            if self._stopped():
                raise CancelledRunError
            directory = self._inventory.directory(number)
            while open_folders and not directory.path.startswith(open_folders[-1][0]):
                close()
            open_folders.append((_prefix(directory.path), directory, self._inventory.first_ordinal(number)))
        while open_folders:
            close()
        for number in range(self._inventory.above - 1, -1, -1):
            directory = self._inventory.directory(number)
            done[directory.path] = self._store(directory, self._inventory.first_ordinal(number), done)
        return done[b"/"]

    def _store(self, directory: Directory, first: int, done: dict[bytes, str]) -> str:
        prefix = _prefix(directory.path)
        if directory.path in self._reusable and self._is_as_before(directory, prefix, done):
            return self._reuse(directory, prefix, done)
        nodes = []
        for ordinal, child in enumerate(directory.children, first):
            if child.kind is EntryKind.FILE:
                node = self._file_node(child, prefix, ordinal)
            else:
                node = self._node(child, prefix + child.name, done)
            if node is not None:
                nodes.append(node)
        tree = self._writer.save(encode_tree(nodes), BlobType.TREE).hex()
        before = self._parents.get(directory.path)
        if before is None:
            self.counts.dirs_new += 1
        elif before == tree:
            self.counts.dirs_unmodified += 1
        else:
            self.counts.dirs_changed += 1
        return tree

    def _is_as_before(self, directory: Directory, prefix: bytes, done: dict[bytes, str]) -> bool:
        """Whether every folder below has the tree that it had in the parent."""
        return all(
            done.get(prefix + child.name, "") == self._parents.get(prefix + child.name)
            for child in directory.children
            if child.kind == EntryKind.DIR
        )

    def _reuse(self, directory: Directory, prefix: bytes, done: dict[bytes, str]) -> str:
        """The folder's tree in the parent, which says the same as a new one would."""
        for child in directory.children:
            if child.kind == EntryKind.DIR:
                del done[prefix + child.name]
            elif child.kind == EntryKind.FILE:
                self.counts.files += 1
                self.counts.bytes += child.size
        self.counts.dirs_unmodified += 1
        return self._parents[directory.path]

    def _file_node(self, entry: FileEntry, prefix: bytes, ordinal: int) -> Node | None:
        # Runs once for every file of a snapshot: what is the same for many files is not worked out again.
        content = self._content
        if not content.has_content(ordinal, self._stopped, wait=not self._partial):
            return None
        if content.restated:
            entry = content.restated.get(ordinal, entry)
        self.counts.files += 1
        self.counts.bytes += entry.size
        known = content.attributes(ordinal)
        if known is None:
            attributes = self._attributes(prefix + entry.name, entry)
        else:
            attributes = _listed(known) if known else None
        mode, user, group = self._who(entry)
        mtime = format_time_ns(entry.mtime_ns)
        return Node(
            name=quote_name(entry.name),
            type="file",
            mode=mode,
            mtime=mtime,
            atime=mtime,
            ctime=format_time_ns(entry.ctime_ns),
            uid=entry.uid,
            gid=entry.gid,
            user=user,
            group=group,
            inode=entry.inode,
            device_id=entry.device,
            size=entry.size,
            links=entry.links,
            extended_attributes=attributes,
            content=content.hex_ids(ordinal),
        )

    def _who(self, entry: FileEntry) -> tuple[int, str, str]:
        """The mode as Go has it and the names of owner and group: the same for most entries."""
        key = (entry.mode, entry.uid, entry.gid)
        found = self._seen.get(key)
        if found is None:
            if len(self._seen) >= MOST_SEEN:
                self._seen.clear()
            found = self._seen[key] = (go_mode(entry.mode), user_name(entry.uid), group_name(entry.gid))
        return found

    def _node(self, entry: FileEntry, path: bytes, done: dict[bytes, str]) -> Node | None:
        """The node of anything but a file."""
        kind = entry.kind
        subtree = None
        target, raw_target = "", b""
        if kind == EntryKind.DIR:
            # A folder that the walk could not enter is kept as an empty one: its own metadata is known.
            subtree = done.pop(path, None) or self._empty_tree()
        elif kind == EntryKind.SYMLINK:
            try:
                target, raw_target = link_target(_read_link(path))
            except OSError as error:
                if not self._partial:
                    self._content.unreadable.append(unreadable(path, error))
                return None
        mode, user, group = self._who(entry)
        mtime = format_time_ns(entry.mtime_ns)
        return Node(
            name=quote_name(entry.name),
            type=NODE_TYPES[kind],
            mode=mode,
            mtime=mtime,
            atime=mtime,
            ctime=format_time_ns(entry.ctime_ns),
            uid=entry.uid,
            gid=entry.gid,
            user=user,
            group=group,
            inode=entry.inode,
            device_id=entry.device,
            links=entry.links if kind in WITH_LINKS else 0,
            linktarget=target,
            linktarget_raw=raw_target,
            extended_attributes=self._attributes(path, entry),
            device=entry.rdev if kind in (EntryKind.CHARDEV, EntryKind.BLOCKDEV) else 0,
            subtree=subtree,
        )

    def _attributes(self, path: bytes, entry: FileEntry) -> list[ExtendedAttribute] | None:
        try:
            found = _read_attributes(path, entry.device)
        except OSError as error:
            if error.errno not in _GONE and not self._partial:
                self._warn(path, f"its extended attributes could not be read: {(error.strerror or 'unknown').lower()}")
            return None
        return _listed(found) if found else None

    def _empty_tree(self) -> str:
        return self._writer.save(encode_tree([]), BlobType.TREE).hex()


def _listed(found: Sequence[Xattr]) -> list[ExtendedAttribute]:
    # JSON has no way to hold a name that is not UTF-8: as with restic, the bad bytes are replaced.
    return [ExtendedAttribute(name=link_target(os.fsencode(name))[0], value=value) for name, value in found]


def _prefix(path: bytes) -> bytes:
    return path if path.endswith(b"/") else path + b"/"


def _read_attributes(path: bytes, device: int) -> list[Xattr]:
    try:
        return read_xattrs(path, device=device)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
    with parent_of(path) as (folder, rest):
        return read_xattrs(b"/proc/self/fd/%d/%s" % (folder or 0, rest), device=device)


def _read_link(path: bytes) -> bytes:
    try:
        return os.readlink(path)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
    return readlink_long(path)


def link_target(raw: bytes) -> tuple[str, bytes]:
    """A symlink's target as JSON text, and raw too when it is not UTF-8 (repository format, section 8)."""
    try:
        return raw.decode(), b""
    except UnicodeDecodeError:
        text = raw.decode("utf-8", "surrogateescape")
        return "".join("\ufffd" if "\udc80" <= c <= "\udcff" else c for c in text), raw

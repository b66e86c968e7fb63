"""What is new or changed since the parent snapshot; what is not keeps its blobs, unread."""

from __future__ import annotations

import asyncio
import dataclasses
import struct
from array import array

from backupiq.archive.content import ContentState, ContentTable
from backupiq.archive.inventory import Inventory
from backupiq.archive.owners import group_name, user_name
from backupiq.discovery.entry import Directory, EntryKind, FileEntry
from backupiq.errors import RepositoryDamagedError
from backupiq.repository.gojson import format_time_ns, parse_time_ns, quote_name
from backupiq.repository.index import MasterIndex
from backupiq.repository.pack import BlobType
from backupiq.repository.reader import BlobReader
from backupiq.repository.tree import Node, go_mode

FOLDERS_A_TURN = 64
NODE_TYPES = {
    EntryKind.FILE: "file",
    EntryKind.DIR: "dir",
    EntryKind.SYMLINK: "symlink",
    EntryKind.FIFO: "fifo",
    EntryKind.CHARDEV: "chardev",
    EntryKind.BLOCKDEV: "dev",
    EntryKind.SOCKET: "socket",
}
WITH_LINKS = frozenset({EntryKind.FILE, EntryKind.SYMLINK, EntryKind.CHARDEV, EntryKind.BLOCKDEV})
"""Kinds whose number of names is written."""


@dataclasses.dataclass(slots=True)
class Changes:
    """The outcome of the comparison: which files must be read (ordinals ascending, with their sizes), and counts."""

    to_read: array[int] = dataclasses.field(default_factory=lambda: array("Q"))
    sizes: array[int] = dataclasses.field(default_factory=lambda: array("Q"))
    files_new: int = 0
    files_changed: int = 0
    files_unmodified: int = 0
    bytes_to_read: int = 0
    damaged_folders: int = 0
    """Folders of the parent that could not be loaded; their files are read as if they were new."""
    suspect_trees: set[bytes] = dataclasses.field(default_factory=set)
    """Raw ids of the trees in packs that gave a damaged one: what of them is still needed must be stored again."""
    parent_trees: dict[bytes, str] = dataclasses.field(default_factory=dict)
    """Path of a folder to the id of its tree in the parent."""
    described: set[bytes] = dataclasses.field(default_factory=set)
    """Paths of folders whose own entries are all as the parent's tree has them: it serves again if those below do."""

    def reusable(self) -> set[bytes]:
        """Of the described folders, those whose tree in the parent is not suspected to be damaged."""
        if not self.suspect_trees:
            return self.described
        return {path for path in self.described if bytes.fromhex(self.parent_trees[path]) not in self.suspect_trees}


async def find_changes(
    inventory: Inventory,
    content: ContentTable,
    *,
    reader: BlobReader,
    index: MasterIndex,
    parent_tree: str | None,
    same_user: bool = False,
) -> Changes:
    """Compare every file with the parent's tree (None: there is no parent) and fill in the content of those unchanged.

    A file is unchanged when size, mtime, ctime and inode are those of the parent and all of its blobs are indexed.
    ``same_user``: the parent was made by the user who runs this, who sees the same attributes. Only then are its trees
    taken over as they are; ctime tells that nothing has changed in an entry.
    """
    changes = Changes()
    if parent_tree is not None:
        changes.parent_trees[b"/"] = parent_tree
    for number, (first, directory) in enumerate(inventory.directories()):
        if number % FOLDERS_A_TURN == 0:
            # Trees mostly come from memory, and a wait that waits for nothing lets no signal and no lock's refresh in.
            await asyncio.sleep(0)
        nodes = await _parent_nodes(directory, changes, reader, index)
        described = same_user and bool(nodes) and len(nodes) == len(directory.children)
        for position, child in enumerate(directory.children):
            known = nodes.get(quote_name(child.name)) if nodes else None
            described = described and known is not None and describes(known, child)
            if child.kind != EntryKind.FILE:
                continue
            ordinal = first + position
            ids = unchanged_content(child, known, index) if known is not None else None
            if ids is not None:
                content.set(ordinal, ids, ContentState.UNCHANGED)
                changes.files_unmodified += 1
                continue
            changes.to_read.append(ordinal)
            changes.sizes.append(child.size)
            changes.bytes_to_read += child.size
            if known is not None and known.type == "file":
                changes.files_changed += 1
            else:
                changes.files_new += 1
            described = False
        if described:
            changes.described.add(directory.path)
    return changes


def describes(node: Node, entry: FileEntry) -> bool:
    """Whether the parent's node says of the entry what a new one would, going by its times, inode and what is cheap."""
    kind = entry.kind
    mtime = format_time_ns(entry.mtime_ns)
    return (
        node.mtime == mtime
        and node.atime == mtime
        and node.ctime == format_time_ns(entry.ctime_ns)
        and node.inode == entry.inode
        and node.device_id == entry.device
        and node.type == NODE_TYPES[kind]
        and node.mode == go_mode(entry.mode)
        and node.uid == entry.uid
        and node.gid == entry.gid
        and node.user == user_name(entry.uid)
        and node.group == group_name(entry.gid)
        and node.links == (entry.links if kind in WITH_LINKS else 0)
        and node.size == (entry.size if kind == EntryKind.FILE else 0)
        and node.generic_attributes is None
        and not node.error
    )


async def _parent_nodes(
    directory: Directory, changes: Changes, reader: BlobReader, index: MasterIndex
) -> dict[str, Node]:
    tree = changes.parent_trees.get(directory.path)
    if tree is None:
        return {}
    try:
        nodes = {node.name: node for node in await reader.load_tree(tree)}
    except RepositoryDamagedError:
        changes.damaged_folders += 1
        changes.suspect_trees |= _beside(tree, index)
        return {}
    prefix = directory.path.rstrip(b"/") + b"/"
    for child in directory.children:
        if child.kind == EntryKind.DIR:
            known = nodes.get(quote_name(child.name))
            if known is not None and known.subtree:
                changes.parent_trees[prefix + child.name] = known.subtree
    return nodes


def _beside(tree: str, index: MasterIndex) -> set[bytes]:
    """The tree and all trees in its packs: those below it cannot be asked for, since nothing names them any more."""
    try:
        places = index.find_all(bytes.fromhex(tree), BlobType.TREE)
    except (ValueError, struct.error):  # a snapshot may name anything
        return set()
    packs = {place.pack for place in places}
    return {blob.id for pack in packs for blob in index.pack_blobs(pack) if blob.type is BlobType.TREE}


def unchanged_content(entry: FileEntry, node: Node, index: MasterIndex) -> bytes | None:
    """The file's blobs (raw ids one after another) when the parent's node still describes it, else None."""
    if (
        node.type != "file"
        or (node.size or 0) != entry.size
        or (node.inode or 0) != entry.inode
        or node.content is None
        or not same_time(node.mtime, entry.mtime_ns)
        or not same_time(node.ctime, entry.ctime_ns)
    ):
        return None
    ids = bytes.fromhex("".join(node.content))
    if entry.size and not ids:
        return None
    for at in range(0, len(ids), 32):
        if not index.has(ids[at : at + 32], BlobType.DATA):
            return None
    return ids


def same_time(written: str, ns: int) -> bool:
    """Whether a stored time is that instant; text is compared first, since a time is almost always written our way."""
    if written == format_time_ns(ns):
        return True
    try:
        return not written.endswith("Z") and parse_time_ns(written) == ns
    except RepositoryDamagedError:
        return False

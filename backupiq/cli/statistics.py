"""How much snapshots hold and what it costs to store them.

Every distinct tree is read once, however many snapshots share it; the totals below a tree are kept and added up.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from backupiq.cli.listing import TreeLoader, subtree_of
from backupiq.errors import BlobMissingError
from backupiq.repository.index import BlobLocation
from backupiq.repository.pack import BlobType
from backupiq.repository.tree import Node

_SEAL_OVERHEAD = 32


class BlobIndex(Protocol):
    """The one question asked of the repository's index."""

    def find(self, blob_id: bytes, blob_type: BlobType, /) -> BlobLocation | None: ...


@dataclass(slots=True)
class TreeTotals:
    """What stands below one tree, with multiplicity; files of several names apart, by (device, inode)."""

    files: int = 0
    dirs: int = 0
    others: int = 0
    bytes: int = 0
    linked: dict[tuple[int, int], int] = field(default_factory=dict)

    def add(self, other: TreeTotals) -> None:
        """Add what stands below a subfolder."""
        self.files += other.files
        self.dirs += other.dirs
        self.others += other.others
        self.bytes += other.bytes
        if other.linked:
            self.linked.update(other.linked)

    @property
    def restore_bytes(self) -> int:
        """Bytes on disk after a restore: a file with several names counts once."""
        return self.bytes + sum(self.linked.values())


@dataclass(frozen=True, slots=True)
class Statistics:
    """Totals over the chosen snapshots. ``stored_bytes`` counts each distinct blob once, as it lies in its pack."""

    snapshots: int
    files: int
    dirs: int
    others: int
    restore_bytes: int
    data_blobs: int
    tree_blobs: int
    plain_bytes: int
    stored_bytes: int

    @property
    def compression_ratio(self) -> float:
        """Plain bytes of the distinct blobs for each byte stored (1 for none)."""
        return self.plain_bytes / self.stored_bytes if self.stored_bytes else 1.0

    @property
    def deduplication_ratio(self) -> float:
        """Bytes that restores would give for each plain byte of distinct blobs (1 for none)."""
        return self.restore_bytes / self.plain_bytes if self.plain_bytes else 1.0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "snapshots": self.snapshots,
            "files": self.files,
            "dirs": self.dirs,
            "others": self.others,
            "restore_bytes": self.restore_bytes,
            "data_blobs": self.data_blobs,
            "tree_blobs": self.tree_blobs,
            "plain_bytes": self.plain_bytes,
            "stored_bytes": self.stored_bytes,
            "compression_ratio": round(self.compression_ratio, 3),
            "deduplication_ratio": round(self.deduplication_ratio, 3),
        }


async def collect_statistics(load_tree: TreeLoader, index: BlobIndex, roots: Iterable[str]) -> Statistics:
    """Statistics of the snapshots with these root trees.

    Raises BlobMissingError when a blob that a tree names is in no index, and what ``load_tree`` raises.
    """
    counter = _Counter(load_tree)
    totals, snapshots, restore = TreeTotals(), 0, 0
    for root in roots:
        below = await counter.totals_of(root)
        snapshots += 1
        restore += below.restore_bytes
        totals.add(below)
    plain = stored = 0
    for blobs, kind in ((counter.data, BlobType.DATA), (counter.trees, BlobType.TREE)):
        for blob in blobs:
            location = index.find(blob, kind)
            if location is None:
                raise BlobMissingError(blob=blob.hex())
            stored += location.length
            plain += location.uncompressed_length or location.length - _SEAL_OVERHEAD
    return Statistics(
        snapshots=snapshots,
        files=totals.files,
        dirs=totals.dirs,
        others=totals.others,
        restore_bytes=restore,
        data_blobs=len(counter.data),
        tree_blobs=len(counter.trees),
        plain_bytes=plain,
        stored_bytes=stored,
    )


class _Counter:
    """Totals by tree id, and the distinct blobs met so far (about 90 bytes each)."""

    def __init__(self, load_tree: TreeLoader) -> None:
        self._load_tree = load_tree
        self._known: dict[str, TreeTotals] = {}
        self.data: set[bytes] = set()
        self.trees: set[bytes] = set()

    async def totals_of(self, root: str) -> TreeTotals:
        """Without recursion: a tree is finished when those below it are."""
        pending: list[tuple[str, TreeTotals | None, list[str]]] = [(root, None, [])]
        while pending:
            tree, own, subtrees = pending.pop()
            if tree in self._known:
                continue
            if own is None:
                own, subtrees = self._count(tree, await self._load_tree(tree))
                pending.append((tree, own, subtrees))
                pending.extend((sub, None, []) for sub in set(subtrees) if sub not in self._known)
                continue
            for sub in subtrees:
                own.add(self._known[sub])
            self._known[tree] = own
        return self._known[root]

    def _count(self, tree: str, nodes: list[Node]) -> tuple[TreeTotals, list[str]]:
        totals, subtrees = TreeTotals(), []
        self.trees.add(bytes.fromhex(tree))
        for node in nodes:
            if node.type == "dir":
                totals.dirs += 1
                subtrees.append(subtree_of(node.raw_name(), node))
            elif node.type != "file":
                totals.others += 1
            else:
                totals.files += 1
                if node.links > 1:
                    totals.linked[node.device_id, node.inode] = node.size
                else:
                    totals.bytes += node.size
                self.data.update(map(bytes.fromhex, node.content or ()))
        return totals, subtrees

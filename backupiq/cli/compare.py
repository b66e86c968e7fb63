"""What differs between two trees. Equal subtrees are skipped by their ids, without being read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from backupiq.cli.listing import TreeLoader, subtree_of
from backupiq.repository.tree import Node


class Difference(StrEnum):
    """The kinds of difference, with the letters that restic's diff prints."""

    ADDED = "+"
    REMOVED = "-"
    MODIFIED = "M"
    METADATA = "U"
    TYPE = "T"


@dataclass(frozen=True, slots=True)
class Change:
    """One path that differs. ``old`` is absent for what was added, ``new`` for what was removed."""

    difference: Difference
    path: bytes
    old: Node | None
    new: Node | None

    @property
    def is_dir(self) -> bool:
        """Whether it is (or, when removed, was) a folder."""
        node = self.new or self.old
        return node is not None and node.type == "dir"


@dataclass(slots=True)
class Tally:
    """How many entries differ in one way, and the bytes of the files among them."""

    items: int = 0
    bytes: int = 0


@dataclass(slots=True)
class DiffSummary:
    """Counts for every kind of difference. Bytes are those of the new file, of the old one where it was removed."""

    tallies: dict[Difference, Tally] = field(default_factory=lambda: {kind: Tally() for kind in Difference})

    def count(self, change: Change) -> None:
        """Take one change into account."""
        tally = self.tallies[change.difference]
        tally.items += 1
        node = change.new or change.old
        if node is not None and node.type == "file":
            tally.bytes += node.size

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, by the kind's name in lower case."""
        return {kind.name.lower(): {"items": t.items, "bytes": t.bytes} for kind, t in self.tallies.items()}


async def compare_trees(load_tree: TreeLoader, old: str, new: str, path: bytes = b"") -> AsyncIterator[Change]:
    """Every path that differs between two trees that stand at ``path``, folders before their contents.

    Times of last access, inode and device numbers and link counts are left out of account: they are not restored.
    """
    stack: list[tuple[bytes, str | None, str | None]] = [(path, old, new)]
    while stack:
        folder, old_id, new_id = stack.pop()
        if old_id == new_id:
            continue
        old_nodes = {n.raw_name(): n for n in await load_tree(old_id)} if old_id else {}
        new_nodes = {n.raw_name(): n for n in await load_tree(new_id)} if new_id else {}
        below: list[tuple[bytes, str | None, str | None]] = []
        for name in sorted(old_nodes.keys() | new_nodes.keys()):
            before, after = old_nodes.get(name), new_nodes.get(name)
            here = folder + b"/" + name
            difference = difference_of(before, after)
            if difference is not None:
                yield Change(difference, here, before, after)
            trees = (_tree(here, before), _tree(here, after))
            if trees[0] != trees[1]:
                below.append((here, *trees))
        stack.extend(reversed(below))


def difference_of(old: Node | None, new: Node | None) -> Difference | None:
    """How two entries of the same name differ themselves, whatever stands below them; None when they do not."""
    if old is None:
        return Difference.ADDED
    if new is None:
        return Difference.REMOVED
    if old.type != new.type:
        return Difference.TYPE
    if _content(old) != _content(new):
        return Difference.MODIFIED
    return Difference.METADATA if _metadata(old) != _metadata(new) else None


def _tree(path: bytes, node: Node | None) -> str | None:
    return subtree_of(path, node) if node is not None and node.type == "dir" else None


def _content(node: Node) -> tuple[Any, ...]:
    """What makes the entry's content: blobs of a file, target of a link, number of a device; nothing for a folder."""
    if node.type == "dir":
        return ()
    return (node.content, node.linktarget, node.linktarget_raw, node.device)


def _metadata(node: Node) -> tuple[Any, ...]:
    owner = (node.uid, node.gid, node.user, node.group)
    extended = sorted((a.name, a.value or b"") for a in node.extended_attributes or ())
    generic = {name: bytes(value) for name, value in (node.generic_attributes or {}).items()}
    return (node.mode, node.mtime_ns(), owner, extended, generic)

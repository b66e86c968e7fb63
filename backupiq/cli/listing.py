"""Walking what a snapshot holds, as values: no terminal, no repository, only a function that loads a tree."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import NamedTuple

from backupiq.errors import PathNotInSnapshotError, TreeError
from backupiq.repository.tree import Node, posix_mode

TreeLoader = Callable[[str], Awaitable[list[Node]]]
"""Loads the nodes of the tree with that hex id."""


class Item(NamedTuple):
    """One entry of a snapshot and its absolute path in it, as raw bytes."""

    path: bytes
    node: Node


def subtree_of(path: bytes, node: Node) -> str:
    """The tree id of a folder's node. TreeError when the snapshot's author left it out."""
    if node.subtree is None:
        raise TreeError(
            "A folder in the snapshot has no tree; check the repository with `restic check`.", path=repr(path)
        )
    return node.subtree


async def walk_tree(load_tree: TreeLoader, tree: str, path: bytes = b"") -> AsyncIterator[Item]:
    """Everything below the tree that stands at ``path``: folders before their contents, names in their stored order.

    Works to any depth without recursion. Raises what ``load_tree`` raises.
    """
    stack: list[tuple[bytes, Iterator[Node]]] = [(path, iter(await load_tree(tree)))]
    while stack:
        folder, nodes = stack[-1]
        node = next(nodes, None)
        if node is None:
            stack.pop()
            continue
        item = Item(folder + b"/" + node.raw_name(), node)
        yield item
        if node.type == "dir":
            stack.append((item.path, iter(await load_tree(subtree_of(item.path, node)))))


async def find_item(load_tree: TreeLoader, tree: str, path: bytes) -> Item | None:
    """The entry at ``path`` (absolute in the snapshot, or relative to its root); None for the root itself.

    Raises PathNotInSnapshotError when there is none, also for a path with ``..`` in it.
    """
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    here = b""
    found: Item | None = None
    for position, part in enumerate(parts):
        node = next((n for n in await load_tree(tree) if n.raw_name() == part), None)
        here += b"/" + part
        if node is None or (position < len(parts) - 1 and node.type != "dir"):
            shown = path.decode("utf-8", "backslashreplace")
            raise PathNotInSnapshotError(f"The snapshot holds no {shown}. {PathNotInSnapshotError.hint}")
        found = Item(here, node)
        if node.type == "dir":
            tree = subtree_of(here, node)
    return found


def mode_text(node: Node) -> str:
    """The mode as ``ls -l`` writes it."""
    return stat.filemode(posix_mode(node.mode, node.type))

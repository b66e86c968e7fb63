"""Comparing trees and adding them up, on trees in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupiq.cli.compare import Change, Difference, compare_trees, difference_of
from backupiq.cli.listing import find_item, mode_text, walk_tree
from backupiq.cli.statistics import collect_statistics
from backupiq.errors import BlobMissingError, PathNotInSnapshotError, TreeError
from backupiq.repository.index import BlobLocation
from backupiq.repository.pack import BlobType
from backupiq.repository.tree import Node, encode_tree

FOLDER_MODE = 1 << 31


class Trees:
    """Trees in memory by their id; knows which ones were asked for, and every blob but ``missing``."""

    def __init__(self) -> None:
        self.stored: dict[str, list[Node]] = {}
        self.loaded: list[str] = []
        self.missing: set[str] = set()

    def put(self, nodes: Sequence[Node]) -> str:
        ordered = sorted(nodes, key=lambda node: node.raw_name())
        tree = hashlib.sha256(encode_tree(ordered)).hexdigest()
        self.stored[tree] = ordered
        return tree

    async def load(self, tree: str) -> list[Node]:
        self.loaded.append(tree)
        return self.stored[tree]

    def find(self, blob_id: bytes, blob_type: BlobType, /) -> BlobLocation | None:
        return None if blob_id.hex() in self.missing else BlobLocation(bytes(32), 0, 132, 200)


def blob(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def file(name: str, *contents: str, **more: object) -> Node:
    return Node(name=name, type="file", content=[blob(c) for c in contents], size=100 * len(contents), **more)


def folder(name: str, tree: str | None) -> Node:
    return Node(name=name, type="dir", mode=FOLDER_MODE | 0o755, subtree=tree)


async def changes(trees: Trees, old: str, new: str) -> list[Change]:
    return [change async for change in compare_trees(trees.load, old, new)]


async def test_equal_subtrees_are_skipped_unread() -> None:
    trees = Trees()
    same = trees.put([file("same", "s")])
    old = trees.put([folder("equal", same), file("f", "1")])
    new = trees.put([folder("equal", same), file("f", "2")])
    found = await changes(trees, old, new)
    assert [(change.difference, change.path) for change in found] == [(Difference.MODIFIED, b"/f")]
    assert same not in trees.loaded


async def test_what_is_below_an_added_or_removed_folder_is_told() -> None:
    trees = Trees()
    inner = trees.put([file("x", "x"), folder("deep", trees.put([file("y", "y")]))])
    empty, full = trees.put([]), trees.put([folder("d", inner)])
    added = await changes(trees, empty, full)
    assert [change.path for change in added] == [b"/d", b"/d/deep", b"/d/x", b"/d/deep/y"]
    assert {change.difference for change in added} == {Difference.ADDED}
    removed = await changes(trees, full, empty)
    assert {change.difference for change in removed} == {Difference.REMOVED}


@pytest.mark.parametrize(
    ("old", "new", "difference"),
    [
        (file("f", "1"), file("f", "1"), None),
        (file("f", "1"), file("f", "1", atime="2026-01-01T00:00:00Z", inode=7, ctime="2026-01-01T00:00:00Z"), None),
        (file("f", "1"), file("f", "1", mtime="2026-01-01T00:00:00Z"), Difference.METADATA),
        (
            file("f", "1", mtime="2026-01-01T01:00:00+01:00"),
            file("f", "1", mtime="2026-01-01T00:00:00Z"),
            None,
        ),
        (file("f", "1"), file("f", "1", uid=3), Difference.METADATA),
        (file("f", "1"), file("f", "1", mode=0o600), Difference.METADATA),
        (file("f", "1"), file("f", "2", mode=0o600), Difference.MODIFIED),
        (file("f", "1"), Node(name="f", type="symlink", linktarget="x"), Difference.TYPE),
        (
            Node(name="f", type="symlink", linktarget="x"),
            Node(name="f", type="symlink", linktarget="y"),
            Difference.MODIFIED,
        ),
        (Node(name="f", type="chardev", device=1), Node(name="f", type="chardev", device=2), Difference.MODIFIED),
    ],
)
def test_entries_differ_in_what_is_restored(old: Node, new: Node, difference: Difference | None) -> None:
    assert difference_of(old, new) == difference


@given(st.dictionaries(st.sampled_from("abcdef"), st.sampled_from("123"), max_size=6), st.data())
async def test_a_comparison_finds_exactly_the_names_that_differ(old: dict[str, str], data: st.DataObject) -> None:
    new = data.draw(st.dictionaries(st.sampled_from("abcdef"), st.sampled_from("123"), max_size=6))
    trees = Trees()
    first, second = (trees.put([file(name, text) for name, text in one.items()]) for one in (old, new))
    found = {change.path[1:].decode(): change.difference for change in await changes(trees, first, second)}
    assert found == {
        name: Difference.ADDED if name not in old else Difference.REMOVED if name not in new else Difference.MODIFIED
        for name in old.keys() | new.keys()
        if old.get(name) != new.get(name)
    }


async def test_trees_of_any_depth_are_walked_compared_and_counted() -> None:
    trees = Trees()
    tree, other = trees.put([file("bottom", "b")]), trees.put([file("bottom", "c")])
    for _ in range(5000):
        tree, other = trees.put([folder("d", tree)]), trees.put([folder("d", other)])
    assert len([item async for item in walk_tree(trees.load, tree)]) == 5001
    assert len(await changes(trees, tree, other)) == 1
    assert (await collect_statistics(trees.load, trees, [tree])).dirs == 5000


async def test_a_shared_tree_counts_each_time_but_is_read_and_stored_once() -> None:
    trees = Trees()
    shared = trees.put([file("f", "1", "2"), Node(name="p", type="fifo")])
    root = trees.put([folder("a", shared), folder("b", shared), file("g", "2")])
    found = await collect_statistics(trees.load, trees, [root, root])
    assert (found.snapshots, found.files, found.dirs, found.others) == (2, 6, 4, 4)
    assert found.restore_bytes == 2 * (200 + 200 + 100)
    assert (found.data_blobs, found.tree_blobs) == (2, 2)
    assert (found.plain_bytes, found.stored_bytes) == (4 * 200, 4 * 132)
    assert sorted(trees.loaded) == sorted([shared, root])


async def test_a_file_with_several_names_is_restored_once() -> None:
    trees = Trees()
    linked = {"links": 2, "inode": 5, "device_id": 1}
    below = trees.put([file("second", "1", **linked)])
    root = trees.put([file("first", "1", **linked), folder("d", below), file("other", "1", links=2, inode=6)])
    found = await collect_statistics(trees.load, trees, [root])
    assert (found.files, found.restore_bytes) == (3, 200)


async def test_a_blob_in_no_index_is_an_error() -> None:
    trees = Trees()
    trees.missing.add(blob("1"))
    with pytest.raises(BlobMissingError):
        await collect_statistics(trees.load, trees, [trees.put([file("f", "1")])])


async def test_no_snapshots_give_ratios_of_one() -> None:
    found = await collect_statistics(Trees().load, Trees(), [])
    assert (found.compression_ratio, found.deduplication_ratio) == (1.0, 1.0)


async def test_paths_are_found_with_and_without_slashes() -> None:
    trees = Trees()
    root = trees.put([folder("a", trees.put([file("b", "1")]))])
    for path in (b"/a/b", b"a/b", b"//a/./b/"):
        item = await find_item(trees.load, root, path)
        assert item is not None
        assert item.path == b"/a/b"
    assert await find_item(trees.load, root, b"/") is None
    for path in (b"/a/c", b"/a/b/c", b"/a/../a"):
        with pytest.raises(PathNotInSnapshotError):
            await find_item(trees.load, root, path)


async def test_a_folder_without_a_tree_is_damage() -> None:
    trees = Trees()
    root = trees.put([folder("a", None)])
    with pytest.raises(TreeError):
        await changes(trees, trees.put([]), root)


@pytest.mark.parametrize(
    ("kind", "mode", "text"),
    [
        ("file", 0o644, "-rw-r--r--"),
        ("dir", FOLDER_MODE | 1 << 20 | 0o777, "drwxrwxrwt"),
        ("file", 1 << 23 | 1 << 22 | 0o755, "-rwsr-sr-x"),
        ("symlink", 1 << 27 | 0o777, "lrwxrwxrwx"),
        ("fifo", 1 << 25 | 0o600, "prw-------"),
        ("chardev", 1 << 26 | 1 << 21 | 0o666, "crw-rw-rw-"),
        ("dev", 1 << 26 | 0o660, "brw-rw----"),
        ("socket", 1 << 24 | 0o755, "srwxr-xr-x"),
    ],
)
def test_modes_are_written_as_ls_writes_them(kind: str, mode: int, text: str) -> None:
    assert mode_text(Node(name="n", type=kind, mode=mode)) == text

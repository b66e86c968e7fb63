"""A snapshot in a repository as a tree of files."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest

from backupiq.catalog.rows import content_digest
from backupiq.catalog.snapshot_files import SnapshotFiles
from backupiq.catalog.snapshot_listing import SnapshotDirectory
from backupiq.discovery.entry import EntryKind, entry_from_stat
from backupiq.errors import CancelledRunError, PathNotInSnapshotError, RepositoryDamagedError
from backupiq.repository.pack import BlobType
from backupiq.repository.repository import Repository
from backupiq.repository.tree import Node, encode_tree
from tests.unit.archive.saving import back_up
from tests.unit.repository.repositories import CountingProvider, new_repository, store_pack

T = TypeVar("T")


@pytest.fixture
async def repository(tmp_path: Path) -> AsyncIterator[Repository]:
    made = await new_repository(tmp_path / "repository")
    yield made
    await made.provider.close()


async def walk(files: SnapshotFiles) -> list[SnapshotDirectory]:
    return await asyncio.to_thread(lambda: list(files.directories()))


async def listing_of(repository: Repository, spool: Path, nodes: list[Node]) -> str:
    """Store a folder whose entries stand as they are given, however wrong; the id of its tree."""
    plain = b'{"nodes":' + msgspec.json.encode(nodes) + b"}\n"
    await store_pack(repository, spool, [plain], BlobType.TREE)
    return hashlib.sha256(plain).hexdigest()


async def tree_of(repository: Repository, spool: Path, nodes: list[Node]) -> str:
    """Store a folder as a foreign program might; the id of its tree."""
    plain = encode_tree(sorted(nodes, key=lambda node: node.raw_name()))
    await store_pack(repository, spool, [plain], BlobType.TREE)
    return hashlib.sha256(plain).hexdigest()


async def test_it_gives_what_the_walk_of_the_disk_gave(repository: Repository, tmp_path: Path) -> None:
    source = tmp_path / "home"
    (source / "folder").mkdir(parents=True)
    (source / "b.txt").write_text("b")
    (source / "a").symlink_to("b.txt")
    os.mkfifo(source / "folder/pipe")
    (source / "folder" / os.fsdecode(b"\xff")).write_bytes(b"x" * 100)
    os.chmod(source / "b.txt", 0o4700)
    saved = await back_up(repository, tmp_path, source)
    found = {each.path: each for each in await walk(SnapshotFiles(repository, saved.tree))}
    assert next(iter(found)) == b"/"
    for folder in (source, source / "folder"):
        given = found[os.fsencode(folder)]
        assert [child.name for child in given.children] == sorted(os.fsencode(name) for name in os.listdir(folder))
        for child in given.children:
            real = entry_from_stat(child.name, os.lstat(os.path.join(os.fsencode(folder), child.name)))
            for name in ("kind", "mtime_ns", "ctime_ns", "inode", "mode", "uid", "gid"):
                assert getattr(child, name) == getattr(real, name), (child.name, name)
            if child.kind is EntryKind.FILE:
                assert (child.size, child.links) == (real.size, real.links)
        assert given.complete
    top = found[os.fsencode(source)]
    contents = dict(zip((child.name for child in top.children), top.contents, strict=True))
    assert contents == {b"a": None, b"b.txt": content_digest([hashlib.sha256(b"b").hexdigest()]), b"folder": None}


async def test_it_can_be_walked_again_without_reading_again(repository: Repository, tmp_path: Path) -> None:
    source = tmp_path / "home"
    for number in range(30):
        (source / f"{number}/deep").mkdir(parents=True)
        (source / f"{number}/deep/file").write_text(str(number))
    saved = await back_up(repository, tmp_path, source)
    files = SnapshotFiles(repository, saved.tree)
    first = await walk(files)
    assert isinstance(repository.provider, CountingProvider)
    repository.provider.reads.clear()
    assert await walk(files) == first
    assert repository.provider.reads == []
    files.close()
    with pytest.raises(CancelledRunError):
        await walk(files)


async def test_files_are_read_from_their_beginning(repository: Repository, tmp_path: Path) -> None:
    source = tmp_path / "home"
    (source / "deep/er").mkdir(parents=True)
    data = os.urandom(5 << 20)
    (source / "deep/er/big").write_bytes(data)
    (source / "deep/small").write_bytes(b"small")
    (source / "empty").write_bytes(b"")
    saved = await back_up(repository, tmp_path, source)
    files = SnapshotFiles(repository, saved.tree)
    at = os.fsencode(source)

    def read(name: bytes, limit: int) -> bytes:
        return files.read(at + b"/" + name, limit)

    for limit in (0, 1, 100, 3 << 20, 5 << 20, 99 << 20):
        assert await asyncio.to_thread(read, b"deep/er/big", limit) == data[:limit]
    assert await asyncio.to_thread(read, b"deep/small", 3) == b"sma"
    assert await asyncio.to_thread(read, b"empty", 10) == b""
    for name in (b"none", b"deep", b"deep/none", b"empty/x", b"deep/../empty"):
        with pytest.raises(PathNotInSnapshotError):
            await asyncio.to_thread(read, name, 10)
    assert await asyncio.to_thread(files.content, at + b"/none/x") is None


async def test_the_beginnings_of_many_small_files_cost_few_reads(repository: Repository, tmp_path: Path) -> None:
    source = tmp_path / "home"
    source.mkdir()
    for number in range(200):
        (source / str(number)).write_bytes(os.urandom(500))
    saved = await back_up(repository, tmp_path, source)
    files = SnapshotFiles(repository, saved.tree)
    assert isinstance(repository.provider, CountingProvider)
    repository.provider.reads.clear()

    def read_all() -> None:
        for number in range(200):
            assert len(files.read(os.fsencode(source / str(number)), 100)) == 100

    await asyncio.to_thread(read_all)
    assert len(repository.provider.reads) < 10


async def test_several_threads_may_read_at_once(repository: Repository, tmp_path: Path) -> None:
    source = tmp_path / "home"
    for number in range(40):
        (source / f"{number}").mkdir(parents=True)
        (source / f"{number}/file").write_text(str(number))
    saved = await back_up(repository, tmp_path, source)
    files = SnapshotFiles(repository, saved.tree)
    paths = [os.fsencode(source / f"{number}/file") for number in range(40)]
    read = [asyncio.to_thread(files.read, path, 100) for path in paths]
    assert await asyncio.gather(*read) == [str(number).encode() for number in range(40)]


async def test_attributes_that_tell_the_origin_are_given(repository: Repository, tmp_path: Path) -> None:
    source = tmp_path / "home"
    source.mkdir()
    path = source / "download"
    path.write_text("x")
    try:
        os.setxattr(path, "user.xdg.origin.url", b"https://example.org/x")
        os.setxattr(path, "user.other", b"private")
    except OSError as error:
        pytest.skip(f"this file system takes no extended attributes: {error}")
    saved = await back_up(repository, tmp_path, source)
    files = SnapshotFiles(repository, saved.tree)
    expected = {"user.xdg.origin.url": b"https://example.org/x"}
    assert await asyncio.to_thread(files.attributes, os.fsencode(path)) == expected
    await walk(files)
    assert await asyncio.to_thread(files.attributes, os.fsencode(path)) == expected
    assert await asyncio.to_thread(files.attributes, os.fsencode(source)) == {}


# --- differences ---------------------------------------------------------------------------------------------------


async def test_what_differs_from_an_earlier_snapshot_is_given_with_the_way_to_it(
    repository: Repository, tmp_path: Path
) -> None:
    source = tmp_path / "home"
    for name in ("same/a", "changed/deep/b", "gone/c", "mixed/stays", "mixed/goes", "becomes/d"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("x")
    before = await back_up(repository, tmp_path, source)
    (source / "changed/deep/b").write_text("other")
    (source / "mixed/goes").unlink()
    for name in ("gone/c", "becomes/d"):
        (source / name).unlink()
        (source / name).parent.rmdir()
    (source / "becomes").write_text("a file now")
    (source / "new").mkdir()
    after = await back_up(repository, tmp_path, source, parent_tree=before.tree)
    at = os.fsencode(source)
    files = SnapshotFiles(repository, after.tree, base=before.tree, watch=[at + b"/same", at + b"/new"])
    given = [each.path.removeprefix(at).decode() for each in await walk(files) if each.path.startswith(at)]
    assert given == ["", "/changed", "/changed/deep", "/mixed", "/new"]
    assert sorted(files.changes.gone) == [at + b"/mixed/goes"]
    assert sorted(files.changes.gone_folders) == [at + b"/becomes", at + b"/gone"]
    assert files.changes.seen == {at + b"/new"}
    assert await asyncio.to_thread(files.read, at + b"/same/a", 10) == b"x"


async def test_a_snapshot_that_is_the_same_gives_nothing(repository: Repository, tmp_path: Path) -> None:
    source = tmp_path / "home"
    source.mkdir()
    saved = await back_up(repository, tmp_path, source)
    files = SnapshotFiles(repository, saved.tree, base=saved.tree)
    assert await walk(files) == []
    assert files.changes.gone == files.changes.gone_folders == []


async def test_a_unit_is_given_whole_as_soon_as_anything_in_it_differs(repository: Repository, tmp_path: Path) -> None:
    source = tmp_path / "home"
    for name in ("unit/mark", "unit/a/x", "unit/b/c/y", "other/mark", "other/a/x", "plain/a/x"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("x")
    before = await back_up(repository, tmp_path, source)
    (source / "unit/a/x").write_text("changed")
    (source / "plain/a/z").write_text("new")
    after = await back_up(repository, tmp_path, source, parent_tree=before.tree)
    files = SnapshotFiles(repository, after.tree, base=before.tree, is_unit=lambda folder, names: b"mark" in names)
    given = {os.fsdecode(each.path).removeprefix(str(source)) for each in await walk(files)}
    assert {"/unit", "/unit/a", "/unit/b", "/unit/b/c", "/plain", "/plain/a"} <= given
    assert not {"/other", "/other/a"} & given


# --- hostile trees -------------------------------------------------------------------------------------------------


async def test_names_that_no_folder_can_have_are_left_out(repository: Repository, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    bad = [Node(name=name, type="file", content=[]) for name in ("..", ".", "a/b", "\\x00", "\\q")]
    nodes = [*bad, Node(name="good", type="file", content=[]), Node(name="odd", type="unheard-of")]
    (root,) = await walk(SnapshotFiles(repository, await listing_of(repository, spool, nodes)))
    assert [child.name for child in root.children] == [b"good"]


async def test_times_that_are_none_and_names_given_twice_end_nothing(repository: Repository, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    nodes = [
        Node(name="a", type="file", mtime="9999-12-31T23:59:59Z", content=[]),
        Node(name="b", type="file", mtime="not a time at all, not at all", content=[]),
        Node(name="b", type="dir", subtree="ab" * 32),
    ]
    (root,) = await walk(SnapshotFiles(repository, await listing_of(repository, spool, nodes)))
    assert [(child.name, child.kind, child.mtime_ns) for child in root.children] == [
        (b"a", EntryKind.FILE, (1 << 63) - 1),
        (b"b", EntryKind.FILE, 0),
    ]


async def test_a_tree_that_multiplies_itself_is_given_up_after_a_bounded_number_of_entries(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backupiq.catalog.snapshot_files.MAX_ENTRIES", 500)
    spool = tmp_path / "spool"
    spool.mkdir()
    tree = await tree_of(repository, spool, [Node(name="leaf", type="file", content=[])])
    for _ in range(30):  # two to the power of 30 folders
        tree = await tree_of(repository, spool, [Node(name=name, type="dir", subtree=tree) for name in ("a", "b")])
    files = SnapshotFiles(repository, tree)
    found = 0

    def count() -> int:
        nonlocal found
        for directory in files.directories():
            found += len(directory.children)
            if found > 1_000:
                break
        return found

    assert await asyncio.to_thread(count) <= 600
    assert files.changes.unreadable > 0


async def test_very_deep_trees_end_where_no_path_can_go(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backupiq.catalog.snapshot_files.MAX_PATH", 1_000)
    spool = tmp_path / "spool"
    spool.mkdir()
    tree = await tree_of(repository, spool, [])
    for _ in range(60):
        tree = await tree_of(repository, spool, [Node(name="x" * 50, type="dir", subtree=tree)])
    given = await walk(SnapshotFiles(repository, tree))
    assert max(len(each.path) for each in given) <= 1_000


async def test_a_folder_without_a_tree_and_one_whose_tree_is_missing_are_counted(
    repository: Repository, tmp_path: Path
) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    nodes = [Node(name="none", type="dir"), Node(name="lost", type="dir", subtree="ab" * 32)]
    tree = await tree_of(repository, spool, nodes)
    files = SnapshotFiles(repository, tree)
    _, *others = await walk(files)
    assert [(each.path, each.children, each.complete) for each in others] == [
        (b"/lost", [], False),
        (b"/none", [], False),
    ]
    assert files.changes.unreadable == 2
    with pytest.raises((PathNotInSnapshotError, RepositoryDamagedError)):
        await asyncio.to_thread(files.read, b"/lost/a", 10)

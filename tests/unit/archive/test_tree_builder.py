"""Trees: byte for byte what restic writes for the same folder."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from backupiq.archive.content import ContentState, ContentTable
from backupiq.archive.inventory import Inventory
from backupiq.archive.tree_builder import TreeBuilder, link_target
from backupiq.discovery.entry import Directory
from backupiq.errors import CancelledRunError
from backupiq.repository.pack import BlobType
from backupiq.repository.reader import BlobReader
from backupiq.repository.repository import Repository
from backupiq.repository.tree import encode_tree
from backupiq.storage.local import LocalProvider
from tests.support.awkward import make_awkward_tree, remove_awkward_tree
from tests.support.programs import Restic, is_root, run_program
from tests.unit.archive.saving import Saved, as_ordinary_user, back_up, entry_of, new_kitchen, node_at
from tests.unit.repository.repositories import new_repository

ONE_BLOB = 400_000
"""Files up to this are one blob for both programs; larger ones are cut at other places by each."""


@pytest.fixture
def shared_path() -> Iterator[Path]:
    """A folder like ``tmp_path`` that other users can reach."""
    with tempfile.TemporaryDirectory(prefix="backupiq-") as name:
        os.chmod(name, 0o755)  # noqa: S103 - others are meant to reach it
        yield Path(name)


@pytest.fixture
def awkward(tmp_path: Path) -> Iterator[Path]:
    root = tmp_path / "files" / "awkward"
    make_awkward_tree(root, as_root=is_root(), levels=30, width=300)
    for folder, _, names in os.walk(os.fsencode(root)):
        for name in names:
            path = folder + b"/" + name
            status = os.lstat(path)
            if stat.S_ISREG(status.st_mode) and status.st_size > ONE_BLOB:
                os.unlink(path)
    yield root
    remove_awkward_tree(root)


async def restics_tree(restic: Restic, folder: Path, path: Path) -> tuple[Repository, str]:
    """A repository that restic has made of the folder ``path``, and the id of that folder's tree there."""
    env = restic.environment(folder, "pw") | {"TZ": "UTC"}
    run_program([restic.program, "init"], env=env)
    run_program([restic.program, "backup", "--quiet", path], env=env)
    repository = await Repository.open(LocalProvider(folder), "pw")
    ((_, snapshot),) = await repository.snapshots()
    await repository.load_index()
    assert snapshot.tree is not None
    tree = (await node_at(repository, snapshot.tree, path)).subtree
    assert tree is not None
    return repository, tree


async def differences(
    mine: tuple[Repository, str], theirs: tuple[Repository, str], where: str = ""
) -> AsyncIterator[str]:
    """What is not as restic wrote it, as lines for a person."""
    if mine[1] == theirs[1]:
        return
    texts = [
        await BlobReader(repository).load_blob(bytes.fromhex(tree), BlobType.TREE)
        for repository, tree in (mine, theirs)
    ]
    yield f"{where}: the trees differ"
    ours, other = ({node["name"]: node for node in json.loads(text)["nodes"]} for text in texts)
    for name in sorted(ours.keys() | other.keys()):
        one, two = ours.get(name, {}), other.get(name, {})
        if one.get("subtree") and two.get("subtree"):
            below = differences((mine[0], one["subtree"]), (theirs[0], two["subtree"]), f"{where}/{name}")
            async for line in below:
                yield line
        if list(one.items()) != list(two.items()):
            yield f"{where}/{name}: {one} / {two}"


async def our_tree(tmp_path: Path, path: Path) -> tuple[Repository, str, Saved]:
    repository = await new_repository(tmp_path / "ours")
    saved = await back_up(repository, tmp_path / "ours" / "spool", path)
    tree = (await node_at(repository, saved.tree, path)).subtree
    assert tree is not None
    return repository, tree, saved


async def test_every_tree_of_an_awkward_folder_is_byte_for_byte_that_of_restic(
    tmp_path: Path, awkward: Path, restic_old: Restic
) -> None:
    # What came with restic 0.16: the raw bytes of link targets, extended attributes of symbolic links.
    os.unlink(os.fsencode(awkward) + b"/symlinks/target not UTF-8")
    for name in os.listxattr(awkward / "xattrs" / "symlink", follow_symlinks=False) if is_root() else ():
        os.removexattr(awkward / "xattrs" / "symlink", name, follow_symlinks=False)
    theirs = await restics_tree(restic_old, tmp_path / "theirs", awkward)
    repository, ours, saved = await our_tree(tmp_path, awkward)
    assert saved.session.unreadable == []
    found = [line async for line in differences((repository, ours), theirs)]
    assert not found, "\n".join(found[:20])
    assert saved.session.inventory.entries > 500


async def test_the_newest_restic_writes_the_same_trees_too(tmp_path: Path, awkward: Path, restic_new: Restic) -> None:
    theirs = await restics_tree(restic_new, tmp_path / "theirs", awkward)
    repository, ours, _ = await our_tree(tmp_path, awkward)
    found = [line async for line in differences((repository, ours), theirs)]
    assert not found, "\n".join(found[:20])


async def test_an_empty_folder_is_the_empty_tree(tmp_path: Path) -> None:
    (tmp_path / "files" / "nothing").mkdir(parents=True)
    _, tree, _ = await our_tree(tmp_path, tmp_path / "files" / "nothing")
    assert tree == hashlib.sha256(b'{"nodes":[]}\n').hexdigest()


async def test_the_folders_above_the_source_hold_only_the_way_to_it(tmp_path: Path) -> None:
    (tmp_path / "files" / "wanted").mkdir(parents=True)
    (tmp_path / "files" / "beside").write_bytes(b"x")
    repository, _, saved = await our_tree(tmp_path, tmp_path / "files" / "wanted")
    reader = BlobReader(repository)
    nodes = await reader.load_tree((await node_at(repository, saved.tree, tmp_path / "files")).subtree or "")
    assert [node.name for node in nodes] == ["wanted"]
    node = await node_at(repository, saved.tree, tmp_path)
    assert node.uid == tmp_path.stat().st_uid
    assert node.inode == tmp_path.stat().st_ino


async def test_a_folder_that_could_not_be_listed_is_kept_as_an_empty_one(tmp_path: Path) -> None:
    kitchen = await new_kitchen(tmp_path)
    (tmp_path / "top" / "closed").mkdir(parents=True)
    inventory = Inventory()
    inventory.add(Directory(b"/", entry_of(tmp_path / "top"), [entry_of(tmp_path / "top" / "closed")]))
    writer = kitchen.new_writer()
    builder = builder_of(inventory, kitchen.stopping.is_set, writer)
    root = builder.build()
    writer.flush()
    await kitchen.store_finished()
    (node,) = await BlobReader(kitchen.repository).load_tree(root)
    assert (node.name, node.subtree) == ("closed", hashlib.sha256(encode_tree([])).hexdigest())
    kitchen.close()


def builder_of(inventory: Inventory, stopped: Any, writer: Any, content: ContentTable | None = None) -> TreeBuilder:
    table = content or ContentTable(inventory.entries)
    table.complete()
    return TreeBuilder(inventory, table, writer=writer, parent_trees={}, stopped=stopped, warn=lambda path, text: None)


async def test_what_was_not_read_is_left_out_and_a_vanished_symlink_is_recorded(tmp_path: Path) -> None:
    kitchen = await new_kitchen(tmp_path)
    base = tmp_path / "base"
    base.mkdir()
    (base / "never read").write_bytes(b"x")
    (base / "link").symlink_to("target")
    os.mkfifo(base / "pipe")
    children = [entry_of(base / name) for name in ("link", "never read", "pipe")]
    (base / "link").unlink()
    inventory, content = Inventory(), ContentTable(3)
    inventory.add(Directory(b"/", entry_of(base), children))
    writer = kitchen.new_writer()
    root = builder_of(inventory, kitchen.stopping.is_set, writer, content).build()
    writer.flush()
    await kitchen.store_finished()
    assert [node.name for node in await BlobReader(kitchen.repository).load_tree(root)] == ["pipe"]
    assert [item.path for item in content.unreadable] == [b"/link"]
    kitchen.close()


async def test_a_stopped_run_builds_no_trees(tmp_path: Path) -> None:
    kitchen = await new_kitchen(tmp_path)
    inventory = Inventory()
    inventory.add(Directory(b"/", entry_of(tmp_path), []))
    with pytest.raises(CancelledRunError):
        builder_of(inventory, lambda: True, kitchen.new_writer()).build()
    kitchen.close()


async def test_trees_are_built_while_files_are_still_being_read(tmp_path: Path) -> None:
    kitchen = await new_kitchen(tmp_path)
    (tmp_path / "late").write_bytes(b"x")
    inventory, content = Inventory(), ContentTable(1)
    inventory.add(Directory(b"/", entry_of(tmp_path), [entry_of(tmp_path / "late")]))
    writer = kitchen.new_writer()
    builder = TreeBuilder(
        inventory,
        content,
        writer=writer,
        parent_trees={},
        stopped=kitchen.stopping.is_set,
        warn=lambda path, text: None,
    )
    building = asyncio.create_task(asyncio.to_thread(builder.build))
    blob_id = await asyncio.to_thread(writer.save, b"x", BlobType.DATA)
    assert not building.done()
    content.set(0, blob_id, ContentState.STORED)
    content.tell()
    root = await building
    writer.flush()
    await kitchen.store_finished()
    (node,) = await BlobReader(kitchen.repository).load_tree(root)
    assert node.content == [blob_id.hex()]
    kitchen.close()


async def test_attributes_that_may_not_be_read_are_a_warning_and_the_entry_is_kept(shared_path: Path) -> None:
    if not is_root():
        pytest.skip("needs the super-user: a folder of another user's")
    kitchen = await new_kitchen(shared_path)
    closed = shared_path / "closed"
    closed.mkdir(mode=0o700)
    os.mkfifo(closed / "pipe")
    inventory = inventory_above(closed)
    inventory.add(Directory(os.fsencode(closed), entry_of(closed), [entry_of(closed / "pipe")]))
    warnings: list[tuple[bytes, str]] = []
    writer = kitchen.new_writer()
    content = ContentTable(inventory.entries)
    content.complete()
    builder = TreeBuilder(
        inventory,
        content,
        writer=writer,
        parent_trees={},
        stopped=lambda: False,
        warn=lambda path, text: warnings.append((path, text)),
    )
    for folder in (kitchen.spool.folder, kitchen.spool.folder.parent):
        folder.chmod(0o777)
    with as_ordinary_user():
        root = builder.build()
    assert warnings == [(os.fsencode(closed / "pipe"), "its extended attributes could not be read: permission denied")]
    writer.flush()
    await kitchen.store_finished()
    assert (await node_at(kitchen.repository, root, closed / "pipe")).type == "fifo"
    kitchen.close()


def inventory_above(path: Path) -> Inventory:
    """The folders above a path, each holding only the way to it."""
    inventory = Inventory()
    for above in reversed(path.parents):
        below = next(child for child in (path, *path.parents) if child.parent == above and child != above)
        inventory.add(Directory(os.fsencode(above), entry_of(above), [entry_of(below)]))
    return inventory


@pytest.mark.parametrize(
    ("raw", "text", "kept"),
    [
        (b"plain/target", "plain/target", b""),
        ("ünï\u2028".encode(), "ünï\u2028", b""),
        (b"caf\xe9/\xff", "caf\ufffd/\ufffd", b"caf\xe9/\xff"),
        ("\ufffd".encode(), "\ufffd", b""),
    ],
)
def test_a_link_target_keeps_its_raw_bytes_when_it_is_not_utf8(raw: bytes, text: str, kept: bytes) -> None:
    assert link_target(raw) == (text, kept)

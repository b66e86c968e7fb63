"""What is new or changed since the parent; what is not keeps its blobs and is never opened."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from backupiq.archive import reading
from backupiq.archive.changes import same_time, unchanged_content
from backupiq.discovery.entry import FileEntry
from backupiq.repository.gojson import format_time_ns
from backupiq.repository.index import MasterIndex
from backupiq.repository.pack import BlobType, PackBlob
from backupiq.repository.repository import Repository, pack_key
from backupiq.repository.tree import Node
from tests.support.programs import Restic, run_program
from tests.unit.archive.saving import PASSWORD, Saved, back_up, entry_of, node_at, reopened
from tests.unit.repository.repositories import flip, new_repository, stored_file


@pytest.fixture
async def repository(tmp_path: Path) -> Repository:
    return await new_repository(tmp_path / "repository")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Some files in some folders, one of them of several blobs, one empty, one of an awkward name."""
    # Apart from repository and spool, so that nothing a run writes moves the time of a folder above the source.
    root = tmp_path / "files" / "source"
    for name, data in {
        "a": b"first",
        "empty": b"",
        "below/b": b"second",
        "below/deeper/c": b"third",
        "new\nline \udcff": b"fourth",
        "large": os.urandom(9 << 20),
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


FILES = 6


def spool_for(source: Path) -> Path:
    return source.parents[1] / "repository" / "spool"


async def save(repository: Repository, source: Path, parent: Saved | None = None) -> Saved:
    return await back_up(repository, spool_for(source), source, parent_tree=parent.tree if parent else None)


def counts(saved: Saved) -> tuple[int, int, int]:
    changes = saved.session.changes
    return changes.files_new, changes.files_changed, changes.files_unmodified


# --- whole runs ----------------------------------------------------------------------------------------------------


async def test_without_a_parent_everything_is_new(repository: Repository, source: Path) -> None:
    first = await save(repository, source)
    assert counts(first) == (FILES, 0, 0)
    assert first.session.changes.bytes_to_read == sum(f.stat().st_size for f in source.rglob("*") if f.is_file())


async def test_an_unchanged_file_keeps_its_blobs_and_is_not_opened(
    repository: Repository, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await save(repository, source)
    node = await node_at(repository, first.tree, source / "large")

    def refuse(path: bytes) -> int:
        raise AssertionError(f"opened {path!r}")

    monkeypatch.setattr(reading, "open_file", refuse)
    fresh = await reopened(repository)
    second = await save(fresh, source, first)
    assert counts(second) == (0, 0, FILES)
    assert second.session.bytes_read == 0
    assert second.session.changes.bytes_to_read == 0
    assert (await node_at(fresh, second.tree, source / "large")).content == node.content
    before, after = await node_at(repository, first.tree, source), await node_at(fresh, second.tree, source)
    assert before.subtree == after.subtree
    dirs = second.session.tree_counts
    # Other programs may touch the folders above the source meanwhile, such as /tmp.
    assert (dirs.dirs_new, dirs.dirs_unmodified >= 5) == (0, True)


async def test_a_run_that_finds_nothing_changed_sends_next_to_nothing(repository: Repository, source: Path) -> None:
    first = await save(repository, source)
    second = await save(await reopened(repository), source, first)
    assert second.session.counts[0] == 0
    assert second.session.lanes.bytes_sent < first.session.lanes.bytes_sent / 100


async def test_changed_and_new_files_are_read_and_the_rest_is_not(repository: Repository, source: Path) -> None:
    first = await save(repository, source)
    (source / "a").write_bytes(b"first, changed")
    (source / "below" / "another").write_bytes(b"new")
    (source / "below" / "b").unlink()
    fresh = await reopened(repository)
    second = await save(fresh, source, first)
    assert counts(second) == (1, 1, FILES - 2)
    assert second.session.bytes_read == len(b"first, changed" + b"new")
    assert second.session.tree_counts.dirs_new == 0
    before = await node_at(repository, first.tree, source / "below" / "deeper")
    assert (await node_at(fresh, second.tree, source / "below" / "deeper")).subtree == before.subtree
    with pytest.raises(KeyError):
        await node_at(fresh, second.tree, source / "below" / "b")


async def test_only_a_changed_mode_makes_a_file_read_again_since_its_ctime_moved(
    repository: Repository, source: Path
) -> None:
    first = await save(repository, source)
    (source / "a").chmod(0o600)
    second = await save(await reopened(repository), source, first)
    assert counts(second) == (0, 1, FILES - 1)


async def test_a_folder_where_a_file_was_and_the_other_way_round(repository: Repository, source: Path) -> None:
    first = await save(repository, source)
    (source / "a").unlink()
    (source / "a").mkdir()
    (source / "a" / "inside").write_bytes(b"1")
    (source / "below" / "deeper" / "c").unlink()
    (source / "below" / "deeper").rmdir()
    (source / "below" / "deeper").write_bytes(b"2")
    fresh = await reopened(repository)
    second = await save(fresh, source, first)
    assert counts(second) == (2, 0, FILES - 2)
    assert (await node_at(fresh, second.tree, source / "a")).type == "dir"
    assert (await node_at(fresh, second.tree, source / "below" / "deeper")).type == "file"


async def test_blobs_that_no_index_names_any_more_are_read_again(repository: Repository, source: Path) -> None:
    first = await save(repository, source)
    node = await node_at(repository, first.tree, source / "below" / "b")
    assert node.content is not None
    found = repository.index.find(bytes.fromhex(node.content[0]), BlobType.DATA)
    assert found is not None
    fresh = await reopened(repository)
    packs = [(pack, fresh.index.pack_blobs(pack)) for pack in fresh.index.packs() if pack != found.pack]
    fresh.index = MasterIndex()
    for pack, blobs in packs:
        fresh.index.add_pack(pack, blobs)
    lost = {blob.id.hex() for blob in repository.index.pack_blobs(found.pack)}

    second = await save(fresh, source, first)
    new, changed, unmodified = counts(second)
    assert new == 0
    assert changed >= 1
    assert changed + unmodified == FILES
    assert (await node_at(fresh, second.tree, source / "below" / "b")).content == node.content
    assert all(fresh.index.has(bytes.fromhex(name), BlobType.DATA) for name in lost & set(node.content))


async def test_a_damaged_folder_of_the_parent_is_read_anew_with_a_warning(repository: Repository, source: Path) -> None:
    first = await save(repository, source)
    for pack in repository.index.packs():
        if repository.index.pack_blobs(pack)[0].type is BlobType.TREE:
            flip(stored_file(repository, pack_key(pack.hex())), 20)
            flip(stored_file(repository, pack_key(pack.hex())), 400)
    second = await save(await reopened(repository), source, first)
    changes = second.session.changes
    assert changes.damaged_folders >= 1
    assert changes.files_new + changes.files_unmodified == FILES
    assert changes.files_new >= 1
    assert any("damaged and are stored again" in text for text in second.session.warnings)


async def test_a_parent_whose_trees_are_gone_is_no_obstacle(repository: Repository, source: Path) -> None:
    await save(repository, source)
    fresh = await reopened(repository)
    second = await back_up(fresh, spool_for(source), source, parent_tree="ab" * 32)
    assert counts(second) == (FILES, 0, 0)
    assert second.session.changes.damaged_folders == 1


@pytest.mark.parametrize("zone", ["Asia/Kolkata", "America/St_Johns", "UTC"])
async def test_a_parent_that_restic_made_in_another_time_zone_is_understood(
    repository: Repository, source: Path, restic_old: Restic, zone: str
) -> None:
    root = stored_file(repository, "config").parent
    env = restic_old.environment(root, PASSWORD) | {"TZ": zone}
    run_program([restic_old.program, "backup", source], env=env)
    fresh = await reopened(repository)
    ((_, snapshot),) = await fresh.snapshots()
    assert snapshot.tree is not None
    written = (await node_at(fresh, snapshot.tree, source / "a")).mtime
    assert written.endswith("Z") == (zone == "UTC")

    second = await back_up(fresh, spool_for(source), source, parent_tree=snapshot.tree)
    assert counts(second) == (0, 0, FILES)
    assert second.session.bytes_read == 0


# --- one file against one node -------------------------------------------------------------------------------------

BLOB = bytes(range(32))
ENTRY = FileEntry(b"f", 0, 5, 1_600_000_000_123_456_789, 1_600_000_001_000_000_000, 42, 7, 0o100644, 0, 0, 1, 0)  # type: ignore[arg-type]


def index_with_blob() -> MasterIndex:
    index = MasterIndex()
    index.add_pack(b"p" * 32, [PackBlob(BLOB, BlobType.DATA, 0, 100, 0)])
    return index


def node_for(entry: FileEntry) -> Node:
    return Node(
        name="f",
        type="file",
        mtime=format_time_ns(entry.mtime_ns),
        ctime=format_time_ns(entry.ctime_ns),
        inode=entry.inode,
        size=entry.size,
        content=[BLOB.hex()],
    )


def test_a_file_as_the_parent_describes_it_keeps_its_blobs() -> None:
    assert unchanged_content(ENTRY, node_for(ENTRY), index_with_blob()) == BLOB


@pytest.mark.parametrize("field", ["size", "mtime_ns", "ctime_ns", "inode"])
@pytest.mark.parametrize("by", [1, -1])
def test_each_of_size_mtime_ctime_and_inode_alone_makes_a_file_changed(field: str, by: int) -> None:
    changed = msgspec.structs.replace(ENTRY, **{field: getattr(ENTRY, field) + by})
    assert unchanged_content(changed, node_for(ENTRY), index_with_blob()) is None


def test_mode_owner_and_links_alone_do_not() -> None:
    # They are taken from the file itself, whether or not its content is read.
    other = msgspec.structs.replace(ENTRY, mode=0o100600, uid=5, gid=6, links=2, device=9)
    assert unchanged_content(other, node_for(ENTRY), index_with_blob()) == BLOB


@pytest.mark.parametrize(
    "damage",
    [{"type": "symlink"}, {"content": None}, {"content": ["cd" * 32]}, {"content": []}, {"mtime": "not a time at all"}],
    ids=["no file", "no content", "unknown blob", "blobs missing", "no time"],
)
def test_a_node_that_cannot_be_used_makes_the_file_read_again(damage: dict[str, object]) -> None:
    node = node_for(ENTRY)
    for name, value in damage.items():
        setattr(node, name, value)
    assert unchanged_content(ENTRY, node, index_with_blob()) is None


def test_times_are_compared_as_instants() -> None:
    ns = 1_600_000_000_500_000_000
    assert same_time("2020-09-13T12:26:40.5Z", ns)
    assert same_time("2020-09-13T17:56:40.5+05:30", ns)
    assert same_time("2020-09-13T09:56:40.5-02:30", ns)
    assert not same_time("2020-09-13T12:26:40.5+05:30", ns)
    assert not same_time("2020-09-13T12:26:40.500000001Z", ns)
    assert not same_time("whenever", ns)


def test_an_empty_file_is_unchanged_without_any_blob(tmp_path: Path) -> None:
    path = tmp_path / "empty"
    path.touch()
    entry = entry_of(path)
    node = node_for(entry)
    node.content = []
    assert unchanged_content(entry, node, MasterIndex()) == b""

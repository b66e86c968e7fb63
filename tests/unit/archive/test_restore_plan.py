"""What a restore would do is known before anything is touched, and hostile trees end there."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from backupiq.archive import restore_plan
from backupiq.archive.metadata import Attributes
from backupiq.archive.restore_table import AttributeTable, FileTable, TimeColumn
from backupiq.errors import BlobMissingError, PathNotInSnapshotError, RestoreError, ValidationError
from backupiq.repository.tree import ExtendedAttribute, Node
from tests.unit.archive.restore_support import MTIME_NS, Archive, node, plan, symlink


@pytest.fixture
async def archive(tmp_path: Path) -> Archive:
    return await Archive.make(tmp_path)


def paths(made: restore_plan.RestorePlan) -> list[bytes]:
    return sorted(path for path, _, _ in made.items())


async def test_a_plan_names_every_item_with_its_path_in_the_snapshot(archive: Archive, tmp_path: Path) -> None:
    snapshot = await archive.snapshot(
        archive.folder("home", archive.folder("u", archive.file("f", b"12345"), symlink("l", b"f"), node("p", "fifo"))),
        archive.folder("empty"),
    )
    made = await plan(archive, snapshot, tmp_path / "target")
    assert sorted(made.items()) == [
        (b"/empty", "dir", 0),
        (b"/home", "dir", 0),
        (b"/home/u", "dir", 0),
        (b"/home/u/f", "file", 5),
        (b"/home/u/l", "symlink", 0),
        (b"/home/u/p", "special", 0),
    ]
    total = made.summary()
    assert (total.files, total.folders, total.symlinks, total.specials, total.bytes) == (1, 3, 1, 1, 5)
    assert made.to_dict()["bytes"] == 5
    assert not (tmp_path / "target").exists()


async def test_a_path_in_the_snapshot_becomes_the_target_itself(archive: Archive, tmp_path: Path) -> None:
    snapshot = await archive.snapshot(
        archive.folder("home", archive.folder("u", archive.file("f", b"1"), archive.folder("d"))),
        archive.file("other", b"2"),
    )
    made = await plan(archive, snapshot, tmp_path, subpath=b"/home/u/")
    assert paths(made) == [b"/home/u/d", b"/home/u/f"]
    assert [folder.name for folder in made.folders[1:]] == [b"d"]


async def test_a_single_file_can_be_named(archive: Archive, tmp_path: Path) -> None:
    snapshot = await archive.snapshot(archive.folder("d", archive.file("f", b"1"), archive.file("g", b"2")))
    made = await plan(archive, snapshot, tmp_path, subpath=b"d/f")
    assert paths(made) == [b"/d/f"]
    assert len(made.folders) == 1


@pytest.mark.parametrize("missing", [b"/nothing", b"/d/nothing", b"/d/f/below", b"/d/.."])
async def test_a_path_that_is_not_there_is_said_so(archive: Archive, tmp_path: Path, missing: bytes) -> None:
    snapshot = await archive.snapshot(archive.folder("d", archive.file("f", b"1")))
    with pytest.raises(PathNotInSnapshotError):
        await plan(archive, snapshot, tmp_path, subpath=missing)


@pytest.mark.parametrize(
    ("include", "exclude", "left"),
    [
        (["*.txt"], [], [b"/a", b"/a/b", b"/a/b/2.txt", b"/a/x.txt"]),
        (["/a/b"], [], [b"/a", b"/a/b", b"/a/b/1.c", b"/a/b/2.txt"]),
        (["b/"], [], [b"/a", b"/a/b", b"/a/b/1.c", b"/a/b/2.txt"]),
        ([], ["/a/b"], [b"/a", b"/a/x.txt", b"/b", b"/e"]),
        ([], ["*.txt"], [b"/a", b"/a/b", b"/a/b/1.c", b"/b", b"/e"]),
        (["/a"], ["*.txt", "!x.txt"], [b"/a", b"/a/b", b"/a/b/1.c", b"/a/x.txt"]),
        (["e"], [], [b"/e"]),
        (["nothing"], [], []),
    ],
)
async def test_gitignore_patterns_choose_what_is_restored(
    archive: Archive, tmp_path: Path, include: list[str], exclude: list[str], left: list[bytes]
) -> None:
    snapshot = await archive.snapshot(
        archive.folder(
            "a",
            archive.folder("b", archive.file("1.c", b"1"), archive.file("2.txt", b"2")),
            archive.file("x.txt", b"3"),
        ),
        archive.file("b", b"a file, not a folder"),
        archive.folder("e"),
    )
    assert paths(await plan(archive, snapshot, tmp_path, include=include, exclude=exclude)) == left


async def test_patterns_see_names_that_are_not_text(archive: Archive, tmp_path: Path) -> None:
    snapshot = await archive.snapshot(archive.file(b"caf\xe9.txt", b"1"), archive.file(b"caf\xe9.c", b"2"))
    assert paths(await plan(archive, snapshot, tmp_path, include=["*.txt"])) == [b"/caf\xe9.txt"]


async def test_a_pattern_that_cannot_be_read_is_refused(archive: Archive, tmp_path: Path) -> None:
    snapshot = await archive.snapshot()
    with pytest.raises(ValidationError):
        await plan(archive, snapshot, tmp_path, include=["!"])


@pytest.mark.parametrize("name", [b"..", b".", b"", b"../x", b"/x", b"a/b", b"a\0b"])
async def test_a_name_that_is_no_single_component_is_left_out_and_told(
    archive: Archive, tmp_path: Path, name: bytes
) -> None:
    snapshot = await archive.snapshot(
        archive.file(name, b"evil"), archive.folder(name, archive.file("f", b"1")), archive.file("good", b"2")
    )
    made = await plan(archive, snapshot, tmp_path)
    assert paths(made) == [b"/good"]
    assert len(made.problems) == 2
    assert {problem.code for problem in made.problems} <= {"restore.unsafe_path", "repository.tree"}


async def test_of_two_entries_with_one_name_the_first_is_restored(archive: Archive, tmp_path: Path) -> None:
    twice = archive.file("f", b"second")
    twice.name = "\\x66"  # the same name, spelt otherwise
    snapshot = await archive.snapshot(archive.file("f", b"1"), twice)
    made = await plan(archive, snapshot, tmp_path)
    assert [(path, size) for path, _, size in made.items()] == [(b"/f", 1)]
    assert [(problem.path, problem.code) for problem in made.problems] == [(b"/f", "repository.tree")]


async def test_a_damaged_folder_is_a_problem_and_its_siblings_are_restored(archive: Archive, tmp_path: Path) -> None:
    lost = node("lost", "dir", subtree="ab" * 32)
    nameless = node("nameless", "dir")
    contentless = node("contentless", "file", size=3)
    strange = node("strange", "file")
    strange.type = "wormhole"
    snapshot = await archive.snapshot(lost, nameless, contentless, strange, archive.file("good", b"1"))
    made = await plan(archive, snapshot, tmp_path)
    assert paths(made) == [b"/good", b"/lost"]
    assert {problem.path: problem.code for problem in made.problems} == {
        b"/lost": BlobMissingError.code,
        b"/nameless": "repository.tree",
        b"/contentless": "repository.tree",
        b"/strange": "repository.tree",
    }


async def test_a_time_that_is_none_is_told_and_the_file_restored(archive: Archive, tmp_path: Path) -> None:
    snapshot = await archive.snapshot(archive.file("f", b"1", mtime="2026-02-31T00:00:00Z"))
    made = await plan(archive, snapshot, tmp_path)
    assert paths(made) == [b"/f"]
    assert [(problem.path, problem.what) for problem in made.problems] == [(b"/f", "times")]


class EndlessTrees:
    """A folder that contains itself, as only a broken hash could make one."""

    async def load_tree(self, tree_hex: str) -> list[Node]:
        return [node("again", "dir", subtree=tree_hex), node("f", "file", content=[])]


class WideningTrees:
    """Folders in folders without end, each with an id of its own."""

    async def load_tree(self, tree_hex: str) -> list[Node]:
        return [node("deeper", "dir", subtree=f"{int(tree_hex, 16) + 1:064x}")]


async def test_a_folder_that_contains_itself_ends(tmp_path: Path, archive: Archive) -> None:
    snapshot = await archive.snapshot()
    made = await restore_plan.plan_restore(EndlessTrees(), snapshot, target=tmp_path)
    assert made.summary().files == 1
    assert [problem.code for problem in made.problems] == ["repository.tree"]


async def test_absurd_depth_ends(tmp_path: Path, archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restore_plan, "MAX_DEPTH", 100)
    snapshot = await archive.snapshot()
    made = await restore_plan.plan_restore(WideningTrees(), snapshot, target=tmp_path)
    assert 100 <= made.summary().folders <= 102
    assert len(made.problems) == 1


async def test_a_snapshot_that_multiplies_itself_is_refused(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restore_plan, "MAX_ITEMS", 10_000)
    level = [archive.file("f", b"1")]
    for _ in range(12):
        level = [archive.folder(str(number), *level) for number in range(4)]
    snapshot = await archive.snapshot(*level)
    with pytest.raises(RestoreError):
        await plan(archive, snapshot, tmp_path)


async def test_names_of_one_file_are_joined_by_inode_and_device(archive: Archive, tmp_path: Path) -> None:
    same = {"links": 2, "inode": 7, "device_id": 1}
    snapshot = await archive.snapshot(
        archive.file("a", b"data", **same),
        archive.file("b", b"data", **same),
        archive.file("other device", b"data", links=2, inode=7, device_id=2),
        archive.file("changed meanwhile", b"later", **same),
        archive.file("no inode", b"data", links=2),
    )
    made = await plan(archive, snapshot, tmp_path)
    assert [link.name for link in made.hard_links] == [b"b"]
    assert made.summary().files == 5
    assert made.total_bytes == 4 + 4 + 5 + 4


def test_a_file_takes_under_200_bytes_of_memory() -> None:
    table = FileTable()
    tracemalloc.start()
    try:
        for number in range(50_000):
            table.add(
                number // 10, b"some file name %d.txt" % number, number, MTIME_NS + number, MTIME_NS, 0, bytes(32)
            )
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used / 50_000 < 200


def test_rows_come_back_as_they_went_in() -> None:
    table = FileTable()
    blobs = [bytes([number]) * 32 for number in range(5)]
    table.add(1, b"none", 0, 1, 2, 3, b"")
    table.add(2, b"three", 9, -5, 10**20, 0, b"".join(blobs[:3]))
    table.add(3, b"two", 8, -(10**20), 0, 1, b"".join(blobs[3:]))
    assert [table.row(row).ids for row in range(3)] == [b"", b"".join(blobs[:3]), b"".join(blobs[3:])]
    assert list(table.owner) == [1, 1, 1, 2, 2]
    assert [table.blobs(row) for row in range(3)] == [0, 3, 2]
    assert table.blob_id(3) == blobs[3]
    assert (table.row(1).mtime_ns, table.row(1).atime_ns, table.row(2).mtime_ns) == (-5, 10**20, -(10**20))
    assert table.append(table.row(1)) == 3
    assert table.row(3) == table.row(1)


def test_times_beyond_64_bits_are_kept() -> None:
    column = TimeColumn()
    for ns in (0, 5, -62_135_596_800 * 10**9, 253_402_300_799 * 10**9, -1):
        column.append(ns)
    assert [column[row] for row in range(5)] == [0, 5, -62_135_596_800 * 10**9, 253_402_300_799 * 10**9, -1]


def test_attributes_in_common_are_kept_once() -> None:
    table = AttributeTable()
    one = table.number(Attributes(0o644, 1, 2))
    assert table.number(Attributes(0o644, 1, 2)) == one
    assert table.number(Attributes(0o644, 1, 2, (("user.x", b""),))) != one
    assert table[one].uid == 1


async def test_extended_attributes_come_along_and_null_is_empty(archive: Archive, tmp_path: Path) -> None:
    xattrs = [ExtendedAttribute("user.a", b"1"), ExtendedAttribute("user.b", None)]
    snapshot = await archive.snapshot(archive.file("f", b"1", extended_attributes=xattrs))
    made = await plan(archive, snapshot, tmp_path)
    assert made.attributes[made.files.attributes[0]].xattrs == (("user.a", b"1"), ("user.b", b""))

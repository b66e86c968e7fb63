# ruff: noqa: ASYNC230 - nothing else waits for the event loop here
"""Restores out of real repositories: what comes back, what is kept, what is refused, how it ends."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupiq.archive import restore_finish, restore_writer, safe_tree
from backupiq.archive.metadata import RestoreProblem
from backupiq.archive.restore import execute_restore
from backupiq.archive.restore_plan import plan_restore
from backupiq.archive.restore_run import Overwrite
from backupiq.errors import CancelledRunError, DiskFullError, RestoreWriteError
from backupiq.repository.repository import pack_key
from backupiq.repository.tree import ExtendedAttribute
from tests.unit.archive.restore_support import MTIME_NS, Archive, codes, leftovers, node, plan, restore, symlink
from tests.unit.archive.saving import as_ordinary_user
from tests.unit.repository.repositories import flip, store_pack, stored_file

MIB = 1 << 20
DICE = random.Random(3)
BIG = [DICE.randbytes(700_000) for _ in range(4)]
MINE = {"uid": os.geteuid(), "gid": os.getegid()}
ORDINARY = os.geteuid() or 65534
"""The user of `as_ordinary_user`."""


@pytest.fixture
async def archive(tmp_path: Path) -> Archive:
    return await Archive.make(tmp_path)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target"


@pytest.fixture
def users_folder() -> Iterator[Path]:
    """A folder of the ordinary user, reachable for them: what pytest makes is closed to all but root."""
    folder = Path(tempfile.mkdtemp(prefix="backupiq-ordinary-"))
    if os.geteuid() == 0:
        os.chown(folder, ORDINARY, -1)
    yield folder
    shutil.rmtree(folder)


# --- what comes back -----------------------------------------------------------------------------------------------


async def test_files_folders_and_links_come_back_with_content_and_metadata(archive: Archive, target: Path) -> None:
    snapshot = await archive.snapshot(
        archive.folder(
            "home",
            archive.file("small", b"hello", perm=0o640, **MINE),
            archive.file("empty", perm=0o400, **MINE),
            archive.file("big", *BIG, perm=0o4755, **MINE),
            symlink("link", b"nowhere", **MINE),
            node("fifo", "fifo", perm=0o620, **MINE),
            archive.folder("empty folder", perm=0o1777, mtime_ns=5, **MINE),
            perm=0o510,
            mtime_ns=10**18,
            **MINE,
        ),
        packs_of=2,
    )
    report = await restore(archive, snapshot, target)
    home = target / "home"
    assert (home / "small").read_bytes() == b"hello"
    assert (home / "empty").read_bytes() == b""
    assert (home / "big").read_bytes() == b"".join(BIG)
    assert os.readlink(home / "link") == "nowhere"
    modes = {path.name: stat.S_IMODE(path.lstat().st_mode) for path in home.iterdir() if not path.is_symlink()}
    assert modes == {"small": 0o640, "empty": 0o400, "big": 0o4755, "fifo": 0o620, "empty folder": 0o1777}
    assert {path.lstat().st_mtime_ns for path in home.iterdir()} == {MTIME_NS, 5}
    assert (home.stat().st_mtime_ns, stat.S_IMODE(home.stat().st_mode)) == (10**18, 0o510)
    assert (report.files, report.folders, report.others, report.bytes) == (3, 2, 2, 5 + 4 * 700_000)
    assert (report.problem_count, report.failed, report.skipped) == (0, 0, 0)


async def test_a_blob_that_many_files_share_reaches_all_of_them(archive: Archive, target: Path) -> None:
    shared = BIG[0]
    files = [archive.file(f"f{number}", shared) for number in range(20)]
    files += [archive.file(f"g{number}", shared, BIG[1], shared) for number in range(5)]
    report = await restore(archive, await archive.snapshot(*files), target)
    assert {(target / f"f{number}").read_bytes() for number in range(20)} == {shared}
    assert {(target / f"g{number}").read_bytes() for number in range(5)} == {shared + BIG[1] + shared}
    assert report.files == 25


async def test_names_of_one_file_become_one_file_again(archive: Archive, target: Path) -> None:
    same = {"links": 3, "inode": 7, "device_id": 1}
    other = {"links": 2, "inode": 8, "device_id": 1}
    link_a, link_b = symlink("l1", b"x", inode=9, device_id=1), symlink("l2", b"x", inode=9, device_id=1)
    link_a.links = link_b.links = 2
    snapshot = await archive.snapshot(
        archive.folder("a", archive.file("one", b"data", **same), archive.file("two", b"data", **same)),
        archive.folder("b", archive.file("three", b"data", **same), archive.file("e1", **other)),
        archive.file("e2", **other),
        link_a,
        link_b,
    )
    report = await restore(archive, snapshot, target)
    inodes = {(target / name).stat().st_ino for name in ("a/one", "a/two", "b/three")}
    assert len(inodes) == 1
    assert (target / "b/e1").stat().st_ino == (target / "e2").stat().st_ino
    assert (target / "l1").lstat().st_ino == (target / "l2").lstat().st_ino
    assert (report.files, report.hard_links) == (5, 3)


@pytest.mark.parametrize("sparse", [True, False])
async def test_long_runs_of_zeros_become_holes_only_when_asked(archive: Archive, target: Path, sparse: bool) -> None:
    zeros = bytes(512 << 10)
    contents = {
        "all": [zeros] * 8,
        "start": [zeros] * 4 + [b"end"],
        "end": [b"begin", *[zeros] * 4],
        "inside": [b"x" * MIB + bytes(2 * MIB) + b"y" * 100],
        "one blob of zeros": [bytes(MIB)],
        "blob ending in zeros": [b"x" * 100_000 + bytes(MIB + 17)],
        "short zeros": [bytes(1000)],
    }
    snapshot = await archive.snapshot(*(archive.file(name, *blobs) for name, blobs in contents.items()))
    await restore(archive, snapshot, target, sparse=sparse)
    for name, blobs in contents.items():
        whole = b"".join(blobs)
        assert (target / name).read_bytes() == whole
        data = len(whole.replace(bytes(64 << 10), b""))
        if sparse:
            assert (target / name).stat().st_blocks * 512 <= data + (128 << 10)
        else:
            assert (target / name).stat().st_blocks * 512 >= len(whole)


async def test_awkward_names_come_back_byte_for_byte(archive: Archive, target: Path) -> None:
    names = [b"caf\xe9", b"a\nb", b'quo"te\\', b"-rf", b"\xff\xfe", "naïve 😀".encode(), b" ", b"x" * 255]
    snapshot = await archive.snapshot(*(archive.file(name, name) for name in names))
    await restore(archive, snapshot, target)
    raw = os.fsencode(target)
    assert sorted(os.listdir(raw)) == sorted(names)
    for name in names:
        with open(raw + b"/" + name, "rb") as file:
            assert file.read() == name


async def test_a_path_in_the_snapshot_is_restored_right_into_the_target(archive: Archive, target: Path) -> None:
    snapshot = await archive.snapshot(
        archive.folder("home", archive.folder("u", archive.file("f", b"1"), perm=0o700)), archive.file("x", b"2")
    )
    await restore(archive, snapshot, target, subpath=b"/home/u")
    assert [path.name for path in target.iterdir()] == ["f"]
    await restore(archive, snapshot, target / "single", subpath=b"/home/u/f")
    assert (target / "single/f").read_bytes() == b"1"


async def test_only_what_the_patterns_choose_is_written(archive: Archive, target: Path) -> None:
    snapshot = await archive.snapshot(
        archive.folder("a", archive.file("1.txt", b"1"), archive.file("2.c", b"2"), archive.folder("b")),
        archive.folder("c", archive.file("3.c", b"3")),
    )
    await restore(archive, snapshot, target, include=["*.txt"])
    assert sorted(str(path.relative_to(target)) for path in target.rglob("*")) == ["a", "a/1.txt"]
    assert (target / "a").stat().st_mtime_ns == MTIME_NS


async def test_deep_folders_come_back(archive: Archive, target: Path) -> None:
    entry = archive.file("bottom", b"deep")
    for _ in range(600):
        entry = archive.folder("level", entry)
    report = await restore(archive, await archive.snapshot(entry), target)
    assert report.problems == []
    assert report.folders == 600
    assert (target / "/".join(["level"] * 600) / "bottom").read_bytes() == b"deep"


async def test_reading_back_finds_every_file_right(archive: Archive, target: Path) -> None:
    snapshot = await archive.snapshot(
        archive.file("a", *BIG), archive.file("b", b"1", perm=0o400, **MINE), archive.file("c")
    )
    report = await restore(archive, snapshot, target, verify=True)
    assert (report.verified, report.problems) == (3, [])


async def test_reading_back_finds_what_another_program_changed(archive: Archive, target: Path) -> None:
    snapshot = await archive.snapshot(archive.file("a", b"right"), archive.file("b", b"right too"))
    await restore(archive, snapshot, target)
    (target / "a").write_bytes(b"wrong")
    os.utime(target / "a", ns=(MTIME_NS, MTIME_NS))
    report = await restore(archive, snapshot, target, overwrite="if-changed", verify=True)
    assert (report.verified, report.skipped) == (1, 2)
    assert [(problem.path, problem.what) for problem in report.problems] == [(b"/a", "verification")]


async def test_progress_reaches_the_totals_of_the_plan(archive: Archive, target: Path) -> None:
    same = {"links": 2, "inode": 7, "device_id": 1}
    snapshot = await archive.snapshot(
        *(archive.file(f"f{number}", bytes([number]) * 1000) for number in range(50)),
        archive.file("big", *BIG),
        archive.file("empty"),
        archive.file("h1", b"data", **same),
        archive.file("h2", b"data", **same),
        packs_of=5,
    )
    seen: list[tuple[int, int]] = []
    made = await plan(archive, snapshot, target)
    await execute_restore(made, archive.reader(), target, on_progress=lambda *done: seen.append(done))
    assert seen == sorted(seen)
    assert len(seen) > 5
    assert seen[-1] == (made.summary().files, made.total_bytes)


async def test_systems_without_folder_descriptors_restore_the_same(
    archive: Archive, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows: paths instead of descriptors, metadata after closing, no call that writes at an offset."""
    monkeypatch.setattr(safe_tree, "HAVE_DESCRIPTORS", False)
    monkeypatch.setattr(restore_writer, "APPLIES_TO_OPEN", False)
    monkeypatch.setattr(restore_finish, "APPLIES_TO_OPEN", False)
    monkeypatch.setattr(restore_writer, "_PWRITE", None)
    outside = target.parent / "outside"
    outside.mkdir()
    same = {"links": 2, "inode": 7, "device_id": 1}
    snapshot = await archive.snapshot(
        archive.folder("d", archive.file("big", *BIG, perm=0o640, **same), node("p", "fifo"), perm=0o711),
        archive.file("linked", *BIG, perm=0o640, **same),
        archive.file("small", b"1", perm=0o400),
        symlink("l", b"x"),
        archive.folder("planted", archive.file("f", b"2")),
        packs_of=2,
    )
    for _ in range(2):
        report = await restore(archive, snapshot, target, verify=True)
        assert (target / "d/big").read_bytes() == (target / "linked").read_bytes() == b"".join(BIG)
        assert (target / "d/big").stat().st_ino == (target / "linked").stat().st_ino
        assert {stat.S_IMODE((target / name).stat().st_mode) for name in ("d/big", "small", "d")} == {
            0o640,
            0o400,
            0o711,
        }
        assert {(target / name).lstat().st_mtime_ns for name in ("d/big", "d", "small", "l", "d/p")} == {MTIME_NS}
        assert leftovers(target) == []
        shutil.rmtree(target / "planted", ignore_errors=True)
        if not (target / "planted").is_symlink():
            assert report.problems == []
            (target / "planted").symlink_to(outside)
    assert codes(report) == {b"/planted": "restore.unsafe_path"}
    assert list(outside.iterdir()) == []


# --- what stands there already -------------------------------------------------------------------------------------


def older_and_newer(target: Path) -> None:
    target.mkdir()
    for name, mtime in (("older", MTIME_NS - 10**9), ("newer", MTIME_NS + 10**9), ("same", MTIME_NS)):
        (target / name).write_bytes(b"OLD")
        os.utime(target / name, ns=(mtime, mtime))


@pytest.mark.parametrize(
    ("overwrite", "restored"),
    [
        ("always", {"older", "newer", "same", "absent"}),
        ("if-changed", {"older", "newer", "absent"}),
        ("if-newer", {"older", "absent"}),
        ("never", {"absent"}),
    ],
)
async def test_the_overwrite_rule_says_what_is_replaced(
    archive: Archive, target: Path, overwrite: Overwrite, restored: set[str]
) -> None:
    names = ("older", "newer", "same", "absent")
    snapshot = await archive.snapshot(*(archive.file(name, b"NEW") for name in names))
    older_and_newer(target)
    report = await restore(archive, snapshot, target, overwrite=overwrite)
    assert {name for name in names if (target / name).read_bytes() == b"NEW"} == restored
    assert (report.files, report.skipped) == (len(restored), 4 - len(restored))
    assert leftovers(target) == []


@pytest.mark.parametrize("overwrite", get_args(Overwrite))
async def test_a_second_restore_changes_nothing_and_keeps_links(
    archive: Archive, target: Path, overwrite: Overwrite
) -> None:
    same = {"links": 2, "inode": 7, "device_id": 1}
    snapshot = await archive.snapshot(
        archive.folder("d", archive.file("a", *BIG, **same), symlink("l", b"a"), node("p", "fifo")),
        archive.file("b", *BIG, **same),
    )
    await restore(archive, snapshot, target)
    for _ in range(2):
        report = await restore(archive, snapshot, target, overwrite=overwrite)
        assert report.problems == []
        assert (target / "d/a").stat().st_ino == (target / "b").stat().st_ino
        assert (target / "b").read_bytes() == b"".join(BIG)
        assert (target / "d").stat().st_mtime_ns == MTIME_NS
        assert sorted(path.name for path in target.rglob("*")) == ["a", "b", "d", "l", "p"]


async def test_a_name_lost_from_a_linked_file_comes_back_as_a_link(archive: Archive, target: Path) -> None:
    same = {"links": 2, "inode": 7, "device_id": 1}
    snapshot = await archive.snapshot(archive.file("a", b"data", **same), archive.file("b", b"data", **same))
    await restore(archive, snapshot, target)
    (target / "b").unlink()
    await restore(archive, snapshot, target, overwrite="if-changed")
    assert (target / "a").stat().st_ino == (target / "b").stat().st_ino


async def test_a_name_is_never_linked_to_foreign_content_that_was_kept(archive: Archive, target: Path) -> None:
    same = {"links": 3, "inode": 7, "device_id": 1}
    snapshot = await archive.snapshot(*(archive.file(name, b"data", **same) for name in "abc"))
    target.mkdir()
    (target / "a").write_bytes(b"foreign")
    report = await restore(archive, snapshot, target, overwrite="never")
    assert [(target / name).read_bytes() for name in "abc"] == [b"foreign", b"data", b"data"]
    assert (target / "b").stat().st_ino == (target / "c").stat().st_ino != (target / "a").stat().st_ino
    assert (report.files, report.skipped) == (2, 1)


async def test_an_existing_file_is_replaced_and_never_written_into(archive: Archive, target: Path) -> None:
    """What stands there may be another name of a file outside the target."""
    outside = target.parent / "outside"
    outside.write_bytes(b"precious")
    target.mkdir()
    for name in ("small", "big"):
        os.link(outside, target / name)
    snapshot = await archive.snapshot(archive.file("small", b"1"), archive.file("big", *BIG), packs_of=1)
    await restore(archive, snapshot, target)
    assert outside.read_bytes() == b"precious"
    assert (target / "small").read_bytes() == b"1"
    assert (target / "big").read_bytes() == b"".join(BIG)


async def test_files_and_symlinks_take_each_others_place(archive: Archive, target: Path) -> None:
    outside = target.parent / "outside"
    outside.write_bytes(b"precious")
    target.mkdir()
    (target / "file").symlink_to(outside)
    (target / "link").write_bytes(b"was a file")
    (target / "fifo").mkdir()
    (target / "in empty folder's place").mkdir()
    snapshot = await archive.snapshot(
        archive.file("file", b"1"),
        symlink("link", b"x"),
        node("fifo", "fifo"),
        archive.file("in empty folder's place", b"2"),
    )
    report = await restore(archive, snapshot, target)
    assert report.problems == []
    assert outside.read_bytes() == b"precious"
    assert not (target / "file").is_symlink()
    assert os.readlink(target / "link") == "x"
    assert stat.S_ISFIFO((target / "fifo").lstat().st_mode)
    assert (target / "in empty folder's place").read_bytes() == b"2"


async def test_a_folder_that_is_not_empty_is_not_replaced_by_a_file(archive: Archive, target: Path) -> None:
    (target / "f").mkdir(parents=True)
    (target / "f/inside").write_bytes(b"keep")
    (target / "l").mkdir()
    (target / "l/inside").write_bytes(b"keep")
    snapshot = await archive.snapshot(archive.file("f", b"1"), symlink("l", b"x"), archive.file("g", b"2"))
    report = await restore(archive, snapshot, target)
    assert codes(report) == {b"/f": "restore.conflict", b"/l": "restore.conflict"}
    assert (target / "f/inside").read_bytes() == b"keep"
    assert (target / "g").read_bytes() == b"2"
    assert (report.failed, leftovers(target)) == (2, [])


async def test_a_file_gives_way_to_a_folder_unless_the_rule_keeps_it(archive: Archive, target: Path) -> None:
    snapshot = await archive.snapshot(archive.folder("d", archive.file("f", b"1")))
    target.mkdir()
    (target / "d").write_bytes(b"a file")
    report = await restore(archive, snapshot, target, overwrite="never")
    assert codes(report) == {b"/d": "restore.conflict"}
    assert (report.failed, (target / "d").read_bytes()) == (1, b"a file")
    report = await restore(archive, snapshot, target)
    assert (report.problems, (target / "d/f").read_bytes()) == ([], b"1")


async def test_a_folder_of_ours_that_is_closed_to_writing_is_opened_for_it(users_folder: Path) -> None:
    target = users_folder / "target"
    with as_ordinary_user():
        archive = await Archive.make(users_folder)
        snapshot = await archive.snapshot(
            archive.folder("d", archive.file("f", b"1", uid=ORDINARY), perm=0o500, uid=ORDINARY)
        )
        (target / "d").mkdir(parents=True)
        (target / "d").chmod(0o500)
        report = await restore(archive, snapshot, target)
    assert report.problems == []
    assert (target / "d/f").read_bytes() == b"1"
    assert stat.S_IMODE((target / "d").stat().st_mode) == 0o500


async def test_an_ordinary_user_restores_what_can_be_and_counts_the_owners_kept(users_folder: Path) -> None:
    with as_ordinary_user():
        archive = await Archive.make(users_folder)
        snapshot = await archive.snapshot(
            archive.folder("d", archive.file("f", b"1", uid=12345, perm=0o4755), uid=12345, perm=0o711),
            symlink("l", b"x", uid=12345),
            node("null", "chardev", device=0x103),
        )
        report = await restore(archive, snapshot, users_folder / "target", verify=True)
    assert codes(report) == {b"/null": "restore.write"}
    assert (report.owners_kept, report.failed, report.verified) == (3, 1, 1)
    assert stat.S_IMODE((users_folder / "target/d/f").stat().st_mode) == 0o755


# --- nothing outside the target ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [b"../x", b"/x", b"a/b", b"..", b"."])
async def test_a_name_that_leaves_the_target_is_refused(archive: Archive, target: Path, name: bytes) -> None:
    snapshot = await archive.snapshot(
        archive.file(name, b"evil"), symlink(name, b"/etc"), archive.folder(name, archive.file("y", b"evil"))
    )
    before = sorted(target.parent.rglob("*"))
    report = await restore(archive, snapshot, target)
    assert {problem.code for problem in report.problems} <= {"restore.unsafe_path", "repository.tree"}
    assert report.problem_count >= 2
    assert list(target.iterdir()) == []
    assert sorted(target.parent.rglob("*")) == sorted([*before, target])
    assert not Path("/x").exists()


async def test_a_symlink_planted_in_the_target_leads_nowhere(archive: Archive, target: Path) -> None:
    outside = target.parent / "outside"
    outside.mkdir()
    target.mkdir()
    (target / "d").symlink_to(outside)
    (target / "e").mkdir()
    (target / "e/sub").symlink_to("../../outside")
    snapshot = await archive.snapshot(
        archive.folder("d", archive.file("f", b"1"), archive.folder("deeper", archive.file("g", *BIG))),
        archive.folder("e", archive.folder("sub", archive.file("h", b"2")), archive.file("good", b"3")),
    )
    report = await restore(archive, snapshot, target)
    assert list(outside.iterdir()) == []
    assert codes(report) == {b"/d": "restore.unsafe_path", b"/e/sub": "restore.unsafe_path"}
    assert (target / "e/good").read_bytes() == b"3"
    assert (report.files, report.failed) == (1, 3)


async def test_a_symlink_of_the_snapshot_itself_leads_nowhere(archive: Archive, target: Path) -> None:
    """A link and a folder of one name in one listing: the trick of old archivers."""
    outside = target.parent / "outside"
    outside.mkdir()
    snapshot = await archive.snapshot(
        symlink("x", os.fsencode(outside)), archive.folder("x", archive.file("f", b"evil"))
    )
    report = await restore(archive, snapshot, target)
    assert codes(report) == {b"/x": "repository.tree"}
    await restore(archive, snapshot, target)
    assert list(outside.iterdir()) == []


# --- damage --------------------------------------------------------------------------------------------------------


async def test_files_of_a_damaged_blob_are_problems_and_the_others_come_back(archive: Archive, target: Path) -> None:
    snapshot = await archive.snapshot(
        archive.file("good", b"good" * 100),
        archive.file("bad", b"bad" * 100),
        archive.file("big", BIG[0], BIG[1], BIG[2]),
        archive.file("also bad", b"bad" * 100),
        archive.file("fine", BIG[0], BIG[2]),
        packs_of=100,
    )
    pack = archive.packs[0]
    damaged = [pack.blobs[1], pack.blobs[3]]
    for blob in damaged:
        flip(stored_file(archive.repository, pack_key(pack.id.hex())), blob.offset + 20)
    told: list[RestoreProblem] = []
    report = await restore(archive, snapshot, target, on_problem=told.append)
    assert set(codes(report)) == {b"/bad", b"/also bad", b"/big"}
    assert {code.split(".")[0] for code in codes(report).values()} == {"repository"}
    assert sorted(path.name for path in target.iterdir()) == ["fine", "good"]
    assert (target / "fine").read_bytes() == BIG[0] + BIG[2]
    assert told == report.problems
    assert (report.failed, report.files) == (3, 2)


async def test_a_damaged_blob_is_taken_from_another_pack_that_holds_it(archive: Archive, target: Path) -> None:
    snapshot = await archive.snapshot(archive.file("a", b"twice" * 100), archive.file("b", b"twice" * 100, b"once"))
    await store_pack(archive.repository, archive.spool, [b"other", b"twice" * 100])
    flip(stored_file(archive.repository, pack_key(archive.packs[0].id.hex())), archive.packs[0].blobs[0].offset + 20)
    report = await restore(archive, snapshot, target)
    assert report.problems == []
    assert (target / "a").read_bytes() == b"twice" * 100
    assert (target / "b").read_bytes() == b"twice" * 100 + b"once"


@given(
    pieces=st.lists(
        st.tuples(st.booleans(), st.integers(1, 3 * 65_536)).map(
            lambda piece: (b"\0" if piece[0] else b"x") * piece[1]
        ),
        max_size=6,
    ),
    offset=st.sampled_from([0, 1, 4096, 100_000]),
)
def test_leaving_out_zeros_never_changes_what_is_read(pieces: list[bytes], offset: int) -> None:
    data = b"".join(pieces)
    with tempfile.TemporaryFile() as file:
        restore_writer._write_sparse(file.fileno(), data, offset)
        os.ftruncate(file.fileno(), offset + len(data))
        file.seek(0)
        assert file.read() == bytes(offset) + data


@pytest.mark.parametrize("damage", ["missing", "cut"])
async def test_a_pack_that_is_missing_or_cut_costs_only_its_own_files(
    archive: Archive, target: Path, damage: str
) -> None:
    snapshot = await archive.snapshot(
        *(archive.file(f"f{number}", b"%d" % number * 50) for number in range(20)),
        archive.file("over both", b"0" * 50, b"15" * 50),
        packs_of=10,
    )
    path = stored_file(archive.repository, pack_key(archive.packs[1].id.hex()))
    if damage == "missing":
        path.unlink()
    else:
        os.truncate(path, archive.packs[1].blobs[4].offset + 3)
    report = await restore(archive, snapshot, target)
    lost = range(10, 20) if damage == "missing" else range(14, 20)
    assert set(codes(report)) == {b"/f%d" % number for number in lost} | {b"/over both"}
    assert {path.name for path in target.iterdir()} == {f"f{number}" for number in set(range(20)) - set(lost)}


async def test_a_blob_that_no_index_names_costs_only_its_file(archive: Archive, target: Path) -> None:
    lost = node("lost", "file", content=["ab" * 32, "cd" * 32], size=10)
    snapshot = await archive.snapshot(lost, archive.file("good", b"1"))
    report = await restore(archive, snapshot, target)
    assert codes(report) == {b"/lost": "repository.blob_missing"}
    assert [path.name for path in target.iterdir()] == ["good"]


async def test_a_name_linked_to_a_lost_file_is_told(archive: Archive, target: Path) -> None:
    same = {"links": 2, "inode": 7, "device_id": 1}
    lost = [node(name, "file", content=["ab" * 32], size=10, **same) for name in ("a", "b")]
    report = await restore(archive, await archive.snapshot(*lost), target)
    assert set(codes(report)) == {b"/a", b"/b"}
    assert report.failed == 2


async def test_a_file_whose_size_is_wrong_is_restored_and_told(archive: Archive, target: Path) -> None:
    snapshot = await archive.snapshot(
        archive.file("a", b"12345", size=4), archive.file("b", BIG[0], BIG[1], size=10**15), archive.file("c", size=9)
    )
    report = await restore(archive, snapshot, target)
    assert {problem.path: problem.what for problem in report.problems} == {b"/a": "size", b"/b": "size", b"/c": "size"}
    assert (target / "a").read_bytes() == b"12345"
    assert (target / "b").read_bytes() == BIG[0] + BIG[1]


async def test_metadata_that_cannot_be_set_does_not_cost_the_file(archive: Archive, target: Path) -> None:
    odd = [ExtendedAttribute("nonsense", b"x")]
    snapshot = await archive.snapshot(
        archive.file("f", b"1", extended_attributes=odd),
        archive.folder("d", extended_attributes=odd),
        symlink("l", b"x", extended_attributes=odd),
    )
    report = await restore(archive, snapshot, target)
    assert set(codes(report)) == {b"/f", b"/d", b"/l"}
    assert (target / "f").read_bytes() == b"1"
    assert (report.failed, report.files, report.others) == (0, 1, 1)


# --- how it ends ---------------------------------------------------------------------------------------------------


async def test_a_full_disk_ends_the_restore_at_once_and_leaves_no_part_of_a_file(
    archive: Archive, tmpfs: Callable[[int], Path]
) -> None:
    small = tmpfs(4 * MIB)
    files = [archive.file(f"f{number:02}", DICE.randbytes(MIB // 2)) for number in range(20)]
    snapshot = await archive.snapshot(archive.file("big", *BIG[:2], *BIG[2:]), *files, packs_of=2)
    (small / "target").mkdir()
    with pytest.raises(DiskFullError):
        await restore(archive, snapshot, small / "target")
    whole = {f"f{number:02}": archive.data[number] for number in range(20)} | {"big": b"".join(BIG)}
    left = {path.name: path.read_bytes() for path in (small / "target").iterdir()}
    assert 0 < len(left) < 21
    assert all(whole[name] == data for name, data in left.items())


async def test_a_cancelled_restore_stops_soon_and_leaves_no_part_of_a_file(archive: Archive, target: Path) -> None:
    files = [archive.file(f"f{number:03}", b"%d" % number * 100) for number in range(300)]
    snapshot = await archive.snapshot(archive.file("big", *BIG), *files, packs_of=3)
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 60

    target.mkdir()
    with pytest.raises(CancelledRunError):
        await restore(archive, snapshot, target, should_stop=stop)
    left = list(target.iterdir())
    assert 0 < len(left) < 301
    assert leftovers(target) == []
    for path in left:
        assert path.read_bytes() == (b"".join(BIG) if path.name == "big" else b"%d" % int(path.name[1:]) * 100)


async def test_a_cancelled_task_leaves_no_part_of_a_file_and_no_thread_at_work(archive: Archive, target: Path) -> None:
    files = [archive.file(f"f{number:03}", *(DICE.randbytes(3000) for _ in range(5))) for number in range(100)]
    snapshot = await archive.snapshot(*files, packs_of=7)
    reader = archive.reader()
    made = await plan_restore(reader, snapshot, target=target)
    target.mkdir()
    enough = asyncio.Event()

    def watch(files_done: int, bytes_done: int) -> None:
        if bytes_done > 100_000:
            enough.set()

    task = asyncio.create_task(execute_restore(made, reader, target, on_progress=watch))
    await enough.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    left = sorted(target.iterdir())
    assert leftovers(target) == []
    assert {path.stat().st_size for path in left} <= {15_000}
    await asyncio.sleep(0)
    assert sorted(target.iterdir()) == left


async def test_descriptors_are_let_go(archive: Archive, target: Path) -> None:
    entry = archive.file("f", *BIG[:2])
    for number in range(50):
        entry = archive.folder(f"d{number}", entry, archive.file("g", b"1"))
    snapshot = await archive.snapshot(entry)
    await restore(archive, snapshot, target)
    before = len(os.listdir("/proc/self/fd"))
    await restore(archive, snapshot, target)
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_target_that_cannot_be_made_is_one_clear_error(archive: Archive, target: Path) -> None:
    snapshot = await archive.snapshot(archive.file("f", b"1"))
    target.write_bytes(b"a file")
    for impossible in (target, target / "below"):
        with pytest.raises(RestoreWriteError, match="Choose another folder"):
            await restore(archive, snapshot, impossible)


async def test_a_target_that_may_not_be_written_costs_every_file_its_own_problem(users_folder: Path) -> None:
    target = users_folder / "target"
    with as_ordinary_user():
        archive = await Archive.make(users_folder)
        snapshot = await archive.snapshot(archive.file("f", b"1"), archive.folder("d", archive.file("g", b"2")))
        target.mkdir()
        target.chmod(0o555)
        report = await restore(archive, snapshot, target)
    assert {problem.path: problem.reason for problem in report.problems} == {
        b"/d": "Permission denied",
        b"/f": "Permission denied",
    }
    assert report.failed == 2


async def test_planning_problems_are_told_with_the_others(archive: Archive, target: Path) -> None:
    snapshot = await archive.snapshot(archive.file("../x", b"1"), archive.file("f", b"2"))
    told: list[RestoreProblem] = []
    report = await restore(archive, snapshot, target, on_problem=told.append)
    assert [problem.code for problem in told] == ["restore.unsafe_path"]
    assert report.to_dict()["problems"] == [told[0].to_dict()]
    assert report.to_dict()["problem_count"] == 1

"""Restores by helper processes: they give what threads give, and however they end, nothing half stays."""

from __future__ import annotations

import asyncio
import hashlib
import mmap
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from backupiq.archive import restore_helpers, restore_process
from backupiq.archive.metadata import Attributes
from backupiq.archive.restore import RestoreReport, execute_restore
from backupiq.archive.restore_helpers import Helpers, helpers_wanted
from backupiq.archive.restore_process import PAGE, BlobOrder, Report, Setup, current_file
from backupiq.archive.restore_run import FolderState, ItemState, Overwrite, RestoreRun
from backupiq.archive.restore_table import AttributeTable, FileTable, RestorePlan
from backupiq.archive.restore_writer import TargetWriter
from backupiq.archive.safe_tree import SafeTree
from backupiq.archive.worker_child import Child, Handler
from backupiq.archive.worker_process import WorkerProcess
from backupiq.errors import CancelledRunError, DiskFullError, OutOfMemoryError, UnsafePathError
from backupiq.repository.crypto import MasterKey
from backupiq.repository.pack import BlobType
from backupiq.repository.repository import pack_key
from backupiq.repository.snapshot import Snapshot
from backupiq.repository.tree import ExtendedAttribute, Node
from tests.support.awkward import posix_acl
from tests.support.compare import assert_same_tree
from tests.support.programs import ROOT, is_root
from tests.unit.archive.restore_support import Archive, codes, leftovers, node, plan, restore, symlink
from tests.unit.archive.saving import as_ordinary_user
from tests.unit.archive.test_worker_process import wait_until_gone
from tests.unit.repository.repositories import flip, store_pack, stored_file

MIB = 1 << 20
DICE = random.Random(11)
ORDINARY = 65534
BIG = [DICE.randbytes(400_000) for _ in range(3)]
pytestmark = pytest.mark.skipif(os.name != "posix", reason="helper processes need a POSIX system")


@pytest.fixture
async def archive(tmp_path: Path) -> Archive:
    return await Archive.make(tmp_path)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target"


@pytest.fixture
def helpers(monkeypatch: pytest.MonkeyPatch) -> list[WorkerProcess]:
    """Makes the smallest restore use two helpers; gives those that were started."""
    started: list[WorkerProcess] = []

    class Noted(WorkerProcess):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            started.append(self)

    monkeypatch.setattr(restore_helpers, "WorkerProcess", Noted)
    monkeypatch.setattr(restore_helpers, "PAYS_FROM", 1)
    monkeypatch.setattr(restore_helpers, "processors", lambda: 2)
    return started


@pytest.fixture
def own_umask() -> Iterator[None]:
    """What a helper does to its process's umask is undone."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def gone(started: list[WorkerProcess]) -> bool:
    """Whether helpers were started and none of them runs or waits to be reaped."""
    return len(started) > 0 and not any(os.path.exists(f"/proc/{helper.pid}") for helper in started)


async def by_threads(archive: Archive, snapshot: Snapshot, target: Path, **options: Any) -> RestoreReport:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(restore_helpers, "PAYS_FROM", 1 << 40)
        return await restore(archive, snapshot, target, **options)


def comparable(report: RestoreReport) -> dict[str, Any]:
    """The report without what differs from run to run."""
    told = report.to_dict() | {"seconds": 0}
    return told | {"problems": sorted(told["problems"], key=lambda problem: sorted(problem.items()))}


def many_kinds(archive: Archive) -> list[Node]:
    """Files of every kind a helper, or the parent beside it, has to do with."""
    root = is_root()
    ids = [{"uid": 0, "gid": 0}, {"uid": 4321, "gid": 1234}] if root else [{"uid": os.geteuid(), "gid": os.getegid()}]
    files = [
        archive.file(f"mode-{mode:04o}-{number}-{n}", b"%d %d %d" % (mode, number, n), perm=mode, **owner)
        for mode in (0o644, 0o600, 0o755, 0o400, 0o000, 0o777, 0o4755, 0o2750, 0o1644)
        for number, owner in enumerate(ids)
        for n in range(3)
    ]
    same = {"links": 2, "inode": 5, "device_id": 1}
    return [
        archive.folder("modes", *files, perm=0o751),
        archive.folder(
            "more",
            archive.file("hole", b"x" * 70_000 + bytes(300_000) + b"y"),
            archive.file("only a hole", bytes(200_000)),
            archive.file("empty"),
            archive.file("several", *BIG),
            archive.file("piece of several", BIG[1]),
            archive.file("name 1", b"one file", **same),
            archive.file("name 2", b"one file", **same),
            archive.file("old", b"t", mtime_ns=-(1 << 60)),
            archive.file("far", b"t", mtime_ns=10**19),
            archive.file("attributes", b"a", extended_attributes=[ExtendedAttribute("user.x", b"\0\xff")]),
            archive.file("wrong size", b"12345", size=4),
            archive.file(b"\xff\n name", b"n"),
            symlink("link", b"../modes"),
            node("fifo", "fifo"),
            archive.folder("sgid", *(archive.file(f"s{n}", b"s%d" % n, gid=ids[-1]["gid"]) for n in range(3))),
        ),
        *(archive.file(f"shared {n}", b"the same content") for n in range(50)),
    ]


# --- the same as by threads ----------------------------------------------------------------------------------------


async def test_a_restore_by_helpers_gives_the_tree_and_the_report_that_threads_give(
    archive: Archive, tmp_path: Path, helpers: list[WorkerProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restore_helpers, "MOST_FILES", 7)
    snapshot = await archive.snapshot(*many_kinds(archive), packs_of=9)
    first = await by_threads(archive, snapshot, tmp_path / "threads", verify=True)
    assert helpers == []
    second = await restore(archive, snapshot, tmp_path / "helpers", verify=True)
    assert len(helpers) == 2
    assert gone(helpers)
    assert_same_tree(tmp_path / "threads", tmp_path / "helpers", ignore={"root"}, sparse=True)
    assert comparable(first) == comparable(second)
    assert second.files > 100
    assert set(codes(second).values()) == {"restore.write"}  # the one of wrong size, and a time no disk can keep


@pytest.mark.parametrize("overwrite", get_args(Overwrite))
async def test_what_stands_there_already_is_treated_as_threads_treat_it(
    archive: Archive, tmp_path: Path, helpers: list[WorkerProcess], overwrite: Overwrite
) -> None:
    files = [archive.file(f"f{number}", b"%d" % number, mtime_ns=10**18) for number in range(12)]
    snapshot = await archive.snapshot(archive.folder("d", *files), *files[:3])
    both = [tmp_path / "threads", tmp_path / "helpers"]
    for folder in both:
        (folder / "d").mkdir(parents=True)
        for number in range(0, 12, 2):
            there = folder / "d" / f"f{number}"
            there.write_bytes(b"%d" % (number if number % 3 else number + 1))
            os.utime(there, ns=(0, 10**18 + (0, 1, -1)[number % 3]))
        (folder / "d/f1").symlink_to("f0")
        (folder / "d/f3").mkdir()
        (folder / "d/f5").mkdir()
        (folder / "d/f5/full").touch()
        for path in (folder / "d/f1", folder / "d/f5/full"):
            os.utime(path, ns=(0, 10**18), follow_symlinks=False)
    first = await by_threads(archive, snapshot, both[0], overwrite=overwrite)
    second = await restore(archive, snapshot, both[1], overwrite=overwrite)
    assert gone(helpers)
    assert_same_tree(*both, ignore={"folder_mtime", "root"})
    assert comparable(first) == comparable(second)
    assert leftovers(both[1]) == []


async def test_a_default_acl_or_setgid_bit_of_the_target_marks_no_file_that_has_its_own(
    archive: Archive, target: Path, helpers: list[WorkerProcess]
) -> None:
    target.mkdir()
    try:
        os.setxattr(target, "system.posix_acl_default", posix_acl(user=(1234, 7), group=(1234, 7), mask=7))
    except OSError as error:
        pytest.skip(f"this file system has no ACLs: {error}")
    target.chmod(0o2750)
    mine = {"uid": os.geteuid(), "gid": os.getegid(), "perm": 0o664}
    files = [archive.file(f"f{number}", b"%d" % number, **mine) for number in range(6)]
    report = await restore(archive, await archive.snapshot(archive.folder("d", *files), *files), target)
    assert gone(helpers)
    assert report.problems == []
    for path in [*target.glob("f*"), *target.glob("d/f*")]:
        found = path.stat()
        assert (stat.S_IMODE(found.st_mode), found.st_gid, os.listxattr(path)) == (0o664, os.getegid(), [])


async def test_damage_is_told_as_by_threads_and_another_copy_is_found(
    archive: Archive, tmp_path: Path, helpers: list[WorkerProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restore_helpers, "MOST_FILES", 3)
    files = [archive.file(f"f{number}", b"content %d" % number) for number in range(30)]
    files += [archive.file(f"again{number}", b"content 4") for number in range(5)]
    files += [archive.file("several", *BIG), archive.file("several and one", BIG[0], b"content 4", BIG[2])]
    files += [archive.file("of a piece", BIG[0])]
    snapshot = await archive.snapshot(*files, packs_of=10)
    for number in (0, 1, 2):
        pack = [each for each in archive.packs if each.blobs[0].type is BlobType.DATA][number]
        path = stored_file(archive.repository, pack_key(pack.id.hex()))
        for blob in pack.blobs[4:7]:
            flip(path, blob.offset + 20)
    saved = archive.data[14]
    await store_pack(archive.repository, archive.spool, [saved])
    first = await by_threads(archive, snapshot, tmp_path / "threads")
    second = await restore(archive, snapshot, tmp_path / "helpers")
    assert gone(helpers)
    assert comparable(first) == comparable(second)
    assert_same_tree(tmp_path / "threads", tmp_path / "helpers", ignore={"root"})
    assert {b"/f4", b"/again0", b"/again4", b"/several and one", b"/f15", b"/f26"} <= set(codes(second))
    assert set(codes(second).values()) == {"repository.pack"}
    assert (tmp_path / "helpers/f14").read_bytes() == saved
    assert leftovers(tmp_path / "helpers") == []


async def test_a_missing_pack_costs_its_files_and_no_others(
    archive: Archive, target: Path, helpers: list[WorkerProcess]
) -> None:
    snapshot = await archive.snapshot(*(archive.file(f"f{n}", b"%d" % n) for n in range(20)), packs_of=10)
    stored_file(archive.repository, pack_key(archive.packs[0].id.hex())).unlink()
    report = await restore(archive, snapshot, target)
    assert set(codes(report)) == {b"/f%d" % number for number in range(10)}
    assert (report.files, report.failed) == (10, 10)
    assert gone(helpers)


@pytest.mark.root
def test_an_ordinary_user_keeps_their_own_ownership_and_gets_no_setuid_file(own_umask: None) -> None:
    folder = Path(tempfile.mkdtemp(prefix="backupiq-ordinary-"))
    try:
        shutil.chown(folder, ORDINARY)
        with as_ordinary_user():
            roots = [(0o644, 0, 4242, []), (0o6755, 0, 4242, [])]
            handle = restore_process.start_worker(setup_for(folder, attributes=roots), child())
            plain = write_here(handle, b"p1", b"p2", b"p3")
            special = write_here(handle, b"s1", b"s2", attributes=1)
        assert (plain.owners_kept, special.owners_kept) == (3, 2)
        assert plain.problems == special.problems == []
        found = {path.name: path.stat() for path in folder.iterdir()}
        assert {stat.S_IMODE(found[name].st_mode) for name in ("p1", "p2", "p3")} == {0o644}
        assert {stat.S_IMODE(found[name].st_mode) for name in ("s1", "s2")} == {0o755}
        assert {each.st_uid for each in found.values()} == {ORDINARY}
    finally:
        shutil.rmtree(folder)


# --- when it is worth it -------------------------------------------------------------------------------------------


async def test_helpers_are_for_many_small_files_and_several_processors_only(
    archive: Archive, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [archive.file(f"f{n}", b"%d" % n) for n in range(10)] + [archive.file(f"b{n}", *BIG) for n in range(10)]
    made = await plan(archive, await archive.snapshot(*files), target)
    run = RestoreRun(made, "", "always", True, lambda: False, bytearray(1), bytearray(len(made.files)))
    monkeypatch.setattr(restore_helpers, "processors", lambda: 16)
    assert helpers_wanted(run, 3) == 0
    monkeypatch.setattr(restore_helpers, "PAYS_FROM", 10)
    assert helpers_wanted(run, 3) == 4
    assert helpers_wanted(run, 1) == 0
    monkeypatch.setattr(restore_helpers, "can_start", lambda: False)
    assert helpers_wanted(run, 3) == 0
    monkeypatch.setattr(restore_helpers, "can_start", lambda: True)
    monkeypatch.setattr(restore_helpers, "processors", lambda: 1)
    assert helpers_wanted(run, 3) == 0
    monkeypatch.setattr(restore_helpers, "processors", lambda: 3)
    assert helpers_wanted(run, 3) == 3
    run.rows[0] = ItemState.KEPT
    assert helpers_wanted(run, 3) == 0


@pytest.mark.parametrize("program", ["/bin/false", "/nowhere/python"])
async def test_where_no_helper_can_be_started_threads_do_the_work(
    archive: Archive, target: Path, helpers: list[WorkerProcess], monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    monkeypatch.setattr(sys, "executable", program)
    report = await restore(archive, await archive.snapshot(*many_kinds(archive)), target)
    assert report.failed == 0
    assert (target / "more/piece of several").read_bytes() == BIG[1]
    assert all(helper.shared is None for helper in helpers)


# --- safety --------------------------------------------------------------------------------------------------------


async def test_a_symlink_planted_while_it_runs_is_not_followed(
    archive: Archive, target: Path, tmp_path: Path, helpers: list[WorkerProcess]
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    files = [archive.file(f"f{number}", b"%d" % number) for number in range(10)]
    snapshot = await archive.snapshot(archive.folder("d", *files), archive.folder("e", *files))

    def plant(*_: int) -> None:
        if (target / "d").is_dir() and not (target / "d").is_symlink():
            (target / "d").rmdir()
            (target / "d").symlink_to(outside)

    reader = archive.reader()
    made = await plan(archive, snapshot, target)
    report = await execute_restore(made, reader, target, on_progress=plant)
    assert list(outside.iterdir()) == []
    assert {path: code for path, code in codes(report).items() if path != b"/d"} == {
        b"/d/f%d" % number: "restore.unsafe_path" for number in range(10)
    }
    assert len(list((target / "e").iterdir())) == 10
    assert gone(helpers)


MASTER = MasterKey.generate()


def setup_for(folder: Path, **changes: Any) -> bytes:
    """What a helper is told for a restore into a folder."""
    found = folder.stat()
    told = Setup(
        target=os.fsencode(folder),
        shown=str(folder),
        base=b"",
        sparse=True,
        keys=(MASTER.encrypt, MASTER.mac_k, MASTER.mac_r),
        token=b"t",
        identity=(found.st_dev, found.st_ino),
        folders=[(0, b"")],
        attributes=[(0o640, os.geteuid(), os.getegid(), [])],
    )
    return msgspec.msgpack.encode(msgspec.structs.replace(told, **changes))


def child() -> Child:
    return Child(mmap.mmap(-1, PAGE))


def write_here(handle: Handler, *names: bytes, first: int = 0, attributes: int = 0) -> Report:
    """Have a helper's handler, in this process, make files whose content is their name."""
    orders: list[BlobOrder] = []
    stored = b""
    for number, name in enumerate(names, first):
        sealed = MASTER.seal(name)
        file = (number, 0, name, len(name), 10**18, 10**18, attributes, int(ItemState.DIRECT))
        orders.append((hashlib.sha256(name).digest(), len(stored), len(sealed), 0, [file]))
        stored += sealed
    answer, _ = handle(memoryview(msgspec.msgpack.encode(orders)), memoryview(stored))
    return msgspec.msgpack.decode(answer, type=Report)


def test_a_helper_refuses_a_target_that_is_not_the_one_the_parent_opened(tmp_path: Path, own_umask: None) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(UnsafePathError, match="replaced"):
        restore_process.start_worker(setup_for(tmp_path, target=os.fsencode(other)), child())


def test_what_a_helper_is_told_is_not_printed(tmp_path: Path) -> None:
    assert repr(msgspec.msgpack.decode(setup_for(tmp_path), type=Setup)) == "Setup(hidden)"


async def test_neither_key_nor_password_is_in_a_helpers_command_line_or_environment(
    archive: Archive, target: Path, helpers: list[WorkerProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKUPIQ_PASSWORD", "hunter2")
    snapshot = await archive.snapshot(*(archive.file(f"f{n}", b"%d" % n) for n in range(10)))
    told: list[bytes] = []

    def look(files: int, _: int) -> None:
        for helper in helpers:
            if not files:
                told.append(Path(f"/proc/{helper.pid}/cmdline").read_bytes())
                told.append(Path(f"/proc/{helper.pid}/environ").read_bytes())

    await execute_restore(await plan(archive, snapshot, target), archive.reader(), target, on_progress=look)
    everything = b"".join(told)
    master = archive.repository.master
    assert b"restore_process" in everything
    for secret in (b"hunter2", master.encrypt, master.mac_k, master.mac_r):
        assert secret not in everything
        assert secret.hex().encode() not in everything
        assert repr(secret)[2:-1].encode() not in everything


# --- how it ends ---------------------------------------------------------------------------------------------------


async def many(archive: Archive, count: int = 400) -> Snapshot:
    return await archive.snapshot(
        *(archive.folder(f"d{d}", *(archive.file(f"f{n}", content(n)) for n in range(d, count, 8))) for d in range(8)),
        packs_of=50,
    )


def content(number: int) -> bytes:
    return random.Random(number).randbytes(3000)


def assert_only_whole_files(target: Path) -> int:
    """How many files there are; each must have all of its content, and be no temporary one."""
    found = [path for path in target.rglob("*") if path.is_file()]
    for path in found:
        assert path.read_bytes() == content(int(path.name[1:]))
    return len(found)


async def test_a_helper_killed_midway_is_one_clear_error_and_leaves_nothing_half(
    archive: Archive, target: Path, helpers: list[WorkerProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restore_helpers, "MOST_FILES", 5)
    snapshot = await many(archive)

    def kill(files: int, _: int) -> None:
        if files >= 50 and helpers[0]._process.returncode is None:
            os.kill(helpers[0].pid, signal.SIGKILL)

    with pytest.raises(OutOfMemoryError, match="SIGKILL"):
        await execute_restore(await plan(archive, snapshot, target), archive.reader(), target, on_progress=kill)
    assert 50 <= assert_only_whole_files(target) < 400
    assert gone(helpers)


@pytest.mark.parametrize("state", [FolderState.MADE, FolderState.FOUND])
async def test_the_file_a_killed_helper_was_writing_is_removed_and_no_other(
    archive: Archive, target: Path, helpers: list[WorkerProcess], state: FolderState
) -> None:
    made = await plan(archive, await archive.snapshot(archive.file("f0", b"0"), archive.file("f1", b"1")), target)
    target.mkdir()
    direct = state == FolderState.MADE
    rows = bytearray([ItemState.DIRECT if direct else ItemState.REPLACE] * 2)
    run = RestoreRun(made, "", "always", True, lambda: False, bytearray([state]), rows)
    tree = SafeTree(target, made.folders)
    started = Helpers(run, target, archive.repository.master, 2, tree.place(0))
    started.wait_ready()
    for helper in helpers:
        os.kill(helper.pid, signal.SIGKILL)
    token = started._helpers[0].token
    half = target / ("f1" if direct else f".backupiq-restore-{token.decode()}-0")
    others = [target / "f0", target / ".backupiq-restore-other-0", *([] if direct else [target / "f1"])]
    for path in (half, *others):
        path.write_bytes(b"")
    assert helpers[0].shared is not None
    restore_process._MARK.pack_into(helpers[0].shared, 0, 1 + 1)
    started.stop()
    started.close(tree)
    tree.close()
    assert set(target.iterdir()) == set(others)
    assert run.problems == []


def test_a_helper_says_which_file_it_is_at_exactly_while_it_writes_it(
    tmp_path: Path, own_umask: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    me = child()
    marks: list[int] = []
    write = TargetWriter._write_whole

    def noted(self: TargetWriter, row: int, data: bytes) -> None:
        assert me.shared is not None
        marks.append(current_file(me.shared))
        write(self, row, data)

    monkeypatch.setattr(TargetWriter, "_write_whole", noted)
    (tmp_path / "taken").touch()
    report = write_here(restore_process.start_worker(setup_for(tmp_path), me), b"one", b"taken", b"two", first=70)
    assert marks == [70, 71, 72]
    assert me.shared is not None
    assert current_file(me.shared) == -1
    assert list(report.states) == [ItemState.DONE, ItemState.FAILED, ItemState.DONE]
    assert [problem[0] for problem in report.problems] == [b"/taken"]
    assert (tmp_path / "taken").read_bytes() == b""


async def test_a_cancelled_restore_ends_its_helpers_and_leaves_nothing_half(
    archive: Archive, target: Path, helpers: list[WorkerProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restore_helpers, "MOST_FILES", 5)
    made = await plan(archive, await many(archive), target)
    stop = False

    def watch(files: int, _: int) -> None:
        nonlocal stop
        stop = files >= 50

    with pytest.raises(CancelledRunError, match="run it again"):
        await execute_restore(made, archive.reader(), target, on_progress=watch, should_stop=lambda: stop)
    assert 50 <= assert_only_whole_files(target) < 400
    assert gone(helpers)


async def test_a_cancelled_task_ends_its_helpers(
    archive: Archive, target: Path, helpers: list[WorkerProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restore_helpers, "MOST_FILES", 5)
    made = await plan(archive, await many(archive), target)
    task: asyncio.Task[RestoreReport]

    def watch(files: int, _: int) -> None:
        if files >= 50:
            task.cancel()

    task = asyncio.create_task(execute_restore(made, archive.reader(), target, on_progress=watch))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert 50 <= assert_only_whole_files(target) < 400
    assert gone(helpers)


async def test_a_helper_that_hangs_does_not_keep_a_cancelled_restore_from_ending(
    archive: Archive, target: Path, helpers: list[WorkerProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restore_helpers, "MOST_FILES", 5)
    monkeypatch.setattr(WorkerProcess.stop, "__defaults__", (0.05,))
    made = await plan(archive, await many(archive), target)
    stop = False

    def hang(files: int, _: int) -> None:
        nonlocal stop
        if files >= 50 and not stop:
            os.kill(helpers[0].pid, signal.SIGSTOP)
            stop = True

    with pytest.raises(CancelledRunError):
        await execute_restore(made, archive.reader(), target, on_progress=hang, should_stop=lambda: stop)
    assert assert_only_whole_files(target) < 400
    assert gone(helpers)


async def test_a_full_disk_is_the_same_error_and_leaves_no_part_of_a_file(
    archive: Archive, tmpfs: Callable[[int], Path], helpers: list[WorkerProcess]
) -> None:
    disk = tmpfs(MIB)
    (disk / "target").mkdir()
    snapshot = await many(archive, 800)
    with pytest.raises(DiskFullError, match="--overwrite if-changed") as caught:
        await restore(archive, snapshot, disk / "target")
    assert str(disk) in caught.value.message
    assert 0 < assert_only_whole_files(disk / "target") < 800
    assert gone(helpers)


async def test_a_restore_whose_parent_is_killed_leaves_no_helper_and_no_part_of_a_file(
    archive: Archive, target: Path, tmp_path: Path
) -> None:
    snapshot = await many(archive, 1600)
    command = [sys.executable, "-m", "tests.unit.archive.restore_program", str(tmp_path / "repository")]
    parent = subprocess.Popen([*command, snapshot.tree, str(target)], stdout=subprocess.PIPE, cwd=ROOT, text=True)
    pids: list[int] = []
    with parent:
        assert parent.stdout is not None
        for line in parent.stdout:
            what, number = line.split()
            if what == "helper":
                pids.append(int(number))
            elif int(number) >= 100:
                parent.kill()
                break
    assert len(pids) == 2
    for pid in pids:
        wait_until_gone(pid)
    assert 100 <= assert_only_whole_files(target) < 1600


# --- files that come out plain -------------------------------------------------------------------------------------


def written_by_kind(folder: Path, *, mode: int, count: int = 3, umask: int = 0) -> list[int]:
    """Modes of files that a writer without a umask (as it believes) makes."""
    folder.mkdir(exist_ok=True)
    files = FileTable()
    attributes = AttributeTable()
    kind = attributes.number(Attributes(mode, os.geteuid(), os.getegid()))
    for number in range(count):
        files.add(0, b"f%d" % number, 1, 10**18, 10**18, kind, bytes(32))
    made = RestorePlan(folder, "", b"", [], files, [], [], attributes)
    run = RestoreRun(made, "", "always", True, lambda: False, bytearray(), bytearray(count))
    tree = SafeTree(folder, [])
    before = os.umask(umask)
    try:
        writer = TargetWriter(run, tree, None, no_umask=True)
        for number in range(count):
            writer.write(number, 0, b"x", False)
    finally:
        os.umask(before)
        tree.close()
    assert run.problems == []
    return [stat.S_IMODE((folder / f"f{number}").stat().st_mode) for number in range(count)]


@pytest.mark.parametrize("mode", [0o644, 0o666, 0o200, 0o444, 0o000, 0o4755])
def test_files_made_with_their_final_mode_have_it_and_so_have_the_others(tmp_path: Path, mode: int) -> None:
    assert written_by_kind(tmp_path / "d", mode=mode) == [mode] * 3


def test_what_comes_out_with_another_mode_is_corrected_each_time(tmp_path: Path) -> None:
    assert written_by_kind(tmp_path / "d", mode=0o666, umask=0o027) == [0o666] * 3

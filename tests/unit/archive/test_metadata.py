"""Owners, modes, times and extended attributes, on every kind of item."""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path

import pytest

from backupiq.archive import xattrs
from backupiq.archive.metadata import (
    Attributes,
    MetadataWriter,
    RestoreProblem,
    fatal_among,
    raise_if_fatal,
    reason_of,
)
from backupiq.archive.owners import group_name, user_name
from backupiq.archive.safe_tree import Place
from backupiq.archive.xattrs import read_xattrs, write_xattrs
from backupiq.errors import DiskFullError, RestoreWriteError, TooManyOpenFilesError, UnsafePathError
from tests.support.awkward import posix_acl
from tests.unit.archive.saving import as_ordinary_user

MTIME, ATIME = 1_500_000_000_123_456_789, 1_400_000_000_000_000_001
ACL = posix_acl(user=(12345, 6), group=(54321, 4), mask=6)
linux = pytest.mark.skipif(sys.platform != "linux", reason="extended attributes are Linux' own here")


def mine(mode: int, *pairs: tuple[str, bytes]) -> Attributes:
    return Attributes(mode, os.geteuid(), os.getegid(), pairs)


def apply(path: Path, wanted: Attributes, writer: MetadataWriter | None = None) -> list[tuple[str, BaseException]]:
    fd = os.open(path, os.O_RDONLY)
    try:
        return (writer or MetadataWriter()).apply_open(fd, os.fstat(fd), wanted, MTIME, ATIME)
    finally:
        os.close(fd)


def apply_named(path: Path, wanted: Attributes, *, link: bool = False) -> list[tuple[str, BaseException]]:
    fd = os.open(path.parent, os.O_RDONLY)
    try:
        return MetadataWriter().apply_named(Place(fd, b""), os.fsencode(path.name), wanted, MTIME, ATIME, link=link)
    finally:
        os.close(fd)


def new_file(path: Path, mode: int = 0o600) -> Path:
    path.write_bytes(b"content")
    path.chmod(mode)
    return path


@pytest.mark.parametrize("mode", [0o000, 0o444, 0o600, 0o644, 0o4755, 0o2755, 0o1777, 0o7777])
def test_a_file_gets_mode_and_times_to_the_nanosecond(tmp_path: Path, mode: int) -> None:
    path = new_file(tmp_path / "f")
    assert apply(path, mine(mode)) == []
    found = path.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_mtime_ns, found.st_atime_ns) == (mode, MTIME, ATIME)


@pytest.mark.parametrize("mode", [0o500, 0o755, 0o1777, 0o2755, 0o3777])
def test_a_folder_gets_the_same(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "d"
    path.mkdir(0o700)
    assert apply(path, mine(mode)) == []
    found = path.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_mtime_ns) == (mode, MTIME)


def test_a_symlink_gets_its_own_time_and_its_target_keeps_everything(tmp_path: Path) -> None:
    target = new_file(tmp_path / "target", 0o640)
    before = target.stat()
    link = tmp_path / "link"
    link.symlink_to("target")
    assert apply_named(link, mine(0o777), link=True) == []
    assert (link.lstat().st_mtime_ns, link.lstat().st_atime_ns) == (MTIME, ATIME)
    after = target.stat()
    assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, before.st_mtime_ns)


def test_a_fifo_gets_its_mode_without_being_opened(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o600)
    assert apply_named(fifo, mine(0o2641)) == []
    assert (stat.S_IMODE(fifo.stat().st_mode), fifo.stat().st_mtime_ns) == (0o2641, MTIME)


@pytest.mark.root
def test_root_restores_owners_and_setuid_survives_it(tmp_path: Path) -> None:
    path = new_file(tmp_path / "f")
    assert apply(path, Attributes(0o6755, 12345, 4_000_000_000)) == []
    found = path.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (12345, 4_000_000_000, 0o6755)
    link = tmp_path / "link"
    link.symlink_to("f")
    assert apply_named(link, Attributes(0o777, 1, 2), link=True) == []
    assert (link.lstat().st_uid, link.lstat().st_gid, path.stat().st_uid) == (1, 2, 12345)


@pytest.mark.root
def test_another_user_keeps_what_cannot_be_given_away_and_drops_setuid(tmp_path: Path) -> None:
    path = new_file(tmp_path / "f")
    os.chown(path, 65534, 65534)
    fd = os.open(path, os.O_RDONLY)
    with as_ordinary_user():
        writer = MetadataWriter()
        failed = writer.apply_open(fd, os.fstat(fd), Attributes(0o6755, 0, 54321), MTIME, ATIME)
    os.close(fd)
    assert failed == []
    assert writer.owners_kept == 1
    assert (path.stat().st_uid, stat.S_IMODE(path.stat().st_mode), path.stat().st_mtime_ns) == (65534, 0o755, MTIME)


@linux
def test_extended_attributes_are_restored_and_those_not_listed_removed(tmp_path: Path) -> None:
    path = new_file(tmp_path / "f")
    os.setxattr(path, "user.old", b"goes")
    os.setxattr(path, "user.changed", b"before")
    wanted = mine(0o400, ("user.changed", b"after"), ("user.empty", b""), ("user.binary", bytes(range(256))))
    assert apply(path, wanted) == []
    assert sorted(read_xattrs(path)) == sorted(wanted.xattrs)
    assert stat.S_IMODE(path.stat().st_mode) == 0o400


@linux
def test_an_acl_is_restored_with_the_mode_that_belongs_to_it(tmp_path: Path) -> None:
    path = new_file(tmp_path / "f")
    assert apply(path, mine(0o660, ("system.posix_acl_access", ACL))) == []
    assert read_xattrs(path) == [("system.posix_acl_access", ACL)]
    assert stat.S_IMODE(path.stat().st_mode) == 0o660


@linux
def test_what_a_default_acl_gave_a_new_file_is_taken_off(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    os.setxattr(folder, "system.posix_acl_default", ACL)
    path = new_file(folder / "f")
    assert read_xattrs(path) != []
    assert apply(path, mine(0o640)) == []
    assert read_xattrs(path) == []
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    os.mkfifo(folder / "fifo")
    assert apply_named(folder / "fifo", mine(0o640)) == []
    assert read_xattrs(folder / "fifo") == []


@linux
@pytest.mark.root
def test_capabilities_survive_the_change_of_owner(tmp_path: Path) -> None:
    path = new_file(tmp_path / "f")
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    wanted = Attributes(0o755, 12345, 12345, (("security.capability", capability),))
    assert apply(path, wanted) == []
    assert read_xattrs(path) == [("security.capability", capability)]
    assert path.stat().st_uid == 12345


@linux
@pytest.mark.root
def test_symlinks_and_fifos_have_attributes_of_their_own(tmp_path: Path) -> None:
    target = new_file(tmp_path / "f")
    link, fifo = tmp_path / "link", tmp_path / "fifo"
    link.symlink_to("f")
    os.mkfifo(fifo)
    wanted = mine(0o600, ("trusted.note", b"x\0y"))
    assert apply_named(link, wanted, link=True) == []
    assert apply_named(fifo, wanted) == []
    assert read_xattrs(link) == read_xattrs(fifo) == [("trusted.note", b"x\0y")]
    assert read_xattrs(target) == []


@linux
def test_an_attribute_that_cannot_be_set_is_told_and_the_rest_is_done(tmp_path: Path) -> None:
    path = new_file(tmp_path / "f")
    failed = apply(path, mine(0o640, ("nonsense.name", b"1"), ("user.good", b"2")))
    assert [what for what, _ in failed] == ["attribute nonsense.name"]
    assert read_xattrs(path) == [("user.good", b"2")]
    assert (stat.S_IMODE(path.stat().st_mode), path.stat().st_mtime_ns) == (0o640, MTIME)


def test_a_time_no_system_can_keep_is_a_problem_and_no_more(tmp_path: Path) -> None:
    path = new_file(tmp_path / "f")
    fd = os.open(path, os.O_RDONLY)
    failed = MetadataWriter().apply_open(fd, os.fstat(fd), mine(0o640), 10**30, 10**30)
    os.close(fd)
    assert [what for what, _ in failed] == ["times"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@linux
def test_attributes_are_read_from_descriptors_and_through_no_symlink(tmp_path: Path) -> None:
    path = new_file(tmp_path / "f")
    os.setxattr(path, "user.a", b"1")
    link = tmp_path / "link"
    link.symlink_to("f")
    fd = os.open(path, os.O_RDONLY)
    assert read_xattrs(fd) == read_xattrs(path) == read_xattrs(link, follow=True) == [("user.a", b"1")]
    assert write_xattrs(fd, [("user.b", b"2")]) == []
    os.close(fd)
    assert read_xattrs(link) == []
    assert read_xattrs(path) == [("user.b", b"2")]


@linux
def test_a_file_system_without_attributes_is_asked_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[object] = []

    def refuse(path: object, **_: object) -> list[str]:
        asked.append(path)
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(os, "listxattr", refuse)
    monkeypatch.setattr(xattrs, "_devices_without", set())
    assert [read_xattrs(tmp_path, device=99) for _ in range(3)] == [[], [], []]
    assert len(asked) == 1
    assert [name for name, _ in write_xattrs(tmp_path, [("user.a", b"1")])] == ["user.a"]
    assert write_xattrs(tmp_path, []) == []


def test_names_of_owners_are_known_or_empty() -> None:
    assert user_name(0) == "root"
    assert group_name(0) != ""
    assert user_name(3_999_999_999) == group_name(3_999_999_999) == ""


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, DiskFullError),
        (errno.EDQUOT, DiskFullError),
        (errno.EMFILE, TooManyOpenFilesError),
        (errno.EROFS, RestoreWriteError),
    ],
)
def test_what_every_file_would_meet_ends_the_restore(number: int, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        raise_if_fatal(OSError(number, "x"), "/target")
    with pytest.raises(kind):
        fatal_among([("owner", OSError(errno.EPERM, "x")), ("times", OSError(number, "x"))], "/target")


def test_what_one_file_meets_does_not() -> None:
    raise_if_fatal(OSError(errno.EACCES, "x"), "/target")
    fatal_among([("owner", OSError(errno.EPERM, "x"))], "/target")


def test_a_problem_is_printable_and_carries_the_code() -> None:
    problem = RestoreProblem.of(b"/a\n\xff", "content", UnsafePathError("a line"))
    assert problem.to_dict() == {
        "path": "/a\\n\\udcff",
        "what": "content",
        "reason": "a line",
        "code": "restore.unsafe_path",
    }
    assert RestoreProblem.of(b"/a", "owner", OSError(errno.EPERM, "x")).code == "restore.write"
    assert reason_of(OSError(errno.EPERM, "x")) == os.strerror(errno.EPERM)
    assert reason_of(OverflowError("too far")) == "too far"

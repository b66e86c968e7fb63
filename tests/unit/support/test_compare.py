"""The comparer sees every kind of difference; a blind one would let every restore test pass."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.awkward import posix_acl
from tests.support.compare import CHECKS, assert_same_tree, compare_trees

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may make this")


@pytest.fixture
def twins(tmp_path) -> tuple[Path, Path]:
    a = tmp_path / "a"
    (a / "folder" / "inner").mkdir(parents=True)
    (a / "file").write_bytes(b"contents" * 400_000)
    (a / "folder" / "same").write_bytes(b"same")
    os.link(a / "file", a / "folder" / "linked")
    (a / "symlink").symlink_to("file")
    os.mkfifo(a / "fifo")
    os.utime(a / "file", ns=(1, 1_700_000_000_123_456_789))
    b = tmp_path / "b"
    subprocess.run(["cp", "-a", a, b], check=True)
    assert compare_trees(a, b, sparse=True) == []
    return a, b


def _keep_time(path: Path, change: Callable[[Path], object]) -> None:
    before = os.lstat(path)
    change(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns), follow_symlinks=False)


def _swap_byte(path: Path) -> None:
    with open(path, "r+b") as file:
        file.seek(3_000_000)
        file.write(b"!")


def _relink(path: Path) -> None:
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)


def _resymlink(path: Path) -> None:
    path.unlink()
    path.symlink_to("elsewhere")


def _as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DIFFERENCES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "a byte": ("file", _swap_byte, "contents differ in the MiB at 2097152"),
    "a length": ("file", lambda path: os.truncate(path, 100), "size 3200000 / 100"),
    "a mode": ("folder/same", lambda path: path.chmod(0o600), "mode 0644 / 0600"),
    "setuid": ("folder/same", lambda path: path.chmod(0o4644), "mode 0644 / 4644"),
    "a folder's mode": ("folder", lambda path: path.chmod(0o1755), "mode 0755 / 1755"),
    "a target": ("symlink", _resymlink, "symlink to b'file' / b'elsewhere'"),
    "a kind": ("fifo", _as_folder, "kind FIFO / folder"),
    "a hard link": ("folder/linked", _relink, "one file with 'file' / one file with 'folder/linked'"),
    "an xattr": ("folder/same", lambda path: os.setxattr(path, "user.x", b"1"), "xattr user.x None / b'1'"),
    "a folder's xattr": ("folder", lambda path: os.setxattr(path, "user.x", b""), "xattr user.x None / b''"),
    "an ACL": (
        "folder/same",
        lambda path: os.setxattr(path, "system.posix_acl_access", posix_acl(user=(9, 6), group=(9, 4), mask=4)),
        "xattr system.posix_acl_access",
    ),
}


@pytest.mark.parametrize("what", DIFFERENCES)
def test_the_comparer_sees(twins, what):
    a, b = twins
    name, change, expected = DIFFERENCES[what]
    (a / "folder/same").chmod(0o644)
    (b / "folder/same").chmod(0o644)
    _keep_time(b / name, change)
    lines = compare_trees(a, b, ignore={"mtime", "symlink_mtime", "folder_mtime"})
    assert any(line.startswith(f"'{name}': {expected}") for line in lines), lines
    # The file's other name shows the same change, nothing else does.
    assert all(line.startswith((f"'{name}'", "'folder/linked'")) for line in lines), lines
    with pytest.raises(AssertionError, match="the trees differ"):
        assert_same_tree(a, b)


@pytest.mark.parametrize(
    ("name", "check"), [("file", "mtime"), ("fifo", "mtime"), ("symlink", "symlink_mtime"), ("folder", "folder_mtime")]
)
def test_the_comparer_sees_one_nanosecond(twins, name, check):
    a, b = twins
    before = os.lstat(b / name)
    os.utime(b / name, ns=(before.st_atime_ns, before.st_mtime_ns + 1), follow_symlinks=False)
    lines = compare_trees(a, b)
    assert lines
    assert all(check in line for line in lines)
    assert compare_trees(a, b, ignore={check}) == []


def test_the_comparer_sees_entries_on_one_side_only(twins):
    a, b = twins
    (a / "folder/inner/only a").write_bytes(b"")
    (b / os.fsdecode(b"caf\xe9")).mkdir()
    lines = compare_trees(a, b, ignore={"folder_mtime", "root"})
    assert lines == ["'caf\\xe9': only in b", "'folder/inner/only a': only in a"]


def test_the_comparer_sees_the_roots_own_attributes(twins):
    a, b = twins
    b.chmod(0o711)
    assert [line.split(":")[0] for line in compare_trees(a, b)] == ["'.'"]
    assert compare_trees(a, b, ignore={"root"}) == []


@as_root
def test_the_comparer_sees_owners_and_devices(twins):
    a, b = twins
    os.chown(b / "folder/same", 12345, 0)
    os.lchown(b / "symlink", 0, 12345)
    os.mknod(a / "device", 0o020600, os.makedev(1, 3))
    os.mknod(b / "device", 0o020600, os.makedev(1, 5))
    lines = compare_trees(a, b, ignore={"folder_mtime", "mtime"})
    assert lines == [
        "'device': device 0x103 / 0x105",
        "'symlink': owner 0:0 / 0:12345",
        "'folder/same': owner 0:0 / 12345:0",
    ]


def test_the_comparer_sees_a_hole_that_was_filled_when_asked(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        with open(tmp_path / name / "f", "wb") as file:
            file.truncate(16 << 20)
            if name == "b":
                file.write(bytes(16 << 20))
                os.fsync(file.fileno())
    ignore = {"mtime", "folder_mtime", "root"}
    assert compare_trees(tmp_path / "a", tmp_path / "b", ignore=ignore) == []
    lines = compare_trees(tmp_path / "a", tmp_path / "b", ignore=ignore, sparse=True)
    assert len(lines) == 1
    assert "bytes of disk" in lines[0]


def test_data_that_stands_where_the_other_side_has_a_hole_is_compared(tmp_path):
    for name, place in (("a", 5 << 20), ("b", 9 << 20)):
        (tmp_path / name).mkdir()
        with open(tmp_path / name / "f", "wb") as file:
            file.truncate(16 << 20)
            file.seek(place)
            file.write(b"data")
    lines = compare_trees(tmp_path / "a", tmp_path / "b", ignore={"mtime", "folder_mtime", "root"})
    assert lines == ["'f': contents differ in the MiB at 5242880"]


def test_the_comparer_goes_below_paths_longer_than_the_system_takes(tmp_path):
    name, levels = b"a long name of a folder", 300
    for side in ("a", "b"):
        held = os.open(tmp_path, os.O_RDONLY)
        for below in (os.fsencode(side), *[name] * levels):
            os.mkdir(below, dir_fd=held)
            inner = os.open(below, os.O_RDONLY, dir_fd=held)
            os.close(held)
            held = inner
        descriptor = os.open(b"f", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=held)
        os.write(descriptor, side.encode())
        os.close(descriptor)
        os.close(held)
    try:
        lines = compare_trees(tmp_path / "a", tmp_path / "b", ignore={"mtime", "folder_mtime", "root"})
        assert len(lines) == 1
        assert lines[0].endswith("/f': contents differ in the MiB at 0")
    finally:
        for side in ("a", "b"):
            subprocess.run(["rm", "-rf", tmp_path / side], check=True)


def test_sockets_are_left_out_when_asked(twins):
    a, b = twins
    import socket

    with socket.socket(socket.AF_UNIX) as made:
        cwd = os.getcwd()
        os.chdir(a)
        try:
            made.bind("socket")
        finally:
            os.chdir(cwd)
    os.utime(a, ns=(5, 5))
    os.utime(b, ns=(5, 5))
    assert compare_trees(a, b) == ["'socket': only in a"]
    assert compare_trees(a, b, ignore={"socket"}) == []


def test_a_check_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no such checks"):
        compare_trees(tmp_path, tmp_path, ignore={"everything"})
    assert "content" in CHECKS


def test_the_list_of_differences_is_bounded(tmp_path):
    (tmp_path / "b").mkdir()
    for number in range(30):
        (tmp_path / "a" / str(number)).mkdir(parents=True)
    assert len(compare_trees(tmp_path / "a", tmp_path / "b", limit=10)) == 11
    shutil.rmtree(tmp_path / "a")

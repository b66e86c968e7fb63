"""Folders are reached component by component, and never through a symlink."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import pytest

from backupiq.archive.safe_tree import HAVE_DESCRIPTORS, Place, SafeTree, lstat, remove
from backupiq.errors import RestoreConflictError, UnsafePathError


class Folder(NamedTuple):
    parent: int
    name: bytes


def chain(count: int) -> list[Folder]:
    return [Folder(-1, b""), *(Folder(number, b"d") for number in range(count))]


@pytest.fixture(params=[True, False], ids=["descriptors", "paths"])
def descriptors(request: pytest.FixtureRequest) -> bool:
    if request.param and not HAVE_DESCRIPTORS:
        pytest.skip("this system has no calls relative to a folder's descriptor")
    return bool(request.param)


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_folders_are_made_and_reached(tmp_path: Path, descriptors: bool) -> None:
    folders = [Folder(-1, b""), Folder(0, b"a"), Folder(1, b"caf\xe9"), Folder(0, b"b")]
    tree = SafeTree(tmp_path, folders, descriptors=descriptors)
    assert [tree.make(number) for number in (1, 2, 3)] == [True, True, True]
    assert tree.make(2) is False
    place = tree.place(2)
    os.mkdir(place.at(b"inside"), dir_fd=place.fd)
    tree.close()
    assert os.path.isdir(os.fsencode(tmp_path) + b"/a/caf\xe9/inside")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700


def test_a_symlink_in_place_of_a_folder_is_refused(tmp_path: Path, descriptors: bool) -> None:
    outside = tmp_path / "outside"
    (outside / "sub").mkdir(parents=True)
    root = tmp_path / "root"
    root.mkdir()
    (root / "a").symlink_to(outside)
    tree = SafeTree(root, [Folder(-1, b""), Folder(0, b"a"), Folder(1, b"sub")], descriptors=descriptors)
    assert tree.make(1) is False
    for number in (1, 2):
        with pytest.raises(UnsafePathError):
            tree.place(number)
    tree.close()


def test_something_else_in_place_of_a_folder_is_a_conflict(tmp_path: Path, descriptors: bool) -> None:
    (tmp_path / "a").write_bytes(b"a file")
    os.mkfifo(tmp_path / "b")
    tree = SafeTree(tmp_path, [Folder(-1, b""), Folder(0, b"a"), Folder(0, b"b")], descriptors=descriptors)
    for number in (1, 2):
        with pytest.raises(RestoreConflictError):
            tree.place(number)
    tree.close()


def test_a_folder_moved_away_meanwhile_is_still_the_one_written_to(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    tree = SafeTree(root, [Folder(-1, b""), Folder(0, b"a")])
    tree.make(1)
    place = tree.place(1)
    (root / "a").rename(root / "moved")
    (root / "a").symlink_to(outside)
    os.mkdir(place.at(b"x"), dir_fd=place.fd)
    tree.close()
    assert (root / "moved/x").is_dir()
    assert list(outside.iterdir()) == []


def test_descriptors_are_bounded_and_closed_folders_are_reached_again(tmp_path: Path) -> None:
    folders = chain(300)
    before = open_descriptors()
    tree = SafeTree(tmp_path, folders, limit=8)
    for number in range(1, 301):
        tree.make(number)
    for number in (300, 5, 299, 150, 300):
        place = tree.place(number)
        assert os.fstat(place.fd or 0).st_nlink >= 2
    assert open_descriptors() - before <= 10
    tree.close()
    tree.close()
    assert open_descriptors() == before


def test_folders_deeper_than_a_path_may_be_long_are_reached(tmp_path: Path) -> None:
    folders = [Folder(-1, b""), *(Folder(number, b"n" * 200) for number in range(100))]
    tree = SafeTree(tmp_path, folders, limit=4)
    for number in range(1, 101):
        assert tree.make(number)
    assert tree.place(100).fd is not None
    tree.close()


@pytest.mark.parametrize("name", [b"..", b".", b"", b"a/b", b"/etc", b"a\0"])
def test_without_descriptors_a_name_must_be_one_component(name: bytes) -> None:
    with pytest.raises(UnsafePathError):
        Place(None, b"/somewhere").at(name)


def test_looking_does_not_follow_and_removing_the_absent_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    place = Place(None, os.fsencode(tmp_path))
    found = lstat(place, b"link")
    assert found is not None
    assert lstat(place, b"absent") is None
    remove(place, b"link")
    remove(place, b"link")
    assert not os.path.lexists(tmp_path / "link")


def test_a_limit_too_small_to_work_with_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="descriptors"):
        SafeTree(tmp_path, chain(1), limit=3)

"""Packing small files in helper processes: the same snapshot as without, with what the helpers saw of each file."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from backupiq.archive import session, tree_builder, xattrs
from backupiq.archive.xattrs import read_open_xattrs, read_xattrs
from backupiq.repository.repository import Repository
from tests.support.awkward import posix_acl
from tests.unit.archive.saving import Saved, back_up, node_at, read_back
from tests.unit.repository.repositories import new_repository

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux offers extended attributes to Python")


@pytest.fixture
async def repository(tmp_path: Path) -> Repository:
    return await new_repository(tmp_path / "repository")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Small, empty, large and linked files in a few folders, some with extended attributes."""
    root = tmp_path / "files"
    for number in range(60):
        path = root / f"folder{number % 5}" / f"file{number:02d}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.Random(number % 40).randbytes(number * 97))
        if number % 3 == 0:
            os.setxattr(path, "user.shared", b"the same")
        if number % 7 == 0:
            os.setxattr(path, "user.own", b"%d\x00\xff" % number)
    os.setxattr(root / "folder1" / "file01", "user.\u00e4", b"")
    os.setxattr(root / "folder2" / "file02", "system.posix_acl_access", posix_acl(user=(9, 6), group=(9, 4), mask=6))
    (root / "large").write_bytes(random.Random(1).randbytes(700_000))
    os.setxattr(root / "large", "user.large", b"1")
    os.link(root / "folder0" / "file00", root / "linked")
    (root / "link").symlink_to("nowhere")
    return root


async def packed_by(
    helpers: int, repository: Repository, folder: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> Saved:
    """A whole run with so many helper processes."""
    monkeypatch.setattr(session, "helpers_for", lambda files, threads: helpers)
    return await back_up(repository, folder / f"spool{helpers}", files)


async def test_helpers_make_the_same_trees_as_threads(
    repository: Repository, tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_helpers = await packed_by(2, repository, tmp_path, files, monkeypatch)
    by_threads = await packed_by(0, repository, tmp_path, files, monkeypatch)
    trees = [await node_at(repository, saved.tree, files) for saved in (by_helpers, by_threads)]
    assert trees[0] == trees[1]
    for path in [*files.rglob("file*"), files / "large", files / "linked"]:
        node = await node_at(repository, by_helpers.tree, path)
        assert node.content is not None
        assert await read_back(repository, node.content) == path.read_bytes()
        found = [(each.name, each.value) for each in node.extended_attributes or []]
        assert found == read_xattrs(path)


@pytest.mark.parametrize("helpers", [0, 2])
async def test_attributes_of_a_file_are_read_while_it_is_open_and_not_again(
    helpers: int, repository: Repository, tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def noting(target: Any, **options: Any) -> list[xattrs.Xattr]:
        asked.append(target)
        return read_xattrs(target, **options)

    monkeypatch.setattr(tree_builder, "read_xattrs", noting)
    await packed_by(helpers, repository, tmp_path, files, monkeypatch)
    regular = [path for path in asked if os.path.isfile(path) and not os.path.islink(path)]
    # Of several names of one file only the first is opened.
    assert {os.path.basename(path) for path in regular} <= {b"linked", b"file00"}
    assert len(regular) == 1
    assert os.fsencode(files / "link") in asked


@pytest.mark.parametrize("helpers", [0, 2])
async def test_an_attribute_whose_name_is_no_text_is_stored_as_restic_does_and_ends_no_run(
    helpers: int, repository: Repository, tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = files / "folder3" / "file03"
    os.setxattr(odd, b"user.a\xff", b"1")
    saved = await packed_by(helpers, repository, tmp_path, files, monkeypatch)
    node = await node_at(repository, saved.tree, odd)
    assert ("user.a\ufffd", b"1") in [(each.name, each.value) for each in node.extended_attributes or []]
    assert not saved.session.warnings


def test_attributes_that_are_large_or_no_text_are_left_to_be_read_by_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    descriptor = os.open(path, os.O_RDONLY)
    try:
        device = os.fstat(descriptor).st_dev
        assert read_open_xattrs(descriptor, device) == ()
        os.setxattr(path, "user.a", b"1234")
        assert read_open_xattrs(descriptor, device) == (("user.a", b"1234"),)
        monkeypatch.setattr(xattrs, "MOST_BYTES", 9)
        assert read_open_xattrs(descriptor, device) is None
        monkeypatch.undo()
        os.setxattr(path, b"user.\xff", b"")
        assert read_open_xattrs(descriptor, device) is None
    finally:
        os.close(descriptor)

"""The generated trees hold what they promise, the same every time."""

from __future__ import annotations

import os
import stat
import subprocess

import pytest

from tests.support.awkward import AWKWARD_NAMES, PATTERN_SIZES, make_awkward_tree, remove_awkward_tree
from tests.support.compare import compare_trees
from tests.support.mixed_tree import make_mixed_tree, mutate_tree

IS_ROOT = os.geteuid() == 0


@pytest.fixture(scope="module")
def awkward(tmp_path_factory):
    made = make_awkward_tree(tmp_path_factory.mktemp("awkward") / "tree", as_root=IS_ROOT, big=True, width=200)
    yield made
    remove_awkward_tree(made.root)


def test_the_awkward_tree_holds_every_kind_of_entry(awkward):
    found = {}
    for folder, subfolders, files in os.walk(awkward.root):
        for name in subfolders + files:
            path = os.path.join(folder, name)
            found[os.path.relpath(path, awkward.root)] = os.lstat(path)
    formats = {stat.S_IFMT(entry.st_mode) for entry in found.values()}
    assert formats >= {stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK}
    if IS_ROOT:
        assert formats >= {stat.S_IFCHR, stat.S_IFBLK}
        assert len(found) == awkward.entries
        assert {entry.st_uid for entry in found.values()} >= {0, 12345, 4_000_000_000}
        assert stat.S_IMODE(found["owners/setuid of another"].st_mode) == 0o6755
    modes = {stat.S_IMODE(entry.st_mode) for entry in found.values()}
    assert modes >= {0o000, 0o7777, 0o4755, 0o2755, 0o1777}
    sizes = {entry.st_size for path, entry in found.items() if path.startswith("contents/")}
    assert sizes >= {0, 1, *PATTERN_SIZES}
    assert found["sparse/all hole"].st_blocks == 0
    assert found["sparse/beyond 4 GiB"].st_size > 1 << 32
    assert found["links/first"].st_ino == found["links in another folder/third"].st_ino
    assert len(os.readlink(awkward.root / "symlinks/target 4000 bytes")) > 3900
    names = {os.fsencode(path)[6:] for path in found if path.startswith("names/")}
    refused = sum(feature.startswith("name: ") for feature in awkward.skipped)
    assert len(names) == len(AWKWARD_NAMES) - refused


def test_the_awkward_tree_holds_extreme_times_and_no_two_alike(awkward):
    times = [os.lstat(awkward.root / "times" / f"time {index}").st_mtime_ns for index in range(10)]
    if not any(feature.startswith("time ") for feature in awkward.skipped):
        assert min(times) < 0
        assert max(times) > (1 << 31) * 10**9
    assert any(moment % 1000 for moment in times)
    folder_times = {os.lstat(folder).st_mtime_ns for folder, _, _ in os.walk(awkward.root)}
    assert len(folder_times) > 50


@pytest.mark.skipif(not hasattr(os, "listxattr"), reason="this system has no xattrs")
def test_the_awkward_tree_holds_xattrs_and_acls(awkward):
    if any(feature.startswith(("xattr user", "POSIX")) for feature in awkward.skipped):
        pytest.skip(f"the file system refused them: {awkward.skipped}")
    values = {
        name: os.getxattr(awkward.root / "xattrs/file", name) for name in os.listxattr(awkward.root / "xattrs/file")
    }
    assert values["user.empty"] == b""
    assert values["user.binary"] == bytes(range(256))
    assert "system.posix_acl_access" in os.listxattr(awkward.root / "acls/file")
    assert "system.posix_acl_default" in os.listxattr(awkward.root / "acls/folder")
    assert "system.posix_acl_access" in os.listxattr(awkward.root / "acls/folder/inherits")


def test_nothing_was_refused_but_what_the_result_names(awkward):
    assert all("(E" in feature or feature.startswith(("time ", "xattr (", "ACL (")) for feature in awkward.skipped)


def test_a_faithful_copy_of_the_awkward_tree_compares_equal(awkward, tmp_path):
    if not IS_ROOT:
        pytest.skip("an ordinary user cannot copy files of mode 0000")
    subprocess.run(["cp", "-a", "--sparse=always", awkward.root, tmp_path / "copy"], check=True)
    assert compare_trees(awkward.root, tmp_path / "copy", sparse=True) == []
    subprocess.run(["rm", "-rf", tmp_path / "copy"], check=True)


def test_the_same_seed_makes_the_same_awkward_tree(tmp_path):
    for name in ("a", "b"):
        make_awkward_tree(tmp_path / name, seed=7, as_root=IS_ROOT, width=50, levels=5)
    lines = compare_trees(tmp_path / "a", tmp_path / "b")
    assert [line for line in lines if "cannot be" not in line] == []
    make_awkward_tree(tmp_path / "c", seed=8, as_root=IS_ROOT, width=50, levels=5)
    assert compare_trees(tmp_path / "a", tmp_path / "c")
    for name in ("a", "b", "c"):
        remove_awkward_tree(tmp_path / name)


def test_the_mixed_tree_is_what_it_says_and_the_same_every_time(tmp_path):
    made = make_mixed_tree(tmp_path / "a", files=800, total_bytes=8_000_000, seed=3)
    found = [os.path.join(folder, name) for folder, _, names in os.walk(tmp_path / "a") for name in names]
    assert len(found) == made.files == 800
    assert sum(os.path.getsize(path) for path in found) == made.total_bytes
    assert 0.8 < made.total_bytes / 8_000_000 < 1.2
    assert made.folders == 80
    assert set(made.sorts) == {"source", "data", "settings", "media", "copy"}
    make_mixed_tree(tmp_path / "b", files=800, total_bytes=8_000_000, seed=3)
    assert compare_trees(tmp_path / "a", tmp_path / "b") == []


def test_mutations_are_as_told_and_the_same_every_time(tmp_path):
    for name in ("a", "b", "c"):
        make_mixed_tree(tmp_path / name, files=400, total_bytes=2_000_000)
    told = mutate_tree(tmp_path / "b", seed=5, fraction=0.1)
    assert (len(told.changed), len(told.added), len(told.deleted)) == (20, 10, 10)
    lines = compare_trees(tmp_path / "a", tmp_path / "b", ignore={"folder_mtime", "root"})
    only_a = {line[1:].split("'")[0] for line in lines if line.endswith("only in a")}
    only_b = {line[1:].split("'")[0] for line in lines if line.endswith("only in b")}
    changed = {line[1:].split("'")[0] for line in lines if "mtime" in line}
    assert (sorted(changed), sorted(only_b), sorted(only_a)) == (told.changed, told.added, told.deleted)
    assert mutate_tree(tmp_path / "c", seed=5, fraction=0.1) == told
    assert compare_trees(tmp_path / "b", tmp_path / "c", ignore={"mtime", "folder_mtime", "root"}) == []

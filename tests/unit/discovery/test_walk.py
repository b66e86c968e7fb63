"""The walk: what it gives, in which order, and what it does with everything that goes wrong."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from backupiq.discovery.entry import EntryKind
from backupiq.discovery.rules import ExcludeRules
from backupiq.discovery.summary import ScanSummary, counted, scan_summary
from backupiq.discovery.walk import walk
from backupiq.errors import (
    CancelledRunError,
    MissingConfigurationError,
    SourceNotFoundError,
    SourcePermissionError,
)
from tests.support.awkward import make_awkward_tree, remove_awkward_tree
from tests.unit.discovery.conftest import as_ordinary_user, make


def test_every_entry_of_an_awkward_tree_comes_with_what_lstat_says(tmp_path, run_walk):
    made = make_awkward_tree(tmp_path / "tree", as_root=os.geteuid() == 0, width=300)
    walked = run_walk(tmp_path / "tree")
    expected = {}
    for folder, subfolders, files in os.walk(os.fsencode(tmp_path / "tree")):
        for name in subfolders + files:
            path = os.path.join(folder, name)
            found = os.lstat(path)
            if not stat.S_ISSOCK(found.st_mode):
                expected[os.path.relpath(path, walked.base)] = found
    if os.geteuid() == 0:
        assert walked.entries.keys() == expected.keys()
        assert len(expected) == made.entries - 1
        assert not walked.unreadable
    for path, entry in walked.entries.items():
        found = expected[path]
        assert entry.name == os.path.basename(path)
        assert (entry.size, entry.mode, entry.uid, entry.gid) == (
            found.st_size,
            found.st_mode,
            found.st_uid,
            found.st_gid,
        )
        assert (entry.mtime_ns, entry.ctime_ns) == (found.st_mtime_ns, found.st_ctime_ns)
        assert (entry.inode, entry.device) == (found.st_ino, found.st_dev)
        assert (entry.links, entry.rdev) == (found.st_nlink, found.st_rdev)
    kinds = {entry.kind for entry in walked.entries.values()}
    assert kinds >= {EntryKind.FILE, EntryKind.DIR, EntryKind.SYMLINK, EntryKind.FIFO}
    if os.geteuid() == 0:
        assert kinds >= {EntryKind.CHARDEV, EntryKind.BLOCKDEV}
    assert walked.counts.sockets == 1
    remove_awkward_tree(tmp_path / "tree")


def test_folders_come_before_what_is_in_them_and_names_in_byte_order(tmp_path, run_walk):
    make(tmp_path, "a/x/1", "a/y", "a-b/1", "a.c/1", "A/1", "b/", "ab")
    make(tmp_path, "a/x/deeper/still/1")
    walked = run_walk(tmp_path)
    below = [folder.path[len(walked.base) :] for folder in walked.folders if folder.path.startswith(walked.base)]
    assert below == [b"", b"/A", b"/a", b"/a/x", b"/a/x/deeper", b"/a/x/deeper/still", b"/a-b", b"/a.c", b"/b"]
    for folder in walked.folders:
        names = [child.name for child in folder.children]
        assert names == sorted(names)
    assert run_walk(tmp_path).folders == walked.folders


def test_the_folders_above_a_source_hold_only_what_leads_to_it(tmp_path, run_walk):
    make(tmp_path, "u/d/f", "u/beside", "u/d2/f")
    walked = run_walk(tmp_path, tmp_path / "u" / "d")
    above = [folder for folder in walked.folders if len(folder.path) < len(os.fsencode(tmp_path / "u" / "d"))]
    assert above[0].path == b"/"
    assert above[0].entry.name == b""
    parts = os.fsencode(tmp_path / "u" / "d").split(b"/")[1:]
    assert [[child.name for child in folder.children] for folder in above] == [[part] for part in parts]
    assert [folder.entry.name for folder in walked.folders[1:]] == parts
    assert above[-1].entry.inode == os.stat(tmp_path / "u").st_ino


def test_a_source_may_be_a_file_beside_a_folder(tmp_path, run_walk):
    make(tmp_path, "a/one", "a/two", "b/three", "c")
    walked = run_walk(tmp_path, tmp_path / "b", tmp_path / "a" / "two", tmp_path / "c")
    assert walked.names == {"a", "a/two", "b", "b/three", "c"}


def test_sources_below_one_another_are_walked_once(tmp_path, run_walk):
    make(tmp_path, "a/b/c/f", "a/g", "ab/h")
    walked = run_walk(
        tmp_path, tmp_path / "a" / "b", tmp_path / "a", str(tmp_path / "a" / "b" / "c") + "/", tmp_path / "ab"
    )
    assert walked.names == {"a", "a/b", "a/b/c", "a/b/c/f", "a/g", "ab", "ab/h"}
    paths = [folder.path for folder in walked.folders]
    assert len(paths) == len(set(paths))


@pytest.mark.parametrize("given", ["a", "./a", "b/../a", "a/", "a//", "a/.", b"a", Path("a")])
def test_relative_sources_are_cleaned_by_name(tmp_path, run_walk, monkeypatch, given):
    make(tmp_path, "a/f", "b/")
    monkeypatch.chdir(tmp_path)
    assert run_walk(tmp_path, given).names == {"a", "a/f"}


def test_the_root_folder_itself_may_be_a_source():
    folders = walk(["/"], ExcludeRules(patterns=("/*/*",)), on_unreadable=lambda item: None)
    first = next(folders)
    assert first.path == b"/"
    assert {child.name for child in first.children} >= {b"usr", b"etc"}
    assert next(folders).path.count(b"/") == 1


def test_a_symlink_given_as_a_source_is_stored_as_one(tmp_path, run_walk):
    make(tmp_path, "real/f")
    (tmp_path / "link").symlink_to("real")
    plain = run_walk(tmp_path, tmp_path / "link")
    assert plain.entries[b"link"].kind is EntryKind.SYMLINK
    assert plain.names == {"link"}
    followed = run_walk(tmp_path, str(tmp_path / "link") + "/")
    assert followed.entries[b"link"].kind is EntryKind.DIR
    assert followed.names == {"link", "link/f"}


def test_a_symlink_on_the_way_to_a_source_becomes_the_folder_it_leads_to(tmp_path, run_walk):
    make(tmp_path, "real/f", "real/g")
    (tmp_path / "link").symlink_to("real")
    walked = run_walk(tmp_path, tmp_path / "link" / "f")
    assert walked.entries[b"link"].kind is EntryKind.DIR
    assert walked.names == {"link", "link/f"}
    both = run_walk(tmp_path, tmp_path / "link", tmp_path / "link" / "f")
    assert both.names == {"link", "link/f", "link/g"}


def test_symlinks_in_a_source_are_never_followed(tmp_path, run_walk):
    make(tmp_path, "s/real/f", "outside/secret")
    (tmp_path / "s/out").symlink_to(tmp_path / "outside")
    (tmp_path / "s/loop").symlink_to(".")
    assert run_walk(tmp_path / "s").names == {"real", "real/f", "out", "loop"}


def test_a_source_that_does_not_exist_is_refused_before_anything_is_walked(tmp_path):
    with pytest.raises(SourceNotFoundError, match="nowhere"):
        walk([tmp_path, tmp_path / "nowhere"], on_unreadable=lambda item: None)
    make(tmp_path, "file")
    with pytest.raises(SourceNotFoundError):
        walk([tmp_path / "file" / "below"], on_unreadable=lambda item: None)
    with pytest.raises(SourceNotFoundError):
        walk([""], on_unreadable=lambda item: None)
    with pytest.raises(SourceNotFoundError):
        walk(["a\0b"], on_unreadable=lambda item: None)
    with pytest.raises(MissingConfigurationError):
        walk([], on_unreadable=lambda item: None)


def test_a_source_that_may_not_be_reached_is_refused_as_such(shared_path):
    make(shared_path, "closed/f")
    (shared_path / "closed").chmod(0)
    with as_ordinary_user(), pytest.raises(SourcePermissionError, match="closed/f"):
        walk([shared_path / "closed" / "f"], on_unreadable=lambda item: None)
    (shared_path / "closed").chmod(0o700)


def test_an_unreadable_folder_is_reported_and_stays_as_an_entry(shared_path, run_walk):
    make(shared_path, "s/a", "s/closed/secret", "s/unsearchable/f", "s/z/f")
    (shared_path / "s/closed").chmod(0)
    (shared_path / "s/unsearchable").chmod(0o444)
    with as_ordinary_user():
        walked = run_walk(shared_path / "s")
    assert walked.names == {"a", "closed", "unsearchable", "z", "z/f"}
    reported = {os.path.relpath(item.path, walked.base): item for item in walked.unreadable}
    assert set(reported) == {b"closed", b"unsearchable/f"}
    assert all(item.reason == "this user may not read it" for item in reported.values())
    assert all(item.error == "discovery.permission" for item in reported.values())
    incomplete = {folder.path for folder in walked.folders if not folder.complete}
    assert incomplete == {walked.base + b"/closed", walked.base + b"/unsearchable"}
    (shared_path / "s/closed").chmod(0o700)
    (shared_path / "s/unsearchable").chmod(0o700)


def test_entries_that_vanish_after_they_were_listed_are_counted_and_nothing_else(tmp_path, run_walk):
    # The system hands out names in lots of 32 KiB; files removed between two batches are still in the lot.
    make(tmp_path, *(f"{number}" for number in range(2500)))
    calls = 0

    def remove_the_rest() -> bool:
        nonlocal calls
        calls += 1
        if calls == 2:
            for path in tmp_path.iterdir():
                path.unlink()
        return False

    depth = len(tmp_path.parts) - 1
    calls = -depth  # the folders above are asked about first
    walked = run_walk(tmp_path, should_stop=remove_the_rest)
    assert walked.counts.vanished > 0
    assert walked.unreadable == []
    assert all(folder.complete for folder in walked.folders)
    assert len(walked.entries) + walked.counts.vanished <= 2500


def test_a_folder_that_vanishes_before_it_is_listed_is_reported(tmp_path):
    make(tmp_path, "a/f", "b/f")
    reported = []
    folders = walk([tmp_path], on_unreadable=reported.append)
    for folder in folders:
        if folder.path == os.fsencode(tmp_path):
            (tmp_path / "b" / "f").unlink()
            (tmp_path / "b").rmdir()
    assert [(item.path, item.error) for item in reported] == [(os.fsencode(tmp_path / "b"), "discovery.not_found")]
    assert "vanished" in reported[0].reason


def test_the_walk_stops_with_an_error_when_asked_to(tmp_path):
    make(tmp_path, "a/b/c/f")
    with pytest.raises(CancelledRunError):
        list(walk([tmp_path], on_unreadable=lambda item: None, should_stop=lambda: True))


def test_paths_longer_than_the_system_takes_are_walked_to_the_bottom(tmp_path, run_walk):
    levels, name = 1200, b"a folder"
    held = os.open(tmp_path, os.O_RDONLY)
    try:
        for _ in range(levels):
            os.mkdir(name, dir_fd=held)
            below = os.open(name, os.O_RDONLY, dir_fd=held)
            os.close(held)
            held = below
        os.close(os.open(b"caf\xe9", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=held))
        rules = b"*.tmp\n"
        descriptor = os.open(b".backupignore", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=held)
        os.write(descriptor, rules)
        os.close(descriptor)
        os.close(os.open(b"x.tmp", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=held))
    finally:
        os.close(held)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    try:
        walked = run_walk(tmp_path)
        last = walked.folders[-1]
        assert walked.unreadable == []
        assert len(walked.folders) == len(tmp_path.parts) + levels
        assert last.path == os.fsencode(tmp_path) + (b"/" + name) * levels
        assert [child.name for child in last.children] == [b".backupignore", b"caf\xe9"]
        assert walked.unreadable == []
        # A source may itself be named by such a path.
        deep = run_walk(tmp_path, last.path + b"/caf\xe9")
        assert [child.name for child in deep.folders[-1].children] == [b"caf\xe9"]
        assert not before or len(os.listdir("/proc/self/fd")) == before
    finally:
        # Python's own rmtree recurses and holds a descriptor a level.
        subprocess.run(["rm", "-rf", os.fsencode(tmp_path) + b"/" + name], check=True)


def test_mount_points_are_entered_unless_one_file_system_is_asked_for(run_walk):
    if not os.path.ismount("/dev/shm") or os.stat("/dev").st_dev == os.stat("/dev/shm").st_dev:
        pytest.skip("/dev/shm is no mount point here")
    marker = Path(f"/dev/shm/backupiq-test-{os.getpid()}")
    marker.write_bytes(b"x")
    try:
        free = run_walk(Path("/dev"))
        kept = run_walk(Path("/dev"), rules=ExcludeRules(one_file_system=True))
    finally:
        marker.unlink()
    assert f"shm/{marker.name}" in free.names
    assert "shm" in kept.names
    assert not any(name.startswith("shm/") for name in kept.names)
    shm = next(folder for folder in kept.folders if folder.path == b"/dev/shm")
    assert shm.children == []
    assert str(kept.excluded[b"/dev/shm"]) == "one file system (contents of a mount point)"


def test_the_summary_counts_what_the_walk_gives(tmp_path):
    make(tmp_path, "a/f", "a/g", "h", data=b"12345")
    (tmp_path / "link").symlink_to("h")
    os.mkfifo(tmp_path / "fifo")
    summary = scan_summary(walk([tmp_path], on_unreadable=lambda item: None))
    assert (summary.files, summary.symlinks, summary.others, summary.total_bytes) == (3, 1, 1, 15)
    assert summary.folders == len(tmp_path.parts) + 1
    running = ScanSummary()
    assert len(list(counted(walk([tmp_path], on_unreadable=lambda item: None), running))) == summary.folders
    assert running == summary

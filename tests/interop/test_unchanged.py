"""Nothing changed: the next run reads no file's content and adds next to nothing. Seen from outside the program."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.interop.support import assert_clean, below, make_small_tree, objects
from tests.support.compare import assert_same_tree
from tests.support.programs import BackupIQ, Restic, unavailable


@pytest.fixture
def watched(tmpfs: Callable[[int], Path]) -> Path:
    """A folder on a file system that notes every reading of a file at once, as its time of last access."""
    folder = tmpfs(64 << 20)
    remount = ["mount", "-o", "remount,strictatime", str(folder)]
    done = subprocess.run(remount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        unavailable(f"a file system cannot be told to note times of access here: {done.stderr.strip()}")
    return folder


def accesses(root: Path) -> dict[str, int]:
    """When each regular file below was last read, in nanoseconds. Asking does not count as reading."""
    paths = [os.path.join(folder, name) for folder, _, names in os.walk(root) for name in names]
    return {path: os.lstat(path).st_atime_ns for path in paths if stat.S_ISREG(os.lstat(path).st_mode)}


def read_between(before: dict[str, int], after: dict[str, int]) -> set[str]:
    """The files that somebody read between two looks."""
    return {path for path, moment in after.items() if before.get(path) != moment}


@pytest.mark.root
def test_a_second_run_reads_nothing_and_adds_a_snapshot_and_under_a_hundredth_of_the_bytes(
    backupiq: BackupIQ, restic_old: Restic, watched: Path, tmp_path: Path, repo_password: str
) -> None:
    source, repo = watched / "source", tmp_path / "repo"
    make_small_tree(source, files=600, total_bytes=20_000_000)
    looks = [accesses(source)]

    def back_up() -> dict[str, Any]:
        report: dict[str, Any] = backupiq.json("backup", source, "--to", repo)
        looks.append(accesses(source))
        return report

    first, stored = back_up(), objects(repo)
    # This way of seeing works: the first run read every file.
    assert read_between(*looks[-2:]) == set(looks[0])
    assert first["bytes_read"] > 20_000_000

    second = back_up()
    assert read_between(*looks[-2:]) == set()
    assert second["bytes_read"] == 0
    assert (second["files_new"], second["files_changed"]) == (0, 0)
    assert second["files_unmodified"] == second["total_files"] == first["total_files"]
    assert second["parent_id"] == first["snapshot_id"]
    added = {name: size for name, size in objects(repo).items() if name not in stored}
    assert [name for name in added if name.startswith("snapshots/")] == [f"snapshots/{second['snapshot_id']}"]
    assert sum(added.values()) == second["bytes_sent"] < sum(stored.values()) / 100

    changed = source / "odd" / "several blobs"
    with changed.open("ab") as file:
        file.write(b"one line more")
    third = back_up()
    assert read_between(*looks[-2:]) == {str(changed)}
    assert third["bytes_read"] == changed.stat().st_size
    assert (third["files_new"], third["files_changed"]) == (0, 1)
    assert third["data_added"] < changed.stat().st_size, "the blobs before the change are there already"

    assert_clean(restic_old, repo, repo_password)
    restic_old.run("restore", "latest", "--target", tmp_path / "target", repo=repo, password=repo_password)
    assert_same_tree(source, below(tmp_path / "target", source))


def test_a_file_of_the_same_size_and_time_but_another_change_time_is_read(
    backupiq: BackupIQ, tmp_path: Path, repo_password: str
) -> None:
    source, repo = tmp_path / "source", tmp_path / "repo"
    source.mkdir()
    (source / "kept").write_bytes(b"kept")
    secret = source / "written in place"
    secret.write_bytes(b"before")
    before = secret.stat()
    backupiq("backup", source, "--to", repo)
    with secret.open("r+b") as file:
        file.write(b"after!")
    os.utime(secret, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (secret.stat().st_size, secret.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    report = backupiq.json("backup", source, "--to", repo)
    assert (report["files_changed"], report["files_unmodified"], report["bytes_read"]) == (1, 1, 6)

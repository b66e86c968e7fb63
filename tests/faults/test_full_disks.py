"""A disk that is full, on either side: one clear line, nothing that was stored is harmed, and with space it goes on."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.conftest import Small
from tests.faults.driver import Commands
from tests.faults.support import hashes_below, locks_of, misnamed, temporary_files
from tests.support.compare import assert_same_tree
from tests.support.programs import Completed, Restic
from tests.unit.repository.repositories import PASSWORD

pytestmark = pytest.mark.root
MIB = 1 << 20
Tmpfs = Callable[[int], Path]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """40 MB that do not compress, in files of both kinds: some of one blob, some of many."""
    rng = random.Random(9)
    folder = tmp_path / "source"
    folder.mkdir()
    for number in range(5):
        (folder / f"film-{number}").write_bytes(rng.randbytes(6_000_000))
    for number in range(500):
        (folder / f"photo-{number}").write_bytes(rng.randbytes(20_000))
    return folder


def grow(folder: Path, size: int) -> None:
    """Make the mounted file system larger."""
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)


def assert_one_line(done: Completed, *words: str) -> None:
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    for word in words:
        assert word in done.stderr


def test_a_full_destination_keeps_what_it_has_and_the_next_run_with_space_goes_on(
    commands: Commands, restic_old: Restic, tmpfs: Tmpfs, small: Small, source: Path, tmp_path: Path
) -> None:
    repo = tmpfs(36 * MIB) / "repo"  # room for two of three packs, in whatever order they are sent
    first = commands.run("backup", small.source, "--to", repo, "--quiet", password=PASSWORD)
    assert first.returncode == 0
    before = hashes_below(repo)
    full = commands.run("backup", source, "--to", repo, "--quiet", password=PASSWORD)
    assert_one_line(full, "No space left on device", "Free space")
    assert before.items() <= hashes_below(repo).items()
    assert (locks_of(repo), temporary_files(repo), misnamed(repo)) == ([], [], [])
    # Its own lock would need space too.
    assert "no errors were found" in restic_old.run("check", "--no-lock", repo=repo, password=PASSWORD).stdout
    restored = commands.run(
        "restore", "latest", "--repo", repo, "--target", tmp_path / "t", "--quiet", password=PASSWORD
    )
    assert restored.returncode == 0, restored.stderr
    assert_same_tree(small.source, tmp_path / "t" / small.source.relative_to("/"))
    grow(repo.parent, 128 * MIB)
    again = commands.run("backup", source, "--to", repo, "--quiet", password=PASSWORD)
    assert again.returncode == 0
    assert "that an interrupted run had stored" in again.stdout
    assert "no errors were found" in restic_old.run("check", "--read-data", repo=repo, password=PASSWORD).stdout


def test_a_repository_on_a_disk_that_is_full_to_the_last_byte_is_still_listed_and_restored(
    commands: Commands, tmpfs: Tmpfs, small: Small, tmp_path: Path
) -> None:
    disk = tmpfs(4 * MIB)
    repo = disk / "repo"
    assert commands.run("backup", small.source, "--to", repo, "--quiet", password=PASSWORD).returncode == 0
    fill(disk)
    listed = commands.run("snapshots", "--repo", repo, password=PASSWORD)
    assert listed.returncode == 0, listed.stderr
    assert "without a lock" in listed.stderr
    done = commands.run("restore", "latest", "--repo", repo, "--target", tmp_path / "t", "--quiet", password=PASSWORD)
    assert done.returncode == 0, done.stderr
    assert "without a lock" in done.stderr
    assert_same_tree(small.source, tmp_path / "t" / small.source.relative_to("/"))


def fill(disk: Path) -> None:
    """Leave no block free."""
    with (disk / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


def test_no_space_for_a_new_repository_is_said_and_leaves_the_place_usable(
    commands: Commands, tmpfs: Tmpfs, small: Small
) -> None:
    disk = tmpfs(4096)
    full = commands.run("backup", small.source, "--to", disk / "repo", "--quiet", password=PASSWORD)
    assert_one_line(full, "No space left on device")
    grow(disk, 32 * MIB)
    assert commands.run("backup", small.source, "--to", disk / "repo", "--quiet", password=PASSWORD).returncode == 0
    assert len(os.listdir(disk / "repo" / "keys")) == 1


def test_a_full_spool_is_said_and_leaves_nothing(
    commands: Commands, restic_old: Restic, tmpfs: Tmpfs, small: Small, source: Path
) -> None:
    spool, repo = tmpfs(12 * MIB), small.repo
    env = {"BACKUPIQ_SPOOL": str(spool)}
    full = commands.run("backup", source, "--to", repo, "--quiet", password=PASSWORD, env=env)
    assert_one_line(full, "No space left on device", str(spool))
    assert list(spool.iterdir()) == []
    assert locks_of(repo) == []
    assert "no errors were found" in restic_old.run("check", repo=repo, password=PASSWORD).stdout
    grow(spool, 256 * MIB)
    assert commands.run("backup", source, "--to", repo, "--quiet", password=PASSWORD, env=env).returncode == 0


def test_a_restore_into_a_full_disk_is_said_and_leaves_no_unfinished_file(
    commands: Commands, tmpfs: Tmpfs, source: Path, tmp_path: Path
) -> None:
    repo = tmp_path / "repo"
    assert commands.run("backup", source, "--to", repo, "--quiet", password=PASSWORD).returncode == 0
    before, disk = hashes_below(repo), tmpfs(20 * MIB)
    command = ["restore", "latest", "--repo", str(repo), "--target", str(disk / "t"), "--quiet"]
    full = commands.run(*command, password=PASSWORD)
    assert_one_line(full, str(disk), "is full", "Free space")
    assert temporary_files(disk) == []
    assert hashes_below(repo) == before
    there = disk / "t" / source.relative_to("/")
    sizes = {path.name: path.stat().st_size for path in source.iterdir()}
    assert all(path.stat().st_size == sizes[path.name] for path in there.iterdir()), "an unfinished file was left"
    grow(disk, 128 * MIB)
    assert commands.run(*command, password=PASSWORD).returncode == 0
    assert_same_tree(source, there)

"""Destinations and sources that are not what they should be: read-only, closed, a file, one inside the other."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.conftest import Small
from tests.faults.driver import Commands
from tests.faults.support import Surroundings, hashes_below, locks_of, open_repository, pack_sizes
from tests.support.compare import assert_same_tree
from tests.support.programs import Completed, Restic, isolated_home
from tests.unit.repository.repositories import PASSWORD

NOBODY = 65534


def assert_one_line(done: Completed, code: int, *words: str) -> None:
    assert done.returncode == code, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("backupiq: ")
    for word in words:
        assert word in line


def every_command(small: Small) -> dict[str, list[str | Path]]:
    return {
        "snapshots": ["snapshots", "--repo", small.repo],
        "ls": ["ls", "latest", "--repo", small.repo],
        "stats": ["stats", "--repo", small.repo],
        "restore": ["restore", "latest", "--repo", small.repo, "--target", small.target, "--quiet"],
        "backup": ["backup", small.source, "--to", small.repo, "--quiet"],
    }


# --- versions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [3, 1, 0, 4_000_000_000])
def test_a_repository_of_an_unknown_version_is_left_alone(version: int, small: Small, commands: Commands) -> None:
    async def set_version() -> None:
        repository = await open_repository(small.repo, PASSWORD)
        async with repository.provider:
            config = json.loads(repository.master.open((small.repo / "config").read_bytes()))
            config["version"] = version
            (small.repo / "config").write_bytes(repository.master.seal(json.dumps(config).encode()))

    asyncio.run(set_version())
    before = hashes_below(small.repo)
    for words in every_command(small).values():
        assert_one_line(commands.run(*words, password=PASSWORD), 1, f"format version {version}", "restic migrate")
    assert hashes_below(small.repo) == before
    assert not small.target.exists()


# --- a repository that cannot be written -----------------------------------------------------------------------------


def assert_only_reads(
    small: Small, commands: Commands, uid: int | None = None, env: dict[str, str] | None = None
) -> None:
    """Listings and a restore work without a lock and say so; a backup says what it lacks."""
    before = hashes_below(small.repo)
    for command, words in every_command(small).items():
        done = commands.run(*words, password=PASSWORD, uid=uid, env=env)
        if command == "backup":
            assert_one_line(done, 1, str(small.repo), "Grant the rights")
        else:
            assert_one_line(done, 0, "may not be written, so it is read without a lock")
    assert hashes_below(small.repo) == before


@pytest.mark.root
def test_a_repository_on_a_read_only_disk_is_listed_and_restored(
    small: Small, commands: Commands, tmpfs: Callable[[int], Path]
) -> None:
    disk = tmpfs(8 << 20)
    shutil.copytree(small.repo, disk / "repo")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    mounted = Small(small.folder, disk / "repo", small.source, small.first, small.second)
    assert_only_reads(mounted, commands)
    assert_same_tree(small.source, small.restored())


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can reach."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="backupiq-open-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def home_of_nobody(folder: Path) -> Path:
    home = folder / "home"
    home.mkdir(mode=0o700)
    os.chown(home, NOBODY, NOBODY)
    return home


@pytest.fixture
def warm(small: Small, commands: Commands) -> Commands:
    """The commands with everything imported: the interpreter's own files may be closed to other users."""
    for words in every_command(small).values():
        assert commands.run(*words, password=PASSWORD).returncode == 0
    shutil.rmtree(small.target)
    return commands


@pytest.mark.root
def test_a_repository_that_another_user_may_only_read_is_listed_and_restored(
    small: Small, warm: Commands, open_folder: Path
) -> None:
    shutil.copytree(small.repo, open_folder / "repo")
    for path in (open_folder / "repo", *(open_folder / "repo").rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o444)
    source = open_folder / "source"
    shutil.copytree(small.source, source, symlinks=True)
    home = home_of_nobody(open_folder)
    theirs = Small(home, open_folder / "repo", source, small.first, small.second)
    assert_only_reads(theirs, warm, uid=NOBODY, env=isolated_home(home))
    restored = theirs.target / small.source.relative_to("/")
    assert (restored / "file-0").read_bytes() == (small.source / "file-0").read_bytes()


@pytest.mark.root
@pytest.mark.parametrize("closed", ["destination", "folder above it"])
def test_a_destination_that_is_closed_to_this_user_is_said(
    closed: str, small: Small, warm: Commands, open_folder: Path
) -> None:
    source = open_folder / "source"
    shutil.copytree(small.source, source, symlinks=True)
    place = open_folder / "place"
    place.mkdir(mode=0o755 if closed == "folder above it" else 0o700)
    repo = place / "new" if closed == "folder above it" else place
    home = home_of_nobody(open_folder)
    around = Surroundings.of(open_folder, but="home")
    done = warm.run("backup", source, "--to", repo, "--quiet", password=PASSWORD, uid=NOBODY, env=isolated_home(home))
    assert_one_line(done, 1, str(repo), "Permission denied")
    around.assert_untouched()


def test_a_destination_that_is_a_file_is_refused(small: Small, commands: Commands, tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("Dear Ada")
    for place in (tmp_path / "letter", tmp_path / "letter" / "below"):
        for words in (
            ["backup", small.source, "--to", place, "--quiet"],
            ["snapshots", "--repo", place],
            ["restore", "latest", "--repo", place, "--target", small.target, "--quiet"],
        ):
            done = commands.run(*words, password=PASSWORD)
            assert done.returncode in (1, 10)
            (line,) = done.stderr.splitlines()
            assert str(tmp_path / "letter") in line
    assert (tmp_path / "letter").read_text() == "Dear Ada"


# --- sources ---------------------------------------------------------------------------------------------------------


def test_a_source_that_does_not_exist_is_refused_and_makes_no_snapshot(small: Small, commands: Commands) -> None:
    before = hashes_below(small.repo)
    done = commands.run("backup", small.source, small.folder / "gone", "--to", small.repo, "--quiet", password=PASSWORD)
    assert_one_line(done, 1, f"does not exist: {small.folder / 'gone'}", "Check the path")
    assert hashes_below(small.repo) == before


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_an_empty_source_is_backed_up_and_restored(
    kind: str, small: Small, commands: Commands, restic_old: Restic, tmp_path: Path
) -> None:
    source = tmp_path / "empty"
    source.mkdir() if kind == "folder" else source.touch()
    assert commands.run("backup", source, "--to", small.repo, "--quiet", password=PASSWORD).returncode == 0
    done = commands.run(
        "restore", "latest", "--repo", small.repo, "--target", small.target, "--quiet", password=PASSWORD
    )
    assert done.returncode == 0
    restored = small.target / source.relative_to("/")
    assert (list(restored.iterdir()) if kind == "folder" else restored.read_bytes()) in ([], b"")
    assert "no errors were found" in restic_old.run("check", repo=small.repo, password=PASSWORD).stdout


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder that someone backs up into a folder of itself."""
    folder = tmp_path / "home"
    (folder / "documents").mkdir(parents=True)
    (folder / "documents" / "letter").write_text("Dear Ada")
    (folder / "backups").mkdir()
    (folder / "data").mkdir()
    (folder / "data" / "own").write_text("not the repository's data")
    return folder


def back_up(commands: Commands, source: Path, repo: Path) -> tuple[dict[str, object], str]:
    done = commands.run("backup", source, "--to", repo, "--json", password=PASSWORD)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


@pytest.mark.parametrize("how", ["plain", "through a symlink", "the source itself"])
def test_a_repository_inside_the_source_does_not_back_itself_up(
    how: str, commands: Commands, restic_old: Restic, home: Path, tmp_path: Path
) -> None:
    repo = home / "backups" / "repo"
    if how == "the source itself":
        repo = home
        for name in ("documents", "data", "backups"):
            shutil.rmtree(home / name)
    named = repo
    if how == "through a symlink":
        (tmp_path / "link").symlink_to(home / "backups")
        named = tmp_path / "link" / "repo"
    back_up(commands, home, named)
    (home / "documents").mkdir(exist_ok=True)
    (home / "documents" / "new").write_text("new")
    report, errors = back_up(commands, home, named)
    third, _ = back_up(commands, home, named)
    assert "lies inside what is backed up" in errors
    assert any("lies inside what is backed up" in str(warning) for warning in report["warnings"])  # type: ignore[attr-defined]
    assert third["bytes_read"] == 0
    listed = commands.run("ls", "latest", "--repo", repo, password=PASSWORD).stdout
    assert str(home / "documents" / "new") in listed
    assert not any(name in listed for name in pack_sizes(repo))
    assert how == "the source itself" or str(home / "data" / "own") in listed
    assert "no errors were found" in restic_old.run("check", repo=repo, password=PASSWORD).stdout
    assert locks_of(repo) == []


def test_a_repository_beside_the_source_is_not_spoken_of(commands: Commands, home: Path) -> None:
    _, errors = back_up(commands, home / "documents", home / "backups" / "repo")
    assert "lies inside" not in errors


def test_a_restore_into_a_target_that_is_a_file_or_closed_is_said(small: Small, commands: Commands) -> None:
    (small.folder / "target").write_text("Dear Ada")
    done = commands.run(*every_command(small)["restore"], password=PASSWORD)
    assert_one_line(done, 1, str(small.target), "another folder")
    assert (small.folder / "target").read_text() == "Dear Ada"
    assert os.listdir(small.repo / "locks") == []

"""A damaged repository: every command says in one clear line which file is damaged and what to do, and changes nothing.

Each kind of object is damaged in each way, and each command meets each of them. What the damage does not touch goes
on: a listing of snapshots needs no packs, a restore goes on past the files of a damaged pack, and a backup stores again
what it finds missing.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.faults.conftest import Small
from tests.faults.damage import DAMAGES, OBJECTS, damage, victims
from tests.faults.driver import Commands
from tests.faults.support import Surroundings, files_of, locks_of, misnamed
from tests.support.compare import assert_same_tree
from tests.support.programs import Completed
from tests.unit.repository.repositories import PASSWORD

READING = ("snapshots", "ls", "stats", "restore")

# The commands that fail with exit code 1 for each kind of object, however it is damaged; all others end with 0.
FAILING = {
    "data pack": {"restore"},
    "tree pack": {"ls", "stats", "restore"},
    "index": {"ls", "stats", "restore"},
    "key": set(READING),
    "config": set(READING),
    "snapshot": set(READING),
}
# A file that is not there is another thing: there may be none, or it is another's.
MISSING = {"key": 12, "config": 10, "snapshot": 0}
WHAT_TO_DO = ("restic", "copy", "Check the p")


def expected(command: str, kind: str, how: str) -> int:
    if how == "missing" and kind in MISSING:
        return MISSING[kind]
    return 1 if command in FAILING[kind] else 0


def arguments(command: str, small: Small) -> list[str | Path]:
    own: dict[str, list[str | Path]] = {
        "snapshots": ["snapshots"],
        "ls": ["ls", "latest"],
        "stats": ["stats"],
        "restore": ["restore", "latest", "--target", small.target, "--quiet"],
    }
    return [*own[command], "--repo", small.repo]


def assert_clear(done: Completed, kind: str, how: str, names: list[str]) -> None:
    """Lines of ours only; the first one names a damaged file and says what to do."""
    lines = done.stderr.splitlines()
    assert lines
    assert all(line.startswith("backupiq: ") for line in lines), done.stderr
    assert "Traceback" not in done.stderr
    assert "Prefect ended" not in done.stderr
    assert any(hint in lines[0] for hint in WHAT_TO_DO), lines[0]
    if how != "missing" or "pack" in kind:
        assert any(name in lines[0] for name in names), f"{names} not in {lines[0]}"


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("kind", OBJECTS)
def test_reading_commands_name_what_is_damaged_and_change_nothing(
    kind: str, how: str, small: Small, commands: Commands
) -> None:
    victim, other = victims(small.repo, kind, small.second)
    damage(victim, other, how)
    names = [victim.name, *([other.name] if how == "swapped" else [])]
    before = files_of(small.repo)
    around = Surroundings.of(small.folder, but="target")
    for command in READING:
        done = commands.run(*arguments(command, small), password=PASSWORD)
        assert done.returncode == expected(command, kind, how), (command, done.stderr)
        if done.returncode:
            assert_clear(done, kind, how, names)
        else:
            assert done.stderr == "", command
    assert files_of(small.repo) == before
    assert locks_of(small.repo) == []
    around.assert_untouched()


# What a backup does: its exit code, and whether what it stored can be restored after it.
BACKUP = {
    "data pack": {"truncated": 0, "empty": 0, "missing": 0},
    "tree pack": {"truncated": 0, "empty": 0, "flipped": 0, "swapped": 0, "missing": 0},
    "index": {"truncated": 1, "empty": 1, "flipped": 1, "swapped": 1, "missing": 0},
    "key": {"truncated": 1, "empty": 1, "flipped": 1, "swapped": 1, "missing": 12},
    "config": {"truncated": 1, "empty": 1, "flipped": 1, "swapped": 1, "missing": 10},
    "snapshot": dict.fromkeys(DAMAGES, 0),
}


@pytest.mark.parametrize(("kind", "how"), [(kind, how) for kind, ways in BACKUP.items() for how in ways])
def test_a_backup_refuses_or_makes_good_what_is_damaged(kind: str, how: str, small: Small, commands: Commands) -> None:
    victim, other = victims(small.repo, kind, small.second)
    damage(victim, other, how)
    before = files_of(small.repo)
    done = commands.run("backup", small.source, "--host", "here", "--to", small.repo, "--quiet", password=PASSWORD)
    assert done.returncode == BACKUP[kind][how], done.stderr
    after = files_of(small.repo)
    assert before.items() <= after.items(), "a file of the repository was changed or removed"
    assert locks_of(small.repo) == []
    if done.returncode:
        assert after == before
        assert len(done.stderr.splitlines()) == 1
        assert_clear(done, kind, how, [victim.name, other.name])
        return
    if how != "missing" or "pack" in kind:
        assert "restic check" in done.stderr, "the damage is not told"
        assert "warning" in done.stderr
    assert set(misnamed(small.repo)) <= before.keys(), "what was stored anew is damaged"
    restored = commands.run(
        "restore", "latest", "--target", small.target, "--quiet", "--repo", small.repo, password=PASSWORD
    )
    if kind == "snapshot" and how != "missing":
        # Which one is the latest cannot be known while one cannot be read; by its id it is restored.
        assert restored.returncode == 1
        new = next(line.split()[1] for line in done.stdout.splitlines() if line.startswith("snapshot:"))
        restored = commands.run(
            "restore", new, "--target", small.target, "--quiet", "--repo", small.repo, password=PASSWORD
        )
    assert restored.returncode == 0, restored.stderr
    assert_same_tree(small.source, small.restored())


def test_a_restore_goes_on_past_the_files_of_a_damaged_pack(small: Small, commands: Commands) -> None:
    damage(*victims(small.repo, "data pack", small.second), "flipped")
    done = commands.run(*arguments("restore", small), password=PASSWORD)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    left_out = Path(line.split("could not be restored: ")[1].split(":")[0])
    restored = {path.name for path in small.restored().rglob("*")}
    assert restored == {path.name for path in small.source.rglob("*")} - {left_out.name}


def test_an_undamaged_snapshot_is_listed_and_restored_beside_a_damaged_one(small: Small, commands: Commands) -> None:
    damage(*victims(small.repo, "snapshot", small.second), "flipped")
    listed = commands.run("snapshots", "--repo", small.repo, password=PASSWORD)
    assert small.first[:8] in listed.stdout
    assert small.second in listed.stderr
    for command in (["ls", small.first], ["restore", small.first, "--target", str(small.target), "--quiet"]):
        done = commands.run(*command, "--repo", small.repo, password=PASSWORD)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", [*READING, "backup"])
def test_a_wrong_password_ends_with_12_and_changes_nothing(command: str, small: Small, commands: Commands) -> None:
    before = files_of(small.repo)
    words = ["backup", small.source, "--to", small.repo] if command == "backup" else arguments(command, small)
    done = commands.run(*words, password="a password of nobody")
    assert done.returncode == 12
    assert "opens no key" in done.stderr.splitlines()[-1]
    assert "a password of nobody" not in done.stderr
    assert files_of(small.repo) == before
    assert not small.target.exists()


@pytest.mark.parametrize("place", ["missing", "empty", "other things"])
@pytest.mark.parametrize("command", READING)
def test_no_repository_ends_with_10_and_makes_nothing(
    command: str, place: str, small: Small, commands: Commands
) -> None:
    shutil.rmtree(small.repo)
    if place != "missing":
        small.repo.mkdir()
    if place == "other things":
        (small.repo / "letter.txt").write_text("Dear Ada")
    around = Surroundings.of(small.folder, but="nothing")
    done = commands.run(*arguments(command, small), password=PASSWORD)
    assert done.returncode == 10
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("backupiq: There is no repository at")
    assert "backupiq init" in line
    around.assert_untouched()


def test_a_backup_leaves_a_folder_with_other_things_alone(small: Small, commands: Commands) -> None:
    shutil.rmtree(small.repo)
    small.repo.mkdir()
    (small.repo / "letter.txt").write_text("Dear Ada")
    around = Surroundings.of(small.folder, but="nothing")
    done = commands.run("backup", small.source, "--to", small.repo, "--quiet", password=PASSWORD)
    assert done.returncode == 10
    assert "is not empty and holds no repository" in done.stderr
    around.assert_untouched()


def test_without_any_key_file_the_repository_is_damaged_and_not_new(small: Small, commands: Commands) -> None:
    shutil.rmtree(small.repo / "keys")
    before = files_of(small.repo)
    for words in (arguments("restore", small), ["backup", small.source, "--to", small.repo, "--quiet"]):
        done = commands.run(*words, password=PASSWORD)
        assert done.returncode == 1
        assert "has no key file" in done.stderr.splitlines()[-1]
    assert files_of(small.repo) == before

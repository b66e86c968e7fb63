"""Several replicas on the command line: heal, init that adds a destination, and reading while one is damaged."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import PASSWORD, Sample
from tests.faults.driver import Commands
from tests.support.compare import assert_same_tree
from tests.support.prefect_server import PrefectServer
from tests.support.programs import Argument, Completed, Restic, isolated_home, parse_json, plain_environment
from tests.unit.replicas.replicas import copy_of, key_of, locks, objects, spoil


@pytest.fixture(scope="module")
def commands(prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """Runs command lines in one process that has Prefect loaded."""
    home = tmp_path_factory.mktemp("home")
    running = Commands(plain_environment() | isolated_home(home) | prefect_server.settings(home), home)
    try:
        yield running
    finally:
        running.close()


@dataclasses.dataclass(frozen=True)
class Run:
    """Runs a command line as a user who remembers nothing of other tests."""

    commands: Commands
    home: Path

    def __call__(self, *arguments: Argument, password: str = PASSWORD, check: bool = True) -> Completed:
        folders = {"XDG_STATE_HOME": str(self.home / "state"), "XDG_CONFIG_HOME": str(self.home / "config")}
        done = self.commands.run(*arguments, password=password, env=folders)
        assert done.returncode == 0 or not check, done.stderr
        return done

    def json(self, *arguments: Argument, password: str = PASSWORD) -> Any:
        return parse_json(self(*arguments, "--json", password=password).stdout)


@pytest.fixture
def run(commands: Commands, tmp_path: Path) -> Run:
    return Run(commands, tmp_path / "home")


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two replicas of the sample's repository, and the options that name them."""

    here: Path
    there: Path
    sample: Sample

    @property
    def named(self) -> list[str]:
        return ["--repo", str(self.here), "--repo", str(self.there)]


@pytest.fixture
def pair(sample: Sample, tmp_path: Path) -> Pair:
    return Pair(copy_of(sample.repo, tmp_path / "here"), copy_of(sample.repo, tmp_path / "there"), sample)


# --- heal ----------------------------------------------------------------------------------------------------------


def test_heal_shows_its_plan_heals_to_the_byte_and_restic_finds_no_errors(
    run: Run, restic_old: Restic, pair: Pair
) -> None:
    right = objects(pair.sample.repo)
    for kind, how in (("data", "flipped"), ("index", "missing"), ("keys", "truncated"), ("config", "missing")):
        spoil(pair.there, key_of(pair.here, kind), how)
    before = objects(pair.there)
    shown = run("heal", "--dry-run", "--read-data", *pair.named)
    assert objects(pair.there) == before
    assert f"{pair.here}: {len(right)} objects, nothing to heal" in shown.stdout
    assert f"{pair.there}: {len(right) - 2} objects, 2 missing, 1 truncated, 1 damaged" in shown.stdout
    assert f"{pair.there}: 1 config missing, 1 index missing, 1 key truncated, 1 pack damaged" in shown.stderr
    assert "to copy:   4 objects" in shown.stdout
    done = run.json("heal", "--read-data")  # the replicas of the last run
    assert (done["exit_code"], done["objects_copied"], done["lost"], done["failures"]) == (0, 4, [], [])
    assert [replica["copied"] for replica in done["replicas"]] == [0, 4]
    assert objects(pair.here) == objects(pair.there) == right
    assert locks(pair.there) == []
    assert "no errors were found" in restic_old.run("check", "--read-data", repo=pair.there, password=PASSWORD).stdout


def test_heal_ends_with_4_when_a_replica_is_away_and_1_when_an_object_is_damaged_everywhere(
    run: Run, pair: Pair, tmp_path: Path
) -> None:
    key = key_of(pair.here, "snapshots")
    spoil(pair.here, key, "missing")
    away = run("heal", *pair.named, "--repo", tmp_path / "away", check=False)
    assert away.returncode == 4
    assert f"{tmp_path / 'away'}: left out" in away.stdout
    assert objects(pair.here) == objects(pair.there)
    for folder in (pair.here, pair.there):
        spoil(folder, key, "flipped")
    lost = run("heal", *pair.named, "--json", check=False)
    assert lost.returncode == 1
    assert json.loads(lost.stdout)["lost"] == [key]
    assert f"no replica holds {key} right" in lost.stderr


def test_heal_wants_two_replicas_of_one_repository_and_its_password(run: Run, pair: Pair) -> None:
    alone = run("heal", "--repo", pair.here, check=False)
    assert (alone.returncode, alone.stderr.count("\n")) == (1, 1)
    assert "at least two" in alone.stderr
    assert "password is not known" in run("heal", *pair.named, password="", check=False).stderr


def test_heal_with_a_wrong_password_ends_with_12(run: Run, pair: Pair) -> None:
    wrong = run("heal", *pair.named, password="wrong", check=False)
    assert wrong.returncode == 12
    assert "BACKUPIQ_PASSWORD opens no key" in wrong.stderr.splitlines()[-1]


# --- reading -------------------------------------------------------------------------------------------------------


def test_reading_commands_answer_the_same_while_replicas_are_damaged(run: Run, pair: Pair) -> None:
    commands = (
        ["snapshots", "--json"],
        ["ls", "latest", "--json"],
        ["diff", pair.sample.first, pair.sample.second, "--json"],
        ["stats", "--json"],
        ["key", "list", "--json"],
    )
    right = [run(*command, "--repo", pair.sample.repo).stdout for command in commands]
    for key in objects(pair.sample.repo):
        folder = {"config": pair.here, "index": pair.here, "snapshots": pair.there}.get(key.split("/")[0])
        if folder is not None:
            spoil(folder, key, "flipped")
        elif key.startswith("data/"):
            spoil(pair.here, key, "truncated")
    shutil.rmtree(pair.here / "keys")
    for command, wanted in zip(commands, right, strict=True):
        done = run(*command, *pair.named)
        assert done.stdout == wanted
        assert "backupiq heal" in done.stderr
    last = run("ls", "latest", "--json")  # the replicas of the last run serve
    assert last.stdout == right[1]
    assert locks(pair.here) == locks(pair.there) == []


def test_a_restore_survives_damage_at_one_replica_and_says_which(run: Run, pair: Pair, tmp_path: Path) -> None:
    for key in objects(pair.here):
        if key.startswith("data/"):
            spoil(pair.here, key, "flipped")
    done = run("restore", pair.sample.second, "--target", tmp_path / "back", *pair.named)
    assert f"damaged at {pair.here}" in done.stderr
    assert_same_tree(pair.sample.source, tmp_path / "back" / pair.sample.source.relative_to("/"), ignore={"root"})


def test_different_repositories_are_not_read_as_one(run: Run, pair: Pair, tmp_path: Path) -> None:
    run("init", "--to", tmp_path / "other")
    done = run("snapshots", "--repo", tmp_path / "other", *pair.named, check=False)
    assert done.returncode == 1
    assert "different repositories" in done.stderr


# --- init ----------------------------------------------------------------------------------------------------------


def test_init_adds_a_destination_to_a_repository_that_exists(
    run: Run, restic: Restic, sample: Sample, tmp_path: Path
) -> None:
    new = tmp_path / "new"
    run("snapshots", "--repo", sample.repo)
    done = run("init", "--repo", sample.repo, "--to", new)
    assert f"added {new} to repository" in done.stdout
    assert objects(new) == objects(sample.repo)
    assert "no errors were found" in restic.run("check", "--read-data", repo=new, password=PASSWORD).stdout
    assert f"{sample.repo}, {new}" in run("snapshots").stderr
    again = run("init", "--to", sample.repo, "--to", new, check=False)
    assert again.returncode == 1
    assert "backupiq heal" in again.stderr


def test_init_makes_a_repository_at_several_destinations(run: Run, restic_old: Restic, tmp_path: Path) -> None:
    made = run.json("init", "--to", tmp_path / "a", "--to", tmp_path / "b")
    assert (made["created"], made["added"], made["complete"]) == (True, [str(tmp_path / "b")], True)
    assert objects(tmp_path / "a") == objects(tmp_path / "b") != {}
    for place in ("a", "b"):
        assert restic_old.json("cat", "config", repo=tmp_path / place, password=PASSWORD)["id"] == made["id"]


def test_of_several_destinations_the_one_that_holds_a_repository_is_the_model_for_the_others(
    run: Run, own_sample: Sample, tmp_path: Path
) -> None:
    made = run.json("init", "--to", tmp_path / "b", "--to", own_sample.repo)
    assert (made["created"], made["repository"]) == (False, str(own_sample.repo))
    assert objects(tmp_path / "b") == objects(own_sample.repo)


def test_init_refuses_to_add_what_holds_another_repository_or_to_add_to_nothing(
    run: Run, own_sample: Sample, tmp_path: Path
) -> None:
    run("init", "--to", tmp_path / "other")
    before = objects(tmp_path / "other")
    done = run("init", "--repo", own_sample.repo, "--to", tmp_path / "other", check=False)
    assert done.returncode == 1
    assert "another repository" in done.stderr
    assert objects(tmp_path / "other") == before
    nothing = run("init", "--repo", tmp_path / "none", "--to", tmp_path / "new", check=False)
    assert nothing.returncode == 10
    assert not (tmp_path / "new").exists()


def test_the_password_kept_for_a_repository_is_kept_for_its_new_replica_too(run: Run, tmp_path: Path) -> None:
    run("init", "--to", tmp_path / "a", password="")
    run("init", "--repo", tmp_path / "a", "--to", tmp_path / "b", password="")
    shutil.rmtree(tmp_path / "a")
    assert run.json("snapshots", "--repo", tmp_path / "b", password="") == []

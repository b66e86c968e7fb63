"""One run stores the same repository at a folder and at four clouds, and each of them alone gives everything back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.faults.driver import Commands
from tests.interop.cloud_support import (
    CLOUDS,
    KINDS,
    Clouds,
    Replica,
    assert_identical,
    on_disk,
    running_clouds,
    to_each,
)
from tests.interop.support import PASSWORD, assert_clean, below, console_script, make_small_tree
from tests.support.compare import assert_same_tree
from tests.support.prefect_server import PrefectServer
from tests.support.programs import BackupIQ, Completed, Restic, parse_json, run_program

PROBE_AT_ONCE = {"BACKUPIQ_BREAKER_COOLDOWN": "0.001"}
"""The breaker that a failed run opened lets the next one try at once."""


@pytest.fixture(scope="module")
def clouds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clouds]:
    with running_clouds(tmp_path_factory.mktemp("clouds")) as running:
        yield running


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory, prefect_server: PrefectServer) -> Iterator[BackupIQ]:
    with console_script(tmp_path_factory, prefect_server) as script:
        yield script


@pytest.fixture(scope="module")
def commands(clouds: Clouds, program: BackupIQ) -> Iterator[Commands]:
    """The same home and servers as ``program``, without its start-up."""
    running = Commands(program.environment(env={**clouds.environment, **PROBE_AT_ONCE}), program.home)
    try:
        yield running
    finally:
        running.close()


@dataclass(frozen=True)
class Stored:
    """Two runs to five destinations: what they said, and what each destination held after each of them."""

    source: Path
    replicas: dict[str, Replica]
    reports: list[dict[str, Any]]
    held: list[dict[str, str]]

    @property
    def everywhere(self) -> list[str]:
        """The destinations as arguments of a backup."""
        return to_each(self.replicas)


@pytest.fixture(scope="module")
def stored(clouds: Clouds, program: BackupIQ, tmp_path_factory: pytest.TempPathFactory) -> Stored:
    base = tmp_path_factory.mktemp("five")
    source, replicas = base / "source", clouds.replicas(base / "local")
    make_small_tree(source, files=120, total_bytes=2_000_000)
    made = Stored(source, replicas, [], [])
    for number in (1, 2):
        (source / "changed").write_bytes(random.Random(number).randbytes(300_000))
        report = program.json("backup", source, *made.everywhere, env=clouds.environment)
        made.reports.append(report)
        made.held.append(assert_identical(replicas))
    return made


def run(commands: Commands, *arguments: str | Path, code: int = 0) -> Completed:
    """Runs a command, which has to end with that exit code."""
    done = commands.run(*arguments, password=PASSWORD)
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    return done


def snapshots_of(held: dict[str, str]) -> set[str]:
    return {key.removeprefix("snapshots/") for key in held if key.startswith("snapshots/")}


def test_one_run_stores_the_same_objects_at_a_folder_and_four_clouds(stored: Stored) -> None:
    first, second = stored.reports
    assert [report["exit_code"] for report in stored.reports] == [0, 0]
    assert first["created_repository"]
    assert not second["created_repository"]
    assert second["parent_id"] == first["snapshot_id"]
    assert second["files_changed"] == 1
    for report in stored.reports:
        assert [each["complete"] for each in report["destinations"]] == [True] * len(KINDS)
        assert report["warnings"] == []
    assert snapshots_of(stored.held[0]) == {first["snapshot_id"]}
    assert snapshots_of(stored.held[1]) == {first["snapshot_id"], second["snapshot_id"]}
    assert stored.held[0].items() < stored.held[1].items(), "the second run added, and changed nothing"
    sent = {each["name"].partition(":")[0]: each["bytes"] for each in second["destinations"]}
    assert all(0 < count < 1_000_000 for count in sent.values()), f"only what is new was sent: {sent}"


@pytest.mark.parametrize("version", ["restic_old", "restic_new"])
def test_restic_checks_and_restores_the_s3_replica_over_the_network(
    request: pytest.FixtureRequest, clouds: Clouds, stored: Stored, version: str, tmp_path: Path
) -> None:
    restic: Restic = request.getfixturevalue(version)
    repo = clouds.restic_repository(stored.replicas["s3"])
    env = restic.environment(repo, PASSWORD) | clouds.s3.environment
    checked = run_program([restic.program, "check", "--read-data"], env=env).stdout
    assert "no errors were found" in checked, checked
    run_program([restic.program, "restore", "latest", "--target", tmp_path], env=env)
    assert_same_tree(stored.source, below(tmp_path, stored.source))
    assert stored.replicas["s3"].locks() == []


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "s3"])
def test_restic_checks_and_restores_each_other_replica_once_it_lies_on_a_disk(
    restic_old: Restic, stored: Stored, kind: str, tmp_path: Path
) -> None:
    repo = stored.replicas[kind].mirror(tmp_path / "mirror")
    assert_clean(restic_old, repo)
    restic_old.run("restore", "latest", "--target", tmp_path / "target", repo=repo, password=PASSWORD)
    assert_same_tree(stored.source, below(tmp_path / "target", stored.source))


@pytest.mark.parametrize("kind", CLOUDS)
def test_each_cloud_alone_gives_the_whole_tree_back(
    commands: Commands, stored: Stored, kind: str, tmp_path: Path
) -> None:
    run(commands, "restore", "latest", "--repo", stored.replicas[kind].url, "--target", tmp_path)
    assert_same_tree(stored.source, below(tmp_path, stored.source))


@pytest.mark.parametrize("words", [("snapshots",), ("ls", "latest"), ("stats",)], ids=lambda words: words[0])
def test_the_commands_that_read_say_the_same_of_a_cloud_as_of_a_folder(
    commands: Commands, stored: Stored, words: tuple[str, ...]
) -> None:
    said = {
        kind: parse_json(run(commands, *words, "--repo", stored.replicas[kind].url, "--json").stdout)
        for kind in ("local", "s3", "icloud")
    }
    assert said["s3"] == said["local"]
    assert said["icloud"] == said["local"]
    assert said["local"]


# --- a destination that comes later, or goes away for a while ------------------------------------------------------


def test_a_sixth_destination_that_comes_later_is_brought_up_to_date(
    commands: Commands, stored: Stored, tmp_path: Path
) -> None:
    """By `init`, out of a cloud alone, and by the next backup."""
    by_init, by_backup = tmp_path / "by init", tmp_path / "by backup"
    run(commands, "init", "--repo", stored.replicas["gcs"].url, "--to", by_init)
    before = assert_identical({**stored.replicas, "sixth": on_disk(by_init)})
    assert len(snapshots_of(before)) >= 2

    done = run(commands, "backup", stored.source, *stored.everywhere, "--to", by_backup, "--json")
    (sixth,) = (each for each in parse_json(done.stdout)["destinations"] if each["name"] == str(by_backup))
    assert sixth["complete"]
    assert sixth["objects_caught_up"] > 0
    after = assert_identical({**stored.replicas, "sixth": on_disk(by_backup)})
    assert before.items() < after.items()


def test_a_run_without_one_cloud_completes_at_the_others_and_the_next_one_catches_it_up(
    clouds: Clouds, commands: Commands, stored: Stored
) -> None:
    others = {kind: replica for kind, replica in stored.replicas.items() if kind != "azure"}
    azure = stored.replicas["azure"]
    before = azure.hashes()
    (stored.source / "changed").write_bytes(random.Random("degraded").randbytes(400_000))
    clouds.azure.stop()
    try:
        degraded = run(commands, "backup", stored.source, *stored.everywhere, "--json", code=4)
    finally:
        clouds.azure.start()
    place = azure.url.partition("?")[0]
    assert f"{place} is not up to date" in degraded.stderr
    report = parse_json(degraded.stdout)
    assert {each["name"]: each["complete"] for each in report["destinations"]} == {
        replica.url.partition("?")[0]: kind != "azure" for kind, replica in stored.replicas.items()
    }
    assert report["snapshot_id"] in snapshots_of(assert_identical(others))
    assert azure.hashes() == before

    done = run(commands, "backup", stored.source, *stored.everywhere, "--json")
    (caught_up,) = (each for each in parse_json(done.stdout)["destinations"] if each["name"] == place)
    assert caught_up["complete"]
    assert caught_up["objects_caught_up"] > 0
    assert report["snapshot_id"] in snapshots_of(assert_identical(stored.replicas))

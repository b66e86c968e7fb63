"""The heal flow, and a restore from several replicas, on a real Prefect server."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from pathlib import Path

import pytest
from pydantic import SecretStr

from backupiq.errors import RepositoryLockedError, RepositoryMissingError, StorageAuthenticationError, ValidationError
from backupiq.profile import HealOptions, RestoreOptions
from backupiq.progress import SilentProgress
from backupiq.replicas.report import HealReport
from backupiq.repository.locking import RepositoryLock
from backupiq.repository.repository import Repository
from backupiq.storage.local import LocalProvider
from tests.flows.conftest import Flows
from tests.unit.replicas.replicas import copy_of, key_of, locks, make_repository, objects, spoil
from tests.unit.repository.repositories import PASSWORD


class Noting(SilentProgress):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return asyncio.run(make_repository(tmp_path_factory.mktemp("original")))


@pytest.fixture
def pair(original: Path, tmp_path: Path) -> tuple[Path, Path]:
    return copy_of(original, tmp_path / "here"), copy_of(original, tmp_path / "there")


def heal(*replicas: Path, progress: Noting | None = None, **options: bool) -> HealReport:
    from flows.launch import run_heal

    wanted = HealOptions(repo=[str(replica) for replica in replicas], **options)
    return run_heal(wanted, password=SecretStr(PASSWORD), progress=progress or Noting())


def test_a_healing_is_named_shows_its_plan_and_makes_the_replicas_the_same(
    flows: Flows, pair: tuple[Path, Path], original: Path, tmp_path: Path
) -> None:
    here, there = pair
    for kind, how in (("config", "missing"), ("data", "truncated"), ("index", "flipped"), ("snapshots", "missing")):
        spoil(there, key_of(original, kind), how)
    spoil(here, key_of(original, "keys"), "missing")
    progress = Noting()
    report = heal(here, there, progress=progress)
    assert objects(here) == objects(there) == objects(original)
    assert (report.exit_code, report.outcome.objects) == (0, 5)
    assert progress.notes == [
        f"{here}: 1 key missing",
        f"{there}: 1 config missing, 1 snapshot missing, 1 pack truncated, 1 index damaged",
    ]
    assert (locks(here), locks(there)) == ([], [])
    assert list((tmp_path / "spool").iterdir()) == []
    run = report.flow_run_id
    assert run is not None
    assert flows.api.flow_run(run)["name"] == "heal here, there"
    tasks = {task["name"] for task in flows.api.finished_tasks(run, 12)}
    assert tasks == {
        *(f"{step} {place}" for step in ("list", "read", "compare") for place in ("here", "there")),
        "plan the copies",
        *(f"copy {kind}" for kind in ("keys", "config", "data", "index", "snapshots")),
    }
    shown = {artifact["key"]: artifact["data"] for artifact in flows.api.of_run("artifacts", run)}
    assert "1 pack truncated" in shown["heal-plan"]
    assert "heal-copies" in shown
    assert f"| `{there}` | 8 |" in shown["heal-summary"]


def test_a_dry_run_shows_the_plan_and_copies_nothing(flows: Flows, pair: tuple[Path, Path], original: Path) -> None:
    here, there = pair
    spoil(there, key_of(original, "data"), "flipped")
    before = objects(there)
    report = heal(here, there, dry_run=True, read_data=True)
    assert objects(there) == before
    assert [(action.target, action.reason.value) for action in report.outcome.plan.actions] == [(str(there), "damaged")]
    assert report.to_dict()["exit_code"] == 0
    assert report.flow_run_id is not None
    tasks = flows.api.finished_tasks(report.flow_run_id, 5)
    assert not [task for task in tasks if task["name"].startswith("copy")]


def test_a_replica_that_is_away_makes_the_run_end_with_4_and_the_others_are_healed(
    flows: Flows, pair: tuple[Path, Path], original: Path, tmp_path: Path
) -> None:
    here, there = pair
    spoil(there, key_of(original, "index"), "missing")
    report = heal(tmp_path / "unplugged", here, there)
    assert report.exit_code == 4
    assert "unplugged" in (report.outcome.replicas[0].left_out or "")
    assert objects(there) == objects(original)


def test_a_replica_whose_breaker_is_open_is_left_out(
    flows: Flows, pair: tuple[Path, Path], original: Path, tmp_path: Path
) -> None:
    from flows.guard import Breakers, guarding

    here, there = pair
    third = copy_of(original, tmp_path / "third")
    spoil(here, key_of(original, "index"), "missing")
    spoil(third, key_of(original, "index"), "missing")

    async def trip() -> None:
        async with guarding(Breakers()) as breakers:
            provider = LocalProvider(third)
            with contextlib.suppress(StorageAuthenticationError):
                async with breakers.for_destination(provider.identity, provider.location).attempt():
                    raise StorageAuthenticationError

    asyncio.run(trip())
    report = heal(here, there, third)
    assert report.exit_code == 4
    assert report.outcome.replicas[2].left_out
    assert objects(here) == objects(original)
    assert len(objects(third)) == len(objects(original)) - 1


def test_a_replica_that_somebody_prunes_is_waited_for_and_then_nothing_is_done(
    flows: Flows, pair: tuple[Path, Path], original: Path
) -> None:
    here, there = pair
    spoil(here, key_of(original, "index"), "missing")

    async def lock() -> None:
        provider = LocalProvider(there)
        await RepositoryLock.acquire(await Repository.open(provider, PASSWORD), exclusive=True, hostname="elsewhere")

    asyncio.run(lock())
    with pytest.raises(RepositoryLockedError):
        heal(here, there)
    assert len(objects(here)) == len(objects(original)) - 1
    assert locks(here) == []


def test_what_is_no_replica_of_the_same_repository_ends_the_run(
    flows: Flows, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    stranger = asyncio.run(make_repository(tmp_path / "other"))
    with pytest.raises(ValidationError, match="different repositories"):
        heal(pair[0], stranger)
    with pytest.raises(RepositoryMissingError):
        heal(tmp_path / "nothing", tmp_path / "nothing-either")


def test_a_restore_takes_each_object_from_a_replica_that_holds_it_right(
    flows: Flows, pair: tuple[Path, Path], original: Path, tmp_path: Path
) -> None:
    from flows.launch import run_restore

    here, there = pair
    for key in [key for key in objects(original) if key.startswith("data/")]:
        spoil(here, key, "flipped")
    spoil(here, key_of(original, "snapshots"), "missing")
    shutil.rmtree(there / "keys")
    progress = Noting()
    options = RestoreOptions(repo=[str(here), str(there)], target=str(tmp_path / "back"))
    summary = run_restore(options, password=SecretStr(PASSWORD), progress=progress)
    alone = RestoreOptions(repo=str(original), target=str(tmp_path / "right"))
    run_restore(alone, password=SecretStr(PASSWORD), progress=SilentProgress())
    assert (summary.exit_code, summary.files) == (0, 4)
    for path in (tmp_path / "right").rglob("file-*"):
        assert (tmp_path / "back" / path.relative_to(tmp_path / "right")).read_bytes() == path.read_bytes()
    assert any(f"damaged at {here}" in note for note in progress.notes)
    assert summary.flow_run_id is not None
    assert flows.api.flow_run(summary.flow_run_id)["name"] == "restore latest of here, there -> back"

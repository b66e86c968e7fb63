"""How destinations are: what is wrong is told and ends nothing; breakers are those that all runs share."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import pytest

import flows.providers
from backupiq.errors import OrchestrationError, StorageAuthenticationError, UnknownDestinationError
from backupiq.resilience.breaker import breaker_key
from backupiq.resilience.breaker_state import BreakerPolicy
from backupiq.storage.local import LocalProvider
from backupiq.storage.provider import StorageInfo
from flows.guard import Breakers
from flows.providers import DestinationStatus, look_at, reset, survey
from tests.flows.conftest import Api


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A folder that looks like a repository whose newest snapshot is of a known time."""
    folder = tmp_path / "vault"
    (folder / "snapshots").mkdir(parents=True)
    (folder / "config").write_bytes(b"config")
    for name, seconds in (("a" * 64, 1_700_000_000), ("b" * 64, 1_700_003_600), ("c" * 64, 1_600_000_000)):
        (folder / "snapshots" / name).write_bytes(b"snapshot")
        os.utime(folder / "snapshots" / name, (seconds, seconds))
    return folder


@pytest.fixture
async def open_breaker(api: Api, repository: Path) -> str:
    """The repository's breaker, opened by a run that was refused; its key."""
    provider = LocalProvider(repository)
    breakers = Breakers(policy=BreakerPolicy(cooldown=3000.0))
    breaker = breakers.for_destination(provider.identity, provider.location)
    with pytest.raises(StorageAuthenticationError):
        async with breaker.attempt():
            raise StorageAuthenticationError("The destination refused the credentials. Renew them.")
    await breakers.close()
    return breaker.key


async def test_a_destination_tells_its_space_and_when_a_snapshot_last_arrived(repository: Path) -> None:
    found = await look_at(str(repository))
    assert (found.kind, found.location, found.problem, found.repository) == ("local", str(repository), None, True)
    assert found.newest_snapshot_ns == 1_700_003_600 * 10**9
    assert found.space is not None
    assert found.space.free_bytes
    told = found.to_dict()
    assert told["newest_snapshot"] == "2023-11-14T23:13:20+00:00"
    assert told["usable"] is True
    assert told["breaker"] is None


async def test_an_empty_place_is_no_problem(tmp_path: Path) -> None:
    found = await look_at(str(tmp_path))
    assert (found.problem, found.repository, found.newest_snapshot_ns, found.usable) == (None, False, None, True)


async def test_what_is_wrong_with_one_is_told_and_the_others_are_looked_at(
    api: Api, repository: Path, tmp_path: Path
) -> None:
    wrong = [str(tmp_path / "absent"), "ftp://somewhere", "block:absent", "s3://photos?sse=nonsense"]
    found = await survey([*wrong, str(repository)])
    codes = [each.problem and each.problem.code for each in found.destinations]
    assert codes == ["storage.not_found", "validation.destination", "configuration.missing", "validation", None]
    assert [each.usable for each in found.destinations] == [False] * 4 + [True]
    assert [each.kind for each in found.destinations] == ["local", "?", "?", "?", "local"]
    assert found.prefect is None
    assert found.to_dict()["destinations"][0]["problem"]["message"].startswith("There is no folder ")


async def test_a_destination_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Silent(LocalProvider):
        async def authenticate(self) -> StorageInfo:
            await asyncio.Event().wait()
            raise AssertionError("unreachable")

    monkeypatch.setattr(flows.providers, "provider_for", lambda destination: Silent(destination))
    found = await look_at(str(tmp_path), longest_seconds=0.01)
    assert found.problem is not None
    assert found.problem.code == "storage.timeout"


async def test_a_breaker_that_a_run_opened_is_shown_with_its_reason(open_breaker: str, repository: Path) -> None:
    (found,) = (await survey([str(repository)])).destinations
    assert found.breaker is not None
    assert (found.breaker.phase, found.key, found.usable) == ("open", open_breaker, False)
    told = found.to_dict()["breaker"]
    assert told["reason"] == "The destination refused the credentials. Renew them."
    assert told["until"] > told["since"]


async def test_breakers_of_other_destinations_are_shown_only_when_they_are_not_closed(
    open_breaker: str, repository: Path, tmp_path: Path
) -> None:
    found = await survey([str(tmp_path)])
    assert found.destinations[0].breaker is not None
    assert found.destinations[0].breaker.phase == "closed"
    assert found.other_breakers[open_breaker].label == str(repository)
    assert open_breaker in [each["key"] for each in found.to_dict()["other_breakers"]]
    await reset(open_breaker)
    assert open_breaker not in (await survey([str(tmp_path)])).other_breakers


async def test_a_breaker_whose_time_is_over_keeps_no_run_away(open_breaker: str, repository: Path) -> None:
    (found,) = (await survey([str(repository)])).destinations
    assert found.breaker is not None
    later = flows.providers._with_breaker(
        DestinationStatus("x", "local", "x", open_breaker), found.breaker, time.time() + 4000
    )
    assert later.usable


@pytest.mark.parametrize("spelling", ["key", "location", "relative", "block", "block without its prefix"])
async def test_a_breaker_is_closed_by_any_name_of_its_destination(
    spelling: str, open_breaker: str, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from blocks.local_destination import LocalDestination

    monkeypatch.chdir(repository.parent)
    block: Any = LocalDestination(path=repository)
    await block.save("reset-me", overwrite=True)
    names = {
        "key": open_breaker,
        "location": str(repository),
        "relative": repository.name,
        "block": "block:reset-me",
        "block without its prefix": "reset-me",
    }
    (closed,) = await reset(names[spelling])
    assert (closed.key, closed.state.phase) == (open_breaker, "open")
    assert (await survey([str(repository)])).destinations[0].usable
    assert await reset(open_breaker) == []


async def test_a_name_without_a_breaker_is_refused(api: Api) -> None:
    with pytest.raises(UnknownDestinationError, match="No breaker of that name"):
        await reset("never-seen")


async def test_destinations_are_told_without_prefect_too(repository: Path) -> None:
    why = OrchestrationError("Prefect's API does not answer.")
    found = await survey([str(repository)], unreachable=why)
    assert found.prefect is why
    assert found.destinations[0].breaker is None
    assert found.destinations[0].usable
    assert found.to_dict()["prefect"]["code"] == "run.orchestration"


def test_the_key_of_a_breaker_is_that_of_the_guard(repository: Path) -> None:
    found = asyncio.run(look_at(str(repository)))
    assert found.key == breaker_key(LocalProvider(repository).identity)

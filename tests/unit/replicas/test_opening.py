"""Opening a repository at several replicas, of which some may be strangers, damaged or away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from backupiq.errors import (
    CircuitOpenError,
    RepositoryDamagedError,
    RepositoryMissingError,
    StorageConnectionError,
    StorageError,
    ValidationError,
    WrongPasswordError,
)
from backupiq.replicas.opening import (
    Condition,
    Kinship,
    OpenReplicas,
    find_kinship,
    name_replicas,
    open_replicas,
    probe_replicas,
    require_repository,
)
from backupiq.storage.local import LocalProvider
from backupiq.storage.provider import StorageProvider
from tests.unit.replicas.replicas import Faulty, key_of, make_repository, objects, spoil
from tests.unit.repository.repositories import PASSWORD

Replicas = dict[str, Faulty]


async def opened(replicas: Replicas, notes: list[str] | None = None) -> OpenReplicas:
    notes = notes if notes is not None else []
    return await open_replicas(await probe_replicas(replicas), PASSWORD, note=notes.append)


async def test_sound_replicas_are_all_ready(replicas: Replicas, original: Path) -> None:
    found = await opened(replicas)
    assert dict(found.conditions) == dict.fromkeys(replicas, Condition.READY)
    assert found.config == (original / "config").read_bytes()
    assert found.repository.provider is found.provider
    assert found.at(list(replicas)[1]).provider is list(replicas.values())[1]


@pytest.mark.parametrize(
    ("how", "condition"),
    [("missing", Condition.NO_CONFIG), ("flipped", Condition.WRONG_CONFIG), ("truncated", Condition.WRONG_CONFIG)],
)
@pytest.mark.parametrize("position", [0, 2])
async def test_a_replica_whose_config_is_lost_still_serves(
    replicas: Replicas, folders: dict[str, Path], original: Path, how: str, condition: Condition, position: int
) -> None:
    name = list(folders)[position]
    spoil(folders[name], "config", how)
    found = await opened(replicas)
    assert found.conditions[name] is condition
    assert list(found.conditions) == list(replicas)
    assert name in found.provider.replicas
    assert found.config == (original / "config").read_bytes()


async def test_keys_lost_at_one_replica_are_read_from_another(replicas: Replicas, folders: dict[str, Path]) -> None:
    first = next(iter(folders.values()))
    for number in (1, 0):
        spoil(first, key_of(first, "keys", number), "missing")
    assert set((await opened(replicas)).conditions.values()) == {Condition.READY}


async def test_a_config_sealed_another_time_is_not_the_right_one_but_no_stranger(
    replicas: Replicas, folders: dict[str, Path], original: Path
) -> None:
    first = next(iter(folders))
    master = (await opened(replicas)).repository.master
    (folders[first] / "config").write_bytes(master.seal(master.open((original / "config").read_bytes())))
    found = await opened(replicas)
    assert found.conditions[first] is Condition.WRONG_CONFIG
    assert found.config == (original / "config").read_bytes()


async def test_a_replica_that_does_not_answer_is_mentioned_and_asked_last(replicas: Replicas) -> None:
    first = next(iter(replicas))
    replicas[first].fail_always(StorageConnectionError("No route."))
    notes: list[str] = []
    found = await opened(replicas, notes)
    assert found.conditions[first] is Condition.UNREACHABLE
    assert found.errors[first].message == "No route."
    assert notes == ["No route. The next replica is used."]
    replicas[first].calls.clear()
    await found.repository.load_index()
    assert replicas[first].calls == []


async def test_an_empty_destination_is_told_from_a_damaged_one(replicas: Replicas, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    empty = Faulty(tmp_path / "empty")
    notes: list[str] = []
    found = await opened({"empty": empty, **replicas}, notes)
    assert found.conditions["empty"] is Condition.EMPTY
    assert "empty" not in found.provider.replicas
    assert "no repository at empty" in notes[0]


@pytest.mark.parametrize("damage", [None, "flipped", "missing"])
async def test_different_repositories_are_refused_also_when_one_is_damaged(
    replicas: Replicas, tmp_path: Path, damage: str | None
) -> None:
    stranger = await make_repository(tmp_path / "other")
    if damage:
        spoil(stranger, "config", damage)
    with pytest.raises(ValidationError, match="different repositories"):
        await opened({**replicas, "stranger": Faulty(stranger)})


async def test_a_config_of_nobody_knows_what_is_refused(replicas: Replicas, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config").write_bytes(b"[section]\nvalue = 1\n")
    with pytest.raises(ValidationError, match="different repositories"):
        await opened({**replicas, "other": Faulty(tmp_path / "other")})


async def test_a_wrong_password_is_a_wrong_password(replicas: Replicas) -> None:
    with pytest.raises(WrongPasswordError):
        await open_replicas(await probe_replicas(replicas), "not it")


async def test_a_config_that_is_damaged_everywhere_cannot_be_helped(
    replicas: Replicas, folders: dict[str, Path]
) -> None:
    for folder in folders.values():
        spoil(folder, "config", "flipped")
    with pytest.raises(RepositoryDamagedError, match="config"):
        await opened(replicas)


async def test_nowhere_a_repository_and_nobody_answering_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    nothing = {"gone": Faulty(tmp_path / "gone"), "empty": Faulty(tmp_path / "empty")}
    with pytest.raises(RepositoryMissingError, match="gone, empty"):
        require_repository(await probe_replicas(nothing))
    nothing["gone"].fail_always(StorageConnectionError())
    with pytest.raises(StorageConnectionError):
        require_repository(await probe_replicas(nothing))


async def test_replicas_are_probed_side_by_side(replicas: Replicas) -> None:
    """Each waits until all have been asked, which would never end one after another."""
    waiting = asyncio.Barrier(len(replicas))

    class Patient(Faulty):
        async def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
            await waiting.wait()
            return await super().read(key, offset, length)

    async with asyncio.timeout(60):
        found = await probe_replicas({name: Patient(replica.root) for name, replica in replicas.items()})
    assert list(found) == list(replicas)
    assert all(probe.config for probe in found.values())


async def test_a_replica_that_is_to_be_left_alone_is_not_asked_while_another_answers(replicas: Replicas) -> None:
    names = list(replicas)

    @contextlib.asynccontextmanager
    async def guard(provider: StorageProvider) -> AsyncIterator[None]:
        if provider is replicas[names[0]] or everybody:
            raise CircuitOpenError("Left alone for a while.")
        yield

    everybody = False
    probes = await probe_replicas(replicas, guard)
    assert replicas[names[0]].calls == []
    notes: list[str] = []
    found = await open_replicas(probes, PASSWORD, note=notes.append)
    assert found.conditions[names[0]] is Condition.UNREACHABLE
    assert notes == ["Left alone for a while. The next replica is used."]
    everybody = True
    probes = await probe_replicas(replicas, guard)
    assert all(probe.config for probe in probes.values()), "when all are, they are asked all the same"


async def test_a_replica_that_fails_while_it_is_looked_at_is_one_that_does_not_answer(
    replicas: Replicas, folders: dict[str, Path]
) -> None:
    last = list(folders)[2]
    spoil(folders[last], "config", "missing")
    replicas[last].fault = lambda call, key: StorageConnectionError() if call == "list" else None
    # Keys are listed at every replica when the repository is opened; that one of them fails must not matter.
    found = await opened(replicas)
    assert found.conditions[last] is Condition.UNREACHABLE
    assert isinstance(found.errors[last], StorageError)


async def test_kinship_is_proved_by_one_name_in_common(folders: dict[str, Path], tmp_path: Path) -> None:
    a, b, _ = folders.values()
    for key in list(objects(a))[:-1]:
        spoil(a, key, "missing")
    assert await find_kinship(LocalProvider(a), LocalProvider(b)) is Kinship.SAME
    stranger = await make_repository(tmp_path / "other")
    assert await find_kinship(LocalProvider(stranger), LocalProvider(b)) is Kinship.FOREIGN
    (tmp_path / "none" / "locks").mkdir(parents=True)
    (tmp_path / "none" / "locks" / ("ab" * 32)).write_bytes(b"x")
    (tmp_path / "none" / "photo.jpg").write_bytes(b"x")
    assert await find_kinship(LocalProvider(tmp_path / "none"), LocalProvider(b)) is Kinship.EMPTY


def test_a_destination_named_twice_counts_once_and_equal_locations_are_told_apart(tmp_path: Path) -> None:
    class Elsewhere(LocalProvider):
        @property
        def identity(self) -> str:
            return "elsewhere"

    one, again, other = LocalProvider(tmp_path), LocalProvider(tmp_path), Elsewhere(tmp_path)
    named = name_replicas([one, again, other])
    assert list(named.items()) == [(str(tmp_path), one), (f"{tmp_path} (2)", other)]

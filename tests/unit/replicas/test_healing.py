"""Healing and adding replicas as a whole: whatever was done to one of them, afterwards all hold the same bytes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from backupiq.errors import (
    BackupIQError,
    RepositoryExistsError,
    RepositoryLockedError,
    StorageConnectionError,
    StoragePermissionError,
)
from backupiq.progress import SilentProgress
from backupiq.replicas.adding import add_replica
from backupiq.replicas.healing import EXIT_DEGRADED, EXIT_LOST, Healing, HealOutcome
from backupiq.replicas.objects import ORDER
from backupiq.replicas.opening import open_replicas, probe_replicas
from backupiq.repository.locking import lock_repository
from backupiq.repository.repository import Repository
from tests.unit.replicas.replicas import DAMAGES, KINDS, Faulty, key_of, locks, make_repository, objects, spoil
from tests.unit.repository.repositories import PASSWORD

Replicas = dict[str, Faulty]


async def healed(
    replicas: Replicas, spool: Path, *, read_data: bool = False, dry_run: bool = False, tries: int = 1
) -> HealOutcome:
    """Every step as the flow does it."""
    opened = await open_replicas(await probe_replicas(replicas), PASSWORD)
    healing = Healing(opened, spool=spool, progress=SilentProgress(), read_data=read_data)
    for step in (healing.survey, healing.read):
        for name in healing.names:
            try:
                await step(name)
            except BackupIQError as error:
                healing.leave_out(name, error)
    for name in healing.disputed():
        await healing.judge(name)
    healing.plan()
    for kind in () if dry_run else ORDER:
        for left in reversed(range(tries)):
            try:
                await healing.copy(kind)
                break
            except BackupIQError:
                if not left:
                    break
    assert list(spool.iterdir()) == []
    return healing.outcome()


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("kind", KINDS)
async def test_whatever_is_wrong_at_one_replica_is_healed_to_the_byte(
    replicas: Replicas, folders: dict[str, Path], original: Path, spool: Path, kind: str, how: str
) -> None:
    victim = list(folders.values())[1]
    key = key_of(original, kind)
    spoil(victim, key, how)
    outcome = await healed(replicas, spool, read_data=how == "flipped" and kind == "data")
    assert all(objects(folder) == objects(original) for folder in folders.values())
    assert outcome.exit_code == 0
    assert (outcome.objects, outcome.bytes) == (1, (original / key).stat().st_size)
    assert [(one.copied, one.lacking) for one in outcome.replicas] == [(0, 0), (1, 0), (0, 0)]
    assert not [call for replica in replicas.values() for call, _ in replica.calls if call == "delete"]


@pytest.mark.parametrize("seed", range(6))
async def test_damage_all_over_the_replicas_is_healed_as_long_as_one_holds_each_object_right(
    replicas: Replicas, folders: dict[str, Path], original: Path, spool: Path, seed: int
) -> None:
    chance = random.Random(seed)
    for key in objects(original):
        for folder in chance.sample(list(folders.values()), chance.randint(0, 2)):
            spoil(folder, key, chance.choice(DAMAGES))
    outcome = await healed(replicas, spool, read_data=True)
    assert outcome.exit_code == 0
    assert all(objects(folder) == objects(original) for folder in folders.values())


async def test_a_dry_run_changes_nothing_and_tells_all(
    replicas: Replicas, folders: dict[str, Path], original: Path, spool: Path
) -> None:
    victim = next(iter(folders.values()))
    spoil(victim, key_of(original, "data"), "truncated")
    spoil(victim, key_of(original, "keys"), "missing")
    before = objects(victim)
    outcome = await healed(replicas, spool, dry_run=True)
    assert objects(victim) == before
    assert (outcome.objects, outcome.exit_code) == (0, 0)
    assert [action.reason.value for action in outcome.plan.actions] == ["missing", "truncated"]
    assert (outcome.replicas[0].missing, outcome.replicas[0].truncated) == (1, 1)


async def test_an_object_that_is_damaged_everywhere_is_listed_and_the_rest_is_healed(
    replicas: Replicas, folders: dict[str, Path], original: Path, spool: Path
) -> None:
    lost, other = key_of(original, "index", 0), key_of(original, "index", 1)
    for folder in folders.values():
        spoil(folder, lost, "flipped")
    spoil(next(iter(folders.values())), other, "missing")
    outcome = await healed(replicas, spool)
    assert outcome.exit_code == EXIT_LOST
    assert outcome.lost == (lost,)
    assert all(objects(folder)[other] == objects(original)[other] for folder in folders.values())
    assert outcome.to_dict()["lost"] == [lost]


async def test_a_replica_that_does_not_answer_is_left_out_and_the_others_are_healed(
    replicas: Replicas, folders: dict[str, Path], original: Path, spool: Path
) -> None:
    a, b, _ = folders
    spoil(folders[b], key_of(original, "data"), "missing")
    replicas[a].fail_always(StorageConnectionError("Gone fishing."))
    outcome = await healed(replicas, spool)
    assert outcome.exit_code == EXIT_DEGRADED
    assert outcome.replicas[0].left_out == "Gone fishing."
    assert objects(folders[b]) == objects(original)


async def test_a_replica_that_fails_while_it_is_read_is_left_out(
    replicas: Replicas, folders: dict[str, Path], original: Path, spool: Path
) -> None:
    _, b, c = folders
    spoil(folders[c], key_of(original, "index"), "missing")
    spoil(folders[b], key_of(original, "snapshots"), "missing")
    replicas[b].fault = lambda call, key: StorageConnectionError() if key.startswith("index/") else None
    outcome = await healed(replicas, spool)
    assert outcome.exit_code == EXIT_DEGRADED
    assert objects(folders[c]) == objects(original)
    assert len(objects(folders[b])) == len(objects(original)) - 1
    assert [one.left_out is not None for one in outcome.replicas] == [False, True, False]


async def test_a_replica_that_takes_nothing_is_told_with_what_it_lacks(
    replicas: Replicas, folders: dict[str, Path], original: Path, spool: Path
) -> None:
    a, b, _ = folders
    key = key_of(original, "snapshots")
    spoil(folders[b], key, "missing")
    spoil(folders[a], key_of(original, "index"), "missing")
    replicas[b].fault = lambda call, _: StoragePermissionError() if call == "upload" else None
    outcome = await healed(replicas, spool)
    assert outcome.exit_code == EXIT_DEGRADED
    assert [one.lacking for one in outcome.replicas] == [0, 1, 0]
    assert outcome.to_dict()["failures"][0]["object"] == key
    assert objects(folders[a]) == objects(original)


async def test_a_copy_that_failed_in_passing_is_made_by_the_next_try(
    replicas: Replicas, folders: dict[str, Path], original: Path, spool: Path
) -> None:
    b = list(folders)[1]
    for kind in KINDS:
        spoil(folders[b], key_of(original, kind), "missing")
    failed: set[str] = set()

    def once(call: str, key: str) -> StorageConnectionError | None:
        if call != "upload" or key in failed:
            return None
        failed.add(key)
        return StorageConnectionError()

    replicas[b].fault = once
    outcome = await healed(replicas, spool, tries=2)
    assert outcome.exit_code == 0
    assert objects(folders[b]) == objects(original)
    assert outcome.objects == len(KINDS)


async def test_an_empty_destination_is_not_filled_by_healing(
    replicas: Replicas, original: Path, spool: Path, tmp_path: Path
) -> None:
    (tmp_path / "unmounted").mkdir()
    outcome = await healed({**replicas, "unmounted": Faulty(tmp_path / "unmounted")}, spool)
    assert outcome.exit_code == EXIT_DEGRADED
    assert "backupiq init" in (outcome.replicas[-1].left_out or "")
    assert list((tmp_path / "unmounted").iterdir()) == []


async def test_sizes_that_differ_are_judged_by_reading_and_not_by_which_is_larger(
    replicas: Replicas, folders: dict[str, Path], original: Path, spool: Path
) -> None:
    a, b, _ = folders.values()
    key = key_of(original, "data")
    spoil(a, key, "longer")
    spoil(b, key, "longer")
    outcome = await healed(replicas, spool)
    assert outcome.exit_code == 0
    assert (outcome.replicas[0].damaged, outcome.replicas[1].damaged) == (1, 1)
    assert all(objects(folder) == objects(original) for folder in folders.values())
    read = {key for replica in replicas.values() for call, key in replica.calls if call == "read" and key[:4] == "data"}
    assert read == {key}, "other packs are not read"


# --- adding a replica ----------------------------------------------------------------------------------------------


async def test_a_new_destination_becomes_a_replica_to_the_byte(
    replicas: Replicas, original: Path, spool: Path, tmp_path: Path
) -> None:
    opened = await open_replicas(await probe_replicas(replicas), PASSWORD)
    new = Faulty(tmp_path / "new" / "place")
    report = await add_replica("new", new, opened, spool=spool)
    assert report.complete
    assert objects(new.root) == objects(original)
    assert locks(new.root) == []
    assert (new.root / "locks").is_dir()
    written = [key.split("/")[0] for call, key in new.calls if call == "upload"]
    assert [kind for kind in written if kind != "locks"] == sorted(
        (kind for kind in written if kind != "locks"), key=KINDS.index
    )
    assert (await Repository.open(new, PASSWORD)).config.id == opened.repository.config.id


async def test_adding_goes_on_where_it_was_interrupted(
    replicas: Replicas, original: Path, spool: Path, tmp_path: Path
) -> None:
    opened = await open_replicas(await probe_replicas(replicas), PASSWORD)
    new = Faulty(tmp_path / "new")
    new.fault = lambda call, key: StorageConnectionError() if call == "upload" and key.startswith("index/") else None
    assert not (await add_replica("new", new, opened, spool=spool)).complete
    assert not [key for key in objects(new.root) if key.startswith("snapshots/")]
    new.fault = lambda call, key: None
    new.calls.clear()
    assert (await add_replica("new", new, opened, spool=spool)).complete
    assert objects(new.root) == objects(original)
    assert not [key for call, key in new.calls if call == "upload" and key.startswith("data/")]


async def test_a_destination_that_holds_another_repository_is_refused_and_left_alone(
    replicas: Replicas, spool: Path, tmp_path: Path
) -> None:
    opened = await open_replicas(await probe_replicas(replicas), PASSWORD)
    stranger = await make_repository(tmp_path / "other")
    before = objects(stranger)
    with pytest.raises(RepositoryExistsError, match="another repository"):
        await add_replica("other", Faulty(stranger), opened, spool=spool)
    assert objects(stranger) == before


async def test_a_destination_that_is_being_pruned_is_not_filled(
    replicas: Replicas, folders: dict[str, Path], original: Path, spool: Path
) -> None:
    *known, name = replicas
    opened = await open_replicas(await probe_replicas({each: replicas[each] for each in known}), PASSWORD)
    spoil(folders[name], key_of(original, "data"), "missing")
    pruning = await Repository.open(replicas[name], PASSWORD)
    async with lock_repository(pruning, exclusive=True):
        with pytest.raises(RepositoryLockedError):
            await add_replica(name, replicas[name], opened, spool=spool)
    assert len(objects(folders[name])) == len(objects(original)) - 1

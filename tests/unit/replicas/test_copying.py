"""Copying between replicas: proved right before it is stored, in order, and nothing else is touched."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

import pytest

from backupiq.errors import (
    CancelledRunError,
    DegradedRunError,
    DiskFullError,
    StorageConnectionError,
    StorageCorruptError,
    StorageError,
    StorageNeedsThawError,
    StorageQuotaError,
)
from backupiq.replicas.copying import GIVE_UP_AFTER, Copier, CopyReport, catch_up, copy_objects
from backupiq.replicas.heal_plan import CopyAction, HealPlan, Reason, plan_heal
from backupiq.replicas.survey import list_replica
from tests.unit.replicas.replicas import DAMAGES, KINDS, Faulty, copy_of, key_of, objects, spoil

Replicas = dict[str, Faulty]


async def planned(replicas: Replicas) -> HealPlan:
    return plan_heal({name: await list_replica(provider) for name, provider in replicas.items()})


async def copied(plan: HealPlan, replicas: Replicas, original: Path, spool: Path, **options: object) -> CopyReport:
    report = await copy_objects(
        plan.actions,
        replicas,
        config_is_right=(original / "config").read_bytes().__eq__,
        spool=spool,
        **options,  # type: ignore[arg-type]
    )
    assert list(spool.iterdir()) == [], "nothing stays in the spool"
    return report


async def test_an_empty_replica_is_filled_and_the_others_are_left_as_they_were(
    replicas: Replicas, folders: dict[str, Path], original: Path, spool: Path
) -> None:
    empty = list(folders.values())[1]
    for key in objects(empty):
        spoil(empty, key, "missing")
    (empty / "notes.txt").write_text("not ours")
    counted: list[tuple[int, int]] = []
    report = await copied(
        await planned(replicas), replicas, original, spool, progress=lambda *more: counted.append(more)
    )
    assert objects(empty).pop("notes.txt")
    (empty / "notes.txt").unlink()
    assert all(objects(folder) == objects(original) for folder in folders.values())
    assert report.failures == []
    assert report.objects == len(objects(original)) == sum(objects for objects, _ in counted)
    assert report.bytes == sum(bytes_ for _, bytes_ in counted)
    assert report.stored == {str(empty): report.objects}
    uploads = [key.split("/")[0] for call, key in replicas[str(empty)].calls if call == "upload"]
    assert uploads == sorted(uploads, key=KINDS.index)
    for name, provider in replicas.items():
        assert not [call for call, _ in provider.calls if call == "delete"]
        assert name == str(empty) or not [call for call, _ in provider.calls if call == "upload"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", [how for how in DAMAGES if how != "missing"])
async def test_a_damaged_source_is_noticed_repaired_and_the_next_one_used(
    replicas: Replicas, folders: dict[str, Path], original: Path, spool: Path, kind: str, how: str
) -> None:
    a, b, c = folders.values()
    key = key_of(original, kind)
    spoil(a, key, how)
    spoil(c, key, "missing")
    action = CopyAction(key, (original / key).stat().st_size, str(c), (str(a), str(b)), Reason.MISSING)
    plan = HealPlan((), (action,), ())
    report = await copied(plan, replicas, original, spool)
    assert report.damaged == {str(a): {key}}
    assert report.failures == []
    assert objects(a) == objects(b) == objects(c) == objects(original)


async def test_an_object_that_every_source_holds_wrong_is_copied_nowhere(
    replicas: Replicas, folders: dict[str, Path], original: Path, spool: Path
) -> None:
    a, b, c = folders.values()
    key = key_of(original, "data")
    for folder, how in ((a, "flipped"), (b, "truncated"), (c, "missing")):
        spoil(folder, key, how)
    before = objects(a), objects(b)
    report = await copied(await planned(replicas), replicas, original, spool)
    assert (objects(a), objects(b)) == before
    assert not (c / key).exists()
    assert report.lost == [key]
    assert all(isinstance(failure.error, StorageCorruptError) for failure in report.failures)
    assert report.damaged == {str(a): {key}, str(b): {key}}


@pytest.mark.parametrize("error", [StorageConnectionError(), StorageNeedsThawError()])
async def test_a_source_that_does_not_give_the_object_is_passed_over(
    replicas: Replicas, folders: dict[str, Path], original: Path, spool: Path, error: StorageError
) -> None:
    a, _, c = folders.values()
    key = key_of(original, "snapshots")
    spoil(c, key, "missing")
    plan = await planned(replicas)
    replicas[str(a)].fault = lambda call, _: error if call == "download" else None
    report = await copied(plan, replicas, original, spool)
    assert (report.failures, report.damaged) == ([], {})
    assert objects(c) == objects(original)


async def test_with_no_source_left_the_error_that_may_pass_is_told_and_nothing_is_lost(
    replicas: Replicas, folders: dict[str, Path], original: Path, spool: Path
) -> None:
    a, b, c = folders.values()
    key = key_of(original, "data")
    spoil(a, key, "flipped")
    spoil(c, key, "missing")
    plan = await planned(replicas)
    replicas[str(b)].fail_always(StorageConnectionError())
    report = await copied(plan, replicas, original, spool)
    assert [failure.error.code for failure in report.failures] == ["storage.connection"]
    assert report.lost == []


async def test_one_failing_target_does_not_keep_the_others_from_being_filled(
    replicas: Replicas, folders: dict[str, Path], original: Path, spool: Path
) -> None:
    _, b, c = folders.values()
    for folder in (b, c):
        for key in objects(folder):
            spoil(folder, key, "missing")
    plan = await planned(replicas)
    replicas[str(b)].fault = lambda call, key: StorageQuotaError() if call == "upload" else None
    report = await copied(plan, replicas, original, spool, at_once=1)
    assert objects(c) == objects(original)
    assert {failure.action.target for failure in report.failures} == {str(b)}
    assert len(report.failures) == len(objects(original))
    tried = [call for call, _ in replicas[str(b)].calls if call == "upload"]
    assert len(tried) == GIVE_UP_AFTER, "a target that fails again and again is left alone"


@pytest.mark.parametrize("broken", ["data", "index", "flush"])
async def test_nothing_is_named_at_a_replica_before_it_is_there(
    replicas: Replicas, folders: dict[str, Path], original: Path, spool: Path, broken: str
) -> None:
    c = list(folders.values())[2]
    for kind in ("data", "index", "snapshots"):
        spoil(c, key_of(original, kind), "missing")

    def fail(call: str, key: str) -> StorageError | None:
        failing = call == "flush" if broken == "flush" else call == "upload" and key.startswith(broken)
        return StorageConnectionError() if failing else None

    plan = await planned(replicas)
    replicas[str(c)].fault = fail
    copier = Copier(replicas, lambda _: True, spool=spool)
    failures = await copier.copy(plan.actions)
    held = [failure for failure in failures if isinstance(failure.error, DegradedRunError)]
    assert [failure.action.key.split("/")[0] for failure in held] == ["index", "snapshots"][broken == "index" :]
    assert set(objects(original)) - set(objects(c)) == {
        failure.action.key for failure in failures if broken != "flush" or failure in held
    }
    replicas[str(c)].fault = lambda call, key: None
    assert await copier.copy([failure.action for failure in failures]) == []
    assert objects(c) == objects(original)
    assert copier.report.failures == []


async def test_a_damaged_index_is_replaced_even_while_packs_cannot_be_copied(
    replicas: Replicas, folders: dict[str, Path], original: Path, spool: Path
) -> None:
    c = list(folders.values())[2]
    pack, index = key_of(original, "data"), key_of(original, "index")
    spoil(c, pack, "missing")
    spoil(c, index, "truncated")
    plan = await planned(replicas)
    replicas[str(c)].fault = lambda call, key: StorageConnectionError() if key == pack else None
    await copied(plan, replicas, original, spool)
    assert objects(original).keys() - objects(c).keys() == {pack}
    assert objects(c)[index] == objects(original)[index]


async def test_what_is_fetched_is_private_and_gone_afterwards_however_it_ends(
    replicas: Replicas, folders: dict[str, Path], original: Path, tmp_path: Path
) -> None:
    c = list(folders.values())[2]
    spoil(c, key_of(original, "data"), "missing")
    plan = await planned(replicas)
    spool, seen = tmp_path / "new", []

    def look(call: str, key: str) -> StorageError | None:
        if call == "upload":
            seen.extend(stat.S_IMODE(path.stat().st_mode) for path in spool.iterdir())
            raise DiskFullError  # an error of this machine ends it all
        return None

    replicas[str(c)].fault = look
    with pytest.raises(DiskFullError):
        await copied(plan, replicas, original, spool)
    assert list(spool.iterdir()) == []
    if os.name == "posix":
        assert seen == [0o600]
        assert stat.S_IMODE(spool.stat().st_mode) == 0o700


async def test_a_cancelled_copy_leaves_nothing_running_and_nothing_behind(
    replicas: Replicas, folders: dict[str, Path], original: Path, spool: Path
) -> None:
    c = list(folders.values())[2]
    for key in objects(c):
        spoil(c, key, "missing")
    plan = await planned(replicas)
    reached = asyncio.Event()

    def reach(call: str, key: str) -> StorageError | None:
        if call == "upload" and key.startswith("data/"):
            reached.set()
        return None

    replicas[str(c)].fault = reach
    task = asyncio.create_task(copied(plan, replicas, original, spool, at_once=1))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert list(spool.iterdir()) == []
    assert objects(c).items() <= objects(original).items()
    assert not [path for path in c.rglob("*") if "-tmp-" in path.name]


async def test_copying_stops_when_it_is_told_to(
    replicas: Replicas, folders: dict[str, Path], original: Path, spool: Path
) -> None:
    c = list(folders.values())[2]
    spoil(c, key_of(original, "data"), "missing")
    with pytest.raises(CancelledRunError):
        await copied(await planned(replicas), replicas, original, spool, should_stop=lambda: True)
    assert len(objects(c)) == len(objects(original)) - 1


# --- catching up ---------------------------------------------------------------------------------------------------


async def test_a_lagging_replica_catches_up_with_the_union_of_the_others(
    replicas: Replicas, folders: dict[str, Path], original: Path, spool: Path
) -> None:
    a, b, c = folders.values()
    for kind in ("data", "index", "snapshots"):
        spoil(c, key_of(original, kind), "missing")
    spoil(a, key_of(original, "data"), "missing")
    spoil(b, key_of(original, "index"), "missing")
    spoil(c, key_of(original, "data", 1), "truncated")
    report = await catch_up(str(c), replicas, config_is_right=lambda _: True, spool=spool)
    assert report.complete
    assert objects(c) == objects(original)
    assert len(objects(a)) == len(objects(b)) == len(objects(original)) - 1, "the others are left alone"


async def test_sources_that_do_not_answer_are_named_and_left_out(
    replicas: Replicas, folders: dict[str, Path], original: Path, spool: Path
) -> None:
    a, _, c = folders.values()
    spoil(c, key_of(original, "data"), "missing")
    replicas[str(a)].fail_always(StorageConnectionError())
    report = await catch_up(str(c), replicas, config_is_right=lambda _: True, spool=spool)
    assert report.complete
    assert set(report.unreachable) == {str(a)}
    assert objects(c) == objects(original)


async def test_a_lagging_replica_that_does_not_answer_is_an_error(
    replicas: Replicas, folders: dict[str, Path], spool: Path
) -> None:
    last = list(folders)[2]
    replicas[last].fail_always(StorageConnectionError())
    with pytest.raises(StorageConnectionError):
        await catch_up(last, replicas, config_is_right=lambda _: True, spool=spool)


async def test_a_config_that_is_not_the_right_one_is_never_copied(
    replicas: Replicas, folders: dict[str, Path], original: Path, spool: Path
) -> None:
    a, b, c = folders.values()
    for folder in (a, b):
        spoil(folder, "config", "flipped")
    spoil(c, "config", "missing")
    right = (original / "config").read_bytes()
    report = await catch_up(str(c), replicas, config_is_right=right.__eq__, spool=spool)
    assert not report.complete
    assert report.copied.lost == ["config"]
    assert not (c / "config").exists()


async def test_many_replicas_are_filled_from_one_download_of_each_object(
    original: Path, folders: dict[str, Path], spool: Path, tmp_path: Path
) -> None:
    source = Faulty(copy_of(original, tmp_path / "source"))
    targets = {f"t{number}": Faulty(tmp_path / f"t{number}") for number in range(3)}
    for target in targets.values():
        await target.create()
    replicas = {"source": source, **targets}
    await copied(await planned(replicas), replicas, original, spool)
    downloads = [key for call, key in source.calls if call == "download"]
    assert sorted(downloads) == sorted(objects(original))
    assert all(objects(target.root) == objects(original) for target in targets.values())

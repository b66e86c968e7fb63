"""Reading from several replicas: whatever one of them lacks or gives wrongly comes from the next."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from backupiq.archive.restore import execute_restore
from backupiq.archive.restore_plan import plan_restore
from backupiq.errors import (
    BackupIQError,
    IndexDamagedError,
    PackError,
    SnapshotDamagedError,
    StorageAuthenticationError,
    StorageConnectionError,
    StorageCorruptError,
    StorageError,
    StorageNeedsThawError,
    StorageNotFoundError,
    StoragePermissionError,
    StorageQuotaError,
    StorageThrottledError,
    StorageUnsupportedError,
)
from backupiq.replicas import reading
from backupiq.replicas.health import FIRST_COOL_DOWN
from backupiq.replicas.reading import ReplicatedProvider
from backupiq.repository.locking import RepositoryLock, lock_for_reading
from backupiq.repository.pack import BlobType
from backupiq.repository.reader import BlobReader
from backupiq.repository.repository import FileType, Repository
from tests.unit.replicas.replicas import DAMAGES, Faulty, key_of, locks, objects, spoil
from tests.unit.repository.repositories import PASSWORD

Replicas = dict[str, Faulty]

ERRORS = (
    StorageConnectionError,
    StorageThrottledError,
    StorageAuthenticationError,
    StoragePermissionError,
    StorageNotFoundError,
    StorageNeedsThawError,
    StorageCorruptError,
    StorageError,
)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
async def together(replicas: Replicas, notes: list[str]) -> AsyncIterator[ReplicatedProvider]:
    async with ReplicatedProvider(replicas, note=notes.append, clock=Clock()) as provider:
        yield provider


async def opened(provider: ReplicatedProvider) -> Repository:
    repository = await Repository.open(provider, PASSWORD)
    await repository.load_index()
    return repository


async def restored(repository: Repository, original: Path, target: Path) -> None:
    """Restore everything and compare it, byte by byte, with what a restore from the original gives."""
    async with Faulty(original) as source:
        for place, each in ((target / "ours", repository), (target / "right", await Repository.open(source, PASSWORD))):
            await each.load_index()
            _, snapshot = await each.load_snapshot("latest")
            reader = BlobReader(each)
            report = await execute_restore(await plan_restore(reader, snapshot, target=place), reader, place)
            assert report.problems == []
            assert report.files == 4
    contents = [
        {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}
        for place in (target / "ours", target / "right")
    ]
    assert contents[0] == contents[1]
    assert len(contents[0]) == 4


@pytest.mark.parametrize("error", ERRORS)
async def test_any_error_of_one_replica_is_answered_by_the_next(
    together: ReplicatedProvider, replicas: Replicas, original: Path, tmp_path: Path, error: type[StorageError]
) -> None:
    first, second, third = replicas.values()
    first.fail_always(error())
    second.fail_always(error())
    key = key_of(original, "data")
    data = (original / key).read_bytes()
    assert await together.read(key) == data
    assert await together.read(key, 5, 7) == data[5:12]
    assert (await together.get_file_info(key)).size == len(data)
    assert await together.file_exists(key)
    assert (await together.download_file(key, tmp_path / "file")).size == len(data)
    assert (tmp_path / "file").read_bytes() == data
    assert {info.key async for info in together.list_files("data")} == {k for k in objects(original) if k[:4] == "data"}
    await together.authenticate()
    await together.check_space()
    assert third.calls


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("kind", ["keys", "config", "index", "snapshots", "data", "tree"])
async def test_everything_is_restored_right_although_a_replica_holds_an_object_wrong(
    together: ReplicatedProvider,
    replicas: Replicas,
    folders: dict[str, Path],
    original: Path,
    notes: list[str],
    tmp_path: Path,
    kind: str,
    how: str,
) -> None:
    a, b, _ = folders.values()
    for key in await keys_of_kind(original, kind):
        spoil(a, key, how)
        spoil(b, key, "flipped")
    repository = await opened(together)
    await restored(repository, original, tmp_path / "target")
    if how == "longer" and kind in ("data", "tree"):  # what stands behind the blobs is never read
        return
    assert any(str(b if how == "missing" else a) in note and "backupiq heal" in note for note in notes)
    assert all(note.isprintable() and PASSWORD not in note for note in notes)


async def keys_of_kind(original: Path, kind: str) -> list[str]:
    """The keys of a kind; packs by what they hold."""
    if kind not in ("data", "tree"):
        return [key for key in objects(original) if key.split("/")[0] == kind]
    async with Faulty(original) as provider:
        repository = await Repository.open(provider, PASSWORD)
        await repository.load_index()
        wanted = BlobType.DATA if kind == "data" else BlobType.TREE
        packs = [pack for pack in repository.index.packs() if repository.index.pack_blobs(pack)[0].type is wanted]
    return [f"data/{pack.hex()[:2]}/{pack.hex()}" for pack in packs]


async def test_every_replica_may_lack_something_else(
    together: ReplicatedProvider, folders: dict[str, Path], original: Path, tmp_path: Path
) -> None:
    a, b, c = folders.values()
    for folder, kind, how in (
        (a, "config", "missing"),
        (a, "data", "flipped"),
        (b, "index", "missing"),
        (b, "keys", "truncated"),
        (c, "snapshots", "missing"),
        (c, "data", "missing"),
    ):
        for key in await keys_of_kind(original, kind):
            spoil(folder, key, how)
    await restored(await opened(together), original, tmp_path / "target")


@pytest.mark.parametrize(
    ("kind", "error"), [("snapshots", SnapshotDamagedError), ("index", IndexDamagedError), ("data", PackError)]
)
async def test_what_is_damaged_everywhere_is_the_error_that_it_is_with_one_replica(
    together: ReplicatedProvider,
    folders: dict[str, Path],
    original: Path,
    tmp_path: Path,
    kind: str,
    error: type[BackupIQError],
) -> None:
    for folder in folders.values():
        for key in await keys_of_kind(original, kind):
            spoil(folder, key, "flipped")
    with pytest.raises(error) as caught:
        repository = await opened(together)
        _, snapshot = await repository.load_snapshot("latest")
        reader = BlobReader(repository)
        report = await execute_restore(await plan_restore(reader, snapshot, target=tmp_path), reader, tmp_path)
        assert (report.files, report.problem_count) == (2, 2), "one blob of each pack is damaged"
        raise PackError(report.problems[0].reason)
    assert caught.value.exit_code == 1


async def test_damage_says_more_than_a_replica_that_is_down_and_that_more_than_nothing_found(
    together: ReplicatedProvider, replicas: Replicas, folders: dict[str, Path], original: Path
) -> None:
    first, second, third = replicas.values()
    key = key_of(original, "index")
    first.fail_always(StorageNotFoundError())
    second.fail_always(StorageConnectionError())
    third.fail_always(StorageNotFoundError())
    with pytest.raises(StorageConnectionError):
        await together.read(key)
    third.fail_always(StorageCorruptError())
    with pytest.raises(StorageCorruptError):
        await together.read(key)
    second.fail_always(StorageNotFoundError())
    third.fail_always(StorageNotFoundError())
    with pytest.raises(StorageNotFoundError):
        await together.read(key)
    assert not await together.file_exists(key)


async def test_a_replica_that_fails_is_asked_last_for_a_while_and_that_is_said_once(
    replicas: Replicas, original: Path
) -> None:
    clock, notes = Clock(), list[str]()
    first, second, _ = replicas.values()
    key = key_of(original, "data")
    async with ReplicatedProvider(replicas, note=notes.append, clock=clock) as provider:
        first.fail_always(StorageConnectionError("The network is down."))
        for _ in range(5):
            await provider.read(key)
        assert len(first.calls) == 1
        assert notes == ["The network is down. The next replica is used."]
        assert [info async for info in provider.list_files("index")]
        assert len(first.calls) == 1, "a listing does not wait for it either"
        clock.now += FIRST_COOL_DOWN
        first.fault = lambda call, key: None
        asked = len(second.calls)
        await provider.read(key)
        assert len(first.calls) == 2
        assert len(second.calls) == asked


async def test_replicas_known_to_be_down_are_asked_only_when_no_other_has_the_answer(
    replicas: Replicas, folders: dict[str, Path], original: Path
) -> None:
    first, *others = replicas.values()
    key = key_of(original, "data")
    async with ReplicatedProvider(replicas, down=[next(iter(replicas))], clock=Clock()) as provider:
        await provider.read(key)
        assert first.calls == []
        for other in others:
            other.fail_always(StorageNotFoundError())
        assert await provider.read(key) == (original / key).read_bytes()


async def test_a_replica_that_is_left_out_is_asked_nothing_and_what_is_known_of_the_others_stays(
    together: ReplicatedProvider, replicas: Replicas, original: Path
) -> None:
    names = list(replicas)
    key = key_of(original, "data")
    replicas[names[0]].fail_always(StorageConnectionError())
    assert together.known_wrong(names[1], key)
    await together.read(key)
    asked = len(replicas[names[0]].calls)
    together.leave_out(names[2])
    assert together.location == ", ".join(names[:2])
    assert not together.known_wrong(names[1], key)
    assert [info async for info in together.list_files("index")]
    assert len(replicas[names[0]].calls) == asked
    assert ("list", "index") not in replicas[names[2]].calls


async def test_an_object_known_to_be_wrong_is_not_read_there_again(
    together: ReplicatedProvider, replicas: Replicas, folders: dict[str, Path], original: Path, notes: list[str]
) -> None:
    first = next(iter(replicas.values()))
    key = key_of(original, "snapshots")
    spoil(first.root, key, "flipped")
    repository = await Repository.open(together, PASSWORD)
    for _ in range(3):
        await repository.load_file(FileType.SNAPSHOT, key[-64:])
    assert [asked for call, asked in first.calls if asked == key] == [key]
    assert len(notes) == 1
    assert key in notes[0]
    assert first.location in notes[0]


async def test_lines_for_a_person_are_not_more_than_a_person_reads(
    replicas: Replicas, folders: dict[str, Path], original: Path, monkeypatch: pytest.MonkeyPatch, notes: list[str]
) -> None:
    monkeypatch.setattr(reading, "MOST_NOTES", 1)
    first = next(iter(folders.values()))
    for key in await keys_of_kind(original, "index"):
        spoil(first, key, "truncated")
    async with ReplicatedProvider(replicas, note=notes.append) as provider:
        await opened(provider)
    assert len(notes) == 2
    assert "only in the log" in notes[1]


# --- listing -------------------------------------------------------------------------------------------------------


async def test_a_listing_is_the_union_with_the_larger_size_of_each(
    together: ReplicatedProvider, folders: dict[str, Path], original: Path
) -> None:
    a, b, c = folders.values()
    spoil(a, key_of(original, "data", 0), "truncated")
    spoil(b, key_of(original, "data", 1), "missing")
    spoil(c, key_of(original, "index"), "missing")
    found = {info.key: info.size async for info in together.list_files()}
    assert found == {key: (original / key).stat().st_size for key in objects(original)}


async def test_a_listing_fails_only_when_no_replica_answers(together: ReplicatedProvider, replicas: Replicas) -> None:
    *others, last = replicas.values()
    for other in others:
        other.fail_always(StorageConnectionError())
    assert [info async for info in together.list_files("index")]
    last.fail_always(StorageConnectionError())
    with pytest.raises(StorageConnectionError):
        [info async for info in together.list_files("index")]


# --- locks, and nothing else, are written --------------------------------------------------------------------------


async def test_nothing_but_locks_can_be_changed(together: ReplicatedProvider, original: Path) -> None:
    with pytest.raises(StorageUnsupportedError):
        await together.upload_file(b"x", key_of(original, "data"))
    with pytest.raises(StorageUnsupportedError):
        await together.delete_file(key_of(original, "data"))
    with pytest.raises(StorageUnsupportedError):
        await together.create()


@pytest.mark.parametrize("error", [StorageConnectionError, StoragePermissionError, StorageQuotaError])
async def test_a_lock_stands_at_the_first_replica_that_takes_it_and_is_removed_there(
    together: ReplicatedProvider, replicas: Replicas, folders: dict[str, Path], error: type[StorageError]
) -> None:
    a, b, c = folders.values()
    first = next(iter(replicas.values()))
    first.fault = lambda call, key: error() if call == "upload" else None
    repository = await Repository.open(together, PASSWORD)
    async with lock_for_reading(repository, note=lambda _: None) as lock:
        assert lock is not None
        assert [len(locks(folder)) for folder in (a, b, c)] == [0, 1, 0]
        await lock.refresh()
        assert [len(locks(folder)) for folder in (a, b, c)] == [0, 1, 0]
    assert [locks(folder) for folder in (a, b, c)] == [[], [], []]


async def test_replicas_that_are_all_read_only_are_read_without_a_lock(
    together: ReplicatedProvider, replicas: Replicas, notes: list[str]
) -> None:
    for replica in replicas.values():
        replica.fault = lambda call, key: StoragePermissionError() if call == "upload" else None
    repository = await Repository.open(together, PASSWORD)
    async with lock_for_reading(repository, note=notes.append) as lock:
        assert lock is None
    assert "read without a lock" in notes[-1]


async def test_a_lock_at_a_replica_that_goes_away_is_replaced_and_nothing_fails_at_the_end(
    together: ReplicatedProvider, replicas: Replicas, folders: dict[str, Path], notes: list[str]
) -> None:
    repository = await Repository.open(together, PASSWORD)
    lock = await RepositoryLock.acquire(repository, exclusive=False)
    first = next(iter(replicas.values()))
    first.fail_always(StorageConnectionError())
    await together.read("config")
    await lock.refresh()
    assert not lock.lost
    assert [len(locks(folder)) for folder in folders.values()] == [1, 1, 0]
    await lock.release()
    assert [len(locks(folder)) for folder in folders.values()] == [1, 0, 0]
    assert any("void after 30 minutes" in note for note in notes)


async def test_locks_of_others_are_removed_wherever_they_stand(
    together: ReplicatedProvider, folders: dict[str, Path]
) -> None:
    key = "locks/" + "ab" * 32
    last = list(folders.values())[2]
    (last / key).write_bytes(b"x")
    await together.delete_file(key)
    assert locks(last) == []
    with pytest.raises(StorageNotFoundError):
        await together.delete_file(key)

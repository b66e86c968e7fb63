"""What a replica holds, and which of it is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from backupiq.errors import (
    StorageConnectionError,
    StorageError,
    StorageNeedsThawError,
    StorageNotFoundError,
)
from backupiq.replicas import survey
from backupiq.replicas.survey import Reading, list_replica
from tests.unit.replicas.replicas import DAMAGES, KINDS, Faulty, key_of, objects, spoil


@pytest.fixture
def folder(folders: dict[str, Path]) -> Path:
    return next(iter(folders.values()))


async def wrong_at(folder: Path, spool: Path, *, data: bool = True, ranged: bool = True) -> set[str]:
    config = (folder.parent / "b" / "config").read_bytes()
    async with Faulty(folder, ranged=ranged) as provider:
        reading = Reading.of(await list_replica(provider), data=data)
        await reading.run(provider, config.__eq__, spool=spool)
        assert not reading.pending
        assert list(spool.iterdir()) == []
        return reading.damaged


async def test_a_listing_is_every_object_with_its_size(folder: Path) -> None:
    async with Faulty(folder) as provider:
        listing = await list_replica(provider)
    assert dict(listing.objects) == {key: (folder / key).stat().st_size for key in objects(folder)}
    assert listing.bytes == sum(listing.objects.values())


async def test_locks_temporary_files_and_strangers_are_no_objects(folder: Path) -> None:
    before = objects(folder)
    for name in ("locks/" + "ab" * 32, "index/x-tmp-0123", "index/notes.txt", "data/zz/what", "readme"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    async with Faulty(folder) as provider:
        assert set((await list_replica(provider)).objects) == set(before)


async def test_a_destination_that_is_gone_is_an_error_and_never_empty(tmp_path: Path) -> None:
    async with Faulty(tmp_path / "gone") as provider:
        with pytest.raises(StorageNotFoundError):
            await list_replica(provider)


@pytest.mark.parametrize("ranged", [True, False], ids=["in pieces", "as a whole"])
async def test_a_sound_replica_has_nothing_wrong(folder: Path, spool: Path, ranged: bool) -> None:
    assert await wrong_at(folder, spool, ranged=ranged) == set()


@pytest.mark.parametrize("ranged", [True, False], ids=["in pieces", "as a whole"])
@pytest.mark.parametrize("how", [how for how in DAMAGES if how != "missing"])
@pytest.mark.parametrize("kind", KINDS)
async def test_damage_of_every_kind_is_found(folder: Path, spool: Path, kind: str, how: str, ranged: bool) -> None:
    key = key_of(folder, kind)
    spoil(folder, key, how)
    assert await wrong_at(folder, spool, ranged=ranged) == {key}


async def test_packs_are_read_only_when_that_is_asked_for(folder: Path, spool: Path) -> None:
    spoil(folder, key_of(folder, "data"), "flipped")
    assert await wrong_at(folder, spool, data=False) == set()


async def test_large_objects_are_read_in_pieces(folder: Path, spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "CHUNK", 1000)
    longest = 0

    class Measured(Faulty):
        async def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
            nonlocal longest
            data = await super().read(key, offset, length)
            if key != "config":
                longest = max(longest, len(data))
            return data

    async with Measured(folder) as provider:
        reading = Reading.of(await list_replica(provider), data=True)
        await reading.run(provider, lambda _: True, spool=spool)
        assert reading.damaged == set()
    assert longest == 1000


async def test_reading_goes_on_where_an_error_stopped_it(folder: Path, spool: Path) -> None:
    async with Faulty(folder) as provider:
        reading = Reading.of(await list_replica(provider), data=True)
        total = len(reading.pending)
        broken = key_of(folder, "snapshots")
        provider.fault = lambda call, key: StorageConnectionError() if key == broken else None
        with pytest.raises(StorageConnectionError):
            await reading.run(provider, lambda _: True, spool=spool, at_once=1)
        assert [key for key, _ in reading.pending] == [broken]
        provider.calls.clear()
        provider.fault = lambda call, key: None
        await reading.run(provider, lambda _: True, spool=spool)
        assert {key for _, key in provider.calls} == {broken}
        assert (reading.objects, len(reading.pending)) == (total, 0)


@pytest.mark.parametrize(("error", "where"), [(StorageNotFoundError, "vanished"), (StorageNeedsThawError, "unread")])
async def test_what_cannot_be_read_is_not_called_damaged(
    folder: Path, spool: Path, error: type[StorageError], where: str
) -> None:
    gone = key_of(folder, "data")
    async with Faulty(folder) as provider:
        listing = await list_replica(provider)
        reading = Reading.of(listing, data=True)
        provider.fault = lambda call, key: error() if key == gone else None
        await reading.run(provider, lambda _: True, spool=spool)
    assert reading.damaged == set()
    assert getattr(reading, where) == {gone}
    assert (gone in reading.corrected(listing).objects) == (where == "unread")

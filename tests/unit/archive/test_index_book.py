"""One book of indexes for all replicas: each pack is named once, in the same bytes everywhere, and never too early."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backupiq.archive import publisher as publishing
from backupiq.archive.publisher import IndexBook, Publisher, adopt_orphans
from backupiq.errors import StorageConnectionError
from backupiq.repository.config import RepositoryConfig
from backupiq.repository.crypto import MasterKey
from backupiq.repository.index import decode_index
from backupiq.repository.repository import FileType, Repository
from backupiq.storage.local import LocalProvider
from tests.unit.archive.saving import Kitchen, new_kitchen, reopened
from tests.unit.archive.test_publisher import Clock, Recording, invented_pack, leave_packs

MASTER = MasterKey.generate()
CONFIG = RepositoryConfig.new()
REPLICAS = 3
PACKS = 8
BLOBS = 3
"""Blobs of each pack; an index takes 8, so that two packs share one."""


async def indexes_at(repository: Repository) -> dict[str, list[bytes]]:
    """The packs that each index at a replica names, by the index's name: the hash of its bytes."""
    names = await repository.list_ids(FileType.INDEX)
    return {
        name: [pack for pack, _ in decode_index(await repository.load_file(FileType.INDEX, name))] for name in names
    }


pack_numbers = st.integers(0, PACKS - 1)
replica_numbers = st.integers(0, REPLICAS - 1)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("confirm"), replica_numbers, pack_numbers),
        st.tuples(st.sampled_from(["interim", "write"]), replica_numbers, st.just(0)),
        st.tuples(st.just("retire"), st.just(REPLICAS - 1), st.just(0)),
    ),
    max_size=40,
)


@given(steps)
@settings(max_examples=40)
def test_replicas_hold_the_same_indexes_and_each_pack_is_named_by_exactly_one(does: list[tuple[str, int, int]]) -> None:
    async def run(folder: Path) -> None:
        book = IndexBook(MASTER)
        places = [Repository(LocalProvider(folder / str(at)), MASTER, CONFIG, "") for at in range(REPLICAS)]
        for place in places:
            await place.provider.create()
        publishers = [Publisher(place, book=book) for place in places]
        packs = [invented_pack(number, BLOBS) for number in range(PACKS)]
        confirmed: list[set[bytes]] = [set() for _ in places]
        retired = False
        for what, at, number in does:
            if what == "confirm" and packs[number].id not in confirmed[at]:
                publishers[at].confirm(packs[number])
                confirmed[at].add(packs[number].id)
            elif what == "interim":
                await publishers[at].write_interim_index()
            elif what == "write":
                await publishers[at].write_index()
            elif what == "retire":
                publishers[at].retire()
                retired = True
            for place, held in zip(places, confirmed, strict=True):
                assert {pack for named in (await indexes_at(place)).values() for pack in named} <= held
        flowing = range(REPLICAS - 1 if retired else REPLICAS)
        for at in flowing:
            for pack in packs:
                if pack.id not in confirmed[at]:
                    publishers[at].confirm(pack)
        # Nobody waits for another one's indexes: one round is enough for each of them.
        for at in flowing:
            await publishers[at].write_index()
        found = [await indexes_at(places[at]) for at in flowing]
        assert all(each == found[0] for each in found)
        named = [pack for each in found[0].values() for pack in each]
        assert sorted(named) == sorted(pack.id for pack in packs)
        for place in places:
            await place.provider.close()

    with tempfile.TemporaryDirectory() as folder, mock.patch.object(publishing, "INDEX_BLOBS", 8):
        asyncio.run(run(Path(folder)))


@pytest.fixture
def pair(tmp_path: Path) -> list[Repository]:
    return [Repository(Recording(tmp_path / name), MASTER, CONFIG, "") for name in ("here", "there")]


async def test_a_replica_given_up_while_it_takes_an_index_disturbs_nobody(pair: list[Repository]) -> None:
    book = IndexBook(MASTER)
    here, there = (Publisher(repository, book=book) for repository in pair)
    for publisher in (here, there):
        publisher.confirm(invented_pack(1, 3))
    assert isinstance(pair[1].provider, Recording)
    pair[1].provider.during_flush = there.retire
    for repository in pair:
        await repository.provider.create()
    await there.write_index()
    await here.write_index()
    assert [pack for named in (await indexes_at(pair[0])).values() for pack in named] == [invented_pack(1, 3).id]


async def test_sealed_indexes_are_forgotten_once_every_replica_has_them_or_is_given_up(pair: list[Repository]) -> None:
    book = IndexBook(MASTER)
    here, there = (Publisher(repository, book=book) for repository in pair)
    await pair[0].provider.create()
    for number in range(5):
        here.confirm(invented_pack(number, 1))
        await here.write_index()
    assert len(book._segments) == 5
    there.retire()
    assert book._segments == []


async def test_a_replica_with_nothing_to_name_does_not_put_off_the_index_of_another(pair: list[Repository]) -> None:
    clock = Clock()
    book = IndexBook(MASTER, clock=clock)
    here, there = (Publisher(repository, book=book) for repository in pair)
    await pair[0].provider.create()
    here.confirm(invented_pack(1, 3))
    clock.now += publishing.INDEX_SECONDS
    assert not await there.write_interim_index()
    assert await here.write_interim_index()


# --- what an interrupted run left here and there ----------------------------------------------------------------------


@pytest.fixture
async def kitchen(tmp_path: Path) -> Kitchen:
    return await new_kitchen(tmp_path)


async def test_packs_that_an_interrupted_run_left_at_different_replicas_are_named_where_they_are(
    kitchen: Kitchen, pair: list[Repository]
) -> None:
    (first,) = await leave_packs(kitchen, [b"only here"])
    (both,) = await leave_packs(kitchen, [b"here and there"])
    (second,) = await leave_packs(kitchen, [b"only there"])
    repository = await reopened(kitchen.repository)
    places = [Repository(each.provider, repository.master, repository.config, "") for each in pair]
    for place in places:
        await place.provider.create()
    held = [{first.id.hex(), both.id.hex()}, {both.id.hex(), second.id.hex()}]
    listed = await repository.list_ids(FileType.PACK)
    assert (await adopt_orphans(repository, listed, list(zip(places, held, strict=True))))[0] == 3
    named = [{pack.hex() for packs in (await indexes_at(place)).values() for pack in packs} for place in places]
    # What the run now relies on is named somewhere, and nowhere by an index that names what is not there.
    assert named == held


async def test_packs_whose_index_no_replica_takes_are_not_relied_on(kitchen: Kitchen, pair: list[Repository]) -> None:
    (left,) = await leave_packs(kitchen, [b"left behind"])
    repository = await reopened(kitchen.repository)
    places = [Repository(each.provider, repository.master, repository.config, "") for each in pair]
    for place in places:
        await place.provider.create()
        assert isinstance(place.provider, Recording)
        place.provider.refuse_below = "index/"
    failed: list[int] = []
    listed = await repository.list_ids(FileType.PACK)
    holders = [(place, {left.id.hex()}) for place in places]
    with pytest.raises(StorageConnectionError):
        await adopt_orphans(repository, listed, holders)
    assert await adopt_orphans(repository, listed, holders, on_failure=lambda at, _: failed.append(at)) == (0, 0)
    assert failed == [0, 1]
    assert not repository.index.has_pack(left.id)

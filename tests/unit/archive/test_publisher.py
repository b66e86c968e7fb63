"""Publishing: packs before the index that names them, indexes before the snapshot; and packs that were left behind."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backupiq.archive import publisher as publishing
from backupiq.archive.publisher import INDEX_BLOBS, INDEX_SECONDS, Publisher, adopt_orphans
from backupiq.errors import StorageConnectionError
from backupiq.repository.index import decode_index
from backupiq.repository.pack import BlobType, FinishedPack, PackBlob
from backupiq.repository.repository import FileType, Repository, pack_key
from backupiq.repository.snapshot import Snapshot
from backupiq.storage.local import LocalProvider
from backupiq.storage.provider import UploadResult
from tests.unit.archive.saving import SNAPSHOT_TIME, Kitchen, back_up, names_of, new_kitchen, read_back, reopened
from tests.unit.repository.repositories import new_repository


class Recording(LocalProvider):
    """The real local destination, with a record of what it was asked to write, in order."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.events: list[str] = []
        self.lose_answers_below = ""
        self.refuse_below = ""
        self.undurable = 0
        self.during_flush: Callable[[], object] = lambda: None

    async def upload_file(self, source: Path | bytes | memoryview, key: str, **options: Any) -> UploadResult:
        if self.refuse_below and key.startswith(self.refuse_below):
            raise StorageConnectionError("The line is down.")
        if not key.startswith("data/"):
            # Whatever may be lost with the power must not be named by what may not.
            assert self.undurable == 0
        done = await super().upload_file(source, key, **options)
        self.events.append(key.split("/")[0])
        self.undurable += not options.get("durable", True)
        if self.lose_answers_below and key.startswith(self.lose_answers_below):
            self.lose_answers_below = ""
            raise StorageConnectionError("The answer was lost.")
        return done

    async def flush(self) -> None:
        await super().flush()
        self.during_flush()
        self.undurable = 0


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def invented_pack(number: int, blobs: int) -> FinishedPack:
    """A pack as a writer would describe it; its bytes exist nowhere."""
    listed = [
        PackBlob(hashlib.sha256(b"%d/%d" % (number, place)).digest(), BlobType.DATA, place * 40, 40, 0)
        for place in range(blobs)
    ]
    return FinishedPack(
        hashlib.sha256(b"%d" % number).digest(), Path("nowhere"), blobs * 77 + 36, BlobType.DATA, listed
    )


def snapshot() -> Snapshot:
    return Snapshot(time=SNAPSHOT_TIME, tree="ab" * 32, paths=["/x"], hostname="here")


@pytest.fixture
async def repository(tmp_path: Path) -> Repository:
    made = await new_repository(tmp_path / "repository")
    made.provider = Recording(tmp_path / "repository")
    return made


@pytest.fixture
def events(repository: Repository) -> list[str]:
    assert isinstance(repository.provider, Recording)
    return repository.provider.events


async def packs_named(repository: Repository) -> list[bytes]:
    """Every pack that the stored indexes name, as often as they do."""
    named = []
    for name in await names_of(repository, FileType.INDEX):
        named += [pack for pack, _ in decode_index(await repository.load_file(FileType.INDEX, name))]
    return named


async def test_a_run_makes_packs_durable_then_names_them_then_publishes_the_snapshot(
    repository: Repository, events: list[str], tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_bytes(os.urandom(3 << 20))
    saved = await back_up(repository, tmp_path / "spool", source)
    assert events[-2:] == ["index", "snapshots"]
    assert set(events[:-2]) == {"data"}
    assert sorted(await packs_named(repository)) == sorted(
        bytes.fromhex(name) for name in await names_of(repository, FileType.PACK)
    )
    assert (await (await reopened(repository)).load_snapshot("latest"))[0] == saved.snapshot_id


async def test_nothing_is_named_before_it_is_confirmed(repository: Repository) -> None:
    publisher = Publisher(repository)
    await publisher.write_index()
    assert await names_of(repository, FileType.INDEX) == set()
    publisher.confirm(invented_pack(1, 3))
    await publisher.write_index()
    await publisher.write_index()
    assert await packs_named(repository) == [invented_pack(1, 3).id]
    assert publisher.indexes == 1


async def test_a_pack_confirmed_while_the_disk_is_flushed_waits_for_the_next_index(repository: Repository) -> None:
    publisher = Publisher(repository)
    publisher.confirm(invented_pack(1, 3))
    assert isinstance(repository.provider, Recording)
    repository.provider.during_flush = lambda: publisher.confirm(invented_pack(2, 3))
    await publisher.write_index()
    assert await packs_named(repository) == [invented_pack(1, 3).id]
    repository.provider.during_flush = lambda: None
    await publisher.write_index()
    assert sorted(await packs_named(repository)) == sorted([invented_pack(1, 3).id, invented_pack(2, 3).id])


async def test_each_pack_is_named_by_exactly_one_index_with_all_of_its_blobs(repository: Repository) -> None:
    publisher = Publisher(repository)
    packs = [invented_pack(number, 20_000) for number in range(5)]
    for pack in packs:
        publisher.confirm(pack)
    await publisher.write_index()
    assert sorted(await packs_named(repository)) == sorted(pack.id for pack in packs)
    # In files of at most 50,000 blobs: two packs each.
    assert len(await names_of(repository, FileType.INDEX)) == 3
    other = await reopened(repository)
    assert len(other.index) == 100_000
    assert other.index.pack_blobs(packs[3].id) == packs[3].blobs


async def test_a_pack_of_more_blobs_than_an_index_aims_at_stays_whole(repository: Repository) -> None:
    publisher = Publisher(repository)
    publisher.confirm(invented_pack(1, INDEX_BLOBS + 5))
    publisher.confirm(invented_pack(2, 1))
    await publisher.write_index()
    assert len(await packs_named(repository)) == 2
    assert len(await names_of(repository, FileType.INDEX)) == 2


async def test_an_interim_index_is_written_after_fifty_thousand_blobs(repository: Repository) -> None:
    clock = Clock()
    publisher = Publisher(repository, clock=clock)
    publisher.confirm(invented_pack(1, INDEX_BLOBS - 1))
    assert not await publisher.write_interim_index()
    publisher.confirm(invented_pack(2, 1))
    assert await publisher.write_interim_index()
    assert len(await packs_named(repository)) == 2
    assert not await publisher.write_interim_index()


async def test_an_interim_index_is_written_after_five_minutes_if_there_is_anything_to_name(
    repository: Repository,
) -> None:
    clock = Clock()
    publisher = Publisher(repository, clock=clock)
    clock.now += INDEX_SECONDS
    assert not await publisher.write_interim_index()
    publisher.confirm(invented_pack(1, 1))
    assert await publisher.write_interim_index()
    publisher.confirm(invented_pack(2, 1))
    clock.now += INDEX_SECONDS - 1
    assert not await publisher.write_interim_index()
    clock.now += 1
    assert await publisher.write_interim_index()
    assert len(await packs_named(repository)) == 2


async def test_no_snapshot_is_published_while_an_index_cannot_be_written(repository: Repository) -> None:
    publisher = Publisher(repository)
    publisher.confirm(invented_pack(1, 3))
    assert isinstance(repository.provider, Recording)
    repository.provider.refuse_below = "index/"
    with pytest.raises(StorageConnectionError):
        await publisher.publish(snapshot())
    assert await names_of(repository, FileType.SNAPSHOT) == set()
    # More may be confirmed before the next try.
    publisher.confirm(invented_pack(2, 3))
    repository.provider.refuse_below = ""
    snapshot_id = await publisher.publish(snapshot())
    assert sorted(await packs_named(repository)) == sorted([invented_pack(1, 3).id, invented_pack(2, 3).id])
    assert await names_of(repository, FileType.SNAPSHOT) == {snapshot_id}


@pytest.mark.parametrize("kind", ["index", "snapshots"])
async def test_a_publication_tried_again_after_a_lost_answer_leaves_one_index_and_one_snapshot(
    repository: Repository, kind: str
) -> None:
    publisher = Publisher(repository)
    publisher.confirm(invented_pack(1, 3))
    assert isinstance(repository.provider, Recording)
    repository.provider.lose_answers_below = f"{kind}/"
    with pytest.raises(StorageConnectionError):
        await publisher.publish(snapshot())
    snapshot_id = await publisher.publish(snapshot())
    assert await names_of(repository, FileType.SNAPSHOT) == {snapshot_id}
    assert await packs_named(repository) == [invented_pack(1, 3).id]


async def test_what_was_sent_is_counted(repository: Repository) -> None:
    publisher = Publisher(repository)
    pack = invented_pack(1, 3)
    publisher.confirm(pack)
    assert (publisher.packs, publisher.bytes_sent) == (1, pack.size)
    await publisher.publish(snapshot())
    assert pack.size < publisher.bytes_sent < pack.size + 5000


# --- packs that an interrupted run left ----------------------------------------------------------------------------


@pytest.fixture
async def kitchen(tmp_path: Path) -> Kitchen:
    return await new_kitchen(tmp_path)


async def leave_packs(kitchen: Kitchen, blobs: list[bytes], kind: BlobType = BlobType.DATA) -> list[FinishedPack]:
    """Store blobs as an interrupted run would: packs at the destination, and no index."""
    writer = kitchen.new_writer()
    before = len(kitchen.finished)
    for data in blobs:
        writer.save(data, kind)
    writer.flush()
    left = kitchen.finished[before:]
    await kitchen.store_finished()
    return left


async def test_packs_of_an_interrupted_run_are_named_and_used_by_the_next(kitchen: Kitchen) -> None:
    left = await leave_packs(kitchen, [b"one" * 100, b"two" * 100])
    left += await leave_packs(kitchen, [b'{"nodes":[]}\n'], BlobType.TREE)
    fresh = await reopened(kitchen.repository)
    assert not fresh.index.has(hashlib.sha256(b"one" * 100).digest(), BlobType.DATA)

    assert await adopt_orphans(fresh, await fresh.list_ids(FileType.PACK)) == (
        len(left),
        sum(pack.size for pack in left),
    )
    assert await read_back(fresh, [hashlib.sha256(b"one" * 100).hexdigest()]) == b"one" * 100
    assert fresh.index.has(hashlib.sha256(b'{"nodes":[]}\n').digest(), BlobType.TREE)
    another = await reopened(kitchen.repository)
    assert await read_back(another, [hashlib.sha256(b"two" * 100).hexdigest()]) == b"two" * 100
    assert await adopt_orphans(another, await another.list_ids(FileType.PACK)) == (0, 0)
    assert len(await names_of(another, FileType.INDEX)) == 1


async def test_an_orphan_that_is_cut_short_or_damaged_is_left_alone(kitchen: Kitchen) -> None:
    rest = [await leave_packs(kitchen, [os.urandom(1000)]) for _ in range(3)]
    root = kitchen.repository.provider
    assert isinstance(root, LocalProvider)
    paths = [root.root / pack_key(packs[0].id.hex()) for packs in rest]
    for path in paths:
        path.chmod(0o600)
    os.truncate(paths[0], rest[0][0].size - 1)
    with paths[1].open("ab") as file:
        file.write(b"x")
    os.truncate(paths[2], 0)
    stranger = root.root / "data" / "ff" / ("f" * 64)
    stranger.parent.mkdir(exist_ok=True)
    stranger.write_bytes(b"no pack at all, but longer than the shortest one" * 10)
    (whole,) = await leave_packs(kitchen, [b"whole"])
    names = await names_of(kitchen.repository, FileType.PACK)

    fresh = await reopened(kitchen.repository)
    assert await adopt_orphans(fresh, await fresh.list_ids(FileType.PACK)) == (1, whole.size)
    assert fresh.index.packs() == [whole.id]
    assert await names_of(fresh, FileType.PACK) == names


async def test_adopted_packs_are_named_in_indexes_of_a_bounded_size(
    kitchen: Kitchen, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        await leave_packs(kitchen, [b"%d/%d" % (number, place) for place in range(4)])
    monkeypatch.setattr(publishing, "INDEX_BLOBS", 8)
    fresh = await reopened(kitchen.repository)
    assert (await adopt_orphans(fresh, await fresh.list_ids(FileType.PACK)))[0] >= 5
    indexes = await names_of(fresh, FileType.INDEX)
    sizes = [
        sum(len(blobs) for _, blobs in decode_index(await fresh.load_file(FileType.INDEX, name))) for name in indexes
    ]
    assert sum(sizes) == 20
    assert max(sizes) <= 8


async def test_a_whole_repository_has_no_orphans(tmp_path: Path, repository: Repository) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "file").write_bytes(b"x")
    await back_up(repository, tmp_path / "spool", tmp_path / "source")
    before = await names_of(repository, FileType.INDEX)
    assert await adopt_orphans(await reopened(repository), await repository.list_ids(FileType.PACK)) == (0, 0)
    assert await names_of(repository, FileType.INDEX) == before

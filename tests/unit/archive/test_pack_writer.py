"""The pack writer: each invariant of its docstring."""

from __future__ import annotations

import hashlib
import os
import random
import threading
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backupiq.archive import pack_writer
from backupiq.archive.claims import IndexClaims
from backupiq.archive.compression import SAMPLE_FROM
from backupiq.archive.pack_writer import PackWriter
from backupiq.errors import BackupIQError, CancelledRunError
from backupiq.repository.pack import BlobType, FinishedPack
from backupiq.repository.reader import BlobReader
from tests.unit.archive.saving import Kitchen, new_kitchen, reopened

KIB = 1 << 10


@pytest.fixture
async def kitchen(tmp_path: Path) -> AsyncIterator[Kitchen]:
    made = await new_kitchen(tmp_path)
    yield made
    made.close()


def some_blobs(count: int, size: int = 900, seed: int = 1) -> list[bytes]:
    rng = random.Random(seed)
    return [rng.randbytes(rng.randrange(1, size)) for _ in range(count)]


def only_pack_with(finished: list[FinishedPack], blob_id: bytes) -> tuple[FinishedPack, int]:
    places = [(pack, n) for pack in finished for n, blob in enumerate(pack.blobs) if blob.id == blob_id]
    assert len(places) == 1
    return places[0]


def save_in_threads(writer: PackWriter, blobs: list[bytes], threads: int) -> list[BaseException]:
    """Every thread saves all the blobs, each in an order of its own."""
    start = threading.Barrier(threads)
    errors: list[BaseException] = []

    def work(seed: int) -> None:
        mine = list(blobs)
        random.Random(seed).shuffle(mine)
        start.wait()
        try:
            for data in mine:
                assert writer.save(data, BlobType.DATA) == hashlib.sha256(data).digest()
        except BaseException as error:
            errors.append(error)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return errors


async def test_however_many_threads_save_a_blob_it_is_in_exactly_one_pack(kitchen: Kitchen) -> None:
    blobs = some_blobs(400)
    writer = kitchen.new_writer(pack_size=32 * KIB)
    assert save_in_threads(writer, blobs, threads=8) == []
    writer.flush()

    packed = Counter(blob.id for pack in kitchen.finished for blob in pack.blobs)
    assert packed == Counter(hashlib.sha256(data).digest() for data in set(blobs))
    assert len(kitchen.finished) > 4
    assert all(kitchen.repository.index.has(blob_id, BlobType.DATA) for blob_id in packed)
    assert len({pack.id for pack in kitchen.finished}) == len(kitchen.finished)
    assert writer.counts.data_blobs == len(packed)
    assert writer.counts.plain_bytes == sum(map(len, set(blobs)))
    assert writer.counts.stored_bytes == sum(blob.length for pack in kitchen.finished for blob in pack.blobs)


async def test_blobs_saved_together_are_those_saved_one_by_one(kitchen: Kitchen) -> None:
    rng = random.Random(3)
    blobs: list[bytes] = [*some_blobs(200), b"", b"twice", b"twice", b"text " * 30_000, rng.randbytes(300 * KIB)]
    writer = kitchen.new_writer(pack_size=32 * KIB)
    start = threading.Barrier(4)

    def work(seed: int) -> None:
        mine = list(blobs)
        shuffler = random.Random(seed)
        shuffler.shuffle(mine)
        start.wait()
        while mine:
            count = shuffler.randrange(1, 40)
            together, mine = mine[:count], mine[count:]
            assert writer.save_many(together, BlobType.DATA) == [hashlib.sha256(blob).digest() for blob in together]

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert writer.save_many([], BlobType.DATA) == []
    writer.flush()
    packed = Counter(blob.id for pack in kitchen.finished for blob in pack.blobs)
    assert packed == Counter(hashlib.sha256(blob).digest() for blob in set(blobs))
    await kitchen.store_finished()
    reader = BlobReader(kitchen.repository)
    for blob in set(blobs):
        assert await reader.load_blob(hashlib.sha256(blob).digest(), BlobType.DATA) == blob


async def test_every_blob_reads_back_from_the_stored_packs(kitchen: Kitchen) -> None:
    rng = random.Random(5)
    data = [b"", b"x", rng.randbytes(SAMPLE_FROM), b"text " * 60_000, rng.randbytes(700 * KIB), *some_blobs(50)]
    trees = [b'{"nodes":[]}\n', b"y" * 5000, rng.randbytes(300)]
    writer = kitchen.new_writer(pack_size=256 * KIB)
    for blob in data:
        writer.save(blob, BlobType.DATA)
    for blob in trees:
        writer.save(memoryview(blob), BlobType.TREE)
    writer.flush()
    for pack in kitchen.finished:
        assert hashlib.sha256(pack.path.read_bytes()).digest() == pack.id
    await kitchen.store_finished()

    reader = BlobReader(kitchen.repository)
    for kind, blobs in ((BlobType.DATA, data), (BlobType.TREE, trees)):
        for blob in blobs:
            assert await reader.load_blob(hashlib.sha256(blob).digest(), kind) == blob


async def test_a_pack_is_handed_over_once_with_its_blobs_indexed_and_no_lock_held(kitchen: Kitchen) -> None:
    seen: list[bytes] = []
    blocked: list[bool] = []
    index = kitchen.repository.index

    def on_finished(pack: FinishedPack) -> None:
        seen.append(pack.id)
        assert all(index.has(blob.id, blob.type) for blob in pack.blobs)
        if len(seen) == 1:
            # Enough blobs for both open packs: a lock still held would stop the other thread for good.
            others = [b"saved meanwhile %d" % number for number in range(40)]
            helper = threading.Thread(target=lambda: [writer.save(data, BlobType.DATA) for data in others], daemon=True)
            helper.start()
            helper.join(20)
            blocked.append(helper.is_alive())

    writer = PackWriter(
        master=kitchen.repository.master,
        claims=IndexClaims(index),
        spool=kitchen.spool,
        on_finished=on_finished,
        stopped=kitchen.stopping.is_set,
        pack_size=64 * KIB,
    )
    for data in some_blobs(600):
        writer.save(data, BlobType.DATA)
    writer.flush()
    writer.flush()
    assert blocked == [False]
    assert len(seen) > 2
    assert sorted(seen) == sorted(index.packs())


async def test_data_and_trees_are_never_in_one_pack(kitchen: Kitchen) -> None:
    writer = kitchen.new_writer(pack_size=16 * KIB)
    for data in some_blobs(60):
        writer.save(data, BlobType.DATA)
        writer.save(data, BlobType.TREE)
    writer.flush()
    for pack in kitchen.finished:
        assert {blob.type for blob in pack.blobs} == {pack.type}
    counts = writer.counts
    # The same bytes as data and as a tree are two blobs.
    assert counts.data_blobs == counts.tree_blobs == 60
    assert {pack.type for pack in kitchen.finished} == {BlobType.DATA, BlobType.TREE}


async def test_blobs_are_spread_over_two_open_packs_of_each_type(kitchen: Kitchen) -> None:
    writer = kitchen.new_writer()
    for data in some_blobs(60):
        writer.save(data, BlobType.DATA)
        writer.save(data, BlobType.TREE)
    assert len(list(kitchen.spool.folder.glob("pack-*.tmp"))) == 4
    writer.flush()
    assert Counter(pack.type for pack in kitchen.finished) == {BlobType.DATA: 2, BlobType.TREE: 2}
    assert all(len(pack.blobs) > 5 for pack in kitchen.finished)


async def test_a_blob_that_the_repository_holds_is_not_stored_again(kitchen: Kitchen) -> None:
    first = kitchen.new_writer()
    first.save(b"known", BlobType.DATA)
    first.flush()
    before = len(kitchen.finished)

    second = kitchen.new_writer()
    assert second.save(b"known", BlobType.DATA) == hashlib.sha256(b"known").digest()
    second.flush()
    assert len(kitchen.finished) == before
    assert second.counts.data_blobs == 0


async def test_what_does_not_shrink_is_stored_as_it_is(kitchen: Kitchen) -> None:
    rng = random.Random(9)
    raw = [rng.randbytes(10), rng.randbytes(5000), rng.randbytes(SAMPLE_FROM + 1), rng.randbytes(600 * KIB)]
    writer = kitchen.new_writer()
    for data in raw:
        writer.save(data, BlobType.DATA)
    writer.flush()
    for data in raw:
        pack, place = only_pack_with(kitchen.finished, hashlib.sha256(data).digest())
        blob = pack.blobs[place]
        assert (blob.uncompressed_length, blob.length) == (0, len(data) + 32)


async def test_what_shrinks_is_compressed_and_a_tree_always(kitchen: Kitchen) -> None:
    rng = random.Random(9)
    noise = rng.randbytes(300 * KIB)
    text = b"all work and no play " * 20_000
    # Only one of the three samples (start, middle, end) shrinks.
    mixed = [text + noise, noise[: 200 * KIB] + text[: 100 * KIB] + noise[: 200 * KIB], noise + text]
    small = b"a" * 200
    writer = kitchen.new_writer()
    for data in [text, small, *mixed]:
        writer.save(data, BlobType.DATA)
    writer.save(rng.randbytes(50), BlobType.TREE)
    writer.flush()
    for data in [text, small, *mixed]:
        pack, place = only_pack_with(kitchen.finished, hashlib.sha256(data).digest())
        assert pack.blobs[place].uncompressed_length == len(data)
        assert pack.blobs[place].length < len(data)
    (tree,) = [blob for pack in kitchen.finished if pack.type is BlobType.TREE for blob in pack.blobs]
    assert tree.uncompressed_length == 50


async def test_a_pack_is_closed_when_it_reaches_its_size(kitchen: Kitchen) -> None:
    rng = random.Random(2)
    writer = kitchen.new_writer(pack_size=64 * KIB)
    for _ in range(100):
        writer.save(rng.randbytes(10_000), BlobType.DATA)
    writer.flush()
    assert all(pack.size < 64 * KIB + 10_000 + 2_000 for pack in kitchen.finished)
    assert sum(pack.size >= 64 * KIB for pack in kitchen.finished) >= len(kitchen.finished) - 2
    # A blob as large as a pack makes one of its own.
    writer.save(rng.randbytes(200 * KIB), BlobType.DATA)
    assert len(kitchen.finished[-1].blobs) == 1


async def test_a_pack_of_tiny_blobs_is_closed_at_a_number_of_them(
    kitchen: Kitchen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack_writer, "MOST_BLOBS", 10)
    writer = kitchen.new_writer()
    for number in range(100):
        writer.save(b"%d" % number, BlobType.DATA)
    writer.flush()
    assert max(len(pack.blobs) for pack in kitchen.finished) == 10
    assert sum(len(pack.blobs) for pack in kitchen.finished) == 100


async def test_after_flush_no_pack_is_open_and_the_writer_can_go_on(kitchen: Kitchen) -> None:
    writer = kitchen.new_writer()
    writer.flush()
    assert kitchen.finished == []
    writer.save(b"one", BlobType.DATA)
    writer.flush()
    assert list(kitchen.spool.folder.glob("*.tmp")) == []
    writer.save(b"two", BlobType.DATA)
    writer.flush()
    assert len(kitchen.finished) == 2
    assert all(pack.path.is_file() for pack in kitchen.finished)


async def test_discard_removes_open_packs_and_leaves_those_that_were_finished(kitchen: Kitchen) -> None:
    writer = kitchen.new_writer()
    writer.save(b"kept", BlobType.DATA)
    writer.flush()
    writer.save(b"dropped", BlobType.DATA)
    writer.discard()
    assert [pack.path for pack in kitchen.finished] == list(kitchen.spool.folder.glob("[0-9a-f]" * 64))
    assert list(kitchen.spool.folder.glob("*.tmp")) == []
    assert not kitchen.repository.index.has(hashlib.sha256(b"dropped").digest(), BlobType.DATA)
    writer.discard()


async def test_a_full_spool_makes_the_writer_wait_and_a_stopped_run_leaves_it(tmp_path: Path) -> None:
    kitchen = await new_kitchen(tmp_path, spool_limit=3 * 16 * KIB)
    try:
        writer = kitchen.new_writer(pack_size=16 * KIB)
        kitchen.spool.reserve(3 * 16 * KIB, lambda: False)
        kitchen.stopping.set()
        with pytest.raises(CancelledRunError):
            writer.save(b"x", BlobType.DATA)
    finally:
        kitchen.close()


async def test_a_blob_that_could_not_be_stored_fails_the_run_and_never_counts_as_stored(kitchen: Kitchen) -> None:
    writer = kitchen.new_writer()
    kitchen.spool.folder.joinpath("owner").unlink()
    kitchen.spool.folder.rmdir()
    kitchen.spool.folder.write_bytes(b"the spool folder is gone")
    with pytest.raises(BackupIQError):
        writer.save(b"lost", BlobType.DATA)
    os.unlink(kitchen.spool.folder)

    # Another file with the same bytes must not pass for stored, nor may the run be completed.
    with pytest.raises(BackupIQError):
        writer.save(b"lost", BlobType.DATA)
    with pytest.raises(BackupIQError):
        writer.flush()
    assert kitchen.finished == []


async def test_the_index_that_another_program_loads_names_every_blob(kitchen: Kitchen) -> None:
    from backupiq.archive.publisher import Publisher

    publisher = Publisher(kitchen.repository)
    writer = kitchen.new_writer(pack_size=64 * KIB)
    blobs = some_blobs(300)
    for data in blobs:
        writer.save(data, BlobType.DATA)
    writer.flush()
    for pack in kitchen.finished:
        publisher.confirm(pack)
    await kitchen.store_finished()
    await publisher.write_index()
    other = await reopened(kitchen.repository)
    assert all(other.index.has(hashlib.sha256(data).digest(), BlobType.DATA) for data in blobs)

"""Reading blobs and trees: verified, in few reads, from another copy when one is damaged."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from pathlib import Path

import pytest
import zstandard

from backupiq.errors import BlobMissingError, CryptoError, PackError, RepositoryDamagedError, TreeError
from backupiq.repository.crypto import MasterKey
from backupiq.repository.index import BlobLocation
from backupiq.repository.pack import BlobType, FinishedPack
from backupiq.repository.reader import (
    MAX_BATCH_PLAIN,
    MAX_BATCH_STORED,
    MAX_GAP,
    SEGMENT,
    BlobReader,
    Wanted,
    open_blob,
    plan_batches,
)
from backupiq.repository.repository import Repository, pack_key
from backupiq.repository.tree import Node, encode_tree
from tests.unit.repository.repositories import CountingProvider, flip, new_repository, store_pack, stored_file

KIB, MIB = 1 << 10, 1 << 20
PACK = b"p" * 32


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def all_of(pack: FinishedPack) -> list[Wanted]:
    return [(b.id, BlobLocation(pack.id, b.offset, b.length, b.uncompressed_length)) for b in pack.blobs]


def reads_of(repo: Repository) -> list[tuple[str, int, int | None]]:
    assert isinstance(repo.provider, CountingProvider)
    return [read for read in repo.provider.reads if read[0].startswith("data/")]


def a_tree(name: str, subtrees: list[bytes]) -> bytes:
    nodes = [Node(name=f"{name}-{n:05}", type="dir", subtree=tree.hex()) for n, tree in enumerate(subtrees)]
    return encode_tree([*nodes, Node(name=f"{name}-file", type="file", content=[])])


# --- one blob ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("size", [1, 3000, 200_000, 9 * MIB])
async def test_a_blob_comes_back_as_it_was_stored(tmp_path: Path, size: int, compress: bool) -> None:
    repo = await new_repository(tmp_path / "r")
    plain = random.Random(size).randbytes(size)
    await store_pack(repo, tmp_path / "spool", [b"before", plain, b"after"], compress=compress)
    assert await BlobReader(repo).load_blob(sha(plain), BlobType.DATA) == plain


async def test_an_empty_blob_comes_back_empty(tmp_path: Path) -> None:
    repo = await new_repository(tmp_path / "r")
    await store_pack(repo, tmp_path / "spool", [b""], compress=False)
    assert await BlobReader(repo).load_blob(sha(b""), BlobType.DATA) == b""


async def test_a_blob_that_no_index_names_is_missing(tmp_path: Path) -> None:
    repo = await new_repository(tmp_path / "r")
    await store_pack(repo, tmp_path / "spool", [b"data"])
    with pytest.raises(BlobMissingError, match=sha(b"data").hex()):
        await BlobReader(repo).load_blob(sha(b"data"), BlobType.TREE)


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
@pytest.mark.parametrize("kind", BlobType)
async def test_a_damaged_pack_is_named_with_what_to_do(tmp_path: Path, damage: str, kind: BlobType) -> None:
    repo = await new_repository(tmp_path / "r")
    pack = await store_pack(repo, tmp_path / "spool", [b"x" * 1000], kind)
    path = stored_file(repo, pack_key(pack.id.hex()))
    if damage == "flip":
        flip(path, 20)
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:25])
    else:
        path.unlink()
    with pytest.raises(PackError, match=rf"{pack.id.hex()}.*replica"):
        await BlobReader(repo).load_blob(pack.blobs[0].id, kind)


@pytest.mark.parametrize("kind", BlobType)
async def test_what_lies_before_the_cut_of_a_pack_is_still_read(tmp_path: Path, kind: BlobType) -> None:
    repo = await new_repository(tmp_path / "r")
    pack = await store_pack(repo, tmp_path / "spool", [b"a" * 1000, b"b" * 1000, b"c" * 1000], kind)
    path = stored_file(repo, pack_key(pack.id.hex()))
    path.write_bytes(path.read_bytes()[: pack.blobs[1].offset + 5])
    reader = BlobReader(repo)
    assert await reader.load_blob(pack.blobs[0].id, kind) == b"a" * 1000
    with pytest.raises(PackError):
        await reader.load_blob(pack.blobs[1].id, kind)


@pytest.mark.parametrize("kind", BlobType)
async def test_a_damaged_blob_is_taken_from_another_pack(tmp_path: Path, kind: BlobType) -> None:
    repo = await new_repository(tmp_path / "r")
    first = await store_pack(repo, tmp_path / "spool", [b"shared" * 100], kind)
    await store_pack(repo, tmp_path / "spool", [b"other", b"shared" * 100], kind)
    flip(stored_file(repo, pack_key(first.id.hex())), 20)
    assert await BlobReader(repo).load_blob(first.blobs[0].id, kind) == b"shared" * 100


def test_a_blob_with_another_content_than_its_id_stands_for_is_refused() -> None:
    master = MasterKey.generate()
    with pytest.raises(PackError):
        open_blob(master, master.seal(b"swapped"), sha(b"original"), 0)


def test_a_blob_that_is_not_authentic_is_refused() -> None:
    with pytest.raises(CryptoError):
        open_blob(MasterKey.generate(), MasterKey.generate().seal(b"x"), sha(b"x"), 0)


@pytest.mark.parametrize("declared", [True, False])
def test_a_blob_that_unpacks_to_more_than_the_index_says_is_refused(declared: bool) -> None:
    master = MasterKey.generate()
    bomb = zstandard.ZstdCompressor(write_content_size=declared).compress(bytes(64 * MIB))
    for size in (1000, 64 * MIB + 1):
        with pytest.raises(PackError):
            open_blob(master, master.seal(bomb), sha(bytes(64 * MIB)), size)


@pytest.mark.parametrize("junk", [b"", b"no frame", b"\x28\xb5\x2f\xfd", zstandard.compress(b"x" * 99)[:-2]])
def test_a_blob_that_cannot_be_decompressed_is_refused(junk: bytes) -> None:
    master = MasterKey.generate()
    with pytest.raises(PackError):
        open_blob(master, master.seal(junk), sha(b"x" * 99), 99)


# --- trees ---------------------------------------------------------------------------------------------------------


async def test_walking_all_trees_costs_a_few_reads(tmp_path: Path) -> None:
    repo = await new_repository(tmp_path / "r")
    leaves = [a_tree(f"leaf-{n}", []) for n in range(2000)]
    middles = [a_tree(f"middle-{n}", [sha(leaf) for leaf in leaves[n * 40 : n * 40 + 40]]) for n in range(50)]
    root = a_tree("root", [sha(middle) for middle in middles])
    await store_pack(repo, tmp_path / "spool", leaves[:1000] + middles[:20], BlobType.TREE)
    await store_pack(repo, tmp_path / "spool", leaves[1000:] + middles[20:] + [root], BlobType.TREE)

    reader = BlobReader(repo)
    todo, seen = [sha(root).hex()], 0
    while todo:
        seen += 1
        todo += [node.subtree for node in await reader.load_tree(todo.pop()) if node.subtree]
    assert seen == 2051
    assert len(reads_of(repo)) == 2


async def test_trees_that_many_ask_for_at_once_are_read_once(tmp_path: Path) -> None:
    repo = await new_repository(tmp_path / "r")
    trees = [a_tree(f"tree-{n}", []) for n in range(100)]
    await store_pack(repo, tmp_path / "spool", trees, BlobType.TREE)
    reader = BlobReader(repo)
    found = await asyncio.gather(*(reader.load_tree(sha(tree).hex()) for tree in trees))
    assert [nodes[0].name for nodes in found] == [f"tree-{n}-file" for n in range(100)]
    assert len(reads_of(repo)) == 1


async def test_a_reader_that_is_cancelled_does_not_spoil_the_read_for_others(tmp_path: Path) -> None:
    repo = await new_repository(tmp_path / "r")
    tree = a_tree("tree", [])
    await store_pack(repo, tmp_path / "spool", [tree], BlobType.TREE)
    reader = BlobReader(repo)
    first = asyncio.create_task(reader.load_tree(sha(tree).hex()))
    second = asyncio.create_task(reader.load_tree(sha(tree).hex()))
    await asyncio.sleep(0)
    first.cancel()
    assert len(await second) == 1
    assert first.cancelled()


async def test_the_cache_stays_within_its_bytes(tmp_path: Path) -> None:
    repo = await new_repository(tmp_path / "r")
    dice = random.Random(3)
    blobs = [dice.randbytes(MIB) for _ in range(24)]
    await store_pack(repo, tmp_path / "spool", blobs, BlobType.TREE, compress=False)
    reader = BlobReader(repo, cache_bytes=2 * SEGMENT)
    for _ in range(2):
        for blob in blobs:
            assert await reader.load_blob(sha(blob), BlobType.TREE) == blob
    kept = sum(len(segment) for segment in reader._segments.values())
    assert kept == reader._cached <= 2 * SEGMENT
    assert len(reads_of(repo)) == 2 * 7


async def test_a_tree_larger_than_the_cache_is_read(tmp_path: Path) -> None:
    repo = await new_repository(tmp_path / "r")
    blob = os.urandom(9 * MIB)
    await store_pack(repo, tmp_path / "spool", [b"x", blob, b"y"], BlobType.TREE, compress=False)
    for cache in (0, 64 * MIB):
        assert await BlobReader(repo, cache_bytes=cache).load_blob(sha(blob), BlobType.TREE) == blob


async def test_damage_elsewhere_in_a_segment_does_not_hide_a_tree(tmp_path: Path) -> None:
    repo = await new_repository(tmp_path / "r")
    good, bad = a_tree("good", []), a_tree("bad", [])
    pack = await store_pack(repo, tmp_path / "spool", [good, bad], BlobType.TREE)
    flip(stored_file(repo, pack_key(pack.id.hex())), pack.blobs[1].offset + 20)
    reader = BlobReader(repo)
    assert len(await reader.load_tree(sha(good).hex())) == 1
    with pytest.raises(PackError):
        await reader.load_tree(sha(bad).hex())


@pytest.mark.parametrize("name", ["", "zz" * 32, "ab"])
async def test_a_name_that_is_no_tree_id_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(TreeError):
        await BlobReader(await new_repository(tmp_path)).load_tree(name)


async def test_a_blob_that_is_no_tree_is_refused(tmp_path: Path) -> None:
    repo = await new_repository(tmp_path / "r")
    await store_pack(repo, tmp_path / "spool", [b"not a tree"], BlobType.TREE)
    with pytest.raises(TreeError) as caught:
        await BlobReader(repo).load_tree(sha(b"not a tree").hex())
    assert caught.value.details["tree"] == sha(b"not a tree").hex()


# --- many blobs of a pack ------------------------------------------------------------------------------------------


async def test_thousands_of_small_blobs_of_a_pack_cost_one_read(tmp_path: Path) -> None:
    repo = await new_repository(tmp_path / "r")
    blobs = [b"blob %d" % n * 20 for n in range(3000)]
    pack = await store_pack(repo, tmp_path / "spool", blobs)
    wanted = all_of(pack)
    random.Random(1).shuffle(wanted)
    found = [item async for item in BlobReader(repo).read_blobs_of_pack(pack.id, wanted)]
    assert found == [(sha(blob), blob) for blob in blobs]
    assert len(reads_of(repo)) == 1


async def test_only_what_is_wanted_is_read(tmp_path: Path) -> None:
    repo = await new_repository(tmp_path / "r")
    dice = random.Random(5)
    blobs = [dice.randbytes(MIB) for _ in range(8)]
    pack = await store_pack(repo, tmp_path / "spool", blobs, compress=False)
    wanted = [item for n, item in enumerate(all_of(pack)) if n in (0, 6, 7)]
    found = [plain async for _, plain in BlobReader(repo).read_blobs_of_pack(pack.id, wanted)]
    assert found == [blobs[0], blobs[6], blobs[7]]
    assert sum(length or 0 for _, _, length in reads_of(repo)) == 3 * (MIB + 32)


async def test_damaged_blobs_are_reported_and_the_others_are_read(tmp_path: Path) -> None:
    repo = await new_repository(tmp_path / "r")
    blobs = [b"blob %d" % n * 20 for n in range(10)]
    pack = await store_pack(repo, tmp_path / "spool", blobs)
    flip(stored_file(repo, pack_key(pack.id.hex())), pack.blobs[4].offset + 20)
    reported: dict[bytes, RepositoryDamagedError] = {}
    reader = BlobReader(repo)
    found = [
        plain async for _, plain in reader.read_blobs_of_pack(pack.id, all_of(pack), on_damaged=reported.__setitem__)
    ]
    assert found == blobs[:4] + blobs[5:]
    assert list(reported) == [sha(blobs[4])]
    assert pack.id.hex() in reported[sha(blobs[4])].message
    with pytest.raises(PackError, match=pack.id.hex()):
        _ = [item async for item in reader.read_blobs_of_pack(pack.id, all_of(pack))]


async def test_of_a_pack_that_was_cut_the_first_blobs_are_read(tmp_path: Path) -> None:
    repo = await new_repository(tmp_path / "r")
    blobs = [b"blob %d" % n * 20 for n in range(10)]
    pack = await store_pack(repo, tmp_path / "spool", blobs)
    path = stored_file(repo, pack_key(pack.id.hex()))
    path.write_bytes(path.read_bytes()[: pack.blobs[6].offset + 1])
    reported: dict[bytes, RepositoryDamagedError] = {}
    reader = BlobReader(repo)
    found = [
        plain async for _, plain in reader.read_blobs_of_pack(pack.id, all_of(pack), on_damaged=reported.__setitem__)
    ]
    assert found == blobs[:6]
    assert list(reported) == [sha(blob) for blob in blobs[6:]]


async def test_blobs_of_a_missing_pack_come_from_another(tmp_path: Path) -> None:
    repo = await new_repository(tmp_path / "r")
    blobs = [b"blob %d" % n * 20 for n in range(4)]
    first = await store_pack(repo, tmp_path / "spool", blobs)
    await store_pack(repo, tmp_path / "spool", [b"more", *blobs])
    stored_file(repo, pack_key(first.id.hex())).unlink()
    found = dict([item async for item in BlobReader(repo).read_blobs_of_pack(first.id, all_of(first))])
    assert found == {sha(blob): blob for blob in blobs}


async def test_sealed_batches_can_be_opened_in_a_thread_of_the_callers(tmp_path: Path) -> None:
    repo = await new_repository(tmp_path / "r")
    blobs = [b"blob %d" % n * 20 for n in range(10)]
    pack = await store_pack(repo, tmp_path / "spool", blobs)
    batches = [batch async for batch in BlobReader(repo).sealed_batches(pack.id, all_of(pack))]
    opened = await asyncio.to_thread(lambda: [plain for batch in batches for _, plain in batch.open(repo.master)])
    assert opened == blobs


def test_batches_are_bounded_and_hold_every_blob_once() -> None:
    dice = random.Random(9)
    wanted: list[Wanted] = []
    offset = 0
    for n in range(400):
        length = dice.choice([40, 3000, 300 * KIB, 2 * MIB])
        plain = 0 if dice.random() < 0.3 else min(8 * MIB, length * dice.randint(1, 60))
        if dice.random() < 0.5:
            wanted.append((b"%032d" % n, BlobLocation(PACK, offset, length, plain)))
        offset += length
    shuffled = wanted[:]
    dice.shuffle(shuffled)
    batches = plan_batches(shuffled)
    assert [item for batch in batches for item in batch] == wanted
    for batch in batches:
        ends = [place.offset + place.length for _, place in batch]
        assert len(batch) == 1 or ends[-1] - batch[0][1].offset <= MAX_BATCH_STORED
        assert (
            len(batch) == 1 or sum(place.uncompressed_length or place.length for _, place in batch) <= MAX_BATCH_PLAIN
        )
        starts = [place.offset for _, place in batch]
        assert all(start - end <= MAX_GAP for end, start in zip(ends, starts[1:], strict=False))
    assert plan_batches([]) == []

"""Indexes: the files, and the table of every blob in memory."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import textwrap
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupiq.errors import IndexDamagedError
from backupiq.repository.index import BlobLocation, MasterIndex, decode_index, encode_index
from backupiq.repository.pack import BlobType, PackBlob


def blob_id(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


def pack_of(first: int, count: int, kind: BlobType = BlobType.DATA) -> list[PackBlob]:
    return [PackBlob(blob_id(first + i), kind, i * 100, 100, i) for i in range(count)]


ids = st.binary(min_size=32, max_size=32)
blobs = st.builds(
    PackBlob,
    ids,
    st.sampled_from(BlobType),
    st.integers(0, 1 << 31),
    st.integers(32, 1 << 30),
    st.integers(0, (1 << 32) - 1),
)


@given(st.lists(st.tuples(ids, st.lists(blobs, max_size=20)), max_size=8))
def test_an_index_says_what_it_was_made_from(packs: list[tuple[bytes, list[PackBlob]]]) -> None:
    in_order = [(pack_id, sorted(found, key=lambda b: b.offset)) for pack_id, found in packs]
    assert decode_index(encode_index(packs)) == in_order


def test_an_index_is_written_as_restic_writes_it() -> None:
    packs = [
        (
            b"\xaa" * 32,
            [PackBlob(b"\x01" * 32, BlobType.TREE, 0, 50, 0), PackBlob(b"\2" * 32, BlobType.DATA, 50, 60, 9)],
        )
    ]
    assert encode_index(packs).decode() == (
        '{"packs":[{"id":"' + "aa" * 32 + '","blobs":[{"id":"' + "01" * 32 + '","type":"tree","offset":0,"length":50},'
        '{"id":"' + "02" * 32 + '","type":"data","offset":50,"length":60,"uncompressed_length":9}]}]}\n'
    )


def test_what_other_programs_add_to_an_index_is_ignored() -> None:
    known = json.loads(encode_index([(blob_id(0), pack_of(1, 2))]))
    known["packs_to_delete"] = []
    known["supersedes"] = ["00" * 32]
    known["packs"][0]["time"] = "2026-01-01T00:00:00Z"
    assert decode_index(json.dumps(known).encode()) == [(blob_id(0), pack_of(1, 2))]


@pytest.mark.parametrize("text", ['{"packs":null}', '{"packs":[]}'])
def test_an_index_may_be_empty(text: str) -> None:
    assert decode_index(text.encode()) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("id", "zz" * 32),
        ("id", "00" * 31),
        ("id", "00 " * 21 + "0"),
        ("type", "leaf"),
        ("offset", -1),
        ("offset", 1 << 32),
        ("offset", 0xFFFFFFFF),
        ("length", 31),
        ("length", "100"),
        ("uncompressed_length", 1 << 32),
        ("uncompressed_length", None),
    ],
)
def test_a_damaged_entry_is_refused(key: str, value: object) -> None:
    index = json.loads(encode_index([(blob_id(0), pack_of(1, 2))]))
    index["packs"][0]["blobs"][1][key] = value
    with pytest.raises(IndexDamagedError):
        decode_index(json.dumps(index).encode())


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"\xff", b'{"packs":[{}]}', b'{"x":' + b"[" * 100_000])
def test_what_is_no_index_is_refused(data: bytes) -> None:
    with pytest.raises(IndexDamagedError):
        decode_index(data)


def test_the_table_finds_every_blob_it_was_given_and_no_other() -> None:
    index = MasterIndex()
    for number in range(200):
        index.add_pack(blob_id(-1 - number), pack_of(number * 100, 100))
    assert len(index) == index.count(BlobType.DATA) == 20_000
    for number in range(0, 20_000, 7):
        place = index.find(blob_id(number), BlobType.DATA)
        assert place == BlobLocation(blob_id(-1 - number // 100), number % 100 * 100, 100, number % 100)
        assert index.has(blob_id(number), BlobType.DATA)
        assert not index.has(blob_id(number), BlobType.TREE)
    assert not any(index.has(blob_id(number), BlobType.DATA) for number in range(20_000, 25_000))
    assert index.find(blob_id(20_000), BlobType.DATA) is None


def test_a_blob_of_the_same_content_may_be_data_and_tree() -> None:
    index = MasterIndex()
    index.add_pack(b"d" * 32, pack_of(0, 1))
    index.add_pack(b"t" * 32, pack_of(0, 1, BlobType.TREE))
    data, tree = index.find(blob_id(0), BlobType.DATA), index.find(blob_id(0), BlobType.TREE)
    assert data is not None
    assert tree is not None
    assert (data.pack, tree.pack) == (b"d" * 32, b"t" * 32)
    assert len(index) == 2


def test_a_blob_in_several_packs_is_found_in_the_first_also_after_the_table_grew() -> None:
    index = MasterIndex()
    index.add_pack(b"1" * 32, pack_of(0, 10))
    index.add_pack(b"2" * 32, pack_of(5, 10))
    assert len(index) == 15
    index.add_pack(b"3" * 32, pack_of(1000, 5000))
    place = index.find(blob_id(7), BlobType.DATA)
    assert place is not None
    assert place.pack == b"1" * 32
    assert [copy.pack for copy in index.find_all(blob_id(7), BlobType.DATA)] == [b"1" * 32, b"2" * 32]
    assert index.pack_blobs(b"2" * 32) == pack_of(5, 10)


def test_the_table_gives_the_blobs_of_a_pack_and_where_they_end() -> None:
    index = MasterIndex()
    index.add_pack(b"1" * 32, pack_of(0, 10))
    index.add_pack(b"2" * 32, pack_of(10, 3, BlobType.TREE))
    assert index.packs() == [b"1" * 32, b"2" * 32]
    assert index.pack_blobs(b"1" * 32) == pack_of(0, 10)
    assert index.pack_blobs(b"2" * 32) == pack_of(10, 3, BlobType.TREE)
    assert index.pack_end(b"2" * 32) == 300
    assert index.pack_blobs(b"?" * 32) == []
    assert index.has_pack(b"1" * 32)
    assert not index.has_pack(b"?" * 32)


def test_a_pack_that_two_indexes_name_is_counted_once() -> None:
    index = MasterIndex()
    index.add_pack(b"1" * 32, pack_of(0, 10))
    index.add_pack(b"1" * 32, pack_of(0, 10))
    assert (len(index), len(index.packs()), len(index.pack_blobs(b"1" * 32))) == (10, 1, 10)


def test_a_pack_that_is_split_over_indexes_is_put_together() -> None:
    index = MasterIndex()
    whole = pack_of(0, 10)
    index.add_pack(b"1" * 32, whole[:4])
    index.add_pack(b"2" * 32, pack_of(50, 2))
    index.add_pack(b"1" * 32, whole)
    assert index.pack_blobs(b"1" * 32) == whole
    assert all(index.has(blob.id, BlobType.DATA) for blob in whole)


def test_readers_see_every_blob_that_was_added_while_a_writer_goes_on() -> None:
    index = MasterIndex()
    added = [0]
    wrong: list[int] = []

    def write() -> None:
        for number in range(150):
            index.add_pack(blob_id(-1 - number), pack_of(number * 100, 100))
            added[0] = (number + 1) * 100

    def read() -> None:
        while (known := added[0]) < 15_000:
            for number in range(max(0, known - 300), known):
                place = index.find(blob_id(number), BlobType.DATA)
                if place is None or place.offset != number % 100 * 100:
                    wrong.append(number)

    threads = [threading.Thread(target=read) for _ in range(3)] + [threading.Thread(target=write)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(index) == 15_000


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory from /proc")
def test_a_million_blobs_take_less_than_150_megabytes() -> None:
    program = textwrap.dedent(
        """
        import hashlib
        from backupiq.repository.index import MasterIndex
        from backupiq.repository.pack import BlobType, PackBlob

        def peak():
            lines = open("/proc/self/status").read().splitlines()
            return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024

        before = peak()
        index = MasterIndex()
        for pack in range(10_000):
            index.add_pack(hashlib.sha256(b"p%d" % pack).digest(), [
                PackBlob(hashlib.sha256(b"%d" % (pack * 100 + n)).digest(), BlobType.DATA, n * 9000, 9000, 20000)
                for n in range(100)
            ])
        assert len(index) == 1_000_000
        assert index.has(hashlib.sha256(b"999999").digest(), BlobType.DATA)
        print(peak() - before)
        """
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 150_000_000

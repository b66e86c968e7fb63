"""Chunks: cut by content, the same whatever the reads, with zeros apart."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backupiq.repository.chunker import MAX, MAX_SEED, MIN, ZERO_BLOB, Chunker, chunker_seed
from backupiq.repository.config import RepositoryConfig
from backupiq.repository.crypto import MasterKey

SEED = 20260101
MIB = 1 << 20
PINNED = [774714, 1570800, 1327377, 1451154, 1426936, 1180382]
RANDOM = random.Random(7).randbytes(24 * MIB)


def reader(data: bytes, sizes: Iterator[int] | None = None) -> Callable[[int], bytes]:
    position = 0

    def read(size: int) -> bytes:
        nonlocal position
        assert size > 0
        piece = data[position : position + (min(size, next(sizes)) if sizes else size)]
        position += len(piece)
        return piece

    return read


def lengths(data: bytes, seed: int = SEED) -> list[int]:
    return [len(chunk) for chunk in Chunker(seed).chunks(reader(data))]


@st.composite
def contents(draw: st.DrawFn) -> bytes:
    """Up to some MiB of random and zero stretches."""
    parts = []
    for start, size, zeros in draw(
        st.lists(st.tuples(st.integers(0, 8 * MIB), st.integers(0, 3 * MIB), st.booleans()), max_size=6)
    ):
        parts.append(bytes(size) if zeros else RANDOM[start : start + size])
    return b"".join(parts)


@settings(max_examples=40)
@given(contents(), st.randoms(use_true_random=False))
def test_the_cuts_do_not_depend_on_how_much_a_read_returns(data: bytes, dice: random.Random) -> None:
    def sizes() -> Iterator[int]:
        while True:
            yield dice.choice([4096, 77_777, MIN - 1, MIN, MIN + 1, MIB, 5 * MIB])

    whole = list(Chunker(SEED).split(data))
    assert b"".join(whole) == data
    assert list(Chunker(SEED).chunks(reader(data))) == whole
    assert list(Chunker(SEED).chunks(reader(data, sizes()))) == whole


@settings(max_examples=40)
@given(contents())
def test_chunks_are_never_empty_nor_larger_than_8_mib(data: bytes) -> None:
    assert all(0 < size <= MAX for size in lengths(data))


def test_random_data_is_cut_into_chunks_of_at_least_512_kib() -> None:
    sizes = lengths(RANDOM)
    assert all(size >= MIN for size in sizes[:-1])
    assert 8 <= len(sizes) <= 40


def test_chunks_that_never_find_a_cut_are_8_mib() -> None:
    assert lengths(b"x" * (20 * MIB)) == [MAX, MAX, 4 * MIB]


@pytest.mark.parametrize("size", [1, 4096, MIN - 1, MIN])
def test_a_small_file_is_one_chunk_and_its_bytes_are_not_copied(size: int) -> None:
    data = RANDOM[:size]
    assert list(Chunker(SEED).chunks(reader(data))) == [data]
    assert next(Chunker(SEED).split(data)) is data


def test_an_empty_file_has_no_chunks() -> None:
    assert lengths(b"") == []
    assert list(Chunker(SEED).split(b"")) == []


def test_one_chunker_cuts_many_files_alike() -> None:
    chunker = Chunker(SEED)
    first = list(chunker.split(RANDOM))
    assert list(chunker.chunks(reader(RANDOM))) == first
    abandoned = chunker.chunks(reader(RANDOM))
    next(abandoned)
    assert list(chunker.chunks(reader(RANDOM))) == first


def test_an_edit_changes_the_chunks_around_it_only() -> None:
    before = set(Chunker(SEED).split(RANDOM))
    after = list(Chunker(SEED).split(RANDOM[: 9 * MIB] + b"something new" + RANDOM[9 * MIB :]))
    assert sum(chunk not in before for chunk in after) <= 3


def test_a_hole_comes_out_as_zero_blobs_wherever_it_begins() -> None:
    for offset in (0, 1, 4095, 300_000, 3 * MIB + 17):
        data = RANDOM[:offset].rstrip(b"\0") + bytes(6 * MIB) + b"\1" + RANDOM[:MIB]
        chunks = list(Chunker(SEED).split(data))
        assert b"".join(chunks) == data
        assert chunks.count(ZERO_BLOB) == 12, offset


def test_a_hole_across_many_reads_is_zero_blobs_throughout() -> None:
    chunks = list(Chunker(SEED).chunks(reader(bytes(50 * MIB), iter(lambda: 99_999, None))))
    assert chunks == [ZERO_BLOB] * 100


def test_the_cuts_stay_what_they_are() -> None:
    # Pinned: other cuts, from another version of the library perhaps, would store every large file anew.
    assert lengths(RANDOM)[:6] == PINNED


def test_another_seed_cuts_elsewhere() -> None:
    cuts = [tuple(lengths(RANDOM, seed)) for seed in (1, 2, MAX_SEED)]
    assert len(set(cuts)) == 3


def test_the_seed_is_the_repositorys_own_and_stays() -> None:
    config = RepositoryConfig(2, "ab" * 32, "3da3358b4dc173")
    master = MasterKey(b"e" * 32, b"k" * 16, b"r" * 16)
    seed = chunker_seed(master, config)
    assert seed == chunker_seed(MasterKey(b"e" * 32, b"k" * 16, b"r" * 16), config)
    # Pinned: another seed would store every large file of every repository anew.
    assert seed == 467632086664238171
    assert seed != chunker_seed(MasterKey(b"E" * 32, b"k" * 16, b"r" * 16), config)
    assert seed != chunker_seed(master, RepositoryConfig(2, "cd" * 32, "3da3358b4dc173"))
    assert 0 < seed <= MAX_SEED


def test_a_long_stream_needs_about_16_mib_of_memory() -> None:
    left = [96]

    def read(size: int) -> bytes:
        left[0] -= 1
        return (
            b"" if left[0] < 0 else RANDOM[left[0] * 77_777 : left[0] * 77_777 + size] if left[0] % 3 else b"y" * size
        )

    tracemalloc.start()
    try:
        total = sum(len(chunk) for chunk in Chunker(SEED).chunks(read))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert total > 300 * MIB
    assert peak < 20 * MIB


def test_what_the_reader_raises_passes_through() -> None:
    def read(size: int) -> bytes:
        raise OSError(5, "input/output error")

    with pytest.raises(OSError, match="input/output"):
        list(Chunker(SEED).chunks(read))

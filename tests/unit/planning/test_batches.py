"""Batches: every file in exactly one, in order, of a size that follows the whole."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from backupiq.planning.batches import (
    LARGEST_BATCH,
    MIB,
    MOST_FILES,
    PACK,
    SMALLEST_BATCH,
    Batch,
    batch_size,
    plan_batches,
)

GIB = 1 << 30
sizes = st.lists(st.one_of(st.integers(0, 1000), st.integers(0, 200 * MIB)), max_size=200)


def plan(files: Iterable[tuple[int, int]], total: int) -> list[Batch]:
    return plan_batches([files], total)


@given(sizes, st.integers(0, 5))
def test_every_file_is_in_exactly_one_batch_in_the_order_given(sizes: list[int], step: int) -> None:
    files = [(number * (step + 1), size) for number, size in enumerate(sizes)]
    batches = plan(files, sum(sizes))
    assert [ordinal for batch in batches for ordinal in batch.ordinals] == [ordinal for ordinal, _ in files]
    assert sum(batch.bytes for batch in batches) == sum(sizes)
    assert [batch.number for batch in batches] == list(range(1, len(batches) + 1))
    assert all(batch.files == len(batch.ordinals) > 0 for batch in batches)


@given(sizes)
def test_only_a_file_that_is_larger_itself_makes_a_batch_larger_than_aimed_at(sizes: list[int]) -> None:
    aim = batch_size(sum(sizes))
    batches = plan(enumerate(sizes), sum(sizes))
    assert all(batch.bytes <= aim or batch.files == 1 for batch in batches)
    # No batch is closed early: the next file would not have fitted.
    for one, two in itertools.pairwise(batches):
        assert one.bytes + sizes[two.ordinals[0]] > aim


def test_the_size_of_a_batch_follows_the_whole_within_its_bounds() -> None:
    assert batch_size(0) == SMALLEST_BATCH == 128 * MIB
    assert batch_size(500 * 160 * MIB) == 160 * MIB
    assert batch_size(500 * 170 * MIB) == 160 * MIB  # whole packs
    assert batch_size(1 << 50) == LARGEST_BATCH == 512 * MIB


def test_even_a_terabyte_stays_at_a_few_thousand_batches() -> None:
    files = [(number, 25 * MIB) for number in range(1024 * GIB // (25 * MIB))]
    assert len(plan(files, 1024 * GIB)) < 3000


def test_a_batch_holds_at_most_twenty_thousand_files() -> None:
    batches = plan(((number, 0) for number in range(2 * MOST_FILES + 1)), 0)
    assert [batch.files for batch in batches] == [20_000, 20_000, 1]


def test_a_file_larger_than_a_batch_stands_alone() -> None:
    batches = plan([(0, 10), (1, 10 * GIB), (2, 10)], 10 * GIB + 20)
    assert [list(batch.ordinals) for batch in batches] == [[0], [1], [2]]


def test_nothing_to_store_needs_no_batch() -> None:
    assert plan([], 0) == []


def test_little_room_makes_batches_smaller_down_to_a_pack() -> None:
    assert batch_size(1 << 50, most=100 * MIB) == 96 * MIB
    assert batch_size(1 << 50, most=1) == PACK


@given(st.lists(sizes, max_size=5), st.randoms())
def test_no_batch_spans_two_waves_and_ordinals_ascend_within_each(waves: list[list[int]], random: Random) -> None:
    ordinals = list(range(sum(map(len, waves))))
    random.shuffle(ordinals)
    left = iter(ordinals)
    files = [[(next(left), size) for size in wave] for wave in waves]
    batches = plan_batches(files, sum(map(sum, waves)))
    for number, wave in enumerate(files, 1):
        mine = [batch for batch in batches if batch.wave == number]
        assert sorted(o for batch in mine for o in batch.ordinals) == sorted(o for o, _ in wave)
        assert [batch.ends_wave for batch in mine] == [False] * (len(mine) - 1) + [True] * bool(mine)
    assert all(list(batch.ordinals) == sorted(batch.ordinals) for batch in batches)

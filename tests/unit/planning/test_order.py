"""The queue: what matters most for the least bytes first, nothing for ever last; and where waves end."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupiq.planning.order import CLOUD_PACE, LOCAL_PACE, WAVES, Pace, expected_pace, priority, waves

MB = 1_000_000
files = st.lists(st.tuples(st.integers(0, 100), st.integers(0, 1 << 40)), max_size=200)


@given(files)
def test_every_file_is_in_exactly_one_wave_and_priorities_never_rise(found: list[tuple[int, int]]) -> None:
    importance, sizes = [value for value, _ in found], [size for _, size in found]
    made = list(itertools.chain.from_iterable(waves(range(len(found)), sizes, importance)))
    assert sorted(made) == list(enumerate(sizes))
    keys = [priority(importance[ordinal], size) for ordinal, size in made]
    assert keys == sorted(keys, reverse=True)


@given(st.integers(1, 100), st.integers(1, 100), st.integers(0, 1 << 45), st.integers(0, 1 << 45))
def test_importance_raises_and_size_lowers_a_files_place(one: int, two: int, small: int, large: int) -> None:
    small, large = sorted((small, large))
    assert priority(max(one, two), small) >= priority(min(one, two), small)
    assert priority(one, small) >= priority(one, large)


def test_files_of_no_importance_come_last_whatever_their_size() -> None:
    assert priority(0, 1, waited_days=1000) < priority(1, 1 << 50)
    order = [ordinal for wave in waves([0, 1, 2], [1, 1 << 40, 5], [0, 1, 50]) for ordinal, _ in wave]
    assert order == [2, 1, 0]


def test_waiting_brings_a_file_forward_but_not_without_end() -> None:
    assert priority(10, MB, waited_days=10) > priority(25, MB)
    assert priority(10, MB, waited_days=10_000) == priority(50, MB)


def test_equal_files_keep_the_order_of_their_folders() -> None:
    order = [ordinal for wave in waves([3, 5, 9], [7, 7, 7], [50, 50, 50]) for ordinal, _ in wave]
    assert order == [3, 5, 9]


def test_waves_end_where_growing_parts_of_the_bytes_are_stored() -> None:
    sizes = [MB] * 640
    ends = list(itertools.accumulate(len(wave) for wave in waves(range(640), sizes, [50] * 640)))
    assert ends == [round(640 * part) for part in WAVES]


def test_a_wave_is_not_smaller_than_asked_for() -> None:
    sizes = [MB] * 640
    made = list(waves(range(640), sizes, [50] * 640, smallest=100 * MB))
    assert all(len(wave) >= 100 for wave in made[:-1])
    assert sum(map(len, made)) == 640


def test_nothing_to_store_needs_no_wave() -> None:
    assert list(waves([], [], [])) == []


@pytest.mark.parametrize(
    ("kinds", "limit", "rate"),
    [
        (["local"], None, LOCAL_PACE.bytes_per_second),
        (["local", "local"], None, LOCAL_PACE.bytes_per_second),
        (["local", "s3"], None, CLOUD_PACE.bytes_per_second),
        (["s3"], 100 * MB, CLOUD_PACE.bytes_per_second),
        (["s3", "gcs"], 2 * MB, MB),
        (["local"], MB, MB),
    ],
)
def test_the_pace_is_that_of_the_slowest_destination_and_of_the_limit(
    kinds: list[str], limit: int | None, rate: float
) -> None:
    assert expected_pace(kinds, limit).bytes_per_second == rate


def test_many_small_files_take_time_as_well() -> None:
    assert Pace(MB).seconds(0, 1000) > Pace(MB).seconds(MB, 0)

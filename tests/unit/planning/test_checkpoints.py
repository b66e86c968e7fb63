"""When a checkpoint is published."""

from __future__ import annotations

from backupiq.planning.checkpoints import LONGEST_SECONDS, CheckpointClock

GB = 10**9


def test_one_is_due_after_a_wave_when_much_is_left() -> None:
    clock = CheckpointClock(100 * GB, expected_seconds=1000, now=0)
    assert clock.due(GB, ends_wave=True, now=10)
    assert not clock.due(GB, ends_wave=False, now=10)


def test_none_is_due_when_the_rest_takes_less_than_a_minute() -> None:
    clock = CheckpointClock(100 * GB, expected_seconds=600, now=0)
    assert not clock.due(99 * GB, ends_wave=True, now=500)


def test_a_run_that_is_slower_than_expected_gets_one_all_the_same() -> None:
    clock = CheckpointClock(100 * GB, expected_seconds=50, now=0)
    assert not clock.due(50 * GB, ends_wave=True, now=30)
    assert clock.due(50 * GB, ends_wave=True, now=300)


def test_one_is_due_a_quarter_of_an_hour_after_the_last_whatever_was_expected() -> None:
    clock = CheckpointClock(100 * GB, expected_seconds=1, now=0)
    assert not clock.due(GB // 2, ends_wave=False, now=LONGEST_SECONDS - 1)
    assert clock.due(99 * GB, ends_wave=False, now=LONGEST_SECONDS)
    clock.published(LONGEST_SECONDS)
    assert not clock.due(99 * GB, ends_wave=False, now=2 * LONGEST_SECONDS - 1)


def test_none_is_due_when_everything_is_stored() -> None:
    clock = CheckpointClock(GB, expected_seconds=10_000, now=0)
    assert not clock.due(GB, ends_wave=True, now=10_000)

"""Trying again: which errors, how often, how long in between."""

from __future__ import annotations

import asyncio
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupiq.errors import (
    BackupIQError,
    CircuitOpenError,
    ConfigurationError,
    StorageConnectionError,
    StorageNotFoundError,
    StorageThrottledError,
    all_errors,
)
from backupiq.resilience.retry import (
    AGGRESSIVE,
    LONGEST_RETRY_AFTER,
    PATIENT,
    PRESETS,
    QUICK,
    STANDARD,
    RetryPolicy,
    RetryStatistics,
    call_with_retry,
    find_preset,
    is_retryable,
    retry_after,
)

EVEN = RetryPolicy("even", tries=4, first_delay=1, factor=2, longest_delay=3, jitter=0)


class Work:
    """Fails with the given errors, one after another, then succeeds."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.calls = 0

    async def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


class Sleeps:
    """Remembers the waits instead of waiting."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.waits.append(seconds)


# --- policies ------------------------------------------------------------------------------------------------------


def test_the_presets_wait_as_they_are_described() -> None:
    assert QUICK.delays() == (0.25, 0.5)
    assert STANDARD.delays() == (2, 4, 8, 16)
    assert AGGRESSIVE.delays() == (0.5, 1, 2, 4, 8, 16, 30, 30)
    assert PATIENT.delays() == (10, 20, 40, 80, 160, 320, 600, 600, 600)
    assert dict(PRESETS) == {"quick": QUICK, "standard": STANDARD, "aggressive": AGGRESSIVE, "patient": PATIENT}
    assert sum(QUICK.delays()) < 1
    assert 30 * 60 < sum(PATIENT.delays()) < 45 * 60


@given(
    tries=st.integers(1, 50),
    first=st.floats(0, 1e6),
    factor=st.floats(1, 1e300),
    more=st.floats(0, 1e6),
)
def test_delays_are_one_fewer_than_tries_never_shrink_and_never_pass_the_longest(
    tries: int, first: float, factor: float, more: float
) -> None:
    policy = RetryPolicy("any", tries=tries, first_delay=first, factor=factor, longest_delay=first + more, jitter=0)
    delays = policy.delays()
    assert len(delays) == tries - 1
    assert list(delays) == sorted(delays)
    assert all(first <= delay <= policy.longest_delay for delay in delays)


@pytest.mark.parametrize(
    "change",
    [
        {"tries": 0},
        {"tries": 51},
        {"first_delay": -1.0},
        {"first_delay": 31.0},
        {"factor": 0.5},
        {"factor": math.nan},
        {"longest_delay": math.inf},
        {"jitter": 1.5},
        {"jitter": -0.1},
    ],
    ids=str,
)
def test_a_policy_that_makes_no_sense_is_refused(change: dict[str, float]) -> None:
    sound = {"tries": 5, "first_delay": 2.0, "factor": 2.0, "longest_delay": 30.0, "jitter": 0.5}
    with pytest.raises(ConfigurationError, match="'mine' makes no sense"):
        RetryPolicy("mine", **(sound | change))  # type: ignore[arg-type]


def test_an_unknown_preset_is_answered_with_the_names_of_those_there_are() -> None:
    assert find_preset("patient") is PATIENT
    with pytest.raises(ConfigurationError, match="quick, standard, aggressive, patient"):
        find_preset("furious")


# --- calls ---------------------------------------------------------------------------------------------------------


async def test_a_call_is_repeated_after_growing_waits_until_it_succeeds() -> None:
    work, sleeps, statistics = Work(StorageConnectionError(), StorageConnectionError()), Sleeps(), RetryStatistics()
    assert await call_with_retry(work, EVEN, sleep=sleeps, statistics=statistics) == "done"
    assert (work.calls, sleeps.waits) == (3, [1, 2])
    assert statistics == RetryStatistics(calls=1, retries=2, failures=0, seconds_waited=3)


async def test_the_last_error_is_raised_as_it_is_when_the_tries_are_used_up() -> None:
    errors = [StorageConnectionError(f"try {number}") for number in range(1, 6)]
    work, sleeps, statistics = Work(*errors), Sleeps(), RetryStatistics()
    with pytest.raises(StorageConnectionError) as caught:
        await call_with_retry(work, EVEN, sleep=sleeps, statistics=statistics)
    assert caught.value is errors[3]
    assert (work.calls, sleeps.waits) == (4, [1, 2, 3])
    assert statistics == RetryStatistics(calls=1, retries=3, failures=1, seconds_waited=6)


@pytest.mark.parametrize("error", [StorageNotFoundError(), CircuitOpenError(), ValueError("a bug")], ids=repr)
async def test_an_error_that_cannot_pass_is_raised_at_once(error: Exception) -> None:
    work, sleeps = Work(error), Sleeps()
    with pytest.raises(type(error)):
        await call_with_retry(work, EVEN, sleep=sleeps)
    assert (work.calls, sleeps.waits) == (1, [])


async def test_cancelling_ends_a_wait_between_tries() -> None:
    waiting = asyncio.Event()

    async def sleep(seconds: float) -> None:
        waiting.set()
        await asyncio.Event().wait()

    work = Work(StorageConnectionError())
    task = asyncio.ensure_future(call_with_retry(work, EVEN, sleep=sleep))
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.calls == 1


async def test_a_hook_hears_of_each_failed_try_and_the_wait_that_follows() -> None:
    heard: list[tuple[int, str, float]] = []
    work = Work(StorageConnectionError("one"), StorageConnectionError("two"))
    await call_with_retry(
        work, EVEN, sleep=Sleeps(), on_retry=lambda number, error, wait: heard.append((number, error.message, wait))
    )
    assert heard == [(1, "one", 1), (2, "two", 2)]


async def test_the_caller_may_judge_what_is_tried_again() -> None:
    work = Work(StorageNotFoundError())
    assert await call_with_retry(work, EVEN, sleep=Sleeps(), retryable=lambda error: True) == "done"


@given(random=st.floats(0, 1, exclude_max=True), jitter=st.floats(0, 1))
def test_jitter_adds_or_takes_at_most_its_share(random: float, jitter: float) -> None:
    policy = RetryPolicy("jittered", tries=2, first_delay=10, factor=1, longest_delay=10, jitter=jitter)
    sleeps = Sleeps()
    asyncio.run(call_with_retry(Work(StorageConnectionError()), policy, sleep=sleeps, rng=lambda: random))
    (wait,) = sleeps.waits
    assert 10 * (1 - jitter) <= wait <= 10 * (1 + jitter) + 1e-9


async def test_jitter_uses_all_of_its_share() -> None:
    policy = RetryPolicy("jittered", tries=3, first_delay=10, factor=1, longest_delay=10, jitter=0.5)
    sleeps, numbers = Sleeps(), iter([0.0, 1.0])
    work = Work(StorageConnectionError(), StorageConnectionError())
    await call_with_retry(work, policy, sleep=sleeps, rng=lambda: next(numbers))
    assert sleeps.waits == [5, 15]


async def test_a_destination_that_asks_for_a_pause_gets_it_up_to_a_limit_and_never_a_shorter_one() -> None:
    sleeps = Sleeps()
    work = Work(
        StorageThrottledError("slow down", retry_after=7.5),
        StorageThrottledError("slow down", retry_after=1e9),
        StorageThrottledError("slow down", retry_after=0.001),
    )
    await call_with_retry(work, EVEN, sleep=sleeps)
    assert sleeps.waits == [7.5, LONGEST_RETRY_AFTER, 3]


@pytest.mark.parametrize("value", [None, "soon", -5, math.nan, [], 0])
def test_a_pause_that_is_no_number_of_seconds_is_none(value: object) -> None:
    assert retry_after(StorageThrottledError("slow down", retry_after=value)) == 0


def test_only_errors_whose_class_says_so_are_retryable() -> None:
    assert {kind for kind in all_errors() if is_retryable(kind())} == {kind for kind in all_errors() if kind.retryable}
    assert not is_retryable(TimeoutError())
    assert not is_retryable(asyncio.CancelledError())
    assert not is_retryable(BackupIQError())

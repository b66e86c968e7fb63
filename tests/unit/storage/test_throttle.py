"""The bandwidth limit, with a clock that only sleeping moves."""

from __future__ import annotations

import asyncio
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupiq.errors import ValidationError
from backupiq.storage.throttle import BURST_SECONDS, NO_LIMITS, Throttle


class Clock:
    """Time that passes only in sleeps; sleepers wake in the order of their moments."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        moment = self.now + seconds
        await asyncio.sleep(0)
        self.now = max(self.now, moment)

    def thread_sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def throttle(clock: Clock, rate: int) -> Throttle:
    return Throttle(rate, clock=clock, sleep=clock.sleep, thread_sleep=clock.thread_sleep)


async def test_a_long_transfer_takes_as_long_as_the_limit_says() -> None:
    clock = Clock()
    limit = throttle(clock, 1000)
    for _ in range(100):
        await limit.take(100)
    assert 10.0 - BURST_SECONDS <= clock.now - 1000.0 <= 10.0


async def test_more_than_a_burst_may_be_asked_for_at_once() -> None:
    clock = Clock()
    await throttle(clock, 1000).take(60_000)
    assert clock.now - 1000.0 == pytest.approx(60.0 - BURST_SECONDS)


async def test_an_idle_bucket_saves_up_no_more_than_its_burst() -> None:
    clock = Clock()
    limit = throttle(clock, 1000)
    clock.now += 3600
    started = clock.now
    await limit.take(int(1000 * BURST_SECONDS))
    assert clock.now == started
    await limit.take(1000)
    assert clock.now - started == pytest.approx(1.0)


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=40), st.integers(1, 10_000))
def test_no_stretch_of_time_lets_through_more_than_rate_burst_and_one_piece(pieces: list[int], rate: int) -> None:
    async def run() -> list[tuple[float, int]]:
        clock = Clock()
        limit = throttle(clock, rate)
        moved = []
        for piece in pieces:
            await limit.take(piece)
            moved.append((clock.now, piece))
        return moved

    moved = asyncio.run(run())
    for first in range(len(moved)):
        for last in range(first, len(moved)):
            through = sum(piece for _, piece in moved[first : last + 1])
            seconds = moved[last][0] - moved[first][0]
            assert through <= rate * (seconds + BURST_SECONDS) + max(pieces) + 1e-3


async def test_whoever_asks_first_goes_first() -> None:
    clock = Clock()
    limit = throttle(clock, 1000)
    order: list[int] = []

    async def take(number: int, count: int) -> None:
        await limit.take(count)
        order.append(number)

    await asyncio.gather(*(take(number, 50 if number % 2 else 5000) for number in range(10)))
    assert order == sorted(order)


async def test_one_who_gives_up_gives_the_bytes_back() -> None:
    clock = Clock()
    limit = throttle(clock, 1000)
    waiting = asyncio.create_task(limit.take(1_000_000))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    started = clock.now
    await limit.take(1000)
    assert clock.now - started <= 1.0


def test_a_thread_waits_the_same_way_and_stops_when_told() -> None:
    clock = Clock()
    limit = throttle(clock, 1000)
    limit.take_blocking(10_000)
    assert clock.now - 1000.0 == pytest.approx(10.0 - BURST_SECONDS)

    looks = iter([False, False, True])
    before = clock.now
    limit.take_blocking(1_000_000, lambda: next(looks))
    assert clock.now - before < 1.0  # two looks, then it was over
    limit.take_blocking(1000, lambda: False)
    assert clock.now - before <= 2.0  # and the million was given back


def test_threads_share_one_bucket() -> None:
    lock = threading.Lock()
    clock = Clock()

    def sleep(seconds: float) -> None:
        with lock:
            clock.now += max(seconds / 8, 0.001)  # eight sleep at the same time

    limit = Throttle(1000, clock=clock, thread_sleep=sleep)
    threads = [threading.Thread(target=lambda: [limit.take_blocking(100) for _ in range(25)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clock.now - 1000.0 >= 20.0 - BURST_SECONDS - 1e-6


@pytest.mark.parametrize("rate", [0, -1])
def test_a_limit_below_one_byte_is_refused(rate: int) -> None:
    with pytest.raises(ValidationError):
        Throttle(rate)


def test_no_limits_are_none_in_both_directions() -> None:
    assert (NO_LIMITS.upload, NO_LIMITS.download) == (None, None)

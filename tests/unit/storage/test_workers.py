"""Threads of a provider, and the bound on what its uploads hold in memory."""

from __future__ import annotations

import asyncio
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupiq.storage.workers import ByteBudget, Workers, settled


async def test_a_cancelled_call_returns_only_when_its_work_has_ended() -> None:
    workers = Workers(1, "test")
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        assert go_on.wait(30)
        ended.set()

    task = asyncio.create_task(workers.run(work))
    await asyncio.to_thread(begun.wait, 30)
    queued = asyncio.create_task(workers.run(pytest.fail, "was never to begin"))
    await asyncio.sleep(0)
    queued.cancel()
    task.cancel()
    asyncio.get_running_loop().call_later(0.01, go_on.set)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
    with pytest.raises(asyncio.CancelledError):
        await queued
    workers.close()
    workers.close()


async def test_an_error_of_the_work_is_the_calls_own() -> None:
    workers = Workers(1, "test")
    with pytest.raises(ZeroDivisionError):
        await workers.run(lambda: 1 // 0)
    workers.close()


async def test_waiting_for_a_future_is_bounded_and_survives_cancellation() -> None:
    never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    assert not await settled(never, 0.001)

    failing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(settled(failing))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.sleep(0)
    failing.set_exception(ValueError())
    assert await waiting


async def test_no_more_than_the_budget_is_held_and_the_first_to_ask_goes_first() -> None:
    budget = ByteBudget(100)
    order: list[int] = []
    most = 0
    held = 0

    async def use(number: int, count: int) -> None:
        nonlocal held, most
        async with budget.hold(count):
            order.append(number)
            held += min(count, 100)
            most = max(most, held)
            await asyncio.sleep(0)
            held -= min(count, 100)

    await asyncio.gather(*(use(number, count) for number, count in enumerate([60, 60, 10, 1000, 10, 90, 100, 1])))
    assert order == sorted(order)
    assert most <= 100
    assert budget.free == 100


@given(st.lists(st.tuples(st.integers(1, 150), st.booleans()), max_size=12), st.integers(0, 6))
def test_whoever_is_cancelled_holds_nothing(asked: list[tuple[int, bool]], turns: int) -> None:
    async def run() -> None:
        budget = ByteBudget(100)

        async def use(count: int) -> None:
            async with budget.hold(count):
                assert budget.free >= 0
                await asyncio.sleep(0)

        tasks = [asyncio.create_task(use(count)) for count, _ in asked]
        for _ in range(turns):
            await asyncio.sleep(0)
        for task, (_, cancelled) in zip(tasks, asked, strict=True):
            if cancelled:
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert budget.free == budget.total
        async with asyncio.timeout(30), budget.hold(100):
            pass

    asyncio.run(run())

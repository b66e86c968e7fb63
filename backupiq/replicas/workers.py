"""A bounded number of coroutines that take from one queue and leave in it what they could not do."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeVar

Item = TypeVar("Item")


async def work_off(pending: deque[Item], work: Callable[[Item], Awaitable[None]], at_once: int) -> None:
    """Do ``work`` on every item, at most ``at_once`` at a time, and take each from the queue.

    The first error ends all of them and is raised once none runs any more; the items that were not done, or not to
    their end, are in the queue then.
    """

    async def worker() -> None:
        while pending:
            item = pending.popleft()
            try:
                await work(item)
            except BaseException:
                pending.appendleft(item)
                raise

    workers = [asyncio.create_task(worker()) for _ in range(min(at_once, len(pending)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)

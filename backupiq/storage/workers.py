"""Small helpers for providers that wait for a network: threads of their own, and a bound on what is held in memory."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Workers:
    """A provider's own threads: the event loop's may be full of those that wait for this very provider.

    A cancelled `run` returns only when its work has ended or was never begun, so nothing happens afterwards; the work
    itself must therefore be bounded.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._threads = threads
        self._name = name
        self._pool: ThreadPoolExecutor | None = None

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do blocking work in one of the threads."""
        context = contextvars.copy_context()
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix=self._name)
        job = self._pool.submit(lambda: context.run(work, *args, **kwargs))
        waiter = asyncio.wrap_future(job)
        try:
            return await asyncio.shield(waiter)
        except asyncio.CancelledError:
            if not job.cancel():
                await settled(waiter)
            raise

    def close(self) -> None:
        """Let the threads end; calls under way are their callers' to await."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False)


async def settled(future: asyncio.Future[T], seconds: float | None = None) -> bool:
    """Wait until a future is done, also while this task is cancelled; ``False`` when it was not done in time.

    Its result is looked at, so that the loop does not report an error as forgotten.
    """
    loop = asyncio.get_running_loop()
    deadline = None if seconds is None else loop.time() + seconds
    while not future.done():
        left = None if deadline is None else deadline - loop.time()
        if left is not None and left <= 0:
            return False
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait({future}, timeout=left)
    if not future.cancelled():
        future.exception()
    return True


class ByteBudget:
    """At most ``total`` bytes are held at once; whoever asks first goes first.

    Invariants: ``free`` is never negative and returns to ``total`` when nothing is held; a larger request than the
    total counts as the total; a waiter that is cancelled holds nothing.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.free = total
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @contextlib.asynccontextmanager
    async def hold(self, count: int) -> AsyncIterator[None]:
        """Hold ``count`` bytes inside the block."""
        count = min(count, self.total)
        if self._waiting or self.free < count:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((count, turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._release(count)  # the turn and the cancellation came together
                else:
                    with contextlib.suppress(ValueError):  # passed over in its turn already
                        self._waiting.remove((count, turn))
                    self._serve()
                raise
        else:
            self.free -= count
        try:
            yield
        finally:
            self._release(count)

    def _release(self, count: int) -> None:
        self.free += count
        self._serve()

    def _serve(self) -> None:
        while self._waiting and self._waiting[0][0] <= self.free:
            count, turn = self._waiting.popleft()
            if not turn.done():
                self.free -= count
                turn.set_result(None)

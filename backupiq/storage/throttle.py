"""Bandwidth limits: a token bucket that all transfers of one direction share.

``Throttle.take`` is called with a number of bytes before (or right after) they move. What a provider hands to its
client library leaves the machine at the line's speed, so a limit holds over seconds, not within a piece.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from backupiq.errors import ValidationError

BURST_SECONDS = 0.5
"""How long a bucket that nobody used goes on filling."""
LOOK_SECONDS = 0.1
"""How often a waiting thread looks whether it should stop."""


class Throttle:
    """Lets ``bytes_per_second`` through, for any number of tasks and threads at once.

    Invariants: over any stretch of time no more is let through than the rate allows plus one burst and the largest
    single piece; whoever asks first goes first (each caller is given its moment when it asks, and moments never run
    backwards); a caller that gives up while it waits gives its bytes back.
    """

    def __init__(
        self,
        bytes_per_second: int,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        thread_sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        if bytes_per_second < 1:
            raise ValidationError("A bandwidth limit must be at least 1 byte per second.", given=bytes_per_second)
        self.bytes_per_second = bytes_per_second
        self._clock = clock
        self._sleep = sleep
        self._thread_sleep = thread_sleep
        self._lock = threading.Lock()
        self._paid_until = clock() - BURST_SECONDS  # the moment up to which the rate is used up
        self._last_moment = clock()

    async def take(self, n: int) -> None:
        """Wait until ``n`` more bytes may move; ``n`` may exceed the burst."""
        moment = self._reserve(n)
        try:
            while (wait := moment - self._clock()) > 0:
                await self._sleep(wait)
        except BaseException:
            self._give_back(n)
            raise

    def take_blocking(self, n: int, should_stop: Callable[[], bool] | None = None) -> None:
        """The same from a thread; returns early once ``should_stop`` says so, which the caller looks at itself."""
        moment = self._reserve(n)
        while (wait := moment - self._clock()) > 0:
            if should_stop is not None and should_stop():
                self._give_back(n)
                return
            self._thread_sleep(wait if should_stop is None else min(wait, LOOK_SECONDS))

    def _reserve(self, n: int) -> float:
        with self._lock:
            now = self._clock()
            start = max(self._paid_until, now - BURST_SECONDS)
            self._paid_until = start + n / self.bytes_per_second
            self._last_moment = max(self._last_moment, self._paid_until)
            return self._last_moment

    def _give_back(self, n: int) -> None:
        with self._lock:
            self._paid_until -= n / self.bytes_per_second
            self._last_moment = min(self._last_moment, max(self._paid_until, self._clock()))


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a provider's two directions; ``None`` is no limit."""

    upload: Throttle | None = None
    download: Throttle | None = None


NO_LIMITS = Limits()

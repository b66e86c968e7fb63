"""Trying again: how often, and how long to wait in between.

The same presets serve the declarations of Prefect's tasks (`flows.tasks.options.retried`) and calls inside the library
(`call_with_retry`). What is tried again is decided by the class of the error alone: ``BackupIQError.retryable``.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

from backupiq.errors import BackupIQError, ConfigurationError

T = TypeVar("T")
Sleep = Callable[[float], Awaitable[object]]
OnRetry = Callable[[int, BackupIQError, float], None]
"""Called before a wait: the number of the try that failed (from 1), its error, the seconds until the next one."""

MOST_TRIES = 50
LONGEST_RETRY_AFTER = 120.0
"""Seconds: what a destination may ask us to wait (``Retry-After``) is followed up to here."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often something is tried and how long the waits are, in seconds.

    The waits are ``first_delay``, then each ``factor`` times the one before, none over ``longest_delay``; a random part
    of up to ``jitter`` (0 to 1) of the wait is added or taken off, so that many clients do not come back at once.
    ConfigurationError for values that make no sense.
    """

    name: str
    tries: int
    first_delay: float
    factor: float
    longest_delay: float
    jitter: float

    def __post_init__(self) -> None:
        numbers = (self.first_delay, self.factor, self.longest_delay, self.jitter)
        sound = (
            all(math.isfinite(number) for number in numbers)
            and 1 <= self.tries <= MOST_TRIES
            and 0 <= self.first_delay <= self.longest_delay
            and self.factor >= 1
            and 0 <= self.jitter <= 1
        )
        if not sound:
            raise ConfigurationError(
                f"The retry policy {self.name!r} makes no sense: tries are 1 to {MOST_TRIES}, the first delay is 0 or "
                "more and at most the longest, the factor is at least 1, and the jitter is 0 to 1."
            )

    def delays(self) -> tuple[float, ...]:
        """The waits between the tries in seconds, without jitter: one fewer than there are tries."""
        found: list[float] = []
        delay = self.first_delay
        for _ in range(self.tries - 1):
            found.append(min(delay, self.longest_delay))
            # Stops growing at the cap, where going on would only overflow.
            delay = min(delay * self.factor, self.longest_delay)
        return tuple(found)


QUICK = RetryPolicy("quick", tries=3, first_delay=0.25, factor=2, longest_delay=1, jitter=0.5)
"""Someone waits: under a second in all."""
STANDARD = RetryPolicy("standard", tries=5, first_delay=2, factor=2, longest_delay=30, jitter=0.5)
"""Half a minute: what a dropped connection or a restarting server needs."""
AGGRESSIVE = RetryPolicy("aggressive", tries=9, first_delay=0.5, factor=2, longest_delay=30, jitter=0.5)
"""Comes back at once and does not give up for about a minute and a half."""
PATIENT = RetryPolicy("patient", tries=10, first_delay=10, factor=2, longest_delay=600, jitter=0.5)
"""Some 40 minutes: a line that is down for a while, and nobody waits."""

PRESETS: Mapping[str, RetryPolicy] = MappingProxyType(
    {policy.name: policy for policy in (QUICK, STANDARD, AGGRESSIVE, PATIENT)}
)


def find_preset(name: str) -> RetryPolicy:
    """The preset of that name; ConfigurationError names those there are."""
    found = PRESETS.get(name)
    if found is None:
        raise ConfigurationError(f"There is no such retry preset; the presets are {', '.join(PRESETS)}.")
    return found


@dataclass(slots=True)
class RetryStatistics:
    """What retrying did: calls made of `call_with_retry`, tries after the first, calls given up, seconds waited."""

    calls: int = 0
    retries: int = 0
    failures: int = 0
    seconds_waited: float = 0.0


def is_retryable(error: BaseException) -> bool:
    """Whether the same call may succeed when it is made again: what the error's class says."""
    return isinstance(error, BackupIQError) and error.retryable


def retry_after(error: BaseException) -> float:
    """The seconds the destination asked us to wait (``details["retry_after"]``), 0 to `LONGEST_RETRY_AFTER`."""
    wanted = error.details.get("retry_after") if isinstance(error, BackupIQError) else None
    if not isinstance(wanted, (int, float)) or not wanted > 0:
        return 0.0
    return min(float(wanted), LONGEST_RETRY_AFTER)


async def call_with_retry(
    work: Callable[[], Awaitable[T]],
    policy: RetryPolicy = STANDARD,
    *,
    retryable: Callable[[BackupIQError], bool] = is_retryable,
    on_retry: OnRetry | None = None,
    sleep: Sleep = asyncio.sleep,
    rng: Callable[[], float] = random.random,
    statistics: RetryStatistics | None = None,
) -> T:
    """What ``work`` returns, after as many tries as the policy allows.

    Only errors of ours that are ``retryable`` are tried again; the last error is raised as it is. Where an error
    carries ``details["retry_after"]`` (seconds), the wait is at least that long, up to `LONGEST_RETRY_AFTER`. ``rng``
    gives numbers from 0 to 1.
    """
    counted = statistics if statistics is not None else RetryStatistics()
    counted.calls += 1
    for number, delay in enumerate((*policy.delays(), None), start=1):
        try:
            return await work()
        except BackupIQError as error:
            if delay is None or not retryable(error):
                counted.failures += 1
                raise
            wait = max(delay * (1 + policy.jitter * (2 * rng() - 1)), retry_after(error))
            if on_retry is not None:
                on_retry(number, error, wait)
        await sleep(wait)
        counted.retries += 1
        counted.seconds_waited += wait
    raise AssertionError("the last try returns or raises")

"""A world for breakers: one clock, one store that can be cut off, and processes that look at both."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from backupiq.errors import OrchestrationError
from backupiq.resilience.breaker import Breaker, BreakerPolicy, BreakerState, MemoryBreakerStore

POLICY = BreakerPolicy(threshold=3, window_seconds=100, cooldown=60, longest_cooldown=300, probe_seconds=120)
KEY = "s3-bucket-0123456789"


class Clock:
    """Wall clock that moves when told to."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += seconds


class CountingStore(MemoryBreakerStore):
    """The store without Prefect; counts what it is asked, and does not answer while ``down``."""

    def __init__(self) -> None:
        super().__init__()
        self.loads = 0
        self.advances = 0
        self.down = False

    async def load(self, destination: str) -> BreakerState:
        self.loads += 1
        await self._answer()
        return await super().load(destination)

    async def advance(self, destination: str, old: BreakerState, new: BreakerState) -> bool:
        self.advances += 1
        await self._answer()
        return await super().advance(destination, old, new)

    async def known(self) -> Mapping[str, BreakerState]:
        await self._answer()
        return await super().known()

    async def _answer(self) -> None:
        await asyncio.sleep(0)  # others get their turn, as with a real API
        if self.down:
            raise OrchestrationError("Prefect's API cannot be used.")


class World:
    """One destination as several processes see it."""

    def __init__(self, policy: BreakerPolicy = POLICY) -> None:
        self.clock = Clock()
        self.store = CountingStore()
        self.policy = policy
        self.changes: list[tuple[str, str]] = []
        self.alone: list[str] = []

    def process(self, **options: Any) -> Breaker:
        """What another process that uses the same store has."""
        return Breaker(
            self.store,
            KEY,
            **{
                "label": "s3://bucket",
                "policy": self.policy,
                "clock": self.clock,
                "on_change": lambda old, new: self.changes.append((old.phase, new.phase)),
                "on_alone": lambda error: self.alone.append(error.message),
            }
            | options,
        )

    async def stored(self) -> BreakerState:
        return (await self.store.known()).get(KEY, BreakerState())

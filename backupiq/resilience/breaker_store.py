"""Where breakers keep their states, so that others see them."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Protocol

from backupiq.resilience.breaker_state import BreakerState


class BreakerStore(Protocol):
    """States by destination (a `breaker_key`). Every call raises OrchestrationError when the store does not answer."""

    async def load(self, destination: str) -> BreakerState:
        """The newest state; that of generation 0 when nothing was ever stored."""
        ...

    async def advance(self, destination: str, old: BreakerState, new: BreakerState) -> bool:
        """Store ``new`` (generation ``old.generation + 1``) if ``old`` is still the newest; whether it was.

        Of several callers with the same ``old``, in any process, exactly one gets True.
        """
        ...

    async def known(self) -> Mapping[str, BreakerState]:
        """The newest state of every destination that has one."""
        ...


class MemoryBreakerStore:
    """States in this process, for use without Prefect. May be shared by threads and event loops."""

    def __init__(self) -> None:
        self._states: dict[str, BreakerState] = {}
        self._lock = threading.Lock()

    async def load(self, destination: str) -> BreakerState:
        """The newest state."""
        return self._states.get(destination, BreakerState())

    async def advance(self, destination: str, old: BreakerState, new: BreakerState) -> bool:
        """Compare and set."""
        with self._lock:
            newest = self._states.get(destination, BreakerState())
            if newest.generation != old.generation or new.generation != old.generation + 1:
                return False
            self._states[destination] = new
            return True

    async def known(self) -> Mapping[str, BreakerState]:
        """All of them."""
        return dict(self._states)

"""The guard around every task that talks to a destination: it asks the destination's breaker, and tells it the end.

A flow makes its breakers known once, and its tasks find them:

    async with guarding(Breakers(note=run.progress.note)) as breakers:
        breaker = breakers.for_destination(provider.identity, provider.location)
        async with breaker.attempt():
            await provider.authenticate()

    @task(...)
    @guarded(lambda arguments: find_active(arguments["run"]).breaker)
    async def upload(run: str, ...) -> ...:
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import inspect
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from prefect.events import emit_event

from backupiq.errors import OrchestrationError, UnknownDestinationError
from backupiq.resilience.breaker import Breaker, BreakerPolicy, BreakerState, BreakerStore, breaker_key
from backupiq.telemetry import get_logger
from flows.breaker_store import PrefectBreakerStore

P = ParamSpec("P")
T = TypeVar("T")

EVENTS = {
    "open": "backupiq.breaker.opened",
    "half-open": "backupiq.breaker.half-opened",
    "closed": "backupiq.breaker.closed",
}
log = get_logger("backupiq.flows.guard")


class Breakers:
    """The breakers of one run, one for each destination. Belongs to one event loop.

    ``note`` is called with a line for a person, at most once in the run, when Prefect's API does not answer and the
    breakers go on with what they last knew. Without a policy, that of the environment holds (BACKUPIQ_BREAKER_...).
    """

    def __init__(
        self,
        store: BreakerStore | None = None,
        *,
        policy: BreakerPolicy | None = None,
        clock: Callable[[], float] = time.time,
        note: Callable[[str], object] | None = None,
    ) -> None:
        self._store = store if store is not None else PrefectBreakerStore()
        self._policy = policy if policy is not None else BreakerPolicy.from_environment(os.environ)
        self._clock = clock
        self._note = note
        self._told = False
        self._breakers: dict[str, Breaker] = {}

    def of(self, key: str, label: str = "") -> Breaker:
        """The breaker with that key (`breaker_key`), the same at each call; ``label`` is what people call it."""
        found = self._breakers.get(key)
        if found is None:
            found = self._breakers[key] = Breaker(
                self._store,
                key,
                label=label,
                policy=self._policy,
                clock=self._clock,
                on_change=lambda old, new: tell_change(key, old, new),
                on_alone=self._say_once,
            )
        return found

    def for_destination(self, identity: str, label: str) -> Breaker:
        """The breaker of a destination: its provider's identity, and its location as people write it."""
        return self.of(breaker_key(identity), label)

    def phase_of(self, label: str) -> str | None:
        """The phase of the breaker that people call so, as last known here; None when the run has not asked it."""
        return next((each.state.phase for each in self._breakers.values() if each.label == label), None)

    async def close(self) -> None:
        """Let what breakers still tell each other come to its end, within bounds."""
        for breaker in self._breakers.values():
            await breaker.settle()

    def _say_once(self, error: OrchestrationError) -> None:
        if self._told:
            return
        self._told = True
        log.warning("breaker.alone", error=error.message)
        if self._note is not None:
            self._note("Prefect's API does not answer; whether a destination is down is judged by this run alone")


_current: contextvars.ContextVar[Breakers | None] = contextvars.ContextVar("backupiq_breakers", default=None)


def current_breakers() -> Breakers:
    """The breakers of the run this code belongs to; OrchestrationError outside of `guarding`."""
    found = _current.get()
    if found is None:
        raise OrchestrationError("This call to a destination belongs to no run that is under way in this process.")
    return found


@contextlib.asynccontextmanager
async def guarding(breakers: Breakers) -> AsyncIterator[Breakers]:
    """Make the breakers those of the run: of this code, and of the tasks and threads that it starts."""
    token = _current.set(breakers)
    try:
        yield breakers
    finally:
        _current.reset(token)
        await breakers.close()


def guarded(
    destination_of: Callable[[Mapping[str, Any]], Breaker | str],
) -> Callable[[Callable[P, Awaitable[T]]], Callable[P, Coroutine[Any, Any, T]]]:
    """Stacked under ``@task``: each call (each try of the task) goes through the breaker of its destination.

    ``destination_of`` gives the breaker, or its key among the run's, from the call's arguments by name. A destination
    that is to be left alone raises CircuitOpenError, which is not retried, and the function is not called.
    """

    def decorate(function: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        async def call(*args: P.args, **kwargs: P.kwargs) -> T:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            found = destination_of(bound.arguments)
            breaker = found if isinstance(found, Breaker) else current_breakers().of(found)
            async with breaker.attempt():
                return await function(*args, **kwargs)

        return call

    return decorate


# --- events --------------------------------------------------------------------------------------------------------


def tell_change(key: str, old: BreakerState, new: BreakerState) -> None:
    """Emit the Prefect event of a change of a breaker's state; never raises, and never waits for the API.

    A probe that ended without an answer and gives its place back is no news, and has no event.
    """
    if (old.phase, new.phase) == ("half-open", "open") and new.until <= new.since:
        return
    resource = {
        "prefect.resource.id": f"backupiq.breaker.{key}",
        "prefect.resource.name": new.label or key,
        "backupiq.breaker.phase": new.phase,
    }
    payload = {
        "destination": new.label or key,
        "breaker": key,
        "from": old.phase,
        "to": new.phase,
        "generation": new.generation,
        "reason": new.reason,
        "until": new.until,
        "cooldown": new.cooldown,
    }
    try:
        emit_event(EVENTS[new.phase], resource=resource, payload=payload)
    except Exception as error:  # noqa: BLE001 - news about a breaker must not end the backup it protects
        log.warning("breaker.event_lost", error=type(error).__name__)


# --- for the command line ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KnownBreaker:
    """A destination whose breaker opened at some time: the breaker's key and its state."""

    key: str
    state: BreakerState

    @property
    def name(self) -> str:
        """What people call it: the destination's location."""
        return self.state.label or self.key


async def list_breakers(store: BreakerStore | None = None) -> list[KnownBreaker]:
    """Every breaker that ever opened, by name. OrchestrationError when Prefect's API does not answer."""
    states = await (store or PrefectBreakerStore()).known()
    return sorted((KnownBreaker(*item) for item in states.items()), key=lambda found: (found.name, found.key))


async def reset_breaker(name: str, store: BreakerStore | None = None) -> list[KnownBreaker]:
    """Close the breakers of that name (location, identity or key), so that the next call passes; those that were open.

    UnknownDestinationError when no breaker of that name ever opened, OrchestrationError when the API does not answer.
    """
    where = store or PrefectBreakerStore()
    listed = await list_breakers(where)
    meant = [found for found in listed if name in (found.key, found.name) or breaker_key(name) == found.key]
    if not meant:
        names = ", ".join(found.name for found in listed[:10]) or "none so far"
        raise UnknownDestinationError(f"No breaker of that name ever opened. Those that did: {names}.")
    opened = []
    breakers = Breakers(where, policy=BreakerPolicy())
    for found in meant:
        if await breakers.of(found.key, found.name).reset():
            opened.append(found)
    return opened

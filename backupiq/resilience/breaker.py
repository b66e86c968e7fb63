"""The circuit breaker of a destination: asked before each call, told how it ended, its state shared by all runs."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import os
import re
import secrets
import shlex
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from backupiq.errors import BackupIQError, CircuitOpenError, OrchestrationError
from backupiq.resilience.breaker_state import (
    LONGEST_BELIEVABLE,
    BreakerPolicy,
    BreakerState,
    claimed,
    clip,
    closed,
    given_back,
    opened,
)
from backupiq.resilience.breaker_store import BreakerStore, MemoryBreakerStore
from backupiq.resilience.outcome import Outcome, classify
from backupiq.resilience.retry import retry_after
from backupiq.telemetry import get_logger, redact_text
from backupiq.telemetry.text import printable

__all__ = [
    "Breaker",
    "BreakerPolicy",
    "BreakerState",
    "BreakerStore",
    "MemoryBreakerStore",
    "Outcome",
    "Permit",
    "breaker_key",
    "classify",
]

CACHE_SECONDS = 5.0
"""How long the state that was read counts as the state. While closed, our own successes renew it."""
LONGEST_TRUST = 60.0
"""After this many seconds the shared state is read again, however well our own calls go."""
ALONE_SECONDS = 30.0
"""How long a store that did not answer is not asked again."""
MOST_CLAIMS = 5
"""How often one call follows others' changes of the state before it is refused."""
SETTLE_SECONDS = 15.0

OnChange = Callable[[BreakerState, BreakerState], None]
"""Called with the state before and after a change made here that the store has taken."""

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Permit:
    """The leave to make one call: under which generation of the state, and whether it is the probe."""

    generation: int
    probe: bool


class Breaker:
    """One destination's breaker, as one process sees it. Belongs to one event loop; all calls may run at the same time.

    Invariants:

    * Every change of the state is one `BreakerStore.advance`, so among all processes exactly one makes it; whoever
      loses reads what came instead. Changes of this process are made one after another, under a lock.
    * Of all processes only the one whose claim was stored gets a permit to probe, until the claim expires.
    * Outcomes of calls permitted under an earlier generation change nothing.
    * While closed, the store is read at most every `CACHE_SECONDS`, and at most every `LONGEST_TRUST` seconds when one
      call follows the success of another; it is written on change only. So the number of calls costs nothing.
    * When the store does not answer, nothing here raises because of it: the last known state goes on, changes are kept
      here, and are stored when it answers again unless others have changed the state meanwhile.
    """

    def __init__(
        self,
        store: BreakerStore,
        key: str,
        *,
        label: str = "",
        policy: BreakerPolicy | None = None,
        clock: Callable[[], float] = time.time,
        on_change: OnChange | None = None,
        on_alone: Callable[[OrchestrationError], None] | None = None,
    ) -> None:
        self.key = key
        self.label = clip(redact_text(printable(label or key)))
        self.policy = policy or BreakerPolicy()
        self._store = store
        self._clock = clock
        self._on_change = on_change
        self._on_alone = on_alone
        self._owner = f"{printable(socket.gethostname())[:60]}:{os.getpid()}:{secrets.token_hex(4)}"
        self._state = BreakerState(label=self.label)
        self._read_at: float | None = None
        self._good_at: float | None = None
        self._alone = False
        # The generation the store had when changes began to be kept here only.
        self._unsaved_since: int | None = None
        self._failures: deque[float] = deque(maxlen=self.policy.threshold)
        self._lock = asyncio.Lock()
        self._pending: set[asyncio.Task[None]] = set()

    @property
    def state(self) -> BreakerState:
        """The state as last known here."""
        return self._state

    async def allow(self) -> Permit:
        """Leave for one call; CircuitOpenError when the destination is to be left alone. Give its end to `record`."""
        for _ in range(MOST_CLAIMS):
            state = await self._known_state()
            if state.phase == "closed":
                return Permit(state.generation, probe=False)
            now = self._clock()
            if not state.is_due(now):
                break
            claim = claimed(state, now, self._owner, self.policy)
            if await self._advance(state, claim):
                return Permit(self._state.generation, probe=True)
        if self._state.phase == "closed":
            return Permit(self._state.generation, probe=False)
        raise self._refusal()

    async def record(self, permit: Permit, outcome: Outcome, *, reason: str = "", retry_after: float = 0.0) -> None:
        """Tell how the call ended. ``reason`` is safe to show; ``retry_after``: seconds the destination asked for."""
        state, now = self._state, self._clock()
        if state.generation != permit.generation:
            return
        reason = redact_text(printable(reason))
        if permit.probe:
            if outcome is Outcome.SUCCESS:
                await self._advance(state, closed(state, now))
            elif outcome is Outcome.IGNORED:
                await self._advance(state, given_back(state, now))
            else:
                await self._advance(state, opened(state, now, self.policy, reason=reason, retry_after=retry_after))
        elif state.phase == "closed" and self._is_too_much(outcome, now):
            await self._advance(state, opened(state, now, self.policy, reason=reason, retry_after=retry_after))

    @contextlib.asynccontextmanager
    async def attempt(self) -> AsyncIterator[Permit]:
        """Around a call to the destination: `allow` before it, `record` after it, whatever its end."""
        permit = await self.allow()
        try:
            yield permit
        except BaseException as error:
            outcome = classify(error)
            if permit.probe or outcome in (Outcome.FAILURE, Outcome.PERMANENT):
                recorded = self.record(permit, outcome, reason=_reason(error), retry_after=retry_after(error))
                await self._to_its_end(recorded)
            raise
        if permit.probe:
            await self._to_its_end(self.record(permit, Outcome.SUCCESS))
        else:
            await self.record(permit, Outcome.SUCCESS)

    async def reset(self) -> bool:
        """Close it for all, whatever it is; False when it is closed. OrchestrationError when that cannot be stored."""
        for _ in range(MOST_CLAIMS):
            async with self._lock:
                await self._look()
            state = self._state
            if state.phase == "closed" and not self._alone:
                return False
            if not self._alone and await self._advance(state, closed(state, self._clock())) and not self._alone:
                return True
            if self._alone:
                raise OrchestrationError("The breaker cannot be reset: Prefect's API does not answer. Try again later.")
        raise OrchestrationError("Others change the breaker at this very moment. Try again.")

    async def settle(self) -> None:
        """Wait, not long, for what is still being told to the store; call it at the end of a run."""
        if self._pending:
            await asyncio.wait(set(self._pending), timeout=SETTLE_SECONDS)

    # --- our own calls ---------------------------------------------------------------------------------------------

    def _is_too_much(self, outcome: Outcome, now: float) -> bool:
        """Count the outcome; whether the breaker has to open. A success takes back the oldest failure."""
        if outcome is Outcome.SUCCESS:
            self._good_at = now
            if self._failures:
                self._failures.popleft()
            return False
        if outcome is Outcome.IGNORED:
            return False
        # Others may know more: the next call reads what they found.
        self._good_at = None
        if outcome is Outcome.PERMANENT:
            return True
        self._failures.append(now)
        while self._failures and not 0 <= now - self._failures[0] <= self.policy.window_seconds:
            self._failures.popleft()
        return len(self._failures) >= self.policy.threshold

    async def _to_its_end(self, recorded: Awaitable[None]) -> None:
        """Await it so that a cancel, also one that comes again at each await, does not keep it from the store."""
        task = asyncio.ensure_future(recorded)
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)
        await asyncio.shield(task)

    def _refusal(self) -> CircuitOpenError:
        state, now, name = self._state, self._clock(), self.label
        left = min(max(state.next_try - now, 0.0), LONGEST_BELIEVABLE)
        until = datetime.fromtimestamp(now + left, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        if state.phase == "half-open":
            text = f"{name} failed before, and one call is trying it right now (until {until} at most)."
        else:
            text = f"{name} is left alone until {until} (for {math.ceil(left)} s) because it failed"
            text += f": {state.reason.rstrip('.')}." if state.reason else "."
        return CircuitOpenError(
            f"{text} It is tried again by itself; `backupiq providers --reset {shlex.quote(name)}` allows it at once.",
            destination=name,
            breaker=self.key,
            phase=state.phase,
            until=now + left,
            reason=state.reason,
        )

    # --- the shared state ------------------------------------------------------------------------------------------

    def _is_fresh(self) -> bool:
        now = self._clock()
        if self._alone:
            return _within(self._read_at, now, ALONE_SECONDS)
        if _within(self._read_at, now, CACHE_SECONDS):
            return True
        healthy = self._state.phase == "closed" and _within(self._good_at, now, CACHE_SECONDS)
        return healthy and _within(self._read_at, now, LONGEST_TRUST)

    async def _known_state(self) -> BreakerState:
        if not self._is_fresh():
            async with self._lock:
                if not self._is_fresh():
                    await self._look()
        return self._state

    async def _advance(self, old: BreakerState, new: BreakerState) -> bool:
        """Change the state if it still is ``old``; else read what it is."""
        new = replace(new, label=self.label)
        async with self._lock:
            if self._state != old:
                return False
            if self._alone and self._is_fresh():
                self._keep(old, new)
                return True
            if self._unsaved_since is not None:
                await self._look()
                if self._state != replace(old, generation=self._state.generation):
                    return False
                old, new = self._state, replace(new, generation=self._state.generation + 1)
            try:
                won = await self._store.advance(self.key, old, new)
            except OrchestrationError as error:
                self._be_alone(error)
                self._keep(old, new)
                return True
            if not won:
                await self._look()
                return False
            self._adopt(new)
            self._announce(old, new)
            return True

    async def _look(self) -> None:
        """Read the shared state, and store what could not be stored before. The caller holds the lock."""
        mine, base = self._state, self._unsaved_since
        try:
            found = await self._store.load(self.key)
            if base is not None and found.generation == base:
                new = replace(mine, generation=base + 1)
                if await self._store.advance(self.key, found, new):
                    self._adopt(new)
                    self._announce(found, new)
                    return
                found = await self._store.load(self.key)
        except OrchestrationError as error:
            self._be_alone(error)
            return
        self._adopt(found)

    def _adopt(self, state: BreakerState) -> None:
        if state.generation != self._state.generation and state.phase == "closed":
            self._failures.clear()
        self._state = state
        self._read_at = self._clock()
        self._alone, self._unsaved_since = False, None

    def _keep(self, old: BreakerState, new: BreakerState) -> None:
        """Change the state here only, until the store answers again."""
        if self._unsaved_since is None:
            self._unsaved_since = old.generation
        if new.phase == "closed":
            self._failures.clear()
        self._state = new
        log.info("breaker.kept_here", destination=self.label, phase=new.phase, reason=new.reason)

    def _be_alone(self, error: OrchestrationError) -> None:
        self._read_at = self._clock()
        if not self._alone:
            self._alone = True
            log.debug("breaker.alone", destination=self.label, error=error.message)
            if self._on_alone is not None:
                self._on_alone(error)

    def _announce(self, old: BreakerState, new: BreakerState) -> None:
        # Not a warning: the error that opened it is told, and a person is to read it once.
        log.info(f"breaker.{new.phase}", destination=self.label, generation=new.generation, reason=new.reason)
        if self._on_change is not None:
            self._on_change(old, new)


def breaker_key(identity: str) -> str:
    """A destination's identity as a short unique name of lower-case letters, digits and dashes."""
    slug = re.sub(r"[^a-z0-9]+", "-", identity.lower()).strip("-")[:40].strip("-")
    digest = hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    return f"{slug}-{digest}" if slug else digest


def _within(then: float | None, now: float, seconds: float) -> bool:
    # A clock that was set back makes what was known then old.
    return then is not None and 0 <= now - then < seconds


def _reason(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        worst = classify(error)
        error = next(inner for inner in error.exceptions if classify(inner) is worst)
    return error.message if isinstance(error, BackupIQError) else type(error).__name__

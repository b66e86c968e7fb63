"""The breaker as values: its policy, its state, and the step from one state to the next. No clock, no API, no thread.

Times are seconds since 1970 (UTC), since machines share them; durations are seconds.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Literal, get_args

from backupiq.errors import ConfigurationError, ValidationError

Phase = Literal["closed", "open", "half-open"]

LONGEST_BELIEVABLE = 24 * 3600.0
"""Seconds. No cool-down is this long: a time further in the future comes from a wrong clock, and has come already."""
MOST_SECONDS = 1e11
"""No time of ours is later (the year 5138); a number beyond is damage."""
MOST_TEXT = 1000
"""Characters of JSON that the reason and the label may each take: Prefect keeps values under 5,000."""
_ENVIRONMENT = "BACKUPIQ_BREAKER_"


@dataclasses.dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When a breaker opens and for how long. ConfigurationError for values that make no sense.

    It opens after ``threshold`` failures within ``window_seconds``, stays open for ``cooldown`` seconds, twice as long
    after each failed probe up to ``longest_cooldown``; a probe that has not ended after ``probe_seconds`` is given up.
    """

    threshold: int = 5
    window_seconds: float = 120.0
    cooldown: float = 60.0
    longest_cooldown: float = 3600.0
    probe_seconds: float = 300.0

    def __post_init__(self) -> None:
        durations = (self.window_seconds, self.cooldown, self.longest_cooldown, self.probe_seconds)
        sound = all(0 < value <= LONGEST_BELIEVABLE for value in durations)
        if not sound or not 1 <= self.threshold <= 1000 or self.cooldown > self.longest_cooldown:
            raise ConfigurationError(
                "The breaker's settings make no sense: the threshold is 1 to 1000, times are over 0 seconds and at "
                "most a day, and the cool-down is at most the longest one."
            )

    @classmethod
    def from_environment(cls, env: Mapping[str, str]) -> BreakerPolicy:
        """The policy with what ``BACKUPIQ_BREAKER_THRESHOLD``, ``_WINDOW_SECONDS``, ``_COOLDOWN``, ... say."""
        given: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            name = _ENVIRONMENT + field.name.upper()
            text = env.get(name, "").strip()
            if text:
                try:
                    given[field.name] = int(text) if field.name == "threshold" else float(text)
                except ValueError:
                    raise ConfigurationError(f"{name} must be a number.") from None
        return cls(**given)


@dataclasses.dataclass(frozen=True, slots=True)
class BreakerState:
    """One generation of a destination's breaker; generation 0 is a destination that has never failed.

    ``since`` is when this phase began and ``until`` when an open one may be probed; ``cooldown`` how long it is open.
    ``probe_owner`` holds the probe of a half-open one until ``probe_until``. ``label`` is the destination's location.
    """

    phase: Phase = "closed"
    generation: int = 0
    since: float = 0.0
    until: float = 0.0
    cooldown: float = 0.0
    reason: str = ""
    probe_owner: str = ""
    probe_until: float = 0.0
    label: str = ""

    def to_json(self) -> dict[str, Any]:
        """The state as plain JSON values, under 5,000 characters in all."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: object) -> BreakerState:
        """The state that `to_json` gave; unknown fields are passed over. ValidationError when it is damaged."""
        if not isinstance(value, dict) or value.get("phase") not in get_args(Phase):
            raise _damaged()
        given: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            if field.name in value:
                given[field.name] = _checked(value[field.name], type(field.default))
        return cls(**given)

    def is_due(self, now: float) -> bool:
        """Whether the next call may be the probe: the cool-down is over, or a probe was never finished."""
        if self.phase == "closed":
            return False
        left = self.next_try - now
        return left <= 0 or left > LONGEST_BELIEVABLE

    @property
    def next_try(self) -> float:
        """When a probe may be claimed."""
        return self.probe_until if self.phase == "half-open" else self.until


def opened(
    state: BreakerState, now: float, policy: BreakerPolicy, *, reason: str, retry_after: float = 0.0
) -> BreakerState:
    """Open after a failure; after a failed probe with twice the cool-down, up to the policy's longest.

    ``retry_after`` are seconds the destination asked for: it is left alone at least that long, up to the longest.
    """
    cooldown = policy.cooldown
    if state.phase == "half-open":
        cooldown = min(max(state.cooldown * 2, policy.cooldown), policy.longest_cooldown)
    wait = max(cooldown, min(retry_after, policy.longest_cooldown))
    return _next(state, "open", now, until=_time(now + wait), cooldown=cooldown, reason=clip(reason))


def claimed(state: BreakerState, now: float, owner: str, policy: BreakerPolicy) -> BreakerState:
    """Half-open: ``owner`` makes the one probe, within the policy's ``probe_seconds``."""
    return _next(state, "half-open", now, probe_owner=owner, probe_until=_time(now + policy.probe_seconds))


def given_back(state: BreakerState, now: float) -> BreakerState:
    """Open as before, for a probe that ended without an answer: the next call may probe at once."""
    return _next(state, "open", now, until=_time(now))


def closed(state: BreakerState, now: float) -> BreakerState:
    """Closed: calls pass."""
    return _next(state, "closed", now, until=0.0, cooldown=0.0, reason="")


def clip(text: str) -> str:
    """The text, cut so that its JSON has at most `MOST_TEXT` characters."""
    if len(json.dumps(text)) <= MOST_TEXT:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if len(json.dumps(text[:middle] + "...")) <= MOST_TEXT else (low, middle - 1)
    return text[:low] + "..."


def _next(state: BreakerState, phase: Phase, now: float, **changes: Any) -> BreakerState:
    fresh: dict[str, Any] = {"probe_owner": "", "probe_until": 0.0} | changes
    return dataclasses.replace(state, phase=phase, generation=state.generation + 1, since=_time(now), **fresh)


def _time(moment: float) -> float:
    """Milliseconds are enough, and come back from any database as they were."""
    return round(moment, 3)


def _checked(value: object, kind: type) -> str | float:
    """The value when it is text, a time or a count, as the field needs; else ValidationError."""
    if isinstance(value, str) and kind is str:
        return value
    if kind is str or isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < MOST_SECONDS:
        raise _damaged()
    if kind is float:
        return float(value)
    if not isinstance(value, int) or value < 0:
        raise _damaged()
    return value


def _damaged() -> ValidationError:
    return ValidationError("The stored state of a breaker cannot be read; `backupiq providers --reset` writes it anew.")

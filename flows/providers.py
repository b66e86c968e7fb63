"""How the destinations are: reachable, their space, their newest snapshot, and what their breakers say."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from backupiq.errors import BackupIQError, StorageTimeoutError, UnknownDestinationError
from backupiq.resilience.breaker import breaker_key
from backupiq.resilience.breaker_state import BreakerState
from backupiq.storage.provider import StorageInfo, StorageProvider
from blocks.destinations import PREFIX, provider_for
from flows.guard import KnownBreaker, list_breakers, reset_breaker

LONGEST_SECONDS = 60.0
"""How long one destination may take to say how it is."""
AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class DestinationStatus:
    """One destination. ``newest_snapshot_ns`` is when a snapshot was last stored there (nanoseconds since 1970).

    ``breaker`` is None when Prefect's API does not tell; ``left_alone`` says that a run starting now would skip it.
    """

    destination: str
    kind: str
    location: str
    key: str = ""
    problem: BackupIQError | None = None
    space: StorageInfo | None = None
    repository: bool = False
    newest_snapshot_ns: int | None = None
    breaker: BreakerState | None = None
    left_alone: bool = False

    @property
    def usable(self) -> bool:
        """Whether a run that starts now would use it."""
        return self.problem is None and not self.left_alone

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values; times in UTC as ISO 8601."""
        space, problem = self.space, self.problem
        return {
            "destination": self.destination,
            "kind": self.kind,
            "location": self.location,
            "usable": self.usable,
            "problem": problem and {"code": problem.code, "message": problem.message, "retryable": problem.retryable},
            "repository": self.repository,
            "newest_snapshot": None if self.newest_snapshot_ns is None else _iso(self.newest_snapshot_ns / 1e9),
            "space": space and {"total": space.total_bytes, "used": space.used_bytes, "free": space.free_bytes},
            "breaker": self.breaker and breaker_dict(self.key, self.breaker),
        }


@dataclass(frozen=True, slots=True)
class Survey:
    """The destinations asked for, breakers of others that are not closed, and why the breakers are not known."""

    destinations: list[DestinationStatus]
    other_breakers: Mapping[str, BreakerState]
    prefect: BackupIQError | None

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "destinations": [each.to_dict() for each in self.destinations],
            "other_breakers": [breaker_dict(key, state) for key, state in self.other_breakers.items()],
            "prefect": self.prefect and {"code": self.prefect.code, "message": self.prefect.message},
        }


def breaker_dict(key: str, state: BreakerState) -> dict[str, Any]:
    """A breaker as plain JSON values."""
    closed = state.phase == "closed"
    return {
        "key": key,
        "location": state.label,
        "phase": state.phase,
        "reason": state.reason,
        "since": _iso(state.since) if state.generation else None,
        "until": None if closed else _iso(state.next_try),
    }


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


async def survey(destinations: Sequence[str], *, unreachable: BackupIQError | None = None) -> Survey:
    """Look at the destinations, several at once, and at their breakers. Raises nothing about either: it is told.

    ``unreachable`` says that Prefect's API is known not to answer, and why; then it is not asked.
    """
    prefect = unreachable
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(destination: str) -> DestinationStatus:
        async with slots:
            return await look_at(destination)

    found = list(await asyncio.gather(*map(one, destinations)))
    known: Mapping[str, BreakerState] = {}
    if prefect is None:
        try:
            known = {found.key: found.state for found in await list_breakers()}
        except BackupIQError as error:
            prefect = error
    if prefect is not None:
        return Survey(found, {}, prefect)
    now = time.time()
    told = [_with_breaker(each, known.get(each.key, BreakerState()), now) for each in found]
    keys = {each.key for each in found}
    others = {key: state for key, state in known.items() if key not in keys and state.phase != "closed"}
    return Survey(told, others, None)


def _with_breaker(status: DestinationStatus, state: BreakerState, now: float) -> DestinationStatus:
    if not status.key:
        return status
    return replace(status, breaker=state, left_alone=state.phase != "closed" and not state.is_due(now))


async def look_at(destination: str, longest_seconds: float = LONGEST_SECONDS) -> DestinationStatus:
    """How one destination is, without its breaker; what is wrong stands in ``problem``."""
    try:
        provider = provider_for(destination)
    except BackupIQError as error:
        return DestinationStatus(destination, "?", destination, problem=error)
    status = DestinationStatus(destination, provider.kind, provider.location, breaker_key(provider.identity))
    try:
        async with provider, asyncio.timeout(longest_seconds):
            return await _ask(provider, status)
    except BackupIQError as error:
        return replace(status, problem=error)
    except TimeoutError:
        text = f"{provider.location} did not answer within {longest_seconds:.0f} seconds. {StorageTimeoutError.hint}"
        return replace(status, problem=StorageTimeoutError(text))


async def _ask(provider: StorageProvider, status: DestinationStatus) -> DestinationStatus:
    await provider.authenticate()
    space = await provider.check_space()
    if not await provider.file_exists("config"):
        return replace(status, space=space)
    newest: int | None = None
    async for info in provider.list_files("snapshots"):
        if info.modified_ns is not None and (newest is None or info.modified_ns > newest):
            newest = info.modified_ns
    return replace(status, space=space, repository=True, newest_snapshot_ns=newest)


async def reset(name: str) -> list[KnownBreaker]:
    """Close the breakers of that name, for all runs; those that were open, as they were.

    ``name``: a breaker's key, a location as breakers tell it, or a destination as people write it (block:NAME may be
    written NAME). UnknownDestinationError when no breaker of that name ever opened.
    """
    unknown: UnknownDestinationError | None = None
    for meant in _meanings(name):
        try:
            return await reset_breaker(meant)
        except UnknownDestinationError as error:
            unknown = unknown or error
    assert unknown is not None  # noqa: S101 - the name itself is always a meaning
    raise unknown


def _meanings(name: str) -> Iterator[str]:
    """The name itself, then the identities of the destinations it can mean."""
    yield name
    for written in (name, f"{PREFIX}{name}") if ":" not in name else (name,):
        with contextlib.suppress(BackupIQError):
            yield provider_for(written).identity

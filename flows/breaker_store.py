"""Breakers' states as Prefect Variables, shared by all runs that use the same Prefect API.

A state is a Variable of its own for each generation, ``backupiq-breaker-<destination>-<generation>``. Creating one that
is there fails in exactly all callers but one, so a change from generation n to n+1 needs no lock. Old generations are
removed by whoever makes a change; the newest never is, and its number never goes down.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

import httpx
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import VariableCreate
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound, PrefectException

from backupiq.errors import OrchestrationError, ValidationError
from backupiq.resilience.breaker_state import BreakerState
from backupiq.telemetry import get_logger

PREFIX = "backupiq-breaker-"
TAG = "backupiq-breaker"
REQUEST_SECONDS = 10.0
"""How long one question to the API may take in all, Prefect's own retries included."""
PAGE = 200
MOST_PAGES = 50
KEPT_GENERATIONS = 2
"""The newest, and the one before it for whoever wants to see what happened."""
MOST_REMOVED = 20
"""Old generations removed at one change; what a killed run left over goes with the next changes."""
_NAME = re.compile(re.escape(PREFIX) + r"(?P<destination>[a-z0-9-]+)-(?P<generation>[0-9]{8})\Z")

log = get_logger("backupiq.flows.breaker_store")


class PrefectBreakerStore:
    """A `BreakerStore` in the Prefect API of this process. May be used from any event loop.

    Invariants: a generation, once created, is never changed; of all that try to create one, exactly one is told that it
    did, also when an answer was lost and the request repeated, and also when its idea of the newest was long outdated.
    """

    def __init__(self, *, request_seconds: float = REQUEST_SECONDS) -> None:
        self._seconds = request_seconds
        self._told: set[str] = set()

    async def load(self, destination: str) -> BreakerState:
        """The newest state; one that cannot be read counts as closed, and is written anew at the next change."""
        async with self._api() as client:
            found = await self._generations(client, destination)
        return self._parse(*found[0]) if found else BreakerState()

    async def advance(self, destination: str, old: BreakerState, new: BreakerState) -> bool:
        """Create the next generation if nobody else has; whether this caller did."""
        if new.generation != old.generation + 1:
            return False
        wanted = VariableCreate(name=_name(destination, new.generation), value=new.to_json(), tags=[TAG])
        async with self._api() as client:
            # Found there already: others were first, or it is our own, sent twice because the first answer was lost.
            with contextlib.suppress(ObjectAlreadyExists):
                await client.create_variable(wanted)
            # Asked after the creation: where others are further on, what was created is one that they had removed.
            found = await self._generations(client, destination)
        won = bool(found) and found[0][0] == wanted.name and self._parse(*found[0]) == new
        await self._remove([name for name, _ in found[KEPT_GENERATIONS:]])
        return won

    async def known(self) -> Mapping[str, BreakerState]:
        """The newest state of every destination whose breaker ever opened."""
        rows: list[tuple[str, Any]] = []
        async with self._api() as client:
            for page in range(MOST_PAGES):
                part = await self._read(client, PREFIX, page * PAGE)
                rows += part
                if len(part) < PAGE:
                    break
        newest: dict[str, tuple[str, Any]] = {}
        for name, value in sorted(rows, key=lambda row: row[0]):
            if match := _NAME.match(name):
                newest[match["destination"]] = (name, value)
        return {destination: self._parse(*row) for destination, row in sorted(newest.items())}

    # --- talking to the API ----------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _api(self) -> AsyncIterator[PrefectClient]:
        try:
            async with asyncio.timeout(self._seconds), get_client() as client:
                yield client
        except (
            TimeoutError,
            OSError,
            httpx.HTTPError,
            httpx.InvalidURL,
            PrefectException,
            RuntimeError,
            ValueError,
        ) as e:
            raise OrchestrationError(
                f"Prefect's API does not answer as it should ({type(e).__name__}). {OrchestrationError.hint}"
            ) from e

    async def _read(self, client: PrefectClient, prefix: str, offset: int = 0) -> list[tuple[str, Any]]:
        """Name and value of Variables whose name begins so, the last name first."""
        query = {"variables": {"name": {"like_": prefix}}, "sort": "NAME_DESC", "limit": PAGE, "offset": offset}
        answer = await client.request("POST", "/variables/filter", json=query)
        return [(row["name"], row["value"]) for row in answer.json()]

    async def _generations(self, client: PrefectClient, destination: str) -> list[tuple[str, Any]]:
        """The destination's states, the newest first: generations have as many digits as sort well."""
        rows = await self._read(client, f"{PREFIX}{destination}-")
        matches = ((_NAME.match(name), name, value) for name, value in rows)
        return [(name, value) for match, name, value in matches if match and match["destination"] == destination]

    async def _remove(self, names: list[str]) -> None:
        try:
            async with self._api() as client:
                for name in names[:MOST_REMOVED]:
                    with contextlib.suppress(ObjectNotFound):
                        await client.delete_variable_by_name(name)
        except OrchestrationError as error:
            log.debug("breaker.not_removed", error=error.message)

    def _parse(self, name: str, value: Any) -> BreakerState:
        match = _NAME.match(name)
        if match is None:
            raise AssertionError("only names of ours are parsed")
        try:
            # The name is what exactly one could create; what stands in the value about it is a copy.
            return replace(BreakerState.from_json(value), generation=int(match["generation"]))
        except ValidationError as error:
            if name not in self._told and len(self._told) < PAGE:
                self._told.add(name)
                log.warning("breaker.damaged", variable=name, error=error.message)
            return BreakerState(generation=int(match["generation"]))


def _name(destination: str, generation: int) -> str:
    return f"{PREFIX}{destination}-{generation:08d}"

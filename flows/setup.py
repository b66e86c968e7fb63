"""Making Prefect's API ready for backups: the types of our blocks, and limits on how much runs at once.

Everything is declared and compared: what is missing is made, what differs is changed, nothing is ever deleted. So it
may be run again at any time, and a second run changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from prefect.blocks.core import Block
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, GlobalConcurrencyLimitUpdate
from prefect.exceptions import ObjectNotFound

from backupiq.errors import MissingConfigurationError, ValidationError
from blocks.backup_profile import BackupProfile
from blocks.destinations import TYPES
from blocks.repository_key import RepositoryKey
from flows.naming import TAGGED, tag_of
from flows.reach import api_errors

TAG_LIMIT = 16
"""Upload tasks at once to destinations of one kind, of all runs together, unless another number is asked for."""
MOST_AT_ONCE = 10_000
LIMITED = tuple(kind.kind for kind in TYPES if kind.kind in TAGGED)
LIMIT_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")


class Outcome(StrEnum):
    """What became of one item."""

    CREATED = "created"
    UPDATED = "updated"
    UNCHANGED = "unchanged"
    LEFT_OUT = "left out"


@dataclass(frozen=True, slots=True)
class SetupItem:
    """One thing that should be in Prefect's API. ``limit`` counts task runs or slots at once."""

    what: str
    name: str
    outcome: Outcome
    limit: int | None = None
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {**asdict(self), "outcome": str(self.outcome)}


def parse_limits(given: Iterable[str], *, kinds: bool) -> dict[str, int]:
    """``NAME=NUMBER`` options as a table; with ``kinds`` the names have to be kinds of destinations.

    ValidationError for anything else, and for numbers below 1: a limit of 0 would hold every run up for ever.
    """
    known = list(LIMITED)
    parsed: dict[str, int] = {}
    for text in given:
        name, equals, number = text.partition("=")
        if not equals or not (number.isascii() and number.isdigit()) or not 1 <= int(number[:6]) <= MOST_AT_ONCE:
            raise ValidationError(f"{text!r} is no limit; write NAME=NUMBER, the number from 1 to {MOST_AT_ONCE}.")
        if kinds and name not in known:
            raise ValidationError(f"{name!r} is no kind of destination. There are: {', '.join(known)}.")
        if LIMIT_NAME.fullmatch(name) is None:
            raise ValidationError(f"{name!r} is no name for a limit; use lower-case letters, digits, '-', '_' and '.'.")
        parsed[name] = int(number)
    return parsed


async def set_up(tag_limits: Mapping[str, int], global_limits: Mapping[str, int]) -> list[SetupItem]:
    """Register the types of blocks and create or update the limits; what was done, in order.

    ``tag_limits``: kind of destination -> upload tasks at once; a kind that is not named gets `TAG_LIMIT` when it has
    no limit yet and keeps the one it has. ``global_limits``: name -> slots. OrchestrationError when Prefect's API does
    not answer.
    """
    with api_errors():
        async with get_client() as client:
            done = [await _register(client, RepositoryKey, RepositoryKey.get_block_type_name())]
            done.append(await _register(client, BackupProfile, BackupProfile.get_block_type_name()))
            for kind in TYPES:
                try:
                    cls = kind.load_class()
                except (MissingConfigurationError, ImportError) as error:
                    reason = error.message if isinstance(error, MissingConfigurationError) else str(error)
                    done.append(SetupItem("block type", kind.title, Outcome.LEFT_OUT, reason=reason))
                else:
                    done.append(await _register(client, cls, cls.get_block_type_name()))
            done += [await _limit_tag(client, tag_of(kind), tag_limits.get(kind)) for kind in LIMITED]
            done += [await _limit(client, name, slots) for name, slots in global_limits.items()]
    return done


async def _register(client: PrefectClient, cls: type[Block], name: str) -> SetupItem:
    before = await _registered(client, cls)
    await cls.aregister_type_and_schema(client=client)
    after = await _registered(client, cls)
    outcome = Outcome.CREATED if before is None else Outcome.UNCHANGED if after == before else Outcome.UPDATED
    return SetupItem("block type", name, outcome)


async def _registered(client: PrefectClient, cls: type[Block]) -> tuple[Any, ...] | None:
    try:
        found = await client.read_block_type_by_slug(cls.get_block_type_slug())
    except ObjectNotFound:
        return None
    schema = await client.get_most_recent_block_schema_for_block_type(found.id)
    return found.updated, schema and schema.id


async def _limit_tag(client: PrefectClient, tag: str, wanted: int | None) -> SetupItem:
    try:
        current = (await client.read_concurrency_limit_by_tag(tag)).concurrency_limit
    except ObjectNotFound:
        current = None
    limit = wanted or current or TAG_LIMIT
    if current != limit:
        await client.create_concurrency_limit(tag=tag, concurrency_limit=limit)
    return SetupItem("limit on a tag", tag, _outcome(current, limit), limit)


async def _limit(client: PrefectClient, name: str, slots: int) -> SetupItem:
    try:
        current = (await client.read_global_concurrency_limit_by_name(name)).limit
    except ObjectNotFound:
        current = None
        await client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=slots))
    if current not in (None, slots):
        await client.update_global_concurrency_limit(name, GlobalConcurrencyLimitUpdate(limit=slots))
    return SetupItem("global limit", name, _outcome(current, slots), slots)


def _outcome(current: int | None, wanted: int) -> Outcome:
    if current is None:
        return Outcome.CREATED
    return Outcome.UNCHANGED if current == wanted else Outcome.UPDATED

"""Destinations as the catalog knows them: which there are, which snapshots each holds, how each has been."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, delete, insert, select, update

from backupiq.catalog.adding import ensure_repository, insert_or_nothing
from backupiq.catalog.database import reading, writing
from backupiq.catalog.models import DestinationRecord, HealthRecord, RepositoryRecord, SnapshotPlace, SnapshotRecord
from backupiq.catalog.staging import storable

KEPT_OBSERVATIONS = 10_000
"""The newest observations of each destination that are kept: a month of four an hour, several times over."""


@dataclass(frozen=True, slots=True)
class Destination:
    """A destination: its location for people, its kind ("s3", "local", ...) and what tells it from all others."""

    name: str
    kind: str = ""
    identity: str = ""


@dataclass(frozen=True, slots=True)
class Observation:
    """How a destination was: when (nanoseconds since 1970), a word such as "ok" or "failed", how long it took to
    answer, and the code of its error, empty when there was none."""

    at_ns: int
    state: str
    latency_ms: int | None = None
    error: str = ""


def record_health(engine: Engine, repository_id: str, destination: Destination, seen: Observation) -> None:
    """Keep an observation; the oldest ones beyond `KEPT_OBSERVATIONS` go. CatalogError."""
    with writing(engine) as connection:
        key = ensure_destination(connection, ensure_repository(connection, repository_id), destination, seen.at_ns)
        connection.execute(
            insert(HealthRecord).values(
                destination_id=key,
                at_ns=seen.at_ns,
                state=storable(seen.state),
                latency_ms=seen.latency_ms,
                error=storable(seen.error),
            )
        )
        last: dict[str, Any] = {"last_error": storable(seen.error)}
        if not seen.error:
            last["last_success_ns"] = seen.at_ns
        connection.execute(update(DestinationRecord).where(DestinationRecord.id == key).values(last))
        of_it = HealthRecord.destination_id == key
        oldest = (
            select(HealthRecord.id)
            .where(of_it)
            .order_by(HealthRecord.at_ns.desc(), HealthRecord.id.desc())
            .offset(KEPT_OBSERVATIONS)
        )
        connection.execute(delete(HealthRecord).where(HealthRecord.id.in_(oldest)))


def health_history(engine: Engine, repository_id: str, name: str, limit: int = 100) -> list[Observation]:
    """The newest observations of a destination, oldest first. CatalogError."""
    found = (
        select(HealthRecord.at_ns, HealthRecord.state, HealthRecord.latency_ms, HealthRecord.error)
        .join(DestinationRecord, DestinationRecord.id == HealthRecord.destination_id)
        .join(RepositoryRecord, RepositoryRecord.id == DestinationRecord.repository_id)
        .where(RepositoryRecord.repository_id == repository_id, DestinationRecord.name == name)
        .order_by(HealthRecord.at_ns.desc(), HealthRecord.id.desc())
        .limit(limit)
    )
    with reading(engine) as connection:
        return [Observation(*row) for row in connection.execute(found)][::-1]


def record_places(
    engine: Engine, repository_id: str, held: Iterable[tuple[Destination, Collection[str]]], now_ns: int
) -> None:
    """Keep which snapshots (ids in hex) each of these destinations holds; what is known of others stays. CatalogError.

    A destination holds a snapshot when its file is there: it is stored last, after all that the snapshot needs.
    """
    with writing(engine) as connection:
        repository = ensure_repository(connection, repository_id)
        mine = select(SnapshotRecord.id, SnapshotRecord.hex_id).where(SnapshotRecord.repository_id == repository)
        keys = {row.hex_id: row.id for row in connection.execute(mine)}
        for destination, ids in held:
            key = ensure_destination(connection, repository, destination, now_ns)
            wanted = {keys[hex_id] for hex_id in ids if hex_id in keys}
            there = select(SnapshotPlace.snapshot_id).where(SnapshotPlace.destination_id == key)
            known = set(connection.execute(there).scalars())
            rows = [{"snapshot_id": each, "destination_id": key} for each in sorted(wanted - known)]
            if rows:
                connection.execute(insert(SnapshotPlace), rows)
            for each in known - wanted:
                connection.execute(
                    delete(SnapshotPlace).where(SnapshotPlace.destination_id == key, SnapshotPlace.snapshot_id == each)
                )


def give_up(engine: Engine, repository_id: str, name: str, *, given_up: bool = True) -> bool:
    """Mark a destination as one that nothing is restored from any more, or take that back; False when unknown."""
    of_it = select(RepositoryRecord.id).where(RepositoryRecord.repository_id == repository_id)
    changed = update(DestinationRecord).where(
        DestinationRecord.name == name, DestinationRecord.repository_id.in_(of_it)
    )
    with writing(engine) as connection:
        return bool(connection.execute(changed.values(given_up=given_up)).rowcount)


def ensure_destination(connection: Connection, repository: int, destination: Destination, now_ns: int) -> int:
    """The key of a destination's record, which is made when there is none."""
    name = storable(destination.name)
    values = {"kind": storable(destination.kind), "identity": storable(destination.identity)}
    connection.execute(
        insert_or_nothing(connection, DestinationRecord).values(
            repository_id=repository, name=name, first_seen_ns=now_ns, last_error="", given_up=False, **values
        )
    )
    record = select(DestinationRecord).where(
        DestinationRecord.repository_id == repository, DestinationRecord.name == name
    )
    found = connection.execute(record).one()
    if destination.kind and (found.kind, found.identity) != tuple(values.values()):
        connection.execute(update(DestinationRecord).where(DestinationRecord.id == found.id).values(values))
    return int(found.id)

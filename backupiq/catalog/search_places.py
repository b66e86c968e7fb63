"""Which snapshots and destinations hold a file version, as clauses over its first and last position."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, exists, false, func, or_, select

from backupiq.catalog.models import LineageRecord, SnapshotPlace, SnapshotRecord
from backupiq.catalog.query_paths import after_prefix
from backupiq.errors import AmbiguousSnapshotError, SnapshotNotFoundError

Clause = ColumnElement[bool]
Make = Callable[[Any], Clause]
"""Makes the clause for the columns of file_versions or of an alias of it."""
Run = tuple[int | None, int | None]
"""Snapshots that follow each other, by the positions of the first and the last; None: from the beginning, or to the
end."""

MAX_RUNS = 100
"""More stretches of snapshots than this are looked up one by one instead of being written into the statement."""


def begins(column: Any, prefix: str) -> Clause:
    """Whether a text begins so, as an index can tell it."""
    end = after_prefix(prefix)
    clause: Clause = column >= prefix if end is None else and_(column >= prefix, column < end)
    return clause


# --- snapshots ------------------------------------------------------------------------------------------------------


def in_newest(connection: Connection) -> Make:
    """In the newest snapshot of its host and paths; a checkpoint is one as long as no whole snapshot came after it."""
    newest = (
        select(
            LineageRecord.id,
            LineageRecord.repository_id,
            LineageRecord.host,
            LineageRecord.paths,
            func.max(SnapshotRecord.time_ns).label("time_ns"),
        )
        .join(SnapshotRecord, SnapshotRecord.lineage_id == LineageRecord.id)
        .group_by(LineageRecord.id)
    )
    best: dict[tuple[int, str, str], tuple[int, int]] = {}
    for row in connection.execute(newest):
        who = (row.repository_id, row.host, row.paths)
        best[who] = max(best.get(who, (row.time_ns, row.id)), (row.time_ns, row.id))
    lineages = [lineage for _, lineage in best.values()]
    return lambda v: and_(v.lineage_id.in_(lineages), v.last_position.is_(None))


def in_snapshot(connection: Connection, prefix: str) -> Make:
    """In the snapshot whose id begins so. SnapshotNotFoundError, AmbiguousSnapshotError."""
    rows = connection.execute(
        select(SnapshotRecord.hex_id, SnapshotRecord.lineage_id, SnapshotRecord.position)
        .where(begins(SnapshotRecord.hex_id, prefix))
        .limit(100)
    ).all()
    ids = sorted({row.hex_id for row in rows})
    if not ids:
        raise SnapshotNotFoundError(
            f"The catalog knows no snapshot {prefix!r}. List the snapshots with `backupiq snapshots`, or bring the "
            "catalog up to date with `backupiq catalog update`.",
            snapshot=prefix,
        )
    if len(ids) > 1:
        raise AmbiguousSnapshotError(
            f"More than one snapshot begins with {prefix!r}. {AmbiguousSnapshotError.hint}",
            snapshot=prefix,
            matches=ids[:10],
        )
    runs: dict[int, list[Run]] = {row.lineage_id: [(row.position, row.position)] for row in rows}
    return lambda v: _in_runs(v, runs)


# --- destinations ---------------------------------------------------------------------------------------------------


def held_by(connection: Connection, destinations: Collection[int]) -> Make:
    """In a snapshot that one of these destinations holds completely."""
    held: dict[int, list[tuple[int, bool]]] = defaultdict(list)
    places = select(SnapshotPlace.snapshot_id).where(SnapshotPlace.destination_id.in_(destinations))
    complete = set(connection.scalars(places))
    snapshots = select(SnapshotRecord.id, SnapshotRecord.lineage_id, SnapshotRecord.position)
    for row in connection.execute(snapshots.order_by(SnapshotRecord.lineage_id, SnapshotRecord.position)):
        held[row.lineage_id].append((row.position, row.id in complete))
    runs = {lineage: found for lineage, marks in held.items() if (found := runs_of(marks))}
    if sum(map(len, runs.values())) <= MAX_RUNS:
        return lambda v: _in_runs(v, runs)
    return lambda v: exists().where(
        SnapshotRecord.lineage_id == v.lineage_id,
        SnapshotRecord.position >= v.first_position,
        or_(v.last_position.is_(None), SnapshotRecord.position <= v.last_position),
        SnapshotPlace.snapshot_id == SnapshotRecord.id,
        SnapshotPlace.destination_id.in_(destinations),
    )


def runs_of(marks: Sequence[tuple[int, bool]]) -> list[Run]:
    """The stretches of marked snapshots among (position, marked) in the order of positions."""
    runs: list[Run] = []
    begin = -1
    for index, (_, marked) in enumerate([*marks, (0, False)]):
        if marked and begin < 0:
            begin = index
        elif not marked and begin >= 0:
            first = marks[begin][0] if begin else None
            runs.append((first, marks[index - 1][0] if index < len(marks) else None))
            begin = -1
    return runs


def _in_runs(version: Any, runs: dict[int, list[Run]]) -> Clause:
    """Whether a version is in any snapshot of the stretches of its lineage.

    Positions between snapshots do not matter: a version is in at least one snapshot, and without a gap.
    """
    whole = [lineage for lineage, stretches in runs.items() if stretches == [(None, None)]]
    parts: list[Clause] = [version.lineage_id.in_(whole)] if whole else []
    parts += [
        and_(version.lineage_id == lineage, _meets(version, run))
        for lineage, stretches in runs.items()
        if stretches != [(None, None)]
        for run in stretches
    ]
    return or_(false(), *parts)


def _meets(version: Any, run: Run) -> Clause:
    first, last = run
    clauses: list[Clause] = [] if last is None else [version.first_position <= last]
    if first is not None:
        clauses.append(or_(version.last_position.is_(None), version.last_position >= first))
    return and_(*clauses)

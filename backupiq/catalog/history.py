"""What became of a path over the snapshots: when it appeared, changed, vanished and came back."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, Row, select

from backupiq.catalog.database import path_below, path_is, reading
from backupiq.catalog.models import FileVersion, LineageRecord, RepositoryRecord
from backupiq.catalog.search_hits import Hit, Seen, Timeline, load_hits, load_timelines
from backupiq.discovery.entry import EntryKind
from backupiq.errors import PathNotInSnapshotError
from backupiq.telemetry.text import printable_path

MAX_EXAMPLES = 5
"""Paths named for each snapshot in the history of a folder."""
_STREAMED = 5_000


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a file and what happened in the first snapshot that holds it.

    ``event`` is "appeared", "changed", "touched" (other times, the same content) or "returned"; ``vanished`` is the
    first snapshot without the path, when it was gone after this version.
    """

    event: str
    hit: Hit
    vanished: Seen | None


@dataclass(slots=True)
class FolderChange:
    """How what lies below a folder differs in a snapshot from the one before: numbers of files, and a few of them."""

    snapshot: Seen
    appeared: int = 0
    changed: int = 0
    touched: int = 0
    vanished: int = 0
    bytes_written: int = 0
    """Bytes of what appeared or changed."""
    examples: list[tuple[str, bytes]] = field(default_factory=list)
    """Event and raw path of the first `MAX_EXAMPLES`, in the order of paths."""


@dataclass(frozen=True, slots=True)
class LineageHistory:
    """A path in the snapshots that one host made of one set of paths. ``below`` is empty for files."""

    repository: str
    host: str
    paths: tuple[str, ...]
    checkpoint: bool
    snapshots: int
    versions: tuple[Version, ...]
    below: tuple[FolderChange, ...]


def history(engine: Engine, path: bytes) -> list[LineageHistory]:
    """All versions of a file, and of a folder what changed below it, for each lineage that has the path.

    ``path`` is raw and absolute. Raises PathNotInSnapshotError when no snapshot of the catalog has it, CatalogError
    when the catalog cannot be used.
    """
    with reading(engine) as connection:
        lineages = connection.execute(
            select(
                LineageRecord.id,
                LineageRecord.host,
                LineageRecord.paths,
                LineageRecord.checkpoint,
                RepositoryRecord.repository_id.label("repository"),
            )
            .join(RepositoryRecord, RepositoryRecord.id == LineageRecord.repository_id)
            .order_by(RepositoryRecord.repository_id, LineageRecord.host, LineageRecord.paths, LineageRecord.checkpoint)
        ).all()
        found = [_of_lineage(connection, lineage, path) for lineage in lineages]
    known = [one for one in found if one is not None]
    if not known:
        raise PathNotInSnapshotError(
            f"No snapshot in the catalog holds {printable_path(path)}. Look for its name with `backupiq find`, or "
            "bring the catalog up to date with `backupiq catalog update`."
        )
    return known


def _of_lineage(connection: Connection, lineage: Row[Any], path: bytes) -> LineageHistory | None:
    ids = connection.scalars(
        select(FileVersion.id)
        .where(FileVersion.lineage_id == lineage.id, path_is(connection, path))
        .order_by(FileVersion.first_position)
    ).all()
    below = _rows_below(connection, lineage.id, path)
    first_below = next(below, None)
    if not ids and first_below is None:
        return None
    timeline = load_timelines(connection, [lineage.id])[lineage.id]
    hits = [hit for hit in load_hits(connection, ids) if hit.first is not None]
    changes: list[FolderChange] = []
    if first_below is not None:
        changes = folder_changes(itertools.chain([first_below], below), timeline)
        hits = [hit for hit in hits if hit.kind != EntryKind.DIR]
    versions = tuple(file_versions(hits, timeline))
    if not versions and not changes:
        return None
    return LineageHistory(
        lineage.repository,
        lineage.host,
        tuple(json.loads(lineage.paths)),
        lineage.checkpoint,
        len(timeline.seen),
        versions,
        tuple(changes),
    )


def file_versions(hits: Sequence[Hit], timeline: Timeline) -> Iterator[Version]:
    """The versions of one path, oldest first, with what happened when each began and ended."""
    index_of = {seen.id: index for index, seen in enumerate(timeline.seen)}
    spans = [(index_of[hit.first.id], index_of[hit.last.id]) for hit in hits if hit.first and hit.last]
    for number, (hit, (begin, end)) in enumerate(zip(hits, spans, strict=True)):
        follows = number > 0 and spans[number - 1][1] + 1 == begin
        if number == 0:
            event = "appeared"
        elif not follows:
            event = "returned"
        else:
            before = hits[number - 1]
            same = (before.content, before.kind, before.size) == (hit.content, hit.kind, hit.size)
            event = "touched" if same else "changed"
        next_begin = spans[number + 1][0] if number + 1 < len(spans) else len(timeline.seen)
        gone = end + 1 < next_begin  # the path is missing in the snapshot after its last one
        yield Version(event, hit, timeline.seen[end + 1] if gone else None)


# --- folders --------------------------------------------------------------------------------------------------------


class RowBelow(NamedTuple):
    """What the history of a folder needs of a file version."""

    path: str
    raw_path: bytes | None
    kind: int
    size: int
    content: bytes | None
    first_position: int
    last_position: int | None


def _rows_below(connection: Connection, lineage: int, folder: bytes) -> Iterator[RowBelow]:
    """The versions below a folder without folders, those of a path together and oldest first, streamed."""
    columns = [getattr(FileVersion, name) for name in RowBelow._fields]
    statement = (
        select(*columns)
        .where(
            FileVersion.lineage_id == lineage,
            path_below(connection, folder),
            FileVersion.kind != int(EntryKind.DIR),
        )
        .order_by(FileVersion.path, FileVersion.raw_path, FileVersion.first_position)
        .execution_options(yield_per=_STREAMED)
    )
    for row in connection.execute(statement):
        yield RowBelow(*row)


def folder_changes(rows: Iterable[RowBelow], timeline: Timeline) -> list[FolderChange]:
    """What changed in each snapshot, oldest first, without snapshots in which nothing did."""
    changes: dict[int, FolderChange] = {}

    def note(index: int, event: str, row: RowBelow) -> None:
        change = changes.get(index)
        if change is None:
            change = changes[index] = FolderChange(timeline.seen[index])
        setattr(change, event, getattr(change, event) + 1)
        if event in ("appeared", "changed"):
            change.bytes_written += row.size
        if len(change.examples) < MAX_EXAMPLES:
            raw = row.raw_path if row.raw_path is not None else row.path.encode()
            change.examples.append((event, raw))

    before: RowBelow | None = None
    ended = -1  # the index of the last snapshot that holds ``before``
    for row in rows:
        inside = timeline.within(row.first_position, row.last_position)
        if not inside:
            continue
        same_path = before is not None and (before.path, before.raw_path) == (row.path, row.raw_path)
        if before is not None and not (same_path and ended + 1 == inside[0]):
            if ended + 1 < len(timeline.seen):
                note(ended + 1, "vanished", before)
            note(inside[0], "appeared", row)
        elif before is None:
            note(inside[0], "appeared", row)
        else:
            same = (before.content, before.kind, before.size) == (row.content, row.kind, row.size)
            note(inside[0], "touched" if same else "changed", row)
        before, ended = row, inside[-1]
    if before is not None and ended + 1 < len(timeline.seen):
        note(ended + 1, "vanished", before)
    return [changes[index] for index in sorted(changes)]

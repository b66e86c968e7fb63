"""What find says of a file version: what it is, in which snapshots it is, and how to have it back."""

from __future__ import annotations

import shlex
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, case, func, select

from backupiq.catalog.models import (
    DestinationRecord,
    FileVersion,
    FindingRecord,
    LineageRecord,
    ProjectRecord,
    RepositoryRecord,
    SnapshotPlace,
    SnapshotRecord,
)
from backupiq.catalog.search_filters import same_path
from backupiq.discovery.entry import EntryKind

SHORT_ID = 8
"""Characters of a snapshot's id that a person is shown, unless others begin the same."""
_BATCH = 500
"""Ids asked for at once."""
_VERSIONS = FileVersion.__table__
_OTHER = _VERSIONS.alias("other")


@dataclass(frozen=True, slots=True)
class Seen:
    """A snapshot that holds the version."""

    id: str
    time_ns: int
    short_id: str


@dataclass(frozen=True, slots=True)
class Hit:
    """One file version. ``path`` is raw; sizes in bytes, times in nanoseconds since 1970.

    ``first`` and ``last`` are the ends of the snapshots that hold it (None when the catalog has lost them). ``state``
    is "present" (the newest snapshot holds it), "changed" (that holds another version of the path) or "deleted".
    ``destinations`` can give it back; ``restore_from`` is the newest of its snapshots that one of them holds whole.
    ``repository`` is the id of its repository, ``versions`` how many versions of the path the catalog knows.
    """

    path: bytes
    kind: EntryKind
    size: int
    mtime_ns: int
    content: str
    category: str
    language: str
    mime: str
    role: str
    importance: int
    git: str
    regenerable: bool
    conflict: bool
    project: str
    host: str
    repository: str
    state: str
    versions: int
    first: Seen | None
    last: Seen | None
    restore_from: Seen | None
    destinations: tuple[str, ...]
    secrets: tuple[tuple[str, int, str], ...]
    """Rule, line and severity of each secret that was found."""
    repo: str = ""
    """The destination to name when restoring; empty when the catalog knows no other repository."""

    @property
    def restore_command(self) -> str:
        """The command line that restores it, for a POSIX shell; empty when no snapshot is left."""
        if self.restore_from is None:
            return ""
        repo = f" --repo {shlex.quote(self.repo)}" if self.repo else ""
        what = shell_word(self.restore_from.short_id.encode() + b":" + self.path)
        return f"backupiq restore {what}{repo} --target DIR"


def shell_word(raw: bytes) -> str:
    """The bytes as one word of a POSIX shell, printable on any terminal (``$'...'`` where that needs escapes)."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = ""
    if text and text.isprintable():
        return shlex.quote(text)
    shown = (chr(b) if 0x20 <= b < 0x7F and b not in b"'\\" else f"\\x{b:02x}" for b in raw)
    # An escape takes at most two digits after \x, so what follows cannot be drawn into it.
    return "$'" + "".join(shown) + "'"


@dataclass(slots=True)
class Timeline:
    """The snapshots of one lineage that are left, by their positions, and the destinations that hold each."""

    positions: list[int] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    places: list[frozenset[str]] = field(default_factory=list)

    def within(self, first: int, last: int | None) -> range:
        """The indexes of the snapshots from one position to another (None: to the newest)."""
        end = len(self.positions) if last is None else bisect_right(self.positions, last)
        return range(bisect_left(self.positions, first), end)


def load_hits(connection: Connection, ids: Sequence[int]) -> list[Hit]:
    """The versions with those ids, in that order."""
    rows: dict[int, Row[Any]] = {}
    findings: dict[int, list[tuple[str, int, str]]] = defaultdict(list)
    counted: dict[int, tuple[int, bool]] = {}
    for start in range(0, len(ids), _BATCH):
        batch = ids[start : start + _BATCH]
        rows |= {row.id: row for row in connection.execute(_versions().where(FileVersion.id.in_(batch)))}
        for found in connection.execute(_findings().where(FindingRecord.version_id.in_(batch))):
            findings[found.version_id].append((found.rule, found.line, found.severity))
        counted |= _other_versions(connection, batch)
    timelines = load_timelines(connection, {row.lineage_id for row in rows.values()})
    only = (connection.scalar(select(func.count()).select_from(RepositoryRecord)) or 0) <= 1
    return [
        _hit(rows[one], timelines[rows[one].lineage_id], counted[one], tuple(findings[one]), only=only) for one in ids
    ]


def _versions() -> Any:
    return (
        select(
            *(column for column in FileVersion.__table__.columns if column.name != "search_words"),
            LineageRecord.host,
            RepositoryRecord.repository_id.label("repository"),
            ProjectRecord.name.label("project"),
        )
        .join(LineageRecord, LineageRecord.id == FileVersion.lineage_id)
        .join(RepositoryRecord, RepositoryRecord.id == LineageRecord.repository_id)
        .outerjoin(ProjectRecord, ProjectRecord.id == FileVersion.project_id)
    )


def _findings() -> Any:
    return select(FindingRecord.version_id, FindingRecord.rule, FindingRecord.line, FindingRecord.severity).order_by(
        FindingRecord.version_id, FindingRecord.line, FindingRecord.rule, FindingRecord.number
    )


def _other_versions(connection: Connection, ids: Sequence[int]) -> dict[int, tuple[int, bool]]:
    """For each: how many versions of its path there are, and whether the newest snapshot holds one of them."""
    v, other = _VERSIONS.c, _OTHER.c
    still_open = func.sum(case((other.last_position.is_(None), 1), else_=0))
    statement = (
        select(v.id, func.count(), still_open)
        .select_from(_VERSIONS.join(_OTHER, same_path(connection, other, v)))
        .where(v.id.in_(ids))
        .group_by(v.id)
    )
    return {version: (int(count), bool(there)) for version, count, there in connection.execute(statement)}


def load_timelines(connection: Connection, lineages: Iterable[int]) -> dict[int, Timeline]:
    """The snapshots of these lineages, oldest first, without destinations that were given up."""
    wanted = sorted(lineages)
    found: dict[int, Timeline] = {lineage: Timeline() for lineage in wanted}
    if not wanted:
        return found
    places: dict[int, set[str]] = defaultdict(set)
    held = (
        select(SnapshotPlace.snapshot_id, DestinationRecord.name)
        .join(SnapshotRecord, SnapshotRecord.id == SnapshotPlace.snapshot_id)
        .join(DestinationRecord, DestinationRecord.id == SnapshotPlace.destination_id)
        .where(SnapshotRecord.lineage_id.in_(wanted), DestinationRecord.given_up.is_(False))
    )
    for snapshot, name in connection.execute(held):
        places[snapshot].add(name)
    short = _short_ids(connection.scalars(select(SnapshotRecord.hex_id)))
    snapshots = (
        select(
            SnapshotRecord.id,
            SnapshotRecord.lineage_id,
            SnapshotRecord.hex_id,
            SnapshotRecord.time_ns,
            SnapshotRecord.position,
        )
        .where(SnapshotRecord.lineage_id.in_(wanted))
        .order_by(SnapshotRecord.lineage_id, SnapshotRecord.position)
    )
    for row in connection.execute(snapshots):
        timeline = found[row.lineage_id]
        timeline.positions.append(row.position)
        timeline.seen.append(Seen(row.hex_id, row.time_ns, short[row.hex_id]))
        timeline.places.append(frozenset(places[row.id]))
    return found


def _short_ids(ids: Iterable[str]) -> dict[str, str]:
    """For each id its beginning that no other one shares."""
    ordered = sorted(set(ids))
    shortened = {}
    for number, one in enumerate(ordered):
        length = SHORT_ID
        for neighbour in ordered[max(number - 1, 0) : number] + ordered[number + 1 : number + 2]:
            while length < len(one) and neighbour[:length] == one[:length]:
                length += 1
        shortened[one] = one[:length]
    return shortened


def _hit(
    row: Row[Any],
    timeline: Timeline,
    others: tuple[int, bool],
    secrets: tuple[tuple[str, int, str], ...],
    *,
    only: bool,
) -> Hit:
    inside = timeline.within(row.first_position, row.last_position)
    complete = [index for index in inside if timeline.places[index]]
    from_index = complete[-1] if complete else inside[-1] if inside else None
    versions, there = others
    return Hit(
        path=row.raw_path if row.raw_path is not None else row.path.encode(),
        kind=EntryKind(row.kind),
        size=row.size,
        mtime_ns=row.mtime_ns,
        content=row.content.hex() if row.content else "",
        category=row.category,
        language=row.language,
        mime=row.mime,
        role=row.role,
        importance=row.importance,
        git=row.git,
        regenerable=bool(row.regenerable),
        conflict=bool(row.conflict),
        project=row.project or "",
        host=row.host,
        repository=row.repository,
        state="present" if row.last_position is None else "changed" if there else "deleted",
        versions=versions,
        first=timeline.seen[inside[0]] if inside else None,
        last=timeline.seen[inside[-1]] if inside else None,
        restore_from=timeline.seen[from_index] if from_index is not None else None,
        destinations=tuple(sorted(frozenset().union(*(timeline.places[index] for index in inside)))),
        secrets=secrets,
        repo=min(timeline.places[from_index], default="") if from_index is not None and not only else "",
    )

"""Snapshots leave the catalog: what only they held goes, what others hold stays as a new catalog would have it."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, delete, select, text, update
from sqlalchemy.orm import aliased

from backupiq.catalog.models import FileVersion, LineageRecord, ProjectRecord, SnapshotRecord

DELETED_AT_ONCE = 500
_SAME = ("path", "raw_path", "kind", "size", "mtime_ns", "content")

Gap = tuple[int | None, int]
"""Between two positions that are left there were others: the one before (None: there is none) and the one after."""


def forget_snapshots(connection: Connection, repository: int, ids: Collection[str]) -> None:
    """Take snapshots out of their lineages, in the caller's transaction. The newest of each lineage must stay."""
    lineages: set[int] = set()
    wanted = sorted(ids)
    for start in range(0, len(wanted), DELETED_AT_ONCE):
        some = and_(
            SnapshotRecord.repository_id == repository,
            SnapshotRecord.hex_id.in_(wanted[start : start + DELETED_AT_ONCE]),
        )
        lineages.update(connection.execute(select(SnapshotRecord.lineage_id).where(some)).scalars())
        connection.execute(delete(SnapshotRecord).where(some))
    for lineage in sorted(lineages):
        _close_gaps(connection, lineage)


def drop_lineage(connection: Connection, repository: int, key: str) -> None:
    """Take a lineage out with its snapshots, versions and projects, in the caller's transaction."""
    wanted = select(LineageRecord.id).where(LineageRecord.repository_id == repository, LineageRecord.key == key)
    lineage = connection.execute(wanted).scalar()
    if lineage is None:
        return
    delete_versions(connection, FileVersion.lineage_id == lineage)
    connection.execute(delete(LineageRecord).where(LineageRecord.id == lineage))


def _close_gaps(connection: Connection, lineage: int) -> None:
    positions = select(SnapshotRecord.position).where(SnapshotRecord.lineage_id == lineage)
    left = sorted(connection.execute(positions).scalars())
    if not left:
        found = select(LineageRecord.repository_id, LineageRecord.key).where(LineageRecord.id == lineage)
        repository, key = connection.execute(found).one()
        drop_lineage(connection, repository, key)
        return
    for before, after in itertools.pairwise([None, *left]):
        assert after is not None  # noqa: S101 - only the first can be None
        for record in (ProjectRecord, FileVersion):
            _delete_inside(connection, record, lineage, before, after)
        if before is not None:
            _join_across(connection, ProjectRecord, ("raw_root",), lineage, before, after)
            _join_across(connection, FileVersion, _SAME, lineage, before, after)


def _delete_inside(connection: Connection, record: Any, lineage: int, before: int | None, after: int) -> None:
    """Versions that began after the one position and ended before the other are in no snapshot that is left."""
    inside = and_(record.lineage_id == lineage, record.last_position < after)
    if before is not None:
        inside = and_(inside, record.first_position > before)
    if record is FileVersion:
        delete_versions(connection, inside)
    else:
        connection.execute(delete(record).where(inside))


def _join_across(
    connection: Connection, record: Any, same: Sequence[str], lineage: int, before: int, after: int
) -> None:
    """What ended and came back as it was, with no snapshot left in between, has never been away."""
    old, new = aliased(record), aliased(record)
    pairs = select(old.id, new.id, new.last_position).where(
        old.lineage_id == lineage,
        old.last_position >= before,
        old.last_position < after,
        new.lineage_id == lineage,
        new.first_position > before,
        new.first_position <= after,
        *(getattr(old, name).is_not_distinct_from(getattr(new, name)) for name in same),
    )
    for old_id, new_id, last in connection.execute(pairs).all():
        connection.execute(update(record).where(record.id == old_id).values(last_position=last))
        if record is ProjectRecord:
            connection.execute(update(FileVersion).where(FileVersion.project_id == new_id).values(project_id=old_id))
            connection.execute(delete(ProjectRecord).where(ProjectRecord.id == new_id))
        else:
            delete_versions(connection, FileVersion.id == new_id)


def delete_versions(connection: Connection, which: ColumnElement[bool]) -> None:
    """Delete file versions with their findings and their words.

    SQLite's table of words has no content of its own: each row is taken out by telling what it was made of.
    """
    if connection.dialect.name == "sqlite":
        some = connection.execute(select(FileVersion.id).where(which).limit(1)).scalar()
        if some is None:
            return
        words = select(FileVersion.id, FileVersion.path).where(which)
        these = select(FileVersion.id).where(which)
        others = connection.execute(select(FileVersion.id).where(FileVersion.id.not_in(these)).limit(1)).scalar()
        if others is None:
            connection.execute(text("INSERT INTO file_search(file_search) VALUES ('delete-all')"))
        else:
            for chunk in _chunks(connection.execute(words)):
                connection.execute(
                    text("INSERT INTO file_search(file_search, rowid, path) VALUES ('delete', :id, :path)"), chunk
                )
    connection.execute(delete(FileVersion).where(which))


def _chunks(rows: Any) -> Iterator[list[dict[str, Any]]]:
    while found := rows.fetchmany(DELETED_AT_ONCE):
        yield [{"id": row.id, "path": row.path} for row in found]

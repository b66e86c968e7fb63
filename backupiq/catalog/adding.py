"""A snapshot enters the catalog: what is new, what changed and what is gone, in one transaction.

Rows come in two ways. *Complete*: every entry of the snapshot; what was open and is not among them is gone. *Relative*
to the snapshot that is the newest of the lineage: only entries that are new, changed or have to be looked at again, and
the paths that are gone. Either way nothing is written for what stayed as it was.
"""

from __future__ import annotations

import contextlib
import enum
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    ScalarSelect,
    and_,
    bindparam,
    case,
    delete,
    false,
    func,
    insert,
    inspect,
    literal,
    literal_column,
    null,
    or_,
    select,
    text,
    true,
    update,
)
from sqlalchemy.orm import aliased
from sqlalchemy.schema import CreateIndex, DropIndex

from backupiq.catalog.database import catalog_errors, path_below, path_is, writing
from backupiq.catalog.models import (
    INDEXED_PATH,
    FileVersion,
    FindingRecord,
    LineageRecord,
    ProjectRecord,
    RepositoryRecord,
    SnapshotRecord,
    made_on,
)
from backupiq.catalog.rows import FileRow, SnapshotInfo
from backupiq.catalog.staging import (
    FACTS,
    Stager,
    put,
    staged_files,
    staged_findings,
    staged_gone,
    staged_matches,
    staged_projects,
    staging_tables,
    storable,
)
from backupiq.catalog.text import path_text
from backupiq.semantics.model import Project

_versions: Any = FileVersion.__table__
_files = staged_files.c
MAX_NAME = 200
"""Characters of a project's name that are kept; they are indexed."""
_IDENTITY = ("kind", "size", "mtime_ns", "content")


class Added(enum.StrEnum):
    """What became of a snapshot that was to enter the catalog."""

    ADDED = "added"
    PRESENT = "present"
    """It was there already; nothing was changed."""
    OUT_OF_ORDER = "out-of-order"
    """Its lineage has a later snapshot, or is no longer as the rows are relative to; nothing was changed."""


@dataclass(frozen=True)
class SnapshotRows:
    """What a snapshot brings: rows, its projects, and, when ``base`` names the snapshot (id in hex) that the rows are
    relative to, the raw paths that are gone: single ones, and folders with all below them.

    Projects of that snapshot which are not given here ended, but for those whose raw roots are in ``kept_projects``.
    """

    rows: Iterable[FileRow]
    projects: Sequence[Project] = ()
    base: str | None = None
    gone: Iterable[bytes] = ()
    gone_folders: Iterable[bytes] = ()
    kept_projects: Iterable[bytes] = ()


def add_snapshot(
    engine: Engine, repository_id: str, info: SnapshotInfo, given: SnapshotRows, *, unreadable: int = 0
) -> Added:
    """Bring a snapshot of a repository (the id in its config) into the catalog, or find that it is there. CatalogError.

    The rows are taken first, without any lock; then one transaction does the rest.
    """
    with catalog_errors(engine.url), engine.connect() as connection, staging_tables(connection):
        stager = Stager(connection, [project.root for project in given.projects])
        stager.stage(given.rows)
        stager.stage_gone(given.gone)
        gone_folders = list(given.gone_folders)
        with writing(engine, connection):
            return _Adding(connection, info, given).run(repository_id, gone_folders, unreadable)


def ensure_repository(connection: Connection, repository_id: str) -> int:
    """The key of a repository's record, which is made when there is none."""
    found = connection.execute(
        select(RepositoryRecord.id).where(RepositoryRecord.repository_id == repository_id)
    ).scalar()
    if found is not None:
        return found
    connection.execute(insert_or_nothing(connection, RepositoryRecord).values(repository_id=repository_id))
    return connection.execute(
        select(RepositoryRecord.id).where(RepositoryRecord.repository_id == repository_id)
    ).scalar_one()


def insert_or_nothing(connection: Connection, record: Any) -> Any:
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects.postgresql import insert as dialect_insert
    else:
        from sqlalchemy.dialects.sqlite import insert as dialect_insert  # type: ignore[assignment]
    return dialect_insert(record).on_conflict_do_nothing()


def ensure_lineage(connection: Connection, repository: int, info: SnapshotInfo) -> int:
    """The key of a snapshot's lineage, which is made when there is none; locked until the transaction ends."""
    values = {
        "repository_id": repository,
        "key": info.lineage,
        "host": storable(info.host),
        "paths": json.dumps(sorted(set(info.paths))),
        "checkpoint": info.checkpoint,
    }
    connection.execute(insert_or_nothing(connection, LineageRecord).values(values))
    found = select(LineageRecord.id).where(LineageRecord.repository_id == repository, LineageRecord.key == info.lineage)
    return connection.execute(found.with_for_update()).scalar_one()


class _Adding:
    """One snapshot entering, in the transaction of ``connection``, out of the filled staging tables."""

    def __init__(self, connection: Connection, info: SnapshotInfo, given: SnapshotRows) -> None:
        self._connection = connection
        self._info = info
        self._given = given
        self._is_postgresql = connection.dialect.name == "postgresql"

    def run(self, repository_id: str, gone_folders: Sequence[bytes], unreadable: int) -> Added:
        """All steps, in their order."""
        connection, info = self._connection, self._info
        repository = ensure_repository(connection, repository_id)
        self._lineage = ensure_lineage(connection, repository, info)
        known = select(SnapshotRecord.id).where(
            SnapshotRecord.repository_id == repository, SnapshotRecord.hex_id == info.hex_id
        )
        if connection.execute(known).scalar() is not None:
            return Added.PRESENT
        newest = connection.execute(
            select(SnapshotRecord.hex_id, SnapshotRecord.time_ns, SnapshotRecord.position)
            .where(SnapshotRecord.lineage_id == self._lineage)
            .order_by(SnapshotRecord.position.desc())
            .limit(1)
        ).first()
        base = self._given.base
        if newest is not None and info.order < (newest.time_ns, newest.hex_id):
            return Added.OUT_OF_ORDER
        if base is not None and (newest is None or newest.hex_id != base):
            return Added.OUT_OF_ORDER
        self._before = None if newest is None else newest.position
        self._position = info.time_ns if newest is None else max(info.time_ns, newest.position + 1)
        connection.execute(insert(SnapshotRecord).values(**self._snapshot_values(repository), unreadable=unreadable))
        self._replace_projects()
        if newest is not None:
            self._match()
            self._close_ended(gone_folders)
            self._renew_facts()
        self._insert_versions()
        self._insert_findings()
        return Added.ADDED

    def _snapshot_values(self, repository: int) -> dict[str, Any]:
        info = self._info
        return {
            "repository_id": repository,
            "lineage_id": self._lineage,
            "hex_id": info.hex_id,
            "position": self._position,
            "time_ns": info.time_ns,
            "host": storable(info.host),
            "user": storable(info.user),
            "paths": json.dumps(list(info.paths)),
            "tags": json.dumps(sorted(info.tags)),
            "tree": info.tree,
            "parent": info.parent,
            "checkpoint": info.checkpoint,
            "files": info.files,
            "bytes": info.bytes,
            "bytes_added": info.bytes_added,
            "bytes_stored": info.bytes_stored,
        }

    # --- projects ---------------------------------------------------------------------------------------------------

    def _replace_projects(self) -> None:
        connection = self._connection
        open_ones = and_(ProjectRecord.lineage_id == self._lineage, ProjectRecord.last_position.is_(None))
        known = {
            row.raw_root: row.id
            for row in connection.execute(select(ProjectRecord.id, ProjectRecord.raw_root).where(open_ones))
        }
        numbers: list[tuple[int, int]] = []
        for number, project in enumerate(self._given.projects):
            values = _project_values(project)
            found = known.pop(project.root, None)
            if found is None:
                values |= {"lineage_id": self._lineage, "first_position": self._position}
                found = connection.execute(
                    insert(ProjectRecord).values(values).returning(ProjectRecord.id)
                ).scalar_one()
            else:
                connection.execute(update(ProjectRecord).where(ProjectRecord.id == found).values(values))
            numbers.append((number, found))
        put(connection, staged_projects, numbers)
        for root in self._given.kept_projects:
            known.pop(root, None)
        if known:
            ended = [{"project": key} for key in known.values()]
            connection.execute(
                update(ProjectRecord)
                .where(ProjectRecord.id == bindparam("project"))
                .values(last_position=self._before),
                ended,
            )

    # --- versions ---------------------------------------------------------------------------------------------------

    def _match(self) -> None:
        """Pair the rows with the open versions of their paths."""
        # As a scalar subquery: SQLite knows nothing of the sizes of these tables and would loop the wrong way round.
        there = self._open_at(_files.path, _files.raw_path)
        found = select(_files.seq, there.label("version_id")).subquery()
        same = and_(*(_versions.c[name].is_not_distinct_from(_files[name]) for name in _IDENTITY))
        pairs = (
            select(found.c.seq, found.c.version_id, case((same, true()), else_=false()))
            .join_from(found, _versions, _versions.c.id == found.c.version_id)
            .join(staged_files, _files.seq == found.c.seq)
        )
        self._connection.execute(insert(staged_matches).from_select(["seq", "version_id", "same"], pairs))

    def _open_at(self, path: Any, raw_path: Any) -> ScalarSelect[int]:
        """The lineage's open version at the path that columns of a staging table name."""
        open_ones = aliased(FileVersion)
        clauses = [
            open_ones.lineage_id == self._lineage,
            open_ones.path == path,
            open_ones.raw_path.is_not_distinct_from(raw_path),
            open_ones.last_position.is_(None),
        ]
        if self._is_postgresql:
            clauses.append(func.left(open_ones.path, INDEXED_PATH) == func.left(path, INDEXED_PATH))
        return select(open_ones.id).where(*clauses).limit(1).correlate_except(open_ones).scalar_subquery()

    def _close_ended(self, gone_folders: Sequence[bytes]) -> None:
        """End the versions that this snapshot holds no more, at the snapshot before it."""
        is_open = and_(_versions.c.lineage_id == self._lineage, _versions.c.last_position.is_(None))
        changed = select(staged_matches.c.version_id).where(staged_matches.c.same == false())
        self._close(_versions.c.id.in_(changed))
        if self._given.base is None:
            self._close(and_(is_open, _versions.c.id.not_in(select(staged_matches.c.version_id))))
            return
        gone = select(self._open_at(staged_gone.c.path, staged_gone.c.raw_path)).select_from(staged_gone)
        self._close(_versions.c.id.in_(gone))
        for folder in gone_folders:
            self._close(and_(is_open, path_is(self._connection, folder)))
            self._close(and_(is_open, path_below(self._connection, folder)))

    def _close(self, which: ColumnElement[bool]) -> None:
        self._connection.execute(update(_versions).where(which).values(last_position=self._before))

    def _renew_facts(self) -> None:
        """Give versions that stay what analysis says of them now, where it says something else."""
        project_id = self._project_id()
        differs = or_(
            *(_versions.c[name] != _files[name] for name in FACTS), _versions.c.project_id.is_distinct_from(project_id)
        )
        stays = and_(
            _versions.c.id == staged_matches.c.version_id,
            staged_matches.c.same == true(),
            _files.seq == staged_matches.c.seq,
        )
        values: dict[str, Any] = {name: _files[name] for name in FACTS} | {"project_id": project_id}
        self._connection.execute(update(_versions).where(stays, differs).values(values))
        kept = select(staged_matches.c.version_id).where(staged_matches.c.same == true())
        self._connection.execute(delete(FindingRecord).where(FindingRecord.version_id.in_(kept)))

    def _project_id(self) -> Any:
        return select(staged_projects.c.project_id).where(staged_projects.c.project == _files.project).scalar_subquery()

    def _insert_versions(self) -> None:
        """Add the versions that are new, and the words of their paths."""
        connection = self._connection
        before = connection.execute(select(func.max(_versions.c.id))).scalar()
        words = func.to_tsvector(literal_column("'simple'"), _files.words) if self._is_postgresql else null()
        values: dict[str, Any] = {name: _files[name] for name in ("path", "raw_path", "name", *_IDENTITY, *FACTS)}
        values |= {
            "lineage_id": literal(self._lineage),
            "first_position": literal(self._position),
            "project_id": self._project_id(),
            "search_words": words,
        }
        stays = select(staged_matches.c.seq).where(staged_matches.c.same == true())
        rows = select(*values.values()).where(_files.seq.not_in(stays)).order_by(_files.seq)
        with _indexes_made_afterwards(connection) if before is None else contextlib.nullcontext():
            connection.execute(insert(_versions).from_select(list(values), rows))
        if not self._is_postgresql:
            connection.execute(
                text("INSERT INTO file_search(rowid, path) SELECT id, path FROM file_versions WHERE id > :before"),
                {"before": before or 0},
            )

    def _insert_findings(self) -> None:
        version = self._open_at(_files.path, _files.raw_path)
        found = staged_findings.c
        rows = select(version, found.number, found.rule, found.line, found.severity, found.hash).join_from(
            staged_findings, staged_files, _files.seq == found.seq
        )
        columns = ["version_id", "number", "rule", "line", "severity", "hash"]
        self._connection.execute(insert(FindingRecord).from_select(columns, rows))


@contextlib.contextmanager
def _indexes_made_afterwards(connection: Connection) -> Iterator[None]:
    """Fill the empty table of versions without its indexes and make them of sorted rows: several times cheaper."""
    names = [str(found["name"]) for found in inspect(connection).get_indexes("file_versions")]
    indexes = [index for index in _versions.indexes if index.name in names and made_on(index, connection.dialect.name)]
    for index in indexes:
        connection.execute(DropIndex(index))
    yield
    for index in indexes:
        connection.execute(CreateIndex(index))


def _project_values(project: Project) -> dict[str, Any]:
    frameworks = [{"name": storable(each.name), "version": storable(each.version)} for each in project.frameworks]
    return {
        "root": path_text(project.root)[0],
        "raw_root": project.root,
        "name": storable(project.name, MAX_NAME),
        "manifests": json.dumps(list(map(storable, project.manifests))),
        "frameworks": json.dumps(frameworks),
    }

"""The catalog as a whole: opened, asked what it knows, told what happened.

It is derived from repositories, but for the records of runs and of the destinations' health: whatever becomes of it
costs time and nothing else. A damaged file is moved aside, never deleted.
"""

from __future__ import annotations

import itertools
import json
import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sqlalchemy import URL, Engine, delete, func, insert, select, update

from backupiq.catalog import health
from backupiq.catalog.adding import Added, SnapshotRows, add_snapshot, ensure_repository
from backupiq.catalog.database import (
    catalog_errors,
    catalog_name,
    catalog_url,
    create_file,
    file_errors,
    make_engine,
    reading,
    set_aside,
    writing,
)
from backupiq.catalog.forgetting import drop_lineage, forget_snapshots
from backupiq.catalog.models import (
    INDEXED_PATH,
    FileVersion,
    FindingRecord,
    LineageRecord,
    ProjectRecord,
    RepositoryRecord,
    RunRecord,
    SnapshotRecord,
)
from backupiq.catalog.rows import Known, SnapshotInfo
from backupiq.catalog.schema import HEAD, bring_to_head, newer_catalog, revision_of
from backupiq.catalog.staging import storable
from backupiq.catalog.text import path_text
from backupiq.discovery.entry import EntryKind
from backupiq.errors import CatalogError
from backupiq.semantics.model import Category, FileType, Finding, Severity
from backupiq.telemetry import get_logger

KEPT_RUNS = 10_000
LOOKED_UP_AT_ONCE = 400

_log = get_logger("backupiq.catalog.store")

FileKey = tuple[bytes, int, int]
"""Raw path, size in bytes, mtime in nanoseconds: what `Catalog.known` goes by."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run, by the id of its flow run; ``counts`` are numbers by name, ``snapshot`` the id it made, if any."""

    flow_run_id: str
    repository_id: str | None
    began_ns: int
    ended_ns: int | None = None
    exit_code: int | None = None
    counts: Mapping[str, int] | None = None
    snapshot: str | None = None


@dataclass(frozen=True, slots=True)
class CatalogedSnapshot:
    """A snapshot that is in the catalog, with its lineage's key; ``order`` as `SnapshotInfo.order`."""

    hex_id: str
    lineage: str
    order: tuple[int, str]
    tree: str


class Catalog:
    """An open catalog.

    Its methods may be called from any thread and by several processes at once; each is one transaction or a few short
    ones. They raise CatalogError, whose details tell the ``reason``.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @classmethod
    def open(
        cls, url: str | None = None, *, create: bool = True, repair: bool = False, env: Mapping[str, str] = os.environ
    ) -> Self:
        """The catalog at a URL, else where the environment says, its tables brought to what this code needs.

        Without ``create`` there must be one, and one on a disk that takes no writes can be read. With ``repair`` a
        damaged file is moved aside and a new one made, which is logged. CatalogError, ConfigurationError.
        """
        address = catalog_url(url, env)
        try:
            return cls(_open_engine(address, create=create))
        except CatalogError as error:
            reason = error.details.get("reason")
            if reason == "damaged" and repair and address.get_backend_name() == "sqlite":
                with file_errors(address):
                    away = set_aside(Path(str(address.database)))
                _log.warning("a damaged catalog was moved aside", moved_to=str(away))
                return cls(_open_engine(address, create=True))
            if reason == "read-only" and not create and address.get_backend_name() == "sqlite":
                return cls(_open_immutable(address))
            raise

    @property
    def name(self) -> str:
        """Where it is, for people: no user, no password."""
        return catalog_name(self.engine.url)

    def close(self) -> None:
        """Give its connections back."""
        self.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- snapshots --------------------------------------------------------------------------------------------------

    def add_snapshot(
        self, repository_id: str, info: SnapshotInfo, given: SnapshotRows, *, unreadable: int = 0
    ) -> Added:
        """Bring a snapshot in; see `backupiq.catalog.adding.add_snapshot`."""
        return add_snapshot(self.engine, repository_id, info, given, unreadable=unreadable)

    def snapshots(self, repository_id: str) -> dict[str, CatalogedSnapshot]:
        """The snapshots of a repository that are in the catalog, by id (hex), in the order of their lineages."""
        found = (
            select(SnapshotRecord.hex_id, LineageRecord.key, SnapshotRecord.time_ns, SnapshotRecord.tree)
            .join(LineageRecord, LineageRecord.id == SnapshotRecord.lineage_id)
            .join(RepositoryRecord, RepositoryRecord.id == SnapshotRecord.repository_id)
            .where(RepositoryRecord.repository_id == repository_id)
            .order_by(LineageRecord.key, SnapshotRecord.position)
        )
        with reading(self.engine) as connection:
            return {
                row.hex_id: CatalogedSnapshot(row.hex_id, row.key, (row.time_ns, row.hex_id), row.tree)
                for row in connection.execute(found)
            }

    def newest(self, repository_id: str, key: str) -> CatalogedSnapshot | None:
        """The newest snapshot of a lineage that is in the catalog."""
        members = [each for each in self.snapshots(repository_id).values() if each.lineage == key]
        return members[-1] if members else None

    def forget(self, repository_id: str, ids: Collection[str]) -> None:
        """Take snapshots out that the repository holds no more, and the versions that only they held.

        The newest of a lineage cannot be taken out alone: `drop_lineage` it and bring in what is left.
        """
        with writing(self.engine) as connection:
            forget_snapshots(connection, ensure_repository(connection, repository_id), ids)

    def drop_lineage(self, repository_id: str, key: str) -> None:
        """Take a lineage out with all its snapshots and versions."""
        with writing(self.engine) as connection:
            drop_lineage(connection, ensure_repository(connection, repository_id), key)

    def open_projects(self, repository_id: str, key: str) -> list[bytes]:
        """The raw roots of the projects in the newest snapshot of a lineage."""
        found = (
            select(ProjectRecord.raw_root)
            .join(LineageRecord, LineageRecord.id == ProjectRecord.lineage_id)
            .join(RepositoryRecord, RepositoryRecord.id == LineageRecord.repository_id)
            .where(RepositoryRecord.repository_id == repository_id, LineageRecord.key == key)
            .where(ProjectRecord.last_position.is_(None))
        )
        with reading(self.engine) as connection:
            return sorted(connection.execute(found).scalars())

    # --- what is known of files -------------------------------------------------------------------------------------

    def known(self, repository_id: str, host: str, keys: Iterable[FileKey]) -> dict[bytes, Known]:
        """What was read out of files of that host that have the same path, size and mtime, by raw path."""
        remaining = iter(keys)
        found: dict[bytes, Known] = {}
        with reading(self.engine) as connection:
            lineages = (
                select(LineageRecord.id)
                .join(RepositoryRecord, RepositoryRecord.id == LineageRecord.repository_id)
                .where(RepositoryRecord.repository_id == repository_id, LineageRecord.host == storable(host))
            )
            ids = list(connection.execute(lineages).scalars())
            while ids and (chunk := list(itertools.islice(remaining, LOOKED_UP_AT_ONCE))):
                found |= _known_chunk(connection, ids, chunk)
        return found

    # --- runs and destinations --------------------------------------------------------------------------------------

    def record_run(self, run: Run) -> None:
        """Keep a run, or what became of it since; of all runs the newest 10,000 are kept."""
        values: dict[str, Any] = {
            "began_ns": run.began_ns,
            "ended_ns": run.ended_ns,
            "exit_code": run.exit_code,
            "counts": json.dumps(dict(run.counts or {}), sort_keys=True),
            "snapshot": run.snapshot,
        }
        with writing(self.engine) as connection:
            if run.repository_id is not None:
                values["repository_id"] = ensure_repository(connection, run.repository_id)
            known = update(RunRecord).where(RunRecord.flow_run_id == run.flow_run_id)
            if not connection.execute(known.values(values)).rowcount:
                connection.execute(insert(RunRecord).values(flow_run_id=storable(run.flow_run_id), **values))
                oldest = select(RunRecord.id).order_by(RunRecord.began_ns.desc(), RunRecord.id).offset(KEPT_RUNS)
                connection.execute(delete(RunRecord).where(RunRecord.id.in_(oldest)))

    def runs(self, limit: int = 100) -> list[Run]:
        """The newest runs, newest first."""
        found = (
            select(RunRecord, RepositoryRecord.repository_id)
            .outerjoin(RepositoryRecord, RepositoryRecord.id == RunRecord.repository_id)
            .order_by(RunRecord.began_ns.desc(), RunRecord.flow_run_id)
            .limit(limit)
        )
        with reading(self.engine) as connection:
            return [
                Run(
                    row.flow_run_id,
                    row.repository_id_1,
                    row.began_ns,
                    row.ended_ns,
                    row.exit_code,
                    json.loads(row.counts),
                    row.snapshot,
                )
                for row in connection.execute(found)
            ]

    def record_health(self, repository_id: str, destination: health.Destination, seen: health.Observation) -> None:
        """Keep how a destination was."""
        health.record_health(self.engine, repository_id, destination, seen)

    def record_places(
        self, repository_id: str, held: Iterable[tuple[health.Destination, Collection[str]]], now_ns: int
    ) -> None:
        """Keep which snapshots destinations hold; see `backupiq.catalog.health.record_places`."""
        health.record_places(self.engine, repository_id, held, now_ns)

    def last_snapshot_ns(self) -> int | None:
        """When the newest snapshot in the catalog was taken."""
        with reading(self.engine) as connection:
            return connection.execute(select(func.max(SnapshotRecord.time_ns))).scalar()

    def sizes(self) -> dict[str, int]:
        """How many repositories, lineages, snapshots, file versions, projects, findings and runs there are."""
        tables = (RepositoryRecord, LineageRecord, SnapshotRecord, FileVersion, ProjectRecord, FindingRecord, RunRecord)
        with reading(self.engine) as connection:
            return {
                table.__tablename__: connection.execute(select(func.count()).select_from(table)).scalar_one()
                for table in tables
            }


# --- opening -------------------------------------------------------------------------------------------------------


def _open_engine(address: URL, *, create: bool) -> Engine:
    engine = make_engine(address)
    try:
        if address.get_backend_name() == "sqlite":
            path = Path(str(address.database))
            with file_errors(address):
                if not create and not path.exists():
                    raise _missing(address)
                with catalog_errors(address):
                    create_file(path)
        elif not create:
            with reading(engine) as connection:
                if revision_of(connection) is None:
                    raise _missing(address)
        bring_to_head(engine)
    except BaseException:
        engine.dispose()
        raise
    return engine


def _open_immutable(address: URL) -> Engine:
    """A catalog on a disk that takes no writes, to be read: SQLite needs none when it may trust that nobody writes."""
    engine = make_engine(address, immutable=True)
    with reading(engine) as connection:
        found = revision_of(connection)
    if found != HEAD:
        engine.dispose()
        raise newer_catalog(engine, found) if found is not None and found > HEAD else _missing(address)
    return engine


def _missing(address: URL) -> CatalogError:
    return CatalogError(
        f"There is no catalog yet at {catalog_name(address)}. Make it with `backupiq catalog update`.",
        reason="missing",
    )


def _known_chunk(connection: Any, lineages: Sequence[int], chunk: Sequence[FileKey]) -> dict[bytes, Known]:
    wanted = {path_text(path): (path, size, mtime_ns) for path, size, mtime_ns in chunk}
    texts = sorted({text for text, _ in wanted})
    v = FileVersion
    found = (
        select(
            v.id, v.path, v.raw_path, v.size, v.mtime_ns, v.content,
            v.language, v.category, v.mime, v.detected_by, v.confidence, v.conflict,
        )
        .where(v.lineage_id.in_(lineages), v.path.in_(texts), v.kind == EntryKind.FILE)
        .order_by(v.first_position)
    )  # fmt: skip
    if connection.dialect.name == "postgresql":
        found = found.where(func.left(v.path, INDEXED_PATH).in_(sorted({text[:INDEXED_PATH] for text in texts})))
    rows = {}
    for row in connection.execute(found):
        path, size, mtime_ns = wanted.get((row.path, row.raw_path), (b"", -1, 0))
        if (row.size, row.mtime_ns) == (size, mtime_ns):
            rows[path] = row
    findings: dict[int, list[Finding]] = defaultdict(list)
    of_them = select(FindingRecord).where(FindingRecord.version_id.in_([row.id for row in rows.values()]))
    for each in connection.execute(of_them.order_by(FindingRecord.number)):
        findings[each.version_id].append(Finding(each.line, each.rule, Severity(each.severity), each.hash))
    return {
        path: Known(
            row.content,
            FileType(row.language, Category(row.category), row.mime, row.detected_by, row.confidence, row.conflict),
            tuple(findings[row.id]),
        )
        for path, row in rows.items()
    }

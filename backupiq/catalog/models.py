"""The tables of the catalog.

Times are nanoseconds since 1970, sizes bytes. A *lineage* is the sequence of snapshots that one host made of one set of
paths (checkpoints apart). Each of its snapshots has a *position*, which grows along it, and a file version names the
positions of the first and the last snapshot that hold it: it is in snapshot S of its lineage when
``first_position <= S.position AND (last_position IS NULL OR last_position >= S.position)``. An open end
(``last_position`` NULL) means that the newest snapshot still holds it, so a run in which nothing changed writes no row.
A position whose snapshot is no longer there stays as a bound: the first snapshot that is left stands at the least
position of the lineage from there on.

Beside these tables there are, made by the migrations: on SQLite the FTS5 table ``file_search`` (one column ``path``,
``rowid`` = ``file_versions.id``), on PostgreSQL a GIN index on ``file_versions.search_words``.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, LargeBinary, MetaData, SmallInteger, Text, func, text
from sqlalchemy.dialects.postgresql import TSVECTOR
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

INDEXED_PATH = 512
"""PostgreSQL's index of paths holds this many characters of each: its entries may not be longer than 2,704 bytes."""

_Id = BigInteger().with_variant(Integer(), "sqlite")  # in SQLite only INTEGER is the rowid itself
_Sorted = Text().with_variant(Text(collation="C"), "postgresql")  # in the order of bytes, as SQLite sorts
_SQLITE, _POSTGRESQL = {"dialect": "sqlite"}, {"dialect": "postgresql"}
_Words = Text().with_variant(TSVECTOR(), "postgresql")


def _index_where(name: str, *columns: str, where: str, sqlite: str = "") -> Index:
    """An index of some rows only, for conditions that few rows meet."""
    return Index(name, *columns, postgresql_where=text(where), sqlite_where=text(sqlite or where))


class Base(DeclarativeBase):
    """Base of the catalog's tables."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class RepositoryRecord(Base):
    """A repository, by the id in its config."""

    __tablename__ = "repositories"

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    repository_id: Mapped[str] = mapped_column(Text, unique=True)


class DestinationRecord(Base):
    """A place that holds a copy of a repository. ``name`` is its location, ``last_error`` the code of an error."""

    __tablename__ = "destinations"
    __table_args__ = (Index("uq_destinations_repository_name", "repository_id", "name", unique=True),)

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    repository_id: Mapped[int] = mapped_column(ForeignKey("repositories.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(Text)
    kind: Mapped[str] = mapped_column(Text, default="")
    identity: Mapped[str] = mapped_column(Text, default="")
    first_seen_ns: Mapped[int] = mapped_column(BigInteger, default=0)
    last_success_ns: Mapped[int | None] = mapped_column(BigInteger)
    last_error: Mapped[str] = mapped_column(Text, default="")
    given_up: Mapped[bool] = mapped_column(default=False)


class LineageRecord(Base):
    """The snapshots of one host and set of paths. ``paths`` is a sorted JSON list, ``key`` a digest of all that."""

    __tablename__ = "lineages"
    __table_args__ = (Index("uq_lineages_repository_key", "repository_id", "key", unique=True),)

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    repository_id: Mapped[int] = mapped_column(ForeignKey("repositories.id", ondelete="CASCADE"))
    key: Mapped[str] = mapped_column(Text)
    host: Mapped[str] = mapped_column(Text)
    paths: Mapped[str] = mapped_column(Text)
    checkpoint: Mapped[bool] = mapped_column(default=False)


class SnapshotRecord(Base):
    """A snapshot. ``hex_id`` has 64 digits; ``paths`` and ``tags`` are JSON lists; ``unreadable`` counts its folders
    that could not be read from the repository."""

    __tablename__ = "snapshots"
    __table_args__ = (
        Index("uq_snapshots_lineage_position", "lineage_id", "position", unique=True),
        Index("uq_snapshots_repository_hex_id", "repository_id", "hex_id", unique=True),
        Index("ix_snapshots_time", "time_ns"),
    )

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    repository_id: Mapped[int] = mapped_column(ForeignKey("repositories.id", ondelete="CASCADE"))
    lineage_id: Mapped[int] = mapped_column(ForeignKey("lineages.id", ondelete="CASCADE"))
    hex_id: Mapped[str] = mapped_column(_Sorted)
    position: Mapped[int] = mapped_column(BigInteger)
    time_ns: Mapped[int] = mapped_column(BigInteger)
    host: Mapped[str] = mapped_column(Text)
    user: Mapped[str] = mapped_column("username", Text, default="")
    paths: Mapped[str] = mapped_column(Text)
    tags: Mapped[str] = mapped_column(Text, default="[]")
    tree: Mapped[str] = mapped_column(Text)
    parent: Mapped[str | None] = mapped_column(Text)
    checkpoint: Mapped[bool] = mapped_column(default=False)
    files: Mapped[int] = mapped_column(BigInteger, default=0)
    bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    bytes_added: Mapped[int] = mapped_column(BigInteger, default=0)
    bytes_stored: Mapped[int] = mapped_column(BigInteger, default=0)
    unreadable: Mapped[int] = mapped_column(Integer, default=0)


class SnapshotPlace(Base):
    """A destination that holds a snapshot completely."""

    __tablename__ = "snapshot_places"
    __table_args__ = (Index("ix_snapshot_places_destination", "destination_id"),)

    snapshot_id: Mapped[int] = mapped_column(ForeignKey("snapshots.id", ondelete="CASCADE"), primary_key=True)
    destination_id: Mapped[int] = mapped_column(ForeignKey("destinations.id", ondelete="CASCADE"), primary_key=True)


class ProjectRecord(Base):
    """A project. ``root`` is text as paths of files are, ``raw_root`` its bytes; ``manifests`` is a JSON list of names,
    ``frameworks`` one of objects with ``name`` and ``version``; all as the newest snapshot in which they were looked at
    says."""

    __tablename__ = "projects"
    __table_args__ = (Index("ix_projects_lineage_name", "lineage_id", "name"),)

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    lineage_id: Mapped[int] = mapped_column(ForeignKey("lineages.id", ondelete="CASCADE"))
    root: Mapped[str] = mapped_column(_Sorted)
    raw_root: Mapped[bytes] = mapped_column(LargeBinary)
    name: Mapped[str] = mapped_column(Text)
    manifests: Mapped[str] = mapped_column(Text, default="[]")
    frameworks: Mapped[str] = mapped_column(Text, default="[]")
    first_position: Mapped[int] = mapped_column(BigInteger)
    last_position: Mapped[int | None] = mapped_column(BigInteger)


class FileVersion(Base):
    """One content (and size and time of change) that stood at a path, and what analysis said about it.

    ``path`` is text for people: bytes that are not UTF-8 stand in it as escapes, and then ``raw_path`` has the bytes.
    ``kind`` is a `backupiq.discovery.entry.EntryKind`; ``content`` a digest of 16 bytes over the ids of the file's
    blobs, NULL for all that is no file; folders have size and time 0, so that they have no versions of their own.
    ``language`` to ``conflict`` are the fields of a `backupiq.semantics.model.FileType`, ``language`` its name.
    """

    __tablename__ = "file_versions"
    __table_args__ = (
        Index("ix_file_versions_lineage_path", "lineage_id", "path", info=_SQLITE),
        Index("ix_file_versions_importance", "importance", "mtime_ns"),
        Index("ix_file_versions_mtime", "mtime_ns"),
        Index("ix_file_versions_size", "size"),
        Index("ix_file_versions_language", "language"),
        Index("ix_file_versions_project", "project_id"),
        _index_where("ix_file_versions_ended", "lineage_id", "last_position", where="last_position IS NOT NULL"),
        _index_where("ix_file_versions_conflict", "conflict", where="conflict", sqlite="conflict = 1"),
        _index_where("ix_file_versions_git", "git", where="git NOT IN ('none', 'pushed', 'internal')"),
    )

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    lineage_id: Mapped[int] = mapped_column(ForeignKey("lineages.id", ondelete="CASCADE"))
    path: Mapped[str] = mapped_column(_Sorted)
    raw_path: Mapped[bytes | None] = mapped_column(LargeBinary)
    name: Mapped[str] = mapped_column(_Sorted)
    kind: Mapped[int] = mapped_column(SmallInteger)
    size: Mapped[int] = mapped_column(BigInteger)
    mtime_ns: Mapped[int] = mapped_column(BigInteger)
    content: Mapped[bytes | None] = mapped_column(LargeBinary)
    first_position: Mapped[int] = mapped_column(BigInteger)
    last_position: Mapped[int | None] = mapped_column(BigInteger)
    category: Mapped[str] = mapped_column(Text)
    language: Mapped[str] = mapped_column(Text)
    mime: Mapped[str] = mapped_column(Text)
    detected_by: Mapped[str] = mapped_column(Text)
    confidence: Mapped[int] = mapped_column(SmallInteger)
    conflict: Mapped[bool]
    role: Mapped[str] = mapped_column(Text)
    importance: Mapped[int] = mapped_column(SmallInteger)
    git: Mapped[str] = mapped_column(Text)
    regenerable: Mapped[bool]
    origin: Mapped[str] = mapped_column(Text)
    project_id: Mapped[int | None] = mapped_column(ForeignKey("projects.id", ondelete="SET NULL"))
    search_words: Mapped[str | None] = mapped_column(_Words, deferred=True)
    """On PostgreSQL `backupiq.catalog.text.search_text` of the path as a tsvector; NULL on SQLite."""


Index(
    "ix_file_versions_lineage_path",
    FileVersion.lineage_id,
    func.left(FileVersion.path, INDEXED_PATH),
    info=_POSTGRESQL,
)
Index("ix_file_versions_search_words", FileVersion.search_words, postgresql_using="gin", info=_POSTGRESQL)


def made_on(index: Index, dialect: str) -> bool:
    """Whether an index of these tables is made on a kind of database ("sqlite", "postgresql")."""
    return str(index.info.get("dialect", dialect)) == dialect


class FindingRecord(Base):
    """A secret that was found in a file version: rule, line and keyed hash, never the secret."""

    __tablename__ = "findings"
    __table_args__ = (Index("ix_findings_rule", "rule"), Index("ix_findings_hash", "hash"))

    version_id: Mapped[int] = mapped_column(ForeignKey("file_versions.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    rule: Mapped[str] = mapped_column(Text)
    line: Mapped[int] = mapped_column(BigInteger)
    severity: Mapped[str] = mapped_column(Text)
    hash: Mapped[str] = mapped_column(Text)


class RunRecord(Base):
    """A run, by the id that Prefect gave it. ``counts`` is a JSON object of numbers; ``snapshot`` the id it made."""

    __tablename__ = "runs"
    __table_args__ = (Index("ix_runs_began", "began_ns"),)

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    flow_run_id: Mapped[str] = mapped_column(Text, unique=True)
    repository_id: Mapped[int | None] = mapped_column(ForeignKey("repositories.id", ondelete="SET NULL"))
    began_ns: Mapped[int] = mapped_column(BigInteger)
    ended_ns: Mapped[int | None] = mapped_column(BigInteger)
    exit_code: Mapped[int | None] = mapped_column(Integer)
    counts: Mapped[str] = mapped_column(Text, default="{}")
    snapshot: Mapped[str | None] = mapped_column(Text)


class HealthRecord(Base):
    """What was seen of a destination at a moment. ``state`` is a word such as "ok", "slow", "failed" or "open"."""

    __tablename__ = "provider_health"
    __table_args__ = (Index("ix_provider_health_destination_at", "destination_id", "at_ns"),)

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    destination_id: Mapped[int] = mapped_column(ForeignKey("destinations.id", ondelete="CASCADE"))
    at_ns: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[str] = mapped_column(Text)
    latency_ms: Mapped[int | None] = mapped_column(Integer)
    error: Mapped[str] = mapped_column(Text, default="")

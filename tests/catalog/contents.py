"""What a catalog says, as values in which no key, no position and no order of insertion shows."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select, text

from backupiq.catalog.database import reading
from backupiq.catalog.models import (
    DestinationRecord,
    FileVersion,
    FindingRecord,
    LineageRecord,
    ProjectRecord,
    SnapshotPlace,
    SnapshotRecord,
)
from backupiq.catalog.rows import FileRow, SnapshotInfo
from backupiq.catalog.store import Catalog
from backupiq.semantics.model import Category, FileFacts, FileType

REPOSITORY = "5e" * 32
PYTHON = FileType("Python", Category.CODE, "text/x-python", "extension", 90)
PDF = FileType("PDF", Category.DOCUMENT, "application/pdf", "signature", 100)

_FACTS = (
    "category", "language", "mime", "detected_by", "confidence", "conflict",
    "role", "importance", "git", "regenerable", "origin",
)  # fmt: skip


def snapshot(
    number: int, *, host: str = "laptop", tags: Iterable[str] = (), time_ns: int | None = None
) -> SnapshotInfo:
    """A snapshot of /home, the ``number``th of its lineage."""
    when = number * 1_000 if time_ns is None else time_ns
    return SnapshotInfo(f"{number:064x}", when, host, "anna", ("/home",), tuple(tags), f"{number:064x}")


def row(path: bytes, content: bytes | None = b"c" * 16, *, size: int = 1, mtime_ns: int = 1, **facts: Any) -> FileRow:
    """A file."""
    return FileRow(path, 0, size, mtime_ns, content, FileFacts(**{"type": PYTHON, **facts}))


@functools.cache
def _empty_file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "empty.sqlite3"
        Catalog.open(f"sqlite:///{path}").close()
        return path.read_bytes()


def empty_catalog(folder: Path, name: str = "catalog.sqlite3") -> Catalog:
    """An empty catalog in a file: a copy, which costs a tenth of making one."""
    (folder / name).write_bytes(_empty_file())
    return Catalog.open(f"sqlite:///{folder / name}")


def everything(catalog: Catalog) -> dict[str, Any]:
    """All that the catalog says about snapshots, files and projects, comparable with another catalog's."""
    with reading(catalog.engine) as connection:
        spans = _spans(connection)
        return {
            "snapshots": _snapshots(connection),
            "versions": _versions(connection, spans),
            "projects": _projects(connection, spans),
            "places": _places(connection),
        }


def _spans(connection: Connection) -> dict[int, list[tuple[int, str]]]:
    found: dict[int, list[tuple[int, str]]] = {}
    rows = select(SnapshotRecord.lineage_id, SnapshotRecord.position, SnapshotRecord.hex_id)
    for row in connection.execute(rows.order_by(SnapshotRecord.position)):
        found.setdefault(row.lineage_id, []).append((row.position, row.hex_id))
    return found


def _held_by(row: Any, spans: Mapping[int, list[tuple[int, str]]]) -> tuple[str, ...]:
    """The snapshots that hold a version."""
    last = row.last_position
    return tuple(
        hex_id
        for position, hex_id in spans[row.lineage_id]
        if row.first_position <= position and (last is None or last >= position)
    )


def _snapshots(connection: Connection) -> list[Any]:
    hidden = {"id", "repository_id", "lineage_id", "position"}
    rows = select(SnapshotRecord, LineageRecord.key.label("lineage")).join(
        LineageRecord, LineageRecord.id == SnapshotRecord.lineage_id
    )
    found = connection.execute(rows).mappings()
    return sorted([(name, value) for name, value in row.items() if name not in hidden] for row in found)


def _versions(connection: Connection, spans: Mapping[int, list[tuple[int, str]]]) -> list[Any]:
    rows = (
        select(FileVersion, LineageRecord.key.label("lineage"), ProjectRecord.raw_root)
        .join(LineageRecord, LineageRecord.id == FileVersion.lineage_id)
        .outerjoin(ProjectRecord, ProjectRecord.id == FileVersion.project_id)
    )
    findings: dict[int, list[Any]] = {}
    for found in connection.execute(select(FindingRecord).order_by(FindingRecord.number)):
        findings.setdefault(found.version_id, []).append((found.line, found.rule, found.severity, found.hash))
    shown = []
    for row in connection.execute(rows):
        identity = (row.path, row.raw_path or b"", row.name, row.kind, row.size, row.mtime_ns, row.content or b"")
        facts = tuple(getattr(row, name) for name in _FACTS)
        still_there = row.last_position is None
        shown.append(
            (
                row.lineage,
                *identity,
                _held_by(row, spans),
                still_there,
                facts,
                row.raw_root or b"",
                findings.get(row.id),
            )
        )
    return sorted(shown, key=repr)


def _projects(connection: Connection, spans: Mapping[int, list[tuple[int, str]]]) -> list[Any]:
    rows = select(ProjectRecord, LineageRecord.key.label("lineage")).join(
        LineageRecord, LineageRecord.id == ProjectRecord.lineage_id
    )
    return sorted(
        (row.lineage, row.raw_root, row.root, row.name, row.manifests, row.frameworks, _held_by(row, spans))
        for row in connection.execute(rows)
    )


def _places(connection: Connection) -> list[Any]:
    rows = (
        select(SnapshotRecord.hex_id, DestinationRecord.name)
        .select_from(SnapshotPlace)
        .join(SnapshotRecord, SnapshotRecord.id == SnapshotPlace.snapshot_id)
        .join(DestinationRecord, DestinationRecord.id == SnapshotPlace.destination_id)
    )
    return sorted(tuple(row) for row in connection.execute(rows))


def words_find(catalog: Catalog, word: str) -> set[str]:
    """The paths that a word (a prefix) finds, by the index of words alone."""
    if catalog.engine.dialect.name == "sqlite":
        query = (
            "SELECT v.path FROM file_search JOIN file_versions v ON v.id = file_search.rowid "
            "WHERE file_search MATCH :word"
        )
        given = f'"{word}"*'
    else:
        query = "SELECT path FROM file_versions WHERE search_words @@ to_tsquery('simple', :word)"
        given = f"'{word}':*"
    with reading(catalog.engine) as connection:
        return set(connection.execute(text(query), {"word": given}).scalars())


def is_sound(catalog: Catalog) -> bool:
    """Whether SQLite finds its file, and the words in it, as they should be; always for PostgreSQL."""
    if catalog.engine.dialect.name != "sqlite":
        return True
    with catalog.engine.connect() as connection:
        connection.execute(text("INSERT INTO file_search(file_search, rank) VALUES ('integrity-check', 1)"))
        connection.rollback()
        return (
            bool(connection.execute(text("PRAGMA integrity_check(1)")).scalar() == "ok")
            and not connection.execute(text("PRAGMA foreign_key_check")).all()
        )

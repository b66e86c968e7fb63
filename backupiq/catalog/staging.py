"""Temporary tables that rows are collected in before they enter the catalog in one short transaction.

They belong to one connection, and filling them locks nothing in the catalog, however long analysis takes to give rows.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    text,
)

from backupiq.catalog.rows import FOLDER, FileRow, bounded
from backupiq.catalog.text import path_text, search_text
from backupiq.semantics.model import FileFacts

CHUNK = 5_000
MAX_FACTS = 20_000
"""Distinct facts whose columns are remembered; more are made anew."""

_metadata = MetaData()
_C = "C"


def _temporary(name: str, *columns: Column[Any]) -> Table:
    return Table(name, _metadata, *columns, prefixes=["TEMPORARY"])


def _sorted_text() -> Text:
    return Text().with_variant(Text(collation=_C), "postgresql")


FACTS = (
    "category",
    "language",
    "mime",
    "detected_by",
    "confidence",
    "conflict",
    "role",
    "importance",
    "git",
    "regenerable",
    "origin",
)
"""Columns of a file version that analysis fills, in the order of `staged_files`."""

staged_files = _temporary(
    "staged_files",
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("path", _sorted_text()),
    Column("raw_path", LargeBinary),
    Column("name", _sorted_text()),
    Column("kind", SmallInteger),
    Column("size", BigInteger),
    Column("mtime_ns", BigInteger),
    Column("content", LargeBinary),
    Column("category", Text),
    Column("language", Text),
    Column("mime", Text),
    Column("detected_by", Text),
    Column("confidence", SmallInteger),
    Column("conflict", Boolean),
    Column("role", Text),
    Column("importance", SmallInteger),
    Column("git", Text),
    Column("regenerable", Boolean),
    Column("origin", Text),
    Column("project", Integer),
    Column("words", Text),
)
staged_findings = _temporary(
    "staged_findings",
    Column("seq", Integer),
    Column("number", SmallInteger),
    Column("rule", Text),
    Column("line", BigInteger),
    Column("severity", Text),
    Column("hash", Text),
)
staged_gone = _temporary("staged_gone", Column("path", _sorted_text()), Column("raw_path", LargeBinary))
staged_projects = _temporary(
    "staged_projects",
    Column("project", Integer, primary_key=True, autoincrement=False),
    Column("project_id", BigInteger),
)
staged_matches = _temporary(
    "staged_matches",
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("version_id", BigInteger),
    Column("same", Boolean),
)


@contextlib.contextmanager
def staging_tables(connection: Connection) -> Iterator[None]:
    """The tables, empty, for the time of the block."""
    with connection.begin():
        _metadata.drop_all(connection)  # those of a block that a broken connection ended
        _metadata.create_all(connection)
    try:
        yield
    finally:
        if not connection.invalidated:
            with connection.begin():
                _metadata.drop_all(connection)


class Stager:
    """Fills the tables with rows; numbers projects by their root folders.

    Memory does not grow with the rows: they go to the driver as they come.
    """

    def __init__(self, connection: Connection, projects: Sequence[bytes]) -> None:
        self._connection = connection
        self._projects = {root: number for number, root in enumerate(projects)}
        self._facts: dict[FileFacts, tuple[Any, ...]] = {}
        self._with_words = connection.dialect.name == "postgresql"
        self.count = 0

    def stage(self, rows: Iterable[FileRow]) -> None:
        """Take all rows, a chunk at a time."""
        remaining = iter(rows)
        with self._connection.begin():
            while chunk := list(itertools.islice(remaining, CHUNK)):
                put(self._connection, staged_files, map(self._columns_of, itertools.count(self.count), chunk))
                found = [finding for seq, row in enumerate(chunk, self.count) for finding in _findings(seq, row.facts)]
                if found:
                    put(self._connection, staged_findings, found)
                self.count += len(chunk)

    def stage_gone(self, paths: Iterable[bytes]) -> None:
        """Take the paths that the snapshot before had and this one has not."""
        with self._connection.begin():
            put(self._connection, staged_gone, map(path_text, paths))
            if self._with_words:  # PostgreSQL plans by the sizes of tables, and looks at temporary ones only when told
                self._connection.execute(text("ANALYZE staged_files, staged_gone"))

    def _columns_of(self, seq: int, row: FileRow) -> tuple[Any, ...]:
        path, kind, size, mtime_ns, content, facts = row
        shown, raw = path_text(path)
        columns = self._facts.get(facts)
        if columns is None:
            columns = self._columns(facts)
            if len(self._facts) < MAX_FACTS:
                self._facts[facts] = columns
        if kind == FOLDER:
            size = mtime_ns = 0
        elif not 0 <= mtime_ns < 1 << 62:
            mtime_ns = bounded(mtime_ns)
        words = search_text(shown) if self._with_words else None
        return (seq, shown, raw, shown.rpartition("/")[2], int(kind), size, mtime_ns, content, *columns, words)

    def _columns(self, facts: FileFacts) -> tuple[Any, ...]:
        kind = facts.type
        return (
            str(kind.category),
            storable(kind.name),
            storable(kind.mime),
            storable(kind.detected_by),
            kind.confidence,
            bool(kind.conflict),
            storable(facts.role),
            facts.importance,
            str(facts.git),
            bool(facts.regenerable),
            storable(facts.origin),
            None if facts.project is None else self._projects.get(facts.project),
        )


def _findings(seq: int, facts: FileFacts) -> Iterator[tuple[Any, ...]]:
    for number, found in enumerate(sorted(facts.findings)):
        yield (seq, number, storable(found.rule), bounded(found.line), str(found.severity), storable(found.hash))


def storable(value: str, limit: int = 1_000) -> str:
    """Text that every database takes: no NUL, no half of a character, bounded in length."""
    value = value[:limit]
    if value.isascii() and "\0" not in value:
        return value
    return value.replace("\0", "").encode("utf-8", "backslashreplace").decode()


def put(connection: Connection, table: Table, rows: Iterable[Sequence[Any]]) -> None:
    """Write rows, in the order of the table's columns, the fastest way the driver has."""
    cursor = connection.connection.cursor()
    try:
        _PUT[connection.dialect.name](cursor, table, rows)
    finally:
        cursor.close()


def _put_sqlite(cursor: Any, table: Table, rows: Iterable[Sequence[Any]]) -> None:
    marks = ", ".join("?" * len(table.columns))
    cursor.executemany(f"INSERT INTO {table.name} VALUES ({marks})", rows)  # noqa: S608 - a name of this module


def _put_postgresql(cursor: Any, table: Table, rows: Iterable[Sequence[Any]]) -> None:
    with cursor.copy(f"COPY {table.name} FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)


_PUT: dict[str, Callable[[Any, Table, Iterable[Sequence[Any]]], None]] = {
    "sqlite": _put_sqlite,
    "postgresql": _put_postgresql,
}

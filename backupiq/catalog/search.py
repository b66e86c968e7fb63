"""Finding file versions in the catalog: which ones, and in which order.

How a query is answered is decided here and not left to SQLite's planner, which knows nothing of how often a word or a
language occurs: every part of the query that an index can answer is counted up to `SELECTIVE` first, and the least
frequent one leads. With words that are selective the results are ranked by BM25. When nothing is selective, the
versions are walked in the wanted order until enough of them fit.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    Connection,
    Engine,
    FromClause,
    Select,
    asc,
    column,
    desc,
    exists,
    func,
    literal_column,
    not_,
    select,
    table,
)
from sqlalchemy.sql.elements import UnaryExpression
from sqlalchemy.sql.operators import custom_op

from backupiq.catalog.database import reading
from backupiq.catalog.models import FileVersion, LineageRecord, RepositoryRecord
from backupiq.catalog.query import Query
from backupiq.catalog.search_filters import Filters, make_filters, same_path
from backupiq.catalog.search_hits import Hit, load_hits
from backupiq.catalog.search_places import Clause, Make
from backupiq.catalog.search_words import as_alternatives, fts5_any, fts5_text, tsquery_any, tsquery_text
from backupiq.errors import ValidationError

SELECTIVE = 5_000
"""At most so many versions are ranked or looked at one by one before the order of an index is the better way."""
MAX_LIMIT = 100_000
"""Hits at most."""

_WORDS = table("file_search", column("rowid"), column("file_search"))
_VERSIONS = FileVersion.__table__
_NEWER = _VERSIONS.alias("newer")


class Sort(enum.StrEnum):
    """The order of the hits; what is equal in it is told apart by importance, time and path."""

    RANK = "rank"
    """How well the words fit, where they are selective."""
    IMPORTANCE = "importance"
    CHANGED = "changed"
    """Newest first."""
    SIZE = "size"
    """Largest first."""
    PATH = "path"


@dataclass(frozen=True, slots=True)
class Found:
    """The hits in their order; ``more``: there are others beyond the limit; ``notes``: names that nothing has."""

    hits: tuple[Hit, ...]
    more: bool = False
    notes: tuple[str, ...] = ()


def search(
    engine: Engine, query: Query, *, limit: int = 50, sort: Sort = Sort.RANK, every_version: bool = False
) -> Found:
    """What fits a query: of each file the newest version that does, or with ``every_version`` each one.

    Raises ValidationError for a bad limit, SnapshotNotFoundError and AmbiguousSnapshotError for ``snapshot:``, and
    CatalogError when the catalog cannot be used.
    """
    if not 1 <= limit <= MAX_LIMIT:
        raise ValidationError(f"The limit must be from 1 to {MAX_LIMIT:,}.", limit=limit)
    with reading(engine) as connection:
        filters = make_filters(connection, query)
        statement = plan(connection, filters, sort, every_version=every_version).limit(limit + 1)
        ids = list(connection.scalars(statement))
        hits = load_hits(connection, ids[:limit])
    return Found(tuple(hits), len(ids) > limit, tuple(filters.notes))


@dataclass(frozen=True, slots=True)
class Way:
    """How the versions are reached: from where, and with which rank."""

    source: FromClause
    clauses: tuple[Clause, ...] = ()
    rank: Any = None


def plan(connection: Connection, filters: Filters, sort: Sort, *, every_version: bool) -> Select[tuple[int]]:
    """The statement that gives the ids of the versions in their order, without a limit."""
    sqlite = connection.dialect.name == "sqlite"
    way = _sqlite_way(connection, filters) if sqlite else _postgresql_way(connection, filters)
    v = _VERSIONS.c
    looked_at = _Unindexed(v) if sqlite else v
    clauses = [*way.clauses, *(make(looked_at) for make in (*filters.by_path, *filters.by_version))]
    if not every_version:
        clauses.append(_no_newer(connection, filters))
    lineages, repositories = LineageRecord.__table__, RepositoryRecord.__table__
    source = way.source.join(lineages, lineages.c.id == looked_at.lineage_id).join(
        repositories, repositories.c.id == lineages.c.repository_id
    )
    # Ids and the order of insertion never decide: a catalog that was built anew answers the same.
    ends = [asc(v.path), asc(repositories.c.repository_id), asc(lineages.c.key), desc(v.first_position)]
    first: dict[Sort, list[Any]] = {
        Sort.RANK: [] if way.rank is None else [asc(way.rank)],
        Sort.IMPORTANCE: [],
        Sort.CHANGED: [desc(v.mtime_ns)],
        Sort.SIZE: [desc(v.size)],
        Sort.PATH: ends[:3],
    }
    order = [*first[sort], desc(v.importance), desc(v.mtime_ns), *ends]
    return select(v.id).select_from(source).where(*clauses).order_by(*order)


def _no_newer(connection: Connection, filters: Filters) -> Clause:
    """No newer version of the same path fits as well."""
    v, newer = _VERSIONS.c, _NEWER.c
    looked_at = _Unindexed(newer) if connection.dialect.name == "sqlite" else newer
    fits = [make(looked_at) for make in filters.by_version]
    found = exists().where(same_path(connection, newer, v), newer.first_position > v.first_position, *fits)
    return not_(found)


# --- SQLite ---------------------------------------------------------------------------------------------------------


class _Unindexed:
    """Columns written ``+column``, which SQLite takes no index for.

    With all clauses written so, the versions are either looked up by the ids that `_sqlite_way` chose, or walked along
    the index that gives them in the wanted order; and newer versions are looked up by their path.
    """

    def __init__(self, columns: Any) -> None:
        self._columns = columns

    def __getattr__(self, name: str) -> Any:
        column = self._columns[name]
        return UnaryExpression(column, operator=_PLUS, type_=column.type)


_PLUS: custom_op[Any] = custom_op("+")


def _sqlite_way(connection: Connection, filters: Filters) -> Way:
    asked = as_alternatives(filters.ranked)
    excluded = fts5_any(filters.excluded)
    if asked:
        for all_of in (asked, [*asked, *filters.implied]):
            if _count(connection, _words_matching(fts5_text(all_of, excluded))) <= SELECTIVE:
                return _by_words(fts5_text(all_of, excluded), ranked=True)
    clauses: list[Clause] = []
    if asked:
        clauses.append(_Unindexed(_VERSIONS.c).id.in_(_words_matching(fts5_text(asked, excluded))))
    elif excluded:
        clauses.append(_VERSIONS.c.id.not_in(_words_matching(excluded)))
    chosen = _least_frequent(connection, filters.narrowings)
    if chosen is not None:
        return _by_ids(chosen, clauses)
    implied = "" if asked else fts5_text(filters.implied)
    if implied and _count(connection, _words_matching(implied)) <= SELECTIVE:
        return _by_words(implied, ranked=False, clauses=clauses)
    return Way(_VERSIONS, tuple(clauses))


def _words_matching(text: str) -> Select[tuple[int]]:
    return select(_WORDS.c.rowid.label("id")).where(_WORDS.c.file_search.op("MATCH", is_comparison=True)(text))


def _by_words(text: str, *, ranked: bool, clauses: Sequence[Clause] = ()) -> Way:
    statement = _words_matching(text)
    if not ranked:
        return _by_ids(statement, clauses)
    # BM25 in whole numbers: what fits about as well is told apart by importance.
    return _by_ids(statement.add_columns(func.round(func.bm25(literal_column("file_search"))).label("rank")), clauses)


def _by_ids(statement: Select[Any], clauses: Sequence[Clause]) -> Way:
    found = statement.cte("found").prefix_with("MATERIALIZED")
    return Way(found.join(_VERSIONS, _VERSIONS.c.id == found.c.id), tuple(clauses), found.c.get("rank"))


def _least_frequent(connection: Connection, narrowings: Sequence[Make]) -> Select[tuple[int]] | None:
    best, fewest = None, SELECTIVE
    for narrowing in narrowings:
        statement = select(_VERSIONS.c.id).where(narrowing(_VERSIONS.c))
        count = _count(connection, statement)
        if count <= fewest:
            best, fewest = statement, count
    return best


def _count(connection: Connection, statement: Select[Any]) -> int:
    """How many rows there are, counted no further than just beyond `SELECTIVE`."""
    limited = statement.limit(SELECTIVE + 1).subquery()
    return connection.scalar(select(func.count()).select_from(limited)) or 0


# --- PostgreSQL -----------------------------------------------------------------------------------------------------


def _postgresql_way(connection: Connection, filters: Filters) -> Way:
    """Its planner keeps statistics, so only ranking is decided here."""
    words = _VERSIONS.c.search_words
    matches = words.op("@@", is_comparison=True)
    asked = as_alternatives(filters.ranked)
    clauses: list[Clause] = []
    if filters.excluded:
        clauses.append(not_(func.coalesce(matches(_tsquery(tsquery_any(filters.excluded))), False)))
    text = tsquery_text([*asked, *filters.implied])
    if not text:
        return Way(_VERSIONS, tuple(clauses))
    clauses.append(matches(_tsquery(text)))
    if not asked or _count(connection, select(_VERSIONS.c.id).where(*clauses)) > SELECTIVE:
        return Way(_VERSIONS, tuple(clauses))
    # 1: divided by the logarithm of the length, as BM25 also prefers the shorter path.
    rank = func.round(func.ts_rank(words, _tsquery(tsquery_text(asked)), 1) * 100)
    return Way(_VERSIONS, tuple(clauses), rank=-rank)


def _tsquery(text: str) -> Any:
    return func.to_tsquery(literal_column("'simple'"), text)

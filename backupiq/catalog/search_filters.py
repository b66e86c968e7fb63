"""A `Query` as clauses for the catalog's tables: what each field means there.

Everything a person wrote reaches the database as a bound parameter. Names (of languages, projects, hosts, destinations,
rules) are compared with those in the catalog first, so that a name nobody has is answered with the one that was meant.
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import (
    BindParameter,
    Connection,
    Integer,
    and_,
    bindparam,
    exists,
    false,
    func,
    literal_column,
    not_,
    or_,
    select,
    true,
)

from backupiq.catalog.models import (
    INDEXED_PATH,
    DestinationRecord,
    FileVersion,
    FindingRecord,
    LineageRecord,
    ProjectRecord,
)
from backupiq.catalog.query import Condition, Phrase, Query, split_words
from backupiq.catalog.query_fields import Span, Value, suggestion
from backupiq.catalog.query_paths import has_wildcards, literal_prefix, path_regex, words_of_pattern
from backupiq.catalog.search_places import Clause, Make, begins, held_by, in_newest, in_snapshot
from backupiq.catalog.search_words import Alternatives
from backupiq.discovery.entry import EntryKind
from backupiq.semantics.model import GitState
from backupiq.telemetry.text import printable

_OPEN = FileVersion.__table__.alias("open_version")

_OF_FILES = frozenset(
    {"category", "language", "importance", "changed", "before", "after", "size", "secret", "ext", "git", "conflict"}
)
"""Fields that say nothing about folders: asked for one of them, only files and links answer."""


@dataclass(slots=True)
class Filters:
    """What a query asks of the tables.

    ``by_path`` holds for all versions of a path or for none, ``by_version`` for each by itself; ``narrowings`` are
    those among them that an index answers. ``ranked`` are the person's own words, ``implied`` what paths must hold
    besides, ``excluded`` what they must not.
    """

    ranked: tuple[Phrase, ...] = ()
    excluded: tuple[Phrase, ...] = ()
    implied: list[Alternatives] = field(default_factory=list)
    by_path: list[Make] = field(default_factory=list)
    by_version: list[Make] = field(default_factory=list)
    narrowings: list[Make] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def make_filters(connection: Connection, query: Query) -> Filters:
    """The clauses of a query. SnapshotNotFoundError and AmbiguousSnapshotError for a snapshot that cannot be told."""
    filters = Filters(
        tuple(phrase for phrase in query.phrases if not phrase.negated),
        tuple(phrase for phrase in query.phrases if phrase.negated),
    )
    for condition in query.conditions:
        _MAKERS[condition.field](connection, condition, filters)
    if any(condition.field in _OF_FILES for condition in query.conditions):
        filters.by_path.append(lambda v: v.kind != int(EntryKind.DIR))
    return filters


def same_path(connection: Connection, a: Any, b: Any) -> Clause:
    """Whether two versions are of the same path of the same lineage, as the index of paths can look it up."""
    same = and_(a.lineage_id == b.lineage_id, a.path == b.path, a.raw_path.is_not_distinct_from(b.raw_path))
    if connection.dialect.name == "postgresql":
        same = and_(same, func.left(a.path, INDEXED_PATH) == func.left(b.path, INDEXED_PATH))
    return same


def _turned(condition: Condition, make: Make) -> Make:
    return (lambda v: not_(make(v))) if condition.negated else make


def _texts(condition: Condition) -> list[str]:
    return [value for value in condition.values if isinstance(value, str)]


# --- numbers and fixed words ----------------------------------------------------------------------------------------


def _numbers(column: str) -> Callable[[Connection, Condition, Filters], None]:
    def add(_: Connection, condition: Condition, filters: Filters) -> None:
        def make(version: Any) -> Clause:
            return or_(*(_within(getattr(version, column), value) for value in condition.values))

        filters.by_version.append(_turned(condition, make))
        if not condition.negated and len(condition.values) == 1:
            filters.narrowings.append(make)

    return add


def _within(column: Any, value: Value) -> Clause:
    if not isinstance(value, Span):
        return false()
    limits: list[Clause] = [] if value.low is None else [column >= value.low]
    limits += [] if value.high is None else [column <= value.high]
    return and_(true(), *limits)


def _category(_: Connection, condition: Condition, filters: Filters) -> None:
    filters.by_version.append(_turned(condition, lambda v: v.category.in_(_texts(condition))))


def _git(_: Connection, condition: Condition, filters: Filters) -> None:
    given = set(_texts(condition))
    states = {str(state) for state in GitState if (state in given) != condition.negated}
    filters.by_version.append(lambda v: v.git.in_(sorted(states)))
    if not states & set(_USUAL_STATES):
        # Word for word as the index has it: SQLite takes one of some rows only for the same condition.
        usual: list[Any] = [literal_column(f"'{state}'") for state in _USUAL_STATES]
        filters.narrowings.append(lambda v: and_(v.git.in_(sorted(states)), v.git.not_in(usual)))


_USUAL_STATES = (GitState.NONE, GitState.PUSHED, GitState.INTERNAL)


def _asked(condition: Condition) -> list[bool]:
    """What yes and no come to: [True], [False], both or neither."""
    answers = {text == "yes" for text in _texts(condition)}
    return sorted({True, False} - answers if condition.negated else answers)


def _regenerable(_: Connection, condition: Condition, filters: Filters) -> None:
    filters.by_version.append(lambda v: or_(false(), *(v.regenerable.is_(answer) for answer in _asked(condition))))


def _conflict(_: Connection, condition: Condition, filters: Filters) -> None:
    filters.by_version.append(lambda v: or_(false(), *(v.conflict.is_(answer) for answer in _asked(condition))))
    if _asked(condition) == [True]:
        filters.narrowings.append(lambda v: v.conflict == literal_column("1"))


# --- names that the catalog knows -----------------------------------------------------------------------------------


def known_names(given: Iterable[str], known: Iterable[str], field_name: str, notes: list[str]) -> set[str]:
    """The known names that were meant: the same but for the case of letters, or fitting a pattern with ``*``.

    Adds a note for each that fits none.
    """
    names = sorted(set(known))
    found: set[str] = set()
    for text in given:
        pattern = re.compile(fnmatch.translate(re.sub(r"[\[\]?]", lambda m: f"[{m[0]}]", text.casefold())))
        fitting = {name for name in names if name and pattern.match(name.casefold())}
        if not fitting:
            near = suggestion(text, (name for name in names if name))
            notes.append(f"Nothing in the catalog has the {field_name} '{printable(text[:60])}'{near}")
        found |= fitting
    return found


def distinct(connection: Connection, column: Any) -> list[str]:
    """The different texts of an indexed column, one look into the index for each."""
    first = select(func.min(column).label("value")).cte("names", recursive=True)
    following = select(select(func.min(column)).where(column > first.c.value).scalar_subquery()).where(
        first.c.value.is_not(None)
    )
    names = first.union_all(following)
    return list(connection.scalars(select(names.c.value).where(names.c.value.is_not(None))))


def _language(connection: Connection, condition: Condition, filters: Filters) -> None:
    names = sorted(
        known_names(
            _texts(condition), distinct(connection, FileVersion.__table__.c.language), "language", filters.notes
        )
    )
    filters.by_version.append(_turned(condition, lambda v: v.language.in_(names)))
    if not condition.negated:
        filters.narrowings.append(lambda v: v.language.in_(names))


def _project(connection: Connection, condition: Condition, filters: Filters) -> None:
    rows = connection.execute(select(ProjectRecord.id, ProjectRecord.name)).all()
    names = known_names(_texts(condition), (row.name for row in rows), "project", filters.notes)
    _of_projects([row.id for row in rows if row.name in names], condition, filters)


def _framework(connection: Connection, condition: Condition, filters: Filters) -> None:
    rows = connection.execute(select(ProjectRecord.id, ProjectRecord.frameworks)).all()
    used = {row.id: {str(one["name"]) for one in json.loads(row.frameworks)} for row in rows}
    names = known_names(_texts(condition), set().union(*used.values()), "framework", filters.notes)
    _of_projects([project for project, frameworks in used.items() if frameworks & names], condition, filters)


def _of_projects(ids: Sequence[int], condition: Condition, filters: Filters) -> None:
    def make(version: Any) -> Clause:
        return and_(version.project_id.in_(_integers(ids)))

    if condition.negated:
        filters.by_version.append(lambda v: or_(v.project_id.is_(None), not_(make(v))))
    else:
        filters.by_version.append(make)
        filters.narrowings.append(make)


def _integers(values: Sequence[int]) -> BindParameter[Any]:
    # Numbers may stand in the statement itself; of parameters a database takes only so many.
    return bindparam(None, [*values], type_=Integer(), expanding=True, literal_execute=True)


def _host(connection: Connection, condition: Condition, filters: Filters) -> None:
    rows = connection.execute(select(LineageRecord.id, LineageRecord.host)).all()
    names = known_names(_texts(condition), (row.host for row in rows), "host", filters.notes)
    lineages = [row.id for row in rows if row.host in names]
    filters.by_path.append(_turned(condition, lambda v: v.lineage_id.in_(lineages)))


def _secret(connection: Connection, condition: Condition, filters: Filters) -> None:
    given = _texts(condition)
    rules = [text for text in given if text.casefold() not in ("any", "none")]
    names = (
        sorted(known_names(rules, distinct(connection, FindingRecord.__table__.c.rule), "rule", filters.notes))
        if rules
        else []
    )

    def make(version: Any) -> Clause:
        found = exists().where(FindingRecord.version_id == version.id)
        parts: list[Clause] = [found.where(FindingRecord.rule.in_(names))] if rules else []
        for text in given:
            parts += [found] if text.casefold() == "any" else [not_(found)] if text.casefold() == "none" else []
        return or_(false(), *parts)

    filters.by_version.append(_turned(condition, make))
    if not condition.negated and "none" not in map(str.casefold, given):
        findings = select(FindingRecord.version_id)
        if not any(text.casefold() == "any" for text in given):
            findings = findings.where(FindingRecord.rule.in_(names))
        filters.narrowings.append(lambda v: v.id.in_(findings))


# --- paths ----------------------------------------------------------------------------------------------------------


def _path(connection: Connection, condition: Condition, filters: Filters) -> None:
    patterns = _texts(condition)
    atomic = connection.dialect.name == "sqlite"  # there Python does the matching

    def make(version: Any) -> Clause:
        return or_(*(_one_pattern(version.path, pattern, atomic=atomic) for pattern in patterns))

    filters.by_path.append(_turned(condition, make))
    if condition.negated:
        return
    phrases = tuple(words_of_pattern(pattern) for pattern in patterns)
    if all(phrases):
        filters.implied.append(phrases)
    prefix = literal_prefix(patterns[0])
    if len(patterns) == 1 and prefix:
        lineages = list(connection.scalars(select(LineageRecord.id)))
        # The index of paths begins with the lineage.
        filters.narrowings.append(lambda v: and_(v.lineage_id.in_(lineages), begins(v.path, prefix)))


def _one_pattern(path: Any, pattern: str, *, atomic: bool) -> Clause:
    if not has_wildcards(pattern) and pattern.startswith("/"):
        folder = literal_prefix(pattern)
        return or_(path == (folder or "/"), begins(path, folder + "/"))
    fits = path.regexp_match(path_regex(pattern, atomic=atomic))
    prefix = literal_prefix(pattern)
    return and_(begins(path, prefix), fits) if prefix else fits


def _extension(_: Connection, condition: Condition, filters: Filters) -> None:
    endings = _texts(condition)

    def make(version: Any) -> Clause:
        name = func.lower(version.name)
        return or_(*(and_(name.endswith("." + ending, autoescape=True), name != "." + ending) for ending in endings))

    filters.by_path.append(_turned(condition, make))
    # Whole words only when they are plain: what accents do to a word is the index's business.
    phrases = tuple((Phrase(split_words(ending)),) for ending in endings)
    if not condition.negated and all(ending.isascii() and split_words(ending) for ending in endings):
        filters.implied.append(phrases)


# --- snapshots and destinations -------------------------------------------------------------------------------------


def _snapshot(connection: Connection, condition: Condition, filters: Filters) -> None:
    makes = [in_newest(connection) if text == "latest" else in_snapshot(connection, text) for text in _texts(condition)]
    filters.by_version.append(_turned(condition, lambda v: or_(false(), *(make(v) for make in makes))))


def _meant_destinations(connection: Connection, condition: Condition, filters: Filters) -> tuple[set[int], set[int]]:
    """The ids of the destinations that are named, and of the others; without those that were given up."""
    rows = connection.execute(
        select(DestinationRecord.id, DestinationRecord.name, DestinationRecord.kind).where(
            DestinationRecord.given_up.is_(False)
        )
    ).all()
    known = {row.name for row in rows} | {row.kind for row in rows}
    names = known_names(_texts(condition), known, "destination", filters.notes)
    meant = {row.id for row in rows if row.name in names or row.kind in names}
    return meant, {row.id for row in rows} - meant


def _at(connection: Connection, condition: Condition, filters: Filters) -> None:
    meant, _ = _meant_destinations(connection, condition, filters)
    filters.by_version.append(_turned(condition, held_by(connection, meant)))


def _only_at(connection: Connection, condition: Condition, filters: Filters) -> None:
    meant, others = _meant_destinations(connection, condition, filters)
    there, elsewhere = held_by(connection, meant), held_by(connection, others)
    filters.by_version.append(_turned(condition, lambda v: and_(there(v), not_(elsewhere(v)))))


def _deleted(connection: Connection, condition: Condition, filters: Filters) -> None:
    asked = _asked(condition)

    def make(version: Any) -> Clause:
        there = still_there(connection, version)
        return or_(false(), *(not_(there) if gone else there for gone in asked))

    filters.by_path.append(make)
    if asked == [True]:
        filters.narrowings.append(lambda v: v.last_position.is_not(None))


def still_there(connection: Connection, version: Any) -> Clause:
    """Whether the newest snapshot of its lineage holds the version's path, in whatever content."""
    other = _OPEN.c
    here = exists().where(same_path(connection, other, version), other.last_position.is_(None))
    return or_(version.last_position.is_(None), here)


_MAKERS: dict[str, Callable[[Connection, Condition, Filters], None]] = {
    "category": _category,
    "language": _language,
    "framework": _framework,
    "project": _project,
    "importance": _numbers("importance"),
    "changed": _numbers("mtime_ns"),
    "before": _numbers("mtime_ns"),
    "after": _numbers("mtime_ns"),
    "size": _numbers("size"),
    "secret": _secret,
    "snapshot": _snapshot,
    "host": _host,
    "path": _path,
    "ext": _extension,
    "at": _at,
    "only-at": _only_at,
    "regenerable": _regenerable,
    "git": _git,
    "conflict": _conflict,
    "deleted": _deleted,
}

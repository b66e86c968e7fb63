"""Finding things in a catalog in PostgreSQL: the same answers as from a file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, text

from backupiq.catalog import search as search_module
from backupiq.catalog.adding import SnapshotRows, add_snapshot
from backupiq.catalog.history import history
from backupiq.catalog.query import parse_query
from backupiq.catalog.search import Found, Sort, search
from backupiq.catalog.store import Catalog
from backupiq.errors import PathNotInSnapshotError
from tests.support import search_world as world
from tests.support.servers.postgres import PostgreSQL


@pytest.fixture(scope="module")
def engine(postgres: PostgreSQL) -> Iterator[Engine]:
    with Catalog.open(postgres.new_database()) as catalog:
        world.fill(catalog.engine)
        yield catalog.engine


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Catalog.open(f"sqlite:///{tmp_path_factory.mktemp('catalog') / 'catalog.sqlite3'}") as catalog:
        world.fill(catalog.engine)
        yield catalog.engine


def ask(engine: Engine, query: str, sort: Sort = Sort.IMPORTANCE) -> Found:
    return search(engine, parse_query(query, now_ns=world.NOW), sort=sort)


def paths(found: Found) -> list[str]:
    return [hit.path.decode("utf-8", "surrogateescape") for hit in found.hits]


@pytest.mark.parametrize("query", world.ANSWERS)
def test_a_query_finds_the_same_as_in_a_file(engine: Engine, sqlite: Engine, query: str) -> None:
    found = ask(engine, query, Sort.PATH)
    assert set(paths(found)) == world.ANSWERS[query]
    assert found == ask(sqlite, query, Sort.PATH)


def test_words_that_are_not_selective_are_not_ranked(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_module, "SELECTIVE", -1)
    assert ask(engine, "shop", Sort.RANK) == ask(engine, "shop", Sort.IMPORTANCE)


def test_selective_words_are_ranked_by_how_well_they_fit(postgres: PostgreSQL) -> None:
    facts = world.FileFacts(world.TEXT, importance=1)
    rows = [
        world.file("/rare/rare", 1, "2026-01-01", facts),
        world.file(f"/rare{'/of/many/words' * 8}/x", 1, "2026-01-01", facts._replace(importance=100)),
    ]
    with Catalog.open(postgres.new_database()) as catalog:
        info = world.info("e1" * 32, "2026-01-02", "h", "/")
        add_snapshot(catalog.engine, world.REPOSITORY, info, SnapshotRows(rows))
        assert paths(ask(catalog.engine, "rare", Sort.RANK))[0] == "/rare/rare"
        assert paths(ask(catalog.engine, "rare", Sort.IMPORTANCE))[0] != "/rare/rare"


@pytest.mark.parametrize(
    "query",
    [
        "'; DELETE FROM file_versions; --",
        "shop & | ! <-> (views:*)",
        "shop':* | 'views",
        "\udcff\udcfe shop",
        "shop\0views",
        "x" * 3_000,
        "½ ² Ⅷ \ufb01 日本語 \uff21\uff22",
        "a1b2 1e5 12abc 0x1f 1.5 -7",
        'project:"%_\\\'"',
        "path:/[\\d]/[[:alpha:]]/(?i)*",
        "path:/[z-a]*,/**/\\1{2}*/[!a-]*",
        "ext:%,_,\\",
    ],
)
def test_a_hostile_query_is_answered_and_harms_nothing(engine: Engine, sqlite: Engine, query: str) -> None:
    assert ask(engine, query) == ask(sqlite, query)
    assert len(ask(engine, "category:code").hits) == 5


@pytest.mark.parametrize(
    "name", ["1e5", "12abc", "v2.0.1", "a@b.c", "x-1", "http", "2026-01-01", "0x1f", "ﬁne", "naïve"]
)
def test_a_file_is_found_by_the_words_of_its_name_whatever_they_look_like(postgres_of_names: Engine, name: str) -> None:
    assert f"/names/{name}" in paths(ask(postgres_of_names, f'"{name}"'))


@pytest.fixture(scope="module")
def postgres_of_names(postgres: PostgreSQL) -> Iterator[Engine]:
    names = ["1e5", "12abc", "v2.0.1", "a@b.c", "x-1", "http", "2026-01-01", "0x1f", "ﬁne", "naïve"]
    rows = [world.file(f"/names/{name}", 1, "2026-01-01", world.FileFacts()) for name in names]
    with Catalog.open(postgres.new_database()) as catalog:
        info = world.info("e1" * 32, "2026-01-02", "h", "/")
        add_snapshot(catalog.engine, world.REPOSITORY, info, SnapshotRows(rows))
        yield catalog.engine


@pytest.mark.parametrize(
    "path", [world.VIEWS.encode(), world.DRAFT.encode(), world.WEIRD, b"/home/ada/Documents", b"/home", b"/"]
)
def test_a_history_is_the_same_as_in_a_file(engine: Engine, sqlite: Engine, path: bytes) -> None:
    assert history(engine, path) == history(sqlite, path)


def test_a_path_that_no_snapshot_has_is_an_error(engine: Engine) -> None:
    with pytest.raises(PathNotInSnapshotError):
        history(engine, b"/nowhere")


def test_words_are_looked_up_in_their_index(engine: Engine) -> None:
    with engine.connect() as connection:
        connection.execute(text("SET LOCAL enable_seqscan = off"))
        statement = "EXPLAIN SELECT id FROM file_versions WHERE search_words @@ to_tsquery('simple', 'shop')"
        assert "ix_file_versions_search_words" in str(connection.execute(text(statement)).all())

"""Where the catalog is, how it is reached, and what its errors say."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import text

from backupiq.catalog.database import (
    CONNECTIONS,
    URL_VARIABLE,
    catalog_errors,
    catalog_name,
    catalog_url,
    create_file,
    free_name,
    make_engine,
    path_below,
    path_is,
    reading,
    set_aside,
    sqlite_url,
    writing,
)
from backupiq.errors import CatalogError, ConfigurationError
from backupiq.telemetry import redact_text


def test_the_state_folder_holds_it_unless_something_else_is_named(tmp_path: Path) -> None:
    env = {"XDG_STATE_HOME": str(tmp_path)}
    assert catalog_url(env=env) == sqlite_url(tmp_path / "backupiq/catalog.sqlite3")
    assert catalog_url(env={**env, URL_VARIABLE: "sqlite:////other/place.db"}) == sqlite_url(Path("/other/place.db"))
    assert catalog_url("sqlite:////given.db", {URL_VARIABLE: "nonsense"}) == sqlite_url(Path("/given.db"))


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_postgresql_is_reached_through_psycopg(scheme: str) -> None:
    url = catalog_url(f"{scheme}://anna:s3cret-of-anna@db.example/files")
    assert url.drivername == "postgresql+psycopg"
    assert catalog_name(url) == "files at db.example"
    assert "s3cret-of-anna" not in f"{url} {url!r} {make_engine(url)!r} {catalog_name(url)}"
    assert "s3cret-of-anna" not in redact_text("it said s3cret-of-anna")


def test_a_password_in_the_query_is_a_secret_too() -> None:
    catalog_url("postgresql://db.example/files?password=hidden-in-query")
    assert "hidden-in-query" not in redact_text("it said hidden-in-query")


@pytest.mark.parametrize(
    "bad", ["nonsense", "mysql://h/db", "sqlite://", "sqlite:///relative.db", "postgresql+asyncpg://h/d", "://", "a:b"]
)
def test_other_addresses_are_refused_without_repeating_them(bad: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        catalog_url(bad)
    assert raised.value.__cause__ is None
    assert raised.value.message == (
        f"{URL_VARIABLE} is no address of a catalog; write sqlite:////absolute/path or "
        "postgresql://user:password@host/database, or unset it."
    )


def test_connections_keep_foreign_keys_and_the_log_of_changes(tmp_path: Path) -> None:
    create_file(tmp_path / "c")
    engine = make_engine(sqlite_url(tmp_path / "c"))
    with reading(engine) as connection:
        pragmas = {
            name: connection.execute(text(f"PRAGMA {name}")).scalar() for name in ("foreign_keys", "journal_mode")
        }
        waits = connection.execute(text("PRAGMA busy_timeout")).scalar_one()
    assert pragmas == {"foreign_keys": 1, "journal_mode": "wal"}
    assert waits >= 1_000
    assert engine.pool.size() == CONNECTIONS  # type: ignore[attr-defined]
    engine.dispose()


def test_a_writer_holds_the_lock_from_its_beginning_and_a_reader_never(tmp_path: Path) -> None:
    create_file(tmp_path / "c")
    engine = make_engine(sqlite_url(tmp_path / "c"))
    other = sqlite3.connect(tmp_path / "c", timeout=0, isolation_level=None)
    with reading(engine) as connection:
        connection.execute(text("SELECT * FROM sqlite_master"))
        other.execute("BEGIN IMMEDIATE")
        other.execute("ROLLBACK")
    with writing(engine), pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("BEGIN IMMEDIATE")
    other.execute("BEGIN IMMEDIATE")
    other.close()
    engine.dispose()


def test_what_fails_in_a_writer_is_undone(tmp_path: Path) -> None:
    create_file(tmp_path / "c")
    engine = make_engine(sqlite_url(tmp_path / "c"))
    with pytest.raises(ZeroDivisionError), writing(engine) as connection:
        connection.execute(text("CREATE TABLE t (a)"))
        raise ZeroDivisionError
    with reading(engine) as connection:
        assert connection.execute(text("SELECT count(*) FROM sqlite_master")).scalar() == 0
    engine.dispose()


def test_errors_of_sql_say_what_to_do_and_show_nothing_of_it(tmp_path: Path) -> None:
    create_file(tmp_path / "c")
    engine = make_engine(sqlite_url(tmp_path / "c"))
    with pytest.raises(CatalogError, match="backupiq catalog rebuild") as raised, reading(engine) as connection:
        connection.execute(text("SELECT * FROM missing WHERE a = :a"), {"a": "private"})
    assert "missing" not in raised.value.message
    assert "private" not in str(raised.value.to_dict())
    engine.dispose()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (sqlite3.SQLITE_CORRUPT, "damaged"),
        (sqlite3.SQLITE_CORRUPT_VTAB, "damaged"),
        (sqlite3.SQLITE_NOTADB, "damaged"),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, "busy"),
        (sqlite3.SQLITE_FULL, "full"),
        (sqlite3.SQLITE_READONLY_DIRECTORY, "read-only"),
        (sqlite3.SQLITE_IOERR_READ, "failed"),
    ],
)
def test_each_kind_of_trouble_has_its_own_advice(code: int, reason: str) -> None:
    error = sqlite3.OperationalError("whatever it says")
    error.sqlite_errorcode = code
    with pytest.raises(CatalogError) as raised, catalog_errors(sqlite_url(Path("/c"))):
        raise error
    assert raised.value.details["reason"] == reason
    assert "whatever" not in raised.value.message


def test_a_catalog_is_set_aside_with_all_that_belongs_to_it(tmp_path: Path) -> None:
    for name in ("c", "c-wal", "c-shm", "c.broken-1"):
        (tmp_path / name).write_text(name)
    assert set_aside(tmp_path / "c") == tmp_path / "c.broken-2"
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "c.broken-1": "c.broken-1",
        "c.broken-2": "c",
        "c.broken-2-wal": "c-wal",
        "c.broken-2-shm": "c-shm",
    }
    assert free_name(tmp_path / "c") == tmp_path / "c.broken-3"


def test_making_the_file_twice_changes_nothing(tmp_path: Path) -> None:
    create_file(tmp_path / "deep/er/c")
    before = (tmp_path / "deep/er/c").read_bytes()
    create_file(tmp_path / "deep/er/c")
    assert (tmp_path / "deep/er/c").read_bytes() == before
    assert os.listdir(tmp_path / "deep/er") == ["c"]


def test_conditions_on_paths_use_bound_values(tmp_path: Path) -> None:
    engine = make_engine(sqlite_url(tmp_path / "c"))
    for clause in (path_is(engine, b"/a'; DROP TABLE x"), path_below(engine, b"/a'; DROP TABLE x")):
        assert "DROP" not in str(clause.compile(engine))

"""The one way to the catalog's database: SQLite in the user's state folder, or PostgreSQL by URL.

Every connection comes from `make_engine`, every transaction from `reading` or `writing`, so that foreign keys are on,
waits are bounded and nothing that a driver says reaches a person or the log unfiltered: its messages may hold the URL.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import sqlite3
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    ColumnElement,
    Connection,
    Engine,
    QueuePool,
    and_,
    create_engine,
    event,
    func,
    make_url,
    or_,
)
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.orm import InstrumentedAttribute

from backupiq.catalog.models import INDEXED_PATH, FileVersion
from backupiq.catalog.text import path_text
from backupiq.errors import CatalogError, ConfigurationError, MissingConfigurationError
from backupiq.state import state_dir, write_private
from backupiq.telemetry import register_secret

URL_VARIABLE = "BACKUPIQ_CATALOG_URL"
FILE_NAME = "catalog.sqlite3"

BUSY_SECONDS = 60.0
"""How long a writer waits for another one: the first load of a million files holds the lock for some 15 seconds."""
CONNECTIONS = 4
POOL_SECONDS = 30.0
CONNECT_SECONDS = 10
RECYCLE_SECONDS = 1800
SQLITE_CACHE_KIB = 32 * 1024
WAL_KEPT_BYTES = 64 << 20

_WRITES = "backupiq_writes"


# --- where it is ---------------------------------------------------------------------------------------------------


def catalog_url(given: str | None = None, env: Mapping[str, str] = os.environ) -> URL:
    """Where the catalog is: as given, else BACKUPIQ_CATALOG_URL, else a file in the state folder.

    ``sqlite:////absolute/path`` or ``postgresql://user:password@host/database``; ConfigurationError for others.
    """
    text = given or env.get(URL_VARIABLE, "")
    if not text:
        return sqlite_url(state_dir(env) / FILE_NAME)
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise ConfigurationError(_BAD_URL) from None
    for secret in (url.password, url.query.get("password")):
        if isinstance(secret, str):
            register_secret(secret)
    backend, _, driver = url.drivername.partition("+")
    if backend == "sqlite" and driver in ("", "pysqlite") and url.database and os.path.isabs(url.database):
        return sqlite_url(Path(url.database))
    if backend in ("postgresql", "postgres") and driver in ("", "psycopg"):
        return url.set(drivername="postgresql+psycopg")
    raise ConfigurationError(_BAD_URL)


_BAD_URL = (
    f"{URL_VARIABLE} is no address of a catalog; write sqlite:////absolute/path or "
    "postgresql://user:password@host/database, or unset it."
)


def sqlite_url(path: Path) -> URL:
    """The URL of a catalog in a file."""
    return URL.create("sqlite+pysqlite", database=os.fspath(path))


def catalog_name(url: URL) -> str:
    """The catalog in a person's words, without user and password."""
    if url.get_backend_name() == "sqlite":
        return str(url.database)
    return f"{url.database or 'the default database'} at {url.host or 'this machine'}"


# --- connections ---------------------------------------------------------------------------------------------------


def make_engine(url: URL, *, immutable: bool = False) -> Engine:
    """The engine of a catalog; nothing is connected yet. ``immutable`` reads a file whose disk takes no writes.

    MissingConfigurationError when PostgreSQL's driver is not installed.
    """
    if url.get_backend_name() == "sqlite":
        return _sqlite_engine(url, immutable=immutable)
    try:
        return create_engine(
            url,
            pool_size=CONNECTIONS,
            max_overflow=0,
            pool_timeout=POOL_SECONDS,
            pool_recycle=RECYCLE_SECONDS,
            pool_pre_ping=True,
            hide_parameters=True,
            connect_args={"connect_timeout": CONNECT_SECONDS},
        )
    except ModuleNotFoundError:
        raise MissingConfigurationError(
            'A catalog in PostgreSQL needs its driver: pip install "backupiq[postgres]", '
            f"or unset {URL_VARIABLE} to use a file."
        ) from None


def _sqlite_engine(url: URL, *, immutable: bool) -> Engine:
    path = Path(str(url.database))
    address = f"{path.absolute().as_uri()}?{'immutable=1' if immutable else 'mode=rw'}"

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(address, uri=True, timeout=BUSY_SECONDS, check_same_thread=False)
        connection.isolation_level = None  # transactions begin where this module says, DDL included
        try:
            _set_up(connection, immutable=immutable)
        except BaseException:
            connection.close()
            raise
        return connection

    engine = create_engine(
        url,
        creator=connect,
        poolclass=QueuePool,
        pool_size=CONNECTIONS,
        max_overflow=0,
        pool_timeout=POOL_SECONDS,
        hide_parameters=True,
    )

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get(_WRITES, False)
        # A transaction that reads first and writes later could not wait for another writer, only fail.
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _set_up(connection: sqlite3.Connection, *, immutable: bool) -> None:
    connection.execute("PRAGMA foreign_keys=ON")
    connection.execute(f"PRAGMA cache_size=-{SQLITE_CACHE_KIB}")
    if immutable:
        return
    if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute(f"PRAGMA journal_size_limit={WAL_KEPT_BYTES}")


def create_file(path: Path) -> None:
    """Make the empty file of a new catalog, for this user only; nothing happens when it is there. OSError.

    It is in WAL mode from its first moment: two programs that switch it at once would be in each other's way.
    """
    if path.exists():
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in side_files(path):  # the log of a catalog that was deleted would be taken for this one's
        with contextlib.suppress(FileNotFoundError):
            os.replace(name, free_name(name))
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
        draft = os.path.join(folder, "catalog")
        with contextlib.closing(sqlite3.connect(draft)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("CREATE TABLE made (at)")
            connection.execute("DROP TABLE made")
        write_private(path, Path(draft).read_bytes(), create_only=True)


def side_files(path: Path) -> tuple[Path, ...]:
    """The files that SQLite keeps beside the catalog's."""
    return tuple(path.with_name(path.name + ending) for ending in ("-wal", "-shm"))


def set_aside(path: Path) -> Path:
    """Move a catalog's file, and those beside it, out of the way, and keep them; where it went. OSError."""
    away = free_name(path)
    for beside in side_files(path):
        with contextlib.suppress(FileNotFoundError):
            os.replace(beside, away.with_name(away.name + beside.name.removeprefix(path.name)))
    os.replace(path, away)
    return away


def free_name(path: Path) -> Path:
    """A name beside the path that nothing has yet: with ``.broken-1`` behind it, or the next number."""
    names = (path.with_name(f"{path.name}.broken-{number}") for number in itertools.count(1))
    return next(name for name in names if not name.exists())


@contextlib.contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A transaction that reads: all of it sees one state of the catalog. CatalogError."""
    with catalog_errors(engine.url), engine.connect() as connection, connection.begin():
        yield connection


@contextlib.contextmanager
def writing(engine: Engine, connection: Connection | None = None) -> Iterator[Connection]:
    """A transaction that writes, on a connection of its own or on the one given (which must not be in one).

    On SQLite it has the write lock from its beginning: keep it short. CatalogError.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(catalog_errors(engine.url))
        if connection is None:
            connection = stack.enter_context(engine.connect())
        connection = connection.execution_options(**{_WRITES: True})
        try:
            with connection.begin():
                yield connection
        finally:
            connection.execution_options(**{_WRITES: False})


# --- errors --------------------------------------------------------------------------------------------------------

_REBUILD = "Build it anew with `backupiq catalog rebuild`; backups and restores do not need it."
_REASONS = {
    "damaged": f"is damaged. {_REBUILD}",
    "busy": "is being written by another program. Run the command again in a moment.",
    "full": "cannot grow: its disk, or the one for temporary files, is full. Free space and run the command again; "
    "backups do not need it.",
    "read-only": "cannot be written: its disk or its rights do not allow it. Correct that, or name another one in "
    f"{URL_VARIABLE}.",
    "unreachable": f"cannot be reached. Check the server and {URL_VARIABLE}, then run the command again.",
    "failed": f"cannot be used. Run the command again; if that does not help: {_REBUILD[0].lower()}{_REBUILD[1:]}",
}
_SQLITE_REASONS = {
    sqlite3.SQLITE_CORRUPT: "damaged",
    sqlite3.SQLITE_NOTADB: "damaged",
    sqlite3.SQLITE_BUSY: "busy",
    sqlite3.SQLITE_LOCKED: "busy",
    sqlite3.SQLITE_FULL: "full",
    sqlite3.SQLITE_READONLY: "read-only",
    sqlite3.SQLITE_CANTOPEN: "read-only",
    sqlite3.SQLITE_PERM: "read-only",
    sqlite3.SQLITE_IOERR: "failed",
}


def catalog_error(url: URL, reason: str, **details: Any) -> CatalogError:
    """The error of a catalog; ``reason`` is a key of the table above and stands in the details."""
    return CatalogError(f"The catalog {catalog_name(url)} {_REASONS[reason]}", reason=reason, **details)


@contextlib.contextmanager
def catalog_errors(url: URL) -> Iterator[None]:
    """Turn what SQLAlchemy and the drivers raise into CatalogError. Their texts are left out: they may name the URL."""
    try:
        yield
    except SQLAlchemyError as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        raise _from_driver(url, cause) from None
    except _driver_errors() as error:
        raise _from_driver(url, error) from None


@contextlib.contextmanager
def file_errors(url: URL) -> Iterator[None]:
    """Turn what the system says of the catalog's file into CatalogError."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
        code = errno.errorcode.get(error.errno or 0, "")
        raise catalog_error(url, "full" if full else "read-only", state=code) from None


def _driver_errors() -> tuple[type[Exception], ...]:
    """What the drivers raise themselves, where SQLAlchemy stands not in between."""
    psycopg = sys.modules.get("psycopg")
    return (sqlite3.Error,) if psycopg is None else (sqlite3.Error, psycopg.Error)


def _from_driver(url: URL, error: BaseException | None) -> CatalogError:
    return catalog_error(url, _reason(error), kind=type(error).__name__, **_code(error))


def _reason(error: BaseException | None) -> str:
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", None)
        return "failed" if code is None else _SQLITE_REASONS.get(code & 0xFF, "failed")
    state = getattr(error, "sqlstate", None) or ""
    if state.startswith("53"):  # insufficient resources: 53100 is a full disk
        return "full" if state == "53100" else "busy"
    if state.startswith(("55", "40")):
        return "busy"
    if state.startswith("XX"):
        return "damaged"
    if state in ("25006", "42501"):
        return "read-only"
    return "unreachable" if type(error).__name__ == "OperationalError" else "failed"


def _code(error: BaseException | None) -> dict[str, str]:
    code = getattr(error, "sqlite_errorname", None) or getattr(error, "sqlstate", None)
    return {"state": str(code)} if code else {}


# --- clauses over paths --------------------------------------------------------------------------------------------


def path_is(engine: Engine | Connection, path: bytes) -> ColumnElement[bool]:
    """The versions of exactly this raw path; with ``lineage_id`` beside it an index serves it."""
    text, raw = path_text(path)
    exact = and_(
        FileVersion.path == text, FileVersion.raw_path.is_(None) if raw is None else FileVersion.raw_path == raw
    )
    if engine.dialect.name == "postgresql":
        return and_(func.left(FileVersion.path, INDEXED_PATH) == text[:INDEXED_PATH], exact)
    return exact


def path_below(engine: Engine | Connection, folder: bytes) -> ColumnElement[bool]:
    """The versions below a raw folder, not of itself; with ``lineage_id`` beside it an index serves it."""
    prefix = folder.rstrip(b"/") + b"/"
    text, raw = path_text(prefix)
    inside = _raw_below(FileVersion.raw_path, prefix)
    bounds = and_(FileVersion.path >= text, FileVersion.path < text[:-1] + "0")  # "0" comes after "/"
    exact = and_(bounds, inside if raw is not None else or_(FileVersion.raw_path.is_(None), inside))
    if engine.dialect.name == "postgresql":
        begins = func.left(FileVersion.path, INDEXED_PATH)
        head = text[:INDEXED_PATH]
        return and_(begins >= head, begins < text[:-1] + "0" if head == text else begins <= head, exact)
    return exact


def _raw_below(column: InstrumentedAttribute[bytes | None], prefix: bytes) -> ColumnElement[bool]:
    return func.substr(column, 1, len(prefix)) == prefix

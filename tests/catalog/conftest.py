"""Catalogs in files and in a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backupiq.catalog.store import Catalog
from tests.catalog.contents import empty_catalog
from tests.support.servers.postgres import PostgreSQL


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgreSQL]:
    """One PostgreSQL for the session."""
    server = PostgreSQL()
    try:
        yield server.start()
    finally:
        server.remove()


@pytest.fixture
def postgres_url(postgres: PostgreSQL) -> str:
    """The URL of a new, empty database."""
    return postgres.new_database()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a catalog that is not there yet, on each kind of database in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'state' / 'catalog.sqlite3'}"
    found: str = request.getfixturevalue("postgres_url")
    return found


@pytest.fixture
def either(url: str) -> Iterator[Catalog]:
    """An empty catalog on each kind of database in turn."""
    with Catalog.open(url) as opened:
        yield opened


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    """An empty catalog in a file."""
    with empty_catalog(tmp_path) as opened:
        yield opened

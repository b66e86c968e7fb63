"""Looking after the catalog: is it sound, its index for searching tidied, unused space given back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, text

from backupiq.catalog.database import catalog_error, catalog_errors

COMPACT_FROM = 0.25
"""The share of a file that has to be unused before it is written anew, which takes its size in free space."""


@dataclass(frozen=True, slots=True)
class Maintained:
    """What was done. Sizes are bytes of the file; both None for a server, which looks after itself."""

    bytes_before: int | None = None
    bytes_after: int | None = None
    compacted: bool = False

    def to_dict(self) -> dict[str, int | bool | None]:
        """As plain JSON values."""
        return asdict(self)


def maintain(engine: Engine) -> Maintained:
    """Check the catalog, tidy it, and give space back where much is unused.

    CatalogError, whose ``reason`` is "damaged" when the file is; nothing was changed then.
    """
    if engine.dialect.name != "sqlite":
        with catalog_errors(engine.url), engine.connect() as connection:
            connection.execute(text("SELECT 1"))
        return Maintained()
    path = Path(str(engine.url.database))
    before = path.stat().st_size
    with _connection(engine) as connection:
        if connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise catalog_error(engine.url, "damaged")
        connection.execute("INSERT INTO file_search(file_search) VALUES ('optimize')")
        connection.execute("PRAGMA optimize")
        pages, unused = (
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count")
        )
        compacted = pages > 0 and unused / pages >= COMPACT_FROM
        if compacted:
            connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return Maintained(before, path.stat().st_size, compacted)


@contextlib.contextmanager
def _connection(engine: Engine) -> Iterator[Any]:
    """SQLite's own connection: none of this may happen inside a transaction."""
    with catalog_errors(engine.url), contextlib.closing(engine.raw_connection()) as connection:
        yield connection.driver_connection

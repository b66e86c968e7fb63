"""The revision of a catalog's tables: which it has, and bringing it to another one with Alembic."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, inspect, text

from backupiq.catalog.database import catalog_name, reading, writing
from backupiq.errors import CatalogError, ValidationError

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "0002"
"""The revision this code works with: the newest below migrations/versions/."""
BASE = "base"
_LOCK = 0x6261636B75706971  # any number, the same in every process


def revision_of(connection: Connection) -> str | None:
    """The revision of the catalog's tables; None when it has none yet."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return None if found is None else str(found)


def bring_to_head(engine: Engine) -> None:
    """Make or upgrade the tables when they are not as this code needs them. CatalogError when they are newer."""
    with reading(engine) as connection:
        found = revision_of(connection)
    if found != HEAD:
        upgrade(engine)


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Bring the tables to a revision at or after theirs, in one transaction."""
    _move(engine, "upgrade", revision)


def downgrade(engine: Engine, revision: str) -> None:
    """Bring the tables back to a revision before theirs, in one transaction; "base" removes them."""
    _move(engine, "downgrade", revision)


def revisions() -> list[str]:
    """Every revision, oldest first."""
    from alembic.script import ScriptDirectory

    return [script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()][::-1]


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "backupiq.catalog:migrations")
    config.set_main_option("path_separator", "os")
    return config


def _move(engine: Engine, direction: str, revision: str) -> None:
    from alembic import command

    known = revisions()
    if revision not in (*known, "head", BASE):
        raise ValidationError(
            f"There is no revision {revision[:40]!r} of the catalog; there are {', '.join([BASE, *known])}."
        )
    config = _config()
    with writing(engine) as connection:
        if engine.dialect.name == "postgresql":  # SQLite's writers take turns already
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        found = revision_of(connection)
        if found is not None and found not in known:
            raise newer_catalog(engine, found)
        config.attributes["connection"] = connection
        (command.upgrade if direction == "upgrade" else command.downgrade)(config, revision)


def newer_catalog(engine: Engine, found: str) -> CatalogError:
    """The error of a catalog whose tables are of a revision that this code does not know."""
    return CatalogError(
        f"The catalog {catalog_name(engine.url)} was made by a newer BackupIQ. Update BackupIQ, or build the catalog "
        "anew with `backupiq catalog rebuild`; backups and restores do not need it.",
        reason="newer",
        revision=found[:40],
    )

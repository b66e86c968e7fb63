"""The tables go up and down all revisions with data in them, and are what the models say."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, inspect, text

from backupiq.catalog import schema
from backupiq.catalog.adding import SnapshotRows
from backupiq.catalog.database import catalog_url, create_file, make_engine, reading, writing
from backupiq.catalog.health import Destination, Observation
from backupiq.catalog.models import Base, made_on
from backupiq.catalog.store import Catalog, Run
from backupiq.errors import CatalogError, ValidationError
from backupiq.semantics.model import Finding, Framework, Project, Severity
from tests.catalog.contents import REPOSITORY, everything, is_sound, row, snapshot, words_find


def fill(catalog: Catalog) -> None:
    """A row in every table."""
    found = (Finding(1, "aws", Severity.HIGH, "0" * 16),)
    rows = [row(b"/h/shop_v2.py", project=b"/h"), row(b"/h/\xff", findings=found), row(b"/h/" + b"x" * 4_000)]
    project = Project(b"/h", "shop", ("pyproject.toml",), (Framework("Django", "5.1"),))
    catalog.add_snapshot(REPOSITORY, snapshot(1), SnapshotRows(rows, [project]))
    catalog.record_run(Run("run-1", REPOSITORY, 1, 2, 0, {"files": 3}, snapshot(1).hex_id))
    catalog.record_health(REPOSITORY, Destination("here", "local", "local:/x"), Observation(5, "ok", 12))
    catalog.record_places(REPOSITORY, [(Destination("here"), [snapshot(1).hex_id])], 5)


def counts(engine: Engine) -> dict[str, int]:
    with reading(engine) as connection:
        tables = [table for table in Base.metadata.tables if inspect(connection).has_table(table)]
        return {
            table: connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one()  # noqa: S608
            for table in tables
        }


def test_the_code_works_with_the_newest_revision() -> None:
    assert schema.revisions()[-1] == schema.HEAD
    assert schema.revisions() == sorted(schema.revisions())


def test_the_models_are_what_the_migrations_make(either: Catalog) -> None:
    kind = either.engine.dialect.name

    def belongs(thing: Any, name: str | None, what: str, reflected: bool, other: Any) -> bool:
        if what == "index" and not reflected:
            return made_on(thing, kind)
        return not (what == "table" and str(name).startswith("file_search"))

    with reading(either.engine) as connection, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        context = MigrationContext.configure(connection, opts={"include_object": belongs, "compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


@pytest.mark.parametrize("revision", ["base", *schema.revisions()[:-1]])
def test_every_revision_can_be_left_and_reached_with_data_in_it(either: Catalog, revision: str) -> None:
    fill(either)
    before, held = counts(either.engine), everything(either)
    assert all(before.values())
    schema.downgrade(either.engine, revision)
    if revision == "base":
        assert counts(either.engine) == {}
        schema.upgrade(either.engine)
        fill(either)
    else:
        assert counts(either.engine) == before
        schema.upgrade(either.engine)
    assert counts(either.engine) == before
    assert everything(either) == held
    assert words_find(either, "v2") == {"/h/shop_v2.py"}
    assert is_sound(either)


def test_step_by_step_up_and_down(url: str) -> None:
    engine = make_engine(catalog_url(url))
    if engine.url.database and url.startswith("sqlite"):
        create_file(Path(engine.url.database))
    for revision in schema.revisions():
        schema.upgrade(engine, revision)
        with reading(engine) as connection:
            assert schema.revision_of(connection) == revision
    for revision in [*schema.revisions()[-2::-1], "base"]:
        schema.downgrade(engine, revision)
    with reading(engine) as connection:
        assert schema.revision_of(connection) is None
    engine.dispose()


def test_a_catalog_of_an_older_revision_is_upgraded_when_it_is_opened(url: str) -> None:
    with Catalog.open(url) as catalog:
        fill(catalog)
        held = everything(catalog)
        schema.downgrade(catalog.engine, "0001")
    with Catalog.open(url) as catalog:
        assert everything(catalog) == held
        assert words_find(catalog, "shop") == {"/h/shop_v2.py"}


def test_a_catalog_of_a_newer_revision_is_left_as_it_is(url: str) -> None:
    with Catalog.open(url) as catalog:
        fill(catalog)
        with writing(catalog.engine) as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(CatalogError, match=r"newer BackupIQ.*backupiq catalog rebuild") as raised:
        Catalog.open(url, repair=True)
    assert raised.value.details["reason"] == "newer"
    engine = make_engine(catalog_url(url))
    assert all(counts(engine).values())
    engine.dispose()


def test_a_migration_that_fails_leaves_nothing_half_done(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(catalog)
    before = counts(catalog.engine)
    with monkeypatch.context() as patch:

        def fail(*_: Any, **__: Any) -> None:
            raise RuntimeError("out of luck")

        patch.setattr("alembic.op.drop_column", fail)
        with pytest.raises(RuntimeError):
            schema.downgrade(catalog.engine, "0001")
    with reading(catalog.engine) as connection:
        assert schema.revision_of(connection) == schema.HEAD
    assert counts(catalog.engine) == before
    assert words_find(catalog, "shop") == {"/h/shop_v2.py"}


def test_a_revision_that_does_not_exist_is_named_with_those_that_do(catalog: Catalog) -> None:
    with pytest.raises(ValidationError, match=r"no revision '7777'.*base, 0001, 0002"):
        schema.downgrade(catalog.engine, "7777")

"""docs/search.md says what find understands, and its examples do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from backupiq.catalog.query import FIELDS, Condition, parse_query
from backupiq.catalog.search import SELECTIVE, search
from backupiq.catalog.store import Catalog
from backupiq.cli.find import DEFAULT_LIMIT
from tests.docs.pages import blocks
from tests.support import search_world as world
from tests.support.programs import ROOT

PAGE = "docs/search.md"
TEXT = (ROOT / PAGE).read_text()


def field_rows() -> dict[str, list[str]]:
    """The cells of the table of fields: what is asked, what is taken, the example."""
    rows = re.findall(r"^\| `([a-z-]+):` \| (.*?) \| (.*?) \| `(.*?)` \|$", TEXT, re.MULTILINE)
    return {name: cells for name, *cells in rows}


def test_the_page_lists_every_field_as_the_code_has_it() -> None:
    assert field_rows() == {name: [field.about, field.takes, field.example] for name, field in FIELDS.items()}


def examples() -> list[str]:
    block = next(block for block in blocks(PAGE) if block.language == "text")
    return [*block.body.splitlines(), *(cells[-1] for cells in field_rows().values())]


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    opened = Catalog.open(f"sqlite:///{tmp_path_factory.mktemp('catalog') / 'catalog.sqlite3'}")
    world.fill(opened.engine)
    return opened


@pytest.mark.parametrize("text", examples())
def test_each_example_of_the_page_is_answered(catalog: Catalog, text: str) -> None:
    found = search(catalog.engine, parse_query(text, now_ns=world.NOW))
    assert found.notes == ()


@pytest.mark.parametrize("name", FIELDS)
def test_the_example_of_each_field_finds_something_and_not_everything(catalog: Catalog, name: str) -> None:
    query = parse_query(FIELDS[name].example, now_ns=world.NOW)
    assert all(isinstance(condition, Condition) and condition.field == name for condition in query.conditions)
    found = len(search(catalog.engine, query).hits)
    everything = len(search(catalog.engine, parse_query("path:/", now_ns=world.NOW)).hits)
    assert 0 < found < everything


def test_the_numbers_of_the_page_are_those_of_the_code() -> None:
    assert f"at most {SELECTIVE:,} versions" in TEXT
    assert f"`--limit N` ({DEFAULT_LIMIT})" in TEXT
    assert Path(ROOT / "benchmarks" / "catalog_search.py").exists()

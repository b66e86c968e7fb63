"""Whatever happened to files and snapshots: a catalog that lived through it says what a new one would say."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from backupiq.catalog.adding import Added, SnapshotRows
from backupiq.catalog.rows import FileRow
from backupiq.catalog.store import Catalog
from backupiq.semantics.model import FileFacts, Finding, Framework, Project, Severity
from tests.catalog.contents import PDF, REPOSITORY, empty_catalog, everything, is_sound, row, snapshot

Tree = Mapping[bytes, FileRow]
NAMES = [b"/h/a", b"/h/b.py", b"/h/p/c", b"/h/p/\xff\xfe", b"/h/p/q/d\n", b"/h/p\\udcff/c", b"/h/p0", b"/h/q"]
FOUND = (Finding(3, "aws", Severity.HIGH, "0" * 16), Finding(1, "jwt", Severity.LOW, "1" * 16))


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    names = draw(st.sets(st.sampled_from(NAMES)))
    return {
        name: row(
            name,
            draw(st.sampled_from([b"x" * 16, b"y" * 16])),
            size=draw(st.integers(0, 1)),
            type=PDF,
            git=draw(st.sampled_from(["none", "modified"])),
            findings=draw(st.sampled_from([(), FOUND])),
            project=draw(st.sampled_from([None, b"/h/p"])),
        )
        for name in names
    }


def projects_of(tree: Tree) -> list[Project]:
    """A project stands where a file says it belongs to one; its framework depends on what else is there."""
    if not any(each.facts.project for each in tree.values()):
        return []
    return [Project(b"/h/p", "shop", ("pyproject.toml",), (Framework("Django", "5" if b"/h/a" in tree else ""),))]


@contextmanager
def new_catalog() -> Iterator[Catalog]:
    with tempfile.TemporaryDirectory() as folder, empty_catalog(Path(folder)) as catalog:
        yield catalog


def add_complete(catalog: Catalog, number: int, tree: Tree) -> None:
    given = SnapshotRows(tree.values(), projects_of(tree))
    assert catalog.add_snapshot(REPOSITORY, snapshot(number), given) is Added.ADDED


def add_relative(catalog: Catalog, number: int, tree: Tree, before: tuple[int, Tree] | None) -> None:
    if before is None:
        return add_complete(catalog, number, tree)
    last, old = before
    given = SnapshotRows(
        [each for path, each in tree.items() if old.get(path) != each],
        projects_of(tree),
        base=snapshot(last).hex_id,
        gone=[path for path in old if path not in tree],
    )
    assert catalog.add_snapshot(REPOSITORY, snapshot(number), given) is Added.ADDED
    return None


def fill(catalog: Catalog, history: Iterable[tuple[int, Tree]]) -> None:
    before = None
    for number, tree in history:
        add_relative(catalog, number, tree, before)
        before = (number, tree)


def held(catalog: Catalog) -> dict[str, dict[bytes, FileRow]]:
    """What each snapshot holds, as the catalog says, but for what analysis said."""
    found: dict[str, dict[bytes, FileRow]] = {}
    for _, path, raw, _, kind, size, mtime_ns, content, snapshots, *_ in everything(catalog)["versions"]:
        raw = raw or path.encode()
        for hex_id in snapshots:
            assert raw not in found.setdefault(hex_id, {}), "two versions of a path in one snapshot"
            found[hex_id][raw] = FileRow(raw, kind, size, mtime_ns, content, FileFacts())
    return found


def plain(tree: Tree) -> dict[bytes, FileRow]:
    return {path: each._replace(facts=FileFacts()) for path, each in tree.items()}


@settings(max_examples=25)
@given(st.lists(trees(), min_size=1, max_size=5))
def test_every_snapshot_holds_in_the_catalog_what_it_holds(history: Sequence[Tree]) -> None:
    numbered = list(enumerate(history, 1))
    with new_catalog() as complete, new_catalog() as relative:
        for number, tree in numbered:
            add_complete(complete, number, tree)
        fill(relative, numbered)
        expected = {snapshot(number).hex_id: plain(tree) for number, tree in numbered if tree}
        assert held(complete) == held(relative) == expected
        assert everything(complete) == everything(relative)
        assert is_sound(complete)
        assert is_sound(relative)


@settings(max_examples=25)
@given(st.lists(trees(), min_size=2, max_size=5), st.data())
def test_after_forgetting_it_says_what_a_new_catalog_says(history: Sequence[Tree], data: st.DataObject) -> None:
    numbered = list(enumerate(history, 1))
    newest = len(numbered)
    gone = data.draw(st.sets(st.integers(1, newest - 1)))
    with new_catalog() as grown, new_catalog() as fresh:
        fill(grown, numbered)
        grown.forget(REPOSITORY, [snapshot(number).hex_id for number in gone])
        fill(fresh, [(number, tree) for number, tree in numbered if number not in gone])
        assert held(grown) == held(fresh)
        assert [each[:7] for each in everything(grown)["versions"]] == [
            each[:7] for each in everything(fresh)["versions"]
        ]
        assert everything(grown)["snapshots"] == everything(fresh)["snapshots"]
        assert is_sound(grown)

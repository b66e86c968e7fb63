"""What became of a path over the snapshots."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine

from backupiq.catalog.adding import SnapshotRows, add_snapshot
from backupiq.catalog.history import MAX_EXAMPLES, FolderChange, LineageHistory, RowBelow, folder_changes, history
from backupiq.catalog.search_hits import Seen, Timeline
from backupiq.catalog.store import Catalog
from backupiq.discovery.entry import EntryKind
from backupiq.errors import PathNotInSnapshotError
from tests.support import search_world as world

FACTS = world.FileFacts(world.TEXT)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with Catalog.open(f"sqlite:///{tmp_path / 'catalog.sqlite3'}") as catalog:
        yield catalog.engine


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Catalog.open(f"sqlite:///{tmp_path_factory.mktemp('catalog') / 'catalog.sqlite3'}") as catalog:
        world.fill(catalog.engine)
        yield catalog.engine


def only(engine: Engine, path: str | bytes) -> LineageHistory:
    found = history(engine, path.encode() if isinstance(path, str) else path)
    assert len(found) == 1
    return found[0]


def snapshot_id(number: int) -> str:
    return f"{number:064x}"


def fill(engine: Engine, states: Sequence[dict[str, tuple[str, int]]], host: str = "h") -> None:
    """One snapshot for each state: path to (time of change, content)."""
    for number, state in enumerate(states, 1):
        rows = [world.file(path, 100, changed, FACTS, content) for path, (changed, content) in state.items()]
        info = world.info(snapshot_id(number), f"2026-01-{number:02}", host, "/")
        add_snapshot(engine, world.REPOSITORY, info, SnapshotRows(rows))


def events(one: LineageHistory) -> list[tuple[str, int, int]]:
    """(event, number of the first snapshot, number of the one in which it vanished or 0)."""
    return [
        (
            version.event,
            int(version.hit.first.id, 16) if version.hit.first else 0,
            int(version.vanished.id, 16) if version.vanished else 0,
        )
        for version in one.versions
    ]


def test_a_file_appears_changes_is_touched_vanishes_and_returns(engine: Engine) -> None:
    one, touched, two = ("2025-01-01", 1), ("2025-02-02", 1), ("2025-03-03", 2)
    states = [{}, {"/a": one}, {"/a": one}, {"/a": touched}, {"/a": two}, {}, {}, {"/a": two}, {}]
    fill(engine, [{"/other": one, **state} for state in states])
    found = only(engine, "/a")
    assert events(found) == [("appeared", 2, 0), ("touched", 4, 0), ("changed", 5, 6), ("returned", 8, 9)]
    assert found.snapshots == 9
    digests = [version.hit.content for version in found.versions]
    assert digests[0] == digests[1]
    assert digests[2] == digests[3] != digests[0]


def test_a_file_that_is_still_there_has_not_vanished(filled: Engine) -> None:
    found = only(filled, world.VIEWS)
    assert [version.event for version in found.versions] == ["appeared", "changed"]
    assert [version.hit.size for version in found.versions] == [1_000, 1_500]
    assert [version.vanished for version in found.versions] == [None, None]
    assert (found.host, found.paths, found.checkpoint) == ("laptop", ("/home/ada",), False)
    assert found.below == ()


def test_a_path_that_is_not_utf8_has_its_history(filled: Engine) -> None:
    assert only(filled, world.WEIRD).versions[0].hit.path == world.WEIRD


def test_a_path_that_two_machines_have_has_a_history_for_each(engine: Engine) -> None:
    fill(engine, [{"/a": ("2025-01-01", 1)}], host="one")
    info = world.info("ee" * 32, "2026-01-05", "two", "/")
    add_snapshot(engine, world.REPOSITORY, info, SnapshotRows([world.file("/a", 1, "2025-01-01", FACTS)]))
    assert [one.host for one in history(engine, b"/a")] == ["one", "two"]


@pytest.mark.parametrize("path", [b"/nowhere", b"/home/ad", b"/home/ada/projects/shop/views.py/x", b"/\xff\x1b"])
def test_a_path_that_no_snapshot_has_is_an_error_that_may_be_shown(filled: Engine, path: bytes) -> None:
    with pytest.raises(PathNotInSnapshotError) as caught:
        history(filled, path)
    assert caught.value.message.isprintable()
    assert "backupiq find" in caught.value.message


def test_a_folder_tells_what_changed_below_it(filled: Engine) -> None:
    found = only(filled, "/home/ada/Documents")
    assert found.versions == ()
    assert [(change.snapshot.id, change.appeared, change.vanished) for change in found.below] == [
        (world.FIRST, 2, 0),
        (world.THIRD, 1, 1),
    ]
    last = found.below[1]
    assert last.examples == [("vanished", world.DRAFT.encode()), ("appeared", world.PLAN.encode())]
    assert last.bytes_written == 8_000
    # A parent of what was backed up has no entry of its own, and the root's name ends with the slash.
    for parent in ("/home", "/"):
        assert [change.appeared for change in history(filled, parent.encode())[-1].below] == [10, 0, 1]


def test_only_a_few_paths_are_named_of_many(engine: Engine) -> None:
    fill(engine, [{f"/d/{number:03}": ("2025-01-01", number) for number in range(100)}])
    (change,) = only(engine, "/d").below
    assert change.appeared == 100
    assert [raw for _, raw in change.examples] == [f"/d/{number:03}".encode() for number in range(MAX_EXAMPLES)]


def test_a_file_that_became_a_folder_shows_both(engine: Engine) -> None:
    fill(engine, [{"/x": ("2025-01-01", 1)}, {"/x/below": ("2025-01-01", 1)}])
    found = only(engine, "/x")
    assert events(found) == [("appeared", 1, 2)]
    assert [(change.appeared, change.vanished) for change in found.below] == [(1, 0)]


_STATES = st.lists(
    st.dictionaries(
        st.sampled_from(["/d/a", "/d/b"]),
        st.tuples(st.sampled_from(["2025-01-01", "2025-02-02"]), st.integers(1, 2)),
    ),
    min_size=1,
    max_size=6,
)


@given(_STATES)
def test_the_history_of_a_folder_is_what_compares_each_snapshot_with_the_one_before(
    states: list[dict[str, tuple[str, int]]],
) -> None:
    seen = [Seen(snapshot_id(number), number, snapshot_id(number)) for number in range(len(states))]
    timeline = Timeline(list(range(len(states))), seen, [frozenset()] * len(states))
    rows = [row for path in ("/d/a", "/d/b") for row in versions_of(path, states)]
    wanted = [counted for pair in zip([{}, *states], states, strict=False) if any(counted := compare(*pair))]
    assert [counts(change) for change in folder_changes(rows, timeline)] == wanted


def versions_of(path: str, states: Sequence[dict[str, tuple[str, int]]]) -> Iterator[RowBelow]:
    """The rows that a catalog has of the path: one for each stretch of snapshots in which it stayed the same."""
    begin = 0
    for version, stretch in itertools.groupby(state.get(path) for state in states):
        end = begin + len(list(stretch))
        if version is not None:
            last = None if end == len(states) else end - 1
            yield RowBelow(path, None, EntryKind.FILE, 1, bytes([version[1]]), begin, last)
        begin = end


def compare(before: dict[str, tuple[str, int]], after: dict[str, tuple[str, int]]) -> tuple[int, int, int, int]:
    both = [path for path in before if path in after]
    return (
        len(after.keys() - before.keys()),
        sum(before[path][1] != after[path][1] for path in both),
        sum(before[path][1] == after[path][1] and before[path] != after[path] for path in both),
        len(before.keys() - after.keys()),
    )


def counts(change: FolderChange) -> tuple[int, int, int, int]:
    return (change.appeared, change.changed, change.touched, change.vanished)

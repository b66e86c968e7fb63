"""Finding things in a catalog in SQLite: what is found, in which order, by which way, and what is said about it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, event

from backupiq.catalog import search as search_module
from backupiq.catalog import search_places
from backupiq.catalog.adding import SnapshotRows, add_snapshot
from backupiq.catalog.health import give_up
from backupiq.catalog.query import parse_query
from backupiq.catalog.search import Found, Sort, search
from backupiq.catalog.search_hits import Hit, shell_word
from backupiq.catalog.search_places import runs_of
from backupiq.catalog.store import Catalog
from backupiq.discovery.entry import EntryKind
from backupiq.errors import AmbiguousSnapshotError, SnapshotNotFoundError, ValidationError
from tests.support import search_world as world


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    path = tmp_path_factory.mktemp("catalog") / "catalog.sqlite3"
    with Catalog.open(f"sqlite:///{path}") as catalog:
        world.fill(catalog.engine)
        yield catalog.engine


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Engine]:
    """A catalog that a test may change."""
    with Catalog.open(f"sqlite:///{tmp_path / 'own.sqlite3'}") as catalog:
        yield catalog.engine


def ask(engine: Engine, text: str, **options: Any) -> Found:
    return search(engine, parse_query(text, now_ns=world.NOW), **options)


def paths(found: Found) -> list[str]:
    return [hit.path.decode("utf-8", "surrogateescape") for hit in found.hits]


def only(engine: Engine, text: str, **options: Any) -> Hit:
    found = ask(engine, text, **options)
    assert len(found.hits) == 1
    return found.hits[0]


# --- what is found --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", world.ANSWERS)
def test_a_query_finds_what_it_says_and_nothing_else(engine: Engine, text: str) -> None:
    found = paths(ask(engine, text))
    assert len(found) == len(set(found))
    assert set(found) == world.ANSWERS[text]


@pytest.mark.parametrize("text", world.ANSWERS)
def test_the_way_that_a_search_takes_changes_no_answer(
    engine: Engine, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up = ask(engine, text, sort=Sort.IMPORTANCE)
    monkeypatch.setattr(search_module, "SELECTIVE", -1)
    assert ask(engine, text, sort=Sort.IMPORTANCE) == looked_up


@pytest.mark.parametrize("text", [text for text in world.ANSWERS if "at:" in text])
def test_many_stretches_of_snapshots_are_looked_up_one_by_one_with_the_same_answers(
    engine: Engine, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_places, "MAX_RUNS", -1)
    assert set(paths(ask(engine, text))) == world.ANSWERS[text]


def test_of_each_file_the_newest_version_that_fits_is_shown(engine: Engine) -> None:
    assert only(engine, "shop views").size == 1_500
    old = only(engine, "views.py importance:60")
    assert (old.size, old.state, old.versions) == (1_000, "changed", 2)
    assert old.first is not None
    assert old.last is not None
    assert (old.first.id, old.last.id) == (world.FIRST, world.FIRST)


def test_every_version_is_shown_when_asked_for(engine: Engine) -> None:
    found = ask(engine, "shop views", every_version=True)
    assert [hit.size for hit in found.hits] == [1_500, 1_000]


def test_names_that_nothing_in_the_catalog_has_are_told_with_the_one_that_was_meant(engine: Engine) -> None:
    for text, told in {
        "language:pyton": "language 'pyton'; did you mean Python?",
        "framework:djago": "framework 'djago'; did you mean Django?",
        "project:shopp": "project 'shopp'; did you mean shop?",
        "host:laptob": "host 'laptob'; did you mean laptop?",
        "secret:privat-key": "rule 'privat-key'; did you mean private-key?",
        "at:s3://bucket/prefiks": f"destination 's3://bucket/prefiks'; did you mean {world.BUCKET}?",
        "language:quetzal": "language 'quetzal'.",
    }.items():
        found = ask(engine, text)
        assert found.hits == ()
        assert told in found.notes[0]


def test_a_snapshot_that_the_catalog_does_not_know_is_refused(engine: Engine) -> None:
    with pytest.raises(SnapshotNotFoundError, match="backupiq catalog update"):
        ask(engine, "snapshot:ffff")
    with pytest.raises(AmbiguousSnapshotError, match="begins with 'a'"):
        ask(engine, "snapshot:a")


@pytest.mark.parametrize("limit", [0, -1, 100_001])
def test_a_limit_out_of_bounds_is_refused(engine: Engine, limit: int) -> None:
    with pytest.raises(ValidationError, match="limit"):
        ask(engine, "shop", limit=limit)


# --- the order ------------------------------------------------------------------------------------------------------


def test_hits_are_ordered_as_asked(engine: Engine) -> None:
    texts = {sort: paths(ask(engine, "category:document", sort=sort)) for sort in Sort}
    assert texts[Sort.IMPORTANCE] == [world.REPORT, world.PLAN, world.DRAFT, world.NOTE]
    assert texts[Sort.RANK] == texts[Sort.IMPORTANCE]
    assert texts[Sort.CHANGED] == [world.PLAN, world.REPORT, world.NOTE, world.DRAFT]
    assert texts[Sort.SIZE] == [world.REPORT, world.DRAFT, world.PLAN, world.NOTE]
    assert texts[Sort.PATH] == sorted([world.REPORT, world.PLAN, world.DRAFT, world.NOTE])


def test_a_limit_keeps_the_first_and_says_that_there_is_more(engine: Engine) -> None:
    found = ask(engine, "category:document", limit=2)
    assert paths(found) == [world.REPORT, world.PLAN]
    assert found.more
    assert not ask(engine, "category:document", limit=4).more


def test_selective_words_are_ranked_by_how_well_they_fit_before_importance(own: Engine) -> None:
    facts = world.FileFacts(world.TEXT, importance=1)
    rows = [world.file(f"/filler/{number}/nothing", 1, "2026-01-01", facts) for number in range(200)]
    rows += [
        world.file("/rare/rare", 1, "2026-01-01", facts),
        world.file(f"/rare{'/of/many/words' * 8}/x", 1, "2026-01-01", facts._replace(importance=100)),
    ]
    add_snapshot(own, world.REPOSITORY, world.info("e1" * 32, "2026-01-02", "h", "/"), SnapshotRows(rows))
    assert paths(ask(own, "rare"))[0] == "/rare/rare"
    assert paths(ask(own, "rare", sort=Sort.IMPORTANCE))[0] != "/rare/rare"


def test_equal_hits_are_told_apart_by_their_paths_and_not_by_the_order_of_their_coming(own: Engine) -> None:
    facts = world.FileFacts(world.TEXT, importance=5)
    rows = [world.file(f"/same/{name}.txt", 1, "2026-01-01", facts) for name in "cab"]
    add_snapshot(own, world.REPOSITORY, world.info("e1" * 32, "2026-01-02", "h", "/"), SnapshotRows(rows))
    for text in ("same", "category:document", "ext:txt"):
        assert paths(ask(own, text)) == ["/same/a.txt", "/same/b.txt", "/same/c.txt"]


def test_a_catalog_filled_in_another_order_answers_the_same(engine: Engine, own: Engine) -> None:
    world.fill(own, only=frozenset({world.DESK}))
    for snapshot, rows in world.SNAPSHOTS:
        if snapshot.hex_id != world.DESK:
            turned = SnapshotRows(list(rows.rows)[::-1], rows.projects)
            add_snapshot(own, world.REPOSITORY, snapshot, turned)
    world.place(own, world.REPOSITORY, world.PLACES)
    for text in world.ANSWERS:
        assert ask(own, text) == ask(engine, text), text


# --- what is said of a hit ------------------------------------------------------------------------------------------


def test_a_hit_says_what_the_file_is_where_it_was_seen_and_how_to_have_it_back(engine: Engine) -> None:
    hit = only(engine, "settings.py")
    assert (hit.kind, hit.size, hit.mtime_ns) == (EntryKind.FILE, 2_222, world.at("2025-12-01"))
    assert (hit.category, hit.language, hit.mime, hit.role) == ("code", "Python", "text/x-python", "config")
    assert (hit.importance, hit.project, hit.git, hit.host) == (90, "shop", "untracked", "laptop")
    assert hit.secrets == (("github-pat", 12, "medium"),)
    assert (hit.state, hit.versions, hit.regenerable, hit.conflict) == ("present", 1, False, False)
    assert hit.first is not None
    assert hit.last is not None
    assert (hit.first.id, hit.last.id) == (world.FIRST, world.THIRD)
    assert hit.last.time_ns == world.at("2026-03-01T12:00")
    assert hit.destinations == (world.LOCAL, world.BUCKET)
    assert hit.restore_command == f"backupiq restore {world.THIRD[:8]}:{world.SETTINGS} --target DIR"
    assert hit.repository == world.REPOSITORY
    assert len(hit.content) == 32


def test_a_deleted_file_is_restored_from_the_last_snapshot_that_held_it(engine: Engine) -> None:
    hit = only(engine, "old-draft")
    assert hit.state == "deleted"
    assert hit.restore_from is not None
    assert hit.restore_from.id == world.SECOND


def test_a_destination_that_was_given_up_is_no_place_to_restore_from(own: Engine) -> None:
    world.fill(own)
    assert give_up(own, world.REPOSITORY, world.BUCKET)
    assert only(own, "settings.py").destinations == (world.LOCAL,)
    assert only(own, "index.php").destinations == ()
    found = ask(own, "at:s3")
    assert found.hits == ()
    assert "destination 's3'" in found.notes[0]
    assert paths(ask(own, "only-at:local ext:odt")) == [world.PLAN, world.DRAFT]


def test_a_snapshot_is_restored_from_where_it_is_complete(own: Engine) -> None:
    world.fill(own)
    world.place(own, world.REPOSITORY, {world.SECOND: [world.LOCAL]})
    hit = only(own, "settings.py")
    assert hit.restore_from is not None
    assert hit.restore_from.id == world.SECOND
    lost = only(own, "index.php")
    assert lost.destinations == ()
    assert lost.restore_command.startswith(f"backupiq restore {world.DESK[:8]}:")


def test_with_several_repositories_the_command_names_the_one_that_holds_the_file(own: Engine) -> None:
    world.fill(own)
    add_snapshot(own, "2f" * 32, world.info("e1" * 32, "2026-01-02", "other", "/x"), SnapshotRows([]))
    assert f"--repo {world.LOCAL} " in only(own, "settings.py").restore_command
    assert f"--repo {world.BUCKET} " in only(own, "index.php").restore_command


def test_snapshots_are_named_by_as_many_characters_as_tell_them_apart(own: Engine) -> None:
    rows = SnapshotRows([world.file("/x/y", 1, "2026-01-01", world.FileFacts())])
    for number, end in enumerate(("0", "1", "2"), 1):
        hex_id = "ab" * 5 + end + "0" * 53
        add_snapshot(own, world.REPOSITORY, world.info(hex_id, f"2026-01-0{number}", "h", "/x"), rows)
    hit = only(own, "y")
    assert hit.last is not None
    assert hit.last.short_id == "ab" * 5 + "2"


def test_a_name_that_no_terminal_may_see_is_written_for_the_shell_in_escapes() -> None:
    assert shell_word(b"/a/b") == "/a/b"
    assert shell_word(b"/a b/it's") == "'/a b/it'\"'\"'s'"
    assert shell_word("/é".encode()) == "'/é'"
    assert shell_word(world.WEIRD) == r"$'/home/ada/notes/caf\xe9 \x1b[31m.txt'"


@given(st.binary(min_size=1, max_size=30).filter(lambda raw: b"\0" not in raw))
def test_a_word_for_the_shell_is_printable_and_means_the_same_bytes(raw: bytes) -> None:
    word = shell_word(raw)
    assert word.isprintable()
    if word.startswith("$'"):
        inner = word[2:-1].encode()
        assert re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes.fromhex(found[1].decode()), inner) == raw


def test_a_path_that_is_not_utf8_is_found_and_given_back_as_it_is(engine: Engine) -> None:
    assert only(engine, "notes txt").path == world.WEIRD


# --- hostile queries and the plans of the database ------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "'; DELETE FROM file_versions; --",
        'shop" OR path:*',
        "NEAR(shop views, 3)",
        "{path}:shop ^views shop + views",
        "\udcff\udcfe shop",
        "shop\0views",
        "x" * 3_000,
        "½ ² Ⅷ \ufb01 日本語 \uff21\uff22",
        "path:/(((((a+)+)+)+)+$",
        "path:" + "[" * 10,
        'project:"%_\\\'"',
        "language:" + "*" * 500,
        "ext:%,_,\\",
    ],
)
def test_a_hostile_query_is_answered_and_harms_nothing(engine: Engine, text: str) -> None:
    ask(engine, text)
    assert len(paths(ask(engine, "category:code"))) == 5


@given(st.text(max_size=60))
def test_any_query_is_answered_or_refused(engine: Engine, text: str) -> None:
    try:
        ask(engine, text)
    except (ValidationError, SnapshotNotFoundError):
        return


def indexed(text: str) -> bool:
    """Whether words or a field with an index make the query selective."""
    query = parse_query(text, now_ns=0)
    words = any(not phrase.negated for phrase in query.phrases)
    fields = {condition.field for condition in query.conditions if not condition.negated}
    return words or bool(fields - NOT_INDEXED)


NOT_INDEXED = {"category", "only-at", "at", "regenerable", "snapshot", "host"}
"""Fields whose values are seldom selective."""


@pytest.mark.parametrize("text", list(filter(indexed, world.ANSWERS)))
def test_a_selective_query_reads_no_table_of_files_from_end_to_end(engine: Engine, text: str) -> None:
    lines = plans_of(engine, text)
    scanned = [line for line in lines if re.match(r"SCAN (file_versions|newer|open_version|other)", line)]
    assert set(scanned) <= {"SCAN file_versions USING COVERING INDEX ix_file_versions_ended"}  # of some rows only
    newer = {line for line in lines if line.startswith("SEARCH newer")}
    assert newer == {"SEARCH newer USING INDEX ix_file_versions_lineage_path (lineage_id=? AND path=?)"}


@pytest.mark.parametrize("sort", [Sort.RANK, Sort.IMPORTANCE, Sort.CHANGED, Sort.SIZE])
def test_a_query_that_is_not_selective_walks_an_index_in_the_order_that_is_wanted(engine: Engine, sort: Sort) -> None:
    index = {"changed": "mtime", "size": "size"}.get(sort.value, "importance")
    assert any(
        f"SCAN file_versions USING INDEX ix_file_versions_{index}" in line
        for line in plans_of(engine, "category:code deleted:no", sort=sort)
    )


def plans_of(engine: Engine, text: str, **options: Any) -> list[str]:
    """What SQLite says of every statement that a search executes."""
    lines: list[str] = []

    def explain(connection: Any, _: Any, statement: str, parameters: Any, *__: Any) -> None:
        if not statement.startswith("EXPLAIN"):
            cursor = connection.connection.cursor()
            lines.extend(row[3] for row in cursor.execute(f"EXPLAIN QUERY PLAN {statement}", parameters))

    event.listen(engine, "before_cursor_execute", explain)
    try:
        ask(engine, text, **options)
    finally:
        event.remove(engine, "before_cursor_execute", explain)
    return lines


def test_stretches_of_snapshots_that_follow_each_other_are_told() -> None:
    def told(marks: str) -> list[tuple[int | None, int | None]]:
        return runs_of([(position, mark == "x") for position, mark in enumerate(marks)])

    assert told("") == []
    assert told("...") == []
    assert told("xxx") == [(None, None)]
    assert told("x..") == [(None, 0)]
    assert told(".xx") == [(1, None)]
    assert told("x.xx.x") == [(None, 0), (2, 3), (5, None)]

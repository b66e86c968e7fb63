"""What the catalog keeps and gives back, on both kinds of database."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Iterator

import pytest
from sqlalchemy import event, func, select

from backupiq.catalog.adding import Added, SnapshotRows
from backupiq.catalog.database import reading
from backupiq.catalog.health import KEPT_OBSERVATIONS, Destination, Observation, give_up, health_history
from backupiq.catalog.models import DestinationRecord, FileVersion, HealthRecord
from backupiq.catalog.rows import FileRow, Known
from backupiq.catalog.store import KEPT_RUNS, Catalog, Run
from backupiq.semantics.model import UNKNOWN, FileFacts, Finding, Framework, Project, Severity
from tests.catalog.contents import PDF, PYTHON, REPOSITORY, everything, is_sound, row, snapshot, words_find

HERE, THERE = Destination("/mnt/disk", "local", "local:/mnt/disk"), Destination("s3://bucket/x", "s3", "s3:bucket/x")


def add(catalog: Catalog, number: int, given: SnapshotRows) -> Added:
    return catalog.add_snapshot(REPOSITORY, snapshot(number), given)


def names(number: int) -> str:
    return snapshot(number).hex_id


# --- versions ------------------------------------------------------------------------------------------------------


def test_a_version_names_the_snapshots_that_hold_it(either: Catalog) -> None:
    add(either, 1, SnapshotRows([row(b"/h/stays"), row(b"/h/changes", b"1" * 16), row(b"/h/goes")]))
    add(either, 2, SnapshotRows([row(b"/h/changes", b"2" * 16)], base=names(1), gone=[b"/h/goes"]))
    add(either, 3, SnapshotRows([row(b"/h/goes")], base=names(2)))
    held = [(version[3], version[7], version[8], version[9]) for version in everything(either)["versions"]]
    one, two, three = names(1), names(2), names(3)
    assert sorted(held) == [
        ("changes", b"1" * 16, (one,), False),
        ("changes", b"2" * 16, (two, three), True),
        ("goes", b"c" * 16, (one,), False),
        ("goes", b"c" * 16, (three,), True),
        ("stays", b"c" * 16, (one, two, three), True),
    ]
    assert is_sound(either)


@pytest.mark.parametrize("change", [{"size": 2}, {"mtime_ns": 2}, {"content": b"d" * 16}])
def test_size_time_and_content_make_a_version(catalog: Catalog, change: dict[str, int | bytes]) -> None:
    first = row(b"/h/a")
    add(catalog, 1, SnapshotRows([first]))
    add(catalog, 2, SnapshotRows([first._replace(**change)]))
    assert len(everything(catalog)["versions"]) == 2


def test_other_words_of_analysis_make_no_version(either: Catalog) -> None:
    findings = (Finding(3, "aws", Severity.HIGH, "0" * 16),)
    add(either, 1, SnapshotRows([row(b"/h/a", findings=findings), row(b"/h/b")]))
    add(either, 2, SnapshotRows([row(b"/h/a", type=PDF, importance=70, git="modified")], base=names(1)))
    first, second = everything(either)["versions"]
    assert first[3] == "a"
    assert first[10][1] == "PDF"
    assert first[10][7:9] == (70, "modified")
    assert first[12] is None
    assert first[8] == second[8] == (names(1), names(2))


def test_a_file_that_becomes_a_folder_ends_and_begins(either: Catalog) -> None:
    folder = FileRow(b"/h/a", 1, 4_096, 77, None, FileFacts())
    add(either, 1, SnapshotRows([row(b"/h/a")]))
    add(either, 2, SnapshotRows([folder, row(b"/h/a/b")], base=names(1)))
    add(either, 3, SnapshotRows([row(b"/h/a")], base=names(2), gone_folders=[b"/h/a"]))
    held = sorted((version[1], version[4], version[8]) for version in everything(either)["versions"])
    assert held == [
        ("/h/a", 0, (names(1),)),
        ("/h/a", 0, (names(3),)),
        ("/h/a", 1, (names(2),)),
        ("/h/a/b", 0, (names(2),)),
    ]


def test_folders_have_no_size_and_no_time_of_their_own(catalog: Catalog) -> None:
    for number in (1, 2):
        add(catalog, number, SnapshotRows([FileRow(b"/h/a", 1, 4_096 * number, number, None, FileFacts())]))
    (version,) = everything(catalog)["versions"]
    assert version[5:7] == (0, 0)


def test_a_folder_that_is_gone_takes_only_what_is_below_it(either: Catalog) -> None:
    below = [b"/h/p", b"/h/p/a", b"/h/p/q/b", b"/h/p/\xff"]
    beside = [b"/h/p0", b"/h/p-1", b"/h/P/a", b"/h/p\xff/a", b"/h/" + b"p" * 600 + b"/a"]
    add(either, 1, SnapshotRows(map(row, [*below, *beside])))
    add(either, 2, SnapshotRows((), base=names(1), gone_folders=[b"/h/p"]))
    left = {version[2] or version[1].encode() for version in everything(either)["versions"] if version[9]}
    assert left == set(beside)


def test_a_folder_whose_name_is_not_text_takes_none_that_only_looks_the_same(either: Catalog) -> None:
    looks_the_same = b"/h/\\udcff/a"
    add(either, 1, SnapshotRows(map(row, [b"/h/\xff/a", looks_the_same])))
    add(either, 2, SnapshotRows((), base=names(1), gone_folders=[b"/h/\xff"]))
    left = [version[1] for version in everything(either)["versions"] if version[9]]
    assert left == [looks_the_same.decode()]


def test_a_snapshot_enters_once(either: Catalog) -> None:
    assert add(either, 1, SnapshotRows([row(b"/h/a")])) is Added.ADDED
    before = everything(either)
    assert add(either, 1, SnapshotRows([row(b"/h/b")])) is Added.PRESENT
    assert everything(either) == before


def test_rows_relative_to_another_snapshot_than_the_newest_are_refused(either: Catalog) -> None:
    add(either, 1, SnapshotRows([row(b"/h/a")]))
    add(either, 3, SnapshotRows([row(b"/h/b")]))
    before = everything(either)
    assert add(either, 4, SnapshotRows((), base=names(1))) is Added.OUT_OF_ORDER
    assert add(either, 2, SnapshotRows([row(b"/h/c")])) is Added.OUT_OF_ORDER
    assert everything(either) == before


def test_rows_that_fail_on_their_way_leave_nothing(either: Catalog) -> None:
    def rows() -> Iterator[FileRow]:
        yield row(b"/h/a")
        raise OSError("the tree ends here")

    with pytest.raises(OSError, match="the tree ends here"):
        add(either, 1, SnapshotRows(rows()))
    assert everything(either)["snapshots"] == []
    assert add(either, 1, SnapshotRows([row(b"/h/a")])) is Added.ADDED


def test_a_run_that_changed_nothing_writes_no_row_of_a_file(catalog: Catalog) -> None:
    add(catalog, 1, SnapshotRows(row(b"/h/%d" % number) for number in range(200)))
    written: list[str] = []

    @event.listens_for(catalog.engine, "before_cursor_execute")
    def note(_: object, cursor: object, statement: str, *__: object) -> None:
        written.append(statement)

    with reading(catalog.engine) as connection:
        before = connection.connection.driver_connection.total_changes  # type: ignore[union-attr]
    add(catalog, 2, SnapshotRows((), base=names(1)))
    with reading(catalog.engine) as connection:
        after = connection.connection.driver_connection.total_changes  # type: ignore[union-attr]
    assert after - before < 10
    assert not any("SELECT file_versions.id" in statement and "LIMIT" not in statement for statement in written)
    assert len(everything(catalog)["versions"]) == 200


def test_memory_does_not_grow_with_the_rows(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backupiq.catalog.staging.CHUNK", 200)

    def peak(first: int, count: int) -> int:
        tracemalloc.start()
        rows = (row(b"/h/%d" % number) for number in range(first, first + count))
        add(catalog, first + 1, SnapshotRows(rows))
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    small = peak(0, 1_000)
    assert peak(10_000, 5_000) < small * 1.5


@pytest.mark.parametrize("word", ["shop", "v2", "py", "sho", "SHOP"])
def test_names_are_found_by_their_words_and_their_beginnings(either: Catalog, word: str) -> None:
    add(either, 1, SnapshotRows(map(row, [b"/h/shop_v2.py", b"/h/other", b"/h/work-shopping"])))
    found = words_find(either, word.lower())
    assert "/h/shop_v2.py" in found
    assert "/h/other" not in found


def test_accents_make_no_difference_for_words(either: Catalog) -> None:
    add(either, 1, SnapshotRows(map(row, ["/h/Résumé.pdf".encode(), "/h/re\u0301sume\u0301-2.pdf".encode()])))
    assert len(words_find(either, "resume")) == 2


def test_texts_that_no_database_takes_are_made_harmless(either: Catalog) -> None:
    odd = row(b"/h/a", type=PYTHON, origin="evil\0\udcff.example", role="x" * 5_000)
    project = Project(b"/h", "n\0ame" * 500, ("a\0",), (Framework("F\udcff", "1\0"),))
    add(either, 1, SnapshotRows([odd._replace(mtime_ns=253_402_300_800 * 10**9)], [project]))
    (version,) = everything(either)["versions"]
    assert version[6] == (1 << 63) - 1
    assert version[10][10] == "evil\\udcff.example"
    assert len(version[10][6]) == 1_000


# --- projects ------------------------------------------------------------------------------------------------------


def test_a_project_says_what_was_seen_last_and_ends_with_its_last_snapshot(either: Catalog) -> None:
    old, new = (Project(b"/h/p", "shop", ("go.mod",), (Framework("Gin", version),)) for version in ("1", "2"))
    add(either, 1, SnapshotRows([row(b"/h/p/a", project=b"/h/p")], [old]))
    add(either, 2, SnapshotRows((), [new], base=names(1)))
    add(either, 3, SnapshotRows((), base=names(2), kept_projects=[b"/h/p"]))
    add(either, 4, SnapshotRows([row(b"/h/p/a")], base=names(3)))
    found = everything(either)
    assert [(each[3], each[5], each[6]) for each in found["projects"]] == [
        ("shop", '[{"name": "Gin", "version": "2"}]', (names(1), names(2), names(3)))
    ]
    assert [version[11] for version in found["versions"]] == [b""]
    assert either.open_projects(REPOSITORY, snapshot(1).lineage) == []


# --- what is known -------------------------------------------------------------------------------------------------


def test_what_was_read_out_of_files_is_known_by_path_size_and_time(either: Catalog) -> None:
    found = (Finding(3, "aws", Severity.HIGH, "0" * 16), Finding(1, "jwt", Severity.LOW, "1" * 16))
    rows = [row(b"/h/%d" % number, type=PDF) for number in range(1_000)]
    add(either, 1, SnapshotRows([*rows, row(b"/h/\xff", findings=found), row(b"/h/" + b"x" * 4_000)]))
    keys = [(each.path, each.size, each.mtime_ns) for each in rows]
    others = [(b"/h/1", 2, 1), (b"/h/2", 1, 2), (b"/h/none", 1, 1), (b"/h/\\udcff", 1, 1)]
    known = either.known(REPOSITORY, "laptop", [*keys, (b"/h/\xff", 1, 1), (b"/h/" + b"x" * 4_000, 1, 1), *others])
    assert len(known) == 1_002
    assert known[b"/h/7"] == Known(b"c" * 16, PDF, ())
    assert known[b"/h/\xff"] == Known(b"c" * 16, PYTHON, tuple(sorted(found)))
    assert either.known(REPOSITORY, "desktop", keys) == {}
    assert either.known("f" * 64, "laptop", keys) == {}


def test_the_newest_of_equal_versions_is_what_is_known(catalog: Catalog) -> None:
    add(catalog, 1, SnapshotRows([row(b"/h/a", b"1" * 16, type=UNKNOWN)]))
    add(catalog, 2, SnapshotRows([row(b"/h/a", b"2" * 16)]))
    assert catalog.known(REPOSITORY, "laptop", [(b"/h/a", 1, 1)])[b"/h/a"].content == b"2" * 16


# --- runs and destinations -----------------------------------------------------------------------------------------


def test_a_run_is_kept_once_with_what_became_of_it(either: Catalog) -> None:
    either.record_run(Run("a", None, 10))
    either.record_run(Run("b", REPOSITORY, 20))
    either.record_run(Run("a", REPOSITORY, 10, 30, 3, {"files": 7}, names(1)))
    assert either.runs() == [
        Run("b", REPOSITORY, 20, counts={}),
        Run("a", REPOSITORY, 10, 30, 3, {"files": 7}, names(1)),
    ]


def test_the_oldest_runs_go(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    assert KEPT_RUNS == 10_000
    monkeypatch.setattr("backupiq.catalog.store.KEPT_RUNS", 3)
    for number in range(6):
        catalog.record_run(Run(str(number), None, number))
    assert [run.flow_run_id for run in catalog.runs()] == ["5", "4", "3"]


def test_how_a_destination_was_is_kept_in_order(either: Catalog) -> None:
    for at_ns, error in ((1, ""), (2, "storage.timeout"), (3, "")):
        either.record_health(REPOSITORY, HERE, Observation(at_ns, "failed" if error else "ok", 12, error))
    either.record_health(REPOSITORY, THERE, Observation(9, "failed", None, "storage.quota"))
    assert health_history(either.engine, REPOSITORY, HERE.name, 2) == [
        Observation(2, "failed", 12, "storage.timeout"),
        Observation(3, "ok", 12),
    ]
    with reading(either.engine) as connection:
        rows = connection.execute(select(DestinationRecord).order_by(DestinationRecord.id)).all()
    assert [(each.kind, each.last_success_ns, each.last_error) for each in rows] == [
        ("local", 3, ""),
        ("s3", None, "storage.quota"),
    ]


def test_the_oldest_observations_go(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    assert KEPT_OBSERVATIONS == 10_000
    monkeypatch.setattr("backupiq.catalog.health.KEPT_OBSERVATIONS", 3)
    for destination, at_ns in itertools.product((HERE, THERE), range(6)):
        catalog.record_health(REPOSITORY, destination, Observation(at_ns, "ok"))
    assert [seen.at_ns for seen in health_history(catalog.engine, REPOSITORY, HERE.name)] == [3, 4, 5]
    with reading(catalog.engine) as connection:
        assert connection.execute(select(func.count()).select_from(HealthRecord)).scalar() == 6


def test_places_of_destinations_that_did_not_answer_stay(either: Catalog) -> None:
    for number in (1, 2):
        add(either, number, SnapshotRows([row(b"/h/a")]))
    either.record_places(REPOSITORY, [(HERE, [names(1), names(2)]), (THERE, [names(1), "f" * 64])], 5)
    either.record_places(REPOSITORY, [(HERE, [names(2)])], 6)
    assert everything(either)["places"] == [(names(1), THERE.name), (names(2), HERE.name)]


def test_a_destination_can_be_given_up_and_taken_back(catalog: Catalog) -> None:
    add(catalog, 1, SnapshotRows([row(b"/h/a")]))
    catalog.record_places(REPOSITORY, [(HERE, [names(1)])], 5)

    def is_given_up() -> bool:
        with reading(catalog.engine) as connection:
            return connection.execute(select(DestinationRecord.given_up)).scalar_one()

    assert give_up(catalog.engine, REPOSITORY, HERE.name)
    assert is_given_up()
    assert give_up(catalog.engine, REPOSITORY, HERE.name, given_up=False)
    assert not is_given_up()
    assert not give_up(catalog.engine, REPOSITORY, "nowhere")


# --- leaving -------------------------------------------------------------------------------------------------------


def test_dropping_a_lineage_leaves_the_others(either: Catalog) -> None:
    add(either, 1, SnapshotRows([row(b"/h/mine")], [Project(b"/h", "p", ())]))
    other = snapshot(2, host="desktop")
    either.add_snapshot(REPOSITORY, other, SnapshotRows([row(b"/h/other")]))
    either.drop_lineage(REPOSITORY, snapshot(1).lineage)
    assert [version[1] for version in everything(either)["versions"]] == ["/h/other"]
    assert words_find(either, "mine") == set()
    assert words_find(either, "other") == {"/h/other"}
    either.drop_lineage(REPOSITORY, other.lineage)
    either.drop_lineage(REPOSITORY, other.lineage)
    assert everything(either)["versions"] == []
    assert words_find(either, "other") == set()
    with reading(either.engine) as connection:
        assert connection.execute(select(func.count()).select_from(FileVersion)).scalar() == 0
    assert is_sound(either)


def test_what_came_back_as_it_was_has_never_been_away_once_nobody_knows_better(either: Catalog) -> None:
    add(either, 1, SnapshotRows([row(b"/h/a")], [Project(b"/h", "p", ())]))
    add(either, 2, SnapshotRows([row(b"/h/b")], [Project(b"/h/b", "b", ())]))
    add(either, 3, SnapshotRows([row(b"/h/a", project=b"/h")], [Project(b"/h", "p", ())]))
    either.forget(REPOSITORY, [names(2)])
    found = everything(either)
    assert [(version[1], version[8], version[9]) for version in found["versions"]] == [
        ("/h/a", (names(1), names(3)), True)
    ]
    assert [(each[1], each[6]) for each in found["projects"]] == [(b"/h", (names(1), names(3)))]
    assert is_sound(either)


def test_forgetting_all_leaves_an_empty_catalog(either: Catalog) -> None:
    for number in (1, 2):
        add(either, number, SnapshotRows([row(b"/h/%d" % number)]))
    either.forget(REPOSITORY, [names(1), names(2), "f" * 64])
    assert either.sizes()["lineages"] == either.sizes()["file_versions"] == 0
    assert is_sound(either)

"""The measurements of what a million paths, the order of a backup and a second destination cost, on small inputs."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import time
from pathlib import Path

import pytest

from backupiq.discovery.entry import EntryKind
from backupiq.semantics.analysis import Analysis
from backupiq.semantics.model import GitState
from benchmarks import million, protection, run, startup, two_local
from benchmarks.contest import PASSWORD, WrongResultError
from benchmarks.million import Figures, MadeUpFiles
from benchmarks.protection import BY_IMPORTANCE, BY_PATH, Protected, Published, Watch
from benchmarks.startup import Timed
from benchmarks.two_local import Stored
from tests.support.programs import Restic, debian_restic
from tests.unit.repository.repositories import PASSWORD as REPOSITORY_PASSWORD
from tests.unit.repository.repositories import new_repository

# --- a million paths -----------------------------------------------------------------------------------------------


def figures(seconds: float = 1.0, peak_bytes: int = 1) -> Figures:
    return Figures(1, 1, 1, 1, 1, 0.0, 0.0, 0.0, 0.0, 0.0, seconds, 1, 0.0, peak_bytes)


@pytest.fixture(scope="module")
def made_up() -> MadeUpFiles:
    return MadeUpFiles(10_000, io.BytesIO())


def test_the_made_up_paths_are_as_a_walk_gives_them_and_at_least_as_many_as_asked_for(made_up: MadeUpFiles) -> None:
    known = {b"/"}
    for directory in made_up.directories():
        names = [child.name for child in directory.children]
        assert directory.path in known
        assert names == sorted(set(names))
        folders = [child.name for child in directory.children if child.kind is EntryKind.DIR]
        known |= {directory.path.rstrip(b"/") + b"/" + name for name in folders}
    assert 10_000 <= made_up.inventory.entries < 11_000


def test_analysis_understands_the_made_up_projects_by_their_manifests_and_git(made_up: MadeUpFiles) -> None:
    analysis = Analysis(made_up, now_ns=million.NOW_NS)
    assert {framework.name for project in analysis.projects for framework in project.frameworks} >= {"React", "Django"}
    assert all(decision.regenerable for decision in analysis.decisions)
    assert len(analysis.decisions) == len(analysis.projects) == 4
    states = {facts.git for directory in made_up.directories() for _, facts in analysis.facts(directory, {})}
    assert states == {GitState.INTERNAL, GitState.PUSHED, GitState.UNTRACKED, GitState.NONE}


def test_a_small_run_goes_through_all_steps_in_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.results.RESULTS", tmp_path / "results")
    assert million.main(["--paths", "3000", "--rounds", "1", "--work", str(tmp_path)]) == 0
    (written,) = (tmp_path / "results").iterdir()
    (one,) = json.loads(written.read_text())["measurements"]
    assert one["files"] > 2_000
    assert one["catalog_bytes"] > 100_000
    assert one["peak_bytes"] > 10_000_000
    steps = ("folders", "facts", "planning", "catalog")
    assert one["budget_seconds"] == pytest.approx(sum(one[f"{step}_seconds"] for step in steps))
    assert "met" in capsys.readouterr().out


def test_a_million_paths_are_judged_by_the_median_of_seconds_and_the_worst_of_memory() -> None:
    fast = [figures(119.0), figures(120.0), figures(500.0)]
    assert [verdict.met for verdict in million.judge(fast)] == [True, True]
    slow = [figures(1.0, 700_000_001), figures(121.0), figures(121.0)]
    assert [verdict.met for verdict in million.judge(slow)] == [False, False]


# --- protection ----------------------------------------------------------------------------------------------------


def test_media_are_nineteen_twentieths_of_the_home_and_worth_less_than_the_rest(tmp_path: Path) -> None:
    sorts = protection.make_home(tmp_path, 2_000_000, now=time.time())
    sizes = {sort: sum(os.path.getsize(path) for path in sorts if sorts[path] == sort) for sort in sorts.values()}
    assert 0.92 < sizes["media"] / sum(sizes.values()) < 0.97
    importance = protection.importance_of(tmp_path, now_ns=time.time_ns())
    assert importance.keys() == sorts.keys()
    means = {sort: [importance[path] for path in sorts if sorts[path] == sort] for sort in sizes}
    assert min(means["keys"]) > max(means["media"])
    assert set(sizes) == {"keys", "documents", "photos", "code", "media"}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Restic, Path, Watch]:
    """Two snapshots came into a repository under watch, the first of which is gone again; what the watch has kept."""
    tmp_path = tmp_path_factory.mktemp("watched")
    restic, repository, tree = debian_restic(tmp_path / "restic"), tmp_path / "repository", tmp_path / "tree"
    watch = Watch(repository, tmp_path / "frozen")
    watch.look(1.0)
    tree.mkdir()
    restic.run("init", repo=repository, password=PASSWORD)
    watch.look(2.0)
    for number, tag in enumerate(("checkpoint", "final")):
        (tree / f"letter {number}").write_bytes(os.urandom(100_000))
        restic.run("backup", str(tree), "--tag", tag, repo=repository, password=PASSWORD)
        watch.look(10.0 + number)
    first = min(watch.seen, key=lambda name: watch.seen[name])
    (repository / "snapshots" / first).unlink()
    watch.look(20.0)
    return restic, tmp_path / "frozen", watch


def test_a_watch_keeps_what_each_snapshot_held_even_when_it_is_gone(stored: tuple[Restic, Path, Watch]) -> None:
    published = protection.read_published(*stored)
    assert [(each.seconds, each.tags) for each in published] == [(0.0, ("checkpoint",)), (1.0, ("final",))]
    names = [{path.rpartition("/")[2] for path in each.paths} for each in published]
    assert names == [{"letter 0"}, {"letter 0", "letter 1"}]


def test_a_snapshot_that_came_before_its_packs_is_found_out(stored: tuple[Restic, Path, Watch], tmp_path: Path) -> None:
    restic, frozen, watch = stored
    shutil.copytree(frozen, tmp_path / "frozen")
    first = min(watch.seen, key=lambda name: watch.seen[name])
    packs = [path for path in (tmp_path / "frozen" / first / "data").rglob("*") if path.is_file()]
    max(packs, key=lambda path: path.stat().st_size).unlink()  # the letter's
    with pytest.raises(WrongResultError, match="restic check"):
        protection.read_published(restic, tmp_path / "frozen", watch)


def test_a_watch_that_runs_as_a_thread_looks_once_more_at_the_end(tmp_path: Path) -> None:
    watch = Watch(tmp_path / "repository", tmp_path / "frozen")
    watch.start()
    name = "a" * 64
    (tmp_path / "repository" / "snapshots").mkdir(parents=True)
    (tmp_path / "repository" / "snapshots" / f".{name}.partial").write_bytes(b"half")
    (tmp_path / "repository" / "snapshots" / name).write_bytes(b"whole")
    watch.finish()
    assert list(watch.seen) == [name]
    assert watch.first_byte is None


def test_a_file_is_safe_from_the_first_snapshot_on_that_holds_it() -> None:
    published = [Published(3.0, ("checkpoint",), frozenset({"/a"})), Published(9.0, (), frozenset({"/a", "/b"}))]
    assert protection.safe_after(published, ["/a", "/b"]) == {"/a": 3.0, "/b": 9.0}
    for broken in (published[:1], published[::-1], []):
        with pytest.raises(WrongResultError, match="lacks"):
            protection.safe_after(broken, ["/a", "/b"])


def test_seconds_are_weighted_by_importance(tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in ("key", "film")]
    for path in paths:
        Path(path).write_bytes(b"12345")
    safe, sorts = dict(zip(paths, (2.0, 100.0), strict=True)), dict(zip(paths, ("keys", "media"), strict=True))
    everything, keys, media = protection.summarise("o", safe, sorts, dict(zip(paths, (90, 10), strict=True)))
    assert everything.seconds == pytest.approx(11.8)
    assert everything == Protected("o", "all", 2, 10, 50.0, everything.seconds, 100.0)
    assert (keys.seconds, media.seconds) == (2.0, 100.0)


@pytest.mark.parametrize(("seconds", "met"), [(10.0, True), (10.1, False), (0.0, True)])
def test_protection_is_judged_by_all_files_against_the_order_of_paths(seconds: float, met: bool) -> None:
    protected = [
        Protected(BY_PATH, "all", 1, 1, 50.0, 100.0, 100.0),
        Protected(BY_PATH, "keys", 1, 1, 50.0, 1.0, 1.0),
        Protected(BY_IMPORTANCE, "all", 1, 1, 50.0, seconds, 100.0),
    ]
    assert [verdict.met for verdict in protection.judge(protected)] == [met]


def test_a_limit_that_would_not_hold_on_one_disk_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    debian_restic(tmp_path)
    given = ["--bytes", "1000000", "--work", str(tmp_path), "--spool", str(tmp_path)]
    assert protection.main(given) == 1
    assert "another disk" in capsys.readouterr().out


# --- two destinations ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "met"), [(12.9, True), (13.0, False)])
def test_two_destinations_are_judged_by_medians_without_prefects_start(seconds: float, met: bool) -> None:
    one = [Stored(1, number, total, 2.0, 1.0, 1) for number, total in enumerate((5.0, 12.0, 90.0))]
    two = [Stored(2, number, total, 2.0, 1.0, 1) for number, total in enumerate((2.1, seconds + 2.0, 90.0))]
    assert [verdict.met for verdict in two_local.judge([*one, *two])] == [met]


def test_packs_are_told_by_name_and_size(tmp_path: Path) -> None:
    (tmp_path / "data" / "ab").mkdir(parents=True)
    (tmp_path / "data" / "ab" / "abc").write_bytes(b"123")
    assert two_local.packs_of(tmp_path) == {"abc": 3}


# --- what a command costs before it does anything ------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "met"), [((0.2, 1.0, 3.9), [True, True]), ((0.4, 1.0, 4.1), [False, False])])
def test_help_and_a_run_are_held_against_what_they_may_cost(
    seconds: tuple[float, float, float], met: list[bool]
) -> None:
    timed = [
        Timed(job, number, each, 0.0)
        for number in (1, 2, 3)
        for job, each in zip((startup.HELP, startup.LIBRARY, startup.FLOW), seconds, strict=True)
    ]
    timed += [Timed(startup.LISTING, 1, 9.0, 0.0), Timed(startup.FLOW, 4, 99.0, 0.0)]
    assert [verdict.met for verdict in startup.judge(timed)] == met


def test_the_engine_as_a_library_stores_what_a_run_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKUPIQ_PASSWORD", REPOSITORY_PASSWORD)
    asyncio.run(new_repository(tmp_path / "vault"))
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_bytes(os.urandom(50_000))
    assert startup.main(["--library", str(tmp_path / "tree"), str(tmp_path / "vault"), str(tmp_path)]) == 0
    assert startup.stored_bytes(tmp_path / "vault") > 50_000


# --- all of them ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("measure", "given"),
    [
        (million, ["--paths", "0"]),
        (protection, ["--bytes", "0"]),
        (two_local, ["--rounds", "0"]),
        (startup, ["--files", "0"]),
    ],
)
def test_nothing_cannot_be_measured(measure: object, given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        measure.arguments(given)  # type: ignore[attr-defined]
    assert "at least 1" in capsys.readouterr().err


def test_make_bench_reaches_every_other_measurement_by_its_option(capfd: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--secrets", "--files", "10"]) == 0
    assert "10 files" in capfd.readouterr().out
    folder = Path(run.__file__).parent
    assert all((folder / f"{module}.py").is_file() for module in run.OTHERS.values())

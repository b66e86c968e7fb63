"""The report on a snapshot: what it says, and the page it writes."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from backupiq.cli import charts
from backupiq.cli.report import make_report, report
from backupiq.cli.report_page import MOST_ROWS, render_page
from backupiq.cli.report_words import ages
from backupiq.errors import ValidationError
from backupiq.repository.pack import BlobType
from backupiq.repository.repository import FileType, Repository, pack_key
from backupiq.repository.snapshot import CHECKPOINT_TAG, Snapshot, Summary, encode_snapshot
from backupiq.semantics.snapshot_report import Point, protection_of, report_to_dict, series_of
from backupiq.semantics.summary import Counting, to_dict
from backupiq.storage.local import LocalProvider
from tests.unit.archive.saving import PASSWORD, back_up
from tests.unit.repository.repositories import new_repository

HOSTILE = "<script>alert(1)<"
WEIRD = b"\"'&<img src=x onerror=alert(2)> \xff\x1b[31m.txt"
SECRET = "ghp_" + "A1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q7r8"
DAY = 86_400 * 10**9
START = datetime(2026, 1, 1, 10, tzinfo=UTC)
NOW_NS = int((START + timedelta(days=50)).timestamp()) * 10**9
DAYS = (0, 1, 3, 40)
TOTALS = (1000, 3 << 20, 2 << 20, 5 << 20)


@dataclasses.dataclass(frozen=True)
class World:
    """A repository with four snapshots of a folder, a checkpoint, and one of another machine."""

    repo: Path
    source: Path
    ids: list[str]
    tree: str
    before: str


def _fill(source: Path) -> None:
    shop = source / "shop"
    (shop / "node_modules" / "x").mkdir(parents=True)
    (shop / "package.json").write_text(json.dumps({"name": f"{HOSTILE}/script>", "dependencies": {"react": "18.2.0"}}))
    (shop / "app.py").write_text("import os\n" * 50)
    (shop / "settings.py").write_text(f"TOKEN = '{SECRET}'\n")
    (shop / "node_modules" / "x" / "index.js").write_bytes(b"x" * 700)
    (source / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0" + b"p" * 40_000)
    (source / f"{HOSTILE}.md").write_text("# hello\n")
    with open(os.path.join(os.fsencode(source), WEIRD), "wb") as file:
        file.write(b"weird\n")


async def _store(
    repository: Repository,
    world_paths: list[str],
    tree: str,
    day: int,
    *,
    host: str = "laptop",
    tags: tuple[str, ...] = (),
) -> str:
    when = (START + timedelta(days=day)).strftime("%Y-%m-%dT%H:%M:%SZ")
    number = DAYS.index(day) if day in DAYS else 0
    snapshot = Snapshot(
        time=when,
        tree=tree,
        paths=world_paths,
        hostname=host,
        tags=list(tags) or None,
        program_version="backupiq 0.1.0",
        summary=Summary(
            backup_start=when,
            backup_end=when,
            total_files_processed=6 + number,
            total_bytes_processed=TOTALS[number],
            data_added=1 << 20,
            data_added_packed=1 << 19,
        ),
    )
    return await repository.save_file(FileType.SNAPSHOT, encode_snapshot(snapshot))


async def _build(folder: Path) -> World:
    source = folder / "home"
    source.mkdir()
    repository = await new_repository(folder / "repository")
    try:
        _fill(source)
        first = await back_up(repository, folder, source)
        (source / "notes.txt").write_text("new\n" * 1000)
        second = await back_up(repository, folder, source, parent_tree=first.tree)
        for saved in (first, second):
            await repository.delete_file(FileType.SNAPSHOT, saved.snapshot_id)
        paths = [str(source)]
        trees = [first.tree, first.tree, second.tree, second.tree]
        ids = [await _store(repository, paths, tree, day) for tree, day in zip(trees, DAYS, strict=True)]
        await _store(repository, paths, first.tree, 2, tags=(CHECKPOINT_TAG,))
        await _store(repository, paths, first.tree, 5, host="desk")
        await _store(repository, ["/elsewhere"], first.tree, 6)
    finally:
        await repository.provider.close()
    return World(folder / "repository", source, ids, second.tree, first.tree)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return asyncio.run(_build(tmp_path_factory.mktemp("report")))


@pytest.fixture
def run(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    """Runs the command on the world's repository."""
    app = typer.Typer()
    app.command()(report)
    monkeypatch.setenv("BACKUPIQ_PASSWORD", PASSWORD)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def call(*arguments: str | Path, repo: Path = world.repo) -> Result:
        return CliRunner().invoke(app, [*map(str, arguments), "--repo", str(repo)])

    return call


def document(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


# --- what it says --------------------------------------------------------------------------------------------------


def test_it_says_what_the_snapshot_holds(run: Callable[..., Result], world: World) -> None:
    found = document(run(world.ids[3], "--json"))
    holds = found["holds"]
    files = {each["name"]: each["files"] for each in holds["categories"]}
    assert found["files"] == 8
    assert files["code"] == 2
    assert files["image"] == 1
    assert holds["regenerable"] == {"files": 1, "bytes": 700}
    assert [each["name"] for each in holds["languages"]] == ["Python"]
    assert "React" in {each["name"] for each in holds["frameworks"]}
    assert [each["name"] for each in holds["projects"]] == [f"{HOSTILE}/script>"]
    assert holds["largest"][0]["path"] == str(world.source / "photo.jpg")
    assert found["bytes"] == sum(each["bytes"] for each in holds["categories"]) + 700
    assert found["snapshot"]["id"] == world.ids[3]
    (decision,) = [each for each in found["decisions"] if each["regenerable"]]
    assert decision["path"] == str(world.source / "shop" / "node_modules")


def test_files_with_secrets_are_named_with_the_rule_and_never_the_secret(
    run: Callable[..., Result], world: World, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    result = run(world.ids[3], "--json", "--html", page)
    (risky,) = document(result)["holds"]["secrets"]
    assert risky["path"] == str(world.source / "shop" / "settings.py")
    assert risky["rules"]
    for shown in (result.output, page.read_text()):
        assert risky["rules"][0] in shown
        assert SECRET not in shown


def test_by_names_only_no_content_is_read(run: Callable[..., Result], world: World) -> None:
    found = document(run(world.ids[3], "--json", "--names-only"))
    assert not found["looked_inside"]
    assert found["holds"]["secrets"] == []
    assert found["files"] == 8
    shown = run(world.ids[3], "--names-only").stdout
    assert "Only names were looked at" in shown


def test_the_series_is_that_of_the_same_host_and_paths_without_checkpoints(
    run: Callable[..., Result], world: World
) -> None:
    series = document(run(world.ids[1], "--json", "--names-only"))["series"]
    assert [each["snapshot"] for each in series] == world.ids
    assert [each["bytes"] for each in series] == list(TOTALS)
    assert {(each["added"], each["stored"]) for each in series} == {(1 << 20, 1 << 19)}


def test_the_longest_time_without_a_snapshot_is_told(run: Callable[..., Result], world: World) -> None:
    protection = document(run(world.ids[3], "--json", "--names-only"))["protection"]
    assert protection["snapshots"] == 4
    assert protection["longest_gap"]["seconds"] == 37 * 86_400
    assert protection["longest_gap"]["to_ns"] - protection["longest_gap"]["from_ns"] == 37 * DAY
    assert "the longest time without one was 37 days" in run(world.ids[3], "--names-only").stdout


def test_deduplication_counts_what_snapshots_share_once(run: Callable[..., Result], world: World) -> None:
    stored = document(run(world.ids[3], "--json", "--names-only"))["stored"]
    one, all_of_them = stored["snapshot"], stored["series"]
    assert one["snapshots"] == 1
    assert all_of_them["snapshots"] == 4
    assert all_of_them["restore_bytes"] > 3 * one["restore_bytes"]
    assert all_of_them["plain_bytes"] < 1.5 * one["plain_bytes"]
    assert all_of_them["deduplication_ratio"] > 2.5
    assert one["compression_ratio"] == pytest.approx(one["plain_bytes"] / one["stored_bytes"], abs=0.001)


def test_the_text_shows_names_that_a_terminal_does_not_act_upon(run: Callable[..., Result], world: World) -> None:
    result = run(world.ids[3])
    assert result.exit_code == 0
    assert "\x1b" not in result.output
    assert "deduplication" in result.stdout
    assert "Files with secrets" in result.stdout
    assert "React" in result.stdout


def test_a_snapshot_whose_folders_are_damaged_is_still_reported(
    run: Callable[..., Result], world: World, tmp_path: Path
) -> None:
    repo = tmp_path / "repo"
    shutil.copytree(world.repo, repo)

    async def damage() -> None:
        provider = LocalProvider(repo)
        repository = await Repository.open(provider, PASSWORD)
        await repository.load_index()
        location = repository.index.find(bytes.fromhex(world.tree), BlobType.TREE)
        assert location is not None
        await provider.delete_file(pack_key(location.pack.hex()))
        await provider.close()

    asyncio.run(damage())
    found = document(run(world.ids[3], "--json", repo=repo))
    assert found["unreadable_folders"] == 1
    assert found["stored"] == {"snapshot": None, "series": None}
    assert len(found["series"]) == 4
    shown = run(world.ids[3], repo=repo).stdout
    assert "cannot be read" in shown
    assert "could not be added up" in shown


def test_a_report_loads_no_prefect_and_needs_no_catalog(world: World, tmp_path: Path) -> None:
    code = (
        "import sys, typer\n"
        "from backupiq.cli import explain, report\n"
        "app = typer.Typer(); app.command()(report.report); app.command()(explain.explain)\n"
        "app(sys.argv[1:], standalone_mode=False)\n"
        "assert not [name for name in sys.modules if name.partition('.')[0] == 'prefect']\n"
    )
    env = {**os.environ, "BACKUPIQ_PASSWORD": PASSWORD, "HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path)}
    common = [sys.executable, "-c", code]
    page = tmp_path / "page.html"
    subprocess.run(
        [*common, "report", "latest", "--host", "laptop", "--repo", str(world.repo), "--html", str(page)],
        env=env,
        check=True,
        capture_output=True,
    )
    assert page.exists()
    assert not [each for each in tmp_path.rglob("*") if "catalog" in each.name]


# --- the page ------------------------------------------------------------------------------------------------------

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """Follows the tags of a page; anything that is not closed in order is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.drawings: list[set[str]] = []
        self.errors: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        self.errors += [f"{tag} is not closed" for tag in self.open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if "svg" not in self.open:
            self.errors.append(f"{tag} closes itself outside a drawing")
        self._note(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.errors.append(f"{tag} closes what is not open, line {self.getpos()[0]}")

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def _note(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        if len(names) != len(set(names)):
            self.errors.append(f"{tag} has an attribute twice")
        self.tags.append((tag, dict(attrs)))
        if tag == "svg":
            self.drawings.append(set())
        elif self.drawings and self.open and self.open[-1] == "svg":
            self.drawings[-1].add(tag)


@pytest.fixture(scope="module")
def page(world: World) -> str:
    return render_page(made(world))


def made(world: World) -> Any:
    async def make() -> Any:
        repository = await Repository.open(LocalProvider(world.repo), PASSWORD)
        try:
            chosen = await repository.load_snapshot(world.ids[3])
            return await make_report(repository, chosen, now_ns=NOW_NS)
        finally:
            await repository.provider.close()

    return asyncio.run(make())


def test_the_page_is_well_formed_and_its_ids_are_unique(page: str) -> None:
    assert page.startswith("<!DOCTYPE html>")
    parsed = Page(page)
    assert parsed.errors == []
    ids = [attrs["id"] for _, attrs in parsed.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {"html", "head", "title", "body", "main", "h1"} <= {tag for tag, _ in parsed.tags}


def test_every_drawing_has_a_title_a_description_and_numbers_beside_it(page: str) -> None:
    parsed = Page(page)
    charts_drawn = [attrs for tag, attrs in parsed.tags if tag == "svg" and attrs.get("class") == "chart"]
    assert len(charts_drawn) >= 6
    ids = {attrs.get("id") for _, attrs in parsed.tags}
    for attrs in charts_drawn:
        assert attrs["role"] == "img"
        assert set((attrs["aria-labelledby"] or "").split()) <= ids
    assert [drawing for drawing in parsed.drawings if "desc" in drawing and "title" not in drawing] == []
    assert sum(tag == "table" for tag, _ in parsed.tags) >= 6
    assert ("html", {"lang": "en"}) in parsed.tags


def test_the_page_needs_nothing_else_and_runs_nothing(page: str) -> None:
    parsed = Page(page)
    for tag, attrs in parsed.tags:
        assert tag not in {"script", "link", "iframe", "img", "object", "embed", "base", "form", "a"}
        assert not [name for name in attrs if name.startswith("on") or name in {"src", "href", "xlink:href", "style"}]
    assert re.search(r"https?://|@import|url\(|javascript:", page) is None
    policy = next(attrs for tag, attrs in parsed.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert (policy["content"] or "").startswith("default-src 'none'")


def test_hostile_names_stay_text(page: str) -> None:
    assert "<script" not in page
    assert "<img" not in page
    assert "\x1b" not in page
    text = "".join(Page(page).text)
    assert f"{HOSTILE}.md" in text
    assert f"{HOSTILE}/script>" in text
    assert "<img src=x onerror=alert(2)> \\xff\\x1b[31m.txt" in text


def test_the_page_suits_dark_screens_and_paper(page: str) -> None:
    assert "@media (prefers-color-scheme: dark)" in page
    assert "@media print" in page


def test_the_page_tells_the_age_of_the_newest_snapshot_at_the_time_of_the_report(page: str) -> None:
    assert "The newest snapshot is 10 days old." in "".join(Page(page).text)


def test_the_page_is_private_and_replaces_an_older_one(
    run: Callable[..., Result], world: World, tmp_path: Path
) -> None:
    target, link = tmp_path / "page.html", tmp_path / "link.html"
    target.write_text("older")
    target.chmod(0o644)
    link.symlink_to(target)
    result = run(world.ids[3], "--names-only", "--html", link)
    assert result.exit_code == 0
    assert result.stdout == ""
    assert link.is_symlink()
    assert target.read_text().startswith("<!DOCTYPE html>")
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


def test_a_page_is_not_written_over_a_folder_a_device_or_into_a_folder_that_is_not_there(
    run: Callable[..., Result], world: World, tmp_path: Path
) -> None:
    for target in (tmp_path, Path("/dev/null"), tmp_path / "missing" / "page.html"):
        result = run(world.ids[3], "--html", target)
        assert isinstance(result.exception, ValidationError), target
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert not (tmp_path / "missing").exists()


# --- the parts -----------------------------------------------------------------------------------------------------


def snapshot_at(day: int, **more: Any) -> Snapshot:
    when = (START + timedelta(days=day)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Snapshot(**{"time": when, "tree": "0" * 64, "paths": ["/a", "/b"], "hostname": "h", **more})


def test_the_order_of_paths_makes_no_other_series_and_a_chosen_checkpoint_is_in_its_own() -> None:
    checkpoint = snapshot_at(3, tags=[CHECKPOINT_TAG], program_version="backupiq 1")
    found = [("1", snapshot_at(2)), ("2", snapshot_at(1, paths=["/b", "/a"])), ("3", checkpoint)]
    found.append(("4", snapshot_at(0, hostname="other")))
    assert [each for each, _ in series_of(found, found[0])] == ["2", "1"]
    assert [each for each, _ in series_of(found, found[2])] == ["2", "1", "3"]


@given(st.lists(st.integers(-(1 << 62), 1 << 62), min_size=1, max_size=50), st.integers(-(1 << 62), 1 << 62))
def test_protection_names_a_gap_that_none_exceeds(times: list[int], now: int) -> None:
    times.sort()
    found = protection_of(times, now)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert (found.longest.length_ns if found.longest else None) == max(gaps, default=None)
    assert found.newest_age_ns == max(0, now - times[-1])
    assert found.usual_ns is None or min(gaps) <= found.usual_ns <= max(gaps)


points = st.lists(
    st.builds(
        Point,
        st.text("0123456789abcdef", min_size=8, max_size=8),
        st.integers(-(1 << 62), 1 << 62),
        st.none() | st.integers(0, 1 << 63),
        st.none() | st.integers(0, (1 << 63) - 1),
        st.none() | st.integers(0, (1 << 63) - 1),
        st.none() | st.integers(0, (1 << 63) - 1),
    ),
    min_size=1,
    max_size=80,
)


@given(points, st.integers(-(1 << 62), 1 << 62))
def test_all_marks_stand_inside_the_drawing(found: list[Point], now: int) -> None:
    found.sort(key=lambda point: point.time_ns)
    line = charts.growth(found, found[0].snapshot, 200.0)
    if line is not None:
        for pair in line.line.split():
            x, y = map(float, pair.split(","))
            assert charts.LEFT <= x <= charts.WIDTH
            assert -0.1 <= y <= 200
    pairs = charts.changes(found, 160.0)
    if pairs is not None:
        assert len(pairs.pairs) <= charts.MOST_GROUPS
        for each in pairs.pairs:
            assert each.x >= charts.LEFT - 1
            assert each.x + 2 * each.width + 2 <= charts.WIDTH
            assert -0.1 <= each.added_y <= 160
    times = [point.time_ns for point in found]
    drawn = charts.time_line(times, protection_of(times, now), now)
    assert all(0 <= x <= charts.WIDTH for x in (*drawn.marks, *(drawn.gap or ()), drawn.now))


def test_thousands_of_snapshots_make_a_bounded_page_that_keeps_the_extremes(world: World) -> None:
    many = [Point(f"{n:08x}", n * DAY, 1, 100 + n % 7, 10, 5) for n in range(5000)]
    many[2500] = dataclasses.replace(many[2500], bytes=10**9)
    line = charts.growth(many, "none", 200.0)
    pairs = charts.changes(many, 160.0)
    assert line is not None
    assert pairs is not None
    drawn = [tuple(map(float, pair.split(","))) for pair in line.line.split()]
    assert len(drawn) <= charts.MOST_ON_A_LINE
    assert min(y for _, y in drawn) < 20
    assert sum(round(pair.added_height) > 0 for pair in pairs.pairs) == len(pairs.pairs) <= charts.MOST_GROUPS
    assert pairs.each == 84
    times = [point.time_ns for point in many]
    large = dataclasses.replace(made(world), series=many, protection=protection_of(times, NOW_NS))
    page = render_page(large)
    assert Page(page).errors == []
    assert len(page) < 200_000
    assert f"The newest {MOST_ROWS} snapshots" in page


def test_snapshots_without_numbers_and_names_only_make_a_page_too(world: World) -> None:
    bare = [Point(f"{n:08x}", n * DAY) for n in range(3)]
    unknown = dataclasses.replace(
        made(world),
        series=bare,
        holds=Counting().summary(),
        stored=None,
        series_stored=None,
        looked_inside=False,
        unreadable=3,
    )
    page = render_page(unknown)
    assert Page(page).errors == []
    assert "3 folders of the snapshot cannot be read" in page
    assert "Contents were not looked at" in page
    json.dumps(report_to_dict(unknown))


def test_a_single_snapshot_has_one_mark_and_no_gap() -> None:
    drawn = charts.time_line([NOW_NS], protection_of([NOW_NS], NOW_NS), NOW_NS)
    assert (len(drawn.marks), drawn.gap, len(drawn.x_ticks)) == (1, None, 1)
    assert charts.growth([Point("a", 1, 1, 1)], "a", 100.0) is None


def test_more_bars_than_there_is_room_for_become_one() -> None:
    drawn = charts.bars([(f"n{n}", 100 - n) for n in range(20)])
    assert len(drawn) == charts.MOST_BARS + 1
    assert drawn[-1].label == "8 others"
    assert max(bar.part for bar in drawn) == 1.0
    assert charts.bars([]) == []


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 seconds"),
        (1, "1 second"),
        (61, "1 minute 1 second"),
        (3600, "1 hour"),
        (90_000, "1 day 1 hour"),
        (37 * 86_400 + 3600, "37 days"),
        (-5, "0 seconds"),
    ],
)
def test_ages_are_told_in_the_unit_that_matters(seconds: int, words: str) -> None:
    assert ages(seconds * 10**9) == words


def test_a_summary_as_json_names_no_raw_bytes(world: World) -> None:
    found = to_dict(made(world).holds)
    assert "\\udcff" in json.dumps(found, ensure_ascii=False).encode().decode()
    assert {"categories", "languages", "frameworks", "projects", "largest", "secrets", "regenerable"} == set(found)

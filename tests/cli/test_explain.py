"""What explain says about files on the disk and in snapshots."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from backupiq.cli.explain import explain
from backupiq.errors import ConfigurationError, PathNotInSnapshotError, SourceNotFoundError
from backupiq.planning.explanation import Explanation
from backupiq.planning.explanation import explain as explain_in
from backupiq.semantics.importance import combine
from backupiq.semantics.model import Factor
from backupiq.semantics.surroundings import look_around
from tests.support.programs import isolated_home, plain_environment, require
from tests.unit.archive.saving import PASSWORD, back_up
from tests.unit.repository.repositories import new_repository

OLD = 1_500_000_000
SECRET = "ghp_" + "A1b2C3d4E5f6G7h8I9j0K1l2M3n4O5p6Q7r8"
PROJECT = {"name": "shop", "dependencies": {"react": "18.2.0", "express": "4.19.0"}}


@dataclasses.dataclass(frozen=True)
class World:
    """A home folder, and a repository with a snapshot of it."""

    home: Path
    repo: Path


def _fill(home: Path) -> None:
    shop = home / "shop"
    (shop / "node_modules" / "x").mkdir(parents=True)
    (shop / "tests").mkdir()
    (shop / "build").mkdir()
    (shop / "package.json").write_text(json.dumps(PROJECT))
    (shop / "app.py").write_text("import os\n" * 50)
    (shop / "tests" / "test_app.py").write_text("def test(): ...\n")
    (shop / "settings.py").write_text(f"import os\nTOKEN = '{SECRET}'\n")
    (shop / "node_modules" / "x" / "index.js").write_bytes(b"x" * 700)
    (shop / "build" / "kept.txt").write_text("mine\n")
    (shop / ".backupignore").write_text("app.py\n")
    (home / "film.mp4").write_bytes(b"\0" * 3_000_000)
    (home / "diary.txt").write_text("dear diary\n")
    (home / "link").symlink_to("film.mp4")
    with open(os.path.join(os.fsencode(home), b"\xff\x1b[31m.txt"), "wb") as file:
        file.write(b"weird\n")
    for folder, folders, files in os.walk(home):
        for name in (*folders, *files):
            os.utime(os.path.join(folder, name), (OLD, OLD), follow_symlinks=False)


async def _store(folder: Path, home: Path) -> None:
    (home / "shop" / ".backupignore").unlink()
    repository = await new_repository(folder / "repository")
    try:
        await back_up(repository, folder, home)
    finally:
        await repository.provider.close()
    (home / "shop" / ".backupignore").write_text("app.py\n")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("explain")
    home = folder / "home"
    home.mkdir()
    _fill(home)
    asyncio.run(_store(folder, home))
    return World(home, folder / "repository")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    """Runs the command."""
    app = typer.Typer()
    app.command()(explain)
    monkeypatch.setenv("BACKUPIQ_PASSWORD", PASSWORD)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("BACKUPIQ_REPOSITORY", raising=False)

    def call(*arguments: str | Path) -> Result:
        return CliRunner().invoke(app, [*map(str, arguments)])

    return call


def document(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, (result.output, result.exception)
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_the_factors_make_the_score(run: Callable[..., Result], world: World) -> None:
    found = document(run(world.home / "shop" / "tests" / "test_app.py", "--json"))
    assert found["importance"] == combine(Factor(**each) for each in found["factors"])
    assert found["role"] == "test"
    assert "role" in [each["name"] for each in found["factors"]]
    assert found["type"]["name"] == "Python"
    assert found["type"]["detected_by"] == "extension"


@pytest.mark.parametrize(
    "name",
    [
        "shop/app.py",
        "shop/settings.py",
        "shop/package.json",
        "shop/node_modules/x/index.js",
        "shop/build",
        "shop",
        "link",
    ],
)
def test_a_snapshot_says_the_same_as_the_disk(run: Callable[..., Result], world: World, name: str) -> None:
    live = document(run(world.home / name, "--json"))
    stored = document(run(world.home / name, "--json", "--snapshot", "latest", "--repo", world.repo))
    for each in (live, stored):
        for key in ("snapshot", "looked_at", "stored"):
            del each[key]
    if name == "shop":  # the file of patterns came after the snapshot
        assert live.pop("below")["files"] == stored.pop("below")["files"] + 1
    if live["kind"] != "file":
        for each in (live, stored):
            del each["size"], each["mtime_ns"]
    assert live == stored


def test_the_project_is_told_with_its_frameworks(run: Callable[..., Result], world: World) -> None:
    project = document(run(world.home / "shop" / "app.py", "--json"))["project"]
    assert project["name"] == "shop"
    assert project["root"] == str(world.home / "shop")
    assert {"name": "React", "version": "18.2.0"} in project["frameworks"]


def test_a_folder_that_can_be_made_again_is_named_with_its_rule_and_reason(
    run: Callable[..., Result], world: World
) -> None:
    found = document(run(world.home / "shop" / "node_modules" / "x" / "index.js", "--json"))
    assert found["regenerable"]
    assert found["decision"]["path"] == str(world.home / "shop" / "node_modules")
    assert "package.json" in found["decision"]["reason"]
    assert found["stored"]["number"] == found["stored"]["files"], "stored last"
    folder = document(run(world.home / "shop" / "node_modules", "--json"))
    assert folder["regenerable"]
    assert folder["importance"] is None
    assert folder["below"]["files"] == 1


def test_a_folder_that_was_refused_is_named_too(run: Callable[..., Result], world: World) -> None:
    found = document(run(world.home / "shop" / "build" / "kept.txt", "--json"))
    assert not found["regenerable"]
    assert found["decision"]["regenerable"] is False
    assert found["decision"]["path"] == str(world.home / "shop" / "build")
    assert found["decision"]["reason"]


def test_a_secret_is_told_by_rule_and_line_and_never_shown(run: Callable[..., Result], world: World) -> None:
    path = world.home / "shop" / "settings.py"
    (finding,) = document(run(path, "--json"))["secrets"]
    assert finding["line"] == 2
    assert set(finding) == {"rule", "line", "severity"}
    shown = run(path).stdout
    assert f"{finding['rule']} (line 2" in shown
    assert "it holds a secret" in shown
    assert SECRET not in shown


def test_what_matters_comes_before_what_is_large(run: Callable[..., Result], world: World) -> None:
    arguments = ("--json", "--repo", world.repo)
    diary = document(run(world.home / "diary.txt", *arguments))["stored"]
    film = document(run(world.home / "film.mp4", *arguments))["stored"]
    assert 1 <= diary["wave"] <= film["wave"] <= film["waves"]
    assert film["number"] > diary["number"]
    assert film["bytes_before"] >= 11
    assert film["files"] == diary["files"]
    assert film["bytes"] == diary["bytes"] >= 3_000_000


def test_the_wave_is_the_one_that_planning_makes(tmp_path: Path) -> None:
    for number in range(64):
        (tmp_path / f"letter{number}.odt").write_bytes(b"PK" + b"l" * 4000)
    (tmp_path / "film.mp4").write_bytes(b"\0" * 3_000_000)
    film, letter = (looked(tmp_path / name, 1000)[0].place for name in ("film.mp4", "letter0.odt"))
    assert film is not None
    assert letter is not None
    assert film.number == film.files == 65
    assert film.bytes_before == 64 * 4002
    assert (letter.wave, letter.number, letter.bytes_before) == (1, 1, 0)
    assert film.wave == film.waves > 1


def test_a_pin_decides(run: Callable[..., Result], world: World) -> None:
    path = world.home / "shop" / "app.py"
    found = document(run(path, "--json", "--pin", "*.py=low", "--pin", "app.py=77"))
    assert found["importance"] == 77
    assert found["factors"][-1]["name"] == "pin"
    anchored = run(path, "--json", "--repo", world.repo, "--pin", "/shop/=66")
    assert document(anchored)["importance"] == 66, "a leading slash begins at the source of the snapshot"
    assert isinstance(run(path, "--pin", "*.py=best").exception, ConfigurationError)


def test_what_backupignore_leaves_out_is_explained_all_the_same(run: Callable[..., Result], world: World) -> None:
    assert document(run(world.home / "shop" / "app.py", "--json"))["importance"] > 0


def test_a_file_that_is_only_in_a_snapshot_is_found_there(run: Callable[..., Result], world: World) -> None:
    path = world.home / "gone-soon.md"
    assert isinstance(run(path).exception, SourceNotFoundError)
    assert isinstance(run(path / "below").exception, SourceNotFoundError)
    missing = run(path, "--repo", world.repo)
    assert isinstance(missing.exception, PathNotInSnapshotError)
    moved = world.home.with_name("away")
    world.home.rename(moved)
    try:
        found = document(run(world.home / "diary.txt", "--json", "--repo", world.repo))
    finally:
        moved.rename(world.home)
    assert found["importance"] > 0
    assert found["snapshot"]


def test_what_is_no_regular_file_has_no_score(run: Callable[..., Result], world: World) -> None:
    found = document(run(world.home / "link", "--json"))
    assert (found["kind"], found["importance"], found["type"]) == ("symlink", None, None)
    assert "symlink; only regular files" in run(world.home / "link").stdout


def test_names_are_shown_so_that_a_terminal_does_not_act_upon_them(run: Callable[..., Result], world: World) -> None:
    path = os.fsdecode(os.path.join(os.fsencode(world.home), b"\xff\x1b[31m.txt"))
    result = run(path)
    assert result.exit_code == 0
    assert "\\xff\\x1b[31m.txt" in result.stdout
    assert "\x1b" not in result.stdout
    assert "path_base64" in document(run(path, "--json"))


def test_the_text_names_every_factor_and_the_wave(run: Callable[..., Result], world: World) -> None:
    result = run(world.home / "shop" / "tests" / "test_app.py")
    for expected in ("from 65", "x 0.8", "it is a test", "project:", "shop at", "React 18.2.0", "in wave "):
        assert expected in result.stdout, expected
    assert f"looked at:          all of {world.home / 'shop'}" in result.stdout


# --- git, and trees that are too large -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working copy of git, never pushed: in deep/ a file as committed, one changed since, and a new one."""
    git = str(require("git"))
    folder = tmp_path_factory.mktemp("git")
    root = folder / "copy"
    (root / "deep").mkdir(parents=True)
    for name in ("tracked.py", "changed.py"):
        (root / "deep" / name).write_text("print(1)\n")
    env = plain_environment() | isolated_home(folder)
    env |= {f"GIT_{who}_{what}": "a@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "one"]):
        subprocess.run([git, *arguments], cwd=root, env=env, check=True, capture_output=True)
    (root / "deep" / "changed.py").write_text("print(2, 'longer')\n")
    (root / "deep" / "new.py").write_text("print(3)\n")
    return root


def looked(path: Path, most_entries: int) -> tuple[Explanation, Any]:
    raw = os.fsencode(path)
    around = look_around(raw, is_folder=False, most_entries=most_entries)
    found = explain_in(around.files, raw, now_ns=OLD * 10**9, key=b"k" * 32, counts=around.covers)
    assert found is not None
    return found, around


@pytest.mark.parametrize("most_entries", [10_000, 3])
def test_git_is_asked_also_where_the_working_copy_is_too_large_to_walk(copy: Path, most_entries: int) -> None:
    states = {name: looked(copy / "deep" / f"{name}.py", most_entries) for name in ("tracked", "changed", "new")}
    assert {name: str(found.facts.git) for name, (found, _) in states.items()} == {
        "tracked": "unpushed",
        "changed": "modified",
        "new": "untracked",
    }
    for _, around in states.values():
        assert around.whole == (most_entries == 10_000)
        assert around.too_large == (None if around.whole else os.fsencode(copy))


def test_a_folder_that_is_too_large_is_said(
    run: Callable[..., Result], copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backupiq.semantics.surroundings.MOST_ENTRIES", 3)
    result = run(copy / "deep" / "tracked.py", "--json")
    assert "holds too many files to look at all of them" in result.stderr
    found = document(result)
    assert found["git"]["state"] == "unpushed"
    assert found["looked_at"] == {"path": str(copy / "deep"), "whole": False}
    assert found["stored"]["files"] == 3, "the folder's own"


def test_the_largest_project_that_fits_is_looked_at(tmp_path: Path) -> None:
    outer = tmp_path / "outer"
    inner = outer / "inner"
    inner.mkdir(parents=True)
    for folder in (outer, inner):
        (folder / "Cargo.toml").write_text("[package]\nname = 'x'\n")
    for number in range(20):
        (outer / f"file{number}").write_text("x")
    path = os.fsencode(inner / "Cargo.toml")
    assert look_around(path, is_folder=False, most_entries=10).root == os.fsencode(inner)
    assert look_around(path, is_folder=False, most_entries=10).too_large == os.fsencode(outer)
    assert look_around(path, is_folder=False, most_entries=100).files.directories()
    assert os.fsencode(outer).startswith(look_around(path, is_folder=False).root)


def test_the_root_folder_is_never_walked() -> None:
    around = look_around(b"/", is_folder=True)
    assert not around.whole
    assert [directory.path for directory in around.files.directories() if b"/.git" not in directory.path] == [b"/"]


def test_a_path_that_is_not_among_the_files_is_none(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    around = look_around(os.fsencode(tmp_path / "a"), is_folder=False)
    assert explain_in(around.files, os.fsencode(tmp_path / "b"), now_ns=0, key=b"k" * 32) is None

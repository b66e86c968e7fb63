"""The commands find and history."""

from __future__ import annotations

import base64
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from backupiq.catalog.store import Catalog
from backupiq.cli import find, history
from backupiq.errors import CatalogError, PathNotInSnapshotError, ValidationError
from tests.support import search_world as world
from tests.support.programs import ROOT


@pytest.fixture(scope="module")
def catalog_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = f"sqlite:///{tmp_path_factory.mktemp('catalog') / 'catalog.sqlite3'}"
    with Catalog.open(url) as catalog:
        world.fill(catalog.engine)
    return url


@pytest.fixture
def app(catalog_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[typer.Typer]:
    monkeypatch.setenv("BACKUPIQ_CATALOG_URL", catalog_url)
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    made = typer.Typer()
    made.command(context_settings=find.CONTEXT_SETTINGS)(find.find)
    made.command()(history.history)
    yield made
    monkeypatch.undo()
    time.tzset()


def run(app: typer.Typer, *arguments: str) -> Result:
    """Runs one command line. What it raises is raised here, as the console script handles it."""
    return CliRunner().invoke(app, arguments, catch_exceptions=False)


def hits(app: typer.Typer, *arguments: str) -> list[dict[str, Any]]:
    result = run(app, "find", "--json", *arguments)
    assert result.exit_code == 0
    found: list[dict[str, Any]] = json.loads(result.stdout)
    return found


def paths(app: typer.Typer, *arguments: str) -> list[str]:
    return [hit["path"] for hit in hits(app, *arguments)]


def test_find_says_what_a_file_is_where_it_is_and_how_to_have_it_back(app: typer.Typer) -> None:
    result = run(app, "find", "settings.py")
    lines = result.stdout.splitlines()
    assert lines[0] == world.SETTINGS
    assert lines[1].strip() == (
        "Python · code · 2.2 KiB · changed 2025-12-01 00:00:00 · importance 90 · project shop · git: untracked"
    )
    assert lines[2].strip() == (
        "on laptop, a1a1a1a1 (2026-01-01 00:00:00) to a3a3a3a3 (2026-03-01 12:00:00) · still there"
        " · at /srv/backup, s3://bucket/prefix"
    )
    assert lines[3].strip() == "secrets: github-pat (line 12, medium)"
    assert lines[4].strip() == f"backupiq restore a3a3a3a3:{world.SETTINGS} --target DIR"
    assert result.stderr == ""


def test_find_shows_names_in_escapes_and_the_command_in_the_words_of_a_shell(app: typer.Typer) -> None:
    shown = run(app, "find", "notes").stdout
    assert "\x1b" not in shown
    assert "/home/ada/notes/caf\\xe9 \\x1b[31m.txt" in shown
    command = shown.splitlines()[-1].strip()
    done = subprocess.run(
        ["bash", "-c", f"printf %s {command.split(maxsplit=2)[2].removesuffix(' --target DIR')}"],
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"a3a3a3a3:" + world.WEIRD
    assert shlex.split(run(app, "find", "uberblick").stdout.splitlines()[-1])[2] == f"a3a3a3a3:{world.REPORT}"


def test_find_joins_its_words(app: typer.Typer) -> None:
    assert paths(app, "shop", "language:python", "importance:>80") == paths(app, "shop language:python importance:>80")


def test_a_dash_leaves_a_word_out_and_is_no_option(app: typer.Typer) -> None:
    assert paths(app, "views", "-shop") == [world.SITE_VIEWS]
    assert paths(app, "views", "-home") == [world.SITE_VIEWS]  # -h alone would be help
    assert paths(app, "-host:laptop", "views") == [world.SITE_VIEWS]
    assert "Usage" in run(app, "find", "--help").stdout
    assert "Usage" in run(app, "find", "-h").stdout


def test_find_prints_json_with_everything_it_knows(app: typer.Typer) -> None:
    (hit,) = hits(app, "old-draft")
    assert {name: hit[name] for name in ("path", "kind", "size", "category", "language", "importance", "state")} == {
        "path": world.DRAFT,
        "kind": "file",
        "size": 33_000,
        "category": "document",
        "language": "OpenDocument Text",
        "importance": 55,
        "state": "deleted",
    }
    assert hit["first_snapshot"] == {"id": world.FIRST, "time_ns": world.at("2026-01-01")}
    assert hit["last_snapshot"]["id"] == world.SECOND
    assert hit["destinations"] == [world.LOCAL, world.BUCKET]
    assert hit["restore"]["snapshot"] == world.SECOND
    assert hit["restore"]["command"] == f"backupiq restore a2a2a2a2:{world.DRAFT} --target DIR"
    (weird,) = hits(app, "notes")
    assert base64.b64decode(weird["path_base64"]) == world.WEIRD
    (secret,) = hits(app, "secret:private-key")
    assert secret["secrets"] == [{"rule": "private-key", "line": 1, "severity": "high"}]


def test_find_sorts_limits_and_says_that_there_is_more(app: typer.Typer) -> None:
    result = run(app, "find", "category:document", "--sort", "size", "--limit", "2")
    assert [line for line in result.stdout.splitlines() if line.startswith("/")] == [world.REPORT, world.DRAFT]
    assert "more than these 2" in result.stderr
    assert len(paths(app, "shop views")) == 1
    assert len(paths(app, "shop views", "--versions")) == 2


def test_nothing_found_is_no_error_and_is_said_on_stderr(app: typer.Typer) -> None:
    result = run(app, "find", "nothing-like-this")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "backupiq: nothing found\n")
    assert hits(app, "nothing-like-this") == []
    meant = run(app, "find", "language:pyton").stderr
    assert "did you mean Python?" in meant


def test_a_query_that_is_wrong_is_refused_before_the_catalog_is_opened(
    app: typer.Typer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BACKUPIQ_CATALOG_URL", f"sqlite:///{tmp_path / 'none.sqlite3'}")
    with pytest.raises(ValidationError, match="did you mean language"):
        run(app, "find", "langauge:python")


@pytest.mark.parametrize("command", ["find", "history"])
def test_without_a_catalog_the_error_says_how_to_get_one_and_none_is_made(
    app: typer.Typer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str
) -> None:
    monkeypatch.setenv("BACKUPIQ_CATALOG_URL", f"sqlite:///{tmp_path / 'none.sqlite3'}")
    with pytest.raises(CatalogError, match="backupiq catalog update"):
        run(app, command, "shop")
    assert list(tmp_path.iterdir()) == []


# --- history --------------------------------------------------------------------------------------------------------


def test_history_shows_every_version_of_a_file(app: typer.Typer) -> None:
    lines = run(app, "history", world.VIEWS).stdout.splitlines()
    assert lines[0] == "laptop: /home/ada (3 snapshots)"
    assert lines[2].split() == ["Snapshot", "Time", "Size", "Modified", "Content", "Until"]
    first, second = lines[3].split(), lines[4].split()
    assert (first[0], first[3], first[4:6], first[-1]) == ("a1a1a1a1", "appeared", ["1000", "B"], "a1a1a1a1")
    assert (second[0], second[3], second[-1]) == ("a2a2a2a2", "changed", "a3a3a3a3")


def test_history_shows_when_a_file_vanished(app: typer.Typer) -> None:
    assert "a3a3a3a3  2026-03-01 12:00:00  vanished" in run(app, "history", world.DRAFT).stdout
    (one,) = json.loads(run(app, "history", world.DRAFT, "--json").stdout)["lineages"]
    (version,) = one["versions"]
    assert version["event"] == "appeared"
    assert version["vanished"] == {"id": world.THIRD, "time_ns": world.at("2026-03-01T12:00")}
    assert (version["last_snapshot"]["id"], version["size"]) == (world.SECOND, 33_000)


def test_history_of_a_folder_counts_what_changed_below_it(app: typer.Typer) -> None:
    shown = run(app, "history", "/home/ada/Documents/").stdout
    assert f"vanished {world.DRAFT}" in shown
    assert f"appeared {world.PLAN}" in shown
    (one,) = json.loads(run(app, "history", "/home/ada/Documents", "--json").stdout)["lineages"]
    assert [(change["snapshot"], change["appeared"], change["vanished"]) for change in one["below"]] == [
        (world.FIRST, 2, 0),
        (world.THIRD, 1, 1),
    ]
    assert one["below"][1]["examples"][0] == {"event": "vanished", "path": world.DRAFT}


def test_history_takes_a_path_from_where_the_person_stands(app: typer.Typer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/home" if Path("/home").is_dir() else "/")
    relative = "ada/Documents/plan.odt" if Path.cwd() == Path("/home") else "home/ada/Documents/plan.odt"
    assert "appeared" in run(app, "history", relative).stdout


def test_history_of_an_unknown_path_is_an_error(app: typer.Typer) -> None:
    with pytest.raises(PathNotInSnapshotError, match="backupiq find"):
        run(app, "history", "/home/ada/nowhere")


# --- what is imported -----------------------------------------------------------------------------------------------


def test_searching_imports_neither_prefect_nor_a_cloud_and_help_not_even_the_database(catalog_url: str) -> None:
    program = f"""
import sys
import typer
from backupiq.cli import find, history
assert "sqlalchemy" not in sys.modules
app = typer.Typer()
app.command(context_settings=find.CONTEXT_SETTINGS)(find.find)
app.command()(history.history)
app(["find", "shop"], standalone_mode=False)
app(["history", {world.VIEWS!r}], standalone_mode=False)
heavy = ["prefect", "boto3", "azure", "google.cloud", "pyicloud", "obstore", "alembic", "psycopg"]
assert [name for name in heavy if name in sys.modules] == []
"""
    environment = {"BACKUPIQ_CATALOG_URL": catalog_url, "PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert world.VIEWS in done.stdout

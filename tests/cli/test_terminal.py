"""The program on a real terminal: prompts, the progress bar, Ctrl-C."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import PASSWORD, Sample, Terminal
from tests.support.prefect_server import PrefectServer
from tests.support.programs import Restic

pytestmark = pytest.mark.skipif(os.name != "posix", reason="terminals of this kind are POSIX")
Start = Callable[..., Terminal]


def test_the_password_is_asked_for_and_not_shown(terminal: Start, sample: Sample) -> None:
    started = terminal("snapshots", "--no-lock", "--repo", sample.repo)
    started.expect("Password: ")
    started.type(PASSWORD)
    assert started.wait() == 0
    assert PASSWORD.encode() not in started.shown
    assert sample.second[:8].encode() in started.shown


def test_no_password_is_asked_for_where_there_is_no_repository(terminal: Start, tmp_path: Path) -> None:
    started = terminal("snapshots", "--repo", tmp_path / "nothing")
    assert started.wait() == 10
    assert b"Password" not in started.shown


def test_a_new_repository_asks_for_its_password_twice(terminal: Start, restic_old: Restic, tmp_path: Path) -> None:
    started = terminal("init", "--to", tmp_path / "repo")
    started.expect("Password: ")
    started.type("typed twice")
    started.expect("The same password again: ")
    started.type("typed twice")
    assert started.wait() == 0
    restic_old.run("check", repo=tmp_path / "repo", password="typed twice")
    assert not (tmp_path / "home" / ".config" / "backupiq" / "passwords").exists()


def test_two_different_passwords_make_no_repository(terminal: Start, tmp_path: Path) -> None:
    started = terminal("init", "--to", tmp_path / "repo")
    started.expect("Password: ")
    started.type("one")
    started.expect("again: ")
    started.type("other")
    assert started.wait() == 1
    assert not (tmp_path / "repo").exists()


def test_ctrl_c_at_the_prompt_ends_with_130(terminal: Start, sample: Sample) -> None:
    started = terminal("snapshots", "--repo", sample.repo)
    started.expect("Password: ")
    started.interrupt()
    assert started.wait() == 130
    assert b"Traceback" not in started.shown
    assert not list((sample.repo / "locks").glob("[0-9a-f]*"))


def test_a_new_key_is_asked_for_twice(terminal: Start, restic_old: Restic, own_sample: Sample) -> None:
    started = terminal("key", "add", "--repo", own_sample.repo, BACKUPIQ_PASSWORD=PASSWORD)
    for _ in range(2):
        started.expect("assword" if _ == 0 else "again: ")
        started.type("the new one")
    assert started.wait() == 0
    restic_old.run("snapshots", repo=own_sample.repo, password="the new one")


def test_a_backup_shows_a_bar_on_a_terminal(terminal: Start, prefect_server: PrefectServer, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_bytes(b"x" * 100_000)
    env = dict(prefect_server.settings(tmp_path / "home")) | {"BACKUPIQ_PASSWORD": PASSWORD}
    started = terminal("backup", source, "--to", tmp_path / "repo", **env)
    assert started.wait() == 0, started.shown.decode(errors="replace")
    assert "━".encode() in started.shown
    assert b"snapshot:  " in started.shown

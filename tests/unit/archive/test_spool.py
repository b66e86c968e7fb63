"""The spool: a private folder with a limit, and what dead runs leave is swept."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from backupiq.archive.spool import OWNER_FILE, Spool, default_parent
from backupiq.errors import CancelledRunError, DiskFullError


def never() -> bool:
    return False


def dead_pid() -> int:
    """The id of a process that has just ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def make_run_folder(parent: Path, name: str, owner: int | None) -> Path:
    folder = parent / f"run-{name}"
    folder.mkdir(parents=True)
    (folder / "pack").write_bytes(b"left behind")
    if owner is not None:
        (folder / OWNER_FILE).write_text(f"{owner}\n")
    return folder


def test_the_folder_is_for_its_owner_only_and_names_the_process(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path / "parent")
    assert spool.folder.stat().st_mode & 0o777 == 0o700
    assert int((spool.folder / OWNER_FILE).read_text()) == os.getpid()


def test_closing_removes_the_folder_with_all_it_holds(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path)
    (spool.folder / "pack").write_bytes(b"x")
    spool.close()
    assert list(tmp_path.iterdir()) == []
    spool.close()


def test_a_new_spool_sweeps_what_dead_runs_left_and_nothing_else(tmp_path: Path) -> None:
    dead = make_run_folder(tmp_path, "dead", dead_pid())
    alive = make_run_folder(tmp_path, "alive", os.getpid())
    another_users = make_run_folder(tmp_path, "init", 1)
    starting = make_run_folder(tmp_path, "starting", None)
    abandoned = make_run_folder(tmp_path, "abandoned", None)
    os.utime(abandoned, (0, 0))
    other = tmp_path / "not a run"
    other.mkdir()

    Spool.create(tmp_path)

    assert not dead.exists()
    assert not abandoned.exists()
    assert all(folder.exists() for folder in (alive, another_users, starting, other))


@pytest.mark.parametrize("owner", ["", "no number", "-1", "0", "99999999999999999999"])
def test_an_owner_file_that_makes_no_sense_kills_nobody_and_ends_no_run(tmp_path: Path, owner: str) -> None:
    folder = make_run_folder(tmp_path, "odd", None)
    (folder / OWNER_FILE).write_text(owner)
    os.utime(folder, (0, 0))
    spool = Spool.create(tmp_path)
    assert spool.folder.is_dir()


def test_reserving_waits_until_room_is_given_back(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, limit=100)
    spool.reserve(60, never)
    got = threading.Event()

    def second() -> None:
        spool.reserve(60, never)
        got.set()

    waiting = threading.Thread(target=second)
    waiting.start()
    assert not got.wait(0.05)
    spool.release(60)
    assert got.wait(10)
    waiting.join(10)
    assert spool.held == 60


def test_a_pack_larger_than_the_limit_fits_into_an_empty_spool(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, limit=10)
    spool.reserve(1000, never)
    assert spool.held == 1000


def test_a_stopped_run_does_not_wait_for_room(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, limit=10)
    spool.reserve(10, never)
    with pytest.raises(CancelledRunError):
        spool.reserve(10, lambda: True)
    assert spool.held == 10


def test_stopping_ends_a_wait_that_is_under_way(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, limit=10)
    spool.reserve(10, never)
    stopping, asked, ended = threading.Event(), threading.Event(), []

    def stopped() -> bool:
        asked.set()
        return stopping.is_set()

    def wait() -> None:
        try:
            spool.reserve(10, stopped)
        except CancelledRunError as error:
            ended.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert asked.wait(10)
    stopping.set()
    waiting.join(10)
    assert not waiting.is_alive()
    assert len(ended) == 1


def test_a_place_that_cannot_hold_the_spool_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DiskFullError, match="spool folder below"):
        Spool.create(tmp_path / "file")


def test_the_place_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKUPIQ_SPOOL", "/somewhere/spool")
    assert default_parent() == Path("/somewhere/spool")
    monkeypatch.delenv("BACKUPIQ_SPOOL")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert default_parent() == Path("/cache/backupiq/spool")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/anna")
    assert default_parent() == Path("/home/anna/.cache/backupiq/spool")

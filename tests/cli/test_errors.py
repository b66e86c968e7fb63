"""One clear line on stderr and the right exit code, whatever goes wrong; a traceback only when asked for."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from backupiq.cli.main import hoist_global_options
from backupiq.repository.gojson import format_time_ns
from backupiq.repository.lockfile import LockFile, encode_lock
from backupiq.repository.repository import FileType, Repository
from backupiq.storage.local import LocalProvider
from tests.cli.conftest import PASSWORD, Sample
from tests.support.programs import BackupIQ, Restic


def test_a_wrong_password_ends_with_12_and_says_where_it_came_from(program: BackupIQ, sample: Sample) -> None:
    done = program.run("snapshots", "--repo", sample.repo, password="wrong", check=False)
    assert done.returncode == 12
    assert done.stderr.count("\n") == 1
    assert "BACKUPIQ_PASSWORD" in done.stderr
    assert "wrong" not in done.stderr


def test_no_repository_ends_with_10(program: BackupIQ, tmp_path: Path) -> None:
    done = program.run("snapshots", "--repo", tmp_path / "nothing", check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (10, "", 1)


def test_a_locked_repository_ends_with_11(program: BackupIQ, restic_old: Restic, own_sample: Sample) -> None:
    lock_exclusively(program, own_sample)
    done = program.run("key", "list", "--repo", own_sample.repo, password=PASSWORD, check=False)
    assert done.returncode == 11
    assert "locked exclusively by process 1 of somebody at elsewhere" in done.stderr
    assert program.run("snapshots", "--no-lock", "--repo", own_sample.repo, password=PASSWORD).returncode == 0


def test_an_unknown_password_is_asked_for_by_name(program: BackupIQ, sample: Sample) -> None:
    done = program.run("snapshots", "--repo", sample.repo, check=False)
    assert done.returncode == 1
    assert "--password-file" in done.stderr


def test_no_repository_named_says_how_to_name_one(program: BackupIQ) -> None:
    done = program.run("snapshots", check=False)
    assert done.returncode == 1
    assert "--repo" in done.stderr
    assert "BACKUPIQ_REPOSITORY" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["ls"], ["snapshots", "--nonsense"], ["snapshots", "--retry-lock", "soon"], ["restore", "x"]],
)
def test_a_wrong_command_line_ends_with_2_in_one_line(program: BackupIQ, arguments: list[str]) -> None:
    done = program.run(*arguments, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def test_no_command_shows_the_help(program: BackupIQ) -> None:
    done = program.run(check=False)
    assert done.returncode == 2
    assert "Commands:" in done.stderr


def test_with_json_an_error_is_one_json_object(program: BackupIQ, sample: Sample) -> None:
    done = program.run("ls", "nothing", "--json", "--repo", sample.repo, password=PASSWORD, check=False)
    document = json.loads(done.stderr)
    assert (document["message_type"], document["code"], document["exit_code"]) == ("error", "snapshot.not_found", 1)
    usage = program.run("ls", "--json", check=False)
    assert json.loads(usage.stderr)["exit_code"] == 2


def test_a_traceback_appears_only_with_debug(program: BackupIQ, sample: Sample) -> None:
    arguments = ["ls", "nothing", "--repo", str(sample.repo)]
    assert "Traceback" not in program.run(*arguments, password=PASSWORD, check=False).stderr
    for place in (["--debug", *arguments], [*arguments, "--debug"]):
        done = program.run(*place, password=PASSWORD, check=False)
        assert "Traceback" in done.stderr
        assert PASSWORD not in done.stderr
        assert done.returncode == 1


def test_a_destination_of_a_kind_that_is_not_there_yet_is_refused(program: BackupIQ) -> None:
    done = program.run("snapshots", "--repo", "s3://user:secret@bucket/prefix", check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "secret" not in done.stderr


def test_the_version_is_shown(program: BackupIQ) -> None:
    assert program.run("--version").stdout.startswith("backupiq ")


def test_sigterm_ends_a_command_that_waits_for_a_lock(program: BackupIQ, own_sample: Sample) -> None:
    lock_exclusively(program, own_sample)
    waiting = program.start("snapshots", "--retry-lock", "1h", "--repo", own_sample.repo, password=PASSWORD)
    remembered = program.home / ".local" / "state" / "backupiq" / "last-repository.json"
    wait_until(remembered.exists)  # written just before the lock is asked for
    waiting.send_signal(signal.SIGTERM)
    output, errors = waiting.communicate(timeout=60)
    assert (waiting.returncode, output) == (130, "")
    assert "SIGTERM" in errors
    assert "Traceback" not in errors
    assert len(list((own_sample.repo / "locks").iterdir())) == 1


def test_sigterm_ends_a_password_command_that_takes_long(program: BackupIQ, sample: Sample, tmp_path: Path) -> None:
    started = tmp_path / "started"
    command = (
        f"""{sys.executable} -c 'import pathlib, sys, time; pathlib.Path(r"{started}").touch(); time.sleep(600)'"""
    )
    running = program.start("snapshots", "--repo", sample.repo, "--password-command", command)
    wait_until(started.exists)
    running.send_signal(signal.SIGTERM)
    running.communicate(timeout=60)
    assert running.returncode == 130


def test_global_options_may_stand_anywhere_before_the_double_dash() -> None:
    assert hoist_global_options(["ls", "--debug", "x", "--log-level", "info", "--", "--debug"]) == [
        "--debug",
        "--log-level",
        "info",
        "ls",
        "x",
        "--",
        "--debug",
    ]
    assert hoist_global_options(["ls", "--log-level=info"]) == ["--log-level=info", "ls"]
    assert hoist_global_options(["ls", "--log-level"]) == ["--log-level", "ls"]


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for another program; the test fails after two minutes."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def lock_exclusively(program: BackupIQ, sample: Sample) -> None:
    """Put the lock of a process of another machine into the repository."""

    async def write() -> None:
        async with LocalProvider(sample.repo) as provider:
            repository = await Repository.open(provider, PASSWORD)
            lock = LockFile(
                time=format_time_ns(time.time_ns()), exclusive=True, hostname="elsewhere", username="somebody", pid=1
            )
            await repository.save_file(FileType.LOCK, encode_lock(lock))

    asyncio.run(write())

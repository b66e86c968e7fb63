"""The commands setup and providers, as people and scripts run them."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backupiq.resilience.breaker import breaker_key
from backupiq.resilience.breaker_state import BreakerPolicy, BreakerState, opened
from backupiq.state import remember_repository
from backupiq.storage.local import LocalProvider
from tests.cli.conftest import Sample, Terminal
from tests.support.prefect_server import PrefectServer
from tests.support.programs import BackupIQ, isolated_home
from tests.support.servers.icloud import ICloudServer


@pytest.fixture(scope="module")
def icloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ICloudServer]:
    with ICloudServer(tmp_path_factory.mktemp("icloud")) as server:
        yield server


@pytest.fixture
def apple(icloud: ICloudServer, tmp_path: Path) -> dict[str, str]:
    """The variables of a machine that Apple does not know yet."""
    return icloud.environment(tmp_path / "session")


def open_breaker(server: PrefectServer, folder: Path, reason: str) -> str:
    """Leave an open breaker in Prefect's API, as another run would; its key."""
    provider = LocalProvider(folder)
    key = breaker_key(provider.identity)
    state = opened(BreakerState(label=provider.location), time.time(), BreakerPolicy(cooldown=3000.0), reason=reason)
    body = {"name": f"backupiq-breaker-{key}-{state.generation:08d}", "value": state.to_json()}
    server.call("/variables/", body)
    return key


# --- providers -----------------------------------------------------------------------------------------------------


def test_destinations_are_shown_with_what_is_wrong_and_a_breaker_can_be_closed(
    backupiq: BackupIQ, prefect_server: PrefectServer, own_sample: Sample, tmp_path: Path
) -> None:
    absent = tmp_path / "absent"
    named = ["--repo", own_sample.repo, "--to", absent]
    key = open_breaker(prefect_server, own_sample.repo, "It refused us.\x1b[31m")
    shown = backupiq.run("providers", *named, check=False)
    assert shown.returncode == 1
    lines = shown.stdout.splitlines()
    assert lines[0].split() == ["Destination", "Kind", "Health", "Breaker", "Free", "Last", "success"]
    assert lines[1].split()[:4] == [str(own_sample.repo), "local", "ok", "open"]
    assert lines[2].split()[:4] == [str(absent), "local", "PROBLEM", "closed"]
    assert f"{absent}: There is no folder {absent}" in shown.stdout
    assert f"{own_sample.repo}: its breaker is open until 2" in shown.stdout
    assert "It refused us.\\x1b[31m" in shown.stdout
    assert f"backupiq providers --reset {key}" in shown.stdout

    closed = backupiq.run("providers", "--reset", key).stdout
    assert closed == f"{own_sample.repo}: its breaker was open and is closed now.\n"


def test_the_destinations_last_used_here_serve_and_prefect_may_be_away(backupiq: BackupIQ, own_sample: Sample) -> None:
    env = isolated_home(backupiq.home)
    remember_repository([str(own_sample.repo)], env)
    away = {"PREFECT_API_URL": "http://127.0.0.1:9/api", "PREFECT_CLIENT_MAX_RETRIES": "0"}
    shown = backupiq.run("providers", "--json", env=away)
    assert "using the repository last used on this machine" in shown.stderr
    assert "So the breakers are not known." in shown.stderr
    told = json.loads(shown.stdout)
    (ours,) = told["destinations"]
    assert (ours["location"], ours["usable"], ours["repository"]) == (str(own_sample.repo), True, True)
    assert ours["newest_snapshot"].startswith("20")
    assert ours["breaker"] is None
    assert told["prefect"]["code"] == "run.orchestration"


def test_without_any_destination_the_command_says_what_to_give(program: BackupIQ) -> None:
    done = program.run("providers", check=False)
    assert done.returncode == 1
    assert "--repo DEST" in done.stderr


# --- providers test ------------------------------------------------------------------------------------------------


def test_a_destination_is_tried_out_step_by_step(program: BackupIQ, tmp_path: Path) -> None:
    done = program.run("providers", "test", tmp_path)
    assert [line.split() for line in done.stdout.splitlines()[:5]] == [
        [step, "ok"] for step in ("connect", "write", "list", "read", "delete")
    ]
    assert done.stdout.endswith(f"{tmp_path} works.\n")
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_a_destination_that_does_not_work_says_why_and_the_exit_code_too(program: BackupIQ, tmp_path: Path) -> None:
    done = program.run("providers", "test", tmp_path / "absent", check=False)
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "connect  FAILED",
        f"The folder of {tmp_path / 'absent'} does not exist. "
        f"Create it, or run `backupiq init --to {tmp_path / 'absent'}`.",
    ]
    told = json.loads(program.run("providers", "test", tmp_path / "absent", "--json", check=False).stdout)
    assert (told["ok"], told["failed"], told["code"]) == (False, "connect", "storage.not_found")


# --- setup ---------------------------------------------------------------------------------------------------------


def test_setup_with_the_embedded_server_says_what_it_did(
    backupiq_alone: BackupIQ, prefect_server: PrefectServer
) -> None:
    # A database that is made already: making one takes half a minute, and other tests do it.
    prefect_home = backupiq_alone.home / ".prefect"
    prefect_home.mkdir()
    with (
        sqlite3.connect(Path(prefect_server.home) / "prefect.db") as made,
        sqlite3.connect(prefect_home / "prefect.db") as copy,
    ):
        made.backup(copy)
        copy.execute("DELETE FROM concurrency_limit_v2")
    items = backupiq_alone.json("setup", "--limit", "s3=8", "--global-limit", "my-slots=2")["items"]
    limits = {item["name"]: (item["limit"], item["outcome"]) for item in items if item["limit"]}
    others = dict.fromkeys((f"backupiq-{kind}" for kind in ("gcs", "azure", "icloud")), (16, "created"))
    assert limits == others | {"backupiq-s3": (8, "created"), "my-slots": (2, "created")}
    assert "BackupIQ S3 Destination" in [item["name"] for item in items if item["what"] == "block type"]


def test_a_limit_that_is_none_is_refused_before_prefect_is_asked(program: BackupIQ) -> None:
    away = {"PREFECT_API_URL": "http://127.0.0.1:9/api"}
    done = program.run("setup", "--limit", "ftp=3", env=away, check=False)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "'ftp' is no kind of destination" in done.stderr


# --- providers login -----------------------------------------------------------------------------------------------


def test_signing_in_on_a_terminal_asks_for_the_code_and_keeps_the_trust(
    program: BackupIQ, terminal: Callable[..., Terminal], icloud: ICloudServer, apple: dict[str, str]
) -> None:
    tried = program.run("providers", "test", "icloud:/Backups", env=apple, check=False)
    assert tried.returncode == 1
    assert "backupiq providers login icloud:/Backups" in tried.stdout
    without_password = {name: value for name, value in apple.items() if name != "BACKUPIQ_ICLOUD_PASSWORD"}
    asked = terminal("providers", "login", "icloud:/Backups", **without_password)
    asked.expect("password of the Apple ID: ")
    asked.type(icloud.password)
    asked.expect("code (or only Enter")
    asked.type("000000")
    asked.expect("does not take that code")
    asked.expect("code (or only Enter")
    asked.type("")
    asked.expect("code (or only Enter")
    asked.type(f"{icloud.code[:3]} {icloud.code[3:]}")
    asked.expect("Apple trusts this machine now")
    assert asked.wait() == 0
    again = program.run("providers", "login", "icloud:/Backups", env=apple)
    assert again.stdout == "icloud:/Backups: Apple trusts this machine already.\n"
    tried = program.run("providers", "test", "icloud:/Backups", env=apple, check=False)
    assert "backupiq init --to icloud:/Backups" in tried.stdout
    session = Path(apple["BACKUPIQ_ICLOUD_SESSION_DIR"])
    assert session.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in session.rglob("*"))


def test_codes_that_are_wrong_are_not_tried_for_ever(
    terminal: Callable[..., Terminal], icloud: ICloudServer, apple: dict[str, str]
) -> None:
    asked = terminal("providers", "login", "icloud:/Backups", **apple)
    for _ in range(3):
        asked.expect("code (or only Enter")
        asked.type("000000")
    asked.expect("Apple did not take the code")
    assert asked.wait() == 1


def test_a_script_gives_the_code_on_standard_input(
    program: BackupIQ, icloud: ICloudServer, apple: dict[str, str]
) -> None:
    login = ["providers", "login", "icloud:/Backups"]
    silent = program.run(*login, env=apple, check=False)
    assert silent.returncode == 1
    assert "--code-stdin" in silent.stderr
    wrong = program.run(*login, "--code-stdin", env=apple, stdin="000000\n", check=False)
    assert wrong.returncode == 1
    assert "Apple did not take the code" in wrong.stderr
    done = program.run(*login, "--code-stdin", "--json", env=apple, stdin=f"{icloud.code}\n")
    assert json.loads(done.stdout) == {"location": "icloud:/Backups", "needed": "code", "trusted": True}
    anew = program.run(*login, "--code-stdin", "--anew", env=apple, stdin=f"{icloud.code}\n")
    assert "signed in" in anew.stdout
    every = f"{silent.stderr}{wrong.stderr}{done.stdout}{done.stderr}{anew.stdout}{anew.stderr}"
    assert icloud.password not in every
    assert icloud.apple_id not in every


def test_a_refused_password_is_told_in_one_line(program: BackupIQ, apple: dict[str, str]) -> None:
    env = apple | {"BACKUPIQ_ICLOUD_PASSWORD": "not-the-password"}
    done = program.run("providers", "login", "icloud:/Backups", "--code-stdin", env=env, check=False)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "not-the-password" not in done.stderr

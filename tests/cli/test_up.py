"""A Prefect server that stays: up, down and status, and what they leave alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupiq.errors import ConfigurationError, OrchestrationError, ResourceError, ValidationError
from backupiq.profile import Profile
from backupiq.profiles import profiles_dir, write_profile
from flows import local_server, local_service, systemd_units
from flows.bounded_log import BoundedLog, last_lines
from flows.environment import DASHBOARD, has_api, prepare_environment
from flows.local_server import LocalState, alone, load_state, save_state, start_server, stop_all
from flows.processes import Process, is_running, mark_of, stop
from tests.support.prefect_server import PrefectServer
from tests.support.programs import BackupIQ, backupiq_program, isolated_home, unavailable

RUN_SECONDS = 180.0


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This process's own folders, away from the user's, and no Prefect configured."""
    for name in ("XDG_STATE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("PREFECT_API_URL", "PREFECT_HOME", "PREFECT_PROFILES_PATH", "PREFECT_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs until it is ended."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


def as_process(process: subprocess.Popen[bytes]) -> Process:
    mark = mark_of(process.pid)
    assert mark is not None
    return Process(process.pid, mark)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- the whole way -------------------------------------------------------------------------------------------------


def ask(url: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"content-type": "application/json"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - own loopback URL
        return json.load(answer)


def test_what_is_up_runs_a_deployment_and_goes_down_again(tmp_path: Path) -> None:
    home, vault = tmp_path / "home", tmp_path / "vault"
    password = make_profile(home, tmp_path / "documents", vault)
    program = BackupIQ(backupiq_program(), home, None, {"DO_NOT_TRACK": "1"})
    try:
        first = program.json("up", "--port", str(free_port()))
        assert (first["server"], first["worker"]) == ("started", "started")
        made = {item["name"] for item in first["items"] if item["what"] == "deployment"}
        assert made == {"backup-nightly", "heal-hourly", "catalog-maintenance"}
        database = home / ".local/state/backupiq/prefect"
        assert database.stat().st_mode & 0o777 == 0o700
        assert (database / "prefect.db").stat().st_mode & 0o077 == 0

        nightly = ask(f"{first['api']}/deployments/name/backup/backup-nightly")
        (planned,) = [each for each in nightly["schedules"] if each["active"]]
        assert (planned["slug"], planned["parameters"]) == ("profile-home", {"profile": "home"})
        body = {"parameters": planned["parameters"], "state": {"type": "SCHEDULED"}}
        run = ask(f"{first['api']}/deployments/{nightly['id']}/create_flow_run", body)["id"]
        assert wait_for(first["api"], run) == "COMPLETED"
        assert len(program.json("snapshots", "--repo", vault, "--password-file", password)) == 1

        up = program.json("status")
        assert (up["up"], up["server"], up["worker"], up["ui"]) == (True, "running", "running", first["ui"])
        second = program.json("up")
        assert (second["server"], second["worker"], second["ui"]) == ("runs already", "runs already", first["ui"])
        assert changes(second["items"]) == []
        assert program.json("status")["server_pid"] == up["server_pid"]
        # A command that needs Prefect asks this server.
        assert changes(program.json("setup")["items"]) == []
    finally:
        stopped = program("down", "--json", check=False)
    assert sorted(json.loads(stopped.stdout)["stopped"]) == ["server", "worker"]
    assert [mark_of(up[f"{role}_pid"]) for role in ("server", "worker")] == [None, None]
    down = program("status", check=False)
    assert (down.returncode, "stopped" in down.stdout) == (3, True)
    assert program.json("down") == {"stopped": []}


def changes(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What is not as it was; nobody has named a block that would notify people."""
    return [item for item in items if item["outcome"] != "unchanged" and "--notify" not in item["reason"]]


def make_profile(home: Path, source: Path, vault: Path) -> Path:
    """A profile named home with a schedule; the file of its password."""
    source.mkdir()
    (source / "letter.txt").write_text("Dear Anna,\n")
    password = home / "password"
    profile = Profile(
        name="home",
        backup={"paths": [str(source)], "to": [str(vault)]},
        key={"password_file": str(password)},
        schedule={"cron": "0 3 1 1 *", "timezone": "Europe/Berlin"},
    )
    write_profile(profile, profiles_dir(isolated_home(home)) / "home.toml")
    password.write_text("a password that stands nowhere else")
    password.chmod(0o600)
    return password


def wait_for(api: str, run: str) -> str:
    """The type of state that the run ends in; the worker looks for runs every few seconds."""
    end = time.monotonic() + RUN_SECONDS
    while True:
        state: str = ask(f"{api}/flow_runs/{run}")["state"]["type"]
        if state not in ("SCHEDULED", "PENDING", "RUNNING") or time.monotonic() > end:
            return state
        time.sleep(0.2)


# --- processes -----------------------------------------------------------------------------------------------------


def test_a_process_that_got_the_id_of_one_that_is_gone_is_left_alone(
    home: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    before = Process(sleeper.pid, "of another time")
    with alone():
        save_state(LocalState(free_port(), before, before, "here"))
        assert stop_all() == {"server": False, "worker": False}
    assert sleeper.poll() is None
    assert is_running(as_process(sleeper))


def test_a_process_is_stopped_by_force_when_it_does_not_listen() -> None:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True) as deaf:
        assert deaf.stdout is not None
        deaf.stdout.readline()
        known = as_process(deaf)
        assert stop(known, 0.2)
        assert not is_running(known)
        assert not stop(known, 0.2)


def test_a_process_that_has_ended_and_was_not_collected_does_not_run(sleeper: subprocess.Popen[bytes]) -> None:
    known = as_process(sleeper)
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert not is_running(known)


def test_down_stops_both_and_the_next_server_has_the_same_port(home: Path, sleeper: subprocess.Popen[bytes]) -> None:
    with alone():
        save_state(LocalState(4321, as_process(sleeper), None, "here"))
        assert stop_all() == {"server": True, "worker": False}
    assert sleeper.wait() == -signal.SIGTERM
    assert load_state() == LocalState(4321, queue="here")


def test_only_one_of_these_commands_at_a_time(home: Path) -> None:
    with alone(), pytest.raises(ResourceError, match="under way"), alone():
        pass


def test_a_port_that_another_program_has_is_refused(home: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with alone(), pytest.raises(ResourceError, match="--port"):
            start_server(other.getsockname()[1])
    assert load_state() is None


def test_a_server_that_runs_is_not_moved_to_another_port(home: Path, sleeper: subprocess.Popen[bytes]) -> None:
    with alone():
        save_state(LocalState(4321, as_process(sleeper)))
        with pytest.raises(ValidationError, match="4321 already"):
            start_server(4322)


def test_a_server_that_ends_at_once_is_told_with_the_end_of_its_log(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_SERVER_API_KEEPALIVE_TIMEOUT", "no number")
    with alone(), pytest.raises(OrchestrationError, match=r"ended right after its start: .+server\.log"):
        start_server(free_port())


@pytest.mark.parametrize("text", ["", "{", "[]", '{"port": "x"}', '{"port": 1, "server": 5}'])
def test_a_state_file_that_is_no_state_counts_as_none(text: str, home: Path) -> None:
    with alone():
        (local_server.folder() / "local.json").write_text(text)
    assert load_state() is None


def test_status_and_down_have_nothing_to_do_where_nothing_is_up(program: BackupIQ) -> None:
    assert program("status", check=False).returncode == 3
    assert program("status", "--json", check=False).returncode == 3
    assert program.json("down") == {"stopped": []}
    assert not (program.home / ".prefect").exists()


def test_the_process_of_a_run_ends_with_the_engines_exit_code() -> None:
    done = subprocess.run([sys.executable, "-m", "flows.engine", "no id"], capture_output=True, text=True, check=False)
    assert (done.returncode, "Invalid flow run id" in done.stderr) == (1, True)


# --- settings ------------------------------------------------------------------------------------------------------


def test_the_users_settings_stand_but_for_the_address_and_the_folder(home: Path) -> None:
    own = {
        "PREFECT_API_URL": "http://elsewhere/api",
        "PREFECT_HOME": "/elsewhere",
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": "postgresql+asyncpg://db",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "",
        "PATH": "/bin",
    }
    server = local_service.settings("server", 4321, own)
    assert "PREFECT_API_URL" not in server
    assert server["PREFECT_SERVER_API_PORT"] == "4321"
    assert server["PREFECT_HOME"] == str(local_server.folder())
    assert server["PREFECT_SERVER_DATABASE_CONNECTION_URL"] == "postgresql+asyncpg://db"
    assert server["PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED"] == ""
    worker = local_service.settings("worker", 4321, own)
    assert worker["PREFECT_API_URL"] == "http://127.0.0.1:4321/api"
    assert worker["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)


def test_later_commands_use_the_server_that_is_up(
    home: Path, prefect_server: PrefectServer, sleeper: subprocess.Popen[bytes]
) -> None:
    with alone():
        save_state(LocalState(prefect_server.port, as_process(sleeper)))
    told: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_API_URL", "")
        prepare_environment(tell=told.append)
        assert os.environ["PREFECT_API_URL"] == prefect_server.api_url
        os.environ["PREFECT_API_URL"] = ""
        sleeper.kill()
        sleeper.wait()
        prepare_environment(tell=told.append)
        assert os.environ["PREFECT_API_URL"] == ""
    assert told == [DASHBOARD]


def test_the_way_to_the_dashboard_is_told_once_on_a_machine(home: Path) -> None:
    told: list[str] = []
    for _ in range(3):
        prepare_environment(tell=told.append)
    assert told == [DASHBOARD]


def test_an_api_that_the_user_named_is_kept(home: Path) -> None:
    assert has_api({"PREFECT_API_URL": "http://nas:4200/api"})
    (home / ".prefect").mkdir()
    profiles = home / ".prefect" / "profiles.toml"
    assert not has_api({})
    profiles.write_text('active = "nas"\n[profiles.nas]\nPREFECT_API_URL = "http://nas:4200/api"\n[profiles.local]\n')
    assert has_api({})
    assert not has_api({"PREFECT_PROFILE": "local"})
    assert not has_api({"PREFECT_HOME": "/elsewhere"})
    profiles.write_text("no toml")
    assert not has_api({})


# --- logs ----------------------------------------------------------------------------------------------------------


def test_a_log_is_put_aside_when_it_is_full_and_old_ones_go(tmp_path: Path) -> None:
    log = BoundedLog(tmp_path / "log", most=10, kept=2)
    for number in range(1, 6):
        log.write(f"line {number}\n".encode())
    log.close()
    kept = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert kept == {"log": "line 5\n", "log.1": "line 4\n", "log.2": "line 3\n"}
    assert (tmp_path / "log").stat().st_mode & 0o077 == 0
    assert last_lines(tmp_path / "log") == ["line 5"]


def test_all_that_a_process_and_its_children_print_is_in_the_log(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys; from pathlib import Path; from flows.bounded_log import print_into;"
        "print_into(Path(sys.argv[1])); print('mine', flush=True); subprocess.run(['echo', 'of a child']); 1/0"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "log")], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")
    text = (tmp_path / "log").read_text()
    assert text.startswith("mine\nof a child\n")
    assert "ZeroDivisionError" in text


# --- systemd -------------------------------------------------------------------------------------------------------


def units(**env: str) -> dict[str, str]:
    return {
        name: systemd_units.render((systemd_units.shipped() / name).read_text(), port=4321, queue="laptop", env=env)
        for name in systemd_units.NAMES
    }


def test_systemd_takes_the_units(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        unavailable("systemd-analyze is not on this machine; install the package systemd")
    made = units(XDG_STATE_HOME='/home/anna/5 % of "all" $things')
    assert systemd_units.verify(made) == []
    assert not [line for text in made.values() for line in text.splitlines() if "@" in line and line[0] != "#"]
    worker = systemd_units.NAMES[1]
    wrong = made[worker].replace("KillMode=mixed", "KillMode=perhaps")
    assert "perhaps" in systemd_units.verify({**made, worker: wrong})[0]


def test_the_units_name_this_installation_and_its_folders() -> None:
    made = units(XDG_STATE_HOME="/somewhere/state")
    for text in made.values():
        assert f'ExecStart="{sys.executable}" -m flows.local_service' in text
        assert 'Environment="XDG_STATE_HOME=/somewhere/state"' in text
        assert "--port 4321" in text
    assert '--queue "laptop"' in made["backupiq-worker.service"]


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_a_word_of_a_unit_means_itself(text: str) -> None:
    word = systemd_units.quoted(text)
    assert word[0] == word[-1] == '"'
    read = word[1:-1].replace("$$", "$").replace("%%", "%")
    plain, escaped = "", False
    for character in read:
        assert escaped or character != '"'
        if character == "\\" and not escaped:
            escaped = True
            continue
        plain, escaped = plain + character, False
    assert (plain, escaped) == (text, False)


def test_a_path_that_no_unit_can_hold_is_refused() -> None:
    with pytest.raises(ConfigurationError):
        systemd_units.quoted("two\nlines")


def test_without_systemd_for_this_user_the_units_are_written_and_the_rest_is_told(program: BackupIQ) -> None:
    env = {"PATH": str(program.program.parent), "XDG_RUNTIME_DIR": None, "DBUS_SESSION_BUS_ADDRESS": None}
    done = program("up", "--systemd", "--port", str(free_port()), env=env)
    assert "backupiq up --systemd" in done.stdout
    folder = program.home / ".config/systemd/user"
    assert {path.name for path in folder.iterdir()} == set(systemd_units.NAMES)
    assert not (program.home / ".local/state/backupiq/prefect/local.json").exists()

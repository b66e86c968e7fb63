"""Ctrl-C, SIGTERM and a cancel through Prefect's API: the run ends soon, gives all back, and the next goes on."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.interruptions import SIGNALS as SIGNALS_NOTED
from flows.interruptions import Interruptions
from tests.faults.support import (
    PATIENCE_SECONDS,
    hashes_below,
    locks_of,
    misnamed,
    pack_sizes,
    spool_folders,
    temporary_files,
    wait_for,
)
from tests.support.prefect_server import PrefectServer
from tests.support.programs import BackupIQ, Restic
from tests.unit.archive.saving import back_up
from tests.unit.repository.repositories import PASSWORD, new_repository

PROMISED_SECONDS = 5.0
ALLOWED_SECONDS = 10.0
"""Twice what is promised: other work may hold the machine."""

Send = Callable[["Running"], None]


class Running:
    """A run under way, its stderr read on so that it never has to wait for us."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines.extend(iter(self.process.stderr.readline, ""))

    def wait_until(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert self.process.poll() is None, f"ended before {what}: {self.text()}"
            assert time.monotonic() < deadline, f"no sign of {what}: {self.text()}"
            time.sleep(0.002)

    def wait_for_line(self, text: str) -> None:
        self.wait_until(lambda: any(text in line for line in list(self.lines)), f"the line {text!r}")

    def end(self) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        assert self.process.stdout is not None
        output = self.process.stdout.read()
        code = self.process.wait(PATIENCE_SECONDS)
        self._reader.join(PATIENCE_SECONDS)
        return code, output, self.text()

    def text(self) -> str:
        return "".join(self.lines)


def interrupt_group(running: Running) -> None:
    """Ctrl-C at a terminal: SIGINT to every process of the group."""
    os.killpg(running.process.pid, signal.SIGINT)


def terminate(running: Running) -> None:
    running.process.send_signal(signal.SIGTERM)


class Api:
    """Prefect's REST API, spoken to as any other program would."""

    def __init__(self, server: PrefectServer) -> None:
        self.post = server.call

    def run_named(self, part: str) -> dict[str, Any]:
        """The newest flow run whose name holds the text."""
        runs = self.post(
            "/flow_runs/filter", {"sort": "START_TIME_DESC", "flow_runs": {"name": {"like_": part}}, "limit": 1}
        )
        return dict(runs[0]) if runs else {}

    def cancel(self, part: str) -> None:
        """What the button in the UI does to a run that no worker carries out."""
        found = self.run_named(part)
        assert found["state_type"] == "RUNNING", found
        answer = self.post(f"/flow_runs/{found['id']}/set_state", {"state": {"type": "CANCELLED"}, "force": True})
        assert answer["status"] == "ACCEPT", answer

    def wait_until_cancelled(self, part: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (state := self.run_named(part).get("state_type")) != "CANCELLED":
            assert time.monotonic() < deadline, f"the run is {state}"
            time.sleep(0.1)


def cancelling(api: Api, name: str) -> Send:
    """Cancels the run whose name holds the text.

    The process then runs a fifth of the time, so that it is not done before it has asked Prefect about itself.
    """

    def slow_down(process: subprocess.Popen[str]) -> None:
        while process.poll() is None:
            process.send_signal(signal.SIGSTOP)
            time.sleep(0.04)
            process.send_signal(signal.SIGCONT)
            time.sleep(0.01)

    def send(running: Running) -> None:
        api.cancel(name)
        threading.Thread(target=slow_down, args=[running.process], daemon=True).start()

    return send


@pytest.fixture
def api(prefect_server: PrefectServer) -> Api:
    return Api(prefect_server)


@pytest.fixture(scope="module")
def big_source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Some 200 MB that do not compress: enough for a run of seconds, and for packs long before its end."""
    folder = tmp_path_factory.mktemp("big") / "big source"
    rng = random.Random(5)
    for number in range(60):
        path = folder / f"folder-{number % 6}" / f"film-{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(3_000_000))
    for number in range(1500):
        (folder / f"folder-{number % 6}" / f"note-{number}").write_bytes(rng.randbytes(2000))
    return folder


def finish_within_promise(running: Running, send: Send, what: str) -> str:
    """Ask the run to end; how long it took is printed. Returns its stderr."""
    began = time.monotonic()
    send(running)
    code, output, errors = running.end()
    seconds = time.monotonic() - began
    print(f"{what}: ended after {seconds:.2f} s (promised: {PROMISED_SECONDS:.0f} s)")
    assert code == 130, errors
    assert output == ""
    assert "Traceback" not in errors
    assert errors.splitlines()[-1].startswith("backupiq: The run was ended:"), errors
    assert seconds < ALLOWED_SECONDS
    return errors


def assert_nothing_left(backupiq: BackupIQ, repo: Path) -> None:
    assert locks_of(repo) == []
    assert temporary_files(repo) == []
    assert spool_folders(backupiq.home) == []
    assert misnamed(repo) == []


SIGNALS: dict[str, Send] = {"Ctrl-C": interrupt_group, "SIGTERM": terminate}


@pytest.mark.parametrize("how", [*SIGNALS, "Prefect"])
def test_a_backup_that_is_told_to_end_ends_and_the_next_goes_on_from_there(
    how: str, backupiq: BackupIQ, restic_old: Restic, api: Api, big_source: Path, tmp_path: Path
) -> None:
    repo = tmp_path / f"repository-{how}"
    send = SIGNALS.get(how) or cancelling(api, repo.name)
    running = Running(backupiq.start("backup", big_source, "--to", repo, "--threads", "1"))
    running.wait_until(lambda: pack_sizes(repo), "the first pack")
    finish_within_promise(running, send, f"backup, {how}")
    assert_nothing_left(backupiq, repo)
    assert list((repo / "snapshots").iterdir()) == []
    api.wait_until_cancelled(repo.name)
    left = sum(pack_sizes(repo).values())
    report = backupiq.json("backup", big_source, "--to", repo)
    assert report["bytes_resumed"] == left > 0
    assert report["bytes_sent"] < report["total_bytes"] - 0.9 * left
    assert "no errors were found" in restic_old.run("check", repo=repo, password=backupiq.password).stdout


@pytest.mark.parametrize("stage", ["opening the repository", "looking for files", "storing files", "publishing"])
def test_a_backup_ends_in_every_stage_without_a_trace(
    stage: str, backupiq: BackupIQ, restic_old: Restic, big_source: Path, tmp_path: Path
) -> None:
    repo = tmp_path / "repo"
    running = Running(backupiq.start("backup", big_source / "folder-0", "--to", repo))
    running.wait_for_line(stage)
    began = time.monotonic()
    terminate(running)
    code, _, errors = running.end()
    print(f"while {stage}: ended after {time.monotonic() - began:.2f} s")
    # In the last stage it may have been faster than the signal.
    assert code == 130 or (stage == "publishing" and code == 0), errors
    assert time.monotonic() - began < ALLOWED_SECONDS
    assert_nothing_left(backupiq, repo)
    if (repo / "config").exists():
        assert "no errors were found" in restic_old.run("check", repo=repo, password=backupiq.password).stdout


@pytest.mark.parametrize("number", SIGNALS_NOTED)
def test_a_signal_while_prefect_is_loaded_is_noted_and_raised_between_two_steps(number: signal.Signals) -> None:
    """Raised inside an import it could leave the import lock taken, and the process waiting for ever."""
    before = signal.getsignal(number)
    signals = Interruptions()
    with signals.noted():
        signals.check()
        os.kill(os.getpid(), number)
        assert signals.name == number.name
        with pytest.raises(KeyboardInterrupt):
            signals.check()
    assert signal.getsignal(number) is before


def test_a_backup_that_prefect_is_only_starting_for_ends_at_once(
    backupiq: BackupIQ, big_source: Path, tmp_path: Path
) -> None:
    running = Running(backupiq.start("backup", big_source, "--to", tmp_path / "repo"))
    running.wait_for_line("starting Prefect")
    began = time.monotonic()
    interrupt_group(running)
    code, output, errors = running.end()
    print(f"while Prefect starts: ended after {time.monotonic() - began:.2f} s")
    assert (code, output) == (130, "")
    assert "Traceback" not in errors
    assert time.monotonic() - began < ALLOWED_SECONDS
    assert not (tmp_path / "repo").exists()


@pytest.fixture(scope="module")
def many_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """20,000 small files, which take seconds to restore, and a repository that holds them."""
    folder = tmp_path_factory.mktemp("many")
    source, repo = folder / "many files", folder / "repo"
    for number in range(20_000):
        if number < 40:
            (source / f"folder-{number}").mkdir(parents=True)
        (source / f"folder-{number % 40}" / f"note-{number}").write_bytes(b"note %d\n" % number)

    async def store() -> None:
        repository = await new_repository(repo)
        await back_up(repository, folder / "spool", source)
        await repository.provider.close()

    asyncio.run(store())
    return source, repo


@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM", "Prefect"])
def test_a_restore_that_is_told_to_end_ends_and_can_be_done_again(
    how: str, backupiq: BackupIQ, api: Api, many_files: tuple[Path, Path], tmp_path: Path
) -> None:
    source, repo = many_files
    before, target = hashes_below(repo), tmp_path / f"target-{how}"
    command = ["restore", "latest", "--repo", str(repo), "--target", str(target)]
    running = Running(backupiq.start(*command, "--threads", "1", password=PASSWORD))
    restored = target / source.relative_to("/")
    running.wait_until(lambda: any(restored.glob("folder-*/note-*")), "the first file")
    send = SIGNALS.get(how) or cancelling(api, target.name)
    finish_within_promise(running, send, f"restore, {how}")
    assert_nothing_left(backupiq, repo)
    assert temporary_files(target) == []
    api.wait_until_cancelled(target.name)
    assert hashes_below(repo) == before
    done = backupiq.json(*command, "--overwrite", "if-changed", password=PASSWORD)
    assert done["problems"] == []
    assert hashes_below(restored) == hashes_below(source)


def test_with_its_own_prefect_server_a_run_ends_with_it_however_it_ends(
    backupiq_alone: BackupIQ, big_source: Path, tmp_path: Path
) -> None:
    repo = tmp_path / "repo"
    database = backupiq_alone.home / ".prefect" / "prefect.db"

    def start() -> tuple[Running, list[int]]:
        had = len(pack_sizes(repo))
        running = Running(backupiq_alone.start("backup", big_source, "--to", repo, "--threads", "1"))
        running.wait_until(lambda: len(pack_sizes(repo)) > had, "the first pack")
        servers = [pid for pid, command in children_of(running.process.pid) if "uvicorn" in command]
        assert len(servers) == 1
        return running, servers

    running, servers = start()
    running.process.kill()
    running.end()
    wait_for(lambda: not any(map(is_alive, servers)), "the end of the server whose run was killed")
    running, servers = start()
    finish_within_promise(running, interrupt_group, "backup with its own server, Ctrl-C to both")
    assert_nothing_left(backupiq_alone, repo)
    wait_for(lambda: not any(map(is_alive, servers)), "the end of the server")
    report = backupiq_alone.json("backup", big_source, "--to", repo)
    assert report["bytes_resumed"] > 0
    # Nobody could tell Prefect how the killed run ended.
    assert states(database) == ["RUNNING", "CANCELLED", "COMPLETED"]


def children_of(pid: int) -> list[tuple[int, str]]:
    """Process id and command line of every child of a process."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (OSError, IndexError):
                continue
            if parent == pid:
                found.append((int(entry.name), command))
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def states(database: Path) -> list[str]:
    """The states in which the flow runs of an embedded server's database stand, oldest first."""
    import sqlite3

    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        return [row[0] for row in connection.execute("SELECT state_type FROM flow_run ORDER BY start_time")]

"""Helper processes: what they answer, how they end, and what they are told how."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backupiq.archive import worker_process
from backupiq.archive.worker_process import WorkerProcess
from backupiq.errors import (
    BackupIQError,
    CancelledRunError,
    DiskFullError,
    OutOfMemoryError,
    ResourceError,
    ValidationError,
)
from tests.support.programs import ROOT

ECHO = "tests.unit.archive.worker_echo"
LONG = 60.0
"""How long a test waits for what happens at once, before it fails."""

pytestmark = pytest.mark.skipif(os.name != "posix", reason="helper processes need a POSIX system")


@pytest.fixture
def helper() -> Iterator[WorkerProcess]:
    started = WorkerProcess(ECHO, b"setup ", shared=4096)
    yield started
    started.stop()
    started.close()


def wait_until_gone(pid: int) -> None:
    """Wait for the end of a process that may be nobody's child."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    waiting = select.poll()
    waiting.register(fd, select.POLLIN)
    try:
        assert waiting.poll(LONG * 1000), f"the process {pid} still runs"
    finally:
        os.close(fd)


def wait_for_mark(helper: WorkerProcess, at: int) -> None:
    """Wait until the helper has written to its shared memory."""
    assert helper.shared is not None
    while not helper.shared[at]:
        assert helper._process.poll() is None
        os.sched_yield()


# --- answers -------------------------------------------------------------------------------------------------------


def test_an_answer_brings_head_and_bulk_back_as_they_were_made(helper: WorkerProcess) -> None:
    bulk = os.urandom(3 << 20)
    answer = helper.ask(b"repeat", bulk[:1000], memoryview(bulk)[1000:])
    assert answer.head == b"setup repeat"
    assert answer.bulk == bulk + bulk
    assert helper.ask(b"").head == b"setup "


def test_many_threads_each_get_the_answer_to_their_own_request(helper: WorkerProcess) -> None:
    def ask(number: int) -> bool:
        data = b"%d" % number * 20_000
        answer = helper.ask(b"%d" % number, *([data] * (number % 5)))
        return answer.head == b"setup %d" % number and answer.bulk == data * (number % 5 * 2)

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(ask, range(200)))


def test_a_bulk_of_more_parts_than_one_call_takes_arrives_in_order(helper: WorkerProcess) -> None:
    parts = [b"%d," % number for number in range(5000)]
    whole = b"".join(parts)
    assert helper.ask(b"repeat", *parts).bulk == whole + whole


def test_requests_may_be_sent_before_answers_are_received(helper: WorkerProcess) -> None:
    tickets = [helper.send(b"%d" % number) for number in range(20)]
    assert [helper.receive(ticket).head for ticket in reversed(tickets)][-1] == b"setup 0"
    with pytest.raises(ValueError, match="received already"):
        helper.receive(tickets[0])


def test_what_a_library_prints_does_not_get_between_the_answers(helper: WorkerProcess) -> None:
    assert helper.ask(b"print").head == b"setup print"
    assert helper.ask(b"repeat").head == b"setup repeat"


# --- errors --------------------------------------------------------------------------------------------------------


def test_an_error_of_ours_arrives_as_the_same_class_and_the_helper_goes_on(helper: WorkerProcess) -> None:
    with pytest.raises(DiskFullError) as caught:
        helper.ask(b"disk full")
    assert (caught.value.message, caught.value.details) == ("The disk is full.", {"free": 0})
    assert helper.ask(b"repeat").head == b"setup repeat"


def test_any_other_error_is_told_by_class_and_place_but_not_by_its_text(helper: WorkerProcess) -> None:
    with pytest.raises(BackupIQError, match="KeyError") as caught:
        helper.ask(b"bug")
    assert caught.value.code == "internal"
    assert any("worker_echo.py" in place for place in caught.value.details["places"])
    assert "content of a file" not in str(caught.value.to_dict())


def test_a_helper_that_is_killed_is_a_clear_error_for_all_who_wait(helper: WorkerProcess) -> None:
    errors: list[BackupIQError] = []

    def ask() -> None:
        try:
            helper.ask(b"wait for the end")
        except BackupIQError as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_for_mark(helper, 0)
    os.kill(helper.pid, signal.SIGKILL)
    for thread in threads:
        thread.join(LONG)
    assert [type(error) for error in errors] == [OutOfMemoryError] * 3
    assert all("SIGKILL" in error.message and "again" in error.message for error in errors)
    with pytest.raises(OutOfMemoryError):
        helper.ask(b"repeat", bytes(4 << 20))


@pytest.mark.parametrize(
    ("head", "kind", "words"), [(b"exit", ResourceError, "exit code 7"), (b"terminate", CancelledRunError, "SIGTERM")]
)
def test_a_helper_that_ends_by_itself_says_how(
    helper: WorkerProcess, head: bytes, kind: type[BackupIQError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        helper.ask(head)
        helper.ask(b"repeat")


def test_a_setup_that_is_refused_is_what_every_request_raises() -> None:
    helper = WorkerProcess(ECHO, b"refuse")
    try:
        with pytest.raises(ValidationError, match="refused") as caught:
            helper.wait_ready()
        assert caught.value.details == {"field": "setup"}
    finally:
        helper.stop()
        helper.close()
    helper = WorkerProcess(ECHO, b"refuse")
    try:
        with pytest.raises(ValidationError):
            helper.ask(b"repeat", bytes(4 << 20))
    finally:
        helper.stop()
        helper.close()


def test_an_interpreter_that_cannot_be_started_is_a_resource_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "missing"))
    before = os.listdir("/proc/self/fd") if Path("/proc/self/fd").exists() else []
    with pytest.raises(ResourceError, match="cannot be started: No such file"):
        WorkerProcess(ECHO, b"", shared=4096)
    assert not before or len(os.listdir("/proc/self/fd")) == len(before)


# --- the end -------------------------------------------------------------------------------------------------------


def test_stop_lets_a_helper_finish_what_it_is_at(helper: WorkerProcess) -> None:
    errors: list[BackupIQError] = []

    def ask() -> None:
        try:
            helper.ask(b"wait for the end")
            helper.ask(b"repeat")
        except BackupIQError as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    wait_for_mark(helper, 0)
    helper.stop()
    thread.join(LONG)
    assert helper.shared is not None
    assert helper.shared[1] == 1
    assert [type(error) for error in errors] == [CancelledRunError]
    with pytest.raises(CancelledRunError):
        helper.send(b"repeat")


def test_stop_ends_a_helper_that_does_not_listen_with_force(helper: WorkerProcess) -> None:
    helper.wait_ready()
    os.kill(helper.pid, signal.SIGSTOP)
    helper.stop(0.05)
    assert helper._process.returncode == -signal.SIGKILL


def test_a_helper_ends_when_its_parent_is_killed() -> None:
    program = (
        "import sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from backupiq.archive.worker_process import WorkerProcess\n"
        f"helper = WorkerProcess({ECHO!r}, b'', shared=4096)\n"
        "helper.send(b'wait for the end')\n"
        "while not helper.shared[0] and helper._process.poll() is None: pass\n"
        "print(helper.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True
    )
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    wait_until_gone(pid)


def test_ctrl_c_at_the_terminal_is_the_parents_to_deal_with(helper: WorkerProcess) -> None:
    helper.wait_ready()
    assert os.getsid(helper.pid) == helper.pid
    os.kill(helper.pid, signal.SIGINT)
    assert helper.ask(b"repeat").head == b"setup repeat"


def test_nothing_stays_open_after_close() -> None:
    before = len(os.listdir("/proc/self/fd"))
    helper = WorkerProcess(ECHO, b"", shared=4096)
    helper.ask(b"repeat")
    helper.stop()
    helper.close()
    assert len(os.listdir("/proc/self/fd")) == before


# --- what it is started with ---------------------------------------------------------------------------------------


def test_command_line_and_environment_hold_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKUPIQ_PASSWORD", "hunter2-of-the-environment")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2-of-the-cloud")
    helper = WorkerProcess(ECHO, b"hunter2-of-the-setup")
    try:
        helper.wait_ready()
        told = Path(f"/proc/{helper.pid}/cmdline").read_bytes() + Path(f"/proc/{helper.pid}/environ").read_bytes()
    finally:
        helper.stop()
        helper.close()
    assert b"worker_echo" in told
    assert b"hunter2" not in told


def test_start_up_files_and_the_environment_do_not_lead_to_other_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("sitecustomize.py", "usercustomize.py", "msgspec.py", "backupiq.py"):
        (tmp_path / name).write_text("import os; os._exit(99)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONSTARTUP", str(tmp_path / "sitecustomize.py"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    helper = WorkerProcess(ECHO, b"setup ")
    try:
        assert helper.ask(b"repeat").head == b"setup repeat"
    finally:
        helper.stop()
        helper.close()


def test_a_helper_itself_imports_no_face_and_no_orchestration(helper: WorkerProcess) -> None:
    loaded = set(helper.ask(b"modules").head.decode().split())
    assert "msgspec" in loaded
    assert loaded.isdisjoint({"prefect", "pydantic", "typer", "rich", "asyncio", "subprocess", "structlog", "site"})


def test_programs_that_no_interpreter_runs_start_no_helpers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert worker_process.can_start()
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert not worker_process.can_start()

"""Hooks: real programs, and a real HTTP receiver on loopback."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from backupiq import hooks as module
from backupiq.errors import HookError, RepositoryLockedError
from backupiq.hooks import MAX_OUTPUT_BYTES, Moment, RunFacts, around, clean_environment, run_hooks, with_ending
from backupiq.profile import CommandHook, Hooks
from backupiq.reports import BackupReport
from backupiq.telemetry import register_secret

TOKEN = "t0ken-5a1c0de5-5eca"
FACTS = RunFacts("run-1", "backup docs -> vault", "home", ("/docs", "/caf\udce9"), ("vault", "s3://bucket"))
EMPTY: dict[str, Any] = {field.name: 0 for field in dataclasses.fields(BackupReport)}


def a_report(**values: Any) -> BackupReport:
    return BackupReport(**{**EMPTY, "unreadable": [], "warnings": [], "seconds": 2.5, **values})


REPORT = a_report(snapshot_id="ab12", files_new=3, total_bytes=7)


# --- the receiver --------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Call:
    method: str
    path: str
    body: Any


class Receiver:
    """Keeps every call; answers with the queued (status, Location) and then with 200; ``hang`` answers never."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.answers: list[tuple[int, str]] = []
        self.released = threading.Event()
        self.hang = False
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers.get("content-length", 0)))
                receiver.calls.append(Call(self.command, self.path, json.loads(data) if data else None))
                if receiver.hang:
                    receiver.released.wait(60)
                    return
                status, location = receiver.answers.pop(0) if receiver.answers else (200, "")
                self.send_response(status)
                if location:
                    self.send_header("Location", location)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_POST  # noqa: N815 - the server's own name for it

            def log_message(self, *_: Any) -> None:
                """Not on the terminal."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/{TOKEN}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def stop(self) -> None:
        self.released.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    @property
    def paths(self) -> list[str]:
        return [call.path.removeprefix(f"/{TOKEN}") for call in self.calls]


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    found = Receiver()
    yield found
    found.stop()


@dataclasses.dataclass
class Told:
    """What was said to the person and how long was waited."""

    notes: list[str] = dataclasses.field(default_factory=list)
    waits: list[float] = dataclasses.field(default_factory=list)

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    caplog.set_level(logging.DEBUG)
    return lambda: "\n".join(record.getMessage() for record in caplog.records)


def python(code: str, *arguments: str, time_limit: float = 60) -> CommandHook:
    return CommandHook(command=[sys.executable, "-c", code, *arguments], time_limit=time_limit)


def touching(path: Path) -> CommandHook:
    return python("import sys; open(sys.argv[1], 'a').write('x')", str(path))


FAILING = python("raise SystemExit(7)")


async def run(told: Told, hooks: Hooks, moment: Moment = Moment.AFTER, facts: RunFacts = FACTS) -> list[Any]:
    return await run_hooks(moment, hooks, facts, note=told.notes.append, sleep=told.sleep)


async def back_up(told: Told, hooks: Hooks, *, fails: BaseException | None = None, report: Any = REPORT) -> bool:
    """Whether the body of a run was reached."""
    async with around(hooks, FACTS, report=lambda: report, note=told.notes.append, sleep=told.sleep):
        if fails is not None:
            raise fails
        return True


# --- commands ------------------------------------------------------------------------------------------------------


async def test_a_command_is_told_the_facts_and_its_arguments_as_they_stand(told: Told, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = "import json, os, sys; json.dump([sys.argv[2:], dict(os.environ)], open(sys.argv[1], 'w'))"
    awkward = ["$HOME", "a b", "'", "*", ";true"]
    assert [each.problem for each in await run(told, Hooks(after=[python(code, str(out), *awkward)]))] == [""]
    arguments, env = json.loads(out.read_text())
    assert arguments == awkward
    assert env["BACKUPIQ_HOOK"] == "after"
    assert env["BACKUPIQ_RUN_ID"] == "run-1"
    assert env["BACKUPIQ_PROFILE"] == "home"
    assert env["BACKUPIQ_DESTINATIONS"] == "vault\ns3://bucket"
    assert env["BACKUPIQ_PATHS"] == "/docs\n/caf\\udce9"
    assert env["BACKUPIQ_EXIT_CODE"] == env["BACKUPIQ_SNAPSHOT"] == ""
    ended = FACTS.with_report(REPORT).environment(Moment.AFTER)
    assert ended["BACKUPIQ_EXIT_CODE"] == "0"
    assert (ended["BACKUPIQ_SNAPSHOT"], ended["BACKUPIQ_FILES_NEW"], ended["BACKUPIQ_SECONDS"]) == (
        "ab12",
        "3",
        "2.500",
    )


async def test_a_command_sees_no_password_of_ours_and_keeps_its_own(
    told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = {"PGPASSWORD": "theirs", "AWS_REGION": "eu", "BACKUPIQ_REPOSITORY": "/vault", "AZURE_CLIENT_ID": "me"}
    gone = {
        "BACKUPIQ_PASSWORD": "hunter2",
        "BACKUPIQ_PASSWORD_COMMAND": "echo hunter2",
        "BACKUPIQ_CATALOG_URL": "postgresql://me:hunter2@host/db",
        "PREFECT_API_KEY": "hunter2",
        "PREFECT_API_AUTH_STRING": "me:hunter2",
        "AWS_SECRET_ACCESS_KEY": "hunter2",
        "AZURE_STORAGE_CONNECTION_STRING": "AccountKey=hunter2",
        "RESTIC_PASSWORD": "hunter2",
    }
    assert clean_environment(kept | gone) == kept
    for name, value in gone.items():
        monkeypatch.setenv(name, value)
    out = tmp_path / "out"
    await run(told, Hooks(after=[python("import os, sys; open(sys.argv[1], 'w').write(str(os.environ))", str(out))]))
    assert "hunter2" not in out.read_text()


async def test_what_a_command_prints_is_logged_redacted_and_a_terminal_is_safe_from_it(
    told: Told, logged: Callable[[], str]
) -> None:
    register_secret("open-sesame")
    code = r"import sys; print('hello \x1b[31m'); print('key open-sesame', file=sys.stderr); print(b'\xff', flush=True)"
    await run(told, Hooks(after=[python(code)]))
    assert "hook.output" in logged()
    assert "hello \\x1b[31m" in logged()
    assert "open-sesame" not in logged()


async def test_only_the_end_of_a_long_output_is_kept_and_the_command_never_waits_for_it(
    told: Told, logged: Callable[[], str]
) -> None:
    code = f"import sys; sys.stdout.write('start\\n' + ('y' * 999 + '\\n') * {MAX_OUTPUT_BYTES // 100} + 'the end\\n')"
    assert [each.problem for each in await run(told, Hooks(after=[python(code)]))] == [""]
    assert "the end" in logged()
    assert "(what came before is left out)" in logged()
    assert logged().count("y" * 999) <= MAX_OUTPUT_BYTES // 1000
    assert "start" not in logged()


async def test_a_secret_that_the_limit_cuts_in_two_is_not_shown(told: Told, logged: Callable[[], str]) -> None:
    secret = "begin-of-secret-end-of-secret"
    register_secret(secret)
    rest = MAX_OUTPUT_BYTES - len("end-of-secret") - 1
    code = f"import sys; sys.stdout.write({secret!r} + '\\n' + 'z' * {rest - 1} + '\\n')"
    await run(told, Hooks(after=[python(code)]))
    assert "zzz" in logged()
    assert "end-of-secret" not in logged()


async def test_a_command_that_takes_too_long_is_killed_with_all_that_it_started(told: Told, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = 'sleep 600 & echo $$ $! > "$1.new" && mv "$1.new" "$1" && wait'
    hook = CommandHook(command=["sh", "-c", script, "sh", str(pids)], time_limit=2)
    (result,) = await run(told, Hooks(after=[hook]))
    assert result.problem == "the command sh took longer than 2 s and was ended."
    for pid in map(int, pids.read_text().split()):
        assert has_ended(pid)


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or dead and only not collected by whoever inherited it."""
    for _ in range(500):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        threading.Event().wait(0.01)
    return False


async def test_a_command_may_leave_something_running_that_holds_its_output(
    told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LAST_WORDS_SECONDS", 0.01)
    pid_file = tmp_path / "pid"
    code = (
        "import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
        "open(sys.argv[1], 'w').write(str(child.pid))"
    )
    (result,) = await run(told, Hooks(after=[python(code, str(pid_file))]))
    assert result.problem == ""
    pid = int(pid_file.read_text())
    os.kill(pid, 0)  # a mount's helper, for example, is left alone
    os.kill(pid, 9)


async def test_a_cancelled_run_ends_the_command_it_waits_for(told: Told, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    code = "import os, sys, time; f = open(sys.argv[1], 'w'); f.write(str(os.getpid())); f.close(); time.sleep(600)"
    task = asyncio.create_task(run(told, Hooks(after=[python(code, str(fifo))])))
    pid = int(await asyncio.to_thread(fifo.read_text))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert has_ended(pid)


async def test_a_program_that_is_not_there_is_said_without_its_arguments(told: Told) -> None:
    (result,) = await run(told, Hooks(after=[CommandHook(command=["/no/such/program", "hunter2"])]))
    assert result.problem == "the command program cannot be started (No such file or directory)."
    assert told.notes == [f"warning: a hook (after the run) failed: {result.problem}"]


# --- the order of things -------------------------------------------------------------------------------------------


async def test_a_hook_before_that_fails_stops_the_run_and_the_hooks_behind_it(told: Told, tmp_path: Path) -> None:
    second, after, failure = (touching(tmp_path / name) for name in ("second", "after", "failure"))
    hooks = Hooks(before=[FAILING, second], after=[after], on_failure=[failure])
    with pytest.raises(HookError, match=r"Nothing was backed up.*ended with exit code 7") as caught:
        await back_up(told, hooks)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["failure"]
    assert caught.value.exit_code == 1
    assert not told.notes


async def test_after_runs_when_the_run_failed_and_then_on_failure(told: Told, tmp_path: Path) -> None:
    order = tmp_path / "order"
    hooks = Hooks(
        **{
            moment: [python(f"import sys; open(sys.argv[1], 'a').write('{moment} ')", str(order))]
            for moment in ("before", "after", "on_failure")
        }
    )
    with pytest.raises(RepositoryLockedError):
        await back_up(told, hooks, fails=RepositoryLockedError())
    assert order.read_text() == "before after on_failure "
    order.unlink()
    assert await back_up(told, hooks)
    assert order.read_text() == "before after "


async def test_hooks_after_that_fail_are_only_said_and_all_of_them_run(told: Told, tmp_path: Path) -> None:
    assert await back_up(told, Hooks(after=[FAILING, touching(tmp_path / "ran")]))
    assert (tmp_path / "ran").exists()
    assert len(told.notes) == 1
    with pytest.raises(RepositoryLockedError):
        await back_up(told, Hooks(after=[FAILING], on_failure=[FAILING]), fails=RepositoryLockedError())
    assert len(told.notes) == 3


async def test_a_cancelled_run_is_cleaned_up_after_and_is_no_failure(
    told: Told, receiver: Receiver, tmp_path: Path
) -> None:
    hooks = Hooks(
        after=[touching(tmp_path / "after")],
        on_failure=[touching(tmp_path / "failure")],
        webhooks={"ping": receiver.url, "after": f"{receiver.url}/after"},
    )
    with pytest.raises(asyncio.CancelledError):
        await back_up(told, hooks, fails=asyncio.CancelledError())
    assert [path.name for path in tmp_path.iterdir()] == ["after"]
    assert receiver.paths == ["/start", "/after"]
    assert receiver.calls[-1].body["exit_code"] == 130


# --- webhooks ------------------------------------------------------------------------------------------------------


async def test_a_ping_tells_of_the_start_the_success_and_the_failure(told: Told, receiver: Receiver) -> None:
    hooks = Hooks(webhooks={"ping": receiver.url})
    await back_up(told, hooks)
    assert receiver.paths == ["/start", ""]
    for exit_code in (3, 4):
        receiver.calls.clear()
        await back_up(told, hooks, report=dataclasses.replace(REPORT, exit_code=exit_code))
        assert receiver.paths == ["/start", "/fail"]
    receiver.calls.clear()
    with pytest.raises(RepositoryLockedError):
        await back_up(told, hooks, fails=RepositoryLockedError())
    assert receiver.paths == ["/start", "/fail"]
    body = receiver.calls[-1].body
    assert (body["event"], body["exit_code"], body["error"]) == ("on_failure", 11, "repository.locked")
    assert body["message"] == RepositoryLockedError().message


async def test_a_webhook_gets_the_facts_as_json_or_is_only_asked_for(told: Told, receiver: Receiver) -> None:
    facts = FACTS.with_report(REPORT)
    await run(told, Hooks(webhooks={"after": receiver.url}), facts=facts)
    await run(told, Hooks(webhooks={"after": receiver.url, "method": "GET"}), facts=facts)
    posted, asked = receiver.calls
    assert (posted.method, asked.method, asked.body) == ("POST", "GET", None)
    assert posted.body["event"] == "after"
    assert posted.body["snapshot"] == "ab12"
    assert posted.body["paths"] == ["/docs", "/caf\\udce9"]
    assert posted.body["counts"]["total_bytes"] == 7


async def test_an_error_of_unknown_kind_is_told_by_its_type_only(told: Told, receiver: Receiver) -> None:
    with pytest.raises(OSError, match="hunter2"):
        await back_up(told, Hooks(webhooks={"on_failure": receiver.url}), fails=OSError("hunter2"))
    assert "OSError" in receiver.calls[0].body["message"]
    assert "hunter2" not in str(receiver.calls[0].body)


async def test_a_webhook_is_tried_three_times_when_that_may_help(told: Told, receiver: Receiver) -> None:
    hooks = Hooks(webhooks={"after": receiver.url})
    receiver.answers = [(503, ""), (429, "")]
    assert [each.problem for each in await run(told, hooks)] == [""]
    assert (len(receiver.calls), len(told.waits)) == (3, 2)
    receiver.answers = [(500, "")] * 3
    assert (await run(told, hooks))[0].problem == "the webhook answered with HTTP 500."
    assert len(receiver.calls) == 6
    receiver.answers = [(404, "")]
    assert (await run(told, hooks))[0].problem == "the webhook answered with HTTP 404."
    assert len(receiver.calls) == 7


async def test_a_webhook_that_never_answers_is_given_up(told: Told, receiver: Receiver) -> None:
    receiver.hang = True
    (result,) = await run(told, Hooks(webhooks={"after": receiver.url, "time_limit": 0.1}))
    assert result.problem == "the webhook did not answer within 0.1 s."
    assert len(told.waits) == 2


@pytest.mark.parametrize(
    ("location", "problem"),
    [
        ("/moved", ""),
        ("https://127.0.0.1:1/", "the webhook redirects to another scheme; write the URL that it leads to."),
        ("file:///etc/passwd", "the webhook redirects to another scheme; write the URL that it leads to."),
        ("ftp://127.0.0.1/", "the webhook redirects to another scheme; write the URL that it leads to."),
    ],
)
async def test_redirects_are_followed_within_their_scheme_only(
    told: Told, receiver: Receiver, location: str, problem: str
) -> None:
    receiver.answers = [(307, location)]
    assert (await run(told, Hooks(webhooks={"after": receiver.url})))[0].problem == problem
    assert len(receiver.calls) == (1 if problem else 2)
    if not problem:
        assert (receiver.calls[1].method, receiver.calls[1].path) == ("POST", "/moved")
        assert receiver.calls[1].body == receiver.calls[0].body


async def test_a_webhook_that_redirects_for_ever_is_given_up(told: Told, receiver: Receiver) -> None:
    receiver.answers = [(302, "/again")] * 50
    assert "more than 3 times" in (await run(told, Hooks(webhooks={"after": receiver.url})))[0].problem
    assert len(receiver.calls) == 4


async def test_a_ping_that_is_not_taken_stops_no_backup_but_a_webhook_before_it_does(
    told: Told, receiver: Receiver
) -> None:
    receiver.answers = [(404, "")]
    assert await back_up(told, Hooks(webhooks={"ping": receiver.url}))
    assert told.notes == ["warning: the ping was not taken: the webhook answered with HTTP 404."]
    receiver.answers = [(404, "")]
    with pytest.raises(HookError, match="Nothing was backed up"):
        await back_up(told, Hooks(webhooks={"before": receiver.url}))


async def test_no_log_note_or_error_shows_the_url(told: Told, receiver: Receiver, logged: Callable[[], str]) -> None:
    receiver.answers = [(200, ""), (301, f"/elsewhere/{TOKEN}"), (500, ""), (500, ""), (500, "")]
    hooks = Hooks(webhooks={"ping": f"{receiver.url}?key=1", "before": receiver.url, "after": receiver.url})
    with pytest.raises(HookError) as caught:
        await back_up(told, hooks)
    receiver.stop()
    with pytest.raises(HookError):
        await back_up(told, hooks)
    assert receiver.paths[0] == "/start?key=1"
    said = f"{logged()} {told.notes} {caught.value!r} {caught.value.details} {caught.value.__cause__}"
    assert "hook.failed" in said
    assert TOKEN not in said


def test_the_ending_of_a_ping_stands_before_its_query() -> None:
    assert with_ending("https://host/a/", "/fail") == "https://host/a/fail"
    assert with_ending("https://host/a?x=1", "/start") == "https://host/a/start?x=1"
    assert with_ending("https://host", "/start") == "https://host/start"
    assert with_ending("https://host/a/?x", "") == "https://host/a/?x"

"""Automations: made and kept as declared, and a failed run, a degraded one and an opened breaker reach a person."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from backupiq.errors import BackupIQError, OrchestrationError, ValidationError
from backupiq.profile import BackupOptions
from backupiq.progress import SilentProgress
from backupiq.resilience.breaker_state import BreakerPolicy, BreakerState, opened
from tests.flows.conftest import Api
from tests.support.prefect_server import start_server, stop_server
from tests.support.programs import ROOT, isolated_home, plain_environment, run_program
from tests.unit.telemetry.reports import make_report

BLOCK = "custom-webhook/backupiq-test-ops"
NAMES = [
    "BackupIQ: mark crashed runs",
    "BackupIQ: a run failed",
    "BackupIQ: a run is degraded",
    "BackupIQ: a breaker opened",
]
TELLING = {"PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "true", "PREFECT_UI_URL": "http://ops.test:4200"}
TOLD_SECONDS = 60.0
"""How long news may take; it takes less than a second, a busy machine may need many times that."""


# --- declared and kept ---------------------------------------------------------------------------------------------


def listed(api: Api) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in api.ask("/automations/filter") if each["name"] in NAMES}


@pytest.fixture
def none_yet(api: Api) -> Iterator[None]:
    """No automation of ours, before and after."""

    def remove() -> None:
        for each in listed(api).values():
            api.server.call(f"/automations/{each['id']}", method="DELETE")

    remove()
    yield
    remove()


async def save_block(url: str, name: str = BLOCK.partition("/")[2]) -> None:
    from prefect.blocks.notifications import CustomWebhookNotificationBlock

    shape = {"subject": "{{subject}}", "body": "{{body}}"}
    block = CustomWebhookNotificationBlock(name="ops", url=url, json_data=shape)
    await block.asave(name, overwrite=True)


@pytest.mark.usefixtures("none_yet")
async def test_automations_are_made_once_and_a_changed_one_is_put_right(api: Api) -> None:
    from flows.automations import apply_automations
    from flows.setup import Outcome

    await save_block("http://127.0.0.1:9/")
    first = await apply_automations(BLOCK)
    assert [(item.name, item.outcome) for item in first] == [(name, Outcome.CREATED) for name in NAMES]
    made = listed(api)
    assert {item.outcome for item in await apply_automations(BLOCK)} == {Outcome.UNCHANGED}
    assert listed(api) == made

    failed = made[NAMES[1]]
    changed = {key: failed[key] for key in ("name", "trigger", "actions")} | {"description": "mine", "enabled": False}
    api.server.call(f"/automations/{failed['id']}", changed, "PUT")
    again = {item.name: item.outcome for item in await apply_automations(BLOCK)}
    assert again == dict.fromkeys(NAMES, Outcome.UNCHANGED) | {NAMES[1]: Outcome.UPDATED}
    right = listed(api)[NAMES[1]]
    assert right["description"] == failed["description"]
    assert right["enabled"] is False, "one that a person has switched off stays off"


@pytest.mark.usefixtures("none_yet")
async def test_without_a_block_nobody_is_notified_and_what_is_there_stays(api: Api) -> None:
    from flows.automations import apply_automations
    from flows.setup import Outcome

    done = {item.name: item for item in await apply_automations(None)}
    assert done[NAMES[0]].outcome is Outcome.CREATED
    assert {done[name].outcome for name in NAMES[1:]} == {Outcome.LEFT_OUT}
    assert "--notify" in done[NAMES[1]].reason
    await save_block("http://127.0.0.1:9/")
    await apply_automations(BLOCK)
    made = listed(api)
    assert {item.outcome for item in await apply_automations(None)} == {Outcome.UNCHANGED}
    assert listed(api) == made


@pytest.mark.parametrize("name", ["custom-webhook/backupiq-absent", "nothing", "secret/backupiq-test-secret"])
async def test_a_block_that_cannot_notify_is_refused(api: Api, name: str) -> None:
    from prefect.blocks.system import Secret

    from flows.automations import apply_automations

    await Secret(value=SecretStr("x")).asave("backupiq-test-secret", overwrite=True)
    with pytest.raises(ValidationError, match=r"no block|cannot notify"):
        await apply_automations(name)


async def test_an_api_that_does_not_answer_is_told_in_one_line(api: Api) -> None:
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    from flows.automations import apply_automations

    away = {PREFECT_API_URL: "http://127.0.0.1:9/api", PREFECT_CLIENT_MAX_RETRIES: 0}
    with temporary_settings(away), pytest.raises(OrchestrationError, match="does not answer"):
        await apply_automations(None)


# --- people are told -----------------------------------------------------------------------------------------------


class Receiver:
    """A webhook on loopback that keeps what it is sent, by subject."""

    def __init__(self) -> None:
        self.told: list[dict[str, str]] = []
        self._news = threading.Condition()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                document = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with receiver._news:
                    receiver.told.append(document)
                    receiver._news.notify_all()
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"

    @contextmanager
    def listening(self) -> Iterator[Receiver]:
        thread = threading.Thread(target=self._server.serve_forever)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def wait_for(self, count: int) -> list[dict[str, str]]:
        """What came, by subject, once it is that many or the time is over."""
        with self._news:
            self._news.wait_for(lambda: len(self.told) >= count, TOLD_SECONDS)
            return sorted(self.told, key=lambda each: each["subject"])


def test_a_failed_run_a_degraded_one_and_an_opened_breaker_reach_a_webhook(tmp_path: Path) -> None:
    """On a server of its own: the one that tests share does not run the service that watches events."""
    server = start_server(tmp_path / "server", **TELLING)
    try:
        with Receiver().listening() as receiver:
            env = plain_environment() | isolated_home(tmp_path) | server.settings(tmp_path)
            env["BACKUPIQ_SPOOL"] = str(tmp_path / "spool")
            command = [sys.executable, "-m", "tests.flows.test_automations", receiver.url, str(tmp_path)]
            run_program(command, env=env, cwd=ROOT)
            told = receiver.wait_for(3)
    finally:
        stop_server(server)
    assert [each["subject"] for each in told] == [
        "BackupIQ: /mnt/disk is left alone",
        "BackupIQ: backup missing -> vault failed",
        "BackupIQ: not at every destination: s3://b",
    ]
    alone, failed, degraded = (each["body"] for each in told)
    assert alone == "/mnt/disk failed too often and is left alone for 60 seconds: It refused us."
    assert "does not exist" in failed
    assert "http://ops.test:4200/runs/flow-run/" in failed, "a link leads to the run"
    assert degraded.startswith("Snapshot 0123abcd is stored, but not at: s3://b.")


def drive(url: str, folder: Path) -> None:
    """What the test above looks at, in a process of its own, since Prefect's settings hold for a process."""
    from prefect.events.worker import EventsWorker

    from flows.automations import apply_automations
    from flows.guard import tell_change
    from flows.launch import run_backup
    from flows.outcome import tell_outcome

    async def prepare() -> None:
        await save_block(url)
        await apply_automations(BLOCK)

    asyncio.run(prepare())
    options = BackupOptions(paths=[str(folder / "missing")], to=[str(folder / "vault")])
    try:
        run_backup(options, password=SecretStr("swordfish"), progress=SilentProgress())
        raise AssertionError("a folder that does not exist was backed up")
    except BackupIQError:
        pass
    closed = BreakerState(label="/mnt/disk")
    tell_change("key", closed, opened(closed, time.time(), BreakerPolicy(), reason="It refused us."))
    complete = {"name": "/vault", "complete": True}
    tell_outcome(make_report(destinations=[complete, {"name": "s3://b", "complete": False}]))
    tell_outcome(make_report(destinations=[complete]))
    EventsWorker.drain_all(timeout=30)


if __name__ == "__main__":
    drive(sys.argv[1], Path(sys.argv[2]))

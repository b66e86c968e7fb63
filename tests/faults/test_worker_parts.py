"""What a run and a worker do so that a crash or a lost server costs little: notes, leases, heartbeats, heaps."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prefect import flow, flow_engine
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateDetails
from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.states import Crashed, Pending

from backupiq.memory import ARENAS
from flows import leases, run_processes
from flows.automations import crash_automation
from flows.environment import DEFAULTS, HEARTBEAT_SECONDS
from flows.local_api import LocalApi
from flows.local_server import settle_runs
from flows.local_service import settings
from flows.processes import Process, mark_of
from tests.faults.support import PATIENCE_SECONDS
from tests.support.prefect_server import PrefectServer
from tests.support.programs import ROOT

VARIABLE = run_processes.VARIABLE


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this process keeps its notes."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "backupiq" / "prefect" / "runs"


@pytest.fixture
def ended() -> Process:
    """A process that is no more."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        mark = mark_of(process.pid)
        assert mark is not None
    return Process(process.pid, mark)


# --- which process carries out which run ---------------------------------------------------------------------------


def test_a_run_is_noted_with_its_process_until_it_ends(state: Path) -> None:
    run = str(uuid.uuid4())
    assert not run_processes.has_process(run, None)
    with run_processes.noted({VARIABLE: run}):
        assert run_processes.has_process(run, None)
        (note,) = state.iterdir()
        assert note.stat().st_mode & 0o077 == 0
    assert list(state.iterdir()) == []


@pytest.mark.parametrize("name", ["", "no id", "../../../etc/passwd"])
def test_a_process_that_no_worker_started_leaves_no_note(name: str, state: Path) -> None:
    with run_processes.noted({VARIABLE: name} if name else {}):
        assert not state.exists()


def test_the_note_counts_and_not_a_process_that_got_the_same_id(
    state: Path, ended: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = str(uuid.uuid4())
    with run_processes.noted({VARIABLE: run}), monkeypatch.context() as patch:
        patch.setattr(run_processes, "is_running", lambda process: False)
        assert not run_processes.has_process(run, str(os.getpid()))
        run_processes.remove_old()
        assert list(state.iterdir()) == []


def test_without_a_note_the_id_that_prefect_knows_has_to_do(state: Path, ended: Process) -> None:
    run = str(uuid.uuid4())
    assert run_processes.has_process(run, str(os.getpid()))
    assert not run_processes.has_process(run, str(ended.pid))
    assert not run_processes.has_process(run, "a-container")
    state.mkdir(parents=True)
    (state / f"{run}.json").write_text("no JSON")
    assert run_processes.has_process(run, str(os.getpid()))


# --- a worker that starts after another one died -------------------------------------------------------------------


@pytest.fixture
def queued(prefect_server: PrefectServer) -> Iterator[tuple[str, Callable[..., str]]]:
    """A work queue for one test, and what makes a run in it that stands in a certain state."""
    call, queue = prefect_server.call, f"queue-{uuid.uuid4().hex[:8]}"
    if not call("/work_pools/filter", {"work_pools": {"name": {"any_": ["backupiq"]}}}):
        call("/work_pools/", {"name": "backupiq", "type": "process"})
    made = call(
        "/deployments/",
        {
            "name": queue,
            "flow_id": call("/flows/", {"name": "backup"})["id"],
            "work_pool_name": "backupiq",
            "work_queue_name": queue,
        },
    )

    def run(kind: str) -> str:
        found = str(call(f"/deployments/{made['id']}/create_flow_run", {"state": {"type": "SCHEDULED"}})["id"])
        call(f"/flow_runs/{found}/set_state", {"state": {"type": kind, "name": kind.title()}, "force": True})
        return found

    yield queue, run
    call(f"/deployments/{made['id']}", method="DELETE")


def test_runs_without_a_process_are_settled_and_one_that_outlived_its_worker_goes_on(
    state: Path, prefect_server: PrefectServer, queued: tuple[str, Callable[..., str]]
) -> None:
    queue, make = queued
    runs = {kind: make(kind) for kind in ("PENDING", "RUNNING", "CANCELLING", "COMPLETED")}
    alive = make("RUNNING")
    with run_processes.noted({VARIABLE: alive}):
        settle_runs(LocalApi(prefect_server.api_url), queue)
    kinds = {kind: prefect_server.call(f"/flow_runs/{run}")["state"]["type"] for kind, run in runs.items()}
    assert kinds == {
        "PENDING": "SCHEDULED",
        "RUNNING": "CRASHED",
        "CANCELLING": "CANCELLED",
        "COMPLETED": "COMPLETED",
    }
    assert prefect_server.call(f"/flow_runs/{alive}")["state"]["type"] == "RUNNING"


def test_a_server_that_does_not_answer_keeps_no_worker_from_starting(state: Path) -> None:
    settle_runs(LocalApi("http://127.0.0.1:9/api"), "here")


# --- the place in the deployment's queue ---------------------------------------------------------------------------


async def logged(caplog: pytest.LogCaptureFixture, text: str, *, times: int = 1) -> None:
    """Until the log holds the text that often."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while caplog.text.count(text) < times:  # noqa: ASYNC110 - a log has no event to wait for
            await asyncio.sleep(0.01)


async def test_a_run_that_loses_its_place_comes_to_its_end(
    prefect_server: PrefectServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Prefect's own way ends it a few seconds later, as crashed."""
    monkeypatch.setattr(flow_engine, "amaintain_concurrency_lease", flow_engine.amaintain_concurrency_lease)
    leases.keep_running_without()

    @flow(name="keeps-on", persist_result=False)
    async def keeps_on() -> str:
        await logged(caplog, "lease.lost")
        return "the end"

    caplog.set_level(logging.WARNING, "backupiq.flows.leases")
    with temporary_settings({PREFECT_API_URL: prefect_server.api_url}):
        lost = Pending(state_details=StateDetails(deployment_concurrency_lease_id=uuid.uuid4()))
        async with get_client() as client:
            run = await client.create_flow_run(keeps_on, state=lost)
        assert await flow_engine.run_flow(keeps_on, flow_run=run) == "the end"
    assert prefect_server.call(f"/flow_runs/{run.id}")["state"]["type"] == "COMPLETED"


async def test_a_run_that_was_taken_for_dead_records_its_end_all_the_same(prefect_server: PrefectServer) -> None:
    """A laptop that sleeps sends no heartbeats, and the automation cannot know that it will wake up."""

    @flow(name="wakes-up", persist_result=False)
    async def wakes_up() -> str:
        async with get_client() as client:
            await client.set_flow_run_state(run.id, Crashed())
        assert prefect_server.call(f"/flow_runs/{run.id}")["state"]["type"] == "CRASHED"
        return "the end"

    with temporary_settings({PREFECT_API_URL: prefect_server.api_url}):
        async with get_client() as client:
            run = await client.create_flow_run(wakes_up, state=Pending())
        await flow_engine.run_flow(wakes_up, flow_run=run)
    assert prefect_server.call(f"/flow_runs/{run.id}")["state"]["type"] == "COMPLETED"


async def test_a_server_that_is_away_takes_no_place_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "backupiq.flows.leases")
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        async with leases.keep_lease(uuid.uuid4(), 0.05):
            await logged(caplog, "lease.unknown", times=3)
    assert "lease.lost" not in caplog.text


def test_the_server_keeps_in_its_folder_who_has_which_place() -> None:
    kept = settings("server", 4200, {})["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"]
    assert kept == "prefect.server.concurrency.lease_storage.filesystem"


# --- heartbeats and heaps ------------------------------------------------------------------------------------------


def test_every_run_says_that_it_lives_more_often_than_silence_counts_as_a_crash() -> None:
    said = str(HEARTBEAT_SECONDS)
    name = "PREFECT_FLOWS_HEARTBEAT_FREQUENCY"
    assert (DEFAULTS[name], settings("worker", 4200, {})[name]) == (said, said)
    for seconds in (30, 60):
        with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: seconds}):
            assert crash_automation().trigger.within.total_seconds() == 2.5 * seconds


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc has heaps for each thread")
def test_the_threads_of_a_run_that_a_worker_started_share_two_heaps() -> None:
    code = (
        "import runpy, flows.engine; from tests.unit.test_memory import PROGRAM;"
        "runpy.run_module = lambda *_, **__: exec(PROGRAM % False, {}); flows.engine.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) < ARENAS

"""`backupiq up`, step by step: the server, then what has to stand in Prefect, then the worker."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import time
from collections.abc import Callable
from typing import Any

from backupiq.errors import MissingConfigurationError, OrchestrationError, ValidationError
from flows import systemd_units
from flows.local_api import LocalApi
from flows.local_server import (
    DEFAULT_PORT,
    WORK_POOL,
    LocalState,
    alone,
    host_queue,
    load_state,
    require_alive,
    require_free,
    save_state,
    start_server,
    start_worker,
    stop_all,
    wait_for_api,
    worker_name,
)
from flows.processes import is_running

WORKER_SECONDS = 120.0
LOOK_SECONDS = 0.25

Note = Callable[[str], None]


@dataclasses.dataclass(frozen=True, slots=True)
class Up:
    """What `up` came to. ``items`` are what stands in Prefect, each with what was done to it."""

    state: LocalState
    server_started: bool
    worker_started: bool
    items: list[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "ui": self.state.ui_url,
            "api": self.state.api_url,
            "server": "started" if self.server_started else "runs already",
            "worker": worker_word(self),
            "queue": self.state.queue,
            "systemd": self.state.systemd,
            "items": self.items,
        }


def worker_word(done: Up) -> str:
    """What became of the worker, in two words at most."""
    if done.worker_started:
        return "started"
    return "runs already" if done.state.worker is not None or done.state.systemd else "none"


def bring_up(port: int | None, *, worker: bool, note: Note) -> Up:
    """Start what does not run yet and see to everything in Prefect.

    ResourceError when another `up` is under way or the port is taken, ValidationError when the server runs at another
    port, OrchestrationError when something does not come up; what had started before goes on running.
    """
    with alone():
        state = load_state()
        if state is not None and state.systemd:
            raise ValidationError("The server is systemd's; use `backupiq up --systemd`, or `backupiq down` first.")
        note("starting Prefect's server ...")
        state, server_started = start_server(port)
        queue = state.queue or host_queue()
        use(state)
        note("registering blocks, limits and deployments ...")
        from flows.deployments import make_work_pool

        pool = asyncio.run(make_work_pool())
        worker_started = False
        if worker:  # it starts while the rest is registered
            state, worker_started = start_worker(state, queue)
        items = [pool.to_dict(), *register(queue, note)]
        if worker_started:
            note("waiting for the worker ...")
            _wait_for_worker(state)
        return Up(state, server_started, worker_started, items)


def use(state: LocalState) -> None:
    """Make that server the Prefect API of this process, before Prefect is imported."""
    os.environ["PREFECT_API_URL"] = state.api_url
    from flows.environment import prepare_environment

    prepare_environment()


def register(queue: str, note: Note) -> list[dict[str, Any]]:
    """Blocks, limits and deployments; what was done."""
    from flows.automations import apply_automations
    from flows.deployments import apply_deployments, definitions_path, load_definitions, local_timezone, profile_timings
    from flows.setup import set_up

    variables = {"BACKUPIQ_QUEUE": queue, "BACKUPIQ_TIMEZONE": local_timezone()}
    definitions = load_definitions(definitions_path(), variables)

    async def everything() -> list[dict[str, Any]]:
        done = await set_up({}, {}) + await apply_automations(None)
        done += await apply_deployments(definitions, profile_timings(note))
        return [item.to_dict() for item in done]

    return asyncio.run(everything())


def _wait_for_worker(state: LocalState) -> None:
    api, end = LocalApi(state.api_url), time.monotonic() + WORKER_SECONDS
    while not worker_is_online(api, state.queue or ""):
        require_alive("worker", state.worker)
        if time.monotonic() > end:
            raise OrchestrationError(f"The worker did not report to the server within {WORKER_SECONDS:.0f} seconds.")
        time.sleep(LOOK_SECONDS)


def worker_is_online(api: LocalApi, queue: str) -> bool:
    """Whether the worker of that queue has told the server lately that it lives. OrchestrationError."""
    found = api.post(f"/work_pools/{WORK_POOL}/workers/filter", limit=200)
    return any(each["name"] == worker_name(queue) and each["status"] == "ONLINE" for each in found)


# --- systemd -------------------------------------------------------------------------------------------------------


def bring_up_by_systemd(port: int | None, note: Note) -> Up | list[str]:
    """Install the units and start them; where systemd does not run for this user, the commands to give later instead.

    Errors as `bring_up`; ConfigurationError when systemd would not take the units.
    """
    with alone():
        state = load_state()
        if state is not None and not state.systemd and state.server is not None and is_running(state.server):
            raise ValidationError("A server runs already that systemd did not start; run `backupiq down` first.")
        if state is not None and not state.systemd:
            state = None
        port = port or (state.port if state is not None else DEFAULT_PORT)
        state = LocalState(port, queue=host_queue(), systemd=True)
        server, worker = systemd_units.NAMES
        fresh = not systemd_units.is_active(server)
        if fresh:
            require_free(port)
        paths = systemd_units.install(port=port, queue=host_queue())
        for path in paths:
            note(f"installed {path}")
        if not systemd_units.has_user_manager():
            return ["backupiq up --systemd", "loginctl enable-linger"]
        systemd_units.systemctl("daemon-reload")
        systemd_units.systemctl("enable", "--now", server, worker)
        save_state(state)
        wait_for_api(state.api_url, lambda: None)
        use(state)
        return Up(state, fresh, fresh, register(host_queue(), note))


def bring_down() -> dict[str, bool]:
    """Stop the worker and the server that `up` started, and nothing else; by role, whether it ran."""
    with alone():
        state = load_state()
        if state is None or not state.systemd:
            return stop_all()
        if not systemd_units.has_user_manager():
            raise MissingConfigurationError("Systemd started the server, but does not run for this user now; log in.")
        server, worker = systemd_units.NAMES
        ran = {"worker": systemd_units.is_active(worker), "server": systemd_units.is_active(server)}
        systemd_units.systemctl("disable", "--now", worker, server)
        save_state(LocalState(state.port, queue=state.queue))
        return ran


# --- how it is -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Status:
    """How the server and its worker are. ``deployments`` tell name, flow, whether it is paused and its next run."""

    state: LocalState | None
    server: bool
    worker: bool
    prefect_version: str | None
    deployments: list[dict[str, Any]]

    @property
    def is_up(self) -> bool:
        """Whether all that `up` started runs."""
        wanted = self.state is not None and (self.state.worker is not None or self.state.systemd)
        return self.server and (self.worker or not wanted)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        state = self.state
        return {
            "up": self.is_up,
            "ui": state.ui_url if state is not None and self.server else None,
            "api": state.api_url if state is not None and self.server else None,
            "server": "running" if self.server else "stopped",
            "server_pid": state.server.pid if state is not None and state.server is not None and self.server else None,
            "worker": "running" if self.worker else "stopped",
            "worker_pid": state.worker.pid if state is not None and state.worker is not None and self.worker else None,
            "queue": state.queue if state is not None else None,
            "systemd": state is not None and state.systemd,
            "prefect_version": self.prefect_version,
            "deployments": self.deployments,
        }


def look() -> Status:
    """How things are; starts nothing and changes nothing."""
    state = load_state()
    if state is None:
        return Status(None, False, False, None, [])
    api = LocalApi(state.api_url)
    server, worker = systemd_units.NAMES
    if state.systemd:
        server_runs, worker_runs = systemd_units.is_active(server), systemd_units.is_active(worker)
    else:
        server_runs = state.server is not None and is_running(state.server)
        worker_runs = state.worker is not None and is_running(state.worker)
    if not (server_runs and api.is_healthy()):
        return Status(state, False, worker_runs, None, [])
    version = None
    with contextlib.suppress(OrchestrationError):
        version = str(api.get("/admin/version"))
    return Status(state, True, worker_runs, version, _deployments(api))


def _deployments(api: LocalApi) -> list[dict[str, Any]]:
    found = api.post("/deployments/filter", sort="NAME_ASC", limit=200, deployments={"tags": {"all_": ["backupiq"]}})
    ids = [each["id"] for each in found]
    runs = api.post(
        "/flow_runs/filter",
        deployments={"id": {"any_": ids}},
        flow_runs={"state": {"type": {"any_": ["SCHEDULED"]}}},
        sort="EXPECTED_START_TIME_ASC",
        limit=200,
    )
    soonest: dict[str, str] = {}
    for run in runs:
        soonest.setdefault(run["deployment_id"], run["expected_start_time"])
    return [
        {"name": each["name"], "paused": bool(each["paused"]), "next_run": soonest.get(each["id"])} for each in found
    ]

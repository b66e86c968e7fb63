"""The lasting Prefect server of this machine and its worker: started, found again, asked how they are, stopped.

Their state file (``STATE/prefect/local.json``) names both processes by id and by the moment they began, so that a
process that got the id of one that is gone is never taken for it. Nothing here imports Prefect.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from backupiq.errors import OrchestrationError, ResourceError, ValidationError
from backupiq.state import state_dir, write_private
from flows import run_processes
from flows.bounded_log import last_lines
from flows.embedded import without_secrets
from flows.local_api import LocalApi
from flows.processes import Process, is_running, mark_of, stop

DEFAULT_PORT = 4200
HOST = "127.0.0.1"
START_SECONDS = 180.0
"""A first start makes the database: 6 seconds on an idle machine, many times that on a busy one."""
STOP_SERVER_SECONDS = 15.0
STOP_WORKER_SECONDS = 15.0
END_RUNS_SECONDS = 45.0
"""A run that is told to end has 30 seconds to give its locks back before Prefect kills it."""
LOOK_SECONDS = 0.1
_MOST_STATE_BYTES = 64 * 1024
WORK_POOL = "backupiq"
AFTER_DEATH = {
    "PENDING": ("SCHEDULED", "Scheduled", "Its worker ended before it began."),
    "RUNNING": ("CRASHED", "Crashed", "Its process is gone; the next run goes on from here."),
    "CANCELLING": ("CANCELLED", "Cancelled", "Its process is gone."),
}
"""The type, name and message of a run's state, by the type of the state in which its process ended."""
_ROLES = ("server", "worker")


@dataclasses.dataclass(frozen=True, slots=True)
class LocalState:
    """What `up` started; ``worker`` is None when none was wanted.

    With ``systemd`` its user units keep both processes, and their ids are not ours to know: both are None.
    """

    port: int
    server: Process | None = None
    worker: Process | None = None
    queue: str | None = None
    systemd: bool = False

    @property
    def api_url(self) -> str:
        """The address of Prefect's API."""
        return api_url(self.port)

    @property
    def ui_url(self) -> str:
        """The address for a browser."""
        return f"http://{HOST}:{self.port}"


def api_url(port: int) -> str:
    """The address of the API of a server at that port of this machine."""
    return f"http://{HOST}:{port}/api"


def host_queue() -> str:
    """The work queue of this machine: its runs are worked off by its own worker."""
    name = re.sub(r"[^a-z0-9-]+", "-", socket.gethostname().split(".")[0].lower()).strip("-")
    return name[:63] or "this-machine"


def worker_name(queue: str) -> str:
    """The name under which the worker of a queue shows in Prefect."""
    return f"backupiq-{queue}"


def folder() -> Path:
    """Where the server keeps its database and both their logs."""
    return state_dir() / "prefect"


def log_path(role: str) -> Path:
    """The log of the server or the worker."""
    return folder() / f"{role}.log"


def load_state() -> LocalState | None:
    """What `up` started last and `down` did not stop; None without one, or when the file is unusable."""
    try:
        with open(_state_path(), "rb") as file:
            found = json.loads(file.read(_MOST_STATE_BYTES))
        processes = {role: Process(**found[role]) if found[role] else None for role in _ROLES}
        return LocalState(int(found["port"]), queue=found["queue"], systemd=bool(found["systemd"]), **processes)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def save_state(state: LocalState) -> None:
    """Keep it. OSError when the disk or its rights do not allow it."""
    write_private(_state_path(), json.dumps(dataclasses.asdict(state)).encode())


def _state_path() -> Path:
    return folder() / "local.json"


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Only one `up` or `down` at a time. ResourceError when another one is under way."""
    folder().mkdir(mode=0o700, parents=True, exist_ok=True)
    folder().chmod(0o700)
    with open(folder() / "lock", "ab") as file:
        try:
            _lock(file.fileno())
        except OSError as error:
            text = "Another `backupiq up` or `backupiq down` is under way; wait for it and run the command again."
            raise ResourceError(text) from error
        yield


def _lock(descriptor: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


# --- the server ----------------------------------------------------------------------------------------------------


def start_server(port: int | None) -> tuple[LocalState, bool]:
    """The server, started unless it runs already, once it answers; and whether it was started.

    Call it inside `alone`. ValidationError when it runs at another port than the one that is asked for, ResourceError
    when another program has the port, OrchestrationError when it does not come up.
    """
    state = load_state()
    if state is not None and state.server is not None and is_running(state.server):
        if port not in (None, state.port):
            raise ValidationError(
                f"The server runs at port {state.port} already; stop it with `backupiq down` to start it at {port}."
            )
        _wait_until_ready(state)
        return state, False
    port = port or (state.port if state is not None else DEFAULT_PORT)
    require_free(port)
    with without_secrets():
        process = _launch("server", ["--port", str(port)])
    state = LocalState(port, process, state.worker if state is not None else None, state.queue if state else None)
    save_state(state)
    try:
        _wait_until_ready(state)
    except BaseException:
        stop(process, STOP_SERVER_SECONDS)
        raise
    return state, True


def require_free(port: int) -> None:
    """ResourceError when another program listens at that port of this machine."""
    with socket.socket() as probe:
        if os.name == "posix":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # closed connections are nobody's
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ResourceError(
                f"Port {port} is used by another program; give another one: `backupiq up --port N`.", port=port
            ) from error


def wait_for_api(url: str, check: Callable[[], None], seconds: float = START_SECONDS) -> None:
    """Until the API answers; raises what ``check``, asked often, raises, and OrchestrationError after the time."""
    api = LocalApi(url)
    end = time.monotonic() + seconds
    while not api.is_healthy():
        check()
        if time.monotonic() > end:
            raise OrchestrationError(f"Prefect's server at {url} did not answer within {seconds:.0f} seconds.")
        time.sleep(LOOK_SECONDS)


def _wait_until_ready(state: LocalState) -> None:
    wait_for_api(state.api_url, lambda: require_alive("server", state.server))


def require_alive(role: str, process: Process | None) -> None:
    """OrchestrationError with the end of its log when the process has ended."""
    if process is not None and is_running(process):
        return
    path = log_path(role)
    said = " / ".join(last_lines(path, 2))
    raise OrchestrationError(
        f"Prefect's {role} ended right after its start: {said or 'it said nothing'}. See {path}.", log=str(path)
    )


# --- the worker ----------------------------------------------------------------------------------------------------


def start_worker(state: LocalState, queue: str) -> tuple[LocalState, bool]:
    """The worker of that queue, started unless it runs already; and whether it was started. Inside `alone`."""
    if state.worker is not None and is_running(state.worker):
        return state, False
    process = _launch("worker", ["--port", str(state.port), "--queue", queue])
    state = dataclasses.replace(state, worker=process, queue=queue)
    save_state(state)
    return state, True


def _launch(role: str, arguments: list[str]) -> Process:
    """Start a role of `flows.local_service`, detached: it outlives this process and its terminal."""
    log = log_path(role)
    command = [sys.executable, "-m", "flows.local_service", role, *arguments, "--log", str(log)]
    options: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":
        flags = subprocess.DETACHED_PROCESS | subprocess.CREATE_NEW_PROCESS_GROUP
        options = {"creationflags": flags}
    # The password is that of this command alone, and not of all runs to come.
    env = {name: value for name, value in os.environ.items() if name != "BACKUPIQ_PASSWORD"}
    with open(os.devnull, "rb+") as nowhere:
        process = subprocess.Popen(
            command, env=env, cwd=folder(), stdin=nowhere, stdout=nowhere, stderr=nowhere, **options
        )
    mark = mark_of(process.pid)
    if mark is None:
        raise OrchestrationError(f"Prefect's {role} ended right after its start. See {log}.")
    return Process(process.pid, mark)


# --- both ----------------------------------------------------------------------------------------------------------


def stop_all() -> dict[str, bool]:
    """Stop the worker, then the server, and nothing else; by role, whether it ran. Inside `alone`.

    Runs under way are told to end first: Prefect's worker would kill them, and their locks would stay.
    """
    state = load_state()
    stopped = dict.fromkeys(_ROLES, False)
    if state is None:
        return stopped
    api, queue = LocalApi(state.api_url), state.queue or ""
    if state.worker is not None:
        end_runs(api, queue)  # a run may have outlived its worker
        stopped["worker"] = stop(state.worker, STOP_WORKER_SECONDS)
        mark_crashed(api, queue)
    if state.server is not None:
        stopped["server"] = stop(state.server, STOP_SERVER_SECONDS)
    save_state(LocalState(state.port, queue=state.queue))  # the next server has the same address
    return stopped


def end_runs(api: LocalApi, queue: str, seconds: float = END_RUNS_SECONDS) -> None:
    """Cancel the runs of the worker of that queue and wait until they have ended.

    Returns after that many seconds, or when the API does not answer, whatever still runs then.
    """
    end, told = time.monotonic() + seconds, set()
    with contextlib.suppress(OrchestrationError):
        while (found := _under_way(api, queue)) and time.monotonic() < end:
            for run in found:
                if run["id"] not in told:
                    told.add(run["id"])
                    _set_state(api, run["id"], "CANCELLING", "Cancelling")
            time.sleep(LOOK_SECONDS)


def mark_crashed(api: LocalApi, queue: str) -> None:
    """Say of the queue's runs that they crashed; their worker has ended, and they with it.

    Without it the next run of the same deployment would wait for them. An API that does not answer is left alone.
    """
    with contextlib.suppress(OrchestrationError):
        for run in _under_way(api, queue):
            _set_state(api, run["id"], "CRASHED", "Crashed", "The worker was stopped.")


def settle_runs(api: LocalApi, queue: str) -> None:
    """Say what became of the queue's runs whose process is gone, with its worker or with the whole machine.

    Those under way have crashed, and what was only about to begin waits for its start again. A run that outlived its
    worker is left alone. Call it while no worker of the queue runs; an API that does not answer is left alone too.
    """
    with contextlib.suppress(OrchestrationError):
        for run in _under_way(api, queue):
            if run_processes.has_process(run["id"], run.get("infrastructure_pid")):
                continue
            kind, name, message = AFTER_DEATH[run["state_type"]]
            _set_state(api, run["id"], kind, name, message)
        run_processes.remove_old()


def _under_way(api: LocalApi, queue: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = api.post(
        "/flow_runs/filter",
        work_pools={"name": {"any_": [WORK_POOL]}},
        work_pool_queues={"name": {"any_": [queue]}},
        flow_runs={"state": {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING"]}}},
        limit=200,
    )
    return found


def _set_state(api: LocalApi, run: str, kind: str, name: str, message: str | None = None) -> None:
    state = {"type": kind, "name": name, "message": message}
    api.post(f"/flow_runs/{run}/set_state", state=state, force=kind != "CANCELLING")


def running_api_url() -> str | None:
    """The address of the server that `up` started, when it runs and answers."""
    state = load_state()
    if state is None or (not state.systemd and (state.server is None or not is_running(state.server))):
        return None
    return state.api_url if LocalApi(state.api_url).is_healthy() else None

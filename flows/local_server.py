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
from flows.bounded_log import last_lines
from flows.embedded import without_secrets
from flows.local_api import LocalApi
from flows.processes import Process, is_running, mark_of, stop

DEFAULT_PORT = 4200
HOST = "127.0.0.1"
START_SECONDS = 180.0
"""A first start makes the database: 6 seconds on an idle machine, many times that on a busy one."""
STOP_SERVER_SECONDS = 15.0
STOP_WORKER_SECONDS = 45.0
"""A run that is told to end has 30 seconds to give its locks back."""
LOOK_SECONDS = 0.1
_MOST_STATE_BYTES = 64 * 1024
WORK_POOL = "backupiq"
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
        return f"http://{HOST}:{self.port}/api"

    @property
    def ui_url(self) -> str:
        """The address for a browser."""
        return f"http://{HOST}:{self.port}"


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


def forget_state() -> None:
    """There is none any more."""
    _state_path().unlink(missing_ok=True)


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


def wait_for_api(api_url: str, check: Callable[[], None], seconds: float = START_SECONDS) -> None:
    """Until the API answers; raises what ``check``, asked often, raises, and OrchestrationError after the time."""
    api = LocalApi(api_url)
    end = time.monotonic() + seconds
    while not api.is_healthy():
        check()
        if time.monotonic() > end:
            raise OrchestrationError(f"Prefect's server at {api_url} did not answer within {seconds:.0f} seconds.")
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
    """Stop the worker, then the server, and nothing else; by role, whether it ran. Inside `alone`."""
    state = load_state()
    stopped = dict.fromkeys(_ROLES, False)
    if state is None:
        return stopped
    for role, process, seconds in (
        ("worker", state.worker, STOP_WORKER_SECONDS),
        ("server", state.server, STOP_SERVER_SECONDS),
    ):
        if process is not None:
            stopped[role] = stop(process, seconds)
    forget_state()
    return stopped


def running_api_url() -> str | None:
    """The address of the server that `up` started, when it runs and answers."""
    state = load_state()
    if state is None or (not state.systemd and (state.server is None or not is_running(state.server))):
        return None
    return state.api_url if LocalApi(state.api_url).is_healthy() else None

"""One real Prefect server for a whole test session, shared by all its worker processes.

The processes that use it are kept as a list of process ids beside a lock: the first starts the server, the last one
stops it, and a holder that died is dropped from the list.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.programs import isolated_home, plain_environment

START_SECONDS = 180.0
"""A server is ready after about 6 seconds; a busy machine may need many times that."""
STOP_SECONDS = 30.0
BUSY_SECONDS = 60.0
"""How long a server is asked again that answers with 503: another writer holds its database, and it says try again."""
ATTEMPTS = 3
"""A free port can be taken by another program before the server binds it: then another one is tried."""

UNNEEDED_SERVICES = ("SCHEDULER", "LATE_RUNS", "FOREMAN", "PAUSE_EXPIRATIONS", "TRIGGERS")


@dataclasses.dataclass(frozen=True)
class PrefectServer:
    """A running server. ``settings(home)`` are the variables that make a program use it."""

    pid: int
    port: int
    home: str
    log: str

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    def settings(self, home: Path) -> dict[str, str]:
        """The variables for a client whose own Prefect folder is below ``home``."""
        return {
            "PREFECT_API_URL": self.api_url,
            "PREFECT_HOME": str(home / ".prefect"),
            "PREFECT_SERVER_API_PORT": str(self.port),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
        }

    def call(self, path: str, body: object = None, method: str = "") -> Any:
        """What the API answers, as any other program would ask it: GET, or POST where there is a body."""
        request = urllib.request.Request(  # noqa: S310 - own loopback URL
            self.api_url + path,
            None if body is None else json.dumps(body).encode(),
            {"content-type": "application/json"},
            method=method or None,
        )
        end = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
                    return json.loads(answer.read() or b"null")
            except urllib.error.HTTPError as error:
                if error.code != http.HTTPStatus.SERVICE_UNAVAILABLE or time.monotonic() > end:
                    raise
            time.sleep(0.1)

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.api_url}/health", timeout=5) as answer:  # noqa: S310 - own loopback URL
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False


def start_server(folder: Path, **settings: str) -> PrefectServer:
    """Starts ``prefect server start`` with its own home in ``folder`` and waits until it answers.

    ``settings`` are more variables for it. Raises RuntimeError with the end of its log when it does not come up.
    """
    folder.mkdir(parents=True, exist_ok=True)
    problem = ""
    for _ in range(ATTEMPTS):
        server, process = _launch(folder, settings)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if process.poll() is not None:
                break
            if server.is_ready():
                return server
            time.sleep(0.1)
        stop_server(server)
        problem = Path(server.log).read_text(errors="replace")[-2000:]
    raise RuntimeError(f"the Prefect server did not start:\n{problem}")


def _launch(folder: Path, settings: dict[str, str]) -> tuple[PrefectServer, subprocess.Popen[bytes]]:
    port = _free_port()
    home = folder / "prefect-home"
    log = folder / f"prefect-server-{port}.log"
    env = plain_environment() | isolated_home(folder)
    env |= {
        "PREFECT_HOME": str(home),
        # Without it the UI calls the default port, whatever --port says.
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_ENABLED": "false",
        "PREFECT_CLI_PROMPT": "false",
        "DO_NOT_TRACK": "1",
        **{f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in UNNEEDED_SERVICES},
        **settings,
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("ab") as output:
        # A file, not pipes: a server whose pipes nobody reads dies at its first warning. A session of its own, so that
        # Ctrl-C in the terminal ends the tests first and they end the server.
        process = subprocess.Popen(
            command,
            env=env,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return PrefectServer(pid=process.pid, port=port, home=str(home), log=str(log)), process


def stop_server(server: PrefectServer) -> None:
    """Ends the server by its process id: first politely, after a while for good."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(server.pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while time.monotonic() < deadline:
            if _has_ended(server.pid):
                return
            time.sleep(0.05)
        os.kill(server.pid, signal.SIGKILL)
        _has_ended(server.pid)


def _has_ended(pid: int) -> bool:
    """Whether the process is gone. Collects it when it is this process's own child."""
    with contextlib.suppress(ChildProcessError):
        if os.waitpid(pid, os.WNOHANG)[0] == pid:
            return True
        if _is_alive(pid):
            return False
        os.waitpid(pid, 0)  # it ended in between
        return True
    return not _is_alive(pid)


def _is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not collected by its parent counts as gone."""
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self").exists():
        try:
            return stat.read_text().rpartition(")")[2].split()[0] != "Z"
        except (FileNotFoundError, ProcessLookupError):
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- sharing one server between processes --------------------------------------------------------------------------


def acquire_shared_server(folder: Path) -> PrefectServer:
    """The session's server, started when there is none yet. Each call is a hold of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        server, holders = _load(folder)
        if server is not None and not server.is_ready():
            stop_server(server)
            server, holders = None, []
        if server is None:
            server = start_server(folder)
        _save(folder, server, [*holders, os.getpid()])
        return server


def release_shared_server(folder: Path, *, everybody: bool = False) -> None:
    """Gives up one hold of this process; the last holder, or ``everybody``, stops the server."""
    if not folder.exists():
        return
    with _locked(folder):
        server, holders = _load(folder)
        if server is None:
            return
        if os.getpid() in holders:
            holders.remove(os.getpid())
        left = [] if everybody else [pid for pid in holders if _is_alive(pid)]
        if left:
            _save(folder, server, left)
        else:
            stop_server(server)
            _state_path(folder).unlink()


def _state_path(folder: Path) -> Path:
    return folder / "server.json"


def _load(folder: Path) -> tuple[PrefectServer | None, list[int]]:
    path = _state_path(folder)
    if not path.exists():
        return None, []
    state = json.loads(path.read_text())
    return PrefectServer(**state["server"]), state["holders"]


def _save(folder: Path, server: PrefectServer, holders: list[int]) -> None:
    _state_path(folder).write_text(json.dumps({"server": dataclasses.asdict(server), "holders": holders}))


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    import fcntl

    with (folder / "server.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield

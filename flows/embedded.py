"""Prefect's embedded server, for machines where no Prefect API is configured."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from backupiq.telemetry.redaction import names_a_secret
from flows.environment import has_api

STOP_SECONDS = 1.5
LOOK_SECONDS = 0.05

_CREDENTIALS = ("AWS_", "AZURE_", "BACKUPIQ_", "CLOUDSDK_", "GOOGLE_", "RESTIC_")
"""How the variables of destinations begin: nothing of theirs is needed by Prefect's server."""

# Ends the process of the given id once standard input is at its end, which the death of whoever holds it brings about.
_GUARD = "import os, sys; sys.stdin.buffer.read(); os.kill(int(sys.argv[1]), 15)"


class EmbeddedServer:
    """The server of this process, started in a thread so that signals are heeded meanwhile.

    The thread imports parts of Prefect: nothing else may be importing then, since two threads that import modules which
    import each other can see one of them half made.

    Ctrl-C at a terminal goes to every process in the foreground. The server must outlive it, since the run still has to
    tell how it ended; so it is started by a thread that blocks the signal, which its child inherits. It must not
    outlive this process, though, however that ends: a guard beside it sees to that.
    """

    def __init__(self) -> None:
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._given_up = False

    def start(self) -> None:
        """Begin to start it, unless a Prefect API is configured."""
        if not has_api(os.environ):
            # Loading this asks the program `file` about the interpreter, which would inherit the environment.
            with without_secrets():
                import prefect._vendor.croniter  # noqa: F401
        self._thread = threading.Thread(target=self._start, name="backupiq-prefect", daemon=True)
        self._thread.start()

    def _start(self) -> None:
        try:
            from prefect.settings import PREFECT_API_URL

            if PREFECT_API_URL.value():
                return
            from prefect.server.api.server import SubprocessASGIServer

            class GuardedServer(SubprocessASGIServer):
                def _run_uvicorn_command(self) -> subprocess.Popen[Any]:
                    with without_secrets():
                        return guarded(super()._run_uvicorn_command())

            if hasattr(signal, "pthread_sigmask"):
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            if not self._given_up:
                GuardedServer().start()
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
            self._error = error

    def wait(self, check: Callable[[], None]) -> None:
        """Until it answers; raises what kept it from starting, and what ``check``, asked often, raises."""
        while self._thread is not None and self._thread.is_alive():
            self._thread.join(LOOK_SECONDS)
            check()
        if self._error is not None:
            raise self._error

    def give_up(self) -> None:
        """Stop it, also when it is only about to start."""
        self._given_up = True
        stop_embedded_server()


@contextlib.contextmanager
def without_secrets() -> Iterator[None]:
    """Take what may be a secret of the user's out of the environment while a process that needs none is started."""
    taken = {name: value for name, value in os.environ.items() if _is_ours_alone(name)}
    for name in taken:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(taken)


def _is_ours_alone(name: str) -> bool:
    # Prefect's own settings, its database's password among them, are the server's to know.
    if name.startswith("PREFECT_"):
        return False
    return name.startswith(_CREDENTIALS) or names_a_secret(name)


def guarded(server: subprocess.Popen[Any]) -> subprocess.Popen[Any]:
    """The same server, which from now on ends when this process ends, be it by SIGKILL."""
    if os.name == "posix":
        # It holds the reading end of a pipe whose writing end no other process has.
        guard = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _GUARD, str(server.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _guards[server.pid] = guard
        atexit.register(guard.kill)  # after Prefect's own, which ends the server
    return server


_guards: dict[int, subprocess.Popen[Any]] = {}


def stop_embedded_server() -> None:
    """End this process's server now, if it has one; its database survives a hard end."""
    module = sys.modules.get("prefect.server.api.server")
    kind = getattr(module, "SubprocessASGIServer", None)
    process = kind().server_process if kind is not None else None
    if process is None or process.poll() is not None:
        return
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    if process.poll() is None:
        process.kill()
        process.wait()
    guard = _guards.pop(process.pid, None)
    if guard is not None:
        guard.kill()
        guard.wait()

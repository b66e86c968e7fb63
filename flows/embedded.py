"""Prefect's embedded server, for machines where no Prefect API is configured."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading

STOP_SECONDS = 1.5


class EmbeddedServer:
    """The server of this process, started in a thread so that the flows are imported meanwhile.

    Ctrl-C at a terminal goes to every process in the foreground. The server must outlive it, since the run still has to
    tell how it ended; so it is started by a thread that blocks the signal, which its child inherits.
    """

    def __init__(self) -> None:
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to start it, unless a Prefect API is configured."""
        self._thread = threading.Thread(target=self._start, name="backupiq-prefect", daemon=True)
        self._thread.start()

    def _start(self) -> None:
        try:
            from prefect.settings import PREFECT_API_URL

            if PREFECT_API_URL.value():
                return
            from prefect.server.api.server import SubprocessASGIServer

            if hasattr(signal, "pthread_sigmask"):
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            SubprocessASGIServer().start()
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
            self._error = error

    def wait(self) -> None:
        """Until it answers; raises what kept it from starting."""
        if self._thread is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error


def stop_embedded_server() -> None:
    """End this process's server now, if it has one; its database survives a hard end."""
    from prefect.server.api.server import SubprocessASGIServer

    process = SubprocessASGIServer().server_process
    if process is None or process.poll() is not None:
        return
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
        return
    process.kill()
    process.wait()

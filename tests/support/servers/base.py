"""A server program of a test: started on free ports, waited for until it answers, stopped by its process id."""

from __future__ import annotations

import abc
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

from tests.support.programs import isolated_home, plain_environment, unavailable

HOST = "127.0.0.1"
START_SECONDS = 120.0
"""Servers are ready within seconds; a busy machine may need many times that."""
ATTEMPTS = 3
"""A free port can be taken by another program before the server binds it: then others are tried."""


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that are free at this moment, all different."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((HOST, 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def program_of_environment(name: str, package: str) -> Path:
    """A program installed beside the Python that runs the tests; ends the test when it is not there."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        unavailable(f"{name} is not installed; run `make venv` (package {package})")
    return Path(found)


class Server(abc.ABC):
    """Start it with ``with`` or `start`, as often as you like: what it stores below ``folder`` stays.

    Its address stays the same from the second start on, so that clients find it again.
    """

    ports_needed = 1
    stop_seconds = 20.0

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.log = folder / "server.log"
        self.ports: list[int] = []
        self._process: subprocess.Popen[bytes] | None = None

    @abc.abstractmethod
    def command(self) -> list[str]:
        """The program with its arguments, for ``self.ports``."""

    @abc.abstractmethod
    def is_ready(self) -> bool:
        """Whether it answers; ``OSError`` counts as no."""

    @property
    def url(self) -> str:
        """The address for clients."""
        return f"http://{HOST}:{self.ports[0]}"

    def start(self) -> Self:
        """Start it and wait until it answers; AssertionError with the end of its log when it does not."""
        again = bool(self.ports)
        for _ in range(1 if again else ATTEMPTS):
            if not again:
                self.ports = free_ports(self.ports_needed)
            self._launch()
            if self._wait():
                return self
            self.stop()
        raise AssertionError(f"{type(self).__name__} did not start:\n{self.log.read_text(errors='replace')[-2000:]}")

    def _launch(self) -> None:
        with self.log.open("ab") as output:
            # A session of its own: Ctrl-C in the terminal ends the tests, and they end the server.
            self._process = subprocess.Popen(
                self.command(),
                env=plain_environment() | isolated_home(self.folder) | {"PYTHONUNBUFFERED": "1"},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _wait(self) -> bool:
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError):
                if self.is_ready():
                    return True
            time.sleep(0.05)
        return False

    def stop(self) -> None:
        """End it: politely, after `stop_seconds` for good."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(self.stop_seconds)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

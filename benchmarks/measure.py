"""Runs one program and measures it: wall and processor seconds, and the peak memory of its whole process tree."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

SAMPLE_SECONDS = 0.05


@dataclasses.dataclass(frozen=True, slots=True)
class Measurement:
    """One run of a program. ``cpu_seconds`` is user and system time of the program and its children."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    stdout: str


def measure(command: Sequence[str], *, env: Mapping[str, str], cwd: Path | None = None) -> Measurement:
    """Runs ``command`` to its end. Raises RuntimeError with the end of its output when it does not end with 0.

    Dirty pages are written to disk before the clock starts, so that no program pays for what ran before it.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        os.sync()
        begin = time.perf_counter()
        process = subprocess.Popen(command, env=dict(env), cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        sampler = _Sampler(process.pid)
        sampler.start()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        sampler.finish()
        stdout, stderr = _text(out), _text(err)
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{stdout[-1000:]}{stderr[-2000:]}")
    # ru_maxrss counts the memory this process had when it forked, so it serves only where there is no /proc.
    unit = 1 if sys.platform == "darwin" else 1024
    peak = sampler.peak_bytes or usage.ru_maxrss * unit
    return Measurement(seconds, usage.ru_utime + usage.ru_stime, peak, stdout)


def _text(handle: IO[bytes]) -> str:
    handle.seek(0)
    return handle.read().decode("utf-8", "replace")


class _Sampler(threading.Thread):
    """Watches a process tree until `finish`; ``peak_bytes`` is the largest sum of resident memory, 0 without /proc.

    The first process's own high-water mark counts as well, so that a short peak between two samples is not lost.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.peak_bytes = 0
        self._pid = pid
        self._ended = threading.Event()

    def run(self) -> None:
        while True:
            together = sum(_memory(pid, "VmRSS") for pid in _tree(self._pid))
            self.peak_bytes = max(self.peak_bytes, together, _memory(self._pid, "VmHWM"))
            if self._ended.wait(SAMPLE_SECONDS):
                return

    def finish(self) -> None:
        self._ended.set()
        self.join()


def _tree(pid: int) -> Iterator[int]:
    """The process and all its descendants that live now."""
    yield pid
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return
    for thread in threads:
        try:
            children = Path(f"/proc/{pid}/task/{thread}/children").read_text().split()
        except OSError:
            continue
        for child in children:
            yield from _tree(int(child))


def _memory(pid: int, field: str) -> int:
    """A field of /proc/PID/status in bytes; 0 when the process has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    for line in status.splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return 0

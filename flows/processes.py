"""Processes that are known by their id and by the moment they began."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

LOOK_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Process:
    """A process: its id, and a mark of its beginning that no other process of the same id has."""

    pid: int
    mark: str


def mark_of(pid: int) -> str | None:
    """When the process began, as a text to compare; None when there is none, or it has ended and nobody asked how."""
    if pid <= 0:
        return None
    if Path("/proc/self/stat").exists():
        return _mark_by_proc(pid)
    return _mark_by_windows(pid) if sys.platform == "win32" else _mark_by_ps(pid)


def _mark_by_proc(pid: int) -> str | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except (OSError, ValueError):
        return None
    return None if fields[0] in "ZX" else f"{boot}:{fields[19]}"


def _mark_by_ps(pid: int) -> str | None:
    command = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"})
    state, _, began = done.stdout.strip().partition(" ")
    return began.strip() or None if not state.startswith("Z") else None


def _mark_by_windows(pid: int) -> str | None:
    if sys.platform != "win32":
        return None
    import ctypes

    kernel = ctypes.windll.kernel32
    handle = kernel.OpenProcess(0x1000, False, pid)  # PROCESS_QUERY_LIMITED_INFORMATION
    if not handle:
        return None
    try:
        began, ended, *rest = (ctypes.c_uint64() for _ in range(4))
        if not kernel.GetProcessTimes(handle, *(ctypes.byref(time) for time in (began, ended, *rest))):
            return None
        return None if ended.value else str(began.value)
    finally:
        kernel.CloseHandle(handle)


def is_running(process: Process) -> bool:
    """Whether that very process runs."""
    return mark_of(process.pid) == process.mark


def stop(process: Process, seconds: float) -> bool:
    """End it: politely, and after that many seconds by force, with what it started. Returns whether it ran.

    Another process that has its id by now is left alone.
    """
    if not is_running(process):
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGTERM)
    if not _ends_within(process, seconds) and is_running(process):
        with contextlib.suppress(ProcessLookupError):
            _kill(process.pid)
        _ends_within(process, seconds)
    return True


def _kill(pid: int) -> None:
    if sys.platform == "win32":
        os.kill(pid, signal.SIGTERM)
    elif os.getpgid(pid) == pid:  # a group of its own: the runs of a worker
        os.killpg(pid, signal.SIGKILL)
    else:
        os.kill(pid, signal.SIGKILL)


def _ends_within(process: Process, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while is_running(process):
        if time.monotonic() > end:
            return False
        with contextlib.suppress(ChildProcessError, AttributeError):
            os.waitpid(process.pid, os.WNOHANG)  # when it is a child of this process
        time.sleep(LOOK_SECONDS)
    return True

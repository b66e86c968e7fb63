"""Which process carries out which run: noted by the run itself, looked up when a worker starts after another one died.

A file for each run in ``STATE/prefect/runs`` names its process. Nothing here imports Prefect.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

from backupiq.errors import ConfigurationError
from backupiq.state import state_dir, write_private
from flows.processes import Process, is_running, mark_of

VARIABLE = "PREFECT__FLOW_RUN_ID"
"""Where Prefect's worker names the run to the process that it starts."""
_MOST_BYTES = 4096


@contextlib.contextmanager
def noted(env: dict[str, str] | os._Environ[str] = os.environ) -> Iterator[None]:
    """Note this process as that of the run that the environment names, until the end of the block."""
    try:
        path = _path(env.get(VARIABLE, ""))
    except (ValueError, ConfigurationError):  # none that a worker started
        yield
        return
    mark = mark_of(os.getpid())
    if mark is not None:
        with contextlib.suppress(OSError):  # a disk that is full is what the run itself has to tell
            write_private(path, json.dumps(dataclasses.asdict(Process(os.getpid(), mark))).encode())
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()


def has_process(run: str, pid: str | None) -> bool:
    """Whether the run's process runs on this machine; ``pid`` is the one that Prefect knows, for want of a note."""
    noted = _read(run)
    if noted is not None:
        return is_running(noted)
    return pid is not None and pid.isascii() and pid.isdigit() and mark_of(int(pid)) is not None


def remove_old() -> None:
    """Remove the notes of processes that have ended without doing so."""
    for path in _folder().glob("*.json"):
        noted = _read(path.stem)
        if noted is not None and not is_running(noted):
            with contextlib.suppress(OSError):
                path.unlink()


def _read(run: str) -> Process | None:
    try:
        with open(_path(run), "rb") as file:
            return Process(**json.loads(file.read(_MOST_BYTES)))
    except (OSError, ValueError, TypeError):
        return None


def _path(run: str) -> Path:
    return _folder() / f"{UUID(run)}.json"


def _folder() -> Path:
    return state_dir() / "prefect" / "runs"

"""What one run shares inside its process and must never travel through Prefect: the password, progress, the session."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

from pydantic import SecretStr

from backupiq.profiles import Resolved
from backupiq.progress import ProgressSink, SilentProgress


@dataclasses.dataclass(slots=True)
class RunContext:
    """One run of a flow in this process.

    ``report`` is filled in by the flow; ``cancel_requested`` says that the run was asked to end (by a signal or through
    Prefect's API), so that its CancelledError is an answer and not an accident.
    """

    password: SecretStr | None = None
    resolved: Resolved | None = None
    """What a face has made of a profile already: then no run reads it again."""
    progress: ProgressSink = dataclasses.field(default_factory=SilentProgress)
    launched: float = dataclasses.field(default_factory=time.perf_counter)
    flow_began: float | None = None
    report: Any = None
    cancel_requested: str | None = None
    on_cancel: Callable[[], object] | None = None
    on_begin: Callable[[], None] | None = None
    cleaned_up: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)
    """Set when a run that was asked to end has given everything back: locks, spool, threads."""
    abandoned: bool = False
    """Prefect's API did not answer any more, and the event loop was left as it stood."""

    def begin(self) -> None:
        """The flow's first line is reached."""
        self.flow_began = time.perf_counter()
        if self.on_begin is not None:
            self.on_begin()

    def request_cancel(self, reason: str) -> None:
        """Ask the run to end; the first reason is kept. Called in the event loop's thread."""
        if self.cancel_requested is None:
            self.cancel_requested = reason
        if self.on_cancel is not None:
            self.on_cancel()

    @property
    def seconds_before_flow(self) -> float:
        """From the launch to the flow's first line: importing Prefect and reaching its API."""
        return (self.flow_began - self.launched) if self.flow_began is not None else 0.0


_current: contextvars.ContextVar[RunContext | None] = contextvars.ContextVar("backupiq_run", default=None)


def current_run() -> RunContext:
    """The run this code belongs to; a new empty one when a worker started the flow."""
    run = _current.get()
    if run is None:
        run = RunContext()
        _current.set(run)
    return run


@contextlib.contextmanager
def running(run: RunContext) -> Iterator[RunContext]:
    """Make ``run`` the current one."""
    token = _current.set(run)
    try:
        yield run
    finally:
        _current.reset(token)

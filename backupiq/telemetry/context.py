"""Which run, snapshot, batch and destination the code is working for, known to every log event below it.

The ids live in a context variable: awaits, asyncio tasks, ``asyncio.to_thread`` and Prefect's tasks carry it along by
themselves. Bare threads and pools do not; `ContextThreadPool` and `run_in_context` do it for them.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from types import MappingProxyType
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_EMPTY: Mapping[str, str | int] = MappingProxyType({})
_current: contextvars.ContextVar[Mapping[str, str | int]] = contextvars.ContextVar(
    "backupiq_correlation", default=_EMPTY
)


def current_correlation() -> dict[str, str | int]:
    """The ids bound here, as a new dictionary; it can be sent elsewhere and given to `correlation` there."""
    return dict(_current.get())


def bind_run(
    run_id: str,
    *,
    snapshot: str | None = None,
    batch: str | int | None = None,
    destination: str | None = None,
) -> None:
    """Start a run: its id, and only the ids given with it, hold from here on in this context."""
    _current.set(_merged(_EMPTY, run_id, snapshot, batch, destination))


@contextlib.contextmanager
def correlation(
    *,
    run_id: str | None = None,
    snapshot: str | None = None,
    batch: str | int | None = None,
    destination: str | None = None,
) -> Iterator[None]:
    """Bind ids inside the block, on top of those that hold already; ``None`` leaves an id as it is."""
    token = _current.set(_merged(_current.get(), run_id, snapshot, batch, destination))
    try:
        yield
    finally:
        _current.reset(token)


def _merged(
    base: Mapping[str, str | int],
    run_id: str | None,
    snapshot: str | None,
    batch: str | int | None,
    destination: str | None,
) -> Mapping[str, str | int]:
    given = {"run_id": run_id, "snapshot": snapshot, "batch": batch, "destination": destination}
    return MappingProxyType({**base, **{name: value for name, value in given.items() if value is not None}})


def run_in_context(executor: Executor, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
    """Submit work to any thread pool so that it sees the caller's ids (and every other context variable)."""
    context = contextvars.copy_context()
    return executor.submit(lambda: context.run(work, *args, **kwargs))


class ContextThreadPool(ThreadPoolExecutor):
    """A thread pool whose work sees the context variables of whoever submitted it."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        context = contextvars.copy_context()
        return super().submit(lambda: context.run(fn, *args, **kwargs))

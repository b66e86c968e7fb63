"""Starting a flow from a face: settings, signals, the event loop, and our errors instead of Prefect's."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from pydantic import SecretStr

from backupiq.errors import BackupIQError, CancelledRunError, OrchestrationError
from backupiq.profile import BackupOptions, RestoreOptions
from backupiq.progress import ProgressSink
from backupiq.reports import BackupReport, RestoreSummary
from flows.context import RunContext, running
from flows.environment import prepare_environment

SIGNALS = (signal.SIGINT, signal.SIGTERM)
GOODBYE_SECONDS = 3.0
"""How long a run that has cleaned up may still talk to Prefect's API before it is left without an answer."""


def run_backup(options: BackupOptions, *, password: SecretStr, progress: ProgressSink) -> BackupReport:
    """Run the backup flow in this process; BackupIQError when it fails, CancelledRunError when it is ended early."""

    def start() -> Awaitable[Any]:
        from flows.backup import backup

        return backup(options, return_state=True)

    report: BackupReport = _launch(start, RunContext(password=password, progress=progress))
    return report


def run_restore(options: RestoreOptions, *, password: SecretStr, progress: ProgressSink) -> RestoreSummary:
    """Run the restore flow in this process; BackupIQError when it fails, CancelledRunError when it is ended early."""

    def start() -> Awaitable[Any]:
        from flows.restore import restore

        return restore(options, return_state=True)

    summary: RestoreSummary = _launch(start, RunContext(password=password, progress=progress))
    return summary


def _launch(start: Callable[[], Awaitable[Any]], run: RunContext) -> Any:
    run.progress.stage("starting Prefect")
    prepare_environment()
    with _interrupting(), running(run):
        coroutine = start()
        with asyncio.Runner() as runner:
            state = runner.run(_supervised(coroutine, run))
    if run.cancel_requested is not None or state is None or state.is_cancelled():
        raise CancelledRunError(f"The run was ended: {run.cancel_requested or 'cancelled'}. {CancelledRunError.hint}")
    if run.report is not None and state.is_completed():
        return run.report
    raise _error_of(state, run)


async def _supervised(flow: Awaitable[Any], run: RunContext) -> Any:
    """Await the flow; a signal asks it to end, and once it has cleaned up Prefect gets a few seconds and no more."""
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(flow)
    leaving: list[asyncio.TimerHandle] = []

    def stop(name: str) -> None:
        run.request_cancel(f"signal {name}")
        if run.flow_began is None:
            task.cancel()
        elif not leaving:
            leaving.append(loop.call_later(GOODBYE_SECONDS, task.cancel))

    def install() -> None:
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            for number in SIGNALS:
                loop.add_signal_handler(number, stop, number.name)

    install()
    # Prefect sets a handler of its own for SIGTERM when the flow begins; ours goes back on top of it.
    run.on_begin = install
    try:
        return await task
    except asyncio.CancelledError:
        if run.cancel_requested is None:
            raise
        return None
    finally:
        for handle in leaving:
            handle.cancel()


@contextlib.contextmanager
def _interrupting() -> Iterator[None]:
    """Until the event loop takes over, and after it, SIGTERM ends the process as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _error_of(state: Any, run: RunContext) -> BaseException:
    """The error that ended the flow: ours as it was raised, anything else wrapped with its kind."""
    if run.error is not None:
        return run.error
    data = getattr(state, "data", None)
    if isinstance(data, BackupIQError):
        return data
    if isinstance(data, BaseException):
        return data
    return OrchestrationError(f"Prefect ended the run as {state.name}: {state.message or 'it gave no reason'}.")

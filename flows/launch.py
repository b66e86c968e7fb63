"""Starting a flow from a face: settings, signals, the event loop, and our errors instead of Prefect's."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from pydantic import SecretStr

from backupiq.errors import BackupIQError, CancelledRunError, OrchestrationError
from backupiq.memory import share_heaps
from backupiq.profile import BackupOptions, HealOptions, RestoreOptions
from backupiq.profiles import Resolved
from backupiq.progress import ProgressSink
from backupiq.replicas.report import HealReport
from backupiq.reports import BackupReport, RestoreSummary
from flows.context import RunContext, running
from flows.embedded import EmbeddedServer, stop_embedded_server
from flows.environment import prepare_environment
from flows.interruptions import SIGNALS, Interruptions
from flows.portable import to_prefect

COLLECT_AFTER = 20_000
"""New objects that may be garbage before they are looked through; Python's own 700 suits small programs."""
GOODBYE_SECONDS = 2.0
"""How long a run that was ended may still talk to Prefect's API once it has cleaned up."""


def run_backup(
    options: BackupOptions, *, password: SecretStr, progress: ProgressSink, resolved: Resolved | None = None
) -> BackupReport:
    """Run the backup flow in this process; BackupIQError when it fails, CancelledRunError when it is ended early.

    ``resolved`` is what was made of a profile: its options are done, and its hooks run around them.
    """
    profile = resolved.name if resolved is not None else ""

    def load() -> Callable[[], Awaitable[Any]]:
        from flows.backup import backup

        return lambda: backup(options=to_prefect(options), profile=profile, return_state=True)

    report: BackupReport = _launch(load, RunContext(password=password, progress=progress, resolved=resolved))
    return report


def run_restore(options: RestoreOptions, *, password: SecretStr, progress: ProgressSink) -> RestoreSummary:
    """Run the restore flow in this process; BackupIQError when it fails, CancelledRunError when it is ended early."""

    def load() -> Callable[[], Awaitable[Any]]:
        from flows.restore import restore

        return lambda: restore(to_prefect(options), return_state=True)

    summary: RestoreSummary = _launch(load, RunContext(password=password, progress=progress))
    return summary


def run_heal(options: HealOptions, *, password: SecretStr, progress: ProgressSink) -> HealReport:
    """Run the heal flow in this process; BackupIQError when it fails, CancelledRunError when it is ended early."""

    def load() -> Callable[[], Awaitable[Any]]:
        from flows.heal import heal

        return lambda: heal(to_prefect(options), return_state=True)

    report: HealReport = _launch(load, RunContext(password=password, progress=progress))
    return report


def _launch(load: Callable[[], Callable[[], Awaitable[Any]]], run: RunContext) -> Any:
    share_heaps()
    signals, server, loop = Interruptions(), EmbeddedServer(), asyncio.new_event_loop()
    try:
        with signals.noted(), running(run):
            run.progress.stage("starting Prefect")
            prepare_environment(tell=run.progress.note)
            with _without_collecting():
                start = load()
            signals.check()
            server.start()
            server.wait(signals.check)
            state, failure = loop.run_until_complete(_supervised(start, run, signals))
    except KeyboardInterrupt:
        server.give_up()
        raise
    except (BackupIQError, MemoryError):
        raise
    except Exception as error:
        if run.flow_began is not None:
            raise
        raise OrchestrationError(
            f"Prefect cannot start the run: {_first_line(error)}. {OrchestrationError.hint}"
        ) from error
    finally:
        if not run.abandoned:
            _close(loop)
    if run.cancel_requested is not None or state.is_cancelled():
        if run.abandoned:
            stop_embedded_server()
        raise CancelledRunError(f"The run was ended: {run.cancel_requested or 'cancelled'}. {CancelledRunError.hint}")
    if run.report is not None and state.is_completed():
        return run.report
    raise failure or OrchestrationError(
        f"Prefect ended the run as {state.name}: {state.message or 'it gave no reason'}."
    )


@contextlib.contextmanager
def _without_collecting() -> Iterator[None]:
    """Import much without looking for garbage, and never look through what was imported again.

    Prefect's modules are a million objects that live as long as the process: walking them took a tenth of a run.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.set_threshold(COLLECT_AFTER, 10, 10)
        gc.enable()


def leave(code: int) -> None:
    """End the process now with that exit code: nothing of the run is left to do, and nobody waits for Prefect."""
    sys.stdout.flush()
    sys.stderr.flush()
    stop_embedded_server()
    os._exit(code)


async def _supervised(
    start: Callable[[], Awaitable[Any]], run: RunContext, signals: Interruptions
) -> tuple[Any, BaseException | None]:
    """Run the flow; its state and the error that ended it.

    A signal asks it to end; once it has cleaned up, Prefect gets a few seconds and no more.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(start())

    def stop(name: str) -> None:
        run.request_cancel(f"signal {name}")
        if run.flow_began is None:
            task.cancel()

    def install() -> None:
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            for number in SIGNALS:
                loop.add_signal_handler(number, stop, number.name)

    install()
    if signals.name is not None:  # it came just before
        stop(signals.name)
    # Prefect sets a handler of its own for SIGTERM when the flow begins; ours goes back on top of it.
    run.on_begin = install
    ended = asyncio.ensure_future(run.cleaned_up.wait())
    try:
        await asyncio.wait({task, ended}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            await asyncio.wait({task}, timeout=GOODBYE_SECONDS)
        if not task.done():
            run.abandoned = True
            return None, None
        if task.cancelled() and run.cancel_requested is not None:
            raise CancelledRunError(f"The run was ended: {run.cancel_requested}.")
        state = task.result()
        found = await state.result(raise_on_failure=False) if state.is_failed() or state.is_crashed() else None
        return state, found if isinstance(found, BaseException) else None
    finally:
        ended.cancel()


def _close(loop: asyncio.AbstractEventLoop) -> None:
    """What asyncio.run does at its end."""
    try:
        pending = asyncio.all_tasks(loop)
        for task in pending:
            task.cancel()
        if pending:
            loop.run_until_complete(asyncio.wait(pending, timeout=GOODBYE_SECONDS))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__).rstrip(".")

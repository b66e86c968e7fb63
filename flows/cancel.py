"""Ending a run early: by a signal, by a cancel in Prefect's UI or API, or by a worker that is told to stop.

Prefect tells only runs of workers that they were cancelled, so a run that was started from the command line asks
Prefect's API itself, once a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar
from uuid import UUID

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled

from backupiq.telemetry import get_logger
from flows.context import RunContext

T = TypeVar("T")

POLL_SECONDS = 1.0
log = get_logger("backupiq.flows.cancel")


def current_flow_run_id() -> UUID | None:
    """The id of the flow run this code belongs to; None outside of one."""
    context = FlowRunContext.get()
    return context.flow_run.id if context is not None and context.flow_run is not None else None


async def cancellable(run: RunContext, flow_run_id: UUID | None, work: Coroutine[Any, Any, T]) -> T | State[Any]:
    """Do the work; when the run is asked to end, cancel it, wait for its cleaning up, and return a Cancelled state."""
    task = asyncio.ensure_future(work)
    run.on_cancel = task.cancel
    if run.cancel_requested:
        task.cancel()
    watcher = asyncio.ensure_future(_watch(run, flow_run_id)) if flow_run_id is not None else None
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait([task])
        if run.cancel_requested is None:
            raise
        run.cleaned_up.set()
        log.info("run.cancelled", reason=run.cancel_requested)
        return Cancelled(message=f"The run was ended: {run.cancel_requested}.")
    finally:
        run.on_cancel = None
        if watcher is not None:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)


async def _watch(run: RunContext, flow_run_id: UUID) -> None:
    async with get_client() as client:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            if await _is_cancelled(client, flow_run_id):
                run.request_cancel("cancelled in Prefect")
                return


async def _is_cancelled(client: PrefectClient, flow_run_id: UUID) -> bool:
    try:
        found = await client.read_flow_run(flow_run_id)
    except ObjectNotFound:
        return False
    except Exception as error:  # noqa: BLE001 - an API that is away for a while must not end a backup
        log.debug("cancel.unknown", error=type(error).__name__)
        return False
    return found.state is not None and (found.state.is_cancelling() or found.state.is_cancelled())

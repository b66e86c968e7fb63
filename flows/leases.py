"""A run holds its place in its deployment's queue for as long as it lives, and lives on when the place is lost.

Prefect itself ends a run whose place cannot be kept: minutes after its server was restarted, or after a laptop slept.
Two backups at once only slow each other down, while one that never comes to its end protects nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any
from uuid import UUID

import httpx
from prefect import flow_engine
from prefect.client.orchestration import get_client

from backupiq.telemetry import get_logger

RENEWALS = 5
"""How often a lease is renewed before it could expire: a server that is away for a while must not take it."""

log = get_logger("backupiq.flows.leases")


def keep_running_without() -> None:
    """From now on the flows of this process live on when they lose their place."""
    vars(flow_engine)["amaintain_concurrency_lease"] = keep_lease


@contextlib.asynccontextmanager
async def keep_lease(lease_id: UUID, lease_duration: float, **_: Any) -> AsyncIterator[None]:
    """Renew the lease, of that many seconds, for the length of the block. That it cannot be renewed ends nothing."""
    keeper = asyncio.create_task(_renew(lease_id, lease_duration))
    try:
        yield
    finally:
        keeper.cancel()
        await asyncio.wait([keeper])


async def _renew(lease_id: UUID, seconds: float) -> None:
    async with get_client() as client:
        while True:
            try:
                await client.renew_concurrency_lease(lease_id, seconds)
            except httpx.HTTPStatusError as error:
                if error.response.status_code in (HTTPStatus.GONE, HTTPStatus.NOT_FOUND):
                    log.warning("lease.lost", lease=str(lease_id))
                    return
                log.debug("lease.unknown", status=error.response.status_code)
            except httpx.HTTPError as error:
                log.debug("lease.unknown", error=type(error).__name__)
            await asyncio.sleep(seconds / RENEWALS)

"""Packing a batch, and sending its packs to a destination."""

from __future__ import annotations

import functools
from typing import Any

from prefect import task

from backupiq.resilience.retry import STANDARD
from backupiq.telemetry import correlation
from flows.active import find_active
from flows.guard import guarded
from flows.naming import TAGGED, tag_of
from flows.tasks.options import STEP, retried


@task(name="pack", task_run_name="pack batch {number} of {count}", **STEP)
async def pack_batch(run: str, number: int, count: int) -> int:
    """Read the batch's files into packs, which go to the batch's delivery; returns how many files it has."""
    backup = find_active(run)
    batch = backup.batches[number - 1]
    with correlation(batch=number):
        await backup.session.pack(batch.ordinals)
    return batch.files


@task(name="upload", task_run_name="upload batch {number} to {destination}", **retried(STANDARD))
@guarded(lambda call: find_active(call["run"]).writing.breaker(call["lane"]))
async def upload_batch(run: str, number: int, lane: int, destination: str) -> int:
    """Send the batch's packs as they are finished; returns how many. A retry sends what is still missing."""
    backup = find_active(run)
    to = backup.writing.lanes.lanes[lane]
    delivery = backup.deliveries[number, to.name]
    with correlation(batch=number, destination=destination):
        await delivery.send(to.provider)
        if to.flows:
            await to.publisher.write_interim_index()
    backup.deliveries.pop((number, to.name), None)
    return delivery.packs


@functools.cache
def upload_to(kind: str) -> Any:
    """The upload task for destinations of that kind, with the tag that limits are set on (`backupiq setup`)."""
    return upload_batch.with_options(tags=[tag_of(kind)]) if kind in TAGGED else upload_batch

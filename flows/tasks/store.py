"""Packing a batch, and sending its packs to a destination."""

from __future__ import annotations

from prefect import task

from backupiq.telemetry import correlation
from flows.active import find_active
from flows.tasks.options import RETRIED, STEP


@task(name="pack", task_run_name="pack batch {number} of {count}", **STEP)
async def pack_batch(run: str, number: int, count: int) -> int:
    """Read the batch's files into packs, which go to the batch's delivery; returns how many files it has."""
    backup = find_active(run)
    batch = backup.batches[number - 1]
    with correlation(batch=number):
        await backup.session.pack(batch.ordinals)
    return batch.files


@task(name="upload", task_run_name="upload batch {number} to {destination}", **RETRIED)
async def upload_batch(run: str, number: int, destination: str) -> int:
    """Send the batch's packs as they are finished; returns how many. A retry sends what is still missing."""
    backup = find_active(run)
    delivery = backup.deliveries[number]
    with correlation(batch=number, destination=destination):
        await delivery.send(backup.provider)
        if backup.session.publisher is not None:
            await backup.session.publisher.write_interim_index()
    backup.deliveries.pop(number, None)
    return delivery.packs

"""The backup flow: discover, compare, plan, pack and upload, publish, report."""

from __future__ import annotations

import asyncio
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run as runtime

from backupiq.profile import BackupOptions
from backupiq.telemetry import bind_run, correlation, get_logger
from flows.active import ActiveBackup, active
from flows.backup_open import Opened, open_backup, run_key
from flows.backup_report import make_report, make_snapshot
from flows.cancel import cancellable, current_flow_run_id
from flows.context import RunContext, current_run
from flows.naming import destination_label, short_list
from flows.portable import from_prefect
from flows.reporting import report_backup, tell_prefect
from flows.tasks.discover import discover_source
from flows.tasks.plan import compare_with_parent, plan
from flows.tasks.publish import build_trees, publish_snapshot
from flows.tasks.store import pack_batch, upload_batch
from flows.together import together

UPLOADS_IN_FLIGHT = 3
"""Batches being sent while the next one is packed."""

log = get_logger("backupiq.flows.backup")


def _run_name() -> str:
    options: BackupOptions = from_prefect(runtime.parameters["options"])
    return f"backup {short_list(options.paths)} -> {short_list(map(destination_label, options.to))}"


@flow(name="backup", flow_run_name=_run_name, persist_result=False, log_prints=False)
async def backup(options: BackupOptions, key_block: str | None = None) -> dict[str, Any] | State[Any]:
    """Back up files and folders into an encrypted, deduplicated repository.

    Args:
        options: What to back up, where to and how.
        key_block: Name of the RepositoryKey block with the repository's password.
    """
    run = current_run()
    run.begin()
    tell_prefect()
    bind_run(run_id=run_key())
    return await cancellable(run, current_flow_run_id(), _backup(run, from_prefect(options), key_block))


async def _backup(run: RunContext, options: BackupOptions, key_block: str | None) -> dict[str, Any]:
    async with open_backup(run, options, key_block) as (work, opened):
        session, destination = work.session, destination_label(work.destination)
        with active(opened.key, work):
            run.progress.stage("looking for files")
            async with together() as group:
                for number, sources in enumerate(work.groups):
                    group.create_task(discover_source(opened.key, number, short_list(sources)))
            await compare_with_parent(opened.key)
            snapshot_id = None
            if not options.dry_run:
                await plan(opened.key)
                run.progress.stage("storing files")
                await _store(opened, work, destination)
                snapshot_id = await _publish(run, opened, work, options, destination)
            run.report = report = make_report(run, options, opened, session, snapshot_id)
            await report_backup(report)
            return {"snapshot": snapshot_id, "exit_code": report.exit_code}


async def _store(opened: Opened, work: ActiveBackup, destination: str) -> None:
    """Pack batch after batch; each is sent while the next is packed."""
    key = opened.key
    work.session.prepare()
    slots = asyncio.Semaphore(UPLOADS_IN_FLIGHT)

    async def send(number: int) -> None:
        try:
            await upload_batch(key, number, destination)
        finally:
            slots.release()

    async with together() as group:
        for batch in work.batches:
            await slots.acquire()
            opened.ensure_locked()
            delivery = work.deliveries[batch.number] = work.session.new_delivery()
            group.create_task(send(batch.number))
            try:
                await pack_batch(key, batch.number, len(work.batches))
            finally:
                delivery.close()


async def _publish(
    run: RunContext, opened: Opened, work: ActiveBackup, options: BackupOptions, destination: str
) -> str:
    run.progress.stage("writing folder listings")
    number = len(work.batches) + 1
    delivery = work.deliveries[number] = work.session.new_delivery()
    async with together() as group:
        group.create_task(upload_batch(opened.key, number, destination))
        try:
            tree = await build_trees(opened.key)
        finally:
            delivery.close()
    run.progress.stage("publishing the snapshot")
    opened.ensure_locked()
    snapshot = make_snapshot(opened, work.session, options, tree)
    snapshot_id = await publish_snapshot(opened.key, snapshot, destination)
    with correlation(snapshot=snapshot_id[:8]):
        log.info("snapshot.published", destination=destination)
    return snapshot_id

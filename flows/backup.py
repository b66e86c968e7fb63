"""The backup flow: discover, compare, plan, pack and upload, publish, report."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run as runtime

from backupiq.errors import BackupIQError, CancelledRunError, CatalogError, RepositoryDamagedError, StorageError
from backupiq.hooks import RunFacts, around
from backupiq.passwords import PasswordSources
from backupiq.planning.order import WORTH_SECONDS
from backupiq.profile import BackupOptions, Hooks
from backupiq.profiles import profile_label, resolve_run
from backupiq.state import note_uncatalogued
from backupiq.telemetry import bind_run, correlation, get_logger
from backupiq.telemetry.metrics import observing
from blocks.repository_key import RepositoryKey
from flows.active import ActiveBackup
from flows.backup_open import beside, open_backup, run_key
from flows.backup_report import make_report, make_snapshot
from flows.cancel import cancellable, current_flow_run_id
from flows.checkpoints import Checkpoints
from flows.context import RunContext, current_run
from flows.naming import destination_label, short_destinations, short_list
from flows.outcome import tell_outcome
from flows.portable import from_prefect
from flows.reporting import report_backup, tell_prefect
from flows.sending import Sending
from flows.tasks.analyze import analyze, leave_out_regenerable, summarize
from flows.tasks.catalog import bring_into_catalog
from flows.tasks.discover import discover_source
from flows.tasks.plan import compare_with_parent, expect, plan
from flows.tasks.publish import build_trees
from flows.tasks.store import pack_batch
from flows.together import together

log = get_logger("backupiq.flows.backup")


def _run_name() -> str:
    options, profile = runtime.parameters.get("options"), runtime.parameters.get("profile")
    if options is None:
        try:
            options = resolve_run(None, None, profile).options
        except BackupIQError:  # the run itself says what is wrong
            return f"backup {profile_label(profile or '')}".strip()
    else:
        options = from_prefect(options)
    what = profile_label(profile) if profile else short_list(options.paths)
    return f"backup {what} -> {short_destinations(options.to)}"


@flow(name="backup", flow_run_name=_run_name, persist_result=False, log_prints=False)
async def backup(
    profile: str = "", options: BackupOptions | None = None, key_block: RepositoryKey | str | None = None
) -> dict[str, Any] | State[Any]:
    """Back up files and folders into an encrypted, deduplicated repository, by a profile or by the options given.

    Args:
        profile: Name of a profile on the machine that runs this, the path of its file, or block:NAME.
        options: What to back up, where to and how; None leaves it to the profile.
        key_block: Block with the repository's password, or its name; None takes the profile's.
    """
    run = current_run()
    run.begin()
    tell_prefect()
    bind_run(run_id=run_key())
    given = from_prefect(options) if options is not None else None
    key = key_block.name if isinstance(key_block, RepositoryKey) else key_block
    return await cancellable(run, current_flow_run_id(), _hooked(run, given, key, profile))


async def _hooked(run: RunContext, given: BackupOptions | None, key_block: str | None, profile: str) -> dict[str, Any]:
    todo = run.resolved
    if todo is None:  # started by a worker; a block is looked up by a call to Prefect's API
        todo = await asyncio.to_thread(resolve_run, given, key_block, profile)
    options = todo.options
    facts = RunFacts(
        run_id=run_key(),
        run_name=runtime.name or "",
        profile=todo.name,
        paths=tuple(options.paths),
        destinations=tuple(map(destination_label, options.to)),
    )
    hooks = Hooks() if options.dry_run else todo.hooks
    async with (
        observing(lambda: run.report, profile=todo.name, counted=not options.dry_run),
        around(hooks, facts, report=lambda: run.report, note=run.progress.note),
    ):
        return await _backup(run, options, todo.key)


async def _backup(run: RunContext, options: BackupOptions, key: PasswordSources) -> dict[str, Any]:
    async with open_backup(run, options, key, _discover) as (work, opened):
        session = work.session
        run.progress.stage("looking for files")
        if options.exclude_regenerable:
            await leave_out_regenerable(opened.key)
        await compare_with_parent(opened.key)
        snapshot_id = None
        if not options.dry_run:
            await _analyze(run, work, options, opened.key)
            await plan(opened.key)
            session.prepare()
            counting = beside(_never_in_the_way(work, summarize(opened.key)))
            async with counting, Sending(opened.key, work) as sending:
                await _store(run, work, opened.key, sending, Checkpoints(work, opened, options, sending))
                run.progress.stage("publishing the snapshot")
                snapshot = make_snapshot(opened, session, options, sending.tree)
                snapshot_id = await sending.publish(snapshot)
            with correlation(snapshot=snapshot_id[:8]):
                for name in sorted(work.writing.complete):
                    log.info("snapshot.published", destination=destination_label(name))
        else:
            await _never_in_the_way(work, summarize(opened.key))
        if snapshot_id is not None:
            await _keep(work, opened.key, snapshot_id)
        run.report = report = make_report(run, options, opened, work, snapshot_id)
        await report_backup(report)
        tell_outcome(report)
        return {"snapshot": snapshot_id, "exit_code": report.exit_code}


async def _discover(work: ActiveBackup) -> None:
    async with together() as group:
        for number, sources in enumerate(work.groups):
            group.create_task(discover_source(run_key(), number, short_list(sources)))


async def _analyze(run: RunContext, work: ActiveBackup, options: BackupOptions, key: str) -> None:
    """Find out what the files are worth, where the run is long enough for their order to matter, or when asked to."""
    if options.analysis == "full" or (options.analysis == "auto" and expect(work) >= WORTH_SECONDS):
        run.progress.stage("looking at what files are")
        await _never_in_the_way(work, analyze(key))


async def _keep(work: ActiveBackup, key: str, snapshot_id: str) -> None:
    """Bring the snapshot into the catalog when its files were looked into; else whoever searches does it."""
    if not work.understanding.is_full:
        note_uncatalogued(work.writing.names)
        return
    try:
        await bring_into_catalog(key, snapshot_id)
    except (CatalogError, StorageError, RepositoryDamagedError, OSError) as error:
        log.info("catalog.behind", error=type(error).__name__)
        note_uncatalogued(work.writing.names)
        work.session.warn(f"The catalog does not hold this snapshot yet ({error}); run `backupiq catalog update`.")


async def _never_in_the_way(work: ActiveBackup, step: Coroutine[Any, Any, Any]) -> None:
    """Analysis that fails is said, and everything is stored all the same."""
    try:
        await step
    except CancelledRunError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever is wrong with analysis, files must be stored
        log.info("analysis.failed", error=type(error).__name__)
        work.session.warn(f"What the files are could not be found out ({type(error).__name__}); all are stored.")


async def _store(run: RunContext, work: ActiveBackup, key: str, sending: Sending, checkpoints: Checkpoints) -> None:
    """Pack batch after batch, and then the folder listings; each is sent while the next is packed."""
    run.progress.stage("storing files")
    for batch in work.batches:
        work.writing.ensure_locked()
        async with sending.batch(batch.number):
            await pack_batch(key, batch.number, len(work.batches))
        await checkpoints.after(batch)
    run.progress.stage("writing folder listings")
    async with sending.batch(len(work.batches) + 1):
        sending.tree = await build_trees(key)
    await sending.everything()
    work.writing.ensure_locked()

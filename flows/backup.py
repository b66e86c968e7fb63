"""The backup flow: discover, compare, plan, pack and upload, publish, report."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run as runtime

from backupiq import __version__
from backupiq.archive.session import BackupSession, RunSettings, closing, group_sources, printable
from backupiq.archive.spool import default_parent
from backupiq.discovery.rules import ExcludeRules, PatternLine, read_pattern_file
from backupiq.errors import BackupIQError, RepositoryMissingError
from backupiq.profile import BackupOptions
from backupiq.reports import BackupReport
from backupiq.repository.gojson import format_time_ns
from backupiq.repository.locking import RepositoryLock, lock_repository
from backupiq.repository.repository import Repository
from backupiq.repository.snapshot import Snapshot, Summary
from backupiq.storage.provider import StorageProvider
from backupiq.telemetry import bind_run, correlation, get_logger
from blocks.destinations import provider_for
from flows.active import ActiveBackup, active
from flows.cancel import cancellable, current_flow_run_id
from flows.context import RunContext, current_run
from flows.naming import destination_label, short_list
from flows.opening import (
    absolute,
    adopt_what_was_left,
    choose_parent,
    only_destination,
    open_or_create,
    resolve_password,
    user_name,
)
from flows.reporting import FlowProgress, report_backup
from flows.tasks.discover import discover_source
from flows.tasks.plan import compare_with_parent, plan
from flows.tasks.publish import build_trees, publish_snapshot
from flows.tasks.store import pack_batch, upload_batch

UPLOADS_IN_FLIGHT = 3
"""Batches being sent while the next one is packed."""

log = get_logger("backupiq.flows.backup")


def _run_name() -> str:
    options: BackupOptions = runtime.parameters["options"]
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
    return await cancellable(run, current_flow_run_id(), _backup(run, options, key_block))


async def _backup(run: RunContext, options: BackupOptions, key_block: str | None) -> dict[str, Any]:
    async with _open(run, options, key_block) as (work, opened):
        session, destination = work.session, destination_label(work.destination)
        with active(opened.key, work):
            run.progress.stage("looking for files")
            async with _together() as group:
                for number, sources in enumerate(work.groups):
                    group.create_task(discover_source(opened.key, number, short_list(sources)))
            await compare_with_parent(opened.key)
            snapshot_id = None
            if not options.dry_run:
                await plan(opened.key)
                run.progress.stage("storing files")
                await _store(opened.key, work, destination)
                snapshot_id = await _publish(run, opened, work, options, destination)
            run.report = report = _make_report(run, options, opened, session, snapshot_id)
            await report_backup(report)
            return {"snapshot": snapshot_id, "exit_code": report.exit_code}


class _Opened:
    """What a run has opened and measured."""

    def __init__(self, repository: Repository | None, lock: RepositoryLock | None, *, created: bool) -> None:
        self.repository = repository
        self.lock = lock
        self.created = created
        self.parent: tuple[str, Snapshot] | None = None
        self.resumed = 0
        self.key = str(runtime.id or f"local-{os.getpid()}-{time.monotonic_ns()}")
        self.began = time.perf_counter()
        self.began_ns = time.time_ns()


@contextlib.asynccontextmanager
async def _open(
    run: RunContext, options: BackupOptions, key_block: str | None
) -> AsyncIterator[tuple[ActiveBackup, _Opened]]:
    """Everything the run needs, given back in the right order whatever happens."""
    destination = only_destination(options.to)
    async with contextlib.AsyncExitStack() as stack:
        provider = await stack.enter_async_context(provider_for(destination))
        password = resolve_password(run, provider.location, key_block)
        run.progress.stage("opening the repository")
        repository, created = await _open_repository(provider, password, options)
        lock = None
        if repository is not None and not options.dry_run:
            lock = await stack.enter_async_context(lock_repository(repository, retry_for=options.retry_lock))
        opened = _Opened(repository, lock, created=created)
        bind_run(run_id=opened.key)
        if created:
            run.progress.note(f"created repository {_short_id(repository)} at {provider.location}")
        parent_tree = None
        if repository is not None:
            await repository.load_index()
            if not options.dry_run:
                opened.resumed = await adopt_what_was_left(repository)
            opened.parent = await choose_parent(
                repository,
                host=options.host or socket.gethostname(),
                paths=[absolute(path) for path in options.paths],
                wanted=options.parent,
                force=options.force,
            )
            parent_tree = opened.parent[1].tree if opened.parent else None
        settings = RunSettings(options.threads or default_threads(), default_parent(), options.dry_run)
        progress = await stack.enter_async_context(FlowProgress.over(run.progress))
        session = BackupSession(
            repository, sources=options.paths, rules=_rules(options), settings=settings, progress=progress
        )
        await stack.enter_async_context(closing(session))
        yield ActiveBackup(session, provider, destination, group_sources(options.paths), parent_tree), opened


async def _open_repository(
    provider: StorageProvider, password: Any, options: BackupOptions
) -> tuple[Repository | None, bool]:
    if not options.dry_run:
        return await open_or_create(provider, password)
    try:
        return await Repository.open(provider, password.get_secret_value()), False
    except RepositoryMissingError:
        return None, False


async def _store(key: str, work: ActiveBackup, destination: str) -> None:
    """Pack batch after batch; each is sent while the next is packed."""
    work.session.prepare()
    slots = asyncio.Semaphore(UPLOADS_IN_FLIGHT)

    async def send(number: int) -> None:
        try:
            await upload_batch(key, number, destination)
        finally:
            slots.release()

    async with _together() as group:
        for batch in work.batches:
            await slots.acquire()
            delivery = work.deliveries[batch.number] = work.session.new_delivery()
            group.create_task(send(batch.number))
            try:
                await pack_batch(key, batch.number, len(work.batches))
            finally:
                delivery.close()


async def _publish(
    run: RunContext, opened: _Opened, work: ActiveBackup, options: BackupOptions, destination: str
) -> str:
    run.progress.stage("writing folder listings")
    number = len(work.batches) + 1
    delivery = work.deliveries[number] = work.session.new_delivery()
    async with _together() as group:
        group.create_task(upload_batch(opened.key, number, destination))
        try:
            tree = await build_trees(opened.key)
        finally:
            delivery.close()
    run.progress.stage("publishing the snapshot")
    if opened.lock is not None:
        opened.lock.ensure_held()
    snapshot = _snapshot(opened, work.session, options, tree)
    snapshot_id = await publish_snapshot(opened.key, snapshot, destination)
    with correlation(snapshot=snapshot_id[:8]):
        log.info("snapshot.published", destination=destination)
    return snapshot_id


def _snapshot(opened: _Opened, session: BackupSession, options: BackupOptions, tree: str) -> Snapshot:
    data_blobs, tree_blobs, plain, stored = session.counts
    trees, changes = session.tree_counts, session.changes
    return Snapshot(
        time=format_time_ns(opened.began_ns),
        parent=opened.parent[0] if opened.parent else None,
        tree=tree,
        paths=[absolute(path) for path in options.paths],
        hostname=options.host or socket.gethostname(),
        username=user_name(),
        uid=os.getuid() if hasattr(os, "getuid") else 0,
        gid=os.getgid() if hasattr(os, "getgid") else 0,
        excludes=[*options.exclude, *options.iexclude] or None,
        tags=options.tags or None,
        program_version=f"backupiq {__version__}",
        summary=Summary(
            backup_start=format_time_ns(opened.began_ns),
            backup_end=format_time_ns(time.time_ns()),
            files_new=changes.files_new,
            files_changed=changes.files_changed,
            files_unmodified=changes.files_unmodified,
            dirs_new=trees.dirs_new,
            dirs_changed=trees.dirs_changed,
            dirs_unmodified=trees.dirs_unmodified,
            data_blobs=data_blobs,
            tree_blobs=tree_blobs,
            data_added=plain,
            data_added_packed=stored,
            total_files_processed=trees.files,
            total_bytes_processed=trees.bytes,
        ),
    )


def _make_report(
    run: RunContext, options: BackupOptions, opened: _Opened, session: BackupSession, snapshot_id: str | None
) -> BackupReport:
    _, _, plain, stored = session.counts
    trees, changes, publisher = session.tree_counts, session.changes, session.publisher
    unreadable = [{"path": printable(item.path), "reason": item.reason} for item in session.unreadable]
    sent = publisher.bytes_sent if publisher else 0
    return BackupReport(
        snapshot_id=snapshot_id,
        parent_id=opened.parent[0] if opened.parent else None,
        repository_id=opened.repository.config.id if opened.repository else "",
        created_repository=opened.created,
        paths=[absolute(path) for path in options.paths],
        files_new=changes.files_new,
        files_changed=changes.files_changed,
        files_unmodified=changes.files_unmodified,
        dirs_new=trees.dirs_new,
        dirs_changed=trees.dirs_changed,
        dirs_unmodified=trees.dirs_unmodified,
        total_files=session.inventory.files if options.dry_run else trees.files,
        total_bytes=session.inventory.bytes if options.dry_run else trees.bytes,
        bytes_read=session.bytes_read,
        data_added=changes.bytes_to_read if options.dry_run else plain,
        data_added_packed=stored,
        bytes_sent=sent,
        bytes_resumed=opened.resumed,
        seconds=time.perf_counter() - (run.flow_began or opened.began),
        seconds_prefect=run.seconds_before_flow,
        unreadable=unreadable,
        warnings=session.warnings,
        excluded=session.excluded,
        destinations=[{"name": destination_label(options.to[0]), "complete": snapshot_id is not None, "bytes": sent}],
        flow_run_id=str(runtime.id) if runtime.id else None,
        flow_run_name=runtime.name,
        exit_code=3 if unreadable else 0,
    )


def _rules(options: BackupOptions) -> ExcludeRules:
    patterns: list[str | PatternLine] = list(options.exclude)
    for name in options.exclude_file:
        patterns.extend(read_pattern_file(name))
    return ExcludeRules(
        patterns=tuple(patterns),
        iexclude=tuple(options.iexclude),
        exclude_caches=options.exclude_caches,
        max_file_size=options.exclude_larger_than,
        one_file_system=options.one_file_system,
        exclude_special=options.exclude_special,
    )


def default_threads() -> int:
    """Threads that read files: two for each processor, at least two and at most sixteen."""
    return max(2, min(16, 2 * (os.cpu_count() or 1)))


@contextlib.asynccontextmanager
async def _together() -> AsyncIterator[asyncio.TaskGroup]:
    """A task group that raises the error itself: ours before others, and never a group of errors."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as errors:
        flat = list(_flatten(errors))
        raise next((error for error in flat if isinstance(error, BackupIQError)), flat[0]) from None


def _flatten(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _flatten(inner)]
    return [error]


def _short_id(repository: Repository | None) -> str:
    return repository.config.id[:10] if repository is not None else ""

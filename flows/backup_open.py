"""What a backup opens before it begins and gives back when it ends."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

from prefect.runtime import flow_run as runtime

from backupiq.archive.publisher import forget_lost_packs
from backupiq.archive.session import BackupSession, RunSettings, closing, group_sources
from backupiq.archive.spool import default_parent
from backupiq.discovery.rules import ExcludeRules, PatternLine, read_pattern_file
from backupiq.errors import RepositoryMissingError
from backupiq.profile import BackupOptions
from backupiq.repository.locking import RepositoryLock, lock_repository
from backupiq.repository.repository import Repository
from backupiq.repository.snapshot import Snapshot
from backupiq.storage.provider import StorageProvider
from blocks.destinations import provider_for
from flows.active import ActiveBackup
from flows.context import RunContext
from flows.opening import (
    absolute,
    adopt_what_was_left,
    choose_parent,
    only_destination,
    open_or_create,
    own_folders,
    resolve_password,
)
from flows.reporting import FlowProgress


class Opened:
    """What a run has opened and measured."""

    def __init__(self, repository: Repository | None, lock: RepositoryLock | None, *, created: bool) -> None:
        self.repository = repository
        self.lock = lock
        self.created = created
        self.parent: tuple[str, Snapshot] | None = None
        self.resumed = 0
        self.warnings: list[str] = []
        self.key = run_key()
        self.began = time.perf_counter()
        self.began_ns = time.time_ns()

    def ensure_locked(self) -> None:
        """Raise LockLostError when the repository is no longer ours to write to."""
        if self.lock is not None:
            self.lock.ensure_held()


@contextlib.asynccontextmanager
async def open_backup(
    run: RunContext, options: BackupOptions, key_block: str | None
) -> AsyncIterator[tuple[ActiveBackup, Opened]]:
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
        opened = Opened(repository, lock, created=created)
        if created:
            run.progress.note(f"created repository {_short_id(repository)} at {provider.location}")
        if repository is not None:
            await _take_stock(repository, options, opened)
        parent_tree = opened.parent[1].tree if opened.parent else None
        settings = RunSettings(options.threads or default_threads(), default_parent(), options.dry_run)
        progress = await stack.enter_async_context(FlowProgress.over(run.progress))
        own = own_folders(provider, options.paths)
        session = BackupSession(
            repository, sources=options.paths, rules=_rules(options, own), settings=settings, progress=progress
        )
        if own:
            opened.warnings.append(f"{provider.location} lies inside what is backed up; its packs are left out")
        for warning in opened.warnings:
            session.warn(warning)
        await stack.enter_async_context(closing(session))
        yield ActiveBackup(session, provider, destination, group_sources(options.paths), parent_tree), opened


async def _take_stock(repository: Repository, options: BackupOptions, opened: Opened) -> None:
    """Find what is there already: the parent, the index, what an interrupted run left, and what has been lost."""
    # The parent first: an index loaded after it names everything it needs, whoever publishes meanwhile.
    opened.parent = await choose_parent(
        repository,
        host=options.host or socket.gethostname(),
        paths=[absolute(path) for path in options.paths],
        wanted=options.parent,
        force=options.force,
        on_damaged=lambda _, error: opened.warnings.append(error.message),
    )
    await repository.load_index()
    if options.dry_run:
        return
    opened.resumed = await adopt_what_was_left(repository)
    lost = await forget_lost_packs(repository)
    if lost:
        opened.warnings.append(
            f"{lost} packs of the repository are missing or cut short. What they held is stored anew where it is still "
            "among the files; earlier snapshots may have lost it. Check them with `restic check`."
        )


async def _open_repository(
    provider: StorageProvider, password: Any, options: BackupOptions
) -> tuple[Repository | None, bool]:
    if not options.dry_run:
        return await open_or_create(provider, password)
    try:
        return await Repository.open(provider, password.get_secret_value()), False
    except RepositoryMissingError:
        return None, False


def _rules(options: BackupOptions, own: frozenset[tuple[int, int]]) -> ExcludeRules:
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
        folders=own,
    )


def run_key() -> str:
    """What names this run in this process: the flow run's id."""
    return str(runtime.id or f"local-{os.getpid()}")


def default_threads() -> int:
    """Threads that read files: one for each processor, at least two and at most sixteen.

    More only contend for the interpreter: on two cores, four threads take a fifth longer than two.
    """
    return max(2, min(16, os.cpu_count() or 1))


def _short_id(repository: Repository | None) -> str:
    return repository.config.id[:10] if repository is not None else ""

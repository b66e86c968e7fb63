"""What a backup opens before it begins and gives back when it ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

from prefect.runtime import flow_run as runtime
from pydantic import SecretStr

from backupiq.archive.session import BackupSession, RunSettings, closing, group_sources
from backupiq.archive.spool import default_parent
from backupiq.discovery.rules import ExcludeRules, PatternLine, read_pattern_file
from backupiq.errors import RepositoryMissingError, StorageError
from backupiq.passwords import PasswordSources
from backupiq.planning.resources import look
from backupiq.profile import BackupOptions
from backupiq.repository.repository import Repository
from backupiq.repository.snapshot import Snapshot
from backupiq.storage.provider import StorageProvider
from flows.active import ActiveBackup, active
from flows.analysis import RunAnalysis
from flows.backup_destinations import (
    Destinations,
    list_destinations,
    make_providers,
    open_destinations,
    take_stock,
)
from flows.context import RunContext
from flows.guard import Breakers, guarding
from flows.opening import absolute, choose_parent, lies_inside, own_folders, resolve_password
from flows.reporting import FlowProgress


class Opened:
    """What a run has opened and measured. ``destinations`` is None in a dry run."""

    def __init__(self, repository: Repository | None, destinations: Destinations | None) -> None:
        self.repository = repository
        self.destinations = destinations
        self.parent: tuple[str, Snapshot] | None = None
        self.resumed = 0
        self.warnings: list[str] = []
        self.stale_checkpoints: list[str] = []
        self.key = run_key()
        self.began = time.perf_counter()
        self.began_ns = time.time_ns()


@contextlib.asynccontextmanager
async def open_backup(
    run: RunContext,
    options: BackupOptions,
    key: PasswordSources,
    discover: Callable[[ActiveBackup], Coroutine[Any, Any, None]],
) -> AsyncIterator[tuple[ActiveBackup, Opened]]:
    """Everything the run needs, given back in the right order whatever happens.

    The files are looked for meanwhile (``discover``): opening mostly waits.
    """
    async with contextlib.AsyncExitStack() as stack:
        breakers = await stack.enter_async_context(guarding(Breakers(note=run.progress.note)))
        providers = [await stack.enter_async_context(provider) for provider in make_providers(options)]
        password = resolve_password(run, [provider.location for provider in providers], key)
        run.progress.stage("opening the repository")
        progress = await stack.enter_async_context(FlowProgress.over(run.progress))
        settings = RunSettings(options.threads or look(default_parent()).threads, default_parent(), options.dry_run)
        session = BackupSession(None, sources=options.paths, settings=settings, progress=progress)
        await stack.enter_async_context(closing(session))
        work = ActiveBackup(session, group_sources(options.paths), limit_upload=options.limit_upload)
        work.analysis = RunAnalysis(session, options, time.time_ns())
        stack.enter_context(active(run_key(), work))
        inside = [provider for provider in providers if lies_inside(provider, options.paths)]
        async with contextlib.AsyncExitStack() as walking:
            # A repository among the sources has to be there before the walk, which leaves it out.
            if not inside:
                await walking.enter_async_context(beside(_look(work, options, discover)))
            opened = await _open(stack, run, providers, password, options, breakers)
            if inside:
                own = frozenset[tuple[int, int]]().union(*(own_folders(each, options.paths) for each in inside))
                session.rules = _rules(options, own)
                await discover(work)
        opened.began_ns = work.understanding.now_ns
        session.repository, work.destinations = opened.repository, opened.destinations
        work.parent_tree = opened.parent[1].tree if opened.parent else None
        work.same_user = _same_user(opened)
        if opened.destinations is not None:
            session.use_lanes(opened.destinations.lanes)
        for provider in inside:
            opened.warnings.append(f"{provider.location} lies inside what is backed up; its packs are left out")
        for warning in opened.warnings:
            session.warn(warning)
        yield work, opened


async def _look(
    work: ActiveBackup, options: BackupOptions, discover: Callable[[ActiveBackup], Coroutine[Any, Any, None]]
) -> None:
    work.session.rules = await asyncio.to_thread(_rules, options, frozenset())
    await discover(work)


@contextlib.asynccontextmanager
async def beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Do the work beside the body, and wait for it at the end; when either fails, the other is ended."""
    body = asyncio.current_task()
    task = asyncio.create_task(work)
    failed: list[BaseException] = []

    def ended(done: asyncio.Task[None]) -> None:
        if not done.cancelled() and (error := done.exception()) is not None and body is not None:
            failed.append(error)
            body.cancel()

    task.add_done_callback(ended)
    try:
        yield
        task.remove_done_callback(ended)
        await task
    except asyncio.CancelledError:
        if failed and body is not None and body.uncancel() == 0:
            raise failed[0] from None
        raise
    finally:
        task.remove_done_callback(ended)
        if not task.done():
            task.cancel()
            await asyncio.wait([task])


async def _open(
    stack: contextlib.AsyncExitStack,
    run: RunContext,
    providers: list[StorageProvider],
    password: SecretStr,
    options: BackupOptions,
    breakers: Breakers,
) -> Opened:
    """The destinations, locked, and what is there already."""
    if options.dry_run:
        opened = Opened(await _open_to_look(providers, password), None)
        if opened.repository is not None:
            await _read(opened.repository, options, opened)
        return opened
    destinations = await open_destinations(stack, run, providers, password, options, breakers)
    opened = Opened(destinations.repository, destinations)
    await _take_stock(destinations, options, opened)
    return opened


def _same_user(opened: Opened) -> bool:
    """Whether the parent snapshot was made by the user who runs this: only then were the same attributes visible."""
    get_uid = getattr(os, "geteuid", None)
    return opened.parent is not None and get_uid is not None and opened.parent[1].uid == get_uid()


async def _open_to_look(providers: Sequence[StorageProvider], password: SecretStr) -> Repository | None:
    """The repository at the first destination that holds one, for a run that stores nothing.

    Raises why a destination did not answer when none that did holds one.
    """
    away: StorageError | None = None
    for provider in providers:
        try:
            return await Repository.open(provider, password.get_secret_value())
        except RepositoryMissingError:
            continue
        except StorageError as error:
            away = away or error
    if away is not None:
        raise away
    return None


async def _read(repository: Repository, options: BackupOptions, opened: Opened) -> None:
    """The parent and the index."""
    # The parent first: an index loaded after it names everything it needs, whoever publishes meanwhile.
    opened.parent = await choose_parent(
        repository,
        host=options.host or socket.gethostname(),
        paths=[absolute(path) for path in options.paths],
        wanted=options.parent,
        force=options.force,
        on_damaged=lambda _, error: opened.warnings.append(error.message),
        on_checkpoint=opened.stale_checkpoints.append,
    )
    await repository.load_index()


async def _take_stock(destinations: Destinations, options: BackupOptions, opened: Opened) -> None:
    """Find what is there already: the parent, the index, what an interrupted run left, and what has been lost."""
    listings = None
    while listings is None:  # each time with a destination less
        opened.repository = destinations.repository
        opened.warnings.clear()
        opened.stale_checkpoints.clear()
        await _read(destinations.repository, options, opened)
        listings = await list_destinations(destinations)
    destinations.stale_checkpoints = opened.stale_checkpoints
    opened.resumed, lost = await take_stock(destinations, listings)
    if lost:
        opened.warnings.append(
            f"{lost} packs of the repository are missing or cut short. What they held is stored anew where it is still "
            "among the files; earlier snapshots may have lost it. Check them with `restic check`."
        )


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

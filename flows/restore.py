"""The restore flow: open, plan, write, report."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run as runtime

from backupiq.archive.restore import WORKERS, RestoreReport, execute_restore
from backupiq.archive.restore_plan import RestorePlan, plan_restore
from backupiq.profile import RestoreOptions
from backupiq.reports import RestoreSummary
from backupiq.repository.locking import lock_for_reading
from backupiq.repository.reader import BlobReader
from backupiq.repository.repository import Repository
from backupiq.repository.snapshot import Snapshot, resolve_snapshot
from backupiq.telemetry import bind_run, get_logger
from backupiq.telemetry.text import printable_path
from flows.cancel import cancellable, current_flow_run_id
from flows.context import RunContext, current_run
from flows.naming import destination_label, short_list
from flows.opening import absolute, limits_of
from flows.portable import from_prefect
from flows.replicas import open_to_read, replica_list
from flows.reporting import FlowProgress, report_restore, tell_prefect
from flows.tasks.options import STEP

log = get_logger("backupiq.flows.restore")


def _run_name() -> str:
    options: RestoreOptions = from_prefect(runtime.parameters["options"])
    replicas = short_list(map(destination_label, replica_list(options.repo)))
    return f"restore {options.snapshot[:8]} of {replicas} -> {short_list([options.target])}"


@flow(name="restore", flow_run_name=_run_name, persist_result=False, log_prints=False)
async def restore(options: RestoreOptions, key_block: str | None = None) -> dict[str, Any] | State[Any]:
    """Restore a snapshot, or a part of one, into a folder.

    Args:
        options: Which snapshot, from where, into which folder and how.
        key_block: Name of the RepositoryKey block with the repository's password.
    """
    run = current_run()
    run.begin()
    tell_prefect()
    bind_run(run_id=str(runtime.id))
    return await cancellable(run, current_flow_run_id(), _restore(run, from_prefect(options), key_block))


async def _restore(run: RunContext, options: RestoreOptions, key_block: str | None) -> dict[str, Any]:
    async with _open(run, options, key_block) as work:
        await find_what_to_restore("plan")
        if not options.dry_run:
            await write_files("restore")
        run.report = summary = work.summary(run)
        await report_restore(summary)
        return {"snapshot": summary.snapshot_id, "exit_code": summary.exit_code}


@task(name="plan", task_run_name="plan the restore", **STEP)
async def find_what_to_restore(label: str) -> int:
    """Read the snapshot's folder listings; returns how many files are to be restored."""
    work = _active()
    run, options = work.run, work.options
    run.progress.stage("reading the snapshot")
    work.plan = await plan_restore(
        work.reader,
        work.snapshot,
        subpath=os.fsencode(options.subpath) if options.subpath else None,
        include=options.include,
        exclude=options.exclude,
        target=Path(options.target),
    )
    found = work.plan.summary()
    work.progress.total(found.files, found.bytes)
    return found.files


@task(name="restore", task_run_name="write files", **STEP)
async def write_files(label: str) -> int:
    """Write what was planned; returns how many files."""
    work = _active()
    if work.plan is None:
        raise AssertionError("a restore is planned first")
    options = work.options
    work.run.progress.stage("restoring files")
    report = await execute_restore(
        work.plan,
        work.reader,
        Path(options.target),
        overwrite=options.overwrite,
        sparse=options.sparse,
        verify=options.verify,
        on_progress=work.advance_to,
        should_stop=work.stopping.is_set,
        workers=options.threads or WORKERS,
    )
    work.report = report
    return report.files


class _Work:
    """A restore under way."""

    def __init__(
        self, run: RunContext, options: RestoreOptions, repository: Repository, snapshot_id: str, snapshot: Snapshot
    ) -> None:
        self.run = run
        self.options = options
        self.snapshot_id = snapshot_id
        self.snapshot = snapshot
        self.reader = BlobReader(repository)
        self.progress = FlowProgress(run.progress)
        self.stopping = threading.Event()
        self.plan: RestorePlan | None = None
        self.report: RestoreReport | None = None
        self._files = 0
        self._bytes = 0

    def advance_to(self, files: int, bytes_: int) -> None:
        self.progress.advance(files - self._files, bytes_ - self._bytes)
        self._files, self._bytes = files, bytes_

    def summary(self, run: RunContext) -> RestoreSummary:
        plan, report = self.plan, self.report
        if plan is None:
            raise AssertionError("a restore is planned first")
        found = plan.summary()
        problems = report.problems if report is not None else plan.problems
        count = report.problem_count if report is not None else len(problems)
        return RestoreSummary(
            snapshot_id=self.snapshot_id,
            target=printable_path(os.fsencode(Path(self.options.target).absolute())),
            dry_run=self.options.dry_run,
            files=report.files if report is not None else found.files,
            bytes=report.bytes if report is not None else found.bytes,
            skipped=report.skipped if report is not None else 0,
            problems=[problem.to_dict() for problem in problems],
            seconds=time.perf_counter() - (run.flow_began or time.perf_counter()),
            seconds_prefect=run.seconds_before_flow,
            flow_run_id=str(runtime.id) if runtime.id else None,
            flow_run_name=runtime.name,
            exit_code=1 if count else 0,
        )


_works: dict[str, _Work] = {}


def _active() -> _Work:
    return _works[str(runtime.id)]


@contextlib.asynccontextmanager
async def _open(run: RunContext, options: RestoreOptions, key_block: str | None) -> AsyncIterator[_Work]:
    async with contextlib.AsyncExitStack() as stack:
        opening = open_to_read(run, replica_list(options.repo), key_block, limits=limits_of(options))
        repository = await stack.enter_async_context(opening)
        locked = lock_for_reading(repository, retry_for=options.retry_lock, note=run.progress.note)
        await stack.enter_async_context(locked)
        snapshot_id, snapshot = await _choose(repository, options)
        await repository.load_index()
        work = _Work(run, options, repository, snapshot_id, snapshot)
        async with FlowProgress.over(run.progress) as progress:
            work.progress = progress
            _works[str(runtime.id)] = work
            try:
                yield work
            except asyncio.CancelledError:
                work.stopping.set()
                raise
            finally:
                _works.pop(str(runtime.id), None)


async def _choose(repository: Repository, options: RestoreOptions) -> tuple[str, Snapshot]:
    """The snapshot that was asked for; ``latest`` looks only at those the filters let through."""
    if options.snapshot != "latest" or not (options.host or options.paths or options.tags):
        return await repository.load_snapshot(options.snapshot)
    wanted = set(map(absolute, options.paths))
    return resolve_snapshot(
        [
            (name, snapshot)
            for name, snapshot in await repository.snapshots()
            if (options.host is None or snapshot.hostname == options.host)
            and wanted <= set(snapshot.paths)
            and set(options.tags) <= set(snapshot.tags or [])
        ],
        "latest",
    )

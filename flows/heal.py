"""The heal flow: list, read, plan, copy, report."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

from prefect import flow, task
from prefect.artifacts import acreate_markdown_artifact, acreate_table_artifact
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.runtime import flow_run as runtime

from backupiq.archive.spool import Spool, default_parent
from backupiq.errors import BackupIQError, CircuitOpenError, StorageError
from backupiq.profile import HealOptions
from backupiq.replicas.heal_plan import MOST_LISTED, HealPlan
from backupiq.replicas.healing import Healing
from backupiq.replicas.objects import ORDER
from backupiq.replicas.opening import OpenReplicas
from backupiq.replicas.report import HealReport
from backupiq.repository.locking import lock_for_reading
from backupiq.repository.repository import FileType
from backupiq.resilience.breaker import Breaker
from backupiq.telemetry import bind_run, get_logger
from flows.cancel import cancellable, current_flow_run_id
from flows.context import RunContext, current_run
from flows.guard import current_breakers, guarded
from flows.naming import destination_label, human_bytes, short_destinations
from flows.opening import limits_of
from flows.portable import from_prefect
from flows.replicas import open_all
from flows.reporting import FlowProgress, as_code, store_artifact, tell_prefect
from flows.tasks.options import RETRIED, STEP
from flows.together import together

MOST_NOTES = 50
"""Objects that no replica holds right, told one a line before copying begins; all stand in the report."""

log = get_logger("backupiq.flows.heal")


def _run_name() -> str:
    options: HealOptions = from_prefect(runtime.parameters["options"])
    return f"heal {short_destinations(options.repo)}"


@flow(name="heal", flow_run_name=_run_name, persist_result=False, log_prints=False)
async def heal(options: HealOptions, key_block: str | None = None) -> dict[str, Any] | State[Any]:
    """Bring all replicas of a repository to hold the same: copy what one lacks or holds wrong from another.

    Args:
        options: The replicas, and how closely to look.
        key_block: Name of the RepositoryKey block with the repository's password.
    """
    run = current_run()
    run.begin()
    tell_prefect()
    bind_run(run_id=str(runtime.id))
    return await cancellable(run, current_flow_run_id(), _heal(run, from_prefect(options), key_block))


async def _heal(run: RunContext, options: HealOptions, key_block: str | None) -> dict[str, Any]:
    async with _open(run, options, key_block) as work:
        healing = work.healing
        run.progress.stage("listing the replicas")
        await work.at_each(list_replica, healing.names)
        run.progress.stage("reading the replicas")
        healing.expect()
        await work.at_each(read_replica, healing.names)
        await work.at_each(compare_replica, healing.disputed())
        await make_plan("plan")
        if not options.dry_run:
            await work.copy_all()
        run.report = report = work.report(run, options)
        await _show(report)
        return {"objects_copied": report.outcome.objects, "exit_code": report.exit_code}


@task(name="list", task_run_name="list {label}", **RETRIED)
@guarded(lambda arguments: _active().breaker(arguments["number"]))
async def list_replica(number: int, label: str) -> int:
    """List a replica; returns how many objects it holds."""
    work = _active()
    return await work.healing.survey(work.names[number])


@task(name="read", task_run_name="read {label}", **RETRIED)
@guarded(lambda arguments: _active().breaker(arguments["number"]))
async def read_replica(number: int, label: str) -> int:
    """Read what is small, or everything; returns how many objects are wrong."""
    work = _active()
    return await work.healing.read(work.names[number])


@task(name="compare", task_run_name="compare {label}", **RETRIED)
@guarded(lambda arguments: _active().breaker(arguments["number"]))
async def compare_replica(number: int, label: str) -> int:
    """Read what other replicas hold in another size; returns how many objects are wrong."""
    work = _active()
    return await work.healing.judge(work.names[number])


@task(name="plan", task_run_name="plan the copies", **STEP)
async def make_plan(label: str) -> int:
    """Find what must be copied where; returns how many copies."""
    work = _active()
    plan = work.healing.plan()
    for line in plan.lines()[: len(plan.replicas) + MOST_NOTES]:
        work.run.progress.note(line)
    await _show_plan(plan)
    return len(plan.actions)


@task(name="copy", task_run_name="copy {kind}", **RETRIED)
async def copy_kind(kind: str) -> int:
    """Copy the objects of one kind; returns how many copies are still lacking. A retry does what is left."""
    work = _active()
    try:
        return await work.healing.copy(FileType(kind))
    finally:
        await work.tell_breakers(FileType(kind))


class _Work:
    """A healing under way."""

    def __init__(self, run: RunContext, opened: OpenReplicas, healing: Healing) -> None:
        self.run = run
        self.opened = opened
        self.healing = healing
        self.names = list(opened.conditions)

    def breaker(self, number: int) -> Breaker:
        """The breaker of a replica."""
        provider = self.opened.provider.replicas[self.names[number]]
        return current_breakers().for_destination(provider.identity, provider.location)

    async def tell_breakers(self, kind: FileType) -> None:
        """Count one failure, or one success, for every replica that objects of a kind were copied to."""
        for name, error in self.healing.copied_to(kind).items():
            with contextlib.suppress(StorageError, CircuitOpenError):
                async with self.breaker(self.names.index(name)).attempt():
                    if error is not None:
                        raise error

    async def at_each(self, step: Callable[[int, str], Coroutine[Any, Any, int]], names: Sequence[str]) -> None:
        """Do a step at these replicas; one that fails for good is left out from then on."""

        async def attempt(number: int, name: str) -> None:
            try:
                await step(number, destination_label(name))
            except (StorageError, CircuitOpenError) as error:
                self.leave_out(name, error)

        async with together() as group:
            for name in names:
                group.create_task(attempt(self.names.index(name), name))

    def leave_out(self, name: str, error: BackupIQError) -> None:
        log.warning("replica.left_out", replica=name, error=error.code)
        self.run.progress.note(f"{name} is left out: {error.message}")
        self.healing.leave_out(name, error)

    async def copy_all(self) -> None:
        """Copy what is planned, kind by kind; what fails for good stands in the outcome."""
        self.healing.expect_copies()
        for kind in filter(self.healing.wants, ORDER):
            try:
                await copy_kind(kind.value)
            except StorageError as error:
                self.run.progress.note(f"not everything could be copied: {error.message}")

    def report(self, run: RunContext, options: HealOptions) -> HealReport:
        return HealReport(
            repository_id=self.opened.repository.config.id,
            dry_run=options.dry_run,
            read_data=options.read_data,
            outcome=self.healing.outcome(),
            seconds=time.perf_counter() - (run.flow_began or time.perf_counter()),
            seconds_prefect=run.seconds_before_flow,
            flow_run_id=str(runtime.id) if runtime.id else None,
            flow_run_name=runtime.name,
        )


_works: dict[str, _Work] = {}


def _active() -> _Work:
    return _works[str(runtime.id)]


@contextlib.asynccontextmanager
async def _open(run: RunContext, options: HealOptions, key_block: str | None) -> AsyncIterator[_Work]:
    async with contextlib.AsyncExitStack() as stack:
        opened = await stack.enter_async_context(open_all(run, options.repo, key_block, limits=limits_of(options)))
        spool = await asyncio.to_thread(Spool.create, default_parent())
        stack.callback(spool.close)
        progress = await stack.enter_async_context(FlowProgress.over(run.progress))
        healing = Healing(opened, spool=spool.folder, progress=progress, read_data=options.read_data)
        work = _Work(run, opened, healing)
        for name, why in healing.left_out.items():
            run.progress.note(f"{name} is left out: {why}")
        for name in healing.names:
            try:
                await stack.enter_async_context(
                    lock_for_reading(opened.at(name), retry_for=options.retry_lock, note=run.progress.note)
                )
            except StorageError as error:
                work.leave_out(name, error)
        _works[str(runtime.id)] = work
        try:
            yield work
        finally:
            _works.pop(str(runtime.id), None)


async def _show_plan(plan: HealPlan) -> None:
    if FlowRunContext.get() is None:
        return
    lines = ["# Plan", "", *(f"- {as_code(line)}" for line in plan.lines())]
    await store_artifact(acreate_markdown_artifact(key="heal-plan", markdown="\n".join(lines)))
    rows = [action.to_dict() | {"sources": ", ".join(action.sources)} for action in plan.actions[:MOST_LISTED]]
    if rows:
        await store_artifact(acreate_table_artifact(key="heal-copies", table=rows))


async def _show(report: HealReport) -> None:
    """The artifact at the end: what became of each replica."""
    if FlowRunContext.get() is None:
        return
    outcome = report.outcome
    lines = [
        "# Healed" if not report.dry_run else "# What healing would do (dry run)",
        "",
        f"{outcome.objects:,} objects copied, {human_bytes(outcome.bytes)}, in {report.seconds:.1f} s.",
        "",
        "| replica | objects | missing | truncated | damaged | copied | lacking |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in outcome.replicas:
        numbers = (one.objects, one.missing, one.truncated, one.damaged, one.copied, one.lacking)
        cells = ["left out", *["-"] * 5] if one.left_out else [f"{number:,}" for number in numbers]
        lines.append(f"| {as_code(one.name)} | {' | '.join(cells)} |")
    lines += ["", *(f"- no replica holds `{key}` right" for key in outcome.lost[:50])]
    await store_artifact(acreate_markdown_artifact(key="heal-summary", markdown="\n".join(lines)))

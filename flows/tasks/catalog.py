"""The catalog: what a run has found out, kept for finding things."""

from __future__ import annotations

import asyncio
import contextlib
import time

from prefect import task

from backupiq.catalog.analyzing import snapshot_analyzer
from backupiq.catalog.health import Destination, Observation
from backupiq.catalog.store import Catalog, Run
from backupiq.catalog.update import update_catalog
from backupiq.resilience.retry import STANDARD
from backupiq.semantics.contents import finding_key
from flows.active import find_active
from flows.backup_destinations import Destinations
from flows.tasks.options import retried


def _observations(found: Destinations) -> list[tuple[Destination, Observation]]:
    """How each destination that took part was in this run."""
    now_ns = time.time_ns()
    observations = []
    for lane in found.lanes.lanes:
        state = "ok" if lane.name in found.complete else "behind" if lane.error is None else "failed"
        error = lane.error.code if lane.error is not None and state == "failed" else ""
        of = Destination(lane.name, lane.provider.kind, lane.provider.identity)
        observations.append((of, Observation(now_ns, state, error=error)))
    for name, why in found.skipped.items():
        observations.append((Destination(name), Observation(now_ns, "skipped", error=why.code)))
    return observations


@task(name="catalog", task_run_name="bring the snapshot into the catalog", **retried(STANDARD))
async def bring_into_catalog(run: str, snapshot: str) -> int:
    """Bring the catalog up to date with the repository; returns how many snapshots entered it."""
    backup = find_active(run)
    analysis, repository = backup.understanding, backup.writing.repository
    analyze = snapshot_analyzer(finding_key(repository.master), pins=analysis.pins, contents=analysis.contents)
    catalog = await asyncio.to_thread(Catalog.open, repair=True)
    with contextlib.closing(catalog):
        report = await update_catalog(catalog, repository, analyze, now_ns=time.time_ns())
        made = Run(run, repository.config.id, analysis.now_ns, time.time_ns(), snapshot=snapshot)
        await asyncio.to_thread(catalog.record_run, made)
        for destination, seen in _observations(backup.writing):
            await asyncio.to_thread(catalog.record_health, repository.config.id, destination, seen)
    return len(report.added)

"""The catalog: what a run has found out, kept for finding things."""

from __future__ import annotations

import asyncio
import contextlib
import time

from prefect import task

from backupiq.catalog.analyzing import snapshot_analyzer
from backupiq.catalog.store import Catalog, Run
from backupiq.catalog.update import update_catalog
from backupiq.semantics.contents import finding_key
from flows.active import find_active
from flows.tasks.options import STEP


@task(name="catalog", task_run_name="bring the snapshot into the catalog", **STEP)
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
    return len(report.added)

"""The snapshot and the report of a backup, from what its session counted."""

from __future__ import annotations

import os
import socket
import time
from typing import Any

from prefect.runtime import flow_run as runtime

from backupiq import __version__
from backupiq.archive.session import BackupSession
from backupiq.archive.tree_builder import TreeCounts
from backupiq.discovery.sources import clean
from backupiq.errors import DegradedRunError, PartialBackupError
from backupiq.profile import BackupOptions
from backupiq.reports import BackupReport
from backupiq.repository.gojson import format_time_ns
from backupiq.repository.snapshot import CHECKPOINT_TAG, OWN_PROGRAM, Snapshot, Summary
from backupiq.semantics.summary import to_dict
from backupiq.telemetry.text import printable_path
from flows.active import ActiveBackup
from flows.backup_destinations import Destinations
from flows.backup_open import Opened
from flows.context import RunContext
from flows.opening import absolute, user_name
from flows.portable import json_text

MOST_DECISIONS = 1000


def make_snapshot(
    opened: Opened, session: BackupSession, options: BackupOptions, tree: str, checkpoint: TreeCounts | None = None
) -> Snapshot:
    """The snapshot of that tree; with the counts of a ``checkpoint``, what the run publishes on its way."""
    data_blobs, tree_blobs, plain, stored = session.counts
    trees, changes = checkpoint or session.tree_counts, session.changes
    tags = [*options.tags, CHECKPOINT_TAG] if checkpoint is not None else options.tags
    return Snapshot(
        time=format_time_ns(opened.began_ns),
        parent=opened.parent[0] if opened.parent else None,
        tree=tree,
        paths=[absolute(path) for path in options.paths],
        hostname=json_text(options.host or socket.gethostname()),
        username=user_name(),
        uid=os.getuid() if hasattr(os, "getuid") else 0,
        gid=os.getgid() if hasattr(os, "getgid") else 0,
        excludes=[json_text(pattern) for pattern in (*options.exclude, *options.iexclude)] or None,
        tags=[json_text(tag) for tag in tags] or None,
        program_version=f"{OWN_PROGRAM}{__version__}",
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


def make_report(
    run: RunContext, options: BackupOptions, opened: Opened, work: ActiveBackup, snapshot_id: str | None
) -> BackupReport:
    """What a run tells at its end."""
    session = work.session
    _, _, plain, stored = session.counts
    trees, changes = session.tree_counts, session.changes
    unreadable = [{"path": printable_path(item.path), "reason": item.reason} for item in session.unreadable]
    found = opened.destinations
    outcomes = _outcomes(found)
    behind = [each["name"] for each in outcomes if not each["complete"]]
    for each in outcomes:
        if not each["complete"] and snapshot_id is not None:
            session.warn(f"{each['name']} is not up to date: {each['error']} {DegradedRunError.hint}")
    return BackupReport(
        snapshot_id=snapshot_id,
        parent_id=opened.parent[0] if opened.parent else None,
        repository_id=opened.repository.config.id if opened.repository else "",
        created_repository=bool(found and found.created),
        paths=[printable_path(clean(path)[0]) for path in options.paths],
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
        bytes_sent=found.lanes.bytes_sent if found else 0,
        bytes_resumed=opened.resumed,
        seconds=time.perf_counter() - (run.flow_began or opened.began),
        seconds_prefect=run.seconds_before_flow,
        unreadable=unreadable,
        warnings=session.warnings,
        excluded=session.excluded,
        destinations=outcomes,
        holds=to_dict(summary) if (summary := work.understanding.summary) else {},
        decisions=[
            {
                "path": printable_path(each.path),
                "regenerable": each.regenerable,
                "rule": each.rule,
                "reason": each.reason,
            }
            for each in work.understanding.decisions[:MOST_DECISIONS]
        ],
        checkpoints=max((len(lane.publisher.checkpoints) for lane in found.lanes.lanes), default=0) if found else 0,
        flow_run_id=str(runtime.id) if runtime.id else None,
        flow_run_name=runtime.name,
        exit_code=DegradedRunError.exit_code if behind else PartialBackupError.exit_code if unreadable else 0,
    )


def _outcomes(found: Destinations | None) -> list[dict[str, Any]]:
    """What became of each destination; bytes are those sent there as packs, indexes and the snapshot."""
    if found is None:
        return []
    lanes = [
        {
            "name": lane.name,
            "complete": lane.name in found.complete,
            "bytes": lane.publisher.bytes_sent,
            "objects_caught_up": found.caught_up.get(lane.name, 0),
            "error": "" if lane.name in found.complete or lane.error is None else lane.error.message,
            "breaker": found.breakers.phase_of(lane.name),
        }
        for lane in found.lanes.lanes
    ]
    skipped = [
        {
            "name": name,
            "complete": False,
            "bytes": 0,
            "objects_caught_up": 0,
            "error": error.message,
            "breaker": found.breakers.phase_of(name),
        }
        for name, error in found.skipped.items()
    ]
    return lanes + skipped

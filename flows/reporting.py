"""What a person sees of a run in Prefect's UI: a progress bar while it works, a summary and tables at its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import shlex
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID

from prefect.artifacts import (
    acreate_markdown_artifact,
    acreate_progress_artifact,
    acreate_table_artifact,
    aupdate_progress_artifact,
)
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging.handlers import APILogHandler
from prefect.utilities.urls import url_for

from backupiq.progress import ProgressSink
from backupiq.reports import BackupReport, RestoreSummary
from backupiq.telemetry import attach_handler, get_logger
from backupiq.telemetry.text import printable
from flows.naming import human_bytes

UPDATE_SECONDS = 1.0
MOST_ROWS = 500
MOST_LISTED = 15

log = get_logger("backupiq.flows.reporting")


class FlowProgress:
    """Passes progress on to a face, and at most once a second to an artifact of the flow run.

    Counting happens in packing threads and costs an addition; talking to Prefect happens in one task beside them.
    """

    def __init__(self, face: ProgressSink) -> None:
        self._face = face
        self._total = 0
        self._done = 0
        self._shown = -1.0
        self.store_artifact: UUID | None = None

    @classmethod
    @contextlib.asynccontextmanager
    async def over(cls, face: ProgressSink) -> AsyncIterator[FlowProgress]:
        """A sink for the length of a run, its artifact kept up to date."""
        progress = cls(face)
        teller = asyncio.ensure_future(progress._tell()) if FlowRunContext.get() is not None else None
        try:
            yield progress
        finally:
            if teller is not None:
                teller.cancel()
                await asyncio.gather(teller, return_exceptions=True)
        if progress.store_artifact is not None:
            await progress._show()

    def stage(self, name: str) -> None:
        """A new stage begins."""
        self._face.stage(name)

    def total(self, files: int, bytes_: int) -> None:
        """How much there is to do."""
        self._total = bytes_
        self._face.total(files, bytes_)

    def advance(self, files: int, bytes_: int) -> None:
        """That much more is done."""
        self._done += bytes_
        self._face.advance(files, bytes_)

    def note(self, text: str) -> None:
        """A line for a person."""
        self._face.note(text)

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(UPDATE_SECONDS)
            await self._show()

    async def _show(self) -> None:
        percent = round(100 * min(1.0, self._done / self._total), 1) if self._total else 0.0
        if percent == self._shown:
            return
        self._shown = percent
        try:
            if self.store_artifact is not None:
                await aupdate_progress_artifact(self.store_artifact, percent)
                return
            made = await acreate_progress_artifact(percent, "backup-progress", "Bytes read of those to be read.")
            self.store_artifact = made if isinstance(made, UUID) else None
        except Exception as error:  # noqa: BLE001 - a picture of the work never ends the work
            log.debug("progress.not_shown", error=type(error).__name__)


class RunLog(APILogHandler):
    """Sends the events of a run to Prefect; outside of runs there is none to send them to."""

    def emit(self, record: logging.LogRecord) -> None:
        """Send the record, which was redacted before, to the run this code belongs to."""
        if FlowRunContext.get() is not None or TaskRunContext.get() is not None:
            super().emit(record)


def tell_prefect() -> None:
    """From now on this process's events, from level info on, stand in the log of the run they belong to."""
    if not any(isinstance(handler, APILogHandler) for handler in logging.getLogger("backupiq").handlers):
        attach_handler(RunLog(), level=logging.INFO)


async def report_backup(report: BackupReport) -> None:
    """The artifacts of a backup: a summary, the destinations, and what could not be read; the run gets its tag."""
    if FlowRunContext.get() is None:
        return
    where = url_for("flow-run", report.flow_run_id) if report.flow_run_id else None
    await _markdown("backup-summary", backup_markdown(report, where), "What was stored where, and what to do.")
    rows = [
        {
            "destination": d["name"],
            "complete": d["complete"],
            "bytes sent": d["bytes"],
            "objects caught up": d["objects_caught_up"],
            "why not": d["error"],
        }
        for d in report.destinations
    ]
    await _rows("backup-destinations", rows, "Every destination, and why it is not complete.")
    if report.holds:
        await _markdown("backup-contents", contents_markdown(report), "What the files are.")
    if report.decisions:
        await _rows("backup-regenerable", report.decisions[:MOST_ROWS], "Folders that can be made again, and why.")
    if report.unreadable:
        await _rows("backup-unreadable", report.unreadable[:MOST_ROWS], "What could not be read, and why.")
    if report.snapshot_id is not None:
        await _tag_run(snapshot_tag(report.snapshot_id))


def snapshot_tag(snapshot_id: str) -> str:
    """The tag of the run that made a snapshot: the way from the snapshot to its run."""
    return f"snapshot:{snapshot_id[:8]}"


async def _tag_run(tag: str) -> None:
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    try:
        async with get_client() as client:
            await client.update_flow_run(context.flow_run.id, tags=[*context.flow_run.tags, tag])
    except Exception as error:  # noqa: BLE001 - the backup is done; a run without its tag does not undo it
        log.warning("run.not_tagged", error=type(error).__name__)


async def report_restore(summary: RestoreSummary) -> None:
    """The artifacts of a restore: a summary and what went wrong."""
    if FlowRunContext.get() is None:
        return
    await _markdown("restore-summary", restore_markdown(summary), "What was restored, and where to.")
    if summary.problems:
        await _rows("restore-problems", summary.problems[:MOST_ROWS], "What could not be restored, and why.")


async def _markdown(key: str, text: str, description: str) -> None:
    await store_artifact(acreate_markdown_artifact(text, key=key, description=description))


async def _rows(key: str, rows: list[dict[str, Any]], description: str) -> None:
    await store_artifact(acreate_table_artifact(rows, key=key, description=description))


async def store_artifact(making: Any) -> None:
    began = time.monotonic()
    try:
        await making
    except Exception as error:  # noqa: BLE001 - the backup is done; a report that cannot be shown does not undo it
        log.warning("artifact.not_stored", error=type(error).__name__, seconds=round(time.monotonic() - began, 1))


def backup_markdown(report: BackupReport, where: str | None = None) -> str:
    """The summary of a backup as Markdown; ``where`` is the address of its run."""
    short = report.snapshot_id[:8] if report.snapshot_id else ""
    lines = [f"# Snapshot `{short}`" if short else "# Snapshot none (dry run)", ""]
    lines += [*_where_it_is(report), *_left_out(report)]
    lags = tuple(f"{each['name']} is not up to date: " for each in report.destinations)  # told with the destination
    told = [f"- {as_code(text)}" for text in report.warnings if not text.startswith(lags)]
    if told:
        lines += ["## What else there is to know", "", *told[:50], ""]
    lines += ["## What to do", "", *(f"- {text}" for text in _advice(report, short)), ""]
    return "\n".join([*lines, "## In figures", "", *_figures(report, where)])


def _figures(report: BackupReport, where: str | None) -> list[str]:
    lines = [
        "| | |",
        "|---|---|",
        f"| Paths | {', '.join(map(as_code, report.paths))} |",
        f"| Files | {report.total_files:,} ({report.files_new:,} new, {report.files_changed:,} changed, "
        f"{report.files_unmodified:,} unmodified) |",
        f"| Size | {human_bytes(report.total_bytes)} |",
        f"| Added | {human_bytes(report.data_added)} ({human_bytes(report.data_added_packed)} stored) |",
        f"| Sent | {human_bytes(report.bytes_sent)} |",
        f"| Taken over from an interrupted run | {human_bytes(report.bytes_resumed)} |",
        f"| Time | {report.seconds:.1f} s |",
    ]
    return [*lines, f"| Run | [{where}]({where}) |"] if where is not None else lines


def _where_it_is(report: BackupReport) -> list[str]:
    rows = [
        (
            each["name"],
            "complete" if each["complete"] else f"**lags**: {as_code(each['error'])}",
            human_bytes(each["bytes"]),
            f"{each['objects_caught_up']:,}",
        )
        for each in report.destinations
    ]
    table = _table(("Destination", "State", "Sent", "Objects caught up"), rows)
    return ["## Where it is", "", *table] if table else []


def _left_out(report: BackupReport) -> list[str]:
    lines = []
    if report.excluded:
        lines.append(f"- {report.excluded:,} files and folders, by the rules of this backup")
    if report.unreadable:
        count = len(report.unreadable)
        lines.append(f"- **{count:,} items could not be read** and are listed in a table of this run:")
        lines += [f"  - {as_code(each['path'])}: {as_code(each['reason'])}" for each in report.unreadable[:5]]
    return ["## What was left out", "", *lines, ""] if lines else []


def _advice(report: BackupReport, short: str) -> list[str]:
    """What a person should do now, as Markdown; what a run is for when there is nothing else to say."""
    advice = []
    lagging = [each["name"] for each in report.destinations if not each["complete"]]
    if short and lagging:
        repos = " ".join(f"--repo {shlex.quote(each['name'])}" for each in report.destinations)
        advice.append(
            f"{', '.join(map(as_code, lagging))}: put the cause right. The next run brings it up to date, and so does "
            + as_code(f"backupiq heal {repos}")
        )
    if report.unreadable:
        advice.append("Give this user the right to read what is listed, or leave it out with an exclude rule.")
    if short and not advice:
        advice.append("Nothing: the backup is complete everywhere.")
    if short:
        advice.append(f"To get files back: `backupiq restore {short} --target DIR`")
    return advice or ["Nothing was stored; run it without the dry run."]


def contents_markdown(report: BackupReport) -> str:
    """What the backup holds, as Markdown."""
    holds = report.holds
    lines = ["# What this backup holds", ""]
    for title, key in (
        ("Kind", "categories"), ("Language", "languages"), ("Framework", "frameworks"), ("Project", "projects")
    ):  # fmt: skip
        rows = [(each["name"], f"{each['files']:,}", human_bytes(each["bytes"])) for each in holds[key][:MOST_LISTED]]
        lines += _table((title, "Files", "Size"), rows)
    lines += _table(
        ("Largest files", "Size"), [(each["path"], human_bytes(each["bytes"])) for each in holds["largest"]]
    )
    lines += _table(
        ("Files with secrets", "Found", "What"),
        [(each["path"], str(each["secrets"]), ", ".join(each["rules"])) for each in holds["secrets"]],
    )
    made_again = holds["regenerable"]
    if made_again["files"]:
        lines.append(
            f"{made_again['files']:,} files ({human_bytes(made_again['bytes'])}) can be made again from the rest and "
            "are stored last; a table of this run says why."
        )
    return "\n".join(lines)


def _table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """A table and a blank line; nothing without rows. The first column holds names from files."""
    if not rows:
        return []
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    lines += [f"| {' | '.join((as_code(first), *rest))} |" for first, *rest in rows]
    return [*lines, ""]


def restore_markdown(summary: RestoreSummary) -> str:
    """The summary of a restore as Markdown."""
    lines = [
        f"# Restored snapshot `{summary.snapshot_id[:8]}`" + (" (dry run)" if summary.dry_run else ""),
        "",
        "| | |",
        "|---|---|",
        f"| Target | {as_code(summary.target)} |",
        f"| Files | {summary.files:,} |",
        f"| Size | {human_bytes(summary.bytes)} |",
        f"| Left as they were | {summary.skipped:,} |",
        f"| Problems | {len(summary.problems):,} |",
        f"| Time | {summary.seconds:.1f} s |",
    ]
    return "\n".join(lines)


def as_code(text: str) -> str:
    """Text that came from file names, as inert Markdown."""
    clean = re.sub(r"[`|]", " ", printable(text))
    return f"`{clean}`"

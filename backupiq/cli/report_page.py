"""A report as one HTML page that needs nothing else: no network, no script. Whatever a file is named, it stays text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from backupiq.cli.charts import bars, changes, growth, time_line
from backupiq.cli.output import escape_name, human_bytes, human_time
from backupiq.cli.report_words import (
    ages,
    change_words,
    counted,
    growth_words,
    notes_of,
    protection_rows,
    protection_words,
    series_rows,
    storage_words,
)
from backupiq.semantics.snapshot_report import SnapshotReport, Stored
from backupiq.semantics.summary import Amount

GROWTH_HEIGHT = 200.0
CHANGES_HEIGHT = 160.0
MOST_ROWS = 200
"""Snapshots in the table of the series."""
MOST_AMOUNTS = 50


def render_page(report: SnapshotReport) -> str:
    """The page. All that comes from files, snapshots or manifests is escaped for terminals and for HTML."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("backupiq.cli", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=False,
        keep_trailing_newline=True,
    )
    return environment.get_template("report.html").render(_values(report))


def _values(report: SnapshotReport) -> dict[str, Any]:
    one, holds = report.snapshot, report.holds
    made_again = holds.regenerable
    shown = report.series[-MOST_ROWS:]
    caption = "Snapshots" if len(shown) == len(report.series) else f"The newest {len(shown)} snapshots"
    return {
        "short_id": report.snapshot_id[:8],
        "host": escape_name(one.hostname) or "an unnamed host",
        "time": human_time(one.time_ns()),
        "report_time": human_time(report.now_ns),
        "paths": [escape_name(path) for path in one.paths],
        "tags": [escape_name(tag) for tag in one.tags or ()],
        "facts": _facts(report),
        "notes": notes_of(report),
        "regenerable": f"{counted(made_again.files, 'file')}, {human_bytes(made_again.bytes)}",
        "looked_inside": report.looked_inside,
        "categories": bars(_labelled(holds.categories)),
        "category_rows": _rows(holds.categories),
        "languages": bars(_labelled(holds.languages)),
        "language_rows": _rows(holds.languages),
        "framework_rows": _rows(holds.frameworks),
        "project_rows": _rows(holds.projects),
        "largest_rows": [(escape_name(path), human_bytes(size)) for path, size in holds.largest],
        "secret_rows": [
            (escape_name(each.path), f"{each.secrets:,}", ", ".join(map(escape_name, each.rules)))
            for each in holds.riskiest
        ],
        "growth": growth(report.series, report.snapshot_id, GROWTH_HEIGHT),
        "growth_text": growth_words(report),
        "changes": changes(report.series, CHANGES_HEIGHT),
        "changes_text": change_words(report),
        "series_caption": caption,
        "series_rows": series_rows(shown),
        "stored": _storage(report),
        "time_line": time_line([point.time_ns for point in report.series], report.protection, report.now_ns),
        "protection_text": protection_words(report.protection),
        "protection_rows": protection_rows(report.protection),
    }


def _facts(report: SnapshotReport) -> list[tuple[str, str, str]]:
    facts = [
        ("files", f"{report.files:,}", ""),
        ("size", human_bytes(report.bytes), ""),
        ("snapshots of these paths", f"{report.protection.snapshots:,}", ""),
        ("newest snapshot", ages(report.protection.newest_age_ns), "before this report"),
    ]
    stored = report.series_stored or report.stored
    if stored is not None:
        words = f"{human_bytes(stored.restore_bytes)} in {human_bytes(stored.stored_bytes)}"
        facts.append(("stored at", f"{stored.deduplication * stored.compression:.1f} to 1", words))
    return facts


def _storage(report: SnapshotReport) -> list[dict[str, Any]]:
    found: list[tuple[str, str, Stored | None]] = [("stored-one", "This snapshot", report.stored)]
    several = report.series_stored
    if several is not None and several.snapshots > 1:
        found.append(("stored-all", f"The newest {several.snapshots:,} snapshots together", several))
    return [
        {
            "id": id_,
            "title": title,
            "text": storage_words(stored),
            "bars": bars(_storage_rows(stored)),
            "rows": [(label, human_bytes(size)) for label, size in _storage_rows(stored)],
        }
        for id_, title, stored in found
        if stored is not None
    ]


def _storage_rows(stored: Stored) -> list[tuple[str, int]]:
    return [
        ("when restored", stored.restore_bytes),
        ("distinct data", stored.plain_bytes),
        ("as it is stored", stored.stored_bytes),
    ]


def _labelled(amounts: Sequence[Amount]) -> list[tuple[str, int]]:
    return [(escape_name(each.name), each.bytes) for each in amounts]


def _rows(amounts: Sequence[Amount]) -> list[tuple[str, str, str]]:
    return [(escape_name(each.name), f"{each.files:,}", human_bytes(each.bytes)) for each in amounts[:MOST_AMOUNTS]]

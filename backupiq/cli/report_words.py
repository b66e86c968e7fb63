"""A report in words and rows of tables, for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Sequence

from backupiq.cli.output import human_bytes, human_time
from backupiq.repository.snapshot import is_checkpoint
from backupiq.semantics.snapshot_report import Point, Protection, SnapshotReport, Stored

_UNITS = ((86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))


def ages(length_ns: int) -> str:
    """A length of time in its largest whole unit: ``3 days``, ``1 hour``; two units below a week."""
    seconds = max(0, length_ns // 10**9)
    for number, (unit, name) in enumerate(_UNITS):
        count, rest = divmod(seconds, unit)
        if count:
            words = counted(count, name)
            small = number + 1 < len(_UNITS) and seconds < 7 * 86_400
            finer = rest // _UNITS[number + 1][0] if small else 0
            return f"{words} {counted(finer, _UNITS[number + 1][1])}" if finer else words
    return "0 seconds"


def counted(count: int, name: str) -> str:
    """``1 file``, ``2,000 files``."""
    return f"{count:,} {name}{'' if count == 1 else 's'}"


def notes_of(report: SnapshotReport) -> list[str]:
    """What a reader has to know before believing the numbers."""
    notes = []
    if is_checkpoint(report.snapshot):
        notes.append("This is a checkpoint: the run that made it had not stored everything yet.")
    if report.unreadable:
        folders = "1 folder" if report.unreadable == 1 else f"{report.unreadable:,} folders"
        notes.append(
            f"{folders} of the snapshot cannot be read and are not counted; `backupiq heal` may bring it back."
        )
    if report.stored is None or report.series_stored is None:
        notes.append("What it takes to store the snapshots could not be added up: the repository is damaged.")
    if not report.looked_inside:
        notes.append("Only names were looked at: types are those of the names, and secrets were not searched for.")
    return notes


def growth_words(report: SnapshotReport) -> str:
    """The growth of the series in one sentence."""
    known = [point for point in report.series if point.bytes is not None]
    if not known:
        return "No snapshot says how much it holds."
    first, last = known[0], known[-1]
    most = max(point.bytes or 0 for point in known)
    ends = [f"{human_bytes(point.bytes or 0)} on {human_time(point.time_ns)[:10]}" for point in (first, last)]
    return f"From {ends[0]} to {ends[1]}, in {counted(len(known), 'snapshot')}; at most {human_bytes(most)}."


def change_words(report: SnapshotReport) -> str:
    """What the snapshots of the series added, in one sentence."""
    known = [point for point in report.series if point.added is not None]
    added, stored = sum(point.added or 0 for point in known), sum(point.stored or 0 for point in known)
    return f"{counted(len(known), 'snapshot')} added {human_bytes(added)}, stored in {human_bytes(stored)}."


def storage_words(stored: Stored) -> str:
    """What storing takes, in one sentence."""
    return (
        f"{human_bytes(stored.restore_bytes)} of files are {human_bytes(stored.plain_bytes)} of distinct data "
        f"(deduplication {stored.deduplication:.2f} to 1), stored in {human_bytes(stored.stored_bytes)} "
        f"(compression {stored.compression:.2f} to 1)."
    )


def protection_words(found: Protection) -> str:
    """How the files were protected over time, in a sentence or two."""
    newest = f"The newest snapshot is {ages(found.newest_age_ns)} old"
    if found.longest is None or found.usual_ns is None:
        return f"{newest}; it is the only one."
    longest = found.longest
    return (
        f"{newest}. {counted(found.snapshots, 'snapshot')} since {human_time(found.first_ns)[:10]}, mostly "
        f"{ages(found.usual_ns)} apart; the longest time without one was {ages(longest.length_ns)}, from "
        f"{human_time(longest.from_ns)[:16]} to {human_time(longest.to_ns)[:16]}."
    )


def protection_rows(found: Protection) -> list[tuple[str, str]]:
    """The same as rows."""
    rows = [
        ("snapshots", f"{found.snapshots:,}"),
        ("first", human_time(found.first_ns)),
        ("newest", human_time(found.newest_ns)),
        ("age of the newest", ages(found.newest_age_ns)),
    ]
    if found.longest is not None and found.usual_ns is not None:
        rows.append(("usual time between two", ages(found.usual_ns)))
        rows.append(("longest time between two", ages(found.longest.length_ns)))
        rows.append(("from", human_time(found.longest.from_ns)))
        rows.append(("to", human_time(found.longest.to_ns)))
    return rows


def series_rows(points: Sequence[Point]) -> list[tuple[str, ...]]:
    """Id, time, files, size, what was new, what that took; a dash where the snapshot does not say. Newest first."""
    return [
        (
            point.snapshot[:8],
            human_time(point.time_ns),
            "-" if point.files is None else f"{point.files:,}",
            *("-" if size is None else human_bytes(size) for size in (point.bytes, point.added, point.stored)),
        )
        for point in reversed(points)
    ]

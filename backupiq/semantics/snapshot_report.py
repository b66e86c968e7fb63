"""What there is to tell about a snapshot and those before and after it: what it holds, how they grew, what protects."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backupiq.discovery.entry import Directory, EntryKind
from backupiq.repository.snapshot import Snapshot, is_checkpoint
from backupiq.semantics.analysis import Analysis
from backupiq.semantics.contents import Content, Wanted
from backupiq.semantics.model import Decision
from backupiq.semantics.summary import Counting, Summary, to_dict
from backupiq.semantics.types import detect_by_name
from backupiq.semantics.view import Files
from backupiq.telemetry.text import printable_path

FOLDERS_AT_ONCE = 64
"""Folders whose files are read together; what was read out of them is forgotten after that."""
MOST_DECISIONS = 1000
"""Decisions about folders that a report lists."""

LookInside = Callable[[Sequence[Wanted]], Mapping[bytes, Content]]
"""Reads these files and says what they are, by path."""


@dataclass(frozen=True, slots=True)
class Point:
    """One snapshot of the series: bytes and files it holds, plain bytes that were new, bytes these took in packs.

    Counts are None where the program that made the snapshot noted none.
    """

    snapshot: str
    time_ns: int
    files: int | None = None
    bytes: int | None = None
    added: int | None = None
    stored: int | None = None


@dataclass(frozen=True, slots=True)
class Gap:
    """The time between two snapshots that follow each other, nanoseconds since 1970."""

    from_ns: int
    to_ns: int

    @property
    def length_ns(self) -> int:
        """How long it is."""
        return self.to_ns - self.from_ns


@dataclass(frozen=True, slots=True)
class Protection:
    """When snapshots were taken: how many, the first and the newest, how old the newest is at the time of the report.

    ``longest`` is the longest time between two that follow each other (None for a single one), ``usual_ns`` the median.
    """

    snapshots: int
    first_ns: int
    newest_ns: int
    newest_age_ns: int
    longest: Gap | None
    usual_ns: int | None


@dataclass(frozen=True, slots=True)
class Stored:
    """What snapshots take, in bytes: each restored by itself, every distinct piece once, these as they are stored."""

    snapshots: int
    restore_bytes: int
    plain_bytes: int
    stored_bytes: int

    @property
    def deduplication(self) -> float:
        """Bytes of the restored files for each byte of distinct data; 1 for none."""
        return self.restore_bytes / self.plain_bytes if self.plain_bytes else 1.0

    @property
    def compression(self) -> float:
        """Bytes of distinct data for each byte stored; 1 for none."""
        return self.plain_bytes / self.stored_bytes if self.stored_bytes else 1.0


@dataclass(frozen=True, slots=True)
class SnapshotReport:
    """Everything that is told about a snapshot. ``series`` are those of the same host and paths, oldest first.

    ``looked_inside``: contents were read, not only names. ``unreadable``: folders of the snapshot that are damaged.
    ``stored`` and ``series_stored`` are None when a damaged repository kept them from being added up; the second is of
    the newest snapshots of the series, as many as it says.
    """

    snapshot_id: str
    snapshot: Snapshot
    now_ns: int
    holds: Summary
    looked_inside: bool
    unreadable: int
    decisions: Sequence[Decision]
    series: Sequence[Point]
    protection: Protection
    stored: Stored | None
    series_stored: Stored | None

    @property
    def files(self) -> int:
        """Regular files, with those that can be made again."""
        return sum(each.files for each in self.holds.categories) + self.holds.regenerable.files

    @property
    def bytes(self) -> int:
        """Their bytes."""
        return sum(each.bytes for each in self.holds.categories) + self.holds.regenerable.bytes


def count_files(
    files: Files,
    analysis: Analysis,
    look_inside: LookInside = lambda wanted: {},
    advance: Callable[[int, int], None] = lambda files, bytes_: None,
) -> Summary:
    """Add up a tree of files. ``look_inside`` gets the files whose contents tell more than their names, some at a time.

    ``advance`` hears of the files and bytes that were added. Raises what ``files`` and ``look_inside`` raise.
    """
    counting = Counting()
    directories = files.directories()
    while some := list(itertools.islice(directories, FOLDERS_AT_ONCE)):
        contents = look_inside([file for directory in some for file in analysis.wanted(directory)])
        for directory in some:
            advance(*_count_folder(counting, directory, analysis, contents))
    return counting.summary(analysis.projects)


def _count_folder(
    counting: Counting, directory: Directory, analysis: Analysis, contents: Mapping[bytes, Content]
) -> tuple[int, int]:
    regenerable = analysis.is_regenerable(directory.path)
    root = None if regenerable else analysis.project_of(directory.path)
    prefix = directory.path.rstrip(b"/") + b"/"
    files = size = 0
    for child in directory.children:
        if child.kind is not EntryKind.FILE:
            continue
        files += 1
        size += child.size
        if regenerable:
            counting.add_regenerable(child.size)
            continue
        path = prefix + child.name
        content = contents.get(path)
        counting.add(path, child.size, content.type if content else detect_by_name(child.name, child.mode), root)
        if content and content.findings:
            counting.add_risky(path, [finding.rule for finding in content.findings])
    return files, size


# --- the series ----------------------------------------------------------------------------------------------------


def series_of(snapshots: Iterable[tuple[str, Snapshot]], chosen: tuple[str, Snapshot]) -> list[tuple[str, Snapshot]]:
    """The snapshots of the chosen one's host and paths, oldest first; checkpoints are left out, but for itself."""
    chosen_id, one = chosen
    paths = sorted(one.paths)
    found = {
        snapshot_id: snapshot
        for snapshot_id, snapshot in snapshots
        if snapshot.hostname == one.hostname and sorted(snapshot.paths) == paths and not is_checkpoint(snapshot)
    }
    found[chosen_id] = one
    return sorted(found.items(), key=lambda item: (item[1].time_ns(), item[0]))


def point_of(snapshot_id: str, snapshot: Snapshot) -> Point:
    """What a snapshot says of itself."""
    said = snapshot.summary
    if said is None:
        return Point(snapshot_id, snapshot.time_ns())
    return Point(
        snapshot_id,
        snapshot.time_ns(),
        said.total_files_processed,
        said.total_bytes_processed,
        said.data_added,
        said.data_added_packed,
    )


def protection_of(times_ns: Sequence[int], now_ns: int) -> Protection:
    """What the times of one or more snapshots, in order, say of how well the files are protected at ``now_ns``."""
    gaps = [Gap(*pair) for pair in itertools.pairwise(times_ns)]
    lengths = sorted(gap.length_ns for gap in gaps)
    return Protection(
        snapshots=len(times_ns),
        first_ns=times_ns[0],
        newest_ns=times_ns[-1],
        newest_age_ns=max(0, now_ns - times_ns[-1]),
        longest=max(gaps, key=lambda gap: gap.length_ns, default=None),
        usual_ns=lengths[len(lengths) // 2] if lengths else None,
    )


# --- as JSON -------------------------------------------------------------------------------------------------------


def report_to_dict(report: SnapshotReport) -> dict[str, Any]:
    """As plain JSON values: sizes in bytes, times in nanoseconds since 1970, paths escaped for printing."""
    one = report.snapshot
    return {
        "snapshot": {
            "id": report.snapshot_id,
            "short_id": report.snapshot_id[:8],
            "time": one.time,
            "time_ns": one.time_ns(),
            "hostname": one.hostname,
            "username": one.username,
            "paths": list(one.paths),
            "tags": list(one.tags or ()),
            "checkpoint": is_checkpoint(one),
            "program_version": one.program_version,
        },
        "report_time_ns": report.now_ns,
        "files": report.files,
        "bytes": report.bytes,
        "looked_inside": report.looked_inside,
        "unreadable_folders": report.unreadable,
        "holds": to_dict(report.holds),
        "decisions": [
            {
                "path": printable_path(each.path),
                "regenerable": each.regenerable,
                "rule": each.rule,
                "reason": each.reason,
            }
            for each in report.decisions[:MOST_DECISIONS]
        ],
        "series": [
            {
                "snapshot": each.snapshot,
                "time_ns": each.time_ns,
                "files": each.files,
                "bytes": each.bytes,
                "added": each.added,
                "stored": each.stored,
            }
            for each in report.series
        ],
        "stored": {"snapshot": _stored_dict(report.stored), "series": _stored_dict(report.series_stored)},
        "protection": _protection_dict(report.protection),
    }


def _stored_dict(stored: Stored | None) -> dict[str, Any] | None:
    if stored is None:
        return None
    return {
        "snapshots": stored.snapshots,
        "restore_bytes": stored.restore_bytes,
        "plain_bytes": stored.plain_bytes,
        "stored_bytes": stored.stored_bytes,
        "deduplication_ratio": round(stored.deduplication, 3),
        "compression_ratio": round(stored.compression, 3),
    }


def _protection_dict(found: Protection) -> dict[str, Any]:
    longest = found.longest
    return {
        "snapshots": found.snapshots,
        "first_ns": found.first_ns,
        "newest_ns": found.newest_ns,
        "newest_age_seconds": found.newest_age_ns // 10**9,
        "usual_gap_seconds": None if found.usual_ns is None else found.usual_ns // 10**9,
        "longest_gap": longest
        and {"from_ns": longest.from_ns, "to_ns": longest.to_ns, "seconds": longest.length_ns // 10**9},
    }

"""Where the marks of a report's charts stand: numbers in, places in a drawing of fixed width out.

All places are in the units of the drawing (`WIDTH` across, origin at the top left), rounded to a tenth. Every chart has
a bounded number of marks, however many snapshots there are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from backupiq.cli.output import human_bytes, human_time
from backupiq.semantics.snapshot_report import Point, Protection

WIDTH = 720.0
LEFT = 76.0
"""Room for the labels of an axis of bytes."""
RIGHT = 12.0
MOST_ON_A_LINE = 400
MOST_GROUPS = 60
"""Pairs of bars beside each other; more snapshots share one."""
MOST_BARS = 12
TWO_DAYS = 2 * 86_400 * 10**9

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark of an axis."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar that lies: what it stands for, its value in words, its length as a part of the longest (0 to 1)."""

    label: str
    text: str
    part: float


@dataclass(frozen=True, slots=True)
class Line:
    """Bytes over time: the line's points, the area below it, its ends, the chosen snapshot (None: its bytes are not
    known), and the axes."""

    line: str
    area: str
    ends: tuple[tuple[float, float], ...]
    chosen: tuple[float, float] | None
    y_ticks: tuple[Tick, ...]
    x_ticks: tuple[Tick, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two bars that stand side by side: what was new, and what it took to store it."""

    x: float
    width: float
    added_y: float
    added_height: float
    stored_y: float
    stored_height: float
    title: str


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs of bars, one for each snapshot, or for so many that follow each other (``each``)."""

    pairs: tuple[Pair, ...]
    each: int
    y_ticks: tuple[Tick, ...]
    first: str
    last: str


@dataclass(frozen=True, slots=True)
class TimeLine:
    """Marks of snapshots between the first and the time of the report, and the longest time without one."""

    marks: tuple[float, ...]
    gap: tuple[float, float] | None
    now: float
    x_ticks: tuple[Tick, ...]


def bars(rows: Sequence[tuple[str, int]], *, text: Sequence[str] | None = None) -> list[Bar]:
    """Bars for (label, bytes), the first `MOST_BARS` and one for the rest. ``text``: other words than the bytes."""
    shown, rest = list(rows[:MOST_BARS]), rows[MOST_BARS:]
    words = list(text[:MOST_BARS]) if text is not None else [human_bytes(value) for _, value in shown]
    if rest:
        shown.append((f"{len(rest)} others", sum(value for _, value in rest)))
        words.append(human_bytes(shown[-1][1]))
    most = max((value for _, value in shown), default=0) or 1
    return [Bar(label, word, round(value / most, 4)) for (label, value), word in zip(shown, words, strict=True)]


def growth(points: Sequence[Point], chosen: str, height: float) -> Line | None:
    """The bytes of the snapshots over time; None when fewer than two of them say how many they hold."""
    known = [(point.time_ns, point.bytes, point.snapshot) for point in points if point.bytes is not None]
    if len(known) < 2:
        return None
    kept = _thinned(known)
    top, ticks = _byte_axis(max(bytes_ for _, bytes_, _ in known), height)
    across = _Scale(known[0][0], known[-1][0])
    places = [(across(time_ns), _round(height - bytes_ / top * height)) for time_ns, bytes_, _ in kept]
    line = " ".join(f"{x},{y}" for x, y in places)
    area = f"{places[0][0]},{height} {line} {places[-1][0]},{height}"
    mine = [
        (across(time_ns), _round(height - bytes_ / top * height))
        for time_ns, bytes_, snapshot in known
        if snapshot == chosen
    ]
    return Line(line, area, (places[0], places[-1]), mine[0] if mine else None, ticks, across.ticks())


def changes(points: Sequence[Point], height: float) -> Pairs | None:
    """What each snapshot added, and what that took to store; None when none of them says."""
    known = [(point.time_ns, point.added, point.stored or 0) for point in points if point.added is not None]
    if not known:
        return None
    each = math.ceil(len(known) / MOST_GROUPS)
    sums = [(group, sum(row[1] for row in group), sum(row[2] for row in group)) for group in _batched(known, each)]
    top, ticks = _byte_axis(max(max(added, stored) for _, added, stored in sums), height)
    room = (WIDTH - LEFT - RIGHT) / len(sums)
    width = _round(min(24.0, room * 0.38))
    pairs = []
    for number, (group, added, stored) in enumerate(sums):
        x = LEFT + room * (number + 0.5) - width - 1
        high, low = added / top * height, stored / top * height
        when = _span(group[0][0], group[-1][0])
        title = f"{when}: {human_bytes(added)} new, stored in {human_bytes(stored)}"
        pairs.append(
            Pair(_round(x), width, _round(height - high), _round(high), _round(height - low), _round(low), title)
        )
    return Pairs(tuple(pairs), each, ticks, human_time(known[0][0])[:10], human_time(known[-1][0])[:10])


def time_line(times_ns: Sequence[int], protection: Protection, now_ns: int) -> TimeLine:
    """One mark a snapshot; those that would stand on each other are one."""
    across = _Scale(times_ns[0], max(now_ns, times_ns[-1]), left=RIGHT)
    marks = tuple(dict.fromkeys(round(across(time_ns) * 2) / 2 for time_ns in times_ns))
    longest = protection.longest
    gap = (across(longest.from_ns), across(longest.to_ns)) if longest is not None else None
    return TimeLine(marks, gap, across(max(now_ns, times_ns[-1])), across.ticks())


# --- axes ----------------------------------------------------------------------------------------------------------


class _Scale:
    """Places times between the sides of the drawing."""

    def __init__(self, first_ns: int, last_ns: int, left: float = LEFT) -> None:
        self._first, self._span = first_ns, max(1, last_ns - first_ns)
        self._left = left

    def __call__(self, time_ns: int) -> float:
        return _round(self._left + (time_ns - self._first) / self._span * (WIDTH - RIGHT - self._left))

    def ticks(self, count: int = 4) -> tuple[Tick, ...]:
        """Times at equal distances, the first and the last among them; days, or minutes where it is all within two.

        No label comes twice.
        """
        times = dict.fromkeys(self._first + self._span * number // (count - 1) for number in range(count))
        end = 10 if self._span > TWO_DAYS else 16
        by_label: dict[str, Tick] = {}
        for time_ns in times:
            label = human_time(time_ns)[:end]
            by_label.setdefault(label, Tick(self(time_ns), label))
        return tuple(by_label.values())


def _byte_axis(most: int, height: float) -> tuple[float, tuple[Tick, ...]]:
    """The bytes at the top of an axis, and its ticks at round numbers."""
    most = max(most, 10)
    unit = 1024.0 ** min(4, int(math.log2(most) // 10))
    wanted = most / unit / 3
    power = 10.0 ** math.floor(math.log10(wanted))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= wanted) * unit
    count = math.ceil(most / step)
    top = step * count
    return top, tuple(
        Tick(_round(height - number / count * height), human_bytes(step * number)) for number in range(count + 1)
    )


def _thinned(rows: Sequence[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """At most `MOST_ON_A_LINE` of them: the most and the least of each stretch, and both ends."""
    if len(rows) <= MOST_ON_A_LINE:
        return list(rows)
    stretch = math.ceil(len(rows) * 2 / (MOST_ON_A_LINE - 2))
    kept = {rows[0], rows[-1]}
    for group in _batched(rows, stretch):
        kept |= {min(group, key=lambda row: row[1]), max(group, key=lambda row: row[1])}
    return sorted(kept)


def _batched(rows: Sequence[T], size: int) -> list[Sequence[T]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _span(first_ns: int, last_ns: int) -> str:
    first, last = human_time(first_ns)[:16], human_time(last_ns)[:16]
    return first if first == last else f"{first} to {last}"


def _round(value: float) -> float:
    return round(value, 1)

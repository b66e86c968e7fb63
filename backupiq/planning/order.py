"""The order in which files are stored: most importance for least size first, nothing waiting for ever.

Order matters only when a run takes long: a folder that is stored within a minute is taken by path, as it lies on the
disk. Where it matters, the list is cut into waves after each of which what was stored so far is made restorable.
"""

from __future__ import annotations

import dataclasses
from array import array
from collections.abc import Iterator, Sequence
from math import log2

GRAIN = 4096
"""Bytes below which a file's size makes no difference: what it costs is opening it."""
POINTS_A_DAY = 2.0
MOST_AGEING = 40.0
"""Points of importance that a file gains by waiting to be stored, a day and at most."""
WORTH_SECONDS = 60.0
"""A run that is expected to end sooner takes files by path, and publishes no checkpoint on the way."""
WAVES = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
"""Where waves end, as parts of the bytes to store."""
SMALLEST_WAVE_SECONDS = 2.0
FILE_BYTES = 20_000
"""What opening a file costs, as bytes that could be sent meanwhile."""


@dataclasses.dataclass(frozen=True, slots=True)
class Pace:
    """How much a run is expected to store in a second, before it has begun."""

    bytes_per_second: float

    def seconds(self, bytes_: int, files: int) -> float:
        """How long storing takes."""
        return (bytes_ + files * FILE_BYTES) / self.bytes_per_second

    @property
    def smallest_wave(self) -> int:
        """Bytes of a wave that is worth a checkpoint of its own."""
        return int(self.bytes_per_second * SMALLEST_WAVE_SECONDS)


LOCAL_PACE = Pace(100e6)
CLOUD_PACE = Pace(5e6)


def expected_pace(kinds: Sequence[str], limit_upload: int | None) -> Pace:
    """The pace of destinations of these kinds; ``limit_upload`` in bytes a second for all of them together."""
    pace = LOCAL_PACE if all(kind == "local" for kind in kinds) else CLOUD_PACE
    if limit_upload is None:
        return pace
    return Pace(min(pace.bytes_per_second, limit_upload / max(1, len(kinds))))


def priority(importance: float, size: int, waited_days: float = 0.0) -> float:
    """What a file's place in the queue is decided by: importance (0 to 100, and what waiting adds) over log of size.

    Below 0 for importance 0: such files are stored last, whatever their size.
    """
    if importance <= 0:
        return -log2(2 + size / GRAIN)
    return (importance + min(MOST_AGEING, waited_days * POINTS_A_DAY)) / log2(2 + size / GRAIN)


def waves(
    ordinals: Sequence[int],
    sizes: Sequence[int],
    importance: Sequence[int],
    waited_days: Sequence[float] | None = None,
    *,
    smallest: int = 0,
) -> Iterator[list[tuple[int, int]]]:
    """(ordinal, size) pairs, the most pressing first, in waves. The sequences say the same files in ascending ordinals.

    No wave but the last holds less than ``smallest`` bytes. Files of equal priority keep the order of their ordinals,
    which is that of the folders they lie in.
    """
    waits = waited_days or (0.0,) * len(sizes)
    keys = array("d", map(priority, importance, sizes, waits))
    order = sorted(range(len(keys)), key=lambda place: -keys[place])
    total = sum(sizes)
    ends = iter(WAVES)
    end = next(ends) * total
    done = held = 0
    wave: list[tuple[int, int]] = []
    for place in order:
        size = sizes[place]
        if wave and end < total and done >= end and held >= smallest:
            yield wave
            wave, held = [], 0
            while done >= end and end < total:
                end = next(ends) * total
        wave.append((ordinals[place], size))
        done += size
        held += size
    if wave:
        yield wave

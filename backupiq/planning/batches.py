"""Batches: which files are stored together, and in which order.

Files are taken in the order of the walk (by path). A batch's size follows the whole, so that even a terabyte stays at a
few thousand batches.
"""

from __future__ import annotations

import dataclasses
from array import array
from collections.abc import Iterable

MIB = 1 << 20
SMALLEST_BATCH = 64 * MIB
LARGEST_BATCH = 512 * MIB
BATCHES_AIMED_AT = 500
MOST_FILES = 20_000


@dataclasses.dataclass(frozen=True, slots=True)
class Batch:
    """Files stored together: their ordinals, ascending, and the bytes they held at the walk."""

    number: int
    ordinals: array[int]
    bytes: int

    @property
    def files(self) -> int:
        """How many files."""
        return len(self.ordinals)


def batch_size(total_bytes: int) -> int:
    """The bytes a batch aims at: a five-hundredth of the whole, within 64 and 512 MiB."""
    return max(SMALLEST_BATCH, min(LARGEST_BATCH, total_bytes // BATCHES_AIMED_AT))


def plan_batches(files: Iterable[tuple[int, int]], total_bytes: int) -> list[Batch]:
    """Batches of (ordinal, size) pairs given in ascending ordinals; a file larger than a batch has one to itself."""
    aim = batch_size(total_bytes)
    batches: list[Batch] = []
    ordinals = array("Q")
    held = 0

    def close() -> None:
        nonlocal ordinals, held
        if ordinals:
            batches.append(Batch(len(batches) + 1, ordinals, held))
            ordinals, held = array("Q"), 0

    for ordinal, size in files:
        if ordinals and (held + size > aim or len(ordinals) >= MOST_FILES):
            close()
        ordinals.append(ordinal)
        held += size
    close()
    return batches

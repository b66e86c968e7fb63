"""Batches: which files are stored together.

A batch's size follows the whole, so that even a terabyte stays at a few thousand batches, and is a multiple of a
pack's, so that its packs are full.
"""

from __future__ import annotations

import dataclasses
from array import array
from collections.abc import Iterable

MIB = 1 << 20
SMALLEST_BATCH = 128 * MIB
LARGEST_BATCH = 512 * MIB
BATCHES_AIMED_AT = 500
MOST_FILES = 20_000
PACK = 16 * MIB


@dataclasses.dataclass(frozen=True, slots=True)
class Batch:
    """Files stored together: their ordinals, ascending, and the bytes they held at the walk.

    ``wave`` counts from 1; ``ends_wave``: when it is stored, a wave is.
    """

    number: int
    ordinals: array[int]
    bytes: int
    wave: int = 1
    ends_wave: bool = False

    @property
    def files(self) -> int:
        """How many files."""
        return len(self.ordinals)


def batch_size(total_bytes: int, *, most: int = LARGEST_BATCH) -> int:
    """The bytes a batch aims at: a five-hundredth of the whole, within 128 and 512 MiB, in whole packs.

    ``most`` bounds it further where the run has less room; it is never less than one pack.
    """
    size = max(SMALLEST_BATCH, min(LARGEST_BATCH, total_bytes // BATCHES_AIMED_AT))
    return max(PACK, min(size, most) // PACK * PACK)


def plan_batches(
    waves: Iterable[Iterable[tuple[int, int]]], total_bytes: int, *, most_bytes: int = LARGEST_BATCH
) -> list[Batch]:
    """Batches of the (ordinal, size) pairs of each wave; a file larger than a batch has one to itself.

    Within a batch files stand in ascending ordinals, as they lie in their folders. No batch spans two waves.
    """
    aim = batch_size(total_bytes, most=most_bytes)
    batches: list[Batch] = []
    for number, wave in enumerate(waves, 1):
        ordinals: list[int] = []
        held = 0
        for ordinal, size in wave:
            if ordinals and (held + size > aim or len(ordinals) >= MOST_FILES):
                batches.append(_batch(batches, ordinals, held, number))
                ordinals, held = [], 0
            ordinals.append(ordinal)
            held += size
        if ordinals:
            batches.append(_batch(batches, ordinals, held, number))
            batches[-1] = dataclasses.replace(batches[-1], ends_wave=True)
    return batches


def _batch(before: list[Batch], ordinals: list[int], held: int, wave: int) -> Batch:
    return Batch(len(before) + 1, array("Q", sorted(ordinals)), held, wave)

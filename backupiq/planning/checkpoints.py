"""When a run makes what it has stored so far restorable."""

from __future__ import annotations

from backupiq.planning.order import WORTH_SECONDS

LONGEST_SECONDS = 15 * 60.0
"""A checkpoint is published at least this often."""


class CheckpointClock:
    """Decides at the end of each batch whether a checkpoint is due. Seconds of a steady clock, bytes of batches.

    One is due after a wave, unless the rest is expected to take less than a minute, and at the latest a quarter of an
    hour after the last one (or the beginning): then even when the rest is small, for the pace may be misjudged.
    """

    def __init__(self, total_bytes: int, expected_seconds: float, now: float) -> None:
        self._total = max(1, total_bytes)
        self._expected = expected_seconds
        self._began = now
        self._last = now

    def due(self, done_bytes: int, *, ends_wave: bool, now: float) -> bool:
        """Whether to publish one now that so many bytes of the plan are stored."""
        if done_bytes >= self._total:
            return False  # the snapshot itself is next
        if now - self._last >= LONGEST_SECONDS:
            return True
        return ends_wave and self._seconds_left(done_bytes, now) >= WORTH_SECONDS

    def _seconds_left(self, done_bytes: int, now: float) -> float:
        """As expected before anything was stored, or by the pace so far, whichever says more.

        The pace alone would mislead: packing runs ahead of a slow destination as far as the spool allows.
        """
        share = done_bytes / self._total
        measured = (now - self._began) / share if share else 0.0
        return max(self._expected, measured) * (1 - share)

    def published(self, now: float) -> None:
        """One was published."""
        self._last = now

"""Checkpoints of a backup: what is stored so far, made restorable while the run goes on."""

from __future__ import annotations

import time
from collections.abc import Callable

from backupiq.planning.batches import Batch
from backupiq.planning.checkpoints import CheckpointClock
from backupiq.profile import BackupOptions
from flows.active import ActiveBackup
from flows.backup_open import Opened
from flows.backup_report import make_snapshot
from flows.sending import Sending
from flows.tasks.publish import build_partial_trees


class Checkpoints:
    """Publishes one where it is due; `after` is called when a batch is packed, and before the next one is."""

    def __init__(
        self,
        work: ActiveBackup,
        opened: Opened,
        options: BackupOptions,
        sending: Sending,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._work = work
        self._opened = opened
        self._options = options
        self._sending = sending
        self._clock = clock
        self._due = CheckpointClock(work.session.changes.bytes_to_read, work.expected_seconds, clock())
        self._stored = 0

    async def after(self, batch: Batch) -> None:
        """A batch is packed."""
        self._stored += batch.bytes
        if batch.number == len(self._work.batches):
            return
        if not self._due.due(self._stored, ends_wave=batch.ends_wave, now=self._clock()):
            return
        self._work.checkpoints += 1
        session = self._work.session
        async with self._sending.batch(len(self._work.batches) + 1 + self._work.checkpoints):
            tree, counts = await build_partial_trees(self._opened.key)
        self._sending.checkpoint(make_snapshot(self._opened, session, self._options, tree, counts))
        self._due.published(self._clock())

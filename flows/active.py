"""Runs under way in this process. Tasks name them by a key, so that nothing large or secret passes through Prefect."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence

from backupiq.archive.delivery import Delivery
from backupiq.archive.session import BackupSession
from backupiq.errors import OrchestrationError
from backupiq.planning.batches import Batch
from flows.analysis import RunAnalysis
from flows.backup_destinations import Destinations


@dataclasses.dataclass(slots=True)
class ActiveBackup:
    """A backup under way: its session, its destinations, what was planned and what is being sent."""

    session: BackupSession
    groups: list[list[str]]
    destinations: Destinations | None = None
    parent_tree: str | None = None
    same_user: bool = False
    """Whether the parent was made by the user who runs this."""
    analysis: RunAnalysis | None = None
    checkpoints: int = 0
    limit_upload: int | None = None
    importance: Sequence[int] | None = None
    """Of the files to read, in the order of `session.changes.to_read`; None when it was not asked for."""
    waited_days: Sequence[float] | None = None
    """Of the same files, where an earlier run could have stored them: how long they have been waiting."""
    expected_seconds: float = 0.0
    """How long storing is expected to take, once it is planned."""
    batches: list[Batch] = dataclasses.field(default_factory=list)
    deliveries: dict[tuple[int, str], Delivery] = dataclasses.field(default_factory=dict)
    """By batch and destination."""

    @property
    def understanding(self) -> RunAnalysis:
        """The analysis of this run."""
        if self.analysis is None:
            raise AssertionError("it is made with the session")
        return self.analysis

    @property
    def writing(self) -> Destinations:
        """The destinations of a run that stores something."""
        if self.destinations is None:
            raise AssertionError("a dry run stores nothing")
        return self.destinations


_active: dict[str, ActiveBackup] = {}


@contextlib.contextmanager
def active(key: str, backup: ActiveBackup) -> Iterator[ActiveBackup]:
    """Make the backup known to tasks under its key."""
    _active[key] = backup
    try:
        yield backup
    finally:
        _active.pop(key, None)


def find_active(key: str) -> ActiveBackup:
    """The backup of that key; OrchestrationError when it does not run in this process."""
    found = _active.get(key)
    if found is None:
        raise OrchestrationError("This task belongs to a run that is not under way in this process.", run=key)
    return found

"""Runs under way in this process. Tasks name them by a key, so that nothing large or secret passes through Prefect."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Iterator

from backupiq.archive.delivery import Delivery
from backupiq.archive.session import BackupSession
from backupiq.errors import OrchestrationError
from backupiq.planning.batches import Batch
from backupiq.storage.provider import StorageProvider


@dataclasses.dataclass(slots=True)
class ActiveBackup:
    """A backup under way: its session, its destination, what was planned and what is being sent."""

    session: BackupSession
    provider: StorageProvider
    destination: str
    groups: list[list[str]]
    parent_tree: str | None
    batches: list[Batch] = dataclasses.field(default_factory=list)
    deliveries: dict[int, Delivery] = dataclasses.field(default_factory=dict)
    tree: asyncio.Future[str] | None = None


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

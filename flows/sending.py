"""Sending a run's packs to all of its destinations, and publishing the snapshot at each that has all it needs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from types import TracebackType
from typing import Any, Self

from backupiq.archive.lanes import Lane
from backupiq.errors import BackupIQError, CircuitOpenError, LockLostError, StorageError
from backupiq.repository.snapshot import Snapshot
from backupiq.telemetry import get_logger
from flows.active import ActiveBackup
from flows.naming import destination_label
from flows.tasks.publish import catch_up, publish_snapshot
from flows.tasks.store import upload_to

UPLOADS_IN_FLIGHT = 3
"""Batches being sent to one destination at a time."""

_AWAY = (StorageError, CircuitOpenError, LockLostError)
"""What ends a destination's part in the run, and not the run as long as there is another one."""

log = get_logger("backupiq.flows.sending")


class Sending:
    """The uploads of a run under way.

    Invariants: a destination that fails for good is given up and the others go on; when the last one fails, its error
    is raised, at the next `batch` or in `everything`. Nothing runs any more once the context has been left. A snapshot
    is published at a destination only when all its packs are confirmed there, and it has been caught up if it lagged.
    """

    def __init__(self, key: str, work: ActiveBackup) -> None:
        self._key = key
        self._work = work
        self._to = work.writing
        self._slots = {lane.name: asyncio.Semaphore(UPLOADS_IN_FLIGHT) for lane in self._to.lanes.lanes}
        self._uploads: set[asyncio.Task[None]] = set()
        self._catching_up: dict[str, asyncio.Task[None]] = {}
        self._failure: BaseException | None = None
        self._failed = asyncio.Event()
        self.tree = ""
        """The root of the folder listings, once they are built."""

    async def __aenter__(self) -> Self:
        for lane in self._to.lanes.lanes:
            if lane.name in self._to.lagging:
                work = self._attempt(lane, catch_up(self._key, *self._named(lane)))
                self._catching_up[lane.name] = asyncio.create_task(work)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = {*self._uploads, *self._catching_up.values()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    @contextlib.asynccontextmanager
    async def batch(self, number: int) -> AsyncIterator[None]:
        """Packs finished in here are sent as this batch; ends early when the last destination fails meanwhile."""
        self._raise_failure()
        deliveries = self._work.session.new_deliveries()
        for name, delivery in deliveries.items():
            self._work.deliveries[number, name] = delivery
            task = asyncio.create_task(self._send(self._to.lane(name), number))
            self._uploads.add(task)
            task.add_done_callback(self._uploads.discard)
        body = asyncio.current_task()
        watcher = asyncio.create_task(self._interrupt(body)) if body is not None else None
        try:
            yield
        except asyncio.CancelledError:
            if self._failure is not None and body is not None and body.uncancel() == 0:
                raise self._failure from None
            raise
        finally:
            if watcher is not None:
                watcher.cancel()
            for delivery in deliveries.values():
                delivery.close()

    async def _interrupt(self, body: asyncio.Task[Any]) -> None:
        """Packing waits for room in the spool, which nobody makes any more once every destination has failed."""
        await self._failed.wait()
        body.cancel()

    async def _send(self, lane: Lane, number: int) -> None:
        async with self._slots[lane.name]:
            await self._attempt(lane, upload_to(lane.provider.kind)(self._key, number, *self._named(lane)))

    async def _attempt(self, lane: Lane, work: Coroutine[Any, Any, Any]) -> None:
        """Do it; when it fails for good, go on without the destination."""
        if lane.error is not None:
            work.close()
            return
        try:
            await work
        except _AWAY as error:
            self._lose(lane, error)
        except Exception as error:  # noqa: BLE001 - raised where the run waits
            self._fail(error)

    def _lose(self, lane: Lane, error: BackupIQError) -> None:
        try:
            self._to.give_up(lane, error)
        except BackupIQError as last:
            self._fail(last)

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or error
        self._failed.set()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    async def everything(self) -> None:
        """Wait until every pack is confirmed wherever it is still to go."""
        while self._uploads:
            await asyncio.wait(self._uploads)
        self._raise_failure()

    async def publish(self, snapshot: Snapshot) -> str:
        """Publish at every destination that has everything, then at those that can be caught up; the snapshot's id."""
        ids: list[str] = []

        async def at(lane: Lane) -> None:
            if lane.name in self._catching_up:
                await asyncio.wait([self._catching_up[lane.name]])
            if not lane.flows:
                return
            try:
                ids.append(await publish_snapshot(self._key, snapshot, *self._named(lane)))
                self._to.complete.add(lane.name)
            except _AWAY as error:
                if not self._to.complete and not any(other.flows for other in self._others(lane)):
                    raise
                self._to.lanes.give_up(lane, error)

        lanes = self._to.lanes.lanes
        async with asyncio.TaskGroup() as group:
            for lane in lanes:
                group.create_task(at(lane))
        self._raise_failure()
        for lane in lanes:
            if lane.name not in self._to.complete:
                await self._catch_up_late(lane)
        return ids[0]

    def _named(self, lane: Lane) -> tuple[int, str]:
        """How tasks are told of a destination: its lane's place, and its name for people."""
        return self._to.lanes.lanes.index(lane), destination_label(lane.name)

    def _others(self, lane: Lane) -> list[Lane]:
        return [other for other in self._to.lanes.lanes if other is not lane]

    async def _catch_up_late(self, lane: Lane) -> None:
        """Give a destination that fell behind, or failed in a way that may have passed, one more chance."""
        if lane.error is not None and not lane.error.retryable:
            return
        try:
            await catch_up(self._key, *self._named(lane))
        except _AWAY as error:
            lane.error = lane.error or error
            log.warning("destination.lags", destination=lane.name, error=error.code)
        else:
            lane.error = None
            self._to.complete.add(lane.name)

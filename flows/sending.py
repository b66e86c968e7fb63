"""Sending a run's packs to all of its destinations, and publishing the snapshot at each that has all it needs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from types import TracebackType
from typing import Any, Self

from backupiq.archive.lanes import Lane
from backupiq.errors import BackupIQError, CircuitOpenError, DegradedRunError, LockLostError, StorageError
from backupiq.repository.locking import list_locks
from backupiq.repository.repository import FileType
from backupiq.repository.snapshot import Snapshot
from backupiq.telemetry import get_logger
from backupiq.telemetry.metrics import observe_checkpoint
from flows.active import ActiveBackup
from flows.naming import destination_label
from flows.opening import is_alone
from flows.tasks.publish import catch_up, publish_checkpoint, publish_snapshot
from flows.tasks.store import upload_to
from flows.together import together

UPLOADS_IN_FLIGHT = 3
"""Batches being sent to one destination at a time."""

_AWAY = (StorageError, CircuitOpenError, LockLostError, DegradedRunError)
"""What ends a destination's part in the run, and not the run as long as there is another one."""

log = get_logger("backupiq.flows.sending")


class Sending:
    """The uploads of a run under way.

    Invariants: a destination that fails for good is given up and the others go on; when the last one fails, its error
    is raised, at the next `batch` or in `everything` or `publish`. Nothing runs any more once the context has been
    left. A snapshot is published at a destination only when all its packs are confirmed there, and it has been caught
    up if it lagged; no destination waits for another one with that.
    """

    def __init__(self, key: str, work: ActiveBackup) -> None:
        self._key = key
        self._work = work
        self._to = work.writing
        self._slots = {lane.name: asyncio.Semaphore(UPLOADS_IN_FLIGHT) for lane in self._to.lanes.lanes}
        self._uploads: dict[str, set[asyncio.Task[None]]] = {lane.name: set() for lane in self._to.lanes.lanes}
        self._checkpoints: dict[str, set[asyncio.Task[None]]] = {lane.name: set() for lane in self._to.lanes.lanes}
        self._first_tries = {lane.name: asyncio.Event() for lane in self._to.lanes.lanes}
        """Cleared while packs on their way belong to a checkpoint that was not tried yet."""
        for tried in self._first_tries.values():
            tried.set()
        self._failure: BaseException | None = None
        self._failed = asyncio.Event()
        self.tree = ""
        """The root of the folder listings, once they are built."""

    async def __aenter__(self) -> Self:
        for lane in self._to.lanes.lanes:
            if lane.name in self._to.lagging:
                self._start(lane, self._attempt(lane, catch_up(self._key, *self._named(lane))))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks = self._under_way().union(*self._checkpoints.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _start(self, lane: Lane, work: Coroutine[Any, Any, None]) -> None:
        mine = self._uploads[lane.name]
        task = asyncio.create_task(work)
        mine.add(task)
        task.add_done_callback(mine.discard)

    def _under_way(self) -> set[asyncio.Task[None]]:
        return set[asyncio.Task[None]]().union(*self._uploads.values())

    @contextlib.asynccontextmanager
    async def batch(self, number: int) -> AsyncIterator[None]:
        """Packs finished in here are sent as this batch; ends early when the last destination fails meanwhile."""
        self._raise_failure()
        deliveries = self._work.session.new_deliveries()
        for name, delivery in deliveries.items():
            self._work.deliveries[number, name] = delivery
            lane = self._to.lane(name)
            self._start(lane, self._send(lane, number))
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
        """Once every destination has failed, what is packed goes nowhere."""
        await self._failed.wait()
        body.cancel()

    async def _send(self, lane: Lane, number: int) -> None:
        # What is on its way to a checkpoint gets the whole line: what comes later would only delay it.
        await self._first_tries[lane.name].wait()
        async with self._slots[lane.name]:
            await self._attempt(lane, upload_to(lane.provider.kind)(self._key, number, *self._named(lane)))

    async def _attempt(self, lane: Lane, work: Coroutine[Any, Any, Any]) -> None:
        """Do it; when it fails for good, go on without the destination."""
        if not lane.flows:
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

    def checkpoint(self, snapshot: Snapshot) -> None:
        """Publish this checkpoint, whose packs are finished, wherever they arrive, as soon as they do; returns at once.

        They are published in order, each before what comes after it is sent.
        """
        for lane in self._to.lanes.flowing:
            mine = self._checkpoints[lane.name]
            self._first_tries[lane.name] = asyncio.Event()
            needed = self._uploads[lane.name] | mine
            task = asyncio.create_task(self._publish_checkpoint(lane, snapshot, needed))
            mine.add(task)
            task.add_done_callback(mine.discard)

    async def _publish_checkpoint(self, lane: Lane, snapshot: Snapshot, needed: set[asyncio.Task[None]]) -> None:
        tried = self._first_tries[lane.name]
        try:
            await self._publish_when_there(lane, snapshot, needed, tried)
        finally:
            tried.set()

    async def _publish_when_there(
        self, lane: Lane, snapshot: Snapshot, needed: set[asyncio.Task[None]], tried: asyncio.Event
    ) -> None:
        if needed:
            await asyncio.wait(needed)
        published = None
        while published is None and lane.flows:
            try:
                self._to.ensure_locked_at(lane)
                published = await publish_checkpoint(self._key, snapshot, *self._named(lane))
            except _AWAY as error:
                return self._lose(lane, error)
            except Exception as error:  # noqa: BLE001 - raised where the run waits
                return self._fail(error)
            finally:
                tried.set()
            if published is None and (more := set(self._uploads[lane.name])):
                await asyncio.wait(more, return_when=asyncio.FIRST_COMPLETED)
            elif published is None:
                return None  # nothing more comes: the snapshot itself is next
        if published is not None:
            log.info("checkpoint.published", destination=destination_label(lane.name), snapshot=published[:8])
            await asyncio.to_thread(observe_checkpoint)
        return None

    async def _end_checkpoints(self, lane: Lane) -> None:
        """None is published there any more."""
        under_way = set(self._checkpoints[lane.name])
        for task in under_way:
            task.cancel()
        if under_way:
            await asyncio.wait(under_way)

    async def _replace_checkpoints(self, lane: Lane) -> None:
        """Remove the checkpoints there that the snapshot replaces. One that stays is removed by the next run."""
        stale = self._to.stale_checkpoints
        try:
            # Another run under way may have published one of them, and still need it.
            if stale and not is_alone(await list_locks(lane.repository)):
                stale = []
            for checkpoint in [*lane.publisher.checkpoints, *stale]:
                await lane.repository.delete_file(FileType.SNAPSHOT, checkpoint)
        except StorageError as error:
            log.info("checkpoint.not_removed", destination=destination_label(lane.name), error=error.code)

    async def everything(self) -> None:
        """Wait until one destination has all packs; the others go on, and `publish` waits for each."""
        while self._failure is None and all(self._uploads[lane.name] for lane in self._to.lanes.flowing):
            under_way = self._under_way()
            if not under_way:
                break
            await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
        self._raise_failure()

    async def publish(self, snapshot: Snapshot) -> str:
        """Publish at every destination as soon as it has everything, then at those that can be caught up; its id."""
        lanes = self._to.lanes.lanes
        async with together() as group:
            published = [group.create_task(self._publish_at(lane, snapshot)) for lane in lanes]
        self._raise_failure()
        snapshot_id = next(found for task in published if (found := task.result()) is not None)
        async with together() as group:
            for lane in lanes:
                if lane.name not in self._to.complete:
                    group.create_task(self._catch_up_late(lane, snapshot_id))
        return snapshot_id

    async def _publish_at(self, lane: Lane, snapshot: Snapshot) -> str | None:
        while mine := set(self._uploads[lane.name]):
            await asyncio.wait(mine)
        await self._end_checkpoints(lane)
        if not lane.flows:
            return None
        try:
            self._to.ensure_ready(lane)
            snapshot_id = await publish_snapshot(self._key, snapshot, *self._named(lane))
        except _AWAY as error:
            self._lose(lane, error)
            return None
        self._to.complete.add(lane.name)
        await self._replace_checkpoints(lane)
        return snapshot_id

    def _named(self, lane: Lane) -> tuple[int, str]:
        """How tasks are told of a destination: its lane's place, and its name for people."""
        return self._to.lanes.lanes.index(lane), destination_label(lane.name)

    async def _catch_up_late(self, lane: Lane, snapshot_id: str) -> None:
        """Give a destination that fell behind, or failed in a way that may have passed, one more chance."""
        if lane.error is not None and not (lane.error.retryable or isinstance(lane.error, DegradedRunError)):
            return
        try:
            self._to.ensure_locked_at(lane)
            await catch_up(self._key, *self._named(lane), snapshot_id)
        except _AWAY as error:
            lane.error = lane.error or error
            log.info("destination.lags", destination=lane.name, error=error.code)
        else:
            lane.error = None
            self._to.complete.add(lane.name)
            await self._replace_checkpoints(lane)

"""A run's way to each of its destinations: every finished pack goes down every lane, and a slow one stops no other.

A pack's file stays in the spool until each lane has confirmed it or lets go of it. A lane that uses more than its share
of the spool while another one is ahead falls behind: it gets no more packs and is caught up at the end, by copying.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import os

from backupiq.archive.delivery import Delivery
from backupiq.archive.pack_writer import PACK_SIZE
from backupiq.archive.publisher import IndexBook, Publisher
from backupiq.archive.spool import Spool
from backupiq.errors import BackupIQError
from backupiq.repository.pack import FinishedPack
from backupiq.repository.repository import Repository
from backupiq.storage.provider import StorageProvider
from backupiq.telemetry import get_logger

log = get_logger("backupiq.archive.lanes")


@dataclasses.dataclass(slots=True)
class Lane:
    """One destination of a run.

    ``error``: why it is given up for this run. ``behind``: it gets no packs of this run any more, and needs to be
    caught up. ``backlog``: bytes of packs that wait for it.
    """

    name: str
    repository: Repository
    publisher: Publisher
    error: BackupIQError | None = None
    behind: bool = False
    backlog: int = 0
    deliveries: list[Delivery] = dataclasses.field(default_factory=list)

    @property
    def provider(self) -> StorageProvider:
        """The destination itself."""
        return self.repository.provider

    @property
    def flows(self) -> bool:
        """Whether packs go down this lane."""
        return self.error is None and not self.behind


class Lanes:
    """All lanes of a run. Used in one event loop, but for `put`, which any thread may call.

    Invariants: a pack's file is removed, and its room in the spool given back, exactly when no lane needs it any more;
    at least one lane flows until all are given up; with a single lane its packs may be moved to the destination.
    """

    def __init__(self, book: IndexBook) -> None:
        self.book = book
        self.lanes: list[Lane] = []
        self._loop = asyncio.get_running_loop()
        self._spool: Spool | None = None
        self._needed: dict[bytes, tuple[FinishedPack, set[str]]] = {}

    def add(self, name: str, repository: Repository) -> Lane:
        """A further lane, to the repository at one destination."""
        lane = Lane(name, repository, Publisher(repository, book=self.book))
        self.lanes.append(lane)
        return lane

    def remove(self, lane: Lane) -> None:
        """Take a lane out before anything went down it."""
        lane.publisher.retire()
        self.lanes.remove(lane)

    def use(self, spool: Spool) -> None:
        """Where the packs' files lie."""
        self._spool = spool

    @property
    def flowing(self) -> list[Lane]:
        """The lanes that packs go down now."""
        return [lane for lane in self.lanes if lane.flows]

    def open_deliveries(self) -> dict[str, Delivery]:
        """Where packs finished from now on go, until the next call: by lane."""
        opened: dict[str, Delivery] = {}
        for lane in self.flowing:
            confirmed = functools.partial(self._confirmed, lane)
            delivery = Delivery(self._loop, confirmed, may_move=self._is_the_last)
            lane.deliveries = [each for each in lane.deliveries if each.waiting or not each.closed]
            lane.deliveries.append(delivery)
            opened[lane.name] = delivery
        return opened

    def put(self, pack: FinishedPack) -> None:
        """Hand over a finished pack; from now on its file in the spool is this object's."""
        targets = {lane.name: lane.deliveries[-1] for lane in self.flowing if lane.deliveries}
        self._loop.call_soon_threadsafe(self._put, pack, targets)

    def _put(self, pack: FinishedPack, targets: dict[str, Delivery]) -> None:
        wanting = [lane for lane in self.flowing if lane.name in targets]
        self._needed[pack.id] = (pack, {lane.name for lane in wanting})
        for lane in wanting:
            targets[lane.name].take(pack)
            lane.backlog += pack.size
        if not wanting:
            self._let_go(pack.id)
        self._look_for_slow_ones()

    def _look_for_slow_ones(self) -> None:
        flowing = self.flowing
        if self._spool is None or len(flowing) < 2:
            return
        share = self._spool.limit // len(self.lanes)
        ahead = min(lane.backlog for lane in flowing)
        for lane in flowing:
            if lane.backlog > share and lane.backlog > ahead:
                log.warning("lane.behind", destination=lane.name, backlog=lane.backlog)
                self.leave_behind(lane)

    def leave_behind(self, lane: Lane) -> None:
        """Send it no more packs of this run: it is to be caught up."""
        lane.behind = True
        self._empty(lane)

    def give_up(self, lane: Lane, error: BackupIQError) -> None:
        """Go on without it."""
        lane.error = error
        lane.publisher.retire()
        self._empty(lane)

    def _empty(self, lane: Lane) -> None:
        for delivery in lane.deliveries:
            for pack_id in list(delivery.waiting):
                self._release(lane, pack_id)
            delivery.drop()
        lane.backlog = 0

    def _confirmed(self, lane: Lane, pack: FinishedPack) -> None:
        lane.backlog -= pack.size
        lane.publisher.confirm(pack)
        self._release(lane, pack.id)

    def _release(self, lane: Lane, pack_id: bytes) -> None:
        found = self._needed.get(pack_id)
        if found is None:
            return
        found[1].discard(lane.name)
        if not found[1]:
            self._let_go(pack_id)

    def _let_go(self, pack_id: bytes) -> None:
        pack, _ = self._needed.pop(pack_id)
        with contextlib.suppress(OSError):
            os.unlink(pack.path)
        if self._spool is not None:
            self._spool.release(PACK_SIZE)

    def _is_the_last(self, pack: FinishedPack) -> bool:
        found = self._needed.get(pack.id)
        return found is not None and len(found[1]) == 1

    @property
    def bytes_sent(self) -> int:
        """Bytes of every object that was uploaded, to all destinations together."""
        return sum(lane.publisher.bytes_sent for lane in self.lanes)

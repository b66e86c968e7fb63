"""A run's way to each of its destinations: every finished pack goes down every lane, and a slow one stops no other.

A pack's file stays in the spool until each lane has confirmed it or lets go of it. A lane for which more than its share
of the spool is held while another one is ahead, with next to nothing left to send, falls behind: it gets no more packs
and is caught up at the end, by copying.
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
from backupiq.repository.repository import FileType, Repository
from backupiq.storage.provider import StorageProvider
from backupiq.telemetry import get_logger

AHEAD = 1 / 4
"""A lane is ahead when no more than this part of a share waits for it. Lanes of the same speed leave none behind."""

log = get_logger("backupiq.archive.lanes")


@dataclasses.dataclass(slots=True)
class Lane:
    """One destination of a run.

    ``error``: why it is given up for this run. ``behind``: it gets no packs of this run any more, and needs to be
    caught up. ``backlog``: bytes of room in the spool that packs take up which wait for it.
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

    Invariants: a pack's file is removed, and its room in the spool given back, exactly when no lane needs it any more,
    which is not before uploads of it have ended; at least one lane flows until all are given up, or the last one that
    flowed is; with a single lane its packs may be moved to the destination.
    """

    def __init__(self, book: IndexBook) -> None:
        self.book = book
        self.lanes: list[Lane] = []
        self._loop = asyncio.get_running_loop()
        self._spool: Spool | None = None
        self._needed: dict[bytes, tuple[FinishedPack, set[str]]] = {}
        self._packs: set[bytes] = set()

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

    def is_own(self, key: str) -> bool:
        """Whether the object of that key is a pack, an index or the snapshot of this run, sent anywhere or not yet."""
        folder, _, rest = key.partition("/")
        if folder == FileType.PACK:
            return bytes.fromhex(rest[-64:]) in self._packs
        return folder in (FileType.INDEX, FileType.SNAPSHOT) and self.book.is_own(rest)

    def open_deliveries(self) -> dict[str, Delivery]:
        """Where packs finished from now on go, until the next call: by lane."""
        opened: dict[str, Delivery] = {}
        for lane in self.flowing:
            delivery = Delivery(
                self._loop,
                functools.partial(self._confirmed, lane),
                on_dropped=functools.partial(self._done_with, lane),
                may_move=self._is_the_last,
            )
            lane.deliveries = [each for each in lane.deliveries if each.waiting or not each.closed]
            lane.deliveries.append(delivery)
            opened[lane.name] = delivery
        return opened

    def put(self, pack: FinishedPack) -> None:
        """Hand over a finished pack; from now on its file in the spool is this object's."""
        # Which delivery it belongs to is decided in the loop: the one that is the last now may have ended by then.
        self._loop.call_soon_threadsafe(self._put, pack)

    def _put(self, pack: FinishedPack) -> None:
        wanting = self.flowing
        self._packs.add(pack.id)
        self._needed[pack.id] = (pack, {lane.name for lane in wanting})
        for lane in wanting:
            lane.backlog += PACK_SIZE
            lane.deliveries[-1].take(pack)
        if not wanting:
            self._let_go(pack.id)
        self._look_for_slow_ones()

    def _look_for_slow_ones(self) -> None:
        flowing = self.flowing
        if self._spool is None or len(flowing) < 2:
            return
        share = self._share(self._spool)
        if min(lane.backlog for lane in flowing) > share * AHEAD:
            return
        for lane in flowing:
            if lane.backlog > share:
                log.info("lane.behind", destination=lane.name, backlog=lane.backlog)
                self.leave_behind(lane)

    def _share(self, spool: Spool) -> int:
        """Half of the room that finished packs can take, beside those being filled. All lanes need the same packs."""
        being_filled = spool.held - len(self._needed) * PACK_SIZE
        return max(PACK_SIZE, (spool.limit - being_filled) // 2)

    def leave_behind(self, lane: Lane) -> None:
        """Send it no more packs of this run: it is to be caught up."""
        lane.behind = True
        self._close_lane(lane)

    def give_up(self, lane: Lane, error: BackupIQError) -> None:
        """Go on without it."""
        lane.error = error
        self._close_lane(lane)

    def _close_lane(self, lane: Lane) -> None:
        lane.publisher.retire()
        for delivery in lane.deliveries:
            delivery.drop()

    def _confirmed(self, lane: Lane, pack: FinishedPack) -> None:
        lane.publisher.confirm(pack)
        self._done_with(lane, pack)
        self._look_for_slow_ones()

    def _done_with(self, lane: Lane, pack: FinishedPack) -> None:
        lane.backlog -= PACK_SIZE
        waiting = self._needed[pack.id][1]
        waiting.discard(lane.name)
        if not waiting:
            self._let_go(pack.id)

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

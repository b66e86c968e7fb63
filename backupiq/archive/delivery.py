"""Finished packs on their way to one destination: filled by packing, emptied by upload tasks."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable

from backupiq.errors import StorageCorruptError
from backupiq.repository.pack import FinishedPack
from backupiq.repository.repository import pack_key
from backupiq.storage.provider import StorageProvider

UPLOADS_AT_ONCE = 3


class Delivery:
    """The packs of one batch for one destination.

    Invariants: ``put`` and ``close`` may be called from any thread, ``send`` by one task at a time; a pack leaves
    ``waiting`` only when the destination has confirmed it, so calling ``send`` again after a failure sends exactly what
    is missing. For each pack exactly one of ``on_confirmed`` and ``on_dropped`` is called, once, and not before nobody
    reads its file for this destination any more. ``may_move`` tells whether the destination may take the pack's file
    away, since no other one needs it.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_confirmed: Callable[[FinishedPack], None],
        *,
        on_dropped: Callable[[FinishedPack], None] = lambda _: None,
        may_move: Callable[[FinishedPack], bool] = lambda _: True,
    ) -> None:
        self._loop = loop
        self._on_confirmed = on_confirmed
        self._on_dropped = on_dropped
        self._may_move = may_move
        self._changed = asyncio.Event()
        self._closed = False
        self._dropped = False
        self._under_way: dict[asyncio.Task[None], FinishedPack] = {}
        self.waiting: dict[bytes, FinishedPack] = {}
        self.packs = 0
        self.bytes = 0

    def put(self, pack: FinishedPack) -> None:
        """Hand over a finished pack; from now on its spool file is this object's."""
        self._loop.call_soon_threadsafe(self.take, pack)

    def take(self, pack: FinishedPack) -> None:
        """The same, called in the event loop."""
        if self._dropped:
            self._on_dropped(pack)
            return
        self.waiting[pack.id] = pack
        self._changed.set()

    def drop(self) -> None:
        """Send nothing more, in the event loop: the destination is given up, or gets it another way.

        Uploads under way are cancelled, and their packs dropped when they have ended; ``send`` ends then, too.
        """
        self._dropped = True
        busy = {pack.id for pack in self._under_way.values()}
        for pack in [pack for pack in self.waiting.values() if pack.id not in busy]:
            self._drop_one(pack)
        for task in self._under_way:
            task.cancel()
        self._changed.set()

    def _drop_one(self, pack: FinishedPack) -> None:
        if self.waiting.pop(pack.id, None) is not None:
            self._on_dropped(pack)

    @property
    def closed(self) -> bool:
        """Whether no more packs will come."""
        return self._closed

    def close(self) -> None:
        """No more packs will come."""
        self._loop.call_soon_threadsafe(self._close)

    def _close(self) -> None:
        self._closed = True
        self._changed.set()

    async def send(self, provider: StorageProvider) -> None:
        """Upload packs as they come until the delivery is closed and none is left. Storage errors pass through.

        When an upload fails, those beside it are finished first: what they have sent need not be sent again.
        """
        under_way = self._under_way
        try:
            while True:
                self._start_uploads(provider)
                if not under_way and not self.waiting and (self._closed or self._dropped):
                    return
                self._changed.clear()
                changed = asyncio.ensure_future(self._changed.wait())
                try:
                    await asyncio.wait({*under_way, changed}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    changed.cancel()
                for task in [task for task in under_way if task.done()]:
                    self._take_result(task)
        except asyncio.CancelledError:
            for task in under_way:
                task.cancel()
            raise
        finally:
            await asyncio.gather(*under_way, return_exceptions=True)
            under_way.clear()

    def _take_result(self, task: asyncio.Task[None]) -> None:
        """Take an upload that has ended off the list; how one ended that was dropped is nobody's concern."""
        del self._under_way[task]
        if not self._dropped:
            task.result()
        elif not task.cancelled():
            task.exception()

    def _start_uploads(self, provider: StorageProvider) -> None:
        if self._dropped:
            return
        sending = {pack.id for pack in self._under_way.values()}
        for pack in list(self.waiting.values()):
            if len(self._under_way) >= UPLOADS_AT_ONCE:
                break
            if pack.id not in sending:
                task = asyncio.create_task(self._send_one(provider, pack))
                task.add_done_callback(functools.partial(self._ended, pack))
                self._under_way[task] = pack

    def _ended(self, pack: FinishedPack, _: asyncio.Task[None]) -> None:
        # Here and not in the task itself, which may be cancelled before its first line.
        if self._dropped:
            self._drop_one(pack)

    async def _send_one(self, provider: StorageProvider, pack: FinishedPack) -> None:
        name = pack.id.hex()
        key = pack_key(name)
        if await asyncio.to_thread(pack.path.exists):
            await provider.upload_file(pack.path, key, durable=True, move=self._may_move(pack), sha256=name)
        elif (await provider.get_file_info(key)).size != pack.size:
            # An earlier try moved the file there and failed before it could say so; then it must be there whole.
            raise StorageCorruptError(f"The pack {name} is not whole at the destination. {StorageCorruptError.hint}")
        if self._dropped:
            return
        del self.waiting[pack.id]
        self.packs += 1
        self.bytes += pack.size
        self._on_confirmed(pack)

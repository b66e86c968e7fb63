"""Finished packs on their way to one destination: filled by packing, emptied by upload tasks."""

from __future__ import annotations

import asyncio
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
    is missing; ``on_confirmed`` is called once for each pack. ``may_move`` tells whether the destination may take the
    pack's file away, since no other one needs it.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_confirmed: Callable[[FinishedPack], None],
        may_move: Callable[[FinishedPack], bool] = lambda _: True,
    ) -> None:
        self._loop = loop
        self._on_confirmed = on_confirmed
        self._may_move = may_move
        self._changed = asyncio.Event()
        self._closed = False
        self.waiting: dict[bytes, FinishedPack] = {}
        self.packs = 0
        self.bytes = 0

    def put(self, pack: FinishedPack) -> None:
        """Hand over a finished pack; from now on its spool file is this object's."""
        self._loop.call_soon_threadsafe(self.take, pack)

    def take(self, pack: FinishedPack) -> None:
        """The same, called in the event loop."""
        self.waiting[pack.id] = pack
        self._changed.set()

    def drop(self) -> None:
        """Forget what waits, in the event loop: the destination is given up, or gets it another way."""
        self.waiting.clear()
        self._changed.set()

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
        under_way: dict[asyncio.Task[None], bytes] = {}
        try:
            while True:
                self._start_uploads(provider, under_way)
                if not under_way and self._closed and not self.waiting:
                    return
                self._changed.clear()
                changed = asyncio.ensure_future(self._changed.wait())
                try:
                    await asyncio.wait({*under_way, changed}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    changed.cancel()
                for task in [task for task in under_way if task.done()]:
                    del under_way[task]
                    await task
        except asyncio.CancelledError:
            for task in under_way:
                task.cancel()
            raise
        finally:
            await asyncio.gather(*under_way, return_exceptions=True)

    def _start_uploads(self, provider: StorageProvider, under_way: dict[asyncio.Task[None], bytes]) -> None:
        sending = set(under_way.values())
        for pack in list(self.waiting.values()):
            if len(under_way) >= UPLOADS_AT_ONCE:
                break
            if pack.id not in sending:
                under_way[asyncio.create_task(self._send_one(provider, pack))] = pack.id

    async def _send_one(self, provider: StorageProvider, pack: FinishedPack) -> None:
        name = pack.id.hex()
        key = pack_key(name)
        if await asyncio.to_thread(pack.path.exists):
            await provider.upload_file(pack.path, key, durable=True, move=self._may_move(pack), sha256=name)
        elif (await provider.get_file_info(key)).size != pack.size:
            # An earlier try moved the file there and failed before it could say so; then it must be there whole.
            raise StorageCorruptError(f"The pack {name} is not whole at the destination. {StorageCorruptError.hint}")
        if self.waiting.pop(pack.id, None) is None:
            return  # dropped meanwhile, and no longer anybody's
        self.packs += 1
        self.bytes += pack.size
        self._on_confirmed(pack)

"""The two ends of a transfer on this machine: a source that is read piece by piece, a target that appears complete."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import mmap
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Self

from backupiq.errors import ResourceError, RestoreConflictError
from backupiq.storage import disk
from backupiq.storage.disk import Transfer
from backupiq.storage.oserrors import machine_errors
from backupiq.storage.throttle import Throttle
from backupiq.storage.workers import Workers

PIECE = disk.PIECE
SOURCE_PIECE = 4 * PIECE
SMALLEST_PIECE = 16 * 1024
PIECE_SECONDS = 0.25  # of a limited transfer: its bytes flow rather than come in bursts


class Source:
    """The bytes to upload: all of them at once (`whole`), or as an asynchronous iterator of pieces, once.

    Reading and hashing happen in the workers. Every piece waits for the throttle and is reported as progress before it
    is handed out. After `stop`, the next piece raises instead; `check` raises again whatever ended the source.
    """

    def __init__(
        self, data: memoryview | io.FileIO, size: int, transfer: Transfer, throttle: Throttle | None, workers: Workers
    ) -> None:
        self.size = size
        self._data = data
        self._transfer = transfer
        self._throttle = throttle
        self._workers = workers
        self._step = _piece(SOURCE_PIECE, throttle)
        self._error: BaseException | None = None
        self._hash = hashlib.sha256() if transfer.needs_hash else None

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(
        cls, source: Path | bytes | memoryview, transfer: Transfer, throttle: Throttle | None, workers: Workers
    ) -> AsyncIterator[Self]:
        """Open the source; ``ResourceError`` and its kin when it cannot be read."""
        if not isinstance(source, Path):
            view = memoryview(source).cast(
                "B"
            )  # not released here: obstore lets go of it a moment after a cancellation
            yield cls(view, len(view), transfer, throttle, workers)
            return
        file, size = await workers.run(_open, source)
        try:
            yield cls(file, size, transfer, throttle, workers)
        finally:
            file.close()

    def stop(self) -> None:
        """Make the next piece raise ``CancelledRunError``."""
        self._transfer.stop()

    def check(self) -> None:
        """Raise what ended the source before its end."""
        if self._error is not None:
            raise self._error

    def finish(self) -> None:
        """Tell the transfer the hash of what was handed out."""
        if self._hash is not None:
            self._transfer.knows(self._hash.hexdigest())

    async def whole(self) -> memoryview:
        """All bytes, held once; reading them gives way to other tasks, so that a cancellation arrives."""
        if isinstance(self._data, memoryview):
            async for _ in self:
                await asyncio.sleep(0)
            return self._data
        # Its own mapping, which the system gets back at once: packs come and go, and a heap would keep their holes.
        held = memoryview(mmap.mmap(-1, self.size) if self.size else b"")
        done = 0
        async for piece in self:
            held[done : done + len(piece)] = piece
            done += len(piece)
        return held

    async def __aiter__(self) -> AsyncIterator[bytes | memoryview]:
        try:
            start = 0
            while start < self.size:
                piece = await self._piece(start)
                if self._throttle is not None:
                    await self._throttle.take(len(piece))
                self._transfer.moved(len(piece))
                start += len(piece)
                yield piece
                self._transfer.check()
        except BaseException as error:
            self._error = error
            raise

    async def _piece(self, start: int) -> bytes | memoryview:
        count = min(self._step, self.size - start)
        if isinstance(self._data, memoryview):
            view = self._data[start : start + count]
            if self._hash is not None:
                await self._workers.run(self._hash.update, view)
            return view
        return await self._workers.run(self._read, self._data, count)

    def _read(self, file: io.FileIO, count: int) -> bytes:
        with machine_errors("read the file to upload"):
            pieces = []
            while count:
                piece = file.read(count)
                if not piece:
                    raise ResourceError("The file to upload became shorter while it was read.", size=self.size)
                pieces.append(piece)
                count -= len(piece)
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if self._hash is not None:
            self._hash.update(data)
        return data


def _piece(usual: int, throttle: Throttle | None) -> int:
    if throttle is None:
        return usual
    return max(SMALLEST_PIECE, min(usual, int(throttle.bytes_per_second * PIECE_SECONDS)))


def _open(path: Path) -> tuple[io.FileIO, int]:
    with machine_errors("open the file to upload"):
        file = disk.open_for_reading(path)
        status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        file.close()
        raise ResourceError("What is to be uploaded is not a plain file.")
    return file, status.st_size


def _begin(stack: contextlib.ExitStack, final: str) -> tuple[io.FileIO, str]:
    if os.path.isdir(final):
        raise RestoreConflictError("The file to download into is a folder. Give a file.")
    with machine_errors("write the downloaded file"):
        return stack.enter_context(disk.temporary_file(final))


class Download:
    """A private file (0600) beside the target, which takes its place with `commit` and is removed without it."""

    def __init__(
        self, file: io.FileIO, path: str, target: str, transfer: Transfer, throttle: Throttle | None, workers: Workers
    ) -> None:
        self._file = file
        self._path = path
        self._target = target
        self._transfer = transfer
        self._throttle = throttle
        self._workers = workers
        # Small pieces under a low limit also since a connection that nobody reads from for long is cut off.
        self.chunk_size = _piece(PIECE, throttle)

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(
        cls, target: Path, transfer: Transfer, throttle: Throttle | None, workers: Workers
    ) -> AsyncIterator[Self]:
        """A download under way; ``ResourceError`` when this machine cannot write it."""
        final = os.fspath(target)
        with contextlib.ExitStack() as stack:
            file, path = await workers.run(_begin, stack, final)
            yield cls(file, path, final, transfer, throttle, workers)

    async def write(self, chunk: memoryview) -> None:
        """Write and hash a piece."""
        if self._throttle is not None:
            await self._throttle.take(len(chunk))
        await self._workers.run(self._write, chunk)

    def _write(self, chunk: memoryview) -> None:
        with machine_errors("write the downloaded file"):
            for start in range(0, len(chunk), PIECE):
                piece = chunk[start : start + PIECE]
                disk.write_all(self._file, piece)
                self._transfer.saw(piece)

    async def commit(self) -> None:
        """Put the complete file into the target's place."""
        await self._workers.run(self._commit)

    def _commit(self) -> None:
        self._file.close()
        with machine_errors("write the downloaded file"):
            os.replace(self._path, self._target)

"""A folder as a destination: a disk, a mounted share, a folder that some program syncs."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import ClassVar, ParamSpec, TypeVar

from backupiq.storage.disk import Transfer
from backupiq.storage.diskstore import DiskStore, Upload
from backupiq.storage.provider import (
    Capabilities,
    DownloadResult,
    FileInfo,
    Progress,
    StorageInfo,
    StorageProvider,
    UploadResult,
    check_key,
    check_prefix,
    check_range,
)
from backupiq.storage.throttle import NO_LIMITS, Limits

P = ParamSpec("P")
T = TypeVar("T")

THREADS = 8
LIST_BATCH = 1000


class LocalProvider(StorageProvider):
    """A destination below one folder; the work is `DiskStore`'s, this class carries it to threads.

    Blocking calls run in the provider's own small pool: the event loop's default pool may be full of threads that wait
    for this very provider. A cancelled call stops at its next piece and is waited for, so nothing appears afterwards.
    ``limits`` hold for bytes that are copied or read; a source that is renamed into its place moves none. ``clock``
    gives seconds since 1970, for the age of temporary files.
    """

    kind: ClassVar[str] = "local"

    def __init__(
        self,
        root: Path | str,
        *,
        limits: Limits = NO_LIMITS,
        threads: int = THREADS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = DiskStore(os.path.abspath(root))
        self._limits = limits
        self._threads = threads
        self._clock = clock
        self._pool: ThreadPoolExecutor | None = None

    @property
    def root(self) -> Path:
        """The folder that holds the objects."""
        return Path(self._store.root)

    @property
    def location(self) -> str:
        return self._store.location

    @property
    def identity(self) -> str:
        # The same path on another machine is another disk.
        return f"{self.kind}:{socket.gethostname()}:{self._store.root}"

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(ranged_reads=True, create_only=True, atomic_writes=True, directories=True)

    async def authenticate(self) -> StorageInfo:
        return await self._run(self._store.authenticate)

    async def create(self) -> None:
        await self._run(self._store.create)

    async def upload_file(
        self,
        source: Path | bytes | memoryview,
        key: str,
        *,
        create_only: bool = False,
        durable: bool = True,
        move: bool = False,
        sha256: str | None = None,
        progress: Progress | None = None,
    ) -> UploadResult:
        task = Upload(source, check_key(key), create_only, durable, move)
        transfer = Transfer(progress, sha256, self._limits.upload)
        started = time.perf_counter()
        await self._transfer(transfer, self._store.upload, task, transfer)
        return UploadResult(key, transfer.size, transfer.sha256, time.perf_counter() - started)

    async def download_file(self, key: str, target: Path, *, progress: Progress | None = None) -> DownloadResult:
        transfer = Transfer(progress, throttle=self._limits.download)
        started = time.perf_counter()
        await self._transfer(transfer, self._store.download, check_key(key), os.fspath(target), transfer)
        return DownloadResult(key, transfer.size, transfer.sha256, time.perf_counter() - started)

    async def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        check_range(offset, length)
        data = await self._run(self._store.read, check_key(key), offset, length)
        if self._limits.download is not None:
            await self._limits.download.take(len(data))
        return data

    async def list_files(self, prefix: str = "") -> AsyncIterator[FileInfo]:
        files = self._store.walk(check_prefix(prefix))
        while batch := await self._run(lambda: list(islice(files, LIST_BATCH))):
            for info in batch:
                yield info

    async def delete_file(self, key: str) -> None:
        await self._run(self._store.delete, check_key(key))

    async def file_exists(self, key: str) -> bool:
        return await self._run(self._store.exists, check_key(key))

    async def get_file_info(self, key: str) -> FileInfo:
        return await self._run(self._store.info, check_key(key))

    async def check_space(self) -> StorageInfo:
        return await self._run(self._store.space)

    async def create_directory(self, key: str) -> None:
        await self._run(self._store.make_folder, check_key(key))

    async def delete_directory(self, key: str) -> None:
        await self._run(self._store.remove_folder, check_key(key))

    async def flush(self) -> None:
        await self._run(self._store.flush)

    async def sweep_temporary_files(self, older_than_seconds: float) -> int:
        return await self._run(self._store.sweep, self._clock() - older_than_seconds)

    async def close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            # Calls under way are their callers' to await; idle threads end at once.
            pool.shutdown(wait=False)

    async def _run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._transfer(None, work, *args, **kwargs)

    async def _transfer(self, transfer: Transfer | None, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        context = contextvars.copy_context()
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="backupiq-local")
        job = self._pool.submit(lambda: context.run(work, *args, **kwargs))
        waiter = asyncio.wrap_future(job)
        try:
            return await asyncio.shield(waiter)
        except asyncio.CancelledError:
            if transfer is not None:
                transfer.stop()
            if not job.cancel():
                while not waiter.done():
                    with contextlib.suppress(asyncio.CancelledError):
                        await asyncio.wait({waiter})
                if not waiter.cancelled():
                    waiter.exception()  # looked at, so that the loop does not report it as forgotten
            raise

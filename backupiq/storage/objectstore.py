"""What S3, Google Cloud Storage and Azure Blob have in common, with obstore as the client.

A provider subclasses `ObjectStoreProvider`, passes what it knows of itself to the constructor and gives:

* ``kind`` and ``errors`` (class variables): its name and its rows of the error table (`objecterrors`), which stand
  before the common ones;
* `open_store(client, retry)`: a store of obstore on the bucket or container, **without** a prefix, with those client
  options (merge them over your own) and that retry configuration. Called in a worker thread, a few times in a
  provider's life: stores are kept by their options. It may look credentials up and raises our errors;
* `create()`: make the bucket or container when it is missing.

It may give more:

* `attributes_for(key)`: attributes of a new object, such as ``{"Storage-Class": ...}`` by kind of object;
* `headers_for(key)`: more request headers for the upload of that key (each set of headers has a store of its own);
* `abort_unfinished(key)`: remove unfinished uploads of that very key after an upload in parts failed or was cancelled;
* `sweep_temporary_files()`; ``deletes_silently = True`` when deleting a missing object succeeds.

Tools for those: ``self.full_key(key)`` (with the prefix), ``self.workers.run(function, ...)`` for blocking calls,
``self.mapped("do this", key=key)`` around calls of obstore, ``self.reader()`` for a store with short timeouts.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import math
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import obstore

from backupiq.errors import (
    StorageConflictError,
    StorageConnectionError,
    StorageCorruptError,
    StorageError,
    StorageUnsupportedError,
    ValidationError,
)
from backupiq.storage import objecterrors
from backupiq.storage.disk import Transfer
from backupiq.storage.names import expected_sha256
from backupiq.storage.objecttransfer import Download, Source
from backupiq.storage.provider import (
    MAX_KEY_BYTES,
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
from backupiq.storage.transfer_options import DEFAULT_TRANSFER, MIB, TransferOptions, part_size
from backupiq.storage.workers import ByteBudget, Workers, settled

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

__all__ = ["DEFAULT_TRANSFER", "ObjectStoreProvider", "TransferOptions", "part_size"]

THREADS = 8
LIST_BATCH = 1000
MAX_STORES = 16


class ObjectStoreProvider(StorageProvider):
    """A destination in an object store; see the module for what a subclass gives.

    Invariants: an upload holds its part of the memory budget from before its first byte is read until obstore has let
    go of it; a cancelled upload is stopped at its source first, so that obstore ends it cleanly, and cut off after
    ``cancel_seconds``; after an upload in parts failed or was cancelled, what it left is removed before the call
    returns, or by the last upload of the same key that goes on in this provider at that moment.
    """

    errors: ClassVar[objecterrors.ErrorTable] = ()
    deletes_silently: ClassVar[bool] = False

    def __init__(
        self,
        *,
        location: str,
        prefix: str = "",
        endpoint: str | None = None,
        limits: Limits = NO_LIMITS,
        transfer: TransferOptions = DEFAULT_TRANSFER,
    ) -> None:
        self._location = location
        self._prefix = check_prefix(prefix)
        self._endpoint = endpoint
        self.limits = limits
        self.transfer = transfer
        self.workers = Workers(THREADS, f"backupiq-{self.kind}")
        self._budget = ByteBudget(transfer.memory_bytes)
        self._stores: dict[tuple[object, ...], ObjectStore] = {}
        self._opening = asyncio.Lock()
        self._uploading: Counter[str] = Counter()
        self._unfinished: set[str] = set()

    # --- what a subclass gives -------------------------------------------------------------------------------------

    @abc.abstractmethod
    def open_store(self, client: ClientConfig, retry: RetryConfig) -> ObjectStore:
        """A store on the bucket itself, without prefix; runs in a worker thread."""

    def attributes_for(self, key: str) -> dict[str, str]:
        """obstore's attributes of a new object."""
        return {}

    def headers_for(self, key: str) -> Mapping[str, str]:
        """More headers for the requests of an upload."""
        return {}

    async def abort_unfinished(self, key: str) -> None:
        """Remove unfinished uploads of this key (without prefix); best effort, bounded in time, raises nothing."""

    # --- the destination itself ------------------------------------------------------------------------------------

    @property
    def location(self) -> str:
        return self._location

    @property
    def identity(self) -> str:
        at = f"@{self._endpoint}" if self._endpoint else ""
        return f"{self.kind}:{self._location}{at}"

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(ranged_reads=True, create_only=True, atomic_writes=True, directories=False)

    def full_key(self, key: str) -> str:
        """The object's name in the bucket: prefix and key. ``ValidationError`` when it is unsafe or too long."""
        check_key(key)
        full = f"{self._prefix}/{key}" if self._prefix else key
        if len(full.encode()) > MAX_KEY_BYTES:
            raise ValidationError(f"A storage key with its prefix is longer than {MAX_KEY_BYTES} bytes.", key=key[:80])
        return full

    def mapped(self, doing: str, **details: object) -> contextlib.AbstractContextManager[None]:
        """Around calls of obstore: its exceptions become ours. ``doing`` completes "Cannot ... at s3://...:"."""
        return objecterrors.store_errors(self.errors, f"{doing} at {self.location}", **details)

    async def authenticate(self) -> StorageInfo:
        store = await self.reader()
        with self.mapped("list the objects"):
            async for _ in obstore.list(store, self._prefix or None, chunk_size=1):
                break
        return self._info()

    async def check_space(self) -> StorageInfo:
        return self._info()

    def _info(self) -> StorageInfo:
        return StorageInfo(self.kind, self.location, None, None, None)

    # --- stores ----------------------------------------------------------------------------------------------------

    async def reader(self) -> ObjectStore:
        """The store for everything but uploads: a service that stays silent is noticed soon, a long download is not."""
        times = self.transfer
        return await self._store(times.download_seconds, times.read_seconds, {})

    async def _writer(self, key: str, request_bytes: int) -> ObjectStore:
        # A silent service and a slow line cannot be told apart while a request's body is on its way, so the time
        # allowed follows from its size, in few steps, since each is a store of its own.
        step = MIB << max(0, math.ceil(math.log2(max(request_bytes, MIB) / MIB)))
        seconds = self.transfer.read_seconds + step / self.transfer.slowest_upload
        return await self._store(seconds, None, self.headers_for(key))

    async def _store(self, seconds: float, read_seconds: float | None, headers: Mapping[str, str]) -> ObjectStore:
        name = (seconds, read_seconds, *sorted(headers.items()))
        async with self._opening:
            if name not in self._stores:
                client: ClientConfig = {
                    "connect_timeout": timedelta(seconds=self.transfer.connect_seconds),
                    "timeout": timedelta(seconds=seconds),
                }
                if read_seconds is not None:
                    client["read_timeout"] = timedelta(seconds=read_seconds)
                if headers:
                    client["default_headers"] = dict(headers)
                retry: RetryConfig = {
                    "max_retries": self.transfer.retries,
                    "retry_timeout": timedelta(seconds=self.transfer.retry_seconds),
                }
                store = await self.workers.run(self.open_store, client, retry)
                while len(self._stores) >= MAX_STORES:
                    self._stores.pop(next(iter(self._stores)))
                self._stores[name] = store
            return self._stores[name]

    # --- uploading -------------------------------------------------------------------------------------------------

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
        self.full_key(key)
        started = time.perf_counter()
        transfer = Transfer(progress, sha256)
        async with Source.opened(source, transfer, self.limits.upload, self.workers) as pieces:
            whole = create_only or pieces.size <= self.transfer.whole_bytes
            if create_only and pieces.size > self.transfer.create_bytes:
                raise StorageUnsupportedError(
                    f"{self.location} can create objects of at most {self.transfer.create_bytes} bytes without "
                    "replacing one.",
                    key=key,
                    size=pieces.size,
                )
            part = part_size(pieces.size)
            held = pieces.size if whole else part * (self.transfer.parts_at_once + 1)
            self._uploading[key] += 1
            try:
                async with self._budget.hold(max(held, MIB)):
                    await self._upload(pieces, key, part, whole=whole, create_only=create_only)
            finally:
                self._uploading -= Counter([key])
                if key in self._unfinished and key not in self._uploading:
                    self._unfinished.discard(key)
                    await _uninterrupted(self.abort_unfinished(key))
            if move and isinstance(source, Path):
                await self.workers.run(_remove, source)
        return UploadResult(key, transfer.size, transfer.sha256, time.perf_counter() - started)

    async def _upload(self, pieces: Source, key: str, part: int, *, whole: bool, create_only: bool) -> None:
        store = await self._writer(key, pieces.size if whole else part)
        options: dict[str, Any] = {"attributes": self.attributes_for(key) or None}
        if create_only:
            options["mode"] = "create"
        data: Any = await pieces.whole() if whole else pieces
        put = asyncio.ensure_future(
            obstore.put_async(
                store,
                self.full_key(key),
                data,
                use_multipart=not whole,
                chunk_size=part,
                max_concurrency=self.transfer.parts_at_once,
                **options,
            )
        )
        try:
            with self.mapped(f"store {key}", key=key):
                try:
                    await self._ended(put, key)
                except Exception:
                    pieces.check()  # what the source raised is the reason, whatever obstore made of it
                    raise
        except BaseException:
            if not put.done():
                pieces.stop()
                if not await settled(put, self.transfer.cancel_seconds):
                    put.cancel()
                    await settled(put)
            if not whole:
                self._unfinished.add(key)
            raise
        pieces.finish()

    async def _ended(self, put: asyncio.Future[Any], key: str) -> None:
        """Wait for an upload; ``StorageConnectionError`` when the service no longer answers a question beside it."""
        while not (await asyncio.wait({put}, timeout=self.transfer.probe_seconds))[0]:
            try:
                await self.get_file_info(key)
            except StorageConnectionError:
                if not put.done():
                    raise
            except StorageError:
                continue  # any answer is a sign of life
        put.result()

    # --- downloading -----------------------------------------------------------------------------------------------

    async def download_file(self, key: str, target: Path, *, progress: Progress | None = None) -> DownloadResult:
        full = self.full_key(key)
        started = time.perf_counter()
        transfer = Transfer(progress)
        store = await self.reader()
        doing = f"read {key}"
        with self.mapped(doing, key=key):
            answer = await obstore.get_async(store, full)
        size = answer.meta["size"]
        async with Download.opened(target, transfer, self.limits.download, self.workers) as file:
            chunks = aiter(answer.stream(min_chunk_size=file.chunk_size))
            while True:
                with self.mapped(doing, key=key):
                    chunk = await anext(chunks, None)
                if chunk is None:
                    break
                await file.write(memoryview(chunk))
            if transfer.size != size:
                raise StorageCorruptError(
                    f"{key} at {self.location} ended early. {StorageCorruptError.hint}",
                    key=key,
                    expected=size,
                    received=transfer.size,
                )
            wanted = expected_sha256(key)
            if wanted is not None and transfer.sha256 != wanted:
                raise StorageCorruptError(
                    f"{key} at {self.location} holds other bytes than its name says. {StorageCorruptError.hint}",
                    key=key,
                    received_sha256=transfer.sha256,
                )
            await file.commit()
        return DownloadResult(key, transfer.size, transfer.sha256, time.perf_counter() - started)

    async def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        check_range(offset, length)
        full = self.full_key(key)
        store = await self.reader()
        if length == 0 or (length is None and offset):
            size = (await self.get_file_info(key)).size
            if offset > size:
                raise self._too_short(key, size, offset, length)
            length = size - offset if length is None else length
            if length == 0:
                return b""
        try:
            with self.mapped(f"read {key}", key=key):
                if length is None:
                    answer = await obstore.get_async(store, full)
                else:
                    answer = await obstore.get_async(store, full, options={"range": (offset, offset + length)})
        except StorageError as error:
            if error.details.get("status") == 416 or error.details.get("answer") == "InvalidRange":
                raise self._too_short(key, None, offset, length) from None
            raise
        start, stop = answer.range
        if length is not None and (start, stop) != (offset, offset + length):
            raise self._too_short(key, answer.meta["size"], offset, length)
        if self.limits.download is not None:
            await self.limits.download.take(stop - start)
        with self.mapped(f"read {key}", key=key):
            data = (await answer.bytes_async()).to_bytes()
        if len(data) != stop - start:
            raise self._too_short(key, start + len(data), offset, length)
        return data

    def _too_short(self, key: str, size: int | None, offset: int, length: int | None) -> StorageCorruptError:
        return StorageCorruptError(
            f"{key} at {self.location} is shorter than it should be. {StorageCorruptError.hint}",
            key=key,
            size=size,
            offset=offset,
            length=length,
        )

    # --- asking, listing, deleting ---------------------------------------------------------------------------------

    async def list_files(self, prefix: str = "") -> AsyncIterator[FileInfo]:
        folder = "/".join(filter(None, (self._prefix, check_prefix(prefix))))
        store = await self.reader()
        skip = len(self._prefix) + 1 if self._prefix else 0
        batches = aiter(obstore.list(store, folder or None, chunk_size=LIST_BATCH))
        while True:
            with self.mapped("list the objects"):
                batch = await anext(batches, None)
            if batch is None:
                return
            for found in batch:
                key = found["path"][skip:]
                if _is_key(key):
                    yield _file_info(key, found)

    async def get_file_info(self, key: str) -> FileInfo:
        full = self.full_key(key)
        store = await self.reader()
        with self.mapped(f"look at {key}", key=key):
            return _file_info(key, await obstore.head_async(store, full))

    async def delete_file(self, key: str) -> None:
        full = self.full_key(key)
        store = await self.reader()
        if self.deletes_silently:
            await self.get_file_info(key)
        with self.mapped(f"delete {key}", key=key):
            await obstore.delete_async(store, full)

    async def delete_directory(self, key: str) -> None:
        check_key(key)
        async for _ in self.list_files(key):
            raise StorageConflictError(f"The folder {key} at {self.location} is not empty.", key=key)

    async def close(self) -> None:
        self._stores.clear()
        self.workers.close()


def _file_info(key: str, found: Mapping[str, Any]) -> FileInfo:
    # A listing tells parts of a second and a look at one object does not: whole seconds are what both say.
    return FileInfo(key, found["size"], int(found["last_modified"].timestamp()) * 10**9)


def _is_key(key: str) -> bool:
    try:
        return bool(check_key(key))
    except ValidationError:
        return False


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # it may go, it need not
        os.unlink(path)


async def _uninterrupted(work: Any) -> None:
    """Await a bounded piece of cleaning up to its end, also when this task is cancelled again meanwhile."""
    await settled(asyncio.ensure_future(work))

"""A folder of iCloud Drive as a destination, by Apple's web services. Support of these is best effort.

On a Mac, a folder that iCloud Drive syncs serves better, as a local destination.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeVar

from backupiq.storage.disk import Transfer
from backupiq.storage.icloud_account import Account, open_account, release
from backupiq.storage.icloud_config import ICloudConfig
from backupiq.storage.icloud_drive import DriveStore, Upload
from backupiq.storage.icloud_finder import path_of
from backupiq.storage.icloud_folders import Path as FolderPath
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

if TYPE_CHECKING:
    from backupiq.storage.icloud_client import ICloudClient

__all__ = ["ICloudConfig", "ICloudProvider"]

T = TypeVar("T")


class ICloudProvider(StorageProvider):
    """A destination in iCloud Drive; the work is `DriveStore`'s, this class carries it to the account's thread.

    All providers of one Apple ID take turns. Of several programs on one machine exactly one creates a key; between
    machines iCloud itself cannot promise it, which `capabilities` says. ``clock`` gives seconds since 1970, for the
    age of temporary files.
    """

    kind: ClassVar[str] = "icloud"

    def __init__(
        self, config: ICloudConfig, *, limits: Limits = NO_LIMITS, clock: Callable[[], float] = time.time
    ) -> None:
        self.config = config
        self._limits = limits
        self._clock = clock
        self._account: Account | None = None
        self._store = DriveStore(config)

    @property
    def location(self) -> str:
        return self.config.location

    @property
    def identity(self) -> str:
        return self.config.identity

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(ranged_reads=True, create_only=False, atomic_writes=True, directories=True)

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
        task = Upload(source, check_key(key), create_only)
        transfer = Transfer(progress, sha256, self._limits.upload)
        started = time.perf_counter()
        await self._run(lambda client: self._store.upload(client, task, transfer), transfer)
        return UploadResult(key, transfer.size, transfer.sha256, time.perf_counter() - started)

    async def download_file(self, key: str, target: Path, *, progress: Progress | None = None) -> DownloadResult:
        check_key(key)
        transfer = Transfer(progress, throttle=self._limits.download)
        started = time.perf_counter()
        await self._run(lambda client: self._store.download(client, key, os.fspath(target), transfer), transfer)
        return DownloadResult(key, transfer.size, transfer.sha256, time.perf_counter() - started)

    async def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        check_range(offset, length)
        check_key(key)
        transfer = Transfer(throttle=self._limits.download)
        return await self._run(lambda client: self._store.read(client, key, offset, length, transfer), transfer)

    async def list_files(self, prefix: str = "") -> AsyncIterator[FileInfo]:
        prefix = check_prefix(prefix)
        folders = [path_of(prefix)]
        while folders:
            files, below = await self._run(partial(self._store.list_folder, path=folders.pop()))
            folders += reversed(below)
            for info in files:
                yield info

    async def delete_file(self, key: str) -> None:
        check_key(key)
        await self._run(lambda client: self._store.delete(client, key))

    async def get_file_info(self, key: str) -> FileInfo:
        check_key(key)
        return await self._run(lambda client: self._store.info(client, key))

    async def check_space(self) -> StorageInfo:
        return await self._run(self._store.space)

    async def create_directory(self, key: str) -> None:
        check_key(key)
        await self._run(lambda client: self._store.make_folder(client, key))

    async def delete_directory(self, key: str) -> None:
        check_key(key)
        await self._run(lambda client: self._store.remove_folder(client, key))

    async def sweep_temporary_files(self, older_than_seconds: float) -> int:
        before_ns = int((self._clock() - older_than_seconds) * 1e9)
        removed = 0
        folders: list[FolderPath] = [()]
        while folders:
            sweep = partial(self._store.sweep_folder, path=folders.pop(), before_ns=before_ns)
            count, below = await self._run(sweep)
            removed += count
            folders += below
        return removed

    async def close(self) -> None:
        account, self._account = self._account, None
        if account is not None:
            release(self.config, account)

    async def _run(self, work: Callable[[ICloudClient], T], job: Transfer | None = None) -> T:
        if self._account is None:
            self._account = open_account(self.config)
        return await self._account.run(self.config, job or Transfer(), work)

"""Replicas of one small repository in folders, and destinations that fail or lie when they are told to."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import random
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from backupiq.errors import StorageError
from backupiq.repository.pack import BlobType
from backupiq.repository.repository import FileType
from backupiq.repository.snapshot import encode_snapshot
from backupiq.storage.local import LocalProvider
from backupiq.storage.provider import (
    Capabilities,
    DownloadResult,
    FileInfo,
    Progress,
    StorageInfo,
    UploadResult,
)
from tests.unit.archive.restore_support import Archive
from tests.unit.repository.repositories import CHEAP, NOW_NS

KINDS = ("keys", "config", "data", "index", "snapshots")
DAMAGES = ("missing", "truncated", "flipped", "longer")
Fault = Callable[[str, str], StorageError | None]
"""Given the call (read, list, upload, ...) and the key, the error to raise, if any."""


class Faulty(LocalProvider):
    """The real local destination, which fails when ``fault`` says so and records what it is asked."""

    def __init__(self, root: Path, *, ranged: bool = True) -> None:
        super().__init__(root)
        self.fault: Fault = lambda call, key: None
        self.calls: list[tuple[str, str]] = []
        self._ranged = ranged

    def fail_always(self, error: StorageError) -> None:
        """Nothing works from now on."""
        self.fault = lambda call, key: error

    def _ask(self, call: str, key: str) -> None:
        self.calls.append((call, key))
        error = self.fault(call, key)
        if error is not None:
            raise error

    @property
    def capabilities(self) -> Capabilities:
        return dataclasses.replace(super().capabilities, ranged_reads=self._ranged)

    async def authenticate(self) -> StorageInfo:
        self._ask("authenticate", "")
        return await super().authenticate()

    async def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        self._ask("read", key)
        return await super().read(key, offset, length)

    async def download_file(self, key: str, target: Path, *, progress: Progress | None = None) -> DownloadResult:
        self._ask("download", key)
        return await super().download_file(key, target, progress=progress)

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
        self._ask("upload", key)
        return await super().upload_file(
            source, key, create_only=create_only, durable=durable, move=move, sha256=sha256, progress=progress
        )

    async def delete_file(self, key: str) -> None:
        self._ask("delete", key)
        await super().delete_file(key)

    async def get_file_info(self, key: str) -> FileInfo:
        self._ask("info", key)
        return await super().get_file_info(key)

    async def list_files(self, prefix: str = "") -> AsyncIterator[FileInfo]:
        self._ask("list", prefix)
        async for info in super().list_files(prefix):
            yield info

    async def flush(self) -> None:
        self._ask("flush", "")
        await super().flush()


async def make_repository(folder: Path) -> Path:
    """Two data packs, a tree pack, three indexes, two keys and a snapshot of four files; the repository's folder."""
    archive = await Archive.make(folder)
    blobs = [random.Random(number).randbytes(60_000) for number in range(4)]
    nodes = [archive.file(f"file-{number}", blob) for number, blob in enumerate(blobs)]
    snapshot = await archive.snapshot(archive.folder("folder", *nodes), packs_of=2)
    repository = archive.repository
    async with repository.provider:
        await repository.add_key("another password", hostname="there", username="ben", created_ns=NOW_NS, params=CHEAP)
        await repository.save_file(FileType.SNAPSHOT, encode_snapshot(snapshot))
        assert {pack.blobs[0].type for pack in archive.packs} == set(BlobType)
    return folder / "repository"


def copy_of(repository: Path, target: Path) -> Path:
    """A copy whose files a test may change."""
    shutil.copytree(repository, target)
    for path in target.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    return target


def objects(folder: Path) -> dict[str, str]:
    """Key to SHA-256 of every object at a replica: everything but locks."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).parts[0] != "locks"
    }


def key_of(folder: Path, kind: str, number: int = 0) -> str:
    """The key of an object of a kind."""
    return [key for key in sorted(objects(folder)) if key.split("/")[0] == kind][number]


def spoil(folder: Path, key: str, how: str) -> None:
    """Damage an object, or remove it."""
    path = folder / key
    data = path.read_bytes()
    match how:
        case "missing":
            path.unlink()
        case "truncated":
            path.write_bytes(data[: len(data) // 2])
        case "flipped":
            middle = len(data) // 3  # in a pack that is inside of a blob
            path.write_bytes(data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :])
        case "longer":
            path.write_bytes(data + b"and more")
        case _:
            raise AssertionError(how)


def locks(folder: Path) -> list[str]:
    return os.listdir(folder / "locks") if (folder / "locks").exists() else []

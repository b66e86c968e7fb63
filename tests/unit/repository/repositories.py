"""Small real repositories in a folder, for the tests of what reads and locks them."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import zstandard

from backupiq.repository.index import encode_index
from backupiq.repository.keyfile import KdfParams
from backupiq.repository.pack import BlobType, FinishedPack, PackFile
from backupiq.repository.repository import FileType, Repository, pack_key
from backupiq.storage.local import LocalProvider
from backupiq.storage.provider import FileInfo

PASSWORD = "open sesame"
CHEAP = KdfParams(n=2, r=1, p=1)
NOW_NS = 1_780_000_000_000_000_000


class CountingProvider(LocalProvider):
    """The real local destination, with a record of the ranges that were read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.reads: list[tuple[str, int, int | None]] = []

    async def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        self.reads.append((key, offset, length))
        return await super().read(key, offset, length)


async def new_repository(root: Path) -> Repository:
    """An empty repository below ``root`` whose password costs nothing to check."""
    return await Repository.init(
        CountingProvider(root), PASSWORD, hostname="here", username="anna", now_ns=NOW_NS, params=CHEAP
    )


async def store_pack(
    repo: Repository, spool: Path, blobs: Sequence[bytes], kind: BlobType = BlobType.DATA, *, compress: bool = True
) -> FinishedPack:
    """Store plaintexts as one pack, with its index; also in the repository's index in memory."""
    pack = PackFile(spool, kind)
    for plain in blobs:
        blob_id = hashlib.sha256(plain).digest()
        if compress:
            pack.add(blob_id, repo.master.seal(zstandard.ZstdCompressor().compress(plain)), len(plain))
        else:
            pack.add(blob_id, repo.master.seal(plain), 0)
    finished = pack.finish(repo.master)
    await repo.provider.upload_file(finished.path, pack_key(finished.id.hex()), create_only=True, move=True)
    await repo.save_file(FileType.INDEX, encode_index([(finished.id, finished.blobs)]))
    await repo.load_index()
    return finished


def stored_file(repo: Repository, key: str) -> Path:
    """The file of a local repository that holds the object ``key``, made writable."""
    assert isinstance(repo.provider, LocalProvider)
    path = repo.provider.root / key
    path.chmod(0o600)
    return path


def flip(path: Path, position: int) -> None:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


async def collect(infos: AsyncIterator[FileInfo]) -> list[str]:
    """The keys of a listing, sorted."""
    return sorted([info.key async for info in infos])

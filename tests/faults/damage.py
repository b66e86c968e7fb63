"""Ways to damage a repository on disk, by the kind of object and the kind of damage."""

from __future__ import annotations

import asyncio
from pathlib import Path

from backupiq.repository.pack import BlobType
from backupiq.repository.repository import FileType, Repository, file_key
from tests.faults.support import open_repository
from tests.unit.repository.repositories import PASSWORD

OBJECTS = ("data pack", "tree pack", "index", "key", "config", "snapshot")
DAMAGES = ("truncated", "flipped", "swapped", "missing")


def victims(repo: Path, kind: str, newest: str) -> list[Path]:
    """Two files of a kind: the one to damage (which the newest snapshot needs), and another to swap it with."""
    return asyncio.run(_victims(repo, kind, newest))


async def _victims(repo: Path, kind: str, newest: str) -> list[Path]:
    repository = await open_repository(repo, PASSWORD)
    async with repository.provider:
        if kind == "config":
            return [repo / "config", next((repo / "keys").iterdir())]
        if kind == "key":
            return _first(repo, FileType.KEY, sorted(await repository.list_ids(FileType.KEY)), repository.key_id)
        if kind == "snapshot":
            return _first(repo, FileType.SNAPSHOT, sorted(await repository.list_ids(FileType.SNAPSHOT)), newest)
        tree = bytes.fromhex((await repository.load_snapshot(newest))[1].tree)
        if kind == "index":
            return await _indexes(repository, repo, tree)
        packs = _packs(repository, BlobType.DATA if kind == "data pack" else BlobType.TREE)
        found = repository.index.find(tree, BlobType.TREE)
        needed = found.pack.hex() if found is not None and kind == "tree pack" else packs[0]
        return _first(repo, FileType.PACK, packs, needed)


def _packs(repository: Repository, kind: BlobType) -> list[str]:
    """The packs of a kind, largest first."""
    index = repository.index
    packs = [pack for pack in index.packs() if index.pack_blobs(pack)[0].type is kind]
    return [pack.hex() for pack in sorted(packs, key=index.pack_end, reverse=True)]


async def _indexes(repository: Repository, repo: Path, tree: bytes) -> list[Path]:
    """The indexes, the one first that names the tree."""
    names = sorted(await repository.list_ids(FileType.INDEX))
    for name in names:
        if tree.hex().encode() in await repository.load_file(FileType.INDEX, name):
            return _first(repo, FileType.INDEX, names, name)
    raise AssertionError("no index names the newest snapshot's tree")


def _first(repo: Path, kind: FileType, names: list[str], first: str) -> list[Path]:
    return [repo / file_key(kind, name) for name in [first, *(name for name in names if name != first)][:2]]


def damage(one: Path, other: Path, how: str) -> None:
    """Do it."""
    data = one.read_bytes()
    match how:
        case "truncated":
            one.write_bytes(data[: len(data) * 2 // 3])
        case "empty":
            one.write_bytes(b"")
        case "flipped":
            one.write_bytes(data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :])
        case "swapped":
            one.write_bytes(other.read_bytes())
            other.write_bytes(data)
        case "missing":
            one.unlink()

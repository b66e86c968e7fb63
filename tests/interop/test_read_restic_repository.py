"""Repositories that the real restic made: every tree and every blob in them is read and verified."""

from __future__ import annotations

import hashlib
import random
import socket
import subprocess
import sys
import time
from pathlib import Path

from backupiq.repository.gojson import format_time_ns
from backupiq.repository.index import BlobLocation
from backupiq.repository.lockfile import LockFile, encode_lock
from backupiq.repository.locking import list_locks, lock_repository, remove_stale_locks
from backupiq.repository.pack import BlobType, packed_size
from backupiq.repository.reader import BlobReader
from backupiq.repository.repository import FileType, Repository
from backupiq.repository.tree import encode_tree
from backupiq.storage.local import LocalProvider
from tests.support.programs import Restic

FILES = 300


def make_source(root: Path) -> dict[str, bytes]:
    """Small and large files, a hole, duplicates and empty ones; their contents by relative path."""
    dice = random.Random(42)
    contents = {f"small/{n % 7}/file {n}": dice.randbytes(dice.randrange(3000)) for n in range(FILES)}
    contents["large.bin"] = dice.randbytes(5 << 20)
    contents["large.txt"] = b"a line of text that compresses well\n" * 200_000
    contents["hole"] = bytes(3 << 20) + b"end"
    contents["same/one"] = contents["same/two"] = dice.randbytes(700_000)
    contents["empty"] = b""
    for name, content in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return contents


def make_repository(restic: Restic, tmp_path: Path, password: str) -> tuple[Path, dict[str, bytes]]:
    contents = make_source(tmp_path / "source")
    repo = tmp_path / "repo"
    restic.run("init", repo=repo, password=password)
    restic.run("backup", "source", repo=repo, password=password, cwd=tmp_path)
    return repo, contents


def lock_of_a_process_that_is_gone() -> LockFile:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    now = format_time_ns(time.time_ns())
    return LockFile(time=now, exclusive=True, hostname=socket.gethostname(), username="u", pid=process.pid)


async def test_every_blob_of_a_repository_that_restic_made_is_read_and_verified(
    restic: Restic, tmp_path: Path, repo_password: str
) -> None:
    folder, _ = make_repository(restic, tmp_path, repo_password)
    async with LocalProvider(folder) as provider:
        repo = await Repository.open(provider, repo_password)
        await repo.load_index()
        reader = BlobReader(repo)
        sizes = await repo.list_ids(FileType.PACK)
        assert sorted(sizes) == sorted(pack.hex() for pack in repo.index.packs())
        for pack in repo.index.packs():
            blobs = repo.index.pack_blobs(pack)
            assert await repo.read_pack_header(pack.hex(), sizes[pack.hex()]) == blobs
            assert packed_size(blobs) == sizes[pack.hex()]
            wanted = [(b.id, BlobLocation(pack, b.offset, b.length, b.uncompressed_length)) for b in blobs]
            found = [item async for item in reader.read_blobs_of_pack(pack, wanted)]
            assert [blob_id for blob_id, _ in found] == [blob.id for blob in blobs]
            assert all(hashlib.sha256(plain).digest() == blob_id for blob_id, plain in found)


async def test_the_files_of_a_snapshot_that_restic_made_are_found_and_read(
    restic: Restic, tmp_path: Path, repo_password: str
) -> None:
    folder, contents = make_repository(restic, tmp_path, repo_password)
    async with LocalProvider(folder) as provider:
        repo = await Repository.open(provider, repo_password)
        _, snapshot = await repo.load_snapshot("latest")
        await repo.load_index()
        reader = BlobReader(repo)
        read: dict[str, bytes] = {}
        todo = [("", snapshot.tree)]
        while todo:
            path, tree = todo.pop()
            nodes = await reader.load_tree(tree)
            assert hashlib.sha256(encode_tree(nodes)).hexdigest() == tree
            for node in nodes:
                name = f"{path}/{node.raw_name().decode()}"
                if node.subtree:
                    todo.append((name, node.subtree))
                else:
                    parts = [await reader.load_blob(bytes.fromhex(part), BlobType.DATA) for part in node.content or ()]
                    read[name.removeprefix("/source/")] = b"".join(parts)
    assert read == contents


async def test_restic_respects_our_locks_and_unlock_leaves_them_alone(
    restic: Restic, tmp_path: Path, repo_password: str
) -> None:
    folder = tmp_path / "repo"
    (tmp_path / "source").mkdir()
    restic.run("init", repo=folder, password=repo_password)
    async with LocalProvider(folder) as provider:
        repo = await Repository.open(provider, repo_password)
        async with lock_repository(repo, exclusive=True) as lock:
            held = await repo.list_ids(FileType.LOCK)
            refused = restic.run("backup", "source", repo=folder, password=repo_password, cwd=tmp_path, check=False)
            assert refused.returncode in (1, 11)
            assert "lock" in refused.stderr
            # restic sends SIGHUP to this very process here, to see whether it lives.
            restic.run("unlock", repo=folder, password=repo_password)
            assert await repo.list_ids(FileType.LOCK) == held
            lock.ensure_held()
        async with lock_repository(repo):
            restic.run("backup", "source", repo=folder, password=repo_password, cwd=tmp_path)
        assert await list_locks(repo) == []


async def test_restic_and_we_remove_the_lock_of_a_process_that_is_gone(
    restic: Restic, tmp_path: Path, repo_password: str
) -> None:
    left = lock_of_a_process_that_is_gone()
    restic.run("init", repo=tmp_path / "repo", password=repo_password)
    async with LocalProvider(tmp_path / "repo") as provider:
        repo = await Repository.open(provider, repo_password)
        await repo.save_file(FileType.LOCK, encode_lock(left))
        restic.run("unlock", repo=tmp_path / "repo", password=repo_password)
        assert await list_locks(repo) == []
        name = await repo.save_file(FileType.LOCK, encode_lock(left))
        assert await remove_stale_locks(repo) == [name]


async def test_restic_opens_checks_and_fills_a_repository_that_we_made(
    restic: Restic, tmp_path: Path, repo_password: str
) -> None:
    make_source(tmp_path / "source")
    folder = tmp_path / "repo"
    async with LocalProvider(folder) as provider:
        repo = await Repository.init(
            provider, repo_password, hostname="h", username="u", now_ns=1_780_000_000_000_000_000
        )
        await repo.add_key("second", hostname="h", username="u", created_ns=1_780_000_000_000_000_000)
        for password in (repo_password, "second"):
            restic.run("check", repo=folder, password=password)
        restic.run("backup", "source", repo=folder, password=repo_password, cwd=tmp_path)
        assert len(await repo.snapshots()) == 1
        await repo.load_index()
        assert len(repo.index) > FILES
    assert len(restic.json("key", "list", repo=folder, password=repo_password)) == 2


async def test_we_use_the_keys_that_restic_added(restic: Restic, tmp_path: Path) -> None:
    count = 3
    folder = tmp_path / "repo"
    restic.run("init", repo=folder, password="0")
    for number in range(1, count):
        new = tmp_path / "new"
        new.write_text(str(number))
        restic.run("key", "add", "--new-password-file", new, repo=folder, password="0")
    async with LocalProvider(folder) as provider:
        opened = [await Repository.open(provider, str(number)) for number in range(count)]
        assert len({repo.key_id for repo in opened}) == count
        assert len({repo.config.id for repo in opened}) == 1
        assert len(await opened[0].list_keys()) == count

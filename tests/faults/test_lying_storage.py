"""Storage that lies: short reads, other bytes, another object, nothing. What it spoils is named, the rest restored."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from backupiq.archive.restore import RestoreReport, execute_restore
from backupiq.archive.restore_plan import plan_restore
from backupiq.errors import BackupIQError, PackError, StorageCorruptError, StorageNotFoundError
from backupiq.repository.pack import BlobType
from backupiq.repository.reader import BlobReader
from backupiq.repository.repository import Repository
from backupiq.storage.local import LocalProvider
from tests.faults.conftest import Small
from tests.faults.support import Surroundings, temporary_files
from tests.support.compare import compare_trees
from tests.unit.repository.repositories import PASSWORD

Lie = Callable[[bytes], bytes]

LIES: dict[str, Lie] = {
    "half of it": lambda data: data[: len(data) // 2],
    "one byte less": lambda data: data[:-1],
    "nothing": lambda data: b"",
    "more than asked": lambda data: data + b"more",
    "zeros": lambda data: bytes(len(data)),
    "one bit else": lambda data: bytes([data[0] ^ 1]) + data[1:],
    "the last bit else": lambda data: data[:-1] + bytes([data[-1] ^ 0x80]),
    "backwards": lambda data: data[::-1],
}


class LyingProvider(LocalProvider):
    """The real local destination, which returns something else for the keys that ``lies`` names."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.lies: dict[str, Lie] = {}
        self.told = 0

    async def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        data = await super().read(key, offset, length)
        lie = self.lies.get(key)
        if lie is None:
            return data
        self.told += 1
        return lie(data)


async def opened(small: Small) -> tuple[Repository, LyingProvider]:
    provider = LyingProvider(small.repo)
    repository = await Repository.open(provider, PASSWORD)
    await repository.load_index()
    return repository, provider


async def restore(repository: Repository, small: Small) -> RestoreReport:
    _, snapshot = await repository.load_snapshot(small.second)
    reader = BlobReader(repository)
    return await execute_restore(await plan_restore(reader, snapshot, target=small.target), reader, small.target)


def pack_of(repository: Repository, kind: BlobType) -> str:
    """The key of the largest pack of a kind."""
    index = repository.index
    packs = [pack for pack in index.packs() if index.pack_blobs(pack)[0].type is kind]
    name = max(packs, key=index.pack_end).hex()
    return f"data/{name[:2]}/{name}"


@pytest.mark.parametrize("lie", LIES)
async def test_files_of_a_pack_that_is_read_wrongly_are_problems_and_never_restored_wrongly(
    lie: str, small: Small
) -> None:
    repository, provider = await opened(small)
    key = pack_of(repository, BlobType.DATA)
    provider.lies[key] = LIES[lie]
    around = Surroundings.of(small.folder, but="target")
    async with provider:
        report = await restore(repository, small)
    around.assert_untouched()
    if lie == "more than asked":  # every byte that was asked for is there
        assert report.problems == []
        return
    assert provider.told > 0
    assert report.problem_count == len(report.problems) > 0
    assert all(os.path.basename(key) in problem.reason for problem in report.problems)
    spoiled = {os.fsdecode(os.path.basename(problem.path)) for problem in report.problems}
    differences = compare_trees(small.source, small.restored(), ignore={"folder_mtime"})
    assert {line.split(":")[0].split("/")[-1].strip("'") for line in differences} == spoiled
    assert all("only in a" in line for line in differences), differences
    assert temporary_files(small.target) == []


@pytest.mark.parametrize("lie", [name for name in LIES if name != "more than asked"])
@pytest.mark.parametrize("what", ["snapshots", "index", "tree pack", "config", "keys"])
async def test_no_other_object_is_believed_either(what: str, lie: str, small: Small) -> None:
    repository, provider = await opened(small)
    keys = {
        "snapshots": [f"snapshots/{small.second}"],
        "index": [f"index/{name}" for name in os.listdir(small.repo / "index")],
        "tree pack": [
            f"data/{pack.hex()[:2]}/{pack.hex()}"
            for pack in repository.index.packs()
            if repository.index.pack_blobs(pack)[0].type is BlobType.TREE
        ],
        "config": ["config"],
        "keys": [f"keys/{name}" for name in os.listdir(small.repo / "keys")],
    }
    provider.lies = dict.fromkeys(keys[what], LIES[lie])
    async with provider:
        with pytest.raises(BackupIQError) as caught:
            again = await Repository.open(provider, PASSWORD)
            await again.load_index()
            report = await restore(again, small)
            # The damage may lie in one folder of several; then that folder is the problem.
            assert what == "tree pack"
            raise PackError(report.problems[0].reason)
    assert caught.value.exit_code == 1
    assert "\n" not in caught.value.message
    assert what == "tree pack" or not small.target.exists()


@pytest.mark.parametrize("error", [StorageNotFoundError, StorageCorruptError])
async def test_a_pack_that_cannot_be_read_twice_the_same_is_a_problem_of_its_files(
    error: type[BackupIQError], small: Small
) -> None:
    repository, provider = await opened(small)

    def fail(data: bytes) -> bytes:
        raise error

    provider.lies[pack_of(repository, BlobType.DATA)] = fail
    async with provider:
        report = await restore(repository, small)
    assert report.problem_count > 0
    assert report.files + report.failed == sum(
        path.is_file() and not path.is_symlink() for path in small.source.rglob("*")
    )


async def test_a_destination_that_lies_only_once_is_asked_again(small: Small) -> None:
    repository, provider = await opened(small)
    key = pack_of(repository, BlobType.DATA)

    def once(data: bytes) -> bytes:
        return data if provider.told > 1 else bytes(len(data))

    provider.lies[key] = once
    async with provider:
        report = await restore(repository, small)
    assert report.problems == []
    assert compare_trees(small.source, small.restored()) == []

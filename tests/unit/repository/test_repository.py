"""The repository object: making, opening, its small files, its index, snapshots and keys."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path

import pytest

from backupiq.errors import (
    AmbiguousSnapshotError,
    BackupIQError,
    IndexDamagedError,
    KeyFileError,
    KeyInUseError,
    PackError,
    RepositoryDamagedError,
    RepositoryExistsError,
    RepositoryMissingError,
    SnapshotDamagedError,
    SnapshotNotFoundError,
    StorageConflictError,
    StorageNotFoundError,
    UnsupportedVersionError,
    ValidationError,
    WrongPasswordError,
)
from backupiq.repository.crypto import MasterKey
from backupiq.repository.gojson import format_time_ns
from backupiq.repository.keyfile import create_key_file
from backupiq.repository.pack import BlobType, packed_size
from backupiq.repository.repository import FileType, Repository, in_parallel, pack_key
from backupiq.repository.snapshot import Snapshot, encode_snapshot
from backupiq.storage.local import LocalProvider
from tests.unit.repository.repositories import (
    CHEAP,
    NOW_NS,
    PASSWORD,
    collect,
    flip,
    new_repository,
    store_pack,
    stored_file,
)


def a_snapshot(seconds: int, host: str = "here") -> Snapshot:
    return Snapshot(time=format_time_ns(NOW_NS + seconds * 10**9), tree="ab" * 32, paths=["/home"], hostname=host)


async def reopen(repo: Repository, password: str = PASSWORD) -> Repository:
    assert isinstance(repo.provider, LocalProvider)
    return await Repository.open(LocalProvider(repo.provider.root), password)


# --- making one ----------------------------------------------------------------------------------------------------


async def test_a_new_repository_opens_with_its_password(tmp_path: Path) -> None:
    repo = await new_repository(tmp_path / "r")
    again = await reopen(repo)
    assert again.master == repo.master
    assert again.config == repo.config
    assert again.key_id == repo.key_id
    assert await collect(again.provider.list_files()) == ["config", f"keys/{repo.key_id}"]


async def test_a_second_repository_at_the_same_place_is_refused(tmp_path: Path) -> None:
    repo = await new_repository(tmp_path)
    with pytest.raises(RepositoryExistsError):
        await new_repository(tmp_path)
    assert list(await repo.list_ids(FileType.KEY)) == [repo.key_id]


async def test_of_two_that_make_a_repository_at_once_one_wins_and_restic_could_open_it(tmp_path: Path) -> None:
    outcomes = await asyncio.gather(*(new_repository(tmp_path) for _ in range(6)), return_exceptions=True)
    winners = [outcome for outcome in outcomes if isinstance(outcome, Repository)]
    assert len(winners) == 1
    assert all(isinstance(outcome, RepositoryExistsError) for outcome in outcomes if outcome not in winners)
    assert list(await winners[0].list_ids(FileType.KEY)) == [winners[0].key_id]
    assert (await reopen(winners[0])).config == winners[0].config


async def test_a_key_that_an_interrupted_attempt_left_is_removed(tmp_path: Path) -> None:
    left = await new_repository(tmp_path)
    stored_file(left, "config").unlink()
    repo = await new_repository(tmp_path)
    assert list(await repo.list_ids(FileType.KEY)) == [repo.key_id]


async def test_a_repository_that_lost_its_config_is_not_written_over(tmp_path: Path) -> None:
    repo = await new_repository(tmp_path / "r")
    await store_pack(repo, tmp_path / "spool", [b"precious"])
    stored_file(repo, "config").unlink()
    with pytest.raises(RepositoryExistsError, match="config"):
        await new_repository(tmp_path / "r")
    assert list(await repo.list_ids(FileType.KEY)) == [repo.key_id]


# --- opening one ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [True, False])
async def test_where_there_is_no_repository_the_error_says_so(tmp_path: Path, make: bool) -> None:
    if make:
        (tmp_path / "r").mkdir()
    with pytest.raises(RepositoryMissingError, match="no repository") as caught:
        await Repository.open(LocalProvider(tmp_path / "r"), PASSWORD)
    assert caught.value.exit_code == 10


async def test_a_wrong_password_opens_nothing(tmp_path: Path) -> None:
    repo = await new_repository(tmp_path)
    with pytest.raises(WrongPasswordError) as caught:
        await reopen(repo, "open sesame!")
    assert caught.value.exit_code == 12
    assert "sesame" not in json.dumps(caught.value.to_dict())


async def test_a_repository_without_keys_is_damaged(tmp_path: Path) -> None:
    repo = await new_repository(tmp_path)
    stored_file(repo, f"keys/{repo.key_id}").unlink()
    with pytest.raises(RepositoryDamagedError, match="no key file"):
        await reopen(repo)


@pytest.mark.parametrize("content", [b"", b"junk", b"{}", b'{"kdf":"scrypt","N":1e99}'])
async def test_a_junk_key_file_does_not_keep_another_key_from_opening(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    repo = await new_repository(tmp_path)
    junk = hashlib.sha256(content).hexdigest()
    await repo.provider.upload_file(content, f"keys/{junk}")
    await repo.provider.upload_file(content, "keys/" + "0" * 64)
    assert (await reopen(repo)).key_id == repo.key_id
    assert not caplog.records or "damaged" in caplog.records[0].getMessage()
    stored_file(repo, f"keys/{repo.key_id}").unlink()
    with pytest.raises(KeyFileError, match="damaged"):
        await reopen(repo)


async def test_a_key_file_that_was_changed_is_named(tmp_path: Path) -> None:
    repo = await new_repository(tmp_path)
    flip(stored_file(repo, f"keys/{repo.key_id}"), 30)
    with pytest.raises(KeyFileError, match=repo.key_id):
        await reopen(repo)


async def test_a_key_of_another_repository_with_the_same_password_is_passed_over(tmp_path: Path) -> None:
    repo = await new_repository(tmp_path)
    for _ in range(4):
        alien = create_key_file(
            MasterKey.generate(), PASSWORD, params=CHEAP, username="", hostname="", created_ns=NOW_NS
        )
        await repo.save_raw(FileType.KEY, alien)
    assert (await reopen(repo)).key_id == repo.key_id


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "other"])
async def test_a_damaged_config_is_named(tmp_path: Path, damage: str) -> None:
    repo = await new_repository(tmp_path / "r")
    config = stored_file(repo, "config")
    if damage == "flip":
        flip(config, 20)
    elif damage == "other":
        other = await new_repository(tmp_path / "other")
        config.write_bytes(stored_file(other, "config").read_bytes())
    else:
        config.write_bytes(config.read_bytes()[:40] if damage == "cut" else b"")
    with pytest.raises(RepositoryDamagedError, match="config"):
        await reopen(repo)


@pytest.mark.parametrize("version", [1, 3])
async def test_another_version_of_the_format_is_refused(tmp_path: Path, version: int) -> None:
    repo = await new_repository(tmp_path)
    config = {"version": version, "id": repo.config.id, "chunker_polynomial": repo.config.chunker_polynomial}
    stored_file(repo, "config").write_bytes(repo.master.seal(json.dumps(config).encode()))
    with pytest.raises(UnsupportedVersionError):
        await reopen(repo)


# --- files ---------------------------------------------------------------------------------------------------------


async def test_a_file_is_stored_under_its_hash_and_read_back(tmp_path: Path) -> None:
    repo = await new_repository(tmp_path)
    for content in (b'{"a":1}', b'{"b":"' + b"x" * 300_000 + b'"}'):
        name = await repo.save_file(FileType.SNAPSHOT, content)
        stored = stored_file(repo, f"snapshots/{name}").read_bytes()
        assert hashlib.sha256(stored).hexdigest() == name
        assert await repo.load_file(FileType.SNAPSHOT, name) == content
        assert (await repo.list_ids(FileType.SNAPSHOT))[name] == len(stored)


async def test_storing_the_same_bytes_again_is_no_error(tmp_path: Path) -> None:
    repo = await new_repository(tmp_path)
    assert await repo.save_raw(FileType.INDEX, b"same") == await repo.save_raw(FileType.INDEX, b"same")


@pytest.mark.parametrize("kind", [FileType.SNAPSHOT, FileType.INDEX, FileType.LOCK])
async def test_a_changed_file_is_found_by_its_name(tmp_path: Path, kind: FileType) -> None:
    repo = await new_repository(tmp_path)
    name = await repo.save_file(kind, b'{"a":1}')
    flip(stored_file(repo, f"{kind}/{name}"), 20)
    with pytest.raises(RepositoryDamagedError, match=f"{kind}/{name}"):
        await repo.load_file(kind, name)


async def test_a_file_that_is_not_ours_is_named_though_its_hash_is_right(tmp_path: Path) -> None:
    repo = await new_repository(tmp_path)
    name = await repo.save_raw(FileType.SNAPSHOT, MasterKey.generate().seal(b"{}"))
    with pytest.raises(SnapshotDamagedError, match=name):
        await repo.load_file(FileType.SNAPSHOT, name)


async def test_config_and_keys_are_read_as_json(tmp_path: Path) -> None:
    repo = await new_repository(tmp_path)
    assert json.loads(await repo.load_file(FileType.CONFIG, ""))["id"] == repo.config.id
    assert json.loads(await repo.load_file(FileType.KEY, repo.key_id))["kdf"] == "scrypt"


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "AB" * 32, "ab" * 31])
async def test_a_name_that_is_no_id_is_refused(tmp_path: Path, name: str) -> None:
    repo = await new_repository(tmp_path)
    with pytest.raises(ValidationError):
        await repo.load_file(FileType.SNAPSHOT, name)


async def test_a_listing_ignores_what_is_no_file_of_the_repository(tmp_path: Path) -> None:
    repo = await new_repository(tmp_path / "r")
    pack = await store_pack(repo, tmp_path / "spool", [b"x"])
    for key in ("data/README", "data/zz/" + "ab" * 32, "ab" * 32, "snapshots/x/" + "ab" * 32, "snapshots/.DS_Store"):
        await repo.provider.upload_file(b"?", key)
    assert await repo.list_ids(FileType.PACK) == {pack.id.hex(): pack.size}
    assert await repo.list_ids(FileType.SNAPSHOT) == {}


async def test_removing_a_file_says_whether_it_was_there(tmp_path: Path) -> None:
    repo = await new_repository(tmp_path)
    name = await repo.save_file(FileType.LOCK, b"{}")
    assert await repo.delete_file(FileType.LOCK, name)
    assert not await repo.delete_file(FileType.LOCK, name)


# --- index ---------------------------------------------------------------------------------------------------------


async def test_the_index_of_every_pack_is_loaded_once(tmp_path: Path) -> None:
    repo = await new_repository(tmp_path / "r")
    packs = [await store_pack(repo, tmp_path / "spool", [b"%d" % n, b"same"]) for n in range(20)]
    again = await reopen(repo)
    await again.load_index()
    await again.load_index()
    assert sorted(again.index.packs()) == sorted(pack.id for pack in packs)
    assert len(again.index) == 21
    assert again.index.pack_blobs(packs[3].id) == packs[3].blobs


async def test_an_index_that_was_added_later_is_loaded_too(tmp_path: Path) -> None:
    repo = await new_repository(tmp_path / "r")
    again = await reopen(repo)
    await again.load_index()
    pack = await store_pack(repo, tmp_path / "spool", [b"new"])
    await again.load_index()
    assert again.index.has(pack.blobs[0].id, BlobType.DATA)


@pytest.mark.parametrize("damage", ["flip", "cut", "swap", "not json"])
async def test_a_damaged_index_is_named(tmp_path: Path, damage: str) -> None:
    repo = await new_repository(tmp_path / "r")
    await store_pack(repo, tmp_path / "spool", [b"one"])
    name = next(iter(await repo.list_ids(FileType.INDEX)))
    if damage == "swap":
        other = await repo.save_file(FileType.SNAPSHOT, b"{}")
        stored_file(repo, f"index/{name}").write_bytes(stored_file(repo, f"snapshots/{other}").read_bytes())
    elif damage == "cut":
        stored_file(repo, f"index/{name}").write_bytes(b"")
    elif damage == "flip":
        flip(stored_file(repo, f"index/{name}"), 50)
    else:
        name = await repo.save_file(FileType.INDEX, b"[1,2")
    with pytest.raises(IndexDamagedError, match=name):
        await (await reopen(repo)).load_index()


async def test_the_header_of_a_pack_names_the_blobs_the_index_names(tmp_path: Path) -> None:
    repo = await new_repository(tmp_path / "r")
    small = await store_pack(repo, tmp_path / "spool", [b"one", b"two" * 1000])
    many = await store_pack(repo, tmp_path / "spool", [b"%d" % n for n in range(4000)], BlobType.TREE)
    for pack in (small, many):
        assert await repo.read_pack_header(pack.id.hex(), pack.size) == pack.blobs
        assert pack.size == packed_size(pack.blobs)


@pytest.mark.parametrize("damage", ["cut", "flip", "gone", "empty", "grown"])
async def test_a_pack_whose_header_is_damaged_is_named(tmp_path: Path, damage: str) -> None:
    repo = await new_repository(tmp_path / "r")
    pack = await store_pack(repo, tmp_path / "spool", [b"one" * 1000, b"two"])
    path = stored_file(repo, pack_key(pack.id.hex()))
    data = path.read_bytes()
    size = pack.size
    if damage == "flip":
        flip(path, len(data) - 20)
    elif damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"cut": data[:-10], "empty": b"", "grown": b"?" + data}[damage])
        size = path.stat().st_size
    with pytest.raises(PackError, match=pack.id.hex()):
        await repo.read_pack_header(pack.id.hex(), size)


# --- snapshots -----------------------------------------------------------------------------------------------------


async def test_snapshots_come_oldest_first_and_are_found_by_latest_and_prefix(tmp_path: Path) -> None:
    repo = await new_repository(tmp_path)
    names = [await repo.save_file(FileType.SNAPSHOT, encode_snapshot(a_snapshot(s))) for s in (30, 10, 20)]
    found = await repo.snapshots()
    assert [name for name, _ in found] == [names[1], names[2], names[0]]
    assert found[0][1] == a_snapshot(10)
    assert (await repo.load_snapshot("latest"))[0] == names[0]
    assert (await repo.load_snapshot(names[1]))[0] == names[1]
    assert (await repo.load_snapshot(names[1][:20].upper()))[0] == names[1]


async def test_a_snapshot_that_is_not_there_or_not_the_only_one_is_refused(tmp_path: Path) -> None:
    repo = await new_repository(tmp_path)
    with pytest.raises(SnapshotNotFoundError):
        await repo.load_snapshot("latest")
    names = [await repo.save_file(FileType.SNAPSHOT, encode_snapshot(a_snapshot(s))) for s in range(17)]
    shared = next(c for c in "0123456789abcdef" if sum(name.startswith(c) for name in names) > 1)
    with pytest.raises(AmbiguousSnapshotError):
        await repo.load_snapshot(shared)
    for text in ("", "xyz", "0" * 64):
        with pytest.raises(SnapshotNotFoundError):
            await repo.load_snapshot(text)


async def test_a_damaged_snapshot_is_named_and_does_not_hide_the_others(tmp_path: Path) -> None:
    repo = await new_repository(tmp_path)
    good = await repo.save_file(FileType.SNAPSHOT, encode_snapshot(a_snapshot(1)))
    bad = [await repo.save_file(FileType.SNAPSHOT, text) for text in (b"{}", b'{"time":"yesterday","tree":""}')]
    bad.append(await repo.save_file(FileType.SNAPSHOT, encode_snapshot(a_snapshot(2))))
    flip(stored_file(repo, f"snapshots/{bad[2]}"), 40)

    with pytest.raises(SnapshotDamagedError):
        await repo.snapshots()
    for name in bad:
        with pytest.raises(SnapshotDamagedError, match=name):
            await repo.load_snapshot(name)
    reported: dict[str, BackupIQError] = {}
    assert [name for name, _ in await repo.snapshots(reported.__setitem__)] == [good]
    assert sorted(reported) == sorted(bad)
    assert (await repo.load_snapshot(good))[1] == a_snapshot(1)


# --- keys ----------------------------------------------------------------------------------------------------------


async def test_a_second_password_opens_the_same_repository_until_it_is_removed(tmp_path: Path) -> None:
    repo = await new_repository(tmp_path)
    added = await repo.add_key("second", hostname="there", username="ben", created_ns=NOW_NS, params=CHEAP)
    second = await reopen(repo, "second")
    assert second.master == repo.master
    assert second.key_id == added
    listed = dict(await repo.list_keys())
    assert sorted(listed) == sorted([repo.key_id, added])
    assert (listed[added].hostname, listed[added].username) == ("there", "ben")

    with pytest.raises(KeyInUseError):
        await second.remove_key(added)
    assert await repo.remove_key(added[:16]) == added
    with pytest.raises(WrongPasswordError):
        await reopen(repo, "second")


@pytest.mark.parametrize("text", ["", "zz", "0" * 64])
async def test_a_key_that_is_not_there_cannot_be_removed(tmp_path: Path, text: str) -> None:
    repo = await new_repository(tmp_path)
    with pytest.raises(ValidationError):
        await repo.remove_key(text)


async def test_a_damaged_key_is_named_in_the_list(tmp_path: Path) -> None:
    repo = await new_repository(tmp_path)
    bad = await repo.save_raw(FileType.KEY, b"{}")
    with pytest.raises(KeyFileError, match=bad):
        await repo.list_keys()


# --- many at a time ------------------------------------------------------------------------------------------------


async def test_parallel_work_keeps_its_order_and_its_limit() -> None:
    running = most = 0

    async def work(item: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return item * 2

    assert await in_parallel(range(50), work, limit=5) == [item * 2 for item in range(50)]
    assert most == 5


async def test_the_first_error_of_parallel_work_ends_the_rest() -> None:
    started: list[int] = []

    async def work(item: int) -> None:
        started.append(item)
        await asyncio.sleep(0)
        if item == 3:
            raise StorageNotFoundError

    with pytest.raises(StorageNotFoundError):
        await in_parallel(range(1000), work, limit=4)
    assert len(started) < 20


async def test_a_file_where_a_folder_belongs_is_not_taken_for_what_should_be_in_it(tmp_path: Path) -> None:
    repo = await new_repository(tmp_path)
    folder = stored_file(repo, "index")
    folder.rmdir()
    folder.write_bytes(b"in the way")
    with pytest.raises(StorageConflictError):
        await repo.save_raw(FileType.INDEX, b"never stored")

"""iCloud Drive: the contract, met by the unmodified pyicloud client at a loopback iCloud, and its measured traps."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
import os
import threading
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backupiq.errors import (
    BackupIQError,
    StorageAuthenticationError,
    StorageConflictError,
    StorageConnectionError,
    StorageCorruptError,
    StorageError,
    StorageNotFoundError,
    StoragePermissionError,
    StorageQuotaError,
    StorageThrottledError,
    StorageTimeoutError,
)
from backupiq.storage.icloud import ICloudConfig, ICloudProvider
from backupiq.storage.icloud_account import open_account, release
from backupiq.storage.icloud_drive import DriveStore
from backupiq.storage.icloud_folders import MAX_AGE
from backupiq.storage.icloud_names import retired_name
from backupiq.storage.provider import StorageProvider, is_temporary_key
from backupiq.storage.throttle import Limits, Throttle
from tests.providers.contract import ProviderContract, keys_of, names_in
from tests.support.servers.icloud import ICloudServer

FOLDER_NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def module_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ICloudServer]:
    with ICloudServer(tmp_path_factory.mktemp("icloud")) as server:
        yield server


@pytest.fixture
def server(module_server: ICloudServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[ICloudServer]:
    """The module's server, found by the client, and answering as it should again after the test."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(module_server.ca_file))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield module_server
    module_server.behave()


@pytest.fixture(scope="module")
def sessions(module_server: ICloudServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A trusted session that the tests share; somebody uses it all the time, so that not every test signs in."""
    folder = tmp_path_factory.mktemp("sessions") / "icloud"
    module_server.trust(folder)
    config = ICloudConfig(
        module_server.apple_id, module_server.password, session_folder=folder, endpoint=module_server.url
    )
    account = open_account(config)
    yield folder
    release(config, account)


Configure = Callable[..., ICloudConfig]


@pytest.fixture
def configure(server: ICloudServer, sessions: Path) -> Configure:
    """A configuration for a new folder, which is made unless ``make=False``."""

    def new(*, make: bool = True, **changes: Any) -> ICloudConfig:
        folder = f"backup {next(FOLDER_NUMBERS)}"
        if make:
            server.tree.make_folder("FOLDER::com.apple.CloudDocs::root", folder)
        values = {"folder": folder, "session_folder": sessions, "endpoint": server.url} | changes
        return ICloudConfig(server.apple_id, server.password, **values)

    return new


@pytest.fixture
async def provider(configure: Configure) -> AsyncIterator[ICloudProvider]:
    async with ICloudProvider(configure()) as opened:
        yield opened


@pytest.fixture
async def missing(configure: Configure) -> AsyncIterator[ICloudProvider]:
    async with ICloudProvider(configure(make=False)) as opened:
        yield opened


@pytest.fixture
async def other(provider: ICloudProvider, server: ICloudServer, tmp_path: Path) -> AsyncIterator[ICloudProvider]:
    """The same destination as another machine sees it: a session, a lock and a memory of its own."""
    server.trust(tmp_path / "other machine")
    config = provider.config
    there = ICloudConfig(
        config.apple_id,
        config.password,
        folder=config.folder,
        session_folder=tmp_path / "other machine",
        endpoint=config.endpoint,
    )
    async with ICloudProvider(there) as opened:
        yield opened


def stored(server: ICloudServer, provider: ICloudProvider) -> list[str]:
    """The names of all documents at the server, in iCloud's spelling."""
    return list(server.files(provider.config.folder))


class TestICloudProvider(ProviderContract):
    @pytest.fixture(autouse=True)
    def _server(self, server: ICloudServer) -> None:
        self.server = server

    async def unfinished(self, provider: StorageProvider) -> list[str]:
        assert isinstance(provider, ICloudProvider)
        names = [path.rpartition("/")[2] for path in stored(self.server, provider)]
        return [name for name in names if is_temporary_key(name) or " " in name]

    async def test_thousands_of_objects_are_each_listed_once(self, provider: StorageProvider) -> None:
        # iCloud's listings have no pages: a few hundred objects in several folders show as much as thousands.
        expected = sorted(f"data/{n % 4:02x}/{n:06d}" for n in range(120))
        await asyncio.gather(*(provider.upload_file(b"", key, durable=False) for key in expected))
        assert await keys_of(provider, "data") == expected


# --- what the folder looks like -------------------------------------------------------------------------------------


async def test_a_repository_lies_in_icloud_under_its_own_names(provider: ICloudProvider, server: ICloudServer) -> None:
    keys = ["config", "data/ab/" + "ab" * 32, "keys/" + "0" * 64]
    for key in keys:
        await provider.upload_file(key.encode(), key)
    assert stored(server, provider) == keys
    assert [path.read_text() for path in server.files(provider.config.folder).values()] == keys


async def test_no_name_in_icloud_has_an_extension_or_capitals(provider: ICloudProvider, server: ICloudServer) -> None:
    for key in ("a.json", "A.json", "with space", "under_score", "e\u0301", "\u00e9"):
        await provider.upload_file(key.encode(), key)
    assert len(stored(server, provider)) == 6
    for name in stored(server, provider):
        assert name.isascii()
        assert name == name.lower()
        assert "." not in name
        assert " " not in name


async def test_what_a_person_puts_into_the_folder_is_no_object(provider: ICloudProvider, server: ICloudServer) -> None:
    await provider.upload_file(b"x", "config")
    folder = server.tree.find(provider.config.folder)
    assert folder is not None
    for number, name in enumerate((".DS_Store", "Photo.JPG", "config 2", "no_escape", "config-tmp-" + "0" * 16)):
        server.tree.add_document(f"foreign-{number}-{folder.id}", folder.id, name, 0, 1.0)
    assert await keys_of(provider) == ["config"]


# --- the traps of the client ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("said_to_be_json", [False, True])
async def test_an_object_that_reads_like_an_error_of_apple_is_only_an_object(
    provider: ICloudProvider, server: ICloudServer, tmp_path: Path, said_to_be_json: bool
) -> None:
    server.json_contents = said_to_be_json
    data = json.dumps({"error": "no", "errorCode": 421, "reason": "x"}).encode()
    for key in ("config", "report.json"):
        await provider.upload_file(data, key)
        assert await provider.read(key) == data
        await provider.download_file(key, tmp_path / "target")
        assert (tmp_path / "target").read_bytes() == data


async def test_storing_again_makes_no_second_item(provider: ICloudProvider, server: ICloudServer) -> None:
    for n in range(3):
        await provider.upload_file(b"x" * n, "config")
    assert stored(server, provider) == ["config"]


@pytest.mark.parametrize("form", ["path", "bytes"])
async def test_an_upload_does_not_hold_the_file_in_memory(
    provider: ICloudProvider, server: ICloudServer, tmp_path: Path, form: str
) -> None:
    size = 24 << 20
    (tmp_path / "pack").write_bytes(bytes(size))
    source = tmp_path / "pack" if form == "path" else memoryview((tmp_path / "pack").read_bytes())
    await provider.upload_file(b"", "config")
    tracemalloc.start()
    try:
        await provider.upload_file(source, "data/ab/pack", sha256="0" * 64)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < size / 4
    assert server.files(provider.config.folder)["data/ab/pack"].stat().st_size == size


async def test_an_empty_object_is_read_without_asking_for_its_content(
    provider: ICloudProvider, server: ICloudServer, tmp_path: Path
) -> None:
    await provider.upload_file(b"", "config")
    before = len(server.requests)
    assert await provider.read("config") == b""
    await provider.download_file("config", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b""
    assert not any("download" in path or "content" in path for path in server.paths(before))


async def test_ranges_are_right_from_a_server_that_knows_none_and_through_apples_redirect(
    provider: ICloudProvider, server: ICloudServer, tmp_path: Path
) -> None:
    data = os.urandom(3 << 20)
    await provider.upload_file(data, "data/ab/x")
    for server.ranges, server.redirect in ((False, False), (True, True), (False, True)):
        assert await provider.read("data/ab/x", 2_000_000, 10) == data[2_000_000:2_000_010]
        assert await provider.read("data/ab/x", 5) == data[5:]
        await provider.download_file("data/ab/x", tmp_path / "target")
        assert (tmp_path / "target").read_bytes() == data


async def test_answers_without_names_and_etags_are_enough(provider: ICloudProvider, server: ICloudServer) -> None:
    server.tree.silent = True
    await provider.upload_file(b"one", "config")
    await provider.upload_file(b"two", "config")
    assert await provider.read("config") == b"two"
    await provider.delete_file("config")
    assert stored(server, provider) == []


async def test_a_listing_that_icloud_cut_short_is_an_error(provider: ICloudProvider, server: ICloudServer) -> None:
    for n in range(3):
        await provider.upload_file(b"x", f"keys/{n}")
    server.tree.listed_short = 1
    with pytest.raises(StorageConnectionError, match="in part"):
        await keys_of(provider)


async def test_uploads_into_a_known_folder_take_three_requests_each(
    provider: ICloudProvider, server: ICloudServer
) -> None:
    await provider.upload_file(b"x", "data/ab/first")
    before = len(server.requests)
    for n in range(5):
        await provider.upload_file(b"x", f"data/ab/{n}")
    assert len(server.requests) - before == 15


# --- replacing, and being killed on the way -------------------------------------------------------------------------


def half_replaced(server: ICloudServer, provider: ICloudProvider, key: str = "config") -> None:
    """The moment of a replacement in which no item has the key's name."""
    old = server.tree.find(f"{provider.config.folder}/{key}")
    folder = server.tree.find(provider.config.folder)
    assert old is not None
    assert folder is not None
    server.tree.rename(old.drivewsid, old.etag, retired_name(key))
    server.tree.add_document(f"new-{old.id}", folder.id, f"{key}-tmp-{0:016x}", 0, 1.0)


async def test_a_reader_finds_the_old_object_while_its_successor_takes_its_place(
    provider: ICloudProvider, other: ICloudProvider, server: ICloudServer, tmp_path: Path
) -> None:
    await provider.upload_file(b"old", "config")
    half_replaced(server, provider)
    for reader in (provider, other):
        assert await keys_of(reader) == ["config"]
        assert await reader.read("config") == b"old"
        assert (await reader.get_file_info("config")).size == 3
        await reader.download_file("config", tmp_path / "target")
        with pytest.raises(StorageConflictError):
            await reader.upload_file(b"x", "config", create_only=True)


@pytest.mark.parametrize("then", ["replace", "delete", "sweep"])
async def test_what_a_killed_replacement_left_is_put_right_by_the_next_call(
    provider: ICloudProvider, server: ICloudServer, then: str
) -> None:
    await provider.upload_file(b"old", "config")
    half_replaced(server, provider)
    if then == "replace":
        await provider.upload_file(b"new", "config")
        assert await provider.read("config") == b"new"
    elif then == "delete":
        await provider.delete_file("config")
        assert not await provider.file_exists("config")
    assert await provider.sweep_temporary_files(-5) >= 1
    assert stored(server, provider) == ([] if then == "delete" else ["config"])
    if then == "sweep":
        assert await provider.read("config") == b"old"


async def test_a_sweep_leaves_what_is_young_or_no_temporary_file(
    provider: ICloudProvider, server: ICloudServer
) -> None:
    await provider.upload_file(b"x", "config")
    half_replaced(server, provider)
    folder = server.tree.find(provider.config.folder)
    assert folder is not None
    server.tree.add_document(f"young-{folder.id}", folder.id, "young-tmp-" + "a" * 16, 0, 2e9)
    names = stored(server, provider)
    async with ICloudProvider(provider.config, clock=lambda: 1_000.0) as then:
        assert await then.sweep_temporary_files(999.5) == 0
        assert stored(server, provider) == names
        assert await then.sweep_temporary_files(10) == 1


@pytest.mark.parametrize("passing", [0, 1])
@pytest.mark.parametrize("how", ["status", "hang up", "second name"])
async def test_a_replacement_that_fails_at_any_step_keeps_the_old_or_has_the_new_object(
    provider: ICloudProvider, other: ICloudProvider, server: ICloudServer, passing: int, how: str
) -> None:
    await provider.upload_file(b"old", "config")
    if how == "second name":
        server.tree.rename_makes_second = True
    server.fail_next("renameItems", 500, times=1, skip=passing, hang_up=how == "hang up")
    with pytest.raises(StorageConnectionError):
        await provider.upload_file(b"new", "config")
    assert await other.read("config") == b"old"
    assert await keys_of(other) == ["config"]
    await provider.upload_file(b"newer", "config")
    assert await other.read("config") == b"newer"
    assert stored(server, provider) == ["config"]


@pytest.mark.parametrize(("endpoint", "skip"), [("update/documents", 0), ("renameItems", 0), ("renameItems", 1)])
async def test_a_step_whose_answer_was_lost_counts_or_is_done_again(
    provider: ICloudProvider, other: ICloudProvider, server: ICloudServer, endpoint: str, skip: int
) -> None:
    await provider.upload_file(b"old", "config")
    server.fail_next(endpoint, 0, skip=skip, hang_up=True, after=True)
    with contextlib.suppress(StorageConnectionError):
        await provider.upload_file(b"new", "config")
    assert await other.read("config") in (b"old", b"new")
    await provider.upload_file(b"newer", "config")
    assert await other.read("config") == b"newer"
    await provider.sweep_temporary_files(-5)
    assert stored(server, provider) == ["config"]


async def test_a_key_that_must_be_new_is_ours_when_only_the_answer_was_lost(
    provider: ICloudProvider, server: ICloudServer
) -> None:
    server.fail_next("update/documents", 0, hang_up=True, after=True)
    await provider.upload_file(b"ours", "config", create_only=True)
    assert await provider.read("config") == b"ours"
    assert stored(server, provider) == ["config"]


# --- other machines -------------------------------------------------------------------------------------------------


async def test_changes_by_another_machine_are_seen(provider: ICloudProvider, other: ICloudProvider) -> None:
    await provider.upload_file(b"one", "config")
    await provider.upload_file(b"x", "locks/l")
    assert await other.read("config") == b"one"
    await other.upload_file(b"two!", "config")
    assert await provider.read("config") == b"two!"  # by its name, though the item is another one now
    await other.upload_file(b"y", "locks/m")
    assert await provider.read("locks/m") == b"y"
    assert await keys_of(provider, "locks") == ["locks/l", "locks/m"]
    await other.upload_file(b"three", "config")
    await provider.upload_file(b"four", "config")
    await other.delete_file("config")
    with pytest.raises(StorageNotFoundError):
        await provider.delete_file("config")
    with pytest.raises(StorageNotFoundError):
        await provider.read("config")
    assert await keys_of(provider) == await keys_of(other) == ["locks/l", "locks/m"]


async def test_a_folder_that_another_machine_made_meanwhile_is_used(
    provider: ICloudProvider, other: ICloudProvider, server: ICloudServer
) -> None:
    await provider.upload_file(b"x", "config")
    server.before_next("createFolders", lambda: make_folder(server, provider, "data"))
    await provider.upload_file(b"x", "data/ab/x")
    assert await keys_of(other) == ["config", "data/ab/x"]
    folder = server.tree.find(provider.config.folder)
    assert folder is not None
    assert sorted(node.name for node in server.tree.children(folder.id)) == ["config", "data"]


def make_folder(server: ICloudServer, provider: ICloudProvider, name: str) -> None:
    folder = server.tree.find(provider.config.folder)
    assert folder is not None
    server.tree.make_folder(folder.drivewsid, name)


@pytest.mark.parametrize("create_only", [False, True])
async def test_a_key_that_another_machine_made_in_the_last_moment_is_not_doubled(
    provider: ICloudProvider, other: ICloudProvider, server: ICloudServer, create_only: bool
) -> None:
    await provider.upload_file(b"x", "keys/k")  # so that both know the folder
    assert await keys_of(other) == ["keys/k"]
    loop = asyncio.get_running_loop()

    def be_faster() -> None:
        asyncio.run_coroutine_threadsafe(other.upload_file(b"theirs", "keys/raced"), loop).result(30)

    server.before_next("update/documents", be_faster)
    if create_only:
        with pytest.raises(StorageConflictError):
            await provider.upload_file(b"ours", "keys/raced", create_only=True)
    else:
        await provider.upload_file(b"ours", "keys/raced")
    assert await other.read("keys/raced") == (b"theirs" if create_only else b"ours")
    assert stored(server, provider) == ["keys/k", "keys/raced"]


async def test_a_destination_that_was_trashed_takes_no_more_uploads(
    provider: ICloudProvider, server: ICloudServer
) -> None:
    now = [1000.0]
    provider._store = DriveStore(provider.config, clock=lambda: now[0])
    await provider.upload_file(b"x", "data/ab/x")
    folder = server.tree.find(provider.config.folder)
    assert folder is not None
    server.tree.trash(folder.drivewsid, folder.etag)
    now[0] += MAX_AGE + 1
    for call in (provider.upload_file(b"y", "data/ab/y"), keys_of(provider, "data"), provider.authenticate()):
        with pytest.raises(StorageNotFoundError, match="backupiq init"):
            await call
    await provider.create()
    await provider.upload_file(b"z", "data/ab/z")
    assert stored(server, provider) == ["data/ab/z"]


async def test_a_destination_that_is_a_file_is_refused(provider: ICloudProvider, server: ICloudServer) -> None:
    server.tree.add_document("a-file", "root", "just a file", 0, 1.0)
    config = ICloudConfig(
        server.apple_id,
        server.password,
        folder="just a file",
        session_folder=provider.config.session_folder,
        endpoint=server.url,
    )
    async with ICloudProvider(config) as wrong:
        with pytest.raises(StorageNotFoundError):
            await wrong.authenticate()
        with pytest.raises(StorageConflictError):
            await wrong.create()


# --- errors ---------------------------------------------------------------------------------------------------------

STATUSES: list[tuple[int, type[StorageError]]] = [
    (400, StorageConnectionError),
    (403, StoragePermissionError),
    (404, StorageNotFoundError),
    (408, StorageTimeoutError),
    (423, StoragePermissionError),
    (429, StorageThrottledError),
    (500, StorageConnectionError),
    (502, StorageConnectionError),
    (503, StorageThrottledError),
    (504, StorageTimeoutError),
    (507, StorageQuotaError),
]


@pytest.mark.parametrize(("status", "expected"), STATUSES)
@pytest.mark.parametrize("endpoint", ["upload/web", "content", "update/documents"])
async def test_an_upload_that_icloud_refuses_says_why_and_leaves_nothing(
    provider: ICloudProvider, server: ICloudServer, endpoint: str, status: int, expected: type[StorageError]
) -> None:
    server.fail_next(endpoint, status, retry_after=7)
    with pytest.raises(StorageError) as caught:
        await provider.upload_file(b"x", "data/ab/x")
    assert type(caught.value) is expected
    assert caught.value.details["status"] == status
    if expected is StorageThrottledError:
        assert caught.value.details["retry_after"] == 7.0
    assert stored(server, provider) == []
    await provider.upload_file(b"x", "data/ab/x")


@pytest.mark.parametrize(("status", "expected"), STATUSES)
async def test_a_download_that_icloud_refuses_says_why_and_leaves_the_target(
    provider: ICloudProvider, server: ICloudServer, tmp_path: Path, status: int, expected: type[StorageError]
) -> None:
    await provider.upload_file(b"x", "data/ab/x")
    for endpoint in ("download/by_id", "content"):
        server.fail_next(endpoint, status, times=2, retry_after=7)
        with pytest.raises(expected) as caught:
            await provider.download_file("data/ab/x", tmp_path / "target")
        server.behave()
        assert type(caught.value) is expected
        assert names_in(tmp_path) == []


async def test_advanced_data_protection_is_explained(provider: ICloudProvider, server: ICloudServer) -> None:
    server.fail_next("retrieveItemDetailsInFolders", 423, times=9)
    with pytest.raises(StoragePermissionError, match="Access iCloud Data on the Web"):
        await provider.authenticate()


async def test_a_withdrawn_service_is_a_lasting_error(provider: ICloudProvider, server: ICloudServer) -> None:
    server.fail_next("upload/web", 410)
    with pytest.raises(StorageError, match="pyicloud") as caught:
        await provider.upload_file(b"x", "config")
    assert not caught.value.retryable


@pytest.mark.parametrize("endpoint", ["upload/web", "content", "update/documents", "retrieveItemDetailsInFolders"])
async def test_a_connection_that_ends_is_worth_a_retry(
    provider: ICloudProvider, server: ICloudServer, endpoint: str
) -> None:
    server.fail_next(endpoint, 0, hang_up=True)
    with pytest.raises(StorageConnectionError) as caught:
        await provider.upload_file(b"x", "data/ab/x")
    assert caught.value.retryable
    await provider.upload_file(b"x", "data/ab/x")
    assert stored(server, provider) == ["data/ab/x"]


async def test_a_server_that_does_not_answer_is_given_up(configure: Configure, server: ICloudServer) -> None:
    go_on = threading.Event()

    def hold() -> None:
        go_on.wait(30)
        raise ConnectionError

    async with ICloudProvider(configure(read_seconds=0.2)) as hasty:
        await hasty.authenticate()
        server.before_next("upload/web", hold)
        try:
            with pytest.raises(StorageTimeoutError):
                await hasty.upload_file(b"x", "config")
        finally:
            go_on.set()


@pytest.mark.parametrize("document", [{}, {"singleFile": 5}, ["x"]])
async def test_an_answer_of_another_shape_is_trouble_on_the_way(
    provider: ICloudProvider, server: ICloudServer, document: Any
) -> None:
    server.fail_next("upload/web", 200, document=document)
    with pytest.raises(StorageConnectionError, match="not understood"):
        await provider.upload_file(b"x", "config")
    assert stored(server, provider) == []


async def test_a_full_account_is_reported_and_its_space_is_asked_for_anew(
    provider: ICloudProvider, server: ICloudServer
) -> None:
    before = await provider.check_space()
    assert before.total_bytes == server.total_bytes
    await provider.upload_file(bytes(1000), "config")
    after = await provider.check_space()
    assert after.used_bytes is not None
    assert before.used_bytes is not None
    assert after.used_bytes - before.used_bytes == 1000
    server.total_bytes = after.used_bytes + 10
    assert (await provider.check_space()).free_bytes == 10
    with pytest.raises(StorageQuotaError, match="full"):
        await provider.upload_file(bytes(11), "data/ab/x")
    assert stored(server, provider) == ["config"]


async def test_a_flipped_bit_is_noticed_by_the_name(
    provider: ICloudProvider, server: ICloudServer, tmp_path: Path
) -> None:
    data = os.urandom(3000)
    key = f"data/ab/{hashlib.sha256(data).hexdigest()}"
    await provider.upload_file(data, key)
    content = server.files(provider.config.folder)[key]
    content.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(StorageCorruptError):
        await provider.download_file(key, tmp_path / "target")
    content.write_bytes(data[:-1])
    with pytest.raises(StorageError):
        await provider.download_file(key, tmp_path / "target")
    assert names_in(tmp_path) == []


async def test_a_download_that_ends_early_is_worth_a_retry(
    provider: ICloudProvider, server: ICloudServer, tmp_path: Path
) -> None:
    await provider.upload_file(os.urandom(100_000), "data/ab/x")
    server.cut_contents_at = 50_000
    with pytest.raises(StorageConnectionError):
        await provider.download_file("data/ab/x", tmp_path / "target")
    with pytest.raises(StorageConnectionError):
        await provider.read("data/ab/x")
    assert names_in(tmp_path) == []


async def test_errors_tell_neither_apples_answer_nor_the_account(
    provider: ICloudProvider, server: ICloudServer
) -> None:
    server.fail_next("upload/web", 400, document={"reason": "secret of 1234567890", "dsid": "1234567890"})
    with pytest.raises(BackupIQError) as caught:
        await provider.upload_file(b"x", "config")
    told = f"{caught.value.message} {caught.value.details} {caught.value.__cause__}"
    for private in ("1234567890", server.apple_id, server.password):
        assert private not in told


# --- sessions that end ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["end_web_sessions", "end_sessions"])
async def test_a_session_that_ended_is_renewed_silently_in_the_middle_of_a_run(
    provider: ICloudProvider, server: ICloudServer, ending: str, tmp_path: Path
) -> None:
    await provider.upload_file(b"x", "config")
    sent: list[int] = []
    for call in (
        lambda: provider.upload_file(bytes(5000), "data/ab/x", progress=sent.append),
        lambda: provider.download_file("config", tmp_path / "target"),
        lambda: keys_of(provider),
        lambda: provider.check_space(),
    ):
        getattr(server.accounts, ending)()
        await call()
    assert sum(sent) == 5000
    assert server.accounts.codes_sent == 0


@pytest.mark.parametrize("status", [421, 450])
async def test_a_session_that_cannot_be_renewed_asks_for_a_sign_in(
    provider: ICloudProvider, server: ICloudServer, status: int
) -> None:
    await provider.upload_file(b"x", "config")
    server.fail_next("upload/web", status, times=9)
    with pytest.raises(StorageAuthenticationError, match="backupiq providers login icloud:/backup"):
        await provider.upload_file(b"x", "data/ab/x")
    assert server.paths().count("/docws/ws/com.apple.CloudDocs/upload/web") < 500


# --- limits and company ---------------------------------------------------------------------------------------------


async def test_limits_of_bandwidth_hold_for_both_directions(configure: Configure, tmp_path: Path) -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    def throttle() -> Throttle:
        return Throttle(100_000, clock=lambda: now[0], thread_sleep=sleep)

    async with ICloudProvider(configure(), limits=Limits(throttle(), throttle())) as limited:
        await limited.upload_file(bytes(1_000_000), "data/ab/x")
        assert now[0] >= 9
        await limited.download_file("data/ab/x", tmp_path / "target")
        assert now[0] >= 18
        await limited.read("data/ab/x")
        assert now[0] >= 27


async def test_destinations_of_one_account_share_one_thread_and_one_session(
    configure: Configure, server: ICloudServer
) -> None:
    before = len(server.requests)
    threads: set[str] = set()

    def watch(moved: int) -> None:
        threads.add(threading.current_thread().name)

    async with ICloudProvider(configure()) as one, ICloudProvider(configure()) as two:
        await asyncio.gather(
            *(p.upload_file(b"x", f"data/ab/{n}", progress=watch) for p in (one, two) for n in range(4))
        )
        assert one.identity != two.identity
    assert len(threads) == 1
    assert not any("accountLogin" in path for path in server.paths(before))


def test_capabilities_promise_no_creation_between_machines(configure: Configure) -> None:
    can = ICloudProvider(configure(make=False)).capabilities
    assert not can.create_only
    assert can.atomic_writes
    assert can.directories

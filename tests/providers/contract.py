"""The contract of every storage provider, run by each of them against its real server.

A provider's test module subclasses `ProviderContract` and gives it three fixtures and one question:

* ``provider``: an empty destination that is ready for use,
* ``missing``: a provider whose destination (folder, bucket) does not exist and may be created,
* `unfinished`: what uploads that did not complete have left at the destination (names, in any form).
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from backupiq.errors import (
    BackupIQError,
    StorageConflictError,
    StorageCorruptError,
    StorageNotFoundError,
    ValidationError,
)
from backupiq.storage.provider import StorageProvider

LARGE = 9 * 1024 * 1024 + 123  # over 8 MiB, where providers begin to send in parts
MANY = 2500  # over two pages of S3's listing

ODD_KEYS = [
    "with space",
    "plus+and%20percent",
    "question?and#hash&amp;",
    "ünïcödé/日本語/😀",
    "quotes'\"`",
    ".hidden/.file",
    "data/ab/" + "a" * 200,
    "-dash",
    "~tilde$HOME*[x]{y}",
    "e\u0301 is not \u00e9",
    "...",
    "a-tmp-x",
]
HOSTILE_KEYS = [
    "",
    "..",
    "../x",
    "a/../b",
    "a/..",
    "/x",
    "//x",
    "a//b",
    "a/",
    "./a",
    "a/./b",
    ".",
    "nul\0byte",
    "new\nline",
    "escape\x1b[31m",
    "surrogate\udc80",
    "config-tmp-0123456789abcdef",
    "config-tmp-12345",
    "folder-tmp-0/x",
    "k" * 1025,
]

Call = Callable[[StorageProvider, str, Path], object]
CALLS: dict[str, Call] = {
    "upload_file": lambda p, key, folder: p.upload_file(b"x", key),
    "download_file": lambda p, key, folder: p.download_file(key, folder / "target"),
    "read": lambda p, key, folder: p.read(key),
    "delete_file": lambda p, key, folder: p.delete_file(key),
    "file_exists": lambda p, key, folder: p.file_exists(key),
    "get_file_info": lambda p, key, folder: p.get_file_info(key),
    "create_directory": lambda p, key, folder: p.create_directory(key),
    "delete_directory": lambda p, key, folder: p.delete_directory(key),
}


async def keys_of(provider: StorageProvider, prefix: str = "") -> list[str]:
    """Every key listed, sorted; a key listed twice stays in twice."""
    return sorted([info.key async for info in provider.list_files(prefix)])


def names_in(folder: Path) -> list[str]:
    """The names in a folder of this machine, sorted."""
    return sorted(os.listdir(folder))


class Interrupt:
    """A progress function that cancels a task at its first call and lets the transfer go on only after that."""

    def __init__(self) -> None:
        self.task: asyncio.Task[object] | None = None
        self._loop = asyncio.get_running_loop()
        self._cancelled = threading.Event()

    def __call__(self, moved: int) -> None:
        assert self.task is not None
        if threading.current_thread() is threading.main_thread():
            self.task.cancel()
            return
        asyncio.run_coroutine_threadsafe(self._cancel(self.task), self._loop)
        assert self._cancelled.wait(30)

    async def _cancel(self, task: asyncio.Task[object]) -> None:
        task.cancel()
        for _ in range(10):  # rounds of the loop in which the cancellation reaches the provider
            await asyncio.sleep(0)
        self._cancelled.set()


class ProviderContract:
    """Subclass it as ``Test...``; see the module's docstring for what to add."""

    async def unfinished(self, provider: StorageProvider) -> list[str]:
        """What incomplete uploads have left at the destination."""
        raise NotImplementedError

    # --- the destination itself ----------------------------------------------------------------------------------

    async def test_a_ready_destination_authenticates_and_says_what_it_is(self, provider: StorageProvider) -> None:
        info = await provider.authenticate()
        assert info.provider == provider.kind
        assert info.location == provider.location
        assert await provider.check_space() is not None

    async def test_space_is_given_in_whole_bytes_or_not_at_all(self, provider: StorageProvider) -> None:
        info = await provider.check_space()
        for count in (info.total_bytes, info.used_bytes, info.free_bytes):
            assert count is None or (isinstance(count, int) and count >= 0)

    async def test_a_missing_destination_is_not_found_until_it_is_created(self, missing: StorageProvider) -> None:
        with pytest.raises(StorageNotFoundError):
            await missing.authenticate()
        await missing.create()
        await missing.authenticate()
        await missing.create()
        assert await keys_of(missing) == []

    async def test_a_missing_destination_does_not_look_empty(self, missing: StorageProvider) -> None:
        with pytest.raises(StorageNotFoundError):
            await keys_of(missing)
        with pytest.raises(StorageNotFoundError):
            await keys_of(missing, "data")

    async def test_an_upload_never_makes_a_missing_destination(self, missing: StorageProvider) -> None:
        with pytest.raises(StorageNotFoundError):
            await missing.upload_file(b"x", "data/ab/x")
        with pytest.raises(StorageNotFoundError):
            await missing.authenticate()

    # --- storing and reading -------------------------------------------------------------------------------------

    @pytest.mark.parametrize("size", [0, 1, 4096, LARGE])
    @pytest.mark.parametrize("form", ["bytes", "memoryview", "path"])
    async def test_what_is_stored_is_read_back(
        self, provider: StorageProvider, tmp_path: Path, size: int, form: str
    ) -> None:
        data = os.urandom(size)
        (tmp_path / "source").write_bytes(data)
        source = {"bytes": data, "memoryview": memoryview(data), "path": tmp_path / "source"}[form]
        digest = hashlib.sha256(data).hexdigest()

        stored = await provider.upload_file(source, "data/ab/object")
        assert (stored.key, stored.size, stored.sha256) == ("data/ab/object", size, digest)
        assert stored.seconds >= 0
        assert (tmp_path / "source").read_bytes() == data

        assert await provider.read("data/ab/object") == data
        fetched = await provider.download_file("data/ab/object", tmp_path / "target")
        assert (fetched.key, fetched.size, fetched.sha256) == ("data/ab/object", size, digest)
        assert (tmp_path / "target").read_bytes() == data

    async def test_a_memoryview_of_wider_items_is_stored_as_its_bytes(self, provider: StorageProvider) -> None:
        view = memoryview(bytes(range(16))).cast("I")
        assert (await provider.upload_file(view, "wide")).size == 16
        assert await provider.read("wide") == bytes(range(16))

    @pytest.mark.parametrize("create_only", [False, True])
    @pytest.mark.parametrize("durable", [False, True])
    async def test_a_source_may_be_moved_into_place(
        self, provider: StorageProvider, tmp_path: Path, create_only: bool, durable: bool
    ) -> None:
        data = os.urandom(5000)
        source = tmp_path / "spooled"
        source.write_bytes(data)
        moved: list[int] = []
        stored = await provider.upload_file(
            source, "data/ab/moved", move=True, create_only=create_only, durable=durable, progress=moved.append
        )
        await provider.flush()
        assert (stored.size, stored.sha256) == (5000, hashlib.sha256(data).hexdigest())
        assert sum(moved) == 5000
        assert await provider.read("data/ab/moved") == data
        assert await self.unfinished(provider) == []

    async def test_a_hash_the_caller_knows_is_taken_over(self, provider: StorageProvider) -> None:
        digest = hashlib.sha256(b"known").hexdigest()
        assert (await provider.upload_file(b"known", "known", sha256=digest)).sha256 == digest

    async def test_storing_again_replaces_the_whole_object(self, provider: StorageProvider) -> None:
        await provider.upload_file(b"a longer first version", "config")
        await provider.upload_file(b"short", "config")
        assert await provider.read("config") == b"short"
        assert await keys_of(provider) == ["config"]

    async def test_create_only_keeps_what_is_there(self, provider: StorageProvider, tmp_path: Path) -> None:
        await provider.upload_file(b"first", "config", create_only=True)
        (tmp_path / "second").write_bytes(b"second")
        for source, move in ((b"second", False), (tmp_path / "second", False), (tmp_path / "second", True)):
            with pytest.raises(StorageConflictError):
                await provider.upload_file(source, "config", create_only=True, move=move)
        assert await provider.read("config") == b"first"
        assert await self.unfinished(provider) == []

    async def test_of_many_creators_at_once_exactly_one_wins(self, provider: StorageProvider) -> None:
        contents = [bytes([n]) * 70_000 for n in range(8)]
        results = await asyncio.gather(
            *(provider.upload_file(data, "data/ab/raced", create_only=True) for data in contents),
            return_exceptions=True,
        )
        winners = [n for n, result in enumerate(results) if not isinstance(result, BaseException)]
        assert len(winners) == 1
        assert all(isinstance(r, StorageConflictError) for n, r in enumerate(results) if n not in winners)
        assert await provider.read("data/ab/raced") == contents[winners[0]]
        assert await self.unfinished(provider) == []

    async def test_parallel_uploads_do_not_disturb_each_other(self, provider: StorageProvider) -> None:
        contents = {f"data/{n % 4:02x}/{n}": os.urandom(1000 + n) for n in range(64)}
        async with asyncio.TaskGroup() as group:
            for key, data in contents.items():
                group.create_task(provider.upload_file(data, key, durable=False))
        await provider.flush()
        assert await keys_of(provider) == sorted(contents)
        read = await asyncio.gather(*(provider.read(key) for key in contents))
        assert list(read) == list(contents.values())

    async def test_many_writers_of_one_key_leave_one_of_their_objects_whole(self, provider: StorageProvider) -> None:
        contents = [bytes([n]) * 200_000 for n in range(6)]
        await asyncio.gather(*(provider.upload_file(data, "config") for data in contents))
        assert await provider.read("config") in contents
        assert await self.unfinished(provider) == []

    # --- ranges --------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("offset", "length"),
        [(0, 0), (0, 1), (0, 10_000), (1, 9_999), (5_000, 100), (9_999, 1), (10_000, 0), (3, None), (10_000, None)],
    )
    async def test_a_range_is_read(self, provider: StorageProvider, offset: int, length: int | None) -> None:
        data = os.urandom(10_000)
        await provider.upload_file(data, "ranged")
        expected = data[offset:] if length is None else data[offset : offset + length]
        assert await provider.read("ranged", offset, length) == expected

    @pytest.mark.parametrize(
        ("offset", "length"),
        [(0, 10_001), (9_999, 2), (10_000, 1), (10_001, 0), (20_000, 5), (10_001, None), (0, 1 << 50)],
    )
    async def test_a_range_beyond_the_end_is_reported(
        self, provider: StorageProvider, offset: int, length: int | None
    ) -> None:
        await provider.upload_file(bytes(10_000), "ranged")
        with pytest.raises(StorageCorruptError):
            await provider.read("ranged", offset, length)

    @pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, -1)])
    async def test_a_negative_range_is_refused(self, provider: StorageProvider, offset: int, length: int) -> None:
        await provider.upload_file(b"abc", "ranged")
        with pytest.raises(ValidationError):
            await provider.read("ranged", offset, length)

    # --- listing -------------------------------------------------------------------------------------------------

    async def test_an_empty_destination_lists_nothing(self, provider: StorageProvider) -> None:
        assert await keys_of(provider) == []
        assert await keys_of(provider, "data") == []

    async def test_a_listing_goes_into_folders_and_tells_sizes(self, provider: StorageProvider) -> None:
        for key in ("config", "data/ab/abc", "data/cd/cde", "data/top", "database/x", "keys/k"):
            await provider.upload_file(key.encode(), key)
        assert await keys_of(provider) == ["config", "data/ab/abc", "data/cd/cde", "data/top", "database/x", "keys/k"]
        for prefix in ("data", "data/"):
            assert await keys_of(provider, prefix) == ["data/ab/abc", "data/cd/cde", "data/top"]
        assert await keys_of(provider, "data/ab") == ["data/ab/abc"]
        assert await keys_of(provider, "dat") == []
        assert {info.size async for info in provider.list_files("keys")} == {len("keys/k")}

    async def test_thousands_of_objects_are_each_listed_once(self, provider: StorageProvider) -> None:
        expected = sorted(f"data/{n % 16:02x}/{n:06d}" for n in range(MANY))
        limit = asyncio.Semaphore(16)

        async def store(key: str) -> None:
            async with limit:
                await provider.upload_file(b"", key, durable=False)

        await asyncio.gather(*map(store, expected))
        assert await keys_of(provider, "data") == expected

    async def test_a_listing_may_be_left_early(self, provider: StorageProvider) -> None:
        for n in range(3):
            await provider.upload_file(b"x", f"keys/{n}")
        async for _ in provider.list_files():
            break
        assert len(await keys_of(provider)) == 3

    # --- asking and deleting -------------------------------------------------------------------------------------

    async def test_an_object_tells_its_size_and_a_time(self, provider: StorageProvider) -> None:
        await provider.upload_file(b"12345", "keys/k")
        info = await provider.get_file_info("keys/k")
        assert (info.key, info.size) == ("keys/k", 5)
        assert info.modified_ns is None or info.modified_ns > 1_600_000_000 * 10**9
        assert [found async for found in provider.list_files()] == [info]

    async def test_a_deleted_object_is_gone_and_may_come_back(self, provider: StorageProvider) -> None:
        await provider.upload_file(b"x", "locks/l")
        assert await provider.file_exists("locks/l")
        await provider.delete_file("locks/l")
        assert not await provider.file_exists("locks/l")
        assert await keys_of(provider) == []
        await provider.upload_file(b"y", "locks/l", create_only=True)
        assert await provider.read("locks/l") == b"y"

    @pytest.mark.parametrize("call", ["download_file", "read", "delete_file", "get_file_info"])
    @pytest.mark.parametrize("key", ["absent", "data/absent", "keys/k/below-an-object", "keys"])
    async def test_what_is_not_there_is_not_found(
        self, provider: StorageProvider, tmp_path: Path, call: str, key: str
    ) -> None:
        await provider.upload_file(b"x", "keys/k")
        with pytest.raises(StorageNotFoundError):
            await CALLS[call](provider, key, tmp_path)  # type: ignore[misc]
        assert not await provider.file_exists(key)
        assert await keys_of(provider) == ["keys/k"]
        assert names_in(tmp_path) == []

    # --- names ---------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("key", ODD_KEYS)
    async def test_an_odd_key_is_only_a_name(self, provider: StorageProvider, tmp_path: Path, key: str) -> None:
        data = key.encode()
        await provider.upload_file(data, key, create_only=True)
        assert await keys_of(provider) == [key]
        assert await provider.read(key, 1) == data[1:]
        assert (await provider.get_file_info(key)).key == key
        await provider.download_file(key, tmp_path / "target")
        assert (tmp_path / "target").read_bytes() == data
        await provider.delete_file(key)
        assert await keys_of(provider) == []

    @pytest.mark.parametrize("call", CALLS)
    @pytest.mark.parametrize("key", HOSTILE_KEYS)
    async def test_a_hostile_key_is_refused_by_every_call(
        self, provider: StorageProvider, tmp_path: Path, call: str, key: str
    ) -> None:
        with pytest.raises(ValidationError):
            await CALLS[call](provider, key, tmp_path)  # type: ignore[misc]
        assert await keys_of(provider) == []
        assert await self.unfinished(provider) == []

    @pytest.mark.parametrize("prefix", ["..", "../x", "/x", "/", "a//b", "a/../b", "a//"])
    async def test_a_hostile_prefix_is_refused(self, provider: StorageProvider, prefix: str) -> None:
        with pytest.raises(ValidationError):
            await keys_of(provider, prefix)

    # --- progress, atomicity, cancellation -----------------------------------------------------------------------

    @pytest.mark.parametrize("form", ["bytes", "path", "path with known hash"])
    async def test_progress_adds_up_to_the_size(self, provider: StorageProvider, tmp_path: Path, form: str) -> None:
        data = os.urandom(LARGE)
        (tmp_path / "source").write_bytes(data)
        sent: list[int] = []
        received: list[int] = []
        await provider.upload_file(
            data if form == "bytes" else tmp_path / "source",
            "data/ab/large",
            sha256=hashlib.sha256(data).hexdigest() if "known" in form else None,
            progress=sent.append,
        )
        await provider.download_file("data/ab/large", tmp_path / "target", progress=received.append)
        assert sum(sent) == sum(received) == LARGE
        assert min(sent + received) >= 0
        assert len(received) > 1
        assert (tmp_path / "target").read_bytes() == data

    async def test_a_download_is_private_and_replaces_its_target_whole(
        self, provider: StorageProvider, tmp_path: Path
    ) -> None:
        await provider.upload_file(b"new", "keys/k")
        target = tmp_path / "target"
        target.write_bytes(b"the old and longer content")
        target.chmod(0o644)
        await provider.download_file("keys/k", target)
        assert target.read_bytes() == b"new"
        if os.name != "nt":
            assert stat.S_IMODE(target.stat().st_mode) == 0o600
        assert names_in(tmp_path) == ["target"]

    async def test_a_cancelled_download_leaves_the_target_as_it_was(
        self, provider: StorageProvider, tmp_path: Path
    ) -> None:
        await provider.upload_file(bytes(LARGE), "data/ab/large")
        target = tmp_path / "target"
        target.write_bytes(b"old")
        interrupt = Interrupt()
        task = asyncio.create_task(provider.download_file("data/ab/large", target, progress=interrupt))
        interrupt.task = task
        with pytest.raises(asyncio.CancelledError):
            await task
        assert target.read_bytes() == b"old"
        assert names_in(tmp_path) == ["target"]

    @pytest.mark.parametrize("form", ["bytes", "path", "path with known hash"])
    @pytest.mark.parametrize("create_only", [False, True])
    async def test_a_cancelled_upload_leaves_nothing(
        self, provider: StorageProvider, tmp_path: Path, form: str, create_only: bool
    ) -> None:
        (tmp_path / "source").write_bytes(bytes(LARGE))
        interrupt = Interrupt()
        task = asyncio.create_task(
            provider.upload_file(
                bytes(LARGE) if form == "bytes" else tmp_path / "source",
                "data/ab/large",
                create_only=create_only,
                sha256="0" * 64 if "known" in form else None,
                progress=interrupt,
            )
        )
        interrupt.task = task
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not await provider.file_exists("data/ab/large")
        assert await keys_of(provider) == []
        assert await self.unfinished(provider) == []
        await provider.upload_file(b"again", "data/ab/large", create_only=True)

    async def test_a_cancelled_replacement_keeps_the_old_object(self, provider: StorageProvider) -> None:
        await provider.upload_file(b"old", "config")
        interrupt = Interrupt()
        interrupt.task = asyncio.create_task(provider.upload_file(bytes(LARGE), "config", progress=interrupt))
        with pytest.raises(asyncio.CancelledError):
            await interrupt.task
        assert await provider.read("config") == b"old"
        assert await self.unfinished(provider) == []

    async def test_an_upload_whose_progress_fails_leaves_nothing(self, provider: StorageProvider) -> None:
        def fail(moved: int) -> None:
            raise BackupIQError("the watcher failed")

        with pytest.raises(BackupIQError, match="watcher"):
            await provider.upload_file(bytes(LARGE), "data/ab/large", progress=fail)
        assert await keys_of(provider) == []
        assert await self.unfinished(provider) == []

    async def test_an_upload_without_its_source_leaves_nothing(self, provider: StorageProvider, tmp_path: Path) -> None:
        for move in (False, True):
            with pytest.raises(BackupIQError):
                await provider.upload_file(tmp_path / "absent", "data/ab/x", move=move)
        assert await keys_of(provider) == []
        assert await self.unfinished(provider) == []

    # --- folders -------------------------------------------------------------------------------------------------

    async def test_a_folder_is_made_twice_and_is_no_object(self, provider: StorageProvider) -> None:
        await provider.create_directory("data/ab")
        await provider.create_directory("data/ab")
        assert await keys_of(provider) == []
        assert not await provider.file_exists("data/ab")
        await provider.upload_file(b"x", "data/ab/x")
        assert await keys_of(provider, "data/ab") == ["data/ab/x"]

    async def test_a_folder_is_removed_only_when_empty(self, provider: StorageProvider) -> None:
        await provider.upload_file(b"x", "data/ab/x")
        with pytest.raises(StorageConflictError):
            await provider.delete_directory("data/ab")
        assert await keys_of(provider) == ["data/ab/x"]
        await provider.delete_file("data/ab/x")
        if provider.capabilities.directories:
            await provider.delete_directory("data/ab")
            with pytest.raises(StorageNotFoundError):
                await provider.delete_directory("data/ab")

    async def test_an_object_and_a_folder_of_one_name_conflict_where_folders_are_things(
        self, provider: StorageProvider
    ) -> None:
        if not provider.capabilities.directories:
            pytest.skip("folders are no things of their own here")
        await provider.upload_file(b"x", "keys/k")
        for key in ("keys", "keys/k/below"):
            with pytest.raises(StorageConflictError):
                await provider.upload_file(b"y", key)
        with pytest.raises(StorageConflictError):
            await provider.create_directory("keys/k")
        assert await provider.read("keys/k") == b"x"
        assert await self.unfinished(provider) == []

    # --- closing -------------------------------------------------------------------------------------------------

    async def test_a_provider_may_be_closed_twice_and_serves_as_a_context(self, provider: StorageProvider) -> None:
        async with provider as same:
            assert same is provider
            await same.upload_file(b"x", "config")
        await provider.close()

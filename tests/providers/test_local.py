"""The local provider: the contract, and what only a disk can show."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import errno
import os
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from backupiq.errors import (
    DiskFullError,
    RestoreConflictError,
    StorageConflictError,
    StorageError,
    StorageNotFoundError,
    StoragePermissionError,
    StorageQuotaError,
)
from backupiq.storage import disk
from backupiq.storage.local import LocalProvider
from backupiq.storage.provider import StorageProvider
from tests.providers.contract import ProviderContract, keys_of

posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")


@pytest.fixture
async def provider(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalProvider]:
    async with LocalProvider(tmp_path_factory.mktemp("destination")) as opened:
        yield opened


@pytest.fixture
async def missing(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalProvider]:
    async with LocalProvider(tmp_path_factory.mktemp("parent") / "not" / "there") as opened:
        yield opened


def temporary_files(provider: LocalProvider) -> list[str]:
    return [path.name for path in provider.root.rglob("*-tmp-*") if path.name != "a-tmp-x"]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


class TestLocalProvider(ProviderContract):
    async def unfinished(self, provider: StorageProvider) -> list[str]:
        assert isinstance(provider, LocalProvider)
        return temporary_files(provider)


class TestLocalProviderWithoutLinks(ProviderContract):
    """The same on a file system that has no hard links, such as exFAT."""

    @pytest.fixture(autouse=True)
    def without_links(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*args: object, **kwargs: object) -> None:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(os, "link", refuse)

    async def unfinished(self, provider: StorageProvider) -> list[str]:
        assert isinstance(provider, LocalProvider)
        return temporary_files(provider)


# --- the root ------------------------------------------------------------------------------------------------------


async def test_a_file_in_the_place_of_the_root_is_no_destination(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        async with LocalProvider(root) as provider:
            with pytest.raises(StorageError):
                await provider.authenticate()
            with pytest.raises(StorageError):
                await provider.create()
    assert (tmp_path / "file").read_bytes() == b""


async def test_a_disk_that_goes_away_during_a_run_never_looks_empty_or_is_made_anew(provider: LocalProvider) -> None:
    await provider.upload_file(b"x", "data/ab/x")
    provider.root.rename(provider.root.with_name("unplugged"))
    for call in (keys_of(provider), provider.upload_file(b"y", "data/ab/y"), provider.authenticate()):
        with pytest.raises(StorageNotFoundError, match="mounted"):
            await call
    assert not provider.root.exists()


async def test_a_location_is_one_printable_line(tmp_path: Path) -> None:
    async with LocalProvider(tmp_path / "two\nlines\x1b[31m") as provider:
        assert provider.location.isprintable()
        with pytest.raises(StorageNotFoundError) as caught:
            await provider.authenticate()
        assert caught.value.message.isprintable()
        await provider.create()
        await provider.upload_file(b"x", "config")
        assert await provider.read("config") == b"x"


# --- modes ---------------------------------------------------------------------------------------------------------


@posix
async def test_objects_are_readable_by_their_owner_only(provider: LocalProvider, tmp_path: Path) -> None:
    (tmp_path / "spooled").write_bytes(b"pack")
    await provider.upload_file(b"x", "data/ab/x")
    await provider.upload_file(tmp_path / "spooled", "data/ab/y", move=True)
    assert mode(provider.root / "data/ab/x") == mode(provider.root / "data/ab/y") == 0o400
    assert mode(provider.root / "data") == mode(provider.root / "data/ab") == 0o700


@posix
async def test_the_group_may_read_when_it_may_read_the_config(provider: LocalProvider) -> None:
    await provider.upload_file(b"{}", "config")
    (provider.root / "config").chmod(0o440)
    old = os.umask(0o077)
    try:
        await provider.upload_file(b"x", "data/ab/x")
    finally:
        os.umask(old)
    assert mode(provider.root / "data/ab/x") == 0o440
    assert mode(provider.root / "data") == mode(provider.root / "data/ab") == 0o770


# --- moving --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("create_only", [False, True])
async def test_moving_on_one_disk_copies_nothing(provider: LocalProvider, tmp_path: Path, create_only: bool) -> None:
    source = tmp_path / "spooled"
    source.write_bytes(b"pack")
    inode = source.stat().st_ino
    await provider.upload_file(source, "data/ab/x", move=True, create_only=create_only)
    stored = (provider.root / "data/ab/x").stat()
    assert (stored.st_ino, stored.st_nlink) == (inode, 1)
    assert not source.exists()


async def test_a_refused_move_keeps_its_source(provider: LocalProvider, tmp_path: Path) -> None:
    source = tmp_path / "spooled"
    source.write_bytes(b"pack")
    await provider.upload_file(b"first", "data/ab/x")
    with pytest.raises(StorageConflictError):
        await provider.upload_file(source, "data/ab/x", move=True, create_only=True)
    assert source.read_bytes() == b"pack"


async def test_a_link_given_to_move_is_stored_as_what_it_points_at(provider: LocalProvider, tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"content")
    (tmp_path / "link").symlink_to("real")
    await provider.upload_file(tmp_path / "link", "data/ab/x", move=True)
    assert not (provider.root / "data/ab/x").is_symlink()
    assert await provider.read("data/ab/x") == b"content"
    assert (tmp_path / "real").read_bytes() == b"content"


@pytest.mark.root
async def test_moving_from_another_disk_copies(provider: LocalProvider, tmpfs: Callable[[int], Path]) -> None:
    source = tmpfs(1 << 20) / "spooled"
    source.write_bytes(b"pack" * 1000)
    await provider.upload_file(source, "data/ab/x", move=True, create_only=True)
    assert await provider.read("data/ab/x") == b"pack" * 1000
    assert temporary_files(provider) == []


# --- temporary files -----------------------------------------------------------------------------------------------


async def test_temporary_files_of_any_writer_are_not_listed(provider: LocalProvider) -> None:
    await provider.upload_file(b"x", "data/ab/x")
    for name in ("x-tmp-0123456789abcdef", "x-tmp-1234567", "x-tmp-0"):
        (provider.root / "data/ab" / name).write_bytes(b"half")
    assert await keys_of(provider) == ["data/ab/x"]


async def test_old_temporary_files_are_swept_and_young_ones_and_objects_kept(tmp_path: Path) -> None:
    now = 2_000_000_000.0
    async with LocalProvider(tmp_path, clock=lambda: now) as provider:
        await provider.upload_file(b"x", "data/ab/x")
        for name, age in (("config-tmp-aa", 7200), ("data/ab/y-tmp-123", 3601), ("data/ab/z-tmp-bb", 3599)):
            (tmp_path / name).write_bytes(b"half")
            os.utime(tmp_path / name, (now - age, now - age))
        os.utime(tmp_path / "data/ab/x", (0, 0))
        assert await provider.sweep_temporary_files(3600) == 2
        assert temporary_files(provider) == ["z-tmp-bb"]
        assert await keys_of(provider) == ["data/ab/x"]


async def test_without_links_a_marker_of_a_dead_run_blocks_only_until_it_is_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "config-tmp-0").write_bytes(b"")
    os.utime(tmp_path / "config-tmp-0", (0, 0))
    async with LocalProvider(tmp_path) as provider:
        with pytest.raises(StorageConflictError):
            await provider.upload_file(b"x", "config", create_only=True)
        assert await keys_of(provider) == []
        await provider.sweep_temporary_files(3600)
        await provider.upload_file(b"x", "config", create_only=True)
        assert await provider.read("config") == b"x"


async def test_a_link_that_was_made_although_the_answer_was_lost_counts_as_made(
    provider: LocalProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.link

    def made_but_lost(*args: str) -> None:
        real(*args)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    monkeypatch.setattr(os, "link", made_but_lost)
    await provider.upload_file(b"x", "config", create_only=True)
    assert await provider.read("config") == b"x"
    assert temporary_files(provider) == []


async def test_a_writer_that_is_killed_leaves_nothing_but_a_temporary_file(tmp_path: Path) -> None:
    script = """
import asyncio, sys, time
from backupiq.storage.local import LocalProvider

def hang(moved):
    print("half", flush=True)
    time.sleep(600)

asyncio.run(LocalProvider(sys.argv[1]).upload_file(bytes(3 << 20), "data/ab/x", progress=hang))
"""
    writer = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    assert writer.stdout is not None
    assert await writer.stdout.readline() == b"half\n"
    writer.kill()
    await writer.wait()
    async with LocalProvider(tmp_path, clock=lambda: 1e12) as provider:
        assert await keys_of(provider) == []
        assert len(temporary_files(provider)) == 1
        await provider.upload_file(b"again", "data/ab/x", create_only=True)
        assert await provider.sweep_temporary_files(3600) == 1
        assert await keys_of(provider) == ["data/ab/x"]


# --- what lies in a folder and is no object ------------------------------------------------------------------------


@posix
async def test_special_files_are_no_objects_and_never_make_a_call_wait(provider: LocalProvider, tmp_path: Path) -> None:
    os.mkfifo(provider.root / "pipe")
    (provider.root / "nowhere").symlink_to("absent")
    os.mkdir(os.fsencode(provider.root) + b"/not-\xff-text")
    assert await keys_of(provider) == []
    for call in (
        provider.read("pipe"),
        provider.get_file_info("pipe"),
        provider.download_file("pipe", tmp_path / "target"),
    ):
        with pytest.raises(StorageNotFoundError):
            await call


@posix
async def test_a_folder_on_another_disk_is_followed_and_a_circle_ends(provider: LocalProvider, tmp_path: Path) -> None:
    (tmp_path / "other" / "ab").mkdir(parents=True)
    (provider.root / "data").symlink_to(tmp_path / "other")
    (tmp_path / "other" / "circle").symlink_to(provider.root)
    await provider.upload_file(b"x", "data/ab/x")
    assert (tmp_path / "other/ab/x").read_bytes() == b"x"
    assert await keys_of(provider) == ["data/ab/x"]


async def test_a_download_onto_a_folder_is_refused(provider: LocalProvider, tmp_path: Path) -> None:
    await provider.upload_file(b"x", "config")
    with pytest.raises(RestoreConflictError):
        await provider.download_file("config", tmp_path)


# --- failures of the disk ------------------------------------------------------------------------------------------


@pytest.mark.root
@pytest.mark.parametrize("form", ["bytes", "path", "path with known hash"])
async def test_a_full_destination_is_a_quota_error_and_keeps_what_it_holds(
    tmpfs: Callable[[int], Path], tmp_path: Path, form: str
) -> None:
    (tmp_path / "source").write_bytes(bytes(3 << 20))
    async with LocalProvider(tmpfs(2 << 20)) as provider:
        await provider.upload_file(b"kept", "data/ab/kept")
        with pytest.raises(StorageQuotaError) as caught:
            await provider.upload_file(
                bytes(3 << 20) if form == "bytes" else tmp_path / "source",
                "data/ab/large",
                sha256="0" * 64 if "known" in form else None,
            )
        assert "No space left" in caught.value.message
        assert await keys_of(provider) == ["data/ab/kept"]
        assert temporary_files(provider) == []
        await provider.upload_file(bytes(1 << 20), "data/ab/fits")
        assert await provider.read("data/ab/kept") == b"kept"


@pytest.mark.root
async def test_a_full_disk_of_this_machine_is_told_from_a_full_destination(
    provider: LocalProvider, tmpfs: Callable[[int], Path]
) -> None:
    target = tmpfs(1 << 20) / "target"
    await provider.upload_file(bytes(3 << 20), "data/ab/large")
    with pytest.raises(DiskFullError):
        await provider.download_file("data/ab/large", target)
    assert list(target.parent.iterdir()) == []


@contextlib.contextmanager
def without_the_rights_of_the_super_user() -> Iterator[None]:
    """Go on as nobody where this process is root, who may write everywhere."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@posix
async def test_a_folder_that_may_not_be_used_is_a_permission_error(provider: LocalProvider) -> None:
    await provider.upload_file(b"x", "keys/k")
    provider.root.chmod(0o000)
    try:
        with without_the_rights_of_the_super_user():
            for call in (
                provider.authenticate(),
                provider.upload_file(b"x", "config"),
                provider.read("keys/k"),
                provider.file_exists("keys/k"),
                provider.delete_file("keys/k"),
                keys_of(provider),
            ):
                with pytest.raises(StoragePermissionError):
                    await call
    finally:
        provider.root.chmod(0o700)
    assert await keys_of(provider) == ["keys/k"]


@pytest.mark.root
async def test_a_file_system_that_may_not_be_written_is_a_permission_error_and_still_reads(
    tmpfs: Callable[[int], Path],
) -> None:
    folder = tmpfs(1 << 20)
    async with LocalProvider(folder) as provider:
        await provider.upload_file(b"x", "config")
        await asyncio.to_thread(subprocess.run, ["mount", "-o", "remount,ro", str(folder)], check=True)
        with pytest.raises(StoragePermissionError, match="Read-only"):
            await provider.upload_file(b"y", "keys/k")
        with pytest.raises(StoragePermissionError):
            await provider.delete_file("config")
        await provider.authenticate()
        assert await provider.read("config") == b"x"


# --- durability ----------------------------------------------------------------------------------------------------


class Synced:
    """Which files and folders were synced, in order, as the system was asked to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.paths: list[str] = []
        self.fail = False
        real = os.fsync

        def fsync(descriptor: int) -> None:
            if self.fail:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            self.paths.append(os.readlink(f"/proc/self/fd/{descriptor}"))
            real(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)

    def take(self) -> list[str]:
        taken, self.paths = self.paths, []
        return taken


needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="asks /proc for the names of open files")


@needs_proc
async def test_a_durable_upload_syncs_the_file_then_every_folder_that_got_a_name(
    provider: LocalProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = Synced(monkeypatch)
    root = str(provider.root)
    await provider.upload_file(b"x", "data/ab/x")
    first, *folders = synced.take()
    assert first.startswith(f"{root}/data/ab/x-tmp-")
    assert set(folders) == {root, f"{root}/data", f"{root}/data/ab"}
    await provider.upload_file(b"y", "data/ab/y")
    assert synced.take()[1:] == [f"{root}/data/ab"]


@needs_proc
async def test_flush_syncs_what_was_uploaded_without_and_each_only_once(
    provider: LocalProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = Synced(monkeypatch)
    root = str(provider.root)
    for n in range(3):
        await provider.upload_file(b"x", f"data/ab/{n}", durable=False)
    await provider.delete_file("data/ab/2")
    assert synced.take() == []
    await provider.flush()
    paths = synced.take()
    assert paths[:2] == [f"{root}/data/ab/0", f"{root}/data/ab/1"]
    assert sorted(paths[2:]) == [root, f"{root}/data", f"{root}/data/ab"]
    await provider.flush()
    assert synced.take() == []


@needs_proc
async def test_a_failed_sync_fails_the_upload_and_a_failed_flush_is_tried_again(
    provider: LocalProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = Synced(monkeypatch)
    await provider.upload_file(b"x", "data/ab/lazy", durable=False)
    synced.fail = True
    with pytest.raises(StorageError, match="Input/output"):
        await provider.upload_file(b"x", "data/ab/x")
    assert await keys_of(provider) == ["data/ab/lazy"]
    assert temporary_files(provider) == []
    with pytest.raises(StorageError):
        await provider.flush()
    synced.fail = False
    await provider.flush()
    assert synced.take()[0].endswith("data/ab/lazy")


@needs_proc
async def test_files_waiting_for_a_sync_are_bounded(provider: LocalProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = Synced(monkeypatch)
    monkeypatch.setattr("backupiq.storage.diskstore.MAX_UNSYNCED", 5)
    for n in range(5):
        await provider.upload_file(b"x", f"keys/{n}", durable=False)
    assert len(synced.take()) == 5 + 2


# --- threads -------------------------------------------------------------------------------------------------------


async def test_a_full_default_pool_does_not_block_the_provider(provider: LocalProvider) -> None:
    loop = asyncio.get_running_loop()
    release = threading.Event()
    waiting = [loop.run_in_executor(None, release.wait) for _ in range(64)]
    try:
        await asyncio.wait_for(provider.upload_file(b"x", "config"), 30)
    finally:
        release.set()
        await asyncio.gather(*waiting)


async def test_context_reaches_the_provider_threads(provider: LocalProvider) -> None:
    variable = contextvars.ContextVar("variable", default="unset")
    variable.set("set here")
    seen: set[str] = set()
    await provider.upload_file(b"x", "config", progress=lambda moved: seen.add(variable.get()))
    assert seen == {"set here"}


async def test_a_cancelled_call_that_waits_for_a_thread_never_runs(tmp_path: Path) -> None:
    async with LocalProvider(tmp_path, threads=1) as provider:
        entered, release = threading.Event(), threading.Event()

        def hold(moved: int) -> None:
            entered.set()
            assert release.wait(30)

        first = asyncio.create_task(provider.upload_file(b"x", "first", progress=hold))
        await asyncio.to_thread(entered.wait, 30)
        second = asyncio.create_task(provider.upload_file(b"y", "second"))
        await asyncio.sleep(0)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        release.set()
        await first
        assert await keys_of(provider) == ["first"]


def test_a_write_that_the_system_takes_in_parts_is_completed(tmp_path: Path) -> None:
    class Reluctant:
        def __init__(self) -> None:
            self.taken = b""

        def write(self, piece: memoryview) -> int:
            self.taken += bytes(piece[:7])
            return len(piece[:7])

    file = Reluctant()
    disk.write_all(file, memoryview(bytes(range(100))))  # type: ignore[arg-type]
    assert file.taken == bytes(range(100))

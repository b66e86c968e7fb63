"""Locks: who may use a repository at the same time, and what happens when a holder dies, sleeps or is cancelled."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from backupiq.errors import LockLostError, RepositoryLockedError, StorageConnectionError
from backupiq.repository import locking
from backupiq.repository.gojson import format_time_ns
from backupiq.repository.lockfile import LockFile, encode_lock
from backupiq.repository.locking import (
    LOST_AFTER,
    REFRESH_EVERY,
    SETTLE,
    UNREADABLE_DELAYS,
    RepositoryLock,
    list_locks,
    lock_repository,
    pid_alive,
    remove_stale_locks,
)
from backupiq.repository.repository import FileType, Repository
from backupiq.storage.local import LocalProvider
from backupiq.storage.provider import Progress, UploadResult
from tests.unit.repository.repositories import NOW_NS, new_repository

MINUTE = 60.0
HERE = "here"


class Time:
    """A clock that only moves when something sleeps; the refresher's sleeps last until the test lets them end."""

    def __init__(self) -> None:
        self.now_ns = NOW_NS
        self.slept: list[float] = []
        self.ticks: asyncio.Queue[None] = asyncio.Queue()
        self.waiting = asyncio.Event()

    def clock(self) -> int:
        return self.now_ns

    def pass_by(self, seconds: float) -> None:
        self.now_ns += int(seconds * 1e9)

    async def sleep(self, seconds: float) -> None:
        if seconds == REFRESH_EVERY:
            self.waiting.set()
            await self.ticks.get()
            self.waiting.clear()
        self.slept.append(seconds)
        self.pass_by(seconds)

    async def tick(self) -> None:
        """Let one refresh happen."""
        await self.waiting.wait()
        self.waiting.clear()
        self.ticks.put_nowait(None)
        await self.waiting.wait()


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
async def repo(tmp_path: Path) -> Repository:
    return await new_repository(tmp_path / "r")


async def take(
    repo: Repository,
    time: Time,
    *,
    exclusive: bool = False,
    retry_for: float = 0.0,
    sleep: Callable[[float], Awaitable[None]] | None = None,
    alive: Callable[[int], bool] = lambda pid: True,
) -> RepositoryLock:
    return await RepositoryLock.acquire(
        repo,
        exclusive=exclusive,
        retry_for=retry_for,
        clock=time.clock,
        sleep=sleep or time.sleep,
        hostname=HERE,
        alive=alive,
    )


async def names(repo: Repository) -> list[str]:
    return list(await repo.list_ids(FileType.LOCK))


async def put_lock(
    repo: Repository, *, exclusive: bool = False, host: str = HERE, pid: int = 4711, minutes_old: float = 0
) -> str:
    when = format_time_ns(NOW_NS - int(minutes_old * 60e9))
    lock = LockFile(time=when, exclusive=exclusive, hostname=host, username="ben", pid=pid, uid=1000, gid=1000)
    return await repo.save_file(FileType.LOCK, encode_lock(lock))


# --- taking and giving up -------------------------------------------------------------------------------------------


async def test_a_lock_is_there_while_it_is_held_and_says_whose_it_is(repo: Repository, time: Time) -> None:
    async with await take(repo, time, exclusive=True) as lock:
        [(_, found)] = await list_locks(repo)
        assert (found.exclusive, found.hostname, found.pid) == (True, HERE, os.getpid())
        assert found.time_ns() == NOW_NS
        assert lock.exclusive
        assert not lock.lost
        lock.ensure_held()
    assert await names(repo) == []


async def test_release_may_be_called_twice(repo: Repository, time: Time) -> None:
    lock = await take(repo, time)
    await lock.release()
    await lock.release()
    assert await names(repo) == []


async def test_shared_locks_stand_beside_each_other(repo: Repository, time: Time) -> None:
    await put_lock(repo, host="elsewhere")
    async with await take(repo, time), await take(repo, time):
        assert len(await names(repo)) == 3


@pytest.mark.parametrize(("theirs", "ours"), [(True, False), (False, True), (True, True)])
async def test_an_exclusive_lock_stands_alone(repo: Repository, time: Time, theirs: bool, ours: bool) -> None:
    held = await put_lock(repo, exclusive=theirs, host="elsewhere", minutes_old=3)
    with pytest.raises(
        RepositoryLockedError, match=r"process 4711 of ben at elsewhere, refreshed 3 minutes ago"
    ) as caught:
        await take(repo, time, exclusive=ours)
    assert caught.value.exit_code == 11
    assert await names(repo) == [held]


async def test_an_old_lock_of_another_host_still_blocks(repo: Repository, time: Time) -> None:
    await put_lock(repo, exclusive=True, host="elsewhere", minutes_old=1000)
    with pytest.raises(RepositoryLockedError):
        await take(repo, time, alive=lambda pid: False)


async def test_of_two_that_lock_exclusively_at_once_one_at_most_succeeds(repo: Repository, time: Time) -> None:
    both = asyncio.Barrier(2)

    async def settle(seconds: float) -> None:
        if seconds == REFRESH_EVERY:
            await asyncio.Event().wait()
        await both.wait()

    locks = await asyncio.gather(
        take(repo, time, exclusive=True, sleep=settle),
        take(repo, time, exclusive=True, sleep=settle),
        return_exceptions=True,
    )
    held = [lock for lock in locks if isinstance(lock, RepositoryLock)]
    assert len(held) <= 1
    assert all(isinstance(lock, RepositoryLockedError) for lock in locks if lock not in held)
    assert len(await names(repo)) == len(held)
    for lock in held:
        await lock.release()


async def test_a_lock_that_appears_while_ours_settles_is_noticed(repo: Repository, time: Time) -> None:
    async def settle(seconds: float) -> None:
        assert seconds == SETTLE
        await put_lock(repo, exclusive=True)

    with pytest.raises(RepositoryLockedError):
        await take(repo, time, sleep=settle)
    assert len(await names(repo)) == 1


async def test_waiting_for_a_lock_ends_when_the_holder_gives_it_up(repo: Repository, time: Time) -> None:
    held = await put_lock(repo, exclusive=True)

    async def sleep(seconds: float) -> None:
        await time.sleep(seconds)
        if time.now_ns > NOW_NS + 90e9:
            await repo.delete_file(FileType.LOCK, held)

    async with await take(repo, time, retry_for=600, sleep=sleep):
        assert 90 < (time.now_ns - NOW_NS) / 1e9 < 200
    assert max(time.slept) <= 60


async def test_waiting_for_a_lock_ends_after_its_time(repo: Repository, time: Time) -> None:
    await put_lock(repo, exclusive=True)
    with pytest.raises(RepositoryLockedError):
        await take(repo, time, retry_for=600)
    assert sum(time.slept) == pytest.approx(600)


# --- holders that are gone ------------------------------------------------------------------------------------------


async def test_the_lock_of_a_dead_process_of_this_host_is_removed_with_a_word(
    repo: Repository, time: Time, caplog: pytest.LogCaptureFixture
) -> None:
    dead = await put_lock(repo, exclusive=True, pid=4711)
    async with await take(repo, time, exclusive=True, alive=lambda pid: pid != 4711):
        assert dead not in await names(repo)
    assert dead in caplog.text
    assert "pid=4711" in caplog.text


async def test_the_same_number_on_another_host_is_another_process(repo: Repository, time: Time) -> None:
    held = await put_lock(repo, exclusive=True, host="elsewhere")
    with pytest.raises(RepositoryLockedError):
        await take(repo, time, alive=lambda pid: False)
    assert await names(repo) == [held]


async def test_unlock_removes_the_stale_and_leaves_the_living(repo: Repository) -> None:
    living = [await put_lock(repo, host="elsewhere", minutes_old=29), await put_lock(repo, pid=1, minutes_old=5)]
    stale = [await put_lock(repo, host="elsewhere", minutes_old=31), await put_lock(repo, pid=2)]
    junk = await repo.save_raw(FileType.LOCK, b"junk")

    def clock() -> int:
        return NOW_NS

    removed = await remove_stale_locks(repo, clock=clock, hostname=HERE, alive=lambda pid: pid == 1)
    assert sorted(removed) == sorted(stale)
    assert sorted(await names(repo)) == sorted([*living, junk])
    assert len(await remove_stale_locks(repo, remove_all=True)) == 3
    assert await names(repo) == []


def test_a_process_is_alive_until_it_ended() -> None:
    assert pid_alive(os.getpid())
    done = subprocess.Popen([sys.executable, "-c", ""])
    assert pid_alive(done.pid)
    done.wait()
    if os.name == "posix":
        assert not pid_alive(done.pid)
    assert not pid_alive(0)
    assert not pid_alive(-1)


# --- locks that cannot be read --------------------------------------------------------------------------------------


async def test_an_empty_lock_file_is_ignored(repo: Repository, time: Time) -> None:
    await repo.save_raw(FileType.LOCK, b"")
    async with await take(repo, time, exclusive=True):
        pass


async def test_a_lock_that_stays_unreadable_counts_as_held(repo: Repository, time: Time) -> None:
    junk = await repo.save_raw(FileType.LOCK, b"junk")
    with pytest.raises(RepositoryLockedError, match=rf"{junk}.*unlock --remove-all"):
        await take(repo, time)
    assert time.slept == list(UNREADABLE_DELAYS)


async def test_a_lock_that_becomes_readable_is_no_obstacle(repo: Repository, time: Time) -> None:
    junk = await repo.save_raw(FileType.LOCK, b"junk")

    async def sleep(seconds: float) -> None:
        await time.sleep(seconds)
        await repo.delete_file(FileType.LOCK, junk)

    async with await take(repo, time, exclusive=True, sleep=sleep):
        assert time.slept == [UNREADABLE_DELAYS[0], SETTLE]


# --- keeping it fresh -----------------------------------------------------------------------------------------------


async def test_a_refresh_writes_the_lock_anew_and_removes_the_old_file(repo: Repository, time: Time) -> None:
    async with await take(repo, time):
        before = await names(repo)
        for minutes in (5, 10):
            await time.tick()
            [(name, lock)] = await list_locks(repo)
            assert name not in before
            assert lock.time_ns() == pytest.approx(NOW_NS + minutes * 60e9, abs=1e9)


async def test_a_lock_is_lost_when_it_was_not_refreshed_in_time(repo: Repository, time: Time) -> None:
    lock = await take(repo, time)
    time.pass_by(LOST_AFTER - 1)
    lock.ensure_held()
    time.pass_by(2)
    assert lock.lost
    with pytest.raises(LockLostError):
        lock.ensure_held()
    with pytest.raises(LockLostError):
        await lock.refresh()
    await lock.release()
    assert await names(repo) == []


async def test_a_lock_that_somebody_removed_is_lost(repo: Repository, time: Time) -> None:
    lock = await take(repo, time)
    await remove_stale_locks(repo, remove_all=True)
    with pytest.raises(LockLostError):
        await lock.refresh()
    assert lock.lost
    assert await names(repo) == []
    await lock.release()


class Unreachable(LocalProvider):
    """A local destination that can be cut off, or made to wait in the middle of an upload."""

    cut_off = False
    uploading: asyncio.Event | None = None
    go_on: asyncio.Event | None = None

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
        if self.cut_off:
            raise StorageConnectionError
        done = await super().upload_file(source, key, create_only=create_only, durable=durable, move=move)
        if self.uploading is not None and self.go_on is not None:
            self.uploading.set()
            await self.go_on.wait()
        return done


@pytest.fixture
def unreachable(repo: Repository) -> Unreachable:
    assert isinstance(repo.provider, LocalProvider)
    provider = Unreachable(repo.provider.root)
    repo.provider = provider
    return provider


async def test_a_refresh_that_fails_is_tried_again_until_the_lock_is_lost(
    repo: Repository, time: Time, unreachable: Unreachable, caplog: pytest.LogCaptureFixture
) -> None:
    async with await take(repo, time) as lock:
        before = await names(repo)
        unreachable.cut_off = True
        await time.tick()
        assert not lock.lost
        assert await names(repo) == before
        unreachable.cut_off = False
        await time.tick()
        assert await names(repo) != before
        unreachable.cut_off = True
        for _ in range(4):
            await time.tick()
            assert not lock.lost
        time.ticks.put_nowait(None)
        refresher = lock._refresher
        assert refresher is not None
        await refresher
        assert lock.lost
        assert "lost" in caplog.records[-1].getMessage()
    assert await names(repo) == []


# --- being cancelled ------------------------------------------------------------------------------------------------


async def test_a_run_that_is_cancelled_leaves_no_lock(repo: Repository, time: Time) -> None:
    held = asyncio.Event()

    async def run() -> None:
        async with await take(repo, time):
            held.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(run())
    await held.wait()
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await names(repo) == []


async def test_a_cancel_while_the_lock_is_being_written_leaves_no_lock(
    repo: Repository, time: Time, unreachable: Unreachable
) -> None:
    unreachable.uploading, unreachable.go_on = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(take(repo, time))
    await unreachable.uploading.wait()
    assert len(await names(repo)) == 1
    task.cancel()
    await asyncio.sleep(0)
    unreachable.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await names(repo) == []


async def test_a_cancel_while_the_lock_settles_leaves_no_lock(repo: Repository, time: Time) -> None:
    settling = asyncio.Event()

    async def sleep(seconds: float) -> None:
        settling.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(take(repo, time, sleep=sleep))
    await settling.wait()
    assert len(await names(repo)) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await names(repo) == []


async def test_a_release_during_a_refresh_leaves_no_lock(
    repo: Repository, time: Time, unreachable: Unreachable
) -> None:
    lock = await take(repo, time)
    unreachable.uploading, unreachable.go_on = asyncio.Event(), asyncio.Event()
    await time.waiting.wait()
    time.ticks.put_nowait(None)
    await unreachable.uploading.wait()
    assert len(await names(repo)) == 2
    release = asyncio.create_task(lock.release())
    await asyncio.sleep(0)
    unreachable.go_on.set()
    await release
    assert await names(repo) == []


# --- the question whether we live -----------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="the system has no SIGHUP")
async def test_sighup_does_not_end_a_process_that_holds_a_lock(repo: Repository, time: Time) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGHUP, lambda number, frame: heard.append(number))
    try:
        async with await take(repo, time):
            async with await take(repo, time):
                os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGHUP)
            assert not heard
        os.kill(os.getpid(), signal.SIGHUP)
        assert heard == [signal.SIGHUP]
        await put_lock(repo, exclusive=True)
        with pytest.raises(RepositoryLockedError):
            await take(repo, time)
        os.kill(os.getpid(), signal.SIGHUP)
        assert len(heard) == 2
    finally:
        signal.signal(signal.SIGHUP, before)
    assert locking._hangup_holders == 0


async def test_a_lock_may_be_held_by_a_thread_that_cannot_handle_signals(repo: Repository, time: Time) -> None:
    assert isinstance(repo.provider, LocalProvider)
    root = repo.provider.root

    async def run() -> list[str]:
        async with LocalProvider(root) as provider:
            other = Repository(provider, repo.master, repo.config, repo.key_id)
            async with lock_repository(other):
                return await names(other)

    assert len(await asyncio.to_thread(asyncio.run, run())) == 1
    assert await names(repo) == []

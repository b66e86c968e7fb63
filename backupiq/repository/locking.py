"""Locks: how programs that share a repository keep out of each other's way.

Rules: repository format, section 11. Work that only adds takes a shared lock, work that removes an exclusive one. A
lock is a small file that its owner writes anew every 5 minutes; none may be relied on that is older than 22.5.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
import random
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from types import FrameType, TracebackType
from typing import Any, Self, TypeVar

from backupiq.errors import (
    BackupIQError,
    LockLostError,
    RepositoryDamagedError,
    RepositoryLockedError,
    StorageNotFoundError,
    StoragePermissionError,
    StorageQuotaError,
)
from backupiq.repository.gojson import format_time_ns
from backupiq.repository.lockfile import LockFile, decode_lock, encode_lock, is_stale
from backupiq.repository.repository import FileType, Repository, in_parallel
from backupiq.telemetry import get_logger

REFRESH_EVERY = 300.0
LOST_AFTER = 1350.0
SETTLE = 0.2
RETRY_FIRST, RETRY_MOST = 1.0, 60.0
UNREADABLE_DELAYS = (5.0, 10.0, 20.0)

_log = get_logger("backupiq.repository.locking")

Sleep = Callable[[float], Awaitable[None]]
ClockNs = Callable[[], int]
Result = TypeVar("Result")


def pid_alive(pid: int) -> bool:
    """Whether a process of that id runs on this machine; True where the system cannot be asked."""
    if pid <= 0:
        return False
    if os.name != "posix":
        return True  # os.kill would end the process there
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def describe_lock(lock: LockFile, now_ns: int) -> str:
    """Who holds a lock, in words: ``restic or backupiq, process 12 of anna at host, refreshed 3 minutes ago``."""
    minutes = max(0, now_ns - lock.time_ns()) // 60_000_000_000
    age = f"{minutes} minute{'' if minutes == 1 else 's'} ago" if minutes else "less than a minute ago"
    kind = "exclusively by" if lock.exclusive else "by"
    return f"{kind} process {lock.pid} of {lock.username or 'an unknown user'} at {lock.hostname}, refreshed {age}"


class RepositoryLock:
    """A lock that is held.

    Invariants: from ``acquire`` to ``release`` a lock file of ours is in the repository, at most two while it is being
    refreshed; ``release`` removes it whatever happens around it and may be called again. Once ``lost`` is true nothing
    may be written any more: ``ensure_held`` then raises. While any lock is held SIGHUP does not end the process, since
    ``restic unlock`` sends it to find out whether the holder lives.
    """

    def __init__(self, repo: Repository, lock: LockFile, clock: ClockNs, sleep: Sleep) -> None:
        self._repo = repo
        self._template = lock
        self._clock = clock
        self._sleep = sleep
        self._files: list[str] = []
        self._refreshed_ns = lock.time_ns()
        self._removed_by_other = False
        self._refresher: asyncio.Task[None] | None = None
        self._ignoring_hangup = False

    @classmethod
    async def acquire(
        cls,
        repo: Repository,
        *,
        exclusive: bool,
        retry_for: float = 0.0,
        clock: ClockNs = time.time_ns,
        sleep: Sleep = asyncio.sleep,
        hostname: str | None = None,
        alive: Callable[[int], bool] = pid_alive,
    ) -> RepositoryLock:
        """Take a lock, waiting up to ``retry_for`` seconds for others to give theirs up.

        Locks of processes of this machine that no longer run are removed on the way. Raises RepositoryLockedError
        naming the holder. ``clock`` gives nanoseconds since 1970 and must go on while the machine sleeps.
        """
        deadline = clock() + int(retry_for * 1e9)
        delay = RETRY_FIRST
        lock = cls(repo, _own_lock(exclusive, clock(), hostname), clock, sleep)
        lock._ignoring_hangup = _ignore_hangup()
        told = False
        try:
            while True:
                try:
                    await lock._try(alive)
                    break
                except RepositoryLockedError as error:
                    left = (deadline - clock()) / 1e9
                    if left <= 0:
                        raise
                    if not told:
                        # Minutes may pass, and a program that says nothing looks as if it hung.
                        _log.warning("waiting for the lock on the repository", seconds=round(left), **error.details)
                        told = True
                # Two that ask at the same moment must not go on doing so.
                await sleep(min(delay * random.uniform(0.5, 1.0), left))  # noqa: S311
                delay = min(delay * 2, RETRY_MOST)
        except BaseException:
            lock._stop_ignoring_hangup()
            raise
        lock._refresher = asyncio.create_task(lock._keep_fresh())
        return lock

    @property
    def exclusive(self) -> bool:
        """Whether nobody else may use the repository meanwhile."""
        return self._template.exclusive

    @property
    def lost(self) -> bool:
        """Whether the lock can no longer be relied on."""
        return self._removed_by_other or self._clock() - self._refreshed_ns > int(LOST_AFTER * 1e9)

    def ensure_held(self) -> None:
        """Raise LockLostError when the lock can no longer be relied on; call it before writing what counts."""
        if self.lost:
            raise LockLostError(location=self._repo.provider.location)

    async def refresh(self) -> None:
        """Write the lock anew and remove the old file. A lock that somebody removed, or that is too old, is lost.

        Raises LockLostError then, and storage errors when the destination cannot be reached.
        """
        self.ensure_held()
        present = await self._repo.list_ids(FileType.LOCK)
        if not self._files or self._files[-1] not in present:
            self._removed_by_other = True
            self.ensure_held()
        await self._write()
        self.ensure_held()
        for id_hex in self._files[:-1]:
            await self._repo.delete_file(FileType.LOCK, id_hex)
            self._files.remove(id_hex)

    async def release(self) -> None:
        """Give the lock up. Safe to call twice, and while the task is being cancelled: the file is removed first."""
        refresher, self._refresher = self._refresher, None
        try:
            await _finish(self._withdraw(refresher))
        finally:
            self._stop_ignoring_hangup()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.release()

    def _stop_ignoring_hangup(self) -> None:
        if self._ignoring_hangup:
            self._ignoring_hangup = False
            _heed_hangup()

    async def _try(self, alive: Callable[[int], bool]) -> None:
        try:
            await self._refuse_conflicts(alive)
            await self._write()
            # Two that start together both see no lock; after a moment at least one of them sees the other's.
            await self._sleep(SETTLE)
            await self._refuse_conflicts(alive)
        except BaseException:
            await _finish(self._withdraw(None))
            raise

    async def _write(self) -> None:
        now = self._clock()
        lock = LockFile(
            time=format_time_ns(now),
            exclusive=self._template.exclusive,
            hostname=self._template.hostname,
            username=self._template.username,
            pid=self._template.pid,
            uid=self._template.uid,
            gid=self._template.gid,
        )

        async def store() -> None:
            self._files.append(await self._repo.save_file(FileType.LOCK, encode_lock(lock)))

        # Cancelled on the way, the file might be there while its name is not known here: so it is always waited for.
        await _finish(store())
        self._refreshed_ns = now

    async def _withdraw(self, refresher: asyncio.Task[None] | None) -> None:
        if refresher is not None:
            refresher.cancel()
            await asyncio.gather(refresher, return_exceptions=True)
        while self._files:
            await self._repo.delete_file(FileType.LOCK, self._files[-1])
            self._files.pop()

    async def _refuse_conflicts(self, alive: Callable[[int], bool]) -> None:
        for id_hex, lock in await self._others():
            if lock.hostname == self._template.hostname and lock.pid != self._template.pid and not alive(lock.pid):
                _log.warning("removed the lock of a process that no longer runs", lock=id_hex, pid=lock.pid)
                await self._repo.delete_file(FileType.LOCK, id_hex)
            elif lock.exclusive or self._template.exclusive:
                raise RepositoryLockedError(
                    f"The repository is locked {describe_lock(lock, self._clock())}. {RepositoryLockedError.hint}",
                    lock=id_hex,
                    hostname=lock.hostname,
                    pid=lock.pid,
                    username=lock.username,
                    time=lock.time,
                    exclusive=lock.exclusive,
                )

    async def _others(self) -> list[tuple[str, LockFile]]:
        """Every readable lock but ours. One that stays unreadable counts as held: RepositoryLockedError."""
        for delay in (*UNREADABLE_DELAYS, None):
            locks, unreadable = await _read_locks(self._repo, skip=self._files)
            if not unreadable:
                return locks
            if delay is not None:
                await self._sleep(delay)
        raise RepositoryLockedError(
            f"The repository has a lock that cannot be read (locks/{unreadable[0]}). Make sure no program uses the "
            "repository, then remove it with `backupiq unlock --remove-all`.",
            locks=unreadable,
        )

    async def _keep_fresh(self) -> None:
        while not self.lost:
            await self._sleep(REFRESH_EVERY)
            try:
                await self.refresh()
            except LockLostError:
                break
            except BackupIQError as error:
                _log.warning("the lock could not be refreshed; trying again", reason=error.message)
        _log.error("the lock on the repository is lost", location=self._repo.provider.location)


@contextlib.asynccontextmanager
async def lock_repository(
    repo: Repository, exclusive: bool = False, retry_for: float = 0.0
) -> AsyncIterator[RepositoryLock]:
    """Hold a lock for the length of the block. Raises RepositoryLockedError when it cannot be had in that time."""
    async with await RepositoryLock.acquire(repo, exclusive=exclusive, retry_for=retry_for) as lock:
        yield lock


@contextlib.asynccontextmanager
async def lock_for_reading(
    repo: Repository, *, retry_for: float = 0.0, note: Callable[[str], None]
) -> AsyncIterator[RepositoryLock | None]:
    """Hold a shared lock for the length of the block, or none where the destination takes no new file.

    What is read-only or full must still be readable, so that is only told to ``note``. Raises RepositoryLockedError
    when the lock cannot be had in that time.
    """
    try:
        lock = await RepositoryLock.acquire(repo, exclusive=False, retry_for=retry_for)
    except (StoragePermissionError, StorageQuotaError) as error:
        why = "may not be written" if isinstance(error, StoragePermissionError) else "is on a full disk"
        note(f"the repository {why}, so it is read without a lock")
        yield None
        return
    async with lock:
        yield lock


async def remove_stale_locks(
    repo: Repository,
    remove_all: bool = False,
    *,
    clock: ClockNs = time.time_ns,
    hostname: str | None = None,
    alive: Callable[[int], bool] = pid_alive,
) -> list[str]:
    """Remove the locks of programs that are gone, or every lock; the names of those removed, in hex.

    With ``remove_all`` also those of programs at work and those that cannot be read.
    """
    here = hostname or socket.gethostname()
    if remove_all:
        doomed = sorted(await repo.list_ids(FileType.LOCK))
    else:
        locks, _ = await _read_locks(repo, skip=())
        doomed = [id_hex for id_hex, lock in locks if is_stale(lock, clock(), here, alive)]
    return [id_hex for id_hex in doomed if await repo.delete_file(FileType.LOCK, id_hex)]


async def list_locks(repo: Repository) -> list[tuple[str, LockFile]]:
    """Every lock that can be read, with its name in hex, oldest first."""
    locks, _ = await _read_locks(repo, skip=())
    return sorted(locks, key=lambda found: (found[1].time_ns(), found[0]))


async def _read_locks(repo: Repository, skip: Sequence[str]) -> tuple[list[tuple[str, LockFile]], list[str]]:
    unreadable: list[str] = []

    async def load(id_hex: str) -> tuple[str, LockFile] | None:
        try:
            return id_hex, decode_lock(await repo.load_file(FileType.LOCK, id_hex))
        except StorageNotFoundError:
            return None
        except RepositoryDamagedError:
            unreadable.append(id_hex)
            return None

    # A lock of no bytes is what a crash of another program left, and restic ignores it too.
    listed = await repo.list_ids(FileType.LOCK)
    names = sorted(id_hex for id_hex, size in listed.items() if size and id_hex not in skip)
    return [found for found in await in_parallel(names, load) if found is not None], unreadable


def _own_lock(exclusive: bool, now_ns: int, hostname: str | None) -> LockFile:
    try:
        username = getpass.getuser()
    except (OSError, KeyError, ImportError):  # no such user in the system's table
        username = ""
    return LockFile(
        time=format_time_ns(now_ns),
        exclusive=exclusive,
        hostname=hostname or socket.gethostname(),
        username=username,
        pid=os.getpid(),
        uid=os.getuid() if hasattr(os, "getuid") else 0,
        gid=os.getgid() if hasattr(os, "getgid") else 0,
    )


async def _finish(work: Coroutine[Any, Any, Result]) -> Result:
    """Let the work end even when this task is cancelled meanwhile; the cancellation is delivered afterwards."""
    task = asyncio.create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as interruption:
            cancelled = interruption
    if cancelled is None:
        return task.result()
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.warning("the lock could not be written or removed while the run was being cancelled", reason=str(error))
    raise cancelled


_hangup_holders = 0
_hangup_before: signal.Handlers | Callable[[int, FrameType | None], object] | int | None = None


def _ignore_hangup() -> bool:
    """Let SIGHUP pass unheeded until ``_heed_hangup`` was called as often; False where that is not possible."""
    global _hangup_holders, _hangup_before
    if not hasattr(signal, "SIGHUP") or threading.current_thread() is not threading.main_thread():
        return False
    if _hangup_holders == 0:
        # A handler rather than SIG_IGN, which programs started meanwhile would inherit.
        _hangup_before = signal.signal(signal.SIGHUP, _on_hangup)
    _hangup_holders += 1
    return True


def _heed_hangup() -> None:
    global _hangup_holders
    _hangup_holders -= 1
    if _hangup_holders == 0 and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGHUP, _hangup_before if _hangup_before is not None else signal.SIG_DFL)


def _on_hangup(number: int, frame: FrameType | None) -> None:
    """Nothing: that the process goes on is the answer."""

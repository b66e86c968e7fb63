"""One user of an iCloud account at a time on this machine: a lock that processes share through a file."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from backupiq.errors import StorageTimeoutError
from backupiq.storage.oserrors import machine_errors

LONGEST_WAIT = 900.0  # seconds; the other process may be sending a large pack
LOOK = 0.05  # seconds between two looks


def make_private_folder(folder: Path) -> None:
    """Make the folder, open to its owner only; ``ResourceError`` when that cannot be."""
    with machine_errors("make the folder that keeps the iCloud session"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.name != "nt" and folder.stat().st_mode & 0o077:
            folder.chmod(0o700)


class AccountLock:
    """Held for one call at a time. Used by one thread of this process.

    Invariants: no two holders on this machine at once; the system lets go when a process dies; whoever waits holds the
    turn, so a process that calls without pause cannot come in between again and again.
    """

    def __init__(
        self,
        folder: Path,
        *,
        longest_wait: float = LONGEST_WAIT,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._folder = folder
        self._longest_wait = longest_wait
        self._clock = clock
        self._sleep = sleep

    @contextlib.contextmanager
    def held(self, check: Callable[[], None]) -> Iterator[None]:
        """Hold the lock inside the block. ``check`` is called while waiting and ends the wait by raising.

        Raises ``StorageTimeoutError`` when another process holds it for longer than any call may take.
        """
        deadline = self._clock() + self._longest_wait
        with contextlib.ExitStack() as stack:
            with self._locked("turn.lock", deadline, check):
                stack.enter_context(self._locked("account.lock", deadline, check))
            yield

    @contextlib.contextmanager
    def _locked(self, name: str, deadline: float, check: Callable[[], None]) -> Iterator[None]:
        with machine_errors("open the lock file of the iCloud account"):
            descriptor = os.open(self._folder / name, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        try:
            while True:
                with machine_errors("lock the iCloud account's session folder"):
                    if _try_lock(descriptor):
                        break
                check()
                if self._clock() >= deadline:
                    raise StorageTimeoutError(
                        "Another program of this machine has been using the iCloud account for too long. Wait for it "
                        "or end it, then run the command again.",
                        seconds=self._longest_wait,
                    )
                self._sleep(LOOK)
            yield
        finally:
            os.close(descriptor)  # which lets go of the lock, too


def _try_lock(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # what the two systems answer when another one holds it
        return False
    return True

"""The spool: finished packs on this machine's disk until every destination has confirmed them."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from backupiq.errors import CancelledRunError, DiskFullError
from backupiq.repository.locking import pid_alive

OWNER_FILE = "owner"
DEFAULT_LIMIT = 512 << 20


class Spool:
    """A private folder (0700) that holds at most ``limit`` bytes of finished packs.

    Invariants: ``reserve`` blocks while the limit is reached and somebody can still free space; every reservation is
    given back by exactly one ``release``; ``close`` removes the folder, whatever it holds.
    """

    def __init__(self, folder: Path, *, limit: int = DEFAULT_LIMIT) -> None:
        self._folder = folder
        self._limit = limit
        self._held = 0
        self._changed = threading.Condition()

    @classmethod
    def create(cls, parent: Path, *, limit: int = DEFAULT_LIMIT) -> Spool:
        """Make a new folder below ``parent``, after removing those that dead processes left there."""
        try:
            parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            _sweep(parent)
            folder = parent / f"run-{secrets.token_hex(8)}"
            folder.mkdir(mode=0o700)
            (folder / OWNER_FILE).write_text(f"{os.getpid()}\n")
        except OSError as error:
            raise DiskFullError(f"Cannot make the spool folder below {parent}: {error.strerror}.") from error
        return cls(folder, limit=limit)

    @property
    def folder(self) -> Path:
        """The private folder."""
        return self._folder

    @property
    def limit(self) -> int:
        """The bytes of finished packs that it takes."""
        return self._limit

    @property
    def held(self) -> int:
        """Bytes of finished packs that wait for a destination."""
        return self._held

    def reserve(self, size: int, stopped: Callable[[], bool]) -> None:
        """Take ``size`` bytes, waiting until there is room; CancelledRunError when ``stopped`` says so meanwhile.

        One pack always fits into an empty spool, however large it is.
        """
        with self._changed:
            while self._held and self._held + size > self._limit:
                if stopped():
                    raise CancelledRunError
                self._changed.wait(0.2)
            self._held += size

    def release(self, size: int) -> None:
        """Give ``size`` bytes back."""
        with self._changed:
            self._held -= size
            self._changed.notify_all()

    def close(self) -> None:
        """Remove the folder with all it holds."""
        shutil.rmtree(self.folder, ignore_errors=True)


def default_parent() -> Path:
    """Where spools stand: $BACKUPIQ_SPOOL, else below the user's cache folder."""
    own = os.environ.get("BACKUPIQ_SPOOL")
    if own:
        return Path(own)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "backupiq" / "spool"


def _sweep(parent: Path) -> None:
    for folder in parent.glob("run-*"):
        with contextlib.suppress(OSError, ValueError):
            if not pid_alive(int((folder / OWNER_FILE).read_text())):
                shutil.rmtree(folder, ignore_errors=True)
            continue
        with contextlib.suppress(OSError):
            # No owner yet: it may be a run that is just starting, so only an old folder goes.
            if time.time() - folder.stat().st_mtime > 3600:
                shutil.rmtree(folder, ignore_errors=True)

"""Trying a destination out: connect, store a small object, list it, read it, delete it, and say what is wrong."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shlex
import time
from dataclasses import dataclass
from typing import Any

from backupiq.errors import (
    BackupIQError,
    StorageCorruptError,
    StorageError,
    StorageNotFoundError,
    StorageTimeoutError,
)
from backupiq.storage.provider import StorageProvider

FOLDER = "backupiq-test"
"""Where the small object lies for the time of the trial: no folder of a repository, which restic and we pass over."""
LONGEST_SECONDS = 120.0
LEFTOVERS_ARE_DEAD_AFTER = 3600.0
MOST_LEFTOVERS = 100

CONTAINERS = {"s3": "bucket", "gcs": "bucket", "azure": "container", "local": "folder", "icloud": "folder"}
"""What a destination of each kind is, in its maker's word."""
STEPS = ("connect", "write", "list", "read", "delete")


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of it: the steps that worked, in order, and what kept the next one from working.

    ``message`` is one line for a person that says what to do.
    """

    location: str
    passed: tuple[str, ...]
    error: BackupIQError | None = None
    message: str = ""

    @property
    def ok(self) -> bool:
        """Whether every step worked."""
        return self.error is None

    @property
    def failed(self) -> str | None:
        """The step that did not work."""
        return None if self.error is None else STEPS[len(self.passed)]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "location": self.location,
            "ok": self.ok,
            "passed": list(self.passed),
            "failed": self.failed,
            "code": self.error.code if self.error else None,
            "message": self.message,
        }


async def try_destination(
    provider: StorageProvider, *, written: str | None = None, longest_seconds: float = LONGEST_SECONDS
) -> Trial:
    """Try the destination out. ``written`` is how the person names it, for the advice. Raises none of our errors.

    The object has a random name below `FOLDER`; it is removed again, also after a failure, and so are those of trials
    that were killed. Nothing else is touched.
    """
    passed: list[str] = []
    try:
        async with asyncio.timeout(longest_seconds):
            await _try(provider, passed)
    except BackupIQError as error:
        return Trial(provider.location, tuple(passed), error, _explain(error, provider, written, passed))
    except TimeoutError:
        late = StorageTimeoutError(
            f"{provider.location} did not answer within {longest_seconds:.0f} seconds. {StorageTimeoutError.hint}"
        )
        return Trial(provider.location, tuple(passed), late, late.message)
    return Trial(provider.location, tuple(passed), None, f"{provider.location} works.")


async def _try(provider: StorageProvider, passed: list[str]) -> None:
    await provider.authenticate()
    passed.append("connect")
    await _remove_leftovers(provider)
    content = secrets.token_bytes(1024)
    key = f"{FOLDER}/{secrets.token_hex(16)}"
    try:
        await provider.upload_file(content, key)
        passed.append("write")
        if key not in [info.key async for info in provider.list_files(FOLDER)]:
            raise StorageCorruptError(f"{provider.location} does not list an object that it has just stored.")
        passed.append("list")
        if await provider.read(key) != content:
            raise StorageCorruptError(f"{provider.location} returned other bytes than were just stored there.")
        passed.append("read")
        await provider.delete_file(key)
        passed.append("delete")
    finally:
        if "delete" not in passed:
            with contextlib.suppress(StorageError):
                await provider.delete_file(key)
        with contextlib.suppress(StorageError):
            await provider.delete_directory(FOLDER)


async def _remove_leftovers(provider: StorageProvider) -> None:
    dead = time.time_ns() - int(LEFTOVERS_ARE_DEAD_AFTER * 1e9)
    found = [
        info.key
        async for info in provider.list_files(FOLDER)
        if info.modified_ns is not None and info.modified_ns < dead
    ]
    for key in found[:MOST_LEFTOVERS]:
        with contextlib.suppress(StorageNotFoundError):
            await provider.delete_file(key)


def _explain(error: BackupIQError, provider: StorageProvider, written: str | None, passed: list[str]) -> str:
    if isinstance(error, StorageNotFoundError) and not passed:
        what = CONTAINERS.get(provider.kind, "place")
        return (
            f"The {what} of {provider.location} does not exist. "
            f"Create it, or run `backupiq init --to {shlex.quote(written or provider.location)}`."
        )
    return error.message

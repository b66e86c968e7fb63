"""Task groups that fail with the error itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from backupiq.errors import BackupIQError


@contextlib.asynccontextmanager
async def together() -> AsyncIterator[asyncio.TaskGroup]:
    """A task group that raises the error itself: ours before others, and never a group of errors."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as errors:
        flat = list(_flatten(errors))
        raise next((error for error in flat if isinstance(error, BackupIQError)), flat[0]) from None


def _flatten(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _flatten(inner)]
    return [error]

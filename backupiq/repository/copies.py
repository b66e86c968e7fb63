"""Reading from destinations that hold several copies of every object, of which some may be wrong."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar, runtime_checkable

from backupiq.storage.provider import StorageProvider

Result = TypeVar("Result")


@runtime_checkable
class Copies(Protocol):
    """A destination that holds several copies of every object, of which some may be wrong."""

    async def read_verified(
        self, key: str, check: Callable[[bytes], Awaitable[Result]], offset: int = 0, length: int | None = None
    ) -> Result:
        """What ``check`` makes of the first copy that it accepts; it refuses one with RepositoryDamagedError."""


async def read_verified(
    provider: StorageProvider,
    key: str,
    check: Callable[[bytes], Awaitable[Result]],
    offset: int = 0,
    length: int | None = None,
) -> Result:
    """What ``check`` makes of an object's bytes, which it refuses with RepositoryDamagedError.

    Where the destination holds several copies, each is tried until one is accepted.
    """
    if isinstance(provider, Copies):
        return await provider.read_verified(key, check, offset, length)
    return await check(await provider.read(key, offset, length))

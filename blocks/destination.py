"""What every destination block offers: its provider, and a test that says what is wrong in a person's words."""

from __future__ import annotations

import abc
import asyncio
from typing import Any, ClassVar

from prefect.blocks.core import Block

from backupiq.errors import BackupIQError
from backupiq.storage.provider import StorageProvider
from backupiq.storage.throttle import NO_LIMITS, Limits
from backupiq.storage.trial import Trial, try_destination


class Destination(Block, abc.ABC):
    """A place that can hold a repository, with the credentials that open it."""

    _block_schema_capabilities: ClassVar[list[str] | None] = ["backupiq-destination"]

    @abc.abstractmethod
    def provider(self, limits: Limits = NO_LIMITS) -> StorageProvider:
        """The storage provider for this destination; nothing is contacted or made yet."""

    @property
    def written(self) -> str | None:
        """How people name this block on the command line; None before it is saved."""
        name: Any = self._block_document_name
        return f"block:{name}" if name else None

    async def test(self) -> Trial:
        """Connect, store a small object, read it, list it and delete it; says what is wrong instead of raising.

        Nothing of it remains, and a repository that is there is not touched.
        """
        try:
            provider = self.provider()
        except BackupIQError as error:
            return Trial(self.written or self.get_block_type_name(), (), error, error.message)
        async with provider:
            return await try_destination(provider, written=self.written)

    def test_sync(self) -> Trial:
        """The same for code that is not async."""
        return asyncio.run(self.test())

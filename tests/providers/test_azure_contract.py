"""The contract of all providers, by Azure Blob Storage."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from backupiq.storage.azure import AzureProvider
from backupiq.storage.provider import StorageProvider
from tests.providers.contract import ProviderContract
from tests.support.servers.azurite import Azurite


class TestAzure(ProviderContract):
    @pytest.fixture
    async def provider(self, azurite: Azurite) -> AsyncIterator[AzureProvider]:
        async with AzureProvider(azurite.config(azurite.new_container(), prefix="some/where")) as opened:
            yield opened

    @pytest.fixture
    async def missing(self, azurite: Azurite) -> AsyncIterator[AzureProvider]:
        async with AzureProvider(azurite.config(azurite.new_name())) as opened:
            yield opened

    async def unfinished(self, provider: StorageProvider) -> list[str]:
        # Blocks without a blob are in no listing, cannot be removed and expire by themselves: they do not count.
        return []

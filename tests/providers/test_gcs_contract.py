"""The contract of all providers, by Google Cloud Storage."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from backupiq.storage.gcs import GcsProvider
from backupiq.storage.provider import StorageProvider
from tests.providers.contract import ProviderContract
from tests.support.servers.gcs import GcsServer


class TestGcs(ProviderContract):
    @pytest.fixture
    async def provider(self, gcs_server: GcsServer) -> AsyncIterator[GcsProvider]:
        async with GcsProvider(gcs_server.config(gcs_server.new_bucket(), prefix="some/where")) as opened:
            yield opened

    @pytest.fixture
    async def missing(self, gcs_server: GcsServer) -> AsyncIterator[GcsProvider]:
        async with GcsProvider(gcs_server.config(gcs_server.new_name())) as opened:
            yield opened

    @pytest.fixture(autouse=True)
    def remember(self, gcs_server: GcsServer) -> None:
        self.server = gcs_server

    async def unfinished(self, provider: StorageProvider) -> list[str]:
        assert isinstance(provider, GcsProvider)
        return self.server.unfinished(provider.config.bucket)

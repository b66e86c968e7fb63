"""The contract of all providers, by S3 against two servers."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from backupiq.storage.objectstore import DEFAULT_TRANSFER, TransferOptions
from backupiq.storage.provider import StorageProvider
from backupiq.storage.s3 import S3Provider
from tests.providers.contract import ProviderContract
from tests.support.servers.moto import Moto
from tests.support.servers.s3server import S3Server
from tests.support.servers.seaweedfs import SeaweedFS


class S3Contract(ProviderContract):
    transfer = DEFAULT_TRANSFER

    @pytest.fixture
    async def provider(self, server: S3Server) -> AsyncIterator[S3Provider]:
        config = server.config(server.shared_bucket, prefix=f"some/{server.new_name()}", transfer=self.transfer)
        async with S3Provider(config) as opened:
            yield opened

    @pytest.fixture
    async def missing(self, server: S3Server) -> AsyncIterator[S3Provider]:
        async with S3Provider(server.config(server.new_name())) as opened:
            yield opened

    @pytest.fixture(autouse=True)
    def remember(self, server: S3Server) -> None:
        self.server = server

    async def unfinished(self, provider: StorageProvider) -> list[str]:
        assert isinstance(provider, S3Provider)
        return self.server.unfinished(provider.config.bucket, provider.config.prefix)


class TestSeaweedFS(S3Contract):
    @pytest.fixture
    def server(self, seaweedfs: SeaweedFS) -> S3Server:
        return seaweedfs


class TestSeaweedFSInParts(S3Contract):
    """The same with uploads in parts, down to small ones."""

    transfer = TransferOptions(whole_bytes=64 * 1024)

    # Nothing in these goes in parts.
    test_a_hostile_key_is_refused_by_every_call = None  # type: ignore[assignment]
    test_an_odd_key_is_only_a_name = None  # type: ignore[assignment]
    test_thousands_of_objects_are_each_listed_once = None  # type: ignore[assignment]
    test_of_many_creators_at_once_exactly_one_wins = None  # type: ignore[assignment]
    test_a_range_is_read = None  # type: ignore[assignment]
    test_a_range_beyond_the_end_is_reported = None  # type: ignore[assignment]
    test_what_is_not_there_is_not_found = None  # type: ignore[assignment]

    @pytest.fixture
    def server(self, seaweedfs: SeaweedFS) -> S3Server:
        return seaweedfs


class TestMoto(S3Contract):
    # The same code as above, without a server or with a slow one: nothing is learnt from moto here.
    test_a_hostile_key_is_refused_by_every_call = None  # type: ignore[assignment]
    test_thousands_of_objects_are_each_listed_once = None  # type: ignore[assignment]

    @pytest.fixture
    def server(self, moto: Moto) -> S3Server:
        return moto

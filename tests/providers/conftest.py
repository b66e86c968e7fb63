"""The storage servers that the providers' tests share, one of each for the whole session of a worker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from backupiq.storage.s3 import S3Provider
from backupiq.storage.throttle import Limits
from tests.providers.cloud_fixtures import azurite, fake_gcs, gcs_server
from tests.providers.s3_support import OpenS3
from tests.support.fault_proxy import FaultProxy
from tests.support.servers.base import HOST
from tests.support.servers.moto import Moto
from tests.support.servers.s3server import S3Server
from tests.support.servers.seaweedfs import SeaweedFS

__all__ = ["azurite", "fake_gcs", "gcs_server", "moto", "open_s3", "s3_proxy", "seaweedfs"]


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    """An S3 server that checks signatures."""
    with SeaweedFS(tmp_path_factory.mktemp("seaweedfs")) as server:
        yield server


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moto]:
    """An S3 server that knows the archive classes and accepts any secret."""
    with Moto(tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture
async def open_s3(seaweedfs: SeaweedFS) -> AsyncIterator[OpenS3]:
    """Opens providers on a prefix of their own at SeaweedFS, or at another server."""
    providers: list[S3Provider] = []

    def open_one(server: S3Server = seaweedfs, **more: Any) -> S3Provider:
        limits = more.pop("limits", Limits())
        clock = more.pop("clock", None)
        more = {"bucket": server.shared_bucket, "prefix": f"own/{server.new_name()}", **more}
        provider = S3Provider(
            server.config(more.pop("bucket"), **more), limits=limits, **({"clock": clock} if clock else {})
        )
        providers.append(provider)
        return provider

    yield open_one
    for provider in providers:
        await provider.close()


@pytest.fixture
def s3_proxy(seaweedfs: SeaweedFS) -> Iterator[FaultProxy]:
    """What breaks things between a provider and SeaweedFS."""
    with FaultProxy(HOST, seaweedfs.ports[0]) as running:
        yield running

"""The storage servers that the providers' tests share, one of each for the whole session of a worker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.providers.cloud_fixtures import azurite, fake_gcs, gcs_server
from tests.support.servers.moto import Moto
from tests.support.servers.seaweedfs import SeaweedFS

__all__ = ["azurite", "fake_gcs", "gcs_server", "moto", "seaweedfs"]


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

"""A destination of each kind behind the fault proxy: how to open it, which requests carry the bytes, what was left."""

from __future__ import annotations

import abc
import contextlib
import itertools
import ssl
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from backupiq.storage.objectstore import TransferOptions
from backupiq.storage.provider import StorageProvider
from tests.support.fault_proxy import FaultProxy
from tests.support.fault_rules import Fault, Rule
from tests.support.servers.azurite import Azurite
from tests.support.servers.gcs import GcsServer
from tests.support.servers.icloud import ICloudServer
from tests.support.servers.icloud_tree import ROOT, ZONE
from tests.support.servers.s3server import S3Server
from tests.support.servers.seaweedfs import SeaweedFS

PATIENT_SECONDS = 30.0
WHOLE_BYTES = 2 << 20
"""Objects up to this size are sent in one request."""


def transfer_options(seconds: float) -> TransferOptions:
    """No retries of the client's own, so that a fault is one request; ``seconds`` to wait for an answer."""
    return TransferOptions(
        connect_seconds=seconds,
        read_seconds=seconds,
        slowest_upload=64 << 20,
        whole_bytes=WHOLE_BYTES,
        retries=0,
        cancel_seconds=min(seconds, 5.0),
    )


CHECKED: Mapping[str, Any] = {"checksum_algorithm": "SHA256"}
"""AWS compares the hash in each request's signature with the bytes; SeaweedFS only a checksum that is sent as such."""


class Place(abc.ABC):
    """One kind of destination on a real server, reached through ``proxy``."""

    kind: ClassVar[str]
    upload: ClassVar[tuple[str, str]]
    """Method and pattern of the requests that carry an object's bytes there."""
    download: ClassVar[tuple[str, str]] = ("GET", r"/data/")

    def __init__(self, proxy: FaultProxy) -> None:
        self.proxy = proxy
        self.environment: Mapping[str, str] = {}
        """Variables that a process needs to trust the server."""

    @abc.abstractmethod
    def new(self) -> str:
        """Makes an empty bucket, container or folder; its name."""

    @abc.abstractmethod
    def missing(self) -> str:
        """The name of one that does not exist."""

    @abc.abstractmethod
    def at(self, name: str, *, seconds: float = PATIENT_SECONDS) -> StorageProvider:
        """A provider there, by way of the proxy, that waits so many seconds for an answer."""

    @abc.abstractmethod
    def leftovers(self, name: str) -> list[str]:
        """What the server keeps there of uploads that came to nothing and that does not go away by itself."""

    @contextlib.contextmanager
    def uploads_meet(self, fault: Fault) -> Iterator[Rule]:
        """For the length of a block the fault happens to every upload."""
        method, path = self.upload
        with self.proxy.fault(fault, method=method, path=path) as rule:
            yield rule

    @contextlib.contextmanager
    def downloads_meet(self, fault: Fault) -> Iterator[Rule]:
        """For the length of a block the fault happens to every download."""
        method, path = self.download
        with self.proxy.fault(fault, method=method, path=path) as rule:
            yield rule


class S3Place(Place):
    kind = "s3"
    upload = ("PUT", r"/data/")

    def __init__(self, server: S3Server, proxy: FaultProxy) -> None:
        super().__init__(proxy)
        self.server = server

    def new(self) -> str:
        return self.server.new_bucket()

    def missing(self) -> str:
        return self.server.new_name()

    def at(self, name: str, *, seconds: float = PATIENT_SECONDS) -> StorageProvider:
        from backupiq.storage.s3 import S3Provider

        given = {"endpoint": self.proxy.url, "prefix": "repo", "transfer": transfer_options(seconds)}
        return S3Provider(self.server.config(name, **given, **CHECKED))

    def leftovers(self, name: str) -> list[str]:
        return self.server.unfinished(name)


class GcsPlace(Place):
    kind = "gcs"
    upload = ("PUT", r"%2Fdata%2F")
    download = ("GET", r"%2Fdata%2F")

    def __init__(self, server: GcsServer, proxy: FaultProxy) -> None:
        super().__init__(proxy)
        self.server = server

    def new(self) -> str:
        return self.server.new_bucket()

    def missing(self) -> str:
        return self.server.new_name()

    def at(self, name: str, *, seconds: float = PATIENT_SECONDS) -> StorageProvider:
        from backupiq.storage.gcs import GcsProvider

        given = {"endpoint": self.proxy.url, "prefix": "repo", "transfer": transfer_options(seconds)}
        return GcsProvider(self.server.config(name, **given))

    def leftovers(self, name: str) -> list[str]:
        return self.server.unfinished(name)


class AzurePlace(Place):
    kind = "azure"
    upload = ("PUT", r"/data")

    def __init__(self, server: Azurite, proxy: FaultProxy) -> None:
        super().__init__(proxy)
        self.server = server

    def new(self) -> str:
        return self.server.new_container()

    def missing(self) -> str:
        return self.server.new_name()

    def at(self, name: str, *, seconds: float = PATIENT_SECONDS) -> StorageProvider:
        from backupiq.storage.azure import AzureProvider

        endpoint = f"{self.proxy.url}/{self.server.account}"
        given = {"endpoint": endpoint, "prefix": "repo", "transfer": transfer_options(seconds)}
        return AzureProvider(self.server.config(name, **given))

    def leftovers(self, name: str) -> list[str]:
        """Blobs only: uncommitted blocks cannot be removed, belong to no blob and expire by themselves."""
        return self.server.keys(name)


class ICloudPlace(Place):
    kind = "icloud"
    upload = ("POST", r"^/content/")
    download = ("GET", r"^/content/")

    def __init__(self, server: ICloudServer, proxy: FaultProxy, sessions: Path) -> None:
        super().__init__(proxy)
        self.environment = {"REQUESTS_CA_BUNDLE": str(server.ca_file)}
        self.server = server
        self._sessions = sessions
        self._names = itertools.count(1)

    def new(self) -> str:
        name = f"Folder {next(self._names)}"
        self.server.tree.make_folder(f"FOLDER::{ZONE}::{ROOT}", name)
        return name

    def missing(self) -> str:
        return f"Missing {next(self._names)}"

    def at(self, name: str, *, seconds: float = PATIENT_SECONDS) -> StorageProvider:
        from backupiq.storage.icloud import ICloudConfig, ICloudProvider

        self.server.trust(self._sessions)
        return ICloudProvider(
            ICloudConfig(
                apple_id=self.server.apple_id,
                password=self.server.password,
                folder=name,
                session_folder=self._sessions,
                endpoint=self.proxy.url,
                connect_seconds=seconds,
                read_seconds=seconds,
            )
        )

    def leftovers(self, name: str) -> list[str]:
        return [*self.server.files(name)]


@contextlib.contextmanager
def behind_proxy(url: str, **tls: ssl.SSLContext) -> Iterator[FaultProxy]:
    """A fault proxy in front of a server of the tests."""
    address = urlsplit(url)
    assert address.hostname
    assert address.port
    with FaultProxy(address.hostname, address.port, **tls) as proxy:
        yield proxy


@contextlib.contextmanager
def s3_place(folder: Path) -> Iterator[S3Place]:
    """S3 on SeaweedFS, which checks signatures and the checksums it is given."""
    with SeaweedFS(folder) as server, behind_proxy(server.url) as proxy:
        yield S3Place(server, proxy)


@contextlib.contextmanager
def gcs_place(folder: Path) -> Iterator[Place]:
    """Google Cloud Storage on a server that speaks its XML API."""
    with GcsServer(folder) as server, behind_proxy(server.url) as proxy:
        yield GcsPlace(server, proxy)


@contextlib.contextmanager
def azure_place(folder: Path) -> Iterator[Place]:
    """Azure Blob Storage on Azurite."""
    with Azurite(folder) as server, behind_proxy(server.url) as proxy:
        yield AzurePlace(server, proxy)


@contextlib.contextmanager
def icloud_place(folder: Path) -> Iterator[Place]:
    """iCloud Drive on a server that the unmodified client signs in to."""
    with ICloudServer(folder / "server") as server:
        serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        serving.load_cert_chain(server.ca_file, server.ca_file.with_name("key.pem"))
        trusting = ssl.create_default_context(cafile=str(server.ca_file))
        with behind_proxy(server.url, tls=serving, target_tls=trusting) as proxy:
            yield ICloudPlace(server, proxy, folder / "sessions")


Setup = Callable[[Path], contextlib.AbstractContextManager[Place]]
PLACES: Mapping[str, Setup] = {"s3": s3_place, "gcs": gcs_place, "azure": azure_place, "icloud": icloud_place}
"""How each kind is set up."""

"""Azurite, Azure's own storage server for tests: checks keys and SAS tokens, knows access tiers and archived blobs."""

from __future__ import annotations

import base64
import hashlib
import itertools
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from backupiq.storage.azure_config import AzureConfig
from tests.support.programs import azurite_command, require
from tests.support.servers.base import HOST, Server


class Azurite(Server):
    """One blob server with one account.

    With ``certificate`` (a PEM file that holds the key too, trusted by ``authority``) it speaks https and takes tokens
    of a service principal, whose signature it does not check.
    """

    account = "backupiqtests"
    key = base64.b64encode(hashlib.sha512(b"the account of these tests").digest()).decode()

    def __init__(self, folder: Path, *, certificate: Path | None = None, authority: Path | None = None) -> None:
        super().__init__(folder)
        self.authority = authority
        self.certificate = certificate
        self._names = itertools.count(1)

    def command(self) -> list[str]:
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        command = [
            # Becomes node, so that the key stands in no list of processes.
            *(str(require("env")), f"AZURITE_ACCOUNTS={self.account}:{self.key}"),
            *azurite_command(),
            *("--blobHost", HOST, "--blobPort", str(self.ports[0]), "--location", str(data)),
            *("--disableTelemetry", "--skipApiVersionCheck", "--disableProductStyleUrl"),
        ]
        if self.certificate is not None:
            command += ["--cert", str(self.certificate), "--key", str(self.certificate), "--oauth", "basic"]
        return command

    def is_ready(self) -> bool:
        if self.certificate is not None:
            return "successfully listens" in self.log.read_text(errors="replace")
        try:
            urllib.request.urlopen(self.url, timeout=5).close()  # noqa: S310 - own loopback URL
        except urllib.error.HTTPError:
            return True  # it answers, and asks for credentials
        return False

    @property
    def url(self) -> str:
        """The account's address for blobs."""
        return f"{'https' if self.certificate else 'http'}://{HOST}:{self.ports[0]}/{self.account}"

    @cached_property
    def client(self) -> Any:
        """A client of Azure's SDK with the account's key; not for use before the first start."""
        from azure.storage.blob import BlobServiceClient

        credential: Any = {"account_name": self.account, "account_key": self.key}
        verify = {"connection_verify": str(self.authority)} if self.authority else {}
        return BlobServiceClient(self.url, credential=credential, **verify)

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which Azure's tools and BackupIQ use this server."""
        return {"AZURE_STORAGE_CONNECTION_STRING": self.connection_string}

    @property
    def connection_string(self) -> str:
        """As Azure's portal gives it."""
        return f"AccountName={self.account};AccountKey={self.key};BlobEndpoint={self.url};"

    def sas(self, container: str, permission: str = "racwdl", *, hours: float = 1) -> str:
        """A SAS token for a container, that ends in so many hours (or ended, when they are negative)."""
        from azure.storage.blob import generate_container_sas

        ends = datetime.now(UTC) + timedelta(hours=hours)
        token: str = generate_container_sas(
            self.account, container, account_key=self.key, permission=permission, expiry=ends
        )
        return token

    def new_name(self) -> str:
        """The name of a container that does not exist."""
        return f"container-{next(self._names)}"

    def new_container(self) -> str:
        """Makes an empty container; its name."""
        name = self.new_name()
        self.client.create_container(name)
        return name

    def destination(self, container: str, prefix: str = "") -> str:
        """The container as a person writes it for BackupIQ."""
        return f"az://{container}/{prefix}?endpoint={self.url}"

    def config(self, container: str, **more: Any) -> AzureConfig:
        """A destination with this account's key."""
        from pydantic import SecretStr

        return AzureConfig(container, **{"endpoint": self.url, "account_key": SecretStr(self.key), **more})

    def blobs(self, container: str, *, unfinished: bool = False) -> Iterator[Any]:
        """Every blob as Azure's SDK describes it; with ``unfinished`` also those of which only blocks are there."""
        include = ["metadata", "uncommittedblobs"] if unfinished else ["metadata"]
        yield from self.client.get_container_client(container).list_blobs(include=include)

    def keys(self, container: str) -> list[str]:
        """Every key in a container, sorted."""
        return sorted(blob.name for blob in self.blobs(container))

    def read(self, container: str, key: str) -> bytes:
        """A blob's bytes."""
        data: bytes = self.client.get_blob_client(container, key).download_blob().readall()
        return data

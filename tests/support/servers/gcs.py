"""The Google Cloud Storage server that obstore accepts, as a process (see `gcs_shim`)."""

from __future__ import annotations

import itertools
import json
import re
import sys
import urllib.error
import urllib.request
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from backupiq.storage.gcs_config import GcsConfig
from tests.support.programs import ROOT
from tests.support.servers.base import Server

PROJECT = "backupiq-tests"
RUN = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tests.support.servers.gcs_shim import main; main()"


class GcsServer(Server):
    """One server; everything it holds is gone when it stops. It takes one token and one service account."""

    token = "ya29.token-of-the-backupiq-tests"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._names = itertools.count(1)

    def command(self) -> list[str]:
        public = self.folder / "service-account.pem"
        public.write_bytes(self._key_pair[1])
        given = ["--port", str(self.ports[0]), "--token", self.token, "--public-key", str(public)]
        return [sys.executable, "-c", RUN, *given]

    def is_ready(self) -> bool:
        try:
            urllib.request.urlopen(self.url, timeout=5).close()  # noqa: S310 - own loopback URL
        except urllib.error.HTTPError:
            return True  # it answers, and asks for credentials
        return False

    @cached_property
    def _key_pair(self) -> tuple[str, bytes]:
        return new_key_pair()

    @property
    def service_account(self) -> str:
        """The JSON of a service account that the server knows."""
        return service_account(self._key_pair[0], f"{self.url}/token")

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which BackupIQ uses this server."""
        return {"CLOUDSDK_AUTH_ACCESS_TOKEN": self.token, "GOOGLE_CLOUD_PROJECT": PROJECT}

    def new_name(self) -> str:
        """The name of a bucket that does not exist."""
        return f"bucket-{next(self._names)}"

    def new_bucket(self) -> str:
        """Makes an empty bucket; its name."""
        name = self.new_name()
        self.call("POST", f"/storage/v1/b?project={PROJECT}", json.dumps({"name": name}).encode())
        return name

    def destination(self, bucket: str, prefix: str = "") -> str:
        """The bucket as a person writes it for BackupIQ."""
        return f"gs://{bucket}/{prefix}?endpoint={self.url}"

    def config(self, bucket: str, **more: Any) -> GcsConfig:
        """A destination with this server's token."""
        from pydantic import SecretStr

        given = {"endpoint": self.url, "access_token": SecretStr(self.token), "project": PROJECT, **more}
        return GcsConfig(bucket, **given)

    def call(self, method: str, path: str, body: bytes | None = None) -> tuple[dict[str, str], bytes]:
        """One request with the server's token, behind the provider's back: the answer's headers and bytes."""
        request = urllib.request.Request(self.url + path, data=body, method=method)  # noqa: S310 - own loopback URL
        request.add_header("Authorization", f"Bearer {self.token}")
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - own loopback URL
            return {name.lower(): value for name, value in answer.headers.items()}, answer.read()

    def headers(self, bucket: str, key: str) -> dict[str, str]:
        """What the server says of an object."""
        return self.call("HEAD", f"/{bucket}/{quote(key)}")[0]

    def keys(self, bucket: str) -> list[str]:
        """Every key in a bucket, sorted (of the first thousand)."""
        return sorted(re.findall(r"<Key>([^<]*)</Key>", self.call("GET", f"/{bucket}?list-type=2")[1].decode()))

    def read(self, bucket: str, key: str) -> bytes:
        """An object's bytes."""
        return self.call("GET", f"/{bucket}/{quote(key)}")[1]

    def begin_upload(self, bucket: str, key: str) -> None:
        """Begins an upload in parts that nobody completes."""
        self.call("POST", f"/{bucket}/{quote(key)}?uploads", b"")

    def unfinished(self, bucket: str) -> list[str]:
        """Keys of uploads in parts that were neither completed nor ended."""
        return re.findall(r"<Key>([^<]*)</Key>", self.call("GET", f"/{bucket}?uploads")[1].decode())


def new_key_pair() -> tuple[str, bytes]:
    """A new RSA key: the private one as Google writes it into its JSON, the public one as PEM."""
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    public = key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    return private.decode(), public


def service_account(private_key: str, token_uri: str) -> str:
    """The JSON that Google gives for a service account's key."""
    return json.dumps(
        {
            "type": "service_account",
            "project_id": PROJECT,
            "private_key_id": "0123456789abcdef",
            "private_key": private_key,
            "client_email": f"tests@{PROJECT}.iam.gserviceaccount.com",
            "client_id": "1234567890",
            "token_uri": token_uri,
        }
    )

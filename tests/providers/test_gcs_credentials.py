"""Google Cloud Storage against real servers: credentials of every kind, and where they are not looked for."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from backupiq.errors import (
    ConfigurationError,
    MissingConfigurationError,
    StorageAuthenticationError,
    StorageConnectionError,
)
from backupiq.storage.gcs import GcsProvider
from backupiq.storage.gcs_config import GcsConfig
from tests.providers.cloud_fixtures import Answers
from tests.support.programs import ROOT, plain_environment
from tests.support.servers.base import free_ports
from tests.support.servers.gcs import GcsServer, new_key_pair, service_account


@pytest.fixture
def bucket(gcs_server: GcsServer) -> str:
    return gcs_server.new_bucket()


def with_service_account(server: GcsServer, folder: Path) -> dict[str, Any]:
    return {"service_account": SecretStr(server.service_account)}


def with_its_file(server: GcsServer, folder: Path) -> dict[str, Any]:
    (folder / "key.json").write_text(server.service_account)
    return {"credentials_file": str(folder / "key.json")}


def with_credentials_of_a_block(server: GcsServer, folder: Path) -> dict[str, Any]:
    from google.oauth2.service_account import Credentials

    scopes = ["https://www.googleapis.com/auth/cloud-platform"]
    info = json.loads(server.service_account)
    # These fetch their tokens from the token server.
    return {"credentials": Credentials.from_service_account_info(info, scopes=scopes)}  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("way", [with_service_account, with_its_file, with_credentials_of_a_block])
async def test_each_kind_of_credentials_stores_reads_and_creates(
    gcs_server: GcsServer, tmp_path: Path, way: Callable[[GcsServer, Path], dict[str, Any]]
) -> None:
    config = gcs_server.config(gcs_server.new_name(), **{"access_token": None, **way(gcs_server, tmp_path)})
    async with GcsProvider(config) as provider:
        await provider.create()
        await provider.upload_file(b"{}", "config", create_only=True)
        assert await provider.read("config") == b"{}"
        assert await provider.sweep_temporary_files(0) == 0


async def test_a_strangers_service_account_is_an_authentication_error(gcs_server: GcsServer, bucket: str) -> None:
    text = service_account(new_key_pair()[0], f"{gcs_server.url}/token")
    config = gcs_server.config(bucket, access_token=None, service_account=SecretStr(text))
    async with GcsProvider(config) as provider:
        for call in (provider.authenticate(), provider.read("config"), provider.upload_file(b"x", "config")):
            with pytest.raises(StorageAuthenticationError, match="401"):
                await call


def block_credentials(private_key: str, token_uri: str) -> Any:
    from google.oauth2.service_account import Credentials

    info = json.loads(service_account(private_key, token_uri))
    return Credentials.from_service_account_info(info)  # type: ignore[no-untyped-call]


async def test_a_token_server_that_refuses_is_an_authentication_error(gcs_server: GcsServer, bucket: str) -> None:
    stranger = block_credentials(new_key_pair()[0], f"{gcs_server.url}/token")
    async with GcsProvider(gcs_server.config(bucket, access_token=None, credentials=stranger)) as provider:
        with pytest.raises(StorageAuthenticationError, match="Sign in again") as caught:
            await provider.authenticate()
        with pytest.raises(StorageAuthenticationError):
            await provider.sweep_temporary_files(0)
    assert not caught.value.retryable


async def test_a_token_server_out_of_reach_is_worth_another_try(gcs_server: GcsServer, bucket: str) -> None:
    lost = block_credentials(new_key_pair()[0], f"http://127.0.0.1:{free_ports(1)[0]}/token")
    async with GcsProvider(gcs_server.config(bucket, access_token=None, credentials=lost)) as provider:
        with pytest.raises(StorageConnectionError) as caught:
            await provider.authenticate()
        with pytest.raises(StorageConnectionError):
            await provider.sweep_temporary_files(0)
    assert caught.value.retryable


async def test_a_private_key_that_is_none_is_a_configuration_error(gcs_server: GcsServer, bucket: str) -> None:
    broken = SecretStr(service_account("no key", "https://oauth2.googleapis.com/token"))
    async with GcsProvider(gcs_server.config(bucket, access_token=None, service_account=broken)) as provider:
        with pytest.raises(ConfigurationError, match="private key"):
            await provider.authenticate()


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"{}", b'{"type": "external_account"}', b'{"type": 1}'])
async def test_a_file_of_credentials_that_cannot_be_used_is_a_configuration_error(
    tmp_path: Path, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "key.json").write_bytes(content)
    async with GcsProvider(GcsConfig("my-bucket", credentials_file=str(tmp_path / "key.json"))) as provider:
        with pytest.raises(ConfigurationError, match="Google credentials"):
            await provider.authenticate()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GOOGLE_APPLICATION_CREDENTIALS", "/not/there"),
        ("GOOGLE_BEARER_TOKEN", "of-somebody-else"),
        ("GOOGLE_SKIP_SIGNATURE", "true"),
        ("GOOGLE_BASE_URL", "http://127.0.0.1:1"),
        ("GOOGLE_BUCKET", "another"),
    ],
)
async def test_what_the_environment_says_does_not_mix_with_the_credentials_given(
    gcs_server: GcsServer, bucket: str, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    async with GcsProvider(gcs_server.config(bucket)) as provider:
        await provider.upload_file(b"{}", "config")
    assert gcs_server.keys(bucket) == ["config"]


async def test_a_variable_that_stops_the_client_is_named(
    gcs_server: GcsServer, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", "/not/there")
    async with GcsProvider(gcs_server.config(bucket)) as provider:
        with pytest.raises(ConfigurationError, match="GOOGLE_SERVICE_ACCOUNT"):
            await provider.authenticate()


METADATA_SCRIPT = """
import asyncio, sys
from backupiq.errors import MissingConfigurationError
from backupiq.storage.gcs import GcsConfig, GcsProvider

async def use(url, env):
    async with GcsProvider(GcsConfig.from_url(url, env)) as provider:
        await provider.authenticate()

endpoint = sys.argv[1]
try:
    GcsConfig.from_url("gs://my-bucket", {"HOME": "/nowhere"})
except MissingConfigurationError:
    print("missing")
asyncio.run(use("gs://my-bucket?endpoint=" + endpoint, {"CLOUDSDK_AUTH_ACCESS_TOKEN": "given"}))
print("given")
if sys.argv[2] == "True":
    asyncio.run(use("gs://my-bucket?auth=machine&endpoint=" + endpoint, {}))
    print("machine")
"""
EMPTY_LISTING = b"<ListBucketResult><Name>my-bucket</Name><IsTruncated>false</IsTruncated></ListBucketResult>"


@pytest.mark.parametrize("asked_for", [False, True])
def test_the_metadata_address_is_asked_only_where_the_machines_account_was_chosen(asked_for: bool) -> None:
    # In a process of its own: google-auth reads the address of the metadata server when it is imported.
    said = (
        b'{"access_token": "of-the-machine", "expires_in": 3600, "token_type": "Bearer", "scopes": [], "email": "a@b"}'
    )
    google = {"Metadata-Flavor": "Google", "Content-Type": "application/json"}
    with Answers(200, said, google) as metadata, Answers(200, EMPTY_LISTING) as storage:
        address = metadata.url.removeprefix("http://")
        done = subprocess.run(
            [sys.executable, "-c", METADATA_SCRIPT, storage.url, str(asked_for)],
            env=plain_environment() | {"GCE_METADATA_HOST": address, "GCE_METADATA_IP": address},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.stdout.split() == ["missing", "given", "machine"][: 2 + asked_for], done.stderr
    assert bool(metadata.asked) == asked_for


@pytest.mark.parametrize("module", ["google.auth", "google.auth.transport.requests", "google.cloud"])
async def test_a_missing_library_is_named_with_what_to_install(
    gcs_server: GcsServer, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    for loaded in [name for name in sys.modules if name == module or name.startswith(f"{module}.")]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, module, None)
    account = {"access_token": None, "service_account": SecretStr(gcs_server.service_account)}
    async with GcsProvider(gcs_server.config(gcs_server.new_name(), **account)) as provider:
        with pytest.raises(MissingConfigurationError, match=r'pip install "backupiq\[gcs\]"'):
            await provider.create()


def test_importing_the_provider_imports_no_library_of_google() -> None:
    foreign = "[name for name in sys.modules if name.split('.')[0] in ('google', 'requests')]"
    script = f"import sys, backupiq.storage.gcs; print({foreign})"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

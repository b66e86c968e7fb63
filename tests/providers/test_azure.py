"""Azure Blob Storage against real servers: credentials, tiers, unfinished uploads, containers, errors."""

from __future__ import annotations

import asyncio
import base64
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from backupiq.errors import (
    BackupIQError,
    ConfigurationError,
    MissingConfigurationError,
    StorageAuthenticationError,
    StorageConflictError,
    StorageConnectionError,
    StorageCorruptError,
    StorageError,
    StorageNeedsThawError,
    StorageNotFoundError,
    StoragePermissionError,
    StorageQuotaError,
    StorageThrottledError,
    StorageUnsupportedError,
)
from backupiq.storage import azure_control
from backupiq.storage.azure import AzureProvider
from backupiq.storage.azure_config import AzureConfig
from backupiq.storage.transfer_options import MIB, TransferOptions
from tests.providers.cloud_fixtures import Answers
from tests.providers.contract import Interrupt, keys_of
from tests.support.programs import ROOT
from tests.support.servers.azurite import Azurite
from tests.support.servers.base import free_ports

IN_PARTS = TransferOptions(whole_bytes=MIB)
AT_ONCE = TransferOptions(retries=0, connect_seconds=5)
NAME = "ab" * 32
WRONG_KEY = base64.b64encode(b"the key of somebody else").decode()


@pytest.fixture
def container(azurite: Azurite) -> str:
    return azurite.new_container()


def with_sas(azurite: Azurite, container: str, token: str) -> AzureConfig:
    return azurite.config(container, account_key=None, sas_token=SecretStr(token))


def at(url: str, **more: Any) -> AzureProvider:
    given: dict[str, Any] = {"account_key": SecretStr(WRONG_KEY), "transfer": AT_ONCE, **more}
    return AzureProvider(AzureConfig("my-container", endpoint=f"{url}/myaccount", **given))


# --- credentials ---------------------------------------------------------------------------------------------------


async def test_a_connection_string_in_the_environment_is_enough(azurite: Azurite) -> None:
    url = azurite.destination(azurite.new_name(), "some/where").partition("?")[0]
    async with AzureProvider(AzureConfig.from_url(url, azurite.environment)) as provider:
        await provider.create()
        await provider.upload_file(b"{}", "config", create_only=True)
        assert await provider.read("config") == b"{}"
        assert azurite.keys(provider.config.container) == ["some/where/config"]


async def test_a_sas_token_for_the_container_is_enough_for_all_but_making_it(azurite: Azurite, container: str) -> None:
    async with AzureProvider(with_sas(azurite, container, azurite.sas(container))) as provider:
        await provider.create()
        await provider.upload_file(b"{}", "config", create_only=True)
        await provider.upload_file(b"x", "locks/l")
        with pytest.raises(StorageConflictError):
            await provider.upload_file(b"{}", "config", create_only=True)
        assert await provider.read("config") == b"{}"
        await provider.delete_file("locks/l")
        with pytest.raises(StorageNotFoundError):
            await provider.delete_file("locks/l")
        assert await keys_of(provider) == ["config"]
    absent = azurite.new_name()
    async with AzureProvider(with_sas(azurite, absent, azurite.sas(absent))) as provider:
        with pytest.raises((StoragePermissionError, StorageAuthenticationError)):
            await provider.create()


async def test_a_sas_token_that_may_not_write_is_a_permission_error(azurite: Azurite, container: str) -> None:
    async with AzureProvider(with_sas(azurite, container, azurite.sas(container, "rl"))) as provider:
        await provider.authenticate()
        with pytest.raises(StoragePermissionError, match="racwdl"):
            await provider.upload_file(b"x", "config")


async def test_an_expired_sas_token_is_said_to_be_expired_by_every_call(
    azurite: Azurite, container: str, tmp_path: Path
) -> None:
    token = azurite.sas(container, hours=-1)
    async with AzureProvider(with_sas(azurite, container, token)) as provider:
        for call in (
            provider.authenticate(),
            provider.upload_file(b"x", "config"),
            provider.get_file_info("config"),
            provider.download_file("config", tmp_path / "target"),
            provider.delete_file("config"),
        ):
            with pytest.raises(
                StorageAuthenticationError, match=r"SAS token .* expired at 20.*Make a new one"
            ) as caught:
                await call
            assert "sig=" not in str(caught.value.to_dict())


async def test_a_key_that_is_wrong_is_an_authentication_error(azurite: Azurite, container: str) -> None:
    async with AzureProvider(azurite.config(container, account_key=SecretStr(WRONG_KEY))) as provider:
        for call in (provider.authenticate(), provider.read("config"), provider.upload_file(b"x", "config")):
            with pytest.raises(StorageAuthenticationError, match="account key") as caught:
                await call
            assert WRONG_KEY not in f"{caught.value.to_dict()}{caught.value!r}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AZURE_STORAGE_ACCOUNT_NAME", "another"),
        ("AZURE_STORAGE_ACCOUNT_KEY", WRONG_KEY),
        ("AZURE_STORAGE_SAS_KEY", "sv=1&sig=x"),
        ("AZURE_STORAGE_TOKEN", "of-somebody-else"),
        ("AZURE_CREDENTIAL_TYPE", "managed_identity"),
        ("AZURE_STORAGE_USE_EMULATOR", "true"),
        ("AZURE_SKIP_SIGNATURE", "true"),
        ("AZURE_STORAGE_ENDPOINT", "http://127.0.0.1:1"),
        ("AZURE_CONTAINER_NAME", "another"),
    ],
)
async def test_what_the_environment_says_does_not_mix_with_the_credentials_given(
    azurite: Azurite, container: str, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    async with AzureProvider(azurite.config(container)) as provider:
        await provider.upload_file(b"{}", "config")
    assert azurite.keys(container) == ["config"]


@pytest.mark.parametrize("name", ["AZURE_ENCRYPTION_KEY", "AZURE_STORAGE_ENCRYPTION_KEY"])
async def test_a_key_of_the_environment_never_encrypts_what_others_must_read(
    azurite: Azurite, container: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, base64.b64encode(bytes(32)).decode())
    async with AzureProvider(azurite.config(container)) as provider:
        with pytest.raises(ConfigurationError, match=f"{name} is set"):
            await provider.upload_file(b"{}", "config")
    assert azurite.keys(container) == []


async def test_a_missing_library_is_named_with_what_to_install(
    azurite: Azurite, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("azure.identity", "azure.storage.blob"):
        monkeypatch.setitem(sys.modules, module, None)
    principal = {"tenant_id": "t", "client_id": "c", "client_secret": SecretStr("a-secret"), "account_key": None}
    async with AzureProvider(azurite.config("absent", **principal)) as provider:
        with pytest.raises(MissingConfigurationError, match=r'pip install "backupiq\[azure\]"'):
            await provider.authenticate()
    async with AzureProvider(azurite.config("absent")) as provider:
        with pytest.raises(StorageNotFoundError):
            await provider.authenticate()  # a key needs no library
        with pytest.raises(MissingConfigurationError, match=r'pip install "backupiq\[azure\]"'):
            await provider.create()


def test_importing_the_provider_imports_no_library_of_azure() -> None:
    script = (
        "import sys, backupiq.storage.azure; print([m for m in sys.modules if m.split('.')[0] in ('azure', 'msal')])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- tiers, metadata -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transfer", [TransferOptions(), IN_PARTS], ids=["whole", "in parts"])
async def test_each_kind_of_object_gets_its_tier_and_all_get_the_metadata(
    azurite: Azurite, container: str, transfer: TransferOptions
) -> None:
    tiers = {"data": "cold", "snapshots": "COOL"}
    config = azurite.config(container, storage_class=tiers, metadata={"owner": "tests"}, transfer=transfer)
    async with AzureProvider(config) as provider:
        for key in ("data/ab/pack", "snapshots/one", "index/one", "locks/one"):
            await provider.upload_file(os.urandom(2 * MIB), key)
    assert {blob.name: blob.blob_tier for blob in azurite.blobs(container)} == {
        "data/ab/pack": "Cold",
        "snapshots/one": "Cool",
        "index/one": "Hot",
        "locks/one": "Hot",
    }
    assert [blob.metadata for blob in azurite.blobs(container)] == [{"owner": "tests"}] * 4


async def test_an_archived_pack_must_be_brought_back_before_it_is_read(
    azurite: Azurite, container: str, tmp_path: Path
) -> None:
    async with AzureProvider(azurite.config(container, storage_class={"data": "Archive"})) as provider:
        await provider.upload_file(b"pack", "data/ab/pack")
        assert (await provider.get_file_info("data/ab/pack")).size == 4
        for call in (
            provider.read("data/ab/pack"),
            provider.read("data/ab/pack", 1, 2),
            provider.download_file("data/ab/pack", tmp_path / "target"),
        ):
            with pytest.raises(StorageNeedsThawError, match="Archive tier"):
                await call
        assert list(tmp_path.iterdir()) == []
        azurite.client.get_blob_client(container, "data/ab/pack").set_standard_blob_tier("Hot")
        assert await provider.read("data/ab/pack") == b"pack"
        await provider.delete_file("data/ab/pack")


async def test_a_tier_the_account_does_not_take_is_named_as_the_cause(azurite: Azurite, container: str) -> None:
    config = azurite.config(container)
    object.__setattr__(config, "storage_class", {"data": "Frozen"})
    async with AzureProvider(config) as provider:
        with pytest.raises(StorageUnsupportedError, match="storage_class"):
            await provider.upload_file(b"x", "data/ab/pack")


# --- unfinished uploads, damaged objects ---------------------------------------------------------------------------


async def test_an_upload_in_parts_arrives_whole(azurite: Azurite, container: str, tmp_path: Path) -> None:
    data = os.urandom(20 * MIB + 5)
    (tmp_path / "pack").write_bytes(data)
    sent: list[int] = []
    async with AzureProvider(azurite.config(container, transfer=IN_PARTS)) as provider:
        await provider.upload_file(tmp_path / "pack", "data/ab/pack", progress=sent.append)
    assert sum(sent) == len(data)
    assert azurite.read(container, "data/ab/pack") == data


async def test_blocks_of_a_failed_upload_are_no_blob_and_do_not_disturb_the_next(
    azurite: Azurite, container: str
) -> None:
    sent: list[int] = []

    def fail_late(moved: int) -> None:
        sent.append(moved)
        if sum(sent) > 17 * MIB:
            raise BackupIQError("the watcher failed")

    data = os.urandom(20 * MIB)
    async with AzureProvider(azurite.config(container, transfer=IN_PARTS)) as provider:
        with pytest.raises(BackupIQError, match="watcher"):
            await provider.upload_file(bytes(20 * MIB), "data/ab/pack", progress=fail_late)
        assert not await provider.file_exists("data/ab/pack")
        assert await keys_of(provider) == []
        assert await provider.sweep_temporary_files(0) == 0
        await provider.upload_file(data, "data/ab/pack")
    assert azurite.read(container, "data/ab/pack") == data


async def test_a_cancelled_upload_in_parts_leaves_nothing(azurite: Azurite, container: str) -> None:
    async with AzureProvider(azurite.config(container, transfer=IN_PARTS)) as provider:
        interrupt = Interrupt()
        interrupt.task = asyncio.create_task(provider.upload_file(bytes(20 * MIB), "data/ab/pack", progress=interrupt))
        with pytest.raises(asyncio.CancelledError):
            await interrupt.task
        assert not await provider.file_exists("data/ab/pack")
        assert await keys_of(provider) == []


async def test_uploads_in_parts_of_one_key_at_once_do_not_mix(azurite: Azurite, container: str) -> None:
    contents = [bytes([n]) * (9 * MIB) for n in range(3)]
    transfer = TransferOptions(whole_bytes=MIB, memory_bytes=512 * MIB)
    async with AzureProvider(azurite.config(container, transfer=transfer)) as provider:
        uploads = (provider.upload_file(data, "data/ab/pack") for data in contents)
        results = await asyncio.gather(*uploads, return_exceptions=True)
        # Who commits first makes Azure drop the others' blocks: they may have to send again, and nothing worse.
        assert all(not isinstance(r, BaseException) or isinstance(r, StorageConnectionError) for r in results)
        assert any(not isinstance(r, BaseException) for r in results)
    assert azurite.read(container, "data/ab/pack") in contents


async def test_an_object_that_is_not_what_its_name_says_is_not_handed_out(
    azurite: Azurite, container: str, tmp_path: Path
) -> None:
    async with AzureProvider(azurite.config(container)) as provider:
        await provider.upload_file(b"flipped", f"data/ab/{NAME}")
        with pytest.raises(StorageCorruptError):
            await provider.download_file(f"data/ab/{NAME}", tmp_path / "target")
    assert list(tmp_path.iterdir()) == []


# --- containers, errors --------------------------------------------------------------------------------------------


async def test_a_container_that_another_run_made_meanwhile_is_fine(azurite: Azurite, container: str) -> None:
    azure_control.create_container(azurite.config(container))
    async with AzureProvider(azurite.config(azurite.new_name())) as provider:
        await asyncio.gather(provider.create(), provider.create(), provider.create())
        await provider.authenticate()


async def test_what_a_service_says_while_a_container_is_made_becomes_our_error() -> None:
    being_deleted = b"<?xml version='1.0'?><Error><Code>ContainerBeingDeleted</Code><Message>m</Message></Error>"
    for status, code, kind in (
        (409, "ContainerBeingDeleted", StorageConnectionError),
        (403, "AuthenticationFailed", StorageAuthenticationError),
        (403, "AuthorizationPermissionMismatch", StoragePermissionError),
        (400, "InvalidResourceName", StorageError),
    ):
        body = being_deleted.replace(b"ContainerBeingDeleted", code.encode())
        with Answers(status, body, {"x-ms-error-code": code, "Content-Type": "application/xml"}) as server:
            with pytest.raises(kind) as caught:
                azure_control.create_container(at(server.url).config)
            assert type(caught.value) is kind
            assert caught.value.message.isprintable()
    with pytest.raises(StorageConnectionError):
        azure_control.create_container(at(f"http://127.0.0.1:{free_ports(1)[0]}").config)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (401, "NoAuthenticationInformation", StorageAuthenticationError),
        (403, "AuthenticationFailed", StorageAuthenticationError),
        (403, "AuthorizationPermissionMismatch", StoragePermissionError),
        (404, "ContainerNotFound", StorageNotFoundError),
        (429, "TooManyRequests", StorageThrottledError),
        (500, "InternalError", StorageConnectionError),
        (503, "ServerBusy", StorageThrottledError),
        (507, "", StorageQuotaError),
        (400, "OutOfRangeInput", StorageError),
        (409, "BlobBeingRehydrated", StorageNeedsThawError),
        (409, "BlobImmutableDueToPolicy", StoragePermissionError),
    ],
)
async def test_each_answer_becomes_the_error_it_stands_for(status: int, code: str, kind: type[StorageError]) -> None:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code></Error>".encode() if code else b""
    with Answers(status, body) as server:
        async with at(server.url) as provider:
            for call in (provider.authenticate(), provider.upload_file(b"x", "config"), provider.read("config")):
                with pytest.raises(kind) as caught:
                    await call
                assert type(caught.value) is kind
                assert "\n" not in caught.value.message


async def test_a_server_that_is_not_there_is_worth_another_try() -> None:
    async with at(f"http://127.0.0.1:{free_ports(1)[0]}") as provider:
        for call in (provider.authenticate(), provider.upload_file(b"x", "config")):
            with pytest.raises(StorageConnectionError):
                await call


async def test_how_long_to_wait_is_kept_where_the_server_says_it() -> None:
    busy = Answers(503, b"", {"Retry-After": "17", "x-ms-error-code": "ServerBusy"})
    with busy as server, pytest.raises(StorageThrottledError) as caught:
        azure_control.create_container(at(server.url).config)
    assert caught.value.details["retry_after"] == 17.0

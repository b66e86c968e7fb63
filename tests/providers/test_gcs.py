"""Google Cloud Storage against real servers: classes, unfinished uploads, buckets, errors."""

from __future__ import annotations

import asyncio
import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from backupiq.errors import (
    BackupIQError,
    MissingConfigurationError,
    StorageAuthenticationError,
    StorageConnectionError,
    StorageCorruptError,
    StorageError,
    StorageNotFoundError,
    StoragePermissionError,
    StorageQuotaError,
    StorageThrottledError,
)
from backupiq.storage.gcs import GcsProvider
from backupiq.storage.gcs_config import ANONYMOUS, GcsConfig
from backupiq.storage.transfer_options import MIB, TransferOptions
from tests.providers.cloud_fixtures import Answers
from tests.providers.contract import Interrupt, keys_of
from tests.support.servers.base import free_ports
from tests.support.servers.fake_gcs import FakeGcs
from tests.support.servers.gcs import PROJECT, GcsServer

IN_PARTS = TransferOptions(whole_bytes=MIB)
AT_ONCE = TransferOptions(retries=0, connect_seconds=5)
NAME = "ab" * 32


@pytest.fixture
def bucket(gcs_server: GcsServer) -> str:
    return gcs_server.new_bucket()


def answering(status: int, code: str = "") -> Answers:
    return Answers(status, f"<?xml version='1.0'?><Error><Code>{code}</Code></Error>".encode() if code else b"")


def at(url: str, **more: Any) -> GcsProvider:
    given: dict[str, Any] = {"access_token": SecretStr("token"), "transfer": AT_ONCE, "project": PROJECT, **more}
    return GcsProvider(GcsConfig("my-bucket", endpoint=url, **given))


# --- classes, metadata ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transfer", [TransferOptions(), IN_PARTS], ids=["whole", "in parts"])
async def test_each_kind_of_object_gets_its_class_and_all_get_the_metadata(
    gcs_server: GcsServer, bucket: str, transfer: TransferOptions
) -> None:
    classes = {"data": "coldline", "snapshots": "NEARLINE"}
    config = gcs_server.config(bucket, storage_class=classes, metadata={"owner": "tests"}, transfer=transfer)
    async with GcsProvider(config) as provider:
        for key in ("data/ab/pack", "snapshots/one", "index/one", "locks/one"):
            await provider.upload_file(os.urandom(2 * MIB), key)
    said = {key: gcs_server.headers(bucket, key) for key in gcs_server.keys(bucket)}
    assert {key: headers.get("x-goog-storage-class") for key, headers in said.items()} == {
        "data/ab/pack": "COLDLINE",
        "snapshots/one": "NEARLINE",
        "index/one": None,
        "locks/one": None,
    }
    assert {headers["x-goog-meta-owner"] for headers in said.values()} == {"tests"}


# --- unfinished uploads, damaged objects ---------------------------------------------------------------------------


async def test_old_unfinished_uploads_below_the_prefix_are_swept_and_others_kept(
    gcs_server: GcsServer, bucket: str
) -> None:
    for key in ("some/where/data/ab/old", "some/where/config", "some/whereelse/data/x", "other"):
        gcs_server.begin_upload(bucket, key)
    now = datetime.now(UTC)
    config = gcs_server.config(bucket, prefix="some/where")
    async with GcsProvider(config, clock=lambda: now + timedelta(seconds=3000)) as provider:
        await provider.upload_file(b"x", "config")
        assert await provider.sweep_temporary_files(3600) == 0
    async with GcsProvider(config, clock=lambda: now + timedelta(seconds=4000)) as provider:
        assert await provider.sweep_temporary_files(3600) == 2
        assert await keys_of(provider) == ["config"]
    assert sorted(gcs_server.unfinished(bucket)) == ["other", "some/whereelse/data/x"]


async def test_an_upload_in_parts_that_fails_leaves_no_part_and_touches_no_other(
    gcs_server: GcsServer, bucket: str
) -> None:
    gcs_server.begin_upload(bucket, "p/data/ab/pack-of-another")

    def fail(moved: int) -> None:
        raise BackupIQError("the watcher failed")

    async with GcsProvider(gcs_server.config(bucket, prefix="p", transfer=IN_PARTS)) as provider:
        with pytest.raises(BackupIQError, match="watcher"):
            await provider.upload_file(bytes(20 * MIB), "data/ab/pack", progress=fail)
        assert await keys_of(provider) == []
    assert gcs_server.unfinished(bucket) == ["p/data/ab/pack-of-another"]


async def test_a_cancelled_upload_in_parts_leaves_nothing(gcs_server: GcsServer, bucket: str) -> None:
    async with GcsProvider(gcs_server.config(bucket, transfer=IN_PARTS)) as provider:
        interrupt = Interrupt()
        interrupt.task = asyncio.create_task(provider.upload_file(bytes(20 * MIB), "data/ab/pack", progress=interrupt))
        with pytest.raises(asyncio.CancelledError):
            await interrupt.task
        assert not await provider.file_exists("data/ab/pack")
        assert await keys_of(provider) == []
    assert gcs_server.unfinished(bucket) == []


async def test_an_upload_in_parts_arrives_whole(gcs_server: GcsServer, bucket: str, tmp_path: Path) -> None:
    data = os.urandom(20 * MIB + 5)
    (tmp_path / "pack").write_bytes(data)
    sent: list[int] = []
    async with GcsProvider(gcs_server.config(bucket, transfer=IN_PARTS)) as provider:
        await provider.upload_file(tmp_path / "pack", "data/ab/pack", progress=sent.append)
    assert sum(sent) == len(data)
    assert gcs_server.read(bucket, "data/ab/pack") == data
    assert gcs_server.unfinished(bucket) == []


async def test_an_object_that_is_not_what_its_name_says_is_not_handed_out(
    gcs_server: GcsServer, bucket: str, tmp_path: Path
) -> None:
    async with GcsProvider(gcs_server.config(bucket)) as provider:
        await provider.upload_file(b"flipped", f"data/ab/{NAME}")
        with pytest.raises(StorageCorruptError):
            await provider.download_file(f"data/ab/{NAME}", tmp_path / "target")
    assert list(tmp_path.iterdir()) == []


# --- buckets -------------------------------------------------------------------------------------------------------


async def test_a_bucket_is_made_once_and_found_there_the_next_time(fake_gcs: FakeGcs) -> None:
    from backupiq.storage import gcs_control

    config = GcsConfig("made-by-tests", endpoint=fake_gcs.url, project=PROJECT, access_token=SecretStr("any"))
    gcs_control.create_bucket(config)
    gcs_control.create_bucket(config)
    assert fake_gcs.bucket("made-by-tests")["name"] == "made-by-tests"


async def test_a_bucket_is_asked_for_closed_to_the_public_and_where_it_shall_lie() -> None:
    with Answers(200, b'{"name": "my-bucket"}', {"Content-Type": "application/json"}) as server:
        from backupiq.storage import gcs_control

        gcs_control.create_bucket(at(server.url, bucket_location="EU").config)
    assert server.asked == [f"POST /storage/v1/b?project={PROJECT}&prettyPrint=false"]
    sent = json.loads(server.bodies[0])
    assert sent["location"] == "EU"
    assert sent["iamConfiguration"]["publicAccessPrevention"] == "enforced"
    assert sent["iamConfiguration"]["uniformBucketLevelAccess"]["enabled"] is True


async def test_a_bucket_without_a_project_says_what_is_missing(gcs_server: GcsServer) -> None:
    config = gcs_server.config(gcs_server.new_name(), project=None)
    async with GcsProvider(config) as provider:
        with pytest.raises(MissingConfigurationError, match="GOOGLE_CLOUD_PROJECT"):
            await provider.create()
    service = {"access_token": None, "service_account": SecretStr(gcs_server.service_account), "project": None}
    async with GcsProvider(gcs_server.config(gcs_server.new_name(), **service)) as provider:
        await provider.create()
        await provider.authenticate()


async def test_a_test_server_needs_no_project(gcs_server: GcsServer, fake_gcs: FakeGcs) -> None:
    from backupiq.storage import gcs_control

    config = GcsConfig.from_url(f"gs://no-project?endpoint={fake_gcs.url}", {})
    assert config.access_token is not None
    assert config.access_token.get_secret_value() == ANONYMOUS
    gcs_control.create_bucket(config)
    assert fake_gcs.bucket("no-project")["name"] == "no-project"


async def test_a_bucket_of_somebody_else_is_said_to_be_one() -> None:
    from backupiq.storage import gcs_control

    taken = json.dumps({"error": {"code": 409, "message": "taken", "errors": [{"reason": "conflict"}]}}).encode()
    closed = json.dumps({"error": {"code": 403, "message": "no", "errors": [{"reason": "forbidden"}]}}).encode()
    with Answers(403, closed, {"Content-Type": "application/json"}) as server:
        server.answers["POST"] = (409, taken)
        with pytest.raises(StoragePermissionError, match="belongs to somebody else"):
            gcs_control.create_bucket(at(server.url).config)


# --- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (401, "AuthenticationRequired", StorageAuthenticationError),
        (403, "AccessDenied", StoragePermissionError),
        (403, "RequestTimeTooSkewed", StorageAuthenticationError),
        (400, "ExpiredToken", StorageAuthenticationError),
        (404, "NoSuchBucket", StorageNotFoundError),
        (429, "SlowDown", StorageThrottledError),
        (500, "InternalError", StorageConnectionError),
        (503, "ServiceUnavailable", StorageConnectionError),
        (503, "SlowDown", StorageThrottledError),
        (507, "", StorageQuotaError),
        (400, "InvalidArgument", StorageError),
    ],
)
async def test_each_answer_becomes_the_error_it_stands_for(status: int, code: str, kind: type[StorageError]) -> None:
    with answering(status, code) as server:
        async with at(server.url) as provider:
            for call in (
                provider.authenticate(),
                provider.upload_file(b"x", "config"),
                provider.read("config"),
                provider.sweep_temporary_files(0),
            ):
                with pytest.raises(kind) as caught:
                    await call
                assert type(caught.value) is kind
                assert "\n" not in caught.value.message


async def test_a_server_that_is_not_there_is_worth_another_try() -> None:
    async with at(f"http://127.0.0.1:{free_ports(1)[0]}") as provider:
        for call in (provider.authenticate(), provider.upload_file(b"x", "config"), provider.sweep_temporary_files(0)):
            with pytest.raises(StorageConnectionError):
                await call


async def test_how_long_to_wait_is_kept_where_the_server_says_it() -> None:
    with Answers(429, b"", {"Retry-After": "17"}) as server:
        async with at(server.url) as provider:
            with pytest.raises(StorageThrottledError) as caught:
                await provider.sweep_temporary_files(0)
    assert caught.value.details["retry_after"] == 17.0


async def test_no_error_shows_the_token(gcs_server: GcsServer, bucket: str) -> None:
    config = gcs_server.config(bucket, access_token=SecretStr("ya29.a-token-that-nobody-knows"))
    async with GcsProvider(config) as provider:
        for call in (provider.authenticate(), provider.upload_file(b"x", "config"), provider.sweep_temporary_files(0)):
            with pytest.raises(StorageAuthenticationError) as caught:
                await call
            assert "nobody-knows" not in f"{caught.value.to_dict()}{caught.value!r}{caught.value.__cause__!r}"

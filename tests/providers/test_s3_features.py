"""S3 beyond the contract: limits, classes, encryption, versions, retention, and restic on the same bucket."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backupiq.errors import (
    StorageError,
    StorageNeedsThawError,
)
from backupiq.storage.objectstore import TransferOptions
from backupiq.storage.s3 import S3Config, S3Provider
from backupiq.storage.throttle import Limits, Throttle
from tests.providers.contract import keys_of
from tests.providers.s3_support import MIB, OpenS3
from tests.support.programs import Restic
from tests.support.servers.moto import Moto
from tests.support.servers.seaweedfs import SeaweedFS

# --- limits --------------------------------------------------------------------------------------------------------


async def test_limits_hold_for_uploads_downloads_and_reads(open_s3: OpenS3, tmp_path: Path) -> None:
    now = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now
        await asyncio.sleep(0)
        now += seconds

    def limit() -> Throttle:
        return Throttle(10_000, clock=lambda: now, sleep=sleep)

    provider = open_s3(limits=Limits(upload=limit(), download=limit()))
    data = os.urandom(100_000)
    (tmp_path / "source").write_bytes(data)
    for work in (
        lambda: provider.upload_file(data, "a"),
        lambda: provider.upload_file(tmp_path / "source", "a"),
        lambda: provider.download_file("a", tmp_path / "target"),
        lambda: provider.read("a"),
        lambda: provider.read("a", 0, 99_999),
    ):
        before = now
        await work()
        assert 9.0 <= now - before <= 11.0
    assert (tmp_path / "target").read_bytes() == data


# --- classes, encryption, versions, retention ----------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, 9 * MIB])
async def test_the_storage_class_follows_the_kind_of_object(open_s3: OpenS3, moto: Moto, size: int) -> None:
    provider = open_s3(
        moto, storage_class={"data": "GLACIER_IR", "index": "STANDARD_IA"}, transfer=TransferOptions(whole_bytes=MIB)
    )
    for key in ("data/ab/x", "index/x", "snapshots/x", "config", "locks/x"):
        await provider.upload_file(bytes(size), key)
    found = moto.client.list_objects_v2(Bucket=provider.config.bucket, Prefix=provider.config.prefix)["Contents"]
    classes = {item["Key"].removeprefix(f"{provider.config.prefix}/"): item["StorageClass"] for item in found}
    assert classes == {
        "data/ab/x": "GLACIER_IR",
        "index/x": "STANDARD_IA",
        "snapshots/x": "STANDARD",
        "config": "STANDARD",
        "locks/x": "STANDARD",
    }


async def test_an_archived_object_says_that_it_must_be_brought_back(
    open_s3: OpenS3, moto: Moto, tmp_path: Path
) -> None:
    provider = open_s3(moto, storage_class={"data": "DEEP_ARCHIVE"})
    await provider.upload_file(b"x", "data/ab/x")
    for call in (provider.read("data/ab/x"), provider.download_file("data/ab/x", tmp_path / "target")):
        with pytest.raises(StorageNeedsThawError):
            await call
    assert (await provider.get_file_info("data/ab/x")).size == 1


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"sse": "AES256"}, {"ServerSideEncryption": "AES256"}),
        (
            {"sse": "aws:kms", "sse_kms_key_id": "alias/backup", "sse_bucket_key": True},
            {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "alias/backup"},
        ),
    ],
)
@pytest.mark.parametrize("size", [10, 9 * MIB])
async def test_the_server_is_asked_to_encrypt(
    open_s3: OpenS3, moto: Moto, more: dict[str, Any], expected: dict[str, Any], size: int
) -> None:
    provider = open_s3(moto, **more, transfer=TransferOptions(whole_bytes=MIB))
    await provider.upload_file(bytes(size), "data/ab/x")
    found = moto.client.head_object(Bucket=provider.config.bucket, Key=provider.full_key("data/ab/x"))
    assert {name: found.get(name) for name in expected} == expected
    assert await provider.read("data/ab/x") == bytes(size)


@pytest.mark.parametrize("size", [10, 9 * MIB])
async def test_with_a_customer_key_nobody_reads_without_it(open_s3: OpenS3, seaweedfs: SeaweedFS, size: int) -> None:
    key = base64.b64encode(os.urandom(32)).decode()
    provider = open_s3(sse="sse-c", sse_customer_key=key, transfer=TransferOptions(whole_bytes=MIB))
    await provider.upload_file(bytes(size), "data/ab/x")
    assert await provider.read("data/ab/x") == bytes(size)
    assert (await provider.get_file_info("data/ab/x")).size == size
    without = open_s3(prefix=provider.config.prefix)
    with pytest.raises(StorageError):
        await without.read("data/ab/x")
    other = open_s3(prefix=provider.config.prefix, sse="sse-c", sse_customer_key=base64.b64encode(bytes(32)).decode())
    with pytest.raises(StorageError):
        await other.read("data/ab/x")


async def test_a_bucket_with_versions_shows_what_is_there_now(open_s3: OpenS3, seaweedfs: SeaweedFS) -> None:
    bucket = seaweedfs.new_bucket()
    seaweedfs.client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    provider = open_s3(bucket=bucket, prefix="")
    await provider.upload_file(b"first", "config")
    await provider.upload_file(b"second!", "config")
    await provider.upload_file(b"gone", "locks/x")
    await provider.delete_file("locks/x")
    assert [(info.key, info.size) async for info in provider.list_files()] == [("config", 7)]
    assert not await provider.file_exists("locks/x")
    versions = seaweedfs.client.list_object_versions(Bucket=bucket)["Versions"]
    assert sorted(item["Key"] for item in versions) == ["config", "config", "locks/x"]


@pytest.mark.parametrize("size", [10, 9 * MIB])
async def test_retention_is_set_on_everything_but_locks(open_s3: OpenS3, seaweedfs: SeaweedFS, size: int) -> None:
    now = datetime.now(UTC)
    bucket = seaweedfs.new_name()
    provider = open_s3(
        bucket=bucket,
        prefix="locked",
        object_lock_mode="GOVERNANCE",
        object_lock_days=30,
        clock=lambda: now,
        transfer=TransferOptions(whole_bytes=MIB),
    )
    await provider.create()
    await provider.upload_file(bytes(size), "data/ab/x")
    await provider.upload_file(bytes(10), "locks/x")
    kept = seaweedfs.client.get_object_retention(Bucket=bucket, Key="locked/data/ab/x")["Retention"]
    assert kept["Mode"] == "GOVERNANCE"
    assert timedelta(days=30) <= kept["RetainUntilDate"] - now <= timedelta(days=31)
    version = seaweedfs.client.head_object(Bucket=bucket, Key="locked/data/ab/x")["VersionId"]
    with pytest.raises(Exception, match=r"AccessDenied|Forbidden"):
        seaweedfs.client.delete_object(Bucket=bucket, Key="locked/data/ab/x", VersionId=version)
    with pytest.raises(Exception, match=r"NoSuchObjectLockConfiguration|NotFound"):
        seaweedfs.client.get_object_retention(Bucket=bucket, Key="locked/locks/x")
    await provider.delete_file("locks/x")


def test_a_days_uploads_share_one_retention_and_none_is_kept_too_short() -> None:
    now = datetime(2026, 3, 1, 0, 0, 1, tzinfo=UTC)
    config = S3Config("bucket", object_lock_mode="COMPLIANCE", object_lock_days=2)
    provider = S3Provider(config, clock=lambda: now)
    expected = {
        "x-amz-object-lock-mode": "COMPLIANCE",
        "x-amz-object-lock-retain-until-date": "2026-03-04T00:00:00Z",
    }
    assert provider.headers_for("data/ab/x") == expected
    now = datetime(2026, 3, 1, 23, 59, 59, tzinfo=UTC)
    assert provider.headers_for("config") == expected
    now = datetime(2026, 3, 2, 0, 0, 0, tzinfo=UTC)
    assert provider.headers_for("config") != expected
    assert provider.headers_for("locks/x") == {}


# --- what others have put there ------------------------------------------------------------------------------------


async def test_what_other_programs_left_in_the_bucket_disturbs_no_listing(open_s3: OpenS3, moto: Moto) -> None:
    provider = open_s3(moto)
    prefix = provider.config.prefix
    for key in ("/", "/data/", "-sibling/x", "/config-tmp-0123456789abcdef"):
        moto.client.put_object(Bucket=provider.config.bucket, Key=prefix + key, Body=b"")
    await provider.upload_file(b"x", "data/ab/x")
    assert [key for key in await keys_of(provider) if key != "data"] == ["data/ab/x"]
    assert await keys_of(provider, "data/ab") == ["data/ab/x"]


async def test_restic_works_on_what_is_stored_and_stores_where_we_look(
    restic_old: Restic,
    seaweedfs: SeaweedFS,
    open_s3: OpenS3,
    tmp_path: Path,
    repo_password: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "one").write_bytes(os.urandom(300_000))
    local = tmp_path / "repository"
    restic_old.run("init", repo=local, password=repo_password)
    restic_old.run("backup", tmp_path / "files", repo=local, password=repo_password)

    provider = open_s3()
    files = [path for path in local.rglob("*") if path.is_file()]
    for path in files:
        await provider.upload_file(path, path.relative_to(local).as_posix(), create_only=path.name == "config")
    assert await keys_of(provider) == sorted(path.relative_to(local).as_posix() for path in files)

    repo = f"s3:{seaweedfs.url}/{provider.config.bucket}/{provider.config.prefix}"
    for name, value in seaweedfs.environment.items():
        monkeypatch.setenv(name, value)
    restic_old.run("check", "--read-data", repo=repo, password=repo_password)
    restic_old.run("backup", tmp_path / "files" / "one", repo=repo, password=repo_password)
    snapshots = await keys_of(provider, "snapshots")
    assert len(snapshots) == 2
    await provider.download_file(snapshots[0], tmp_path / "snapshot")
    assert hashlib.sha256((tmp_path / "snapshot").read_bytes()).hexdigest() == snapshots[0].removeprefix("snapshots/")

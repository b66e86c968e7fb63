"""S3 beyond the contract: credentials, and each trap of its servers and of obstore that was met."""

from __future__ import annotations

import asyncio
import hashlib
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backupiq.errors import (
    MissingConfigurationError,
    StorageAuthenticationError,
    StorageConnectionError,
    StorageCorruptError,
    StorageError,
    StorageNotFoundError,
    StoragePermissionError,
    StorageQuotaError,
    StorageThrottledError,
    StorageTimeoutError,
    StorageUnsupportedError,
)
from backupiq.storage import s3_control
from backupiq.storage.objectstore import TransferOptions
from backupiq.storage.s3 import S3Config, S3Provider
from tests.providers.contract import keys_of, names_in
from tests.providers.s3_support import HASTY, MIB, OpenS3, answer_bytes, named, until
from tests.support.fault_proxy import FaultProxy
from tests.support.fault_rules import BlackHole, Fault, FlipBit, Reset, Slow, Truncate, answer_s3
from tests.support.servers.base import HOST, free_ports
from tests.support.servers.seaweedfs import SeaweedFS

# --- credentials and the bucket ------------------------------------------------------------------------------------


async def test_a_wrong_secret_is_an_authentication_error_that_tells_no_secret(open_s3: OpenS3) -> None:
    provider = open_s3(secret_access_key="not-the-secret-1234")
    for call in (provider.authenticate(), provider.upload_file(b"x", "config"), provider.create(), keys_of(provider)):
        with pytest.raises(StorageAuthenticationError) as caught:
            await call
        assert "not-the-secret-1234" not in str(caught.value.to_dict())
        assert "SignatureDoesNotMatch" in caught.value.message


async def test_a_missing_bucket_is_named_and_never_read_as_a_missing_object(
    open_s3: OpenS3, seaweedfs: SeaweedFS
) -> None:
    name = seaweedfs.new_name()
    provider = open_s3(bucket=name)
    with pytest.raises(StorageNotFoundError, match=f"{name}.*no such bucket"):
        await provider.authenticate()


async def test_the_credentials_of_a_block_are_used_whatever_the_environment_holds(
    open_s3: OpenS3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (nowhere,) = free_ports(1)
    for name, value in {
        "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{nowhere}",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{nowhere}",
        "AWS_ENDPOINT": f"http://127.0.0.1:{nowhere}",
        "AWS_ACCESS_KEY_ID": "SOMEBODY",
        "AWS_SECRET_ACCESS_KEY": "else",
        "AWS_SESSION_TOKEN": "stale",
        "AWS_SKIP_SIGNATURE": "true",
        "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
    }.items():
        monkeypatch.setenv(name, value)
    provider = open_s3()
    await provider.upload_file(b"x", "config")
    assert await provider.sweep_temporary_files(0) == 0


async def test_a_profile_is_found_by_boto3(
    seaweedfs: SeaweedFS, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "credentials").write_text(
        f"[work]\naws_access_key_id={seaweedfs.access_key}\naws_secret_access_key={seaweedfs.secret_key}\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    url = f"{seaweedfs.destination(seaweedfs.shared_bucket, 'profile')}&profile="
    async with S3Provider(S3Config.from_url(url + "work", {})) as provider:
        await provider.authenticate()
    async with S3Provider(S3Config.from_url(url + "absent", {})) as provider:
        with pytest.raises(MissingConfigurationError, match="profile"):
            await provider.authenticate()


async def test_a_session_of_boto3_gives_the_credentials_each_time_they_are_asked_for(
    open_s3: OpenS3, seaweedfs: SeaweedFS
) -> None:
    import boto3

    session = boto3.session.Session(seaweedfs.access_key, seaweedfs.secret_key, region_name="us-east-1")
    provider = open_s3(access_key_id=None, secret_access_key=None, session=session)
    await provider.upload_file(b"x", "config")
    found = s3_control.credential_provider(provider.config)()
    assert found["expires_at"] is not None
    assert found["expires_at"] < datetime.now(UTC) + timedelta(minutes=10)


async def test_without_any_credentials_the_error_says_how_to_give_some(
    open_s3: OpenS3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    provider = open_s3(access_key_id=None, secret_access_key=None)
    with pytest.raises(StorageAuthenticationError, match="AWS_ACCESS_KEY_ID"):
        await provider.authenticate()


async def test_without_boto3_a_key_pair_still_works_and_the_rest_says_what_to_install(
    open_s3: OpenS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "boto3", None)
    provider = open_s3()
    await provider.create()  # the bucket is there: nothing to do
    await provider.upload_file(b"x", "config")
    with pytest.raises(MissingConfigurationError, match=r'pip install "backupiq\[s3\]"'):
        await provider.sweep_temporary_files(0)


async def test_a_bucket_of_somebody_else_cannot_be_created(open_s3: OpenS3, s3_proxy: FaultProxy) -> None:
    provider = open_s3(endpoint=s3_proxy.url)
    s3_proxy.add(answer_s3(404, "NoSuchBucket"), method="GET")
    s3_proxy.add(answer_s3(409, "BucketAlreadyExists"), method="PUT")
    with pytest.raises(StoragePermissionError, match="belongs to somebody else"):
        await provider.create()


async def test_a_bucket_name_in_the_host_is_what_the_server_is_asked_with(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(answer_bytes(400, "InvalidArgument"))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(note, HOST, 0) as server:
        # No name server knows this host: what asks for it goes through a proxy, which is us.
        monkeypatch.setenv("http_proxy", f"http://{HOST}:{server.sockets[0].getsockname()[1]}")
        monkeypatch.delenv("no_proxy", raising=False)
        keys: dict[str, Any] = {"access_key_id": "AK", "secret_access_key": "secret-of-test"}
        for in_host in (True, False):
            config = S3Config("photos", "x", endpoint="http://s3.invalid:81", virtual_hosted=in_host, **keys)
            async with S3Provider(config) as provider:
                with pytest.raises(StorageError):
                    await provider.read("config")
                with pytest.raises(StorageError):
                    await provider.sweep_temporary_files(0)
    assert [line.split(" HTTP/")[0].partition("?")[0] for line in asked] == [
        "GET http://photos.s3.invalid:81/x/config",
        "GET http://photos.s3.invalid:81/",
        "GET http://s3.invalid:81/photos/x/config",
        "GET http://s3.invalid:81/photos",
    ]
    assert ["host: photos.s3.invalid:81" in line.lower() for line in asked] == [True, True, False, False]


# --- what the bytes go through -------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["SHA256", "CRC64NVME"])
@pytest.mark.parametrize("whole", [MIB, 64 * 1024], ids=["whole", "in parts"])
async def test_a_flipped_bit_on_the_way_up_is_refused_by_the_server(
    open_s3: OpenS3, s3_proxy: FaultProxy, algorithm: str, whole: int
) -> None:
    data = os.urandom(100_000)
    transfer = TransferOptions(whole_bytes=whole, retries=0)
    provider = open_s3(endpoint=s3_proxy.url, transfer=transfer, checksum_algorithm=algorithm)
    with s3_proxy.fault(FlipBit(50_000, "upload"), method="PUT") as rule, pytest.raises(StorageConnectionError):
        await provider.upload_file(data, named(data))
    assert rule.applied
    assert not await provider.file_exists(named(data))
    await provider.upload_file(data, named(data))
    assert await provider.read(named(data)) == data


async def test_what_is_signed_holds_the_hash_of_the_bytes_that_are_sent() -> None:
    # AWS compares the two; SeaweedFS does not, or the test above would need no checksum.
    seen: list[bytes] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer_bytes(400, "InvalidArgument"))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(refuse, HOST, 0) as server:
        endpoint = f"http://{HOST}:{server.sockets[0].getsockname()[1]}"
        config = S3Config("bucket", endpoint=endpoint, access_key_id="AK", secret_access_key="secret-of-test")
        async with S3Provider(config) as provider:
            with pytest.raises(StorageError):
                await provider.upload_file(b"bytes", "config")
    assert f"x-amz-content-sha256: {hashlib.sha256(b'bytes').hexdigest()}".encode() in seen[0]
    assert b"SignedHeaders=host;x-amz-content-sha256;" in seen[0]


@pytest.mark.parametrize("fault", [FlipBit(50_000), Truncate(50_000, hidden=True)], ids=["flipped bit", "truncated"])
async def test_bytes_that_are_not_those_of_the_name_never_become_a_file(
    open_s3: OpenS3, s3_proxy: FaultProxy, tmp_path: Path, fault: Fault
) -> None:
    data = os.urandom(100_000)
    provider = open_s3(endpoint=s3_proxy.url, transfer=HASTY)
    await provider.upload_file(data, named(data))
    with s3_proxy.fault(fault, method="GET"), pytest.raises(StorageCorruptError, match=named(data)):
        await provider.download_file(named(data), tmp_path / "target")
    assert names_in(tmp_path) == []
    assert (await provider.download_file(named(data), tmp_path / "target")).sha256 == named(data)[-64:]


@pytest.mark.parametrize("seen", ["download_file", "read"])
async def test_a_connection_that_breaks_is_never_a_short_object(
    open_s3: OpenS3, s3_proxy: FaultProxy, tmp_path: Path, seen: str
) -> None:
    data = os.urandom(100_000)
    provider = open_s3(endpoint=s3_proxy.url, transfer=HASTY)
    await provider.upload_file(data, "config")
    with s3_proxy.fault(Truncate(50_000), method="GET"), pytest.raises(StorageConnectionError):
        await (provider.read("config") if seen == "read" else provider.download_file("config", tmp_path / "target"))
    assert names_in(tmp_path) == []


async def test_a_large_file_is_never_held_whole(open_s3: OpenS3, seaweedfs: SeaweedFS, tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(40 * MIB)
    provider = open_s3()
    await provider.upload_file(tmp_path / "large", "data/large", sha256="0" * 64)
    found = seaweedfs.client.head_object(Bucket=provider.config.bucket, Key=provider.full_key("data/large"))
    assert found["ContentLength"] == 40 * MIB
    assert found["ETag"].endswith('-5"')  # five parts of 8 MiB


async def test_creating_without_replacing_is_refused_for_what_would_not_fit_into_memory(
    open_s3: OpenS3, tmp_path: Path
) -> None:
    (tmp_path / "big").write_bytes(bytes(2000))
    provider = open_s3(transfer=TransferOptions(create_bytes=1999))
    with pytest.raises(StorageUnsupportedError):
        await provider.upload_file(tmp_path / "big", "big", create_only=True)
    await provider.upload_file(tmp_path / "big", "big")


async def test_a_file_that_shrinks_while_it_is_sent_is_not_stored(
    open_s3: OpenS3, seaweedfs: SeaweedFS, tmp_path: Path
) -> None:
    source = tmp_path / "shrinking"
    for whole, size in ((64 * 1024, 20 * MIB), (32 * MIB, 20 * MIB)):
        source.write_bytes(bytes(size))
        provider = open_s3(transfer=TransferOptions(whole_bytes=whole))
        with pytest.raises(Exception, match="shorter"):
            await provider.upload_file(source, "data/x", progress=lambda _: os.truncate(source, 5 * MIB))
        assert await keys_of(provider) == []
        assert seaweedfs.unfinished(provider.config.bucket, provider.config.prefix) == []


# --- time ----------------------------------------------------------------------------------------------------------


async def test_a_slow_line_is_no_dead_one(open_s3: OpenS3, s3_proxy: FaultProxy, tmp_path: Path) -> None:
    # The silence that is allowed is far shorter than either transfer; a limit on the whole request would end both.
    patient = TransferOptions(read_seconds=0.5, retries=0)
    provider = open_s3(endpoint=s3_proxy.url, transfer=patient)
    data = os.urandom(600_000)
    with s3_proxy.fault(Slow(500_000)):
        await provider.upload_file(data, named(data))
        await provider.download_file(named(data), tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == data


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
async def test_a_server_that_stays_silent_is_a_timeout(open_s3: OpenS3, s3_proxy: FaultProxy, method: str) -> None:
    provider = open_s3(endpoint=s3_proxy.url, transfer=HASTY)
    await provider.upload_file(b"x", "config")
    calls = {"GET": provider.read, "HEAD": provider.get_file_info, "DELETE": provider.delete_file}
    with s3_proxy.fault(BlackHole(), method=method), pytest.raises(StorageTimeoutError):
        await calls[method]("config")


async def test_a_dead_line_is_noticed_long_before_a_slow_upload_would_be(open_s3: OpenS3, s3_proxy: FaultProxy) -> None:
    provider = open_s3(
        endpoint=s3_proxy.url,
        transfer=TransferOptions(read_seconds=0.2, retries=0, probe_seconds=0.1, cancel_seconds=0.1),
    )
    with s3_proxy.fault(BlackHole()), pytest.raises(StorageTimeoutError):
        await provider.upload_file(b"x", "config")  # alone it would be given over a minute
    with s3_proxy.fault(BlackHole(), method="PUT") as rule:
        upload = asyncio.create_task(provider.upload_file(b"x", "config"))
        await until(lambda: s3_proxy.count("HEAD") >= 4)
        assert not upload.done()  # the server answers other questions: the upload is slow, not dead
        rule.off()
        upload.cancel()
        with pytest.raises(asyncio.CancelledError):
            await upload


async def test_a_refused_connection_is_a_connection_error(open_s3: OpenS3, s3_proxy: FaultProxy) -> None:
    provider = open_s3(endpoint=s3_proxy.url, transfer=HASTY)
    with s3_proxy.refused():
        for call in (provider.authenticate(), provider.upload_file(b"x", "config"), provider.sweep_temporary_files(0)):
            with pytest.raises(StorageConnectionError):
                await call
    await provider.authenticate()


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (429, "TooManyRequests", StorageThrottledError),
        (503, "SlowDown", StorageThrottledError),
        (500, "InternalError", StorageConnectionError),
        (400, "ExpiredToken", StorageAuthenticationError),
        (403, "AccessDenied", StoragePermissionError),
        (507, "QuotaExceeded", StorageQuotaError),
        (400, "InvalidArgument", StorageError),
    ],
)
async def test_what_a_server_answers_is_what_every_call_raises(
    open_s3: OpenS3, s3_proxy: FaultProxy, tmp_path: Path, status: int, code: str, kind: type[StorageError]
) -> None:
    provider = open_s3(endpoint=s3_proxy.url, transfer=HASTY)
    with s3_proxy.fault(answer_s3(status, code, ("Retry-After", "7"))):
        for call in (
            provider.authenticate(),
            provider.upload_file(b"x", "config"),
            provider.upload_file(b"x", "config", create_only=True),
            provider.read("config"),
            provider.download_file("config", tmp_path / "target"),
            keys_of(provider),
        ):
            with pytest.raises(StorageError) as caught:
                await call
            assert type(caught.value) is kind
        with pytest.raises(StorageError) as caught:
            await provider.sweep_temporary_files(0)
        assert type(caught.value) is kind
        assert caught.value.details["retry_after"] == 7.0  # boto3 shows it; obstore does not


async def test_obstore_itself_tries_a_failing_request_again(open_s3: OpenS3, s3_proxy: FaultProxy) -> None:
    provider = open_s3(endpoint=s3_proxy.url)
    with s3_proxy.fault(answer_s3(500, "InternalError"), method="PUT", times=2):
        await provider.upload_file(b"x", "config")
    assert await provider.read("config") == b"x"


# --- what unfinished uploads leave ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault", [BlackHole(), Reset(1000), answer_s3(500, "InternalError")], ids=lambda f: type(f).__name__
)
async def test_a_part_that_fails_leaves_no_unfinished_upload(
    open_s3: OpenS3, seaweedfs: SeaweedFS, s3_proxy: FaultProxy, fault: Fault
) -> None:
    provider = open_s3(
        endpoint=s3_proxy.url,
        transfer=TransferOptions(
            read_seconds=0.5, slowest_upload=1 << 40, retries=0, cancel_seconds=0.2, whole_bytes=MIB
        ),
    )
    with s3_proxy.fault(fault, method="PUT", path="partNumber"), pytest.raises(StorageConnectionError):
        await provider.upload_file(bytes(9 * MIB), "data/x")
    assert await keys_of(provider) == []
    assert seaweedfs.unfinished(provider.config.bucket, provider.config.prefix) == []
    await provider.upload_file(bytes(9 * MIB), "data/x")


async def test_an_upload_that_is_cut_off_leaves_no_unfinished_upload(
    open_s3: OpenS3, seaweedfs: SeaweedFS, s3_proxy: FaultProxy
) -> None:
    # obstore leaves it behind when it is cancelled; only another request can remove it.
    provider = open_s3(endpoint=s3_proxy.url, transfer=TransferOptions(whole_bytes=MIB, cancel_seconds=0.1))
    with s3_proxy.fault(BlackHole(), method="PUT", path="partNumber"):
        upload = asyncio.create_task(provider.upload_file(bytes(9 * MIB), "data/x"))
        await until(lambda: s3_proxy.count("PUT", "partNumber") > 0)
        assert seaweedfs.unfinished(provider.config.bucket, provider.config.prefix) != []
        upload.cancel()
        with pytest.raises(asyncio.CancelledError):
            await upload
    assert seaweedfs.unfinished(provider.config.bucket, provider.config.prefix) == []


async def test_an_upload_of_the_same_key_that_goes_on_is_left_alone_and_cleans_up_in_the_end(
    open_s3: OpenS3, seaweedfs: SeaweedFS, s3_proxy: FaultProxy
) -> None:
    transfer = TransferOptions(whole_bytes=MIB, memory_bytes=1 << 30, cancel_seconds=0.1)
    provider = open_s3(endpoint=s3_proxy.url, transfer=transfer)
    where = (provider.config.bucket, provider.config.prefix)
    with s3_proxy.fault(BlackHole(), method="PUT", path="partNumber"):
        cut = asyncio.create_task(provider.upload_file(bytes(9 * MIB), "data/x"))
        other = asyncio.create_task(provider.upload_file(b"y" * 9 * MIB, "data/x"))
        await until(lambda: s3_proxy.count("PUT", "partNumber") >= 4)
        cut.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cut
        assert len(seaweedfs.unfinished(*where)) == 2
    await other
    assert await provider.read("data/x", 0, 1) == b"y"
    assert seaweedfs.unfinished(*where) == []


async def test_a_sweep_ends_old_unfinished_uploads_below_the_prefix_only(open_s3: OpenS3, seaweedfs: SeaweedFS) -> None:
    bucket = seaweedfs.new_bucket()
    now = datetime.now(UTC)
    keys = ["mine/data/old", "mine/index/old", "mine-too/data/old", "other"]
    for key in keys:
        seaweedfs.client.create_multipart_upload(Bucket=bucket, Key=key)
    young = open_s3(bucket=bucket, prefix="mine")
    assert await young.sweep_temporary_files(3600) == 0
    later = open_s3(bucket=bucket, prefix="mine", clock=lambda: now + timedelta(hours=2))
    assert await later.sweep_temporary_files(3600) == 2
    assert await later.sweep_temporary_files(3600) == 0
    assert sorted(seaweedfs.unfinished(bucket)) == ["mine-too/data/old", "other"]

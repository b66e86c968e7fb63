"""S3 beyond the contract: what its servers can do, and each trap of them and of obstore that was met."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Iterator
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
    StorageNeedsThawError,
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
from backupiq.storage.throttle import Limits, Throttle
from tests.providers.contract import keys_of, names_in
from tests.support.fault_proxy import FaultProxy
from tests.support.fault_rules import BlackHole, Fault, FlipBit, Reset, Slow, Truncate, answer_s3
from tests.support.programs import Restic
from tests.support.servers.base import HOST, free_ports
from tests.support.servers.moto import Moto
from tests.support.servers.s3server import S3Server
from tests.support.servers.seaweedfs import SeaweedFS

MIB = 1 << 20
HASTY = TransferOptions(connect_seconds=2, read_seconds=1, retries=0, retry_seconds=5, cancel_seconds=0.2)
Open = Callable[..., S3Provider]


def named(data: bytes) -> str:
    """The key of a pack with these bytes."""
    digest = hashlib.sha256(data).hexdigest()
    return f"data/{digest[:2]}/{digest}"


def answer_bytes(status: int, code: str) -> bytes:
    """An error as an S3 server sends it."""
    body = answer_s3(status, code).body
    head = f"HTTP/1.1 {status} No\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\nConnection: close"
    return head.encode() + b"\r\n\r\n" + body


async def until(is_so: Callable[[], bool]) -> None:
    """Wait for something that another task or server does."""
    async with asyncio.timeout(60):
        while not is_so():  # noqa: ASYNC110 - it happens in another thread
            await asyncio.sleep(0.005)


@pytest.fixture
async def opened(seaweedfs: SeaweedFS) -> AsyncIterator[Open]:
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
def proxy(seaweedfs: SeaweedFS) -> Iterator[FaultProxy]:
    with FaultProxy(HOST, seaweedfs.ports[0]) as running:
        yield running


# --- credentials and the bucket ------------------------------------------------------------------------------------


async def test_a_wrong_secret_is_an_authentication_error_that_tells_no_secret(opened: Open) -> None:
    provider = opened(secret_access_key="not-the-secret-1234")
    for call in (provider.authenticate(), provider.upload_file(b"x", "config"), provider.create(), keys_of(provider)):
        with pytest.raises(StorageAuthenticationError) as caught:
            await call
        assert "not-the-secret-1234" not in str(caught.value.to_dict())
        assert "SignatureDoesNotMatch" in caught.value.message


async def test_a_missing_bucket_is_named_and_never_read_as_a_missing_object(opened: Open, seaweedfs: SeaweedFS) -> None:
    name = seaweedfs.new_name()
    provider = opened(bucket=name)
    with pytest.raises(StorageNotFoundError, match=f"{name}.*no such bucket"):
        await provider.authenticate()


async def test_the_credentials_of_a_block_are_used_whatever_the_environment_holds(
    opened: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
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
    provider = opened()
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
    opened: Open, seaweedfs: SeaweedFS
) -> None:
    import boto3

    session = boto3.session.Session(seaweedfs.access_key, seaweedfs.secret_key, region_name="us-east-1")
    provider = opened(access_key_id=None, secret_access_key=None, session=session)
    await provider.upload_file(b"x", "config")
    found = s3_control.credential_provider(provider.config)()
    assert found["expires_at"] is not None
    assert found["expires_at"] < datetime.now(UTC) + timedelta(minutes=10)


async def test_without_any_credentials_the_error_says_how_to_give_some(
    opened: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    provider = opened(access_key_id=None, secret_access_key=None)
    with pytest.raises(StorageAuthenticationError, match="AWS_ACCESS_KEY_ID"):
        await provider.authenticate()


async def test_without_boto3_a_key_pair_still_works_and_the_rest_says_what_to_install(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "boto3", None)
    provider = opened()
    await provider.create()  # the bucket is there: nothing to do
    await provider.upload_file(b"x", "config")
    with pytest.raises(MissingConfigurationError, match=r'pip install "backupiq\[s3\]"'):
        await provider.sweep_temporary_files(0)


async def test_a_bucket_of_somebody_else_cannot_be_created(opened: Open, proxy: FaultProxy) -> None:
    provider = opened(endpoint=proxy.url)
    proxy.add(answer_s3(404, "NoSuchBucket"), method="GET")
    proxy.add(answer_s3(409, "BucketAlreadyExists"), method="PUT")
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
    opened: Open, proxy: FaultProxy, algorithm: str, whole: int
) -> None:
    data = os.urandom(100_000)
    transfer = TransferOptions(whole_bytes=whole, retries=0)
    provider = opened(endpoint=proxy.url, transfer=transfer, checksum_algorithm=algorithm)
    with proxy.fault(FlipBit(50_000, "upload"), method="PUT") as rule, pytest.raises(StorageConnectionError):
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
    opened: Open, proxy: FaultProxy, tmp_path: Path, fault: Fault
) -> None:
    data = os.urandom(100_000)
    provider = opened(endpoint=proxy.url, transfer=HASTY)
    await provider.upload_file(data, named(data))
    with proxy.fault(fault, method="GET"), pytest.raises(StorageCorruptError, match=named(data)):
        await provider.download_file(named(data), tmp_path / "target")
    assert names_in(tmp_path) == []
    assert (await provider.download_file(named(data), tmp_path / "target")).sha256 == named(data)[-64:]


@pytest.mark.parametrize("seen", ["download_file", "read"])
async def test_a_connection_that_breaks_is_never_a_short_object(
    opened: Open, proxy: FaultProxy, tmp_path: Path, seen: str
) -> None:
    data = os.urandom(100_000)
    provider = opened(endpoint=proxy.url, transfer=HASTY)
    await provider.upload_file(data, "config")
    with proxy.fault(Truncate(50_000), method="GET"), pytest.raises(StorageConnectionError):
        await (provider.read("config") if seen == "read" else provider.download_file("config", tmp_path / "target"))
    assert names_in(tmp_path) == []


async def test_a_large_file_is_never_held_whole(opened: Open, seaweedfs: SeaweedFS, tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(40 * MIB)
    provider = opened()
    await provider.upload_file(tmp_path / "large", "data/large", sha256="0" * 64)
    found = seaweedfs.client.head_object(Bucket=provider.config.bucket, Key=provider.full_key("data/large"))
    assert found["ContentLength"] == 40 * MIB
    assert found["ETag"].endswith('-5"')  # five parts of 8 MiB


async def test_creating_without_replacing_is_refused_for_what_would_not_fit_into_memory(
    opened: Open, tmp_path: Path
) -> None:
    (tmp_path / "big").write_bytes(bytes(2000))
    provider = opened(transfer=TransferOptions(create_bytes=1999))
    with pytest.raises(StorageUnsupportedError):
        await provider.upload_file(tmp_path / "big", "big", create_only=True)
    await provider.upload_file(tmp_path / "big", "big")


async def test_a_file_that_shrinks_while_it_is_sent_is_not_stored(
    opened: Open, seaweedfs: SeaweedFS, tmp_path: Path
) -> None:
    source = tmp_path / "shrinking"
    for whole, size in ((64 * 1024, 20 * MIB), (32 * MIB, 20 * MIB)):
        source.write_bytes(bytes(size))
        provider = opened(transfer=TransferOptions(whole_bytes=whole))
        with pytest.raises(Exception, match="shorter"):
            await provider.upload_file(source, "data/x", progress=lambda _: os.truncate(source, 5 * MIB))
        assert await keys_of(provider) == []
        assert seaweedfs.unfinished(provider.config.bucket, provider.config.prefix) == []


# --- time ----------------------------------------------------------------------------------------------------------


async def test_a_slow_line_is_no_dead_one(opened: Open, proxy: FaultProxy, tmp_path: Path) -> None:
    # The silence that is allowed is far shorter than either transfer; a limit on the whole request would end both.
    patient = TransferOptions(read_seconds=0.5, retries=0)
    provider = opened(endpoint=proxy.url, transfer=patient)
    data = os.urandom(600_000)
    with proxy.fault(Slow(500_000)):
        await provider.upload_file(data, named(data))
        await provider.download_file(named(data), tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == data


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
async def test_a_server_that_stays_silent_is_a_timeout(opened: Open, proxy: FaultProxy, method: str) -> None:
    provider = opened(endpoint=proxy.url, transfer=HASTY)
    await provider.upload_file(b"x", "config")
    calls = {"GET": provider.read, "HEAD": provider.get_file_info, "DELETE": provider.delete_file}
    with proxy.fault(BlackHole(), method=method), pytest.raises(StorageTimeoutError):
        await calls[method]("config")


async def test_a_dead_line_is_noticed_long_before_a_slow_upload_would_be(opened: Open, proxy: FaultProxy) -> None:
    provider = opened(
        endpoint=proxy.url,
        transfer=TransferOptions(read_seconds=0.2, retries=0, probe_seconds=0.1, cancel_seconds=0.1),
    )
    with proxy.fault(BlackHole()), pytest.raises(StorageTimeoutError):
        await provider.upload_file(b"x", "config")  # alone it would be given over a minute
    with proxy.fault(BlackHole(), method="PUT") as rule:
        upload = asyncio.create_task(provider.upload_file(b"x", "config"))
        await until(lambda: proxy.count("HEAD") >= 4)
        assert not upload.done()  # the server answers other questions: the upload is slow, not dead
        rule.off()
        upload.cancel()
        with pytest.raises(asyncio.CancelledError):
            await upload


async def test_a_refused_connection_is_a_connection_error(opened: Open, proxy: FaultProxy) -> None:
    provider = opened(endpoint=proxy.url, transfer=HASTY)
    with proxy.refused():
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
    opened: Open, proxy: FaultProxy, tmp_path: Path, status: int, code: str, kind: type[StorageError]
) -> None:
    provider = opened(endpoint=proxy.url, transfer=HASTY)
    with proxy.fault(answer_s3(status, code, ("Retry-After", "7"))):
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


async def test_obstore_itself_tries_a_failing_request_again(opened: Open, proxy: FaultProxy) -> None:
    provider = opened(endpoint=proxy.url)
    with proxy.fault(answer_s3(500, "InternalError"), method="PUT", times=2):
        await provider.upload_file(b"x", "config")
    assert await provider.read("config") == b"x"


# --- what unfinished uploads leave ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault", [BlackHole(), Reset(1000), answer_s3(500, "InternalError")], ids=lambda f: type(f).__name__
)
async def test_a_part_that_fails_leaves_no_unfinished_upload(
    opened: Open, seaweedfs: SeaweedFS, proxy: FaultProxy, fault: Fault
) -> None:
    provider = opened(
        endpoint=proxy.url,
        transfer=TransferOptions(
            read_seconds=0.5, slowest_upload=1 << 40, retries=0, cancel_seconds=0.2, whole_bytes=MIB
        ),
    )
    with proxy.fault(fault, method="PUT", path="partNumber"), pytest.raises(StorageConnectionError):
        await provider.upload_file(bytes(9 * MIB), "data/x")
    assert await keys_of(provider) == []
    assert seaweedfs.unfinished(provider.config.bucket, provider.config.prefix) == []
    await provider.upload_file(bytes(9 * MIB), "data/x")


async def test_an_upload_that_is_cut_off_leaves_no_unfinished_upload(
    opened: Open, seaweedfs: SeaweedFS, proxy: FaultProxy
) -> None:
    # obstore leaves it behind when it is cancelled; only another request can remove it.
    provider = opened(endpoint=proxy.url, transfer=TransferOptions(whole_bytes=MIB, cancel_seconds=0.1))
    with proxy.fault(BlackHole(), method="PUT", path="partNumber"):
        upload = asyncio.create_task(provider.upload_file(bytes(9 * MIB), "data/x"))
        await until(lambda: proxy.count("PUT", "partNumber") > 0)
        assert seaweedfs.unfinished(provider.config.bucket, provider.config.prefix) != []
        upload.cancel()
        with pytest.raises(asyncio.CancelledError):
            await upload
    assert seaweedfs.unfinished(provider.config.bucket, provider.config.prefix) == []


async def test_an_upload_of_the_same_key_that_goes_on_is_left_alone_and_cleans_up_in_the_end(
    opened: Open, seaweedfs: SeaweedFS, proxy: FaultProxy
) -> None:
    transfer = TransferOptions(whole_bytes=MIB, memory_bytes=1 << 30, cancel_seconds=0.1)
    provider = opened(endpoint=proxy.url, transfer=transfer)
    where = (provider.config.bucket, provider.config.prefix)
    with proxy.fault(BlackHole(), method="PUT", path="partNumber"):
        cut = asyncio.create_task(provider.upload_file(bytes(9 * MIB), "data/x"))
        other = asyncio.create_task(provider.upload_file(b"y" * 9 * MIB, "data/x"))
        await until(lambda: proxy.count("PUT", "partNumber") >= 4)
        cut.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cut
        assert len(seaweedfs.unfinished(*where)) == 2
    await other
    assert await provider.read("data/x", 0, 1) == b"y"
    assert seaweedfs.unfinished(*where) == []


async def test_a_sweep_ends_old_unfinished_uploads_below_the_prefix_only(opened: Open, seaweedfs: SeaweedFS) -> None:
    bucket = seaweedfs.new_bucket()
    now = datetime.now(UTC)
    keys = ["mine/data/old", "mine/index/old", "mine-too/data/old", "other"]
    for key in keys:
        seaweedfs.client.create_multipart_upload(Bucket=bucket, Key=key)
    young = opened(bucket=bucket, prefix="mine")
    assert await young.sweep_temporary_files(3600) == 0
    later = opened(bucket=bucket, prefix="mine", clock=lambda: now + timedelta(hours=2))
    assert await later.sweep_temporary_files(3600) == 2
    assert await later.sweep_temporary_files(3600) == 0
    assert sorted(seaweedfs.unfinished(bucket)) == ["mine-too/data/old", "other"]


# --- limits --------------------------------------------------------------------------------------------------------


async def test_limits_hold_for_uploads_downloads_and_reads(opened: Open, tmp_path: Path) -> None:
    now = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now
        await asyncio.sleep(0)
        now += seconds

    def limit() -> Throttle:
        return Throttle(10_000, clock=lambda: now, sleep=sleep)

    provider = opened(limits=Limits(upload=limit(), download=limit()))
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
async def test_the_storage_class_follows_the_kind_of_object(opened: Open, moto: Moto, size: int) -> None:
    provider = opened(
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


async def test_an_archived_object_says_that_it_must_be_brought_back(opened: Open, moto: Moto, tmp_path: Path) -> None:
    provider = opened(moto, storage_class={"data": "DEEP_ARCHIVE"})
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
    opened: Open, moto: Moto, more: dict[str, Any], expected: dict[str, Any], size: int
) -> None:
    provider = opened(moto, **more, transfer=TransferOptions(whole_bytes=MIB))
    await provider.upload_file(bytes(size), "data/ab/x")
    found = moto.client.head_object(Bucket=provider.config.bucket, Key=provider.full_key("data/ab/x"))
    assert {name: found.get(name) for name in expected} == expected
    assert await provider.read("data/ab/x") == bytes(size)


@pytest.mark.parametrize("size", [10, 9 * MIB])
async def test_with_a_customer_key_nobody_reads_without_it(opened: Open, seaweedfs: SeaweedFS, size: int) -> None:
    key = base64.b64encode(os.urandom(32)).decode()
    provider = opened(sse="sse-c", sse_customer_key=key, transfer=TransferOptions(whole_bytes=MIB))
    await provider.upload_file(bytes(size), "data/ab/x")
    assert await provider.read("data/ab/x") == bytes(size)
    assert (await provider.get_file_info("data/ab/x")).size == size
    without = opened(prefix=provider.config.prefix)
    with pytest.raises(StorageError):
        await without.read("data/ab/x")
    other = opened(prefix=provider.config.prefix, sse="sse-c", sse_customer_key=base64.b64encode(bytes(32)).decode())
    with pytest.raises(StorageError):
        await other.read("data/ab/x")


async def test_a_bucket_with_versions_shows_what_is_there_now(opened: Open, seaweedfs: SeaweedFS) -> None:
    bucket = seaweedfs.new_bucket()
    seaweedfs.client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    provider = opened(bucket=bucket, prefix="")
    await provider.upload_file(b"first", "config")
    await provider.upload_file(b"second!", "config")
    await provider.upload_file(b"gone", "locks/x")
    await provider.delete_file("locks/x")
    assert [(info.key, info.size) async for info in provider.list_files()] == [("config", 7)]
    assert not await provider.file_exists("locks/x")
    versions = seaweedfs.client.list_object_versions(Bucket=bucket)["Versions"]
    assert sorted(item["Key"] for item in versions) == ["config", "config", "locks/x"]


@pytest.mark.parametrize("size", [10, 9 * MIB])
async def test_retention_is_set_on_everything_but_locks(opened: Open, seaweedfs: SeaweedFS, size: int) -> None:
    now = datetime.now(UTC)
    bucket = seaweedfs.new_name()
    provider = opened(
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


async def test_what_other_programs_left_in_the_bucket_disturbs_no_listing(opened: Open, moto: Moto) -> None:
    provider = opened(moto)
    prefix = provider.config.prefix
    for key in ("/", "/data/", "-sibling/x", "/config-tmp-0123456789abcdef"):
        moto.client.put_object(Bucket=provider.config.bucket, Key=prefix + key, Body=b"")
    await provider.upload_file(b"x", "data/ab/x")
    assert [key for key in await keys_of(provider) if key != "data"] == ["data/ab/x"]
    assert await keys_of(provider, "data/ab") == ["data/ab/x"]


async def test_restic_works_on_what_is_stored_and_stores_where_we_look(
    restic_old: Restic,
    seaweedfs: SeaweedFS,
    opened: Open,
    tmp_path: Path,
    repo_password: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "one").write_bytes(os.urandom(300_000))
    local = tmp_path / "repository"
    restic_old.run("init", repo=local, password=repo_password)
    restic_old.run("backup", tmp_path / "files", repo=local, password=repo_password)

    provider = opened()
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

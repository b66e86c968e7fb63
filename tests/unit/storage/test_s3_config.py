"""What is read of an S3 destination from its URL and the environment, and what is refused."""

from __future__ import annotations

import base64
import subprocess
import sys
from typing import Any

import pytest

from backupiq.errors import UnknownDestinationError, ValidationError
from backupiq.storage.s3 import S3Config, S3Provider
from backupiq.telemetry import redact_text

SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
KEYS = {"AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_SESSION_TOKEN": "tok-en-of-session"}
CUSTOMER_KEY = base64.b64encode(bytes(range(32))).decode()


def test_a_plain_url_means_aws_with_the_usual_variables() -> None:
    config = S3Config.from_url("s3://photos/laptop/", KEYS | {"AWS_REGION": "eu-central-1"})
    assert config == S3Config(
        "photos",
        "laptop",
        region="eu-central-1",
        access_key_id="AKIAEXAMPLE",
        secret_access_key=SECRET,
        session_token="tok-en-of-session",
    )
    assert config.location == "s3://photos/laptop"
    assert config.bucket_url == "https://photos.s3.eu-central-1.amazonaws.com"
    assert config.service_url == "https://s3.eu-central-1.amazonaws.com"


def test_every_option_of_the_url_is_understood() -> None:
    config = S3Config.from_url(
        "s3://photos?endpoint=http://127.0.0.1:8333&region=eu&virtual_hosted=true&sse=aws:kms&sse_kms_key_id=alias/x"
        "&sse_bucket_key=true&storage_class=data:GLACIER_IR,index:STANDARD_IA&checksum=CRC64NVME"
        "&object_lock=GOVERNANCE&object_lock_days=30&profile=work",
        KEYS,
    )
    assert config == S3Config(
        "photos",
        endpoint="http://127.0.0.1:8333",
        region="eu",
        profile="work",
        virtual_hosted=True,
        sse="aws:kms",
        sse_kms_key_id="alias/x",
        sse_bucket_key=True,
        storage_class={"data": "GLACIER_IR", "index": "STANDARD_IA"},
        checksum_algorithm="CRC64NVME",
        object_lock_mode="GOVERNANCE",
        object_lock_days=30,
    )
    assert config.bucket_url == "http://photos.127.0.0.1:8333"


def test_a_profile_in_the_url_comes_before_keys_in_the_environment_and_those_before_its_profile() -> None:
    assert S3Config.from_url("s3://photos?profile=work", KEYS).access_key_id is None
    found = S3Config.from_url("s3://photos", KEYS | {"AWS_PROFILE": "other"})
    assert (found.access_key_id, found.profile) == ("AKIAEXAMPLE", "other")


def test_the_endpoint_of_s3_alone_comes_before_that_of_all_services() -> None:
    env = {"AWS_ENDPOINT_URL": "http://all", "AWS_ENDPOINT_URL_S3": "http://s3"}
    assert S3Config.from_url("s3://photos", env).endpoint == "http://s3"
    assert S3Config.from_url("s3://photos?endpoint=http://mine", env).endpoint == "http://mine"
    assert S3Config.from_url("s3://photos", {}).region == "us-east-1"


@pytest.mark.parametrize(
    ("bucket", "more", "url"),
    [
        ("photos", {}, "https://photos.s3.us-east-1.amazonaws.com"),
        ("my.photos", {}, "https://s3.us-east-1.amazonaws.com"),
        ("photos", {"virtual_hosted": False}, "https://s3.us-east-1.amazonaws.com"),
        ("photos", {"endpoint": "https://minio.example:9000/"}, "https://minio.example:9000"),
        ("photos", {"endpoint": "https://r2.example", "virtual_hosted": True}, "https://photos.r2.example"),
        ("photos", {"region": "cn-north-1"}, "https://photos.s3.cn-north-1.amazonaws.com.cn"),
    ],
)
def test_the_bucket_stands_in_the_host_or_in_the_path(bucket: str, more: dict[str, Any], url: str) -> None:
    assert S3Config(bucket, **more).bucket_url == url


@pytest.mark.parametrize(
    "options",
    [
        "sse=rot13",
        "sse=sse-c",
        "sse_kms_key_id=alias/x",
        "sse_bucket_key=true",
        "sse=AES256&sse_kms_key_id=alias/x",
        "object_lock=GOVERNANCE",
        "object_lock_days=3",
        "object_lock=FOREVER&object_lock_days=3",
        "object_lock=GOVERNANCE&object_lock_days=0",
        "object_lock=GOVERNANCE&object_lock_days=many",
        "object_lock=GOVERNANCE&object_lock_days=99999999",
        "checksum=MD5",
        "region=no%20region",
        "endpoint=nowhere",
        "virtual_hosted=perhaps",
        "storage_class=locks:X",
    ],
)
def test_options_that_cannot_be_meant_are_refused_and_named(options: str) -> None:
    with pytest.raises(ValidationError) as caught:
        S3Config.from_url(f"s3://photos?{options}", {})
    assert any(name in caught.value.message for name in ("sse", "object_lock", options.partition("=")[0]))


@pytest.mark.parametrize("option", ["access_key_id", "secret_access_key", "session_token", "sse_customer_key"])
def test_credentials_have_no_place_in_a_url(option: str) -> None:
    with pytest.raises(UnknownDestinationError) as caught:
        S3Config.from_url(f"s3://photos?{option}={SECRET}", {})
    assert SECRET not in str(caught.value.to_dict())


@pytest.mark.parametrize("bucket", ["", "a", "with space", "-x", "a/b", "ü" * 5, "b" * 300])
def test_a_bucket_that_can_be_none_is_refused(bucket: str) -> None:
    with pytest.raises(ValidationError, match="bucket"):
        S3Config(bucket)


@pytest.mark.parametrize("more", [{"access_key_id": "AK"}, {"secret_access_key": SECRET}])
def test_half_a_pair_of_keys_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="belong together"):
        S3Config("photos", **more)


@pytest.mark.parametrize("key", ["short", base64.b64encode(bytes(31)).decode(), "!" * 44])
def test_a_customer_key_of_another_size_is_refused_and_not_repeated(key: str) -> None:
    with pytest.raises(ValidationError) as caught:
        S3Config.from_url("s3://photos?sse=sse-c", {"BACKUPIQ_S3_SSE_CUSTOMER_KEY": key})
    assert key not in str(caught.value.to_dict())
    assert S3Config.from_url("s3://photos", {"BACKUPIQ_S3_SSE_CUSTOMER_KEY": key}).sse_customer_key is None


def test_secrets_show_in_no_text_and_in_no_log() -> None:
    config = S3Config.from_url("s3://photos?sse=sse-c", KEYS | {"BACKUPIQ_S3_SSE_CUSTOMER_KEY": CUSTOMER_KEY})
    provider = S3Provider(config)
    for text in (repr(config), str(config), repr(provider), provider.location, provider.identity):
        assert not any(secret in text for secret in (SECRET, "tok-en-of-session", CUSTOMER_KEY))
    logged = redact_text(f"{SECRET} and tok-en-of-session and {CUSTOMER_KEY}")
    assert not any(secret in logged for secret in (SECRET, "tok-en-of-session", CUSTOMER_KEY))


def test_what_obstore_keeps_of_a_store_holds_no_secret() -> None:
    # Its own settings would, and would go wherever a store is pickled: credentials are asked for instead.
    store: Any = S3Provider(S3Config.from_url("s3://photos", KEYS)).open_store({}, {})
    assert SECRET not in str(store.config)
    assert SECRET not in repr(store)


def test_the_module_brings_neither_boto3_nor_prefect_with_it() -> None:
    found = "import sys, backupiq.storage.s3; print({'boto3', 'botocore', 'prefect'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", found], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_a_destination_is_named_with_its_server_and_without_secrets() -> None:
    assert S3Provider(S3Config.from_url("s3://photos/x", KEYS)).identity == "s3:s3://photos/x"
    there = S3Provider(S3Config.from_url("s3://photos/x?endpoint=http://127.0.0.1:1", KEYS))
    assert there.identity == "s3:s3://photos/x@http://127.0.0.1:1"
    assert there.location == "s3://photos/x"

"""What names tell: hashes and kinds of objects, the parts of a destination's URL."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupiq.errors import UnknownDestinationError, ValidationError
from backupiq.storage.names import (
    check_classes,
    check_endpoint,
    classes_by_kind,
    expected_sha256,
    flag,
    kind_of,
    split_url,
)
from backupiq.storage.transfer_options import TransferOptions, part_size

HASH = hashlib.sha256(b"x").hexdigest()


@pytest.mark.parametrize("key", [f"data/{HASH[:2]}/{HASH}", f"index/{HASH}", f"locks/{HASH}", HASH])
def test_an_object_named_by_its_hash_must_have_it(key: str) -> None:
    assert expected_sha256(key) == HASH


@pytest.mark.parametrize(
    "key", ["config", f"data/{HASH}/x", HASH[:-1], HASH + "0", HASH.upper(), "g" * 64, HASH + "\n"]
)
def test_other_names_promise_no_hash(key: str) -> None:
    assert expected_sha256(key) is None


def test_the_kind_of_an_object_is_the_first_part_of_its_key() -> None:
    assert [kind_of(key) for key in (f"data/ab/{HASH}", "config", f"locks/{HASH}")] == ["data", "config", "locks"]


def test_a_storage_class_alone_is_for_the_packs() -> None:
    assert classes_by_kind("GLACIER_IR") == {"data": "GLACIER_IR"}
    assert classes_by_kind("data:GLACIER_IR,index:STANDARD_IA") == {"data": "GLACIER_IR", "index": "STANDARD_IA"}
    check_classes({})
    check_classes({"data": "COLD", "snapshots": "HOT"})


@pytest.mark.parametrize("text", ["", "data:", "locks:COLD", "other:COLD", "A,B", "data:A,data:B", "no good", "a\nb:C"])
def test_a_storage_class_that_cannot_be_meant_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match="storage_class"):
        classes_by_kind(text)


def test_a_url_is_taken_apart() -> None:
    parts = split_url(
        "s3://Bucket.name/some/where/?endpoint=http://127.0.0.1:1&region=eu", "s3", ["endpoint", "region"]
    )
    assert (parts.container, parts.prefix) == ("Bucket.name", "some/where")
    assert parts.options == {"endpoint": "http://127.0.0.1:1", "region": "eu"}
    assert split_url("s3://bucket", "s3", []).prefix == ""
    assert split_url("s3://bucket/with%20space%23", "s3", []).prefix == "with space#"


@pytest.mark.parametrize(
    "url",
    [
        "s3:",
        "s3:///prefix",
        "s3://",
        "gs://bucket",
        "s3://bucket#x",
        "s3://key:hunter2@bucket/x",
        "s3://hunter2@bucket",
        "s3://bucket:9000/x",
        "s3://bucket/../x",
        "s3://bucket/a//b",
        "s3://bucket?secret=hunter2",
        "s3://bucket?hunter2",
        "s3://bucket?hunter2%0a=x",
        "s3://bucket?region=",
        "s3://bucket?region=a&region=hunter2",
        "s3://[hunter2",
    ],
)
def test_a_url_that_cannot_be_meant_is_refused_without_repeating_values(url: str) -> None:
    with pytest.raises(UnknownDestinationError) as caught:
        split_url(url, "s3", ["region"])
    if "secret" not in url or "hunter2" in caught.value.message:
        assert "hunter2" not in str(caught.value.to_dict())


@pytest.mark.parametrize(
    "endpoint",
    ["127.0.0.1:1", "ftp://host", "http://", "https://user:hunter2@host", "http://host?x=hunter2", "http://host:99999"],
)
def test_an_endpoint_that_is_no_address_is_refused_without_repeating_it(endpoint: str) -> None:
    with pytest.raises(ValidationError, match="endpoint") as caught:
        check_endpoint(endpoint)
    assert "hunter2" not in str(caught.value.to_dict())


def test_an_endpoint_loses_its_last_slash() -> None:
    assert check_endpoint("https://host:1/path/") == "https://host:1/path"


def test_a_flag_is_yes_no_or_absent() -> None:
    assert [flag({"f": text}, "f") for text in ("true", "YES", "0", "False")] == [True, True, False, False]
    assert flag({}, "f") is None
    with pytest.raises(ValidationError, match="option f "):
        flag({"f": "maybe"}, "f")


@given(st.integers(0, 5 << 40))
def test_every_object_fits_into_the_parts_a_service_takes(size: int) -> None:
    part = part_size(size)
    assert part >= 5 << 20  # smaller ones are refused
    assert -(-size // part) <= 10_000
    assert part == 8 << 20 or size > 9000 * (8 << 20)


@pytest.mark.parametrize("field", ["connect_seconds", "read_seconds", "slowest_upload", "memory_bytes"])
def test_a_timeout_of_zero_is_refused_since_every_call_would_fail(field: str) -> None:
    with pytest.raises(ValidationError):
        TransferOptions(**{field: 0})
    assert TransferOptions(retries=0).retries == 0

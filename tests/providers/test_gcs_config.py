"""Google Cloud Storage: how a destination is written, where credentials come from, which error is which."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from backupiq.errors import (
    BackupIQError,
    ConfigurationError,
    MissingConfigurationError,
    StorageAuthenticationError,
    StorageConflictError,
    StorageConnectionError,
    StorageError,
    StorageNotFoundError,
    StoragePermissionError,
    StorageQuotaError,
    StorageThrottledError,
    StorageTimeoutError,
    UnknownDestinationError,
    ValidationError,
)
from backupiq.storage.gcs import GcsProvider
from backupiq.storage.gcs_config import GcsConfig
from backupiq.storage.gcs_errors import GCS_ERRORS
from backupiq.storage.objecterrors import Signal, from_signal
from backupiq.telemetry import redact_text
from tests.support.servers.gcs import new_key_pair, service_account

FILE = {"GOOGLE_APPLICATION_CREDENTIALS": "/some/key.json"}
SECRET = "hunter2-is-the-secret"


@pytest.fixture(scope="module")
def key_json() -> str:
    return service_account(new_key_pair()[0], "https://oauth2.googleapis.com/token")


def read(url: str, env: Mapping[str, str] = FILE) -> GcsConfig:
    return GcsConfig.from_url(url, {"HOME": "/nowhere", **env})


# --- destinations --------------------------------------------------------------------------------------------------


def test_a_url_gives_every_field() -> None:
    config = read(
        "gs://my-bucket/some/where?endpoint=https://storage.example/&project=p&location=EU"
        "&storage_class=data:coldline,snapshots:NEARLINE"
    )
    assert (config.bucket, config.prefix, config.project) == ("my-bucket", "some/where", "p")
    assert (config.endpoint, config.bucket_location) == ("https://storage.example", "EU")
    assert config.storage_class == {"data": "COLDLINE", "snapshots": "NEARLINE"}
    assert config.location == "gs://my-bucket/some/where"
    assert config.credentials_file == "/some/key.json"
    assert GcsProvider(config).identity == "gcs:gs://my-bucket/some/where@https://storage.example"


def test_a_class_alone_is_for_the_packs_only() -> None:
    assert read("gs://my-bucket?storage_class=ARCHIVE").storage_class == {"data": "ARCHIVE"}


@pytest.mark.parametrize(
    ("env", "field"),
    [
        (FILE | {"CLOUDSDK_AUTH_ACCESS_TOKEN": SECRET}, "credentials_file"),
        ({"CLOUDSDK_AUTH_ACCESS_TOKEN": SECRET}, "access_token"),
    ],
)
def test_credentials_come_from_the_environment_in_order(env: dict[str, str], field: str) -> None:
    config = read("gs://my-bucket", env)
    sources = ("service_account", "credentials_file", "access_token", "credentials")
    assert [name for name in sources if getattr(config, name) is not None] == [field]
    assert not config.machine


def test_who_signed_in_with_gcloud_needs_no_variable(tmp_path: Path) -> None:
    signed_in = tmp_path / ".config/gcloud/application_default_credentials.json"
    with pytest.raises(MissingConfigurationError, match="gcloud auth application-default login"):
        read("gs://my-bucket", {"HOME": str(tmp_path)})
    signed_in.parent.mkdir(parents=True)
    signed_in.write_text("{}")
    assert read("gs://my-bucket", {"HOME": str(tmp_path)}).credentials_file == str(signed_in)
    assert read("gs://my-bucket", {"CLOUDSDK_CONFIG": str(signed_in.parent)}).credentials_file == str(signed_in)


def test_the_account_of_the_machine_is_taken_only_when_asked_for() -> None:
    assert read("gs://my-bucket?auth=machine", {}).machine
    with pytest.raises(MissingConfigurationError, match="auth=machine"):
        read("gs://my-bucket", {})


def test_a_server_on_this_machine_needs_no_credentials() -> None:
    config = read("gs://my-bucket?endpoint=http://127.0.0.1:4443", {})
    assert config.access_token is not None
    assert config.base_url == "http://127.0.0.1:4443"
    assert read("gs://my-bucket", {"STORAGE_EMULATOR_HOST": "localhost:4443"}).base_url == "http://localhost:4443"


@pytest.mark.parametrize(
    ("url", "wrong"),
    [
        ("gs:my-bucket", UnknownDestinationError),
        ("gs://", UnknownDestinationError),
        (f"gs://user:{SECRET}@my-bucket", UnknownDestinationError),
        ("gs://Upper", UnknownDestinationError),
        ("gs://goog-bucket", UnknownDestinationError),
        ("gs://my-bucket/a//b", UnknownDestinationError),
        (f"gs://my-bucket?token={SECRET}", UnknownDestinationError),
        (f"gs://my-bucket?access_token={SECRET}", UnknownDestinationError),
        (f"gs://my-bucket?service_account={SECRET}", UnknownDestinationError),
        (f"gs://my-bucket?endpoint=https://user:{SECRET}@host", ValidationError),
        ("gs://my-bucket?endpoint=http://storage.example", ValidationError),
        (f"gs://my-bucket?auth={SECRET}", ValidationError),
        (f"gs://my-bucket?storage_class={SECRET}", ValidationError),
        ("gs://my-bucket?storage_class=locks:ARCHIVE", ValidationError),
    ],
)
def test_a_bad_destination_is_refused_without_repeating_it(url: str, wrong: type[BackupIQError]) -> None:
    with pytest.raises(wrong) as caught:
        read(url)
    assert SECRET not in str(caught.value.to_dict())


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_by_an_error_of_ours(text: str) -> None:
    for url in (text, f"gs://{text}", f"gs://my-bucket/{text}", f"gs://my-bucket?{text}"):
        with contextlib.suppress(UnknownDestinationError, ValidationError, ConfigurationError):
            read(url)


# --- credentials ---------------------------------------------------------------------------------------------------


def test_exactly_one_kind_of_credentials_is_taken(key_json: str) -> None:
    with pytest.raises(MissingConfigurationError):
        GcsConfig("my-bucket")
    with pytest.raises(ConfigurationError, match="Several"):
        GcsConfig("my-bucket", service_account=SecretStr(key_json), machine=True)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"client_email": 5}', '{"type": "authorized_user"}', f'"{SECRET}'])
def test_what_is_no_service_account_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(ConfigurationError, match="service account") as caught:
        GcsConfig("my-bucket", service_account=SecretStr(text))
    assert SECRET not in str(caught.value.to_dict())


def test_secrets_are_in_no_text_of_a_configuration(key_json: str) -> None:
    private_key = json.loads(key_json)["private_key"]
    config = GcsConfig("my-bucket", service_account=SecretStr(key_json))
    token = GcsConfig("my-bucket", access_token=SecretStr(SECRET))
    shown = repr(config) + str(config) + repr(GcsProvider(config)) + repr(token) + GcsProvider(token).identity
    assert private_key.splitlines()[1] not in shown
    assert SECRET not in shown
    assert SECRET not in redact_text(f"the token was {SECRET}")
    assert private_key.splitlines()[1] not in redact_text(key_json)


@pytest.mark.parametrize("metadata", [{"Owner": "x"}, {"": "x"}, {"owner": "two\nlines"}])
def test_metadata_that_no_header_can_carry_is_refused(metadata: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="metadata"):
        GcsConfig("my-bucket", machine=True, metadata=metadata)


def test_a_configuration_is_a_value() -> None:
    config = GcsConfig("my-bucket", machine=True)
    assert config == dataclasses.replace(config)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.bucket = "other"  # type: ignore[misc]


# --- errors --------------------------------------------------------------------------------------------------------

RAISED_BY_TOKENS = "External GCP credential provider: google.auth.exceptions."
SIGNALS: list[tuple[Signal, type[StorageError]]] = [
    (Signal("GenericError", 408, "RequestTimeout", ""), StorageTimeoutError),
    (Signal("GenericError", 500, "InternalError", ""), StorageConnectionError),
    (Signal("GenericError", 502, None, ""), StorageConnectionError),
    (Signal("GenericError", 503, "ServiceUnavailable", ""), StorageConnectionError),
    (Signal("GenericError", None, None, "http error: error sending request: connection reset"), StorageConnectionError),
    (Signal("GenericError", None, None, "http error: operation timed out"), StorageTimeoutError),
    (Signal("GenericError", 429, "SlowDown", ""), StorageThrottledError),
    (Signal("GenericError", 503, "SlowDown", ""), StorageThrottledError),
    (Signal("Forbidden", 403, "rateLimitExceeded", ""), StorageThrottledError),
    (Signal("UnauthenticatedError", 401, "AuthenticationRequired", ""), StorageAuthenticationError),
    (Signal("GenericError", 401, None, ""), StorageAuthenticationError),
    (Signal("GenericError", 400, "ExpiredToken", ""), StorageAuthenticationError),
    (Signal("PermissionDeniedError", 403, "RequestTimeTooSkewed", ""), StorageAuthenticationError),
    (
        Signal("UnauthenticatedError", None, None, f"{RAISED_BY_TOKENS}RefreshError: invalid_grant".lower()),
        StorageAuthenticationError,
    ),
    (
        Signal("UnauthenticatedError", None, None, f"{RAISED_BY_TOKENS}TransportError: refused".lower()),
        StorageConnectionError,
    ),
    (Signal("PermissionDeniedError", 403, "AccessDenied", ""), StoragePermissionError),
    (Signal("PermissionDeniedError", 403, None, ""), StoragePermissionError),
    (Signal("PermissionDeniedError", 403, "UserProjectAccountProblem", ""), StoragePermissionError),
    (Signal("PermissionDeniedError", 403, "RetentionPolicyNotMet", ""), StoragePermissionError),
    (Signal("FileNotFoundError", 404, "NoSuchKey", ""), StorageNotFoundError),
    (Signal("GenericError", 404, "NoSuchBucket", ""), StorageNotFoundError),
    (Signal("FileNotFoundError", 404, None, ""), StorageNotFoundError),
    (Signal("FileNotFoundError", 404, "NoSuchUpload", ""), StorageConnectionError),
    (Signal("AlreadyExistsError", 412, "PreconditionFailed", ""), StorageConflictError),
    (Signal("PreconditionError", 412, None, ""), StorageConflictError),
    (Signal("GenericError", 507, None, ""), StorageQuotaError),
    (Signal("GenericError", 403, "quotaExceeded", ""), StorageQuotaError),
    (Signal("GenericError", 301, None, ""), StorageError),
    (Signal("GenericError", 400, "InvalidArgument", ""), StorageError),
    (Signal("GenericError", 413, "EntityTooLarge", ""), StorageError),
    (Signal("GenericError", 400, "BadDigest", ""), StorageConnectionError),
    (Signal("GenericError", None, None, "something new"), StorageError),
]


@pytest.mark.parametrize(("signal", "kind"), SIGNALS, ids=lambda value: str(value)[:60])
def test_each_signal_of_google_stands_for_one_error(signal: Signal, kind: type[StorageError]) -> None:
    error = from_signal(GCS_ERRORS, signal, "store data/ab", reason=signal.text)
    assert type(error) is kind
    assert error.message.startswith("Cannot store data/ab: ")
    assert error.message.isprintable()

"""Azure Blob Storage: how a destination is written, where credentials come from, which error is which."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from datetime import UTC, datetime

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
    StorageCorruptError,
    StorageError,
    StorageNeedsThawError,
    StorageNotFoundError,
    StoragePermissionError,
    StorageQuotaError,
    StorageThrottledError,
    StorageTimeoutError,
    StorageUnsupportedError,
    UnknownDestinationError,
    ValidationError,
)
from backupiq.storage.azure import AzureProvider
from backupiq.storage.azure_config import EMULATOR_ACCOUNT, AzureConfig, read_connection_string
from backupiq.storage.azure_errors import AZURE_ERRORS
from backupiq.storage.objecterrors import Signal, from_signal
from backupiq.telemetry import redact_text

KEY = "c2VjcmV0LWtleS1vZi10aGUtYWNjb3VudA=="
SECRET = "hunter2isthesecret"
SAS = f"sv=2024-11-04&sr=c&sp=racwdl&se=2027-01-02T03%3A04%3A05Z&sig={SECRET}"
WITH_KEY = {"AZURE_STORAGE_ACCOUNT": "myaccount", "AZURE_STORAGE_KEY": KEY}
PRINCIPAL = {"AZURE_TENANT_ID": "t", "AZURE_CLIENT_ID": "c", "AZURE_CLIENT_SECRET": SECRET}


def read(url: str, env: Mapping[str, str] = WITH_KEY) -> AzureConfig:
    return AzureConfig.from_url(url, env)


def kinds_of_credentials(config: AzureConfig) -> list[str]:
    names = ("account_key", "sas_token", "client_secret", "credential")
    found = [name for name in names if getattr(config, name) is not None]
    return found + (["default_credential"] if config.default_credential else [])


# --- destinations --------------------------------------------------------------------------------------------------


def test_a_url_gives_every_field() -> None:
    config = read("az://my-container/some/where?account=other&storage_class=data:cool,snapshots:hot")
    assert (config.container, config.prefix, config.account) == ("my-container", "some/where", "other")
    assert config.service_url == "https://other.blob.core.windows.net"
    assert config.storage_class == {"data": "Cool", "snapshots": "Hot"}
    assert config.location == "az://my-container/some/where"


def test_containers_of_one_name_in_two_accounts_are_two_destinations() -> None:
    first, second = (AzureProvider(read(f"az://backup?account={name}")) for name in ("first", "second"))
    assert first.location == second.location
    assert first.identity != second.identity


@pytest.mark.parametrize(
    ("endpoint", "account"),
    [
        ("https://myaccount.blob.core.windows.net/", "myaccount"),
        ("https://myaccount.blob.core.chinacloudapi.cn", "myaccount"),
        ("http://127.0.0.1:10000/devstoreaccount1", "devstoreaccount1"),
        ("https://azurite.example:10000/devstoreaccount1", "devstoreaccount1"),
    ],
)
def test_an_endpoint_names_its_account(endpoint: str, account: str) -> None:
    config = read(f"az://backup?endpoint={endpoint}", {"AZURE_STORAGE_KEY": KEY, "AZURE_STORAGE_ACCOUNT": "unused"})
    assert (config.account, config.service_url) == (account, endpoint.rstrip("/"))


@pytest.mark.parametrize(
    ("env", "kind"),
    [
        (WITH_KEY | {"AZURE_STORAGE_SAS_TOKEN": SAS} | PRINCIPAL, "account_key"),
        ({"AZURE_STORAGE_ACCOUNT_NAME": "myaccount", "AZURE_STORAGE_ACCOUNT_KEY": KEY}, "account_key"),
        ({"AZURE_STORAGE_ACCOUNT": "myaccount", "AZURE_STORAGE_SAS_TOKEN": f"?{SAS}"} | PRINCIPAL, "sas_token"),
        ({"AZURE_STORAGE_ACCOUNT": "myaccount"} | PRINCIPAL, "client_secret"),
    ],
)
def test_credentials_come_from_the_environment_in_order(env: dict[str, str], kind: str) -> None:
    assert kinds_of_credentials(read("az://backup", env)) == [kind]


def test_the_ways_of_az_login_are_taken_only_when_asked_for() -> None:
    assert kinds_of_credentials(read("az://backup?auth=default&account=myaccount", WITH_KEY)) == ["default_credential"]
    with pytest.raises(MissingConfigurationError, match="auth=default"):
        read("az://backup", {"AZURE_STORAGE_ACCOUNT": "myaccount"})
    with pytest.raises(MissingConfigurationError, match="AZURE_STORAGE_ACCOUNT"):
        read("az://backup", {"AZURE_STORAGE_KEY": KEY})


@pytest.mark.parametrize(
    ("url", "wrong"),
    [
        ("az:backup", UnknownDestinationError),
        ("az://", UnknownDestinationError),
        (f"az://user:{SECRET}@backup", UnknownDestinationError),
        ("az://Upper", UnknownDestinationError),
        ("az://two--dashes", UnknownDestinationError),
        ("az://backup/a/../b", UnknownDestinationError),
        (f"az://backup?sas={SECRET}", UnknownDestinationError),
        (f"az://backup?account_key={SECRET}", UnknownDestinationError),
        (f"az://backup?sv=2024&sig={SECRET}", UnknownDestinationError),
        (f"az://backup?endpoint=https://host?sig={SECRET}", ValidationError),
        (f"az://backup?endpoint=https://host/a%3Fsig={SECRET}", ValidationError),
        ("az://backup?account=Not-An-Account", ValidationError),
        (f"az://backup?auth={SECRET}", ValidationError),
        ("az://backup?storage_class=GLACIER", ValidationError),
        ("az://backup?storage_class=data:Archive,index:Archive", ValidationError),
    ],
)
def test_a_bad_destination_is_refused_without_repeating_it(url: str, wrong: type[BackupIQError]) -> None:
    with pytest.raises(wrong) as caught:
        read(url)
    assert SECRET not in str(caught.value.to_dict())


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_by_an_error_of_ours(text: str) -> None:
    for url in (text, f"az://{text}", f"az://backup/{text}", f"az://backup?{text}"):
        with contextlib.suppress(UnknownDestinationError, ValidationError, ConfigurationError):
            read(url)


def test_tokens_travel_encrypted_or_stay_on_this_machine() -> None:
    plain = "az://backup?endpoint=http://azurite.example/myaccount"
    env = {"AZURE_STORAGE_SAS_TOKEN": SAS}
    with pytest.raises(ValidationError, match="unencrypted"):
        read(plain, env)
    assert read(plain, {"AZURE_STORAGE_KEY": KEY}).account == "myaccount"
    assert read("az://backup?endpoint=http://localhost:10000/myaccount", env).account == "myaccount"


# --- connection strings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "service_url", "kind"),
    [
        (
            f"DefaultEndpointsProtocol=https;AccountName=myaccount;AccountKey={KEY};EndpointSuffix=core.windows.net",
            "https://myaccount.blob.core.windows.net",
            "account_key",
        ),
        (
            f"accountname=myaccount; accountkey={KEY}; EndpointSuffix=core.usgovcloudapi.net;",
            "https://myaccount.blob.core.usgovcloudapi.net",
            "account_key",
        ),
        (
            f"BlobEndpoint=https://myaccount.blob.core.windows.net/;SharedAccessSignature={SAS}",
            "https://myaccount.blob.core.windows.net",
            "sas_token",
        ),
        ("UseDevelopmentStorage=true", f"http://127.0.0.1:10000/{EMULATOR_ACCOUNT}", "account_key"),
    ],
)
def test_a_connection_string_gives_account_and_credentials(text: str, service_url: str, kind: str) -> None:
    for config in (
        read("az://backup", {"AZURE_STORAGE_CONNECTION_STRING": text}),
        AzureConfig.from_connection_string("backup", text, prefix="p"),
    ):
        assert config.service_url == service_url
        assert config.account in (EMULATOR_ACCOUNT, "myaccount")
        assert kinds_of_credentials(config) == [kind]


def test_an_account_in_the_url_comes_before_that_of_the_connection_string() -> None:
    text = f"AccountName=myaccount;AccountKey={KEY}"
    config = read("az://backup?account=other", {"AZURE_STORAGE_CONNECTION_STRING": text})
    assert config.service_url == "https://other.blob.core.windows.net"


@pytest.mark.parametrize(
    "text",
    [
        SECRET,
        f"AccountKey={SECRET}",
        "AccountName=myaccount",
        f"AccountName=myaccount;AccountKey={SECRET}!",
        f"AccountName=myaccount;SharedAccessSignature={SECRET}",
        f"AccountName=a;AccountName=b;AccountKey={KEY}",
    ],
)
def test_a_bad_connection_string_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        AzureConfig.from_connection_string("backup", text)
    assert SECRET not in str(caught.value.to_dict())


@given(
    st.text(max_size=80) | st.lists(st.sampled_from(["AccountName=a", ";", "=", "BlobEndpoint", "x=y"])).map("".join)
)
def test_any_connection_string_is_read_or_refused_by_an_error_of_ours(text: str) -> None:
    with contextlib.suppress(ConfigurationError):
        assert read_connection_string(text)["endpoint"]


# --- credentials ---------------------------------------------------------------------------------------------------


def test_exactly_one_kind_of_credentials_is_taken() -> None:
    with pytest.raises(MissingConfigurationError, match="AZURE_STORAGE_CONNECTION_STRING"):
        AzureConfig("backup", account="myaccount")
    with pytest.raises(ConfigurationError, match="Several"):
        AzureConfig("backup", account="myaccount", account_key=SecretStr(KEY), sas_token=SecretStr(SAS))
    with pytest.raises(ConfigurationError, match="service principal"):
        AzureConfig("backup", account="myaccount", client_secret=SecretStr(SECRET), tenant_id="t")
    with pytest.raises(ConfigurationError, match="service principal"):
        AzureConfig("backup", account="myaccount", client_id="c")


def test_the_end_of_a_sas_token_is_known() -> None:
    config = AzureConfig("backup", account="myaccount", sas_token=SecretStr(f"?{SAS}"))
    assert config.sas_expires == datetime(2027, 1, 2, 3, 4, 5, tzinfo=UTC)
    for said in ("se=tomorrow&", "se=&", ""):
        unknown = AzureConfig("backup", account="myaccount", sas_token=SecretStr(f"{said}sig={SECRET}"))
        assert unknown.sas_expires is None


def test_secrets_are_in_no_text_of_a_configuration() -> None:
    for env in (WITH_KEY, {"AZURE_STORAGE_ACCOUNT": "myaccount", "AZURE_STORAGE_SAS_TOKEN": SAS}, WITH_KEY | PRINCIPAL):
        config = read("az://backup", env)
        shown = repr(config) + str(config) + repr(AzureProvider(config)) + AzureProvider(config).identity
        assert KEY not in shown
        assert SECRET not in shown
    assert KEY not in redact_text(f"key={KEY}")
    assert SECRET not in redact_text(f"GET https://host/x?sig={SECRET}")


def test_metadata_that_azure_cannot_keep_is_refused() -> None:
    with pytest.raises(ValidationError, match="metadata"):
        AzureConfig("backup", account="myaccount", account_key=SecretStr(KEY), metadata={"with-dash": "x"})


# --- errors --------------------------------------------------------------------------------------------------------

RAISED_BY_TOKENS = "External Azure credential provider: azure.core.exceptions."
NOT_TRUSTED = "server failed to authenticate the request. make sure the value of the authorization header is formed"
SIGNALS: list[tuple[Signal, type[StorageError]]] = [
    (Signal("GenericError", 408, None, ""), StorageTimeoutError),
    (Signal("GenericError", 500, "OperationTimedOut", ""), StorageTimeoutError),
    (Signal("GenericError", 500, "InternalError", ""), StorageConnectionError),
    (Signal("GenericError", 503, None, ""), StorageConnectionError),
    (Signal("GenericError", None, None, "http error: error sending request: connection reset"), StorageConnectionError),
    (Signal("GenericError", None, None, "http error: operation timed out"), StorageTimeoutError),
    (Signal("GenericError", 503, "ServerBusy", ""), StorageThrottledError),
    (Signal("GenericError", 429, None, ""), StorageThrottledError),
    (Signal("UnauthenticatedError", 401, "NoAuthenticationInformation", ""), StorageAuthenticationError),
    (Signal("PermissionDeniedError", 403, "AuthenticationFailed", ""), StorageAuthenticationError),
    (Signal("GenericError", 400, "InvalidAuthenticationInfo", ""), StorageAuthenticationError),
    (Signal("GenericError", 403, "AuthorizationFailure", NOT_TRUSTED), StorageAuthenticationError),
    (
        Signal("UnauthenticatedError", None, None, f"{RAISED_BY_TOKENS}ClientAuthenticationError: no".lower()),
        StorageAuthenticationError,
    ),
    (
        Signal("UnauthenticatedError", None, None, f"{RAISED_BY_TOKENS}ServiceRequestError: refused".lower()),
        StorageConnectionError,
    ),
    (Signal("PermissionDeniedError", 403, None, ""), StoragePermissionError),
    (Signal("PermissionDeniedError", 403, "AuthorizationFailure", "this request is not"), StoragePermissionError),
    (Signal("PermissionDeniedError", 403, "AuthorizationPermissionMismatch", ""), StoragePermissionError),
    (Signal("PermissionDeniedError", 403, "KeyBasedAuthenticationNotPermitted", ""), StoragePermissionError),
    (Signal("AlreadyExistsError", 409, "PublicAccessNotPermitted", ""), StoragePermissionError),
    (Signal("AlreadyExistsError", 409, "BlobImmutableDueToPolicy", ""), StoragePermissionError),
    (Signal("PreconditionError", 412, "LeaseIdMissing", ""), StoragePermissionError),
    (Signal("FileNotFoundError", 404, "BlobNotFound", ""), StorageNotFoundError),
    (Signal("FileNotFoundError", 404, "ContainerNotFound", ""), StorageNotFoundError),
    (Signal("GenericError", 404, "ContainerNotFound", ""), StorageNotFoundError),
    (Signal("FileNotFoundError", 404, None, "the specified container does not exist."), StorageNotFoundError),
    (Signal("AlreadyExistsError", 409, "BlobAlreadyExists", ""), StorageConflictError),
    (Signal("PreconditionError", 412, "ConditionNotMet", ""), StorageConflictError),
    (Signal("AlreadyExistsError", 409, "BlobArchived", ""), StorageNeedsThawError),
    (Signal("AlreadyExistsError", 409, "BlobBeingRehydrated", ""), StorageNeedsThawError),
    (Signal("AlreadyExistsError", 409, "ContainerBeingDeleted", ""), StorageConnectionError),
    (Signal("AlreadyExistsError", 409, "InvalidBlobType", ""), StorageError),
    (Signal("GenericError", 507, None, ""), StorageQuotaError),
    (Signal("GenericError", 400, "InvalidHeaderValue", ""), StorageUnsupportedError),
    (Signal("NotSupportedError", None, None, "azure does not support suffix range requests"), StorageUnsupportedError),
    (Signal("GenericError", 400, "InvalidBlockList", ""), StorageConnectionError),
    (Signal("GenericError", None, None, "wanted range starting at 5, but object was only 5"), StorageCorruptError),
    (Signal("GenericError", 301, None, ""), StorageError),
    (Signal("GenericError", 400, "OutOfRangeInput", ""), StorageError),
    (Signal("GenericError", 413, "RequestBodyTooLarge", ""), StorageError),
]


@pytest.mark.parametrize(("signal", "kind"), SIGNALS, ids=lambda value: str(value)[:60])
def test_each_signal_of_azure_stands_for_one_error(signal: Signal, kind: type[StorageError]) -> None:
    error = from_signal(AZURE_ERRORS, signal, "store data/ab", reason=signal.text)
    assert type(error) is kind
    assert error.message.startswith("Cannot store data/ab: ")
    assert error.message.isprintable()

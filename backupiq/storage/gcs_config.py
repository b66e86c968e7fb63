"""How a Google Cloud Storage destination is described, and where its credentials come from."""

from __future__ import annotations

import ipaddress
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from pydantic import SecretStr

from backupiq.errors import ConfigurationError, MissingConfigurationError, UnknownDestinationError, ValidationError
from backupiq.storage.names import check_classes, check_destination_prefix, check_endpoint, classes_by_kind, split_url
from backupiq.storage.transfer_options import DEFAULT_TRANSFER, TransferOptions
from backupiq.telemetry import register_secret

if TYPE_CHECKING:
    from google.auth.credentials import Credentials

OPTIONS = ("auth", "endpoint", "location", "project", "storage_class")
CLASSES = ("STANDARD", "NEARLINE", "COLDLINE", "ARCHIVE")
GOOGLE = "https://storage.googleapis.com"
ANONYMOUS = "anonymous"
"""The token sent where a test server wants any."""

_BUCKET = re.compile(r"(?!goog)[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]\Z")
_METADATA = re.compile(r"[a-z0-9][a-z0-9_-]{0,99}\Z")
_NO_CREDENTIALS = (
    "There are no Google credentials. Set GOOGLE_APPLICATION_CREDENTIALS to the file of a service account, sign in "
    "with `gcloud auth application-default login`, or, on a machine of Google Cloud, add ?auth=machine to the "
    "destination."
)


@dataclass(frozen=True, slots=True)
class GcsConfig:
    """A bucket, a prefix in it, and one source of credentials.

    ``service_account``: the JSON text of a service account's key. ``credentials_file``: a file as application default
    credentials keep it (a service account, a person who signed in, workload identity). ``access_token``: a token that
    is not renewed. ``credentials``: an object of google-auth. ``machine``: the account of this machine of Google Cloud,
    from its metadata server; it is asked in no other case.
    ``storage_class`` by kind of object; ``metadata`` for every object. ``project`` and ``bucket_location`` are for a
    bucket that has to be made. ``ca_bundle``: PEM file of more certificates. Keys of one's own in Cloud KMS are set as
    the bucket's default: obstore cannot name one. Raises errors that name the field and repeat no value.
    """

    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    project: str | None = None
    bucket_location: str | None = None
    service_account: SecretStr | None = field(default=None, repr=False)
    credentials_file: str | None = None
    access_token: SecretStr | None = field(default=None, repr=False)
    credentials: Credentials | None = field(default=None, repr=False, compare=False)
    machine: bool = False
    storage_class: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    ca_bundle: str | None = None
    transfer: TransferOptions = DEFAULT_TRANSFER

    def __post_init__(self) -> None:
        if not _BUCKET.match(self.bucket):
            raise UnknownDestinationError(
                "The bucket's name is not one that Google Cloud Storage takes: 3 to 222 lower-case letters, digits, "
                "dots, dashes and underscores."
            )
        object.__setattr__(self, "prefix", check_destination_prefix(self.prefix))
        if self.endpoint is not None:
            object.__setattr__(self, "endpoint", check_endpoint(self.endpoint))
            if not keeps_secrets(self.endpoint):
                raise ValidationError(
                    "The option endpoint must begin with https://: tokens would travel unencrypted. Plain http:// is "
                    "for servers on this machine."
                )
        object.__setattr__(self, "storage_class", _checked_classes(self.storage_class))
        if not all(_METADATA.match(name) and value.isprintable() for name, value in self.metadata.items()):
            raise ValidationError("A name in metadata is not made of lower-case letters, digits, - and _.")
        self._check_credentials()

    def _check_credentials(self) -> None:
        sources = (self.service_account, self.credentials_file, self.access_token, self.credentials)
        given = sum(source is not None for source in sources) + self.machine
        if given == 0:
            raise MissingConfigurationError(_NO_CREDENTIALS)
        if given > 1:
            raise ConfigurationError("Several Google credentials were given for one destination. Give one of them.")
        if self.service_account is not None:
            service_account_info(self.service_account.get_secret_value())
        if self.access_token is not None and self.access_token.get_secret_value() != ANONYMOUS:
            register_secret(self.access_token.get_secret_value())

    @property
    def base_url(self) -> str:
        """The service's address, without a slash at its end."""
        return self.endpoint or GOOGLE

    @property
    def location(self) -> str:
        """The destination as people write it."""
        return f"gs://{self.bucket}/{self.prefix}".rstrip("/")

    @classmethod
    def from_url(cls, url: str, env: Mapping[str, str]) -> Self:
        """A destination from ``gs://bucket/prefix?endpoint=...&project=...&location=...&storage_class=...&auth=...``.

        Credentials come from the environment, the first that is there: GOOGLE_APPLICATION_CREDENTIALS,
        CLOUDSDK_AUTH_ACCESS_TOKEN, what ``gcloud auth application-default login`` left. ``auth=machine`` takes the
        account of this machine of Google Cloud, ``auth=none`` none (a test server; so does one on this machine when
        the first two are not set). Raises ``UnknownDestinationError``, ``ValidationError`` or
        ``MissingConfigurationError``; no message repeats a value.
        """
        parts = split_url(url, "gs", OPTIONS)
        options = parts.options
        endpoint = options.get("endpoint") or _emulator(env)
        found = _credentials(options.get("auth"), endpoint, env)
        return cls(
            bucket=parts.container,
            prefix=parts.prefix,
            endpoint=endpoint,
            project=options.get("project") or env.get("GOOGLE_CLOUD_PROJECT") or env.get("CLOUDSDK_CORE_PROJECT"),
            bucket_location=options.get("location"),
            credentials_file=found if isinstance(found, str) else None,
            access_token=found if isinstance(found, SecretStr) else None,
            machine=found is True,
            storage_class=classes_by_kind(options["storage_class"]) if "storage_class" in options else {},
            ca_bundle=env.get("REQUESTS_CA_BUNDLE") or None,
        )


def service_account_info(text: str) -> dict[str, str]:
    """The fields of a service account's key; ``ConfigurationError`` when it is none. Its secret is registered."""
    try:
        info = json.loads(text)
    except ValueError:
        info = None
    needed = ("client_email", "private_key", "token_uri")
    if not isinstance(info, dict) or not all(isinstance(info.get(name), str) for name in needed):
        raise ConfigurationError(
            "The service account is not the JSON that Google gives for its key. Download the key again and give the "
            "whole file."
        )
    register_secret(info["private_key"])
    return info


def is_loopback(endpoint: str) -> bool:
    """Whether an address is one of this machine's own."""
    host = urlsplit(endpoint).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def keeps_secrets(endpoint: str) -> bool:
    """Whether what is sent to an address can be read by nobody else: it is encrypted or stays on this machine."""
    return endpoint.startswith("https:") or is_loopback(endpoint)


def _checked_classes(classes: Mapping[str, str]) -> dict[str, str]:
    check_classes(classes)
    checked = {kind: name.upper() for kind, name in classes.items()}
    if not set(checked.values()) <= set(CLASSES):
        raise ValidationError(f"The option storage_class takes one of {', '.join(CLASSES)} for Google Cloud Storage.")
    return checked


def _emulator(env: Mapping[str, str]) -> str | None:
    address = env.get("STORAGE_EMULATOR_HOST")
    return address if not address or "://" in address else f"http://{address}"


def _credentials(auth: str | None, endpoint: str | None, env: Mapping[str, str]) -> str | SecretStr | bool | None:
    """A file's path, a token, or True for the machine's own account."""
    if auth == "machine":
        return True
    if auth == "none":
        return SecretStr(ANONYMOUS)
    if auth is not None:
        raise ValidationError("The option auth must be machine or none; leave it out for the usual credentials.")
    if env.get("GOOGLE_APPLICATION_CREDENTIALS"):
        return env["GOOGLE_APPLICATION_CREDENTIALS"]
    if env.get("CLOUDSDK_AUTH_ACCESS_TOKEN"):
        return SecretStr(env["CLOUDSDK_AUTH_ACCESS_TOKEN"])
    if endpoint is not None and is_loopback(check_endpoint(endpoint)):
        return SecretStr(ANONYMOUS)
    signed_in = _gcloud_file(env)
    return signed_in if os.path.isfile(signed_in) else None


def _gcloud_file(env: Mapping[str, str]) -> str:
    if env.get("CLOUDSDK_CONFIG"):
        folder = env["CLOUDSDK_CONFIG"]
    elif os.name == "nt":
        folder = os.path.join(env.get("APPDATA", ""), "gcloud")
    else:
        folder = os.path.join(env.get("HOME") or os.path.expanduser("~"), ".config", "gcloud")
    return os.path.join(folder, "application_default_credentials.json")

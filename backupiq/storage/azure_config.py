"""How an Azure Blob Storage destination is described, and where its credentials come from."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, urlsplit

from pydantic import SecretStr

from backupiq.errors import ConfigurationError, MissingConfigurationError, UnknownDestinationError, ValidationError
from backupiq.storage.names import check_classes, check_destination_prefix, check_endpoint, classes_by_kind, split_url
from backupiq.storage.transfer_options import DEFAULT_TRANSFER, TransferOptions
from backupiq.telemetry import register_secret

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential

OPTIONS = ("account", "auth", "endpoint", "storage_class")
TIERS = ("Hot", "Cool", "Cold", "Archive")
PUBLIC_SUFFIX = "core.windows.net"
EMULATOR_ACCOUNT = "devstoreaccount1"
EMULATOR_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Azure's emulator has one account with this key, which Microsoft publishes: it is no secret."""

_CONTAINER = re.compile(r"(?=.{3,63}\Z)[a-z0-9]+(?:-[a-z0-9]+)*\Z")
_ACCOUNT = re.compile(r"[a-z0-9]{3,24}\Z")
_METADATA = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}\Z")
_NO_CREDENTIALS = (
    "There are no credentials for Azure. Set AZURE_STORAGE_CONNECTION_STRING, or the account (AZURE_STORAGE_ACCOUNT or "
    "?account=...) with AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN, or AZURE_TENANT_ID, AZURE_CLIENT_ID and "
    "AZURE_CLIENT_SECRET; or add ?auth=default to sign in as `az login` or this machine does."
)


@dataclass(frozen=True, slots=True)
class AzureConfig:
    """A container, a prefix in it, its storage account, and one kind of credentials.

    ``account`` or ``endpoint`` (the account's Blob address, such as https://NAME.blob.core.windows.net) has to be
    given. Credentials: ``account_key`` (base64), ``sas_token``, a service principal (``tenant_id``, ``client_id``,
    ``client_secret``; ``authority`` where it is not the public cloud's), ``credential`` (a token credential of
    azure-identity), or ``default_credential``: what azure-identity finds on its own, `az login` and managed identities
    among it. ``storage_class``: access tiers by kind of object. ``metadata`` for every object. ``ca_bundle``: PEM file
    of more certificates. Raises errors that name the field and repeat no value.
    """

    container: str
    prefix: str = ""
    account: str | None = None
    endpoint: str | None = None
    account_key: SecretStr | None = field(default=None, repr=False)
    sas_token: SecretStr | None = field(default=None, repr=False)
    tenant_id: str | None = None
    client_id: str | None = None
    client_secret: SecretStr | None = field(default=None, repr=False)
    authority: str | None = None
    credential: TokenCredential | None = field(default=None, repr=False, compare=False)
    default_credential: bool = False
    storage_class: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    ca_bundle: str | None = None
    transfer: TransferOptions = DEFAULT_TRANSFER

    def __post_init__(self) -> None:
        if not _CONTAINER.match(self.container):
            raise UnknownDestinationError(
                "The container's name is not one that Azure takes: 3 to 63 lower-case letters, digits and single "
                "dashes between them."
            )
        object.__setattr__(self, "prefix", check_destination_prefix(self.prefix))
        if self.endpoint is not None:
            object.__setattr__(self, "endpoint", check_endpoint(self.endpoint))
        account = self.account or (account_of(self.endpoint) if self.endpoint else None)
        if account is None:
            raise MissingConfigurationError(
                "The Azure storage account is not given. Set AZURE_STORAGE_ACCOUNT or add ?account=... to the "
                "destination."
            )
        if not _ACCOUNT.match(account):
            raise ValidationError("The option account is not an account's name: 3 to 24 lower-case letters and digits.")
        object.__setattr__(self, "account", account)
        object.__setattr__(self, "storage_class", _checked_tiers(self.storage_class))
        if not all(_METADATA.match(name) and value.isprintable() for name, value in self.metadata.items()):
            raise ValidationError("A name in metadata is not made of letters, digits and _.")
        self._check_credentials()

    def _check_credentials(self) -> None:
        for secret in (self.account_key, self.sas_token, self.client_secret):
            if secret is not None and secret.get_secret_value() != EMULATOR_KEY:
                register_secret(secret.get_secret_value())
        principal = (self.tenant_id, self.client_id, self.client_secret)
        if any(principal) and not all(principal):
            raise ConfigurationError(
                "An Azure service principal needs a tenant id, a client id and a client secret; one of them is missing."
            )
        kinds = (self.account_key, self.sas_token, self.client_secret, self.credential)
        given = sum(kind is not None for kind in kinds) + self.default_credential
        if given == 0:
            raise MissingConfigurationError(_NO_CREDENTIALS)
        if given > 1:
            raise ConfigurationError("Several kinds of credentials were given for one Azure destination. Give one.")
        if self.account_key is not None and not _is_base64(self.account_key.get_secret_value()):
            raise ConfigurationError("The Azure account key is not one: it must be base64. Copy it again, all of it.")
        if self.sas_token is not None:
            token = self.sas_token.get_secret_value().strip().removeprefix("?")
            if "sig" not in parse_qs(token):
                raise ConfigurationError("The Azure SAS token is not one: it holds no signature. Copy it again.")
            object.__setattr__(self, "sas_token", SecretStr(token))
            register_secret(parse_qs(token)["sig"][0])
        if self.account_key is None and not _keeps_secrets(self.service_url):
            raise ValidationError(
                "The option endpoint must begin with https://: tokens would travel unencrypted. Plain http:// is for "
                "servers on this machine, or with an account key."
            )

    @property
    def location(self) -> str:
        """The destination as people write it."""
        return f"az://{self.container}/{self.prefix}".rstrip("/")

    @property
    def service_url(self) -> str:
        """The account's address for blobs, without a slash at its end."""
        return self.endpoint or f"https://{self.account}.blob.{PUBLIC_SUFFIX}"

    @property
    def sas_expires(self) -> datetime | None:
        """When the SAS token ends (UTC); None when there is none or it does not say."""
        said = parse_qs(self.sas_token.get_secret_value()).get("se") if self.sas_token is not None else None
        try:
            ends = datetime.fromisoformat(said[0]) if said else None
        except ValueError:
            return None
        return ends.replace(tzinfo=UTC) if ends is not None and ends.tzinfo is None else ends

    @classmethod
    def from_url(cls, url: str, env: Mapping[str, str]) -> Self:
        """A destination from ``az://container/prefix?account=...&endpoint=...&storage_class=...&auth=default``.

        Credentials come from the environment, the first that is there: AZURE_STORAGE_CONNECTION_STRING,
        AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN, AZURE_CLIENT_SECRET with AZURE_TENANT_ID and AZURE_CLIENT_ID;
        ``auth=default`` takes what azure-identity finds instead. Raises ``UnknownDestinationError``,
        ``ValidationError``, ``ConfigurationError`` or ``MissingConfigurationError``; no message repeats a value.
        """
        parts = split_url(url, "az", OPTIONS)
        options = parts.options
        if options.get("auth", "default") != "default":
            raise ValidationError("The option auth must be default; leave it out for credentials in the environment.")
        found = {"default_credential": True} if "auth" in options else _credentials(env)
        account = found.get("account") or env.get("AZURE_STORAGE_ACCOUNT") or env.get("AZURE_STORAGE_ACCOUNT_NAME")
        endpoint = found.get("endpoint") or env.get("AZURE_STORAGE_SERVICE_ENDPOINT")
        if "account" in options and options["account"] != account:
            account, endpoint = options["account"], None
        if "endpoint" in options:
            endpoint = options["endpoint"]
            account = options.get("account") or account_of(check_endpoint(endpoint)) or account
        return cls(
            container=parts.container,
            prefix=parts.prefix,
            storage_class=classes_by_kind(options["storage_class"]) if "storage_class" in options else {},
            ca_bundle=env.get("REQUESTS_CA_BUNDLE") or None,
            **(found | {"account": account or None, "endpoint": endpoint or None}),
        )

    @classmethod
    def from_connection_string(cls, container: str, text: str, **more: Any) -> Self:
        """A destination with the account and credentials of a connection string; ``more`` are other fields.

        Raises ``ConfigurationError`` when the string cannot be used.
        """
        return cls(container=container, **(read_connection_string(text) | more))


def read_connection_string(text: str) -> dict[str, Any]:
    """The fields of `AzureConfig` that a connection string gives: account, endpoint, account_key, sas_token.

    The form is Azure's own, ``Name=value`` joined by semicolons; ``UseDevelopmentStorage=true`` stands for the emulator
    on this machine. Raises ``ConfigurationError`` that repeats nothing of it.
    """
    pairs = [part.partition("=") for part in text.strip().split(";") if part.strip()]
    given = {name.strip().lower(): value.strip() for name, _, value in pairs}
    if len(given) != len(pairs) or not all(given.values()):
        raise ConfigurationError("The Azure connection string is not Name=value;Name=value... Copy it again.")
    if given.get("usedevelopmentstorage", "").lower() == "true":
        server = given.get("developmentstorageproxyuri", "http://127.0.0.1").rstrip("/")
        endpoint = f"{server}:10000/{EMULATOR_ACCOUNT}"
        return {"account": EMULATOR_ACCOUNT, "endpoint": endpoint, "account_key": SecretStr(EMULATOR_KEY)}
    account = given.get("accountname")
    endpoint = given.get("blobendpoint", "")
    if not endpoint and account:
        scheme = given.get("defaultendpointsprotocol", "https").lower()
        endpoint = f"{scheme}://{account}.blob.{given.get('endpointsuffix', PUBLIC_SUFFIX)}"
    if not endpoint:
        raise ConfigurationError("The Azure connection string names no account (AccountName or BlobEndpoint).")
    fields: dict[str, Any] = {"endpoint": endpoint.rstrip("/")}
    if account:
        fields["account"] = account
    if "accountkey" in given:
        fields["account_key"] = SecretStr(given["accountkey"])
    elif "sharedaccesssignature" in given:
        fields["sas_token"] = SecretStr(given["sharedaccesssignature"])
    else:
        raise ConfigurationError(
            "The Azure connection string holds no credentials (AccountKey or SharedAccessSignature)."
        )
    return fields


def account_of(endpoint: str) -> str | None:
    """The account that an address of blobs names: in its host, or first in its path where the host is none of Azure."""
    parts = urlsplit(endpoint)
    host = parts.hostname or ""
    if ".blob." in host:
        return host.partition(".")[0]
    return parts.path.strip("/").partition("/")[0] or None


def _credentials(env: Mapping[str, str]) -> dict[str, Any]:
    if env.get("AZURE_STORAGE_CONNECTION_STRING"):
        return read_connection_string(env["AZURE_STORAGE_CONNECTION_STRING"])
    for name in ("AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_ACCESS_KEY"):
        if env.get(name):
            return {"account_key": SecretStr(env[name])}
    for name in ("AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_SAS_KEY"):
        if env.get(name):
            return {"sas_token": SecretStr(env[name])}
    if env.get("AZURE_CLIENT_SECRET"):
        return {
            "tenant_id": env.get("AZURE_TENANT_ID") or None,
            "client_id": env.get("AZURE_CLIENT_ID") or None,
            "client_secret": SecretStr(env["AZURE_CLIENT_SECRET"]),
            "authority": env.get("AZURE_AUTHORITY_HOST") or None,
        }
    return {}


def _checked_tiers(tiers: Mapping[str, str]) -> dict[str, str]:
    check_classes(tiers)
    checked = {kind: name.capitalize() for kind, name in tiers.items()}
    if not set(checked.values()) <= set(TIERS):
        raise ValidationError(f"The option storage_class takes one of {', '.join(TIERS)} for Azure.")
    if any(name == "Archive" for kind, name in checked.items() if kind != "data"):
        raise ValidationError(
            "The option storage_class takes Archive for packs only (data): nothing can read an archived blob until it "
            "is brought back, and every run reads the others."
        )
    return checked


def _is_base64(text: str) -> bool:
    try:
        return bool(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        return False


def _keeps_secrets(endpoint: str) -> bool:
    host = urlsplit(endpoint).hostname or ""
    if endpoint.startswith("https:") or host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

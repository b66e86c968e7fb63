"""What obstore cannot do for Azure: sign in through azure-identity, make containers.

Every function blocks and may be called from any thread; every call is bounded by short timeouts.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from backupiq.errors import (
    ConfigurationError,
    MissingConfigurationError,
    StorageConnectionError,
    StorageTimeoutError,
)
from backupiq.storage.azure_config import AzureConfig
from backupiq.storage.azure_errors import AZURE_ERRORS
from backupiq.storage.objecterrors import Signal, from_signal

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential
    from azure.storage.blob import ContainerClient
    from obstore.store import AzureBearerToken, AzureCredential

SCOPE = "https://storage.azure.com/.default"
UNAUTHENTICATED = "UnauthenticatedError"
"""What obstore calls it when no token could be had."""
CONNECT_SECONDS = 5
ANSWER_SECONDS = 10


def missing_library() -> MissingConfigurationError:
    """The error for a machine without Azure's libraries."""
    return MissingConfigurationError(
        'This needs Azure\'s libraries, which are not installed. Run: pip install "backupiq[azure]"'
    )


def credential_provider(config: AzureConfig) -> Callable[[], AzureCredential]:
    """What obstore calls for credentials: the key or SAS token itself, or a token of azure-identity.

    obstore is never left to search on its own: it would mix in the environment's and call the metadata address.
    """
    key, sas = config.account_key, config.sas_token
    if key is not None:
        return lambda: {"access_key": key.get_secret_value(), "expires_at": None}
    if sas is not None:
        return lambda: {"sas_token": sas.get_secret_value(), "expires_at": None}
    return Tokens(open_credential(config))


def open_credential(config: AzureConfig) -> TokenCredential:
    """The token credential that the configuration names; nothing is contacted.

    ``MissingConfigurationError`` without the libraries, ``ConfigurationError`` for values that cannot be used.
    """
    if config.credential is not None:
        return config.credential
    try:
        from azure.identity import ClientSecretCredential, DefaultAzureCredential
    except ImportError:
        raise missing_library() from None
    options: dict[str, Any] = {
        "connection_timeout": CONNECT_SECONDS,
        "read_timeout": ANSWER_SECONDS,
        "retry_total": 2,
    }
    if config.ca_bundle:
        options["connection_verify"] = config.ca_bundle
    if config.authority:
        options["authority"] = config.authority
    if config.client_secret is None:
        return DefaultAzureCredential(**options)
    if config.authority and config.authority.startswith(("https://127.0.0.1", "https://localhost")):
        options["disable_instance_discovery"] = True  # a server on this machine is none that Microsoft lists
    try:
        return ClientSecretCredential(
            config.tenant_id or "", config.client_id or "", config.client_secret.get_secret_value(), **options
        )
    except ValueError:
        raise ConfigurationError(
            "The Azure service principal cannot be used. Check tenant id, client id and AZURE_AUTHORITY_HOST."
        ) from None


class Tokens:
    """What obstore calls, from threads of its own, when it needs a token; one request for one at a time."""

    def __init__(self, credential: TokenCredential) -> None:
        self._credential = credential
        self._lock = threading.Lock()

    def __call__(self) -> AzureBearerToken:
        """A valid token. Raises azure-core's errors, which obstore carries to the caller as text."""
        with self._lock:
            token = self._credential.get_token(SCOPE)
        return {"token": token.token, "expires_at": datetime.fromtimestamp(token.expires_on, UTC)}


def container_of(config: AzureConfig) -> ContainerClient:
    """A client of Azure's SDK for the container, with timeouts of seconds and no retries."""
    try:
        from azure.core.credentials import AzureNamedKeyCredential, AzureSasCredential
        from azure.storage.blob import ContainerClient
    except ImportError:
        raise missing_library() from None
    credential: AzureNamedKeyCredential | AzureSasCredential | TokenCredential
    if config.account_key is not None:
        credential = AzureNamedKeyCredential(config.account or "", config.account_key.get_secret_value())
    elif config.sas_token is not None:
        credential = AzureSasCredential(config.sas_token.get_secret_value())
    else:
        credential = open_credential(config)
    options: dict[str, Any] = {"connection_verify": config.ca_bundle} if config.ca_bundle else {}
    return ContainerClient(
        config.service_url,
        config.container,
        credential=credential,
        retry_total=0,  # it would wait 15 seconds before its first
        connection_timeout=CONNECT_SECONDS,
        read_timeout=ANSWER_SECONDS,
        **options,
    )


def create_container(config: AzureConfig) -> None:
    """Make the container, closed to the public; it may be there already."""
    from azure.core.exceptions import ResourceExistsError

    with azure_errors(f"create the container {config.container}"), container_of(config) as client:
        try:
            client.create_container()
        except ResourceExistsError as error:
            if error.error_code != "ContainerAlreadyExists":  # type: ignore[attr-defined]
                raise


@contextlib.contextmanager
def azure_errors(doing: str) -> Iterator[None]:
    """Turn what Azure's libraries raise inside the block into the storage error it stands for."""
    try:
        from azure.core import exceptions as raised
    except ImportError:
        raise missing_library() from None
    try:
        yield
    except raised.ClientAuthenticationError as error:
        if error.status_code is not None:
            raise _from_answer(error, doing) from None
        signal = Signal(UNAUTHENTICATED, None, None, f"credential provider: {error}".lower())
        raise from_signal(AZURE_ERRORS, signal, doing, reason=str(error)) from None
    except raised.HttpResponseError as error:
        raise _from_answer(error, doing) from None
    except (raised.ServiceRequestTimeoutError, raised.ServiceResponseTimeoutError):
        raise StorageTimeoutError(f"Cannot {doing}: no answer in time. {StorageTimeoutError.hint}") from None
    except raised.AzureError as error:
        raise StorageConnectionError(
            f"Cannot {doing}: it cannot be reached. {StorageConnectionError.hint}", reason=type(error).__name__
        ) from None


def _from_answer(error: Any, doing: str) -> Exception:
    code = getattr(error, "error_code", None)
    named = str(getattr(code, "value", code)) if code else None
    signal = Signal(type(error).__name__, error.status_code, named, str(error).lower())
    headers = getattr(error.response, "headers", None) or {}
    after = str(headers.get("Retry-After", ""))
    details = {"retry_after": float(after)} if after.isascii() and after.isdigit() else {}
    return from_signal(AZURE_ERRORS, signal, doing, reason=str(error), **details)

"""Google credentials: opened with google-auth, handed to obstore as tokens and to Google's SDK as they are."""

from __future__ import annotations

import functools
import os
import threading
import warnings
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from backupiq.errors import ConfigurationError, MissingConfigurationError
from backupiq.storage.gcs_config import GcsConfig, service_account_info
from backupiq.telemetry import register_secret

if TYPE_CHECKING:
    from google.auth.credentials import Credentials
    from obstore.store import GCSCredential

SCOPES = ("https://www.googleapis.com/auth/devstorage.full_control",)
TOKEN_SECONDS = 30
"""How long a token server may take to answer."""
MAX_FILE_BYTES = 256 * 1024


def missing_library() -> MissingConfigurationError:
    """The error for a machine without Google's libraries."""
    return MissingConfigurationError(
        'Google Cloud Storage needs libraries that are not installed. Run: pip install "backupiq[gcs]"'
    )


def open_credentials(config: GcsConfig) -> Credentials:
    """The credentials that the configuration names, as google-auth knows them; nothing is contacted.

    Raises ``MissingConfigurationError`` without the libraries, ``ConfigurationError`` for a file that cannot be used.
    """
    try:
        import google.auth.transport.requests  # noqa: F401 - what tokens are fetched with
        from google.auth import compute_engine
        from google.oauth2.credentials import Credentials as UserCredentials
    except ImportError:
        raise missing_library() from None
    if config.credentials is not None:
        return _scoped(config.credentials)
    if config.access_token is not None:
        return UserCredentials(token=config.access_token.get_secret_value())  # type: ignore[no-untyped-call]
    if config.machine:
        return compute_engine.Credentials(scopes=SCOPES)  # type: ignore[no-untyped-call]
    if config.service_account is not None:
        return _from_service_account(config.service_account.get_secret_value())
    return _from_file(os.path.expanduser(config.credentials_file or ""))


def _from_service_account(text: str) -> Credentials:
    from google.oauth2 import service_account

    try:
        # A token signed by ourselves needs no token server, which is one thing less that can fail.
        return service_account.Credentials.from_service_account_info(  # type: ignore[no-untyped-call, no-any-return]
            service_account_info(text), scopes=SCOPES, always_use_jwt_access=True
        )
    except ValueError:
        raise ConfigurationError(
            "The private key of the Google service account cannot be read. Download its key again."
        ) from None


def _from_file(path: str) -> Credentials:
    import google.auth
    from google.auth.exceptions import GoogleAuthError

    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(MAX_FILE_BYTES)
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "it is not text"
        raise ConfigurationError(
            f"The file of Google credentials cannot be read: {reason}. Correct GOOGLE_APPLICATION_CREDENTIALS.",
            path=path,
        ) from None
    if '"service_account"' in text:
        return _from_service_account(text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it advises loaders of one kind each; a person's file may be of any
            found, _ = google.auth.load_credentials_from_file(path, scopes=SCOPES)  # type: ignore[no-untyped-call]
    except (GoogleAuthError, ValueError, KeyError, TypeError):
        raise ConfigurationError(
            "The file of Google credentials is not one that Google's libraries understand. Sign in again with "
            "`gcloud auth application-default login`, or give a service account's key.",
            path=path,
        ) from None
    return _scoped(found)


def _scoped(credentials: Credentials) -> Credentials:
    from google.auth.credentials import with_scopes_if_required

    return with_scopes_if_required(credentials, SCOPES)  # type: ignore[no-untyped-call, no-any-return]


class Tokens:
    """What obstore calls, from threads of its own, when it needs a token; one renewal at a time.

    Invariant: a token that is still valid is handed out again, never renewed.
    """

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._lock = threading.Lock()

    def __call__(self) -> GCSCredential:
        """A valid token. Raises google-auth's errors, which obstore carries to the caller as text."""
        from google.auth.transport.requests import Request

        with self._lock:
            if not self._credentials.valid:
                request = functools.partial(Request(), timeout=TOKEN_SECONDS)
                self._credentials.refresh(request)  # type: ignore[no-untyped-call]
                register_secret(str(self._credentials.token))
            expiry: datetime | None = self._credentials.expiry
            return {"token": str(self._credentials.token), "expires_at": expiry.replace(tzinfo=UTC) if expiry else None}

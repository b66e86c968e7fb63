"""What obstore cannot do for Google Cloud Storage: make buckets, end unfinished multipart uploads.

Every function blocks and may be called from any thread; every call is bounded by short timeouts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from xml.etree import ElementTree

from backupiq.errors import (
    MissingConfigurationError,
    StorageAuthenticationError,
    StorageConnectionError,
    StorageError,
    StoragePermissionError,
    StorageTimeoutError,
)
from backupiq.storage.gcs_auth import missing_library, open_credentials
from backupiq.storage.gcs_config import ANONYMOUS, GcsConfig
from backupiq.storage.gcs_errors import GCS_ERRORS
from backupiq.storage.objecterrors import Signal, from_signal, read_signal

if TYPE_CHECKING:
    from google.auth.transport.requests import AuthorizedSession

TIMEOUT_SECONDS = (5.0, 10.0)
"""To connect, and to wait for an answer."""
MAX_PAGES = 100
"""Of 1,000 unfinished uploads each; what is left is for the next sweep."""


def session_of(config: GcsConfig) -> AuthorizedSession:
    """An HTTP session of google-auth that carries the destination's credentials."""
    credentials = open_credentials(config)
    try:
        from google.auth.transport.requests import AuthorizedSession
    except ImportError:
        raise missing_library() from None
    session = AuthorizedSession(credentials, refresh_timeout=int(sum(TIMEOUT_SECONDS)))  # type: ignore[no-untyped-call]
    if config.ca_bundle:
        session.verify = config.ca_bundle
    return session


def create_bucket(config: GcsConfig) -> None:
    """Make the bucket, closed to the public; it may be there already.

    ``MissingConfigurationError`` without a project, ``StoragePermissionError`` when the name belongs to somebody else.
    """
    try:
        from google.api_core.exceptions import Conflict
        from google.cloud.storage import Client  # type: ignore[import-untyped]
    except ImportError:
        raise missing_library() from None
    with google_errors(f"create the bucket {config.bucket}"), session_of(config) as session:
        project = config.project or getattr(session.credentials, "project_id", None)
        if not project and config.access_token and config.access_token.get_secret_value() == ANONYMOUS:
            project = ANONYMOUS
        if not project:
            raise MissingConfigurationError(
                f"The bucket {config.bucket} is not there, and to create it a Google Cloud project is needed. Set "
                "GOOGLE_CLOUD_PROJECT or add ?project=... to the destination."
            )
        client = Client(
            project=project,
            credentials=session.credentials,
            _http=session,
            client_options={"api_endpoint": config.base_url},
        )
        bucket = client.bucket(config.bucket)
        bucket.iam_configuration.uniform_bucket_level_access_enabled = True
        bucket.iam_configuration.public_access_prevention = "enforced"
        try:
            client.create_bucket(bucket, location=config.bucket_location, timeout=TIMEOUT_SECONDS, retry=None)
        except Conflict:
            _check_owner(client, config)


def _check_owner(client: Any, config: GcsConfig) -> None:
    try:
        with google_errors(f"use the bucket {config.bucket}"):
            next(iter(client.list_blobs(config.bucket, max_results=1, timeout=TIMEOUT_SECONDS, retry=None)), None)
    except StoragePermissionError as error:
        raise StoragePermissionError(
            f"The bucket {config.bucket} belongs to somebody else, or this account may not use it: names of buckets "
            "are shared by all. Choose another name.",
            **error.details,
        ) from None


def abort_uploads(
    session: AuthorizedSession,
    config: GcsConfig,
    prefix: str,
    *,
    exact: bool = False,
    before: datetime | None = None,
) -> int:
    """End unfinished multipart uploads whose name begins with ``prefix`` (or is it), begun before a time; their number.

    Google's SDK has no call for it; the two requests go through google-auth's own session.
    """
    count = 0
    bucket = f"{config.base_url}/{config.bucket}"
    with google_errors(f"remove unfinished uploads at {config.location}"):
        for name, upload, began in _uploads(session, bucket, prefix):
            if (exact and name != prefix) or (before is not None and began >= before):
                continue
            address = f"{bucket}/{quote(name, safe='/~')}"
            answer = session.delete(address, params={"uploadId": upload}, timeout=TIMEOUT_SECONDS)
            if answer.status_code != 404:  # its own program was faster
                _check(answer, "remove an unfinished upload")
                count += 1
    return count


def _uploads(session: AuthorizedSession, bucket: str, prefix: str) -> Iterator[tuple[str, str, datetime]]:
    asked = {"uploads": "", "prefix": prefix}
    for _ in range(MAX_PAGES):
        answer = session.get(bucket, params=asked, timeout=TIMEOUT_SECONDS)
        _check(answer, "list unfinished uploads")
        try:
            # expat bounds what entities may grow to, and the answer comes from the storage service itself.
            listing = ElementTree.fromstring(answer.content)  # noqa: S314
            for upload in listing.iterfind("{*}Upload"):
                began = datetime.fromisoformat(upload.findtext("{*}Initiated", ""))
                yield upload.findtext("{*}Key", ""), upload.findtext("{*}UploadId", ""), began
        except (ElementTree.ParseError, ValueError):
            raise StorageError("The destination's list of unfinished uploads cannot be understood.") from None
        if listing.findtext("{*}IsTruncated") != "true":
            return
        asked["key-marker"] = listing.findtext("{*}NextKeyMarker", "")
        asked["upload-id-marker"] = listing.findtext("{*}NextUploadIdMarker", "")


def _check(answer: Any, doing: str) -> None:
    if answer.status_code >= 300:
        said = answer.text[:2000]
        code = read_signal(ValueError(said)).code
        signal = Signal("HTTPError", answer.status_code, code, said.lower())
        raise from_signal(GCS_ERRORS, signal, doing, reason=said, **retry_after(answer))


def retry_after(answer: Any) -> dict[str, float]:
    """``retry_after`` in seconds, for an error's details, when the answer says so."""
    said = str(getattr(answer, "headers", {}).get("Retry-After", ""))
    return {"retry_after": float(said)} if said.isascii() and said.isdigit() else {}


@contextlib.contextmanager
def google_errors(doing: str) -> Iterator[None]:
    """Turn what Google's libraries raise inside the block into the storage error it stands for."""
    try:
        import requests
        from google.api_core.exceptions import GoogleAPICallError
        from google.auth.exceptions import GoogleAuthError, TransportError
    except ImportError:
        raise missing_library() from None
    try:
        yield
    except GoogleAPICallError as error:
        reasons = [str(item["reason"]) for item in error.errors or () if isinstance(item, dict) and "reason" in item]
        status = int(error.code) if error.code is not None else None
        signal = Signal(type(error).__name__, status, next(iter(reasons), None), str(error).lower())
        raise from_signal(GCS_ERRORS, signal, doing, reason=str(error), **retry_after(error.response)) from None
    except (requests.Timeout, TimeoutError):
        raise StorageTimeoutError(f"Cannot {doing}: no answer in time. {StorageTimeoutError.hint}") from None
    except (requests.RequestException, TransportError) as error:
        raise StorageConnectionError(
            f"Cannot {doing}: it cannot be reached. {StorageConnectionError.hint}", reason=type(error).__name__
        ) from None
    except GoogleAuthError as error:
        raise StorageAuthenticationError(
            f"Cannot {doing}: Google gives no token for the credentials. {StorageAuthenticationError.hint}",
            reason=type(error).__name__,
        ) from None

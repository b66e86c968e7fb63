"""The table from obstore's exceptions to ours: every signal that was measured, in obstore's own words."""

from __future__ import annotations

import pytest
from obstore import exceptions as raised

from backupiq.errors import (
    StorageAuthenticationError,
    StorageConflictError,
    StorageConnectionError,
    StorageError,
    StorageNeedsThawError,
    StorageNotFoundError,
    StoragePermissionError,
    StorageQuotaError,
    StorageThrottledError,
    StorageTimeoutError,
    StorageUnsupportedError,
    ValidationError,
)
from backupiq.storage.objecterrors import read_signal, store_errors, translate
from backupiq.storage.s3_errors import S3_ERRORS


def answer(status: int, code: str | None = None) -> str:
    """What obstore says of a server's answer."""
    body = f'<?xml version="1.0"?>\n<Error><Code>{code}</Code><Message>m</Message></Error>' if code else ""
    return (
        "Generic S3 error: Error performing PUT http://127.0.0.1:1/b/k in 1ms, after 2 retries, max_retries: 2, "
        f"retry_timeout: 60s - Server returned non-2xx status code: {status} Reason: {body}\n\nDebug source:\n"
    )


def transport(kind: str) -> str:
    return (
        "Generic S3 error: Error performing GET http://127.0.0.1:1/b/k in 2s, after 1 retries, max_retries: 1, "
        f"retry_timeout: 5s  - HTTP error: error sending request\n\nDebug source: ... HttpError {{ kind: {kind},"
    )


GENERIC = raised.GenericError
SIGNALS: list[tuple[Exception, type[StorageError]]] = [
    # retryable
    (GENERIC(answer(408)), StorageTimeoutError),
    (GENERIC(answer(500, "InternalError")), StorageConnectionError),
    (GENERIC(answer(502)), StorageConnectionError),
    (GENERIC(answer(503)), StorageConnectionError),
    (GENERIC(answer(504)), StorageTimeoutError),
    (GENERIC(answer(400, "RequestTimeout")), StorageTimeoutError),
    (GENERIC(transport("Connect")), StorageConnectionError),
    (GENERIC(transport("Interrupted")), StorageConnectionError),
    (GENERIC(transport("Timeout")), StorageTimeoutError),
    (GENERIC("Generic S3 error: HTTP error: request or response body error"), StorageConnectionError),
    # throttled
    (GENERIC(answer(429)), StorageThrottledError),
    (GENERIC(answer(429, "TooManyRequests")), StorageThrottledError),
    (GENERIC(answer(503, "SlowDown")), StorageThrottledError),
    (GENERIC(answer(503, "ServerBusy")), StorageThrottledError),
    # credentials
    (raised.UnauthenticatedError(answer(401)), StorageAuthenticationError),
    (GENERIC(answer(401)), StorageAuthenticationError),
    (GENERIC(answer(400, "ExpiredToken")), StorageAuthenticationError),
    (raised.PermissionDeniedError(answer(403, "ExpiredToken")), StorageAuthenticationError),
    (raised.PermissionDeniedError(answer(403, "SignatureDoesNotMatch")), StorageAuthenticationError),
    (raised.PermissionDeniedError(answer(403, "InvalidAccessKeyId")), StorageAuthenticationError),
    (raised.PermissionDeniedError(answer(403, "RequestTimeTooSkewed")), StorageAuthenticationError),
    (
        raised.UnauthenticatedError("The operation lacked valid credentials: RuntimeError: x"),
        StorageAuthenticationError,
    ),
    (raised.PermissionDeniedError(answer(403, "AccessDenied")), StoragePermissionError),
    (raised.PermissionDeniedError(answer(403)), StoragePermissionError),
    # not found
    (FileNotFoundError(answer(404, "NoSuchKey")), StorageNotFoundError),
    (FileNotFoundError(answer(404)), StorageNotFoundError),
    (FileNotFoundError(answer(404, "NoSuchBucket")), StorageNotFoundError),
    (GENERIC(answer(404, "NoSuchBucket")), StorageNotFoundError),
    # conflict
    (raised.PreconditionError(answer(412, "PreconditionFailed")), StorageConflictError),
    (raised.AlreadyExistsError(answer(412)), StorageConflictError),
    (GENERIC(answer(409, "ConditionalRequestConflict")), StorageConflictError),
    # archive
    (raised.PermissionDeniedError(answer(403, "InvalidObjectState")), StorageNeedsThawError),
    # full
    (GENERIC(answer(507)), StorageQuotaError),
    (GENERIC(answer(403, "QuotaExceeded")), StorageQuotaError),
    (GENERIC(answer(507, "XMinioStorageFull")), StorageQuotaError),
    # never retried
    (GENERIC(answer(301, "PermanentRedirect")), StorageError),
    (GENERIC("Generic S3 error: Received redirect without LOCATION, this normally indicates ..."), StorageError),
    (GENERIC(answer(400, "InvalidArgument")), StorageError),
    (GENERIC(answer(413)), StorageError),
    (GENERIC(answer(416, "InvalidRange")), StorageError),
    (GENERIC(answer(501, "NotImplemented")), StorageUnsupportedError),
    (raised.NotSupportedError("Operation not supported"), StorageUnsupportedError),
    (GENERIC("something never seen before"), StorageError),
    # changed or lost on the way: sent again, it arrives
    (GENERIC(answer(400, "BadDigest")), StorageConnectionError),
    (GENERIC(answer(400, "XAmzContentSHA256Mismatch")), StorageConnectionError),
    (FileNotFoundError(answer(404, "NoSuchUpload")), StorageConnectionError),
]


@pytest.mark.parametrize(("error", "kind"), SIGNALS, ids=lambda value: getattr(value, "__name__", str(value)[-60:]))
def test_every_signal_becomes_the_error_it_stands_for(error: Exception, kind: type[StorageError]) -> None:
    found = translate(S3_ERRORS, error, "store data/ab/x", key="data/ab/x")
    assert type(found) is kind
    assert found.details["key"] == "data/ab/x"
    assert found.details["raised"] == type(error).__name__
    assert found.message.startswith("Cannot store data/ab/x: ")
    assert found.message.isprintable()
    assert "127.0.0.1" not in found.message


def test_the_message_says_what_was_answered_and_what_to_do() -> None:
    expired = translate(S3_ERRORS, GENERIC(answer(400, "ExpiredToken")), "list")
    assert expired.message == (
        "Cannot list: the destination answered 400 ExpiredToken. The credentials have expired. Renew them."
    )
    region = translate(S3_ERRORS, GENERIC(answer(301, "PermanentRedirect")), "list")
    assert "?region=" in region.message
    assert "backupiq init" in translate(S3_ERRORS, GENERIC(answer(404, "NoSuchBucket")), "list").message


def test_a_number_in_a_name_is_no_status() -> None:
    assert read_signal(FileNotFoundError("Object at location data/404/status code 500 not found")).status is None
    assert read_signal(GENERIC('Azure: Error { status: 409, code: "x" }')).status == 409
    assert read_signal(GENERIC('{"error": {"code": "BlobArchived"}}')).code == "BlobArchived"


def test_neither_the_error_nor_its_traceback_holds_a_signed_address() -> None:
    signed = GENERIC("Error performing GET https://x.blob/c/k?sv=2024&sig=Zm9vYmFyc2VjcmV0c2lnbmF0dXJl in 1s")
    with pytest.raises(StorageError) as caught, store_errors(S3_ERRORS, "read x"):
        raise signed
    assert "Zm9vYmFy" not in str(caught.value.to_dict())
    assert caught.value.__suppress_context__


def test_a_name_that_obstore_refuses_is_no_error_of_the_destination() -> None:
    with pytest.raises(ValidationError), store_errors(S3_ERRORS, "read x"):
        raise ValueError('Could not parse path: Path "a//b" contained empty path segment')


def test_our_own_errors_pass_unchanged() -> None:
    mine = StorageQuotaError("mine")
    with pytest.raises(StorageQuotaError) as caught, store_errors(S3_ERRORS, "read x"):
        raise mine
    assert caught.value is mine

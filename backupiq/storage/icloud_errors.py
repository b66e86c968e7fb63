"""From the exceptions of pyicloud and requests to ours, by one table of HTTP status codes.

Their texts are never shown: pyicloud's hold whole answers of Apple's servers, with personal data in them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import requests
import urllib3.exceptions
from pyicloud import exceptions as apple  # type: ignore[import-untyped]

from backupiq.errors import (
    StorageAuthenticationError,
    StorageConnectionError,
    StorageError,
    StorageNotFoundError,
    StoragePermissionError,
    StorageQuotaError,
    StorageThrottledError,
    StorageTimeoutError,
)

RELOGIN_STATUSES = frozenset({401, 421, 450})
"""What iCloud answers when its session has ended; a new sign-in with the kept trust may be all it takes."""

_SIGN_IN = "Sign in again: backupiq providers login {login}"
_OUTAGE = "iCloud has trouble; run the command again later."

_BY_STATUS: dict[int, tuple[type[StorageError], str]] = {
    # rclone's authors have seen 400 on requests that were fine and succeeded when sent again.
    400: (StorageConnectionError, _OUTAGE),
    401: (StorageAuthenticationError, _SIGN_IN),
    403: (StoragePermissionError, "Check at icloud.com that this Apple ID may use iCloud Drive."),
    404: (StorageNotFoundError, StorageNotFoundError.hint),
    408: (StorageTimeoutError, StorageTimeoutError.hint),
    409: (StorageConnectionError, _OUTAGE),
    410: (StorageError, "Apple has withdrawn what this version uses; bring pyicloud up to date."),
    421: (StorageAuthenticationError, _SIGN_IN),
    423: (
        StoragePermissionError,
        "Advanced Data Protection keeps programs out: allow Access iCloud Data on the Web in the settings of your "
        "iPhone or Mac, or use the local folder that a Mac syncs as the destination.",
    ),
    429: (StorageThrottledError, StorageThrottledError.hint),
    450: (StorageAuthenticationError, _SIGN_IN),
    500: (StorageConnectionError, _OUTAGE),
    502: (StorageConnectionError, _OUTAGE),
    503: (StorageThrottledError, StorageThrottledError.hint),
    504: (StorageTimeoutError, _OUTAGE),
    507: (StorageQuotaError, "iCloud is full. " + StorageQuotaError.hint),
}

_BY_CLASS: tuple[tuple[type[Exception], type[StorageError], str], ...] = (
    (
        apple.PyiCloudAccountLockedException,
        StorageAuthenticationError,
        "Apple has locked this Apple ID; unlock it at iforgot.apple.com. Then: backupiq providers login {login}",
    ),
    (
        apple.PyiCloudAcceptTermsException,
        StorageAuthenticationError,
        "Apple has new terms; sign in at icloud.com, accept them, and run the command again.",
    ),
    (
        apple.PyiCloudServiceNotActivatedException,
        StoragePermissionError,
        "iCloud Drive is not set up for this Apple ID; sign in at icloud.com once and open iCloud Drive.",
    ),
    (
        apple.PyiCloudPCSTimeoutException,
        StorageAuthenticationError,
        "Nobody allowed the access on a device of this Apple ID in time; run the command again and allow it there.",
    ),
    (apple.PyiCloudSecurityKeyException, StorageAuthenticationError, "Plug in the security key, touch it, try again."),
    (apple.PyiCloudServiceUnavailable, StorageConnectionError, _OUTAGE),
)

_SESSION_ENDED = (
    apple.PyiCloud2FARequiredException,
    apple.PyiCloud2SARequiredException,
    apple.PyiCloudAuthRequiredException,
    apple.PyiCloudNoStoredPasswordAvailableException,
    apple.PyiCloudPasswordException,
    apple.TokenException,
    apple.PyiCloudTrustedDevicePromptException,
    apple.PyiCloudTrustedDeviceVerificationException,
)


@contextlib.contextmanager
def icloud_errors(doing: str, login: str, *, parsing: bool = True) -> Iterator[None]:
    """Turn what pyicloud and requests raise inside the block into our errors.

    ``doing`` completes the sentence "Cannot ..."; ``login`` is the destination as `backupiq providers login` takes it.
    With ``parsing``, answers that are not what pyicloud expects (a portal's web page, a field that is not there) count
    as trouble on the way, which may pass.
    """
    try:
        yield
    except (apple.PyiCloudException, requests.RequestException) as error:
        raise from_icloud(error, doing, login) from None
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        if not parsing:
            raise
        raise StorageConnectionError(
            f"Cannot {doing}: the answer was not understood. {_OUTAGE}", cause=type(error).__name__
        ) from None


def from_icloud(error: Exception, doing: str, login: str) -> StorageError:
    """The error to raise for one of pyicloud's or requests'."""
    cause = error.__cause__ or error.__context__
    if isinstance(error, apple.PyiCloudFailedLoginException) and not isinstance(
        error, apple.PyiCloudAccountLockedException
    ):
        # An outage while signing in is wrapped as a failed login; only Apple's own refusal is one.
        if isinstance(cause, apple.PyiCloudAPIResponseException | requests.RequestException):
            mapped = from_icloud(cause, doing, login)
            if mapped.retryable or isinstance(mapped, StorageQuotaError) or mapped.details.get("status") == 423:
                return mapped
        return _made(
            StorageAuthenticationError,
            doing,
            f"Apple refused the Apple ID or its password; correct them. {_SIGN_IN}",
            login,
            error,
        )
    for kind, ours, hint in _BY_CLASS:
        if isinstance(error, kind):
            return _made(ours, doing, hint, login, error)
    if isinstance(error, _SESSION_ENDED):
        return _made(StorageAuthenticationError, doing, _SIGN_IN, login, error)
    response = response_of(error)
    status = _status(error, response)
    if status in _BY_STATUS:
        kind_, hint = _BY_STATUS[status]
        return _made(kind_, doing, hint, login, error, status=status, **_retry_after(response))
    if getattr(error, "code", None) == "ACCESS_DENIED":
        return _made(StorageThrottledError, doing, StorageThrottledError.hint, login, error)
    if status is not None and status >= 500:
        return _made(StorageConnectionError, doing, _OUTAGE, login, error, status=status)
    if _timed_out(error) or (cause is not None and _timed_out(cause)):
        return _made(StorageTimeoutError, doing, StorageTimeoutError.hint, login, error)
    if status is None or isinstance(error, requests.RequestException):
        return _made(StorageConnectionError, doing, StorageConnectionError.hint, login, error)
    return _made(StorageError, doing, StorageError.hint, login, error, status=status)


def status_error(status: int, doing: str, login: str, response: requests.Response | None = None) -> StorageError:
    """The error for a status that iCloud gave outside of an exception."""
    kind, hint = _BY_STATUS.get(status, (StorageConnectionError, _OUTAGE))
    return _made(kind, doing, hint, login, None, status=status, **_retry_after(response))


def sign_in_again(doing: str, login: str) -> StorageAuthenticationError:
    """The error for a session that needs a person: a code or a security key."""
    return StorageAuthenticationError(
        f"Cannot {doing}: iCloud does not trust this machine, or no longer. {_SIGN_IN.format(login=login)}",
        trust_ended=True,
    )


def response_of(error: BaseException) -> requests.Response | None:
    """The HTTP answer that an exception or its cause carries, if any."""
    for candidate in (error, error.__cause__, error.__context__):
        response = getattr(candidate, "response", None)
        if isinstance(response, requests.Response):
            return response
    return None


def _made(
    kind: type[StorageError], doing: str, hint: str, login: str, error: BaseException | None, **details: Any
) -> StorageError:
    status = f" (status {details['status']})" if "status" in details else ""
    if error is not None:
        details["cause"] = type(error).__name__
    return kind(f"Cannot {doing}{status}. {hint.format(login=login)}", **details)


def _status(error: BaseException, response: requests.Response | None) -> int | None:
    code = getattr(error, "code", None)
    if isinstance(code, str) and code.isdecimal():
        code = int(code)
    if isinstance(code, int) and 300 <= code < 600:
        return code
    if response is not None and response.status_code >= 300:
        return response.status_code
    return None


def _retry_after(response: requests.Response | None) -> dict[str, float]:
    value = response.headers.get("Retry-After", "") if response is not None else ""
    return {"retry_after": float(value)} if value.isdecimal() else {}


def _timed_out(error: BaseException) -> bool:
    if isinstance(error, requests.Timeout | TimeoutError):
        return True
    # requests wraps a time-out while a body is read as a plain connection error.
    inner = error.args[0] if isinstance(error, requests.RequestException) and error.args else None
    return isinstance(inner, urllib3.exceptions.TimeoutError)

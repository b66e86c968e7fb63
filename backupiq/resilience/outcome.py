"""What the end of a call says about its destination."""

from __future__ import annotations

import enum

from backupiq.errors import (
    RetryExhaustedError,
    StorageConflictError,
    StorageCorruptError,
    StorageError,
    StorageNeedsThawError,
    StorageNotFoundError,
    StorageUnsupportedError,
)


class Outcome(enum.Enum):
    """How a call ended, as far as the health of its destination is concerned."""

    SUCCESS = "success"
    FAILURE = "failure"
    """It may pass: the breaker opens when there are too many in a while."""
    PERMANENT = "permanent"
    """It does not pass by itself (credentials, rights, quota): the breaker opens at once."""
    IGNORED = "ignored"
    """It says nothing about the destination's health."""


# They speak of one object or one request; a destination that answers with them works. A damaged object is for healing,
# which has to reach the destination that holds it.
_OF_ONE_OBJECT = (
    StorageNotFoundError,
    StorageConflictError,
    StorageCorruptError,
    StorageNeedsThawError,
    StorageUnsupportedError,
)
_WORST_FIRST = (Outcome.PERMANENT, Outcome.FAILURE, Outcome.IGNORED)


def classify(error: BaseException | None) -> Outcome:
    """What the error that ended a call says about the destination; ``None`` is success.

    Only errors of destinations count. Errors of this machine (full disk), of the repository (wrong password), of
    settings, cancellation and errors that are not ours say nothing. Of a group of errors the worst counts.
    """
    if error is None:
        return Outcome.SUCCESS
    if isinstance(error, BaseExceptionGroup):
        found = {classify(inner) for inner in error.exceptions}
        return next(outcome for outcome in _WORST_FIRST if outcome in found)
    if isinstance(error, RetryExhaustedError):
        return classify(error.__cause__) if error.__cause__ is not None else Outcome.FAILURE
    if not isinstance(error, StorageError) or isinstance(error, _OF_ONE_OBJECT):
        return Outcome.IGNORED
    return Outcome.FAILURE if error.retryable else Outcome.PERMANENT

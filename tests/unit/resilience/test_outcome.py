"""Which errors speak against a destination."""

from __future__ import annotations

import asyncio

import pytest

from backupiq.errors import (
    BackupIQError,
    CircuitOpenError,
    RetryExhaustedError,
    StorageAuthenticationError,
    StorageConnectionError,
    StorageError,
    StorageNotFoundError,
    StoragePermissionError,
    StorageQuotaError,
    StorageThrottledError,
    StorageTimeoutError,
    all_errors,
)
from backupiq.resilience.breaker import Outcome, classify

FAILURES = {StorageConnectionError, StorageTimeoutError, StorageThrottledError}
PERMANENT = {StorageError, StorageAuthenticationError, StoragePermissionError, StorageQuotaError}


def test_the_end_without_an_error_is_success() -> None:
    assert classify(None) is Outcome.SUCCESS


@pytest.mark.parametrize("kind", all_errors(), ids=lambda kind: kind.__name__)
def test_only_errors_of_the_destination_as_a_whole_count(kind: type[BackupIQError]) -> None:
    wanted = {**dict.fromkeys(FAILURES, Outcome.FAILURE), **dict.fromkeys(PERMANENT, Outcome.PERMANENT)}
    if kind is RetryExhaustedError:
        assert classify(kind()) is Outcome.FAILURE
    else:
        assert classify(kind()) is wanted.get(kind, Outcome.IGNORED)


@pytest.mark.parametrize(
    "error",
    [asyncio.CancelledError(), KeyboardInterrupt(), MemoryError(), OSError(28, "No space left"), TypeError("a bug")],
    ids=repr,
)
def test_cancelling_and_what_is_not_ours_never_counts(error: BaseException) -> None:
    assert classify(error) is Outcome.IGNORED


def test_tries_that_are_used_up_count_as_their_last_error() -> None:
    error = RetryExhaustedError()
    error.__cause__ = StorageAuthenticationError()
    assert classify(error) is Outcome.PERMANENT
    error.__cause__ = StorageNotFoundError()
    assert classify(error) is Outcome.IGNORED


def test_of_several_errors_at_once_the_worst_counts() -> None:
    group = ExceptionGroup("", [StorageNotFoundError(), ExceptionGroup("", [StorageConnectionError()])])
    assert classify(group) is Outcome.FAILURE
    assert classify(ExceptionGroup("", [group, StorageQuotaError()])) is Outcome.PERMANENT
    assert classify(BaseExceptionGroup("", [asyncio.CancelledError(), CircuitOpenError()])) is Outcome.IGNORED

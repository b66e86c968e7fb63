"""From obstore's exceptions to ours: one table per provider, read from top to bottom, the first row that fits decides.

obstore's exceptions carry no status and no code, only text; `read_signal` takes out of it what can be relied upon. The
text itself is never shown: it holds addresses with their query, which may be signed.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from obstore.exceptions import BaseError

from backupiq.errors import (
    StorageAuthenticationError,
    StorageConflictError,
    StorageConnectionError,
    StorageError,
    StorageNotFoundError,
    StoragePermissionError,
    StorageQuotaError,
    StorageThrottledError,
    StorageTimeoutError,
    StorageUnsupportedError,
    ValidationError,
)
from backupiq.telemetry import redact_text
from backupiq.telemetry.text import printable

_STATUS = re.compile(r"status code: (\d{3})|\(code: (\d{3})|\bstatus: (\d{3})\b")
_CODE = re.compile(r"<Code>\s*([\w.]{1,80})\s*</Code>|\"code\"\s*:\s*\"(\w{1,80})\"")
REASON_LENGTH = 500


@dataclass(frozen=True, slots=True)
class Signal:
    """What an exception tells: its class's name, HTTP status, the code the server gave, its text in lower case."""

    raised: str
    status: int | None
    code: str | None
    text: str


@dataclass(frozen=True, slots=True)
class Rule:
    """One row: the error for every signal that fits each of the columns given. An empty column fits anything.

    ``hint`` replaces the error's own, where this signal tells what to do more exactly.
    """

    error: type[StorageError]
    codes: frozenset[str] = frozenset()
    statuses: frozenset[int] = frozenset()
    raised: frozenset[str] = frozenset()
    texts: tuple[str, ...] = ()
    hint: str | None = None

    def fits(self, signal: Signal) -> bool:
        return (
            (not self.codes or signal.code in self.codes)
            and (not self.statuses or signal.status in self.statuses)
            and (not self.raised or signal.raised in self.raised)
            and (not self.texts or any(text in signal.text for text in self.texts))
        )


def rule(
    error: type[StorageError],
    *,
    codes: str = "",
    statuses: tuple[int, ...] = (),
    raised: str = "",
    texts: tuple[str, ...] = (),
    hint: str | None = None,
) -> Rule:
    """A row of a table; ``codes`` and ``raised`` are words separated by blanks."""
    return Rule(error, frozenset(codes.split()), frozenset(statuses), frozenset(raised.split()), texts, hint)


ErrorTable = tuple[Rule, ...]

COMMON: ErrorTable = (
    rule(StorageThrottledError, statuses=(429,)),
    rule(StorageQuotaError, statuses=(507,)),
    rule(StorageTimeoutError, statuses=(408, 504)),
    rule(StorageUnsupportedError, statuses=(501,)),
    rule(StorageConnectionError, statuses=tuple(range(500, 600)), hint="The destination has trouble; try again later."),
    rule(StorageAuthenticationError, statuses=(401,)),
    rule(StorageAuthenticationError, raised="UnauthenticatedError"),
    rule(StoragePermissionError, statuses=(403,)),
    rule(StoragePermissionError, raised="PermissionDeniedError"),
    rule(StorageConflictError, raised="AlreadyExistsError PreconditionError NotModifiedError"),
    rule(StorageConflictError, statuses=(409, 412)),
    rule(StorageNotFoundError, raised="FileNotFoundError NotFoundError"),
    rule(StorageNotFoundError, statuses=(404,)),
    rule(StorageUnsupportedError, raised="NotSupportedError NotImplementedError"),
    rule(StorageError, statuses=tuple(range(300, 500))),
    rule(StorageTimeoutError, texts=("kind: timeout", "timedout", "timed out", "deadline has elapsed")),
    rule(
        StorageConnectionError,
        texts=(
            "error sending request",
            "http error",
            "connection",
            "connect error",
            "dns error",
            "broken pipe",
            "reset by peer",
            "incomplete message",
            "unexpected eof",
            "end of file before message length",
            "error decoding response body",
            "request or response body error",
            "channel closed",
        ),
    ),
)
"""What holds for every provider; a provider's own rows stand before these."""


def read_signal(error: BaseException) -> Signal:
    """What can be relied upon in an exception of obstore."""
    text = str(error)
    status = _STATUS.search(text)
    code = _CODE.search(text)
    return Signal(
        raised=type(error).__name__,
        status=int(next(filter(None, status.groups()))) if status else None,
        code=next(filter(None, code.groups())) if code else None,
        text=text.lower(),
    )


def translate(table: ErrorTable, error: BaseException, doing: str, **details: object) -> StorageError:
    """The error to raise for an exception of obstore; ``doing`` completes the sentence "Cannot ..."."""
    return from_signal(table, read_signal(error), doing, reason=str(error), **details)


def from_signal(table: ErrorTable, signal: Signal, doing: str, *, reason: str, **details: object) -> StorageError:
    """The same for what another library said; ``reason`` is its text, kept without secrets in the details."""
    row = next((row for row in (*table, *COMMON) if row.fits(signal)), None)
    kind = row.error if row else StorageError
    said = " ".join(str(part) for part in (signal.status, signal.code) if part)
    why = f"the destination answered {said}" if said else kind.summary[0].lower() + kind.summary[1:].rstrip(".")
    hint = row.hint if row and row.hint else kind.hint
    return kind(
        f"Cannot {printable(doing)}: {why}. {hint}",
        status=signal.status,
        answer=signal.code,
        raised=signal.raised,
        reason=printable(redact_text(reason[: 4 * REASON_LENGTH]))[:REASON_LENGTH],
        **details,
    )


@contextlib.contextmanager
def store_errors(table: ErrorTable, doing: str, **details: object) -> Iterator[None]:
    """Turn what obstore raises inside the block into the storage error it stands for.

    Nothing but calls of obstore belongs inside: its "not found" is Python's own ``FileNotFoundError``.
    """
    try:
        yield
    except (BaseError, OSError, TimeoutError) as error:
        # Without its cause: the text of it may hold a signed address, and `reason` has it without secrets.
        raise translate(table, error, doing, **details) from None
    except ValueError as error:
        raise ValidationError(
            f"Cannot {printable(doing)}: the name or a setting cannot be used by this destination.",
            reason=printable(redact_text(str(error)))[:REASON_LENGTH],
            **details,
        ) from None

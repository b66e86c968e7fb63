"""Each fault at each kind of destination: what is done, which error it becomes, what a run makes of it.

``tests/faults/test_provider_faults.py`` plays every row against a real server behind the fault proxy and fails when
another error comes. ``python -m tests.faults.faults_table > docs/faults.md`` writes the page; a test compares the two.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum

from backupiq.errors import (
    BackupIQError,
    StorageAuthenticationError,
    StorageConnectionError,
    StorageCorruptError,
    StorageNotFoundError,
    StoragePermissionError,
    StorageQuotaError,
    StorageThrottledError,
    StorageTimeoutError,
)
from backupiq.resilience.outcome import Outcome, classify
from tests.support.fault_rules import Answer, BlackHole, Fault, FlipBit, Reset, Truncate, answer_json, answer_s3

KINDS: Mapping[str, str] = {"s3": "S3", "gcs": "Google", "azure": "Azure", "icloud": "iCloud"}
"""The kinds of destinations, with the headings of their columns."""

RETRY_AFTER = 7
TELL_HOW_LONG = frozenset({"icloud"})
"""Where the wait that a server asks for reaches the error; obstore gives no headers of an answer away."""
CUT_AFTER = 300_000
"""Bytes after which a body is cut, or in which a bit is flipped: in the middle of the objects that are sent."""


class Call(StrEnum):
    """What is being done when the fault happens."""

    UPLOAD = "upload"
    DOWNLOAD = "download"
    OPEN = "open"


@dataclasses.dataclass(frozen=True)
class Row:
    """One fault. ``faults``: what the proxy does, by kind of destination; None where it is arranged without it.

    ``errors``: the error that comes, by kind; None where the call succeeds, and the fault is noticed later.
    """

    name: str
    call: Call
    how: str
    faults: Mapping[str, Fault | None]
    errors: Mapping[str, type[BackupIQError] | None]
    closed: bool = False
    """The port is closed (``refused``), which no rule can say."""


def everywhere(value: Fault | None) -> dict[str, Fault | None]:
    """The same fault at every kind of destination."""
    return dict.fromkeys(KINDS, value)


def always(error: type[BackupIQError]) -> dict[str, type[BackupIQError] | None]:
    """The same error at every kind of destination."""
    return dict.fromkeys(KINDS, error)


def answers(status: int, *headers: tuple[str, str], icloud: int | None = None, **codes: str) -> dict[str, Fault | None]:
    """An error answer, in the words of each maker."""
    worded: dict[str, Fault | None] = {kind: _worded(kind, status, code, *headers) for kind, code in codes.items()}
    said = icloud or status
    worded["icloud"] = answer_json(said, {"reason": "a test", "error_code": str(said)}, *headers)
    return worded


def _worded(kind: str, status: int, code: str, *headers: tuple[str, str]) -> Answer:
    if kind == "azure":
        headers = (*headers, ("x-ms-error-code", code))
    return answer_s3(status, code, *headers)


WAIT = ("Retry-After", str(RETRY_AFTER))

ROWS: Sequence[Row] = (
    Row(
        "connection reset in the middle of an upload",
        Call.UPLOAD,
        f"the connection is reset after {CUT_AFTER // 1000} kB of the body",
        everywhere(Reset(CUT_AFTER)),
        always(StorageConnectionError),
    ),
    Row(
        "black hole",
        Call.UPLOAD,
        "the server takes the request and never answers",
        everywhere(BlackHole()),
        always(StorageTimeoutError),
    ),
    Row(
        "server not there",
        Call.UPLOAD,
        "the port is closed",
        everywhere(None),
        always(StorageConnectionError),
        closed=True,
    ),
    Row(
        "throttled (429)",
        Call.UPLOAD,
        f"429 with `Retry-After: {RETRY_AFTER}`",
        answers(429, WAIT, s3="SlowDown", gcs="TooManyRequests", azure="ServerBusy"),
        always(StorageThrottledError),
    ),
    Row(
        "server error (500)",
        Call.UPLOAD,
        "500 InternalError",
        answers(500, s3="InternalError", gcs="InternalError", azure="InternalError"),
        always(StorageConnectionError),
    ),
    Row(
        "server busy (503)",
        Call.UPLOAD,
        "503, in each maker's words for busy",
        answers(503, WAIT, s3="SlowDown", gcs="ServiceUnavailable", azure="ServerBusy"),
        {**always(StorageThrottledError), "gcs": StorageConnectionError},
    ),
    Row(
        "not allowed (403)",
        Call.UPLOAD,
        "403, in each maker's words for missing rights",
        answers(403, s3="AccessDenied", gcs="AccessDenied", azure="AuthorizationPermissionMismatch"),
        always(StoragePermissionError),
    ),
    Row(
        "expired credentials",
        Call.UPLOAD,
        "S3 400 ExpiredToken, Google 401, Azure 403 AuthenticationFailed, iCloud 421",
        {
            "s3": answer_s3(400, "ExpiredToken"),
            "gcs": answer_s3(401, "InvalidAuthentication"),
            "azure": _worded("azure", 403, "AuthenticationFailed"),
            "icloud": answer_json(421, {"reason": "Authentication required for Account.", "error": 1}),
        },
        always(StorageAuthenticationError),
    ),
    Row(
        "full (507)",
        Call.UPLOAD,
        "507 Insufficient Storage",
        answers(507, s3="QuotaExceeded", gcs="InsufficientStorage", azure="InsufficientStorage"),
        always(StorageQuotaError),
    ),
    Row(
        "bit flipped in an upload",
        Call.UPLOAD,
        "one bit of the body is turned over on its way",
        everywhere(FlipBit(CUT_AFTER, "upload")),
        {"s3": StorageConnectionError, "gcs": None, "azure": None, "icloud": None},
    ),
    Row(
        "connection reset in the middle of a download",
        Call.DOWNLOAD,
        f"the connection is reset after {CUT_AFTER // 1000} kB of the body",
        everywhere(Reset(CUT_AFTER, "download")),
        always(StorageConnectionError),
    ),
    Row(
        "download cut short",
        Call.DOWNLOAD,
        "the connection closes before the announced end",
        everywhere(Truncate(CUT_AFTER)),
        always(StorageConnectionError),
    ),
    Row(
        "download cut short, unnoticeably",
        Call.DOWNLOAD,
        "the body is shorter and its announced length as well",
        everywhere(Truncate(CUT_AFTER, hidden=True)),
        always(StorageCorruptError),
    ),
    Row(
        "bit flipped in a download",
        Call.DOWNLOAD,
        "one bit of the body is turned over on its way",
        everywhere(FlipBit(CUT_AFTER)),
        always(StorageCorruptError),
    ),
    Row(
        "bucket, container or folder missing",
        Call.OPEN,
        "the destination names one that does not exist",
        everywhere(None),
        always(StorageNotFoundError),
    ),
)

_INTRODUCTION = """\
# Faults

What happens when a destination fails, fault by fault. Every cell is a test: a proxy in front of a real server (or, for
iCloud, a server that speaks its protocol) breaks the request in just that way, and the error named here has to come,
nothing may be left half stored, and the same object must be stored or read as soon as the fault is over.

*Again* says whether the call is made again by itself, with the waits of its retry preset; *breaker* what the fault does
to the destination's [circuit breaker](resilience.md). The errors themselves stand in [errors.md](errors.md).

Made by `python -m tests.faults.faults_table > docs/faults.md`; do not edit it by hand.
"""

_HEADINGS: Mapping[Call, str] = {
    Call.UPLOAD: "While storing",
    Call.DOWNLOAD: "While reading",
    Call.OPEN: "While opening",
}

_BREAKER: Mapping[Outcome, str] = {
    Outcome.FAILURE: "counts; opens when there are several",
    Outcome.PERMANENT: "opens at once",
    Outcome.IGNORED: "does not count",
}

_RUNS: Mapping[Call, str] = {
    Call.UPLOAD: """\
A backup goes on with the other destinations, which end up complete. It publishes no snapshot at the one that failed,
says so and ends with exit code 4 (with 1 when it is the only one). The next run sends what is missing there, or
`backupiq heal` does. What an interrupted upload left at the server is removed at once, or by a later run's sweep; on
Azure uncommitted blocks belong to no object and expire by themselves within a week.

How long a server asks to wait (`Retry-After`) is heeded at iCloud; the client library of the others does not tell it,
and the growing waits of the retries serve.

Where a flipped bit is not noticed while storing (-), the object is found to be wrong when it is read: its bytes have to
hash to its name. AWS compares every upload with a hash in its signature; of other S3 servers `?checksum=SHA256` in the
destination's URL asks for it.
""",
    Call.DOWNLOAD: """\
A restore reads the object from the next replica, and says which one answered wrongly. `backupiq heal --read-data` finds
objects whose bytes are wrong at rest and writes them again from a replica that has them right.
""",
    Call.OPEN: """\
A backup leaves the destination out, says so and ends with exit code 4 (with 1 when it is the only one).
`backupiq init --to` makes it.

A first run, which would make the repository, makes none while one of several destinations does not answer (exit code
1): it may hold one already, and two different repositories could never be joined.
""",
}


def render() -> str:
    """The whole page as Markdown."""
    parts = [_INTRODUCTION]
    for call, heading in _HEADINGS.items():
        columns = ("fault", "how it is made", *KINDS.values(), "again", "breaker")
        parts.append(f"\n## {heading}\n\n{_line(columns)}{_line('---' for _ in columns).replace(' ', '')}")
        parts.extend(_cells(row) for row in ROWS if row.call is call)
        parts.append(f"\n{_RUNS[call]}")
    return "".join(parts)


def _cells(row: Row) -> str:
    kinds = [row.errors[kind] for kind in KINDS]
    codes = [f"`{error.code}`" if error else "-" for error in kinds]
    found = [error for error in kinds if error is not None]
    again = sorted({"yes" if error.retryable else "no" for error in found})
    breaker = dict.fromkeys(_BREAKER[classify(error())] for error in found)
    return _line((row.name, row.how, *codes, " / ".join(again), " / ".join(breaker)))


def _line(cells: Sequence[str] | object) -> str:
    return "| " + " | ".join(cells) + " |\n"  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.stdout.write(render())

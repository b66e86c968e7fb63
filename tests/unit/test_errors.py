"""The tree of errors and its table."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import pytest

from backupiq import errors_table
from backupiq.errors import BackupIQError, StorageThrottledError, WrongPasswordError, all_errors

ROOT = Path(__file__).resolve().parents[2]
KINDS = [kind for kind in all_errors() if kind.__module__.startswith("backupiq.")]


def test_the_document_says_what_the_classes_say() -> None:
    assert (ROOT / "docs/errors.md").read_text(encoding="utf-8") == errors_table.render(), (
        "make it anew: python -m backupiq.errors_table > docs/errors.md"
    )


def test_the_table_names_every_class_once() -> None:
    listed = [kind for _, members in errors_table.groups() for kind in members]
    assert len(listed) == len(set(listed))
    assert set(listed) == set(KINDS)
    assert all(members for _, members in errors_table.groups())


def test_every_row_of_the_table_has_seven_cells() -> None:
    rows = [line for line in errors_table.render().splitlines() if line.startswith("|")]
    assert all(len(re.split(r"(?<!\\)\|", row)) == 9 for row in rows)


def test_codes_are_many_and_unique() -> None:
    codes = [kind.code for kind in KINDS]
    assert len(codes) >= 30
    assert len(codes) == len(set(codes))
    assert all(re.fullmatch(r"[a-z_]+(\.[a-z_]+)?", code) for code in codes)


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_explains_itself_in_one_line(kind: type[BackupIQError]) -> None:
    for sentence in (kind.summary, kind.hint):
        assert sentence.isprintable()
        assert sentence.endswith(".")
    assert str(kind()) == f"{kind.summary} {kind.hint}"
    assert 400 <= kind.http_status < 600 or kind.http_status == 207
    assert kind.exit_code in {1, 3, 4, 10, 11, 12, 130}


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_survives_pickling_and_becomes_json(kind: type[BackupIQError]) -> None:
    error = kind("Something happened.", key="data/ab/x", tries=3)
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert type(again) is kind
    assert (str(again), again.details) == ("Something happened.", {"key": "data/ab/x", "tries": 3})
    assert json.loads(json.dumps(again.to_dict())) == {
        "code": kind.code,
        "message": "Something happened.",
        "retryable": kind.retryable,
        "http_status": kind.http_status,
        "exit_code": kind.exit_code,
        "details": {"key": "data/ab/x", "tries": 3},
    }


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_of_a_kind_is_caught_as_its_parent(kind: type[BackupIQError]) -> None:
    parent = kind.__mro__[1]
    with pytest.raises(parent):
        raise kind


def test_only_what_may_pass_by_itself_is_retryable() -> None:
    assert StorageThrottledError.retryable
    assert not WrongPasswordError.retryable
    assert {kind.__name__ for kind in KINDS if kind.retryable} == {
        "TooManyOpenFilesError",
        "StorageConnectionError",
        "StorageTimeoutError",
        "StorageThrottledError",
        "RepositoryLockedError",
        "LockLostError",
        "OrchestrationError",
    }


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        ("run.partial", 3),
        ("run.degraded", 4),
        ("repository.missing", 10),
        ("repository.locked", 11),
        ("repository.wrong_password", 12),
        ("run.cancelled", 130),
    ],
)
def test_the_exit_codes_are_those_of_restic_and_ours(code: str, exit_code: int) -> None:
    assert {kind.code: kind.exit_code for kind in KINDS}[code] == exit_code


def test_the_documented_codes_stay_those_in_the_table() -> None:
    table = errors_table.render()
    assert all(f"| `{kind.code}` |" in table for kind in KINDS)

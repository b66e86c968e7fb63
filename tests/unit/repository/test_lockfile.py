"""Locks: byte-exact, and when their program is gone."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backupiq.errors import RepositoryDamagedError
from backupiq.repository.lockfile import LockFile, decode_lock, encode_lock, is_stale

TIME = "2023-11-14T22:13:20.5+05:45"
FIELDS = {"time": TIME, "exclusive": True, "hostname": "host", "username": "ada", "pid": 42}
MINUTE = 60 * 10**9


def lock(**fields: Any) -> LockFile:
    return LockFile(**FIELDS | fields)


def test_a_lock_is_written_as_restic_writes_it() -> None:
    text = '{"time":"2023-11-14T22:13:20.5+05:45","exclusive":true,"hostname":"host","username":"ada","pid":42'
    assert encode_lock(lock()).decode() == text + "}"
    assert encode_lock(lock(uid=1000, gid=100)).decode() == text + ',"uid":1000,"gid":100}'
    shared = lock(exclusive=False, username="a<b>", uid=2**32 - 1)
    assert b'"exclusive":false' in encode_lock(shared)
    assert decode_lock(encode_lock(shared)) == shared


def alive(pid: int) -> bool:
    return True


def dead(pid: int) -> bool:
    return False


def test_a_lock_is_stale_after_thirty_minutes_wherever_it_was_made() -> None:
    one = lock()
    made = one.time_ns()
    assert not is_stale(one, made + 30 * MINUTE, "elsewhere", alive)
    assert is_stale(one, made + 30 * MINUTE + 1, "elsewhere", alive)
    assert is_stale(one, made + 30 * MINUTE + 1, "host", alive)


def test_a_lock_of_a_dead_process_is_stale_on_its_own_machine_only() -> None:
    one = lock()
    made = one.time_ns()
    assert is_stale(one, made, "host", dead)
    assert not is_stale(one, made, "host", alive)
    assert not is_stale(one, made, "elsewhere", dead)
    asked = []
    is_stale(one, made, "host", lambda pid: bool(asked.append(pid)))  # type: ignore[func-returns-value]
    assert asked == [42]


def test_a_lock_from_the_future_is_not_stale() -> None:
    assert not is_stale(lock(), lock().time_ns() - 90 * MINUTE, "host", alive)


CHANGES = [
    {"time": "then"},
    {"time": "2023-02-30T00:00:00Z"},
    {"exclusive": 1},
    {"pid": "42"},
    {"pid": 2**31},
    {"uid": -1},
    {"hostname": None},
]


@pytest.mark.parametrize("data", [b"", b"{}", b"[" * 100_000, *(json.dumps(FIELDS | one).encode() for one in CHANGES)])
def test_a_damaged_lock_is_refused(data: bytes) -> None:
    with pytest.raises(RepositoryDamagedError):
        decode_lock(data)

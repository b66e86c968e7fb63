"""Lock files: which process uses the repository, and how. Format: restic's design document, "Locks"."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec

from backupiq.errors import RepositoryDamagedError
from backupiq.repository.gojson import decode_json, go_escape, parse_time_ns

STALE_AFTER_NS = 30 * 60 * 1_000_000_000
"""A lock that was not refreshed for this long (nanoseconds) belongs to a program that is gone."""

_Time = Annotated[str, msgspec.Meta(min_length=20, max_length=64)]
_U32 = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF_FFFF)]
_Pid = Annotated[int, msgspec.Meta(ge=-0x8000_0000, le=0x7FFF_FFFF)]


class LockFile(msgspec.Struct, omit_defaults=True, kw_only=True, frozen=True):
    """A lock, its fields in the order of the JSON's keys. ``time`` is the text of its last refresh."""

    time: _Time
    exclusive: bool
    hostname: str
    username: str
    pid: _Pid
    uid: _U32 = 0
    gid: _U32 = 0

    def time_ns(self) -> int:
        """Its last refresh, nanoseconds since 1970. Raises RepositoryDamagedError when the text is not a time."""
        return parse_time_ns(self.time)


_DECODER = msgspec.json.Decoder(LockFile)


def encode_lock(lock: LockFile) -> bytes:
    """The JSON of a lock, as restic would write it; to be put into the envelope."""
    return go_escape(msgspec.json.encode(lock))


def decode_lock(json: bytes) -> LockFile:
    """Read a lock's JSON. Raises RepositoryDamagedError, also for a time that is none."""
    lock = decode_json(_DECODER, json, RepositoryDamagedError, "A lock of the repository")
    lock.time_ns()
    return lock


def is_stale(lock: LockFile, now_ns: int, hostname: str, pid_alive: Callable[[int], bool]) -> bool:
    """Whether the lock's program is gone: not refreshed for 30 minutes, or made here by a process that does not run.

    ``hostname`` is this machine's; ``pid_alive`` is asked only about processes of this machine.
    """
    if now_ns - lock.time_ns() > STALE_AFTER_NS:
        return True
    return lock.hostname == hostname and not pid_alive(lock.pid)

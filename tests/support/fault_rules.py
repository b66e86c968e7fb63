"""The faults that the fault proxy can inject, as values: what goes wrong, in which requests, to which bytes.

Nothing here touches a socket. A `Fault` says what happens, a `Rule` to which requests, and a `Tap` is one body on its
way: it is fed what was received and says what goes on and whether the connection ends there.
"""

from __future__ import annotations

import dataclasses
import json
import re
import threading
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Literal

Direction = Literal["upload", "download"]


class End(StrEnum):
    """How a body ends before its time."""

    RESET = "reset"
    """The connection is torn down (RST) on both sides."""
    CLOSE = "close"
    """The connection is closed (FIN): fewer bytes than were announced."""
    QUIET = "quiet"
    """The message ends as if it had always been that short."""


@dataclasses.dataclass(frozen=True, slots=True)
class Reset:
    """The connection is reset after ``after`` bytes of the body went that way."""

    after: int
    direction: Direction = "upload"


@dataclasses.dataclass(frozen=True, slots=True)
class BlackHole:
    """The request is read and never answered, until the rule is switched off."""


@dataclasses.dataclass(frozen=True, slots=True)
class Slow:
    """Bodies move at that rate in both directions."""

    bytes_per_second: int


@dataclasses.dataclass(frozen=True, slots=True)
class Truncate:
    """The response's body ends after ``after`` bytes; ``hidden``: in a way that the client cannot tell."""

    after: int
    hidden: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class FlipBit:
    """The lowest bit of the byte at ``offset`` of a body is turned over."""

    offset: int = 0
    direction: Direction = "download"


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """The target is not asked: the proxy answers."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


Fault = Reset | BlackHole | Slow | Truncate | FlipBit | Answer


def answer_s3(status: int, code: str, *headers: tuple[str, str]) -> Answer:
    """An error as S3 and its kin (Google's XML API, Azure Blob) word it."""
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>A test.</Message></Error>'
    return Answer(status, body.encode(), (("Content-Type", "application/xml"), *headers))


def answer_json(status: int, document: object, *headers: tuple[str, str]) -> Answer:
    """An error as services that speak JSON word it."""
    return Answer(status, json.dumps(document).encode(), (("Content-Type", "application/json"), *headers))


class Tap:
    """One body on its way in one direction, as a fault changes it. Used by one task."""

    def __init__(self, fault: Fault | None, direction: Direction) -> None:
        self._fault = fault
        self._direction = direction
        self._seen = 0
        self.applied = False
        """Whether the fault has changed anything yet."""

    @property
    def rate(self) -> int | None:
        """Bytes per second, or None for as fast as it goes."""
        return self._fault.bytes_per_second if isinstance(self._fault, Slow) else None

    def feed(self, data: bytes) -> tuple[bytes, End | None]:
        """What goes on of these bytes, and how the body ends after them, if it does."""
        start, self._seen = self._seen, self._seen + len(data)
        match self._fault:
            case Reset(after, direction) if direction == self._direction and self._seen > after:
                return self._cut(data, after - start, End.RESET)
            case Truncate(after, hidden) if self._direction == "download" and self._seen > after:
                return self._cut(data, after - start, End.QUIET if hidden else End.CLOSE)
            case FlipBit(offset, direction) if direction == self._direction and start <= offset < self._seen:
                self.applied = True
                changed = bytearray(data)
                changed[offset - start] ^= 1
                return bytes(changed), None
            case Slow():
                self.applied = self.applied or bool(data)
        return data, None

    def announce(self, content_length: int) -> int:
        """The length to announce for a body of that many bytes."""
        if isinstance(self._fault, Truncate) and self._fault.hidden and self._direction == "download":
            return min(content_length, self._fault.after)
        return content_length

    def _cut(self, data: bytes, keep: int, end: End) -> tuple[bytes, End]:
        self.applied = True
        return data[: max(keep, 0)], end


class Rule:
    """A fault and the requests that it happens to.

    Invariant: of the requests that match, the ones numbered ``nth`` to ``nth + times - 1`` are taken (all from ``nth``
    on without ``times``), whatever the number of threads and connections.
    """

    def __init__(
        self,
        fault: Fault,
        *,
        method: str | None = None,
        path: str | None = None,
        nth: int = 1,
        times: int | None = None,
    ) -> None:
        self.fault = fault
        self._methods = None if method is None else frozenset(method.upper().split("|"))
        self._path = None if path is None else re.compile(path)
        self._nth = nth
        self._last = None if times is None else nth + times - 1
        self._lock = threading.Lock()
        self._matched = 0
        self._applied = 0
        self._is_on = True
        self._on_off: list[Callable[[], None]] = []

    @property
    def applied(self) -> int:
        """How often the fault has really happened."""
        return self._applied

    @property
    def is_on(self) -> bool:
        return self._is_on

    def takes(self, method: str | None, path: str | None) -> bool:
        """Whether this request, which is counted, is one that the fault happens to. A raw connection has neither."""
        if self._methods is not None and (method is None or method.upper() not in self._methods):
            return False
        if self._path is not None and (path is None or self._path.search(path) is None):
            return False
        with self._lock:
            if not self._is_on:
                return False
            self._matched += 1
            return self._matched >= self._nth and (self._last is None or self._matched <= self._last)

    def note(self) -> None:
        """The fault has happened."""
        with self._lock:
            self._applied += 1

    def off(self) -> None:
        """From now on everything passes; requests that a black hole holds are let go."""
        with self._lock:
            self._is_on = False
            waiting, self._on_off = self._on_off, []
        for call in waiting:
            call()

    def when_off(self, call: Callable[[], None]) -> None:
        """Have ``call`` called, from any thread, when the rule is switched off (at once when it is)."""
        with self._lock:
            if self._is_on:
                self._on_off.append(call)
                return
        call()


def choose(rules: Iterable[Rule], method: str | None, path: str | None) -> Rule | None:
    """The first rule that takes the request."""
    return next((rule for rule in rules if rule.takes(method, path)), None)

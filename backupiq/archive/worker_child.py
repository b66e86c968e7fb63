"""The child's side of a helper process (`worker_process`): the pipe, and the loop that answers requests.

Imports little: every helper waits for it.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import signal
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import msgspec

from backupiq.errors import BackupIQError, OutOfMemoryError

Bytes = bytes | bytearray | memoryview

MAX_HEAD = 256 << 20
MAX_BULK = 1 << 30
STOPPED = 128 + signal.SIGTERM
"""The exit code of a helper that a signal ended in good order."""
REQUEST, ANSWER, ERROR, CRASH = range(4)

_FRAME = struct.Struct("<BIQ")  # kind, length of the head, length of the bulk
_MOST_PARTS = 512  # of one writev; systems allow 1,024
_LOOK_EVERY = 0.05


class ErrorHead(msgspec.Struct):
    """The head of an ERROR (class, message and details of ours) or CRASH (class and place of any other)."""

    name: str
    message: str
    details: dict[str, Any]


# --- the pipe --------------------------------------------------------------------------------------------------------


def write_frame(fd: int, kind: int, head: Bytes, parts: Sequence[Bytes]) -> None:
    size = sum(map(len, parts))
    if len(head) > MAX_HEAD or size > MAX_BULK:
        raise ValueError("a message is too large")
    waiting: deque[Bytes] = deque(part for part in (_FRAME.pack(kind, len(head), size), head, *parts) if len(part))
    while waiting:
        batch = [waiting.popleft() for _ in range(min(len(waiting), _MOST_PARTS))]
        written = os.writev(fd, batch)
        for at, part in enumerate(batch):
            if written < len(part):
                rest = memoryview(part)[written:]
                waiting.extendleft(reversed([rest, *batch[at + 1 :]]))
                break
            written -= len(part)


def read_frame(fd: int, buffer: Callable[[int], bytearray]) -> tuple[int, memoryview, memoryview]:
    """Kind, head and bulk; ``buffer`` gives the memory for so many bytes or more. EOFError at the end."""
    first = bytearray(_FRAME.size)
    _read_into(fd, memoryview(first))
    kind, head, bulk = _FRAME.unpack(first)
    if head > MAX_HEAD or bulk > MAX_BULK:
        raise EOFError("not a message")
    view = memoryview(buffer(head + bulk))[: head + bulk]
    _read_into(fd, view)
    return kind, view[:head], view[head:]


def _read_into(fd: int, view: memoryview) -> None:
    at = 0
    while at < len(view):
        got = os.readv(fd, [view[at:]])
        if not got:
            raise EOFError
        at += got


# --- answering -------------------------------------------------------------------------------------------------------


class Child:
    """What the code in a helper may ask about itself."""

    def __init__(self, shared: mmap.mmap | None = None, requests: int = 0) -> None:
        self.shared = shared
        self.signalled = False
        self._stopped = False
        self._waiting = False
        self._looked = 0.0
        self._poll = select.poll()
        self._poll.register(requests, 0)

    def should_stop(self) -> bool:
        """Whether to end after this piece of work: the parent said so, or is gone. Cheap; ask often."""
        now = time.monotonic()
        if not self._stopped and now - self._looked > _LOOK_EVERY:
            self._looked = now
            # Nothing is asked for, so what remains is that the other end of the pipe is closed.
            self._stopped = any(what & (select.POLLHUP | select.POLLERR) for _, what in self._poll.poll(0))
        return self._stopped

    def _on_signal(self, *_: Any) -> None:
        self._stopped = self.signalled = True
        if self._waiting:
            raise _Stopped

    @contextlib.contextmanager
    def _idle(self) -> Iterator[None]:
        """While waiting for a request, a signal ends it at once."""
        self._waiting = True
        try:
            if self._stopped:
                raise _Stopped
            yield
        finally:
            self._waiting = False


class _Stopped(BaseException):
    pass


Handler = Callable[[memoryview, memoryview], tuple[bytes, Sequence[Bytes]]]
"""Answers a request, given its head and bulk, which are valid until it returns, with a head and parts of a bulk."""


def serve(module: str, shared: int) -> NoReturn:
    """Run a helper: its module's ``start_worker(setup, child)`` gives the handler that each request is handed to."""
    import gc
    import importlib

    requests, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)  # what some library prints must not end up between the answers
    child = Child(mmap.mmap(shared, 0) if shared >= 0 else None, requests)
    signal.signal(signal.SIGTERM, child._on_signal)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # a mask is inherited
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    handle: Handler | None = None
    kept = bytearray(1 << 20)

    def buffer(size: int) -> bytearray:
        nonlocal kept
        if len(kept) < size:
            kept = bytearray(size)
        return kept

    try:
        while True:
            with child._idle():
                _, head, bulk = read_frame(requests, buffer)
            if handle is None:
                try:
                    handle = importlib.import_module(module).start_worker(bytes(head), child)
                except Exception as error:  # noqa: BLE001 - the parent raises it
                    write_frame(answers, *_told(error))
                    os._exit(1)
                write_frame(answers, ANSWER, b"", ())
                gc.collect()
                gc.freeze()
                gc.set_threshold(50_000, 20, 20)  # short work that leaves next to no cycles
                continue
            try:
                answer, parts = handle(head, bulk)
            except Exception as error:  # noqa: BLE001 - the parent raises it
                if child.should_stop():
                    break
                write_frame(answers, *_told(error))
            else:
                write_frame(answers, ANSWER, answer, parts)
    except (_Stopped, EOFError, OSError):
        pass
    os._exit(STOPPED if child.signalled else 0)


def _told(error: Exception) -> tuple[int, bytes, tuple[Bytes, ...]]:
    """An error as a message. Of one that is not ours only its class and place are told: its text may hold anything."""
    if isinstance(error, MemoryError):
        error = OutOfMemoryError()
    if isinstance(error, BackupIQError):
        told = ErrorHead(type(error).__name__, error.message, error.details)
        return ERROR, msgspec.msgpack.encode(told, enc_hook=str), ()
    import traceback

    places = [f"{os.path.basename(at.filename)}:{at.lineno}" for at in traceback.extract_tb(error.__traceback__)[-4:]]
    what = type(error).__name__
    if isinstance(error, OSError) and error.errno:
        what = f"{what}, {os.strerror(error.errno)}"
    told = ErrorHead(type(error).__name__, what, {"places": places})
    return CRASH, msgspec.msgpack.encode(told), ()

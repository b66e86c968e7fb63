"""Helper processes: a second interpreter of this program that answers requests, for work that the lock would serialise.

A request and its answer are a head (what the two sides agree on, usually msgpack) and bulk bytes, which travel as they
are. Everything a helper learns comes through its standard input; its command line and environment hold no secret. It
ends when its standard input closes, so it never outlives its parent, however that ended.

`WorkerProcess` is the parent's side. The child's side is a module with ``start_worker(setup, child)``, which returns
the function that answers requests; `worker_child.serve` runs it.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from backupiq.archive.worker_child import (
    ANSWER,
    ERROR,
    REQUEST,
    STOPPED,
    Bytes,
    Child,
    ErrorHead,
    Handler,
    read_frame,
    write_frame,
)
from backupiq.errors import BackupIQError, CancelledRunError, OutOfMemoryError, ResourceError, all_errors

__all__ = [
    "MOST_PROCESSES",
    "Answer",
    "Bytes",
    "Child",
    "Handler",
    "Ticket",
    "WorkerProcess",
    "can_start",
    "processors",
]

MOST_PROCESSES = 4
PIPE_BYTES = 1 << 20
STOP_SECONDS = 10.0
"""How long a helper may take to finish the piece of work it is at before it is killed."""

_ENVIRONMENT = ("LANG", "TMPDIR", "TZ")
_ENVIRONMENT_PREFIXES = ("LC_", "LD_", "DYLD_")
# `backupiq` comes from exactly where the parent has it (also where an import hook found it), all else from the parent's
# path. Nothing of the current folder, the environment or the user's start-up files gets in between.
_BOOTSTRAP = """\
import sys
here, module, shared, sys.path = sys.argv[1], sys.argv[2], int(sys.argv[3]), [sys.argv[1], *sys.argv[4:]]
import backupiq
del sys.path[0]
from backupiq.archive.worker_child import serve
serve(module, shared)
"""


def processors() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def can_start() -> bool:
    """Whether helpers work here: a POSIX system, and a program that an interpreter runs."""
    return os.name == "posix" and bool(sys.executable) and not getattr(sys, "frozen", False)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a helper answered: the head as it made it, and the bulk bytes."""

    head: bytes
    bulk: memoryview


class Ticket:
    """A request that was sent; `WorkerProcess.receive` gives its answer once."""

    __slots__ = ("answer", "taken")

    def __init__(self) -> None:
        self.answer: Answer | BackupIQError | None = None
        self.taken = False


class WorkerProcess:
    """One helper. Any thread may send and receive; the calls block, without the interpreter's lock.

    Invariants: requests are answered in the order sent; whoever waits for an answer reads the answers of others too, so
    a helper that writes is always read as long as each sender also receives. A helper that ends early makes every call
    raise, none hangs. After `stop` it does not run.
    """

    def __init__(self, module: str, setup: bytes, *, shared: int = 0) -> None:
        """Start it; ``module`` is the name of the child's module, ``setup`` what its ``start_worker`` is given.

        ``shared``: so many bytes of memory, zeros at first, are seen by both sides (``self.shared``). Raises
        ResourceError when the system starts no further process.
        """
        self.shared: mmap.mmap | None = None
        memory = -1
        try:
            if shared:
                memory = _shared_memory(shared)
                self.shared = mmap.mmap(memory, shared)
            self._process = subprocess.Popen(
                _command(module, memory),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                pass_fds=(memory,) if shared else (),
                env=_environment(),
                start_new_session=True,  # Ctrl-C is the parent's to deal with
            )
        except OSError as error:
            self._close_shared()
            raise ResourceError(
                f"A helper process cannot be started: {os.strerror(error.errno or 0)}. {ResourceError.hint}"
            ) from error
        finally:
            if memory >= 0:
                os.close(memory)
        assert self._process.stdin is not None  # noqa: S101 - both are pipes
        assert self._process.stdout is not None  # noqa: S101
        self._input = self._process.stdin.fileno()
        self._output = self._process.stdout.fileno()
        _enlarge(self._input)
        _enlarge(self._output)
        self._sending = threading.Lock()
        self._receiving = threading.Lock()
        self._open: deque[Ticket] = deque()
        self._stopping = False
        self._refused: BackupIQError | None = None
        self._first = Ticket()
        try:
            self._send(self._first, setup, ())
        except BaseException:
            self.stop()
            self.close()
            raise

    @property
    def pid(self) -> int:
        """The helper's process id."""
        return self._process.pid

    def wait_ready(self) -> None:
        """Wait until the helper has taken its setup in; raises what went wrong there."""
        self.receive(self._first)

    def ask(self, head: bytes, *parts: Bytes) -> Answer:
        """`send` and `receive`."""
        return self.receive(self.send(head, *parts))

    def send(self, head: bytes, *parts: Bytes) -> Ticket:
        """Send a request whose bulk is ``parts`` one after another. Waits until the helper has taken nearly all in.

        Whoever sends must also `receive`, which tells what went wrong. Raises CancelledRunError after `stop`.
        """
        ticket = Ticket()
        self._send(ticket, head, parts)
        return ticket

    def _send(self, ticket: Ticket, head: bytes, parts: Sequence[Bytes]) -> None:
        with self._sending:
            if self._stopping:
                raise CancelledRunError
            self._open.append(ticket)
            # It has ended: why, says the answer that it may have left behind, or its exit code.
            with contextlib.suppress(BrokenPipeError):
                write_frame(self._input, REQUEST, head, parts)

    def receive(self, ticket: Ticket) -> Answer:
        """The answer to a request.

        Raises the error that the helper raised, of the same class; ResourceError when it has ended, naming the signal,
        CancelledRunError after `stop`.
        """
        if ticket.taken:
            raise ValueError("the answer was received already")
        while ticket.answer is None:
            with self._receiving:
                if ticket.answer is None:
                    self._read_one()
        answer, ticket.answer, ticket.taken = ticket.answer, None, True
        if isinstance(answer, BackupIQError):
            raise answer
        return answer

    def _read_one(self) -> None:
        """Read the next answer for whoever waits for it."""
        try:
            kind, head, bulk = read_frame(self._output, bytearray)
        except (OSError, EOFError) as error:
            raise self._ended() from error
        ticket = self._open.popleft()
        ticket.answer = Answer(bytes(head), bulk) if kind == ANSWER else _error_of(kind, head)
        if ticket is self._first and isinstance(ticket.answer, BackupIQError):
            self._refused = ticket.answer

    def _ended(self) -> BackupIQError:
        """Why there is no helper any more."""
        if self._stopping:
            return CancelledRunError()
        if self._refused is not None:  # it could not begin
            return self._refused
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        return ended_error(self._process.returncode)

    def ask_to_stop(self) -> None:
        """Let the helper end after the piece of work it is at; does not wait. Everything asked of it raises then."""
        self._stopping = True
        self._process.terminate()
        # Should the signal be lost, as before a helper heeds it, the end of its input does the same.
        if self._sending.acquire(blocking=False):
            try:
                self._process.stdin.close()  # type: ignore[union-attr] # it is a pipe
            finally:
                self._sending.release()

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """End it: after the piece of work it is at, or with force after so many seconds. Calling it again is fine.

        Waits no longer than twice that. Then nobody may be sending or receiving; threads that were have been woken.
        """
        self.ask_to_stop()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):  # the system itself may hold it in a call
                self._process.wait(seconds)

    def close(self) -> None:
        """Let go of its pipes and memory, once no thread uses them any more; it must have been stopped."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._close_shared()

    def _close_shared(self) -> None:
        if self.shared is not None:
            self.shared.close()
            self.shared = None


def ended_error(code: int | None) -> BackupIQError:
    """The error for a helper that ended by itself; ``code`` as `subprocess` gives it, negative for a signal.

    SIGTERM is how a service manager ends all processes of a program, so it counts as a cancel.
    """
    if code in (STOPPED, -signal.SIGTERM):
        return CancelledRunError("The run was cancelled: a helper process was asked to end (SIGTERM). Run it again.")
    if code is not None and code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        if name == "SIGKILL":
            return OutOfMemoryError(
                "A helper process was killed (SIGKILL), as the system does when memory runs out. "
                "Free memory and run the command again; what was done completely is kept.",
                signal=name,
            )
        return ResourceError(
            f"A helper process was ended by {name}. Run the command again; what was done completely is kept.",
            signal=name,
        )
    return ResourceError(
        f"A helper process ended too early (exit code {code}). Run the command again; what was done is kept.",
        exit_code=code,
    )


def _command(module: str, memory: int) -> list[str]:
    import backupiq

    here = os.path.dirname(os.path.dirname(os.path.abspath(backupiq.__file__)))
    path = [entry for entry in sys.path if os.path.isabs(entry)]
    flags = ["-I", "-S", "-X", f"utf8={sys.flags.utf8_mode}"]
    if sys.dont_write_bytecode:
        flags.append("-B")
    if sys.pycache_prefix:
        flags += ["-X", f"pycache_prefix={sys.pycache_prefix}"]
    return [sys.executable, *flags, "-c", _BOOTSTRAP, here, module, str(memory), *path]


def _environment() -> dict[str, str]:
    """What a program needs to run, and nothing that may be a secret."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in _ENVIRONMENT or name.startswith(_ENVIRONMENT_PREFIXES)
    }


def _shared_memory(size: int) -> int:
    """A descriptor of so many zero bytes that no folder lists. They are there: writing to them cannot fail."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("backupiq")
    else:
        import tempfile

        with tempfile.TemporaryFile(buffering=0) as file:
            fd = os.dup(file.fileno())
    try:
        os.write(fd, bytes(size))
    except OSError:
        os.close(fd)
        raise
    return fd


def _enlarge(pipe: int) -> None:
    """Fewer switches between the two sides; only Linux has it, and it may refuse."""
    import fcntl

    if hasattr(fcntl, "F_SETPIPE_SZ"):
        with contextlib.suppress(OSError):
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


def rebuilt(name: str, message: str, details: dict[str, Any]) -> BackupIQError:
    """An error of ours from its class's name and its values, as it comes out of a helper."""
    for known in all_errors():
        if known.__name__ == name:
            return known(message, **details)
    return BackupIQError(message, **details)


def _error_of(kind: int, head: memoryview) -> BackupIQError:
    """The error that the helper raised."""
    told = msgspec.msgpack.decode(head, type=ErrorHead)
    if kind == ERROR:
        return rebuilt(told.name, told.message, told.details)
    return BackupIQError(
        f"A helper process failed: {told.message}. {BackupIQError.hint}", error=told.name, **told.details
    )

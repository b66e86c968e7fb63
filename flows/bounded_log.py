"""What a process prints, kept in a file that cannot grow without end."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
from pathlib import Path

MOST_BYTES = 5 * 1024 * 1024
"""The size at which a log file is put aside; with the ones kept a log takes three times as much at most."""
KEPT = 2
PIECE = 64 * 1024
END_SECONDS = 2.0


class BoundedLog:
    """A file that is put aside as ``NAME.1``, ``NAME.2`` when it is full; what is older goes.

    Used by one thread at a time. A disk that takes no more loses lines, never the program that prints them.
    """

    def __init__(self, path: Path, most: int = MOST_BYTES, kept: int = KEPT) -> None:
        self._path, self._most, self._kept = path, most, kept
        self._file = _open(path)
        self._size = os.fstat(self._file).st_size

    def write(self, data: bytes) -> None:
        """Append it."""
        if self._size and self._size + len(data) > self._most:
            self._turn()
        with contextlib.suppress(OSError):
            self._size += os.write(self._file, data)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _turn(self) -> None:
        os.close(self._file)
        for number in range(self._kept, 0, -1):
            older = self._path if number == 1 else _numbered(self._path, number - 1)
            with contextlib.suppress(OSError):
                os.replace(older, _numbered(self._path, number))
        self._file = _open(self._path)
        self._size = os.fstat(self._file).st_size


def print_into(path: Path) -> None:
    """From now on everything this process and the programs it starts print goes to a bounded log.

    One process needs no other one to read its output, and none that dies can take its output away: a pipe that nobody
    reads would end Prefect's server at its first warning.
    """
    log = BoundedLog(path)
    reading, writing = os.pipe()
    for stream in (1, 2):
        os.dup2(writing, stream)
    os.close(writing)
    thread = threading.Thread(target=_copy, args=(reading, log), name="backupiq-log", daemon=True)
    thread.start()
    atexit.register(_finish, thread)


def _copy(reading: int, log: BoundedLog) -> None:
    while piece := os.read(reading, PIECE):
        log.write(piece)
    log.close()


def _finish(thread: threading.Thread) -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    thread.join(END_SECONDS)  # a program it started may still hold the other end


def last_lines(path: Path, count: int = 5) -> list[str]:
    """The last lines of a log; empty when there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - PIECE))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()][-count:]


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

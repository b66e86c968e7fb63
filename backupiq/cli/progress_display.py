"""Progress of long work: a Rich bar with the time left on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from backupiq.cli.output import clean_line, human_bytes, human_seconds, note
from backupiq.progress import ProgressSink, SilentProgress

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

PLAIN_INTERVAL_SECONDS = 10.0


class PlainProgress:
    """Writes a line when a stage begins and at most one every ten seconds while it goes on. Safe from any thread."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._lock = threading.Lock()
        self._stage = "starting"
        self._files = self._bytes = 0
        self._total_files = self._total_bytes = 0
        self._started = self._last_line = clock()

    def stage(self, name: str) -> None:
        """A new stage begins."""
        with self._lock:
            self._stage = name
            self._last_line = self._clock()
            self._write(f"{name} ...")

    def total(self, files: int, bytes_: int) -> None:
        """How much there is to do."""
        with self._lock:
            self._total_files, self._total_bytes = files, bytes_
            self._started = self._clock()
            self._write(f"{files:,} file{'' if files == 1 else 's'}, {human_bytes(bytes_)} to go through")

    def advance(self, files: int, bytes_: int) -> None:
        """That much more is done."""
        with self._lock:
            self._files += files
            self._bytes += bytes_
            now = self._clock()
            if now - self._last_line >= PLAIN_INTERVAL_SECONDS:
                self._last_line = now
                self._write(f"{self._stage}: {self._so_far(now)}")

    def note(self, text: str) -> None:
        """One line that a person should see now."""
        with self._lock:
            self._write(text)

    def _so_far(self, now: float) -> str:
        text = f"{self._files:,} files, {human_bytes(self._bytes)}"
        if not self._total_bytes or not self._bytes:
            return text
        share = min(self._bytes / self._total_bytes, 1.0)
        left = (now - self._started) * (1 - share) / share
        return f"{text} of {human_bytes(self._total_bytes)} ({share:.0%}), about {human_seconds(left)} left"

    def _write(self, text: str) -> None:
        self._stream.write(f"backupiq: {clean_line(text)}\n")
        self._stream.flush()


class RichProgress:
    """Feeds one Rich bar. Rich refreshes on its own clock, so a call here costs a lock and two additions."""

    def __init__(self, bar: Progress, task: TaskID) -> None:
        self._bar = bar
        self._task = task

    def stage(self, name: str) -> None:
        """A new stage begins."""
        self._bar.update(self._task, description=clean_line(name))

    def total(self, files: int, bytes_: int) -> None:
        """How much there is to do; the bar runs by bytes, with one more a file so that empty files move it too."""
        self._bar.update(self._task, total=bytes_ + files, completed=0)

    def advance(self, files: int, bytes_: int) -> None:
        """That much more is done."""
        self._bar.update(self._task, advance=bytes_ + files)

    def note(self, text: str) -> None:
        """One line that a person should see now, above the bar."""
        self._bar.console.print(f"backupiq: {clean_line(text)}", markup=False, highlight=False)


@contextmanager
def show_progress(*, silent: bool) -> Iterator[ProgressSink]:
    """The sink that suits stderr: none when ``silent``, a bar on a terminal, else plain lines."""
    if silent:
        yield _NotesOnly()
        return
    if not sys.stderr.isatty():
        yield PlainProgress(sys.stderr)
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        yield RichProgress(bar, bar.add_task("starting", total=None))


class _NotesOnly(SilentProgress):
    """Silent but for what a person must see."""

    def note(self, text: str) -> None:
        """One line that a person should see now."""
        note(text)

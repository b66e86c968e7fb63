"""The state of one restore that all its workers share."""

from __future__ import annotations

import enum
import itertools
import secrets
import threading
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from backupiq.archive.metadata import RestoreProblem
from backupiq.archive.restore_table import RestorePlan
from backupiq.errors import CancelledRunError

Overwrite = Literal["always", "if-changed", "if-newer", "never"]

MOST_PROBLEMS = 10_000
"""Problems kept for the report; all are counted and told to ``on_problem``."""


class FolderState(enum.IntEnum):
    """What became of a folder."""

    FAILED = 0
    FOUND = 1
    """It stood there already."""
    MADE = 2
    """This run made it, so nothing stands in it that this run did not put there."""


class ItemState(enum.IntEnum):
    """What is to become, or became, of a file."""

    DIRECT = 0
    """To be written under its own name, which must be free."""
    REPLACE = 1
    """To be written under a temporary name and then renamed over what may stand there."""
    SAME = 2
    """Skipped: what stands there is it."""
    KEPT = 3
    """Skipped: what stands there is kept, whatever it is."""
    FAILED = 4
    DONE = 5


@dataclass(slots=True)
class PartialFile:
    """A file of several blobs on its way: its name meanwhile, its identity, where its blobs go, how many lack."""

    folder: int
    name: bytes
    identity: tuple[int, int]
    offsets: array[int]
    size: int
    missing: int


@dataclass(slots=True)
class Counts:
    """What was done so far. ``done`` counts also what was skipped or failed: it reaches the plan's totals."""

    files: int = 0
    bytes: int = 0
    others: int = 0
    hard_links: int = 0
    folders: int = 0
    skipped: int = 0
    failed: int = 0
    files_done: int = 0
    bytes_done: int = 0


def new_token() -> bytes:
    """What the temporary names of one process's restore have in common, and no other's have."""
    return secrets.token_hex(4).encode()


def temporary_prefix(token: bytes) -> bytes:
    """What temporary names with that token begin with."""
    return b".backupiq-restore-%s-" % token


@dataclass(slots=True)
class RestoreRun:
    """Shared by the workers of a restore.

    Invariants: a file's state goes from DIRECT or REPLACE to DONE or FAILED once, under ``lock``; a file of several
    blobs stands in ``partials`` exactly while its unfinished file is on the disk, but for the moment in which the
    worker that took it out finishes or removes it.
    """

    plan: RestorePlan
    target: str
    overwrite: Overwrite
    sparse: bool
    should_stop: Callable[[], bool]
    folders: bytearray
    rows: bytearray
    counts: Counts = field(default_factory=Counts)
    partials: dict[int, PartialFile] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    ended: threading.Event = field(default_factory=threading.Event)
    problem_count: int = 0
    problems: list[RestoreProblem] = field(default_factory=list)
    untold: list[RestoreProblem] = field(default_factory=list)
    token: bytes = field(default_factory=new_token)
    counter: itertools.count[int] = field(default_factory=itertools.count)

    def temporary_name(self) -> bytes:
        """A name that nothing in the target bears, as good as surely; creation is exclusive all the same."""
        return temporary_prefix(self.token) + b"%x" % next(self.counter)

    def check_stop(self) -> None:
        """Raise ``CancelledRunError`` when the run is to end."""
        if self.ended.is_set() or self.should_stop():
            raise CancelledRunError("The restore was cancelled. What was restored completely is kept; run it again.")

    def problem(self, problem: RestoreProblem) -> None:
        """Record one; from any thread."""
        with self.lock:
            self.problem_count += 1
            if len(self.problems) < MOST_PROBLEMS:
                self.problems.append(problem)
            self.untold.append(problem)

    def item_problem(self, folder: int, name: bytes, what: str, error: BaseException) -> None:
        """Record what happened to an item of a folder."""
        self.problem(RestoreProblem.of(self.plan.path(folder, name), what, error))

    def take_untold(self) -> list[RestoreProblem]:
        """The problems recorded since the last call."""
        with self.lock:
            untold, self.untold = self.untold, []
        return untold

    def advance(self, size: int) -> None:
        """So many bytes of content have been dealt with, written or not."""
        with self.lock:
            self.counts.bytes_done += size

    def complete(self, row: int, size: int) -> None:
        """A file stands in the target, whole."""
        with self.lock:
            self.rows[row] = ItemState.DONE
            self.counts.files += 1
            self.counts.files_done += 1
            self.counts.bytes += size

    def take_over(self, rows: Iterable[int], states: bytes, size: int) -> None:
        """What a helper process made of files: their states now, and the bytes of those that are done."""
        counts = self.counts
        with self.lock:
            counts.bytes += size
            for row, state in zip(rows, states, strict=True):
                self.rows[row] = state
                counts.files += state == ItemState.DONE
                counts.failed += state == ItemState.FAILED
                counts.files_done += state >= ItemState.FAILED

    def fail(self, row: int, what: str, error: BaseException) -> PartialFile | None:
        """A file cannot be restored: the first call records it and gives the unfinished file, if any, to be removed."""
        with self.lock:
            if self.rows[row] == ItemState.FAILED:
                return None
            self.rows[row] = ItemState.FAILED
            self.counts.failed += 1
            self.counts.files_done += 1
            partial = self.partials.pop(row, None)
        files = self.plan.files
        self.item_problem(files.folder[row], files.names[row], what, error)
        return partial

    def skip(self, row: int, state: ItemState) -> None:
        """A file is left as it stands in the target."""
        self.rows[row] = state
        self.counts.skipped += 1
        self.counts.files_done += 1
        self.counts.bytes_done += self.plan.files.size[row]

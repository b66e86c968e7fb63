"""Analysis of files on this machine's disk: the inventory of a run as a tree, contents read by helper processes."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import msgspec

from backupiq.archive.inventory import Inventory
from backupiq.archive.worker_process import MOST_PROCESSES, WorkerProcess, can_start, processors
from backupiq.archive.xattrs import read_xattrs
from backupiq.discovery.entry import Directory
from backupiq.errors import CancelledRunError
from backupiq.semantics.content_process import MODULE, read_beginning
from backupiq.semantics.contents import Content, Wanted, examine_all

FILES_A_REQUEST = 200
WORTH_PROCESSES = 1000
"""Files from which on helper processes pay."""


class LiveFiles:
    """The files of an inventory, read where they lie."""

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory

    def directories(self) -> Iterator[Directory]:
        """Every folder, each before those below it."""
        for _, directory in self._inventory.directories():
            yield directory

    def read(self, path: bytes, limit: int) -> bytes:
        """At most the first ``limit`` bytes of a regular file. OSError when it cannot be read."""
        return read_beginning(path, limit)


def live_attributes(path: bytes) -> Mapping[str, bytes]:
    """The extended attributes of a path on this machine. OSError when they cannot be read."""
    return dict(read_xattrs(path))


def read_contents(
    wanted: Iterable[Wanted], key: bytes, *, stopped: Callable[[], bool], processes: int | None = None
) -> dict[bytes, Content]:
    """Read the files and say what they are, by path; by helper processes where there are many.

    ``key``: of the hashes of secrets. CancelledRunError once ``stopped`` says so.
    """
    files = iter(wanted)
    first = list(itertools.islice(files, WORTH_PROCESSES))
    count = min(MOST_PROCESSES, processors()) if processes is None else processes
    if len(first) < WORTH_PROCESSES or count < 2 or not can_start():
        return examine_all(_until(itertools.chain(first, files), stopped), read_beginning, key)
    return _by_helpers(itertools.chain(first, files), key, stopped, count)


def _until(files: Iterable[Wanted], stopped: Callable[[], bool]) -> Iterator[Wanted]:
    for file in files:
        if stopped():
            raise CancelledRunError
        yield file


def _by_helpers(files: Iterator[Wanted], key: bytes, stopped: Callable[[], bool], count: int) -> dict[bytes, Content]:
    turn = threading.Lock()
    encode = msgspec.msgpack.Encoder().encode
    decode = msgspec.msgpack.Decoder(list[Content]).decode
    helpers: list[WorkerProcess] = []

    def work(helper: WorkerProcess) -> dict[bytes, Content]:
        found: dict[bytes, Content] = {}
        while True:
            if stopped():
                raise CancelledRunError
            with turn:
                mine = list(itertools.islice(files, FILES_A_REQUEST))
            if not mine:
                return found
            answers = decode(helper.ask(encode(mine)).head)
            found.update((file.path, content) for file, content in zip(mine, answers, strict=True))

    try:
        for _ in range(count):
            helpers.append(WorkerProcess(MODULE, key))
        with ThreadPoolExecutor(count, thread_name_prefix="backupiq-analyze") as pool:
            parts = list(pool.map(work, helpers))
    finally:
        for helper in helpers:
            helper.stop()
            helper.close()
    return {path: content for part in parts for path, content in part.items()}

"""What this machine can spare for a run: disk for the spool, memory, open files."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import sys
from pathlib import Path

from backupiq.archive.spool import DEFAULT_LIMIT

MIB = 1 << 20
THREAD_BYTES = 48 * MIB
"""Memory that a reading thread takes: a file's chunks on their way into a pack."""
THREAD_FILES = 16
"""Files that a reading thread, and what it feeds, hold open."""
OWN_FILES = 128
"""Files that the rest of a run holds open: connections, databases, packs."""
MOST_THREADS = 16


@dataclasses.dataclass(frozen=True, slots=True)
class Resources:
    """Bytes free for the spool, bytes of memory to be had, files that may be open at once, processors."""

    spool_bytes: int
    memory_bytes: int
    open_files: int
    processors: int

    @property
    def batch_bytes(self) -> int:
        """The most a batch should hold, so that one can be packed while another is sent."""
        return min(self.spool_bytes, DEFAULT_LIMIT) // 2

    @property
    def threads(self) -> int:
        """Threads that read files: one for each processor, at least two and at most sixteen, if there is room for them.

        More only contend for the interpreter: on two cores, four threads take a fifth longer than two.
        """
        wanted = max(2, min(MOST_THREADS, self.processors))
        room = min(self.memory_bytes // 2 // THREAD_BYTES, (self.open_files - OWN_FILES) // THREAD_FILES)
        return max(1, min(wanted, room))


def look(spool_parent: Path) -> Resources:
    """What there is now. What a system does not tell is taken as plenty."""
    return Resources(_free(spool_parent), _memory(), _open_files(), os.cpu_count() or 1)


def _free(folder: Path) -> int:
    for each in (folder, *folder.parents):  # it is made later
        with contextlib.suppress(OSError):
            return shutil.disk_usage(each).free
    return sys.maxsize


def _memory() -> int:
    """Linux says what could be had without swapping; elsewhere what there is, halved."""
    with contextlib.suppress(OSError, ValueError, IndexError), open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    return sys.maxsize


def _open_files() -> int:
    try:
        import resource
    except ImportError:  # Windows
        return 512
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft

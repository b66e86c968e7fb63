"""How analysis sees files: on the disk, or in a snapshot."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from backupiq.discovery.entry import Directory


class Files(Protocol):
    """A tree of files. Paths are absolute and raw."""

    def directories(self) -> Iterator[Directory]:
        """Every folder with what it holds, each before those below it; may be called again."""
        ...

    def read(self, path: bytes, limit: int) -> bytes:
        """At most the first ``limit`` bytes of a regular file. OSError or a BackupIQError when it cannot be read."""
        ...

"""What goes into the catalog: values, without a database."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from backupiq.discovery.entry import EntryKind
from backupiq.repository.snapshot import Snapshot
from backupiq.semantics.model import FileFacts as FileFacts
from backupiq.semantics.model import FileType, Finding

CHECKPOINT_TAG = "checkpoint"
CONTENT_SIZE = 16
_MOST = (1 << 63) - 1


class FileRow(NamedTuple):
    """An entry of a snapshot: raw absolute path, kind, size in bytes, mtime in nanoseconds since 1970, content.

    ``content`` is `content_digest` of a file's blobs and None for all else. Size and time of folders do not count.
    """

    path: bytes
    kind: int
    size: int
    mtime_ns: int
    content: bytes | None
    facts: FileFacts


NO_FACTS = FileFacts()


def content_digest(blobs: Iterable[str]) -> bytes:
    """16 bytes that tell the contents of files apart: a digest over the ids (hex) of their blobs, in order."""
    return hashlib.blake2b(bytes.fromhex("".join(blobs)), digest_size=CONTENT_SIZE).digest()


def bounded(number: int) -> int:
    """The number, or the nearest one that a database's 64 bits hold (times up to the year 9999 are possible)."""
    return max(-_MOST, min(_MOST, number))


class Known(NamedTuple):
    """What an earlier analysis read out of a file's content, and the digest of that content."""

    content: bytes | None
    type: FileType
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """A snapshot as the catalog keeps it. Counts are those of the run that made it; 0 where it does not tell them."""

    hex_id: str
    time_ns: int
    host: str
    user: str
    paths: tuple[str, ...]
    tags: tuple[str, ...]
    tree: str
    parent: str | None = None
    files: int = 0
    bytes: int = 0
    bytes_added: int = 0
    bytes_stored: int = 0

    @classmethod
    def of(cls, hex_id: str, snapshot: Snapshot) -> SnapshotInfo:
        """From a snapshot of a repository."""
        summary = snapshot.summary
        return cls(
            hex_id,
            bounded(snapshot.time_ns()),
            snapshot.hostname,
            snapshot.username,
            tuple(snapshot.paths),
            tuple(snapshot.tags or ()),
            snapshot.tree,
            snapshot.parent,
            summary.total_files_processed if summary else 0,
            summary.total_bytes_processed if summary else 0,
            summary.data_added if summary else 0,
            summary.data_added_packed if summary else 0,
        )

    @property
    def checkpoint(self) -> bool:
        """Whether it holds a part of a run only."""
        return CHECKPOINT_TAG in self.tags

    @property
    def lineage(self) -> str:
        """What the snapshots of one host and one set of paths have in common, checkpoints apart."""
        named = json.dumps([self.host, sorted(set(self.paths)), self.checkpoint])
        return hashlib.blake2b(named.encode(), digest_size=CONTENT_SIZE).hexdigest()

    @property
    def order(self) -> tuple[int, str]:
        """Snapshots of a lineage stand in this order."""
        return (self.time_ns, self.hex_id)


FOLDER = int(EntryKind.DIR)

"""The plainest analysis: the type of each file by its name alone. Reads no content, finds no projects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from backupiq.catalog.rows import NO_FACTS, FileFacts
from backupiq.catalog.update import KnownLookup
from backupiq.discovery.entry import Directory, EntryKind, FileEntry
from backupiq.semantics.model import Project
from backupiq.semantics.roles import role_of
from backupiq.semantics.types import detect_by_name
from backupiq.semantics.view import Files


class ByName:
    """What names tell; see `analyze_by_name`."""

    projects: Sequence[Project] = ()

    def folders(self, directories: Iterator[Directory]) -> Iterator[tuple[Directory, Sequence[FileFacts]]]:
        """Type and role of each file."""
        for directory in directories:
            prefix = directory.path.rstrip(b"/") + b"/"
            yield directory, [_facts(prefix, entry) for entry in directory.children]


def analyze_by_name(files: Files, *, now_ns: int, known: KnownLookup) -> ByName:
    """An analysis, as `backupiq.catalog.update` takes it, that looks at nothing but names."""
    return ByName()


def _facts(prefix: bytes, entry: FileEntry) -> FileFacts:
    if entry.kind is not EntryKind.FILE:
        return NO_FACTS
    kind = detect_by_name(entry.name, entry.mode)
    return FileFacts(kind, role_of(prefix + entry.name, kind))

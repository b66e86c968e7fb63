"""How much a walk found, for plans and progress."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from backupiq.discovery.entry import Directory, EntryKind


@dataclass(slots=True)
class ScanSummary:
    """What the folders added so far hold. ``total_bytes`` is the sum of the sizes of regular files by name: a file
    with two names counts twice, a sparse file with its whole length."""

    folders: int = 0
    files: int = 0
    symlinks: int = 0
    others: int = 0
    total_bytes: int = 0
    incomplete_folders: int = 0

    def add(self, directory: Directory) -> None:
        """Counts a folder and what it holds; subfolders count when they come themselves."""
        self.folders += 1
        self.incomplete_folders += not directory.complete
        sizes = [child.size for child in directory.children if child.kind is EntryKind.FILE]
        self.files += len(sizes)
        self.total_bytes += sum(sizes)
        if len(sizes) < len(directory.children):
            kinds = [child.kind for child in directory.children]
            symlinks = kinds.count(EntryKind.SYMLINK)
            self.symlinks += symlinks
            self.others += len(kinds) - len(sizes) - symlinks - kinds.count(EntryKind.DIR)


def counted(directories: Iterable[Directory], summary: ScanSummary) -> Iterator[Directory]:
    """The same folders, each counted in ``summary`` before it is passed on."""
    for directory in directories:
        summary.add(directory)
        yield directory


def scan_summary(directories: Iterable[Directory]) -> ScanSummary:
    """Runs a walk to its end and tells what it found."""
    summary = ScanSummary()
    for directory in directories:
        summary.add(directory)
    return summary

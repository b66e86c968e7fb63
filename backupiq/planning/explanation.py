"""Everything that analysis and planning say about one path, and why."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass

from backupiq.discovery.entry import Directory, EntryKind, FileEntry
from backupiq.planning.order import waves
from backupiq.semantics.analysis import Analysis, Attributes, no_attributes
from backupiq.semantics.contents import examine_all
from backupiq.semantics.landmarks import at_and_above, join, parent_of
from backupiq.semantics.model import Decision, FileFacts, Importance, Project
from backupiq.semantics.pins import Pins
from backupiq.semantics.view import Files


@dataclass(frozen=True, slots=True)
class Place:
    """When a file would be stored if all the files looked at had to be, in a run long enough for order to matter.

    ``wave`` and ``number`` count from 1, of ``waves`` and ``files``; ``bytes_before`` of ``bytes`` are stored earlier.
    """

    wave: int
    waves: int
    number: int
    files: int
    bytes_before: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Below:
    """What lies below a folder: files, their bytes, and the lowest and highest importance among them."""

    files: int
    bytes: int
    lowest: int
    highest: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """What is said about a path. A regular file has ``importance`` and ``place``, a folder ``below``.

    ``decision`` is about the nearest folder, at or above, that may be one that can be made again, also when it is not.
    ``git_reason`` says why git's files told nothing.
    """

    path: bytes
    entry: FileEntry
    facts: FileFacts
    importance: Importance | None
    project: Project | None
    decision: Decision | None
    git_reason: str
    place: Place | None
    below: Below | None


def explain(
    files: Files,
    path: bytes,
    *,
    now_ns: int,
    key: bytes,
    pins: Pins | None = None,
    attributes: Attributes = no_attributes,
    counts: Callable[[bytes], bool] = lambda folder: True,
) -> Explanation | None:
    """What is said about the entry at this path of a tree; None when there is none. Of the files only it is read.

    ``now_ns``: the snapshot's time. ``key``: of the hashes of secrets. ``counts`` tells for a folder whether its files
    count for the place in the order. Raises what ``files.directories()`` raises.
    """
    analysis = Analysis(files, now_ns=now_ns, pins=pins, attributes=attributes)
    look = _Look(files, analysis, path, key)
    for directory in files.directories():
        look.at(directory, counts(directory.path))
    if look.entry is None:
        return None
    folder = path if look.entry.kind is EntryKind.DIR else parent_of(path)
    regular = look.entry.kind is EntryKind.FILE
    return Explanation(
        path=path,
        entry=look.entry,
        facts=look.facts,
        importance=analysis.explain(path, look.entry, look.facts) if regular else None,
        project=_project(analysis, folder),
        decision=_decision(analysis, folder),
        git_reason="" if look.facts.regenerable else analysis.git.reason(path),
        place=look.place() if regular else None,
        below=look.below(),
    )


class _Look:
    """One walk over the tree: notes the entry that is asked for, and what every file is worth and takes."""

    def __init__(self, files: Files, analysis: Analysis, path: bytes, key: bytes) -> None:
        self._files, self._analysis, self._path, self._key = files, analysis, path, key
        self._parent = parent_of(path)
        self._sizes, self._values = array("q"), array("B")
        self._ordinal = -1
        self._below = [0, 0, 100, 0]
        self.entry: FileEntry | None = None
        self.facts = FileFacts()

    def at(self, directory: Directory, counts: bool) -> None:
        """Look at a folder; ``counts``: its files count for the place in the order."""
        own = directory.path == self._parent
        inside = directory.path == self._path or directory.path.startswith(self._path.rstrip(b"/") + b"/")
        if directory.path == self._path and self._path == b"/":
            self.entry = directory.entry
        if not (own or inside or counts):
            return
        wanted = [file for file in self._analysis.wanted(directory) if file.path == self._path] if own else []
        contents = examine_all(wanted, self._files.read, self._key)
        for entry, facts in self._analysis.facts(directory, contents):
            if own and join(directory.path, entry.name) == self._path:
                self.entry, self.facts = entry, facts
                self._ordinal = len(self._sizes)
            if entry.kind is not EntryKind.FILE:
                continue
            value = 0 if facts.regenerable else max(1, facts.importance)
            if counts:
                self._sizes.append(entry.size)
                self._values.append(value)
            if inside:
                files, size, lowest, highest = self._below
                lowest, highest = min(lowest, facts.importance), max(highest, facts.importance)
                self._below = [files + 1, size + entry.size, lowest, highest]

    def below(self) -> Below | None:
        """Of a folder what lies below it."""
        if self.entry is None or self.entry.kind is not EntryKind.DIR:
            return None
        files, size, lowest, highest = self._below
        return Below(files, size, lowest if files else 0, highest)

    def place(self) -> Place | None:
        """Where the file stands in the order; None when its folder does not count."""
        if not 0 <= self._ordinal < len(self._sizes):
            return None
        cut = list(waves(range(len(self._sizes)), self._sizes, self._values))
        number = before = 0
        for wave, members in enumerate(cut, 1):
            for ordinal, size in members:
                number += 1
                if ordinal == self._ordinal:
                    return Place(wave, len(cut), number, len(self._sizes), before, sum(self._sizes))
                before += size
        return None


def _project(analysis: Analysis, folder: bytes) -> Project | None:
    root = None if analysis.is_regenerable(folder) else analysis.project_of(folder)
    return next((project for project in analysis.projects if project.root == root), None)


def _decision(analysis: Analysis, folder: bytes) -> Decision | None:
    by_path = {decision.path: decision for decision in analysis.decisions}
    found = [by_path[above] for above in at_and_above(folder) if above in by_path]
    return next((decision for decision in found if decision.regenerable), found[0] if found else None)

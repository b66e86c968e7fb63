"""One walk over a tree of files that finds what tells projects and folders that can be made again."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import TypeVar

import msgspec

from backupiq.discovery.entry import Directory, EntryKind, FileEntry
from backupiq.errors import BackupIQError, CancelledRunError
from backupiq.semantics.manifests import kind_of, names_that_tell
from backupiq.semantics.regenerable_rules import Rule, rule_book
from backupiq.semantics.view import Files

Found = TypeVar("Found")

# What a name means to the walk. A name may mean several things: build.gradle is a manifest and evidence.
_MANIFEST = 1
_FOLDER = 2
_MARKER = 4
_EVIDENCE_BELOW = 8
_GIT = 16


class Candidate(msgspec.Struct):
    """A folder that may be one that can be made again, with all the evidence about it.

    ``beside`` and ``inside`` hold which of the names and patterns of its rules were found there; ``proven`` the files
    inside that say what their rule asks for; ``foreign`` the first thing inside that a rule with ``only`` does not
    name; ``complete`` whether the folder could be listed.
    """

    path: bytes
    rules: tuple[Rule, ...]
    beside: frozenset[str] = frozenset()
    inside: frozenset[str] = frozenset()
    proven: frozenset[str] = frozenset()
    foreign: bytes | None = None
    complete: bool = False


class Landmarks(msgspec.Struct):
    """What the walk has found, everything raw: the names of the files in a folder that may tell about a project, the
    candidates by path, by pattern the folders that hold such a file, and the folders that hold a ``.git``."""

    manifests: dict[bytes, list[bytes]]
    candidates: dict[bytes, Candidate]
    evidence: dict[str, set[bytes]]
    working_copies: set[bytes]

    def evidence_below(self) -> dict[bytes, frozenset[str]]:
        """By folder, the patterns of which a file lies in it or deeper, outside of candidates."""
        below: dict[bytes, frozenset[str]] = {}
        if not any(rule.below for candidate in self.candidates.values() for rule in candidate.rules):
            return below
        for pattern, folders in self.evidence.items():
            only = frozenset((pattern,))
            for start in folders:
                if nearest(start, self.candidates) is not None:
                    continue
                for folder in at_and_above(start):
                    known = below.get(folder, frozenset())
                    if pattern in known:
                        break
                    below[folder] = known | only
        return below


def survey(files: Files) -> Landmarks:
    """Walks the tree once. Reads only the few files that a rule wants to have said something (at most 4 KiB each).

    Less than a second for a million names. Raises what ``files.directories()`` raises; what cannot be read proves
    nothing.
    """
    walk = _Walk(files)
    exact, endings, starts = _marks()
    mark_of, mark_of_ending = exact.get, endings.get
    for directory in files.directories():
        telling: list[tuple[FileEntry, int]] = []
        for child in directory.children:  # the loop over a million names
            name = child.name
            mark = mark_of(name) or mark_of_ending(name[name.rfind(b".") :])
            if mark is not None:
                telling.append((child, mark))
            elif name.startswith(starts):
                telling.append((child, _MANIFEST | _FOLDER))
        walk.take(directory, telling)
    return walk.landmarks


def read_head(files: Files, path: bytes, limit: int) -> bytes | None:
    """The first ``limit`` bytes, or None when the file cannot be read. Raises CancelledRunError only."""
    try:
        return files.read(path, limit)
    except CancelledRunError:
        raise
    except (OSError, BackupIQError):
        return None


def parent_of(path: bytes) -> bytes:
    """The folder above; of the topmost one, itself."""
    slash = path.rfind(b"/")
    return path if slash < 0 else path[:slash] or b"/"


def name_of(path: bytes) -> bytes:
    """The last component."""
    return path[path.rfind(b"/") + 1 :]


def join(folder: bytes, name: bytes) -> bytes:
    """The path of an entry of a folder."""
    return folder + name if folder.endswith(b"/") else folder + b"/" + name


def at_and_above(path: bytes) -> Iterable[bytes]:
    """The folder itself, then every folder above it."""
    while True:
        yield path
        above = parent_of(path)
        if len(above) >= len(path):
            return
        path = above


def nearest(path: bytes, known: Mapping[bytes, Found]) -> Found | None:
    """What is known of this folder, or else of the nearest above it."""
    return next((known[folder] for folder in at_and_above(path) if folder in known), None)


@functools.cache
def _marks() -> tuple[dict[bytes, int], dict[bytes, int], tuple[bytes, ...]]:
    """Names, endings with their dot, and beginnings that tell something."""
    book = rule_book()
    names, suffixes, beginnings = names_that_tell()
    exact = dict.fromkeys(names, _MANIFEST)
    endings = dict.fromkeys(suffixes, _MANIFEST)
    for folder in book.named:
        exact[folder] = exact.get(folder, 0) | _FOLDER
    for marker in book.markers:
        exact[marker] = exact.get(marker, 0) | _MARKER
    exact[b".git"] = exact.get(b".git", 0) | _GIT
    for pattern in _patterns_below():
        endings[pattern[1:].encode()] = endings.get(pattern[1:].encode(), 0) | _EVIDENCE_BELOW
    return exact, endings, (*beginnings, *book.beginnings)


@functools.cache
def _patterns_below() -> tuple[str, ...]:
    """The patterns (``*.py``) that rules look for deeper."""
    return tuple({pattern: None for rule in rule_book().rules for group in rule.below for pattern in group})


class _Walk:
    """What one walk has found so far. A candidate waits in ``_waiting`` from its parent's listing until its own."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._book = rule_book()
        self._endings = {pattern[1:].encode(): pattern for pattern in _patterns_below()}
        self._waiting: dict[bytes, Candidate] = {}
        self.landmarks = Landmarks({}, {}, {pattern: set() for pattern in _patterns_below()}, set())

    def take(self, directory: Directory, telling: list[tuple[FileEntry, int]]) -> None:
        """Notes what the names in a folder tell, about the folder itself too."""
        if telling and _in_git(directory.path):
            return
        candidate = self._waiting.pop(directory.path, None) if self._waiting else None
        marked = self._note_names(directory, telling) if telling else ()
        if marked:
            candidate = candidate or Candidate(directory.path, ())
            candidate.rules = tuple(dict.fromkeys((*candidate.rules, *marked)))
            self.landmarks.candidates[directory.path] = candidate
        if candidate:
            self._look_inside(candidate, directory)

    def _note_names(self, directory: Directory, telling: list[tuple[FileEntry, int]]) -> tuple[Rule, ...]:
        """Notes manifests, evidence and candidates among the children; returns the rules whose marker lies here."""
        marked: tuple[Rule, ...] = ()
        manifests: list[bytes] = []
        folders: list[tuple[bytes, tuple[Rule, ...]]] = []
        file_kind, folder_kind = EntryKind.FILE, EntryKind.DIR
        for child, mark in telling:
            name = child.name
            if mark & _GIT and (child.kind is folder_kind or child.kind is file_kind):
                self.landmarks.working_copies.add(directory.path)
            if child.kind is file_kind:
                ending = self._endings.get(name[name.rfind(b".") :])
                if ending is not None:
                    self.landmarks.evidence[ending].add(directory.path)
                if mark & _MARKER:
                    marked += self._book.markers[name]
                if mark & _MANIFEST and kind_of(directory.path, name) is not None:
                    manifests.append(name)
            elif child.kind is folder_kind and mark & _FOLDER and (rules := self._book.for_folder(name)):
                folders.append((name, rules))
        if manifests:
            self.landmarks.manifests[directory.path] = manifests
        if folders:
            self._note_candidates(directory, folders)
        return marked

    def _note_candidates(self, directory: Directory, folders: list[tuple[bytes, tuple[Rule, ...]]]) -> None:
        sizes = {child.name: child.size for child in directory.children if child.kind is EntryKind.FILE}
        for name, rules in folders:
            path = join(directory.path, name)
            beside = frozenset(
                pattern
                for rule in rules
                for group in (*rule.beside, *rule.below)
                for pattern in group
                if _stands(pattern, sizes, empty_counts=rule.may_be_empty)
            )
            self.landmarks.candidates[path] = self._waiting[path] = Candidate(path, rules, beside)

    def _look_inside(self, candidate: Candidate, directory: Directory) -> None:
        names = {child.name for child in directory.children if child.kind is EntryKind.FILE}
        candidate.complete = directory.complete
        candidate.inside = frozenset(
            name for rule in candidate.rules for group in rule.inside for name in group if name.encode() in names
        )
        candidate.proven = frozenset(
            rule.proof.file for rule in candidate.rules if rule.proof and self._proves(rule, directory.path, names)
        )
        for rule in candidate.rules:
            if rule.only:
                known = {name.encode() for name in rule.only}
                foreign = (child for child in directory.children if child.name not in known)
                candidate.foreign = next((child.name for child in foreign if not _is_empty_file(child)), None)

    def _proves(self, rule: Rule, folder: bytes, names: set[bytes]) -> bool:
        proof = rule.proof
        if proof is None or proof.file.encode() not in names:
            return False
        head = read_head(self._files, join(folder, proof.file.encode()), proof.bytes_needed)
        return head is not None and proof.holds(head)


def _in_git(folder: bytes) -> bool:
    """Whether it is a ``.git`` or lies in one: a branch may be named like a build, and all of it is history."""
    return b"/.git/" in folder + b"/"


def _is_empty_file(entry: FileEntry) -> bool:
    """Whether it is a mere stamp, in which nothing can be lost."""
    return entry.kind is EntryKind.FILE and entry.size == 0


def _stands(pattern: str, sizes: dict[bytes, int], *, empty_counts: bool) -> bool:
    """Whether a file of this name, or with this ending, is among them, and holds something."""
    least = 0 if empty_counts else 1
    if not pattern.startswith("*"):
        return sizes.get(pattern.encode(), -1) >= least
    ending = pattern[1:].encode()
    return any(name.endswith(ending) and size >= least for name, size in sizes.items())

"""What is looked at to explain one file on the disk: the project or working copy around it, and the way up from there.

What is said about a file depends on the names in the folders above it, on git's files in them, and on what lies in its
project. So the folders above are listed without going into them, but for their `.git`, and the outermost folder that
looks like a project's is walked whole, if it is not too large.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from backupiq.discovery.entry import Directory, EntryKind, FileEntry, entry_from_stat
from backupiq.discovery.rules import ExcludeRules
from backupiq.discovery.walk import walk
from backupiq.semantics.content_process import read_beginning
from backupiq.semantics.landmarks import at_and_above, join, name_of, parent_of
from backupiq.semantics.manifests import kind_of
from backupiq.semantics.regenerable_rules import rule_book

MOST_ENTRIES = 200_000
"""Entries of a project that is walked whole."""
MOST_LISTED = 1_000_000
"""Entries of one folder that is listed by itself."""
MOST_GIT_FOLDERS = 20_000
"""Folders of git's own that are looked at: refs may be nested."""
MOST_CANDIDATES = 8
"""The nearest folders that look like a project's."""


@dataclass(frozen=True, slots=True)
class ListedFiles:
    """Folders that were listed, read where they lie."""

    folders: Sequence[Directory]

    def directories(self) -> Iterator[Directory]:
        """Every folder, each before those below it."""
        return iter(self.folders)

    def read(self, path: bytes, limit: int) -> bytes:
        """At most the first ``limit`` bytes of a regular file. OSError when it cannot be read."""
        return read_beginning(path, limit)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """``files`` is what was listed; ``root`` the folder in which all was looked at, or, where not ``whole``, only the
    folder's own entries. ``too_large`` is the nearest folder around it that has too many entries."""

    files: ListedFiles
    root: bytes
    whole: bool
    too_large: bytes | None = None

    def covers(self, folder: bytes) -> bool:
        """Whether all that the folder holds was to be looked at; the folders above ``root`` were only listed."""
        return folder == self.root or (self.whole and _is_at_or_below(folder, self.root))


def look_around(path: bytes, *, is_folder: bool, most_entries: int | None = None) -> Surroundings:
    """What surrounds an existing path, absolute and raw. What cannot be listed is taken as empty.

    ``most_entries`` of a project that is walked whole: `MOST_ENTRIES` by default.
    """
    most_entries = MOST_ENTRIES if most_entries is None else most_entries
    folder = path if is_folder else parent_of(path)
    chain = [_list(each) for each in reversed([*at_and_above(folder)])]
    root: bytes | None = None
    walked: list[Directory] = []
    too_large = None
    for candidate in _candidates(path, chain, is_folder=is_folder):
        found = _walk(candidate, most_entries)
        if found is None:
            too_large = candidate
            break
        root, walked = candidate, found
    listed = [each for each in chain if root is None or not _is_at_or_below(each.path, root)]
    git = [below for each in listed for below in _git_folders(each)]
    files = ListedFiles([*listed, *git, *walked])
    return Surroundings(files, folder if root is None else root, root is not None, too_large)


def _candidates(path: bytes, chain: Sequence[Directory], *, is_folder: bool) -> list[bytes]:
    """The folders worth walking, innermost first; the root folder never is."""
    book = rule_book()
    on_the_way = {path, *at_and_above(path)}
    found = [path] if is_folder and path != parent_of(path) else []
    for directory in reversed(chain):
        if directory.path == parent_of(directory.path):
            break
        telling = any(
            child.name == b".git"
            or child.name in book.markers
            or kind_of(directory.path, child.name) is not None
            or (join(directory.path, child.name) in on_the_way and book.for_folder(child.name))
            for child in directory.children
        )
        if telling and directory.path not in found:
            found.append(directory.path)
    return found[:MOST_CANDIDATES]


def _walk(root: bytes, most_entries: int) -> list[Directory] | None:
    """All folders at and below; None when they hold too much."""
    found: list[Directory] = []
    entries = 0
    rules = ExcludeRules(ignore_file=None)
    for directory in walk([root + b"/"], rules, on_unreadable=lambda item: None):
        if not _is_at_or_below(directory.path, root):
            continue
        entries += len(directory.children)
        if entries > most_entries:
            return None
        found.append(directory)
    return found


def _git_folders(directory: Directory) -> Iterator[Directory]:
    """Git's own folders in this one, without its objects, which are read one by one."""
    if not any(child.name == b".git" and child.kind is EntryKind.DIR for child in directory.children):
        return
    pending = [join(directory.path, b".git")]
    for _ in range(MOST_GIT_FOLDERS):
        if not pending:
            return
        found = _list(pending.pop())
        yield found
        pending += [
            join(found.path, child.name)
            for child in found.children
            if child.kind is EntryKind.DIR and not (child.name == b"objects" and name_of(found.path) == b".git")
        ]


def _list(path: bytes) -> Directory:
    """One folder, sorted by name, at most `MOST_LISTED` of it; incomplete when not all can be listed."""
    entries: list[FileEntry] = []
    complete = True
    try:
        own = entry_from_stat(name_of(path), os.stat(path))
        with os.scandir(path) as scan:
            for item in islice(scan, MOST_LISTED):
                try:
                    entries.append(entry_from_stat(item.name, item.stat(follow_symlinks=False)))
                except OSError:
                    complete = False
            complete = complete and next(scan, None) is None
    except OSError:
        complete = False
        own = FileEntry(name_of(path), EntryKind.DIR, 0, 0, 0, 0, 0, 0o040755, 0, 0, 1, 0)
    entries.sort(key=lambda entry: entry.name)
    return Directory(path, own, entries, complete)


def _is_at_or_below(path: bytes, root: bytes) -> bool:
    return path == root or path.startswith(root + b"/")

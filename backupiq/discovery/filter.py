"""The exclude rules at work: what of a folder's entries the walk keeps, and which folders it enters."""

from __future__ import annotations

import os
import stat
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from operator import attrgetter

from backupiq.discovery.entry import Directory, EntryKind, FileEntry, UnreadableItem, unreadable
from backupiq.discovery.gitignore import (
    MAX_FILE_BYTES,
    Layer,
    Pattern,
    PatternError,
    PatternSet,
    parse_pattern,
    split_lines,
)
from backupiq.discovery.longpath import PIECE_BYTES, open_long
from backupiq.discovery.rules import ExcludeRules, PatternLine, Rule
from backupiq.errors import ConfigurationError

CACHE_TAG = b"CACHEDIR.TAG"
CACHE_SIGNATURE = b"Signature: 8a477f597d28d172789f06886806bc55"
"""The specification's, which is the MD5 of ``.IsCacheDirectory`` (Cache Directory Tagging Specification, section 1)."""

# A hostile tree could carry a pattern file in each of a thousand nested folders.
MAX_PATTERNS_IN_FORCE = 20_000
MAX_REPORTED_LINES = 10

_SPECIAL = frozenset({EntryKind.FIFO, EntryKind.CHARDEV, EntryKind.BLOCKDEV})
_name_of = attrgetter("name")


@dataclass(frozen=True, slots=True)
class Scope:
    """The rules in force in one folder. Layers from weakest to strongest; ``own`` is the profile's layer, strongest."""

    device: int
    files: tuple[Layer, ...]
    own: Layer | None
    pattern_count: int = 0


class Filter:
    """Compiled rules for one walk. Keeps nothing between folders but what a Scope carries."""

    def __init__(
        self,
        rules: ExcludeRules,
        on_unreadable: Callable[[UnreadableItem], None],
        on_excluded: Callable[[bytes, Rule], None] | None,
    ) -> None:
        own = [*_parse_own(rules.patterns, "exclude", False), *_parse_own(rules.iexclude, "iexclude", True)]
        self._own = PatternSet(own) if own else None
        self._rules = rules
        self._ignore_file = None if rules.ignore_file is None else os.fsencode(rules.ignore_file)
        self._folders = rules.folders
        self._by_value = rules.max_file_size is not None or rules.exclude_special
        self._on_unreadable = on_unreadable
        self._on_excluded = on_excluded

    def start(self, source: FileEntry) -> Scope:
        """The scope of a source: patterns are anchored there, and its device is the one file system."""
        return Scope(source.device, (), Layer(self._own) if self._own else None)

    def enter(self, scope: Scope, path: bytes, folder: FileEntry) -> Scope | None:
        """The scope inside a subfolder, or None when it is a mount point that must stay empty."""
        if self._rules.one_file_system and folder.device != scope.device:
            if self._on_excluded:
                self._on_excluded(path, Rule("one file system", "contents of a mount point"))
            return None
        own, files = scope.own, scope.files
        below = own.descend(folder.name) if own else None
        layers = tuple([layer.descend(folder.name) for layer in files]) if files else files
        if below is own and all(new is old for new, old in zip(layers, files, strict=True)):
            return scope
        return replace(scope, files=layers, own=below)

    def apply(self, scope: Scope, directory: Directory) -> Scope:
        """Takes out of the folder's children what the rules exclude; gives the scope with its own pattern file."""
        children = directory.children
        if not children:
            return scope
        if self._rules.exclude_caches and self._is_cache(directory):
            rule = Rule(CACHE_TAG.decode(), _shown(directory.path))
            self._leave_out(directory, {child.name: rule for child in children if child.name != CACHE_TAG})
            return scope
        if self._ignore_file is not None and (entry := _find(children, self._ignore_file)) is not None:
            scope = self._with_pattern_file(scope, _join(directory.path, entry.name))
        if scope.own or scope.files:
            decided: dict[bytes, Pattern] = {}
            if scope.own:
                scope.own.decide(children, decided)
            for layer in reversed(scope.files):
                layer.decide(children, decided)
            excluded = {name: pattern.rule for name, pattern in decided.items() if not pattern.negated}
            if excluded:
                self._leave_out(directory, excluded)
        if self._by_value:
            self._leave_out(directory, dict(self._excluded_by_value(directory.children)))
        if self._folders:
            self._leave_out(directory, dict(self._excluded_folders(directory.children)))
        return scope

    def _excluded_folders(self, children: list[FileEntry]) -> Iterable[tuple[bytes, Rule]]:
        for child in children:
            if child.kind is EntryKind.DIR and (child.device, child.inode) in self._folders:
                yield child.name, Rule("folder", "belongs to the repository that is written to")

    def _excluded_by_value(self, children: list[FileEntry]) -> Iterable[tuple[bytes, Rule]]:
        limit, special = self._rules.max_file_size, self._rules.exclude_special
        for child in children:
            if child.kind is EntryKind.FILE:
                if limit is not None and child.size > limit:
                    yield child.name, Rule("largest file size", f"{child.size} bytes, more than {limit}")
            elif special and child.kind in _SPECIAL:
                yield child.name, Rule("special files", child.kind.name.lower())

    def _leave_out(self, directory: Directory, excluded: dict[bytes, Rule]) -> None:
        if not excluded:
            return
        if self._on_excluded:
            for child in directory.children:
                if child.name in excluded:
                    self._on_excluded(_join(directory.path, child.name), excluded[child.name])
        directory.children = [child for child in directory.children if child.name not in excluded]

    def _is_cache(self, directory: Directory) -> bool:
        if _find(directory.children, CACHE_TAG) is None:
            return False
        try:
            return read_start(_join(directory.path, CACHE_TAG), len(CACHE_SIGNATURE)) == CACHE_SIGNATURE
        except OSError:
            return False  # it is reported when the backup reads it; until then nothing is left out

    def _with_pattern_file(self, scope: Scope, path: bytes) -> Scope:
        try:
            data = read_start(path, MAX_FILE_BYTES + 1)
        except OSError as error:
            self._on_unreadable(unreadable(path, error))
            return scope
        if len(data) > MAX_FILE_BYTES:
            self._refuse(path, "it is larger than 1 MiB, too large for a file of exclude patterns; it is ignored")
            return scope
        if b"\0" in data:
            self._refuse(path, "it is not a text file of exclude patterns; it is ignored")
            return scope
        patterns = self._parse_file(path, data)
        count = scope.pattern_count + len(patterns)
        if count > MAX_PATTERNS_IN_FORCE:
            self._refuse(path, f"more than {MAX_PATTERNS_IN_FORCE} exclude patterns would be in force; it is ignored")
            return scope
        if not patterns:
            return scope
        return replace(scope, files=(*scope.files, Layer(PatternSet(patterns))), pattern_count=count)

    def _parse_file(self, path: bytes, data: bytes) -> list[Pattern]:
        patterns: list[Pattern] = []
        shown, bad = _shown(path), 0
        for number, text in split_lines(data):
            try:
                pattern = parse_pattern(text, f"{shown}:{number}")
            except PatternError as error:
                # One person's slip in one folder must not end the backup of everything.
                bad += 1
                if bad <= MAX_REPORTED_LINES:
                    self._refuse(path, f"line {number} is not an exclude pattern: {error}; the line is ignored")
                continue
            if pattern is not None:
                patterns.append(pattern)
                if len(patterns) > MAX_PATTERNS_IN_FORCE:
                    break
        return patterns

    def _refuse(self, path: bytes, reason: str) -> None:
        self._on_unreadable(UnreadableItem(path, reason, ConfigurationError.code))


def compile_rules(
    rules: ExcludeRules,
    on_unreadable: Callable[[UnreadableItem], None],
    on_excluded: Callable[[bytes, Rule], None] | None,
) -> Filter | None:
    """The rules ready for a walk, None when there are none at all. Raises ConfigurationError for a bad pattern."""
    return None if rules == ExcludeRules(ignore_file=None) else Filter(rules, on_unreadable, on_excluded)


def _parse_own(lines: Iterable[str | PatternLine], option: str, ignore_case: bool) -> list[Pattern]:
    patterns = []
    for number, line in enumerate(lines, start=1):
        text, origin = (line.text, line.origin) if isinstance(line, PatternLine) else (line, f"{option} {number}")
        try:
            pattern = parse_pattern(text, origin, ignore_case=ignore_case)
        except PatternError as error:
            raise ConfigurationError(
                f"{origin}: {text[:200]!r} is not an exclude pattern: {error}.", origin=origin, pattern=text[:200]
            ) from error
        if pattern is not None:
            patterns.append(pattern)
    return patterns


def read_start(path: bytes, size: int) -> bytes:
    """The first ``size`` bytes of a regular file. Never waits on a FIFO nor follows a link in the last place.

    Raises OSError; ``size`` bytes are all that is ever held.
    """
    flags = os.O_RDONLY
    for flag in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY", "O_NOCTTY"):
        flags |= getattr(os, flag, 0)
    descriptor = os.open(path, flags) if len(path) < PIECE_BYTES else open_long(path, flags)
    with open(descriptor, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return b""
        data = b""
        while len(data) < size and (more := file.read(size - len(data))):
            data += more
        return data


def _find(children: list[FileEntry], name: bytes) -> FileEntry | None:
    """The regular file of that name among the sorted children."""
    place = bisect_left(children, name, key=_name_of)
    if place < len(children) and children[place].name == name and children[place].kind is EntryKind.FILE:
        return children[place]
    return None


def _join(folder: bytes, name: bytes) -> bytes:
    return folder + name if folder.endswith(b"/") else folder + b"/" + name


def _shown(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")

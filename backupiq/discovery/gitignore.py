"""Patterns in gitignore syntax (https://git-scm.com/docs/gitignore), matched while a walk goes down the folders.

A pattern is cut at its slashes into segments. Going down, each pattern with a slash keeps the set of segments it has
come to as bits of an int, so an entry is matched by its name alone, never by a regular expression over a whole path,
and an excluded folder is not entered (so nothing in it can be asked back, as with git). ``pathspec`` translates a
segment to a regular expression; plain names, ``*.suffix`` and ``prefix*`` do without one.

Names are bytes, patterns text; they meet as UTF-8 with surrogate escapes, so every name can be matched.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from pathspec.patterns.gitignore.spec import GitIgnoreSpecPattern

from backupiq.discovery.entry import EntryKind, FileEntry
from backupiq.discovery.rules import Rule

MAX_FILE_BYTES = 1 << 20
MAX_LINE_CHARS = 4096

# git knows these inside brackets (wildmatch.c); pathspec and re do not. ASCII, as in git, and without the slash, which
# no name holds.
_POSIX_CLASSES = {
    "[:alnum:]": "0-9A-Za-z",
    "[:alpha:]": "A-Za-z",
    "[:blank:]": " \t",
    "[:cntrl:]": "\x00-\x1f\x7f",
    "[:digit:]": "0-9",
    "[:graph:]": "!-~",
    "[:lower:]": "a-z",
    "[:print:]": " -~",
    "[:punct:]": "!-.:-@[-`{-~",
    "[:space:]": " \t\n\r\f\v",
    "[:upper:]": "A-Z",
    "[:xdigit:]": "0-9A-Fa-f",
}
_BRACKETS = re.compile(r"\\.|\[[!^]?\]?(?:\[:[a-z]+:\]|[^\]])*\]")


class PatternError(ValueError):
    """A line that is not a pattern; the text says why, fit to follow the line's place in a message."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One part of a pattern between slashes. ``**`` has none of the fields set but ``any_depth``."""

    literal: bytes | None = None
    suffix: bytes | None = None
    prefix: bytes | None = None
    regex: re.Pattern[str] | None = None
    any_depth: bool = False

    def matches(self, name: bytes) -> bool:
        """Whether the segment matches this one name."""
        if self.literal is not None:
            return name == self.literal
        if self.suffix is not None:
            return name.endswith(self.suffix)
        if self.prefix is not None:
            return name.startswith(self.prefix)
        return self.regex is None or self.regex.fullmatch(name.decode("utf-8", "surrogateescape")) is not None


ANY_DEPTH = Segment(any_depth=True)


@dataclass(frozen=True, slots=True)
class Pattern:
    """A pattern line. ``floating`` patterns (no slash inside) match a name in any folder by their one segment."""

    rule: Rule
    segments: tuple[Segment, ...]
    floating: bool
    negated: bool
    folders_only: bool

    def closure(self, state: int) -> int:
        """The state with ``**`` also standing for no folder at all, unless it is last."""
        for place in range(len(self.segments) - 1):
            if state >> place & 1 and self.segments[place].any_depth:
                state |= 2 << place
        return state

    def descend(self, state: int, name: bytes) -> int:
        """The state in the subfolder ``name``: bit i is set when the segments before i lead there."""
        below = 0
        for place, segment in enumerate(self.segments):
            if state >> place & 1:
                if segment.any_depth:
                    below |= 1 << place
                elif place + 1 < len(self.segments) and segment.matches(name):
                    below |= 2 << place
        return self.closure(below)

    def is_last(self, state: int) -> bool:
        """Whether only the last segment is left to match."""
        return bool(state >> (len(self.segments) - 1) & 1)


def split_lines(data: bytes) -> Iterator[tuple[int, str]]:
    """The lines of a pattern file with their numbers from 1; no byte order mark, no line ends, blank ones left out."""
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        text = line.removesuffix(b"\r").decode("utf-8", "surrogateescape")
        if text:
            yield number, text


def parse_pattern(text: str, origin: str, *, ignore_case: bool = False) -> Pattern | None:
    """The pattern of one line, None for a comment, a blank line or a lone slash. Raises PatternError."""
    if len(text) > MAX_LINE_CHARS:
        raise PatternError(f"it is longer than {MAX_LINE_CHARS} characters")
    if "\0" in text or "\n" in text:
        raise PatternError("it holds a NUL byte or a line break")
    body = text.rstrip(" ")
    if body != text and (len(body) - len(body.rstrip("\\"))) % 2:
        body += " "  # the first of the trailing spaces is escaped
    if not body or body.startswith("#"):
        return None
    rule = Rule(body, origin)
    negated = body.startswith("!")
    body = body[negated:]
    folders_only = body.endswith("/")
    body = body.removesuffix("/")
    anchored = "/" in body
    body = body.removeprefix("/")
    if not body:
        return None
    parts = body.split("/")
    if "" in parts:
        raise PatternError("it has two slashes in a row")
    if not anchored and not _is_any_depth(parts[0]):
        return Pattern(rule, (_segment(parts[0], ignore_case),), True, negated, folders_only)
    segments: list[Segment] = []
    for part in parts:
        segment = ANY_DEPTH if _is_any_depth(part) else _segment(part, ignore_case)
        if not (segments and segments[-1].any_depth and segment.any_depth):
            segments.append(segment)
    return Pattern(rule, tuple(segments), False, negated, folders_only)


def _is_any_depth(part: str) -> bool:
    return len(part) > 1 and not part.strip("*")  # git takes "***" for "**", too


def _segment(text: str, ignore_case: bool) -> Segment:
    text = re.sub(r"\*{2,}", "*", text) if "\\" not in text and "[" not in text else text
    if not ignore_case:
        core = text.strip("*")
        if not re.search(r"[*?\[\\]", core):
            plain = core.encode("utf-8", "surrogateescape")
            if core == text:
                return Segment(literal=plain)
            if text == "*" + core:
                return Segment(suffix=plain)
            if text == core + "*":
                return Segment(prefix=plain)
    return Segment(regex=_compile(text, ignore_case))


def _compile(text: str, ignore_case: bool) -> re.Pattern[str]:
    before, after = _wrapping()
    if "[:" in text:
        text = _BRACKETS.sub(_with_posix_classes, text)
    try:
        whole, _ = GitIgnoreSpecPattern.pattern_to_regex(f"/{text}/x")
        if whole is None:
            raise PatternError("a [ in it is never closed; write \\[ for the character itself")
        regex = _without_blowup(whole.removeprefix(before).removesuffix(after))
        with warnings.catch_warnings():
            # re warns that "[[" or "--" in brackets may mean something else one day.
            warnings.simplefilter("ignore", FutureWarning)
            return re.compile(regex, re.DOTALL | (re.IGNORECASE if ignore_case else 0))
    except PatternError:
        raise
    except (ValueError, re.error) as error:
        raise PatternError("a \\ has nothing behind it, or a range in [] is the wrong way round") from error


def _with_posix_classes(match: re.Match[str]) -> str:
    opening, inner = match[0][0], match[0][1:]
    if opening == "[":
        for name, members in _POSIX_CLASSES.items():
            inner = inner.replace(name, members)
    return opening + inner


@cache
def _wrapping() -> tuple[str, str]:
    """What pathspec puts before and behind the regular expression of a first segment."""
    whole, _ = GitIgnoreSpecPattern.pattern_to_regex("/y/x")
    before, _, after = (whole or "").partition("y")
    return before, after


def _without_blowup(regex: str) -> str:
    """The same language in linear time: between two stars the first fit is as good as any later one.

    Without this ``*a*a*a*a*b`` takes minutes for one long name. The star of pathspec is ``[^/]*``, which no part of
    a segment can otherwise hold since a segment has no slash.
    """
    first, *parts = regex.split("[^/]*")
    if not parts:
        return regex
    *inner, last = parts
    return first + "".join(f"(?>[^/]*?{part})" for part in inner if part) + "[^/]*" + last


class PatternSet:
    """The patterns of one place (a profile, a file), in order, ready to match in the folder they are anchored at."""

    __slots__ = ("_floating", "_literals", "_prefixes", "_regex", "_suffixes", "matches_all", "paths")

    def __init__(self, patterns: Iterable[Pattern]) -> None:
        ordered = list(enumerate(patterns))
        self.paths = [(place, pattern) for place, pattern in ordered if not pattern.floating]
        self._floating = [(place, pattern) for place, pattern in reversed(ordered) if pattern.floating]
        last = [pattern.segments[0] for _, pattern in self._floating]
        self._literals = frozenset(segment.literal for segment in last if segment.literal is not None)
        self._suffixes = tuple({segment.suffix for segment in last if segment.suffix is not None})
        self._prefixes = tuple({segment.prefix for segment in last if segment.prefix is not None})
        self._regex = [segment.regex for segment in last if segment.regex is not None]

    def candidates(self, children: Sequence[FileEntry]) -> list[FileEntry]:
        """The entries whose names some floating pattern matches, in one pass."""
        literals, suffixes, prefixes = self._literals, self._suffixes, self._prefixes
        if not self._regex:
            return [
                child
                for child in children
                if (name := child.name) in literals or name.endswith(suffixes) or name.startswith(prefixes)
            ]
        matchers = [regex.fullmatch for regex in self._regex]
        found = []
        for child in children:
            name = child.name
            if name in literals or name.endswith(suffixes) or name.startswith(prefixes):
                found.append(child)
                continue
            text = name.decode("utf-8", "surrogateescape")
            for matches in matchers:
                if matches(text):
                    found.append(child)
                    break
        return found

    def last_floating(self, child: FileEntry) -> tuple[int, Pattern] | None:
        """The last floating pattern that matches this entry, with its place."""
        for place, pattern in self._floating:
            if (child.kind is EntryKind.DIR or not pattern.folders_only) and pattern.segments[0].matches(child.name):
                return place, pattern
        return None


class Layer:
    """A set of patterns as it stands in one folder of the walk. Immutable."""

    __slots__ = ("_active", "_patterns", "_states")

    def __init__(self, patterns: PatternSet, states: tuple[int, ...] | None = None) -> None:
        self._patterns = patterns
        self._states = tuple(pattern.closure(1) for _, pattern in patterns.paths) if states is None else states
        self._active = [
            (place, pattern)
            for state, (place, pattern) in zip(self._states, patterns.paths, strict=True)
            if pattern.is_last(state)
        ]

    def descend(self, name: bytes) -> Layer:
        """The layer in the subfolder of that name; itself when nothing changes, so most folders make nothing new."""
        states = self._states
        if not any(states):
            return self
        below = tuple(
            pattern.descend(state, name) if state else 0
            for state, (_, pattern) in zip(states, self._patterns.paths, strict=True)
        )
        return self if below == states else Layer(self._patterns, below)

    def decide(self, children: Sequence[FileEntry], decided: dict[bytes, Pattern]) -> None:
        """Notes for each entry not yet in ``decided`` the last pattern of this layer that matches it, if any."""
        places: dict[bytes, int] = {}
        found: dict[bytes, Pattern] = {}
        for child in self._patterns.candidates(children):
            hit = self._patterns.last_floating(child)
            if hit is not None:
                places[child.name], found[child.name] = hit
        for place, pattern in self._active:
            segment, folders_only = pattern.segments[-1], pattern.folders_only
            for child in children:
                name = child.name
                if (
                    segment.matches(name)
                    and (not folders_only or child.kind is EntryKind.DIR)
                    and places.get(name, -1) < place
                ):
                    places[name], found[name] = place, pattern
        for name, pattern in found.items():
            decided.setdefault(name, pattern)

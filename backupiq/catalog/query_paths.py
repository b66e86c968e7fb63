"""Patterns of paths (``path:/home/*/projects/**``): as regular expressions, and what an index can know of them. Pure.

``*`` and ``?`` stay inside one name, ``[abc]`` is one character, ``**`` as a name passes through folders. A pattern
that begins with ``/`` begins at the root; any other may begin at every name. A pattern without wildcards means that
file or folder and all that lies below it.
"""

from __future__ import annotations

import re

from backupiq.catalog.query import Phrase

_WILDCARD = re.compile(r"(\*+|\?|\[[!^]?\]?[^\]/]*\])")
_WORD = re.compile(r"[0-9A-Za-z]+", re.ASCII)
_LAST_CHARACTER = 0x10FFFF
_SURROGATES = 0xD800, 0xDFFF


def has_wildcards(pattern: str) -> bool:
    """Whether the pattern stands for more than one place."""
    return _WILDCARD.search(pattern) is not None


def path_regex(pattern: str, *, atomic: bool = True) -> str:
    """The regular expression of the whole path. With ``atomic`` it is for Python, and no path takes it long to match:
    where a wildcard is followed by another one, the first place that fits is as good as any. Without it is the same for
    PostgreSQL, whose matching never goes back and which has no atomic groups.
    """
    pattern = _plain(pattern)
    if not has_wildcards(pattern):
        begin = r"(?s)\A" if pattern.startswith("/") or not pattern else "(?s)/"
        return f"{begin}{_escape(pattern)}(?:/.*)?\\Z"
    once = "(?>" if atomic else "(?:"
    names = pattern.split("/")
    # Paths begin with a slash, so what may begin at every name begins after any number of folders.
    names = names[1:] if pattern.startswith("/") else ["**", *names]
    stretches: list[list[str]] = [[]]
    for name in names:
        if name == "**":
            stretches.append([])
        else:
            stretches[-1].append(name)
    first, *others = ("/".join(_name(name, once) for name in stretch) for stretch in stretches)
    regex = r"(?s)\A" + (f"/{first}" if first else "")
    for number, stretch in enumerate(others, 1):
        last = number == len(others)
        if stretch:
            regex += f"/(?:.*/)?{stretch}" if last else f"{once}/(?:.*?/)??{stretch}(?=/))"
        elif last:
            regex += "/.*"
    return regex + r"\Z"


def _plain(pattern: str) -> str:
    """Without empty names and the slash at its end, as paths are."""
    return re.sub("/+", "/", pattern).rstrip("/")


def _name(pattern: str, once: str) -> str:
    """The pattern of one name in a path."""
    pieces = [""]
    for part in _WILDCARD.split(pattern):
        if part.startswith("*"):
            pieces.append("")
        else:
            pieces[-1] += _part(part)
    first, *others = pieces
    if not others:
        return first
    between = "".join(f"{once}[^/]*?{piece})" for piece in others[:-1] if piece)
    return rf"{first}{between}[^/]*{others[-1]}(?=/|\Z)"


def _part(part: str) -> str:
    if part == "?":
        return "[^/]"
    if len(part) > 2 and part.startswith("[") and part.endswith("]"):
        return _character_class(part[1:-1])
    return _escape(part)


def _character_class(inner: str) -> str:
    negated = inner[0] in "!^" and len(inner) > 1
    characters = inner[1:] if negated else inner
    parts: list[str] = []
    position = 0
    while position < len(characters):
        first = characters[position]
        if characters[position + 1 : position + 2] == "-" and position + 2 < len(characters):
            last = characters[position + 2]
            parts += [f"{_escape(first)}-{_escape(last)}"] if first <= last else []
            position += 3
        else:
            parts.append(_escape(first))
            position += 1
    if not parts:  # only ranges that run backwards: nothing is in them
        return "[^/]" if negated else r"(?!)"
    return f"(?!/)[{'^' if negated else ''}{''.join(parts)}]"


def _escape(text: str) -> str:
    return "".join(c if c.isalnum() or ord(c) > 0x7F else "\\" + c for c in text)


def literal_prefix(pattern: str) -> str:
    """What every path of the pattern begins with; empty for one that may begin anywhere."""
    if not pattern.startswith("/"):
        return ""
    pattern = _plain(pattern)
    found = _WILDCARD.search(pattern)
    if found is None:
        return pattern
    prefix = pattern[: found.start()]
    return prefix[:-1] if pattern.startswith("/**/", found.start() - 1) else prefix


def after_prefix(prefix: str) -> str | None:
    """The least text that comes after all texts that begin with the prefix, in the order of code points."""
    for position in range(len(prefix) - 1, -1, -1):
        following = ord(prefix[position]) + 1
        if _SURROGATES[0] <= following <= _SURROGATES[1]:
            following = _SURROGATES[1] + 1
        if following <= _LAST_CHARACTER:
            return prefix[:position] + chr(following)
    return None


def words_of_pattern(pattern: str) -> tuple[Phrase, ...]:
    """Phrases that every path of the pattern holds, for looking it up in an index of words.

    Only words of ASCII letters and digits that the pattern tells whole, or from their beginning on: what other
    characters do to a word depends on the index.
    """
    phrases: list[Phrase] = []
    pieces = _WILDCARD.split(pattern)
    for number, piece in enumerate(pieces):
        if number % 2:  # the wildcards stand at the odd places
            continue
        open_left, open_right = number > 0, number < len(pieces) - 1
        for stretch, left, right in _ascii_stretches(piece):
            phrase = _phrase(stretch, open_left or left, open_right or right)
            phrases += [phrase] if phrase else []
    return tuple(phrases)


def _ascii_stretches(piece: str) -> list[tuple[str, bool, bool]]:
    """The parts of ASCII characters, and whether other characters stand before and behind each."""
    parts = re.split(r"([^\x00-\x7f]+)", piece)
    last = len(parts) - 1
    return [(part, number > 0, number < last) for number, part in enumerate(parts) if number % 2 == 0 and part]


def _phrase(stretch: str, open_left: bool, open_right: bool) -> Phrase | None:
    found = list(_WORD.finditer(stretch))
    if found and open_left and found[0].start() == 0:
        del found[0]
    if not found:
        return None
    prefix = open_right and found[-1].end() == len(stretch)
    return Phrase(tuple(match[0] for match in found), prefix)

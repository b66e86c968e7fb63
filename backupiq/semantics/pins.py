"""What a person says of importance: patterns in gitignore syntax, each with a level, which decide after all else.

A pin on a folder holds for all that is below it. Of several pins that match a file, in its own name or in a folder's
above it, the last one decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from backupiq.discovery.entry import EntryKind, FileEntry
from backupiq.discovery.gitignore import Layer, Pattern, PatternError, PatternSet, parse_pattern
from backupiq.errors import ConfigurationError

LEVELS = ("high", "normal", "low")
MAX_PINS = 2_000
KEPT_FOLDERS = 4096

Level = str | int
"""``high``, ``normal``, ``low``, or a score from 0 to 100."""


@dataclass(frozen=True, slots=True)
class Pin:
    """A pattern and the level it gives. ``normal`` takes back what an earlier pin says: the computed score holds."""

    pattern: str
    level: Level

    def __str__(self) -> str:
        return f"{self.pattern}={self.level}"


def parse_pin(text: str) -> Pin:
    """The pin in ``PATTERN=LEVEL``, as a command line gives it. Raises ConfigurationError."""
    pattern, equals, level = text.rpartition("=")
    if not equals:
        raise ConfigurationError(f"The pin {text!r} has no level; write PATTERN=high, normal, low or 0 to 100.")
    return make_pin(pattern, level)


def make_pin(pattern: str, level: Level) -> Pin:
    """A checked pin. Raises ConfigurationError for a level or pattern that does not exist."""
    _compile(pattern, 0)
    plain = level.strip().lower() if isinstance(level, str) else level
    if isinstance(plain, str) and plain.isascii() and plain.isdigit() and len(plain) <= 3:
        plain = int(plain)
    if plain in LEVELS or (type(plain) is int and 0 <= plain <= 100):
        return Pin(pattern, plain)
    raise ConfigurationError(
        f"The pin for {pattern!r} has the level {level!r}; give high, normal, low or a number from 0 to 100."
    )


def _compile(text: str, number: int) -> Pattern:
    try:
        pattern = parse_pattern(text, f"pin {number}")
    except PatternError as error:
        raise ConfigurationError(f"The pin {text!r} is not a pattern: {error}.") from error
    if pattern is None:
        raise ConfigurationError(f"The pin {text!r} matches nothing; write a pattern in gitignore syntax.")
    if pattern.negated:
        raise ConfigurationError(f"The pin {text!r} begins with '!'; pin it as normal instead.")
    return pattern


@dataclass(frozen=True, slots=True)
class _Scope:
    """What the pins are in one folder: the patterns as they stand there, and the last pin on it or above it."""

    layer: Layer | None
    number: int


_OUTSIDE = _Scope(None, -1)


class Pins:
    """All pins of a profile. Not for several threads at once: what was found for folders is kept, a bounded number.

    ``anchors`` are the folders where a pattern with a leading slash begins (the sources of the backup); the longest one
    that a path lies in counts, and outside all of them nothing is pinned. Raises ConfigurationError.
    """

    def __init__(self, pins: Iterable[Pin] = (), anchors: Sequence[bytes] = (b"/",)) -> None:
        self._pins = tuple(pins)
        if len(self._pins) > MAX_PINS:
            raise ConfigurationError(f"There are {len(self._pins)} pins; give at most {MAX_PINS}.")
        patterns = [_compile(pin.pattern, number) for number, pin in enumerate(self._pins)]
        self._numbers = {pattern.rule: number for number, pattern in enumerate(patterns)}
        self._top = _Scope(Layer(PatternSet(patterns)), -1)
        self._anchors = frozenset(anchor.rstrip(b"/") for anchor in anchors)
        self._scopes: dict[bytes, _Scope] = {}

    def __bool__(self) -> bool:
        return bool(self._pins)

    def __repr__(self) -> str:
        return f"Pins({', '.join(map(str, self._pins))})"

    def find(self, path: bytes, entry: FileEntry) -> Pin | None:
        """The pin that decides for the entry at this absolute path, or None."""
        if not self._pins:
            return None
        scope = self._top if path in self._anchors else self._scope(path.rpartition(b"/")[0])
        number = self._last_match(scope, entry)
        return self._pins[number] if number >= 0 else None

    def _last_match(self, scope: _Scope, entry: FileEntry) -> int:
        if scope.layer is None or scope.number == len(self._pins) - 1:  # no later pin can match
            return scope.number
        decided: dict[bytes, Pattern] = {}
        scope.layer.decide((entry,), decided)
        found = decided.get(entry.name)
        return scope.number if found is None else max(scope.number, self._numbers[found.rule])

    def _scope(self, folder: bytes) -> _Scope:
        scopes = self._scopes
        found = scopes.get(folder)
        if found is not None:
            return found
        names: list[bytes] = []
        above = folder
        while above and above not in scopes and above not in self._anchors:
            above, _, name = above.rpartition(b"/")
            names.append(name)
        found = self._top if above in self._anchors else scopes.get(above, _OUTSIDE)
        if len(scopes) > KEPT_FOLDERS:
            scopes.clear()
        for name in reversed(names):
            above = above + b"/" + name
            found = self._below(found, name)
            if len(scopes) <= 2 * KEPT_FOLDERS:
                scopes[above] = found
        scopes[folder] = found
        return found

    def _below(self, scope: _Scope, name: bytes) -> _Scope:
        if scope.layer is None:
            return scope
        number = self._last_match(scope, FileEntry(name, EntryKind.DIR, 0, 0, 0, 0, 0, 0o040755, 0, 0, 1, 0))
        layer = scope.layer.descend(name)
        return scope if layer is scope.layer and number == scope.number else _Scope(layer, number)

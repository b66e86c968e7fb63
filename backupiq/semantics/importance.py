"""How important a file is, from 0 to 100, and why: what is stored first, and nothing else.

A score begins with what the file is and is multiplied by what it is for, how hard it would be to have again, and how
recently it was changed; a secret raises it to a floor, and a person's pin decides last. All numbers stand in
data/importance.toml. ``python -m backupiq.semantics.importance`` prints them as the tables of docs/importance.md.
"""

from __future__ import annotations

import re
import sys
import tomllib
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from backupiq.discovery.entry import FileEntry
from backupiq.errors import ConfigurationError
from backupiq.semantics.model import Category, Factor, FileType, GitState, Importance
from backupiq.semantics.pins import Pin, Pins

MAX_CACHED = 1 << 16
HIGHEST = 100
NANOSECONDS_PER_DAY = 86_400 * 10**9
CLOCK_SLACK_NS = NANOSECONDS_PER_DAY
"""A file may be this much newer than its snapshot; beyond that its time is no time, and counts for nothing."""

# The factors of `Importance`, in order. The first sets the score, SECRETS is the least it may be, PIN sets it; all
# others multiply it.
TYPE, ROLE, REPLACEABLE, RECENCY, SECRETS, PIN, UNPINNED = (
    "type",
    "role",
    "replaceable",
    "recency",
    "secrets",
    "pin",
    "unpinned",
)

_CAMERA_CATEGORIES = frozenset({Category.IMAGE, Category.VIDEO})
_WASTE = ("regenerable", "trash", "cache")
_PLACES = ("trash", "cache", "camera", "downloads")
_ROLE_WORDS = {"test": "a test", "configuration": "configuration", "documentation": "documentation"}
_REPLACEABLE_WORDS = {
    "regenerable": "in a folder that can be built again",
    "trash": "in a trash folder",
    "cache": "in a folder of caches",
    "internal": "one of git's own files",
    "modified": "changed or staged since the last commit",
    "unpushed": "committed on a branch that is not at its remote",
    "untracked": "in a working copy, and git does not know it",
    "pushed": "committed, and the branch is at its remote",
    "camera": "as a camera recorded it",
    "downloaded": "downloaded",
    "downloads": "in a folder of downloads",
    "authored": "not known to be anywhere else",
}


@dataclass(frozen=True, slots=True)
class Special:
    """Types and names of files with a base of their own. ``lasting``: neither age nor another copy lowers it."""

    what: str
    base: float
    lasting: bool = False
    types: tuple[str, ...] = ()
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Age:
    """Files that are at most so many days old (None: all others), and their factor."""

    factor: float
    what: str
    days: int | None = None


@dataclass(frozen=True, slots=True)
class Weights:
    """All numbers that make a score, named as in data/importance.toml. ConfigurationError when one is missing."""

    base: Mapping[str, float]
    special: tuple[Special, ...]
    role: Mapping[str, float]
    replaceable: Mapping[str, float]
    recency: tuple[Age, ...]
    secrets_floor: float
    pin: Mapping[str, float]
    places: Mapping[str, tuple[str, ...]]
    camera_prefixes: tuple[str, ...]
    lasting: frozenset[str]

    def __post_init__(self) -> None:
        missing = {str(category) for category in Category} - set(self.base)
        missing |= set(_REPLACEABLE_WORDS) - set(self.replaceable)
        missing |= {"high", "low"} - set(self.pin)
        if missing:
            raise ConfigurationError(f"The importance weights lack {', '.join(sorted(missing))}.")
        days = [age.days for age in self.recency if age.days is not None]
        if len(days) != len(self.recency) - 1 or self.recency[-1].days is not None or days != sorted(days):
            raise ConfigurationError("The importance weights need ages in order, the last one without days.")
        scores = [*self.base.values(), *self.pin.values(), self.secrets_floor, *(row.base for row in self.special)]
        factors = [*self.role.values(), *self.replaceable.values(), *(age.factor for age in self.recency)]
        if not all(0 <= score <= HIGHEST for score in scores) or not all(0 <= factor <= 10 for factor in factors):
            raise ConfigurationError("The importance weights need scores of 0 to 100 and factors of 0 to 10.")


@cache
def load_weights() -> Weights:
    """The weights that come with this package."""
    return read_weights(resources.files("backupiq.semantics").joinpath("data", "importance.toml").read_text("utf-8"))


def read_weights(text: str) -> Weights:
    """The weights in a TOML text such as data/importance.toml. Raises ConfigurationError for what cannot be used."""
    try:
        table: dict[str, Any] = tomllib.loads(text)
        return Weights(
            base=table["base"],
            special=tuple(_special(**row) for row in table["special"]),
            role=table["role"],
            replaceable=table["replaceable"],
            recency=tuple(Age(**row) for row in table["recency"]),
            secrets_floor=table["floor"]["secrets"],
            pin=table["pin"],
            places={name: tuple(map(str.lower, names)) for name, names in table["places"].items()},
            camera_prefixes=tuple(table["camera"]["prefixes"]),
            lasting=frozenset(table["lasting"]["categories"]),
        )
    except (tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise ConfigurationError(f"The importance weights cannot be used: {error}.") from error


def _special(
    what: str, base: float, lasting: bool = False, types: Iterable[str] = (), names: Iterable[str] = ()
) -> Special:
    return Special(what, base, lasting, tuple(types), tuple(names))


def combine(factors: Iterable[Factor]) -> int:
    """The score that these factors make, 0 to 100."""
    score = 0.0
    for factor in factors:
        if factor.name in (TYPE, PIN):
            score = factor.value
        elif factor.name == SECRETS:
            score = max(min(score, HIGHEST), factor.value)
        else:
            score *= factor.value
    return int(min(max(score, 0.0), HIGHEST) + 0.5)


_Key = tuple[str, Category, int, str, GitState, bool, bool, bool, str, bool, int]
"""All that a score depends on but for a pin: type, category, special row (-1: none), role, git, downloaded,
regenerable, secrets, place, camera, age (0: its time lies ahead)."""


class Scorer:
    """Scores files of one snapshot, whose time is ``now_ns``. Not for several threads at once.

    Invariants: `value` and `explain` give the same score, as both go through `_factors` and `combine`; what repeats is
    kept, in caches of bounded size.
    """

    def __init__(self, weights: Weights, pins: Pins, now_ns: int) -> None:
        self._weights = weights
        self._pins = pins if pins else None
        self._latest = now_ns + CLOCK_SLACK_NS
        days = [age.days for age in weights.recency if age.days is not None]
        self._ages = [0, *(CLOCK_SLACK_NS + count * NANOSECONDS_PER_DAY for count in days)]
        self._by_type = {name: number for number, row in enumerate(weights.special) for name in row.types}
        self._by_name = {name.encode(): number for number, row in enumerate(weights.special) for name in row.names}
        prefixes = "|".join(map(re.escape, weights.camera_prefixes))
        self._is_camera_name = re.compile(f"(?:{prefixes})[0-9]".encode(), re.IGNORECASE).match
        self._places = {name: place for place in reversed(_PLACES) for name in weights.places.get(place, ())}
        self._inner = {name.partition("/")[2] for name in self._places if "/" in name}
        self._trash_prefixes = weights.places.get("trash_prefixes", ())
        self._values: dict[_Key, int] = {}
        self._folder: bytes | None = None
        self._place, self._is_camera_folder = "", False

    def value(
        self,
        path: bytes,
        entry: FileEntry,
        kind: FileType,
        role: str,
        *,
        git: GitState,
        origin: str,
        regenerable: bool,
        secrets: int,
    ) -> int:
        """The file's score, 0 to 100. Fast when paths come folder by folder and the rest repeats.

        ``role`` is "test", "documentation", "configuration" or empty; ``origin`` the host it was downloaded from, empty
        when it was not; ``secrets`` how many were found in it that are more than a guess.
        """
        if self._pins is not None:
            pin = self._pins.find(path, entry)
            if pin is not None and pin.level != "normal":
                return combine((self._pin_factor(pin),))
        key = self._key(path, entry, kind, role, git, origin, regenerable, secrets)
        found = self._values.get(key)
        return self._fill(key) if found is None else found

    def _fill(self, key: _Key) -> int:
        if len(self._values) >= MAX_CACHED:
            self._values.clear()
        found = self._values[key] = combine(self._factors(key, ""))
        return found

    def explain(
        self,
        path: bytes,
        entry: FileEntry,
        kind: FileType,
        role: str,
        *,
        git: GitState,
        origin: str,
        regenerable: bool,
        secrets: int,
    ) -> Importance:
        """The same score with the factors it comes from: `combine` of them is the score."""
        key = self._key(path, entry, kind, role, git, origin, regenerable, secrets)
        factors = self._factors(key, origin)
        pin = self._pins.find(path, entry) if self._pins is not None else None
        if pin is not None:
            factors.append(self._pin_factor(pin))
        return Importance(combine(factors), tuple(factors))

    def _key(
        self,
        path: bytes,
        entry: FileEntry,
        kind: FileType,
        role: str,
        git: GitState,
        origin: str,
        regenerable: bool,
        secrets: int,
    ) -> _Key:
        name = entry.name
        folder = path[: -len(name) - 1]
        if folder != self._folder:
            self._folder = folder
            self._place, self._is_camera_folder = self._place_of(folder)
        category = kind.category
        return (
            kind.name,
            category,
            self._by_name.get(name, -1),
            role,
            git,
            origin != "",
            regenerable,
            secrets > 0,
            self._place,
            category in _CAMERA_CATEGORIES and (self._is_camera_folder or self._is_camera_name(name) is not None),
            bisect_right(self._ages, self._latest - entry.mtime_ns),
        )

    def _place_of(self, folder: bytes) -> tuple[str, bool]:
        """Which of the places that are known by name the folder lies in, and whether it is one of camera pictures."""
        text = folder.decode("utf-8", "surrogateescape")
        if not text.isascii():
            text = unicodedata.normalize("NFC", text)
        found = set()
        above = ""
        for name in text.lower().split("/"):
            place = self._places.get(name)
            if place is None and name in self._inner:
                place = self._places.get(f"{above}/{name}")
            if place is None and name.startswith(self._trash_prefixes):
                place = "trash"
            if place is not None:
                found.add(place)
            above = name
        return next((place for place in _PLACES if place in found and place != "camera"), ""), "camera" in found

    # --- the arithmetic ------------------------------------------------------------------------------------------

    def _factors(self, key: _Key, origin: str) -> list[Factor]:
        name, category, by_name, role, git, downloaded, regenerable, secrets, place, camera, age = key
        weights = self._weights
        number = by_name if by_name >= 0 else self._by_type.get(name, -1)
        special = weights.special[number] if number >= 0 else None
        lasting = special.lasting if special is not None else category in weights.lasting
        if special is not None:
            factors = [Factor(TYPE, float(special.base), special.what)]
        else:
            factors = [Factor(TYPE, float(weights.base[category]), f"{name or 'unknown'}, of the category {category}")]
        if role in weights.role:
            factors.append(Factor(ROLE, float(weights.role[role]), f"it is {_ROLE_WORDS.get(role, role)}"))
        why = _replaceable(git, place, camera=camera, downloaded=downloaded, regenerable=regenerable)
        words = f"downloaded from {origin}" if why == "downloaded" else _REPLACEABLE_WORDS[why]
        wasted = why in _WASTE
        factors.append(_kept(Factor(REPLACEABLE, float(weights.replaceable[why]), words), lasting and not wasted))
        recency = weights.recency[age - 1] if age else Age(1.0, "its time lies in the future")
        factors.append(_kept(Factor(RECENCY, float(recency.factor), recency.what), lasting))
        if secrets and why not in ("regenerable", "cache"):
            factors.append(Factor(SECRETS, float(weights.secrets_floor), "it holds a secret"))
        return factors

    def _pin_factor(self, pin: Pin) -> Factor:
        """The step of a pin; a normal one takes an earlier pin back, and so multiplies by one."""
        if pin.level == "normal":
            return Factor(UNPINNED, 1.0, f"pinned as normal by {pin.pattern}")
        number = pin.level if isinstance(pin.level, int) else self._weights.pin[pin.level]
        return Factor(PIN, float(number), f"pinned as {pin.level} by {pin.pattern}")


def _replaceable(git: GitState, place: str, *, camera: bool, downloaded: bool, regenerable: bool) -> str:
    """How hard the file would be to have again, as the row of the weights that says so; the first that holds."""
    if regenerable:
        return "regenerable"
    if place in _WASTE:
        return place
    if git is not GitState.NONE:
        return str(git)
    if camera:
        return "camera"
    if downloaded:
        return "downloaded"
    return place or "authored"


def _kept(factor: Factor, lasting: bool) -> Factor:
    """The factor; for a file that lasts, one that would lower it does not."""
    if not lasting or factor.value >= 1.0:
        return factor
    return Factor(
        factor.name, 1.0, f"{factor.why}; such a file has no second copy that counts, so nothing is taken off"
    )


# --- the tables of docs/importance.md --------------------------------------------------------------------------------


def tables(weights: Weights) -> Iterator[tuple[str, str]]:
    """The title of each table of the weights, and the table as Markdown."""
    base = sorted(weights.base.items(), key=lambda row: (-row[1], row[0]))
    yield "Base by category", _table(("category", "base"), [(f"`{name}`", f"{number:g}") for name, number in base])
    special = [
        (row.what, f"{row.base:g}", "yes" if row.lasting else "", _listed([*row.types, *(f"`{n}`" for n in row.names)]))
        for row in weights.special
    ]
    yield "Base of special kinds", _table(("what", "base", "lasting", "types and names"), special)
    yield "Role", _table(("role", "factor"), [(name, f"{number:g}") for name, number in weights.role.items()])
    replaceable = [(name, f"{weights.replaceable[name]:g}", words) for name, words in _REPLACEABLE_WORDS.items()]
    yield "Replaceable", _table(("row", "factor", "the file is"), replaceable)
    ages = [(age.what, f"{age.factor:g}") for age in weights.recency]
    yield "Recency", _table(("the file was", "factor"), ages)
    decides = [
        ("a secret was found in it", f"at least {weights.secrets_floor:g}"),
        *((f"a pin says {name}", f"{number:g}") for name, number in weights.pin.items()),
    ]
    yield "What decides after that", _table(("when", "score"), decides)
    places = [(name, _listed([f"`{folder}`" for folder in folders])) for name, folders in weights.places.items()]
    yield "Places", _table(("place", "folders, in any case"), places)
    prefixes = _listed([f"`{prefix}`" for prefix in weights.camera_prefixes])
    yield (
        "Camera names",
        f"Images and videos whose names begin with one of these and a digit, in any case: {prefixes}.\n",
    )


def render(weights: Weights) -> str:
    """All tables under their headings, as they stand in docs/importance.md."""
    return "\n".join(f"### {title}\n\n{text}" for title, text in tables(weights))


def _listed(items: Iterable[str]) -> str:
    return ", ".join(items)


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


if __name__ == "__main__":
    sys.stdout.write(render(load_weights()))

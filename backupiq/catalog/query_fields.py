"""The fields of a query: what each is for, and how its values are read."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo

from backupiq.errors import ValidationError
from backupiq.semantics.model import Category, GitState
from backupiq.telemetry.text import printable

MAX_VALUE = 1_000
"""Characters of one value."""
MAX_WILDCARDS = 16
"""Wildcards of one path pattern: matching takes longer with each."""

SECOND_NS = 1_000_000_000
_DAY_NS = 86_400 * SECOND_NS
_AGES = {
    "s": SECOND_NS,
    "m": 60 * SECOND_NS,
    "h": 3_600 * SECOND_NS,
    "d": _DAY_NS,
    "w": 7 * _DAY_NS,
    "mo": 30 * _DAY_NS,
    "y": 365 * _DAY_NS,
}
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50}
_AGE = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)(mo|[smhdwy])", re.ASCII | re.IGNORECASE)
_SIZE = re.compile(r"(\d{1,18}(?:\.\d{1,6})?)\s*([KMGTP]?)(?:I?B)?", re.ASCII | re.IGNORECASE)
_DATE = re.compile(r"(\d{4})(?:-(\d{2})(?:-(\d{2})(?:[T ](\d{2}:\d{2}(?::\d{2})?)(Z|[+-]\d{2}:\d{2})?)?)?)?", re.ASCII)
_SNAPSHOT = re.compile(r"latest|[0-9a-f]{1,64}", re.ASCII)
_WILDCARD = re.compile(r"\*+|\?|\[")
_LARGEST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Span:
    """Whole numbers from ``low`` to ``high``, both included; None: no limit on that side."""

    low: int | None = None
    high: int | None = None


Value = str | Span
"""A value of a condition: text, or numbers (bytes, points, nanoseconds since 1970)."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field: what it asks for, what it takes (in a person's words), and an example."""

    about: str
    takes: str
    example: str
    words: tuple[str, ...] = ()
    """The only values it takes, when there are only these."""


_YES_NO = ("yes", "no")

FIELDS: dict[str, Field] = {
    "category": Field(
        "what the file is for", ", ".join(Category), "category:document,image", tuple(map(str, Category))
    ),
    "language": Field("its language or format", "a name such as Python or PNG", "language:python"),
    "framework": Field("a framework that its project uses", "a name such as Django", "framework:django"),
    "project": Field("the project it belongs to", "the project's name; * stands for anything", "project:shop"),
    "importance": Field(
        "its importance, 0 to 100", "a number, also as >80, >=80, <20, <=20 or 50..80", "importance:>80"
    ),
    "changed": Field(
        "how long ago it was changed", "an age in s, m, h, d, w, mo or y, also as >1y, <7d or 7d..30d", "changed:<7d"
    ),
    "before": Field("changed before that day", "a date such as 2026-01-31, 2026-01 or 2026", "before:2026-01-01"),
    "after": Field("changed on that day or later", "a date such as 2026-01-31, 2026-01 or 2026", "after:2025-06"),
    "size": Field("its size", "bytes, K, M, G or T, also as >10M, <1K or 1M..2G", "size:>10M"),
    "secret": Field(
        "secrets that were found in it", "any, none or the name of a rule such as private-key", "secret:any"
    ),
    "snapshot": Field("in that snapshot", "the beginning of a snapshot's id, or latest", "snapshot:latest"),
    "host": Field("the machine it was backed up from", "a host's name; * stands for anything", "host:laptop"),
    "path": Field("where it lies", "a folder or a pattern with *, ?, [...] or **", "path:/home/*/projects/**"),
    "ext": Field("the end of its name", "an extension such as pdf or tar.gz", "ext:pdf,odt"),
    "at": Field(
        "can be restored from there", "local, s3, gcs, azure, icloud or a destination; * stands for anything", "at:s3"
    ),
    "only-at": Field(
        "can be restored from nowhere else",
        "local, s3, gcs, azure, icloud or a destination; * stands for anything",
        "only-at:s3",
    ),
    "regenerable": Field("lies in a folder that can be built anew", "yes or no", "regenerable:no", _YES_NO),
    "git": Field("what git knows of it", ", ".join(GitState), "git:modified,untracked", tuple(map(str, GitState))),
    "conflict": Field("its name and its content disagree", "yes or no", "conflict:yes", _YES_NO),
    "deleted": Field("no longer there in the newest snapshot", "yes or no", "deleted:yes", _YES_NO),
}
"""Every field, in the order in which help names them."""


def suggestion(given: str, known: Iterable[str]) -> str:
    """``; did you mean shop?`` for the nearest of the known names, or a full stop."""
    folded = {name.casefold(): name for name in known}
    near = difflib.get_close_matches(given.casefold()[:100], folded, n=1, cutoff=0.6)
    return f"; did you mean {printable(folded[near[0]])}?" if near else "."


def read_value(field: str, text: str, now_ns: int, zone: tzinfo | None = UTC) -> Value:
    """One value of a field of `FIELDS` as the field means it. ValidationError when the field does not take it."""
    value = text.strip()
    if not value:
        raise ValidationError(
            f"The field {field} has no value; it takes {FIELDS[field].takes}, for example {FIELDS[field].example}.",
            field=field,
        )
    if len(value) > MAX_VALUE:
        raise ValidationError(f"A value of {field} is longer than {MAX_VALUE:,} characters.", field=field)
    words = FIELDS[field].words
    if words:
        return _one_of(field, value, words)
    reader = _READERS.get(field)
    found = value if reader is None else reader(value, now_ns, zone)
    if found is None:
        raise _refused(field, value)
    return found


def _refused(field: str, value: str, known: Iterable[str] = ()) -> ValidationError:
    return ValidationError(
        f"The field {field} does not take '{printable(value[:60])}'{suggestion(value, known)} "
        f"It takes {FIELDS[field].takes}, for example {FIELDS[field].example}.",
        field=field,
    )


def _one_of(field: str, value: str, words: tuple[str, ...]) -> str:
    if value.casefold() not in words:
        raise _refused(field, value, words)
    return value.casefold()


def _span(text: str, number: Callable[[str], int | None]) -> Span | None:
    """``7``, ``>7``, ``>=7``, ``<7``, ``<=7``, ``5..7``, ``5..`` or ``..7``; None when it is none of these."""
    if ".." in text:
        first, _, last = text.partition("..")
        low, high = (number(side) if side else None for side in (first, last))
        bad = (bool(first) and low is None) or (bool(last) and high is None) or not (first or last)
        return None if bad or (low is not None and high is not None and low > high) else Span(low, high)
    sign = text[:2] if text[:2] in (">=", "<=") else text[:1] if text[:1] in ("<", ">", "=") else ""
    value = number(text[len(sign) :].strip())
    if value is None:
        return None
    if sign.startswith(">"):
        return Span(low=value if sign == ">=" else value + 1)
    if sign.startswith("<"):
        return Span(high=value if sign == "<=" else value - 1)
    return Span(value, value)


def _points(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and int(text[:4]) <= 100 and len(text) <= 3 else None


def _bytes(text: str) -> int | None:
    found = _SIZE.fullmatch(text)
    if found is None:
        return None
    unit = _UNITS[found[2].upper()]
    size = int(float(found[1]) * unit) if "." in found[1] else int(found[1]) * unit
    return min(size, _LARGEST - 1)


def _age_ns(text: str) -> int | None:
    found = _AGE.fullmatch(text)
    return int(float(found[1]) * _AGES[found[2].lower()]) if found else None


def _read_changed(text: str, now_ns: int, _: tzinfo | None) -> Span | None:
    """An age counted back from now: younger is later, and so the ends change places."""
    ages = _span(text, _age_ns)
    if ages is None:
        return None
    if text[:1].isdigit() and ".." not in text:
        ages = Span(high=ages.high)  # "7d" alone: no longer ago than that
    low, high = (None if age is None else max(now_ns - age, -_LARGEST) for age in (ages.high, ages.low))
    return Span(low, high)


def _date_ns(text: str, zone: tzinfo | None) -> int | None:
    found = _DATE.fullmatch(text)
    if found is None:
        return None
    year, month, day, clock, offset = found.groups()
    try:
        moment = datetime.fromisoformat(f"{year}-{month or '01'}-{day or '01'}T{clock or '00:00'}{offset or ''}")
        if moment.tzinfo is None:
            moment = moment.astimezone() if zone is None else moment.replace(tzinfo=zone)
        return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1_000
    except (ValueError, OverflowError):
        return None


def _read_before(text: str, _: int, zone: tzinfo | None) -> Span | None:
    moment = _date_ns(text, zone)
    return None if moment is None else Span(high=moment - 1)


def _read_after(text: str, _: int, zone: tzinfo | None) -> Span | None:
    moment = _date_ns(text, zone)
    return None if moment is None else Span(low=moment)


def _read_path(text: str, _: int, __: tzinfo | None) -> str:
    if len(_WILDCARD.findall(text)) > MAX_WILDCARDS:
        raise ValidationError(f"A pattern of path has more than {MAX_WILDCARDS} wildcards.", field="path")
    return text


def _read_extension(text: str, _: int, __: tzinfo | None) -> str | None:
    extension = text.lstrip("*").lstrip(".").lower()
    return extension if extension and "/" not in extension else None


def _read_snapshot(text: str, _: int, __: tzinfo | None) -> str | None:
    lowered = text.lower()
    return lowered if _SNAPSHOT.fullmatch(lowered) else None


_READERS: dict[str, Callable[[str, int, tzinfo | None], Value | None]] = {
    "importance": lambda text, now_ns, zone: _span(text, _points),
    "size": lambda text, now_ns, zone: _span(text, _bytes),
    "changed": _read_changed,
    "before": _read_before,
    "after": _read_after,
    "path": _read_path,
    "ext": _read_extension,
    "snapshot": _read_snapshot,
}

"""The language of ``backupiq find``: a line of text becomes a `Query` value. Pure: no catalog, no clock.

A query is a list of terms that must all hold: words (``shop``), beginnings of words (``shop*``), phrases
(``"shop views"``) and fields (``category:document``). A ``-`` or ``NOT`` before a term turns it around; commas inside a
field mean "or". Nothing else is special: ``AND``, ``OR``, brackets and semicolons are words or separators like any.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, tzinfo

from backupiq.catalog.query_fields import FIELDS, Span, Value, read_value, suggestion
from backupiq.errors import ValidationError
from backupiq.telemetry.text import printable

MAX_TEXT = 10_000
"""Characters of a query."""
MAX_TERMS = 64
MAX_VALUES = 64
"""Alternatives inside one field."""

__all__ = ["FIELDS", "Condition", "Phrase", "Query", "Span", "Value", "parse_query", "split_words"]

_FIELD = re.compile(r"([A-Za-z][A-Za-z-]*):", re.ASCII)
_INNER_STAR = re.compile(r"\*(?=[^*])")


@dataclass(frozen=True, slots=True)
class Phrase:
    """Words that stand side by side in a path, in this order; with ``prefix`` the last is only the beginning of one."""

    words: tuple[str, ...]
    prefix: bool = False
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Condition:
    """One field and the values of which any must hold (none of them, when ``negated``)."""

    field: str
    values: tuple[Value, ...]
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Query:
    """What a person asked for: phrases and conditions, all of which must hold."""

    phrases: tuple[Phrase, ...] = ()
    conditions: tuple[Condition, ...] = ()


def split_words(text: str) -> tuple[str, ...]:
    """The words of a text: runs of letters and digits with their accents, as written; everything else separates."""
    spaced = "".join(c if c.isalnum() or unicodedata.combining(c) else " " for c in text)
    return tuple(word for word in spaced.split() if any(map(str.isalnum, word)))


def parse_query(text: str, *, now_ns: int, zone: tzinfo | None = UTC) -> Query:
    """The query that a person wrote.

    ``now_ns`` is what ages (``changed:<7d``) count from; ``zone`` says when days begin (None: this machine's own zone).
    Raises ValidationError for an unknown field or a value that a field does not take; the message names the field, what
    was probably meant, and what is allowed. Also for a query that says nothing or too much.
    """
    if len(text) > MAX_TEXT:
        raise ValidationError(f"The query is longer than {MAX_TEXT:,} characters; ask for less at once.")
    # As the catalog writes what is not text, see backupiq.catalog.text; no path has a NUL.
    text = text.encode("utf-8", "backslashreplace").decode().replace("\0", " ")
    phrases: list[Phrase] = []
    conditions: list[Condition] = []
    for negated, field, body in _terms(text):
        if field is not None:
            conditions.append(_condition(field, body, negated, now_ns, zone))
        elif not body.startswith('"') and _INNER_STAR.search(body):
            conditions.append(Condition("path", (read_value("path", body, now_ns, zone),), negated))
        else:
            words = split_words(body)
            if words:
                prefix = body.endswith("*") and body.rstrip('*"')[-1:].isalnum()
                phrases.append(Phrase(words, prefix, negated))
        if len(phrases) + len(conditions) > MAX_TERMS:
            raise ValidationError(f"The query has more than {MAX_TERMS} terms; ask for less at once.")
    if not phrases and not conditions:
        raise ValidationError(
            "The query says nothing to look for; give a word of the path or a field, for example category:document."
        )
    return Query(tuple(phrases), tuple(conditions))


def _terms(text: str) -> Iterator[tuple[bool, str | None, str]]:
    """(negated, field as written or None, the rest) for each term; phrases keep their opening quote."""
    tokens = list(_tokens(text))
    negate_next = False
    for position, written in enumerate(tokens):
        if written == "NOT" and position + 1 < len(tokens) and not negate_next:
            negate_next = True
            continue
        dashed = len(written) > 1 and written.startswith("-")
        body = written[1:] if dashed else written
        field = _FIELD.match(body)
        yield (
            dashed != negate_next,
            field[1] if field else None,
            body[field.end() :] if field else body,
        )
        negate_next = False


def _tokens(text: str) -> Iterator[str]:
    """The terms as written, separated by blanks outside of quotes; a quote that is never closed is a blank."""
    start, position, length = 0, 0, len(text)
    while position < length:
        character = text[position]
        if character == '"':
            closing = text.find('"', position + 1)
            if closing < 0:
                text = text[:position] + " " + text[position + 1 :]
                continue
            position = closing + 1
        elif character.isspace():
            if position > start:
                yield text[start:position]
            position += 1
            start = position
        else:
            position += 1
    if length > start:
        yield text[start:]


def _condition(written: str, body: str, negated: bool, now_ns: int, zone: tzinfo | None) -> Condition:
    name = written.lower()
    if name not in FIELDS:
        shown = printable(written[:40])
        raise ValidationError(
            f"There is no field '{shown}'{suggestion(name, FIELDS)} The fields are {', '.join(FIELDS)}. "
            f'To look for the word itself, put it in quotes: "{shown}:...".',
            field=shown,
        )
    parts = _alternatives(body)
    if len(parts) > MAX_VALUES:
        raise ValidationError(f"The field {name} has more than {MAX_VALUES} values; ask for less at once.", field=name)
    values = tuple(dict.fromkeys(read_value(name, part, now_ns, zone) for part in parts))
    return Condition(name, values, negated)


def _alternatives(body: str) -> list[str]:
    """The values between the commas outside of quotes, without the quotes."""
    parts = [""]
    quoted = False
    for character in body:
        if character == '"':
            quoted = not quoted
        elif character == "," and not quoted:
            parts.append("")
        else:
            parts[-1] += character
    return parts

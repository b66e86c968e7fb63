"""Words of a query as the two databases' full-text languages write them. Pure.

Only letters, digits and accents pass into either language (see `backupiq.catalog.query.split_words`), each word between
quotes, so that nothing a person types is read as an operator.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from backupiq.catalog.query import Phrase
from backupiq.catalog.text import search_text

Alternatives = tuple[tuple[Phrase, ...], ...]
"""Any of the tuples; of a tuple all phrases."""

MAX_WORD_BYTES = 2_000
"""PostgreSQL refuses words of 2 KiB; no name is as long."""


def as_alternatives(phrases: Iterable[Phrase]) -> list[Alternatives]:
    """Phrases that must all be there."""
    return [((phrase,),) for phrase in phrases]


def fts5_text(all_of: Sequence[Alternatives], excluded: str = "") -> str:
    """What FTS5 is to MATCH, without what `fts5_any` gave for words to be left out; empty when nothing is asked."""
    wanted = " AND ".join(_either([" AND ".join(map(_fts5_phrase, part)) for part in one], " OR ") for one in all_of)
    return f"({wanted}) NOT ({excluded})" if wanted and excluded else wanted


def fts5_any(phrases: Sequence[Phrase]) -> str:
    """FTS5's text for any of the phrases."""
    return " OR ".join(map(_fts5_phrase, phrases))


def _fts5_phrase(phrase: Phrase) -> str:
    return f'"{" ".join(phrase.words)}"{"*" if phrase.prefix else ""}'


def tsquery_text(all_of: Sequence[Alternatives]) -> str:
    """The same for PostgreSQL's ``to_tsquery('simple', ...)``."""
    return " & ".join(_either([" & ".join(map(_tsquery_phrase, part)) for part in one], " | ") for one in all_of)


def tsquery_any(phrases: Sequence[Phrase]) -> str:
    """PostgreSQL's text for any of the phrases."""
    return " | ".join(map(_tsquery_phrase, phrases))


def _tsquery_phrase(phrase: Phrase) -> str:
    # A word may become several without its accents ("½"), and cutting one off asks for no other files.
    words = search_text(" ".join(phrase.words)).split() or ["\N{REPLACEMENT CHARACTER}"]
    quoted = [f"'{word.encode()[:MAX_WORD_BYTES].decode('utf-8', 'ignore')}'" for word in words]
    return f"({' <-> '.join(quoted)}{':*' if phrase.prefix else ''})"


def _either(parts: Sequence[str], operator: str) -> str:
    return f"({operator.join(f'({part})' for part in parts)})" if len(parts) > 1 else parts[0]

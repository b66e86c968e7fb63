"""Paths as text: for people, and as words for searching."""

from __future__ import annotations

import os
import unicodedata

MAX_WORDS_TEXT = 16_384
"""Characters of a path that are searched; PostgreSQL refuses longer documents, and keeps no position beyond."""

_ASCII_WORDS = "".join(chr(code).lower() if chr(code).isalnum() else " " for code in range(128))


def path_text(path: bytes) -> tuple[str, bytes | None]:
    """A raw path as text that any database takes, and its bytes where the text does not tell them.

    Bytes that are not UTF-8 appear as ``\\udcXX``; control characters stay as they are.
    """
    try:
        return path.decode(), None
    except UnicodeDecodeError:
        return os.fsdecode(path).encode("utf-8", "backslashreplace").decode(), path


def search_text(path: str) -> str:
    """The words of a path or a query: lower case, without accents, everything but letters and digits a space."""
    path = path[:MAX_WORDS_TEXT]
    if path.isascii():
        return path.translate(_ASCII_WORDS)
    plain = unicodedata.normalize("NFKD", path.lower())
    return "".join(c if c.isalnum() else " " for c in plain if not unicodedata.combining(c))

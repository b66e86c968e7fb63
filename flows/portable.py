"""Options on their way through Prefect, which stores JSON: names of files need not be UTF-8, JSON has to be.

A text that is not UTF-8 (as Python writes such names: with surrogate escapes) travels as ``bytes:`` and its bytes,
percent-encoded. Whoever starts a deployment may write such a path the same way: ``bytes:/home/caf%E9``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import quote_from_bytes, unquote_to_bytes

from pydantic import BaseModel

Options = TypeVar("Options", bound=BaseModel)

MARK = "bytes:"


def to_prefect(options: Options) -> Options:
    """The options with every text that JSON cannot hold replaced by one that it can."""
    return _each_text(options, _encode)


def from_prefect(options: Options) -> Options:
    """The options as they were given: the inverse of `to_prefect`."""
    return _each_text(options, _decode)


def json_text(text: str) -> str:
    """The text as restic writes it into JSON: U+FFFD for each byte that is not UTF-8."""
    return "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)


def _encode(text: str) -> str:
    if text.startswith(MARK) or any("\ud800" <= c <= "\udfff" for c in text):
        return MARK + quote_from_bytes(os.fsencode(text))
    return text


def _decode(text: str) -> str:
    return os.fsdecode(unquote_to_bytes(text.removeprefix(MARK))) if text.startswith(MARK) else text


def _each_text(options: Options, change: Callable[[str], str]) -> Options:
    update: dict[str, Any] = {}
    for name in type(options).model_fields:
        value = getattr(options, name)
        if isinstance(value, str):
            update[name] = change(value)
        elif isinstance(value, list):
            update[name] = [change(item) if isinstance(item, str) else item for item in value]
    return options.model_copy(update=update)

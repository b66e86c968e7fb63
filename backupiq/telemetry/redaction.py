"""Taking secrets out of everything that is logged.

Three nets, each for what the others miss: values under keys that name a secret; patterns that betray one in free text
(URLs with passwords, connection strings, tokens, private keys); and the secrets this process knows, wherever they turn
up, in the spellings that programs give them.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any
from urllib.parse import quote, quote_plus

MASK = "***"
MAX_TEXT = 64 * 1024  # characters of one value; more is no log entry
MAX_DEPTH = 8
MAX_ITEMS = 1000
SHORT = 4  # a secret below this length is replaced only where it stands alone, or no log would be readable

_NAMES = (
    r"pass(?:word|wd|phrase)|pwd|secret|token|credential|authorization|cookie|signature|"
    r"(?:api|access|account|shared|private|secret|encryption|encrypt|master|mac|signing|ssh)[_-]?key|"
    r"key[_-]?(?:material|bytes|data)|connection[_-]?string|conn[_-]?str|shared[_-]?access"
)
_NAME = re.compile(rf"{_NAMES}|(?:^|[_-])(?:sas|auth|sig)(?:$|[_-])", re.IGNORECASE)
# Where a secret lies, and how many there are, is no secret.
_HARMLESS_NAME = re.compile(r"[_-](?:file|path|count|id|ids|found)$", re.IGNORECASE)

_VALUE = r"""(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^\s,;&"'}\])]+)"""
_ASSIGNMENT = re.compile(
    rf"""(?<![\w-])(?P<name>[\w.-]{{0,40}}?(?:{_NAMES})[\w.-]{{0,40}}|sas|sig)"""
    rf"""(?P<between>["']?\s{{0,4}}[:=]\s{{0,4}})(?P<value>{_VALUE})""",
    re.IGNORECASE,
)
_URL_PASSWORD = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,30}://[^\s/:@]{0,200}):[^\s/]*@")
_PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,40}PRIVATE KEY-----|\Z)", re.S
)
_SCHEME = re.compile(r"\b(Bearer|Basic|SharedKey|AWS4-HMAC-SHA256)\s+[A-Za-z0-9._~+/=:-]{6,}", re.IGNORECASE)
_TOKENS = re.compile(
    r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"
    r"|\bey[JK][A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]*"
    r"|\bgh[pousr]_[A-Za-z0-9]{20,}\b"
    r"|\bpn[ub]_[A-Za-z0-9]{20,}\b"
    r"|\bya29\.[A-Za-z0-9_-]{20,}"
    r"|\bGOOG[0-9A-Z]{20,}\b"
)
_AWS_SECRET = re.compile(r"(?<![A-Za-z0-9/+=])[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+=])")


class _Registry:
    """The secrets this process knows, as one pattern; reading it needs no lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._alternatives: set[str] = set()
        self.pattern: re.Pattern[str] | None = None

    def add(self, value: str) -> None:
        with self._lock:
            self._alternatives |= {_alternative(spelling) for spelling in _spellings(value)}
            # The longest first: one secret may begin with another.
            ordered = sorted(self._alternatives, key=lambda text: (-len(text), text))
            self.pattern = re.compile("|".join(ordered)) if ordered else None


_registry = _Registry()


def register_secret(value: str) -> None:
    """Replace this value by ``***`` in every event from now on, also as URLs, JSON, Python or base64 write it.

    Values of under `SHORT` characters are replaced only where they stand alone. An empty value is ignored.
    """
    if value.strip():
        _registry.add(value)


def _spellings(value: str) -> set[str]:
    whole = {
        value,
        value.strip(),
        quote(value, safe="", errors="replace"),
        quote(value, errors="replace"),
        quote_plus(value, errors="replace"),
        json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1],
        repr(value)[1:-1],
        ascii(value)[1:-1],
        repr(value.encode(errors="surrogateescape"))[2:-1],
        value.encode(errors="surrogateescape").decode(errors="backslashreplace"),
        value.replace("'", "'\"'\"'"),
        base64.b64encode(value.encode(errors="surrogateescape")).decode(),
    }
    # A key of many lines may be shown line by line.
    lines = {line.strip() for line in value.splitlines() if len(line.strip()) >= 16}
    return {spelling for spelling in whole | lines if spelling.strip()}


def _alternative(spelling: str) -> str:
    escaped = re.escape(spelling)
    return escaped if len(spelling) >= SHORT else rf"(?<!\w){escaped}(?!\w)"


def redact_text(text: str) -> str:
    """The text without any secret that is known or betrays itself; at most `MAX_TEXT` characters."""
    pattern = _registry.pattern
    if pattern is not None:
        text = pattern.sub(MASK, text)
    if len(text) > MAX_TEXT:
        text = f"{text[: MAX_TEXT // 2]} ... [{len(text) - MAX_TEXT} characters left out] ... {text[-MAX_TEXT // 2 :]}"
    if len(text) < SHORT:
        return text
    if "PRIVATE KEY" in text:
        text = _PRIVATE_KEY.sub(MASK, text)
    if "://" in text:
        text = _URL_PASSWORD.sub(rf"\1:{MASK}@", text)
    if " " in text:
        text = _SCHEME.sub(rf"\1 {MASK}", text)
    if "=" in text or ":" in text:
        text = _ASSIGNMENT.sub(_mask_assignment, text)
    text = _TOKENS.sub(MASK, text)
    return _AWS_SECRET.sub(_mask_if_random, text)


def _mask_assignment(match: re.Match[str]) -> str:
    name, between, value = match.group("name", "between", "value")
    if _HARMLESS_NAME.search(name) or value == MASK:
        return match.group()
    quotes = value[0] if value[0] in "\"'" else ""
    return f"{name}{between}{quotes}{MASK}{quotes}"


def _mask_if_random(match: re.Match[str]) -> str:
    text = match.group()
    # A path or a hexadecimal hash of that length lacks one of the three.
    upper, lower, digit = (sum(map(test, text)) for test in (str.isupper, str.islower, str.isdigit))
    return MASK if upper >= 4 and lower >= 4 and digit else text


def names_a_secret(name: str) -> bool:
    """Whether a value under this key must not be shown."""
    return _NAME.search(name) is not None and _HARMLESS_NAME.search(name) is None


def redact(value: Any, *, depth: int = 0) -> Any:
    """The value as plain JSON-like values without secrets.

    Mappings and collections keep their shape; bytes (file names) become text; objects become their text, and those
    that keep a secret (pydantic's ``SecretStr`` and its kin) become ``***``.
    """
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return redact_text(str(value))
    if isinstance(value, bytes | bytearray | memoryview):
        return redact_text(bytes(value[:MAX_TEXT]).decode(errors="backslashreplace"))
    if hasattr(value, "get_secret_value"):
        return MASK
    if depth < MAX_DEPTH:
        if isinstance(value, Mapping):
            return redact_mapping(value, depth=depth + 1)
        if isinstance(value, list | tuple | set | frozenset):
            return [redact(item, depth=depth + 1) for _, item in zip(range(MAX_ITEMS), value, strict=False)]
    shown: Callable[[Any], str] = str if isinstance(value, BaseException | PurePath) else repr
    try:
        return redact_text(shown(value))
    except Exception as error:  # noqa: BLE001 - whatever an object's own repr raises must not end a backup
        return f"<{type(value).__name__} that cannot be shown: {type(error).__name__}>"


def redact_mapping(values: Mapping[Any, Any], *, depth: int = 0) -> dict[str, Any]:
    """The same for a mapping; values under keys that name a secret become ``***``."""
    redacted: dict[str, Any] = {}
    for _, (key, value) in zip(range(MAX_ITEMS), values.items(), strict=False):
        name = key if isinstance(key, str) else str(redact(key, depth=depth))
        hidden = value is not None and not isinstance(value, bool) and names_a_secret(name)
        redacted[redact_text(name)] = MASK if hidden else redact(value, depth=depth)
    return redacted

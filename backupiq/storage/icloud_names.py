"""How keys are named in iCloud Drive: names that survive its rules, and say what an unfinished item is.

A repository's own names (``data``, 64 hex characters, ...) stay as they are, so that the folder, synced to a Mac, is a
repository that restic opens. Everything else a key may hold is escaped: iCloud Drive splits names at dots into a name
and an extension, answers downloads of ``.json`` files in ways its web client takes for errors, does not tell upper from
lower case, and normalises accents.
"""

from __future__ import annotations

import re
import secrets

from backupiq.errors import ValidationError
from backupiq.storage.provider import check_key, is_temporary_key

MAX_NAME = 230
"""Characters of an item's name: iCloud Drive takes 255 bytes, and `retired_name` needs some of them."""

_PLAIN = re.compile(r"[a-z0-9-]+\Z")
_ENCODED = re.compile(r"(?:[a-z0-9-]|_[0-9a-f]{2})+\Z")
_RETIRED = re.compile(r"(?P<name>.+)-tmp-01d[0-9a-f]{12}\Z", re.DOTALL)


def item_name(part: str) -> str:
    """The name of the item for one part of a key; bytes outside ``a-z0-9-`` become ``_`` and two hex digits.

    Raises ``ValidationError`` when that is longer than iCloud Drive allows.
    """
    if not _PLAIN.match(part):
        part = "".join(
            chr(byte) if _PLAIN.match(chr(byte)) and byte < 128 else f"_{byte:02x}" for byte in part.encode()
        )
    if len(part) > MAX_NAME:
        raise ValidationError(
            f"A storage key holds a name that iCloud Drive cannot store (over {MAX_NAME} characters)."
        )
    return part


def key_part(name: str) -> str | None:
    """The part of a key that an item's name stands for; ``None`` for items that are no object or folder of ours."""
    if not _ENCODED.match(name) or is_temporary_key(name):
        return None
    try:
        part = bytes.fromhex("".join(_hex(piece) for piece in re.findall(r"_..|.", name))).decode()
        return check_key(part) if item_name(part) == name else None
    except (UnicodeDecodeError, ValidationError):
        return None


def _hex(piece: str) -> str:
    return piece[1:] if len(piece) == 3 else f"{ord(piece):02x}"


def retired_name(name: str) -> str:
    """A new random name for an item that its successor is about to replace.

    It is a temporary file's to everyone else; should the successor never arrive, it still tells whose bytes it holds.
    """
    return f"{name}-tmp-01d{secrets.token_hex(6)}"


def retired_of(name: str) -> str | None:
    """The item's name before `retired_name`; ``None`` for every other name."""
    match = _RETIRED.match(name) if "-tmp-01d" in name else None
    return match["name"] if match else None

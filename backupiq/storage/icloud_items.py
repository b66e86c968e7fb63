"""What iCloud Drive holds, as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

ROOT_ID = "FOLDER::com.apple.CloudDocs::root"


class StaleItemError(Exception):
    """iCloud did not do it to the item as it was known: it has changed, or its name is taken. Look again."""


@dataclass(frozen=True, slots=True)
class Item:
    """A file or folder of iCloud Drive. ``modified_ns`` is unknown for one that was just stored."""

    drivewsid: str
    docwsid: str
    zone: str
    name: str
    folder: bool
    size: int
    etag: str
    modified_ns: int | None


@dataclass(frozen=True, slots=True)
class Children:
    """A folder and what is in it; ``complete`` is whether iCloud listed as many items as it says there are."""

    folder: Item
    items: list[Item]
    complete: bool = True


@dataclass(frozen=True, slots=True)
class Sent:
    """Content that iCloud holds and that no folder names yet."""

    document_id: str
    receipt: dict[str, Any]
    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Usage:
    """The account's space in bytes."""

    total: int
    used: int

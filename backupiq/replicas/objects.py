"""The objects of a repository that all replicas share, by key; and many of them in little memory.

Locks belong to the replica they stand at, and temporary files to nobody: neither is an object here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from backupiq.repository.repository import FileType

ORDER: Final = (FileType.KEY, FileType.CONFIG, FileType.PACK, FileType.INDEX, FileType.SNAPSHOT)
"""The order in which a replica is filled: at every moment it opens, and names nothing that it does not hold."""
SMALL: Final = frozenset({FileType.KEY, FileType.CONFIG, FileType.INDEX, FileType.SNAPSHOT})
"""Kinds whose objects are few or small, so that each is read whenever replicas are compared."""

_RANK: Final = {kind: rank for rank, kind in enumerate(ORDER)}
_KEY = re.compile(
    r"(?P<config>config)|(?P<folder>keys|index|snapshots)/(?P<name>[0-9a-f]{64})"
    r"|data/(?P<begins>[0-9a-f]{2})/(?P<pack>(?P=begins)[0-9a-f]{62})",
    re.ASCII,
)
_NAME_BYTES, _SIZE_BYTES = 32, 8
_RECORD = 1 + _NAME_BYTES + _SIZE_BYTES


def kind_of(key: str) -> FileType | None:
    """The kind of the object; None when the key is none of an object that replicas share."""
    found = _KEY.fullmatch(key)
    if found is None:
        return None
    if found["config"]:
        return FileType.CONFIG
    return FileType(found["folder"]) if found["folder"] else FileType.PACK


def fill_order(key: str) -> tuple[int, str]:
    """Sorts keys as ``ORDER`` says, then by name. KeyError for a key that `kind_of` does not know."""
    kind = kind_of(key)
    if kind is None:
        raise KeyError(key)
    return _RANK[kind], key


class PackedObjects(Mapping[str, int]):
    """Key to size in bytes, iterated in the order of `fill_order`: 41 bytes an object, so a million take 41 MB.

    Records are sorted once, when it is made; looking a key up is a binary search. Immutable.
    """

    def __init__(self, objects: Iterable[tuple[str, int]]) -> None:
        self._records = _joined([pack_object(key, size) for key, size in objects])

    @classmethod
    def of_records(cls, records: list[bytes]) -> PackedObjects:
        """From records of `pack_object`, in any order, which the list no longer holds afterwards."""
        made = cls(())
        made._records = _joined(records)
        return made

    def __len__(self) -> int:
        return len(self._records) // _RECORD

    def __iter__(self) -> Iterator[str]:
        for at in range(0, len(self._records), _RECORD):
            yield _key(self._records[at], self._records[at + 1 : at + 1 + _NAME_BYTES])

    def pairs(self) -> Iterator[tuple[str, int]]:
        """Key and size of each, in order: one pass, without a search for every key."""
        for at, key in zip(range(0, len(self._records), _RECORD), self, strict=True):
            yield key, int.from_bytes(self._records[at + 1 + _NAME_BYTES : at + _RECORD])

    def __getitem__(self, key: str) -> int:
        try:
            wanted = pack_object(key, 0)[:-_SIZE_BYTES]
        except KeyError:
            raise KeyError(key) from None
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            at = middle * _RECORD
            found = self._records[at : at + 1 + _NAME_BYTES]
            if found == wanted:
                return int.from_bytes(self._records[at + 1 + _NAME_BYTES : at + _RECORD])
            low, high = (middle + 1, high) if found < wanted else (low, middle)
        raise KeyError(key)


def _joined(records: list[bytes]) -> bytes:
    records.sort()
    joined = b"".join(records)
    records.clear()
    return joined


def pack_object(key: str, size: int) -> bytes:
    """One object as a record of 41 bytes: kind, name and size. KeyError when `kind_of` does not know the key."""
    rank, _ = fill_order(key)
    name = bytes(_NAME_BYTES) if ORDER[rank] is FileType.CONFIG else bytes.fromhex(key[-64:])
    return bytes((rank,)) + name + size.to_bytes(_SIZE_BYTES)


def _key(rank: int, name: bytes) -> str:
    kind = ORDER[rank]
    if kind is FileType.CONFIG:
        return str(kind)
    return f"data/{name[:1].hex()}/{name.hex()}" if kind is FileType.PACK else f"{kind}/{name.hex()}"

"""Indexes: which pack holds which blob, as files of the repository and as one table in memory.

File format: repository format, section 7. The table keeps a million blobs in well under 150 MB.
"""

from __future__ import annotations

import threading
from array import array
from collections.abc import Container, Iterable, Iterator, Sequence
from struct import Struct
from typing import Annotated, Literal, NamedTuple

import msgspec

from backupiq.errors import IndexDamagedError
from backupiq.repository.pack import MAX_PACK_SIZE, BlobType, PackBlob

_Id = Annotated[str, msgspec.Meta(min_length=64, max_length=64)]
_Uint32 = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]
_StoredLength = Annotated[int, msgspec.Meta(ge=32, lt=1 << 32)]


class _BlobJson(msgspec.Struct, omit_defaults=True, gc=False):
    id: _Id
    type: Literal["data", "tree"]
    offset: _Uint32
    length: _StoredLength
    uncompressed_length: _Uint32 = 0


class _PackJson(msgspec.Struct, gc=False):
    id: _Id
    blobs: list[_BlobJson] | None


class _IndexJson(msgspec.Struct, gc=False):
    packs: list[_PackJson] | None


_DECODER = msgspec.json.Decoder(_IndexJson)
_ENCODER = msgspec.json.Encoder()
_TYPES: dict[str, BlobType] = {"data": BlobType.DATA, "tree": BlobType.TREE}


class BlobLocation(NamedTuple):
    """Where a blob lies: pack id, offset and stored length in bytes, plaintext length (0: stored uncompressed)."""

    pack: bytes
    offset: int
    length: int
    uncompressed_length: int


def encode_index(packs: Iterable[tuple[bytes, Sequence[PackBlob]]]) -> bytes:
    """The JSON of an index file that lists every blob of ``packs``, with restic's trailing newline."""
    listed = [
        _PackJson(
            pack_id.hex(),
            [
                _BlobJson(
                    blob.id.hex(), "tree" if blob.type else "data", blob.offset, blob.length, blob.uncompressed_length
                )
                for blob in blobs
            ],
        )
        for pack_id, blobs in packs
    ]
    return _ENCODER.encode(_IndexJson(listed)) + b"\n"


def decode_index(data: bytes) -> list[tuple[bytes, list[PackBlob]]]:
    """The packs an index file's JSON names, each with its blobs in order of offset.

    Unknown keys are ignored, as the format asks. Raises IndexDamagedError for anything that is not an index.
    """
    try:
        parsed = _DECODER.decode(data)
        fromhex = bytes.fromhex
        packs = []
        for pack in parsed.packs or ():
            blobs = [
                PackBlob(fromhex(blob.id), _TYPES[blob.type], blob.offset, blob.length, blob.uncompressed_length)
                for blob in pack.blobs or ()
            ]
            blobs.sort(key=_offset)
            packs.append((fromhex(pack.id), blobs))
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise IndexDamagedError(reason=type(error).__name__) from error
    for pack_id, blobs in packs:
        _check_pack(pack_id, blobs)
    return packs


def _offset(blob: PackBlob) -> int:
    return blob.offset


def _check_pack(pack_id: bytes, blobs: Sequence[PackBlob]) -> None:
    # bytes.fromhex skips blanks, so 64 characters do not yet make 32 bytes.
    if len(pack_id) != 32:
        raise IndexDamagedError(reason="pack id")
    for blob_id, _, offset, length, _ in blobs:
        if len(blob_id) != 32 or offset + length > MAX_PACK_SIZE:
            raise IndexDamagedError(reason="blob", pack=pack_id.hex())


_ROW = Struct("<32sIIII")  # blob id, pack number * 2 + type, offset, stored length, plaintext length
_ROW_SIZE = _ROW.size
_PLACE = Struct("<IIII")
_HASH = Struct("<Q")  # ids are SHA-256, so their first bytes are as good as any hash of them
_FIRST_SLOTS = 1 << 10
_MAX_ROWS = 1 << 31


class MasterIndex:
    """Every blob of a repository: id and type to its place.

    One bytearray of 48-byte rows, grouped by pack, and an open-addressing table of row numbers for each blob type.
    Invariants: rows are only ever appended; a slot is set after its row is complete and never changed; a table that
    grows is built aside and put in place whole. So ``find`` and ``has`` need no lock and may run in any thread while
    one writer (held by the index's own lock) adds. Row 0 is unused: a slot of 0 is free. Half of the slots at least
    stay free. A blob that lies in several packs has a row in each; ``find`` gives the one added first.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows = bytearray(_ROW_SIZE)
        self._slots = [array("I", bytes(4 * _FIRST_SLOTS)), array("I", bytes(4 * _FIRST_SLOTS))]
        self._used = [0, 0]
        self._distinct = [0, 0]
        self._pack_ids: list[bytes] = []
        self._first_row = array("I")
        self._row_count = array("I")
        self._pack_numbers: dict[bytes, int] = {}
        self._more_segments: dict[bytes, list[int]] = {}

    def __len__(self) -> int:
        """Distinct blobs of both types."""
        return self._distinct[0] + self._distinct[1]

    def count(self, type: BlobType) -> int:  # noqa: A002 - the agreed name of the field
        """Distinct blobs of one type."""
        return self._distinct[type]

    def has(self, blob_id: bytes, type: BlobType) -> bool:  # noqa: A002
        """Whether the repository holds the blob."""
        slots = self._slots[type]
        mask = len(slots) - 1
        rows = self._rows
        slot = _HASH.unpack_from(blob_id)[0] & mask
        while row := slots[slot]:
            start = row * _ROW_SIZE
            if rows.startswith(blob_id, start):
                return True
            slot = (slot + 1) & mask
        return False

    def find(self, blob_id: bytes, type: BlobType) -> BlobLocation | None:  # noqa: A002
        """Where the blob lies (the copy added first), or None."""
        slots = self._slots[type]
        mask = len(slots) - 1
        rows = self._rows
        slot = _HASH.unpack_from(blob_id)[0] & mask
        while row := slots[slot]:
            start = row * _ROW_SIZE
            if rows.startswith(blob_id, start):
                return self._location(start)
            slot = (slot + 1) & mask
        return None

    def find_all(self, blob_id: bytes, type: BlobType) -> list[BlobLocation]:  # noqa: A002
        """Every copy of the blob, the one that ``find`` gives first."""
        slots = self._slots[type]
        mask = len(slots) - 1
        found = []
        slot = _HASH.unpack_from(blob_id)[0] & mask
        while row := slots[slot]:
            start = row * _ROW_SIZE
            if self._rows.startswith(blob_id, start):
                found.append(self._location(start))
            slot = (slot + 1) & mask
        return found

    def add_pack(self, pack_id: bytes, blobs: Sequence[PackBlob]) -> None:
        """Add a pack with all its blobs; blobs of it that are known already are left as they are."""
        with self._lock:
            if pack_id in self._pack_numbers:
                known = set(self.pack_blobs(pack_id))
                blobs = [blob for blob in blobs if blob not in known]
                if not blobs:
                    return
                self._more_segments.setdefault(pack_id, []).append(len(self._pack_ids))
            first = len(self._rows) // _ROW_SIZE
            if first + len(blobs) >= _MAX_ROWS:
                raise IndexDamagedError("The repository's indexes name more blobs than BackupIQ can hold.")
            number = len(self._pack_ids)
            self._pack_ids.append(pack_id)
            self._first_row.append(first)
            self._row_count.append(len(blobs))
            self._append_rows(number, blobs)
            self._pack_numbers.setdefault(pack_id, number)

    def packs(self) -> list[bytes]:
        """The ids of all packs, in the order they were added."""
        return list(self._pack_numbers)

    def has_pack(self, pack_id: bytes) -> bool:
        """Whether an index names the pack."""
        return pack_id in self._pack_numbers

    def without(self, packs: Container[bytes]) -> MasterIndex:
        """A new index of all packs but these."""
        kept = MasterIndex()
        for pack_id in self._pack_numbers:
            if pack_id not in packs:
                kept.add_pack(pack_id, self.pack_blobs(pack_id))
        return kept

    def pack_blobs(self, pack_id: bytes) -> list[PackBlob]:
        """Every blob of the pack, in the order they were added (by offset, when read from an index)."""
        return [
            PackBlob(blob_id, BlobType(tagged & 1), offset, length, plain)
            for blob_id, tagged, offset, length, plain in self._pack_rows(pack_id)
        ]

    def pack_end(self, pack_id: bytes) -> int:
        """Where the blobs of the pack end, in bytes: the offset of its header if the index is whole."""
        return max((offset + length for _, _, offset, length, _ in self._pack_rows(pack_id)), default=0)

    def _pack_rows(self, pack_id: bytes) -> Iterator[tuple[bytes, int, int, int, int]]:
        first = self._pack_numbers.get(pack_id)
        if first is None:
            return
        for number in (first, *self._more_segments.get(pack_id, ())):
            start = self._first_row[number] * _ROW_SIZE
            yield from _ROW.iter_unpack(bytes(self._rows[start : start + self._row_count[number] * _ROW_SIZE]))

    def _location(self, start: int) -> BlobLocation:
        tagged, offset, length, plain = _PLACE.unpack_from(self._rows, start + 32)
        return BlobLocation(self._pack_ids[tagged >> 1], offset, length, plain)

    def _append_rows(self, number: int, blobs: Sequence[PackBlob]) -> None:
        trees = sum(blob.type for blob in blobs)
        self._reserve(0, len(blobs) - trees)
        self._reserve(1, trees)
        rows, tables, used, distinct = self._rows, self._slots, self._used, self._distinct
        row = len(rows) // _ROW_SIZE
        pack, unpack_hash = _ROW.pack, _HASH.unpack_from
        tagged_number = number << 1
        for blob_id, kind, offset, length, plain in blobs:
            rows += pack(blob_id, tagged_number | kind, offset, length, plain)
            slots = tables[kind]
            mask = len(slots) - 1
            slot = unpack_hash(blob_id)[0] & mask
            copies = 0
            while other := slots[slot]:
                start = other * _ROW_SIZE
                copies += rows.startswith(blob_id, start)
                slot = (slot + 1) & mask
            slots[slot] = row
            used[kind] += 1
            distinct[kind] += not copies
            row += 1

    def _reserve(self, kind: int, more: int) -> None:
        old = self._slots[kind]
        size = len(old)
        needed = (self._used[kind] + more) * 2
        if needed <= size:
            return
        while size < needed:
            size *= 2
        slots = array("I", bytes(4 * size))
        mask = size - 1
        rows, unpack_hash = self._rows, _HASH.unpack_from
        # In the order of rows, so that the copy of a blob that was added first stays the first one found.
        for row in sorted(filter(None, old)):
            slot = unpack_hash(rows, row * _ROW_SIZE)[0] & mask
            while slots[slot]:
                slot = (slot + 1) & mask
            slots[slot] = row
        self._slots[kind] = slots

"""Packs: many sealed blobs in one file, with an encrypted list of them at its end.

A pack is ``blob 1 || ... || blob n || seal(header) || uint32le(len(seal(header)))`` (repository format, section 6). The
header names every blob in order; offsets are implied by the running sum of the stored lengths.
"""

from __future__ import annotations

import contextlib
import enum
import hashlib
import os
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import NamedTuple

from backupiq.errors import BackupIQError, PackError
from backupiq.repository.crypto import OVERHEAD, MasterKey
from backupiq.storage.oserrors import from_os_error

PLAIN_ENTRY_SIZE = 37
COMPRESSED_ENTRY_SIZE = 41
LENGTH_FIELD_SIZE = 4
MAX_SEALED_HEADER = 16 << 20
MAX_BLOBS = (MAX_SEALED_HEADER - OVERHEAD) // COMPRESSED_ENTRY_SIZE
MAX_PACK_SIZE = (1 << 32) - 1
MIN_PACK_SIZE = PLAIN_ENTRY_SIZE + OVERHEAD + LENGTH_FIELD_SIZE

_PLAIN_ENTRY = Struct("<BI32s")
_COMPRESSED_ENTRY = Struct("<BII32s")
_LENGTH_FIELD = Struct("<I")
_WRITE_BUFFER = 1 << 20


class BlobType(enum.IntEnum):
    """What a blob holds; its number is the one of uncompressed blobs in a pack header."""

    DATA = 0
    TREE = 1

    @property
    def label(self) -> str:
        """The type as the index spells it: ``data`` or ``tree``."""
        return "tree" if self else "data"


_TYPES = (BlobType.DATA, BlobType.TREE)


class PackBlob(NamedTuple):
    """One blob of a pack.

    ``length`` is the stored length in bytes, 32 bytes of encryption overhead included; ``uncompressed_length`` is the
    length of the plaintext, or 0 when the blob is stored without compression.
    """

    id: bytes
    type: BlobType
    offset: int
    length: int
    uncompressed_length: int


@dataclass(frozen=True, slots=True)
class FinishedPack:
    """A complete pack in the spool folder: its id is the SHA-256 of the file at ``path``, which has ``size`` bytes."""

    id: bytes
    path: Path
    size: int
    type: BlobType
    blobs: list[PackBlob]


def encode_header(blobs: Iterable[PackBlob]) -> bytes:
    """The plaintext header naming ``blobs``, which must lie in the pack without gaps, in this order."""
    parts = []
    for blob in blobs:
        if blob.uncompressed_length:
            parts.append(_COMPRESSED_ENTRY.pack(blob.type + 2, blob.length, blob.uncompressed_length, blob.id))
        else:
            parts.append(_PLAIN_ENTRY.pack(blob.type, blob.length, blob.id))
    return b"".join(parts)


def decode_header(header: bytes) -> list[PackBlob]:
    """The blobs a plaintext header names, with their offsets.

    Raises PackError when it is empty, cut short, names an unknown type or an impossible length.
    """
    blobs = []
    position = offset = 0
    end = len(header)
    while position < end:
        kind = header[position]
        entry_size = COMPRESSED_ENTRY_SIZE if kind & 2 else PLAIN_ENTRY_SIZE
        if kind > 3 or position + entry_size > end:
            raise PackError("A pack's list of blobs is damaged.", position=position, size=end)
        plain_length = 0
        if kind & 2:
            _, length, plain_length, blob_id = _COMPRESSED_ENTRY.unpack_from(header, position)
        else:
            _, length, blob_id = _PLAIN_ENTRY.unpack_from(header, position)
        if length < OVERHEAD or offset + length > MAX_PACK_SIZE or (kind & 2 and not plain_length):
            raise PackError("A pack's list of blobs holds an impossible length.", position=position, length=length)
        blobs.append(PackBlob(blob_id, _TYPES[kind & 1], offset, length, plain_length))
        offset += length
        position += entry_size
    if not blobs:
        raise PackError("A pack's list of blobs is empty.", size=end)
    return blobs


def header_size(blobs: Iterable[PackBlob]) -> int:
    """Bytes a pack needs beyond its blobs: the sealed header and its length field."""
    entries = sum(COMPRESSED_ENTRY_SIZE if blob.uncompressed_length else PLAIN_ENTRY_SIZE for blob in blobs)
    return entries + OVERHEAD + LENGTH_FIELD_SIZE


def packed_size(blobs: Sequence[PackBlob]) -> int:
    """Size in bytes of the pack file that holds exactly ``blobs`` (what ``restic check`` computes from an index)."""
    return sum(blob.length for blob in blobs) + header_size(blobs)


def sealed_header_length(tail: bytes, pack_size: int) -> int:
    """Length of the sealed header, from the last 4 bytes of a pack of ``pack_size`` bytes. PackError if impossible."""
    if len(tail) < LENGTH_FIELD_SIZE:
        raise PackError("A pack is too short to hold a list of blobs.", size=pack_size)
    (length,) = _LENGTH_FIELD.unpack(tail[-LENGTH_FIELD_SIZE:])
    if not OVERHEAD + PLAIN_ENTRY_SIZE <= length <= min(MAX_SEALED_HEADER, pack_size - LENGTH_FIELD_SIZE):
        raise PackError("A pack's list of blobs has an impossible size.", length=length, size=pack_size)
    return int(length)


def damaged_pack(pack_hex: str, why: str, **details: object) -> PackError:
    """The error for a pack that ``why`` completes the sentence about, saying what to do next."""
    return PackError(
        f"Pack {pack_hex} {why}. Copy it from another replica of the repository, or salvage what is left with "
        "`restic repair packs` (0.16.1 or newer).",
        pack=pack_hex,
        **details,
    )


class PackFile:
    """A pack being written to one spool file.

    Invariants: bytes reach the file and the hash in the order of ``add``; the file is 0600 and stays in ``folder``
    until ``finish`` gives it away or ``discard`` removes it; at most about 1 MiB beyond the last blob waits in memory.
    One thread at a time may use it. After an error only ``discard`` makes sense.
    """

    __slots__ = (
        "_blobs",
        "_fd",
        "_folder",
        "_given_away",
        "_hash",
        "_path",
        "_pending",
        "_pending_size",
        "_size",
        "type",
    )

    def __init__(self, folder: Path, type: BlobType) -> None:  # noqa: A002 - the agreed name of the field
        self.type = type
        self._folder = folder
        self._blobs: list[PackBlob] = []
        self._size = 0
        self._pending: list[bytes] = []
        self._pending_size = 0
        self._hash = hashlib.sha256()
        self._path = folder / f"pack-{secrets.token_hex(8)}.tmp"
        self._fd = -1
        self._given_away = False
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
        except OSError as error:
            raise self._spool_error(error) from error

    @property
    def size(self) -> int:
        """Bytes of sealed blobs so far, without the header."""
        return self._size

    @property
    def count(self) -> int:
        """Blobs so far."""
        return len(self._blobs)

    def fits(self, length: int) -> bool:
        """Whether a sealed blob of ``length`` bytes can still be added within the format's limits."""
        count = len(self._blobs) + 1
        return count <= MAX_BLOBS and self._size + length + count * COMPRESSED_ENTRY_SIZE + 36 <= MAX_PACK_SIZE

    def add(self, blob_id: bytes, sealed: bytes, uncompressed_length: int) -> None:
        """Append one sealed blob; ``uncompressed_length`` is 0 when it was stored without compression.

        Raises DiskFullError, TooManyOpenFilesError or ResourceError when the spool folder cannot take it.
        """
        length = len(sealed)
        if not self.fits(length):
            raise PackError("A pack cannot hold that blob: start another pack.", size=self._size, count=self.count)
        self._blobs.append(PackBlob(blob_id, self.type, self._size, length, uncompressed_length))
        self._size += length
        self._append(sealed)

    def finish(self, master: MasterKey) -> FinishedPack:
        """Write the header and close the file, which is then named by its id in hex. Raises as ``add`` does."""
        if not self._blobs:
            raise PackError("A pack without blobs cannot be stored.")
        header = master.seal(encode_header(self._blobs))
        self._append(header)
        self._append(_LENGTH_FIELD.pack(len(header)))
        self._flush()
        pack_id = self._hash.digest()
        path = self._folder / pack_id.hex()
        try:
            self._close()
            os.replace(self._path, path)
        except OSError as error:
            raise self._spool_error(error) from error
        self._given_away = True
        return FinishedPack(pack_id, path, self._size + len(header) + LENGTH_FIELD_SIZE, self.type, self._blobs)

    def discard(self) -> None:
        """Close and remove the spool file; harmless when it is gone already. After ``finish`` it does nothing."""
        if self._given_away:
            return
        self._pending.clear()
        if self._fd >= 0:
            with contextlib.suppress(OSError):  # the bytes are unwanted, so what is lost of them does not matter
                self._close()
        self._path.unlink(missing_ok=True)

    def _append(self, piece: bytes) -> None:
        self._pending.append(piece)
        self._pending_size += len(piece)
        if self._pending_size >= _WRITE_BUFFER:
            self._flush()

    def _flush(self) -> None:
        # One large update and write releases the GIL once; small ones would fight over it for every blob.
        data = self._pending[0] if len(self._pending) == 1 else b"".join(self._pending)
        self._pending.clear()
        self._pending_size = 0
        self._hash.update(data)
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            raise self._spool_error(error) from error

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        os.close(fd)

    def _spool_error(self, error: OSError) -> BackupIQError:
        folder = os.fspath(self._folder)
        return from_os_error(error, f"write in the spool folder {folder}", at_destination=False, folder=folder)

"""The envelope of index, snapshot and lock files: sealed, compressed JSON.

Format: restic's design document, "Unpacked Data Format": ``seal(0x02 || zstd(JSON))``; a plaintext that begins with
``{`` or ``[`` is JSON that was not compressed.
"""

from __future__ import annotations

import threading

import zstandard

from backupiq.errors import RepositoryDamagedError
from backupiq.repository.crypto import MasterKey

MAX_UNPACKED_SIZE = 512 * 1024 * 1024
"""Largest JSON a file may unpack to, in bytes. restic's own largest indexes are some tens of MiB."""

_COMPRESSED = 0x02
_LEVEL = 3
_STEP = 1024


class _Codecs(threading.local):
    """zstandard's objects must not be used by two threads at once."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=False, write_content_size=True)
        self.decompressor = zstandard.ZstdDecompressor()


_codecs = _Codecs()


def encode_unpacked(master: MasterKey, json: bytes) -> bytes:
    """The bytes to store for ``json``. What was compressed is decoded again and compared before it is sealed."""
    compressed = _codecs.compressor.compress(json)
    if _decompress(compressed, RepositoryDamagedError) != json:
        raise RepositoryDamagedError(
            "Compressing a file for the repository gave bytes that do not decode to it. Check this machine's memory."
        )
    return master.seal(b"\x02" + compressed)


def decode_unpacked(
    master: MasterKey, stored: bytes, *, what: type[RepositoryDamagedError] = RepositoryDamagedError
) -> bytes:
    """The JSON of a stored file.

    Raises CryptoError when it is not authentic, and ``what`` when its envelope is unknown, cannot be decompressed or
    unpacks to more than MAX_UNPACKED_SIZE.
    """
    plaintext = master.open(stored)
    if not plaintext:
        raise what(f"A file of the repository is empty. {what.hint}")
    if plaintext[0] in b"{[":
        return plaintext
    if plaintext[0] != _COMPRESSED:
        raise what(f"A file of the repository has an envelope that is not known. {what.hint}", first_byte=plaintext[0])
    return _decompress(memoryview(plaintext)[1:], what)


def _decompress(frame: bytes | memoryview, what: type[RepositoryDamagedError]) -> bytes:
    try:
        declared = zstandard.frame_content_size(frame)
        if declared > MAX_UNPACKED_SIZE:
            raise what(f"A file of the repository unpacks to more than it may. {what.hint}", size=declared)
        if declared >= 0:
            return _codecs.decompressor.decompress(frame, allow_extra_data=False)
        return _decompress_undeclared(memoryview(frame), what)
    except (zstandard.ZstdError, MemoryError) as error:
        raise what(f"A file of the repository cannot be decompressed. {what.hint}", reason=str(error)) from None


def _decompress_undeclared(frame: memoryview, what: type[RepositoryDamagedError]) -> bytes:
    """A frame that does not say its size, as restic writes small ones: fed in steps so that the output stays bounded.

    A block of 4 bytes can stand for 128 KiB, so one step gives at most 32 MiB.
    """
    stream = _codecs.decompressor.decompressobj()
    pieces: list[bytes] = []
    size = position = 0
    while position < len(frame) and not stream.eof:
        piece = stream.decompress(frame[position : position + _STEP])
        position += _STEP
        pieces.append(piece)
        size += len(piece)
        if size > MAX_UNPACKED_SIZE:
            raise what(f"A file of the repository unpacks to more than it may. {what.hint}", size=size)
    if not stream.eof or stream.unused_data or position < len(frame):
        raise what(f"A file of the repository is cut off, or longer than it may be. {what.hint}")
    return b"".join(pieces)

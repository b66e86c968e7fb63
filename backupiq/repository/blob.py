"""Opening one stored blob: authentic, decompressed within bounds, and of the content its id stands for.

Format: repository format, section 6. Imports little, because helper processes wait for it.
"""

from __future__ import annotations

import hashlib
import threading

import zstandard

from backupiq.errors import PackError
from backupiq.repository.crypto import MasterKey


class _Decompressor(threading.local):
    def __init__(self) -> None:
        self.decompress = zstandard.ZstdDecompressor().decompress


_thread = _Decompressor()


def open_blob(master: MasterKey, sealed: bytes | memoryview, blob_id: bytes, uncompressed_length: int) -> bytes:
    """The plaintext of a stored blob, which is authentic and has the hash ``blob_id``.

    ``uncompressed_length`` is the index's (0: not compressed) and bounds the decompression. Raises CryptoError and
    PackError. Safe in any thread.
    """
    plain = master.open(sealed)
    if uncompressed_length:
        try:
            # A size in the frame's own header would overrule the bound, so it must agree before it is trusted.
            if zstandard.frame_content_size(plain) not in (uncompressed_length, -1):
                raise PackError("A blob does not have the size that the index names.", blob=blob_id.hex())
            plain = _thread.decompress(plain, max_output_size=uncompressed_length)
        except zstandard.ZstdError as error:
            raise PackError("A blob cannot be decompressed.", blob=blob_id.hex()) from error
        if len(plain) != uncompressed_length:
            raise PackError("A blob does not have the size that the index names.", blob=blob_id.hex())
    if hashlib.sha256(plain).digest() != blob_id:
        raise PackError("A blob does not have the content its id stands for.", blob=blob_id.hex())
    return plain

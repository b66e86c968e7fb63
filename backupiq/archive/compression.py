"""How a blob is stored: compressed with zstd where that makes it smaller, as it is otherwise."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import zstandard

Stored: TypeAlias = bytes | memoryview

LEVEL = 3
SMALL = 512 << 10
SAMPLE_FROM = 24 << 10
SAMPLE_SIZE = 16 << 10
SAMPLE_PART = 16
"""A sample is a sixteenth of the blob, up to SAMPLE_SIZE: three of them cost a fifth of compressing it at most."""
SHRINKS = 0.96
"""A sample must come out at less than this part of its size to be worth the whole."""


def _small_parameters() -> zstandard.ZstdCompressionParameters:
    """Level 3 for blobs up to 512 KiB, but with tables that fit the processor's cache.

    Measured on source code, data and settings: a sixth less time for a thousandth more bytes.
    """
    return zstandard.ZstdCompressionParameters(
        strategy=zstandard.STRATEGY_DFAST,
        window_log=19,
        hash_log=16,
        chain_log=14,
        search_log=1,
        min_match=5,
        target_length=0,
        write_checksum=False,
        write_content_size=True,
    )


class BlobCompressor:
    """Decides and compresses; used by many threads at once, each with its own zstd contexts.

    Frames carry no checksum, since blobs are authenticated, and always their content's size.
    """

    def __init__(self) -> None:
        self._local = threading.local()

    def compress(self, data: bytes | memoryview) -> tuple[Stored, int]:
        """What to store, and the plain length when it is compressed (else 0)."""
        return self.compress_many([data])[0]

    def compress_always(self, data: bytes | memoryview) -> tuple[Stored, int]:
        """The same for a tree, which the format wants compressed whatever its size becomes."""
        return self._codec(len(data)).compress(data), len(data)

    def compress_many(self, blobs: Sequence[bytes | memoryview]) -> list[tuple[Stored, int]]:
        """The same for several blobs, which are compressed in one call without the interpreter's lock between them."""
        forms: list[tuple[Stored, int]] = [(blob, 0) for blob in blobs]
        worth = [at for at, blob in enumerate(blobs) if len(blob) < SAMPLE_FROM or self._shrinks(blob)]
        for at, packed in zip(worth, self._all([blobs[at] for at in worth]), strict=True):
            size = len(blobs[at])
            if len(packed) < size:
                forms[at] = (packed, size)
        return forms

    def _all(self, blobs: list[bytes | memoryview]) -> Sequence[Stored]:
        codec = self._codec(max(map(len, blobs), default=0))
        at_once: Callable[..., Iterable[bytes]] | None = getattr(codec, "multi_compress_to_buffer", None)
        if at_once is None or len(blobs) < 2:
            return [codec.compress(blob) for blob in blobs]
        return [memoryview(segment) for segment in at_once(blobs, threads=0)]

    def _shrinks(self, data: bytes | memoryview) -> bool:
        """Whether one of three samples shrinks (facts on semantics, "Compressibility")."""
        view = memoryview(data)
        size = min(SAMPLE_SIZE, len(view) // SAMPLE_PART)
        places = (0, len(view) // 2, len(view) - size)
        sampler = self._sampler()
        return any(len(sampler.compress(view[at : at + size])) < size * SHRINKS for at in places)

    def _codec(self, longest: int) -> zstandard.ZstdCompressor:
        name = "small" if longest <= SMALL else "codec"
        found: zstandard.ZstdCompressor | None = getattr(self._local, name, None)
        if found is None:
            if longest <= SMALL:
                found = zstandard.ZstdCompressor(compression_params=_small_parameters())
            else:
                found = zstandard.ZstdCompressor(level=LEVEL, write_checksum=False)
            setattr(self._local, name, found)
        return found

    def _sampler(self) -> zstandard.ZstdCompressor:
        found: zstandard.ZstdCompressor | None = getattr(self._local, "sampler", None)
        if found is None:
            found = self._local.sampler = zstandard.ZstdCompressor(level=1, write_checksum=False)
        return found

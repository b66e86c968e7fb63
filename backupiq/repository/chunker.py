"""Cutting files into chunks at places their content decides, so that a small edit changes few chunks.

FastCDC with chunks of 512 KiB to 8 MiB, keyed by the repository so that chunk sizes say nothing to those who only see
the packs. Long runs of zeros come out as chunks of 512 KiB zeros, which ``restic restore --sparse`` turns into holes
(repository format, section 12).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterator
from typing import Any

from backupiq.repository.config import RepositoryConfig
from backupiq.repository.crypto import MasterKey

KIB = 1 << 10
MIN = 512 * KIB
AVG = 1024 * KIB
MAX = 8192 * KIB
ZERO_BLOB = bytes(MIN)
MAX_SEED = (1 << 63) - 1

_READ = 4096 * KIB
_PAGE = 4 * KIB
_ZERO_PAGE = bytes(_PAGE)
_PROBE = MIN // 2  # any run of MIN zeros covers a whole page that begins at a multiple of this


def chunker_seed(master: MasterKey, config: RepositoryConfig) -> int:
    """The repository's own seed, 1 to 2**63 - 1: the same for every program run, unknown without the master key."""
    secret = master.encrypt + master.mac_k + master.mac_r
    digest = hmac.digest(secret, b"backupiq chunker 1\0" + config.id.encode(), hashlib.sha256)
    return int.from_bytes(digest[:8], "big") % MAX_SEED + 1


class Chunker:
    """Cuts streams into chunks. One object per thread; it keeps nothing between streams.

    The cuts depend on the seed and the bytes alone, never on how many bytes a read returns.
    """

    def __init__(self, seed: int) -> None:
        self._cutter = _new_cutter(seed)

    def chunks(self, read: Callable[[int], bytes]) -> Iterator[bytes]:
        """The chunks of a stream, in order; nothing for an empty one.

        ``read(n)`` returns at most ``n`` bytes, and none at the end only. At most about 16 MiB are held at a time.
        What ``read`` raises passes through.
        """
        first = read(_READ)
        following = read(_READ - len(first)) if 0 < len(first) < _READ else b""
        if len(first) < _READ and not following:
            yield from self.split(first)
            return
        buffer = bytearray(first)
        buffer += following
        del first, following
        at_end = False
        while True:
            at_end = at_end or not _fill(buffer, read)
            start = 0
            for end in self._cuts(buffer, at_end):
                yield bytes(memoryview(buffer)[start:end])
                start = end
            del buffer[:start]
            if at_end:
                return

    def split(self, data: bytes) -> Iterator[bytes]:
        """The chunks of a whole content that is in memory already; the same ones ``chunks`` gives."""
        if len(data) <= MIN:
            if data:
                yield data
            return
        start = 0
        for end in self._cuts(data, True):
            yield data[start:end]
            start = end

    def _cuts(self, data: bytes | bytearray, at_end: bool) -> Iterator[int]:
        """Ends of the chunks of ``data`` that further bytes cannot change, in order."""
        size = len(data)
        start = 0
        while start < size:
            end = start + next(self._cutter.cut_buf(memoryview(data)[start : start + MAX])).length
            if end == size and not at_end and end - start < MAX:
                return
            run = _zero_run(data, start, end)
            if run is None:
                yield end
                start = end
                continue
            zeros_start, zeros_end = run
            if zeros_start > start:
                yield zeros_start
            for start in range(zeros_start + MIN, zeros_end + 1, MIN):
                yield start


def _new_cutter(seed: int) -> Any:
    try:
        from pyfastcdc.cy.fastcdc import FastCDC
    except ImportError:
        from pyfastcdc import FastCDC
    return FastCDC(avg_size=AVG, min_size=MIN, max_size=MAX, seed=seed)


def _fill(buffer: bytearray, read: Callable[[int], bytes]) -> bool:
    """Read on into ``buffer``, whose undecided rest is shorter than MAX; False at the end of the stream."""
    wanted = len(buffer) + _READ
    while len(buffer) < wanted:
        piece = read(wanted - len(buffer))
        if not piece:
            return False
        buffer += piece
    return True


def _zero_run(data: bytes | bytearray, start: int, end: int) -> tuple[int, int] | None:
    """The first run of at least MIN zeros within ``data[start:end]``."""
    probe = start
    while probe + _PAGE <= end:
        if data[probe] == 0 and data[probe : probe + _PAGE] == _ZERO_PAGE:
            zeros_start = _run_start(data, start, probe)
            zeros_end = _run_end(data, probe + _PAGE, end)
            if zeros_end - zeros_start >= MIN:
                return zeros_start, zeros_end
            probe = zeros_end
        probe += _PROBE - (probe - start) % _PROBE
    return None


def _run_start(data: bytes | bytearray, start: int, position: int) -> int:
    while position - _PAGE >= start and data[position - _PAGE : position] == _ZERO_PAGE:
        position -= _PAGE
    page = data[max(start, position - _PAGE) : position]
    return position - (len(page) - len(page.rstrip(b"\0")))


def _run_end(data: bytes | bytearray, position: int, end: int) -> int:
    while position + _PAGE <= end and data[position : position + _PAGE] == _ZERO_PAGE:
        position += _PAGE
    page = data[position : min(end, position + _PAGE)]
    return position + (len(page) - len(page.lstrip(b"\0")))

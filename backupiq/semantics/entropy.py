"""How much a text varies: Shannon's entropy."""

from __future__ import annotations

import math
from collections import Counter


def shannon_entropy(data: bytes) -> float:
    """Bits per byte of the distribution of bytes in ``data``: 0 (one value only, or nothing) to 8.

    H = log2(n) - sum(c * log2(c)) / n over the counts c of each value (Shannon 1948, section 6).
    """
    size = len(data)
    if size < 2:
        return 0.0
    return math.log2(size) - sum(count * math.log2(count) for count in Counter(data).values()) / size

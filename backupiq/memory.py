"""Keeping the C library from holding memory that a run has given back."""

from __future__ import annotations

import ctypes
import sys

M_ARENA_MAX = -8
"""glibc's malloc.h: how many heaps threads may have."""
ARENAS = 2


def share_heaps() -> bool:
    """Let the threads of this process share two heaps; whether the C library could be told so.

    glibc gives each thread a heap of its own, and what chunks and packs leave behind in each is not given back: a
    quarter of the memory of an upload to two clouds. Heaps that exist already stay. Other C libraries have none.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and mallopt(M_ARENA_MAX, ARENAS) == 1

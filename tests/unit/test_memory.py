"""Threads share heaps once they were told to."""

from __future__ import annotations

import subprocess
import sys

import pytest

from backupiq.memory import ARENAS

RESERVED = 32 << 20
"""A heap of a thread reserves 64 MiB of addresses, of which most stays without rights."""
PROGRAM = f"""
import ctypes, threading
from backupiq.memory import share_heaps
if %s:
    assert share_heaps()
malloc = ctypes.CDLL(None).malloc
malloc.restype = ctypes.c_void_p
gate = threading.Barrier(9)
def work():
    gate.wait()
    assert malloc(5000)
    gate.wait()
threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads: thread.start()
gate.wait(); gate.wait()
for thread in threads: thread.join()
spans = [line.split()[:2] for line in open("/proc/self/maps")]
sizes = [(int(span.split("-")[1], 16) - int(span.split("-")[0], 16)) for span, rights in spans if rights == "---p"]
print(sum(1 for size in sizes if {RESERVED} <= size <= {2 * RESERVED}))
"""


def heaps_of_threads(*, shared: bool) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM % shared], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc has heaps for each thread")
def test_threads_share_two_heaps_instead_of_having_their_own() -> None:
    assert heaps_of_threads(shared=True) < ARENAS
    assert heaps_of_threads(shared=False) > ARENAS

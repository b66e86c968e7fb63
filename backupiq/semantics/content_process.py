"""The side of reading contents that runs in helper processes: paths come in, what was found goes out."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import msgspec

from backupiq.archive.reading import open_file
from backupiq.archive.worker_child import Child
from backupiq.errors import CancelledRunError
from backupiq.semantics.contents import Content, Wanted, examine
from backupiq.semantics.secrets import SecretScanner

MODULE = "backupiq.semantics.content_process"
"""What `WorkerProcess` is to start."""


def read_beginning(path: bytes, limit: int) -> bytes:
    """At most the first ``limit`` bytes of a regular file on this machine; links are not followed. OSError."""
    descriptor = open_file(path)
    try:
        parts = []
        while limit > 0 and (part := os.read(descriptor, limit)):
            parts.append(part)
            limit -= len(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)


def start_worker(setup: bytes, child: Child) -> Callable[[memoryview, memoryview], tuple[bytes, Sequence[bytes]]]:
    """See `backupiq.archive.worker_child`. The setup is the key of the hashes of secrets."""
    scanner = SecretScanner(setup)
    decode = msgspec.msgpack.Decoder(list[Wanted]).decode
    encode = msgspec.msgpack.Encoder().encode

    def answer(head: memoryview, bulk: memoryview) -> tuple[bytes, Sequence[bytes]]:
        found: list[Content] = []
        for file in decode(head):
            if child.should_stop():
                raise CancelledRunError
            found.append(examine(file, read_beginning, scanner))
        return encode(found), ()

    return answer

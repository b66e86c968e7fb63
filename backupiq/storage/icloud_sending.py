"""What is sent to iCloud Drive: the source of an upload, read piece by piece, in the form its web client sends it."""

from __future__ import annotations

import contextlib
import io
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

from backupiq.errors import ResourceError
from backupiq.storage.disk import Transfer, open_for_reading
from backupiq.storage.oserrors import machine_errors


class Source:
    """The bytes to upload and their number, known before the first is read."""

    def __init__(self, size: int, read: Callable[[int], Iterator[memoryview]]) -> None:
        self.size = size
        self._read = read

    def pieces(self, step: int) -> Iterator[memoryview]:
        """All the bytes once, ``step`` of them at a time; ``ResourceError`` when a file has become shorter."""
        left = self.size
        for piece in self._read(step):
            # A file that grows is sent as it was.
            if sent := piece[:left]:
                left -= len(sent)
                yield sent
        if left:
            raise ResourceError("The file to upload became shorter while it was sent. Run the command again.")


@contextlib.contextmanager
def open_source(source: Path | bytes | memoryview) -> Iterator[Source]:
    """The source of an upload, open inside the block; ``ResourceError`` when it cannot be read."""
    if isinstance(source, Path):
        with machine_errors("open the file to upload"):
            file = open_for_reading(source)
        with file:
            with machine_errors("look at the file to upload"):
                size = os.fstat(file.fileno()).st_size
            yield Source(size, lambda step: _file_pieces(file, step))
        return
    with memoryview(source).cast("B") as view:
        yield Source(len(view), lambda step: (view[start : start + step] for start in range(0, len(view), step)))


def _file_pieces(file: io.FileIO, step: int) -> Iterator[memoryview]:
    buffer = memoryview(bytearray(step))
    while True:
        with machine_errors("read the file to upload"):
            count = file.readinto(buffer) or 0
        if not count:
            return
        yield buffer[:count]


class FormBody:
    """A form with one file in it, of known length, that never holds more than a piece of the file.

    requests sends an object that has a length and can be iterated as it is; given a file, pyicloud and requests would
    hold the whole of it twice.
    """

    def __init__(self, name: str, source: Source, transfer: Transfer) -> None:
        boundary = secrets.token_hex(16)
        self.content_type = f"multipart/form-data; boundary={boundary}"
        self._head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode()
        self._tail = f"\r\n--{boundary}--\r\n".encode()
        self._source = source
        self._transfer = transfer

    def __len__(self) -> int:
        return len(self._head) + self._source.size + len(self._tail)

    def __iter__(self) -> Iterator[bytes | memoryview]:
        self._transfer.check()
        yield self._head
        for piece in self._source.pieces(self._transfer.piece):
            self._transfer.saw(piece)
            yield piece
        yield self._tail

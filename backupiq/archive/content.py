"""Which blobs hold each file's content, for every file of a run: about 45 bytes a file of one blob."""

from __future__ import annotations

import enum
import threading
from array import array
from collections.abc import Callable

from backupiq.discovery.entry import FileEntry, UnreadableItem
from backupiq.errors import CancelledRunError

ID_SIZE = 32


class ContentState(enum.IntEnum):
    """What is known of a file's content."""

    PENDING = 0
    UNCHANGED = 1
    """Taken from the parent snapshot unread."""
    STORED = 2
    """Read and stored in this run."""
    FAILED = 3
    """Could not be read; left out of the snapshot."""


class ContentTable:
    """Content by ordinal.

    Invariants: an ordinal is set at most once to STORED, UNCHANGED or FAILED; ``set`` may be called from any thread;
    ``get`` sees a whole entry or PENDING, never half of one.
    """

    def __init__(self, entries: int) -> None:
        self._state = bytearray(entries)
        self._start = array("Q", bytes(8 * entries))
        self._count = array("I", bytes(4 * entries))
        self._ids = bytearray()
        self._lock = threading.Lock()
        self._told = threading.Condition(self._lock)
        self._complete = False
        self.restated: dict[int, FileEntry] = {}
        """Entries whose file had changed between the walk and its reading, as they were when they were read."""
        self.unreadable: list[UnreadableItem] = []

    def set(self, ordinal: int, ids: bytes, state: ContentState) -> None:
        """Record the file's blobs: their raw ids one after another."""
        with self._lock:
            self._start[ordinal] = len(self._ids)
            self._count[ordinal] = len(ids) // ID_SIZE
            self._ids += ids
            self._state[ordinal] = state

    def restate(self, ordinal: int, entry: FileEntry) -> None:
        """Record what the file was when it was read."""
        with self._lock:
            self.restated[ordinal] = entry

    def fail(self, ordinal: int, item: UnreadableItem) -> None:
        """Record that the file could not be read."""
        with self._lock:
            self._state[ordinal] = ContentState.FAILED
            self.unreadable.append(item)

    def tell(self) -> None:
        """Wake those who wait for a file: some were set since."""
        with self._told:
            self._told.notify_all()

    def complete(self) -> None:
        """Nothing more will be set: nobody needs to wait."""
        with self._told:
            self._complete = True
            self._told.notify_all()

    def known_state(self, ordinal: int, stopped: Callable[[], bool]) -> ContentState:
        """What is known of the file, once something is or nothing will be; CancelledRunError when stopped before."""
        if not self._state[ordinal]:
            with self._told:
                while not self._state[ordinal] and not self._complete:
                    if stopped():
                        raise CancelledRunError
                    self._told.wait(0.2)
        return ContentState(self._state[ordinal])

    def state(self, ordinal: int) -> ContentState:
        """What is known of the file."""
        return ContentState(self._state[ordinal])

    def hex_ids(self, ordinal: int) -> list[str]:
        """The file's blobs as lower-case hex."""
        start = self._start[ordinal]
        count = self._count[ordinal]
        text = self._ids[start : start + count * ID_SIZE].hex()
        return [text[i : i + 64] for i in range(0, len(text), 64)]

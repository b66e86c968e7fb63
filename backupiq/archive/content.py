"""Which blobs hold each file's content, for every file of a run: about 50 bytes a file of one blob."""

from __future__ import annotations

import enum
import threading
from array import array
from collections.abc import Callable, Iterable

from backupiq.archive.xattrs import Xattr
from backupiq.discovery.entry import FileEntry, UnreadableItem
from backupiq.errors import CancelledRunError

ID_SIZE = 32
MOST_ATTRIBUTE_BYTES = 16 << 20
"""Different sets of extended attributes that are kept take this at most; those of further files are read by path."""
ATTRIBUTE_BYTES = 400
"""What one of them takes beside its name and value."""

_UNKNOWN, _NONE = 0, 1
_FIRST_SET = 2


class ContentState(enum.IntEnum):
    """What is known of a file's content."""

    PENDING = 0
    UNCHANGED = 1
    """Taken from the parent snapshot unread."""
    STORED = 2
    """Read and stored in this run."""
    FAILED = 3
    """Could not be read; left out of the snapshot."""


_FAILED = int(ContentState.FAILED)


class ContentTable:
    """Content by ordinal.

    Invariants: an ordinal is set at most once to STORED, UNCHANGED or FAILED; every method may be called from any
    thread; whoever sees that an ordinal is set sees all of its entry, never half of one.
    """

    def __init__(self, entries: int) -> None:
        self._state = bytearray(entries)
        self._start = array("Q", bytes(8 * entries))
        self._count = array("I", bytes(4 * entries))
        self._ids = bytearray()
        self._attributes = array("I", bytes(4 * entries))
        self._sets: list[tuple[Xattr, ...]] = []
        self._numbers: dict[tuple[Xattr, ...], int] = {}
        self._attribute_bytes = 0
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

    def set_read(self, files: Iterable[tuple[int, bytes, tuple[Xattr, ...] | None]]) -> None:
        """Record files that were read and stored: the ordinal, the raw ids and, where it was seen, the attributes."""
        stored = int(ContentState.STORED)
        starts, counts, known, states = self._start, self._count, self._attributes, self._state
        with self._lock:
            for ordinal, ids, attributes in files:
                starts[ordinal] = len(self._ids)
                counts[ordinal] = len(ids) // ID_SIZE
                self._ids += ids
                if attributes is not None:
                    known[ordinal] = self._number(attributes) if attributes else _NONE
                states[ordinal] = stored

    def _number(self, attributes: tuple[Xattr, ...]) -> int:
        """The number of that set; many files have the same."""
        number = self._numbers.get(attributes)
        if number is None:
            size = sum(ATTRIBUTE_BYTES + len(name) + len(value) for name, value in attributes)
            if self._attribute_bytes + size > MOST_ATTRIBUTE_BYTES:
                return _UNKNOWN
            self._attribute_bytes += size
            number = self._numbers[attributes] = _FIRST_SET + len(self._sets)
            self._sets.append(attributes)
        return number

    def attributes(self, ordinal: int) -> tuple[Xattr, ...] | None:
        """The extended attributes that were seen when the file was read; None when nobody looked."""
        number = self._attributes[ordinal]
        if number < _FIRST_SET:
            return () if number == _NONE else None
        return self._sets[number - _FIRST_SET]

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

    def has_content(self, ordinal: int, stopped: Callable[[], bool], *, wait: bool = True) -> bool:
        """Whether the file's content is known: UNCHANGED or STORED.

        With ``wait`` only once it is set or nothing will be set any more; CancelledRunError when stopped before.
        """
        state = self._state[ordinal]
        if not state and wait:
            with self._told:
                while not self._state[ordinal] and not self._complete:
                    if stopped():
                        raise CancelledRunError
                    self._told.wait(0.2)
            state = self._state[ordinal]
        return 0 < state < _FAILED

    def state(self, ordinal: int) -> ContentState:
        """What is known of the file."""
        return ContentState(self._state[ordinal])

    def hex_ids(self, ordinal: int) -> list[str]:
        """The file's blobs as lower-case hex."""
        start = self._start[ordinal]
        count = self._count[ordinal]
        text = self._ids[start : start + count * ID_SIZE].hex()
        if count == 1:
            return [text]
        return [text[i : i + 64] for i in range(0, len(text), 64)]

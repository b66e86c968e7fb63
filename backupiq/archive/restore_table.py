"""What a restore plan holds, kept compact: about 140 bytes a file of one blob, its name included."""

from __future__ import annotations

import stat
from array import array
from dataclasses import dataclass

import msgspec

from backupiq.archive.metadata import Attributes

ID_SIZE = 32


class PlannedFolder(msgspec.Struct, gc=False):
    """A folder: its parent's number (number 0 is the target itself), its raw name, metadata of the snapshot.

    ``attributes`` is a number in the plan's table, or -1 for a folder that keeps what it has (the target).
    """

    parent: int
    name: bytes
    attributes: int
    mtime_ns: int
    atime_ns: int


class PlannedOther(msgspec.Struct, gc=False):
    """A symlink (``link`` is its target), FIFO, socket or device (``device`` is st_rdev).

    ``format`` holds the type bits of st_mode. ``same_as`` is the number of the other item that is the same file
    (hard link), or -1.
    """

    folder: int
    name: bytes
    format: int
    attributes: int
    mtime_ns: int
    atime_ns: int
    link: bytes = b""
    device: int = 0
    same_as: int = -1

    @property
    def is_symlink(self) -> bool:
        """Whether it is a symbolic link."""
        return self.format == stat.S_IFLNK


class PlannedHardLink(msgspec.Struct, gc=False):
    """Another name of the file in row ``row`` of the plan's files."""

    folder: int
    name: bytes
    row: int


class TimeColumn:
    """Nanoseconds since 1970 in 8 bytes each; the few beyond the years 1677 to 2262 are kept aside."""

    __slots__ = ("_far", "_near")

    def __init__(self) -> None:
        self._near = array("q")
        self._far: dict[int, int] = {}

    def append(self, ns: int) -> None:
        """Add the time of the next row."""
        try:
            self._near.append(ns)
        except OverflowError:
            self._far[len(self._near)] = ns
            self._near.append(0)

    def __getitem__(self, row: int) -> int:
        near: int = self._near[row]
        return near or self._far.get(row, 0)


@dataclass(frozen=True, slots=True)
class FileRow:
    """One regular file: ``ids`` are its blobs' raw ids one after another, ``size`` what its node says."""

    folder: int
    name: bytes
    size: int
    mtime_ns: int
    atime_ns: int
    attributes: int
    ids: bytes


class FileTable:
    """Regular files by row, as columns. Blobs of all files are numbered through: ordinals.

    Rows are only appended; reading from many threads is safe while nobody appends.
    """

    __slots__ = ("_ids", "atime", "attributes", "folder", "mtime", "names", "owner", "size", "start")

    def __init__(self) -> None:
        self.folder = array("I")
        self.names: list[bytes] = []
        self.size = array("Q")
        self.mtime = TimeColumn()
        self.atime = TimeColumn()
        self.attributes = array("I")
        self.start = array("Q", [0])
        """The first ordinal of each row, and behind the last row the count of all."""
        self.owner = array("I")
        """The row of each ordinal."""
        self._ids = bytearray()

    def __len__(self) -> int:
        return len(self.names)

    @property
    def blob_count(self) -> int:
        """Ordinals there are."""
        return len(self.owner)

    def append(self, row: FileRow) -> int:
        """Add a file; its row number."""
        return self.add(row.folder, row.name, row.size, row.mtime_ns, row.atime_ns, row.attributes, row.ids)

    def add(
        self, folder: int, name: bytes, size: int, mtime_ns: int, atime_ns: int, attributes: int, ids: bytes
    ) -> int:
        """As `append`, without the object in between."""
        number = len(self.names)
        self.folder.append(folder)
        self.names.append(name)
        self.size.append(size)
        self.mtime.append(mtime_ns)
        self.atime.append(atime_ns)
        self.attributes.append(attributes)
        self._ids += ids
        count = len(ids) // ID_SIZE
        if count == 1:
            self.owner.append(number)
        elif count:
            self.owner.extend([number] * count)
        self.start.append(len(self.owner))
        return number

    def row(self, number: int) -> FileRow:
        """The file in that row."""
        return FileRow(
            self.folder[number],
            self.names[number],
            self.size[number],
            self.mtime[number],
            self.atime[number],
            self.attributes[number],
            self.ids(number),
        )

    def ids(self, number: int) -> bytes:
        """The raw ids of the row's blobs, one after another."""
        return bytes(self._ids[self.start[number] * ID_SIZE : self.start[number + 1] * ID_SIZE])

    def blobs(self, number: int) -> int:
        """How many blobs the row has."""
        count: int = self.start[number + 1] - self.start[number]
        return count

    def blob_id(self, ordinal: int) -> bytes:
        """The raw id of a blob."""
        at = ordinal * ID_SIZE
        return bytes(self._ids[at : at + ID_SIZE])


class AttributeTable:
    """Owners, modes and extended attributes, each combination kept once."""

    __slots__ = ("_numbers", "items")

    def __init__(self) -> None:
        self.items: list[Attributes] = []
        self._numbers: dict[Attributes, int] = {}

    def number(self, attributes: Attributes) -> int:
        """The number of the combination, adding it when it is new."""
        known = self._numbers.get(attributes)
        if known is None:
            known = self._numbers[attributes] = len(self.items)
            self.items.append(attributes)
        return known

    def __getitem__(self, number: int) -> Attributes:
        return self.items[number]

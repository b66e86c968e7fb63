"""What a restore plan holds, kept compact: about 140 bytes a file of one blob, its name included."""

from __future__ import annotations

import os
import stat
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from backupiq.archive.metadata import Attributes, RestoreProblem

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


@dataclass(frozen=True, slots=True)
class PlanSummary:
    """How much a plan holds: counts, and bytes of plain content."""

    files: int
    folders: int
    symlinks: int
    specials: int
    hard_links: int
    bytes: int
    problems: int


@dataclass(slots=True)
class RestorePlan:
    """Everything that will stand below ``target``. Folders come parents first; number 0 is the target itself.

    ``base`` is the path in the snapshot that the target stands for.
    """

    target: Path
    tree: str
    base: bytes
    folders: list[PlannedFolder]
    files: FileTable
    others: list[PlannedOther]
    hard_links: list[PlannedHardLink]
    attributes: AttributeTable
    problems: list[RestoreProblem] = field(default_factory=list)
    total_bytes: int = 0

    def summary(self) -> PlanSummary:
        """Counts and bytes."""
        symlinks = sum(other.is_symlink for other in self.others)
        return PlanSummary(
            files=len(self.files) + len(self.hard_links),
            folders=len(self.folders) - 1,
            symlinks=symlinks,
            specials=len(self.others) - symlinks,
            hard_links=len(self.hard_links),
            bytes=self.total_bytes,
            problems=len(self.problems),
        )

    def to_dict(self) -> dict[str, Any]:
        """The summary as plain JSON values, with the target and the problems found so far."""
        from backupiq.telemetry.text import printable_path

        total = self.summary()
        return {
            "target": printable_path(os.fsencode(self.target)),
            "path": printable_path(self.base or b"/"),
            **{name: getattr(total, name) for name in PlanSummary.__slots__ if name != "problems"},
            "problems": [problem.to_dict() for problem in self.problems],
        }

    def items(self) -> Iterator[tuple[bytes, str, int]]:
        """Path in the snapshot, type ("dir", "file", "symlink", "special") and size of everything, for a dry run."""
        for number in range(1, len(self.folders)):
            yield self.folder_path(number), "dir", 0
        for row in range(len(self.files)):
            yield self.file_path(row), "file", self.files.size[row]
        for link in self.hard_links:
            yield self.path(link.folder, link.name), "file", self.files.size[link.row]
        for other in self.others:
            yield self.path(other.folder, other.name), "symlink" if other.is_symlink else "special", 0

    def folder_path(self, number: int) -> bytes:
        """The folder's path in the snapshot."""
        parts: list[bytes] = []
        while number:
            folder = self.folders[number]
            parts.append(folder.name)
            number = folder.parent
        return b"/".join([self.base, *reversed(parts)]) or b"/"

    def path(self, folder: int, name: bytes) -> bytes:
        """The path in the snapshot of an item of the folder."""
        return self.folder_path(folder).rstrip(b"/") + b"/" + name

    def file_path(self, row: int) -> bytes:
        """The path in the snapshot of a file."""
        return self.path(self.files.folder[row], self.files.names[row])

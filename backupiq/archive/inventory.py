"""What the walk found, held compactly: about 70 bytes an entry, so that a million files fit in memory.

Folders stand in walk order, a parent always before what it holds. Every entry of a folder has an *ordinal*: the number
of its folder's first entry plus its place in the folder. All later steps name files by ordinal.
"""

from __future__ import annotations

import bisect
import dataclasses
from array import array
from collections.abc import Container, Iterable, Iterator

import msgspec

from backupiq.discovery.entry import Directory, EntryKind, FileEntry


@dataclasses.dataclass(frozen=True, slots=True)
class WalkedSource:
    """One source's walk: the folders above it, each holding only the way to it, and everything from it down."""

    source: bytes
    ancestors: list[Directory]
    below: Inventory


class Inventory:
    """Folders with their entries, appended once and read many times; readers need no lock once it is complete."""

    def __init__(self) -> None:
        self._packed: list[bytes] = []
        self._first = array("Q")
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(Directory)
        self.entries = 0
        self.files = 0
        self.bytes = 0
        self.above = 0
        """How many of the first folders lie above the sources: what they hold does not follow each at once."""

    def add(self, directory: Directory) -> None:
        """Append a folder; its parent, if it has one here, was appended before."""
        self._packed.append(self._encoder.encode(directory))
        self._first.append(self.entries)
        self.entries += len(directory.children)
        for child in directory.children:
            if child.kind == EntryKind.FILE:
                self.files += 1
                self.bytes += child.size

    def extend(self, other: Inventory) -> None:
        """Append another inventory's folders, unopened."""
        base = self.entries
        self._packed.extend(other._packed)
        self._first.extend(first + base for first in other._first)
        self.entries += other.entries
        self.files += other.files
        self.bytes += other.bytes

    def without(self, folders: Container[bytes]) -> Inventory:
        """The same without the folders of these paths and all that lies in them; a source itself stays."""
        kept = Inventory()
        gone = b""
        for number, packed in enumerate(self._packed):
            directory = self._decoder.decode(packed)
            path = directory.path
            if gone and path.startswith(gone):
                continue
            prefix = path if path.endswith(b"/") else path + b"/"
            children = [
                child
                for child in directory.children
                if child.kind != EntryKind.DIR or number < self.above or prefix + child.name not in folders
            ]
            if number > self.above and path in folders:
                gone = prefix
                continue
            directory.children = children
            kept.add(directory)
        kept.above = self.above
        return kept

    def __len__(self) -> int:
        return len(self._packed)

    def directory(self, number: int) -> Directory:
        """The folder at that place in walk order."""
        return self._decoder.decode(self._packed[number])

    def first_ordinal(self, number: int) -> int:
        """The ordinal of the folder's first entry."""
        return self._first[number]

    def directories(self) -> Iterator[tuple[int, Directory]]:
        """Every folder in walk order, with the ordinal of its first entry."""
        for number, packed in enumerate(self._packed):
            yield self._first[number], self._decoder.decode(packed)

    def select(self, ordinals: Iterable[int]) -> Iterator[tuple[bytes, list[tuple[int, FileEntry]]]]:
        """The named entries (ascending ordinals), grouped by folder: (folder's path, [(ordinal, entry)])."""
        group: list[tuple[int, FileEntry]] = []
        children: list[FileEntry] = []
        path = b""
        start = end = 0
        for ordinal in ordinals:
            if not start <= ordinal < end:
                if group:
                    yield path, group
                number = bisect.bisect_right(self._first, ordinal) - 1
                directory = self.directory(number)
                path, children, group = directory.path, directory.children, []
                start = self._first[number]
                end = start + len(children)
            group.append((ordinal, children[ordinal - start]))
        if group:
            yield path, group


def assemble(parts: Iterable[WalkedSource]) -> Inventory:
    """One inventory of several walks.

    The folders above the sources overlap; one that several walks give becomes one, holding what each found in it.
    """
    above: dict[bytes, Directory] = {}
    inventory = Inventory()
    parts = list(parts)
    for part in parts:
        for directory in part.ancestors:
            known = above.get(directory.path)
            above[directory.path] = directory if known is None else _merge(known, directory)
    for path in sorted(above, key=len):
        inventory.add(above[path])
    inventory.above = len(inventory)
    for part in parts:
        inventory.extend(part.below)
    return inventory


def _merge(one: Directory, other: Directory) -> Directory:
    children = {child.name: child for child in one.children}
    for child in other.children:
        children.setdefault(child.name, child)
    return Directory(
        path=one.path,
        entry=one.entry,
        children=[children[name] for name in sorted(children)],
        complete=one.complete and other.complete,
    )

"""The walk over the sources: every folder with its entries, parents before children, one folder in memory at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter

from backupiq.discovery.entry import (
    FORMAT_MASK,
    KIND_OF_FORMAT,
    Directory,
    EntryKind,
    FileEntry,
    UnreadableItem,
    entry_from_stat,
    unreadable,
)
from backupiq.discovery.filter import Filter, compile_rules
from backupiq.discovery.longpath import PIECE_BYTES, open_folder_long
from backupiq.discovery.rules import ExcludeRules, Rule
from backupiq.discovery.sources import Source, SourceNode, source_tree
from backupiq.errors import CancelledRunError

OnUnreadable = Callable[[UnreadableItem], None]
OnExcluded = Callable[[bytes, Rule], None]

# How many entries are looked at between two questions whether to stop: some milliseconds of work.
_BATCH = 1024
_name_of = attrgetter("name")


@dataclass(slots=True)
class WalkCounts:
    """What a walk passed over without a word: entries that vanished while it ran, sockets (as restic skips them)."""

    vanished: int = 0
    sockets: int = 0


def walk(
    sources: Sequence[Source],
    rules: ExcludeRules | None = None,
    *,
    on_unreadable: OnUnreadable,
    on_excluded: OnExcluded | None = None,
    should_stop: Callable[[], bool] | None = None,
    counts: WalkCounts | None = None,
) -> Iterator[Directory]:
    """Every folder from the root folder down to the sources and below them, depth first, names in byte order.

    A folder comes before the folders in it, and all that is below a folder comes before its next sibling. Folders
    above the sources hold only what leads to a source; their records follow symbolic links. A source may be a file.
    Sockets are left out. What cannot be read goes to ``on_unreadable`` and never ends the walk: a folder that cannot
    be listed comes with no children. ``on_excluded`` hears of each entry a rule leaves out (of a folder only itself).

    Sources and rules are checked before this returns: SourceNotFoundError, SourcePermissionError, SourceReadError,
    MissingConfigurationError (no source), ConfigurationError (a pattern). While it runs, CancelledRunError when
    ``should_stop`` answers True, so that nobody takes what came for the whole.
    """
    root = source_tree(sources)
    compiled = compile_rules(rules or ExcludeRules(), on_unreadable, on_excluded)
    return _Walk(compiled, on_unreadable, should_stop, counts or WalkCounts()).run(root)


class _Walk:
    """One walk: where it reports to and what it counts. Used by one thread."""

    __slots__ = ("_counts", "_filter", "_on_unreadable", "_should_stop")

    def __init__(
        self,
        compiled: Filter | None,
        on_unreadable: OnUnreadable,
        should_stop: Callable[[], bool] | None,
        counts: WalkCounts,
    ) -> None:
        self._filter = compiled
        self._on_unreadable = on_unreadable
        self._should_stop = should_stop
        self._counts = counts

    def run(self, root: SourceNode) -> Iterator[Directory]:
        """The folders of the tree of sources, depth first."""
        pending = [root]
        while pending:
            self._ask_to_stop()
            node = pending.pop()
            if node.is_source:
                if node.entry.kind is EntryKind.DIR:
                    yield from self._below(node.path, node.entry)
                continue
            below = [node.children[name] for name in sorted(node.children)]
            kept = [child for child in below if child.entry.kind is not EntryKind.SOCKET]
            self._counts.sockets += len(below) - len(kept)
            pending.extend(reversed(kept))
            yield Directory(node.path, node.entry, [child.entry for child in kept])

    def _below(self, path: bytes, entry: FileEntry) -> Iterator[Directory]:
        """A source and all that is below it. The stack holds one iterator of subfolders for each level."""
        compiled, list_folder = self._filter, self._list
        folder_kind = EntryKind.DIR
        scope = compiled.start(entry) if compiled else None
        directory = list_folder(path, entry)
        if compiled and scope:
            scope = compiled.apply(scope, directory)
        prefix = path if path.endswith(b"/") else path + b"/"
        subfolders = iter([child for child in directory.children if child.kind is folder_kind])
        yield directory
        stack = [(prefix, subfolders, scope)]
        while stack:
            prefix, subfolders, scope = stack[-1]
            child = next(subfolders, None)
            if child is None:
                stack.pop()
                continue
            self._ask_to_stop()
            path = prefix + child.name
            if compiled and scope:
                below = compiled.enter(scope, path, child)
                if below is None:  # a mount point that is not to be entered
                    yield Directory(path, child, [])
                    continue
                directory = list_folder(path, child)
                below = compiled.apply(below, directory)
            else:
                below = None
                directory = list_folder(path, child)
            inner = [entry for entry in directory.children if entry.kind is folder_kind]
            if inner:
                stack.append((path + b"/", iter(inner), below))
            yield directory

    def _list(self, path: bytes, entry: FileEntry) -> Directory:
        children: list[FileEntry] = []
        directory = Directory(path, entry, children)
        descriptor: int | None = None
        try:
            if len(path) < PIECE_BYTES or os.scandir not in os.supports_fd:
                scan = os.scandir(path)
            else:  # the path, or that of an entry, may be longer than the system takes
                descriptor = open_folder_long(path)
                scan = os.scandir(descriptor)  # type: ignore[assignment]  # its names are text, see _take
            with scan:
                while batch := list(islice(scan, _BATCH)):
                    self._take(batch, directory)
                    self._ask_to_stop()
        except OSError as error:
            # What was listed before the error stays: a part of a folder is better than nothing of it.
            directory.complete = False
            self._on_unreadable(unreadable(path, error))
        finally:
            if descriptor is not None:
                os.close(descriptor)
        children.sort(key=_name_of)
        return directory

    def _take(self, batch: list[os.DirEntry[bytes]], directory: Directory) -> None:
        """Appends the records of these entries. This is the loop that a walk spends its time in."""
        append, kinds, mask, make = directory.children.append, KIND_OF_FORMAT, FORMAT_MASK, FileEntry
        socket, fallback = EntryKind.SOCKET, EntryKind.FILE
        plain = os.name == "posix" and type(batch[0].name) is bytes
        for item in batch:
            try:
                if not plain:
                    self._take_slowly(item, directory)
                    continue
                found = item.stat(follow_symlinks=False)
            except FileNotFoundError:
                self._counts.vanished += 1
                continue
            except OSError as error:
                directory.complete = False
                self._on_unreadable(unreadable(_join(directory.path, item.name), error))
                continue
            mode = found.st_mode
            kind = kinds.get(mode & mask, fallback)
            if kind is socket:
                self._counts.sockets += 1
                continue
            append(
                make(
                    item.name,
                    kind,
                    found.st_size,
                    found.st_mtime_ns,
                    found.st_ctime_ns,
                    found.st_ino,
                    found.st_dev,
                    mode,
                    found.st_uid,
                    found.st_gid,
                    found.st_nlink,
                    found.st_rdev,
                )
            )

    def _take_slowly(self, item: os.DirEntry[bytes], directory: Directory) -> None:
        """An entry listed through a descriptor (names are text), or on Windows (entries know no inode)."""
        found = os.lstat(item.path) if os.name == "nt" else item.stat(follow_symlinks=False)
        entry = entry_from_stat(os.fsencode(item.name), found)
        if entry.kind is EntryKind.SOCKET:
            self._counts.sockets += 1
        else:
            directory.children.append(entry)

    def _ask_to_stop(self) -> None:
        if self._should_stop is not None and self._should_stop():
            raise CancelledRunError("The walk over the files was stopped; nothing was changed by it.")


def _join(folder: bytes, name: bytes | str) -> bytes:
    return (folder if folder.endswith(b"/") else folder + b"/") + os.fsencode(name)

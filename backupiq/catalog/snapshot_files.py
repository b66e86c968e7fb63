"""A snapshot in a repository as a tree of files, for analysis: whole, or as far as it differs from an earlier one."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from backupiq.catalog.rows import content_digest
from backupiq.catalog.snapshot_listing import (
    FolderSpool,
    Listing,
    SnapshotDirectory,
    read_listing,
    telling_attributes,
)
from backupiq.discovery.entry import EntryKind, FileEntry
from backupiq.errors import (
    CancelledRunError,
    CryptoError,
    PackError,
    PathNotInSnapshotError,
    RepositoryDamagedError,
)
from backupiq.repository.blob import open_blob
from backupiq.repository.pack import BlobType
from backupiq.repository.reader import BlobReader
from backupiq.repository.repository import Repository
from backupiq.repository.tree import Node
from backupiq.telemetry import get_logger
from backupiq.telemetry.text import printable_path

LOADED_AHEAD = 32
"""Listings of sibling folders that are fetched at once, at most."""
LARGE_FOLDER = 1_000
"""Beside folders with more entries than this, fewer are fetched at once: so many listings may wait on each level."""
CACHED_ENTRIES = 50_000
"""Entries of folders that are kept for reading files by their path."""
SMALL_BLOB = 256 << 10
"""Stored blobs up to this size are read together with what stands beside them in the pack: most likely wanted next."""
MAX_BLOBS_READ = 64
"""Blobs of a file that are read for its beginning; they hold 512 KiB or more each, but for the last."""
MAX_PATH = 64 << 10
KEPT_ATTRIBUTES = 1_024
"""Folders given last whose attributes are at hand."""
MAX_ENTRIES = 50_000_000
"""Entries of one snapshot that are looked at: a tree may name the same folder twice in each of many levels."""

_ROOT = FileEntry(b"", EntryKind.DIR, 0, 0, 0, 0, 0, 0o040755, 0, 0, 1, 0)
_log = get_logger("backupiq.catalog.snapshot_files")
T = TypeVar("T")


@dataclass
class Changes:
    """What a walk came upon: paths that the earlier snapshot had and this one has not, folders of these that take all
    below them along, which of the watched folders it has looked at, and how many folders could not be read."""

    gone: list[bytes] = field(default_factory=list)
    gone_folders: list[bytes] = field(default_factory=list)
    seen: set[bytes] = field(default_factory=set)
    unreadable: int = 0


@dataclass(frozen=True, slots=True)
class _Visit:
    """A folder that the walk will look at: ``old`` is the tree that stood there earlier, None when there was none."""

    path: bytes
    entry: FileEntry
    tree: str | None
    old: str | None
    in_unit: bool


_Loaded = tuple[_Visit, Listing | None, Listing | None]
"""A folder to look at, its listing, and the one of the earlier snapshot; None when it cannot be read, or is none."""


class SnapshotFiles:
    """The files of the snapshot whose root folder is the tree ``tree``, read from a repository with a loaded index.

    Made in an event loop; its methods are called from other threads, any number of them, and wait for that loop.
    With ``base``, the tree of an earlier snapshot, ``directories`` gives the folders that are not as they were there,
    and those on the way to them. What is said about a file may depend on everything in its project, so a folder for
    which ``is_unit`` (called with its raw path and the raw names in it) is true is given whole, with all below it, as
    soon as anything in it differs. ``read`` reaches every file all the same.

    The first walk that comes to its end leaves what it gave in a temporary file without a name, for those after it.

    A damaged folder is logged, counted in ``changes.unreadable`` and given without entries, not ``complete``.
    """

    def __init__(
        self,
        repository: Repository,
        tree: str,
        *,
        base: str | None = None,
        is_unit: Callable[[bytes, Collection[bytes]], bool] = lambda folder, names: False,
        watch: Collection[bytes] = (),
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._reader = _HeadReader(repository)
        self._tree = tree
        self._base = base
        self._is_unit = is_unit
        self._watch = frozenset(watch)
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._cache: OrderedDict[bytes, Listing] = OrderedDict()
        self._cached = 0
        self._changes: Changes | None = None
        self._spool: FolderSpool | None = None
        self._recent: OrderedDict[bytes, dict[bytes, dict[str, bytes]]] = OrderedDict()

    @property
    def changes(self) -> Changes:
        """What the last complete walk of ``directories`` came upon; it is made when there was none yet."""
        if self._changes is None:
            for _ in self.directories():
                pass
        assert self._changes is not None  # noqa: S101 - every walk that ends sets it
        return self._changes

    def close(self) -> None:
        """Let every call that comes later raise CancelledRunError, and give back the temporary file."""
        self._stopped.set()
        with self._lock:
            if self._spool is not None:
                self._spool.close()

    # --- walking ----------------------------------------------------------------------------------------------------

    def directories(self) -> Iterator[SnapshotDirectory]:
        """Folders before those below them, their children sorted by raw name; see `SnapshotFiles`.

        Raises what the destination raises, and CancelledRunError.
        """
        if self._spool is not None:
            for directory in self._spool.directories(self._stopped):
                yield self._note(directory)
            return
        spool = FolderSpool()
        changes = Changes()
        for directory in self._walk(changes):
            spool.add(directory)
            yield self._note(directory)
        with self._lock:
            if self._spool is None:
                self._spool, self._changes = spool, changes
            else:
                spool.close()

    def _walk(self, changes: Changes) -> Iterator[SnapshotDirectory]:
        root = _Visit(b"/", _ROOT, self._tree, self._base, in_unit=self._base is None)
        stack = [_Pending([root] if self._tree != self._base else [])]
        entries = 0
        while stack:
            found = stack[-1].next(self._load_visits)
            if found is None:
                stack.pop()
                continue
            visit, new, old = found
            entries += len(new.entries) if new else 0
            if new is None or entries > MAX_ENTRIES:
                changes.unreadable += 1
                yield SnapshotDirectory(visit.path, visit.entry, [], complete=False)
                continue
            if visit.path in self._watch:
                changes.seen.add(visit.path)
            yield self._directory(visit, new)
            stack.append(_Pending(self._below(visit, new, old, changes)))

    def _note(self, directory: SnapshotDirectory) -> SnapshotDirectory:
        """Keep the attributes of what was given last: they are asked for next."""
        with self._lock:
            self._recent[directory.path] = directory.attributes
            if len(self._recent) > KEPT_ATTRIBUTES:
                self._recent.popitem(last=False)
        return directory

    def _directory(self, visit: _Visit, new: Listing) -> SnapshotDirectory:
        nodes = new.nodes
        contents = [
            content_digest(nodes[entry.name].content or ()) if entry.kind is EntryKind.FILE else None
            for entry in new.entries
        ]
        attributes = {
            name: found
            for name, node in nodes.items()
            if node.extended_attributes and (found := telling_attributes(node))
        }
        self._remember(visit.path, new)
        return SnapshotDirectory(visit.path, visit.entry, list(new.entries), contents=contents, attributes=attributes)

    def _below(self, visit: _Visit, new: Listing, old: Listing | None, changes: Changes) -> list[_Visit]:
        """The subfolders to look at; notes what is gone."""
        in_unit = visit.in_unit or any(self._is_unit(visit.path, each.nodes) for each in (new, old) if each is not None)
        before = {} if old is None else old.nodes
        unchanged = visit.tree == visit.old
        prefix = visit.path.rstrip(b"/") + b"/"
        for name, node in before.items():
            now = new.nodes.get(name)
            if now is None or (node.type == "dir" and now.type != "dir"):
                (changes.gone_folders if node.type == "dir" else changes.gone).append(prefix + name)
        visits = []
        for entry in new.entries:
            if entry.kind is not EntryKind.DIR or len(prefix) + len(entry.name) > MAX_PATH:
                continue
            tree = new.nodes[entry.name].subtree
            then = before.get(entry.name)
            earlier = tree if unchanged else then.subtree if then is not None else None
            if in_unit or tree != earlier or tree is None:
                visits.append(_Visit(prefix + entry.name, entry, tree, earlier, in_unit))
        return visits

    def _load_visits(self, visits: Sequence[_Visit]) -> list[_Loaded]:
        wanted = [visit.tree for visit in visits]
        # Where nothing differs there is nothing to compare; what is not readable was told of when it was new.
        wanted += [None if visit.old == visit.tree else visit.old for visit in visits]
        loaded = self._wait(self._load_all(wanted))
        news, olds = loaded[: len(visits)], loaded[len(visits) :]
        for visit, new in zip(visits, news, strict=True):
            if new is None:
                _log.warning("a folder of a snapshot cannot be read", folder=printable_path(visit.path)[:200])
        return list(zip(visits, news, olds, strict=True))

    async def _load_all(self, trees: Sequence[str | None]) -> list[Listing | None]:
        return list(await asyncio.gather(*map(self._load, trees)))

    async def _load(self, tree: str | None) -> Listing | None:
        if tree is None:
            return None
        try:
            return read_listing(await self._reader.load_tree(tree))
        except RepositoryDamagedError:
            return None

    # --- reading ----------------------------------------------------------------------------------------------------

    def read(self, path: bytes, limit: int) -> bytes:
        """At most the first ``limit`` bytes of a regular file of the snapshot.

        Raises PathNotInSnapshotError when there is none at that path, and what reading from the repository raises.
        """
        node = self._node(path)
        if node is None or node.type != "file":
            raise PathNotInSnapshotError(f"The snapshot holds no file {printable_path(path)[:200]}.")
        if limit <= 0:
            return b""
        return self._wait(self._read(node.content or [], limit))

    def content(self, path: bytes) -> bytes | None:
        """The `content_digest` of the file at a path; None when there is no such file."""
        try:
            node = self._node(path)
        except PathNotInSnapshotError:
            return None
        return content_digest(node.content or ()) if node is not None and node.type == "file" else None

    def attributes(self, path: bytes) -> Mapping[str, bytes]:
        """The extended attributes of an entry that say where it came from; no others."""
        folder, _, name = path.rpartition(b"/")
        with self._lock:
            recent = self._recent.get(folder or b"/")
        if recent is not None:
            return recent.get(name, {})
        node = self._node(path)
        return telling_attributes(node) if node is not None else {}

    async def _read(self, blobs: Sequence[str], limit: int) -> bytes:
        head = bytearray()
        for blob in blobs[:MAX_BLOBS_READ]:
            head += await self._reader.load_data(bytes.fromhex(blob))
            if len(head) >= limit:
                break
        return bytes(head[:limit])

    def _node(self, path: bytes) -> Node | None:
        folder, _, name = path.rpartition(b"/")
        return self._folder(folder or b"/").nodes.get(name)

    def _folder(self, path: bytes) -> Listing:
        with self._lock:
            found = self._cache.get(path)
            if found is not None:
                self._cache.move_to_end(path)
                return found
        # The nearest folder above that is known, and down from there: without recursion, paths may be deep.
        names: list[bytes] = []
        above = path
        while found is None and above != b"/":
            above, _, name = above.rpartition(b"/")
            above = above or b"/"
            names.append(name)
            with self._lock:
                found = self._cache.get(above)
        if found is None:
            found = self._listing_of(self._tree)
        for name in reversed(names):
            node = found.nodes.get(name)
            if node is None or node.type != "dir" or node.subtree is None:
                raise PathNotInSnapshotError(f"The snapshot holds no folder {printable_path(path)[:200]}.")
            found = self._listing_of(node.subtree)
        self._remember(path, found)
        return found

    def _listing_of(self, tree: str) -> Listing:
        async def load() -> Listing:
            return read_listing(await self._reader.load_tree(tree))

        return self._wait(load())

    def _remember(self, path: bytes, listing: Listing) -> None:
        with self._lock:
            if path in self._cache:
                return
            self._cache[path] = listing
            self._cached += len(listing.entries) + 1
            while self._cached > CACHED_ENTRIES and len(self._cache) > 1:
                _, dropped = self._cache.popitem(last=False)
                self._cached -= len(dropped.entries) + 1

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        if self._stopped.is_set():
            work.close()
            raise CancelledRunError
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


class _Pending:
    """The folders that are still to be looked at on one level of the walk, a few of them loaded ahead."""

    def __init__(self, visits: Sequence[_Visit]) -> None:
        self._waiting = list(reversed(visits))
        self._loaded: list[_Loaded] = []
        self._ahead = 4

    def next(self, load: Callable[[Sequence[_Visit]], list[_Loaded]]) -> _Loaded | None:
        """The next one with what stands there and stood there; None when there are no more."""
        if not self._loaded:
            some = [self._waiting.pop() for _ in range(min(self._ahead, len(self._waiting)))]
            if not some:
                return None
            self._loaded = load(some)[::-1]
            large = any(new is not None and len(new.entries) > LARGE_FOLDER for _, new, _ in self._loaded)
            self._ahead = 1 if large else min(2 * self._ahead, LOADED_AHEAD)
        return self._loaded.pop()


class _HeadReader(BlobReader):
    """Reads small blobs of data as trees are read, so that the beginnings of many small files cost few requests."""

    async def load_data(self, blob_id: bytes) -> bytes:
        """The plaintext of a blob of data. Raises as ``load_blob`` does."""
        for location in self._locations(blob_id, BlobType.DATA)[:1]:
            if location.length <= SMALL_BLOB:
                try:
                    sealed = await self._from_segments(location)
                    return open_blob(self.repository.master, sealed, blob_id, location.uncompressed_length)
                except (CryptoError, PackError):
                    break  # the damage may lie beside the blob, or another pack may hold it too
        return await self.load_blob(blob_id, BlobType.DATA)

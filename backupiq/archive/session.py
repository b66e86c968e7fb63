"""One backup run as a library object: each method is one step, and the flow's tasks call them in order.

open -> discover (once for each source) -> compare -> plan -> pack and upload (once for each batch) -> publish -> close
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import dataclasses
import functools
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeVar

from backupiq.archive.changes import Changes, find_changes
from backupiq.archive.claims import IndexClaims
from backupiq.archive.content import ContentTable
from backupiq.archive.delivery import Delivery
from backupiq.archive.inventory import Inventory, WalkedSource, assemble
from backupiq.archive.lanes import Lanes
from backupiq.archive.pack_process import ReadFile
from backupiq.archive.pack_writer import PackWriter
from backupiq.archive.packers import File, Groups, Packer, helpers_for
from backupiq.archive.publisher import IndexBook
from backupiq.archive.reading import CHANGED_WHILE_READ, SMALL, FileReader
from backupiq.archive.spool import Spool
from backupiq.archive.tree_builder import TreeBuilder, TreeCounts
from backupiq.archive.worker_process import MOST_PROCESSES
from backupiq.archive.xattrs import Xattr
from backupiq.discovery.entry import EntryKind, FileEntry, UnreadableItem
from backupiq.discovery.rules import ExcludeRules, Rule
from backupiq.discovery.sources import clean
from backupiq.discovery.walk import WalkCounts, walk
from backupiq.errors import CancelledRunError
from backupiq.progress import ProgressSink, SilentProgress
from backupiq.repository.chunker import chunker_seed
from backupiq.repository.reader import BlobReader
from backupiq.repository.repository import Repository
from backupiq.telemetry import get_logger
from backupiq.telemetry.text import printable_path

T = TypeVar("T")

MOST_WARNINGS = 1000
FILES_A_TURN = 128
"""Files a packing thread takes from its batch at once: few enough to share the work evenly."""

log = get_logger("backupiq.archive.session")


@dataclasses.dataclass(frozen=True, slots=True)
class RunSettings:
    """How a run works. ``threads`` read and pack files; ``spool_parent`` is where its spool folder is made."""

    threads: int
    spool_parent: Path
    dry_run: bool = False


class BackupSession:
    """Invariants: steps are called in order from one event loop; ``stop`` may be called from anywhere at any time and
    makes every step end soon with CancelledRunError; after ``close`` no thread of the run is alive and its spool is
    gone, whatever happened before.
    """

    def __init__(
        self,
        repository: Repository | None,
        *,
        sources: Sequence[str],
        rules: ExcludeRules | None = None,
        settings: RunSettings,
        progress: ProgressSink | None = None,
    ) -> None:
        self.repository = repository
        self.sources = list(sources)
        self.rules = rules or ExcludeRules()
        self._settings = settings
        self.progress: ProgressSink = progress or SilentProgress()
        self._stopping = threading.Event()
        self._pool = ThreadPoolExecutor(settings.threads + MOST_PROCESSES + 1, thread_name_prefix="backupiq-pack")
        self._tree_pool = ThreadPoolExecutor(1, thread_name_prefix="backupiq-trees")
        self._blob_pool = ThreadPoolExecutor(settings.threads, thread_name_prefix="backupiq-blob")
        self._spool: Spool | None = None
        self._parts: dict[int, WalkedSource] = {}
        self.inventory = Inventory()
        self.content = ContentTable(0)
        self.changes = Changes()
        self.tree_counts = TreeCounts()
        self.walk_counts = WalkCounts()
        self.excluded = 0
        self.bytes_read = 0
        self.warnings: list[str] = []
        self._unreadable: list[UnreadableItem] = []
        self._lock = threading.Lock()
        self._claims: IndexClaims | None = None
        self._writer: PackWriter | None = None
        self._reader: FileReader | None = None
        self._packers: list[Packer] = []
        self._builder: TreeBuilder | None = None
        self._building: Future[str] | None = None
        self._lanes: Lanes | None = None

    @property
    def lanes(self) -> Lanes:
        """The way to each destination; without others, one to the repository itself."""
        if self._lanes is None:
            repository = self._required()
            self._lanes = Lanes(IndexBook(repository.master))
            self._lanes.add(repository.provider.location, repository)
        return self._lanes

    def use_lanes(self, lanes: Lanes) -> None:
        """Send packs there; before `prepare`."""
        self._lanes = lanes

    @property
    def spool_folder(self) -> Path:
        """The private folder of this run, once it is prepared."""
        if self._spool is None:
            raise AssertionError("prepare() comes first")
        return self._spool.folder

    # --- steps -----------------------------------------------------------------------------------------------------

    async def discover(self, number: int, group: Sequence[str]) -> int:
        """Walk one group of sources (those that lie within each other belong together); returns entries found."""
        part = await self.in_thread(self._walk, group)
        self._parts[number] = part
        return part.below.entries

    def _walk(self, group: Sequence[str]) -> WalkedSource:
        top = min((clean(source)[0] for source in group), key=len)
        part = WalkedSource(top, [], Inventory())
        for directory in walk(
            group,
            self.rules,
            on_unreadable=self._note_unreadable,
            on_excluded=self._note_excluded,
            should_stop=self._stopping.is_set,
            counts=self.walk_counts,
        ):
            # Folders above the sources are small and few; they are joined with those of the other groups later.
            if len(directory.path) < len(top):
                part.ancestors.append(directory)
            else:
                part.below.add(directory)
        return part

    def join(self) -> Inventory:
        """Join the walks, once; the inventory of the run."""
        if self._parts:
            self.inventory = assemble(self._parts[number] for number in sorted(self._parts))
            self._parts.clear()
        return self.inventory

    def leave_out(self, folders: Container[bytes]) -> None:
        """Before `compare`: take these folders, with all they hold, out of the run."""
        kept = self.join().without(folders)
        self.excluded += self.inventory.entries - kept.entries
        self.inventory = kept

    async def compare(self, parent_tree: str | None, *, same_user: bool = False) -> Changes:
        """Join the walks and find what is new or changed since the parent snapshot's tree; see `find_changes`."""
        self.join()
        self.content = ContentTable(self.inventory.entries)
        if self.repository is not None:
            self.changes = await find_changes(
                self.inventory,
                self.content,
                reader=BlobReader(self.repository),
                index=self.repository.index,
                parent_tree=parent_tree,
                same_user=same_user,
            )
        else:
            self._take_all_as_new()
        if self.changes.damaged_folders:
            damaged = self.changes.damaged_folders
            self.warn(
                f"{damaged} folders of the parent snapshot are damaged and are stored again. "
                "Check the repository with `restic check --read-data`."
            )
        files = len(self.changes.to_read)
        self.progress.total(files, self.changes.bytes_to_read)
        return self.changes

    def _take_all_as_new(self) -> None:
        for first, directory in self.inventory.directories():
            for position, child in enumerate(directory.children):
                if child.kind == EntryKind.FILE:
                    self.changes.to_read.append(first + position)
                    self.changes.sizes.append(child.size)
                    self.changes.bytes_to_read += child.size
        self.changes.files_new = len(self.changes.to_read)

    def prepare(self) -> None:
        """Make what packing needs: the spool folder, the writer, the reader."""
        repository = self._required()
        self._spool = Spool.create(self._settings.spool_parent)
        self.lanes.use(self._spool)
        self._claims = IndexClaims(repository.index, self.changes.suspect_trees)
        self._writer = PackWriter(
            master=repository.master,
            claims=self._claims,
            spool=self._spool,
            on_finished=self.lanes.put,
            stopped=self._stopping.is_set,
        )
        self._reader = FileReader(
            writer=self._writer,
            content=self.content,
            chunker_seed=chunker_seed(repository.master, repository.config),
            blob_pool=self._blob_pool,
            stopped=self._stopping.is_set,
            on_read=self._note_read,
            warn=self._warn_path,
        )
        self._builder = self._tree_builder(self._writer, partial=False)
        self._start_helpers(repository, self._claims, self._spool)

    def new_deliveries(self) -> dict[str, Delivery]:
        """Where packs finished from now on go, until the next call: by destination."""
        if self._builder is None:
            raise AssertionError("prepare() comes first")
        opened = self.lanes.open_deliveries()
        if self._packers and self._building is None:
            # The packers leave this process idle, so the trees of what is read are built meanwhile.
            build = functools.partial(contextvars.copy_context().run, self._builder.build)
            self._building = self._tree_pool.submit(build)
        return opened

    async def pack(self, ordinals: Iterable[int]) -> None:
        """Read the files and put their new blobs into packs."""
        if self._reader is None:
            raise AssertionError("prepare() comes first")
        files: Iterator[File] = _with_paths(self.inventory.select(ordinals))
        work: list[Callable[[], None]] = []
        if self._packers:
            small: list[File] = []
            others: list[File] = []
            for file in files:
                (small if file[2].size < SMALL and file[2].links == 1 else others).append(file)
            groups = Groups(small, len(self._packers))
            work = [functools.partial(packer.pack, groups) for packer in self._packers]
            files = iter(others)
        work += [functools.partial(self._read, files, threading.Lock())] * self._settings.threads
        await self._all_threads(work)

    def _read(self, files: Iterator[File], turn: threading.Lock) -> None:
        """Read files in this thread, some at a time, until none is left."""
        reader = self._reader
        while reader is not None:
            with turn:
                mine = list(islice(files, FILES_A_TURN))
            if not mine:
                return
            reader.read_all(mine)
            self.progress.advance(len(mine), 0)
            self.content.tell()

    def _note_taken(self, files: Sequence[File], taken: Sequence[ReadFile]) -> None:
        """Record what a helper process has read."""
        size = 0
        stored: list[tuple[int, bytes, tuple[Xattr, ...] | None]] = []
        for (path, ordinal, entry), read in zip(files, taken, strict=True):
            if read.code:
                self.content.fail(ordinal, UnreadableItem(path, read.reason, read.code))
            elif read.large and self._reader is not None:
                self._reader.read(path, ordinal, entry)
            else:
                if read.entry is not None:
                    self.content.restate(ordinal, read.entry)
                if read.changed:
                    self._warn_path(path, CHANGED_WHILE_READ)
                stored.append((ordinal, read.id, read.attributes))
                size += read.size
        self.content.set_read(stored)
        self._note_read(size, len(files))
        self.content.tell()

    def _start_helpers(self, repository: Repository, claims: IndexClaims, spool: Spool) -> None:
        """Have small files packed by other processes, where that pays, and the trees built meanwhile."""
        small = sum(size < SMALL for size in self.changes.sizes)
        for _ in range(helpers_for(small, self._settings.threads)):
            packer = Packer(
                repository.master,
                claims,
                spool,
                on_taken=self._note_taken,
                on_finished=self.lanes.put,
                stopped=self._stopping.is_set,
            )
            self._packers.append(packer)

    def _tree_builder(self, writer: PackWriter, *, partial: bool) -> TreeBuilder:
        return TreeBuilder(
            self.inventory,
            self.content,
            writer=writer,
            parent_trees=self.changes.parent_trees,
            reusable=self.changes.reusable(),
            stopped=self._stopping.is_set,
            warn=self._warn_path,
            partial=partial,
        )

    async def build_partial_trees(self) -> tuple[str, TreeCounts]:
        """Between two calls of `pack`: write the folder listings of what is stored by now and close every pack.

        Returns the root tree's id in hex, and what went into the trees. Files that were not read yet are not in them.
        """
        writer = self._writer
        if writer is None:
            raise AssertionError("prepare() comes first")
        builder = self._tree_builder(writer, partial=True)

        def work() -> str:
            tree = builder.build()
            self._flush(writer)
            return tree

        return await self.in_thread(work), builder.counts

    def _flush(self, writer: PackWriter) -> None:
        for packer in self._packers:
            packer.flush()
        writer.flush()

    async def build_trees(self) -> str:
        """Write the folder listings, close every pack and return the root tree's id in hex."""
        writer, builder = self._writer, self._builder
        if writer is None or builder is None:
            raise AssertionError("prepare() comes first")
        self.content.complete()
        building = self._building

        def work() -> str:
            tree = building.result() if building is not None else builder.build()
            self._flush(writer)
            return tree

        tree = await self.in_thread(work)
        self.tree_counts = builder.counts
        return tree

    async def close(self) -> None:
        """Stop every thread and remove the spool."""
        self.stop()
        await asyncio.to_thread(self._pool.shutdown, wait=True, cancel_futures=True)
        await asyncio.to_thread(self._tree_pool.shutdown, wait=True, cancel_futures=True)
        for packer in self._packers:
            await asyncio.to_thread(packer.close)
        await asyncio.to_thread(self._blob_pool.shutdown, wait=True, cancel_futures=True)
        if self._writer is not None:
            self._writer.discard()
        if self._spool is not None:
            self._spool.close()

    def is_stopping(self) -> bool:
        """Whether the run was told to end."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """Make every step end soon."""
        self._stopping.set()
        for packer in self._packers:
            packer.ask_to_stop()

    # --- what it tells ---------------------------------------------------------------------------------------------

    @property
    def unreadable(self) -> list[UnreadableItem]:
        """Everything that could not be read, in the order it was met."""
        return [*self._unreadable, *self.content.unreadable]

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """New data blobs, new tree blobs, their plain bytes, their stored bytes."""
        if self._writer is None:
            return 0, 0, 0, 0
        counts = sum((packer.counts for packer in self._packers), self._writer.counts)
        return counts.data_blobs, counts.tree_blobs, counts.plain_bytes, counts.stored_bytes

    def warn(self, text: str) -> None:
        """Record something that a person should know and that does not end the run."""
        with self._lock:
            if len(self.warnings) < MOST_WARNINGS:
                self.warnings.append(text)
        log.warning("run.warning", text=text)

    def _warn_path(self, path: bytes, text: str) -> None:
        self.warn(f"{printable_path(path)}: {text}")

    def _note_unreadable(self, item: UnreadableItem) -> None:
        with self._lock:
            self._unreadable.append(item)

    def _note_excluded(self, path: bytes, rule: Rule) -> None:
        with self._lock:
            self.excluded += 1

    def _note_read(self, size: int, files: int = 0) -> None:
        with self._lock:
            self.bytes_read += size
        self.progress.advance(files, size)

    # --- threads ---------------------------------------------------------------------------------------------------

    async def in_thread(self, work: Callable[..., T], *args: object) -> T:
        """Run blocking work of this run in its pool; when cancelled, it is told to stop and waited for."""
        context = contextvars.copy_context()
        future = asyncio.get_running_loop().run_in_executor(self._pool, lambda: context.run(work, *args))
        return await self._until_done(future)

    async def _all_threads(self, work: Iterable[Callable[[], None]]) -> None:
        loop = asyncio.get_running_loop()
        futures = [loop.run_in_executor(self._pool, contextvars.copy_context().run, each) for each in work]
        try:
            _, running = await asyncio.wait(futures, return_when=asyncio.FIRST_EXCEPTION)
        except asyncio.CancelledError:
            self.stop()
            await asyncio.wait(futures)
            raise
        if running:
            self.stop()
            await asyncio.wait(running)
        errors = [error for future in futures if (error := future.exception()) is not None]
        if errors:
            # What stopped the others comes first; they only say that they were stopped.
            raise next((error for error in errors if not isinstance(error, CancelledRunError)), errors[0])

    async def _until_done(self, future: Awaitable[T]) -> T:
        task = asyncio.ensure_future(future)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self.stop()
            await asyncio.wait([task])
            if not task.cancelled():
                task.exception()
            raise

    def _required(self) -> Repository:
        if self.repository is None:
            raise AssertionError("a dry run stores nothing")
        return self.repository


def _with_paths(
    groups: Iterable[tuple[bytes, list[tuple[int, FileEntry]]]],
) -> Iterator[tuple[bytes, int, FileEntry]]:
    for folder, files in groups:
        prefix = folder if folder.endswith(b"/") else folder + b"/"
        for ordinal, entry in files:
            yield prefix + entry.name, ordinal, entry


def group_sources(sources: Sequence[str]) -> list[list[str]]:
    """Sources that lie within each other in one group, each other one in its own."""
    groups: list[tuple[bytes, list[str]]] = []
    for source in sorted(dict.fromkeys(sources), key=lambda item: len(clean(item)[0])):
        path, _ = clean(source)
        for top, members in groups:
            if path == top or path.startswith(top.rstrip(b"/") + b"/"):
                members.append(source)
                break
        else:
            groups.append((path, [source]))
    return [members for _, members in groups]


@contextlib.asynccontextmanager
async def closing(session: BackupSession) -> AsyncIterator[BackupSession]:
    """The session, closed at the end even while the run is being cancelled."""
    started = time.monotonic()
    try:
        yield session
    finally:
        closing_task = asyncio.ensure_future(session.close())
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(closing_task)
        await closing_task
        log.debug("session.closed", seconds=round(time.monotonic() - started, 3))

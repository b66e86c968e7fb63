"""Real parts of the saving side, put together for its tests: a repository in a folder, a spool, a whole run."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from backupiq.archive.claims import IndexClaims
from backupiq.archive.content import ContentTable
from backupiq.archive.delivery import Delivery
from backupiq.archive.pack_writer import PACK_SIZE, PackWriter
from backupiq.archive.reading import FileReader
from backupiq.archive.session import BackupSession, RunSettings, closing, group_sources
from backupiq.archive.spool import Spool
from backupiq.discovery.entry import FileEntry, entry_from_stat
from backupiq.discovery.longpath import stat_long
from backupiq.discovery.rules import ExcludeRules
from backupiq.planning.batches import plan_batches
from backupiq.progress import ProgressSink
from backupiq.repository.pack import BlobType, FinishedPack
from backupiq.repository.reader import BlobReader
from backupiq.repository.repository import FileType, Repository, pack_key
from backupiq.repository.snapshot import Snapshot
from backupiq.repository.tree import Node
from tests.unit.repository.repositories import PASSWORD, new_repository

__all__ = ["PASSWORD", "Kitchen", "Saved", "as_ordinary_user", "back_up", "new_kitchen", "node_at", "read_back"]

SNAPSHOT_TIME = "2026-05-04T03:02:01Z"


@dataclasses.dataclass
class Kitchen:
    """A repository with a spool, a writer and a reader of files, and everything they handed over."""

    repository: Repository
    spool: Spool
    stopping: threading.Event
    blob_pool: ThreadPoolExecutor
    finished: list[FinishedPack] = dataclasses.field(default_factory=list)
    warnings: list[tuple[bytes, str]] = dataclasses.field(default_factory=list)
    read_sizes: list[int] = dataclasses.field(default_factory=list)

    def new_writer(self, pack_size: int = PACK_SIZE) -> PackWriter:
        """A writer into the repository's index and this spool."""
        return PackWriter(
            master=self.repository.master,
            claims=IndexClaims(self.repository.index),
            spool=self.spool,
            on_finished=self.finished.append,
            stopped=self.stopping.is_set,
            pack_size=pack_size,
        )

    def new_reader(
        self, writer: PackWriter, content: ContentTable, *, on_read: Callable[[int], None] | None = None
    ) -> FileReader:
        """A reader of files; what it tells is noted here."""
        return FileReader(
            writer=writer,
            content=content,
            chunker_seed=7,
            blob_pool=self.blob_pool,
            stopped=self.stopping.is_set,
            on_read=on_read or self.read_sizes.append,
            warn=lambda path, text: self.warnings.append((path, text)),
        )

    async def store_finished(self) -> None:
        """Put every finished pack where the repository keeps them."""
        while self.finished:
            pack = self.finished.pop(0)
            await self.repository.provider.upload_file(pack.path, pack_key(pack.id.hex()), move=True)

    def close(self) -> None:
        self.blob_pool.shutdown()
        self.spool.close()


async def new_kitchen(folder: Path, *, spool_limit: int = 1 << 30) -> Kitchen:
    """An empty repository and a spool below a folder."""
    repository = await new_repository(folder / "repository")
    spool = Spool.create(folder / "spool", limit=spool_limit)
    return Kitchen(repository, spool, threading.Event(), ThreadPoolExecutor(2))


def entry_of(path: bytes | str | os.PathLike[str]) -> FileEntry:
    """What a walk would find there now; paths of any length."""
    raw = os.fsencode(path)
    return entry_from_stat(os.path.basename(raw), stat_long(raw))


async def read_back(repository: Repository, ids: Sequence[str]) -> bytes:
    """The bytes that these data blobs hold, read from the stored packs and checked."""
    reader = BlobReader(repository)
    return b"".join([await reader.load_blob(bytes.fromhex(name), BlobType.DATA) for name in ids])


@dataclasses.dataclass
class Saved:
    """A finished run: the snapshot and the session that made it (closed)."""

    snapshot_id: str
    tree: str
    session: BackupSession


async def back_up(
    repository: Repository,
    spool_parent: Path,
    *sources: str | os.PathLike[str],
    parent_tree: str | None = None,
    rules: ExcludeRules | None = None,
    progress: ProgressSink | None = None,
    threads: int = 2,
) -> Saved:
    """A whole run without Prefect: every step of the session in its order."""
    names = [os.fspath(source) for source in sources]
    session = BackupSession(
        repository,
        sources=names,
        rules=rules or ExcludeRules(),
        settings=RunSettings(threads, spool_parent),
        progress=progress,
    )
    async with closing(session):
        for number, group in enumerate(group_sources(names)):
            await session.discover(number, group)
        changes = await session.compare(parent_tree)
        session.prepare()
        for batch in plan_batches([zip(changes.to_read, changes.sizes, strict=True)], changes.bytes_to_read):
            delivery = only_delivery(session)
            await session.pack(batch.ordinals)
            delivery.close()
            await delivery.send(repository.provider)
        delivery = only_delivery(session)
        tree = await session.build_trees()
        delivery.close()
        await delivery.send(repository.provider)
        (lane,) = session.lanes.lanes
        snapshot = Snapshot(time=SNAPSHOT_TIME, tree=tree, paths=names, hostname="here")
        return Saved(await lane.publisher.publish(snapshot), tree, session)


def only_delivery(session: BackupSession) -> Delivery:
    """A new delivery of a session with one destination."""
    (delivery,) = session.new_deliveries().values()
    return delivery


async def reopened(repository: Repository) -> Repository:
    """The same repository as another program would find it: opened anew, its index loaded from the destination."""
    fresh = await Repository.open(repository.provider, PASSWORD)
    await fresh.load_index()
    return fresh


async def node_at(repository: Repository, tree: str, path: str | os.PathLike[str] | bytes) -> Node:
    """The node of an absolute path below a root tree."""
    reader = BlobReader(repository)
    found: Node | None = None
    for name in os.fsencode(path).strip(b"/").split(b"/"):
        nodes = {node.raw_name(): node for node in await reader.load_tree(tree)}
        found = nodes[name]
        tree = found.subtree or ""
    assert found is not None
    return found


async def names_of(repository: Repository, kind: FileType) -> set[str]:
    """The ids of the files of a kind at the destination."""
    return set(await repository.list_ids(kind))


@contextlib.contextmanager
def as_ordinary_user() -> Iterator[None]:
    """For code that must meet a refusal: root is refused nothing, so root steps down for the moment."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)

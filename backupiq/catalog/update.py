"""Bringing the catalog to what a repository holds: snapshots that are new enter it, those that are gone leave it.

The snapshots of a lineage enter oldest first, each as far as it differs from the one before, so that the catalog comes
out the same whether it grew with every backup or is built anew from the repository: nothing in it depends on when, or
in which order, it was told. Only the importance of a file may differ after the snapshot in which it was last looked at
is forgotten, because it counts the time since the file was changed.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from backupiq.catalog.adding import Added, SnapshotRows
from backupiq.catalog.health import Destination
from backupiq.catalog.rows import FileRow, Known, SnapshotInfo
from backupiq.catalog.snapshot_files import SnapshotFiles
from backupiq.catalog.snapshot_listing import SnapshotDirectory
from backupiq.catalog.store import Catalog, CatalogedSnapshot, FileKey
from backupiq.discovery.entry import Directory
from backupiq.errors import BackupIQError, CatalogError, StorageError
from backupiq.replicas.reading import ReplicatedProvider
from backupiq.repository.repository import FileType, Repository
from backupiq.semantics.manifests import kind_of
from backupiq.semantics.model import FileFacts, Project
from backupiq.semantics.regenerable_rules import rule_book
from backupiq.storage.provider import StorageProvider
from backupiq.telemetry import get_logger

MOST_ATTEMPTS = 3
"""How often a snapshot is compared anew when another program changed its lineage meanwhile."""

_log = get_logger("backupiq.catalog.update")

KnownLookup = Callable[[Iterable[FileKey]], Mapping[bytes, Known]]


class Analysis(Protocol):
    """What was found out about a tree of files."""

    @property
    def projects(self) -> Sequence[Project]:
        """The projects in it."""
        ...

    def folders(self, directories: Iterator[Directory]) -> Iterator[tuple[Directory, Sequence[FileFacts]]]:
        """Each of these folders, in order and as the same object, with what is said about each of its children."""
        ...


class Analyze(Protocol):
    """Looks at a snapshot's tree of files as a whole.

    ``now_ns`` is the snapshot's time; ``known`` tells what was read out of files before, by raw path, for those of
    these (path, size, mtime) whose content is the same still.
    """

    def __call__(self, files: SnapshotFiles, *, now_ns: int, known: KnownLookup) -> Analysis: ...


@dataclass
class UpdateReport:
    """What an update did: ids of snapshots (hex) that entered and left, the errors of those that cannot be read, how
    many of their folders could not, and the errors of destinations that did not answer."""

    added: list[str] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)
    damaged: dict[str, BackupIQError] = field(default_factory=dict)
    unreadable: int = 0
    silent: dict[str, BackupIQError] = field(default_factory=dict)


Told = Callable[[SnapshotInfo, int, int], None]
"""Told before each snapshot that enters: the snapshot, its number from 1, and how many there are."""


async def update_catalog(
    catalog: Catalog,
    repository: Repository,
    analyze: Analyze,
    *,
    now_ns: int,
    tell: Told = lambda info, number, total: None,
) -> UpdateReport:
    """Bring every snapshot of the repository into the catalog that is not in it, and take out those that are gone.

    ``now_ns`` is when destinations were seen. Raises CatalogError, and what the destinations raise.
    """
    report = UpdateReport()
    found = await repository.snapshots(on_damaged=report.damaged.__setitem__)
    await repository.load_index()
    infos = [SnapshotInfo.of(hex_id, snapshot) for hex_id, snapshot in found]
    plan = plan_update(await asyncio.to_thread(catalog.snapshots, repository.config.id), infos, set(report.damaged))
    await asyncio.to_thread(_take_out, catalog, repository.config.id, plan)
    report.forgotten = plan.forgotten
    for number, info in enumerate(plan.new, 1):
        tell(info, number, len(plan.new))
        await _bring_in(catalog, repository, analyze, info, report)
    await _update_places(catalog, repository, report, now_ns)
    return report


# --- planning ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class UpdatePlan:
    """What an update will do, in this order: lineages (keys) dropped, snapshots taken out, snapshots brought in."""

    dropped: list[str]
    forgotten: list[str]
    new: list[SnapshotInfo]


def plan_update(
    known: Mapping[str, CatalogedSnapshot], there: Sequence[SnapshotInfo], damaged: Collection[str] = ()
) -> UpdatePlan:
    """What brings a catalog with the snapshots ``known`` to those that are ``there``; ``damaged`` ones are left as is.

    A lineage is built anew when its newest snapshot is gone, or when one came that is older than its newest.
    """
    present = {info.hex_id for info in there} | set(damaged)
    lineages: dict[str, list[CatalogedSnapshot]] = defaultdict(list)
    for snapshot in known.values():
        lineages[snapshot.lineage].append(snapshot)
    newest = {key: max(members, key=lambda each: each.order) for key, members in lineages.items()}
    dropped = {key for key, last in newest.items() if last.hex_id not in present}
    for info in there:
        if info.hex_id not in known and info.lineage in newest and info.order < newest[info.lineage].order:
            dropped.add(info.lineage)
    gone = sorted(hex_id for hex_id in known if hex_id not in present)
    new = [info for info in there if info.hex_id not in known or known[info.hex_id].lineage in dropped]
    return UpdatePlan(sorted(dropped), gone, sorted(new, key=lambda info: info.order))


def _take_out(catalog: Catalog, repository_id: str, plan: UpdatePlan) -> None:
    for key in plan.dropped:
        catalog.drop_lineage(repository_id, key)
    if plan.forgotten:
        catalog.forget(repository_id, plan.forgotten)


# --- one snapshot --------------------------------------------------------------------------------------------------


async def _bring_in(
    catalog: Catalog, repository: Repository, analyze: Analyze, info: SnapshotInfo, report: UpdateReport
) -> None:
    repository_id = repository.config.id
    for _ in range(MOST_ATTEMPTS):
        newest = await asyncio.to_thread(catalog.newest, repository_id, info.lineage)
        projects = await asyncio.to_thread(catalog.open_projects, repository_id, info.lineage) if newest else []
        files = SnapshotFiles(
            repository, info.tree, base=newest.tree if newest else None, is_unit=tells_of_a_project, watch=projects
        )
        entering = _Entering(catalog, repository_id, info, files, newest, projects)
        try:
            added = await asyncio.to_thread(entering.run, analyze)
            if added is Added.ADDED:
                report.added.append(info.hex_id)
                report.unreadable += files.changes.unreadable
        finally:
            files.close()
        if added is not Added.OUT_OF_ORDER:
            return
    raise CatalogError(
        f"The catalog {catalog.name} is being changed by another program again and again. Run the command later.",
        reason="busy",
    )


@dataclass
class _Entering:
    """One snapshot on its way into the catalog; runs in a thread."""

    catalog: Catalog
    repository_id: str
    info: SnapshotInfo
    files: SnapshotFiles
    newest: CatalogedSnapshot | None
    projects: Sequence[bytes]

    def run(self, analyze: Analyze) -> Added:
        if self.newest is not None and self.newest.tree == self.info.tree:
            given = SnapshotRows((), base=self.newest.hex_id, kept_projects=self.projects)
            return self.catalog.add_snapshot(self.repository_id, self.info, given)
        analysis = analyze(self.files, now_ns=self.info.time_ns, known=self._known)
        changes = self.files.changes
        projects = {project.root: project for project in analysis.projects}
        gone = set(changes.gone_folders)
        kept = [
            root
            for root in self.projects
            if root not in projects and root not in changes.seen and gone.isdisjoint(_at_and_above(root))
        ]
        given = SnapshotRows(
            rows=rows_of(analysis.folders(self.files.directories())),
            projects=list(projects.values()),
            base=self.newest.hex_id if self.newest else None,
            gone=changes.gone,
            gone_folders=changes.gone_folders,
            kept_projects=kept,
        )
        return self.catalog.add_snapshot(self.repository_id, self.info, given, unreadable=changes.unreadable)

    def _known(self, keys: Iterable[FileKey]) -> dict[bytes, Known]:
        """What was read out of these files before. Their content is compared: size and time may be kept on purpose."""
        found = self.catalog.known(self.repository_id, self.info.host, keys)
        return {path: known for path, known in found.items() if known.content == self.files.content(path)}


def rows_of(folders: Iterable[tuple[Directory, Sequence[FileFacts]]]) -> Iterator[FileRow]:
    """The rows of everything in these folders, which are those of a snapshot."""
    for directory, facts in folders:
        assert isinstance(directory, SnapshotDirectory)  # noqa: S101 - analysis gives back what it was given
        prefix = directory.path.rstrip(b"/") + b"/"
        for entry, content, found in zip(directory.children, directory.contents, facts, strict=True):
            yield FileRow(prefix + entry.name, entry.kind, entry.size, entry.mtime_ns, content, found)


def _at_and_above(path: bytes) -> Iterator[bytes]:
    while path:
        yield path
        path = path.rpartition(b"/")[0]


def tells_of_a_project(folder: bytes, names: Iterable[bytes]) -> bool:
    """Whether what is said about files anywhere below a folder may depend on others below it.

    So it is when it holds the manifest of a project, a working copy of git, or a folder that could be regenerable.
    """
    book = rule_book()
    return any(
        name == b".git" or name in book.markers or book.for_folder(name) or kind_of(folder, name) is not None
        for name in names
    )


# --- where the snapshots are ---------------------------------------------------------------------------------------


async def _update_places(catalog: Catalog, repository: Repository, report: UpdateReport, now_ns: int) -> None:
    """Keep which destination holds which snapshots, of those that answer."""
    held: list[tuple[Destination, Collection[str]]] = []
    for name, provider in _replicas(repository.provider).items():
        alone = Repository(provider, repository.master, repository.config, repository.key_id)
        try:
            ids = await alone.list_ids(FileType.SNAPSHOT)
        except StorageError as error:
            report.silent[name] = error
            _log.warning("a destination does not tell its snapshots", destination=name, error=error.code)
        else:
            held.append((Destination(name, provider.kind, provider.identity), ids))
    await asyncio.to_thread(catalog.record_places, repository.config.id, held, now_ns)


def _replicas(provider: StorageProvider) -> dict[str, StorageProvider]:
    return provider.replicas if isinstance(provider, ReplicatedProvider) else {provider.location: provider}

"""A real repository that grows by real backups, and catalogs of it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from backupiq.catalog.analyzing import snapshot_analyzer
from backupiq.catalog.store import Catalog
from backupiq.catalog.update import Analyze, UpdateReport, update_catalog
from backupiq.repository.repository import FileType, Repository
from backupiq.repository.snapshot import Snapshot, encode_snapshot
from tests.catalog.contents import empty_catalog
from tests.unit.archive.saving import back_up
from tests.unit.repository.repositories import new_repository

KEY = b"k" * 32
START = 1_780_000_000


class Growing:
    """A repository and a folder that is backed up into it, a minute apart."""

    def __init__(self, folder: Path, repository: Repository) -> None:
        self.folder = folder
        self.source = folder / "home"
        self.source.mkdir()
        self.repository = repository
        self.trees: list[str] = []
        self._count = 0

    def write(self, name: str | bytes, data: bytes | str = b"text") -> Path:
        """A file below the folder, with a time that only its place in the test decides."""
        path = Path(os.fsdecode(os.path.join(os.fsencode(self.source), os.fsencode(name))))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        self._count += 1
        os.utime(path, (START, START + self._count))
        return path

    async def back_up(self, *, tags: Sequence[str] = (), host: str = "laptop", minute: int | None = None) -> str:
        """A snapshot of the folder; its id."""
        saved = await back_up(
            self.repository, self.folder, self.source, parent_tree=self.trees[-1] if self.trees else None
        )
        self.trees.append(saved.tree)
        await self.repository.delete_file(FileType.SNAPSHOT, saved.snapshot_id)
        return await self.store(saved.tree, tags=tags, host=host, minute=minute)

    async def store(
        self, tree: str, *, tags: Sequence[str] = (), host: str = "laptop", minute: int | None = None
    ) -> str:
        """A snapshot of a tree that is stored already."""
        minute = len(self.trees) if minute is None else minute
        snapshot = Snapshot(
            time=f"2026-05-04T03:{minute:02d}:01Z",
            tree=tree,
            paths=[str(self.source)],
            hostname=host,
            username="anna",
            tags=list(tags) or None,
        )
        return await self.repository.save_file(FileType.SNAPSHOT, encode_snapshot(snapshot))

    async def forget(self, *ids: str) -> None:
        """Remove snapshots, as `restic forget` does."""
        for hex_id in ids:
            await self.repository.delete_file(FileType.SNAPSHOT, hex_id)

    async def update(self, catalog: Catalog, analyze: Analyze | None = None) -> UpdateReport:
        """Bring a catalog up to date."""
        return await update_catalog(catalog, self.repository, analyze or snapshot_analyzer(KEY), now_ns=1)

    async def anew(self, name: str) -> Catalog:
        """A new catalog of the repository as it is now."""
        catalog = empty_catalog(self.folder, name)
        await self.update(catalog)
        return catalog


@contextlib.asynccontextmanager
async def growing(folder: Path) -> AsyncIterator[Growing]:
    """An empty repository with an empty folder."""
    repository = await new_repository(folder / "repository")
    try:
        yield Growing(folder, repository)
    finally:
        await repository.provider.close()

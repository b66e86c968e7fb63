"""Commands that run quickly one after another, and a small repository to do bad things to."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.driver import Commands
from tests.support.prefect_server import PrefectServer
from tests.support.programs import isolated_home, plain_environment
from tests.unit.archive import saving
from tests.unit.repository.repositories import CHEAP, NOW_NS, new_repository


@pytest.fixture(scope="session")
def commands(prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """Runs command lines in one process that has Prefect loaded."""
    home = tmp_path_factory.mktemp("home")
    running = Commands(plain_environment() | isolated_home(home) | prefect_server.settings(home), home)
    try:
        yield running
    finally:
        running.close()


@dataclasses.dataclass(frozen=True)
class Small:
    """A repository with two snapshots, two packs of files, two of trees, two indexes and two keys; and their source."""

    folder: Path
    repo: Path
    source: Path
    first: str
    second: str

    @property
    def target(self) -> Path:
        return self.folder / "target"

    def restored(self) -> Path:
        """Where a restore puts the source."""
        return self.target / self.source.relative_to("/")


@pytest.fixture(scope="session")
def small_template(tmp_path_factory: pytest.TempPathFactory) -> Small:
    folder = tmp_path_factory.mktemp("small")
    source = folder / "source"
    (source / "sub").mkdir(parents=True)
    for number in range(6):
        (source / f"file-{number}").write_bytes(os.urandom(40_000))
    (source / "sub" / "text").write_text("some text\n" * 3000)
    (source / "link").symlink_to("file-0")

    async def make() -> tuple[str, str]:
        repository = await new_repository(folder / "repo")
        async with repository.provider:
            await repository.add_key(
                "another password", hostname="there", username="ben", created_ns=NOW_NS, params=CHEAP
            )
            first = await saving.back_up(repository, folder / "spool", source)
            (source / "added").write_bytes(os.urandom(40_000))
            (source / "sub" / "more").write_text("more text\n")
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(saving, "SNAPSHOT_TIME", "2026-05-05T04:03:02Z")
                second = await saving.back_up(repository, folder / "spool", source, parent_tree=first.tree)
            return first.snapshot_id, second.snapshot_id

    return Small(folder, folder / "repo", source, *asyncio.run(make()))


@pytest.fixture
def small(small_template: Small, tmp_path: Path) -> Small:
    """A copy whose repository a test may damage; the source is shared and must not be changed."""
    shutil.copytree(small_template.repo, tmp_path / "repo")
    for path in (tmp_path / "repo").rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    return dataclasses.replace(small_template, folder=tmp_path, repo=tmp_path / "repo")

"""Three folders that hold the same repository."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.unit.replicas.replicas import Faulty, copy_of, make_repository


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository that no test changes."""
    return asyncio.run(make_repository(tmp_path_factory.mktemp("original")))


@pytest.fixture
def folders(original: Path, tmp_path: Path) -> dict[str, Path]:
    """Three replicas of it by their locations."""
    made = [copy_of(original, tmp_path / name) for name in ("a", "b", "c")]
    return {str(folder): folder for folder in made}


@pytest.fixture
def replicas(folders: dict[str, Path]) -> dict[str, Faulty]:
    return {name: Faulty(folder) for name, folder in folders.items()}


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    folder = tmp_path / "spool"
    folder.mkdir(mode=0o700)
    return folder

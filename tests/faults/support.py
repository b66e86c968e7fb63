"""What the fault tests share: repositories on disk as values that can be hashed, compared and looked into."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import stat
import time
from collections.abc import Callable
from pathlib import Path

from backupiq.archive.restore import RestoreReport, execute_restore
from backupiq.archive.restore_plan import plan_restore
from backupiq.repository.reader import BlobReader
from backupiq.repository.repository import FileType, Repository
from backupiq.storage.local import LocalProvider

OBJECT_NAME = re.compile(r"[0-9a-f]{64}")
PATIENCE_SECONDS = 240.0
"""How long a test waits for another program before it fails; only a hang takes that long."""


def hashes_below(folder: Path) -> dict[str, str]:
    """Relative path to what stands there: the SHA-256 of a file, the target of a symlink, ``folder``."""
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        name = str(path.relative_to(folder))
        if stat.S_ISLNK(status.st_mode):
            found[name] = f"link to {os.readlink(path)}"
        elif stat.S_ISDIR(status.st_mode):
            found[name] = "folder"
        elif stat.S_ISREG(status.st_mode):
            found[name] = hash_file(path)
        else:
            found[name] = f"special {stat.S_IFMT(status.st_mode):#o}"
    return found


def hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_of(repo: Path) -> dict[str, str]:
    """Every file of a repository but its locks, with its hash."""
    return {name: value for name, value in hashes_below(repo).items() if value != "folder" and "locks/" not in name}


def misnamed(repo: Path) -> list[str]:
    """Files with an object's name whose content is not the one that the name stands for."""
    return [
        name
        for name, value in hashes_below(repo).items()
        if OBJECT_NAME.fullmatch(os.path.basename(name)) and value != os.path.basename(name)
    ]


def pack_sizes(repo: Path) -> dict[str, int]:
    """Name in hex to size of every pack of a repository."""
    return {path.name: path.stat().st_size for path in repo.glob("data/*/*") if OBJECT_NAME.fullmatch(path.name)}


def locks_of(repo: Path) -> list[str]:
    folder = repo / "locks"
    return sorted(os.listdir(folder)) if folder.exists() else []


def temporary_files(folder: Path) -> list[Path]:
    """What an upload or a restore that did not end leaves behind."""
    return [path for path in folder.rglob("*") if "-tmp-" in path.name or path.name.startswith(".backupiq-restore-")]


def spool_folders(home: Path) -> list[Path]:
    """The spool folders of runs below a user's home."""
    return list((home / ".cache" / "backupiq" / "spool").glob("run-*"))


async def open_repository(repo: Path, password: str) -> Repository:
    """The repository, opened by the library, its index loaded."""
    opened = await Repository.open(LocalProvider(repo), password)
    await opened.load_index()
    return opened


async def restore_below(repository: Repository, snapshot: str, target: Path) -> RestoreReport:
    """Restore a snapshot by the library alone."""
    _, found = await repository.load_snapshot(snapshot)
    reader = BlobReader(repository)
    return await execute_restore(await plan_restore(reader, found, target=target), reader, target)


async def orphans_of(repository: Repository, repo: Path) -> dict[str, int]:
    """Packs that no index names, with their sizes."""
    return {name: size for name, size in pack_sizes(repo).items() if not repository.index.has_pack(bytes.fromhex(name))}


async def listed_names(repository: Repository) -> set[str]:
    """Every file that the repository takes for one of its own, by name."""
    names: set[str] = set()
    for kind in (FileType.KEY, FileType.SNAPSHOT, FileType.INDEX, FileType.PACK):
        names |= set(await repository.list_ids(kind))
    return names


def wait_for(condition: Callable[[], object], what: str, seconds: float = PATIENCE_SECONDS) -> None:
    """Wait for another program, asking often; the test fails when it takes longer than a hang would."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.01)


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """A folder as it was, to prove that nothing beside a part of it was touched."""

    folder: Path
    but: str
    before: dict[str, str]

    @classmethod
    def of(cls, folder: Path, *, but: str) -> Surroundings:
        return cls(folder, but, cls._look(folder, but))

    @staticmethod
    def _look(folder: Path, but: str) -> dict[str, str]:
        return {name: value for name, value in hashes_below(folder).items() if name.split("/")[0] != but}

    def assert_untouched(self) -> None:
        """Fails when anything but the one entry has changed."""
        assert self._look(self.folder, self.but) == self.before

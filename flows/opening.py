"""Opening what a run works on: the destination, its repository (made when there is none yet), the parent snapshot."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
import re
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from pydantic import SecretStr

from backupiq.discovery.sources import clean
from backupiq.errors import (
    BackupIQError,
    RepositoryExistsError,
    RepositoryMissingError,
    StorageError,
    StorageNotFoundError,
)
from backupiq.passwords import PasswordSources, find_password, missing_password
from backupiq.profile import Bandwidth
from backupiq.repository.lockfile import LockFile
from backupiq.repository.repository import FileType, Repository
from backupiq.repository.snapshot import Snapshot, find_parent, is_checkpoint
from backupiq.storage.local import LocalProvider
from backupiq.storage.provider import StorageProvider
from backupiq.storage.throttle import Limits, Throttle
from backupiq.telemetry import get_logger, register_secret
from flows.context import RunContext
from flows.portable import json_text

TEMPORARY_FILES_ARE_DEAD_AFTER = 24 * 3600.0
log = get_logger("backupiq.flows.opening")


def limits_of(options: Bandwidth) -> Limits:
    """The limits that all destinations of a run share."""
    return Limits(
        upload=Throttle(options.limit_upload) if options.limit_upload else None,
        download=Throttle(options.limit_download) if options.limit_download else None,
    )


def resolve_password(run: RunContext, locations: Sequence[str], key: PasswordSources | str | None) -> SecretStr:
    """The password of this run: the caller's, else that of the sources (a text names a block) or the environment."""
    if run.password is not None:
        register_secret(run.password.get_secret_value())
        return run.password
    sources = key if isinstance(key, PasswordSources) else PasswordSources(block=key)
    found = find_password(sources, locations, note=run.progress.note)
    if found is None:
        raise missing_password()
    return found.secret


async def open_or_create(provider: StorageProvider, password: SecretStr) -> tuple[Repository, bool]:
    """The repository at a destination; made there when the destination holds nothing. Returns whether it was made."""
    secret = password.get_secret_value()
    try:
        return await Repository.open(provider, secret), False
    except RepositoryMissingError:
        await refuse_strangers(provider)
    try:
        made = await Repository.init(
            provider, secret, hostname=socket.gethostname(), username=user_name(), now_ns=time.time_ns()
        )
    except RepositoryExistsError:
        # Another run made it just now.
        return await Repository.open(provider, secret), False
    return made, True


async def refuse_strangers(provider: StorageProvider) -> None:
    """RepositoryMissingError for a destination that holds other things, or parts of a repository: it is left alone."""
    part = re.compile(rf"({FileType.PACK}/[0-9a-f]{{2}}|{FileType.INDEX}|{FileType.SNAPSHOT})/[0-9a-f]{{64}}")
    try:
        async for info in provider.list_files():
            if part.fullmatch(info.key):
                raise RepositoryMissingError(
                    f"{provider.location} holds parts of a repository whose file `config` is missing. Restore that "
                    "file from a copy, or choose another place."
                )
            if not info.key.startswith("keys/"):
                raise RepositoryMissingError(
                    f"{provider.location} is not empty and holds no repository. Choose an empty place, or create one "
                    "there on purpose with `backupiq init --to`."
                )
    except StorageNotFoundError:
        return


def is_alone(locks: Iterable[tuple[str, LockFile]]) -> bool:
    """Whether every lock is of this process: nobody else uses the repository."""
    own = (socket.gethostname(), os.getpid())
    return all((lock.hostname, lock.pid) == own for _, lock in locks)


async def sweep(provider: StorageProvider) -> None:
    """Remove what uploads left that were killed long ago; a destination that refuses keeps it."""
    try:
        await provider.sweep_temporary_files(TEMPORARY_FILES_ARE_DEAD_AFTER)
    except StorageError as error:
        log.warning("sweep.refused", destination=provider.location, error=error.code)


async def choose_parent(
    repository: Repository,
    *,
    host: str,
    paths: Sequence[str],
    wanted: str | None,
    force: bool,
    on_damaged: Callable[[str, BackupIQError], None] | None = None,
    on_checkpoint: Callable[[str], None] | None = None,
) -> tuple[str, Snapshot] | None:
    """The snapshot to compare with: the one asked for, else the newest of this host and these paths.

    A damaged one raises SnapshotDamagedError, or, with ``on_damaged``, is reported to it and passed over.
    ``on_checkpoint`` is told the ids of checkpoints of this host and these paths alone, when the newest was looked for.
    """
    if force:
        return None
    if wanted is not None:
        return await repository.load_snapshot(wanted)
    snapshots = await repository.snapshots(on_damaged)
    for name, snapshot in snapshots if on_checkpoint is not None else ():
        same = snapshot.hostname == host and sorted(snapshot.paths) == sorted(paths)
        if on_checkpoint is not None and same and is_checkpoint(snapshot):
            on_checkpoint(name)
    return await asyncio.to_thread(find_parent, snapshots, host, paths)


def lies_inside(provider: StorageProvider, sources: Sequence[str]) -> bool:
    """Whether the destination is a folder at or below one of the sources."""
    if not isinstance(provider, LocalProvider):
        return False
    root = os.path.realpath(provider.root)
    above = {root, *map(str, Path(root).parents)}
    return not above.isdisjoint(os.path.realpath(source) for source in sources)


def own_folders(provider: StorageProvider, sources: Sequence[str]) -> frozenset[tuple[int, int]]:
    """Device and inode of the repository's folders, when it lies inside what is backed up; else nothing.

    A backup of its own packs would never be finished: each run would add those of the one before.
    """
    if not isinstance(provider, LocalProvider) or not lies_inside(provider, sources):
        return frozenset()
    root = os.path.realpath(provider.root)
    found = set()
    for kind in FileType:
        with contextlib.suppress(OSError):
            status = os.stat(os.path.join(root, kind))
            found.add((status.st_dev, status.st_ino))
    return frozenset(found)


def user_name() -> str:
    """The name of the user who runs this, or nothing where the system knows none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return ""


def absolute(path: str) -> str:
    """A source's path as snapshots name it."""
    return json_text(os.fsdecode(clean(path)[0]))

"""A further destination for a repository that exists: made, given keys and config, and caught up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from backupiq.errors import RepositoryExistsError, StorageNotFoundError
from backupiq.replicas.copying import AT_ONCE, CatchUpReport, OnCopied, catch_up
from backupiq.replicas.objects import ORDER
from backupiq.replicas.opening import Kinship, OpenReplicas, find_kinship
from backupiq.repository.locking import lock_repository
from backupiq.repository.repository import CONFIG_KEY, FileType, Repository, file_key
from backupiq.storage.provider import StorageProvider


async def add_replica(
    name: str,
    provider: StorageProvider,
    existing: OpenReplicas,
    *,
    spool: Path,
    at_once: int = AT_ONCE,
    progress: OnCopied | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> CatchUpReport:
    """Make the destination a replica of the repository, or go on with one that was interrupted.

    The caller holds a lock at the existing replicas; one is taken here too, once the keys and the config are there.
    Raises RepositoryExistsError when the destination holds another repository, or a config that is not this one's.
    """
    await copy_keys_and_config(name, provider, existing)
    providers = {**existing.provider.replicas, name: provider}
    opened = existing.repository
    async with lock_repository(Repository(provider, opened.master, opened.config, opened.key_id)):
        return await catch_up(
            name,
            providers,
            config_is_right=existing.config_is_right,
            spool=spool,
            at_once=at_once,
            progress=progress,
            should_stop=should_stop,
        )


async def copy_keys_and_config(name: str, provider: StorageProvider, existing: OpenReplicas) -> None:
    """Make the destination, and give it the repository's keys and then its config, so that it can be locked.

    Raises RepositoryExistsError when it holds another repository, or a config that is not this one's.
    """
    await provider.create()
    await _refuse_others(name, provider, existing)
    if provider.capabilities.directories:
        for kind in (*ORDER, FileType.LOCK):
            if kind is not FileType.CONFIG:
                await provider.create_directory(kind)
    for key in await existing.repository.list_ids(FileType.KEY):
        stored = await existing.repository.load_raw(FileType.KEY, key)
        await provider.upload_file(stored, file_key(FileType.KEY, key), sha256=key)
    await provider.upload_file(existing.config, CONFIG_KEY)


async def _refuse_others(name: str, provider: StorageProvider, existing: OpenReplicas) -> None:
    try:
        config = await provider.read(CONFIG_KEY)
    except StorageNotFoundError:
        config = None
    kinship = await find_kinship(provider, existing.provider)
    if kinship is Kinship.FOREIGN or (config is not None and not existing.config_is_right(config)):
        raise RepositoryExistsError(
            f"{name} holds another repository, or a damaged one. Choose another place; a damaged replica of this "
            "repository is brought back by `backupiq heal`.",
            location=name,
        )

"""Opening a repository at several replicas: which answer, which belong to it, and which config is the right one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from enum import StrEnum

from backupiq.errors import (
    BackupIQError,
    CircuitOpenError,
    RepositoryDamagedError,
    RepositoryMissingError,
    StorageError,
    StorageNotFoundError,
    ValidationError,
)
from backupiq.replicas.objects import kind_of
from backupiq.replicas.reading import ReplicatedProvider
from backupiq.repository.config import decode_config
from backupiq.repository.crypto import MasterKey
from backupiq.repository.repository import CONFIG_KEY, FileType, Repository, in_parallel
from backupiq.storage.provider import StorageProvider

SAMPLE = 50
"""Objects of a kind that are looked up at another replica to find out whether two hold the same repository."""


class Kinship(StrEnum):
    """What a destination has to do with a repository, going by the names of its objects."""

    SAME = "same"
    EMPTY = "empty"
    """It holds no object of any repository."""
    FOREIGN = "foreign"


class Condition(StrEnum):
    """What a replica's config says about it."""

    READY = "ready"
    NO_CONFIG = "no-config"
    """It holds objects of the repository, but no config."""
    WRONG_CONFIG = "wrong-config"
    """Its config cannot be opened, or has other bytes than that of the others."""
    EMPTY = "empty"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True)
class Probe:
    """What a replica answered when it was asked for its config: the sealed bytes, nothing, or an error."""

    provider: StorageProvider
    config: bytes | None
    error: BackupIQError | None


Guard = Callable[[StorageProvider], AbstractAsyncContextManager[object]]
"""Stands around what is asked of a destination, and may refuse it with CircuitOpenError."""


@dataclass(frozen=True, slots=True)
class OpenReplicas:
    """A repository that is open at several replicas.

    ``repository`` reads from all that belong to it, through ``provider``; closing that closes all that were probed.
    ``config`` is the right config's sealed bytes; ``conditions`` and ``errors`` tell of every replica by name.
    """

    repository: Repository
    provider: ReplicatedProvider
    config: bytes
    conditions: Mapping[str, Condition]
    errors: Mapping[str, BackupIQError]

    def config_is_right(self, data: bytes) -> bool:
        """Whether these are the config's bytes."""
        return data == self.config

    def at(self, name: str) -> Repository:
        """The repository at one of its replicas alone, for its locks."""
        opened = self.repository
        return Repository(self.provider.replicas[name], opened.master, opened.config, opened.key_id)


def name_replicas(providers: Iterable[StorageProvider]) -> dict[str, StorageProvider]:
    """The providers by location, in order. The same destination twice counts once; the second one is then unused."""
    named: dict[str, StorageProvider] = {}
    identities: set[str] = set()
    for provider in providers:
        if provider.identity in identities:
            continue
        identities.add(provider.identity)
        name, number = provider.location, 2
        while name in named:  # the same bucket and prefix at another endpoint
            name, number = f"{provider.location} ({number})", number + 1
        named[name] = provider
    return named


async def probe_replicas(providers: Mapping[str, StorageProvider], guard: Guard | None = None) -> dict[str, Probe]:
    """Ask every replica for its config, all at once; nothing is raised for those that do not answer.

    One that the guard refuses counts as one that does not answer, as long as another one has the config.
    """

    async def probe(provider: StorageProvider) -> Probe:
        try:
            async with nullcontext() if guard is None else guard(provider):
                return await _ask_for_config(provider)
        except (StorageError, CircuitOpenError) as error:
            return Probe(provider, None, error)

    answers = await in_parallel(providers.values(), probe, limit=max(1, len(providers)))
    found = dict(zip(providers, answers, strict=True))
    refused = {name: probe.provider for name, probe in found.items() if isinstance(probe.error, CircuitOpenError)}
    if refused and all(probe.config is None for probe in found.values()):
        return found | await probe_replicas(refused)
    return found


async def _ask_for_config(provider: StorageProvider) -> Probe:
    await provider.authenticate()
    try:
        return Probe(provider, await provider.read(CONFIG_KEY), None)
    except StorageNotFoundError:
        return Probe(provider, None, None)


def require_repository(probes: Mapping[str, Probe]) -> None:
    """Raise when no replica shows a repository: RepositoryMissingError, or why none of them answers."""
    if any(probe.config is not None for probe in probes.values()):
        return
    errors = [probe.error for probe in probes.values() if probe.error is not None]
    others = [error for error in errors if not isinstance(error, StorageNotFoundError)]
    if others:
        raise others[0]
    where = ", ".join(probes)
    raise RepositoryMissingError(f"There is no repository at {where}. {RepositoryMissingError.hint}", location=where)


async def open_replicas(
    probes: Mapping[str, Probe], password: str, *, note: Callable[[str], None] | None = None
) -> OpenReplicas:
    """Open the repository with one of its passwords, at as many replicas as belong to it.

    A replica that lost its config, its keys or its reachability does not keep the others from serving. Raises what
    `Repository.open` does, and ValidationError when replicas hold different repositories.
    """
    require_repository(probes)
    tell = note or _tell_nobody
    provider = ReplicatedProvider(
        {name: probe.provider for name, probe in probes.items()},
        note=tell,
        down=[name for name, probe in probes.items() if probe.error is not None],
    )
    repository = await Repository.open(provider, password)
    right = _right_config(probes, repository)
    conditions: dict[str, Condition] = {}
    errors: dict[str, BackupIQError] = {}
    for name, probe in probes.items():
        found = await _condition(name, probe, right, probes, repository)
        if isinstance(found, BackupIQError):
            conditions[name], errors[name] = Condition.UNREACHABLE, found
            tell(f"{found.message} The next replica is used.")
            continue
        conditions[name] = found
        if found is Condition.EMPTY:
            provider.leave_out(name)
            tell(f"There is no repository at {name}. The next replica is used.")
        elif found is not Condition.READY and (provider.known_wrong(name, CONFIG_KEY) or probe.config is None):
            tell(f"{CONFIG_KEY} is missing or damaged at {name}; another replica has it. Run `backupiq heal`.")
    return OpenReplicas(repository, provider, right, conditions, errors)


def _tell_nobody(text: str) -> None:
    """Nobody wants to know."""


def opens(sealed: bytes, master: MasterKey, repository_id: str) -> bool:
    """Whether these bytes are the config of that repository: authentic, valid, and with its id."""
    try:
        return decode_config(master.open(sealed)).id == repository_id
    except RepositoryDamagedError:
        return False


def _right_config(probes: Mapping[str, Probe], repository: Repository) -> bytes:
    """The bytes that most replicas hold of those that open; the first of them when several are as common."""
    sealed = [probe.config for probe in probes.values() if probe.config is not None]
    valid = Counter(data for data in sealed if opens(data, repository.master, repository.config.id))
    if not valid:
        raise RepositoryDamagedError("The config changed while it was read. Run the command again.")
    return valid.most_common(1)[0][0]


async def _condition(
    name: str, probe: Probe, right: bytes, probes: Mapping[str, Probe], repository: Repository
) -> Condition | BackupIQError:
    """What a replica is, or the error that keeps it from being known."""
    if probe.error is not None:
        return probe.error
    if probe.config == right:
        return Condition.READY
    if probe.config is not None and opens(probe.config, repository.master, repository.config.id):
        return Condition.WRONG_CONFIG  # the same content, sealed another time
    reference, other = next((other, found) for other, found in probes.items() if found.config == right)
    try:
        kinship = await find_kinship(probe.provider, other.provider)
    except StorageError as error:
        return error
    if kinship is Kinship.SAME:
        return Condition.NO_CONFIG if probe.config is None else Condition.WRONG_CONFIG
    if kinship is Kinship.EMPTY and probe.config is None:
        return Condition.EMPTY
    raise ValidationError(
        f"{name} and {reference} hold different repositories, and only replicas of one can be used together. "
        "Leave one of them out."
    )


async def find_kinship(provider: StorageProvider, reference: StorageProvider) -> Kinship:
    """Whether a destination holds objects of the repository at ``reference``.

    The name of an object is the hash of its encrypted bytes, so that one name in common is proof. Locks and what is
    not named as an object count for nothing. Costs a few listings and at most 200 questions.
    """
    empty = True
    for kind in (FileType.KEY, FileType.SNAPSHOT, FileType.INDEX, FileType.PACK):
        sample: list[str] = []
        async for info in provider.list_files(kind):
            if kind_of(info.key) is kind:
                sample.append(info.key)
            if len(sample) == SAMPLE:
                break
        empty = empty and not sample
        for key in sample:
            if await reference.file_exists(key):
                return Kinship.SAME
    return Kinship.EMPTY if empty else Kinship.FOREIGN

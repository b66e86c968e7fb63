"""The destinations of a backup: opened, locked, compared with each other, and made where they are empty.

A destination that cannot be used does not stop the run as long as another one can: it is skipped, and why is told.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path

from pydantic import SecretStr

from backupiq.archive.lanes import Lane, Lanes
from backupiq.archive.publisher import IndexBook, adopt_orphans, forget_lost_packs
from backupiq.errors import (
    BackupIQError,
    CircuitOpenError,
    RepositoryLockedError,
    StorageError,
    StorageNotFoundError,
)
from backupiq.profile import BackupOptions
from backupiq.replicas.adding import copy_keys_and_config
from backupiq.replicas.copying import CatchUpReport, catch_up
from backupiq.replicas.heal_plan import plan_heal
from backupiq.replicas.opening import Condition, OpenReplicas, Probe, name_replicas, open_replicas, probe_replicas
from backupiq.replicas.survey import ReplicaListing, list_replica
from backupiq.repository.locking import RepositoryLock, list_locks, lock_repository
from backupiq.repository.repository import FileType, Repository, in_parallel
from backupiq.resilience.breaker import Breaker
from backupiq.storage.provider import StorageProvider
from backupiq.storage.throttle import Limits, Throttle
from backupiq.telemetry import get_logger
from blocks.destinations import provider_for
from flows.context import RunContext
from flows.guard import Breakers
from flows.opening import is_alone, open_or_create, refuse_strangers, sweep

log = get_logger("backupiq.flows.destinations")


@dataclasses.dataclass(slots=True)
class Destinations:
    """What a run writes to.

    ``repository`` reads from all of them; ``lanes`` lead to those that take part. ``skipped``: why others do not.
    ``lagging``: those that must be caught up before anything is published there. ``replicas`` is None when there is
    one destination only.
    """

    repository: Repository
    lanes: Lanes
    breakers: Breakers
    replicas: OpenReplicas | None = None
    locks: dict[str, RepositoryLock] = dataclasses.field(default_factory=dict)
    created: list[str] = dataclasses.field(default_factory=list)
    skipped: dict[str, BackupIQError] = dataclasses.field(default_factory=dict)
    lagging: set[str] = dataclasses.field(default_factory=set)
    caught_up: dict[str, int] = dataclasses.field(default_factory=dict)
    complete: set[str] = dataclasses.field(default_factory=set)

    def lane(self, name: str) -> Lane:
        """The lane of that name."""
        return next(lane for lane in self.lanes.lanes if lane.name == name)

    def breaker(self, lane: int) -> Breaker:
        """The breaker of a destination that takes part, by its lane's place."""
        provider = self.lanes.lanes[lane].provider
        return self.breakers.for_destination(provider.identity, provider.location)

    def ensure_locked(self) -> None:
        """Raise LockLostError when a repository is no longer ours to write to; with others left, give it up."""
        for name, lock in self.locks.items():
            lane = self.lane(name)
            if lane.error is None and lock.lost:
                try:
                    lock.ensure_held()
                except BackupIQError as error:
                    self.give_up(lane, error)

    def give_up(self, lane: Lane, error: BackupIQError) -> None:
        """Go on without a destination; raises the error when no other would be left."""
        if lane.error is not None:
            return
        if not any(other.flows for other in self.lanes.lanes if other is not lane):
            raise error
        log.warning("destination.given_up", destination=lane.name, error=error.code)
        self.lanes.give_up(lane, error)

    async def catch_up(self, name: str, spool: Path) -> CatchUpReport:
        """Copy to a destination what it lacks and others have."""
        if self.replicas is None:
            raise AssertionError("a single destination lags behind nothing")
        providers = {lane.name: lane.provider for lane in self.lanes.lanes if lane.name == name or lane.error is None}
        report = await catch_up(
            name,
            providers,
            config_is_right=self.replicas.config_is_right,
            spool=spool / "catching-up",
            at_hand=lambda key: spool / key[-64:] if (spool / key[-64:]).is_file() else None,
        )
        self.caught_up[name] = self.caught_up.get(name, 0) + report.copied.objects
        if report.copied.failures:
            raise report.copied.failures[0].error
        return report


def make_providers(options: BackupOptions) -> list[StorageProvider]:
    """A provider for each destination; they share the run's bandwidth limits. Nothing is contacted."""
    limits = Limits(
        upload=Throttle(options.limit_upload) if options.limit_upload else None,
        download=Throttle(options.limit_download) if options.limit_download else None,
    )
    return [provider_for(each, limits=limits) for each in options.to]


async def open_destinations(
    stack: contextlib.AsyncExitStack,
    run: RunContext,
    providers: list[StorageProvider],
    password: SecretStr,
    options: BackupOptions,
    breakers: Breakers,
) -> Destinations:
    """Open and lock every destination that can be used; raises when none can."""
    named = name_replicas(providers)
    if len(named) == 1:
        ((name, provider),) = named.items()
        async with breakers.for_destination(provider.identity, provider.location).attempt():
            repository, created = await open_or_create(provider, password)
        found = Destinations(repository, Lanes(IndexBook(repository.master)), breakers)
        found.lanes.add(name, repository)
        found.created = [name] if created else []
    else:
        found = await _open_several(run, named, password, breakers)
    for name in found.created:
        run.progress.note(f"created repository {found.repository.config.id[:10]} at {name}")
    await _lock_all(stack, found, options)
    return found


async def _open_several(
    run: RunContext, named: Mapping[str, StorageProvider], password: SecretStr, breakers: Breakers
) -> Destinations:
    def guard(provider: StorageProvider) -> contextlib.AbstractAsyncContextManager[object]:
        return breakers.for_destination(provider.identity, provider.location).attempt()

    created: list[str] = []
    probes = await probe_replicas(named, guard)
    if all(probe.config is None for probe in probes.values()):
        created.append(await _create_first(probes, password))
        probes = await probe_replicas(named, guard)
    opened = await open_replicas(probes, password.get_secret_value())
    found = Destinations(opened.repository, Lanes(IndexBook(opened.repository.master)), breakers, opened)
    found.created = created
    for name, condition in opened.conditions.items():
        provider = probes[name].provider
        absent = isinstance(opened.errors.get(name), StorageNotFoundError)  # the folder or bucket itself
        if condition is Condition.UNREACHABLE and not absent:
            found.skipped[name] = opened.errors[name]
            continue
        if condition is Condition.EMPTY or absent:
            try:
                async with guard(provider):
                    await copy_keys_and_config(name, provider, opened)
            except (StorageError, CircuitOpenError) as error:
                found.skipped[name] = error
                continue
            found.created.append(name)
            found.lagging.add(name)
        elif condition is not Condition.READY:
            found.lagging.add(name)
        opened.provider.replicas.setdefault(name, provider)
        found.lanes.add(name, opened.at(name))
    return found


async def _create_first(probes: Mapping[str, Probe], password: SecretStr) -> str:
    """Make the repository at the first destination, once all have said that they hold none; its name."""
    for probe in probes.values():
        # One that does not answer may hold it: a second repository beside it could never be joined with it.
        if probe.error is not None and not isinstance(probe.error, StorageNotFoundError):
            raise probe.error
    for probe in probes.values():
        await refuse_strangers(probe.provider)
    name, first = next(iter(probes.items()))
    await open_or_create(first.provider, password)
    return name


async def _lock_all(stack: contextlib.AsyncExitStack, found: Destinations, options: BackupOptions) -> None:
    failed: dict[str, BackupIQError] = {}
    for lane in list(found.lanes.lanes):
        try:
            lock = lock_repository(lane.repository, retry_for=options.retry_lock)
            found.locks[lane.name] = await stack.enter_async_context(lock)
        except (RepositoryLockedError, StorageError) as error:
            failed[lane.name] = error
    if failed and not found.locks:
        raise next(iter(failed.values()))
    for name, why in failed.items():
        found.skipped[name] = why
        found.lanes.remove(found.lane(name))


# --- what is there already -------------------------------------------------------------------------------------------


class _Names:
    """The packs of a replica by name."""

    def __init__(self, listing: ReplicaListing) -> None:
        self._listing = listing

    def __contains__(self, name: object) -> bool:
        return f"{FileType.PACK}/{str(name)[:2]}/{name}" in self._listing.objects


async def take_stock(found: Destinations) -> tuple[int, int]:
    """Find which destinations lag, make an interrupted run's packs usable, and forget packs that are lost.

    The index must be loaded, so that whatever it names was stored before the packs are listed here. Returns the bytes
    taken over, and how many packs are lost.
    """
    repository = found.repository
    holders: list[tuple[Repository, _Names]] = []
    if found.replicas is None:
        listed = await repository.list_ids(FileType.PACK)
    else:
        listings = await _list_all(found)
        plan = plan_heal(listings)
        found.lagging |= {action.target for action in plan.actions}
        listed = {}
        for listing in listings.values():
            for key, size in listing.objects.items():
                if key.startswith(f"{FileType.PACK}/"):
                    listed[key[-64:]] = max(size, listed.get(key[-64:], 0))
        holders = [(found.lane(name).repository, _Names(listing)) for name, listing in listings.items()]
    adopted = 0
    if await _alone_everywhere(found):
        for lane in found.lanes.lanes:
            await sweep(lane.provider)
        packs, adopted = await adopt_orphans(repository, listed, holders)
        if packs:
            log.info("run.resumed", packs=packs, bytes=adopted)
    return adopted, await forget_lost_packs(repository, listed)


async def _alone_everywhere(found: Destinations) -> bool:
    for lane in found.lanes.lanes:
        if not is_alone(await list_locks(lane.repository)):
            return False
    return True


async def _list_all(found: Destinations) -> dict[str, ReplicaListing]:
    async def one(lane: Lane) -> ReplicaListing | BackupIQError:
        try:
            async with found.breaker(found.lanes.lanes.index(lane)).attempt():
                return await list_replica(lane.provider)
        except (StorageError, CircuitOpenError) as error:
            return error

    lanes = list(found.lanes.lanes)
    answers = await in_parallel(lanes, one, limit=max(1, len(lanes)))
    listings: dict[str, ReplicaListing] = {}
    for lane, answer in zip(lanes, answers, strict=True):
        if isinstance(answer, BackupIQError):
            found.give_up(lane, answer)
        else:
            listings[lane.name] = answer
    return listings

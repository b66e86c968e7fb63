"""The destinations of a backup: opened, locked, compared with each other, and made where they are empty.

A destination that cannot be used does not stop the run as long as another one can: it is skipped, and why is told.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from pydantic import SecretStr

from backupiq.archive.lanes import Lane, Lanes
from backupiq.archive.publisher import IndexBook, adopt_orphans, forget_lost_packs
from backupiq.errors import (
    BackupIQError,
    CircuitOpenError,
    DegradedRunError,
    RepositoryLockedError,
    StorageCorruptError,
    StorageError,
    StorageNotFoundError,
)
from backupiq.profile import BackupOptions
from backupiq.replicas.adding import copy_keys_and_config
from backupiq.replicas.copying import CopyReport, copy_objects
from backupiq.replicas.heal_plan import plan_heal
from backupiq.replicas.opening import Condition, OpenReplicas, Probe, name_replicas, open_replicas, probe_replicas
from backupiq.replicas.survey import ReplicaListing, list_replica
from backupiq.repository.locking import RepositoryLock, list_locks, lock_repository
from backupiq.repository.repository import FileType, Repository, file_key, in_parallel
from backupiq.resilience.breaker import Breaker
from backupiq.resilience.retry import STANDARD, call_with_retry
from backupiq.storage.provider import StorageProvider
from backupiq.telemetry import get_logger
from backupiq.telemetry.metrics import metered
from blocks.destinations import provider_for
from flows.context import RunContext
from flows.guard import Breakers
from flows.opening import is_alone, limits_of, open_or_create, refuse_strangers, sweep

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
    stale_checkpoints: list[str] = dataclasses.field(default_factory=list)
    """Checkpoints of runs that did not come to their end, which the snapshot of this run replaces."""

    @property
    def names(self) -> list[str]:
        """Where the snapshot of this run is."""
        return sorted(self.complete)

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
        """Go on without a destination; raises the error when that leaves none that the run can be completed at."""
        if lane.error is not None:
            return
        log.info("destination.given_up", destination=lane.name, error=error.code)
        self.lanes.give_up(lane, error)
        if not self.complete and not self.lanes.flowing:
            raise error

    def ensure_locked_at(self, lane: Lane) -> None:
        """Raise LockLostError when the repository there is no longer ours to write to."""
        if lane.name in self.locks:
            self.locks[lane.name].ensure_held()

    def ensure_ready(self, lane: Lane) -> None:
        """Raise unless a snapshot may be published there: the lock is held, and no pack is still to come."""
        self.ensure_locked_at(lane)
        if lane.backlog:
            raise StorageCorruptError(f"{lane.name} lacks packs of this run. {DegradedRunError.hint}")

    def drop_out(self, name: str, error: BackupIQError) -> None:
        """Leave out a destination before anything was sent: nothing is read from it either."""
        self.skipped[name] = error
        for lane in [lane for lane in self.lanes.lanes if lane.name == name]:
            self.lanes.remove(lane)
        if self.replicas is not None and name in self.replicas.provider.replicas:
            self.replicas.provider.leave_out(name)

    async def catch_up(self, name: str, spool: Path, *, snapshot: str | None = None) -> CopyReport:
        """Copy to a destination what it lacks and others have.

        While the run goes on, that is what it lacked at the beginning, and what others have of this run gets there down
        its lane. At the end it is everything, and the ``snapshot`` of this run must have come with it.

        Raises the destination's own errors, and DegradedRunError when others keep it from being caught up.
        """

        def may_pass(error: BackupIQError) -> bool:
            return bool(error.details.get("may_pass"))

        report = await call_with_retry(lambda: self._catch_up(name, spool, snapshot), STANDARD, retryable=may_pass)
        if snapshot is not None and not await self.lane(name).provider.file_exists(
            file_key(FileType.SNAPSHOT, snapshot)
        ):
            raise _cannot_catch_up(name, "the snapshot did not get there")
        return report

    async def _catch_up(self, name: str, spool: Path, snapshot: str | None) -> CopyReport:
        if self.replicas is None:
            raise AssertionError("a single destination lags behind nothing")
        listings = await self._list_for(name, everybody=snapshot is None)
        actions = plan_heal(listings, targets=[name]).actions
        if snapshot is None:
            actions = tuple(action for action in actions if not self.lanes.is_own(action.key))
        report = await copy_objects(
            actions,
            {each: self.lane(each).provider for each in listings},
            config_is_right=self.replicas.config_is_right,
            spool=spool / "catching-up",
        )
        self.caught_up[name] = self.caught_up.get(name, 0) + report.stored.get(name, 0)
        failures = [failure for failure in report.failures if failure.action.target == name and not failure.lost]
        for failure in failures:
            if failure.at_target:
                raise failure.error
        for failure in failures:
            raise _cannot_catch_up(name, failure.error.message, may_pass=failure.error.retryable)
        return report

    async def _list_for(self, name: str, *, everybody: bool) -> dict[str, ReplicaListing]:
        """What a destination and those it is caught up from hold; the destination's error is raised.

        ``everybody``: who else took part at the beginning must still do so, since it alone may hold what is lacking.
        Else one that is complete is enough: it holds all there is.
        """
        lanes = [lane for lane in self.lanes.lanes if everybody or lane.name == name or lane.error is None]
        why = "no other destination is complete"

        async def one(lane: Lane) -> ReplicaListing | BackupIQError:
            try:
                if lane.error is not None and lane.name != name:
                    return lane.error
                return await list_replica(lane.provider)
            except StorageError as error:
                if lane.name == name:
                    raise
                return error

        answers = await in_parallel(lanes, one, limit=len(lanes))
        found: dict[str, ReplicaListing] = {}
        for lane, answer in zip(lanes, answers, strict=True):
            if isinstance(answer, ReplicaListing):
                found[lane.name] = answer
            elif everybody:
                raise _cannot_catch_up(name, answer.message, may_pass=answer.retryable and lane.error is None)
            else:
                why = answer.message
        if not everybody and not self.complete & found.keys():
            raise _cannot_catch_up(name, why, may_pass=False)
        return found


def _cannot_catch_up(name: str, why: str, *, may_pass: bool = False) -> DegradedRunError:
    return DegradedRunError(f"{name} could not be caught up: {why}", destination=name, may_pass=may_pass)


def make_providers(options: BackupOptions) -> list[StorageProvider]:
    """A provider for each destination; they share the run's bandwidth limits. Nothing is contacted."""
    limits = limits_of(options)
    made = [provider_for(each, limits=limits) for each in options.to]
    return [metered(provider, provider.location) for provider in made]


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
        breaker = breakers.for_destination(provider.identity, provider.location)
        try:
            async with breaker.attempt():
                repository, created = await open_or_create(provider, password)
        except CircuitOpenError:
            # There is no other one to go on with, and a person may have just freed its disk: it is tried all the same.
            repository, created = await open_or_create(provider, password)
            await breaker.reset()
        found = Destinations(repository, Lanes(IndexBook(repository.master)), breakers)
        found.lanes.add(name, repository)
        found.created = [name] if created else []
    else:
        found = await _open_several(run, named, password, breakers)
    for name in found.created:
        run.progress.note(f"created repository {found.repository.config.id[:10]} at {name}")
    await _lock_all(stack, run, found, options)
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
            found.drop_out(name, opened.errors[name])
            continue
        if condition is Condition.EMPTY or absent:
            if absent:
                opened.provider.leave_out(name)
            try:
                async with guard(provider):
                    await copy_keys_and_config(name, provider, opened)
            except (StorageError, CircuitOpenError) as error:
                found.skipped[name] = error
                continue
            found.created.append(name)
            found.lagging.add(name)
            opened.provider.replicas[name] = provider  # known for its locks; what is read, others have
        elif condition is not Condition.READY:
            found.lagging.add(name)
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


@contextlib.asynccontextmanager
async def _locked(lane: Lane, retry_for: float, run: RunContext) -> AsyncIterator[RepositoryLock]:
    """Hold a lock there. A destination that does not let go of it at the end changes nothing about the run."""
    locking = lock_repository(lane.repository, retry_for=retry_for)
    lock = await locking.__aenter__()
    try:
        yield lock
    finally:
        try:
            await locking.__aexit__(None, None, None)
        except StorageError as error:
            log.warning("lock.not_removed", destination=lane.name, error=error.code)
            run.progress.note(f"the lock at {lane.name} could not be removed; the next run here sees that it is dead")


async def _lock_all(
    stack: contextlib.AsyncExitStack, run: RunContext, found: Destinations, options: BackupOptions
) -> None:
    failed: dict[str, BackupIQError] = {}
    for lane in list(found.lanes.lanes):
        try:
            found.locks[lane.name] = await stack.enter_async_context(_locked(lane, options.retry_lock, run))
        except (RepositoryLockedError, StorageError) as error:
            failed[lane.name] = error
    if failed and not found.locks:
        raise next(iter(failed.values()))
    for name, why in failed.items():
        found.drop_out(name, why)


# --- what is there already -------------------------------------------------------------------------------------------


class _Names:
    """The packs of a replica by name."""

    def __init__(self, listing: ReplicaListing) -> None:
        self._listing = listing

    def __contains__(self, name: object) -> bool:
        return f"{FileType.PACK}/{str(name)[:2]}/{name}" in self._listing.objects


async def list_destinations(found: Destinations) -> dict[str, ReplicaListing] | None:
    """What each destination holds, the index being loaded: what it names was stored before the packs are listed here.

    None when one did not answer and was left out: what had been read of it must be forgotten, for it may have named
    what no other one has. Raises its error when no other one is left. Of a single destination nothing is listed.
    """
    if found.replicas is None:
        return {}

    async def one(lane: Lane) -> ReplicaListing | BackupIQError:
        try:
            async with found.breaker(found.lanes.lanes.index(lane)).attempt():
                return await list_replica(lane.provider)
        except (StorageError, CircuitOpenError) as error:
            return error

    lanes = list(found.lanes.lanes)
    answers = dict(zip((lane.name for lane in lanes), await in_parallel(lanes, one, limit=len(lanes)), strict=True))
    listings = {name: answer for name, answer in answers.items() if isinstance(answer, ReplicaListing)}
    errors = {name: answer for name, answer in answers.items() if isinstance(answer, BackupIQError)}
    if errors and not listings:
        raise next(iter(errors.values()))
    for name, error in errors.items():
        log.info("destination.given_up", destination=name, error=error.code)
        found.drop_out(name, error)
    if errors:
        opened = found.repository
        found.repository = Repository(opened.provider, opened.master, opened.config, opened.key_id)
    return None if errors else listings


async def take_stock(found: Destinations, listings: Mapping[str, ReplicaListing] | None = None) -> tuple[int, int]:
    """Find which destinations lag, make an interrupted run's packs usable, and forget packs that are lost.

    ``listings`` are those of `list_destinations`. Returns the bytes taken over, and how many packs are lost.
    """
    repository = found.repository
    holders: list[tuple[Repository, _Names]] = []
    if not listings:
        listed = await repository.list_ids(FileType.PACK)
    else:
        found.lagging |= {action.target for action in plan_heal(listings).actions}
        listed = {}
        for listing in listings.values():
            for key, size in listing.pairs():
                if key.startswith(f"{FileType.PACK}/"):
                    listed[key[-64:]] = max(size, listed.get(key[-64:], 0))
        holders = [(found.lane(name).repository, _Names(listing)) for name, listing in listings.items()]
    adopted = 0
    if await _alone_everywhere(found):
        for lane in found.lanes.lanes:
            await sweep(lane.provider)
        names = list(listings or ())
        packs, adopted = await adopt_orphans(
            repository,
            listed,
            holders,
            on_failure=(lambda at, error: found.give_up(found.lane(names[at]), error)) if holders else None,
        )
        if packs:
            log.info("run.resumed", packs=packs, bytes=adopted)
    return adopted, await forget_lost_packs(repository, listed)


async def _alone_everywhere(found: Destinations) -> bool:
    for lane in found.lanes.lanes:
        try:
            if not is_alone(await list_locks(lane.repository)):
                return False
        except StorageError as error:
            found.give_up(lane, error)
    return True

"""Copying objects between replicas: fetched from one, proved right, stored at those that lack them.

Nothing is removed, and nothing is stored whose bytes are not those that its name stands for.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path

from backupiq.errors import (
    BackupIQError,
    CancelledRunError,
    DegradedRunError,
    StorageCorruptError,
    StorageError,
    StorageNeedsThawError,
    StorageNotFoundError,
)
from backupiq.replicas.heal_plan import CopyAction, Reason, plan_heal
from backupiq.replicas.health import ReplicaHealth
from backupiq.replicas.objects import ORDER
from backupiq.replicas.survey import ConfigIsRight, ReplicaListing, list_replica
from backupiq.replicas.workers import work_off
from backupiq.repository.repository import CONFIG_KEY, FileType
from backupiq.storage.provider import StorageProvider
from backupiq.telemetry import get_logger

AT_ONCE = 3
GIVE_UP_AFTER = 3
"""Failures in a row after which a target is left alone for the rest of a pass."""

_log = get_logger("backupiq.replicas.copying")

OnCopied = Callable[[int, int], None]
"""Told how many objects and bytes were just copied."""


@dataclass(frozen=True, slots=True)
class CopyFailure:
    """A copy that was not made, and why. ``at_target``: the target failed; ``lost``: no source holds it right."""

    action: CopyAction
    error: BackupIQError
    at_target: bool = False
    lost: bool = False


@dataclass(slots=True)
class CopyReport:
    """What was copied: ``objects`` and ``bytes`` stored, also by replica in ``stored``.

    ``failures`` are what is still lacking; ``damaged`` names by replica the sources whose bytes were found wrong on the
    way (these copies were replaced too, unless that stands among the failures).
    """

    objects: int = 0
    bytes: int = 0
    stored: dict[str, int] = field(default_factory=dict)
    failures: list[CopyFailure] = field(default_factory=list)
    damaged: dict[str, set[str]] = field(default_factory=dict)

    @property
    def lost(self) -> list[str]:
        """Objects of which every source turned out to be wrong, in the order in which they were tried."""
        return list(dict.fromkeys(failure.action.key for failure in self.failures if failure.lost))


class Copier:
    """Copies what it is told, pass after pass, and remembers what failed.

    Invariants: an object is stored only after its bytes were proved right; packs are durable when `copy` returns; an
    index or a snapshot that a replica lacks is held back while packs (or indexes) for that replica could not be
    copied, so that no replica names what it does not hold; at most ``at_once`` objects lie in ``spool`` (a private
    folder) and none does once `copy` has ended, however it ends. Belongs to one event loop; one `copy` at a time.
    """

    def __init__(
        self,
        providers: Mapping[str, StorageProvider],
        config_is_right: ConfigIsRight,
        *,
        spool: Path,
        at_once: int = AT_ONCE,
        progress: OnCopied | None = None,
        should_stop: Callable[[], bool] | None = None,
    ) -> None:
        """``spool`` is made (0700) when it is missing."""
        self.report = CopyReport()
        self._providers = providers
        self._config_is_right = config_is_right
        self._spool = spool
        self._at_once = at_once
        self._progress = progress
        self._should_stop = should_stop or _never
        self._health = ReplicaHealth(providers)
        self._in_a_row: dict[str, tuple[int, StorageError]] = {}

    async def copy(self, actions: Iterable[CopyAction]) -> list[CopyFailure]:
        """Do these, kind by kind in the order of filling; the failures. Doing those again later is what a retry is.

        Raises CancelledRunError when ``should_stop`` says so, and errors of this machine (a full disk).
        """
        os.makedirs(self._spool, mode=0o700, exist_ok=True)
        self._in_a_row.clear()
        by_kind: dict[FileType, list[CopyAction]] = {kind: [] for kind in ORDER}
        for action in actions:
            by_kind[action.kind].append(action)
        redone = {(action.key, action.target) for each in by_kind.values() for action in each}
        self.report.failures = [f for f in self.report.failures if (f.action.key, f.action.target) not in redone]
        before = len(self.report.failures)
        for kind, wanted in by_kind.items():
            await self._copy_kind(kind, wanted)
        return self.report.failures[before:]

    async def _copy_kind(self, kind: FileType, actions: Sequence[CopyAction]) -> None:
        possible = [action for action in actions if not self._held_back(action)]
        groups = deque(tuple(group) for _, group in itertools.groupby(possible, key=attrgetter("key")))
        await work_off(groups, self._copy_one, self._at_once)
        if kind is FileType.PACK:
            for target in sorted({action.target for action in possible}):
                await self._flush(target, [action for action in possible if action.target == target])

    def _held_back(self, action: CopyAction) -> bool:
        if action.reason is not Reason.MISSING or action.kind not in (FileType.INDEX, FileType.SNAPSHOT):
            return False
        earlier = (FileType.PACK,) if action.kind is FileType.INDEX else (FileType.PACK, FileType.INDEX)
        if not any(
            failure.action.target == action.target
            and failure.action.kind in earlier
            and failure.action.reason is Reason.MISSING
            and not failure.lost  # waiting would help nobody
            for failure in self.report.failures
        ):
            return False
        error = DegradedRunError(
            f"{action.key} is held back from {action.target} until everything it may name is there. "
            f"{DegradedRunError.hint}"
        )
        self.report.failures.append(CopyFailure(action, error))
        return True

    async def _flush(self, target: str, actions: Sequence[CopyAction]) -> None:
        try:
            await self._providers[target].flush()
        except StorageError as error:
            # Nobody knows which of them the disk holds.
            failed = {failure.action for failure in self.report.failures}
            self.report.failures += [
                CopyFailure(action, error, at_target=True) for action in actions if action not in failed
            ]

    async def _copy_one(self, actions: tuple[CopyAction, ...]) -> None:
        """One object to every target that lacks it, and to every source that turns out to hold it wrong."""
        if self._should_stop():
            raise CancelledRunError("The copying was cancelled. What was copied is kept; run it again.")
        open_targets = []
        for action in actions:
            count, error = self._in_a_row.get(action.target, (0, None))
            if error is not None and count >= GIVE_UP_AFTER:
                self.report.failures.append(CopyFailure(action, error, at_target=True))
            else:
                open_targets.append(action)
        if not open_targets:
            return
        path = self._spool / f"copy-{secrets.token_hex(8)}"
        try:
            try:
                source, wrong = await self._fetch(open_targets, path)
            except StorageError as error:
                lost = isinstance(error, StorageCorruptError)
                self.report.failures += [CopyFailure(action, error, lost=lost) for action in open_targets]
                return
            size = path.stat().st_size
            wanting = [action for action in open_targets if action.target != source]
            planned = {action.target for action in actions}
            wanting += [_repair(open_targets[0], name, size) for name in wrong if name not in planned]
            storing = (self._store(action, path, size) for action in wanting)
            for ended in await asyncio.gather(*storing, return_exceptions=True):  # the file is theirs until all have
                if isinstance(ended, BaseException):
                    raise ended
        finally:
            path.unlink(missing_ok=True)

    async def _fetch(self, actions: Sequence[CopyAction], path: Path) -> tuple[str, list[str]]:
        """Put the right bytes of an object into a file; the source they came from, and those that hold wrong ones.

        StorageError when none holds it right.
        """
        action = actions[0]
        wrong: list[str] = []
        failures: list[StorageError] = []
        every = dict.fromkeys(source for each in actions for source in each.sources)
        for source in self._health.order(action.key, every):
            try:
                done = await self._providers[source].download_file(action.key, path)
                # The config's name says nothing of its content, so that its bytes must.
                right = done.sha256 == action.key[-64:] or self._is_right_config(action.key, path)
                if not right:
                    raise StorageCorruptError(f"{action.key} at {source} is damaged.", key=action.key)
            except StorageCorruptError:
                wrong.append(source)
                self._health.wrong(source, action.key)
                self.report.damaged.setdefault(source, set()).add(action.key)
                _log.info("replica.damaged", replica=source, object=action.key)
            except (StorageNotFoundError, StorageNeedsThawError) as error:
                self._health.wrong(source, action.key)
                failures.append(error)
            except StorageError as error:
                self._health.failed(source)
                failures.append(error)
            else:
                self._health.succeeded(source)
                return source, wrong
        raise _worst(action, wrong, failures)

    def _is_right_config(self, key: str, path: Path) -> bool:
        return key == CONFIG_KEY and self._config_is_right(path.read_bytes())

    async def _store(self, action: CopyAction, path: Path, size: int) -> None:
        sha256 = None if action.key == CONFIG_KEY else action.key[-64:]
        durable = action.kind is not FileType.PACK
        try:
            await self._providers[action.target].upload_file(path, action.key, durable=durable, sha256=sha256)
        except StorageError as error:
            count, _ = self._in_a_row.get(action.target, (0, error))
            self._in_a_row[action.target] = (count + 1, error)
            self.report.failures.append(CopyFailure(action, error, at_target=True))
            _log.info("replica.not_stored", replica=action.target, object=action.key, error=error.code)
            return
        self._in_a_row.pop(action.target, None)
        report = self.report
        report.objects += 1
        report.bytes += size
        report.stored[action.target] = report.stored.get(action.target, 0) + 1
        if self._progress is not None:
            self._progress(1, size)


def _never() -> bool:
    return False


def _repair(action: CopyAction, replica: str, size: int) -> CopyAction:
    sources = tuple(name for name in action.sources if name != replica)
    return CopyAction(action.key, size, replica, sources, Reason.DAMAGED)


def _worst(action: CopyAction, wrong: Sequence[str], failures: Sequence[StorageError]) -> StorageError:
    """Why there was no right copy: what may pass first, for then a later try may find one."""
    passing = [error for error in failures if not isinstance(error, StorageNotFoundError)]
    if passing:
        return next((error for error in passing if error.retryable), passing[0])
    if wrong or not failures:
        return StorageCorruptError(
            f"No replica holds {action.key} right (damaged at {', '.join(wrong)}).", key=action.key, damaged=wrong
        )
    return failures[0]


async def copy_objects(
    actions: Iterable[CopyAction],
    providers: Mapping[str, StorageProvider],
    *,
    config_is_right: ConfigIsRight,
    spool: Path,
    at_once: int = AT_ONCE,
    progress: OnCopied | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> CopyReport:
    """Do the actions of a plan once; see `Copier`."""
    copier = Copier(
        providers,
        config_is_right,
        spool=spool,
        at_once=at_once,
        progress=progress,
        should_stop=should_stop,
    )
    await copier.copy(actions)
    return copier.report


@dataclass(frozen=True, slots=True)
class CatchUpReport:
    """What became of a lagging replica. ``unreachable``: by name, why a replica could not serve as a source."""

    replica: str
    copied: CopyReport
    unreachable: Mapping[str, StorageError]

    @property
    def complete(self) -> bool:
        """Whether the replica now holds all that those which could be reached hold."""
        return not self.copied.failures


async def catch_up(
    lagging: str,
    providers: Mapping[str, StorageProvider],
    *,
    config_is_right: ConfigIsRight,
    spool: Path,
    at_once: int = AT_ONCE,
    progress: OnCopied | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> CatchUpReport:
    """Bring one replica up to what all of ``providers`` (it is among them) hold: packs first, then what names them.

    The caller holds a lock there. By name and size only: nothing is read that is not copied. Raises the error of the
    lagging replica when it cannot be listed; sources that cannot be are left out.
    """
    listings: dict[str, ReplicaListing] = {}
    unreachable: dict[str, StorageError] = {}

    async def survey(name: str) -> None:
        try:
            listings[name] = await list_replica(providers[name])
        except StorageError as error:
            if name == lagging:
                raise
            unreachable[name] = error

    await work_off(deque(providers), survey, len(providers))
    plan = plan_heal({name: listings[name] for name in providers if name in listings}, targets=[lagging])
    copied = await copy_objects(
        plan.actions,
        providers,
        config_is_right=config_is_right,
        spool=spool,
        at_once=at_once,
        progress=progress,
        should_stop=should_stop,
    )
    return CatchUpReport(lagging, copied, unreachable)

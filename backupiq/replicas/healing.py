"""Healing, step by step: list, read, plan, copy. Whoever runs the steps decides about retries between them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from backupiq.errors import BackupIQError, StorageError
from backupiq.progress import ProgressSink
from backupiq.replicas.copying import AT_ONCE, Copier, CopyFailure
from backupiq.replicas.heal_plan import MOST_LISTED, HealPlan, Reason, differing_sizes, plan_heal
from backupiq.replicas.opening import Condition, OpenReplicas
from backupiq.replicas.survey import Reading, ReplicaListing, list_replica
from backupiq.repository.repository import FileType

EXIT_LOST, EXIT_DEGRADED = 1, 4


@dataclass(frozen=True, slots=True)
class ReplicaOutcome:
    """What became of one replica.

    ``objects`` and ``bytes`` it held before; ``missing``, ``truncated`` and ``damaged`` as planned; ``copied`` objects
    stored there; ``lacking`` objects that it still lacks or holds wrong; ``unread`` objects that lie in an archive
    class and could not be checked. ``left_out`` says why it took no part.
    """

    name: str
    objects: int = 0
    bytes: int = 0
    missing: int = 0
    truncated: int = 0
    damaged: int = 0
    copied: int = 0
    lacking: int = 0
    unread: int = 0
    left_out: str | None = None


@dataclass(frozen=True, slots=True)
class HealOutcome:
    """The end of a healing: what was planned, what was copied, and what every replica lacks still."""

    replicas: tuple[ReplicaOutcome, ...]
    plan: HealPlan
    objects: int
    bytes: int
    failures: tuple[CopyFailure, ...]
    lost: tuple[str, ...]
    """Objects of which no replica holds a right copy."""
    exit_code: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; of long lists the first 1,000."""
        return {
            "replicas": [asdict(replica) for replica in self.replicas],
            "plan": self.plan.to_dict(),
            "objects_copied": self.objects,
            "bytes_copied": self.bytes,
            "failures": [
                {"object": failure.action.key, "target": failure.action.target, "reason": failure.error.message}
                for failure in self.failures[:MOST_LISTED]
            ],
            "lost": list(self.lost[:MOST_LISTED]),
        }


class Healing:
    """Replicas on their way to holding the same.

    Order of the steps: `survey` and then `read` for every replica that takes part, `judge` for those `disputed`,
    `plan`, `copy` for each kind in the order of filling. Each step may be called again after it has raised, and goes on
    where it stopped. A replica that fails for good is left out (`leave_out`) and nothing is copied from or to it. The
    caller holds a lock at each.
    """

    def __init__(
        self,
        opened: OpenReplicas,
        *,
        spool: Path,
        progress: ProgressSink,
        read_data: bool = False,
        at_once: int = AT_ONCE,
        should_stop: Callable[[], bool] | None = None,
    ) -> None:
        self._opened = opened
        self._providers = opened.provider.replicas
        self._spool = spool
        self._progress = progress
        self._read_data = read_data
        self._listings: dict[str, ReplicaListing] = {}
        self._readings: dict[str, Reading] = {}
        self._judging: dict[str, Reading] = {}
        self._lacking: dict[FileType, list[CopyFailure]] = {}
        self._plan: HealPlan | None = None
        self.left_out: dict[str, str] = {
            name: _why_left_out(name, condition, opened)
            for name, condition in opened.conditions.items()
            if condition in (Condition.UNREACHABLE, Condition.EMPTY)
        }
        self._copier = Copier(
            self._providers,
            opened.config_is_right,
            spool=spool,
            at_once=at_once,
            progress=progress.advance,
            should_stop=should_stop,
        )

    @property
    def names(self) -> list[str]:
        """The replicas that take part."""
        return [name for name in self._opened.conditions if name not in self.left_out]

    def leave_out(self, name: str, error: BackupIQError) -> None:
        """Go on without a replica."""
        self.left_out[name] = error.message
        for known in (self._listings, self._readings, self._judging):
            known.pop(name, None)

    async def survey(self, name: str) -> int:
        """List a replica; how many objects it holds."""
        listing = self._listings[name] = await list_replica(self._providers[name])
        self._readings[name] = Reading.of(listing, data=self._read_data)
        return len(listing.objects)

    def expect(self) -> None:
        """Tell the progress how much is going to be read."""
        pending = [size for reading in self._readings.values() for _, size in reading.pending]
        self._progress.total(len(pending), sum(pending))

    async def read(self, name: str) -> int:
        """Read the replica's small objects, and its packs where that was asked for; how many are wrong."""
        return await self._read(name, self._readings[name])

    async def _read(self, name: str, reading: Reading) -> int:
        provider, right = self._providers[name], self._opened.config_is_right
        await reading.run(provider, right, spool=self._spool, progress=self._progress.advance)
        return len(reading.damaged) + len(reading.vanished)

    def disputed(self) -> list[str]:
        """The replicas that hold something in another size than others do, so that it must be read to judge.

        Called once, after every `read`.
        """
        self._listings = {name: self._readings[name].corrected(listing) for name, listing in self._listings.items()}
        self._judging = {
            name: Reading(deque(item for item in found if not self._was_read(item[0])))
            for name, found in differing_sizes(self._listings).items()
        }
        return [name for name, reading in self._judging.items() if reading.pending]

    async def judge(self, name: str) -> int:
        """Read what is disputed at a replica; how many objects are wrong."""
        return await self._read(name, self._judging[name])

    def _was_read(self, key: str) -> bool:
        return self._read_data or not key.startswith(f"{FileType.PACK}/")

    def plan(self) -> HealPlan:
        """What to copy, by what is known now."""
        listings = {name: self._readings[name].corrected(self._listings[name]) for name in self.names}
        listings = {
            name: self._judging[name].corrected(listing) if name in self._judging else listing
            for name, listing in listings.items()
        }
        damaged = {name: self._readings[name].damaged | self._judged(name).damaged for name in listings}
        self._plan = plan_heal(listings, damaged)
        return self._plan

    def _judged(self, name: str) -> Reading:
        return self._judging.get(name) or Reading(deque())

    def expect_copies(self) -> None:
        """Tell the progress how much is going to be copied, if anything is."""
        if self._plan is not None and self._plan.actions:
            self._progress.stage("copying objects")
            self._progress.total(len(self._plan.actions), self._plan.bytes)

    def wants(self, kind: FileType) -> bool:
        """Whether anything of this kind is planned to be copied."""
        return self._plan is not None and bool(self._plan.of(kind))

    async def copy(self, kind: FileType) -> int:
        """Copy what is planned of one kind; how many copies of it are still lacking.

        Raises the first error that may pass, so that calling again does what is left. Copies that fail for good are
        told in the outcome.
        """
        if self._plan is None:
            raise AssertionError("a healing is planned first")
        before = self._lacking.get(kind)
        actions = self._plan.of(kind) if before is None else [failure.action for failure in before]
        failures = self._lacking[kind] = await self._copier.copy(actions)
        passing = next((failure.error for failure in failures if failure.error.retryable), None)
        if passing is not None:
            raise passing
        return len(failures)

    def copied_to(self, kind: FileType) -> dict[str, StorageError | None]:
        """The replicas that objects of a kind were copied to by the last `copy`, and how one of them failed, if any."""
        if self._plan is None or kind not in self._lacking:
            return {}
        found: dict[str, StorageError | None] = {action.target: None for action in self._plan.of(kind)}
        for failure in self._lacking[kind]:
            if isinstance(failure.error, StorageError) and failure.at_target:
                found[failure.action.target] = failure.error
        return found

    def outcome(self) -> HealOutcome:
        """The end, or what a dry run found."""
        plan, report = self._plan or plan_heal({}), self._copier.report
        lost = list(dict.fromkeys([*(found.key for found in plan.unhealable), *report.lost]))
        failures = [failure for failure in report.failures if not failure.lost]
        lacking = _count(failure.action.target for failure in report.failures)
        code = EXIT_LOST if lost else EXIT_DEGRADED if failures or self.left_out else 0
        replicas = tuple(self._outcome_of(name, plan, lacking.get(name, 0)) for name in self._opened.conditions)
        return HealOutcome(replicas, plan, report.objects, report.bytes, tuple(failures), tuple(lost), code)

    def _outcome_of(self, name: str, plan: HealPlan, lacking: int) -> ReplicaOutcome:
        if name in self.left_out or name not in self._listings:
            return ReplicaOutcome(name, left_out=self.left_out.get(name))
        listing, counts = self._listings[name], plan.counts(name)
        return ReplicaOutcome(
            name=name,
            objects=len(listing.objects),
            bytes=listing.bytes,
            missing=counts[Reason.MISSING].total(),
            truncated=counts[Reason.TRUNCATED].total(),
            damaged=counts[Reason.DAMAGED].total(),
            copied=self._copier.report.stored.get(name, 0),
            lacking=lacking,
            unread=len(self._readings[name].unread | self._judged(name).unread),
        )


def _why_left_out(name: str, condition: Condition, opened: OpenReplicas) -> str:
    if condition is Condition.UNREACHABLE:
        return opened.errors[name].message
    return (
        f"{name} holds nothing of the repository. If that is right, make it a replica: "
        "`backupiq init --repo ANOTHER --to THIS`."
    )


def _count(names: Iterable[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name in names:
        found[name] = found.get(name, 0) + 1
    return found

"""What must be copied where, so that all replicas hold the same: pure, so that it can be shown before it is done.

Nothing is ever removed: the replicas are brought to the union of what they hold.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from operator import itemgetter
from typing import Any

from backupiq.replicas.objects import fill_order, kind_of
from backupiq.replicas.survey import ReplicaListing
from backupiq.repository.repository import FileType

MOST_LISTED = 1000

_WORDS = {
    FileType.KEY: ("key", "keys"),
    FileType.CONFIG: ("config", "configs"),
    FileType.PACK: ("pack", "packs"),
    FileType.INDEX: ("index", "indexes"),
    FileType.SNAPSHOT: ("snapshot", "snapshots"),
}


class Reason(StrEnum):
    """Why an object is copied to a replica."""

    MISSING = "missing"
    TRUNCATED = "truncated"
    """There, but shorter than the right one."""
    DAMAGED = "damaged"
    """There, but its bytes are not those that its name stands for."""


@dataclass(frozen=True, slots=True)
class CopyAction:
    """One object to one replica. ``size`` in bytes is that of the right copy; ``sources`` is tried in this order."""

    key: str
    size: int
    target: str
    sources: tuple[str, ...]
    reason: Reason

    @property
    def kind(self) -> FileType:
        """The kind of object."""
        found = kind_of(self.key)
        assert found is not None  # noqa: S101 - only keys of objects are planned
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "object": self.key,
            "bytes": self.size,
            "target": self.target,
            "sources": list(self.sources),
            "reason": self.reason.value,
        }


@dataclass(frozen=True, slots=True)
class Unhealable:
    """An object of which no replica holds a right copy; ``damaged_at`` holds wrong ones."""

    key: str
    damaged_at: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"object": self.key, "damaged_at": list(self.damaged_at)}


@dataclass(frozen=True, slots=True)
class HealPlan:
    """``actions`` in the order in which they are done: keys, config, packs, indexes, snapshots."""

    replicas: tuple[str, ...]
    actions: tuple[CopyAction, ...]
    unhealable: tuple[Unhealable, ...]

    @property
    def bytes(self) -> int:
        """What is copied altogether."""
        return sum(action.size for action in self.actions)

    def of(self, kind: FileType) -> list[CopyAction]:
        """The actions for one kind of object."""
        return [action for action in self.actions if action.kind is kind]

    def counts(self, replica: str) -> dict[Reason, Counter[FileType]]:
        """How many objects of each kind the replica lacks, by reason."""
        found: dict[Reason, Counter[FileType]] = {reason: Counter() for reason in Reason}
        for action in self.actions:
            if action.target == replica:
                found[action.reason][action.kind] += 1
        return found

    def lines(self) -> list[str]:
        """The plan for a person: a line a replica, and one for each object that cannot be healed (the first 1,000)."""
        lines = [f"{replica}: {self._words(replica)}" for replica in self.replicas]
        for lost in self.unhealable[:MOST_LISTED]:
            lines.append(f"{lost.key}: no replica holds it right (damaged at {', '.join(lost.damaged_at)})")
        if len(self.unhealable) > MOST_LISTED:
            lines.append(f"and {len(self.unhealable) - MOST_LISTED:,} more that no replica holds right")
        return lines

    def _words(self, replica: str) -> str:
        parts = [
            f"{count:,} {_WORDS[kind][count > 1]} {reason.value}"
            for reason, kinds in self.counts(replica).items()
            for kind, count in kinds.items()
        ]
        return ", ".join(parts) or "nothing to copy"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: counts of everything, and the first 1,000 actions and lost objects."""
        return {
            "replicas": {
                replica: {
                    reason.value: {kind.value: count for kind, count in kinds.items()}
                    for reason, kinds in self.counts(replica).items()
                }
                for replica in self.replicas
            },
            "objects": len(self.actions),
            "bytes": self.bytes,
            "actions": [action.to_dict() for action in self.actions[:MOST_LISTED]],
            "unhealable_objects": len(self.unhealable),
            "unhealable": [lost.to_dict() for lost in self.unhealable[:MOST_LISTED]],
        }


def differing_sizes(listings: Mapping[str, ReplicaListing]) -> dict[str, list[tuple[str, int]]]:
    """By replica, key and size of every object that replicas hold in different sizes: these must be read to judge."""
    found: dict[str, list[tuple[str, int]]] = {name: [] for name in listings}
    for key, holders in _together(listings):
        if len(set(holders.values())) > 1:
            for name, size in holders.items():
                found[name].append((key, size))
    return found


def plan_heal(
    listings: Mapping[str, ReplicaListing],
    damaged: Mapping[str, Collection[str]] | None = None,
    *,
    targets: Collection[str] | None = None,
) -> HealPlan:
    """What to copy so that every replica (or only ``targets``) holds every object that some replica holds right.

    ``damaged`` names by replica the keys whose bytes were read and found wrong. Where sizes differ and nobody has read
    them (`differing_sizes`) the largest is taken for the right one and tried first; copying verifies it.
    """
    wrong = damaged or {}
    names = tuple(listings)
    wanted = [name for name in names if targets is None or name in targets]
    actions: list[CopyAction] = []
    unhealable: list[Unhealable] = []
    shared: dict[tuple[str, ...], tuple[str, ...]] = {}  # one tuple for many actions
    for key, holders in _together(listings):
        good = {name: size for name, size in holders.items() if key not in wrong.get(name, ())}
        if not good:
            unhealable.append(Unhealable(key, tuple(name for name in names if name in holders)))
            continue
        size = max(good.values())
        for target in wanted:
            if good.get(target) == size:
                continue
            sources = tuple(sorted((name for name in good if name != target), key=lambda name: -good[name]))
            reason = _reason(holders.get(target), size)
            actions.append(CopyAction(key, size, target, shared.setdefault(sources, sources), reason))
    return HealPlan(names, tuple(actions), tuple(unhealable))


def _reason(held: int | None, size: int) -> Reason:
    if held is None:
        return Reason.MISSING
    return Reason.TRUNCATED if held < size else Reason.DAMAGED


def _together(listings: Mapping[str, ReplicaListing]) -> Iterator[tuple[str, dict[str, int]]]:
    """Every key that some replica holds, in the order of filling, with its size at each (in the order of replicas)."""
    merged = heapq.merge(*(_sorted(number, one) for number, one in enumerate(listings.values())))
    names = list(listings)
    for (_, key), rows in itertools.groupby(merged, key=itemgetter(0)):
        yield key, {names[number]: size for _, number, size in rows}


def _sorted(number: int, listing: ReplicaListing) -> Iterator[tuple[tuple[int, str], int, int]]:
    for key, size in listing.pairs():
        yield fill_order(key), number, size

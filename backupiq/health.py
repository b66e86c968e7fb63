"""Whether backups will go on to be made: what a monitor asks, judged from values.

Each judgement takes what was found out and gives `Check`s; finding it out is the business of the face. `backupiq
doctor` examines an installation in depth; this looks, quickly and often, at what goes wrong with time.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from backupiq.errors import BackupIQError

LOW_SPACE, NO_SPACE = 1 << 30, 64 << 20
"""Free bytes below which a disk or destination is a warning, and below which backups will fail."""
MOST_SKEW, WORST_SKEW = 60.0, 300.0
"""Seconds that this machine's clock may differ from others' before it is a warning; S3 refuses at 900."""
LAST_SUCCESS = "last success"


class Status(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the examination; ``advice`` says what to do about a warning or a failure."""

    name: str
    status: Status
    text: str
    advice: str = ""

    def to_dict(self) -> dict[str, str]:
        """As plain JSON values."""
        return {**asdict(self), "status": str(self.status)}


def overall(checks: Iterable[Check]) -> Status:
    """The worst of them."""
    found = {check.status for check in checks}
    return Status.FAIL if Status.FAIL in found else Status.WARN if Status.WARN in found else Status.OK


def from_error(name: str, error: BackupIQError, status: Status = Status.FAIL) -> Check:
    """An error of ours as a check; its message says what to do already."""
    return Check(name, status, error.message)


# --- this machine --------------------------------------------------------------------------------------------------


def check_folder(name: str, folder: Path, advice: str) -> Check:
    """Whether the folder, or the nearest one above it that is there, can be written and has room."""
    existing = next((parent for parent in (folder, *folder.parents) if parent.exists()), folder)
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return Check(name, Status.FAIL, f"{folder} cannot be written", advice)
    try:
        free = shutil.disk_usage(existing).free
    except OSError as error:
        return Check(name, Status.FAIL, f"{folder} does not answer ({error.strerror})", advice)
    return judge_space(name, str(folder), free, advice)


def judge_space(name: str, place: str, free: int | None, advice: str) -> Check:
    """The free bytes at a place; None where it does not tell."""
    if free is None:
        return Check(name, Status.OK, f"{place} does not tell its free space")
    text = f"{place} has {human_bytes(free)} free"
    if free < NO_SPACE:
        return Check(name, Status.FAIL, text, advice)
    return Check(name, Status.WARN, text, advice) if free < LOW_SPACE else Check(name, Status.OK, text)


def judge_clock(skews: Mapping[str, float]) -> Check:
    """How far others' clocks are from this machine's: whose -> seconds by which theirs is ahead.

    The smallest difference counts: one server with a wrong clock does not make ours wrong.
    """
    if not skews:
        return Check("clock", Status.OK, "there is no other clock to compare with")
    whose, skew = min(skews.items(), key=lambda item: abs(item[1]))
    text = f"this machine's clock and that of {whose} differ by {abs(skew):.0f} s"
    advice = "set this machine's clock, for example with `timedatectl set-ntp true`"
    if abs(skew) > WORST_SKEW:
        return Check("clock", Status.FAIL, text, advice)
    return Check("clock", Status.WARN, text, advice) if abs(skew) > MOST_SKEW else Check("clock", Status.OK, text)


# --- destinations --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DestinationFacts:
    """What was found out about a destination. ``breaker`` is its phase, None when it is not known."""

    location: str
    problem: BackupIQError | None = None
    repository: bool = True
    free_bytes: int | None = None
    breaker: str | None = None
    breaker_reason: str = ""


def judge_destinations(found: Sequence[DestinationFacts]) -> list[Check]:
    """Each destination. A backup needs one of them: that one of several is away is a warning, all of them a failure."""
    usable = [each for each in found if each.problem is None]
    away = Status.WARN if usable else Status.FAIL
    checks: list[Check] = []
    for each in found:
        if each.problem is not None:
            checks.append(from_error("destination", each.problem, away))
        elif not each.repository:
            text = f"{each.location} holds no repository"
            checks.append(Check("destination", Status.WARN, text, "the next backup to it creates one; check the place"))
        else:
            advice = "free space there, or raise its quota"
            checks.append(judge_space("destination", f"{each.location} is reached and", each.free_bytes, advice))
        if each.breaker not in (None, "closed"):
            why = f": {each.breaker_reason}" if each.breaker_reason else ""
            text = f"{each.location} failed too often and is left alone for a while{why}"
            advice = "when the cause is gone: backupiq providers --reset NAME"
            others = any(other is not each and other.breaker in (None, "closed") for other in usable)
            checks.append(Check("breaker", Status.WARN if others else Status.FAIL, text, advice))
    return checks


# --- how long ago --------------------------------------------------------------------------------------------------


def judge_age(successes: Mapping[str, float], newest_snapshot: float | None, now: float, max_age: float) -> list[Check]:
    """Whether backups are recent: within ``max_age`` seconds of ``now``. Times are seconds since 1970.

    ``successes``: profile -> when a run of it on this machine last published a snapshot; each has to be recent. Without
    any, ``newest_snapshot`` counts, when something was last stored at the destinations by any machine.
    """
    if not successes and newest_snapshot is None:
        return [Check(LAST_SUCCESS, Status.FAIL, "no backup is known", "make one: backupiq backup PATH --to DEST")]
    ages = successes or {"": newest_snapshot or 0.0}
    return [_judge_one(profile, now - then, max_age) for profile, then in sorted(ages.items())]


def _judge_one(profile: str, age: float, max_age: float) -> Check:
    what = f"profile {profile}: the last backup" if profile else "the last backup"
    text = f"{what} is {human_age(age)} old"
    if age <= max_age:
        return Check(LAST_SUCCESS, Status.OK, text)
    advice = "look at its last run (backupiq status, or Prefect's dashboard) and start one: backupiq backup"
    forget = f"; a profile that is no more: backupiq metrics forget --profile {profile}" if profile else ""
    return Check(LAST_SUCCESS, Status.FAIL, f"{text}, more than {human_age(max_age)}", f"{advice}{forget}")


def human_age(seconds: float) -> str:
    """``40 minutes``, ``26 hours`` or ``12 days``; times in the future as now."""
    minutes = max(0.0, seconds) / 60
    for size, unit in ((2880.0, "days"), (120.0, "hours")):
        if minutes >= size:
            return f"{minutes / (1440 if unit == 'days' else 60):.0f} {unit}"
    return f"{minutes:.0f} minutes"


def human_bytes(count: float) -> str:
    """``1.5 GiB`` and the like."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def to_document(checks: Sequence[Check], checked_at: str) -> dict[str, Any]:
    """The examination as plain JSON values."""
    return {"status": str(overall(checks)), "checked_at": checked_at, "checks": [each.to_dict() for each in checks]}

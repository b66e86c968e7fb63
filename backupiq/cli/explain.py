"""The command explain: how important a file is, and why."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from backupiq.cli.options import Json, KeyBlock, NoLock, PasswordCommand, PasswordFile, Repo, RetryLock
from backupiq.cli.output import escape_name, human_bytes, json_path, note, print_json, print_line
from backupiq.cli.session import Access, opened, run_async
from backupiq.errors import PathNotInSnapshotError, SourceNotFoundError

if TYPE_CHECKING:
    from backupiq.planning.explanation import Explanation, Place
    from backupiq.semantics.model import Factor, FileType, Project

KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class Seen:
    """An explanation and where it comes from: a snapshot's id, or None for this machine's disk; what was looked at, and
    what kept it from being more, empty for nothing."""

    found: Explanation
    snapshot: str | None
    root: bytes
    whole: bool
    limits: str = ""


def explain(
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="A file or a folder, as it is or was on the disk.", show_default=False)
    ],
    snapshot: Annotated[
        str | None,
        typer.Option("--snapshot", metavar="SNAPSHOT", help="As it is in this snapshot, or latest; else on this disk."),
    ] = None,
    pin: Annotated[
        list[str] | None,
        typer.Option("--pin", metavar="PATTERN=LEVEL", help="A pin as for backup: high, normal, low or 0 to 100."),
    ] = None,
    repo: Repo = None,
    json: Json = False,
    password_file: PasswordFile = None,
    password_command: PasswordCommand = None,
    key_block: KeyBlock = None,
    retry_lock: RetryLock = 0.0,
    no_lock: NoLock = False,
) -> None:
    """Explain what a file is, how important it is and why, and when it would be stored.

    On this machine's disk, without a password; with --snapshot or --repo as it is in a snapshot.
    """
    from backupiq.discovery.sources import clean

    raw = clean(path)[0]
    if snapshot is None and repo is None:
        seen = explain_live(raw, pin or (), now_ns=time.time_ns())
    else:
        access = Access(repo, password_file, password_command, key_block, retry_lock, no_lock)
        seen = run_async(_in_snapshot(access, snapshot or "latest", raw, pin or ()))
    if json:
        print_json(seen_dict(seen), indent=True)
    else:
        _print(seen)
    if seen.limits:
        note(seen.limits)


# --- looking -------------------------------------------------------------------------------------------------------


def explain_live(path: bytes, pins: Sequence[str], *, now_ns: int) -> Seen:
    """What is said about a path on this machine; pins with a leading slash begin at the folder that was looked at.

    Raises SourceNotFoundError when there is nothing, ConfigurationError for a pin, OSError.
    """
    from backupiq.discovery.entry import FORMAT_MASK, KIND_OF_FORMAT, EntryKind
    from backupiq.planning.explanation import explain as explain_in
    from backupiq.semantics.live import live_attributes
    from backupiq.semantics.pins import Pins, parse_pin
    from backupiq.semantics.surroundings import look_around

    parsed = [parse_pin(text) for text in pins]
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _nothing_there(path) from error
    is_folder = KIND_OF_FORMAT.get(mode & FORMAT_MASK) is EntryKind.DIR
    around = look_around(path, is_folder=is_folder)
    found = explain_in(
        around.files,
        path,
        now_ns=now_ns,
        key=secrets.token_bytes(KEY_BYTES),  # the hashes are not shown
        pins=Pins(parsed, [around.root]),
        attributes=live_attributes,
        counts=around.covers,
    )
    if found is None:
        raise _nothing_there(path)
    limits = ""
    if around.too_large is not None:
        limits = (
            f"{escape_name(around.too_large)} holds too many files to look at all of them; "
            "--snapshot latest tells what a backup of it says"
        )
    return Seen(found, None, around.root, around.whole, limits)


def _nothing_there(path: bytes) -> SourceNotFoundError:
    shown = escape_name(path)[:500]
    return SourceNotFoundError(f"There is no {shown} here; give --snapshot latest to look for it in a snapshot.")


async def _in_snapshot(access: Access, name: str, path: bytes, pins: Sequence[str]) -> Seen:
    import asyncio

    from backupiq.catalog.snapshot_files import SnapshotFiles
    from backupiq.cli.inspect import pick_snapshot
    from backupiq.planning.explanation import explain as explain_in
    from backupiq.semantics.contents import finding_key
    from backupiq.semantics.pins import Pins, parse_pin

    parsed = [parse_pin(text) for text in pins]
    async with opened(access) as repository:
        snapshot_id, one = await pick_snapshot(repository, name)
        await repository.load_index()
        files = SnapshotFiles(repository, one.tree)
        try:
            found = await asyncio.to_thread(
                explain_in,
                files,
                path,
                now_ns=one.time_ns(),
                key=finding_key(repository.master),
                pins=Pins(parsed, [os.fsencode(source) for source in one.paths]),
                attributes=files.attributes,
            )
            unreadable = files.changes.unreadable
        finally:
            files.close()
    if found is None:
        shown = escape_name(path)[:500]
        raise PathNotInSnapshotError(
            f"The snapshot {snapshot_id[:8]} holds no {shown}. {PathNotInSnapshotError.hint}", snapshot=snapshot_id
        )
    limits = f"folders of the snapshot that cannot be read: {unreadable:,}" if unreadable else ""
    return Seen(found, snapshot_id, b"/", True, limits)


# --- JSON ----------------------------------------------------------------------------------------------------------


def seen_dict(seen: Seen) -> dict[str, Any]:
    """An explanation as JSON values; paths as everywhere (``path``, ``path_base64``)."""
    found = seen.found
    facts, entry = found.facts, found.entry
    importance, decision, below = found.importance, found.decision, found.below
    return {
        **json_path(found.path),
        "kind": entry.kind.name.lower(),
        "size": entry.size,
        "mtime_ns": entry.mtime_ns,
        "importance": importance.value if importance else None,
        "factors": [
            {"name": each.name, "value": each.value, "why": each.why}
            for each in (importance.factors if importance else ())
        ],
        "type": _type_dict(facts.type) if importance else None,
        "role": facts.role,
        "project": _project_dict(found.project),
        "git": {"state": str(facts.git), "reason": found.git_reason},
        "origin": facts.origin,
        "regenerable": facts.regenerable or bool(decision and decision.regenerable),
        "decision": decision
        and {
            **json_path(decision.path),
            "regenerable": decision.regenerable,
            "rule": decision.rule,
            "reason": decision.reason,
        },
        "secrets": [{"rule": each.rule, "line": each.line, "severity": each.severity.value} for each in facts.findings],
        "stored": _place_dict(found.place),
        "below": below
        and {"files": below.files, "bytes": below.bytes, "lowest": below.lowest, "highest": below.highest},
        "snapshot": seen.snapshot,
        "looked_at": {**json_path(seen.root), "whole": seen.whole},
    }


def _type_dict(found: FileType) -> dict[str, Any]:
    return {
        "name": found.name,
        "category": found.category.value,
        "mime": found.mime,
        "detected_by": found.detected_by,
        "confidence": found.confidence,
        "conflict": found.conflict,
    }


def _project_dict(project: Project | None) -> dict[str, Any] | None:
    if project is None:
        return None
    return {
        "name": project.name,
        **{f"root{key.removeprefix('path')}": value for key, value in json_path(project.root).items()},
        "manifests": list(project.manifests),
        "frameworks": [{"name": each.name, "version": each.version} for each in project.frameworks],
    }


def _place_dict(place: Place | None) -> dict[str, int] | None:
    if place is None:
        return None
    return {
        "wave": place.wave,
        "waves": place.waves,
        "number": place.number,
        "files": place.files,
        "bytes_before": place.bytes_before,
        "bytes": place.bytes,
    }


# --- text ----------------------------------------------------------------------------------------------------------


def _print(seen: Seen) -> None:
    found = seen.found
    print_line(escape_name(found.path))
    for name, text in _lines(seen):
        print_line(f"  {name + ':' if name else '':<20}{text}".rstrip())


def _lines(seen: Seen) -> Iterator[tuple[str, str]]:
    found = seen.found
    facts, importance = found.facts, found.importance
    if importance is not None:
        yield "importance", f"{importance.value} of 100"
        for factor in importance.factors:
            yield "", _factor(factor)
        yield "type", _type(facts.type)
        yield "role", facts.role or "none of test, configuration, documentation"
    else:
        yield "kind", f"{found.entry.kind.name.lower()}; only regular files have an importance of their own"
    yield from _below(seen)
    yield "project", _project(found.project)
    if importance is not None:
        yield "git", facts.git + (f": {escape_name(found.git_reason)}" if found.git_reason else "")
        yield "downloaded from", escape_name(facts.origin) or "nowhere that is known"
    yield "can be made again", _decision(found)
    if importance is not None:
        shown = ", ".join(f"{each.rule} (line {each.line}, {each.severity})" for each in facts.findings)
        yield "secrets", escape_name(shown) or "none found"
        yield "stored", _stored(found.place)
    yield "looked at", _looked_at(seen)


def _factor(factor: Factor) -> str:
    from backupiq.semantics.importance import PIN, SECRETS, TYPE

    sign = {TYPE: "from ", PIN: "set to ", SECRETS: "at least "}.get(factor.name, "x ")
    return f"{sign + format(factor.value, 'g'):<13}{factor.name}: {escape_name(factor.why)}"


def _type(found: FileType) -> str:
    name = escape_name(found.name) or "unknown"
    how = f"known by its {found.detected_by}" if found.detected_by != "none" else "nothing tells it"
    conflict = "; its name and its content disagree" if found.conflict else ""
    return f"{name} ({found.category}, {found.mime}), {how}, {found.confidence} % sure{conflict}"


def _project(project: Project | None) -> str:
    if project is None:
        return "none"
    frameworks = ", ".join(f"{each.name} {each.version}".rstrip() for each in project.frameworks)
    return (
        escape_name(project.name)
        + f" at {escape_name(project.root)}"
        + (f", with {escape_name(frameworks)}" if frameworks else "")
    )


def _below(seen: Seen) -> Iterator[tuple[str, str]]:
    from backupiq.cli.report_words import counted

    below = seen.found.below
    if below is not None:
        text = f"{counted(below.files, 'file')}, {human_bytes(below.bytes)}"
        text += "" if seen.whole else " in the folder itself"
        yield "holds", text + (f", importance {below.lowest} to {below.highest}" if below.files else "")


def _decision(found: Explanation) -> str:
    decision = found.decision
    if decision is None:
        return "no"
    answer = "yes" if decision.regenerable else "no"
    return f"{answer}, {escape_name(decision.path)} ({decision.rule}): {escape_name(decision.reason)}"


def _stored(place: Place | None) -> str:
    if place is None:
        return "not known"
    share = place.bytes_before / place.bytes if place.bytes else 0.0
    return (
        f"in wave {place.wave} of {place.waves}: as number {place.number:,} of {place.files:,} files, after "
        f"{human_bytes(place.bytes_before)} ({share:.1%}); runs of less than a minute store by path"
    )


def _looked_at(seen: Seen) -> str:
    if seen.snapshot is not None:
        return f"all of snapshot {seen.snapshot[:8]}"
    what = "all of" if seen.whole else "only the folder"
    return f"{what} {escape_name(seen.root)}, on this disk"

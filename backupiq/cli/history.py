"""The command history: what became of a path over the snapshots."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from backupiq.cli.options import Json
from backupiq.cli.output import escape_name, human_bytes, human_time, json_path, print_json, print_line, print_table

if TYPE_CHECKING:
    from backupiq.catalog.history import FolderChange, LineageHistory, Version
    from backupiq.catalog.search_hits import Seen


def history(
    path: Annotated[
        str,
        typer.Argument(metavar="PATH", help="A file or a folder, as it is or was on the disk.", show_default=False),
    ],
    json: Json = False,
) -> None:
    """Show when a file appeared, changed and vanished, in which snapshots; of a folder what changed below it.

    Reads only the catalog, needs no password.
    """
    from backupiq.catalog.history import history as look_up
    from backupiq.catalog.store import Catalog

    raw = os.path.abspath(os.fsencode(path))
    with Catalog.open(create=False) as catalog:
        found = look_up(catalog.engine, raw)
    if json:
        print_json({**json_path(raw), "lineages": [_lineage_dict(one) for one in found]})
        return
    for number, one in enumerate(found):
        if number:
            print_line()
        _print(one)


# --- JSON -----------------------------------------------------------------------------------------------------------


def _lineage_dict(one: LineageHistory) -> dict[str, Any]:
    return {
        "repository": one.repository,
        "host": one.host,
        "paths": list(one.paths),
        "checkpoint": one.checkpoint,
        "snapshots": one.snapshots,
        "versions": [_version_dict(version) for version in one.versions],
        "below": [_change_dict(change) for change in one.below],
    }


def _version_dict(version: Version) -> dict[str, Any]:
    from backupiq.cli.find import hit_dict, seen_dict

    hit = hit_dict(version.hit)
    wanted = ("kind", "size", "mtime_ns", "content", "first_snapshot", "last_snapshot", "destinations", "restore")
    return {
        "event": version.event,
        **{name: hit[name] for name in wanted},
        "vanished": seen_dict(version.vanished),
    }


def _change_dict(change: FolderChange) -> dict[str, Any]:
    return {
        "snapshot": change.snapshot.id,
        "time_ns": change.snapshot.time_ns,
        "appeared": change.appeared,
        "changed": change.changed,
        "touched": change.touched,
        "vanished": change.vanished,
        "bytes_written": change.bytes_written,
        "examples": [{"event": event, **json_path(raw)} for event, raw in change.examples],
    }


# --- text -----------------------------------------------------------------------------------------------------------


def _print(one: LineageHistory) -> None:
    kind = "checkpoint" if one.checkpoint else "snapshot"
    number = f"{one.snapshots} {kind}{'' if one.snapshots == 1 else 's'}"
    print_line(f"{escape_name(one.host)}: {', '.join(map(escape_name, one.paths))} ({number})")
    print_line()
    if one.versions:
        rows = [row for version in one.versions for row in _version_rows(version)]
        print_table(("Snapshot", "Time", "", "Size", "Modified", "Content", "Until"), rows, right=frozenset({3}))
    if one.versions and one.below:
        print_line()
    if one.below:
        _print_below(one.below)


def _version_rows(version: Version) -> list[tuple[str, ...]]:
    hit = version.hit
    rows: list[tuple[str, ...]] = [
        (
            *_seen(hit.first),
            version.event,
            human_bytes(hit.size),
            human_time(hit.mtime_ns),
            hit.content[:12] or "-",
            hit.last.short_id if hit.last else "",
        )
    ]
    if version.vanished is not None:
        rows.append((*_seen(version.vanished), "vanished", "", "", "", ""))
    return rows


def _seen(seen: Seen | None) -> tuple[str, str]:
    return (seen.short_id, human_time(seen.time_ns)) if seen else ("", "")


def _print_below(changes: tuple[FolderChange, ...]) -> None:
    headings = ("Snapshot", "Time", "Appeared", "Changed", "Touched", "Vanished", "Written", "Among them")
    rows = [
        (
            *_seen(change.snapshot),
            f"{change.appeared:,}",
            f"{change.changed:,}",
            f"{change.touched:,}",
            f"{change.vanished:,}",
            human_bytes(change.bytes_written),
            "\n".join(f"{event} {escape_name(raw)}" for event, raw in change.examples),
        )
        for change in changes
    ]
    print_table(headings, rows, right=frozenset({2, 3, 4, 5, 6}))

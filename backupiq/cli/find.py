"""The command find: what the catalog knows that fits a query, and how to have it back."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from backupiq.cli.options import Json
from backupiq.cli.output import escape_name, human_bytes, human_time, json_path, note, print_json, print_line

if TYPE_CHECKING:
    from backupiq.catalog.search import Found
    from backupiq.catalog.search_hits import Hit, Seen

DEFAULT_LIMIT = 50

CONTEXT_SETTINGS = {
    # A dash leaves a word out here, so nothing but --help and the long options may be taken for an option.
    "ignore_unknown_options": True,
    "help_option_names": ["--help"],
}


class Order(StrEnum):
    """In which order the hits are shown."""

    RANK = "rank"
    IMPORTANCE = "importance"
    CHANGED = "changed"
    SIZE = "size"
    PATH = "path"


def find(
    context: typer.Context,
    query: Annotated[
        list[str],
        typer.Argument(
            metavar="QUERY...",
            help="Words of the path (shop, shop*), fields (category:document, size:'>10M'), -WORD to leave out.",
            show_default=False,
        ),
    ],
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=1, max=100_000, help="Show at most this many.")
    ] = DEFAULT_LIMIT,
    sort: Annotated[Order, typer.Option("--sort", help="What comes first.")] = Order.RANK,
    versions: Annotated[
        bool, typer.Option("--versions", help="Show every version that fits, not only the newest of each file.")
    ] = False,
    update: Annotated[
        bool, typer.Option("--update/--no-update", help="Bring snapshots made here into the catalog first.")
    ] = True,
    json: Json = False,
) -> None:
    """Find files in all snapshots by their path and by what they are, from the catalog on this machine.

    Put a query with > or < or * in quotes, for the shell: backupiq find 'category:document changed:<7d'.
    """
    import time

    from backupiq.catalog.query import parse_query
    from backupiq.catalog.search import Sort, search
    from backupiq.catalog.store import Catalog

    if query == ["-h"]:
        print_line(context.get_help())
        return
    asked = parse_query(" ".join(query), now_ns=time.time_ns(), zone=None)
    if update:
        from backupiq.cli.catching_up import catch_up

        catch_up()
    with Catalog.open(create=False) as catalog:
        found = search(catalog.engine, asked, limit=limit, sort=Sort(sort.value), every_version=versions)
    if json:
        print_json([hit_dict(hit) for hit in found.hits])
    else:
        _print(found)
    for text in found.notes:
        note(text)
    if not found.hits:
        note("nothing found")
    elif found.more:
        note(f"there is more than these {len(found.hits)}; raise --limit, or ask for less.")


def hit_dict(hit: Hit) -> dict[str, Any]:
    """A hit as JSON: times are nanoseconds since 1970, paths as everywhere (``path``, ``path_base64``)."""
    return {
        **json_path(hit.path),
        "kind": hit.kind.name.lower(),
        "size": hit.size,
        "mtime_ns": hit.mtime_ns,
        "content": hit.content,
        "category": hit.category,
        "language": hit.language,
        "mime": hit.mime,
        "role": hit.role,
        "importance": hit.importance,
        "project": hit.project,
        "git": hit.git,
        "regenerable": hit.regenerable,
        "conflict": hit.conflict,
        "secrets": [{"rule": rule, "line": line, "severity": severity} for rule, line, severity in hit.secrets],
        "host": hit.host,
        "repository": hit.repository,
        "state": hit.state,
        "versions": hit.versions,
        "first_snapshot": seen_dict(hit.first),
        "last_snapshot": seen_dict(hit.last),
        "destinations": list(hit.destinations),
        "restore": {
            "snapshot": hit.restore_from.id if hit.restore_from else None,
            "command": hit.restore_command or None,
        },
    }


def seen_dict(seen: Seen | None) -> dict[str, Any] | None:
    """A snapshot of a hit as JSON."""
    return None if seen is None else {"id": seen.id, "time_ns": seen.time_ns}


def _print(found: Found) -> None:
    for number, hit in enumerate(found.hits):
        if number:
            print_line()
        print_line(escape_name(hit.path))
        for line in _details(hit):
            print_line(f"    {line}")


def _details(hit: Hit) -> Iterator[str]:
    yield " · ".join(part for part in _what(hit) if part)
    yield _where(hit)
    if hit.secrets:
        shown = ", ".join(f"{rule} (line {line}, {severity})" for rule, line, severity in hit.secrets[:5])
        yield escape_name(f"secrets: {shown}{', ...' if len(hit.secrets) > 5 else ''}")
    if hit.restore_command:
        yield hit.restore_command


def _what(hit: Hit) -> Iterator[str]:
    folder = hit.kind.name == "DIR"
    yield "folder" if folder else escape_name(hit.language or hit.kind.name.lower())
    if not folder:
        yield hit.category
        yield human_bytes(hit.size)
        yield f"changed {human_time(hit.mtime_ns)}"
        yield f"importance {hit.importance}"
    yield f"project {escape_name(hit.project)}" if hit.project else ""
    yield f"git: {hit.git}" if hit.git not in ("", "none") else ""
    yield "can be built anew" if hit.regenerable else ""
    yield "its name and its content disagree" if hit.conflict else ""


_STATES = {"present": "still there", "changed": "changed since", "deleted": "deleted since"}


def _where(hit: Hit) -> str:
    if hit.first is None or hit.last is None:
        return "in no snapshot that the catalog knows"
    first = f"{hit.first.short_id} ({human_time(hit.first.time_ns)})"
    last = "" if hit.first.id == hit.last.id else f" to {hit.last.short_id} ({human_time(hit.last.time_ns)})"
    parts = [f"on {escape_name(hit.host)}, {first}{last}", _STATES[hit.state]]
    parts += [f"{hit.versions} versions"] if hit.versions > 1 else []
    parts += [f"at {', '.join(map(escape_name, hit.destinations))}"] if hit.destinations else []
    return " · ".join(parts)

"""The command setup: makes Prefect's API ready for backups."""

from __future__ import annotations

from typing import Annotated

import typer

from backupiq.cli.options import Json
from backupiq.cli.output import clean_line, print_json, print_line
from backupiq.cli.session import run_async


def setup(
    limit: Annotated[
        list[str] | None,
        typer.Option(
            "--limit",
            metavar="KIND=N",
            help="Upload tasks at once to all destinations of a kind (s3, gcs, azure, icloud); may be repeated.",
        ),
    ] = None,
    global_limit: Annotated[
        list[str] | None,
        typer.Option(
            "--global-limit", metavar="NAME=N", help="A global concurrency limit of your own flows; may be repeated."
        ),
    ] = None,
    notify: Annotated[
        str | None,
        typer.Option(
            "--notify",
            metavar="TYPE/NAME",
            help="Tell of failed and degraded runs and opened breakers through this notification block.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Register the types of blocks with Prefect, create its limits and automations; deletes nothing."""
    from flows.environment import prepare_environment

    prepare_environment()
    from flows.automations import apply_automations
    from flows.reach import reach_prefect
    from flows.setup import parse_limits, set_up

    tags, others = parse_limits(limit or (), kinds=True), parse_limits(global_limit or (), kinds=False)
    reach_prefect()
    done = run_async(set_up(tags, others)) + run_async(apply_automations(notify))
    if json:
        print_json({"items": [item.to_dict() for item in done]}, indent=True)
        return
    for item in done:
        limited = f" ({item.limit} at once)" if item.limit else ""
        reason = f": {clean_line(item.reason)}" if item.reason else ""
        print_line(f"{item.what} {item.name}{limited}: {item.outcome}{reason}")

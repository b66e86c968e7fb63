"""The commands about destinations: how they are, trying one out, signing in to iCloud."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from backupiq.cli.options import Json, is_block
from backupiq.cli.output import (
    clean_line,
    escape_name,
    human_bytes,
    human_time,
    note,
    print_json,
    print_line,
    print_table,
)
from backupiq.cli.session import choose_destinations, run_async

if TYPE_CHECKING:
    from backupiq.resilience.breaker_state import BreakerState
    from flows.providers import DestinationStatus, Survey

app = typer.Typer(
    name="providers",
    help="Show how the destinations are: reachable, breaker, space, last success.",
    invoke_without_command=True,
    rich_markup_mode=None,
)

Destinations = Annotated[
    list[str] | None,
    typer.Option(
        "--repo",
        "-r",
        "--to",
        metavar="DEST",
        help="A destination: a folder, a URL or block:NAME; may be repeated. Else those last used here.",
    ),
]
Destination = Annotated[str, typer.Argument(metavar="DEST", help="A folder, a URL or block:NAME.", show_default=False)]


@app.callback()
def providers(
    context: typer.Context,
    repo: Destinations = None,
    reset: Annotated[
        str | None,
        typer.Option(
            "--reset", metavar="NAME", help="Close the breaker of this destination, named as here or by its key."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Show how the destinations are. Exit code 1 when one of them cannot be used now."""
    if context.invoked_subcommand is not None:
        return
    if reset is not None:
        _reset(reset, json_wanted=json)
        return
    destinations = choose_destinations(repo)
    _use_prefect()
    from flows.providers import survey
    from flows.reach import why_unreachable

    found = run_async(survey(destinations, unreachable=why_unreachable()))
    if found.prefect is not None:
        note(f"{found.prefect.message} So the breakers are not known.")
    if json:
        print_json(found.to_dict(), indent=True)
    else:
        _show(found)
    if not all(each.usable for each in found.destinations):
        raise typer.Exit(1)


def _use_prefect() -> None:
    from flows.environment import prepare_environment

    prepare_environment()


def _reset(name: str, *, json_wanted: bool) -> None:
    _use_prefect()
    from flows.providers import breaker_dict, reset
    from flows.reach import reach_prefect

    reach_prefect()
    opened = run_async(reset(name))
    if json_wanted:
        print_json({"closed": [breaker_dict(found.key, found.state) for found in opened]}, indent=True)
        return
    for found in opened:
        print_line(f"{escape_name(found.name)}: its breaker was {found.state.phase} and is closed now.")
    if not opened:
        print_line(f"{escape_name(name)}: its breaker was closed already.")


def _show(found: Survey) -> None:
    headings = ("Destination", "Kind", "Health", "Breaker", "Free", "Last success")
    print_table(headings, [_row(each) for each in found.destinations], right=frozenset({4}))
    for each in found.destinations:
        if each.problem is not None:
            print_line(f"{escape_name(each.location)}: {clean_line(each.problem.message)}")
        if each.breaker is not None and each.breaker.phase != "closed":
            _show_breaker(each.location, each.key, each.breaker)
    for key, state in found.other_breakers.items():
        _show_breaker(state.label or key, key, state)


def _row(each: DestinationStatus) -> tuple[str, ...]:
    free = each.space.free_bytes if each.space else None
    health = "PROBLEM" if each.problem else "ok" if each.repository else "empty"
    return (
        escape_name(each.location),
        each.kind,
        health,
        each.breaker.phase if each.breaker else "?",
        "-" if free is None else human_bytes(free),
        "-" if each.newest_snapshot_ns is None else human_time(each.newest_snapshot_ns),
    )


def _show_breaker(location: str, key: str, state: BreakerState) -> None:
    why = f": {clean_line(state.reason)}" if state.reason else ""
    until = human_time(int(state.next_try * 1e9))
    print_line(f"{escape_name(location)}: its breaker is {state.phase} until {until}{why}")
    print_line(f"  to use it at once: backupiq providers --reset {key}")


@app.command("test")
def try_out(dest: Destination, json: Json = False) -> None:
    """Try a destination out: connect, store a small object, list it, read it and delete it."""
    from backupiq.cli.session import open_provider
    from backupiq.storage.trial import STEPS, Trial, try_destination

    if is_block(dest):
        _use_prefect()
        from flows.reach import reach_prefect

        reach_prefect()

    async def run() -> Trial:
        async with open_provider(dest) as provider:
            return await try_destination(provider, written=dest)

    trial = run_async(run())
    if json:
        print_json(trial.to_dict())
    else:
        for step in STEPS:
            if step in trial.passed:
                print_line(f"{step:8} ok")
            elif step == trial.failed:
                print_line(f"{step:8} FAILED")
        print_line(clean_line(trial.message))
    if trial.error is not None:
        raise typer.Exit(trial.error.exit_code)


@app.command()
def login(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The name of an iCloud block, or icloud:/Folder.", show_default=False)
    ],
    code_stdin: Annotated[
        bool, typer.Option("--code-stdin", help="Read the code from standard input, for scripts.")
    ] = False,
    anew: Annotated[bool, typer.Option("--anew", help="Sign in again also where Apple trusts this machine.")] = False,
    json: Json = False,
) -> None:
    """Sign in to iCloud with its second factor; the trust is kept for about 30 days."""
    from backupiq.cli.icloud_sign_in import sign_in

    sign_in(name, code_stdin=code_stdin, anew=anew, json_wanted=json)

"""The command restore: options in, the flow, the summary out."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from backupiq.cli.options import (
    Json,
    KeyBlock,
    LimitDownload,
    PasswordCommand,
    PasswordFile,
    Quiet,
    Repo,
    RetryLock,
    split_snapshot,
)
from backupiq.cli.output import human_bytes, note, print_json, print_line
from backupiq.cli.session import (
    Access,
    choose_destinations,
    existing_password,
    locate_repository,
    run_async,
    wrong_password,
)
from backupiq.errors import WrongPasswordError

if TYPE_CHECKING:
    from backupiq.reports import RestoreSummary

MAX_LISTED = 50


class Overwrite(StrEnum):
    """What to do with files that exist in the target."""

    ALWAYS = "always"
    IF_CHANGED = "if-changed"
    IF_NEWER = "if-newer"
    NEVER = "never"


def restore(
    snapshot: Annotated[
        str,
        typer.Argument(
            metavar="SNAPSHOT[:PATH]",
            help="A snapshot's id, the beginning of one, or latest; and what of it.",
            show_default=False,
        ),
    ],
    target: Annotated[
        str, typer.Option("--target", "-t", metavar="DIR", help="The folder to restore into.", show_default=False)
    ],
    repo: Repo = None,
    include: Annotated[
        list[str] | None,
        typer.Option("--include", "-i", metavar="PATTERN", help="Restore only what matches, in gitignore syntax."),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option("--exclude", "-e", metavar="PATTERN", help="Leave out what matches, in gitignore syntax."),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option("--host", "-H", metavar="HOST", help="For latest: only snapshots of this host."),
    ] = None,
    path: Annotated[
        list[str] | None,
        typer.Option("--path", metavar="PATH", help="For latest: only snapshots that hold this absolute path."),
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", metavar="TAG", help="For latest: only snapshots with this tag.")
    ] = None,
    overwrite: Annotated[
        Overwrite, typer.Option("--overwrite", help="What to do with files that exist in the target.")
    ] = Overwrite.ALWAYS,
    sparse: Annotated[bool, typer.Option("--sparse/--no-sparse", help="Leave runs of zeros as holes.")] = True,
    verify: Annotated[bool, typer.Option("--verify", help="Read every restored file again and compare it.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Write nothing; say what would be restored.")
    ] = False,
    threads: Annotated[
        int | None, typer.Option("--threads", metavar="N", min=1, max=64, help="Threads that write files.")
    ] = None,
    quiet: Quiet = False,
    json: Json = False,
    password_file: PasswordFile = None,
    password_command: PasswordCommand = None,
    key_block: KeyBlock = None,
    limit_download: LimitDownload = None,
    retry_lock: RetryLock = 0.0,
) -> None:
    """Restore a snapshot, or a part of it, below a folder. Absolute paths stand below that folder."""
    from backupiq.cli.progress_display import show_progress
    from backupiq.profile import RestoreOptions
    from backupiq.state import remember_repository

    access = Access(repo, password_file, password_command, key_block)
    destinations = choose_destinations(access.repo)
    locations = run_async(locate_repository(destinations))
    name, subpath = split_snapshot(snapshot)
    options = RestoreOptions(
        repo=destinations[0] if len(destinations) == 1 else destinations,
        target=os.path.abspath(target),
        snapshot=name,
        subpath=subpath,
        include=include or [],
        exclude=exclude or [],
        host=host,
        paths=path or [],
        tags=tag or [],
        overwrite=overwrite.value,
        sparse=sparse,
        verify=verify,
        dry_run=dry_run,
        threads=threads,
        limit_download=limit_download,
        retry_lock=retry_lock,
    )
    password = existing_password(access.sources(), locations)

    from flows.launch import run_restore

    with show_progress(silent=quiet or json) as progress:
        try:
            summary = run_restore(options, password=password.secret, progress=progress)
        except WrongPasswordError as error:
            raise wrong_password(error, password, ", ".join(locations)) from error
    remember_repository(destinations)
    _show(summary, json=json)
    if summary.exit_code:
        raise typer.Exit(summary.exit_code)


def _show(summary: RestoreSummary, *, json: bool) -> None:
    for problem in summary.problems[:MAX_LISTED]:
        note(f"could not be restored: {problem['path']}: {problem['reason']}")
    if len(summary.problems) > MAX_LISTED:
        note(f"and {len(summary.problems) - MAX_LISTED} more that could not be restored")
    if json:
        print_json(summary.to_dict())
        return
    print_line(f"snapshot:  {summary.snapshot_id}")
    print_line(f"target:    {summary.target}" + (" (nothing written: this was a dry run)" if summary.dry_run else ""))
    print_line(f"files:     {summary.files}" + (f" ({summary.skipped} left as they were)" if summary.skipped else ""))
    print_line(f"bytes:     {summary.bytes} ({human_bytes(summary.bytes)})")
    print_line(f"seconds:   {summary.seconds:.1f}, and {summary.seconds_prefect:.1f} to start Prefect")

"""The command backup: options in, the flow, the report out."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from backupiq.cli.options import (
    Json,
    KeyBlock,
    LimitDownload,
    LimitUpload,
    PasswordCommand,
    PasswordFile,
    Quiet,
    RetryLock,
    absolute_destination,
    parse_size,
)
from backupiq.cli.output import human_bytes, note, print_json, print_line
from backupiq.cli.session import Access, check_destinations, choose_destinations, wrong_password
from backupiq.errors import MissingConfigurationError, WrongPasswordError

if TYPE_CHECKING:
    from backupiq.reports import BackupReport

MAX_LISTED = 50


class Analysis(StrEnum):
    """How files are looked at before they are stored."""

    AUTO = "auto"
    FULL = "full"
    NAMES = "names"


def backup(
    paths: Annotated[
        list[str] | None,
        typer.Argument(metavar="PATH", help="Files and folders to back up; else the profile's.", show_default=False),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(
            "--profile", "-p", metavar="NAME|FILE", help="Do what this profile says (also block:NAME); options win."
        ),
    ] = None,
    to: Annotated[
        list[str] | None,
        typer.Option(
            "--to",
            metavar="DEST",
            help="Where to store them: a folder, a URL or block:NAME; repeat it for several replicas. "
            "Else BACKUPIQ_REPOSITORY, else the one last used here.",
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option("--exclude", "-e", metavar="PATTERN", help="Leave out what matches, in gitignore syntax."),
    ] = None,
    iexclude: Annotated[
        list[str] | None,
        typer.Option("--iexclude", metavar="PATTERN", help="The same, whatever the case of letters."),
    ] = None,
    exclude_file: Annotated[
        list[str] | None,
        typer.Option("--exclude-file", metavar="FILE", help="Leave out what the patterns in this file match."),
    ] = None,
    exclude_caches: Annotated[
        bool,
        typer.Option("--exclude-caches", help="Leave out what folders marked by CACHEDIR.TAG hold."),
    ] = False,
    exclude_larger_than: Annotated[
        int | None,
        typer.Option(
            "--exclude-larger-than", metavar="SIZE", parser=parse_size, help="Leave out larger files, for example 2G."
        ),
    ] = None,
    exclude_special: Annotated[bool, typer.Option("--exclude-special", help="Leave out FIFOs and devices.")] = False,
    one_file_system: Annotated[
        bool, typer.Option("--one-file-system", "-x", help="Stay on the file systems of the PATHs.")
    ] = False,
    exclude_regenerable: Annotated[
        bool,
        typer.Option("--exclude-regenerable", help="Leave out folders that can be made again, such as node_modules."),
    ] = False,
    pin: Annotated[
        list[str] | None,
        typer.Option("--pin", metavar="PATTERN=LEVEL", help="What files are worth: high, normal, low or 0 to 100."),
    ] = None,
    analysis: Annotated[
        Analysis | None,
        typer.Option(
            "--analysis", show_default="auto", help="Look into files before storing them: always, or where it pays."
        ),
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", metavar="TAG", help="A tag for the snapshot; may be repeated.")
    ] = None,
    host: Annotated[str | None, typer.Option("--host", "-H", metavar="HOST", help="The host name to record.")] = None,
    parent: Annotated[
        str | None, typer.Option("--parent", metavar="SNAPSHOT", help="Compare with this snapshot, not the newest.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Read every file again, changed or not.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Store nothing; say what would be stored.")] = False,
    threads: Annotated[
        int | None, typer.Option("--threads", metavar="N", min=1, max=64, help="Threads that read files.")
    ] = None,
    limit_upload: LimitUpload = None,
    limit_download: LimitDownload = None,
    quiet: Quiet = False,
    json: Json = False,
    password_file: PasswordFile = None,
    password_command: PasswordCommand = None,
    key_block: KeyBlock = None,
    retry_lock: RetryLock = 0.0,
) -> None:
    """Back up files and folders. An empty destination becomes a new repository.

    Ends with exit code 3 when some files could not be read; the snapshot holds all the others. Ends with exit code 4
    when the snapshot is complete, but not at every destination.
    """
    from backupiq.cli.creating import password_for_writing
    from backupiq.cli.progress_display import show_progress
    from backupiq.profile import BackupOptions
    from backupiq.profiles import resolve_profile
    from backupiq.state import remember_repository

    access = Access(to, password_file, password_command, key_block)
    if not paths and profile is None:
        raise MissingConfigurationError("Nothing says what to back up; give a PATH, or --profile NAME.")
    given: dict[str, Any] = {
        "paths": [os.path.abspath(path) for path in paths or []],
        "to": list(dict.fromkeys(map(absolute_destination, to or []))) if profile else choose_destinations(access.repo),
        "exclude": exclude,
        "iexclude": iexclude,
        "exclude_file": exclude_file,
        "exclude_caches": exclude_caches,
        "exclude_larger_than": exclude_larger_than,
        "exclude_special": exclude_special,
        "one_file_system": one_file_system,
        "exclude_regenerable": exclude_regenerable,
        "pin": pin,
        "analysis": analysis.value if analysis is not None else None,
        "tags": tag,
        "host": host,
        "parent": parent,
        "force": force,
        "dry_run": dry_run,
        "threads": threads,
        "limit_upload": limit_upload,
        "limit_download": limit_download,
        "retry_lock": retry_lock,
    }
    resolved = resolve_profile(profile, given, key=access.sources(), env=access.env) if profile else None
    if resolved is not None:
        options, key = resolved.options, resolved.key
    else:
        options, key = (
            BackupOptions(**{name: value for name, value in given.items() if value is not None}),
            access.sources(),
        )
    destinations = options.to
    check_destinations(destinations)
    password = password_for_writing(key, destinations, dry_run=dry_run)

    from flows.launch import run_backup

    with show_progress(silent=quiet or json) as progress:
        try:
            report = run_backup(options, password=password.secret, progress=progress, resolved=resolved)
        except WrongPasswordError as error:
            raise wrong_password(error, password, ", ".join(destinations)) from error
    if not dry_run:
        remember_repository(destinations)
    show(report, dry_run=dry_run, json=json)
    if report.exit_code:
        raise typer.Exit(report.exit_code)


def show(report: BackupReport, *, dry_run: bool, json: bool) -> None:
    """The end of a run: warnings and unreadable files on stderr, the counts or the JSON document on stdout."""
    for warning in report.warnings:
        note(f"warning: {warning}")
    _show_unreadable(report)
    if json:
        print_json(report.to_dict())
        return
    if report.snapshot_id:
        print_line(f"snapshot:  {report.snapshot_id}")
    elif dry_run:
        print_line("snapshot:  none, this was a dry run")
    for each in report.destinations if len(report.destinations) > 1 else []:
        caught_up = f", {each['objects_caught_up']} objects caught up" if each["objects_caught_up"] else ""
        state = "complete" if each["complete"] else "NOT up to date"
        print_line(f"stored at: {each['name']}: {state}, {human_bytes(each['bytes'])} sent{caught_up}")
    changes = f"{report.files_new} new, {report.files_changed} changed, {report.files_unmodified} unmodified"
    print_line(f"files:     {report.total_files} ({changes})")
    print_line(f"bytes:     {report.total_bytes} ({human_bytes(report.total_bytes)})")
    stored = f"stored in {report.data_added_packed} bytes ({human_bytes(report.data_added_packed)})"
    print_line(f"added:     {report.data_added} bytes ({human_bytes(report.data_added)}), {stored}")
    if report.bytes_resumed:
        reused = f"{report.bytes_resumed} bytes ({human_bytes(report.bytes_resumed)})"
        print_line(f"reused:    {reused} that an interrupted run had stored")
    print_line(f"seconds:   {report.seconds:.1f}, and {report.seconds_prefect:.1f} to start Prefect")


def _show_unreadable(report: BackupReport) -> None:
    for item in report.unreadable[:MAX_LISTED]:
        note(f"could not be read: {item['path']}: {item['reason']}")
    if len(report.unreadable) > MAX_LISTED:
        note(f"and {len(report.unreadable) - MAX_LISTED} more that could not be read")

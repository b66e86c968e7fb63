"""The command heal: which replicas, the flow, what became of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from backupiq.cli.options import (
    Json,
    KeyBlock,
    LimitDownload,
    LimitUpload,
    PasswordCommand,
    PasswordFile,
    Quiet,
    Repo,
    RetryLock,
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
from backupiq.errors import ValidationError, WrongPasswordError

if TYPE_CHECKING:
    from backupiq.replicas.healing import ReplicaOutcome
    from backupiq.replicas.report import HealReport

MAX_LISTED = 50


def heal(
    repo: Repo = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Copy nothing; say what would be copied.")] = False,
    read_data: Annotated[
        bool, typer.Option("--read-data", help="Read every pack too, not only names, sizes and small files.")
    ] = False,
    quiet: Quiet = False,
    json: Json = False,
    password_file: PasswordFile = None,
    password_command: PasswordCommand = None,
    key_block: KeyBlock = None,
    limit_upload: LimitUpload = None,
    limit_download: LimitDownload = None,
    retry_lock: RetryLock = 0.0,
) -> None:
    """Make all replicas hold the same: copy what one lacks, or holds damaged, from another. Deletes nothing.

    Ends with exit code 4 when a replica could not be reached or healed, 1 when an object is damaged everywhere.
    """
    from backupiq.cli.progress_display import show_progress
    from backupiq.profile import HealOptions
    from backupiq.state import remember_repository

    access = Access(repo, password_file, password_command, key_block)
    destinations = choose_destinations(access.repo)
    if len(destinations) < 2:
        raise ValidationError("Healing copies between replicas; name at least two, each with --repo.")
    locations = run_async(locate_repository(destinations))
    options = HealOptions(
        repo=destinations,
        dry_run=dry_run,
        read_data=read_data,
        retry_lock=retry_lock,
        limit_upload=limit_upload,
        limit_download=limit_download,
    )
    password = existing_password(access.sources(), locations)

    from flows.launch import run_heal

    with show_progress(silent=quiet or json) as progress:
        try:
            report = run_heal(options, password=password.secret, progress=progress)
        except WrongPasswordError as error:
            raise wrong_password(error, password, ", ".join(locations)) from error
    remember_repository(destinations)
    _show(report, json=json)
    if report.exit_code:
        raise typer.Exit(report.exit_code)


def _show(report: HealReport, *, json: bool) -> None:
    outcome = report.outcome
    for failure in outcome.failures[:MAX_LISTED]:
        note(f"not copied: {failure.action.key} to {failure.action.target}: {failure.error.message}")
    if len(outcome.failures) > MAX_LISTED:
        note(f"and {len(outcome.failures) - MAX_LISTED} more that were not copied")
    for key in outcome.lost[:MAX_LISTED]:
        note(f"no replica holds {key} right")
    if len(outcome.lost) > MAX_LISTED:
        note(f"and {len(outcome.lost) - MAX_LISTED} more that no replica holds right")
    if json:
        print_json(report.to_dict())
        return
    for replica in outcome.replicas:
        print_line(f"{replica.name}: {_words(replica, dry_run=report.dry_run)}")
    if report.dry_run:
        plan = outcome.plan
        print_line(f"to copy:   {len(plan.actions)} objects, {plan.bytes} bytes ({human_bytes(plan.bytes)})")
    else:
        print_line(f"copied:    {outcome.objects} objects, {outcome.bytes} bytes ({human_bytes(outcome.bytes)})")
    print_line(f"seconds:   {report.seconds:.1f}, and {report.seconds_prefect:.1f} to start Prefect")


def _words(replica: ReplicaOutcome, *, dry_run: bool) -> str:
    if replica.left_out is not None:
        return f"left out: {replica.left_out}"
    found = [
        f"{count} {what}"
        for count, what in (
            (replica.missing, "missing"),
            (replica.truncated, "truncated"),
            (replica.damaged, "damaged"),
        )
        if count
    ]
    unread = f"; {replica.unread} in an archive class were not read" if replica.unread else ""
    lacking = f"; {replica.lacking} still lacking" if replica.lacking else ""
    if dry_run or not replica.copied:
        return f"{replica.objects} objects, {', '.join(found) or 'nothing to heal'}{lacking}{unread}"
    return f"{replica.objects} objects, {', '.join(found) or 'damage found on the way'}; healed{lacking}{unread}"

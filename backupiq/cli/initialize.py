"""The command init: a new repository, or a further destination for one that exists."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from backupiq.cli.options import (
    Json,
    KeyBlock,
    PasswordCommand,
    PasswordFile,
    Quiet,
    absolute_destination,
    named_destinations,
)
from backupiq.cli.output import human_bytes, note, print_json, print_line
from backupiq.cli.session import Access, open_provider, run_async, this_host, this_user, wrong_password
from backupiq.errors import (
    DegradedRunError,
    MissingConfigurationError,
    RepositoryExistsError,
    RepositoryMissingError,
    StorageNotFoundError,
    WrongPasswordError,
)
from backupiq.state import last_repository, remember_repository

if TYPE_CHECKING:
    from backupiq.passwords import Password
    from backupiq.progress import ProgressSink
    from backupiq.replicas.copying import CatchUpReport
    from backupiq.storage.provider import StorageProvider


def init(
    to: Annotated[
        list[str] | None,
        typer.Option(
            "--to",
            metavar="DEST",
            help="Where: a folder, a URL or block:NAME; again for each replica. Else BACKUPIQ_REPOSITORY.",
        ),
    ] = None,
    repo: Annotated[
        list[str] | None,
        typer.Option("--repo", "-r", metavar="DEST", help="A repository that exists, to which --to is added."),
    ] = None,
    quiet: Quiet = False,
    json: Json = False,
    password_file: PasswordFile = None,
    password_command: PasswordCommand = None,
    key_block: KeyBlock = None,
) -> None:
    """Create a repository, or add a destination to one that --repo, or another --to, holds. Folders are made.

    Ends with exit code 4 when a destination that was added does not hold everything yet.
    """
    from backupiq.cli.creating import password_for_writing
    from backupiq.cli.progress_display import show_progress

    known = list(dict.fromkeys(map(absolute_destination, repo or [])))
    wanted = [destination for destination in named_destinations(to) if destination not in known]
    if not wanted:
        raise MissingConfigurationError("Say where the repository shall be: --to DEST.")
    holding = run_async(_holding(known, wanted))  # before a password is asked for
    sources = Access(None, password_file, password_command, key_block).sources()
    new = [destination for destination in wanted if destination not in holding]
    password = password_for_writing(sources, [*holding, *new])
    with show_progress(silent=quiet or json) as progress:
        report = run_async(_make(holding, new, password, progress))
    together, remembered = [*holding, *new], last_repository()
    remember_repository(list(dict.fromkeys([*remembered, *together])) if set(remembered) & set(holding) else together)
    _show(report, json=json)
    if not report["complete"]:
        raise typer.Exit(DegradedRunError.exit_code)


async def _holding(known: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """The destinations that hold the repository to be added to; none when a new one is to be made."""
    from backupiq.replicas.opening import probe_replicas

    providers = {destination: open_provider(destination) for destination in (*known, *wanted)}
    try:
        probes = await probe_replicas(providers)
    finally:
        await _close(providers.values())
    for destination in wanted:
        error = probes[destination].error
        if error is not None and not isinstance(error, StorageNotFoundError):
            raise error
    holding = [destination for destination in wanted if probes[destination].config is not None]
    if known:
        holding = [destination for destination in known if probes[destination].config is not None]
        if not holding:
            raise RepositoryMissingError(
                f"There is no repository at {', '.join(known)}. {RepositoryMissingError.hint}", location=known
            )
    elif len(holding) == len(wanted):
        where = ", ".join(providers[destination].location for destination in holding)
        hint = "`backupiq heal` makes them hold the same." if len(holding) > 1 else RepositoryExistsError.hint
        raise RepositoryExistsError(f"There is a repository at {where} already. {hint}")
    return holding


async def _make(holding: list[str], new: list[str], password: Password, progress: ProgressSink) -> dict[str, Any]:
    """Create the repository where there is none, and add the other destinations; what was done, for --json."""
    created = not holding
    reports: list[CatchUpReport] = []
    if created:
        repository_id, location = await _create(new[0], password)
        holding, new = new[:1], new[1:]
    if new:
        repository_id, location, reports = await _add(holding, new, password, progress)
    return {
        "id": repository_id,
        "repository": location,
        "created": created,
        "added": [each.replica for each in reports],
        "objects_copied": sum(each.copied.objects for each in reports),
        "bytes_copied": sum(each.copied.bytes for each in reports),
        "complete": all(each.complete for each in reports),
        "lacking": [
            f"{each.replica} does not hold everything yet: {failure.error.message}"
            for each in reports
            for failure in each.copied.failures[:1]
        ],
    }


async def _create(destination: str, password: Password) -> tuple[str, str]:
    from backupiq.repository.repository import Repository

    async with open_provider(destination) as provider:
        repository = await Repository.init(
            provider,
            password.secret.get_secret_value(),
            hostname=this_host(),
            username=this_user(),
            now_ns=time.time_ns(),
        )
        return repository.config.id, provider.location


async def _add(
    existing: list[str], added: list[str], password: Password, progress: ProgressSink
) -> tuple[str, str, list[CatchUpReport]]:
    from backupiq.archive.spool import Spool, default_parent
    from backupiq.replicas.adding import add_replica
    from backupiq.replicas.opening import name_replicas, open_replicas, probe_replicas
    from backupiq.repository.locking import lock_for_reading

    holders = name_replicas(map(open_provider, existing))
    new = {name: each for name, each in name_replicas(map(open_provider, added)).items() if name not in holders}
    spool = Spool.create(default_parent())
    try:
        try:
            opened = await open_replicas(await probe_replicas(holders), password.secret.get_secret_value(), note=note)
        except WrongPasswordError as error:
            raise wrong_password(error, password, ", ".join(holders)) from error
        async with lock_for_reading(opened.repository, note=note):
            reports = []
            for name, provider in new.items():
                progress.stage(f"copying the repository to {name}")
                reports.append(await add_replica(name, provider, opened, spool=spool.folder, progress=progress.advance))
        return opened.repository.config.id, next(iter(opened.conditions)), reports
    finally:
        spool.close()
        await _close([*holders.values(), *new.values()])


async def _close(providers: Iterable[StorageProvider]) -> None:
    for provider in providers:
        await provider.close()


def _show(report: dict[str, Any], *, json: bool) -> None:
    for line in report["lacking"]:
        note(f"{line} Run `backupiq heal`.")
    if json:
        print_json(report)
        return
    if report["created"]:
        print_line(f"created repository {report['id'][:10]} at {report['repository']}")
    for place in report["added"]:
        print_line(f"added {place} to repository {report['id'][:10]}")
    if report["added"]:
        size = report["bytes_copied"]
        print_line(f"copied:    {report['objects_copied']} objects, {size} bytes ({human_bytes(size)})")

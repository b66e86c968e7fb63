"""The command doctor: looks at everything a backup needs and says what to do."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import typer

from backupiq.cli.options import Json, KeyBlock, PasswordCommand, PasswordFile, Repo, named_destinations
from backupiq.cli.output import clean_line, print_json, print_line
from backupiq.cli.session import Access, open_at, open_provider, run_async
from backupiq.errors import BackupIQError, MissingConfigurationError, StorageNotFoundError
from backupiq.state import last_repository

if TYPE_CHECKING:
    from backupiq.cli.checks import Finding
    from backupiq.repository.repository import Repository

_MARKS = {"ok": "ok       ", "warning": "warning  ", "problem": "PROBLEM  "}


def doctor(
    repo: Repo = None,
    json: Json = False,
    password_file: PasswordFile = None,
    password_command: PasswordCommand = None,
    key_block: KeyBlock = None,
) -> None:
    """Check this machine, Prefect and the repository, and say what to do. Exit code 1 when there is a problem."""
    access = Access(repo, password_file, password_command, key_block)
    problems = 0
    findings: list[dict[str, str]] = []
    for finding in _examine(access):
        problems += finding.level.value == "problem"
        findings.append(finding.to_dict())
        if not json:
            print_line(f"{_MARKS[finding.level.value]}{finding.check}: {clean_line(finding.text)}")
            if finding.advice:
                print_line(f"         -> {finding.advice}")
    if json:
        print_json({"findings": findings, "problems": problems}, indent=True)
    if problems:
        raise typer.Exit(1)


def _examine(access: Access) -> Iterator[Finding]:
    from backupiq.cli import checks

    yield from checks.check_python()
    yield from checks.check_libraries()
    yield from checks.check_clock()
    yield from checks.check_open_files()
    yield from checks.check_configuration_folder()
    yield from checks.check_spool_folder()
    yield from checks.check_restic()
    yield from checks.check_prefect()
    destinations = named_destinations(access.repo) or last_repository()
    if not destinations:
        yield checks.Finding("repository", checks.Level.OK, "none is named, and none was used on this machine yet")
    for destination in destinations:
        yield from run_async(_collect(destination, access))


async def _collect(destination: str, access: Access) -> list[Finding]:
    return [finding async for finding in _examine_destination(destination, access)]


async def _examine_destination(destination: str, access: Access) -> AsyncIterator[Finding]:
    from backupiq.cli.checks import Finding, Level, from_error, space_finding

    try:
        async with open_provider(destination) as provider:
            info = await provider.authenticate()
            yield space_finding(
                "destination", info.location, info.free_bytes, "free space there or move the repository"
            )
        repository = await open_at(destination, access.sources())
    except StorageNotFoundError as error:
        yield Finding("destination", Level.PROBLEM, error.message, "connect the disk, or correct the place")
    except MissingConfigurationError as error:
        yield from_error("repository", error, Level.WARNING)
    except BackupIQError as error:
        yield from_error("repository", error)
    else:
        async with repository.provider:
            yield Finding(
                "repository", Level.OK, f"{repository.provider.location} opens, its id is {repository.config.id[:10]}"
            )
            try:
                async for finding in _examine_repository(repository):
                    yield finding
            except BackupIQError as error:
                yield from_error("repository", error)


async def _examine_repository(repository: Repository) -> AsyncIterator[Finding]:
    from backupiq.cli.checks import MOST_CLOCK_SKEW_SECONDS, Finding, Level, from_error
    from backupiq.repository.lockfile import STALE_AFTER_NS
    from backupiq.repository.locking import describe_lock, list_locks

    now = time.time_ns()
    locks = await list_locks(repository)
    for _, lock in locks:
        old = now - lock.time_ns() > STALE_AFTER_NS
        advice = "remove it with `backupiq unlock`" if old else "wait for that program to end"
        yield Finding(
            "locks", Level.WARNING if old or lock.exclusive else Level.OK, f"locked {describe_lock(lock, now)}", advice
        )
    if not locks:
        yield Finding("locks", Level.OK, "none")
    damaged: list[BackupIQError] = []
    found = await repository.snapshots(on_damaged=lambda _, error: damaged.append(error))
    for error in damaged:
        yield from_error("snapshots", error)
    newest = max((snapshot.time_ns() for _, snapshot in found), default=None)
    if newest is None:
        yield Finding("snapshots", Level.WARNING, "there are none yet", "make one with `backupiq backup`")
    elif newest - now > MOST_CLOCK_SKEW_SECONDS * 1e9:
        text = "the newest snapshot is from the future: this machine's clock or that of another is wrong"
        yield Finding("clock", Level.WARNING, text, "set the clocks by NTP")
    else:
        yield Finding("snapshots", Level.OK, f"{len(found)}, the newest is {_age((now - newest) / 1e9)} old")


def _age(seconds: float) -> str:
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'' if count == 1 else 's'}"
    return "less than a minute"

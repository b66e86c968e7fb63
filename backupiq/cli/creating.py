"""The password for a run that may create the repository, and what is said when one is made."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from pydantic import SecretStr

from backupiq.cli.output import note
from backupiq.cli.session import has_terminal, open_provider, run_async, terminal_prompt
from backupiq.errors import StorageError
from backupiq.passwords import (
    Password,
    PasswordSources,
    ask_password,
    find_password,
    generate_password,
    keep_new_password,
    keep_password_for,
    missing_password,
)


def password_for_writing(sources: PasswordSources, destinations: Sequence[str], *, dry_run: bool = False) -> Password:
    """The password to open the repository with, or to create it with where no destination holds one yet.

    A new one is asked for twice on a terminal; without a terminal a strong one is made, kept below the user's
    configuration folder and announced (with ``dry_run`` neither). Raises MissingConfigurationError when the repository
    exists and its password is unknown, and the provider's error when none of the destinations can say whether it does.
    """
    given = find_password(sources, [], note=note)
    if given is not None:
        return given
    holding, empty = run_async(_probe(destinations))
    found = find_password(sources, [*holding, *empty], note=note)
    if found is not None:
        if found.kept_in is not None and not dry_run:
            for location in (*holding, *empty):
                keep_password_for(found, location, sources.env)
        return found
    if has_terminal():
        return ask_password(terminal_prompt, twice=not holding)
    if holding:
        raise missing_password()
    if dry_run:
        return Password(SecretStr(generate_password()), "nowhere: nothing is stored")
    made = keep_new_password(empty, sources.env)
    if made.kept_in is not None:
        announce_new_password(made.kept_in, empty[0])
    return made


def announce_new_password(kept_in: Path, location: str) -> None:
    """Say plainly where the new password is and how to restore without BackupIQ."""
    where, file = shlex.quote(location), shlex.quote(str(kept_in))
    note("no password was given, so a strong one was made for the new repository.")
    note(f"it is kept in {kept_in}")
    note("copy that file to another safe place now: without the password nobody can read the backup.")
    note(
        "to restore without BackupIQ, with restic alone: "
        f"restic -r {where} --password-file {file} restore latest --target DIR"
    )


async def _probe(destinations: Sequence[str]) -> tuple[list[str], list[str]]:
    """The locations that hold a repository, and those that hold none (yet).

    One that does not answer may hold the repository that another lacks, so then nothing may be created: its error is
    raised unless some destination is known to hold one.
    """
    holding: list[str] = []
    empty: list[str] = []
    silent: list[tuple[str, StorageError]] = []
    for destination in destinations:
        async with open_provider(destination) as provider:
            try:
                (holding if await provider.file_exists("config") else empty).append(provider.location)
            except StorageError as error:
                silent.append((provider.location, error))
    if silent and not holding:
        raise silent[0][1]
    return holding, empty + [location for location, _ in silent]

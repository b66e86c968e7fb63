"""Commands that look after a repository: init and unlock."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from backupiq.cli.options import Json, KeyBlock, PasswordCommand, PasswordFile, Repo, named_destinations
from backupiq.cli.output import print_json, print_line
from backupiq.cli.session import Access, open_provider, opened, run_async, this_host, this_user
from backupiq.errors import MissingConfigurationError, RepositoryExistsError, ValidationError
from backupiq.state import remember_repository


def init(
    to: Annotated[
        list[str] | None,
        typer.Option("--to", metavar="DEST", help="Where: a folder, a URL or block:NAME. Else BACKUPIQ_REPOSITORY."),
    ] = None,
    json: Json = False,
    password_file: PasswordFile = None,
    password_command: PasswordCommand = None,
    key_block: KeyBlock = None,
) -> None:
    """Create a repository. Its folder is made when it is missing."""
    from backupiq.cli.creating import password_for_writing
    from backupiq.repository.repository import Repository

    destinations = named_destinations(to)
    if not destinations:
        raise MissingConfigurationError("Say where the repository shall be: --to DEST.")
    if len(destinations) > 1:
        raise ValidationError("Give one destination; a repository at several is not available yet.")
    sources = Access(None, password_file, password_command, key_block).sources()

    async def refuse_an_existing_one() -> None:
        async with open_provider(destinations[0]) as provider:
            if await provider.file_exists("config"):
                where = provider.location
                raise RepositoryExistsError(f"There is a repository at {where} already. {RepositoryExistsError.hint}")

    run_async(refuse_an_existing_one())  # before a password is asked for
    password = password_for_writing(sources, destinations)

    async def create() -> tuple[str, str]:
        async with open_provider(destinations[0]) as provider:
            repository = await Repository.init(
                provider,
                password.secret.get_secret_value(),
                hostname=this_host(),
                username=this_user(),
                now_ns=time.time_ns(),
            )
            return repository.config.id, provider.location

    repository_id, location = run_async(create())
    remember_repository(destinations)
    if json:
        print_json({"id": repository_id, "repository": location})
    else:
        print_line(f"created repository {repository_id[:10]} at {location}")


def unlock(
    repo: Repo = None,
    remove_all: Annotated[
        bool, typer.Option("--remove-all", help="Remove every lock, also those of programs that still run.")
    ] = False,
    json: Json = False,
    password_file: PasswordFile = None,
    password_command: PasswordCommand = None,
    key_block: KeyBlock = None,
) -> None:
    """Remove the locks of programs that are gone: their process has ended, or the lock is over 30 minutes old."""
    from backupiq.repository.locking import remove_stale_locks

    access = Access(repo, password_file, password_command, key_block)
    deletes = "`unlock --remove-all`" if remove_all else None

    async def main() -> list[str]:
        async with opened(access, lock=False, single=True, deletes=deletes) as repository:
            return await remove_stale_locks(repository, remove_all=remove_all)

    removed = run_async(main())
    if json:
        print_json({"removed": removed})
    else:
        print_line(f"removed {len(removed)} lock{'' if len(removed) == 1 else 's'}")

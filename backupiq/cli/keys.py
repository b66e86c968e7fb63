"""Commands for the passwords of a repository: key list, key add, key remove."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from backupiq.cli.options import Json, KeyBlock, NoLock, PasswordCommand, PasswordFile, Repo, RetryLock
from backupiq.cli.output import escape_name, human_time, note, print_json, print_line, print_table
from backupiq.cli.session import Access, has_terminal, opened, run_async, terminal_prompt, this_host, this_user

if TYPE_CHECKING:
    from backupiq.passwords import Password
    from backupiq.repository.keyfile import KeyFile

app = typer.Typer(help="List, add and remove the passwords of a repository.", no_args_is_help=True)


@app.command("list")
def list_keys(
    repo: Repo = None,
    json: Json = False,
    password_file: PasswordFile = None,
    password_command: PasswordCommand = None,
    key_block: KeyBlock = None,
    retry_lock: RetryLock = 0.0,
    no_lock: NoLock = False,
) -> None:
    """List the keys; the one whose password was given is marked with a star."""
    from backupiq.repository.gojson import parse_time_ns

    access = Access(repo, password_file, password_command, key_block, retry_lock, no_lock)

    async def main() -> tuple[str, list[tuple[str, KeyFile]]]:
        async with opened(access) as repository:
            return repository.key_id, await repository.list_keys()

    current, keys = run_async(main())
    if json:
        print_json(
            [
                {
                    "current": key_id == current,
                    "id": key_id,
                    "userName": key.username,
                    "hostName": key.hostname,
                    "created": key.created,
                }
                for key_id, key in keys
            ]
        )
        return
    rows = [
        (
            "*" if key_id == current else "",
            key_id[:8],
            escape_name(key.username),
            escape_name(key.hostname),
            human_time(parse_time_ns(key.created)),
        )
        for key_id, key in keys
    ]
    print_table(("", "ID", "User", "Host", "Created"), rows)


@app.command("add")
def add_key(
    repo: Repo = None,
    new_password_file: Annotated[
        Path | None,
        typer.Option(
            "--new-password-file", metavar="FILE", help="Read the new password from this file, not the terminal."
        ),
    ] = None,
    json: Json = False,
    password_file: PasswordFile = None,
    password_command: PasswordCommand = None,
    key_block: KeyBlock = None,
    retry_lock: RetryLock = 0.0,
) -> None:
    """Let one more password open the repository."""
    access = Access(repo, password_file, password_command, key_block, retry_lock)

    async def main() -> str:
        async with opened(access, single=True) as repository:
            password = _new_password(new_password_file)
            return await repository.add_key(
                password.secret.get_secret_value(),
                hostname=this_host(),
                username=this_user(),
                created_ns=time.time_ns(),
            )

    key_id = run_async(main())
    if json:
        print_json({"id": key_id})
    else:
        print_line(f"added key {key_id[:8]}")


@app.command("remove")
def remove_key(
    key: Annotated[str, typer.Argument(metavar="KEY", help="The key's id or the beginning of it.", show_default=False)],
    repo: Repo = None,
    json: Json = False,
    password_file: PasswordFile = None,
    password_command: PasswordCommand = None,
    key_block: KeyBlock = None,
    retry_lock: RetryLock = 0.0,
) -> None:
    """Remove a key, so that its password opens the repository no longer. The key in use cannot be removed."""
    access = Access(repo, password_file, password_command, key_block, retry_lock)

    async def main() -> str:
        async with opened(access, exclusive=True, single=True, deletes="`key remove`") as repository:
            return await repository.remove_key(key.lower())

    key_id = run_async(main())
    if json:
        print_json({"id": key_id})
    else:
        print_line(f"removed key {key_id[:8]}")


def _new_password(file: Path | None) -> Password:
    from pydantic import SecretStr

    from backupiq.errors import MissingConfigurationError
    from backupiq.passwords import Password, ask_password, read_password_file

    if file is not None:
        return Password(SecretStr(read_password_file(file, note=note)), f"the file {file}")
    if not has_terminal():
        raise MissingConfigurationError("The new password is missing; give it with --new-password-file FILE.")
    return ask_password(terminal_prompt, twice=True, what="new password")

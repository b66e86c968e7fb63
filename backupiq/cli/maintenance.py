"""The command unlock."""

from __future__ import annotations

from typing import Annotated

import typer

from backupiq.cli.options import Json, KeyBlock, PasswordCommand, PasswordFile, Repo
from backupiq.cli.output import print_json, print_line
from backupiq.cli.session import Access, opened, run_async


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

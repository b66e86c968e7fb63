"""From what a command was told to an open repository: destinations, password, lock, signals."""

from __future__ import annotations

import contextlib
import getpass
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from backupiq.cli.options import is_block, named_destinations, refuse_to_guess
from backupiq.cli.output import note
from backupiq.errors import (
    CancelledRunError,
    MissingConfigurationError,
    RepositoryMissingError,
    ValidationError,
    WrongPasswordError,
)
from backupiq.state import last_repository, remember_repository

if TYPE_CHECKING:
    from backupiq.passwords import Password, PasswordSources
    from backupiq.repository.repository import Repository
    from backupiq.storage.provider import StorageProvider

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Access:
    """Everything a command was told about the repository it works on."""

    repo: list[str] | None
    password_file: Path | None = None
    password_command: str | None = None
    key_block: str | None = None
    retry_lock: float = 0.0
    no_lock: bool = False
    env: Mapping[str, str] = field(default_factory=lambda: dict(os.environ), repr=False)
    """As it was when the command began: starting Prefect takes the password out of the process's own."""

    def sources(self) -> PasswordSources:
        """The password part."""
        from backupiq.passwords import PasswordSources

        return PasswordSources(self.password_file, self.password_command, self.key_block, self.env)


def choose_destinations(given: list[str] | None, *, deletes: str | None = None) -> list[str]:
    """The replicas of the repository to work on: as named, else the ones used last on this machine, which is said.

    ``deletes`` names a command that must not guess. MissingConfigurationError when there is nothing to go by.
    """
    named = named_destinations(given)
    if named:
        return named
    if deletes:
        raise refuse_to_guess(deletes)
    remembered = last_repository()
    if not remembered:
        raise MissingConfigurationError("No repository is named; give --repo DEST or set BACKUPIQ_REPOSITORY.")
    note(f"using the repository last used on this machine: {', '.join(remembered)}")
    return remembered


def open_provider(destination: str) -> StorageProvider:
    """The provider of a destination, blocks included. UnknownDestinationError when it is none that is known."""
    if is_block(destination):
        from flows.environment import prepare_environment

        prepare_environment()
        from blocks.destinations import provider_for

        return provider_for(destination)
    from backupiq.storage.factory import open_destination

    return open_destination(destination)


def check_destinations(destinations: Sequence[str]) -> list[str]:
    """Their locations for people, after making sure that each is one that can be used; nothing is read or written."""
    return [open_provider(destination).location for destination in destinations]


def terminal_prompt(text: str) -> str:
    """Ask on the terminal without showing what is typed."""
    with interruptible():
        return getpass.getpass(text, stream=sys.stderr)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM raise KeyboardInterrupt at once in code that blocks, also inside an event loop.

    The loop's own handlers would wait until the person has typed the line or the command has ended.
    """

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def has_terminal() -> bool:
    """Whether a person can be asked."""
    return sys.stdin is not None and sys.stdin.isatty()


def existing_password(sources: PasswordSources, locations: Sequence[str]) -> Password:
    """The password of a repository that exists; MissingConfigurationError when nothing and nobody tells it."""
    from backupiq.passwords import ask_password, find_password, missing_password

    with interruptible():
        found = find_password(sources, locations, note=note)
    if found is not None:
        return found
    if not has_terminal():
        raise missing_password()
    return ask_password(terminal_prompt, twice=False)


def run_async(main: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine. SIGTERM ends it as Ctrl-C does: its locks are released, then CancelledRunError."""
    import asyncio

    terminated = False

    async def guarded() -> T:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - inside a running coroutine there is one

        def stop() -> None:
            nonlocal terminated
            terminated = True
            task.cancel()

        with contextlib.suppress(NotImplementedError):  # Windows has no such handlers
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
        return await main

    try:
        return asyncio.run(guarded())
    except asyncio.CancelledError:
        if terminated:
            raise CancelledRunError("Stopped by SIGTERM; nothing is left locked.") from None
        raise


async def locate_repository(destinations: Sequence[str]) -> list[str]:
    """The locations of the replicas for people, after making sure that at least one holds a repository.

    Raises RepositoryMissingError, and what the providers raise when none of them answers.
    """
    if len(destinations) == 1:
        async with open_provider(destinations[0]) as provider:
            await _require_repository(provider)
            return [provider.location]
    from backupiq.replicas.opening import Probe, name_replicas, probe_replicas, require_repository

    replicas = name_replicas(map(open_provider, destinations))
    probes: dict[str, Probe] = {}
    try:
        for name, provider in replicas.items():  # the first that has it is enough
            probes |= await probe_replicas({name: provider})
            if probes[name].config is not None:
                break
        require_repository(probes)
    finally:
        for provider in replicas.values():
            await provider.close()
    return list(replicas)


async def _require_repository(provider: StorageProvider) -> None:
    # Before a password is asked for: it would be typed for nothing.
    if not await provider.file_exists("config"):
        where = provider.location
        raise RepositoryMissingError(
            f"There is no repository at {where}. {RepositoryMissingError.hint}", location=where
        )


def wrong_password(error: WrongPasswordError, password: Password, where: str) -> WrongPasswordError:
    """The same error, saying where the password came from."""
    return WrongPasswordError(
        f"The password from {password.origin} opens no key of the repository at {where}. {WrongPasswordError.hint}",
        **error.details,
    )


async def open_at(destination: str, sources: PasswordSources) -> Repository:
    """The repository at one destination, opened; the caller closes its provider."""
    from backupiq.repository.repository import Repository

    provider = open_provider(destination)
    try:
        await _require_repository(provider)
        password = existing_password(sources, [provider.location])
        try:
            return await Repository.open(provider, password.secret.get_secret_value())
        except WrongPasswordError as error:
            raise wrong_password(error, password, provider.location) from error
    except BaseException:
        await provider.close()
        raise


async def open_among(destinations: Sequence[str], sources: PasswordSources) -> Repository:
    """The repository at several replicas, opened to be read; the caller closes its provider.

    Whatever one of them lacks, or gives wrongly, is read from the next, and that is mentioned. Raises ValidationError
    when they hold different repositories.
    """
    from backupiq.replicas.opening import name_replicas, open_replicas, probe_replicas, require_repository

    replicas = name_replicas(map(open_provider, destinations))
    try:
        probes = await probe_replicas(replicas)
        require_repository(probes)
        password = existing_password(sources, list(replicas))
        try:
            return (await open_replicas(probes, password.secret.get_secret_value(), note=note)).repository
        except WrongPasswordError as error:
            raise wrong_password(error, password, ", ".join(replicas)) from error
    except BaseException:
        for provider in replicas.values():
            await provider.close()
        raise


@asynccontextmanager
async def opened(
    access: Access, *, exclusive: bool = False, lock: bool = True, single: bool = False, deletes: str | None = None
) -> AsyncIterator[Repository]:
    """The repository, open and locked (shared, unless ``exclusive``) for the time of the block.

    Several replicas are read as one. They become the repository last used on this machine.
    ``single`` refuses more than one, for what would have to change all of them; ``deletes`` names a command that must
    not guess which repository is meant.
    """
    from backupiq.repository.locking import lock_for_reading, lock_repository

    destinations = choose_destinations(access.repo, deletes=deletes)
    if single and len(destinations) > 1:
        raise ValidationError("This changes one repository at a time; give one --repo.")
    sources = access.sources()
    one = len(destinations) == 1
    repo = await (open_at(destinations[0], sources) if one else open_among(destinations, sources))
    try:
        remember_repository(destinations)
        if not lock or access.no_lock:
            yield repo
        elif exclusive:
            async with lock_repository(repo, exclusive=True, retry_for=access.retry_lock):
                yield repo
        else:
            async with lock_for_reading(repo, retry_for=access.retry_lock, note=note):
                yield repo
    finally:
        await repo.provider.close()


def this_host() -> str:
    """This machine's name, as keys record it."""
    return socket.gethostname()


def this_user() -> str:
    """The user's login name, as keys record it; empty when the system knows none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # what it raises differs between versions of Python
        return ""

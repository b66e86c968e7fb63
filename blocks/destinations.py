"""Destinations by the names of their blocks."""

from __future__ import annotations

from typing import cast

from backupiq.errors import MissingConfigurationError
from backupiq.storage.factory import open_destination
from backupiq.storage.provider import StorageProvider
from blocks.local_destination import LocalDestination

PREFIX = "block:"


def load_destination(name: str) -> StorageProvider:
    """The provider of the destination block of that name; MissingConfigurationError when there is none."""
    try:
        block = cast(LocalDestination, LocalDestination.load(name, _sync=True))  # type: ignore[call-arg]
    except ValueError as error:
        raise MissingConfigurationError(
            f"There is no destination block named {name!r}. Create it in Prefect's UI under Blocks."
        ) from error
    return block.provider()


def provider_for(destination: str) -> StorageProvider:
    """The provider for what a person writes after ``--to``: a folder, a URL, or block:NAME."""
    if destination.startswith(PREFIX):
        return load_destination(destination.removeprefix(PREFIX))
    return open_destination(destination)

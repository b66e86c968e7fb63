"""A folder as a destination, as a Prefect block."""

from __future__ import annotations

from pathlib import Path

from prefect.blocks.core import Block
from pydantic import Field

from backupiq.storage.local import LocalProvider
from backupiq.storage.provider import StorageProvider


class LocalDestination(Block):
    """A folder on a disk of this machine, on a mounted share, or one that another program syncs with a cloud."""

    _block_type_name = "BackupIQ Local Destination"
    _block_type_slug = "backupiq-local-destination"
    _description = "A folder that holds a BackupIQ repository: a disk, a mounted share, a synced folder."

    path: Path = Field(description="The folder, absolute.")

    def provider(self) -> StorageProvider:
        """The storage provider for this folder; nothing is touched yet."""
        return LocalProvider(self.path)

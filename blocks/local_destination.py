"""A folder as a destination, as a Prefect block."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from backupiq.storage.local import LocalProvider
from backupiq.storage.provider import StorageProvider
from backupiq.storage.throttle import NO_LIMITS, Limits
from blocks.destination import Destination
from blocks.logos import LOCAL_LOGO


class LocalDestination(Destination):
    """A folder on a disk of this machine, on a mounted share, or one that another program syncs with a cloud."""

    _block_type_name = "BackupIQ Local Destination"
    _block_type_slug = "backupiq-local-destination"
    _description = "A folder that holds a BackupIQ repository: a disk, a mounted share, a synced folder."
    _logo_url = LOCAL_LOGO

    path: Path = Field(description="The folder, absolute.")

    def provider(self, limits: Limits = NO_LIMITS) -> StorageProvider:
        """The storage provider for this folder; nothing is touched yet."""
        return LocalProvider(self.path, limits=limits)

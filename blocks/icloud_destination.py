"""A folder of iCloud Drive as a destination, as a Prefect block."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import Field, SecretStr

from backupiq.storage.icloud import ICloudConfig, ICloudProvider
from backupiq.storage.icloud_config import ENDPOINT_VARIABLE, SESSION_VARIABLE
from backupiq.storage.provider import StorageProvider
from backupiq.storage.throttle import NO_LIMITS, Limits
from blocks.destination import Destination
from blocks.logos import ICLOUD_LOGO


class ICloudDestination(Destination):
    """A folder of an Apple ID's iCloud Drive. Sign in once on each machine: ``backupiq providers login NAME``."""

    _block_type_name = "BackupIQ iCloud Destination"
    _block_type_slug = "backupiq-icloud-destination"
    _description = (
        "A folder of iCloud Drive that holds a BackupIQ repository. The second factor is asked for by "
        "`backupiq providers login NAME`, about once a month on each machine."
    )
    _logo_url = ICLOUD_LOGO

    apple_id: str = Field(title="Apple ID", description="The mail address or phone number of the Apple ID.")
    password: SecretStr = Field(description="The Apple ID's own password; app-specific ones do not open iCloud Drive.")
    folder: str = Field(default="BackupIQ", description="The folder in iCloud Drive, such as Backups/Laptop.")
    china_mainland: bool = Field(default=False, description="Whether the Apple ID is one of mainland China.")

    def config(self) -> ICloudConfig:
        """What the provider and signing in need; the session is kept on this machine."""
        session = os.environ.get(SESSION_VARIABLE)
        return ICloudConfig(
            apple_id=self.apple_id,
            password=self.password.get_secret_value() or None,
            folder=self.folder,
            session_folder=Path(session) if session else None,
            china_mainland=self.china_mainland,
            endpoint=os.environ.get(ENDPOINT_VARIABLE) or None,
            login_name=self.written or "",
        )

    def provider(self, limits: Limits = NO_LIMITS) -> StorageProvider:
        """The storage provider for this folder; nothing is contacted yet."""
        return ICloudProvider(self.config(), limits=limits)

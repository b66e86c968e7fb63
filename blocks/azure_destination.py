"""A container of Azure Blob Storage as a destination: a Prefect block."""

from __future__ import annotations

from typing import Any

from prefect_azure.credentials import AzureBlobStorageCredentials
from pydantic import Field

from backupiq.storage.azure import AzureConfig, AzureProvider
from backupiq.storage.azure_config import read_connection_string
from backupiq.storage.names import classes_by_kind
from backupiq.storage.provider import StorageProvider
from backupiq.storage.throttle import NO_LIMITS, Limits
from blocks.destination import Destination
from blocks.logos import AZURE_LOGO


class AzureDestination(Destination):
    """A container of Azure Blob Storage, and a prefix in it."""

    _block_type_name = "BackupIQ Azure Destination"
    _block_type_slug = "backupiq-azure-destination"
    _description = "A container of Azure Blob Storage that holds a BackupIQ repository."
    _logo_url = AZURE_LOGO

    credentials: AzureBlobStorageCredentials = Field(
        description="The storage account and who may use it: a connection string (with a key or a SAS token), or the "
        "account's URL with a service principal. A URL alone takes what Azure's own tools would find on the machine "
        "that runs the backup."
    )
    container: str = Field(description="The container's name.")
    prefix: str = Field(default="", description="The folder in the container; empty for the whole container.")
    storage_class: str | None = Field(
        default=None,
        description="An access tier for the packs (Hot, Cool, Cold, Archive), or one for each kind of object: "
        "data:Cold,snapshots:Hot.",
    )
    metadata: dict[str, str] = Field(default_factory=dict, description="Metadata for every object.")

    def config(self) -> AzureConfig:
        """What the provider needs. ConfigurationError or ValidationError for fields that do not fit."""
        return AzureConfig(
            container=self.container,
            prefix=self.prefix,
            storage_class=classes_by_kind(self.storage_class) if self.storage_class else {},
            metadata=self.metadata,
            **_account(self.credentials),
        )

    def provider(self, limits: Limits = NO_LIMITS) -> StorageProvider:
        """The storage provider for this container; nothing is contacted yet."""
        return AzureProvider(self.config(), limits=limits)


def _account(credentials: AzureBlobStorageCredentials) -> dict[str, Any]:
    if credentials.connection_string is not None:
        return read_connection_string(credentials.connection_string.get_secret_value())
    endpoint = {"endpoint": credentials.account_url}
    if credentials.client_id is None:
        return endpoint | {"default_credential": True}
    return endpoint | {
        "tenant_id": credentials.tenant_id,
        "client_id": credentials.client_id,
        "client_secret": credentials.client_secret,
    }

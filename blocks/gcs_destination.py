"""A bucket of Google Cloud Storage as a destination: a Prefect block."""

from __future__ import annotations

import json

from prefect_gcp.credentials import GcpCredentials  # type: ignore[import-untyped]
from pydantic import Field, SecretStr

from backupiq.storage.gcs import GcsConfig, GcsProvider
from backupiq.storage.names import classes_by_kind
from backupiq.storage.provider import StorageProvider
from backupiq.storage.throttle import NO_LIMITS, Limits
from blocks.destination import Destination
from blocks.logos import GCS_LOGO


class GcsDestination(Destination):
    """A bucket of Google Cloud Storage, and a prefix in it."""

    _block_type_name = "BackupIQ GCS Destination"
    _block_type_slug = "backupiq-gcs-destination"
    _description = "A bucket of Google Cloud Storage that holds a BackupIQ repository."
    _logo_url = GCS_LOGO

    credentials: GcpCredentials = Field(
        description="Who may use the bucket: a block of GCP credentials. One without a service account takes what "
        "Google's own tools would find on the machine that runs the backup."
    )
    bucket: str = Field(description="The bucket's name.")
    prefix: str = Field(default="", description="The folder in the bucket; empty for the whole bucket.")
    endpoint: str | None = Field(default=None, description="Another server than Google's, such as https://host:4443.")
    location: str | None = Field(
        default=None, description="Where a bucket that has to be made shall lie, such as EUROPE-WEST3."
    )
    storage_class: str | None = Field(
        default=None,
        description="A storage class for the packs (STANDARD, NEARLINE, COLDLINE, ARCHIVE), or one for each kind of "
        "object: data:COLDLINE,snapshots:STANDARD.",
    )
    metadata: dict[str, str] = Field(default_factory=dict, description="Metadata for every object.")

    def config(self) -> GcsConfig:
        """What the provider needs. ConfigurationError or ValidationError for fields that do not fit."""
        account, file = self.credentials.service_account_info, self.credentials.service_account_file
        found = self.credentials.get_credentials_from_service_account() if account is None and file is None else None
        return GcsConfig(
            bucket=self.bucket,
            prefix=self.prefix,
            endpoint=self.endpoint or None,
            project=self.credentials.project or None,
            bucket_location=self.location or None,
            service_account=SecretStr(json.dumps(account.get_secret_value())) if account is not None else None,
            credentials_file=str(file) if file is not None else None,
            credentials=found,
            storage_class=classes_by_kind(self.storage_class) if self.storage_class else {},
            metadata=self.metadata,
        )

    def provider(self, limits: Limits = NO_LIMITS) -> StorageProvider:
        """The storage provider for this bucket; nothing is contacted yet."""
        return GcsProvider(self.config(), limits=limits)

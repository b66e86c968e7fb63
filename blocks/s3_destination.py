"""A bucket of S3, or of a server that speaks its language, as a destination: a Prefect block."""

from __future__ import annotations

from typing import Any, Literal

from prefect_aws.credentials import AwsCredentials, MinIOCredentials
from pydantic import Field, SecretStr

from backupiq.errors import ConfigurationError
from backupiq.storage.names import classes_by_kind
from backupiq.storage.provider import StorageProvider
from backupiq.storage.s3 import S3Config, S3Provider
from backupiq.storage.s3_config import DEFAULT_REGION
from backupiq.storage.throttle import NO_LIMITS, Limits
from blocks.aws_role import role_session
from blocks.destination import Destination
from blocks.logos import S3_LOGO


class S3Destination(Destination):
    """A bucket of Amazon S3, MinIO, SeaweedFS, Ceph, R2, B2 or Wasabi, and a prefix in it."""

    _block_type_name = "BackupIQ S3 Destination"
    _block_type_slug = "backupiq-s3-destination"
    _description = "A bucket of S3, or of a server that speaks its language, that holds a BackupIQ repository."
    _logo_url = S3_LOGO

    credentials: AwsCredentials | MinIOCredentials = Field(
        description="Who may use the bucket: a block of AWS or MinIO credentials. An empty AWS block takes what AWS's "
        "own tools would find on the machine that runs the backup."
    )
    bucket: str = Field(description="The bucket's name.")
    prefix: str = Field(default="", description="The folder in the bucket; empty for the whole bucket.")
    endpoint: str | None = Field(
        default=None, description="Another server than AWS, such as https://host:9000; else that of the credentials."
    )
    region: str | None = Field(default=None, description="The bucket's region; else that of the credentials.")
    virtual_hosted: bool | None = Field(
        default=None, description="The bucket's name in the host and not in the path; chosen by itself when left out."
    )
    storage_class: str | None = Field(
        default=None,
        description="A storage class for the packs, such as STANDARD_IA or GLACIER_IR, or one for each kind of object: "
        "data:GLACIER_IR,snapshots:STANDARD.",
    )
    sse: Literal["AES256", "aws:kms", "aws:kms:dsse", "sse-c"] | None = Field(
        default=None, description="Encryption by the server, beside the repository's own."
    )
    sse_kms_key_id: str | None = Field(default=None, description="The key of KMS for aws:kms and aws:kms:dsse.")
    sse_bucket_key: bool | None = Field(default=None, description="A bucket key, which saves calls of KMS.")
    sse_customer_key: SecretStr | None = Field(
        default=None, description="32 bytes in base64, for sse-c. Without this key nothing can be restored."
    )
    checksum: Literal["SHA256", "CRC64NVME"] | None = Field(
        default=None, description="A checksum that the server verifies and keeps."
    )
    object_lock: Literal["GOVERNANCE", "COMPLIANCE"] | None = Field(
        default=None, description="Keep objects from being deleted; the bucket must have been made with object lock."
    )
    object_lock_days: int | None = Field(default=None, ge=1, description="For how many days.")

    def config(self) -> S3Config:
        """What the provider needs. ConfigurationError or ValidationError for fields that do not fit each other."""
        return S3Config(
            bucket=self.bucket,
            prefix=self.prefix,
            region=self.region or self.credentials.region_name or DEFAULT_REGION,
            virtual_hosted=self.virtual_hosted,
            storage_class=classes_by_kind(self.storage_class) if self.storage_class else {},
            sse=self.sse,
            sse_kms_key_id=self.sse_kms_key_id or None,
            sse_bucket_key=self.sse_bucket_key,
            sse_customer_key=self.sse_customer_key.get_secret_value() if self.sse_customer_key else None,
            checksum_algorithm=self.checksum,
            object_lock_mode=self.object_lock,
            object_lock_days=self.object_lock_days,
            **self._connection(),
            **_identity(self.credentials),
        )

    def _connection(self) -> dict[str, Any]:
        parameters = self.credentials.aws_client_parameters
        if parameters.verify is False:
            raise ConfigurationError(
                "The credentials switch the check of the server's certificate off. Give the server's own certificate "
                "as their verify_cert_path and switch the check on."
            )
        bundle = parameters.verify_cert_path or (None if parameters.verify in (None, True) else parameters.verify)
        return {
            "endpoint": self.endpoint or parameters.endpoint_url or None,
            "ca_bundle": str(bundle) if bundle else None,
        }

    def provider(self, limits: Limits = NO_LIMITS) -> StorageProvider:
        """The storage provider for this bucket; nothing is contacted yet."""
        return S3Provider(self.config(), limits=limits)


def _identity(credentials: AwsCredentials | MinIOCredentials) -> dict[str, Any]:
    """A key pair where there is one; else a session that finds and renews credentials by itself."""
    if isinstance(credentials, MinIOCredentials):
        return {
            "access_key_id": credentials.minio_root_user,
            "secret_access_key": credentials.minio_root_password.get_secret_value(),
        }
    if credentials.assume_role_arn:
        return {"session": role_session(credentials)}
    if credentials.aws_access_key_id and credentials.aws_secret_access_key:
        return {
            "access_key_id": credentials.aws_access_key_id,
            "secret_access_key": credentials.aws_secret_access_key.get_secret_value(),
            "session_token": credentials.aws_session_token or None,
        }
    return {"profile": credentials.profile_name or None}

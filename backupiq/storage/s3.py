"""Amazon S3 and what speaks its language (MinIO, SeaweedFS, Ceph, R2, B2, Wasabi, ...).

Keys are those of restic's own S3 backend (``prefix/config``, ``prefix/data/ab/ab12...``), so restic works on the same
bucket. On a bucket with versions a deleted or replaced object stays as an old version, which listings do not show and a
lifecycle rule of the bucket removes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from backupiq.errors import BackupIQError, StorageNotFoundError
from backupiq.storage import s3_control
from backupiq.storage.names import kind_of
from backupiq.storage.objecterrors import ErrorTable
from backupiq.storage.objectstore import ObjectStoreProvider
from backupiq.storage.oserrors import machine_errors
from backupiq.storage.s3_config import S3Config
from backupiq.storage.s3_errors import S3_ERRORS
from backupiq.storage.throttle import NO_LIMITS, Limits
from backupiq.telemetry import get_logger

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

__all__ = ["S3Config", "S3Provider"]

T = TypeVar("T")
_log = get_logger(__name__)


def _now() -> datetime:
    return datetime.now(UTC)


class S3Provider(ObjectStoreProvider):
    """An S3 destination. ``clock`` gives the time (UTC) for retention and for the age of unfinished uploads."""

    kind: ClassVar[str] = "s3"
    errors: ClassVar[ErrorTable] = S3_ERRORS
    deletes_silently: ClassVar[bool] = True

    def __init__(self, config: S3Config, *, limits: Limits = NO_LIMITS, clock: Callable[[], datetime] = _now) -> None:
        super().__init__(
            location=config.location,
            prefix=config.prefix,
            endpoint=config.endpoint,
            limits=limits,
            transfer=config.transfer,
        )
        self.config = config
        self._clock = clock
        self._client: Any = None
        self._client_lock = threading.Lock()

    # --- hooks of the data plane -----------------------------------------------------------------------------------

    def open_store(self, client: ClientConfig, retry: RetryConfig) -> ObjectStore:
        from obstore.store import S3Store

        config = self.config
        client["allow_http"] = config.service_url.startswith("http:")
        if config.ca_bundle:
            with machine_errors("read the certificates of AWS_CA_BUNDLE"), open(config.ca_bundle, "rb") as file:
                client["root_certificate"] = file.read()
        options: dict[str, Any] = {
            "region": config.region,
            # Both, since obstore takes the second out of the environment otherwise, and it counts more.
            "endpoint": config.bucket_url,
            "aws_endpoint_url_s3": config.bucket_url,
            "virtual_hosted_style_request": config.in_host,
            "skip_signature": False,
            "disable_bulk_delete": True,  # one object at a time is deleted, and not every maker knows the other way
            "checksum_algorithm": config.checksum_algorithm or ("SHA256" if config.object_lock_mode else None),
            "server_side_encryption": config.sse,
            "sse_kms_key_id": config.sse_kms_key_id,
            "sse_bucket_key_enabled": config.sse_bucket_key,
            "sse_customer_key_base64": config.sse_customer_key,
        }
        given: Any = {name: value for name, value in options.items() if value is not None}
        return S3Store(
            config.bucket,
            config=given,
            client_options=client,
            retry_config=retry,
            credential_provider=s3_control.credential_provider(config),
        )

    def attributes_for(self, key: str) -> dict[str, str]:
        name = self.config.storage_class.get(kind_of(key))
        return {"Storage-Class": name} if name else {}

    def headers_for(self, key: str) -> Mapping[str, str]:
        config = self.config
        # A lock of a run that cannot be removed would keep every other run out.
        if config.object_lock_mode is None or config.object_lock_days is None or kind_of(key) == "locks":
            return {}
        # Whole days, so that a day's uploads share one store; rounded up, so that none is kept too short.
        until = (self._clock() + timedelta(days=config.object_lock_days + 1)).strftime("%Y-%m-%dT00:00:00Z")
        return {"x-amz-object-lock-mode": config.object_lock_mode, "x-amz-object-lock-retain-until-date": until}

    async def abort_unfinished(self, key: str) -> None:
        try:
            await self._control(s3_control.abort_uploads, self.full_key(key), exact=True)
        except BackupIQError as error:
            # The first error is the one to report; a sweep or the bucket's lifecycle rule removes it later.
            _log.warning("storage.unfinished_upload_left", location=self.location, key=key, error=error.message)

    # --- control plane ---------------------------------------------------------------------------------------------

    async def create(self) -> None:
        try:
            await self.authenticate()
        except StorageNotFoundError:
            await self._control(s3_control.create_bucket)

    async def sweep_temporary_files(self, older_than_seconds: float) -> int:
        """End multipart uploads below the prefix that were begun longer ago and never finished; their number."""
        before = self._clock() - timedelta(seconds=older_than_seconds)
        prefix = f"{self._prefix}/" if self._prefix else ""
        return await self._control(s3_control.abort_uploads, prefix, before=before)

    async def _control(self, work: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        def do() -> T:
            with self._client_lock:
                if self._client is None:
                    self._client = s3_control.client_of(self.config)
                client = self._client
            return work(client, self.config, *args, **kwargs)

        return await self.workers.run(do)

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()
        await super().close()

"""Google Cloud Storage, through its XML API.

Keys are those of restic's own GCS backend (``prefix/config``, ``prefix/data/ab/ab12...``), so restic works on the same
bucket. Where the bucket keeps deleted objects (soft delete, versions), space is freed only when that time has passed.
Uploads and downloads are not checked by the client library; downloads are verified against the SHA-256 in their names.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from backupiq.errors import BackupIQError, ConfigurationError, StorageNotFoundError
from backupiq.storage import gcs_auth, gcs_control
from backupiq.storage.gcs_config import GcsConfig
from backupiq.storage.gcs_errors import GCS_ERRORS
from backupiq.storage.names import kind_of
from backupiq.storage.objecterrors import ErrorTable
from backupiq.storage.objectstore import ObjectStoreProvider
from backupiq.storage.oserrors import machine_errors
from backupiq.storage.throttle import NO_LIMITS, Limits
from backupiq.telemetry import get_logger

if TYPE_CHECKING:
    from google.auth.transport.requests import AuthorizedSession
    from obstore.store import ClientConfig, GCSCredential, ObjectStore, RetryConfig

__all__ = ["GcsConfig", "GcsProvider"]

_log = get_logger(__name__)


def _now() -> datetime:
    return datetime.now(UTC)


class GcsProvider(ObjectStoreProvider):
    """A destination in Google Cloud Storage. ``clock`` gives the time (UTC), for the age of unfinished uploads."""

    kind: ClassVar[str] = "gcs"
    errors: ClassVar[ErrorTable] = GCS_ERRORS

    def __init__(self, config: GcsConfig, *, limits: Limits = NO_LIMITS, clock: Callable[[], datetime] = _now) -> None:
        super().__init__(
            location=config.location,
            prefix=config.prefix,
            endpoint=config.endpoint,
            limits=limits,
            transfer=config.transfer,
        )
        self.config = config
        self._clock = clock
        self._tokens: Callable[[], GCSCredential] | None = None

    # --- hooks of the data plane -----------------------------------------------------------------------------------

    def open_store(self, client: ClientConfig, retry: RetryConfig) -> ObjectStore:
        from obstore.exceptions import BaseError
        from obstore.store import GCSStore

        config = self.config
        client["allow_http"] = config.base_url.startswith("http:")
        if config.ca_bundle:
            with machine_errors("read the file of certificates"), open(config.ca_bundle, "rb") as file:
                client["root_certificate"] = file.read()
        if self._tokens is None:
            self._tokens = self._open_tokens()
        try:
            # A credential provider counts more than anything obstore finds in the environment, and with one it never
            # asks the metadata address.
            return GCSStore(
                config.bucket,
                config={"base_url": config.base_url, "skip_signature": False},
                client_options=client,
                retry_config=retry,
                credential_provider=self._tokens,
            )
        except BaseError as error:
            raise ConfigurationError(
                "The store cannot be opened. If GOOGLE_SERVICE_ACCOUNT or a variable whose name begins like that is "
                "set, unset it: it must name a valid key, even where it is not used.",
                raised=type(error).__name__,
            ) from None

    def _open_tokens(self) -> Callable[[], GCSCredential]:
        token = self.config.access_token
        if token is not None:
            return lambda: {"token": token.get_secret_value(), "expires_at": None}
        return gcs_auth.Tokens(gcs_auth.open_credentials(self.config))

    def attributes_for(self, key: str) -> dict[str, str]:
        name = self.config.storage_class.get(kind_of(key))
        return {**self.config.metadata, **({"Storage-Class": name} if name else {})}

    async def abort_unfinished(self, key: str) -> None:
        try:
            await self.workers.run(self._abort, self.full_key(key), exact=True)
        except BackupIQError as error:
            # The first error is the one to report; a sweep or the bucket's lifecycle rule removes it later.
            _log.warning("storage.unfinished_upload_left", location=self.location, key=key, error=error.message)

    # --- control plane ---------------------------------------------------------------------------------------------

    async def create(self) -> None:
        try:
            await self.authenticate()
        except StorageNotFoundError:
            await self.workers.run(gcs_control.create_bucket, self.config)

    async def sweep_temporary_files(self, older_than_seconds: float) -> int:
        """End multipart uploads below the prefix that were begun longer ago and never finished; their number."""
        before = self._clock() - timedelta(seconds=older_than_seconds)
        return await self.workers.run(self._abort, f"{self._prefix}/" if self._prefix else "", before=before)

    def _abort(self, prefix: str, **which: Any) -> int:
        session: AuthorizedSession = gcs_control.session_of(self.config)
        with session:
            return gcs_control.abort_uploads(session, self.config, prefix, **which)

"""Azure Blob Storage.

Keys are those of restic's own Azure backend (``prefix/config``, ``prefix/data/ab/ab12...``), so restic works on the
same container. Uploads and downloads are not checked by the client library; downloads are verified against the SHA-256
in their names. Blocks of an upload that did not complete belong to no blob, are in no listing and cannot be removed:
Azure drops them after a week, or when the same blob is stored, so there is nothing to sweep.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar

from backupiq.errors import (
    ConfigurationError,
    StorageAuthenticationError,
    StorageNotFoundError,
    StoragePermissionError,
)
from backupiq.storage import azure_control
from backupiq.storage.azure_config import AzureConfig
from backupiq.storage.azure_errors import AZURE_ERRORS
from backupiq.storage.names import kind_of
from backupiq.storage.objecterrors import ErrorTable
from backupiq.storage.objectstore import ObjectStoreProvider
from backupiq.storage.oserrors import machine_errors
from backupiq.storage.throttle import NO_LIMITS, Limits

if TYPE_CHECKING:
    from obstore.store import AzureCredential, ClientConfig, ObjectStore, RetryConfig

__all__ = ["AzureConfig", "AzureProvider"]

ENCRYPTION_VARIABLES = ("AZURE_ENCRYPTION_KEY", "AZURE_STORAGE_ENCRYPTION_KEY")
"""obstore takes them out of the environment, and no setting of ours can stop it."""


def _now() -> datetime:
    return datetime.now(UTC)


class AzureProvider(ObjectStoreProvider):
    """A destination in Azure Blob Storage. ``clock`` gives the time (UTC), to know an expired SAS token."""

    kind: ClassVar[str] = "azure"
    errors: ClassVar[ErrorTable] = AZURE_ERRORS

    def __init__(
        self, config: AzureConfig, *, limits: Limits = NO_LIMITS, clock: Callable[[], datetime] = _now
    ) -> None:
        super().__init__(
            location=config.location,
            prefix=config.prefix,
            # Always, since a container's name alone says not which account's it is.
            endpoint=config.service_url,
            limits=limits,
            transfer=config.transfer,
        )
        self.config = config
        self._clock = clock
        self._credentials: Callable[[], AzureCredential] | None = None

    # --- hooks of the data plane -----------------------------------------------------------------------------------

    def open_store(self, client: ClientConfig, retry: RetryConfig) -> ObjectStore:
        from obstore.exceptions import BaseError
        from obstore.store import AzureStore

        config = self.config
        for name in ENCRYPTION_VARIABLES:
            if os.environ.get(name):
                raise ConfigurationError(
                    f"{name} is set: blobs would be encrypted once more with it, and restic and Azure's own tools "
                    "could not read them. Unset it; the repository is encrypted already."
                )
        client["allow_http"] = config.service_url.startswith("http:")
        if config.ca_bundle:
            with machine_errors("read the file of certificates"), open(config.ca_bundle, "rb") as file:
                client["root_certificate"] = file.read()
        if self._credentials is None:
            self._credentials = azure_control.credential_provider(config)
        # Everything that obstore would otherwise take out of the environment.
        options: Any = {
            "account_name": config.account,
            "endpoint": config.service_url,
            "skip_signature": False,
            "use_emulator": False,
            "use_fabric_endpoint": False,
        }
        try:
            return AzureStore(
                config.container,
                config=options,
                client_options=client,
                retry_config=retry,
                credential_provider=self._credentials,
            )
        except BaseError as error:
            raise ConfigurationError(
                "The store cannot be opened. Check account, endpoint and the AZURE_... variables that are set.",
                raised=type(error).__name__,
            ) from None

    def attributes_for(self, key: str) -> dict[str, str]:
        tier = self.config.storage_class.get(kind_of(key))
        return {**self.config.metadata, **({"Storage-Class": tier} if tier else {})}

    @contextlib.contextmanager
    def mapped(self, doing: str, **details: object) -> Iterator[None]:
        try:
            with super().mapped(doing, **details):
                yield
        except (StoragePermissionError, StorageAuthenticationError) as error:
            # A look at one blob is refused without a reason; the token itself tells it.
            ends = self.config.sas_expires
            if ends is None or ends > self._clock():
                raise
            raise StorageAuthenticationError(
                f"The SAS token for {self.location} expired at {ends:%Y-%m-%d %H:%M} UTC. Make a new one.",
                **error.details,
            ) from None

    # --- control plane ---------------------------------------------------------------------------------------------

    async def create(self) -> None:
        try:
            await self.authenticate()
        except StorageNotFoundError:
            await self.workers.run(azure_control.create_container, self.config)

    async def sweep_temporary_files(self, older_than_seconds: float) -> int:
        """Nothing: Azure drops the blocks of uploads that did not complete by itself, after a week."""
        return 0

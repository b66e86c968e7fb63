"""Destinations by the names of their blocks: ``block:NAME`` finds a block of any of the types below.

The classes of the clouds' blocks stand in modules of their own, which are imported only when such a block is used: the
libraries behind them take seconds to load and are optional.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from backupiq.errors import BackupIQError, ConfigurationError, MissingConfigurationError, OrchestrationError
from backupiq.storage.factory import open_destination
from backupiq.storage.provider import StorageProvider
from backupiq.storage.throttle import NO_LIMITS, Limits

if TYPE_CHECKING:
    from blocks.destination import Destination

PREFIX = "block:"
MOST_BLOCKS_OF_ONE_NAME = 50


@dataclass(frozen=True, slots=True)
class DestinationType:
    """One type of destination block: the provider's kind, where its class stands, and what has to be installed.

    ``extra`` is the name of BackupIQ's extra that brings the ``libraries`` (modules that can be imported).
    """

    kind: str
    title: str
    module: str
    class_name: str
    extra: str | None = None
    libraries: tuple[str, ...] = ()

    @property
    def slug(self) -> str:
        """The name of the block type in Prefect's API."""
        return f"backupiq-{self.kind}-destination"

    def missing_libraries(self) -> tuple[str, ...]:
        """Those of its libraries that are not installed."""
        return tuple(name for name in self.libraries if not _is_installed(name))

    def load_class(self) -> type[Destination]:
        """The class of the block; MissingConfigurationError when its extra is not installed."""
        missing = self.missing_libraries()
        if missing:
            raise MissingConfigurationError(
                f'{self.title} blocks need more libraries: pip install "backupiq[{self.extra}]"',
                libraries=list(missing),
            )
        return cast("type[Destination]", getattr(importlib.import_module(self.module), self.class_name))


TYPES = (
    DestinationType("local", "Folder", "blocks.local_destination", "LocalDestination"),
    DestinationType("s3", "S3", "blocks.s3_destination", "S3Destination", "s3", ("boto3", "prefect_aws")),
    DestinationType(
        "gcs",
        "Google Cloud Storage",
        "blocks.gcs_destination",
        "GcsDestination",
        "gcs",
        ("google.cloud.storage", "prefect_gcp"),
    ),
    DestinationType(
        "azure",
        "Azure Blob Storage",
        "blocks.azure_destination",
        "AzureDestination",
        "azure",
        ("azure.identity", "azure.storage.blob", "prefect_azure"),
    ),
    DestinationType(
        "icloud", "iCloud Drive", "blocks.icloud_destination", "ICloudDestination", "icloud", ("pyicloud", "requests")
    ),
)


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a package above it is not there
        return False


def type_named(name: str) -> DestinationType | None:
    """The type of that kind (``s3``) or slug (``backupiq-s3-destination``)."""
    return next((kind for kind in TYPES if name in (kind.kind, kind.slug)), None)


def load_block(name: str) -> Destination:
    """The destination block named ``NAME`` or ``TYPE/NAME``, TYPE being local, s3, gcs, azure or icloud.

    MissingConfigurationError when there is none or its libraries are not installed, ConfigurationError when there are
    several of that name or its values do not fit, OrchestrationError when Prefect's API does not answer.
    """
    kind, slash, block_name = name.partition("/")
    if slash:
        wanted = type_named(kind)
        if wanted is None:
            known = ", ".join(each.kind for each in TYPES)
            raise ConfigurationError(f"There is no type of destination block named {kind!r}. There are: {known}.")
        return _load(wanted, block_name)
    found = find_types(name)
    if not found:
        raise _no_such_block(name)
    if len(found) > 1:
        choices = " or ".join(f"{PREFIX}{each.kind}/{name}" for each in found)
        raise ConfigurationError(f"There are several destination blocks named {name!r}. Say which: {choices}.")
    return _load(found[0], name)


def find_types(name: str) -> list[DestinationType]:
    """The types of which there is a destination block of that name, by one call to Prefect's API."""
    slugs = {kind.slug: kind for kind in TYPES}
    documents = _ask(
        block_documents={"name": {"any_": [name]}},
        block_types={"slug": {"any_": list(slugs)}},
        limit=MOST_BLOCKS_OF_ONE_NAME,
    )
    return [slugs[document["block_type"]["slug"]] for document in documents]


def _ask(**body: Any) -> Sequence[dict[str, Any]]:
    from httpx import HTTPError
    from prefect.client.orchestration import get_client

    try:
        with get_client(sync_client=True) as client:
            documents: list[dict[str, Any]] = client.request("POST", "/block_documents/filter", json=body).json()
    except (HTTPError, OSError, RuntimeError) as error:
        raise _unreachable(error) from error
    return documents


def _load(kind: DestinationType, name: str) -> Destination:
    from httpx import HTTPError

    cls = kind.load_class()
    try:
        return cast("Destination", cls.load(name, _sync=True))  # type: ignore[call-arg]
    except BackupIQError:
        raise
    except (HTTPError, OSError) as error:
        raise _unreachable(error) from error
    except (ValueError, RuntimeError) as error:
        if "Unable to find block document" in str(error):
            raise _no_such_block(name) from error
        # Without its cause: that would show the block's values, which may be secrets, in a traceback.
        raise ConfigurationError(
            f"The block {kind.kind}/{name} cannot be used{_places(error)}. Correct it in Prefect's UI under Blocks."
        ) from None


def _places(error: BaseException) -> str:
    """Which fields of a block do not fit, without their values."""
    from pydantic import ValidationError

    cause = error.__cause__ if isinstance(error.__cause__, ValidationError) else error
    if not isinstance(cause, ValidationError):
        return ""
    found = cause.errors(include_input=False, include_url=False, include_context=False)
    fields = sorted({".".join(map(str, item["loc"])) for item in found if item["loc"]})
    return f": look at {', '.join(fields)}" if fields else ""


def _no_such_block(name: str) -> MissingConfigurationError:
    return MissingConfigurationError(
        f"There is no destination block named {name!r}. Create it in Prefect's UI under Blocks "
        "(`backupiq setup` makes the types known there)."
    )


def _unreachable(error: BaseException) -> OrchestrationError:
    return OrchestrationError(
        f"Prefect's API, which keeps the blocks, does not answer ({type(error).__name__}). {OrchestrationError.hint}"
    )


def load_destination(name: str, *, limits: Limits = NO_LIMITS) -> StorageProvider:
    """The provider of the destination block of that name; see `load_block`."""
    return load_block(name).provider(limits)


def provider_for(destination: str, *, limits: Limits = NO_LIMITS) -> StorageProvider:
    """The provider for what a person writes after ``--to``: a folder, a URL, or block:NAME."""
    if destination.startswith(PREFIX):
        return load_destination(destination.removeprefix(PREFIX), limits=limits)
    return open_destination(destination, limits=limits)

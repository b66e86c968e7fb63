"""From what a person writes after ``--to`` to the provider that serves it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit
from urllib.request import url2pathname

from backupiq.errors import UnknownDestinationError
from backupiq.storage.local import LocalProvider
from backupiq.storage.provider import StorageProvider
from backupiq.storage.throttle import NO_LIMITS, Limits

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")  # two letters at least: one is a drive of Windows


def open_destination(dest: str, *, limits: Limits = NO_LIMITS, env: Mapping[str, str] | None = None) -> StorageProvider:
    """The provider for a destination: a folder's path, or a ``file://``, ``s3://``, ``gs://``, ``az://`` or
    ``icloud:`` URL.

    ``limits`` bound its bandwidth; credentials come from ``env`` (the process's own by default). Nothing is contacted
    or made. Raises ``UnknownDestinationError`` for anything else, ``ValidationError`` for options that do not fit, and
    ``MissingConfigurationError`` without credentials or libraries. No message repeats more of a URL than its scheme and
    the names of options, since URLs may hold passwords.
    """
    match = _SCHEME.match(dest)
    if match is None:
        return _folder(dest, limits)
    scheme = match.group(1).lower()
    if scheme == "file":
        return _folder(_path_of_url(dest), limits)
    if scheme in CLOUDS:
        url = scheme + dest[len(scheme) :]
        return CLOUDS[scheme](url, os.environ if env is None else env, limits)
    if scheme == "block":
        raise UnknownDestinationError(
            "A block:NAME destination needs Prefect's API to look the block up. Give a folder or a URL here.",
            scheme=scheme,
        )
    raise UnknownDestinationError(
        f"BackupIQ knows no destinations of the kind {scheme}:. Give a folder, a URL ({', '.join(CLOUDS)}), or "
        f"block:NAME; a folder whose name begins like this is written ./{scheme}:...",
        scheme=scheme,
    )


# The clouds' providers are imported when one is used: their libraries take long to load.


def _s3(url: str, env: Mapping[str, str], limits: Limits) -> StorageProvider:
    from backupiq.storage.s3 import S3Config, S3Provider

    return S3Provider(S3Config.from_url(url, env), limits=limits)


def _gcs(url: str, env: Mapping[str, str], limits: Limits) -> StorageProvider:
    from backupiq.storage.gcs import GcsConfig, GcsProvider

    return GcsProvider(GcsConfig.from_url(url, env), limits=limits)


def _azure(url: str, env: Mapping[str, str], limits: Limits) -> StorageProvider:
    from backupiq.storage.azure import AzureConfig, AzureProvider

    return AzureProvider(AzureConfig.from_url(url, env), limits=limits)


def _icloud(url: str, env: Mapping[str, str], limits: Limits) -> StorageProvider:
    from backupiq.storage.icloud import ICloudConfig, ICloudProvider

    return ICloudProvider(ICloudConfig.from_url(url, env), limits=limits)


CLOUDS: Mapping[str, Callable[[str, Mapping[str, str], Limits], StorageProvider]] = {
    "s3": _s3,
    "gs": _gcs,
    "az": _azure,
    "icloud": _icloud,
}
"""The schemes of URLs, and what opens each."""


def _path_of_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or parts.query or parts.fragment or not parts.path.startswith("/"):
        raise UnknownDestinationError("A file URL names a folder of this machine: file:///the/folder.", scheme="file")
    return url2pathname(parts.path)


def _folder(path: str, limits: Limits) -> LocalProvider:
    if not path.strip():
        raise UnknownDestinationError("The destination is empty. " + UnknownDestinationError.hint)
    if "\0" in path:
        raise UnknownDestinationError("The destination's path holds a NUL character. Give another folder.")
    return LocalProvider(os.path.expanduser(path), limits=limits)

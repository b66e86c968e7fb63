"""From what a person writes after ``--to`` to the provider that serves it."""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit
from urllib.request import url2pathname

from backupiq.errors import UnknownDestinationError
from backupiq.storage.local import LocalProvider
from backupiq.storage.provider import StorageProvider

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")  # two letters at least: one is a drive of Windows
_LATER = {"s3": "S3", "gs": "Google Cloud Storage", "az": "Azure Blob Storage", "icloud": "iCloud Drive"}


def open_destination(dest: str) -> StorageProvider:
    """The provider for a destination: a folder's path or its ``file://`` URL.

    Nothing is contacted or made. Raises ``UnknownDestinationError`` for anything else; the message repeats no more than
    the scheme, since URLs may hold passwords.
    """
    match = _SCHEME.match(dest)
    if match is None:
        return _folder(dest)
    scheme = match.group(1).lower()
    if scheme == "file":
        return _folder(_path_of_url(dest))
    if scheme in _LATER:
        raise UnknownDestinationError(
            f"{_LATER[scheme]} destinations ({scheme}:) are not available yet. Give a folder.", scheme=scheme
        )
    if scheme == "block":
        raise UnknownDestinationError(
            "A block:NAME destination needs Prefect's API to look the block up. Give a folder here.", scheme=scheme
        )
    raise UnknownDestinationError(
        f"BackupIQ knows no destinations of the kind {scheme}:. Give a folder; "
        f"one whose name begins like this is written ./{scheme}:...",
        scheme=scheme,
    )


def _path_of_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or parts.query or parts.fragment or not parts.path.startswith("/"):
        raise UnknownDestinationError("A file URL names a folder of this machine: file:///the/folder.", scheme="file")
    return url2pathname(parts.path)


def _folder(path: str) -> LocalProvider:
    if not path.strip():
        raise UnknownDestinationError("The destination is empty. " + UnknownDestinationError.hint)
    if "\0" in path:
        raise UnknownDestinationError("The destination's path holds a NUL character. Give another folder.")
    return LocalProvider(os.path.expanduser(path))

"""The one interface every destination answers to.

A destination is a flat store of objects named by keys such as ``data/ab/ab12...``. A provider moves bytes and knows
nothing of what they mean; the repository above it gives names that are SHA-256 of contents, so every call may be
repeated. Invariants every provider keeps, and ``tests/providers/contract.py`` proves:

* a key shows nothing, its old bytes or all of its new bytes, never a part, also when the upload is cancelled or killed;
* with ``create_only`` exactly one of several concurrent uploads succeeds;
* what a provider writes on the way (temporary files, unfinished multipart uploads) is never listed;
* every error raised is one of ``backupiq.errors``.
"""

from __future__ import annotations

import abc
import os
import re
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from backupiq.errors import StorageNotFoundError, ValidationError

ByteCount = int
Progress = Callable[[int], None]
"""Called with the number of bytes just moved, from any thread."""

MAX_KEY_BYTES = 1024  # what S3, GCS and Azure allow
_TEMPORARY = re.compile(r"-tmp-[0-9a-f]+(?:/|\Z)")
_WINDOWS_FORBIDDEN = frozenset('\\:*?"<>|')
_WINDOWS_DEVICES = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?\Z", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a destination can do; callers choose by these, never by the provider's class."""

    ranged_reads: bool
    create_only: bool
    atomic_writes: bool
    directories: bool


@dataclass(frozen=True, slots=True)
class StorageInfo:
    """The destination and its space in bytes; ``None`` where the provider does not say."""

    provider: str
    location: str
    total_bytes: ByteCount | None
    used_bytes: ByteCount | None
    free_bytes: ByteCount | None


@dataclass(frozen=True, slots=True)
class FileInfo:
    """One object: its key, size in bytes and time of change in nanoseconds since 1970 (UTC)."""

    key: str
    size: ByteCount
    modified_ns: int | None


@dataclass(frozen=True, slots=True)
class UploadResult:
    """What was stored: size in bytes, SHA-256 in hex, seconds taken."""

    key: str
    size: ByteCount
    sha256: str
    seconds: float


@dataclass(frozen=True, slots=True)
class DownloadResult:
    """What was fetched: size in bytes, SHA-256 in hex of the bytes received, seconds taken."""

    key: str
    size: ByteCount
    sha256: str
    seconds: float


def check_key(key: str, *, windows: bool = os.name == "nt") -> str:
    """The key itself when it is a safe one, else ``ValidationError``.

    Keys are relative, ``/``-separated, at most 1,024 bytes of UTF-8; no part is empty, ``.`` or ``..``; no control
    characters; no name that temporary files bear. On Windows also nothing that its file names cannot hold.
    """
    if not key:
        raise ValidationError("A storage key is empty.")
    parts = key.split("/")
    if "" in parts or "." in parts or ".." in parts:
        raise ValidationError("A storage key must be relative, without empty parts, '.' or '..'.", key=ascii(key))
    if not key.isprintable() and any(ord(c) < 32 or 127 <= ord(c) < 160 or 0xD800 <= ord(c) < 0xE000 for c in key):
        raise ValidationError("A storage key holds characters that no destination can store.", key=ascii(key))
    if len(key) * 4 > MAX_KEY_BYTES and len(key.encode()) > MAX_KEY_BYTES:
        raise ValidationError(f"A storage key is longer than {MAX_KEY_BYTES} bytes.", key=key[:80])
    if is_temporary_key(key):
        raise ValidationError(
            "A storage key may hold no part that is named as temporary files are (-tmp-...).", key=key
        )
    if windows and any(
        not _WINDOWS_FORBIDDEN.isdisjoint(part) or part[-1] in ". " or _WINDOWS_DEVICES.match(part) for part in parts
    ):
        raise ValidationError("A storage key holds a name that Windows cannot store.", key=key)
    return key


def check_prefix(prefix: str) -> str:
    """A folder prefix without its trailing slash ("" is the whole destination); ``ValidationError`` as `check_key`."""
    trimmed = prefix.removesuffix("/")
    return check_key(trimmed) if prefix else ""


def check_range(offset: int, length: int | None) -> None:
    """Refuse a range with negative numbers (``ValidationError``)."""
    if offset < 0 or (length is not None and length < 0):
        raise ValidationError("A range to read has a negative offset or length.", offset=offset, length=length)


def temporary_name(name: str) -> str:
    """A new random name for the unfinished file ``name``, in the form that restic leaves out of its listings too."""
    stem = name if len(name.encode(errors="surrogatepass")) <= 200 else name[:48]
    return f"{stem}-tmp-{secrets.token_hex(8)}"


def is_temporary_key(key: str) -> bool:
    """Whether a part of the key is the name of a temporary file (`temporary_name`, or restic's alike)."""
    return "-tmp-" in key and _TEMPORARY.search(key) is not None


class StorageProvider(abc.ABC):
    """A destination. Instances belong to one event loop; all calls may run at the same time.

    Every call raises ``ValidationError`` for a key that `check_key` refuses, before anything is touched. Where a call
    is cancelled it returns only when nothing of it runs on.
    """

    kind: ClassVar[str]

    @property
    @abc.abstractmethod
    def location(self) -> str:
        """The destination as people write it, never with secrets."""

    @property
    def identity(self) -> str:
        """A stable name of the destination, the same on every machine that uses it, without secrets."""
        return f"{self.kind}:{self.location}"

    @property
    @abc.abstractmethod
    def capabilities(self) -> Capabilities:
        """What this destination can do."""

    @abc.abstractmethod
    async def authenticate(self) -> StorageInfo:
        """Prove that the destination itself (folder, bucket) is there and may be read.

        ``StorageNotFoundError`` when it is not there, ``StorageAuthenticationError`` or ``StoragePermissionError`` when
        it is closed to us.
        """

    @abc.abstractmethod
    async def create(self) -> None:
        """Make the destination itself (folder, bucket) when it is missing."""

    @abc.abstractmethod
    async def upload_file(
        self,
        source: Path | bytes | memoryview,
        key: str,
        *,
        create_only: bool = False,
        durable: bool = True,
        move: bool = False,
        sha256: str | None = None,
        progress: Progress | None = None,
    ) -> UploadResult:
        """Store the source under the key, all of it or nothing.

        ``create_only``: ``StorageConflictError`` when the key exists. ``durable=False``: the bytes may still be lost
        with the power until `flush` has returned. ``move``: the provider may consume a source that is a path, so it may
        be gone afterwards. ``sha256``: the source's hash in hex where the caller knows it; trusted, not checked.
        """

    @abc.abstractmethod
    async def download_file(self, key: str, target: Path, *, progress: Progress | None = None) -> DownloadResult:
        """Fetch the object into the file ``target``, which appears complete and readable by its owner only (0600).

        ``StorageNotFoundError``; ``DiskFullError`` and other ``ResourceError`` when this machine cannot write it.
        """

    @abc.abstractmethod
    async def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """``length`` bytes from ``offset`` on; all that follow it when ``length`` is ``None``.

        ``StorageNotFoundError``; ``StorageCorruptError`` when the object ends before ``offset + length``.
        """

    @abc.abstractmethod
    def list_files(self, prefix: str = "") -> AsyncIterator[FileInfo]:
        """Every object below a folder prefix, at any depth, in no promised order; nothing when there is no such folder.

        ``StorageNotFoundError`` when the destination itself is gone, so that an unplugged disk never looks empty.
        """

    @abc.abstractmethod
    async def delete_file(self, key: str) -> None:
        """Remove the object; ``StorageNotFoundError`` when it is not there."""

    @abc.abstractmethod
    async def get_file_info(self, key: str) -> FileInfo:
        """Size and time of the object; ``StorageNotFoundError`` when it is not there (a folder is not an object)."""

    @abc.abstractmethod
    async def check_space(self) -> StorageInfo:
        """The space of the destination, as far as it says."""

    async def file_exists(self, key: str) -> bool:
        """Whether the object is there."""
        try:
            await self.get_file_info(key)
        except StorageNotFoundError:
            return False
        return True

    async def create_directory(self, key: str) -> None:
        """Make the folder (and those above it) where folders are things of their own; it may exist already."""
        check_key(key)

    async def delete_directory(self, key: str) -> None:
        """Remove an empty folder; ``StorageConflictError`` when it holds something, ``StorageNotFoundError`` if absent.

        Where folders are not things of their own, an empty one is an absent one and nothing happens.
        """
        check_key(key)

    async def flush(self) -> None:  # noqa: B027 - nothing to do is the right default
        """Make everything durable that was uploaded with ``durable=False``; nothing to do for most providers."""

    async def sweep_temporary_files(self, older_than_seconds: float) -> int:
        """Remove what killed uploads left behind and nobody has touched for that long; how many were removed."""
        return 0

    async def close(self) -> None:  # noqa: B027 - nothing to do is the right default
        """Let go of connections and threads."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

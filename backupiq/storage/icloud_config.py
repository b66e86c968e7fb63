"""What is needed to reach a folder of iCloud Drive: a value, checked, and where its session is kept."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import parse_qsl, unquote, urlsplit

from backupiq.errors import MissingConfigurationError, UnknownDestinationError, ValidationError
from backupiq.state import state_dir
from backupiq.storage.names import check_endpoint, flag
from backupiq.storage.provider import check_key
from backupiq.telemetry import register_secret

APPLE_ID_VARIABLE = "BACKUPIQ_ICLOUD_APPLE_ID"
PASSWORD_VARIABLE = "BACKUPIQ_ICLOUD_PASSWORD"  # noqa: S105 - the name of a variable
ENDPOINT_VARIABLE = "BACKUPIQ_ICLOUD_ENDPOINT"
SESSION_VARIABLE = "BACKUPIQ_ICLOUD_SESSION_DIR"

MAX_FOLDER_NAME = 255


@dataclass(frozen=True, slots=True)
class ICloudConfig:
    """An Apple ID and a folder of its iCloud Drive.

    ``password`` may be missing while the kept session is good. ``session_folder`` is where the trusted session is kept
    (default: in the user's state folder, by Apple ID). ``login_name`` is what `backupiq providers login` is told, where
    that is not the location (a block's name). ``endpoint`` is for tests: a server that speaks as Apple's do, https
    only. ``connect_seconds`` also bounds each stall while sending, ``read_seconds`` each wait for an answer.

    Raises ``ValidationError`` for values that cannot be.
    """

    apple_id: str = field(repr=False)
    password: str | None = field(default=None, repr=False)
    folder: str = "BackupIQ"
    session_folder: Path | None = None
    china_mainland: bool = False
    endpoint: str | None = None
    login_name: str = ""
    connect_seconds: float = 30.0
    read_seconds: float = 120.0

    def __post_init__(self) -> None:
        if not self.apple_id.strip() or not self.apple_id.isprintable():
            raise ValidationError("The Apple ID is empty or holds characters that none can hold.")
        object.__setattr__(self, "apple_id", self.apple_id.strip())
        object.__setattr__(self, "folder", "/".join(_folder_parts(self.folder)))
        if self.endpoint is not None:
            object.__setattr__(self, "endpoint", _check_endpoint(self.endpoint))
        if not (self.connect_seconds > 0 and self.read_seconds > 0):
            raise ValidationError("The time limits of an iCloud destination must be above 0 seconds.")
        if self.password:
            register_secret(self.password)

    @classmethod
    def from_url(cls, url: str, env: Mapping[str, str]) -> Self:
        """From ``icloud:/Folder`` (option ``china_mainland=true``) and the variables of the environment.

        Raises ``UnknownDestinationError`` for another form, ``MissingConfigurationError`` without an Apple ID.
        """
        parts = urlsplit(url)
        if parts.scheme.lower() != "icloud" or parts.netloc or parts.fragment or not parts.path.strip("/"):
            raise UnknownDestinationError(
                "The destination is not written as icloud:/Folder. The Apple ID and its password belong into "
                f"{APPLE_ID_VARIABLE} and {PASSWORD_VARIABLE}, or into a block."
            )
        try:
            options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
        except ValueError:
            raise UnknownDestinationError("The destination is not written as icloud:/Folder?option=value.") from None
        if options.keys() - {"china_mainland"}:
            raise UnknownDestinationError("icloud: destinations know no such option. They know: china_mainland.")
        if not env.get(APPLE_ID_VARIABLE, "").strip():
            raise MissingConfigurationError(
                f"There is no Apple ID. Set {APPLE_ID_VARIABLE} and {PASSWORD_VARIABLE}, or use a block."
            )
        session = env.get(SESSION_VARIABLE)
        return cls(
            apple_id=env[APPLE_ID_VARIABLE],
            password=env.get(PASSWORD_VARIABLE) or None,
            folder=unquote(parts.path),
            session_folder=Path(session) if session else None,
            china_mainland=bool(flag(options, "china_mainland")),
            endpoint=env.get(ENDPOINT_VARIABLE) or None,
        )

    @property
    def location(self) -> str:
        """The destination as people write it; it does not name the Apple ID."""
        return f"icloud:/{self.folder}"

    @property
    def account(self) -> str:
        """A stable short name of the account that does not tell the Apple ID."""
        text = f"{self.apple_id.lower()}|{self.endpoint or ''}|{'cn' if self.china_mainland else ''}"
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    @property
    def identity(self) -> str:
        """A stable name of the destination, the same on every machine, without secrets."""
        return f"icloud:{self.account}:/{self.folder}"

    @property
    def login(self) -> str:
        """What to give to `backupiq providers login`."""
        return self.login_name or self.location

    def sessions(self) -> Path:
        """The folder that keeps the account's session. Not created."""
        return self.session_folder or state_dir() / "icloud" / self.account


def _folder_parts(folder: str) -> list[str]:
    # iCloud Drive stores names composed; a Mac's terminal may give them decomposed.
    trimmed = unicodedata.normalize("NFC", folder).strip("/")
    try:
        parts = check_key(trimmed, windows=False).split("/")
    except ValidationError:
        raise ValidationError(
            "The iCloud Drive folder cannot be used. Give a folder's name or path, such as Backups/Laptop."
        ) from None
    if any(len(part.encode()) > MAX_FOLDER_NAME or ":" in part for part in parts):
        raise ValidationError("The iCloud Drive folder has a name that is too long or holds a colon.")
    return parts


def _check_endpoint(endpoint: str) -> str:
    checked = check_endpoint(endpoint)
    if not checked.startswith("https://"):
        raise ValidationError(f"The endpoint for iCloud ({ENDPOINT_VARIABLE}) must be an https:// address.")
    return checked

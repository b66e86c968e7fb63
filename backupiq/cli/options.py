"""The options that commands share, and the small languages of their values."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

import typer

from backupiq.errors import MissingConfigurationError, ValidationError

REPOSITORY_VARIABLE = "BACKUPIQ_REPOSITORY"

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50}
_SIZE = re.compile(r"(\d{1,18}(?:\.\d{1,6})?)\s*([KMGTP]?)(?:I?B)?", re.ASCII)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")  # as the storage factory tells URLs and blocks from paths
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(?:\d{1,9}(?:\.\d{1,6})?[smhd])+", re.ASCII)


def parse_size(text: str) -> int:
    """Bytes from ``512``, ``10M``, ``1.5G`` or ``10MiB``: units are powers of 1024. BadParameter for anything else."""
    found = _SIZE.fullmatch(text.strip().upper())
    if found is None:
        raise typer.BadParameter(f"{text!r} is not a size; write for example 512K, 10M or 1.5G.")
    return int(float(found[1]) * _UNITS[found[2]]) if "." in found[1] else int(found[1]) * _UNITS[found[2]]


def parse_duration(text: str | float) -> float:
    """Seconds from ``90``, ``90s``, ``10m``, ``1h30m`` or ``2d``; a number (Typer passes the default) is itself.

    BadParameter for anything else.
    """
    if not isinstance(text, str):
        return float(text)
    compact = text.strip().lower()
    if compact.isascii() and compact.isdigit() and len(compact) <= 9:
        return float(compact)
    if _DURATION.fullmatch(compact) is None:
        raise typer.BadParameter(f"{text!r} is not a duration; write for example 90s, 10m or 1h30m.")
    return sum(float(number) * _SECONDS[unit] for number, unit in re.findall(r"([\d.]+)([smhd])", compact))


def split_snapshot(text: str) -> tuple[str, str | None]:
    """``SNAPSHOT[:PATH]`` in its two parts. ValidationError when the snapshot is not named."""
    snapshot, colon, path = text.partition(":")
    if not snapshot:
        raise ValidationError("The snapshot is missing; write its id or latest before the colon.")
    return snapshot, path if colon and path.strip("/") else None


def absolute_destination(destination: str) -> str:
    """A destination that means the same from every working folder: paths made absolute, URLs and blocks unchanged.

    ValidationError when it is empty.
    """
    if not destination.strip():
        raise ValidationError("A destination is empty; give a folder, a URL such as s3://bucket/prefix, or block:NAME.")
    if _SCHEME.match(destination):
        return destination
    return os.path.abspath(os.path.expanduser(destination))


def is_block(destination: str) -> bool:
    """Whether the destination names a Prefect block."""
    return destination.startswith("block:")


def named_destinations(given: list[str] | None) -> list[str]:
    """The destinations that the person named, by option or in BACKUPIQ_REPOSITORY; empty when none, made absolute."""
    named = given or ([os.environ[REPOSITORY_VARIABLE]] if os.environ.get(REPOSITORY_VARIABLE) else [])
    return list(dict.fromkeys(absolute_destination(destination) for destination in named))


def refuse_to_guess(what: str) -> MissingConfigurationError:
    """The error of a command that deletes, when the repository was not named."""
    return MissingConfigurationError(
        f"{what} deletes, so the repository must be named: give --repo DEST or set {REPOSITORY_VARIABLE}."
    )


Repo = Annotated[
    list[str] | None,
    typer.Option(
        "--repo",
        "-r",
        metavar="DEST",
        help="The repository: a folder, a URL or block:NAME; again for each replica. "
        f"Else {REPOSITORY_VARIABLE}, else the one last used here.",
    ),
]
PasswordFile = Annotated[
    Path | None,
    typer.Option(
        "--password-file", metavar="FILE", help="Read the password from this file. [env: BACKUPIQ_PASSWORD_FILE]"
    ),
]
PasswordCommand = Annotated[
    str | None,
    typer.Option(
        "--password-command",
        metavar="COMMAND",
        help="Run this command and take what it prints. [env: BACKUPIQ_PASSWORD_COMMAND]",
    ),
]
KeyBlock = Annotated[
    str | None,
    typer.Option("--key-block", metavar="NAME", help="Take the password from this RepositoryKey block."),
]
RetryLock = Annotated[
    float,
    typer.Option(
        "--retry-lock",
        metavar="DURATION",
        parser=parse_duration,
        show_default=False,
        help="Wait this long for a locked repository, for example 10m.",
    ),
]
LimitUpload = Annotated[
    int | None,
    typer.Option(
        "--limit-upload",
        metavar="SIZE",
        parser=parse_size,
        show_default=False,
        help="Send at most this many bytes a second, to all destinations together, for example 5M.",
    ),
]
LimitDownload = Annotated[
    int | None,
    typer.Option(
        "--limit-download",
        metavar="SIZE",
        parser=parse_size,
        show_default=False,
        help="Fetch at most this many bytes a second.",
    ),
]
NoLock = Annotated[
    bool,
    typer.Option("--no-lock", help="Read without a lock, for a repository that is read-only."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Hosts = Annotated[
    list[str] | None,
    typer.Option("--host", "-H", metavar="HOST", help="Only snapshots of this host; may be repeated."),
]
SnapshotPaths = Annotated[
    list[str] | None,
    typer.Option("--path", metavar="PATH", help="Only snapshots that hold this absolute path; may be repeated."),
]
SnapshotTags = Annotated[
    list[str] | None,
    typer.Option(
        "--tag", metavar="TAG[,TAG]", help="Only snapshots with all these tags; repeated: with any such list."
    ),
]
SnapshotName = Annotated[
    str,
    typer.Argument(metavar="SNAPSHOT", help="A snapshot's id, the beginning of one, or latest.", show_default=False),
]

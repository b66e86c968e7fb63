"""What analysis says about a file: values that every part of it shares."""

from __future__ import annotations

import enum
from typing import NamedTuple

import msgspec


class Category(enum.StrEnum):
    """What a file is for."""

    CODE = "code"
    WEB = "web"
    DOCUMENT = "document"
    CONFIG = "config"
    DATA = "data"
    IMAGE = "image"
    VIDEO = "video"
    AUDIO = "audio"
    DATABASE = "database"
    ARCHIVE = "archive"
    EXECUTABLE = "executable"
    FONT = "font"
    SECRET = "secret"  # noqa: S105 - keys and credentials
    SYSTEM = "system"
    OTHER = "other"


class FileType(msgspec.Struct, frozen=True, gc=False):
    """The language or format of a file.

    ``name`` is the language's or format's own ("Python", "PNG"), empty when unknown; ``detected_by`` is the step that
    said so ("name", "extension", "shebang", "modeline", "signature", "heuristic", "magika", "none"); ``confidence`` is
    0 to 100; ``conflict``: the extension and the content disagree.
    """

    name: str
    category: Category
    mime: str
    detected_by: str
    confidence: int
    conflict: bool = False


UNKNOWN = FileType("", Category.OTHER, "application/octet-stream", "none", 0)


class Framework(msgspec.Struct, frozen=True):
    """A framework that a project uses; ``version`` is empty when the manifest gives none."""

    name: str
    version: str = ""


class Project(msgspec.Struct, frozen=True):
    """A project: its root folder (raw, absolute), its name, what proves it and what it is built with."""

    root: bytes
    name: str
    manifests: tuple[str, ...]
    frameworks: tuple[Framework, ...] = ()


class Decision(msgspec.Struct, frozen=True):
    """What was decided about a folder that may be rebuilt, by which rule, and why in a person's words."""

    path: bytes
    regenerable: bool
    rule: str
    reason: str


class GitState(enum.StrEnum):
    """How safe git makes a file."""

    NONE = "none"
    """Not in a working copy."""
    PUSHED = "pushed"
    """Committed, and the branch is at its remote."""
    UNPUSHED = "unpushed"
    """Committed on a branch that its remote does not have."""
    MODIFIED = "modified"
    """Tracked, and changed since it was committed or staged."""
    UNTRACKED = "untracked"
    """In a working copy, and not tracked."""
    INTERNAL = "internal"
    """Git's own files."""


class Severity(enum.StrEnum):
    """How sure a rule is that it found something that must stay secret."""

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


class Finding(msgspec.Struct, frozen=True, order=True):
    """A secret that was found: its rule, the line (from 1) and a keyed hash of it; never the secret itself."""

    line: int
    rule: str
    severity: Severity
    hash: str


class Factor(msgspec.Struct, frozen=True):
    """One step of a score: the number it multiplies by (or sets), and why."""

    name: str
    value: float
    why: str


class Importance(msgspec.Struct, frozen=True):
    """A score from 0 to 100 and how it came about."""

    value: int
    factors: tuple[Factor, ...]


class FileFacts(NamedTuple):
    """What analysis says about an entry.

    ``importance`` is 0 to 100; ``origin`` the host a file was downloaded from; ``project`` the raw root folder of the
    nearest project. Entries may share one value.
    """

    type: FileType = UNKNOWN
    role: str = ""
    importance: int = 0
    git: str = GitState.NONE
    regenerable: bool = False
    origin: str = ""
    project: bytes | None = None
    findings: tuple[Finding, ...] = ()

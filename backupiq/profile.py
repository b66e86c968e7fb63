"""What to back up, where to, and how: the models every face shares."""

from __future__ import annotations

import difflib
import ntpath
import posixpath
import re
import types
import typing
import zoneinfo
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic import ValidationError as PydanticError

from backupiq.repository.snapshot import CHECKPOINT_TAG
from backupiq.telemetry.text import printable

Analysis = Literal["auto", "full", "names"]
Overwrite = Literal["always", "if-changed", "if-newer", "never"]


class Bandwidth(BaseModel):
    """How much a run may move, to and from all of its destinations together."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit_upload: int | None = Field(default=None, ge=1024, description="Most bytes to send in a second.")
    limit_download: int | None = Field(default=None, ge=1024, description="Most bytes to fetch in a second.")


FORM_ORDER = ("paths", "to", "exclude", "tags", "dry_run")
"""What a form asks for first; the rest follows as it is declared."""


def _in_form_order(schema: dict[str, Any]) -> None:
    fields = sorted(schema["properties"], key=lambda name: (*FORM_ORDER, name).index(name))
    for position, name in enumerate(fields):
        schema["properties"][name]["position"] = position  # Prefect's forms go by it


class BackupSettings(Bandwidth):
    """What one backup holds, where it goes and how it is made. Sizes are bytes, times seconds."""

    model_config = ConfigDict(json_schema_extra=_in_form_order)

    paths: list[str] = Field(min_length=1, description="Files and folders to back up.")
    to: list[str] = Field(min_length=1, description="Where to store them: a folder, a URL, or block:NAME.")
    exclude: list[str] = Field(default=[], description="Patterns to leave out, in gitignore syntax.")
    iexclude: list[str] = Field(default=[], description="The same, ignoring upper and lower case.")
    exclude_file: list[str] = Field(default=[], description="Files holding such patterns, one a line.")
    exclude_caches: bool = Field(default=False, description="Leave out the contents of folders marked by CACHEDIR.TAG.")
    exclude_larger_than: int | None = Field(default=None, ge=0, description="Leave out files of more bytes than this.")
    exclude_special: bool = Field(default=False, description="Leave out FIFOs and devices.")
    one_file_system: bool = Field(default=False, description="Do not cross into other file systems.")
    tags: list[str] = Field(default=[], description="Tags for the snapshot.")
    host: str | None = Field(default=None, description="The snapshot's host name, when it is not this machine's.")
    retry_lock: float = Field(default=0.0, ge=0, description="Seconds to wait for a locked repository.")
    threads: int | None = Field(default=None, ge=1, le=64, description="Threads that read files.")

    exclude_regenerable: bool = Field(
        default=False, description="Leave out folders that can be made again from what is in the backup."
    )
    pin: list[str] = Field(
        default=[], description="What files are worth: PATTERN=high, normal, low or 0 to 100, in gitignore syntax."
    )
    analysis: Analysis = Field(
        default="auto",
        description="full: by contents, before anything is stored; names: by names alone; auto: full where the run is "
        "so long that the order of files matters.",
    )

    @field_validator("tags")
    @classmethod
    def _not_ours(cls, tags: list[str]) -> list[str]:
        if CHECKPOINT_TAG in tags:
            raise ValueError(f"the tag {CHECKPOINT_TAG!r} marks snapshots that a run replaces at its end; take another")
        return tags


class BackupOptions(BackupSettings):
    """One backup run. Paths are absolute or relative to the working folder; sizes are bytes, times seconds."""

    parent: str | None = Field(default=None, description="The snapshot to compare with, when it is not the newest.")
    force: bool = Field(default=False, description="Read every file again, changed or not.")
    dry_run: bool = Field(default=False, description="Say what would be stored, and store nothing.")


class RestoreOptions(Bandwidth):
    """One restore run."""

    repo: str | list[str] = Field(
        min_length=1, description="The repository: a folder, a URL or block:NAME; or a list of them, its replicas."
    )
    target: str = Field(description="The folder to restore into.")
    snapshot: str = Field(default="latest", description="A snapshot's id, the beginning of one, or latest.")
    subpath: str | None = Field(default=None, description="Restore only what is below this path of the snapshot.")
    include: list[str] = Field(default=[], description="Patterns to restore, in gitignore syntax.")
    exclude: list[str] = Field(default=[], description="Patterns to leave out, in gitignore syntax.")
    host: str | None = Field(default=None, description="For latest: only snapshots of this host.")
    paths: list[str] = Field(default=[], description="For latest: only snapshots of these paths.")
    tags: list[str] = Field(default=[], description="For latest: only snapshots with these tags.")
    overwrite: Overwrite = Field(default="always", description="What to do with files that exist in the target.")
    sparse: bool = Field(default=True, description="Leave runs of zeros as holes.")
    verify: bool = Field(default=False, description="Read every restored file again and compare it.")
    dry_run: bool = Field(default=False, description="Say what would be restored, and write nothing.")
    retry_lock: float = Field(default=0.0, ge=0, description="Seconds to wait for a locked repository.")
    threads: int | None = Field(default=None, ge=1, le=64, description="Threads that write files.")


class HealOptions(Bandwidth):
    """One run that brings replicas of a repository to hold the same."""

    repo: list[str] = Field(min_length=2, description="The replicas: folders, URLs or block:NAME.")
    dry_run: bool = Field(default=False, description="Say what would be copied, and copy nothing.")
    read_data: bool = Field(default=False, description="Read every pack too, not only names and sizes.")
    retry_lock: float = Field(default=0.0, ge=0, description="Seconds to wait for a locked repository.")


# --- profiles ------------------------------------------------------------------------------------------------------

PROFILE_NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
MOST_NAME = 64
MOST_COMMANDS = 20
MOST_PROBLEMS = 50
COMMAND_SECONDS, WEBHOOK_SECONDS = 60.0, 10.0
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")  # as the storage factory tells URLs and blocks from paths
_CRON_NAMES = {
    "month": ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"),
    "day of the week": ("sun", "mon", "tue", "wed", "thu", "fri", "sat"),
}
_CRON_FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12), ("day of the week", 0, 7))


class ProfileBackup(BackupSettings):
    """The settings of a backup that means the same from every working folder: paths are absolute or begin with ~."""

    @field_validator("paths", "exclude_file")
    @classmethod
    def _absolute(cls, paths: list[str]) -> list[str]:
        for number, path in enumerate(paths):
            if not is_fixed(path):
                raise ValueError(f"number {number + 1} is no absolute path; begin it with / or ~/")
        return paths

    @field_validator("to")
    @classmethod
    def _anywhere(cls, to: list[str]) -> list[str]:
        for number, destination in enumerate(to):
            if not _SCHEME.match(destination) and not is_fixed(destination):
                raise ValueError(
                    f"number {number + 1} is no destination; write a folder's absolute path, a URL such as "
                    "s3://bucket/prefix, or block:NAME"
                )
        return to


class ProfileKey(BaseModel):
    """Where the repository's password comes from: one of the three, or none for the one kept for the destination."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key_block: str | None = Field(default=None, description="Name of the RepositoryKey block that holds the password.")
    password_file: str | None = Field(default=None, description="The file that holds it, absolute.")
    password_command: str | None = Field(default=None, description="The command that prints it; it runs without shell.")

    @field_validator("key_block", "password_file", "password_command", mode="before")
    @classmethod
    def _left_open(cls, value: Any) -> Any:
        return None if value == "" else value  # a field of a form that was left empty

    @field_validator("password_file")
    @classmethod
    def _absolute(cls, path: str | None) -> str | None:
        if path is not None and not is_fixed(path):
            raise ValueError("this is no absolute path; begin it with / or ~/")
        return path

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(value is not None for value in (self.key_block, self.password_file, self.password_command)) > 1:
            raise ValueError("give one of key_block, password_file and password_command, not several")
        return self


class Schedule(BaseModel):
    """When the profile's deployment runs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cron: str = Field(
        max_length=200,
        description="Minute, hour, day, month and day of the week: 30 2 * * * is half past two every night.",
    )
    timezone: str = Field(default="UTC", description="The time zone of that hour, such as Europe/Berlin.")

    @field_validator("cron")
    @classmethod
    def _five_fields(cls, cron: str) -> str:
        check_cron(cron)
        return " ".join(cron.split())

    @field_validator("timezone")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            zoneinfo.ZoneInfo(name)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            near = difflib.get_close_matches(name[:100], zoneinfo.available_timezones(), n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else "write one such as Europe/Berlin or UTC"
            raise ValueError(f"there is no such time zone; {hint}") from None
        return name


class CommandHook(BaseModel):
    """A program that runs before or after a backup, without a shell."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    command: list[str] = Field(min_length=1, description="The program and each of its arguments.")
    time_limit: float = Field(
        default=COMMAND_SECONDS, gt=0, le=86_400, description="Seconds after which it and what it started is ended."
    )

    @field_validator("command")
    @classmethod
    def _runnable(cls, command: list[str]) -> list[str]:
        if not command[0].strip() or any("\0" in part for part in command):
            raise ValueError(
                'the program is empty or holds a NUL; write for example ["pg_dump", "-f", "/dump", "shop"]'
            )
        return command


class Webhooks(BaseModel):
    """URLs that are called. They hold tokens, so they are kept and shown as secrets."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ping: SecretStr | None = Field(
        default=None,
        description="A URL of healthchecks.io or its kind: called with /start at the beginning, as it is after a run "
        "without any problem, with /fail after any other.",
    )
    before: SecretStr | None = Field(default=None, description="Called before the run, which it stops when it fails.")
    after: SecretStr | None = Field(default=None, description="Called after the run, whatever became of it.")
    on_failure: SecretStr | None = Field(default=None, description="Called after a run that failed.")
    method: Literal["POST", "GET"] = Field(default="POST", description="POST sends the run's facts as JSON.")
    time_limit: float = Field(default=WEBHOOK_SECONDS, gt=0, le=300, description="Seconds for each of three tries.")

    @field_validator("ping", "before", "after", "on_failure", mode="before")
    @classmethod
    def _left_open(cls, value: Any) -> Any:
        return None if value == "" else value

    @field_validator("ping", "before", "after", "on_failure")
    @classmethod
    def _web(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not is_web_url(url.get_secret_value()):
            raise ValueError("this is no URL that can be called; write http://HOST/... or https://HOST/...")
        return url


class Hooks(BaseModel):
    """What runs around a backup."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    before: list[CommandHook] = Field(
        default=[], max_length=MOST_COMMANDS, description="Before the run; the first that fails stops it."
    )
    after: list[CommandHook] = Field(
        default=[], max_length=MOST_COMMANDS, description="After the run, also a failed one, when all before succeeded."
    )
    on_failure: list[CommandHook] = Field(
        default=[], max_length=MOST_COMMANDS, description="After a run that failed, or that a hook before it stopped."
    )
    webhooks: Webhooks = Field(default=Webhooks(), description="URLs that are called at these times.")


class ProfileSettings(BaseModel):
    """All of a profile but its name."""

    backup: ProfileBackup = Field(description="What to back up, where to and how.")
    key: ProfileKey = Field(default=ProfileKey(), description="Where the repository's password comes from.")
    schedule: Schedule | None = Field(default=None, description="When it runs by itself.")
    hooks: Hooks = Field(default=Hooks(), description="What runs before and after, and when it fails.")


class Profile(ProfileSettings):
    """A backup that has a name: what, where to, how, when, and what runs around it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="Lower-case letters, digits and '-'.")

    @field_validator("name")
    @classmethod
    def _plain(cls, name: str) -> str:
        if len(name) > MOST_NAME or PROFILE_NAME.fullmatch(name) is None:
            raise ValueError(f"a name is made of up to {MOST_NAME} lower-case letters, digits and '-' between them")
        return name


def is_fixed(path: str) -> bool:
    """Whether a path means the same from every working folder: absolute on any system, or below a home folder."""
    return "\0" not in path and (posixpath.isabs(path) or ntpath.isabs(path) or path.startswith("~"))


def is_web_url(text: str) -> bool:
    """Whether it is an ``http`` or ``https`` URL with a host and nothing that a URL may not hold."""
    try:
        parts = urlsplit(text)
        _ = parts.port  # raises where it is no number
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and text.isprintable() and " " not in text


def check_cron(text: str) -> None:
    """Five fields of numbers, names, ranges, steps and lists; ValueError says which field is wrong and what it takes.

    Prefect's scheduler takes everything that passes here.
    """
    fields = text.lower().split()
    if len(fields) != len(_CRON_FIELDS):
        raise ValueError("write five fields: minute, hour, day, month, day of the week; for example 30 2 * * *")
    for field, (what, least, most) in zip(fields, _CRON_FIELDS, strict=True):
        if not all(_is_cron_item(item, what, least, most) for item in field.split(",")):
            names = _CRON_NAMES.get(what)
            also = f", names ({names[0]} to {names[-1]})" if names else ""
            raise ValueError(f"the {what} takes {least} to {most}{also}, *, ranges (1-5), steps (*/15), lists (1,3)")


def _is_cron_item(item: str, what: str, least: int, most: int) -> bool:
    span, slash, step = item.partition("/")
    if slash and not (re.fullmatch(r"[0-9]{1,2}", step) and 1 <= int(step) <= most):
        return False
    if span == "*":
        return True
    first, dash, last = span.partition("-")
    if slash and not dash:
        return False
    begin = _cron_number(first, what, least, most)
    end = _cron_number(last, what, least, most) if dash else begin
    return begin is not None and end is not None and begin <= end


def _cron_number(text: str, what: str, least: int, most: int) -> int | None:
    names = _CRON_NAMES.get(what, ())
    if text in names:
        return names.index(text) + least
    return int(text) if re.fullmatch(r"[0-9]{1,2}", text) and least <= int(text) <= most else None


# --- what is wrong -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one key of a profile, and what it takes. ``key`` is empty for the file as a whole."""

    key: str
    text: str

    def __str__(self) -> str:
        return f"{self.key}: {self.text}" if self.key else self.text


def problems_of(error: PydanticError, model: type[BaseModel]) -> list[Problem]:
    """One line for each wrong key: what it takes, and for an unknown one what was probably meant; no values."""
    found = error.errors(include_input=False, include_url=False, include_context=False)
    return [_problem(item["type"], item["loc"], item["msg"], model) for item in found[:MOST_PROBLEMS]]


_TAKES = {
    "list_type": 'this is a list; write ["...", "..."]',
    "string_type": "this is text; write it in quotation marks",
    "bool_type": "write true or false",
    "bool_parsing": "write true or false",
    "int_type": "write a whole number",
    "int_parsing": "write a whole number",
    "float_type": "write a number",
    "float_parsing": "write a number",
}


def _problem(kind: str, place: Sequence[int | str], message: str, model: type[BaseModel]) -> Problem:
    key = _written(place)
    if kind == "extra_forbidden":
        known = list(_model_at(model, place[:-1]).model_fields)
        near = difflib.get_close_matches(str(place[-1])[:100], known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        return Problem(key, f"there is no such key; {hint}")
    if kind == "missing":
        field = _model_at(model, place[:-1]).model_fields[str(place[-1])]
        return Problem(key, f"it is needed and not there: {(field.description or '').rstrip('.')}")
    if kind in ("model_type", "model_attributes_type"):
        return Problem(key, f"this is a table of keys; write [{key}] and its keys below")
    if kind in _TAKES:
        return Problem(key, _TAKES[kind])
    text = message.removeprefix("Value error, ")
    return Problem(key, text[:1].lower() + text[1:])


def _written(place: Iterable[int | str]) -> str:
    """``backup.paths[0]``; keys that came from a file are cut short and cleaned."""
    key = ""
    for part in place:
        key += f"[{part}]" if isinstance(part, int) else f"{'.' if key else ''}{printable(part[:60])}"
    return key


def _model_at(model: type[BaseModel], place: Iterable[int | str]) -> type[BaseModel]:
    for part in place:
        if isinstance(part, str):
            model = _nested(model.model_fields[part].annotation) or model
    return model


def _nested(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation if issubclass(annotation, BaseModel) else None
    return next((found for each in typing.get_args(annotation) if (found := _nested(each)) is not None), None)

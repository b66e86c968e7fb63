"""Profiles as files: finding, reading, writing them, and what a run makes of one.

A profile is TOML, ``NAME.toml`` below the user's configuration folder or any file, or a BackupProfile block of
Prefect's. Messages name a key and what it takes and never repeat a value: a value may be a secret.
"""

from __future__ import annotations

import difflib
import os
import tomllib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, SecretStr
from pydantic import ValidationError as PydanticValidationError
from pydantic.fields import FieldInfo

from backupiq.errors import ConfigurationError, MissingConfigurationError, ValidationError
from backupiq.passwords import COMMAND_VARIABLE, FILE_VARIABLE, PasswordSources
from backupiq.profile import (
    MOST_NAME,
    PROFILE_NAME,
    BackupOptions,
    Bandwidth,
    Hooks,
    Problem,
    Profile,
    ProfileKey,
    ProfileSettings,
    problems_of,
)
from backupiq.state import config_dir, write_private
from backupiq.telemetry import register_secret
from backupiq.telemetry.text import printable

SUFFIX = ".toml"
BLOCK_PREFIX = "block:"
MAX_PROFILE_BYTES = 1 << 20
MOST_PROFILES = 1000
ADDED = frozenset({"exclude", "iexclude", "exclude_file", "pin", "tags"})
"""Lists that options lengthen; every other option takes the place of the profile's."""
_SHORTEST_SECRET = 8


class Resolved(NamedTuple):
    """What a run makes of a profile and the options given beside it."""

    options: BackupOptions
    key: PasswordSources
    hooks: Hooks
    name: str


# --- finding -------------------------------------------------------------------------------------------------------


def profiles_dir(env: Mapping[str, str] = os.environ) -> Path:
    """The folder of the user's profiles. Not created. ConfigurationError without a home folder."""
    return config_dir(env) / "profiles"


def is_file_name(text: str) -> bool:
    """Whether a person means a file and not the name of a profile."""
    return text.endswith(SUFFIX) or "/" in text or os.sep in text


def profile_label(text: str) -> str:
    """A profile's name for people, from what they write: a file without its folder and ending."""
    name = os.path.basename(text).removesuffix(SUFFIX) if is_file_name(text) else text.removeprefix(BLOCK_PREFIX)
    return printable(name[:MOST_NAME])


def profile_path(text: str, env: Mapping[str, str] = os.environ) -> Path:
    """The file of a profile that is named, or the file itself; it need not be there. ValidationError for no name."""
    if is_file_name(text):
        return Path(os.path.abspath(os.path.expanduser(text)))
    if PROFILE_NAME.fullmatch(text) is None:
        raise ValidationError(
            "A profile's name is made of lower-case letters, digits and '-'; a file is written ./FILE.toml."
        )
    return profiles_dir(env) / f"{text}{SUFFIX}"


def list_profiles(env: Mapping[str, str] = os.environ) -> list[Path]:
    """The files of the user's profiles by name, at most `MOST_PROFILES`."""
    try:
        found = sorted(path for path in profiles_dir(env).iterdir() if path.suffix == SUFFIX and path.name[0] != ".")
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise ConfigurationError(
            f"The profiles in {profiles_dir(env)} cannot be listed ({error.strerror}); check the folder's rights."
        ) from error
    return found[:MOST_PROFILES]


# --- reading -------------------------------------------------------------------------------------------------------


def load_profile(text: str, env: Mapping[str, str] = os.environ) -> Profile:
    """The profile of that name, in that file, or of that block (``block:NAME``).

    MissingConfigurationError when there is none; ConfigurationError names the first thing that is wrong with it, and
    its details hold all ``problems``, one line each.
    """
    if text.startswith(BLOCK_PREFIX):
        return _from_block(text.removeprefix(BLOCK_PREFIX))
    path = profile_path(text, env)
    profile, problems = examine(path, named=not is_file_name(text))
    if profile is None:
        more = f" ({len(problems) - 1} more: `backupiq profile check {text}`)" if len(problems) > 1 else ""
        raise ConfigurationError(
            f"{path}: {problems[0]}{more}. Correct the file.", file=str(path), problems=[str(each) for each in problems]
        )
    return profile


def examine(path: Path, *, named: bool = False) -> tuple[Profile | None, list[Problem]]:
    """The profile in a file, or everything that is wrong with it; its secrets are hidden in every log from here on.

    ``named``: it is found by its file's name, so one inside has to agree. MissingConfigurationError when there is no
    such file, ConfigurationError when it cannot be read.
    """
    try:
        document = tomllib.loads(_read(path))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        return None, [Problem("", f"this is no TOML: {printable(str(error))}")]
    stem = path.name.removesuffix(SUFFIX)
    if "name" not in document:
        document["name"] = stem
    elif named and document["name"] != stem:
        return None, [Problem("name", f"the file is named {path.name}, so this has to be {stem}; or leave it out")]
    try:
        profile = Profile.model_validate(document)
    except PydanticValidationError as error:
        return None, problems_of(error, Profile)
    protect(profile)
    return profile, []


def protect(profile: ProfileSettings) -> None:
    """Hide the profile's secrets in every log from now on, also the part of a URL that follows its host."""
    for name in type(profile.hooks.webhooks).model_fields:
        value = getattr(profile.hooks.webhooks, name)
        if isinstance(value, SecretStr):
            url = value.get_secret_value()
            register_secret(url)
            path = url.partition("://")[2].partition("/")[2]
            if len(path) >= _SHORTEST_SECRET:
                register_secret(path)


def _read(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_PROFILE_BYTES + 1)
    except FileNotFoundError:
        raise _missing(path) from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigurationError(f"The profile {path} cannot be read ({reason}); check the file.") from error
    if len(data) > MAX_PROFILE_BYTES:
        raise ConfigurationError(f"The profile {path} is longer than 1 MiB; it is no profile.")
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise ConfigurationError(f"The profile {path} is not UTF-8 text; save it as such.") from None


def _missing(path: Path) -> MissingConfigurationError:
    try:
        beside = [each.stem for each in path.parent.iterdir() if each.suffix == SUFFIX][:MOST_PROFILES]
    except OSError:
        beside = []
    near = difflib.get_close_matches(path.stem, beside, n=1)
    hint = f"Did you mean {near[0]}?" if near else f"Make it with `backupiq profile new {path.stem} PATH --to DEST`."
    return MissingConfigurationError(f"There is no profile {path}. {hint}")


def _from_block(name: str) -> Profile:
    from flows.environment import prepare_environment

    prepare_environment()
    from blocks.backup_profile import load_profile_block

    try:
        profile = load_profile_block(name)
    except PydanticValidationError as error:
        problems = [str(each) for each in problems_of(error, Profile)]
        # Without its cause: that would show the block's values, which may be secrets, in a traceback.
        raise ConfigurationError(
            f"The profile block {name} cannot be used: {problems[0]}. Correct it in Prefect's UI under Blocks.",
            problems=problems,
        ) from None
    protect(profile)
    return profile


# --- what a run makes of it ----------------------------------------------------------------------------------------


def resolve_profile(
    text: str,
    overrides: Mapping[str, Any] | None = None,
    *,
    key: PasswordSources | None = None,
    env: Mapping[str, str] = os.environ,
) -> Resolved:
    """What to do by this profile (a name, a file or block:NAME) and the options that were given beside it.

    ``overrides`` are fields of `BackupOptions`; None and empty ones count as not given. They win: lists of patterns,
    pins and tags are added behind the profile's, everything else takes its place. ``key`` names sources of the password
    in the same way. Errors are those of `load_profile`; pydantic's ValidationError for overrides that do not fit.
    """
    return apply_profile(load_profile(text, env), overrides, key=key, env=env)


def apply_profile(
    profile: Profile,
    overrides: Mapping[str, Any] | None = None,
    *,
    key: PasswordSources | None = None,
    env: Mapping[str, str] = os.environ,
) -> Resolved:
    """The same for a profile that is loaded already."""
    values: dict[str, Any] = profile.backup.model_dump()
    for name, value in (overrides or {}).items():
        if _is_given(value):
            values[name] = [*values[name], *value] if name in ADDED else value
    for name in ("paths", "exclude_file"):
        values[name] = [os.path.expanduser(path) for path in values[name]]
    values["to"] = [os.path.expanduser(to) if to.startswith("~") else to for to in values["to"]]
    options = BackupOptions(**values)
    return Resolved(options, _sources(profile.key, key, env), profile.hooks, profile.name)


def resolve_run(options: BackupOptions | None, key_block: str | None, profile: str | None) -> Resolved:
    """What a run is to do that was started with these parameters: the options, or what the profile says.

    With both the options are done, and the profile gives its name, its hooks and, without ``key_block``, its password.
    ValidationError when neither is given; else the errors of `load_profile`.
    """
    given = PasswordSources(block=key_block)
    if profile:
        found = resolve_profile(profile, key=given)
        return found if options is None else found._replace(options=options)
    if options is None:
        raise ValidationError("Nothing says what to back up; give the options or the name of a profile.")
    return Resolved(options, given, Hooks(), "")


def _is_given(value: Any) -> bool:
    # A whole number of 0 is a value (no file may be larger), everything else that is empty an option left alone.
    return type(value) is int or bool(value)


def _sources(named: ProfileKey, given: PasswordSources | None, env: Mapping[str, str]) -> PasswordSources:
    if given is not None and (given.file or given.command or given.block):
        return given
    known = given.env if given is not None else env
    if named.key_block or named.password_file or named.password_command:
        # Variables that name another file or command are further away than the profile is.
        known = {name: value for name, value in known.items() if name not in (FILE_VARIABLE, COMMAND_VARIABLE)}
    file = Path(os.path.expanduser(named.password_file)) if named.password_file else None
    return PasswordSources(file, named.password_command, named.key_block, known)


# --- writing -------------------------------------------------------------------------------------------------------


def make_profile(**values: Any) -> Profile:
    """A new profile of these values; ValidationError names the first that is wrong and what it takes."""
    try:
        profile = Profile.model_validate(values)
    except PydanticValidationError as error:
        problems = problems_of(error, Profile)
        raise ValidationError(f"{problems[0]}. Correct it.", problems=[str(each) for each in problems]) from None
    protect(profile)
    return profile


def write_profile(profile: Profile, path: Path, *, force: bool = False) -> None:
    """Write the profile with a comment for every key, private to the user (0600).

    ConfigurationError when the file is there already (unless ``force``) or cannot be written, ValidationError for a
    text that TOML cannot hold.
    """
    data = render_profile(profile).encode()
    try:
        written = write_private(path, data, create_only=not force)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigurationError(f"The profile {path} cannot be written ({reason}); check the folder.") from error
    if not written:
        raise ConfigurationError(f"There is a profile {path} already; change it there, or replace it with --force.")


def render_profile(profile: Profile) -> str:
    """The profile as TOML. Keys that have their default are comments, so that a person finds them."""
    parts = [
        f"# A profile of BackupIQ: `backupiq backup --profile {profile.name}` makes this backup.\n"
        f"# After a change: `backupiq profile check {profile.name}`\n\nname = {toml_value(profile.name)}\n",
        _table("backup", profile.backup),
        _table("key", profile.key),
        _schedule(profile),
        *_commands(profile.hooks),
        _table("hooks.webhooks", profile.hooks.webhooks),
    ]
    return "\n".join(part for part in parts if part)


def _table(title: str, model: BaseModel) -> str:
    lines = [f"[{title}]"]
    fields = type(model).model_fields
    for name in sorted(fields, key=lambda name: name in Bandwidth.model_fields):  # what matters less comes last
        field = fields[name]
        value = getattr(model, name)
        lines.append(f"# {field.description}")
        default = field.get_default(call_default_factory=True)
        if field.is_required() or value != default:
            lines.append(f"{name} = {toml_value(value)}")
        else:
            lines.append(f"# {name} = {_example(field, default)}")
    return "\n".join(lines) + "\n"


def _example(field: FieldInfo, default: Any) -> str:
    if default is not None:
        return toml_value(default)
    return "..." if int in typing.get_args(field.annotation) else '"..."'


def _schedule(profile: Profile) -> str:
    if profile.schedule is not None:
        return _table("schedule", profile.schedule)
    return (
        "# When it runs by itself: minute, hour, day, month and day of the week, and the time zone of that hour.\n"
        '# [schedule]\n# cron = "30 2 * * *"\n# timezone = "Europe/Berlin"\n'
    )


_EXAMPLE_COMMANDS = {
    "before": ["pg_dump", "--file", "/var/backups/shop.sql", "shop"],
    "after": ["rm", "-f", "/var/backups/shop.sql"],
    "on_failure": ["logger", "the backup failed"],
}


def _commands(hooks: Hooks) -> list[str]:
    parts: list[str] = []
    for moment, example in _EXAMPLE_COMMANDS.items():
        about = f"# {type(hooks).model_fields[moment].description}\n"
        found = getattr(hooks, moment)
        if not found:
            parts.append(f"{about}# [[hooks.{moment}]]\n# command = {toml_value(example)}\n# time_limit = 60.0\n")
        for each in found:
            body = f"command = {toml_value(each.command)}\ntime_limit = {toml_value(each.time_limit)}\n"
            parts.append(f"{about}[[hooks.{moment}]]\n{body}")
            about = ""
    return parts


def toml_value(value: Any) -> str:
    """A text, number, truth value or list of them as TOML. ValidationError for a text that is not UTF-8."""
    if isinstance(value, SecretStr):
        return toml_value(value.get_secret_value())
    if isinstance(value, list):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise ValidationError("A name that is not UTF-8 cannot stand in a profile; give the folder above it.")
        return f'"{"".join(map(_toml_character, value))}"'
    return repr(value)


def _toml_character(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    return character if character.isprintable() else f"\\U{ord(character):08x}"

"""Where the password of a repository comes from.

In this order, the first that is there: the variable BACKUPIQ_PASSWORD, a password file (option, then
BACKUPIQ_PASSWORD_FILE), a command (option, then BACKUPIQ_PASSWORD_COMMAND), a RepositoryKey block, the file kept for
this destination below the user's configuration folder, a prompt. Never an argument: other users can read those.

A password file or a command's output is read as restic reads it (the whole, decoded, without white space at both
ends), so that the same file opens the repository with either program.
"""

from __future__ import annotations

import codecs
import hashlib
import os
import re
import secrets
import shlex
import stat
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import SecretStr

from backupiq.errors import ConfigurationError, MissingConfigurationError
from backupiq.state import config_dir, write_private

PASSWORD_VARIABLE = "BACKUPIQ_PASSWORD"  # noqa: S105 - the variable's name
FILE_VARIABLE = "BACKUPIQ_PASSWORD_FILE"
COMMAND_VARIABLE = "BACKUPIQ_PASSWORD_COMMAND"

MAX_PASSWORD_BYTES = 64 * 1024
COMMAND_TIMEOUT_SECONDS = 300.0  # a command may ask a person for a PIN

# Go's unicode.IsSpace, which restic's strings.TrimSpace goes by; str.strip() would also take U+001C to U+001F.
_GO_SPACES = "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a" + (
    "\u2028\u2029\u202f\u205f\u3000"
)
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

Prompt = Callable[[str], str]
"""Asks a person on the terminal and returns what was typed; does not show it."""
Note = Callable[[str], None]
"""Takes one line that the person should see."""


@dataclass(frozen=True, slots=True)
class PasswordSources:
    """What the command was told about the password."""

    file: Path | None = None
    command: str | None = None
    block: str | None = None
    env: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)


@dataclass(frozen=True, slots=True)
class Password:
    """A password and, for messages, the words that name where it came from."""

    secret: SecretStr
    origin: str
    kept_in: Path | None = None


def find_password(sources: PasswordSources, locations: Sequence[str], *, note: Note) -> Password | None:
    """The password from the first source that is there, without asking anybody; None when there is no source.

    ``locations`` are the destinations as their providers name them. Raises ConfigurationError when a source that was
    named cannot be used.
    """
    env = sources.env
    if env.get(PASSWORD_VARIABLE):
        if sources.file or sources.command or sources.block:
            note(f"the password comes from {PASSWORD_VARIABLE}; the option that names another one is not used")
        return _protect(env[PASSWORD_VARIABLE], f"the variable {PASSWORD_VARIABLE}")
    file = sources.file or (Path(env[FILE_VARIABLE]) if env.get(FILE_VARIABLE) else None)
    if file is not None:
        return _protect(read_password_file(file, note=note), f"the file {file}")
    command = sources.command or env.get(COMMAND_VARIABLE)
    if command:
        return _protect(run_password_command(command), "the password command")
    if sources.block:
        return _from_block(sources.block)
    for location in locations:
        kept = kept_password_path(location, env)
        if kept.is_file():
            return _protect(read_password_file(kept, note=note), f"the kept file {kept}", kept_in=kept)
    return None


def ask_password(prompt: Prompt, *, twice: bool, what: str = "password") -> Password:
    """Ask a person; ``twice`` for a new password. ConfigurationError when it is empty or the two differ."""
    first = prompt(f"{what[:1].upper()}{what[1:]}: ")
    if not first:
        raise ConfigurationError("An empty password is not allowed; run the command again and type one.")
    if twice and prompt(f"The same {what} again: ") != first:
        raise ConfigurationError("The two passwords differ; run the command again.")
    return _protect(first, "the prompt")


def missing_password() -> MissingConfigurationError:
    """The error for a repository whose password nobody told."""
    return MissingConfigurationError(
        f"The repository's password is not known. Give it with --password-file FILE, --password-command or "
        f"--key-block NAME, or in {PASSWORD_VARIABLE}."
    )


def keep_new_password(locations: Sequence[str], env: Mapping[str, str] = os.environ) -> Password:
    """Make a strong password and keep it for each of these destinations, before any repository is made with it.

    When another run has just kept one for the first destination, that one serves both. Raises ConfigurationError when
    it cannot be kept: a repository whose password is lost is lost.
    """
    made = generate_password()
    first = kept_password_path(locations[0], env)
    if not _keep(made, first):
        made = read_password_file(first, note=lambda _: None)
    for location in locations[1:]:
        _keep(made, kept_password_path(location, env))
    return _protect(made, f"the kept file {first}", kept_in=first)


def keep_password_for(password: Password, location: str, env: Mapping[str, str] = os.environ) -> None:
    """Keep a password that is kept for one replica for another one too; a file that is there already stays."""
    _keep(password.secret.get_secret_value(), kept_password_path(location, env))


def kept_password_path(location: str, env: Mapping[str, str] = os.environ) -> Path:
    """Where the password for that destination is kept: a name that people recognise, and a hash that tells it apart."""
    words = re.sub(r"[^A-Za-z0-9._-]+", "-", location).strip("-.")[-40:].strip("-.")
    digest = hashlib.sha256(location.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return config_dir(env) / "passwords" / (f"{words}-{digest}" if words else digest)


def generate_password() -> str:
    """Five groups of six lower-case letters: 141 bits of the system's randomness, easy to copy by hand."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    return "-".join("".join(secrets.choice(letters) for _ in range(6)) for _ in range(5))


def read_password_file(path: Path, *, note: Note) -> str:
    """The password in a file, as restic reads it. ConfigurationError when it cannot be read, or is empty or too long.

    ``note`` is told when other users of this machine may read the file.
    """
    try:
        with open(path, "rb") as file:
            if os.name == "posix":
                status = os.fstat(file.fileno())
                if stat.S_ISREG(status.st_mode) and status.st_mode & 0o077:
                    note(f"warning: other users may read the password file {path}; run `chmod 600` on it")
            data = file.read(MAX_PASSWORD_BYTES + 1)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigurationError(f"The password file {path} cannot be read ({reason}); check the path.") from error
    return _decode(data, f"The password file {path}")


def run_password_command(command: str) -> str:
    """What a command prints, as the password; it is split as a shell would, but runs without one.

    ConfigurationError when it cannot be started, fails, prints nothing or takes longer than five minutes.
    """
    try:
        arguments = shlex.split(command)
    except ValueError as error:
        raise ConfigurationError("The password command has an unclosed quotation mark; correct it.") from error
    if not arguments:
        raise ConfigurationError("The password command is empty; give a program and its arguments.")
    try:
        done = subprocess.run(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            timeout=COMMAND_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        # Not chained: its text holds what the command printed so far.
        raise ConfigurationError(f"The password command {arguments[0]} took over five minutes; check it.") from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigurationError(f"The password command {arguments[0]} cannot be run ({reason}); check it.") from error
    if done.returncode != 0:
        raise ConfigurationError(f"The password command {arguments[0]} failed (exit code {done.returncode}); check it.")
    return _decode(done.stdout, f"What the password command {arguments[0]} printed")


def _decode(data: bytes, what: str) -> str:
    if len(data) > MAX_PASSWORD_BYTES:
        raise ConfigurationError(f"{what} is longer than {MAX_PASSWORD_BYTES // 1024} KiB; it is no password.")
    mark, encoding = next(((m, e) for m, e in _BYTE_ORDER_MARKS if data.startswith(m)), (b"", "utf-8"))
    try:
        password = data[len(mark) :].decode(encoding).strip(_GO_SPACES)
    except UnicodeDecodeError:
        raise ConfigurationError(f"{what} is not UTF-8 text; store the password as plain text.") from None
    if not password:
        raise ConfigurationError(f"{what} is empty; it should hold the password.")
    return password


def _from_block(name: str) -> Password:
    from flows.environment import prepare_environment

    prepare_environment()
    from blocks.repository_key import load_password

    secret: SecretStr = load_password(name)
    return _protect(secret.get_secret_value(), f"the block {name}")


def _protect(password: str, origin: str, *, kept_in: Path | None = None) -> Password:
    """Make the log's redaction know the password before anything else sees it."""
    from backupiq.telemetry import register_secret

    try:
        password.encode()
    except UnicodeEncodeError:
        raise ConfigurationError(f"The password from {origin} is not UTF-8 text; store it as plain text.") from None
    register_secret(password)
    return Password(SecretStr(password), origin, kept_in)


def _keep(password: str, path: Path) -> bool:
    try:
        return write_private(path, f"{password}\n".encode(), create_only=True)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigurationError(
            f"The new password cannot be kept in {path} ({reason}); give one with --password-file FILE."
        ) from error

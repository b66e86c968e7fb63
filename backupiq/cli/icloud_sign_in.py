"""Signing in to iCloud from the terminal: the code that Apple sends, or a security key."""

from __future__ import annotations

import dataclasses
import os
import sys
from typing import TYPE_CHECKING, cast

from backupiq.cli.output import clean_line, note, print_json, print_line
from backupiq.cli.session import has_terminal, interruptible, terminal_prompt
from backupiq.errors import MissingConfigurationError, StorageAuthenticationError, ValidationError

if TYPE_CHECKING:
    from backupiq.storage.icloud_config import ICloudConfig
    from backupiq.storage.icloud_login import ICloudLogin, Needs

TRIES = 3
"""Codes that may be wrong: Apple locks an account after some more."""
CODES_SENT = 5
_SENT = {
    "device": "Apple shows a code on your other devices.",
    "sms": "Apple sends a code to your trusted phone number.",
}


def sign_in(name: str, *, code_stdin: bool, anew: bool, json_wanted: bool) -> None:
    """Make Apple trust this machine. ``name`` is a block's name or ``icloud:/Folder``; ``anew`` forgets the kept trust.

    MissingConfigurationError when nobody can be asked, StorageAuthenticationError when Apple refuses.
    """
    from backupiq.storage.icloud_login import ICloudLogin

    config = icloud_config(name)
    if config.password is None and has_terminal():
        config = dataclasses.replace(config, password=terminal_prompt("password of the Apple ID: ") or None)
    with ICloudLogin(config) as login:
        needed = login.start(anew=anew)
        if needed == "code":
            _confirm_by_code(login, config, code_stdin=code_stdin)
        elif needed == "security-key":
            _confirm_by_key(login)
    _tell(needed, config, json_wanted=json_wanted)


def icloud_config(name: str) -> ICloudConfig:
    """The configuration behind a block's name (``block:`` may be left out) or an ``icloud:`` URL.

    ValidationError for a destination of another kind.
    """
    if name.lower().startswith("icloud:"):
        from backupiq.storage.icloud_config import ICloudConfig

        return ICloudConfig.from_url(name, os.environ)
    from flows.environment import prepare_environment

    prepare_environment()
    from blocks.destinations import PREFIX, load_block, type_named
    from flows.reach import reach_prefect

    reach_prefect()
    block = load_block(name.removeprefix(PREFIX))
    kind = type_named(block.get_block_type_slug())
    if kind is None or kind.kind != "icloud":
        raise ValidationError(f"{name} is no iCloud destination; only those need signing in.")
    from blocks.icloud_destination import ICloudDestination

    return cast(ICloudDestination, block).config()


def _confirm_by_code(login: ICloudLogin, config: ICloudConfig, *, code_stdin: bool) -> None:
    if not code_stdin and not has_terminal():
        raise MissingConfigurationError(
            "Apple asks for a code, and there is no terminal to type it at. Run the command on a terminal, or give the "
            "code on standard input with --code-stdin."
        )
    note(_SENT[login.request_code()])
    if code_stdin:
        if not login.submit_code(sys.stdin.readline()):
            raise _wrong_code(config)
        return
    wrong, sent = 0, 1
    while wrong < TRIES and sent <= CODES_SENT:
        code = _ask("code (or only Enter, to have another one sent): ")
        if not code.strip():
            sent += 1
            note(_SENT[login.request_code()])
        elif login.submit_code(code):
            return
        else:
            wrong += 1
            note("Apple does not take that code.")
    raise _wrong_code(config)


def _confirm_by_key(login: ICloudLogin) -> None:
    names = ", ".join(login.security_keys())
    note(f"Plug in a security key of this Apple ID ({clean_line(names)}) and touch it.")
    with interruptible():
        login.confirm_security_key()


def _ask(text: str) -> str:
    sys.stderr.write(text)
    sys.stderr.flush()
    with interruptible():
        line = sys.stdin.readline()
    if not line:
        raise MissingConfigurationError("The terminal was closed before a code was typed. Run the command again.")
    return line


def _wrong_code(config: ICloudConfig) -> StorageAuthenticationError:
    return StorageAuthenticationError(
        f"Apple did not take the code. Wait for a new one, then run: backupiq providers login {config.login}"
    )


def _tell(needed: Needs, config: ICloudConfig, *, json_wanted: bool) -> None:
    if json_wanted:
        print_json({"location": config.location, "needed": needed, "trusted": True})
    elif needed == "none":
        print_line(f"{config.location}: Apple trusts this machine already.")
    else:
        print_line(f"{config.location}: signed in. Apple trusts this machine now, for about 30 days.")

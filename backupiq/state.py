"""The user's own folders: configuration (kept passwords) and state (the repository used last).

Both follow the XDG base directory specification, also on macOS; on Windows they lie below APPDATA and LOCALAPPDATA.
Everything written here is private to the user (folders 0700, files 0600) and complete or absent, never half there.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from backupiq.errors import ConfigurationError

_MAX_STATE_BYTES = 64 * 1024
_LAST_REPOSITORY = "last-repository.json"
_UNCATALOGUED = "uncatalogued.json"
_MOST_UNCATALOGUED = 50


def config_dir(env: Mapping[str, str] = os.environ) -> Path:
    """``$XDG_CONFIG_HOME/backupiq`` (``~/.config/backupiq``). Not created. ConfigurationError without a home folder."""
    return _base(env, "XDG_CONFIG_HOME", "APPDATA", ".config")


def state_dir(env: Mapping[str, str] = os.environ) -> Path:
    """``$XDG_STATE_HOME/backupiq`` (``~/.local/state/backupiq``). Not created."""
    return _base(env, "XDG_STATE_HOME", "LOCALAPPDATA", ".local/state")


def _base(env: Mapping[str, str], xdg: str, windows: str, below_home: str) -> Path:
    # The specification says that relative paths in these variables are to be ignored.
    for name in (xdg, windows) if os.name == "nt" else (xdg,):
        value = env.get(name, "")
        if value and os.path.isabs(value):
            return Path(value) / "backupiq"
    home = env.get("HOME", "")
    try:
        return (Path(home) if os.path.isabs(home) else Path.home()) / below_home / "backupiq"
    except RuntimeError as error:
        raise ConfigurationError(f"This user has no home folder; set HOME or {xdg} to an absolute path.") from error


def write_private(path: Path, data: bytes, *, create_only: bool = False) -> bool:
    """Write ``data`` (mode 0600, folders 0700) durably and in one step; False when ``create_only`` found a file there.

    Raises OSError when the disk or its rights do not allow it.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}-tmp-{os.urandom(8).hex()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if not create_only:
            os.replace(temporary, path)
        elif not _link_or_rename(temporary, path):
            return False
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
    _sync_folder(path.parent)
    return True


def _link_or_rename(temporary: Path, path: Path) -> bool:
    try:
        if os.name == "nt":
            os.rename(temporary, path)  # refuses an existing name there, as link() does elsewhere
        else:
            os.link(temporary, path)
    except FileExistsError:
        return False
    return True


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remember_repository(destinations: Sequence[str], env: Mapping[str, str] = os.environ) -> None:
    """Keep these destinations (replicas of one repository) as the ones used last. A disk that refuses is no error."""
    data = json.dumps({"destinations": list(destinations)}).encode()
    with contextlib.suppress(OSError, ConfigurationError):
        path = state_dir(env) / _LAST_REPOSITORY
        if not (path.is_file() and path.read_bytes() == data):
            write_private(path, data)


def note_uncatalogued(destinations: Sequence[str], env: Mapping[str, str] = os.environ) -> None:
    """Keep in mind that the repository there has snapshots which are not in the catalog. A disk that refuses is no
    error."""
    known = [each for each in uncatalogued(env) if set(each).isdisjoint(destinations)]
    _write_uncatalogued([*known, list(destinations)][-_MOST_UNCATALOGUED:], env)


def uncatalogued(env: Mapping[str, str] = os.environ) -> list[list[str]]:
    """The destinations of each repository that may have snapshots which are not in the catalog."""
    try:
        with open(state_dir(env) / _UNCATALOGUED, "rb") as file:
            document = json.loads(file.read(_MAX_STATE_BYTES))
    except (OSError, ValueError, ConfigurationError):
        return []
    if not isinstance(document, list):
        return []
    return [[str(each) for each in one] for one in document if isinstance(one, list) and one]


def forget_uncatalogued(destinations: Sequence[str], env: Mapping[str, str] = os.environ) -> None:
    """The catalog is up to date with the repository there."""
    known = uncatalogued(env)
    left = [each for each in known if set(each).isdisjoint(destinations)]
    if left != known:
        _write_uncatalogued(left, env)


def _write_uncatalogued(found: list[list[str]], env: Mapping[str, str]) -> None:
    with contextlib.suppress(OSError, ConfigurationError):
        write_private(state_dir(env) / _UNCATALOGUED, json.dumps(found).encode())


def last_repository(env: Mapping[str, str] = os.environ) -> list[str]:
    """The destinations used last on this machine by this user; empty when there are none or the file is unusable."""
    try:
        with open(state_dir(env) / _LAST_REPOSITORY, "rb") as file:
            document = json.loads(file.read(_MAX_STATE_BYTES))
    except (OSError, ValueError, ConfigurationError):
        return []
    found = document.get("destinations") if isinstance(document, dict) else None
    return [text for text in found if isinstance(text, str) and text] if isinstance(found, list) else []

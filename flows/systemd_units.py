"""Systemd's user units of the server and the worker: they survive reboots and come back when they die."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from backupiq.errors import ConfigurationError, MissingConfigurationError, ResourceError
from backupiq.state import write_private

NAMES = ("backupiq-server.service", "backupiq-worker.service")
PASSED_ON = ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME")
"""Variables that say where BackupIQ's files are; a unit does not get the shell's."""
RUN_SECONDS = 120.0


def shipped() -> Path:
    """The folder of the templates. MissingConfigurationError when they were not installed."""
    folder = Path(__file__).resolve().parent.parent / "deployments" / "systemd"
    if not folder.is_dir():
        raise MissingConfigurationError(f"There is no {folder}; install BackupIQ from its whole source.")
    return folder


def units_dir(env: Mapping[str, str] = os.environ) -> Path:
    """Where systemd looks for the user's units."""
    base = env.get("XDG_CONFIG_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".config") / "systemd" / "user"


def render(template: str, *, port: int, queue: str, env: Mapping[str, str] = os.environ) -> str:
    """A unit made of its template. ConfigurationError when a path cannot stand in a unit."""
    variables = "\n".join(
        f"Environment={quoted(f'{name}={env[name]}', dollar='$')}" for name in PASSED_ON if env.get(name)
    )
    values = {"PYTHON": quoted(sys.executable), "PORT": str(port), "QUEUE": quoted(queue), "ENVIRONMENT": variables}
    text = re.sub("@([A-Z]+)@", lambda found: values[found[1]], template)
    return re.sub(r"\n\n+(?=[A-Z])", "\n", text)


def quoted(text: str, *, dollar: str = "$$") -> str:
    """A word for a unit: quotes, backslashes, ``%`` and ``$`` mean nothing in it (systemd.syntax(7)).

    ``dollar`` is how a line writes ``$``: only those with commands fill in variables. ConfigurationError.
    """
    if not text.isprintable():
        raise ConfigurationError("A path that systemd needs holds a character that no unit can; move what it names.")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", dollar)
    return f'"{escaped}"'


def verify(units: Mapping[str, str]) -> list[str]:
    """What `systemd-analyze verify` says against these units, by name; empty when it is content or not there."""
    program = shutil.which("systemd-analyze")
    if program is None:
        return []
    with tempfile.TemporaryDirectory() as name:
        for unit, text in units.items():
            (Path(name) / unit).write_text(text)
        paths = [str(Path(name) / unit) for unit in units]
        env = {**os.environ, "XDG_RUNTIME_DIR": name, "SYSTEMD_LOG_TARGET": "console"}
        done = _run([program, "--user", "--man=no", "verify", *paths], env)
    about = [line for line in f"{done.stdout}\n{done.stderr}".splitlines() if any(unit in line for unit in units)]
    return about or ([] if done.returncode == 0 else [f"systemd-analyze ended with {done.returncode}"])


def install(*, port: int, queue: str, env: Mapping[str, str] = os.environ) -> list[Path]:
    """Write the units; their paths. ConfigurationError when systemd would not take them."""
    units = {name: render((shipped() / name).read_text(), port=port, queue=queue, env=env) for name in NAMES}
    complaints = verify(units)
    if complaints:
        raise ConfigurationError(f"systemd does not take the units: {complaints[0]}. Nothing was installed.")
    folder = units_dir(env)
    for name, text in units.items():
        write_private(folder / name, text.encode())
    return [folder / name for name in NAMES]


def systemctl(*arguments: str) -> None:
    """Run ``systemctl --user``. ResourceError with what it said when it fails."""
    done = _run(["systemctl", "--user", *arguments])
    if done.returncode != 0:
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise ResourceError(f"`systemctl --user {' '.join(arguments)}` failed: {said}. Correct that and run it again.")


def has_user_manager() -> bool:
    """Whether systemd runs for this user."""
    return shutil.which("systemctl") is not None and _run(["systemctl", "--user", "show-environment"]).returncode == 0


def is_active(unit: str) -> bool:
    """Whether the unit runs."""
    return shutil.which("systemctl") is not None and (
        _run(["systemctl", "--user", "--quiet", "is-active", unit]).returncode == 0
    )


def _run(command: list[str], env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=RUN_SECONDS, env=env, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired as error:
        raise ResourceError(f"{command[0]} did not end within {RUN_SECONDS:.0f} seconds; try it by hand.") from error

"""The real programs the tests run: restic in two versions, Debian's small tools, and BackupIQ's own console script.

``python -m tests.support.programs`` brings what is missing: Debian packages when run as root, and into ``.tools/`` the
newest restic, built with Go, and Azurite, Azure's storage server for tests, from npm. A program that cannot be had
makes its tests skip with the reason printed; with ``CI=true`` a missing Debian program fails them instead.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import EllipsisType
from typing import Any, NoReturn

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / ".tools"

NEWEST_RESTIC = "0.19.1"
AZURITE = "3.37.0"
DEBIAN_PACKAGES = {
    "restic": "restic",
    "rsync": "rsync",
    "setfacl": "acl",
    "setfattr": "attr",
    "node": "nodejs",
    "npm": "npm",
    "git": "git",
    "pg_ctlcluster": "postgresql",
    "chromium": "chromium",
    "promtool": "prometheus",
    "prometheus": "prometheus",
}
"""Program -> the Debian package that brings it."""

RUN_SECONDS = 600.0
"""How long a program under test may run before the test fails. Generous: the machine may be busy."""

Argument = str | bytes | os.PathLike[str] | os.PathLike[bytes]
Completed = subprocess.CompletedProcess[str]


def in_ci() -> bool:
    return os.environ.get("CI", "").lower() == "true"


def is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


def unavailable(reason: str) -> NoReturn:
    """Ends the test: skipped with its reason, or failed where everything has to be there (CI=true)."""
    if in_ci():
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def require(program: str) -> Path:
    """The path of a program on PATH; ends the test when it is not there (see `unavailable`)."""
    found = shutil.which(program)
    if found is None:
        package = DEBIAN_PACKAGES.get(program, program)
        unavailable(f"{program} is not on this machine; install the package {package}, or run `make test` as root")
    return Path(found)


def plain_environment() -> dict[str, str]:
    """This process's environment without anything that steers the programs under test."""
    steering = ("BACKUPIQ_", "PREFECT_", "RESTIC_", "XDG_")
    return {name: value for name, value in os.environ.items() if not name.startswith(steering)}


def isolated_home(home: Path) -> dict[str, str]:
    """The variables that keep every per-user folder below ``home``."""
    return {
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / ".config"),
        "XDG_CACHE_HOME": str(home / ".cache"),
        "XDG_STATE_HOME": str(home / ".local/state"),
        "XDG_DATA_HOME": str(home / ".local/share"),
    }


def run_program(
    command: Sequence[Argument],
    *,
    env: Mapping[str, str],
    check: bool = True,
    cwd: Path | None = None,
    stdin: str = "",
    timeout: float = RUN_SECONDS,
) -> Completed:
    """Runs a program to its end. Bytes that are not UTF-8 come back as surrogate escapes.

    Raises AssertionError with all the program printed when ``check`` is set and its exit code is not 0.
    """
    done = subprocess.run(
        [os.fsdecode(part) for part in command],
        env=dict(env),
        cwd=cwd,
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        timeout=timeout,
        check=False,
    )
    if check and done.returncode != 0:
        shown = " ".join(repr(os.fsdecode(part)) for part in command)
        output = f"{done.stdout}{done.stderr}".encode("utf-8", "backslashreplace").decode()
        raise AssertionError(f"{shown} ended with exit code {done.returncode}:\n{output}")
    return done


@dataclasses.dataclass(frozen=True)
class Restic:
    """One version of the real restic, with a cache and a home of its own."""

    program: Path
    version: str
    home: Path

    def environment(self, repo: Argument | None = None, password: str | None = None) -> dict[str, str]:
        env = plain_environment() | isolated_home(self.home) | {"RESTIC_CACHE_DIR": str(self.home / "cache")}
        if repo is not None:
            env["RESTIC_REPOSITORY"] = os.fsdecode(repo)
        if password is not None:
            env["RESTIC_PASSWORD"] = password
        return env

    def run(
        self,
        *args: Argument,
        repo: Argument | None = None,
        password: str | None = None,
        check: bool = True,
        cwd: Path | None = None,
        stdin: str = "",
        timeout: float = RUN_SECONDS,
    ) -> Completed:
        """Runs ``restic ARGS``; see `run_program`. Its output has no progress, as it is no terminal."""
        env = self.environment(repo, password)
        return run_program([self.program, *args], env=env, check=check, cwd=cwd, stdin=stdin, timeout=timeout)

    def json(self, *args: Argument, repo: Argument | None = None, password: str | None = None) -> Any:
        """What ``restic ARGS --json`` printed: the value, or a list of values when it prints one a line."""
        return parse_json(self.run(*args, "--json", repo=repo, password=password).stdout)


@dataclasses.dataclass(frozen=True)
class BackupIQ:
    """The installed ``backupiq`` console script, run with a home of its own."""

    program: Path
    home: Path
    password: str | None
    settings: Mapping[str, str]
    """More variables: where Prefect's API is, and the like."""
    started: list[subprocess.Popen[str]] = dataclasses.field(default_factory=list)

    def environment(
        self, password: str | EllipsisType | None = ..., env: Mapping[str, str | None] | None = None
    ) -> dict[str, str]:
        """The variables of one run. A ``password`` of None gives none; a variable of None in ``env`` is taken out."""
        merged: dict[str, str | None] = {**plain_environment(), **isolated_home(self.home), **self.settings}
        merged["BACKUPIQ_PASSWORD"] = self.password if isinstance(password, EllipsisType) else password
        merged.update(env or {})
        return {name: value for name, value in merged.items() if value is not None}

    def run(
        self,
        *args: Argument,
        password: str | EllipsisType | None = ...,
        check: bool = True,
        env: Mapping[str, str | None] | None = None,
        cwd: Path | None = None,
        stdin: str = "",
        timeout: float = RUN_SECONDS,
    ) -> Completed:
        """Runs ``backupiq ARGS`` to its end; see `run_program`."""
        full = self.environment(password, env)
        return run_program([self.program, *args], env=full, check=check, cwd=cwd, stdin=stdin, timeout=timeout)

    __call__ = run

    def json(
        self,
        *args: Argument,
        password: str | EllipsisType | None = ...,
        check: bool = True,
        env: Mapping[str, str | None] | None = None,
        cwd: Path | None = None,
    ) -> Any:
        """What ``backupiq ARGS --json`` printed: the value, or a list of values when it prints one a line."""
        return parse_json(self.run(*args, "--json", password=password, check=check, env=env, cwd=cwd).stdout)

    def start(
        self,
        *args: Argument,
        password: str | EllipsisType | None = ...,
        env: Mapping[str, str | None] | None = None,
        cwd: Path | None = None,
    ) -> subprocess.Popen[str]:
        """Starts ``backupiq ARGS`` in a process group of its own and returns at once.

        Read it with ``communicate(timeout=...)``. Whatever still runs is killed when the test ends.
        """
        process = subprocess.Popen(
            [str(self.program), *(os.fsdecode(arg) for arg in args)],
            env=self.environment(password, env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="surrogateescape",
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def stop_all(self) -> None:
        """Kills every process that `start` began and that still runs."""
        for process in self.started:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        self.started.clear()


def backupiq_program() -> Path:
    """The console script of the environment that runs the tests."""
    program = Path(sys.executable).with_name("backupiq.exe" if os.name == "nt" else "backupiq")
    if not program.exists():
        pytest.fail(f"{program} is not installed; run `make venv`", pytrace=False)
    return program


def parse_json(text: str) -> Any:
    """One JSON value, or the list of them when there is one on each line."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return [json.loads(line) for line in text.splitlines() if line.strip()]


def restic_version(program: Path) -> str:
    """The version a restic program says it is, such as ``0.14.0``."""
    said = subprocess.run([str(program), "version"], capture_output=True, text=True, check=True).stdout
    match = re.match(r"restic (\S+)", said)
    if match is None:
        raise AssertionError(f"{program} version printed {said!r}")
    return match.group(1)


def debian_restic(home: Path) -> Restic:
    """The restic on PATH; ends the test when there is none."""
    program = require("restic")
    return Restic(program, restic_version(program), home)


def newest_restic(home: Path) -> Restic:
    """The pinned newest restic out of ``.tools/``; skips the test, with the reason, when it could not be built."""
    program = newest_restic_path()
    if not program.exists():
        why = _reason_path()
        pytest.skip(why.read_text().strip() if why.exists() else _not_built("run `make programs`"))
    return Restic(program, restic_version(program), home)


def newest_restic_path() -> Path:
    return TOOLS / f"restic-{NEWEST_RESTIC}"


def _reason_path() -> Path:
    return TOOLS / f"restic-{NEWEST_RESTIC}.reason"


def _not_built(why: str) -> str:
    return f"restic {NEWEST_RESTIC} is not built: {why}"


def azurite_command() -> list[str]:
    """Node with Azurite's blob server out of ``.tools/``; ends the test when it is not there (see `unavailable`)."""
    if not _azurite_is_there():
        unavailable(f"Azurite {AZURITE} is not installed; run `make programs` (it needs npm)")
    return [str(require("node")), str(TOOLS / "azurite/node_modules/azurite/dist/src/blob/main.js")]


def _azurite_is_there() -> bool:
    described = TOOLS / "azurite/node_modules/azurite/package.json"
    return described.exists() and json.loads(described.read_text())["version"] == AZURITE


# --- bringing the programs -----------------------------------------------------------------------------------------


def without_addresses(text: str) -> str:
    """Text of a download tool without the addresses it names: they differ by machine and may hold credentials."""
    text = re.sub(r"\b[a-z][a-z0-9+.-]*://[^\s'\"]+", "<address>", text)
    text = re.sub(r"host='[^']*'", "host=<address>", text)
    return re.sub(r"\blookup \S+( on \S+)?", "lookup <address>", text)


def _quiet(command: list[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str | None:
    """Runs a tool without showing its output; None when it succeeded, else its last lines without addresses."""
    try:
        done = subprocess.run(
            command, cwd=cwd, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
    except OSError as error:
        return f"{command[0]} cannot be started: {error.strerror}"
    if done.returncode == 0:
        return None
    return without_addresses(" / ".join(done.stdout.strip().splitlines()[-3:])) or f"exit code {done.returncode}"


def bring_debian_packages() -> list[str]:
    """Installs the Debian programs that are missing, when root on Debian. One line for each thing to say."""
    missing = sorted({package for program, package in DEBIAN_PACKAGES.items() if shutil.which(program) is None})
    if not missing:
        return []
    if not is_root() or shutil.which("apt-get") is None:
        return [f"not installed, their tests are skipped: {' '.join(missing)} (install them, or run as root on Debian)"]
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
    problem = _quiet(install, env=env)
    if problem is not None:
        problem = _quiet(["apt-get", "update"], env=env) or _quiet(install, env=env)
    return [f"installed: {' '.join(missing)}" if problem is None else f"could not install {missing}: {problem}"]


def bring_newest_restic() -> list[str]:
    """Builds the pinned newest restic into ``.tools/`` with Go, once. One line for each thing to say."""
    program, reason = newest_restic_path(), _reason_path()
    if program.exists():
        return []
    TOOLS.mkdir(exist_ok=True)
    problem = "Go is not on this machine" if shutil.which("go") is None else _build_restic(program)
    if problem is None:
        reason.unlink(missing_ok=True)
        return [f"built: restic {restic_version(program)}"]
    reason.write_text(_not_built(problem) + "\n")
    return [f"{_not_built(problem)}; its tests are skipped"]


def _build_restic(target: Path) -> str | None:
    """Builds restic's command as a dependency of a throw-away module; None, or why it failed.

    `go install module@version` asks the module proxy for a list of versions, which not every proxy gives; a module
    that requires the exact version needs no list.
    """
    print(f"building restic {NEWEST_RESTIC} with Go (once, a few minutes)", flush=True)
    package = "github.com/restic/restic"
    with tempfile.TemporaryDirectory(dir=TOOLS) as folder:
        module = Path(folder)
        (module / "go.mod").write_text(f"module resticbuild\n\ngo 1.24\n\nrequire {package} v{NEWEST_RESTIC}\n")
        imported = f'import _ "{package}/cmd/restic"'
        (module / "tools.go").write_text(f"//go:build tools\n\npackage resticbuild\n\n{imported}\n")
        built = module / "restic"
        problem = _quiet(["go", "build", "-mod=mod", "-o", str(built), f"{package}/cmd/restic"], cwd=module)
        if problem is None:
            built.replace(target)
    return problem


def bring_azurite() -> list[str]:
    """Installs the pinned Azurite into ``.tools/`` with npm, once. One line for each thing to say."""
    if _azurite_is_there():
        return []
    print(f"installing Azurite {AZURITE} with npm (once, about a minute)", flush=True)
    quiet = ["--no-save", "--no-audit", "--no-fund", "--loglevel=error"]
    problem = _quiet(["npm", "install", f"azurite@{AZURITE}", *quiet, "--prefix", str(TOOLS / "azurite")])
    if problem is None:
        return [f"installed: Azurite {AZURITE}"]
    return [f"Azurite {AZURITE} is not installed: {problem}; its tests are skipped"]


def main() -> None:
    for line in bring_debian_packages() + bring_newest_restic() + bring_azurite():
        print(line, flush=True)


if __name__ == "__main__":
    main()

"""What doctor looks at: each check is a function that gives its findings and raises nothing it expects."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from backupiq.cli.output import human_bytes
from backupiq.errors import BackupIQError
from backupiq.state import config_dir

LEAST_PYTHON = (3, 11)
LEAST_OPEN_FILES = 1024
LOW_SPACE, NO_SPACE = 1 << 30, 64 << 20
MOST_CLOCK_SKEW_SECONDS = 300.0
THIS_CODE_IS_NEWER_THAN = datetime(2026, 1, 1, tzinfo=UTC).timestamp()

_LIBRARIES = (
    "prefect",
    "sqlalchemy",
    "cryptography",
    "zstandard",
    "msgspec",
    "pyfastcdc",
    "pathspec",
    "pydantic",
    "structlog",
)
_VERSION_LIMITS = {
    "sqlalchemy": ((2, 0), (2, 1), "Prefect's schedules never run with SQLAlchemy 2.1: pip install 'sqlalchemy<2.1'"),
    "prefect": ((3, 8), (4, 0), "install the version that BackupIQ is made for: pip install 'prefect>=3.8.8,<4'"),
}


class Level(StrEnum):
    """How a finding counts."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the examination; ``advice`` says what to do about a warning or a problem."""

    check: str
    level: Level
    text: str
    advice: str = ""

    def to_dict(self) -> dict[str, str]:
        """Plain JSON values."""
        return asdict(self)


def check_python(version: tuple[int, ...] = sys.version_info[:3]) -> Iterator[Finding]:
    """Python's own version."""
    text = f"Python {'.'.join(map(str, version))}"
    if version[:2] < LEAST_PYTHON:
        yield Finding("python", Level.PROBLEM, text, "install Python 3.11 or newer")
    else:
        yield Finding("python", Level.OK, text)


def check_libraries(version_of: Callable[[str], str] = importlib.metadata.version) -> Iterator[Finding]:
    """Versions of the libraries, and those that are known not to work."""
    found: list[str] = []
    for name in _LIBRARIES:
        try:
            version = version_of(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding("libraries", Level.PROBLEM, f"{name} is not installed", "install BackupIQ again with pip")
            continue
        found.append(f"{name} {version}")
        least, below, advice = _VERSION_LIMITS.get(name, ((0,), (sys.maxsize,), ""))
        numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
        if not least <= numbers < below:
            yield Finding("libraries", Level.PROBLEM, f"{name} {version} does not work with BackupIQ", advice)
    yield Finding("libraries", Level.OK, ", ".join(found))


def check_clock(now: float | None = None) -> Iterator[Finding]:
    """This machine's clock, as far as it can be judged alone."""
    now = time.time() if now is None else now
    text = f"the clock says {datetime.fromtimestamp(now, UTC):%Y-%m-%d %H:%M:%S} UTC"
    if now < THIS_CODE_IS_NEWER_THAN:
        yield Finding(
            "clock", Level.PROBLEM, f"{text}, which is in the past", "set the clock, for example with timedatectl"
        )
    else:
        yield Finding("clock", Level.OK, text)


def check_open_files() -> Iterator[Finding]:
    """The limit on open files, where the platform has one."""
    try:
        import resource
    except ImportError:
        return
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < LEAST_OPEN_FILES:
        text = f"a process may open only {soft} files"
        yield Finding("open files", Level.WARNING, text, f"raise the limit: ulimit -n {LEAST_OPEN_FILES}")
    else:
        yield Finding("open files", Level.OK, "no limit" if soft < 0 else f"a process may open {soft} files")


def check_configuration_folder(folder: Path | None = None) -> Iterator[Finding]:
    """Whether others may read the kept passwords."""
    folder = config_dir() if folder is None else folder
    if not folder.is_dir():
        yield Finding("configuration", Level.OK, f"{folder} is not there yet")
        return
    exposed = []
    for path in sorted(folder.rglob("*")) if os.name == "posix" else []:
        if path.is_file() and stat.S_IMODE(path.stat().st_mode) & 0o077:
            exposed.append(path)
    for path in exposed:
        yield Finding("configuration", Level.PROBLEM, f"other users may read {path}", f"run: chmod 600 '{path}'")
    if not exposed:
        yield Finding("configuration", Level.OK, f"{folder} is private")


def check_spool_folder(folder: Path | None = None) -> Iterator[Finding]:
    """The space where packs wait for their upload."""
    if folder is None:
        from backupiq.archive.spool import default_parent

        folder = default_parent()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not os.access(existing, os.W_OK):
        advice = "give yourself the right to write there, or set BACKUPIQ_SPOOL to another folder"
        yield Finding("spool folder", Level.PROBLEM, f"{existing} cannot be written", advice)
        return
    free = shutil.disk_usage(existing).free
    yield space_finding("spool folder", str(folder), free, "free space there, or set BACKUPIQ_SPOOL to another disk")


def space_finding(check: str, place: str, free: int | None, advice: str) -> Finding:
    """Judge the free bytes at a place."""
    if free is None:
        return Finding(check, Level.OK, f"{place} does not tell its free space")
    text = f"{place} has {human_bytes(free)} free"
    if free < NO_SPACE:
        return Finding(check, Level.PROBLEM, text, advice)
    return Finding(check, Level.WARNING, text, advice) if free < LOW_SPACE else Finding(check, Level.OK, text)


def check_restic() -> Iterator[Finding]:
    """The second program that can read the backups; not needed to make them."""
    found = shutil.which("restic")
    if found:
        yield Finding("restic", Level.OK, f"{found} can read the backups too")
    else:
        yield Finding("restic", Level.OK, "not installed; it is not needed, but it could read the backups too")


def check_prefect() -> Iterator[Finding]:
    """Prefect's API: whether it answers, its version and its kind of database; or that the embedded one serves."""
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    if not settings.api.url:
        connection = settings.server.database.connection_url
        kind = _database_kind(connection.get_secret_value() if connection is not None else "sqlite")
        yield Finding("prefect", Level.OK, f"no API is configured: each run uses an embedded server with {kind}")
        return
    yield from _ask_prefect(re.sub(r"//[^/@]*@", "//", str(settings.api.url)))


def _ask_prefect(where: str) -> Iterator[Finding]:
    import httpx
    from prefect.client.orchestration import get_client

    advice = "start the server, correct PREFECT_API_URL, or unset it to use the embedded server"
    try:
        with get_client(sync_client=True) as client:
            error = client.api_healthcheck()
            if error is not None:
                reason = type(error).__name__
                yield Finding("prefect", Level.PROBLEM, f"the API at {where} does not answer ({reason})", advice)
                return
            response = client.request("GET", "/admin/version")
            version = str(response.json())
            settings: dict[str, Any] = client.request("GET", "/admin/settings").json()
    except (httpx.HTTPError, ValueError, RuntimeError) as error:
        reason = type(error).__name__
        yield Finding("prefect", Level.PROBLEM, f"the API at {where} cannot be used ({reason})", advice)
        return
    driver = settings.get("server", {}).get("database", {}).get("driver")
    kind = _database_kind(driver) if driver else "a database it does not name"
    yield Finding("prefect", Level.OK, f"the API at {where} answers: Prefect {version} with {kind}")
    yield from _skew(response.headers.get("date"))
    own = importlib.metadata.version("prefect")
    if version.split(".")[:2] != own.split(".")[:2]:
        text = f"the server has Prefect {version}, this machine {own}"
        yield Finding("prefect", Level.WARNING, text, "use the same version at both")


def _skew(date: str | None) -> Iterator[Finding]:
    if not date:
        return
    seconds = abs(parsedate_to_datetime(date).timestamp() - time.time())
    if seconds > MOST_CLOCK_SKEW_SECONDS:
        text = f"the clocks of this machine and of Prefect's server differ by {seconds:.0f} s"
        yield Finding("clock", Level.WARNING, text, "set both by NTP")


def _database_kind(url_or_driver: str) -> str:
    return "PostgreSQL" if url_or_driver.startswith("postgres") else "SQLite"


def from_error(check: str, error: BackupIQError, level: Level = Level.PROBLEM) -> Finding:
    """An error of ours as a finding; its message says what to do already."""
    return Finding(check, level, error.message)

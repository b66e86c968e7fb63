"""What every test can ask for: the real programs, one Prefect server for the session, small file systems."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.prefect_server import PrefectServer, acquire_shared_server, release_shared_server
from tests.support.programs import (
    ROOT,
    BackupIQ,
    Restic,
    backupiq_program,
    debian_restic,
    in_ci,
    is_root,
    newest_restic,
    unavailable,
)

SHARED = "BACKUPIQ_TEST_SHARED"
"""The variable that names the folder all processes of one test session share."""

# A busy machine is no error in the code: nothing here may depend on how long an example takes.
settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("repeatable", settings.get_profile("local"), derandomize=True, print_blob=True)


def pytest_configure(config: pytest.Config) -> None:
    if str(ROOT) not in sys.path:  # so that `pytest` finds tests and benchmarks as `python -m pytest` does
        sys.path.insert(0, str(ROOT))
    settings.load_profile("repeatable" if in_ci() else "local")
    # Started in the background by a shell, this process ignores Ctrl-C, and so would the programs it tests.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if not hasattr(config, "workerinput"):
        os.environ[SHARED] = tempfile.mkdtemp(prefix="backupiq-tests-")


def pytest_unconfigure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput") or SHARED not in os.environ:
        return
    shared = Path(os.environ.pop(SHARED))
    for folder in sorted((shared / "prefect").glob("*")):
        release_shared_server(folder, everybody=True)
    shutil.rmtree(shared, ignore_errors=True)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("root") is not None and not is_root():
        pytest.skip("needs the super-user: owners, devices or mounts")


@pytest.fixture
def repo_password() -> str:
    """A password with everything that a shell, JSON or an encoding could trip over."""
    return "correct horse 'battery' \"staple\" $HOME é€😀"


# --- restic --------------------------------------------------------------------------------------------------------


@pytest.fixture
def restic_old(tmp_path_factory: pytest.TempPathFactory) -> Restic:
    """Debian's restic, the one on PATH."""
    return debian_restic(tmp_path_factory.mktemp("restic-home"))


@pytest.fixture
def restic_new(tmp_path_factory: pytest.TempPathFactory) -> Restic:
    """The newest restic, built with Go; skips with its reason where there is none."""
    return newest_restic(tmp_path_factory.mktemp("restic-home"))


@pytest.fixture(params=["restic_old", "restic_new"])
def restic(request: pytest.FixtureRequest) -> Restic:
    """Each of the two versions in turn."""
    found: Restic = request.getfixturevalue(request.param)
    return found


# --- BackupIQ and Prefect ------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[PrefectServer]:
    """The one real Prefect server of this process's tests: with SQLite, what others write would keep them waiting."""
    folder = Path(os.environ[SHARED]) / "prefect" / os.environ.get("PYTEST_XDIST_WORKER", "alone")
    server = acquire_shared_server(folder)
    try:
        yield server
    finally:
        release_shared_server(folder)


@pytest.fixture
def backupiq(
    prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory, repo_password: str
) -> Iterator[BackupIQ]:
    """The console script with a home of its own, the session's Prefect server, and ``repo_password`` as password."""
    home = tmp_path_factory.mktemp("home")
    yield from _run_and_stop(BackupIQ(backupiq_program(), home, repo_password, prefect_server.settings(home)))


@pytest.fixture
def backupiq_alone(tmp_path_factory: pytest.TempPathFactory, repo_password: str) -> Iterator[BackupIQ]:
    """The same without a Prefect server: for commands that use none, or to test the embedded one."""
    home = tmp_path_factory.mktemp("home")
    prefect = {
        "PREFECT_HOME": str(home / ".prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
        "DO_NOT_TRACK": "1",
    }
    yield from _run_and_stop(BackupIQ(backupiq_program(), home, repo_password, prefect))


def _run_and_stop(program: BackupIQ) -> Iterator[BackupIQ]:
    try:
        yield program
    finally:
        program.stop_all()


# --- file systems --------------------------------------------------------------------------------------------------


@pytest.fixture
def tmpfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[int], Path]]:
    """Mounts an empty file system that holds ``size`` bytes and gives its folder; needs the super-user."""
    mounted: list[Path] = []

    def mount(size: int) -> Path:
        if not is_root():
            pytest.skip("needs the super-user: mounts a small file system")
        folder = tmp_path_factory.mktemp("tmpfs")
        command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            unavailable(f"a small file system cannot be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    try:
        yield mount
    finally:
        for folder in mounted:
            # Lazily: a program under test that was killed may still hold a file there for a moment.
            subprocess.run(["umount", "-l", str(folder)], check=True)

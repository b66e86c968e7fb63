"""Repositories that the real restic made, and a terminal to type passwords at."""

from __future__ import annotations

import dataclasses
import os
import select
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.programs import BackupIQ, Restic, backupiq_program, debian_restic, isolated_home, plain_environment

PASSWORD = "a password with spaces"
AWKWARD = b"line\nbreak \x1b[31m \\ \xff"


@dataclasses.dataclass(frozen=True)
class Sample:
    """A repository with two snapshots of one folder, made by restic, and the folder as it is in the second."""

    repo: Path
    source: Path
    first: str
    second: str
    password_file: Path

    def within(self, *parts: str) -> str:
        """A path as the snapshots name it."""
        return os.path.join(str(self.source), *parts)


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    restic = debian_restic(tmp_path_factory.mktemp("restic-home"))
    base = tmp_path_factory.mktemp("sample")
    repo, source, password_file = base / "repo", base / "source", base / "password"
    password_file.write_text(PASSWORD + "\n")
    password_file.chmod(0o600)
    restic.run("init", "--repository-version", "2", repo=repo, password=PASSWORD)
    _first_state(source)
    first = _backup(restic, repo, source, "tag-one")
    _second_state(source)
    second = _backup(restic, repo, source, "tag-one,tag-two")
    return Sample(repo, source, first, second, password_file)


def _first_state(source: Path) -> None:
    (source / "kept" / "deep").mkdir(parents=True)
    (source / "kept" / "deep" / "same").write_bytes(b"same" * 1000)
    (source / "changed").write_bytes(b"before")
    (source / "removed").write_bytes(b"r" * 5000)
    (source / "mode").write_bytes(b"mode")
    (source / "mode").chmod(0o644)
    (source / "becomes-folder").write_bytes(b"file")
    (source / "link").symlink_to("changed")
    (source / "one-name").write_bytes(b"two names" * 100)
    os.link(source / "one-name", source / "other-name")
    with open(os.path.join(os.fsencode(source), AWKWARD), "wb") as file:
        file.write(b"awkward")
    (source / "zeros").write_bytes(bytes(3_000_000))


def _second_state(source: Path) -> None:
    (source / "changed").write_bytes(b"after, and longer")
    (source / "removed").unlink()
    (source / "mode").chmod(0o6755)
    (source / "becomes-folder").unlink()
    (source / "becomes-folder").mkdir()
    (source / "becomes-folder" / "inside").write_bytes(b"inside")
    (source / "added").write_bytes(b"a" * 123)
    (source / "link").unlink()
    (source / "link").symlink_to("elsewhere")


def _backup(restic: Restic, repo: Path, source: Path, tags: str) -> str:
    restic.run("backup", "--quiet", "--host", "machine", "--tag", tags, source, repo=repo, password=PASSWORD)
    found = restic.json("snapshots", "--latest", "1", repo=repo, password=PASSWORD)
    identifier: str = found[0]["id"]
    return identifier


@pytest.fixture
def own_sample(sample: Sample, tmp_path: Path) -> Sample:
    """A copy of the sample's repository that a test may change."""
    repo = tmp_path / "repo"
    shutil.copytree(sample.repo, repo)
    return dataclasses.replace(sample, repo=repo)


@pytest.fixture
def program(tmp_path: Path) -> Iterator[BackupIQ]:
    """The console script with an empty home, no password in the environment and no Prefect server."""
    home = tmp_path / "home"
    home.mkdir()
    settings = {"PREFECT_HOME": str(home / ".prefect"), "DO_NOT_TRACK": "1"}
    started = BackupIQ(backupiq_program(), home, None, settings)
    try:
        yield started
    finally:
        started.stop_all()


@pytest.fixture
def reading(program: BackupIQ, sample: Sample) -> Callable[..., object]:
    """Runs a command on the sample repository with its password and returns the finished process."""

    def run(*arguments: str, check: bool = True) -> object:
        return program.run(*arguments, "--repo", sample.repo, "--password-file", sample.password_file, check=check)

    return run


class Terminal:
    """The console script on a terminal of its own."""

    def __init__(self, arguments: list[str], env: dict[str, str]) -> None:
        import pty

        self.shown = b""
        self._pid, self._descriptor = pty.fork()
        if self._pid == 0:
            os.execve(arguments[0], arguments, env)  # noqa: S606
        self._status: int | None = None

    def expect(self, text: str, seconds: float = 120.0) -> None:
        """Wait until the program has shown the text."""
        deadline = time.monotonic() + seconds
        while text.encode() not in self.shown:
            if not self._read(deadline):
                raise AssertionError(f"{text!r} was not shown, but: {self.shown.decode(errors='replace')}")

    def type(self, line: str) -> None:
        self.shown = b""
        os.write(self._descriptor, line.encode() + b"\n")

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        os.write(self._descriptor, b"\x03")

    def wait(self, seconds: float = 120.0) -> int:
        """The exit code, once the program has ended."""
        deadline = time.monotonic() + seconds
        while self._read(deadline):
            pass
        if self._status is None:
            _, status = os.waitpid(self._pid, 0)
            self._status = os.waitstatus_to_exitcode(status)
        return self._status

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._descriptor], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise AssertionError(f"nothing more was shown in time after: {self.shown.decode(errors='replace')}")
        try:
            data = os.read(self._descriptor, 65536)
        except OSError:  # how Linux reports that the other end has closed
            data = b""
        self.shown += data
        return bool(data)


@pytest.fixture
def terminal(tmp_path: Path) -> Callable[..., Terminal]:
    """Starts the console script on a terminal; the second argument adds variables."""
    pytest.importorskip("pty")
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)

    def start(*arguments: str | Path, **env: str) -> Terminal:
        full = plain_environment() | isolated_home(home) | {"TERM": "xterm", "COLUMNS": "160"} | env
        return Terminal([str(backupiq_program()), *map(str, arguments)], full)

    return start

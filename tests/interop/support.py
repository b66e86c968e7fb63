"""What the tests against the real restic share: programs for a whole module, small trees, repositories, comparisons."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backupiq.repository.gojson import parse_time_ns
from tests.support.mixed_tree import make_mixed_tree
from tests.support.prefect_server import PrefectServer
from tests.support.programs import (
    BackupIQ,
    Restic,
    backupiq_program,
    debian_restic,
    is_root,
    newest_restic,
    require,
    run_program,
)

PASSWORD = "correct horse 'battery' \"staple\" $HOME é€😀"
VERSIONS = ("old", "new")
"""Debian's restic and the newest one."""
DEADLINE = 300.0
"""Seconds after which something that has to happen is a failure. Nothing is judged by how long it took."""

_CHANGE = re.compile(r"^([+MTU-]+) +(/.*)$")


def restic_of(version: str, factory: pytest.TempPathFactory) -> Restic:
    """One of ``VERSIONS`` for a fixture that outlives a test; skips where it is missing."""
    make = debian_restic if version == "old" else newest_restic
    return make(factory.mktemp("restic-home"))


@contextlib.contextmanager
def console_script(factory: pytest.TempPathFactory, server: PrefectServer) -> Iterator[BackupIQ]:
    """The console script with a home of its own, for a fixture that outlives a test."""
    home = factory.mktemp("home")
    program = BackupIQ(backupiq_program(), home, PASSWORD, server.settings(home))
    try:
        yield program
    finally:
        program.stop_all()


# --- trees ---------------------------------------------------------------------------------------------------------


def make_small_tree(root: Path, *, files: int = 200, total_bytes: int = 3_000_000, seed: int = 1) -> None:
    """An ordinary folder of a few MB with names in UTF-8, links, an empty file and folder, and one of some MB."""
    make_mixed_tree(root, files=files, total_bytes=total_bytes, seed=seed)
    odd = root / "odd"
    odd.mkdir()
    for name in ('quote" and \\ back', "two\nlines", "Ünïcödé 😀", "<&>"):
        (odd / name).write_text(name)
    (odd / "empty").write_bytes(b"")
    (odd / "empty folder").mkdir()
    (odd / "link").symlink_to("two\nlines")
    os.link(odd / "<&>", odd / "hard link")
    (odd / "several blobs").write_bytes(b"".join(b"%d %d\n" % (seed, n * n) for n in range(300_000)))
    # So that the folders' times are not those of now, which would hide one that was not restored.
    for folder, _, _ in os.walk(root, topdown=False):
        os.utime(folder, ns=(1_500_000_000_000_000_007, 1_500_000_000_000_000_007))


def copy_tree(source: Path, target: Path) -> Path:
    """A copy with all attributes, made by cp."""
    run_program(["cp", "-a", source, target], env=dict(os.environ))
    return target


def below(target: Path, source: Path) -> Path:
    """Where an absolute path stands after a restore."""
    return target / source.relative_to("/")


def rsync_differences(a: Path, b: Path) -> str:
    """What rsync would do to make ``b`` equal to ``a`` in contents and all attributes; nothing when they are equal."""
    options = ["-aHXn", "--checksum", "--itemize-changes", "--delete"]
    options += ["-A"] if _knows_acls() else []
    # An ordinary user cannot give files away, so the owners of what it restored are its own.
    options += [] if is_root() else ["--no-owner", "--no-group"]
    return run_program([require("rsync"), *options, f"{a}/", f"{b}/"], env=dict(os.environ)).stdout


def _knows_acls() -> bool:
    return "no ACLs" not in run_program([require("rsync"), "--version"], env=dict(os.environ)).stdout


Listing = dict[str, tuple[str, int | None, int, int, int]]
"""Path -> type, size of a file, mtime in nanoseconds, uid, gid."""


def listing_of_tree(root: Path) -> Listing:
    """What a listing of a snapshot of ``root`` has to say."""
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "dir", stat.S_IFLNK: "symlink"}
    found: Listing = {}
    for folder, folders, files in os.walk(root):
        for path in (folder, *(os.path.join(folder, name) for name in [*folders, *files])):
            seen = os.lstat(path)
            kind = kinds[stat.S_IFMT(seen.st_mode)]
            found[path] = (kind, seen.st_size if kind == "file" else None, seen.st_mtime_ns, seen.st_uid, seen.st_gid)
    return found


def listing_of_json(nodes: list[dict[str, Any]], root: Path) -> Listing:
    """The same from what ``ls --json`` prints, of either program, without the folders above ``root``."""
    found: Listing = {}
    for node in nodes:
        path = node.get("path", "")
        if node.get("struct_type") == "node" and (path == str(root) or path.startswith(f"{root}/")):
            size = node.get("size", 0) if node["type"] == "file" else None
            found[path] = (node["type"], size, parse_time_ns(node["mtime"]), node["uid"], node["gid"])
    return found


def changes_in_text(text: str) -> set[tuple[str, str]]:
    """(modifier, path) of every item that restic's ``diff`` prints; folders end in a slash."""
    found = [_CHANGE.match(line) for line in text.splitlines()]
    return {(match[1], match[2]) for match in found if match}


# --- repositories --------------------------------------------------------------------------------------------------


def assert_clean(restic: Restic, repo: Path, password: str = PASSWORD) -> None:
    """``restic check --read-data`` finds nothing wrong; what it prints is shown when it does."""
    said = restic.run("check", "--read-data", repo=repo, password=password).stdout
    assert "no errors were found" in said, said


def summary_of(lines: Any) -> dict[str, Any]:
    """The summary among the lines that ``restic backup --json`` prints."""
    found = [line for line in (lines if isinstance(lines, list) else [lines]) if line["message_type"] == "summary"]
    summary: dict[str, Any] = found[-1]
    return summary


def objects(repo: Path) -> dict[str, int]:
    """Every file of a repository in a folder with its size, but for locks."""
    files = [path for path in repo.rglob("*") if path.is_file()]
    return {str(path.relative_to(repo)): path.stat().st_size for path in files if path.parent.name != "locks"}


def locks(repo: Path) -> list[str]:
    """The names of the locks in a repository; empty too when there is no repository yet."""
    try:
        return sorted(name for name in os.listdir(repo / "locks") if len(name) == 64)
    except FileNotFoundError:
        return []


# --- programs at work ----------------------------------------------------------------------------------------------


def wait_for_line(process: subprocess.Popen[str], text: str) -> list[str]:
    """Reads the program's stderr until a line holds ``text``; the lines read. Fails when the program ends before."""
    assert process.stderr is not None
    lines: list[str] = []
    while not lines or text not in lines[-1]:
        line = process.stderr.readline()
        if not line:
            raise AssertionError(f"the program ended without saying {text!r}: {lines}")
        lines.append(line)
    return lines


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Waits for the program's end; its exit code, and what of its output was not read yet.

    For programs that print little to stdout. One that does not end in time is killed, which its exit code then tells.
    """
    assert process.stdout is not None
    assert process.stderr is not None
    watchdog = threading.Timer(DEADLINE, process.kill)
    watchdog.start()
    try:
        # Not communicate(), which passes over what wait_for_line has buffered.
        err, out = process.stderr.read(), process.stdout.read()
        return process.wait(), out, err
    finally:
        watchdog.cancel()


@contextlib.contextmanager
def stopped_with_an_exclusive_lock(restic: Restic, repo: Path, password: str) -> Iterator[subprocess.Popen[bytes]]:
    """A real ``restic check``, stopped (SIGSTOP) while it holds its exclusive lock. Continue it with SIGCONT."""
    assert locks(repo) == []
    command = [str(restic.program), "check"]
    env = restic.environment(repo, password)
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not locks(repo):
            assert process.poll() is None, "restic ended before its lock was seen"
            select.select([], [], [], 0.001)
        process.send_signal(signal.SIGSTOP)
        (name,) = locks(repo)
        held = restic.json("cat", "lock", name, "--no-lock", repo=repo, password=password)
        assert (held["exclusive"], held["pid"]) == (True, process.pid)
        yield process
    finally:
        process.kill()
        process.wait()


class Gate:
    """A FIFO at which a program stops that opens it for reading, until the test lets it go on.

    As the file of exclude patterns it holds a run before it looks for files; the repository is opened beside that.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)
        self._descriptor: int | None = None

    def wait(self, process: subprocess.Popen[str]) -> None:
        """Until the program stands at the gate. Fails when it ends before."""
        deadline = time.monotonic() + DEADLINE
        while self._descriptor is None:
            if process.poll() is not None:
                raise AssertionError(f"the program ended before the gate: {finish(process)}")
            if time.monotonic() > deadline:
                raise AssertionError("the program did not come to the gate")
            try:
                self._descriptor = os.open(self.path, os.O_WRONLY | os.O_NONBLOCK)
            except OSError as error:
                if error.errno != errno.ENXIO:  # which says that nobody reads yet
                    raise
                select.select([], [], [], 0.005)

    def open(self) -> None:
        """Let the program read on: an empty file of patterns."""
        assert self._descriptor is not None, "nobody stands at the gate"
        os.close(self._descriptor)
        self._descriptor = None

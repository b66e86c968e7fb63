"""Folders that other programs work on during the run, and items that an ordinary user may not read."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.interop.support import (
    assert_clean,
    below,
    copy_tree,
    finish,
    make_small_tree,
    wait_for_line,
)
from tests.support.compare import assert_same_tree
from tests.support.programs import BackupIQ, Restic, parse_json

NOBODY = 65534


def could_not_be_read(stderr: str) -> set[str]:
    """The paths that a run listed as unreadable. Each has its reason."""
    return set(re.findall(r"could not be read: (/.*): \S.*$", stderr, re.MULTILINE))


# --- changes during the run ----------------------------------------------------------------------------------------


def change_everything(folder: Path) -> None:
    """Every way in which an item can differ from what a walk has just seen."""
    (folder / "vanished").unlink()
    shutil.rmtree(folder / "vanished folder")
    with (folder / "grown").open("ab") as file:
        file.write(b"more" * 200_000)
    os.truncate(folder / "shrunk", 1000)
    os.truncate(folder / "emptied", 0)
    (folder / "written anew").write_bytes(b"ANEW!" * 200)
    (folder / "other").write_bytes(b"another file under the old name")
    (folder / "other").replace(folder / "replaced")
    (folder / "now a folder").unlink()
    (folder / "now a folder").mkdir()
    (folder / "now a folder" / "inside").write_bytes(b"inside")
    (folder / "now a symlink").unlink()
    (folder / "now a symlink").symlink_to("/etc/passwd")
    (folder / "now a FIFO").unlink()
    os.mkfifo(folder / "now a FIFO")
    (folder / "appeared").write_bytes(b"appeared")


NO_LONGER_FILES = ("vanished", "vanished folder/inside", "now a folder", "now a symlink", "now a FIFO")


def test_files_that_changed_since_the_walk_are_stored_as_they_are_and_the_lost_are_listed(
    backupiq: BackupIQ, restic: Restic, tmp_path: Path, repo_password: str
) -> None:
    source, repo = tmp_path / "source", tmp_path / "repo"
    make_small_tree(source / "a stable", files=40)
    # Read first and by one thread, it gives the test time to make the changes before the files behind it are read.
    (source / "b large").write_bytes(os.urandom(64 << 20))
    changing = source / "c changing"
    (changing / "vanished folder").mkdir(parents=True)
    names = ["grown", "shrunk", "emptied", "written anew", "replaced", *NO_LONGER_FILES]
    for name in names:
        (changing / name).write_bytes(b"before" * 10_000)

    run = backupiq.start("backup", source, "--to", repo, "--threads", "1")
    wait_for_line(run, "to go through")
    os.kill(run.pid, signal.SIGSTOP)
    change_everything(changing)
    os.kill(run.pid, signal.SIGCONT)
    code, out, err = finish(run)
    assert code == 3, out + err
    assert could_not_be_read(err) == {str(changing / name) for name in NO_LONGER_FILES}
    assert "Traceback" not in err

    assert_clean(restic, repo, repo_password)
    restic.run("restore", "latest", "--target", tmp_path / "target", repo=repo, password=repo_password)
    expected = copy_tree(source, tmp_path / "expected") / "c changing"
    (expected / "vanished folder").mkdir()
    for name in ("now a symlink", "now a FIFO", "appeared"):
        (expected / name).unlink()
    shutil.rmtree(expected / "now a folder")
    # Folders changed after the walk had seen them.
    assert_same_tree(tmp_path / "expected", below(tmp_path / "target", source), ignore={"folder_mtime"})

    # The next run finds all of it as it is.
    report = backupiq.json("backup", source, "--to", repo)
    assert (report["exit_code"], report["unreadable"]) == (0, [])
    backupiq("restore", "latest", "--repo", repo, "--target", tmp_path / "second")
    assert_same_tree(source, below(tmp_path / "second", source))


def test_a_run_over_files_that_never_rest_stores_a_consistent_snapshot(
    backupiq: BackupIQ, restic_old: Restic, tmp_path: Path, repo_password: str
) -> None:
    source, repo = tmp_path / "source", tmp_path / "repo"
    make_small_tree(source / "stable", files=40)
    restless = source / "restless"
    restless.mkdir()
    (restless / "log").write_bytes(b"line of a log\n" * 1_000_000)
    (restless / "flapping").write_bytes(os.urandom(20 << 20))
    with at_work(restless):
        done = backupiq("backup", source, "--to", repo, check=False)
    assert done.returncode in (0, 3), done.stderr
    assert all(path.startswith(str(restless / "churn")) for path in could_not_be_read(done.stderr))

    assert_clean(restic_old, repo, repo_password)
    # restic itself refuses to restore a file whose blobs do not add up to its size.
    restic_old.run("restore", "latest", "--verify", "--target", tmp_path / "target", repo=repo, password=repo_password)
    restored = below(tmp_path / "target", source)
    assert_same_tree(source / "stable", restored / "stable")
    log = (restored / "restless/log").read_bytes()
    assert len(log) >= 14_000_000
    assert (restless / "log").read_bytes().startswith(log), "what is stored of a growing file is its beginning"


class at_work:  # noqa: N801 - reads as what it is in a with statement
    """A thread that appends to one file, cuts and extends another, and makes and removes more, without a pause."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            if number % 20 == 1 and (self._folder / "log").stat().st_size < 100 << 20:
                with (self._folder / "log").open("ab") as log:
                    log.write(b"%d another line\n" % number)
            os.truncate(self._folder / "flapping", (number * 7919) % (20 << 20))
            (self._folder / f"churn {number % 50}").write_bytes(b"churn" * (number % 1000))
            (self._folder / f"churn {(number + 25) % 50}").unlink(missing_ok=True)
            self._stop.wait(0.001)


# --- what an ordinary user may not read ----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class OrdinaryUser:
    """Runs the console script as somebody to whom the modes of files apply, with a folder of its own."""

    program: BackupIQ
    folder: Path
    uid: int
    prefix: tuple[str, ...] = ()
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [*self.prefix, str(self.program.program), *map(str, arguments)]
        env = self.program.environment()
        options = {"env": env, "cwd": self.folder, "capture_output": True, "text": True, **self.options}
        return subprocess.run(command, check=False, **options)

    def can_run(self) -> bool:
        try:
            return self.run("--version").returncode == 0
        except OSError:
            return False


WITHOUT_PRIVILEGES = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--inh-caps=-all")
"""Root without the two capabilities that pass over modes: what may be read is then what its modes say."""


@pytest.fixture
def user(backupiq: BackupIQ) -> Iterator[OrdinaryUser]:
    """An ordinary user; where that user cannot reach the program (its Python may lie below /root), root without
    privileges over files."""
    folder = Path(tempfile.mkdtemp(prefix="backupiq-user-"))
    folder.chmod(0o755)
    home = folder / "home"
    home.mkdir()
    settings = {**backupiq.settings, "PREFECT_HOME": str(home / ".prefect"), "TMPDIR": str(home)}
    program = BackupIQ(backupiq.program, home, backupiq.password, settings)
    kinds = (
        OrdinaryUser(program, folder, NOBODY, options={"user": NOBODY, "group": NOBODY, "extra_groups": []}),
        OrdinaryUser(program, folder, 0, prefix=WITHOUT_PRIVILEGES),
    )
    try:
        for kind in kinds:
            for path in (folder, home):
                os.chown(path, kind.uid, kind.uid)
            if kind.can_run():
                yield kind
                return
        pytest.skip(f"neither the user {NOBODY} nor root without privileges can run {program.program}")
    finally:
        shutil.rmtree(folder)


CLOSED_FILES = ("file of another", "mode 0000")
CLOSED = (*CLOSED_FILES, "listed only/file", "closed folder", "folder not listed")
"""What is listed as unreadable; the first ones are seen by the walk and refused on opening."""


@pytest.mark.root
def test_what_an_ordinary_user_may_not_read_is_listed_and_everything_else_comes_back(
    user: OrdinaryUser, backupiq: BackupIQ, restic: Restic, tmp_path: Path, repo_password: str
) -> None:
    source, repo = user.folder / "source", user.folder / "repo"
    make_small_tree(source / "readable", files=40)
    close_some(source, user.uid)

    done = user.run("backup", source, "--to", repo, "--json")
    assert done.returncode == 3, done.stderr
    report: dict[str, Any] = parse_json(done.stdout)
    assert {item["path"] for item in report["unreadable"]} == {str(source / name) for name in CLOSED}
    assert {item["reason"] for item in report["unreadable"]} == {"this user may not read it"}
    assert could_not_be_read(done.stderr) == {str(source / name) for name in CLOSED}

    # Folders that cannot be read are there, with their attributes and without what they hold.
    expected = copy_tree(source, tmp_path / "expected")
    for name in CLOSED:
        path = expected / name
        (path / "file" if path.is_dir() else path).unlink()
    assert_clean(restic, repo, repo_password)
    restic.run("restore", "latest", "--target", tmp_path / "theirs", repo=repo, password=repo_password)
    backupiq("restore", "latest", "--repo", repo, "--target", tmp_path / "ours")
    for target in (tmp_path / "theirs", tmp_path / "ours"):
        assert_same_tree(expected / "readable", below(target, source) / "readable")
        # Taking the files out of the expected tree gave their folders new times.
        assert_same_tree(expected, below(target, source), ignore={"folder_mtime"})

    again = user.run("backup", source, "--to", repo, "--json")
    assert again.returncode == 3
    second: dict[str, Any] = parse_json(again.stdout)
    assert second["unreadable"] == report["unreadable"]
    assert (second["bytes_read"], second["files_unmodified"]) == (0, report["files_new"] - len(CLOSED_FILES))


def close_some(source: Path, uid: int) -> None:
    """Items of every way to be closed to that user, with one file in each folder."""
    for name in CLOSED:
        path = source / name
        if name in ("closed folder", "folder not listed"):
            path = path / "file"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"nobody reads this")
    for path in [source, *source.rglob("*")]:
        os.chown(path, uid, uid, follow_symlinks=False)
    os.chown(source / "file of another", 1, 1)
    modes = {"file of another": 0o600, "mode 0000": 0, "listed only": 0o444, "closed folder": 0}
    for name, mode in {**modes, "folder not listed": 0o311}.items():
        (source / name).chmod(mode)

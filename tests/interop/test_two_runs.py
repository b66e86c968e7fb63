"""Two runs at once into one repository, and runs that meet a lock of the real restic."""

from __future__ import annotations

import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.faults.support import wait_for
from tests.interop.support import (
    Gate,
    assert_clean,
    below,
    finish,
    locks,
    make_small_tree,
    stopped_with_an_exclusive_lock,
    wait_for_line,
)
from tests.support.compare import assert_same_tree
from tests.support.programs import BackupIQ, Restic, parse_json


def make_sources(folder: Path, seed: int) -> tuple[Path, Path]:
    """Two folders that share half of their files."""
    sources = folder / "one", folder / "other"
    for number, source in enumerate(sources):
        make_small_tree(source / "own", seed=10 * seed + number, files=60)
        make_small_tree(source / "shared", seed=10 * seed + 9, files=60)
    return sources


def stop_before_opening(run: subprocess.Popen[str]) -> None:
    wait_for_line(run, "opening the repository")
    os.kill(run.pid, signal.SIGSTOP)


@pytest.mark.parametrize(
    ("seed", "restic"), [(1, "restic_old"), (2, "restic_new"), (3, "restic_old")], indirect=["restic"]
)
def test_two_runs_at_once_make_one_repository_that_holds_both(
    seed: int, backupiq: BackupIQ, restic: Restic, tmp_path: Path, repo_password: str
) -> None:
    repo, sources = tmp_path / "repo", make_sources(tmp_path, seed)
    gates = [Gate(tmp_path / name) for name in ("first gate", "second gate")]
    runs = [
        backupiq.start("backup", source, "--to", repo, "--exclude-file", gate.path)
        for source, gate in zip(sources, gates, strict=True)
    ]
    # The first to come is held back for the second, so that both find no repository and make one.
    with ThreadPoolExecutor(len(runs)) as pool:
        list(pool.map(stop_before_opening, runs))
    for run in runs:
        os.kill(run.pid, signal.SIGCONT)
    for gate, run in zip(gates, runs, strict=True):
        gate.wait(run)
    # Each run holds its lock while the other does: both look for files, and are held up there.
    wait_for(lambda: len(locks(repo)) == len(runs), "a lock of each run")
    for gate in gates:
        gate.open()
    ends = [finish(run) for run in runs]
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert locks(repo) == []
    assert len(os.listdir(repo / "keys")) == 1, "the run that came second removed its key"

    assert_clean(restic, repo, repo_password)
    ids = [out.split()[1] for _, out, _ in ends]
    assert {one["id"] for one in restic.json("snapshots", repo=repo, password=repo_password)} == set(ids)
    for source, snapshot in zip(sources, ids, strict=True):
        restic.run("restore", snapshot, "--target", tmp_path / "target", repo=repo, password=repo_password)
        assert_same_tree(source, below(tmp_path / "target", source))


def test_two_runs_of_one_folder_at_once_both_succeed_and_backupiq_restores_both(
    backupiq: BackupIQ, restic_old: Restic, tmp_path: Path, repo_password: str
) -> None:
    """Into one that exists, with the same new files and parent (named: one may look when the other is done)."""
    repo, source = tmp_path / "repo", tmp_path / "source"
    make_small_tree(source, files=60)
    parent = backupiq.json("backup", source, "--to", repo)["snapshot_id"]
    make_small_tree(source / "added", files=60, seed=2)
    gates = [Gate(tmp_path / name) for name in ("one", "other")]
    runs = [
        backupiq.start("backup", source, "--to", repo, "--exclude-file", gate.path, "--parent", parent, "--json")
        for gate in gates
    ]
    for gate, run in zip(gates, runs, strict=True):
        gate.wait(run)
    wait_for(lambda: len(locks(repo)) == len(runs), "a lock of each run")
    for gate in gates:
        gate.open()
    ends = [finish(run) for run in runs]
    assert [code for code, _, _ in ends] == [0, 0], ends
    reports: list[dict[str, Any]] = [parse_json(out) for _, out, _ in ends]
    assert [report["parent_id"] for report in reports] == [parent, parent]
    assert_clean(restic_old, repo, repo_password)
    for report in reports:
        target = tmp_path / report["snapshot_id"][:8]
        backupiq("restore", report["snapshot_id"], "--repo", repo, "--target", target)
        assert_same_tree(source, below(target, source))


# --- locks of restic -----------------------------------------------------------------------------------------------


@pytest.fixture
def locked(tmp_path: Path, restic: Restic, repo_password: str) -> tuple[Path, Path]:
    """A folder and an empty repository that restic made."""
    source, repo = tmp_path / "source", tmp_path / "repo"
    source.mkdir()
    (source / "file").write_bytes(b"content")
    restic.run("init", repo=repo, password=repo_password)
    return source, repo


def test_an_exclusive_lock_of_restic_makes_a_run_wait_and_then_exit_11(
    backupiq: BackupIQ, restic: Restic, locked: tuple[Path, Path], repo_password: str
) -> None:
    source, repo = locked
    with stopped_with_an_exclusive_lock(restic, repo, repo_password) as check:
        held = locks(repo)
        refused = backupiq("backup", source, "--to", repo, "--retry-lock", "3s", check=False)
        assert refused.returncode == 11
        assert refused.stdout == ""
        *before, last = refused.stderr.splitlines()
        assert "The repository is locked exclusively by process" in last
        assert str(check.pid) in last
        assert [line for line in before if "locked" in line] == []
        assert len([line for line in before if "waiting for the lock" in line]) == 1
        assert "Traceback" not in refused.stderr
        assert locks(repo) == held, "a run that waits leaves no lock of its own"
        check.send_signal(signal.SIGCONT)
        assert check.wait() == 0
    assert backupiq.json("snapshots", "--repo", repo) == []


def test_a_run_goes_on_as_soon_as_restic_gives_its_exclusive_lock_up(
    backupiq: BackupIQ, restic_old: Restic, tmp_path: Path, repo_password: str
) -> None:
    source, repo = tmp_path / "source", tmp_path / "repo"
    make_small_tree(source, files=20)
    restic_old.run("init", repo=repo, password=repo_password)
    with stopped_with_an_exclusive_lock(restic_old, repo, repo_password) as check:
        run = backupiq.start("backup", source, "--to", repo, "--retry-lock", "10m")
        wait_for_line(run, "waiting for the lock")
        check.send_signal(signal.SIGCONT)
        assert check.wait() == 0
        code, out, err = finish(run)
    assert code == 0, out + err
    assert_clean(restic_old, repo, repo_password)
    assert len(restic_old.json("snapshots", repo=repo, password=repo_password)) == 1

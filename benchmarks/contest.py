"""The two programs and what each of them does in a round: first backup, unchanged backup, restore."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measure import Measurement, measure
from tests.support.compare import compare_trees
from tests.support.prefect_server import PrefectServer
from tests.support.programs import BackupIQ, Restic

PASSWORD = "a password for measuring"
JOBS = ("first backup", "unchanged backup", "restore")


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """One job of one program in one round. Seconds and bytes; ``prefect_seconds`` is what Prefect needed to start."""

    program: str
    job: str
    round: int
    seconds: float
    cpu_seconds: float
    prefect_seconds: float
    peak_bytes: int
    repository_bytes: int


class WrongResultError(Exception):
    """A program restored another tree than it was given, or left a repository that restic finds fault with."""


@dataclasses.dataclass(frozen=True)
class Contender:
    """One program: the commands of its jobs, and the seconds of a run that it says were Prefect's start-up."""

    name: str
    env: dict[str, str]
    initialise: Callable[[Path], list[str]]
    commands: dict[str, Callable[[Path, Path, Path], list[str]]]
    """Job -> command for (tree, repository, target)."""
    prefect_seconds: Callable[[str], float]


def restic_contender(restic: Restic) -> Contender:
    """Debian's restic with its defaults."""

    def call(repo: Path, *args: str) -> list[str]:
        return [str(restic.program), "-r", str(repo), *args]

    return Contender(
        name=f"restic {restic.version}",
        env=restic.environment(password=PASSWORD),
        initialise=lambda repo: call(repo, "init"),
        commands={
            "first backup": lambda tree, repo, _: call(repo, "backup", str(tree)),
            "unchanged backup": lambda tree, repo, _: call(repo, "backup", str(tree)),
            "restore": lambda _, repo, target: call(repo, "restore", "latest", "--target", str(target)),
        },
        prefect_seconds=lambda _: 0.0,
    )


def backupiq_contender(program: Path, home: Path, server: PrefectServer) -> Contender:
    """BackupIQ with its defaults, against a Prefect server that runs already."""
    script = BackupIQ(program, home, PASSWORD, server.settings(home))

    def call(*args: str) -> list[str]:
        return [str(script.program), *args, "--json"]

    def backup(tree: Path, repo: Path, _: Path) -> list[str]:
        return call("backup", str(tree), "--to", str(repo))

    return Contender(
        name="backupiq",
        env=script.environment(),
        initialise=lambda repo: call("init", "--to", str(repo)),
        commands={
            "first backup": backup,
            "unchanged backup": backup,
            "restore": lambda _, repo, target: call("restore", "latest", "--repo", str(repo), "--target", str(target)),
        },
        prefect_seconds=lambda stdout: float(last_report(stdout)["seconds_prefect"]),
    )


def last_report(stdout: str) -> dict[str, Any]:
    """The report a command printed with --json: its whole output, or the last line when it prints one a line."""
    try:
        report: dict[str, Any] = json.loads(stdout)
    except json.JSONDecodeError:
        report = json.loads(stdout.strip().splitlines()[-1])
    return report


def run_round(contender: Contender, tree: Path, work: Path, number: int) -> list[Result]:
    """All jobs of one program on a new repository below ``work``, which is left there for `check_repository`.

    Raises WrongResultError when the restored tree differs from ``tree``.
    """
    repo, target = repository_folder(contender, work), work / "restored"
    shutil.rmtree(repo, ignore_errors=True)
    measure(contender.initialise(repo), env=contender.env)
    results = []
    for job in JOBS:
        # Both programs find the tree in the page cache: the one that begins must not be the one that reads the disk.
        read_everything(tree)
        measured = measure(contender.commands[job](tree, repo, target), env=contender.env)
        results.append(_result(contender, job, number, measured, folder_bytes(repo)))
    restored = target / tree.relative_to(tree.anchor)
    differences = compare_trees(tree, restored) if restored.is_dir() else ["nothing was restored"]
    shutil.rmtree(target, ignore_errors=True)
    if differences:
        raise WrongResultError(f"{contender.name} restored another tree: {'; '.join(differences[:5])}")
    return results


def _result(contender: Contender, job: str, number: int, measured: Measurement, repository_bytes: int) -> Result:
    return Result(
        program=contender.name,
        job=job,
        round=number,
        seconds=measured.seconds,
        cpu_seconds=measured.cpu_seconds,
        prefect_seconds=contender.prefect_seconds(measured.stdout),
        peak_bytes=measured.peak_bytes,
        repository_bytes=repository_bytes,
    )


def check_repository(restic: Restic, contender: Contender, work: Path) -> None:
    """Lets restic read all of a program's repository. Raises WrongResultError when it finds fault."""
    repo = repository_folder(contender, work)
    done = restic.run("check", "--read-data", repo=repo, password=PASSWORD, check=False)
    if done.returncode != 0:
        raise WrongResultError(f"restic check of {contender.name}'s repository: {done.stdout}{done.stderr}")


def repository_folder(contender: Contender, work: Path) -> Path:
    return work / f"repository-{contender.name.partition(' ')[0]}"


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def read_everything(folder: Path) -> None:
    """Reads every file once, so that it lies in the page cache."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with path.open("rb", buffering=0) as handle:
                while handle.read(1 << 20):
                    pass

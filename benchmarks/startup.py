"""Measures what a command costs before it does anything: ``make bench BENCH_ARGS="--startup"``.

Each round runs, in turns: ``backupiq --help``; ``backupiq snapshots``; a backup of a small tree by ``backupiq backup``
against a running Prefect server; and the same backup by a process of its own that calls the engine as a library,
without Prefect. Every backup begins with an empty repository made before it. Ends with 1 when the repositories do not
hold the same files' data; a missed budget is printed and is no failure.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from backupiq.repository.repository import Repository
from backupiq.storage.local import LocalProvider
from benchmarks.contest import PASSWORD, WrongResultError, read_everything
from benchmarks.measure import measure
from benchmarks.report import PREFECT_SECONDS, Verdict
from benchmarks.results import write_results
from tests.support.mixed_tree import make_mixed_tree
from tests.support.prefect_server import start_server, stop_server
from tests.support.programs import BackupIQ
from tests.unit.archive.saving import back_up

HELP_SECONDS = 0.3
FILES, BYTES, ROUNDS = 500, 5_000_000, 5
HELP, LISTING, FLOW, LIBRARY = "help", "snapshots", "backup", "library"
JOBS = (HELP, LISTING, LIBRARY, FLOW)


@dataclasses.dataclass(frozen=True, slots=True)
class Timed:
    """One process, from its start to its end."""

    job: str
    round: int
    seconds: float
    cpu_seconds: float


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks.startup", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=FILES, help=f"files in the generated tree ({FILES})")
    parser.add_argument("--bytes", type=int, default=BYTES, help=f"bytes in it ({BYTES})")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"rounds ({ROUNDS})")
    parser.add_argument("--quick", action="store_true", help="a look: one round")
    parser.add_argument("--work", type=Path, help="where to put tree and repositories (the temporary folder)")
    parser.add_argument("--library", nargs=3, type=Path, metavar="PATH", help=argparse.SUPPRESS)
    options = parser.parse_args(given)
    if options.quick:
        options.rounds = 1
    if min(options.files, options.bytes, options.rounds) < 1:
        parser.error("--files, --bytes and --rounds must be at least 1")
    return options


def judge(timed: Sequence[Timed]) -> list[Verdict]:
    """The budgets, by medians."""
    seconds = {job: median(each.seconds for each in timed if each.job == job) for job in JOBS}
    more = seconds[FLOW] - seconds[LIBRARY]
    told = f"{more:.2f} s more ({seconds[FLOW]:.2f} s against {seconds[LIBRARY]:.2f} s as a library)"
    return [
        Verdict("backupiq --help", f"under {HELP_SECONDS:g} s", f"{seconds[HELP]:.2f} s", seconds[HELP] < HELP_SECONDS),
        Verdict("a run's fixed cost", f"at most {PREFECT_SECONDS:g} s more", told, more <= PREFECT_SECONDS),
    ]


async def as_library(tree: Path, repository: Path, spool: Path) -> None:
    """The work of a backup with no Prefect in it."""
    provider = LocalProvider(repository)
    opened = await Repository.open(provider, os.environ["BACKUPIQ_PASSWORD"])
    await opened.load_index()
    await back_up(opened, spool, tree)


def stored_bytes(repository: Path) -> int:
    """Bytes in the repository's packs."""
    return sum(path.stat().st_size for path in (repository / "data").rglob("*") if path.is_file())


def run_job(job: str, backupiq: BackupIQ, tree: Path, work: Path, number: int) -> Timed:
    """One process of that kind. Backups go into a new repository."""
    repository = work / f"repository-{job}"
    program, env = str(backupiq.program), backupiq.environment()
    if job in (FLOW, LIBRARY):
        shutil.rmtree(repository, ignore_errors=True)
        backupiq("init", "--to", repository)
        read_everything(tree)
    command = {
        HELP: [program, "--help"],
        LISTING: [program, "snapshots", "--repo", str(work / f"repository-{FLOW}"), "--json"],
        FLOW: [program, "backup", str(tree), "--to", str(repository), "--json"],
        LIBRARY: [sys.executable, "-m", "benchmarks.startup", "--library", str(tree), str(repository), str(work)],
    }[job]
    done = measure(command, env=env)
    return Timed(job, number, done.seconds, done.cpu_seconds)


def main(given: Sequence[str] | None = None) -> int:
    """Measures, prints and writes one JSON file below benchmarks/results. The exit code."""
    options = arguments(given)
    if options.library:
        asyncio.run(as_library(*options.library))
        return 0
    timed: list[Timed] = []
    with tempfile.TemporaryDirectory(prefix="backupiq-bench-", dir=options.work) as folder:
        work = Path(folder).absolute()
        made = make_mixed_tree(work / "tree", files=options.files, total_bytes=options.bytes)
        server = start_server(work / "prefect")
        try:
            program = Path(sys.executable).with_name("backupiq")
            backupiq = BackupIQ(program, work / "home", PASSWORD, server.settings(work / "home"))
            run_job(FLOW, backupiq, made.root, work, 0)  # the server's and this user's first run is not counted
            for number in range(1, options.rounds + 1):
                for job in JOBS if number % 2 else reversed(JOBS):
                    timed.append(run_job(job, backupiq, made.root, work, number))
                    print(f"round {number}: {job}: {timed[-1].seconds:.2f} s", flush=True)
                held = [stored_bytes(work / f"repository-{job}") for job in (FLOW, LIBRARY)]
                if not held[0] or abs(held[0] - held[1]) > held[0] * 0.02:
                    raise WrongResultError(f"the repositories hold {held} bytes, not about as many")
        except WrongResultError as error:
            print(f"WRONG: {error}")
            return 1
        finally:
            stop_server(server)
    verdicts = judge(timed)
    for verdict in verdicts:
        state = "met" if verdict.met else "MISSED"
        print(f"{verdict.what}: {verdict.found} (budget: {verdict.limit}, {state})")
    tree = {"files": made.files, "bytes": made.total_bytes}
    print(f"written: {write_results('startup-', timed, verdicts, tree=tree)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

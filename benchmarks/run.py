"""Measures BackupIQ against Debian's restic on one generated tree: ``python -m benchmarks.run`` (or ``make bench``).

The two programs take turns, each round in the other order, and every restored tree is compared with the original.
Ends with 1 when a result is wrong; a missed budget is printed and is no failure.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from benchmarks.contest import (
    Contender,
    Result,
    WrongResultError,
    backupiq_contender,
    check_repository,
    restic_contender,
    run_round,
)
from benchmarks.report import Verdict, judge, medians, show
from benchmarks.results import write_results
from tests.support.mixed_tree import make_mixed_tree
from tests.support.prefect_server import start_server, stop_server
from tests.support.programs import Restic, restic_version

QUICK = {"files": 2_000, "bytes": 50_000_000, "rounds": 1}
OTHERS = {
    "--clouds": "clouds",
    "--million": "million",
    "--protection": "protection",
    "--two-local": "two_local",
    "--startup": "startup",
    "--languages": "languages",
    "--secrets": "secrets",
    "--search": "catalog_search",
}
"""Options that measure something else instead, and the modules that do it."""


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.run", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--files", type=int, default=50_000, help="files in the generated tree (50000)")
    parser.add_argument("--bytes", type=int, default=1_000_000_000, help="bytes in it (1000000000)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of both programs (3)")
    parser.add_argument("--quick", action="store_true", help="a look: 2000 files, 50 MB, one round")
    others = parser.add_argument_group("something else instead (its own options: --help after it)")
    for option, module in OTHERS.items():
        others.add_argument(option, action="store_true", help=f"benchmarks/{module}.py")
    parser.add_argument("--work", type=Path, help="where to put tree and repositories (the temporary folder)")
    options = parser.parse_args(given)
    if options.quick:
        vars(options).update(QUICK)
    if min(options.files, options.bytes, options.rounds) < 1:
        parser.error("--files, --bytes and --rounds must be at least 1")
    return options


def main(given: list[str] | None = None) -> int:
    """Measures, prints the tables and writes one JSON file below benchmarks/results. The exit code."""
    given = sys.argv[1:] if given is None else given
    for option, module in OTHERS.items():
        if option in given:
            rest = [argument for argument in given if argument != option]
            # In a process of its own: some measure the memory of the process that they are.
            return subprocess.run([sys.executable, "-m", f"benchmarks.{module}", *rest]).returncode
    options = arguments(given)
    console = Console(width=None if sys.stdout.isatty() else 120)
    program = shutil.which("restic")
    if program is None:
        console.print("restic is not on this machine: install it (make programs, as root) to measure against it")
        return 1
    with tempfile.TemporaryDirectory(prefix="backupiq-bench-", dir=options.work) as folder:
        work = Path(folder)
        restic = Restic(Path(program), restic_version(Path(program)), work / "restic-home")
        console.print(f"making a tree of {options.files:,} files, {options.bytes / 1e6:,.0f} MB")
        tree = work / "tree"
        made = make_mixed_tree(tree, files=options.files, total_bytes=options.bytes)
        try:
            names, results = _measure(console, restic, tree, work, options.rounds)
        except WrongResultError as error:
            console.print(f"WRONG: {error}", markup=False)
            return 1
    verdicts = judge(results, names[0], names[1], files=made.files)
    show(console, results, verdicts, names)
    console.print(f"written: {_write(results, verdicts, names, made.files, made.total_bytes)}", soft_wrap=True)
    return 0


def _measure(
    console: Console, restic: Restic, tree: Path, work: Path, rounds: int
) -> tuple[tuple[str, str], list[Result]]:
    """All rounds. The names of our program and the other one, and every result."""
    server = start_server(work / "prefect")
    try:
        backupiq = Path(sys.executable).with_name("backupiq")
        ours, other = backupiq_contender(backupiq, work / "home", server), restic_contender(restic)
        results: list[Result] = []
        for number in range(1, rounds + 1):
            order: list[Contender] = [ours, other] if number % 2 else [other, ours]
            for contender in order:
                for result in run_round(contender, tree, work, number):
                    results.append(result)
                    console.print(f"round {number}: {result.program}, {result.job}: {result.seconds:.2f} s")
        for contender in (ours, other):
            check_repository(restic, contender, work)
        return (ours.name, other.name), results
    finally:
        stop_server(server)


def _write(
    results: list[Result], verdicts: list[Verdict], names: tuple[str, str], files: int, total_bytes: int
) -> Path:
    """One JSON file with the tree and the medians beside what every measurement leaves."""
    jobs = dict.fromkeys(result.job for result in results)
    figures = {name: {job: dataclasses.asdict(medians(results, name, job)) for job in jobs} for name in names}
    return write_results("", results, verdicts, tree={"files": files, "bytes": total_bytes}, medians=figures)


if __name__ == "__main__":
    sys.exit(main())

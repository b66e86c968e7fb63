"""Measures a backup to two local destinations against one: ``make bench BENCH_ARGS="--two-local"``.

Each round stores the same generated tree in new repositories, once at one folder and once at two, in turns; the one
that begins changes with each round. The tree is read before each run, so that both find it in the page cache. Ends with
1 when the two repositories do not hold the same packs; a missed budget is printed and is no failure.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from benchmarks.contest import PASSWORD, WrongResultError, last_report, read_everything
from benchmarks.measure import measure
from benchmarks.report import Verdict
from benchmarks.results import write_results
from tests.support.mixed_tree import make_mixed_tree
from tests.support.prefect_server import start_server, stop_server
from tests.support.programs import BackupIQ

TIMES = 1.3
FILES, BYTES, ROUNDS = 20_000, 1_000_000_000, 3
ONE, TWO = 1, 2


@dataclasses.dataclass(frozen=True, slots=True)
class Stored:
    """One backup. Seconds of the whole process, and those of them that Prefect's start-up took."""

    destinations: int
    round: int
    seconds: float
    prefect_seconds: float
    cpu_seconds: float
    peak_bytes: int

    @property
    def own_seconds(self) -> float:
        """Without Prefect's start-up, which is the same for both."""
        return self.seconds - self.prefect_seconds


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks.two_local", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=FILES, help=f"files in the generated tree ({FILES})")
    parser.add_argument("--bytes", type=int, default=BYTES, help=f"bytes in it ({BYTES})")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"rounds ({ROUNDS})")
    parser.add_argument("--quick", action="store_true", help="a look: 500 files, 20 MB, one round")
    parser.add_argument("--work", type=Path, help="where to put tree and repositories (the temporary folder)")
    options = parser.parse_args(given)
    if options.quick:
        options.files, options.bytes, options.rounds = 500, 20_000_000, 1
    if min(options.files, options.bytes, options.rounds) < 1:
        parser.error("--files, --bytes and --rounds must be at least 1")
    return options


def judge(stored: Sequence[Stored]) -> list[Verdict]:
    """The budget, by medians."""

    def ratio(figure: Callable[[Stored], float]) -> float:
        one, two = (median(figure(each) for each in stored if each.destinations == count) for count in (ONE, TWO))
        return two / one

    apart, whole = ratio(lambda each: each.own_seconds), ratio(lambda each: each.seconds)
    told = f"{apart:.2f} times (with Prefect's start {whole:.2f})"
    return [Verdict("two local destinations", f"under {TIMES:g} times the seconds of one", told, apart < TIMES)]


def store(backupiq: BackupIQ, tree: Path, work: Path, count: int, number: int) -> Stored:
    """One backup into as many new repositories. Raises WrongResultError when they do not hold the same packs."""
    repositories = [work / f"repository-{each}" for each in range(1, count + 1)]
    for repository in repositories:
        shutil.rmtree(repository, ignore_errors=True)
    to = [part for repository in repositories for part in ("--to", str(repository))]
    backupiq("init", *to)
    read_everything(tree)
    command = [str(backupiq.program), "backup", str(tree), *to, "--json"]
    done = measure(command, env=backupiq.environment())
    held = [packs_of(repository) for repository in repositories]
    if not held[0] or held[0] != held[-1]:
        raise WrongResultError(f"the repositories hold {[len(packs) for packs in held]} packs, not the same ones")
    prefect = float(last_report(done.stdout)["seconds_prefect"])
    return Stored(count, number, done.seconds, prefect, done.cpu_seconds, done.peak_bytes)


def packs_of(repository: Path) -> dict[str, int]:
    """The packs of a repository in a folder, with their bytes."""
    return {path.name: path.stat().st_size for path in (repository / "data").rglob("*") if path.is_file()}


def main(given: Sequence[str] | None = None) -> int:
    """Measures, prints and writes one JSON file below benchmarks/results. The exit code."""
    options = arguments(given)
    stored: list[Stored] = []
    with tempfile.TemporaryDirectory(prefix="backupiq-bench-", dir=options.work) as folder:
        work = Path(folder).absolute()
        print(f"making a tree of {options.files:,} files, {options.bytes / 1e6:,.0f} MB", flush=True)
        made = make_mixed_tree(work / "tree", files=options.files, total_bytes=options.bytes)
        server = start_server(work / "prefect")
        try:
            program = Path(sys.executable).with_name("backupiq")
            backupiq = BackupIQ(program, work / "home", PASSWORD, server.settings(work / "home"))
            for number in range(1, options.rounds + 1):
                for count in (ONE, TWO) if number % 2 else (TWO, ONE):
                    one = store(backupiq, made.root, work, count, number)
                    stored.append(one)
                    print(
                        f"round {number}: destinations: {count}: {one.own_seconds:.2f} s and {one.prefect_seconds:.2f} "
                        f"s to start Prefect, {one.cpu_seconds:.2f} cpu seconds, peak {one.peak_bytes / 1e6:,.0f} MB",
                        flush=True,
                    )
        except WrongResultError as error:
            print(f"WRONG: {error}")
            return 1
        finally:
            stop_server(server)
    verdicts = judge(stored)
    for verdict in verdicts:
        state = "met" if verdict.met else "MISSED"
        print(f"{verdict.what}: {verdict.found} (budget: {verdict.limit}, {state})")
    tree = {"files": made.files, "bytes": made.total_bytes}
    print(f"written: {write_results('two-local-', stored, verdicts, tree=tree)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What the measurements say: medians, ratios and the budgets they are held against."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from statistics import median

from rich.console import Console
from rich.table import Table

from benchmarks.contest import JOBS, Result

MEMORY_BYTES = 350_000_000
MEMORY_BYTES_PER_FILE = 250
PREFECT_SECONDS = 3.0
"""Prefect's share of a run against a running server."""


@dataclasses.dataclass(frozen=True, slots=True)
class Medians:
    """The medians over all rounds of one job of one program."""

    seconds: float
    own_seconds: float
    """Without Prefect's start-up."""
    cpu_seconds: float
    prefect_seconds: float
    peak_bytes: float
    repository_bytes: float


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """One budget: what it is about, the limit in words, the figure found and whether it keeps the limit."""

    what: str
    limit: str
    found: str
    met: bool


def medians(results: Sequence[Result], program: str, job: str) -> Medians:
    """The medians of one job of one program; each figure has its own median."""
    chosen = [result for result in results if (result.program, result.job) == (program, job)]

    def of(figure: Callable[[Result], float]) -> float:
        return median(figure(result) for result in chosen)

    return Medians(
        seconds=of(lambda result: result.seconds),
        own_seconds=of(lambda result: result.seconds - result.prefect_seconds),
        cpu_seconds=of(lambda result: result.cpu_seconds),
        prefect_seconds=of(lambda result: result.prefect_seconds),
        peak_bytes=of(lambda result: result.peak_bytes),
        repository_bytes=of(lambda result: result.repository_bytes),
    )


def judge(results: Sequence[Result], ours: str, other: str, *, files: int) -> list[Verdict]:
    """Every budget this harness can measure, in the order in which they are printed."""
    our = {job: medians(results, ours, job) for job in JOBS}
    their = {job: medians(results, other, job) for job in JOBS}
    first, unchanged, restore = JOBS

    def faster(job: str, at_least: float) -> Verdict:
        apart = their[job].seconds / our[job].own_seconds
        whole = their[job].seconds / our[job].seconds
        found = f"{apart:.2f} (with Prefect's start {whole:.2f})"
        return Verdict(job, f"at least {at_least:g} times as fast", found, apart >= at_least)

    size = our[first].repository_bytes / their[first].repository_bytes
    peak = max(found.peak_bytes for found in our.values())
    peak_limit = MEMORY_BYTES + MEMORY_BYTES_PER_FILE * files
    prefect = max(found.prefect_seconds for found in our.values())
    return [
        faster(first, 1.5),
        faster(unchanged, 1.0),
        faster(restore, 1.0),
        Verdict("repository after the first backup", "no larger", f"{size:.3f} times the size", size <= 1.0),
        Verdict("peak memory", f"at most {_mb(peak_limit)}", _mb(peak), peak <= peak_limit),
        Verdict("Prefect's start-up", f"at most {PREFECT_SECONDS:g} s", f"{prefect:.2f} s", prefect <= PREFECT_SECONDS),
    ]


def show(console: Console, results: Sequence[Result], verdicts: Sequence[Verdict], programs: Sequence[str]) -> None:
    """Prints the medians of every program and job, then the budgets."""
    table = Table(title="Medians")
    for heading in ("job", "program"):
        table.add_column(heading)
    for heading in ("seconds", "of them Prefect's start", "cpu seconds", "peak memory", "repository"):
        table.add_column(heading, justify="right")
    for job in JOBS:
        for program in programs:
            found = medians(results, program, job)
            table.add_row(
                job,
                program,
                f"{found.seconds:.2f}",
                f"{found.prefect_seconds:.2f}" if found.prefect_seconds else "",
                f"{found.cpu_seconds:.2f}",
                _mb(found.peak_bytes),
                _mb(found.repository_bytes),
            )
        table.add_section()
    console.print(table)
    budgets = Table(title="Budgets")
    for heading in ("what", "budget", "found", ""):
        budgets.add_column(heading)
    for verdict in verdicts:
        budgets.add_row(verdict.what, verdict.limit, verdict.found, "met" if verdict.met else "MISSED")
    console.print(budgets)


def _mb(count: float) -> str:
    return f"{count / 1e6:,.1f} MB"

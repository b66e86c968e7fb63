"""Measures uploads to two S3 replicas at once against rclone: ``make bench BENCH_ARGS="--clouds"``.

Two SeaweedFS servers on loopback are the replicas. In every round the same packs go to both of them by BackupIQ's
providers and by ``rclone copy``, as many at once, in turns; the servers are emptied in between and what they hold is
counted. Then `backupiq backup` stores as many bytes of files there, for its memory. Ends with 1 when something is
missing at a server; a missed budget is printed and is no failure.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from urllib.parse import quote

from rich.console import Console
from rich.table import Table

from backupiq.archive.pack_writer import PACK_SIZE
from benchmarks.contest import PASSWORD, WrongResultError
from benchmarks.measure import Measurement, measure
from benchmarks.report import Verdict
from benchmarks.results import write_results
from benchmarks.upload import AT_ONCE
from tests.support.prefect_server import PrefectServer, start_server, stop_server
from tests.support.programs import ROOT, BackupIQ, plain_environment
from tests.support.servers.seaweedfs import SeaweedFS

MEMORY_BYTES = 400_000_000
THROUGHPUT = 0.85
"""Of rclone's."""
OURS, THEIRS, RUN = "backupiq's providers", "rclone copy", "backupiq backup"
FILE_BYTES = 4 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class Sent:
    """One upload of everything to both replicas. ``peak_bytes`` is the memory of the program's processes together."""

    program: str
    round: int
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    bytes: int

    @property
    def rate(self) -> float:
        """Bytes per second that arrived at the two replicas together."""
        return 2 * self.bytes / self.seconds


@dataclasses.dataclass(frozen=True)
class Replicas:
    """The two servers, and the variables with which programs may use them."""

    servers: tuple[SeaweedFS, SeaweedFS]

    def environment(self) -> dict[str, str]:
        first = self.servers[0]
        return plain_environment() | {
            "AWS_ACCESS_KEY_ID": first.access_key,
            "AWS_SECRET_ACCESS_KEY": first.secret_key,
        }

    def destinations(self, bucket: str) -> list[str]:
        """As people write them for BackupIQ."""
        return [f"s3://{bucket}/repo?endpoint={quote(server.url)}" for server in self.servers]

    def holds(self, bucket: str) -> list[tuple[int, int]]:
        """Objects and bytes of packs that each server has below ``bucket/repo/data``."""
        found = []
        for server in self.servers:
            pages = server.client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix="repo/data/")
            sizes = [item["Size"] for page in pages for item in page.get("Contents", [])]
            found.append((len(sizes), sum(sizes)))
        return found

    def make(self, bucket: str) -> None:
        for server in self.servers:
            server.client.create_bucket(Bucket=bucket)

    def remove(self, bucket: str) -> None:
        """Empties and removes the bucket, which gives the servers' disk space back."""
        for server in self.servers:
            client = server.client
            for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
                for item in page.get("Contents", []):
                    client.delete_object(Bucket=bucket, Key=item["Key"])
            client.delete_bucket(Bucket=bucket)


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.clouds", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--bytes", type=int, default=2_000_000_000, help="bytes to upload (2000000000)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of both programs (3)")
    parser.add_argument("--quick", action="store_true", help="a look: 100 MB, one round")
    parser.add_argument("--uploads-only", action="store_true", help="without the run of `backupiq backup`")
    parser.add_argument("--work", type=Path, help="where to put packs and the servers' data (the temporary folder)")
    options = parser.parse_args(given)
    if options.quick:
        options.bytes, options.rounds = 100_000_000, 1
    if min(options.bytes, options.rounds) < 1:
        parser.error("--bytes and --rounds must be at least 1")
    return options


def main(given: list[str] | None = None) -> int:
    """Measures, prints the tables and writes one JSON file below benchmarks/results. The exit code."""
    options = arguments(given)
    console = Console(width=None if sys.stdout.isatty() else 120)
    with tempfile.TemporaryDirectory(prefix="backupiq-bench-", dir=options.work) as folder:
        work = Path(folder)
        console.print(f"making packs of {options.bytes / 1e6:,.0f} MB")
        packs = make_packs(work / "packs", options.bytes)
        with SeaweedFS(work / "server-1") as first, SeaweedFS(work / "server-2") as second:
            try:
                sent = list(_measure(console, Replicas((first, second)), packs, work, options))
            except WrongResultError as error:
                console.print(f"WRONG: {error}", markup=False)
                return 1
    verdicts = judge(sent)
    _show(console, sent, verdicts)
    made = {"files": len(packs), "bytes": sent[0].bytes}
    path = write_results("clouds-", sent, verdicts, packs=made)
    console.print(f"written: {path}", soft_wrap=True)
    return 0


def make_packs(folder: Path, total_bytes: int) -> list[Path]:
    """Files of pseudo-packs (random bytes, which no server can compress), laid out and named as in a repository."""
    packs = []
    for start in range(0, total_bytes, PACK_SIZE):
        data = os.urandom(min(PACK_SIZE, total_bytes - start))
        name = hashlib.sha256(data).hexdigest()
        path = folder / "data" / name[:2] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        packs.append(path)
    return packs


def judge(sent: Sequence[Sent]) -> list[Verdict]:
    """The budgets of uploads."""

    def of(program: str, figure: Callable[[Sent], float]) -> float:
        return median(figure(one) for one in sent if one.program == program)

    verdicts = []
    ratio = of(OURS, lambda one: one.rate) / of(THEIRS, lambda one: one.rate)
    limit = f"at least {THROUGHPUT:g} times rclone's"
    verdicts.append(Verdict("throughput to two replicas", limit, f"{ratio:.2f}", ratio >= THROUGHPUT))
    for program in dict.fromkeys(one.program for one in sent if one.program != THEIRS):
        peak = max(one.peak_bytes for one in sent if one.program == program)
        found = f"{peak / 1e6:,.1f} MB"
        verdicts.append(
            Verdict(f"peak memory of {program}", f"at most {MEMORY_BYTES / 1e6:.0f} MB", found, peak <= MEMORY_BYTES)
        )
    return verdicts


def _measure(
    console: Console, replicas: Replicas, packs: list[Path], work: Path, options: argparse.Namespace
) -> Iterator[Sent]:
    for number in range(1, options.rounds + 1):
        programs = [(OURS, _by_backupiq), (THEIRS, _by_rclone)]
        for program, run in programs if number % 2 else programs[::-1]:
            yield _one(console, replicas, packs, program, number, lambda bucket, run=run: run(replicas, packs, bucket))
    if options.uploads_only:
        return
    tree = work / "tree"
    for path in packs:  # as files of a usual size; read into the page cache by being written
        data = path.read_bytes()
        for start in range(0, len(data), FILE_BYTES):
            target = tree / path.name[:2] / f"{path.name}-{start}"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data[start : start + FILE_BYTES])
    server = start_server(work / "prefect")
    try:
        backup = _by_a_run(replicas, tree, work / "home", server)
        yield _one(console, replicas, packs, RUN, 1, backup)
    finally:
        stop_server(server)


def _one(
    console: Console,
    replicas: Replicas,
    packs: list[Path],
    program: str,
    number: int,
    run: Callable[[str], list[Measurement]],
) -> Sent:
    """One upload into new buckets, which are removed again. Raises WrongResultError when not everything arrived."""
    bucket = f"bench-{number}-{program.split()[0].removesuffix('s').replace(chr(39), '')}-{len(program)}"
    replicas.make(bucket)
    done = run(bucket)
    for objects, size in replicas.holds(bucket):
        complete = (objects, size) == (len(packs), _total(packs)) if program != RUN else size >= _total(packs)
        if not complete:
            raise WrongResultError(f"{program} left {objects} packs of {size} bytes at a server")
    replicas.remove(bucket)
    sent = Sent(
        program=program,
        round=number,
        seconds=max(one.seconds for one in done),
        cpu_seconds=sum(one.cpu_seconds for one in done),
        peak_bytes=sum(one.peak_bytes for one in done),
        bytes=_total(packs),
    )
    console.print(f"round {number}: {program}: {sent.seconds:.2f} s, {sent.rate / 1e6:,.0f} MB/s to both together")
    return sent


def _by_backupiq(replicas: Replicas, packs: list[Path], bucket: str) -> list[Measurement]:
    command = [sys.executable, "-m", "benchmarks.upload", str(packs[0].parents[2]), *replicas.destinations(bucket)]
    return [measure(command, env=replicas.environment(), cwd=ROOT)]


def _by_rclone(replicas: Replicas, packs: list[Path], bucket: str) -> list[Measurement]:
    """One rclone for each server, at the same time."""
    program = str(Path(sys.executable).with_name("rclone"))
    folder = str(packs[0].parents[2])

    def copy(server: SeaweedFS) -> Measurement:
        settings = {
            "RCLONE_CONFIG": os.devnull,
            "RCLONE_S3_PROVIDER": "SeaweedFS",
            "RCLONE_S3_ENDPOINT": server.url,
            "RCLONE_S3_ENV_AUTH": "true",
        }
        command = [program, "copy", "--transfers", str(AT_ONCE), folder, f":s3:{bucket}/repo"]
        return measure(command, env=replicas.environment() | settings)

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(copy, replicas.servers))


def _by_a_run(replicas: Replicas, tree: Path, home: Path, server: PrefectServer) -> Callable[[str], list[Measurement]]:
    """`backupiq backup` of the tree, which makes the repository as well."""
    program = Path(sys.executable).with_name("backupiq")
    keys = {name: value for name, value in replicas.environment().items() if name.startswith("AWS_")}
    env = BackupIQ(program, home, PASSWORD, server.settings(home)).environment(env=keys)

    def run(bucket: str) -> list[Measurement]:
        to = [part for destination in replicas.destinations(bucket) for part in ("--to", destination)]
        return [measure([str(program), "backup", str(tree), *to, "--json"], env=env)]

    return run


def _show(console: Console, sent: Sequence[Sent], verdicts: Sequence[Verdict]) -> None:
    table = Table(title="Medians")
    table.add_column("program")
    for heading in ("seconds", "MB/s to both together", "cpu seconds", "peak memory"):
        table.add_column(heading, justify="right")
    for program in dict.fromkeys(one.program for one in sent):
        chosen = [one for one in sent if one.program == program]
        table.add_row(
            program,
            f"{median(one.seconds for one in chosen):.2f}",
            f"{median(one.rate for one in chosen) / 1e6:,.0f}",
            f"{median(one.cpu_seconds for one in chosen):.2f}",
            f"{median(one.peak_bytes for one in chosen) / 1e6:,.1f} MB",
        )
    console.print(table)
    budgets = Table(title="Budgets")
    for heading in ("what", "budget", "found", ""):
        budgets.add_column(heading)
    for verdict in verdicts:
        budgets.add_row(verdict.what, verdict.limit, verdict.found, "met" if verdict.met else "MISSED")
    console.print(budgets)


def _total(packs: Sequence[Path]) -> int:
    return sum(path.stat().st_size for path in packs)


if __name__ == "__main__":
    sys.exit(main())

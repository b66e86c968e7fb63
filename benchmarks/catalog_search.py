"""How fast the catalog takes files and finds them: ``python -m benchmarks.catalog_search [--files N] [--url URL]``.

A catalog of N made-up paths (a million by default) is filled through the store, and a second snapshot changes one file
in a hundred. Then `find` is asked, as a library call, for selective terms (each at most some thousand files of the
million) and for some that are not. Rates and peak memory are those of this process alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from backupiq.catalog.adding import SnapshotRows
from backupiq.catalog.query import parse_query
from backupiq.catalog.rows import FileFacts, FileRow, SnapshotInfo
from backupiq.catalog.search import search
from backupiq.catalog.store import Catalog
from backupiq.discovery.entry import EntryKind
from backupiq.semantics.model import Category, FileType, Finding, Framework, GitState, Project, Severity
from benchmarks.report import Verdict
from benchmarks.results import write_results

FILES = 1_000_000
ROUNDS = 15
GONE = 500
"""One file in so many is deleted before the second snapshot."""
BUDGET_MS = 50.0
DAY_NS = 86_400 * 10**9
NOW_NS = 1_790_000_000 * 10**9

_TYPES = [
    (30, "py", "Python", Category.CODE),
    (25, "js", "JavaScript", Category.CODE),
    (12, "ts", "TypeScript", Category.CODE),
    (10, "json", "JSON", Category.DATA),
    (8, "md", "Markdown", Category.DOCUMENT),
    (6, "png", "PNG", Category.IMAGE),
    (5, "html", "HTML", Category.WEB),
    (2, "pdf", "PDF", Category.DOCUMENT),
    (1.5, "odt", "OpenDocument Text", Category.DOCUMENT),
    (0.3, "mp4", "MP4", Category.VIDEO),
    (0.1, "tf", "HCL", Category.CONFIG),
    (0.05, "cob", "COBOL", Category.CODE),
]
_FRAMEWORKS = ["Django", "Flask", "React", "Vue", "Spring", "Rails"]
_SYLLABLES = ["ba", "ce", "di", "fo", "gu", "la", "me", "ni", "po", "ru", "sa", "te", "vi", "wo", "xu", "za"]
_COMMON = ["src", "test", "docs", "lib", "main", "index", "util", "model", "view", "data", "config", "report", "image"]

SELECTIVE = {
    "a word": "{rare}",
    "two words": "{rare} {common}",
    "the beginning of a word": "{rare7}*",
    "a phrase": '"{common} {rare}"',
    "a word and fields": "{rare} category:code importance:>20",
    "a word, without another": "{rare} -{common}",
    "a project": "project:{project}",
    "a language few files have": "language:cobol",
    "an extension few files have": "ext:cob",
    "a folder": "path:/home/ada/{project}/**",
    "a pattern": "{rare7}*.py",
    "size": "size:>100M",
    "secrets": "secret:any {common}",
    "very important": "importance:>98",
    "a deleted file": "deleted:yes {rare}",
    "changed outside of git": "git:modified",
}
BROAD = {
    "a frequent word": "src",
    "a category": "category:document",
    "a frequent language": "language:python importance:>50",
    "changed lately": "changed:<90d",
    "all deleted files": "deleted:yes",
    "only at one destination": "only-at:s3",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """Milliseconds of one kind of query, and the hits of the last one."""

    name: str
    selective: bool
    median_ms: float
    slowest_ms: float
    hits: int


class World:
    """The made-up files: the same for the same number."""

    def __init__(self, files: int) -> None:
        self.files = files
        self.rare = [self._word(number) for number in range(max(files // 100, 50))]
        chance = random.Random(1)
        self.projects = [
            Project(
                f"/home/ada/proj{number}".encode(),
                f"proj{number}",
                ("manifest",),
                (Framework(chance.choice(_FRAMEWORKS)),),
            )
            for number in range(max(files // 2_000, 5))
        ]
        self._facts = self._make_facts()

    def _word(self, number: int) -> str:
        parts = []
        for _ in range(4):
            number, rest = divmod(number, len(_SYLLABLES))
            parts.append(_SYLLABLES[rest])
        return "".join(reversed(parts))

    def _make_facts(self) -> list[list[list[FileFacts]]]:
        """For each type and importance the facts that its files share, one for each of some projects' roots."""
        found = Finding(3, "private-key", Severity.HIGH, "00" * 16)
        return [
            [
                [
                    FileFacts(
                        FileType(language, category, "text/plain", "extension", 90),
                        importance=min(step * 5 + (4 if secret else 0), 100),
                        git=GitState.MODIFIED if secret else GitState.PUSHED,
                        findings=(found,) if secret else (),
                    )
                    for secret in (False, True)
                ]
                for step in range(20)
            ]
            for _, _, language, category in _TYPES
        ]

    def rows(self, changed: frozenset[int] = frozenset(), *, gone: bool = False) -> Iterator[FileRow]:
        """Every file; those at ``changed`` places with another size and time, or with some gone."""
        chance = random.Random(2)
        types = chance.choices(range(len(_TYPES)), [weight for weight, *_ in _TYPES], k=self.files)
        roots: dict[tuple[int, int, int, int], FileFacts] = {}
        for number, kind in enumerate(types):
            serial, project = divmod(number, len(self.projects))
            folder, name = chance.choice(_COMMON), chance.choice(self.rare)
            step = int(chance.triangular(0, 20, 6)) % 20
            secret = chance.random() < 0.0005
            size = int(chance.lognormvariate(9, 2.2))
            mtime = NOW_NS - int(chance.expovariate(1 / 700) * DAY_NS)
            key = (kind, step, int(secret), project)
            facts = roots.get(key)
            if facts is None:
                facts = roots[key] = self._facts[kind][step][secret]._replace(project=self.projects[project].root)
            path = f"/home/ada/proj{project}/{folder}/{name}/{chance.choice(self.rare)}-{serial}.{_TYPES[kind][1]}"
            if gone and number % GONE == 1:
                continue
            if number in changed:
                size, mtime = size + 1, NOW_NS
            yield FileRow(path.encode(), EntryKind.FILE, size, mtime, number.to_bytes(16, "big"), facts)


def fill(catalog: Catalog, world: World) -> tuple[float, float]:
    """Seconds that the first snapshot took to enter, and the second, in which one file in a hundred changed."""
    begin = time.perf_counter()
    _add(catalog, world, "a1" * 32, NOW_NS - DAY_NS, world.rows())
    first = time.perf_counter() - begin
    changed = frozenset(range(0, world.files, 100))
    begin = time.perf_counter()
    _add(catalog, world, "a2" * 32, NOW_NS, world.rows(changed, gone=True))
    return first, time.perf_counter() - begin


def _add(catalog: Catalog, world: World, hex_id: str, time_ns: int, rows: Iterator[FileRow]) -> None:
    info = SnapshotInfo(hex_id, time_ns, "laptop", "ada", ("/home/ada",), (), "00" * 32)
    catalog.add_snapshot("1f" * 32, info, SnapshotRows(rows, world.projects))


def ask(catalog: Catalog, world: World, name: str, pattern: str, *, selective: bool) -> Asked:
    """Ask for different words of the same kind, `ROUNDS` times after two that warm up."""
    chance = random.Random(3)
    times: list[float] = []
    hits = 0
    for _ in range(ROUNDS + 2):
        rare = chance.choice(world.rare)
        text = pattern.format(
            rare=rare,
            rare7=rare[:7],
            common=chance.choice(_COMMON),
            project=chance.choice(world.projects).name,
        )
        begin = time.perf_counter()
        found = search(catalog.engine, parse_query(text, now_ns=NOW_NS))
        times.append((time.perf_counter() - begin) * 1000)
        hits = len(found.hits)
    return Asked(name, selective, statistics.median(times[2:]), max(times[2:]), hits)


def peak_mib() -> float:
    """The most memory this process has had so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def main() -> int:
    """Measure, print, and keep the figures; 1 when the budget is not met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=FILES)
    parser.add_argument("--url", help="a catalog to fill, which must be empty; else one in a temporary folder")
    parser.add_argument("--keep-results", action="store_true", help="write a file into benchmarks/results")
    options = parser.parse_args()
    world = World(options.files)
    with tempfile.TemporaryDirectory() as folder:
        catalog = Catalog.open(options.url or f"sqlite:///{Path(folder) / 'catalog.sqlite3'}")
        before = peak_mib()
        first, second = fill(catalog, world)
        peak = peak_mib()
        print(f"first snapshot   {options.files:,} files in {first:.1f} s, {options.files / first:,.0f} files/s")
        print(f"second snapshot  1 % changed, {second:.1f} s")
        print(f"peak memory      {peak:.0f} MiB, {peak - before:.0f} MiB of them for filling")
        asked = [ask(catalog, world, name, text, selective=True) for name, text in SELECTIVE.items()]
        asked += [ask(catalog, world, name, text, selective=False) for name, text in BROAD.items()]
        catalog.close()
    for one in asked:
        kind = "selective" if one.selective else "broad"
        print(f"{kind:10} {one.name:30} {one.median_ms:8.1f} ms  slowest {one.slowest_ms:8.1f} ms  {one.hits:3} hits")
    median = statistics.median(one.median_ms for one in asked if one.selective)
    verdict = Verdict(
        "find, selective terms, median", f"under {BUDGET_MS:.0f} ms", f"{median:.1f} ms", median < BUDGET_MS
    )
    print(verdict)
    if options.keep_results:
        figures = {"files": options.files, "first_seconds": first, "second_seconds": second, "peak_mib": peak}
        print(write_results("catalog-", asked, [verdict], filling=figures))
    return 0 if median < BUDGET_MS else 1


if __name__ == "__main__":
    sys.exit(main())

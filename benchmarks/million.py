"""Measures analysis by name, planning and the catalog on a million paths: ``make bench BENCH_ARGS="--million"``.

A home folder is made up in memory, in an inventory as the walk leaves one: projects with their manifests, git folders
and what their tools made, documents, photos, settings, caches. The files that folders are understood by (manifests,
git's own) lie in a temporary file and are read from there; nothing else has a content. In a process of its own the
folders are looked at, every file gets its facts by its name, batches are planned, and all of it enters a new catalog
(SQLite) as a first snapshot, the facts computed once more as `backupiq catalog update` does. A missed budget is printed
and is no failure.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import itertools
import json
import random
import struct
import sys
import tempfile
import time
import zlib
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import IO

from backupiq.archive.inventory import Inventory
from backupiq.catalog.adding import SnapshotRows
from backupiq.catalog.rows import FileRow, SnapshotInfo
from backupiq.catalog.store import Catalog
from backupiq.discovery.entry import Directory, EntryKind, FileEntry
from backupiq.planning.batches import plan_batches
from backupiq.planning.order import CLOUD_PACE, waves
from backupiq.semantics.analysis import Analysis
from benchmarks.measure import measure
from benchmarks.report import Verdict
from benchmarks.results import write_results
from tests.support.programs import ROOT, plain_environment

SECONDS = 120.0
MEMORY_BYTES = 700_000_000
PATHS = 1_000_000
HOME = b"/home/ada"
NOW_NS = 1_790_000_000 * 10**9
DAY_NS = 86_400 * 10**9
PROJECT_PATHS = 2_000
DIGESTS = 4096
"""Contents that files share: what a digest is does not matter, only that it is stored."""

Folder = dict[bytes, "int | bytes | Folder"]
"""Names of a folder: files by their bytes or by their content, and folders."""


@dataclasses.dataclass(frozen=True, slots=True)
class Figures:
    """One run. Seconds of each step, ``budget_seconds`` of all but making the paths up.

    ``cpu_seconds`` and ``peak_bytes`` are of the whole process.
    """

    paths: int
    files: int
    projects: int
    decisions: int
    batches: int
    making_seconds: float
    folders_seconds: float
    facts_seconds: float
    planning_seconds: float
    catalog_seconds: float
    budget_seconds: float
    catalog_bytes: int
    cpu_seconds: float = 0.0
    peak_bytes: int = 0


# --- the paths -----------------------------------------------------------------------------------------------------


class MadeUpFiles:
    """An inventory of about ``paths`` entries below `HOME`, the same for the same number; contents lie in ``store``."""

    def __init__(self, paths: int, store: IO[bytes]) -> None:
        self.inventory = Inventory()
        self._store = store
        self._places: dict[bytes, tuple[int, int]] = {}
        self._draw = random.Random(2026)
        self._wanted = paths
        self._words = [a + b for a in _SYLLABLES for b in _SYLLABLES]
        self._make()

    def directories(self) -> Iterator[Directory]:
        """As analysis sees files."""
        for _, directory in self.inventory.directories():
            yield directory

    def read(self, path: bytes, limit: int) -> bytes:
        """At most the first ``limit`` bytes of a file that has a content; others are empty."""
        offset, size = self._places.get(path, (0, 0))
        self._store.seek(offset)
        return self._store.read(min(size, limit))

    def _make(self) -> None:
        for above, name in ((b"/", b"home"), (b"/home", b"ada")):
            self._add(above, {name: {}})
        self._add(HOME, {name: {} for name in _SHARES})
        for name, share in sorted(_SHARES.items()):
            self._part(HOME + b"/" + name, int(self._wanted * share), name)

    def _part(self, path: bytes, paths: int, name: bytes) -> None:
        if name == b"projects":
            count = max(4, paths // PROJECT_PATHS)
            names = sorted(b"%s-%d" % (self._word(), number) for number in range(count))
            self._add(path, {name: {} for name in names})
            for number, project in enumerate(names):
                self._tree(path + b"/" + project, self._project(number, project, paths // count))
            return
        folders = max(1, paths // 120)
        names = sorted(b"%s-%d" % (self._word(), number) for number in range(folders))
        self._add(path, {name: {} for name in names})
        for each in names:
            self._tree(path + b"/" + each, self._files(_KINDS[name], paths // folders))

    def _project(self, number: int, name: bytes, paths: int) -> Folder:
        manifest, made, proof, kinds = _STACKS[number % len(_STACKS)]
        content = manifest[1] % name
        work = int(paths * 0.45)
        sources: Folder = {
            b"%s-%d" % (self._word(), each): self._files(kinds, 25) for each in range(max(1, work // 25))
        }
        project: Folder = {manifest[0]: content, b"README.md": 3_000, b"src": sources, b"tests": self._files(kinds, 20)}
        generated: Folder = {
            b"%s-%d" % (self._word(), each): {b"lib": self._files(kinds, 18), manifest[0]: 700}
            for each in range(max(1, int(paths * 0.45) // 22))
        }
        project[made] = proof | {b"lib": generated} if proof else generated
        tracked = sorted(_files_below({key: value for key, value in project.items() if key != made}))
        project[b".gitignore"] = made + b"/\n*.log\n"
        project[b".git"] = self._git(tracked)
        return project

    def _git(self, tracked: Sequence[tuple[bytes, int]]) -> Folder:
        tree = hashlib.sha1(tracked[0][0], usedforsecurity=False).digest()
        commit = b"tree %b\nauthor Ada <ada@example.org> 1780000000 +0000\n\nwork\n" % tree.hex().encode()
        commit = b"commit %d\0" % len(commit) + commit
        head = hashlib.sha1(commit, usedforsecurity=False).hexdigest().encode()
        objects: Folder = {
            b"%02x" % each: {self._draw.randbytes(19).hex().encode(): 900 for _ in range(3)} for each in range(12)
        }
        objects[head[:2]] = {head[2:]: zlib.compress(commit)}
        pack = b"pack-" + self._draw.randbytes(20).hex().encode()
        return {
            b"HEAD": b"ref: refs/heads/main\n",
            b"config": _CONFIG,
            b"index": git_index(tracked, tree),
            b"logs": {b"HEAD": 4_000},
            b"objects": objects | {b"pack": {pack + b".pack": 4_000_000, pack + b".idx": 60_000}},
            b"refs": {b"heads": {b"main": head + b"\n"}, b"remotes": {b"origin": {b"main": head + b"\n"}}},
        }

    def _files(self, kinds: Sequence[tuple[bytes, int]], count: int) -> Folder:
        found: Folder = {}
        while len(found) < count:
            ending, size = self._draw.choice(kinds)
            found[self._word() + b"_" + self._word() + ending] = int(size * self._draw.lognormvariate(0, 1)) + 1
        return found

    def _word(self) -> bytes:
        return self._draw.choice(self._words)

    def _tree(self, path: bytes, folder: Folder) -> None:
        self._add(path, folder)
        for name, value in sorted(folder.items(), key=lambda item: item[0]):
            if isinstance(value, dict):
                self._tree(path + b"/" + name, value)

    def _add(self, path: bytes, folder: Folder) -> None:
        children = []
        for name, value in sorted(folder.items(), key=lambda item: item[0]):
            if isinstance(value, bytes):
                self._places[path + b"/" + name] = (self._store.seek(0, 2), len(value))
                self._store.write(value)
                value = len(value)
            children.append(self._entry(name, value))
        self.inventory.add(Directory(path, self._entry(b"", {}), children))

    def _entry(self, name: bytes, value: int | Folder) -> FileEntry:
        mtime = mtime_ns(name)
        is_file = isinstance(value, int)
        kind, mode = (EntryKind.FILE, 0o100644) if is_file else (EntryKind.DIR, 0o040755)
        size = value if isinstance(value, int) else 4096
        return FileEntry(name, kind, size, mtime, mtime, 0, 1, mode, 1000, 1000, 1, 0)


def mtime_ns(name: bytes) -> int:
    """When a file of that name was changed: within two years, git's indexes last, so that they know the others."""
    return NOW_NS if name == b"index" else NOW_NS - DAY_NS - zlib.crc32(name) % (730 * 86_400) * 10**9


def git_index(files: Sequence[tuple[bytes, int]], tree: bytes) -> bytes:
    """An index (version 2 of git's index-format) of these paths with their sizes, which are in sorted order.

    ``tree``: the raw id that the index has for the top folder; it is the last commit's when nothing is staged.
    """
    entries = []
    for path, size in files:
        mtime = mtime_ns(path.rpartition(b"/")[2]) // 10**9
        stat = (mtime, 0, mtime, 0, 1, 0, 0o100644, 1000, 1000, size & 0xFFFFFFFF)
        fixed = struct.pack(">10I20sH", *stat, b"i" * 20, min(len(path), 0xFFF))
        entries.append(fixed + path + b"\0" * (8 - (62 + len(path)) % 8))
    cached = b"\0%d 0\n" % len(files) + tree
    body = struct.pack(">4sII", b"DIRC", 2, len(files)) + b"".join(entries)
    body += struct.pack(">4sI", b"TREE", len(cached)) + cached
    return body + hashlib.sha1(body, usedforsecurity=False).digest()


def _files_below(folder: Folder) -> Iterator[tuple[bytes, int]]:
    for name, value in folder.items():
        if isinstance(value, dict):
            yield from ((name + b"/" + below, size) for below, size in _files_below(value))
        else:
            yield name, len(value) if isinstance(value, bytes) else value


_CONFIG = b"""[core]
\tfilemode = true
[remote "origin"]
\turl = https://git.example.org/ada/work.git
\tfetch = +refs/heads/*:refs/remotes/origin/*
[branch "main"]
\tremote = origin
\tmerge = refs/heads/main
"""
_SYLLABLES = [b"ba", b"ce", b"di", b"fo", b"gu", b"la", b"me", b"ni", b"po", b"ru", b"sa", b"te", b"vi", b"wo", b"xu"]
_SHARES = {
    b".cache": 0.05,
    b".config": 0.03,
    b"Documents": 0.12,
    b"Downloads": 0.02,
    b"Music": 0.04,
    b"Pictures": 0.18,
    b"projects": 0.60,
}
_KINDS: dict[bytes, list[tuple[bytes, int]]] = {
    b".cache": [(b"", 20_000), (b".bin", 40_000), (b".tmp", 3_000), (b".json", 2_000)],
    b".config": [(b".conf", 800), (b".ini", 900), (b".json", 2_000), (b".yaml", 700), (b"rc", 600), (b".db", 50_000)],
    b"Documents": [
        (b".odt", 40_000),
        (b".pdf", 300_000),
        (b".docx", 60_000),
        (b".xlsx", 50_000),
        (b".md", 4_000),
        (b".txt", 3_000),
        (b".pptx", 900_000),
    ],
    b"Downloads": [(b".zip", 9_000_000), (b".pdf", 500_000), (b".deb", 5_000_000), (b".tar.gz", 3_000_000)],
    b"Music": [(b".mp3", 5_000_000), (b".ogg", 4_000_000), (b".jpg", 90_000)],
    b"Pictures": [
        *[(b".jpg", 2_000_000)] * 30,
        *[(b".heic", 1_500_000)] * 8,
        (b".png", 800_000),
        (b".mp4", 50_000_000),
    ],
}
_JS = [(b".js", 5_000), (b".jsx", 4_000), (b".css", 2_000), (b".json", 900), (b".test.js", 3_000), (b".d.ts", 1_500)]
_PY = [(b".py", 6_000), (b".pyi", 1_000), (b".toml", 600), (b".html", 3_000), (b".sql", 1_500), (b".po", 9_000)]
_RS = [(b".rs", 7_000), (b".toml", 500), (b".md", 2_000), (b".o", 40_000), (b".d", 300)]
_JAVA = [(b".java", 6_000), (b".xml", 2_000), (b".properties", 700), (b".class", 4_000), (b".kt", 4_000)]
_STACKS: list[tuple[tuple[bytes, bytes], bytes, Folder, list[tuple[bytes, int]]]] = [
    ((b"package.json", b'{"name": "%s", "dependencies": {"react": "^18.2.0"}}\n'), b"node_modules", {}, _JS),
    (
        (b"pyproject.toml", b'[project]\nname = "%s"\ndependencies = ["django>=5"]\n'),
        b".venv",
        {b"pyvenv.cfg": b"home = /usr/bin\ninclude-system-site-packages = false\nversion = 3.11.2\n"},
        _PY,
    ),
    ((b"Cargo.toml", b'[package]\nname = "%s"\nversion = "1.0.0"\n'), b"target", {}, _RS),
    ((b"pom.xml", b"<project><artifactId>%s</artifactId></project>\n"), b"target", {}, _JAVA),
]
"""A manifest with its content, the folder that tools make, what proves it by lying in it, and the kinds of files."""


# --- the steps -----------------------------------------------------------------------------------------------------


def run(paths: int, work: Path) -> Figures:
    """All steps, in this process; the catalog is made below ``work``."""
    clock = time.perf_counter
    marks = [clock()]
    with tempfile.TemporaryFile(dir=work) as store:
        files = MadeUpFiles(paths, store)
        marks.append(clock())
        analysis = Analysis(files, now_ns=NOW_NS)
        marks.append(clock())
        ordinals, sizes, importance = judge_all(files.inventory, analysis)
        marks.append(clock())
        total = sum(sizes)
        cut = waves(ordinals, sizes, importance, smallest=CLOUD_PACE.smallest_wave)
        batches = len(plan_batches(cut, total))
        marks.append(clock())
        path = work / "catalog.sqlite3"
        with Catalog.open(f"sqlite:///{path}") as catalog:
            info = SnapshotInfo("a1" * 32, NOW_NS, "laptop", "ada", (HOME.decode(),), (), "00" * 32)
            catalog.add_snapshot("1f" * 32, info, SnapshotRows(rows(files, analysis), analysis.projects))
        marks.append(clock())
    made, folders, facts, planned, stored = (end - begin for begin, end in itertools.pairwise(marks))
    return Figures(
        files.inventory.entries,
        len(ordinals),
        len(analysis.projects),
        len(analysis.decisions),
        batches,
        making_seconds=made,
        folders_seconds=folders,
        facts_seconds=facts,
        planning_seconds=planned,
        catalog_seconds=stored,
        budget_seconds=marks[-1] - marks[1],
        catalog_bytes=path.stat().st_size,
    )


def judge_all(inventory: Inventory, analysis: Analysis) -> tuple[array[int], array[int], array[int]]:
    """Ordinals, sizes and importance of all files, as a run plans with them."""
    ordinals, sizes, importance = array("Q"), array("Q"), array("B")
    for first, directory in inventory.directories():
        for ordinal, (entry, facts) in enumerate(analysis.facts(directory, {}), first):
            if entry.kind is EntryKind.FILE:
                ordinals.append(ordinal)
                sizes.append(entry.size)
                importance.append(0 if facts.regenerable else max(1, facts.importance))
    return ordinals, sizes, importance


def rows(files: MadeUpFiles, analysis: Analysis) -> Iterator[FileRow]:
    """The rows of everything for the catalog, with the facts made anew."""
    digests = [number.to_bytes(16, "big") for number in range(DIGESTS)]
    number = 0
    for directory in files.directories():
        prefix = directory.path.rstrip(b"/") + b"/"
        for entry, facts in analysis.facts(directory, {}):
            number += 1
            content = digests[number % DIGESTS] if entry.kind is EntryKind.FILE else None
            yield FileRow(prefix + entry.name, entry.kind, entry.size, entry.mtime_ns, content, facts)


# --- the measurement -----------------------------------------------------------------------------------------------


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.million", description=__doc__, formatter_class=_AS_IT_IS)
    parser.add_argument("--paths", type=int, default=PATHS, help=f"paths to make up ({PATHS})")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (3)")
    parser.add_argument("--quick", action="store_true", help="a look: 20000 paths, one round")
    parser.add_argument("--work", type=Path, help="where to put the catalog (the temporary folder)")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(given)
    if options.quick:
        options.paths, options.rounds = 20_000, 1
    if min(options.paths, options.rounds) < 1:
        parser.error("--paths and --rounds must be at least 1")
    return options


_AS_IT_IS = argparse.RawDescriptionHelpFormatter


def judge(measured: Sequence[Figures]) -> list[Verdict]:
    """The budgets: the median of the seconds, the worst of the memory."""
    seconds = median(one.budget_seconds for one in measured)
    peak = max(one.peak_bytes for one in measured)
    what = f"{measured[0].paths:,} paths"
    return [
        Verdict(f"seconds of {what}", f"at most {SECONDS:g} s", f"{seconds:.1f} s", seconds <= SECONDS),
        Verdict(
            f"peak memory of {what}",
            f"at most {MEMORY_BYTES / 1e6:.0f} MB",
            f"{peak / 1e6:,.1f} MB",
            peak <= MEMORY_BYTES,
        ),
    ]


def measure_once(paths: int, folder: Path | None) -> Figures:
    """One run in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="backupiq-bench-", dir=folder and folder.absolute()) as work:
        command = [sys.executable, "-m", "benchmarks.million", "--child", "--paths", str(paths), "--work", work]
        done = measure(command, env=plain_environment(), cwd=ROOT)
    figures = Figures(**json.loads(done.stdout))
    return dataclasses.replace(figures, cpu_seconds=done.cpu_seconds, peak_bytes=done.peak_bytes)


def main(given: Sequence[str] | None = None) -> int:
    """Measures, prints and writes one JSON file below benchmarks/results. The exit code."""
    options = arguments(given)
    if options.child:
        print(json.dumps(dataclasses.asdict(run(options.paths, options.work))))
        return 0
    measured = []
    for number in range(1, options.rounds + 1):
        one = measure_once(options.paths, options.work)
        measured.append(one)
        print(
            f"round {number}: {one.paths:,} paths, {one.files:,} files, {one.projects:,} projects: "
            f"folders {one.folders_seconds:.1f} s, facts {one.facts_seconds:.1f} s, "
            f"planning {one.planning_seconds:.1f} s ({one.batches:,} batches), "
            f"catalog {one.catalog_seconds:.1f} s ({one.catalog_bytes / 1e6:,.0f} MB); "
            f"peak {one.peak_bytes / 1e6:,.0f} MB; all of it {one.cpu_seconds:.1f} cpu seconds, "
            f"{one.making_seconds:.1f} s of them for making the paths up",
            flush=True,
        )
    verdicts = judge(measured)
    for verdict in verdicts:
        state = "met" if verdict.met else "MISSED"
        print(f"{verdict.what}: {verdict.found} (budget: {verdict.limit}, {state})")
    print(f"written: {write_results('million-', measured, verdicts)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

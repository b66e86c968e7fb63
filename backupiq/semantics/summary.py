"""What a backup holds, in numbers: by category, language and framework, the largest, the riskiest, the projects."""

from __future__ import annotations

import dataclasses
import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from backupiq.semantics.model import Category, FileType, Project
from backupiq.telemetry.text import printable_path

MOST_LISTED = 10
MOST_AMOUNTS = 50
"""Rows of each list of amounts that `to_dict` gives."""


@dataclasses.dataclass(frozen=True, slots=True)
class Amount:
    """Files and their bytes."""

    name: str
    files: int
    bytes: int


@dataclasses.dataclass(frozen=True, slots=True)
class RiskyFile:
    """A file in which secrets were found: raw path, how many, and the rules that found them."""

    path: bytes
    secrets: int
    rules: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Summary:
    """What a tree holds. Amounts are sorted, the most bytes first; ``largest`` are raw paths with their bytes."""

    categories: Sequence[Amount]
    languages: Sequence[Amount]
    frameworks: Sequence[Amount]
    projects: Sequence[Amount]
    largest: Sequence[tuple[bytes, int]]
    riskiest: Sequence[RiskyFile]
    regenerable: Amount


class Counting:
    """Adds a tree up, file by file; constant memory but for the names of languages and projects."""

    def __init__(self) -> None:
        self._types: Counter[tuple[Category, str]] = Counter()
        self._bytes: Counter[tuple[Category, str]] = Counter()
        self._projects: Counter[bytes] = Counter()
        self._project_bytes: Counter[bytes] = Counter()
        self._largest: list[tuple[int, bytes]] = []
        self._risky: list[tuple[int, bytes, tuple[str, ...]]] = []
        self._regenerable = [0, 0]

    def add(self, path: bytes, size: int, found: FileType, project: bytes | None = None) -> None:
        """A file that is somebody's work or may be."""
        key = (found.category, found.name)
        self._types[key] += 1
        self._bytes[key] += size
        if project is not None:
            self._projects[project] += 1
            self._project_bytes[project] += size
        largest = self._largest
        if len(largest) < MOST_LISTED:
            heapq.heappush(largest, (size, path))
        elif size > largest[0][0]:
            heapq.heapreplace(largest, (size, path))

    def add_regenerable(self, size: int) -> None:
        """A file that can be made again; it is counted apart from the others."""
        self._regenerable[0] += 1
        self._regenerable[1] += size

    def add_risky(self, path: bytes, rules: Sequence[str]) -> None:
        """Secrets in a file, by the rules that found them."""
        item = (len(rules), path, tuple(sorted(set(rules))))
        if len(self._risky) < MOST_LISTED:
            heapq.heappush(self._risky, item)
        elif item > self._risky[0]:
            heapq.heapreplace(self._risky, item)

    def summary(self, projects: Iterable[Project] = ()) -> Summary:
        """The sums. ``projects`` give names and frameworks to the roots that files were added with."""
        known = {project.root: project for project in projects}
        by_category: Counter[str] = Counter()
        category_bytes: Counter[str] = Counter()
        by_language: Counter[str] = Counter()
        language_bytes: Counter[str] = Counter()
        for (category, name), files in self._types.items():
            size = self._bytes[category, name]
            by_category[category.value] += files
            category_bytes[category.value] += size
            if category in (Category.CODE, Category.WEB) and name:
                by_language[name] += files
                language_bytes[name] += size
        frameworks: Counter[str] = Counter()
        framework_bytes: Counter[str] = Counter()
        for root, project in known.items():
            for framework in project.frameworks:
                frameworks[framework.name] += 1
                framework_bytes[framework.name] += self._project_bytes[root]
        names = {root: project.name for root, project in known.items()}
        return Summary(
            _amounts(by_category, category_bytes),
            _amounts(by_language, language_bytes),
            _amounts(frameworks, framework_bytes),
            [
                Amount(names[root], self._projects[root], size)
                for root, size in self._project_bytes.most_common(MOST_LISTED)
                if root in names
            ],
            [(path, size) for size, path in sorted(self._largest, reverse=True)],
            [RiskyFile(path, count, rules) for count, path, rules in sorted(self._risky, reverse=True)],
            Amount("regenerable", *self._regenerable),
        )


def _amounts(files: Counter[str], sizes: Counter[str]) -> list[Amount]:
    return [
        Amount(name, count, sizes[name])
        for name, count in sorted(files.items(), key=lambda item: (-sizes[item[0]], item[0]))
    ]


def to_dict(summary: Summary) -> dict[str, Any]:
    """The summary as plain JSON values: sizes in bytes, paths escaped, at most `MOST_AMOUNTS` amounts of each sort."""

    def amounts(found: Sequence[Amount]) -> list[dict[str, Any]]:
        return [{"name": each.name, "files": each.files, "bytes": each.bytes} for each in found[:MOST_AMOUNTS]]

    return {
        "categories": amounts(summary.categories),
        "languages": amounts(summary.languages),
        "frameworks": amounts(summary.frameworks),
        "projects": amounts(summary.projects),
        "largest": [{"path": printable_path(path), "bytes": size} for path, size in summary.largest],
        "secrets": [
            {"path": printable_path(each.path), "secrets": each.secrets, "rules": list(each.rules)}
            for each in summary.riskiest
        ],
        "regenerable": {"files": summary.regenerable.files, "bytes": summary.regenerable.bytes},
    }

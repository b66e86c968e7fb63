"""Helpers to run a walk below a folder and see what it gave, by relative path."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from backupiq.discovery.entry import Directory, FileEntry, UnreadableItem
from backupiq.discovery.rules import ExcludeRules, Rule
from backupiq.discovery.walk import WalkCounts, walk


@dataclass
class Walked:
    """One finished walk: folders in order, entries by path below the base, what was reported."""

    base: bytes
    folders: list[Directory] = field(default_factory=list)
    unreadable: list[UnreadableItem] = field(default_factory=list)
    excluded: dict[bytes, Rule] = field(default_factory=dict)
    counts: WalkCounts = field(default_factory=WalkCounts)

    @property
    def entries(self) -> dict[bytes, FileEntry]:
        found = {}
        for folder in self.folders:
            if folder.path == self.base or folder.path.startswith(self.base + b"/"):
                below = folder.path[len(self.base) + 1 :]
                for child in folder.children:
                    found[below + b"/" + child.name if below else child.name] = child
        return found

    @property
    def names(self) -> set[str]:
        return {os.fsdecode(path) for path in self.entries}


@pytest.fixture
def run_walk() -> Callable[..., Walked]:
    def run(base: Path, *sources: Any, rules: ExcludeRules | None = None, **options: Any) -> Walked:
        walked = Walked(os.fsencode(base))
        walked.folders = list(
            walk(
                sources or [base],
                rules,
                on_unreadable=walked.unreadable.append,
                on_excluded=walked.excluded.__setitem__,
                counts=walked.counts,
                **options,
            )
        )
        return walked

    return run


@pytest.fixture
def shared_path() -> Iterator[Path]:
    """A folder like ``tmp_path`` that other users can reach, for code that runs as one of them."""
    with tempfile.TemporaryDirectory(prefix="backupiq-") as name:
        os.chmod(name, 0o755)  # noqa: S103 - others are meant to reach it
        yield Path(name)


@contextmanager
def as_ordinary_user() -> Iterator[None]:
    """For code that must meet a refusal: root is refused nothing, so root steps down for the moment."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def make(base: Path, *paths: str, data: bytes = b"x") -> None:
    """Files (or folders, with a slash at the end) at these paths below ``base``."""
    for name in paths:
        path = base / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

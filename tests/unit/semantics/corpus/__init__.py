"""A small labelled corpus: three or four short files for each core language, written for these tests.

Each file stands in one of the texts beside this module, below a line ``######## LANGUAGE | FILE NAME``. So nothing here
is taken for a program of the project.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
MARK = "######## "


def labelled_files() -> Iterator[tuple[str, bytes, bytes]]:
    """The language, the name and the content of every file of the corpus."""
    for path in sorted(FOLDER.glob("*.txt")):
        yield from _sections(path)


def rule_cases() -> list[tuple[str, bytes, bytes]]:
    """The same of the files with which each rule of rules.toml is tried, right cases and near misses."""
    return list(_sections(FOLDER / "rule_cases.dat"))


def _sections(path: Path) -> Iterator[tuple[str, bytes, bytes]]:
    for section in path.read_text("utf-8").split(MARK)[1:]:
        title, _, content = section.partition("\n")
        language, _, name = title.partition(" | ")
        yield language, name.encode(), content.encode()

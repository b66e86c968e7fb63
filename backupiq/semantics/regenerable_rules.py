"""The rules about folders that can be made again, from ``data/regenerable.toml``, and their table for people.

``python -m backupiq.semantics.regenerable_rules > docs/regenerable.md`` makes the page; a test compares the two.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable
from importlib.resources import files as package_files
from typing import Any

import msgspec

PROOF_BYTES = 4096
"""How much of a file that must say something is read at most."""


class Proof(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a file inside must say: it begins with ``begins``, or one of its lines sets ``key``."""

    file: str
    begins: str = ""
    key: str = ""

    @property
    def bytes_needed(self) -> int:
        """How many bytes of the file tell."""
        return len(self.begins) or PROOF_BYTES

    def holds(self, head: bytes) -> bool:
        """Whether the beginning of the file says it."""
        if self.begins:
            return head.startswith(self.begins.encode())
        key = self.key.encode()
        return any(line.partition(b"=")[0].strip() == key for line in head.splitlines() if b"=" in line)


Groups = tuple[tuple[str, ...], ...]


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One rule. The fields are explained at the head of the data file."""

    id: str
    remake: str
    folders: tuple[str, ...] = ()
    any_name: bool = False
    beside: Groups = ()
    below: Groups = ()
    inside: Groups = ()
    proof: Proof | None = None
    only: tuple[str, ...] = ()
    may_be_empty: bool = False


class RuleBook(msgspec.Struct, frozen=True):
    """The rules arranged for the walk. All names are raw.

    ``named`` and ``beginnings`` lead from a folder's name to its rules, ``markers`` from the name of a file to those
    rules for which it makes any folder that holds it a candidate.
    """

    rules: tuple[Rule, ...]
    named: dict[bytes, tuple[Rule, ...]]
    beginnings: dict[bytes, tuple[Rule, ...]]
    markers: dict[bytes, tuple[Rule, ...]]

    def for_folder(self, name: bytes) -> tuple[Rule, ...]:
        """The rules that a folder of this name is a candidate of, in the order of the data."""
        found = self.named.get(name)
        if found is None:
            found = next((rules for start, rules in self.beginnings.items() if name.startswith(start)), ())
        return found


@functools.cache
def rule_book() -> RuleBook:
    """The rules, read once."""
    import tomllib

    text = package_files("backupiq.semantics").joinpath("data/regenerable.toml").read_text(encoding="utf-8")
    rules = msgspec.convert(tomllib.loads(text)["rule"], tuple[Rule, ...])
    named: dict[bytes, tuple[Rule, ...]] = {}
    beginnings: dict[bytes, tuple[Rule, ...]] = {}
    markers: dict[bytes, tuple[Rule, ...]] = {}
    for rule in rules:
        for folder in rule.folders:
            table, key = (beginnings, folder[:-1]) if folder.endswith("*") else (named, folder)
            table[key.encode()] = (*table.get(key.encode(), ()), rule)
        if rule.any_name:
            for marker in (name for group in rule.inside for name in group):
                markers[marker.encode()] = (*markers.get(marker.encode(), ()), rule)
    return RuleBook(rules, named, beginnings, markers)


_INTRODUCTION = """\
# Folders that can be made again

Some folders hold only what a tool makes again from files that are in the backup: installed packages, builds, caches.
BackupIQ stores them last; with `exclude_regenerable = true` in the profile it leaves them out. Every decision is
listed with its reason, also when a folder has such a name and is treated like any other.

A folder counts as one that can be made again only when **all** of this holds:

1. It has the **name**, or holds the **marker** that alone is enough (*any name*).
2. The file it is made from, the **manifest**, is **in the same backup**: a regular file that is not empty and that no
   exclude rule leaves out. *One of* stands between the names of which one is enough; *and* between those that must all
   be there.
3. **Git tracks nothing inside.**
4. Where the table names all that may lie in the folder (*only*), it holds nothing else directly but empty files. So a
   project that was put into a virtual environment is kept, also when the environment is marked as a cache.

What lies inside such a folder is not listed again. A name alone never decides: a `target` without a `Cargo.toml`, a
`pom.xml` or a `build.sbt` beside it is a folder like any other.

| rule | folder | beside it | inside it | made again |
|---|---|---|---|---|
"""

_END = """
A marker's content counts, not its name: `pyvenv.cfg` must set `home`, and `CACHEDIR.TAG` must begin with its
[signature](https://bford.info/cachedir/). Where an empty file is enough, and what else a rule asks for, stands in
`backupiq/semantics/data/regenerable.toml`, from which this page is made.

Made by `python -m backupiq.semantics.regenerable_rules > docs/regenerable.md`; do not edit it by hand.
"""


def render() -> str:
    """The whole page as Markdown."""
    return _INTRODUCTION + "".join(map(_row, rule_book().rules)) + _END


def _row(rule: Rule) -> str:
    folder = [*map(_code, rule.folders), *(["any name"] if rule.any_name else [])]
    beside = _groups(rule.beside) or " and ".join(f"{_groups((group,))}, or deeper" for group in rule.below)
    inside = _groups(rule.inside)
    if rule.only:
        inside += "; only " + _codes(rule.only)
    cells: tuple[Any, ...] = (_code(rule.id), ", ".join(folder), beside or "-", inside or "-", rule.remake)
    return "| " + " | ".join(cells) + " |\n"


def _groups(groups: Groups) -> str:
    return " and ".join(("one of " if len(group) > 1 else "") + _codes(group) for group in groups)


def _codes(names: Iterable[str]) -> str:
    return ", ".join(map(_code, names))


def _code(name: str) -> str:
    return f"`{name}`"


if __name__ == "__main__":
    sys.stdout.write(render())

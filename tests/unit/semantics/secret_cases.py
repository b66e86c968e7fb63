"""Right cases and near misses of every secret rule, drawn from the rules' patterns when a test runs.

No token stands in these files: each is put together from its pattern by a seeded generator, so that neither a person
nor a program that looks for secrets takes the tests for a leak.
"""

from __future__ import annotations

import dataclasses
import random
import re
import re._constants as opcodes
import re._parser as parser
import warnings
from collections.abc import Iterable
from typing import Any

from backupiq.semantics.secret_rules import SecretRule

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
ALPHABET = [chr(code) for code in range(256)]
CATEGORIES = {
    opcodes.CATEGORY_DIGIT: "0123456789",
    opcodes.CATEGORY_WORD: LETTERS + "_",
    opcodes.CATEGORY_SPACE: " \n",
    opcodes.CATEGORY_NOT_SPACE: LETTERS,
    opcodes.CATEGORY_NOT_WORD: " ",
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A file with a secret: its path, what stands before the secret, the secret, what stands behind it."""

    path: bytes
    before: str
    secret: str
    behind: str
    least: int
    """Characters that the shortest secret of the rule has."""

    @property
    def data(self) -> bytes:
        return (self.before + self.secret + self.behind).encode("latin-1")

    def with_secret(self, secret: str) -> bytes:
        return dataclasses.replace(self, secret=secret).data


def case_of(rule: SecretRule, seed: int, *, varied: bool = True) -> Case:
    """A file in which ``rule`` should find its secret; ``varied``: of random characters, else always the same one."""
    if rule.id == "kubernetes-secret-yaml":
        return _kubernetes_secret(rule, seed)
    tree = _parse(rule.pattern())
    writer = _Writer(random.Random(f"{rule.id}-{seed}"), varied)
    writer.write(tree)
    text = "".join(writer.parts)
    group = rule.group or min(writer.groups, default=0)
    begin, end = writer.groups.get(group, (0, len(text)))
    keyword = f"# {rule.keywords[seed % len(rule.keywords)]}\n" if rule.keywords else ""
    behind = text[end:] + ("\n" if not rule.container else "\0" * 64)
    least = (writer.widths[group] if group else tree.getwidth()[0]) or 1
    return Case(path_of(rule), keyword + text[:begin], text[begin:end], behind, least)


def _kubernetes_secret(rule: SecretRule, seed: int) -> Case:
    """Its pattern joins two places of a file by a gap that may not be empty, which the generator cannot know."""
    value = "".join(random.Random(seed).choices(LETTERS, k=24))
    return Case(path_of(rule), "apiVersion: v1\nkind: Secret\ndata:\n  ", f"password: {value}", "\n", 20)


def path_of(rule: SecretRule) -> bytes:
    """A path at which a rule is tried."""
    if not rule.endings:
        return b"/home/anna/notes.txt"
    ending = rule.endings[0].encode()
    return b"/home/anna" + (ending if ending.startswith(b"/") else b"/some" + ending)


def without_keywords(rule: SecretRule, data: bytes) -> bytes:
    """The same file with each keyword of the rule replaced by as many other letters."""
    for word in rule.keywords:
        data = re.sub(re.escape(word.encode()), b"q" * len(word), data, flags=re.IGNORECASE)
    return data


def _parse(pattern: str) -> Any:
    """A pattern of RE2 as Python's parser sees it, without its flags: what is drawn then fits with them too."""
    pattern = re.sub(r"(?<!\\)\(\?-?[ims]+(?:-[ims]+)?:", "(?:", re.sub(r"(?<!\\)\(\?[ims]+\)", "", pattern))
    pattern = pattern.replace("[[:alnum:]]", "[A-Za-z0-9]").replace(r"\z", r"\Z")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return parser.parse(pattern)


class _Writer:
    """Writes one text that a parsed pattern matches, and remembers where its groups are."""

    def __init__(self, draw: random.Random, varied: bool) -> None:
        self.draw = draw
        self.varied = varied
        self.parts: list[str] = []
        self.size = 0
        self.groups: dict[int, tuple[int, int]] = {}
        self.widths: dict[int, int] = {}

    def write(self, tree: Iterable[tuple[Any, Any]]) -> None:
        for code, value in tree:
            if code is opcodes.LITERAL:
                self._put(chr(value))
            elif code in (opcodes.IN, opcodes.ANY, opcodes.NOT_LITERAL):
                self._put(self._pick(code, value))
            elif code is opcodes.BRANCH:
                self.write(self.draw.choice(value[1]))
            elif code is opcodes.SUBPATTERN:
                self._group(value[0], value[-1])
            elif code in (opcodes.MAX_REPEAT, opcodes.MIN_REPEAT):
                self._repeat(*value)
            elif code is not opcodes.AT:
                raise AssertionError(f"the generator does not know {code}")

    def _put(self, letter: str) -> None:
        self.parts.append(letter)
        self.size += 1

    def _group(self, number: int | None, tree: Any) -> None:
        begin = self.size
        self.write(tree)
        if number is not None and self.size > begin:
            self.groups[number] = (begin, self.size)
            self.widths[number] = tree.getwidth()[0]

    def _repeat(self, least: int, most: int, tree: Any) -> None:
        for _ in range(least if self.varied and least else min(most, max(least, 1)) if least else 0):
            self.write(tree)

    def _pick(self, code: Any, value: Any) -> str:
        if code is opcodes.ANY:
            allowed = set(LETTERS)
        elif code is opcodes.NOT_LITERAL:
            allowed = set(ALPHABET) - {chr(value)}
        else:
            allowed = self._class(value)
        choice = sorted(allowed & set(LETTERS)) or sorted(allowed)
        return self.draw.choice(choice) if self.varied else choice[-1]

    def _class(self, items: list[tuple[Any, Any]]) -> set[str]:
        allowed: set[str] = set()
        negated = False
        for code, value in items:
            if code is opcodes.NEGATE:
                negated = True
            elif code is opcodes.LITERAL:
                allowed.add(chr(value))
            elif code is opcodes.RANGE:
                allowed.update(chr(number) for number in range(value[0], value[1] + 1))
            else:
                allowed.update(CATEGORIES[value])
        return set(ALPHABET) - allowed if negated else allowed

"""Rules on the content that decide between languages sharing an extension: our own first, then linguist's."""

from __future__ import annotations

import functools
import threading
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from backupiq.semantics.tables import load, tables

RULES_KEPT = 256
"""Extensions whose compiled rules are kept. There are fewer extensions with rules; the limit is for the eye."""


@dataclass(frozen=True, slots=True)
class Rule:
    """``languages`` is the answer when each of ``wanted`` is found and ``unwanted`` is not."""

    languages: tuple[str, ...]
    wanted: tuple[Any, ...]
    unwanted: Any | None

    def holds(self, text: bytes) -> bool:
        if self.unwanted is not None and self.unwanted.search(text):
            return False
        return all(one.search(text) for one in self.wanted)


def by_content(extension: str, text: bytes, possible: Collection[str]) -> str:
    """The language that the rules of ``extension`` give for ``text``; empty when none holds.

    Answers outside ``possible`` (when it is not empty) do not count. Time grows with the length of the text only: the
    patterns run in RE2, which has no catastrophic ones.
    """
    for rule in _rules(extension):
        for language in rule.languages:
            if language in possible or not possible:
                if rule.holds(text):
                    return language
                break
    return ""


@functools.cache
def _written() -> dict[str, list[tuple[list[str], list[list[str]], list[str]]]]:
    """Extension -> rules as (languages, groups of which one must be found, what must not be found)."""
    rules: dict[str, list[tuple[list[str], list[list[str]], list[str]]]] = {}
    own = load("rules.toml")
    same = tables().rules["same"]
    for rule in own["rule"]:
        wanted = [rule["any"]] if "any" in rule else []
        wanted += [[one] for one in rule.get("all", [])]
        for extension in rule["extensions"].split():
            rules.setdefault(extension, []).append(([rule["language"]], wanted, rule.get("none", [])))
    for extension, several in load("heuristics.json")["extensions"].items():
        rules.setdefault(extension, []).extend(
            ([same.get(name, name) for name in one[0]], one[1], one[2]) for one in several
        )
    return rules


_compiling = threading.Lock()


@functools.lru_cache(maxsize=RULES_KEPT)
def _rules(extension: str) -> tuple[Rule, ...]:
    with _compiling:
        return tuple(
            Rule(tuple(languages), tuple(_compiled(tuple(one)) for one in wanted), _compiled(tuple(unwanted)))
            for languages, wanted, unwanted in _written().get(extension, ())
        )


@functools.lru_cache(maxsize=4 * RULES_KEPT)
def _compiled(patterns: tuple[str, ...]) -> Any | None:
    """One expression that finds any of the patterns; ^ and $ hold at every line, as they do in linguist's Ruby."""
    if not patterns:
        return None
    import re2  # type: ignore[import-untyped]

    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.never_capture = True
    options.log_errors = False
    joined = "|".join(f"(?:{one})" for one in patterns)
    return re2.compile(f"(?m){joined}".encode("latin-1"), options)

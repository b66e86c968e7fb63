"""The data behind detection: complete, consistent, and right on the labelled corpus."""

from __future__ import annotations

import re

import pytest
import re2

from backupiq.semantics.heuristics import by_content
from backupiq.semantics.model import Category
from backupiq.semantics.tables import load, tables
from backupiq.semantics.types import BY_RULE, detect, detect_by_name, is_tie, wants_content
from tests.unit.semantics.corpus import labelled_files, rule_cases

CORE_LANGUAGES = 66
LEAST_FORMATS = 500
LEAST_SIGNATURES = 60
LEAST_RIGHT = 0.97
OWN_RULES = load("rules.toml")["rule"]
CASES = rule_cases()


def test_the_corpus_is_told_right() -> None:
    files = list(labelled_files())
    assert {language for language, _, _ in files} == set(tables().core)
    wrong = []
    for language, name, content in files:
        found = detect_by_name(name)
        if wants_content(name, found):
            found = detect(name, content, len(content))
        if found.name != language:
            wrong.append((language, name, found.name))
    assert len(wrong) <= len(files) * (1 - LEAST_RIGHT), wrong


def test_reading_a_text_whose_name_was_sure_changes_nothing() -> None:
    for _, name, content in labelled_files():
        found = detect_by_name(name)
        if not wants_content(name, found):
            assert detect(name, content, len(content)) == found


@pytest.mark.parametrize(
    ("language", "name", "content"), CASES, ids=lambda one: one.decode() if type(one) is bytes else ""
)
def test_rules_tell_a_right_case_from_a_near_miss(language: str, name: bytes, content: bytes) -> None:
    found = detect(name, content, len(content))
    assert (found.name, found.conflict) == (language, False)


@pytest.mark.parametrize("rule", OWN_RULES, ids=lambda rule: f"{rule['extensions']}: {rule['language']}")
def test_every_rule_of_our_own_has_a_right_case_and_a_near_miss(rule: dict[str, str]) -> None:
    for extension in rule["extensions"].split():
        several = [language for language, name, _ in CASES if name.lower().endswith(b"." + extension.encode())]
        assert rule["language"] in several
        assert set(several) - {rule["language"]}, f"no near miss of {rule['language']} in .{extension}"


def test_a_rule_answers_only_with_a_language_that_is_possible() -> None:
    text = b"#import <Foundation/Foundation.h>\n@interface Shop : NSObject\n@end\n"
    assert by_content("h", text, {"C", "C++", "Objective-C"}) == "Objective-C"
    assert by_content("h", text, {"C"}) == "C"
    assert by_content("unheard-of", text, set()) == ""


def test_what_no_rule_decides_is_a_tie_and_what_one_decides_is_none() -> None:
    assert is_tie(detect(b"a.pl", b"nothing telling\n", 16))
    decided = detect(b"a.pl", b"use strict;\nmy $x = 1;\n", 24)
    assert decided.confidence == BY_RULE
    assert not is_tie(decided)
    assert is_tie(detect(b"nameless", b"nothing telling\n", 16))
    assert not is_tie(detect(b"nameless", b'{"a": 1}', 8))
    assert not is_tie(detect_by_name(b"nameless"))


def test_there_are_as_many_types_and_signatures_as_promised() -> None:
    known = tables()
    assert len(known.types) >= LEAST_FORMATS
    assert len(known.core) == len(set(known.core)) == CORE_LANGUAGES
    assert set(known.core) <= set(known.types)
    assert len(load("signatures.toml")["binary"]) >= LEAST_SIGNATURES
    assert {one.category for one in known.types.values()} == set(Category) - {Category.OTHER}


def test_every_name_in_the_data_is_that_of_a_type() -> None:
    known, rules = tables(), load("types.toml")
    named = {name for key in ("extensions", "names", "interpreters", "mime") for name in rules[key]}
    named |= {name for names in rules["categories"].values() for name in names}
    named |= {*rules["first"].values(), *rules["languages"]["popular"], *rules["binary"]["languages"]}
    named |= {*rules["same"].values(), *rules["roles"]["documentation_types"], *rules["magika"].values()} - {""}
    named |= set(load("signatures.toml")["binary"]) | set(load("signatures.toml")["families"].values())
    named |= {rule["language"] for rule in OWN_RULES}
    assert named - set(known.types) == set()


def test_every_extension_that_is_settled_or_has_a_first_type_is_known() -> None:
    known, rules = tables(), load("types.toml")
    for one in [*rules["languages"]["settled"].split(), *rules["open"]["extensions"].split()]:
        assert one.encode() in known.extensions, one
    for extension, first in rules["first"].items():
        assert known.extensions[extension.encode()].found.name == first


def test_every_type_has_a_mime_type() -> None:
    for kind in tables().types.values():
        assert re.fullmatch(r"[a-z]+/[\w.+-]+", kind.mime), kind


def test_every_pattern_is_one_that_re2_takes() -> None:
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    for several in load("heuristics.json")["extensions"].values():
        for _, wanted, unwanted in several:
            for pattern in [one for group in wanted for one in group] + unwanted:
                re2.compile(pattern.encode("latin-1"), options)
    for rule in OWN_RULES:
        for pattern in [*rule.get("any", []), *rule.get("all", []), *rule.get("none", [])]:
            re2.compile(pattern.encode("latin-1"), options)


@pytest.mark.parametrize(
    "name", ["languages.json", "heuristics.json", "formats.toml", "signatures.toml", "types.toml", "rules.toml"]
)
def test_every_data_file_says_where_it_comes_from(name: str) -> None:
    header = load(name)["header"]
    assert header["source"]
    assert header["licence"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", header["date"])

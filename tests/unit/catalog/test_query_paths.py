"""Patterns of paths, as regular expressions and as words for an index."""

from __future__ import annotations

import fnmatch
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupiq.catalog.query import Phrase
from backupiq.catalog.query_paths import (
    after_prefix,
    has_wildcards,
    literal_prefix,
    path_regex,
    words_of_pattern,
)


def fits(pattern: str, path: str) -> bool:
    return re.search(path_regex(pattern), path) is not None


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("/home/ada", "/home/ada"),
        ("/home/ada", "/home/ada/x/y"),
        ("/home/ada/", "/home/ada/x"),
        ("/home/*/x", "/home/ada/x"),
        ("/home/**/x", "/home/x"),
        ("/home/**/x", "/home/a/b/x"),
        ("/home/**", "/home/a/b"),
        ("/home/ada/?.py", "/home/ada/a.py"),
        ("/home/[ab]da/x", "/home/ada/x"),
        ("/home/[!x]da/x", "/home/ada/x"),
        ("/home/[a-c]da", "/home/bda"),
        ("*.py", "/home/ada/a.py"),
        ("src/*.py", "/home/ada/src/a.py"),
        ("**/src/*.py", "/src/a.py"),
        ("src", "/home/src/deep/a.py"),
        ("/a.b+c(d)/x", "/a.b+c(d)/x"),
        ("/a\nb/*", "/a\nb/c\nd"),
        ("/ü/*", "/ü/é"),
        ("/", "/anything"),
        ("/a**b", "/axb"),
        ("/a*b*c*d", "/a-b-bc-c-d"),
        ("/**/a*/**/b?", "/x/ab/ac/y/b/bz"),
        ("/**/x/y/**/z", "/x/x/y/z"),
        ("/home/*/", "/home/ada"),
        ("/x/[]a]", "/x/]"),
    ],
)
def test_a_pattern_fits_the_paths_that_it_means(pattern: str, path: str) -> None:
    assert fits(pattern, path)


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("/home/ada", "/home/adaline"),
        ("/home/*/x", "/home/a/b/x"),
        ("/home/*", "/home/ada/x"),
        ("/home/**", "/home"),
        ("/home/ada/?.py", "/home/ada/ab.py"),
        ("/home/?da", "/home//da"),
        ("/home/[ab]da", "/home/cda"),
        ("/home/[!a]da", "/home/ada"),
        ("/home[!a]ada", "/home/ada"),
        ("/x/[z-a]", "/x/b"),
        ("*.py", "/home/ada/a.pyc"),
        ("src/*.py", "/home/mysrc/a.py"),
        ("/a.b", "/aXb"),
        ("/a/*", "/a/b\n/c"),
        ("/HOME", "/home"),
        ("/a**b", "/a/x/b"),
        ("/**/a/**/a/**", "/a/b/a"),
        ("/a*b", "/ab/c"),
    ],
)
def test_a_pattern_does_not_fit_what_is_nearly_it(pattern: str, path: str) -> None:
    assert not fits(pattern, path)


@pytest.mark.parametrize(
    ("pattern", "phrases"),
    [
        ("/home/ada/**", [Phrase(("home", "ada"))]),
        ("*.pdf", [Phrase(("pdf",))]),
        ("report*.pdf", [Phrase(("report",), prefix=True), Phrase(("pdf",))]),
        ("/a/*port/x", [Phrase(("a",)), Phrase(("x",))]),
        ("caf\u00e9s/x", [Phrase(("caf",), prefix=True), Phrase(("x",))]),
        ("*", []),
        ("[ab]c", []),
    ],
)
def test_words_that_every_path_of_a_pattern_holds_are_told(pattern: str, phrases: list[Phrase]) -> None:
    assert list(words_of_pattern(pattern)) == phrases


_PATTERNS = st.text(alphabet="ab/*?[]!-._é \n", min_size=1, max_size=12)
_PATHS = st.lists(st.text(alphabet="ab._é \n", min_size=1, max_size=4), max_size=5).map("/".join).map("/".__add__)
_PLAIN_PATHS = st.lists(st.text(alphabet="ab", min_size=1, max_size=3), min_size=1, max_size=5).map("/".join)


@given(_PATTERNS, _PATHS)
def test_any_pattern_is_a_regular_expression_and_its_prefix_begins_all_its_paths(pattern: str, path: str) -> None:
    if fits(pattern, path):
        prefix = literal_prefix(pattern)
        assert path.startswith(prefix)
        end = after_prefix(prefix)
        assert end is None or prefix <= path < end
        words = [word for word in re.split(r"[^0-9a-z]+", path.replace("é", "e").lower()) if word]
        for phrase in words_of_pattern(pattern):
            assert _holds(words, phrase)


@given(_PATTERNS, _PATHS)
def test_a_match_that_never_goes_back_finds_the_same(pattern: str, path: str) -> None:
    assert (re.search(path_regex(pattern, atomic=False), path) is not None) == fits(pattern, path)


@given(st.text(alphabet="a*/", min_size=1, max_size=10), _PLAIN_PATHS.map("/".__add__))
def test_stars_and_folders_are_matched_as_their_definition_says(pattern: str, path: str) -> None:
    assert fits(pattern, path) == defined(pattern, path)


def defined(pattern: str, path: str) -> bool:
    """The definition, tried out in every way."""
    pattern = re.sub("/+", "/", pattern).rstrip("/")
    if not has_wildcards(pattern):
        wanted = pattern.removeprefix("/")
        starts = [1] if pattern.startswith("/") else [at + 1 for at, c in enumerate(path) if c == "/"]
        return not wanted or any(path[at:] == wanted or path[at:].startswith(wanted + "/") for at in starts)
    names = pattern.split("/")
    return _names_fit(names[1:] if pattern.startswith("/") else ["**", *names], path[1:].split("/"))


def _names_fit(patterns: list[str], names: list[str]) -> bool:
    if not patterns:
        return not names
    if patterns[0] == "**":
        if not patterns[1:]:
            return bool(names)
        return any(_names_fit(patterns[1:], names[at:]) for at in range(len(names) + 1))
    return bool(names) and fnmatch.fnmatchcase(names[0], patterns[0]) and _names_fit(patterns[1:], names[1:])


@pytest.mark.parametrize(
    "pattern", ["/" + "a*" * 15 + "b", "*a" * 15, "/**/a" * 15 + "/b", "/**/*a*/**/*a*/**/*a*/**/b"]
)
def test_no_path_makes_matching_take_long(pattern: str) -> None:
    assert not fits(pattern, "/" + "a" * 4_000 + "c")
    assert not fits(pattern, "/a" * 2_000 + "/c")


def _holds(words: list[str], phrase: Phrase) -> bool:
    size = len(phrase.words)
    whole, last = phrase.words[:-1], phrase.words[-1]
    return any(
        tuple(words[at : at + size - 1]) == whole
        and (words[at + size - 1].startswith(last) if phrase.prefix else words[at + size - 1] == last)
        for at in range(len(words) - size + 1)
    )


def test_the_end_of_a_prefix_is_text_that_a_database_takes() -> None:
    assert after_prefix("/a/") == "/a0"
    assert after_prefix("/\ud7ff") == "/\ue000"
    assert after_prefix("/\U0010ffff") == "0"
    assert after_prefix("\U0010ffff") is None
    assert after_prefix("") is None


def test_wildcards_are_seen() -> None:
    assert has_wildcards("/a/*")
    assert has_wildcards("/a/[b]")
    assert not has_wildcards("/a/[b")

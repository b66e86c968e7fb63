"""Pins: which one decides for a path, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupiq.discovery.entry import EntryKind, FileEntry
from backupiq.errors import ConfigurationError
from backupiq.semantics import pins as pins_module
from backupiq.semantics.pins import Pin, Pins, make_pin, parse_pin


def entry_at(path: bytes, kind: EntryKind = EntryKind.FILE) -> FileEntry:
    return FileEntry(path.rpartition(b"/")[2], kind, 1, 0, 0, 0, 0, 0o100644, 0, 0, 1, 0)


def pins(*texts: str, anchors: tuple[bytes, ...] = (b"/home/me",)) -> Pins:
    return Pins([parse_pin(text) for text in texts], anchors)


def level(found: Pins, path: bytes, kind: EntryKind = EntryKind.FILE) -> object:
    pin = found.find(path, entry_at(path, kind))
    return pin.level if pin is not None else None


def test_a_name_is_pinned_in_every_folder_and_a_leading_slash_anchors_at_the_source() -> None:
    found = pins("*.kdbx=high", "/thesis=low")
    assert level(found, b"/home/me/a/b/c.kdbx") == level(found, b"/home/me/c.kdbx") == "high"
    assert level(found, b"/home/me/thesis") == "low"
    assert level(found, b"/home/me/old/thesis") is None
    assert level(found, b"/home/me/c.kdb") is None


def test_a_pin_on_a_folder_holds_for_all_below_it_and_for_no_file_of_that_name() -> None:
    found = pins("photos/=77")
    assert level(found, b"/home/me/photos/2024/trip/a.jpg") == 77
    assert level(found, b"/home/me/x/photos/a.jpg") == 77
    assert level(found, b"/home/me/photos") is None
    assert level(found, b"/home/me/photos", EntryKind.DIR) == 77


def test_the_last_pin_that_matches_decides_be_it_on_a_folder_or_on_a_file() -> None:
    found = pins("*.tmp=low", "work/=high", "work/cache/=3", "*.log=normal")
    assert level(found, b"/home/me/a.tmp") == "low"
    assert level(found, b"/home/me/work/a.tmp") == "high"
    assert level(found, b"/home/me/work/cache/a.tmp") == 3
    assert level(found, b"/home/me/work/cache/a.log") == "normal"


def test_patterns_with_stars_over_folders_are_those_of_gitignore() -> None:
    found = pins("/src/**/*.sql=high", "**/taxes/2*=90")
    assert level(found, b"/home/me/src/a.sql") == level(found, b"/home/me/src/x/y/a.sql") == "high"
    assert level(found, b"/home/me/other/src/a.sql") is None
    assert level(found, b"/home/me/a/taxes/2024/form.pdf") == 90
    assert level(found, b"/home/me/a/taxes/1999/form.pdf") is None


def test_outside_the_sources_nothing_is_pinned_and_the_longest_source_counts() -> None:
    found = pins("/a=high", anchors=(b"/home/me/", b"/home/me/deep", b"/file.txt"))
    assert level(found, b"/home/a") is None
    assert level(found, b"/home/me/a/x") == "high"
    assert level(found, b"/home/me/deep/a") == "high"
    assert level(found, b"/home/me/deep/b/a") is None
    assert level(pins("*.txt=low", anchors=(b"/file.txt",)), b"/file.txt") == "low"
    assert level(pins("/etc=low", anchors=(b"/",)), b"/etc/x") == "low"


def test_names_that_are_not_text_are_matched() -> None:
    found = pins("caf?.txt=high", "/*/x=low")
    assert level(found, b"/home/me/caf\xe9.txt") == "high"
    assert level(found, b"/home/me/\xff\n/x") == "low"


@pytest.mark.parametrize("text", ["HIGH", " low ", "normal", "0", "100", " 55"])
def test_levels_are_words_or_numbers(text: str) -> None:
    wanted = text.strip().lower()
    assert make_pin("a", text) == Pin("a", int(wanted) if wanted.isdigit() else wanted)
    assert make_pin("a=b", 7) == Pin("a=b", 7) == parse_pin("a=b=7")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a", "no level"),
        ("a=", "level"),
        ("a=101", "0 to 100"),
        ("a=-1", "0 to 100"),
        ("a=1e1", "0 to 100"),
        ("a=²", "0 to 100"),
        ("a=medium", "high, normal, low"),
        ("=high", "matches nothing"),
        ("# x=high", "matches nothing"),
        ("!a=high", "normal instead"),
        ("a//b=high", "two slashes"),
        ("[a=high", "closed"),
    ],
)
def test_what_is_no_pin_is_refused_with_the_reason(text: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        parse_pin(text)


@pytest.mark.parametrize("wrong", [True, 101, -1, "true"])
def test_levels_of_another_kind_are_refused(wrong: object) -> None:
    with pytest.raises(ConfigurationError, match="level"):
        make_pin("a", wrong)  # type: ignore[arg-type]


def test_too_many_pins_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="at most 2000"):
        Pins([Pin("a", "high")] * 2001)


def test_no_pins_are_false_and_find_nothing() -> None:
    assert not Pins()
    assert pins("a=high")
    assert level(Pins(), b"/home/me/a") is None
    assert repr(pins("a=high", "b=3")) == "Pins(a=high, b=3)"


FOLDERS = st.lists(st.sampled_from([b"a", b"b", b"work", b"\xff"]), max_size=5)
SOME_PINS = st.lists(
    st.sampled_from(["a=high", "/a/b=1", "work/=low", "**/b/a=2", "/work/**=3", "*k=normal", "?/a/=4"]), max_size=5
)


@given(SOME_PINS, st.lists(st.tuples(FOLDERS, st.sampled_from([b"a", b"b", b"x"])), max_size=12))
def test_what_is_remembered_of_folders_never_changes_an_answer(
    texts: list[str], asked: list[tuple[list[bytes], bytes]]
) -> None:
    """In any order, and with room for almost nothing, the answers are those of pins that were never asked before."""
    kept, room = pins(*texts), pins_module.KEPT_FOLDERS
    try:
        pins_module.KEPT_FOLDERS = 2
        for folders, name in asked:
            path = b"/".join([b"/home/me", *folders, name])
            assert level(kept, path) == level(pins(*texts), path)
            assert len(kept._scopes) <= 2 * pins_module.KEPT_FOLDERS + 2
    finally:
        pins_module.KEPT_FOLDERS = room


@given(st.text(max_size=30), st.binary(min_size=1, max_size=40))
def test_any_text_is_a_pin_or_is_refused_and_any_path_can_be_asked_about(text: str, name: bytes) -> None:
    try:
        found = Pins([make_pin(text, "high")])
    except ConfigurationError:
        return
    assert level(found, b"/x/" + name) in (None, "high")

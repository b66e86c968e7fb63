"""The language of find, read without a catalog."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupiq.catalog.query import FIELDS, MAX_TERMS, MAX_TEXT, Condition, Phrase, Query, Span, parse_query, split_words
from backupiq.errors import ValidationError

NOW = 1_800_000_000 * 10**9
DAY = 86_400 * 10**9


def parsed(text: str) -> Query:
    return parse_query(text, now_ns=NOW)


def only_phrase(text: str) -> Phrase:
    query = parsed(text)
    assert not query.conditions
    assert len(query.phrases) == 1
    return query.phrases[0]


def only_condition(text: str) -> Condition:
    query = parsed(text)
    assert not query.phrases
    assert len(query.conditions) == 1
    return query.conditions[0]


def span(text: str) -> Span:
    value = only_condition(text).values[0]
    assert isinstance(value, Span)
    return value


def refusal(text: str) -> str:
    with pytest.raises(ValidationError) as caught:
        parsed(text)
    assert caught.value.message.isprintable()
    return caught.value.message


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("shop", Phrase(("shop",))),
        ("shop*", Phrase(("shop",), prefix=True)),
        ('"shop views"', Phrase(("shop", "views"))),
        ('"shop vie"*', Phrase(("shop", "vie"), prefix=True)),
        ("shop_v2.py", Phrase(("shop", "v2", "py"))),
        ("/home/ada/shop", Phrase(("home", "ada", "shop"))),
        ("-draft", Phrase(("draft",), negated=True)),
        ('-"old draft"', Phrase(("old", "draft"), negated=True)),
        ("NOT draft", Phrase(("draft",), negated=True)),
        ("NOT -draft", Phrase(("draft",))),
        ("Überblick", Phrase(("Überblick",))),
        ("u\u0308ber", Phrase(("u\u0308ber",))),
        ("NOT", Phrase(("NOT",))),
        ('"category:document"', Phrase(("category", "document"))),
        ("12:30", Phrase(("12", "30"))),
        ("shop-*", Phrase(("shop",))),
    ],
)
def test_words_phrases_and_beginnings_are_told_apart(text: str, phrase: Phrase) -> None:
    assert only_phrase(text) == phrase


def test_all_terms_of_a_query_are_kept_in_their_order() -> None:
    query = parsed('shop "old views" -draft category:document  size:>10M')
    assert [phrase.words for phrase in query.phrases] == [("shop",), ("old", "views"), ("draft",)]
    assert [condition.field for condition in query.conditions] == ["category", "size"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('"; DROP TABLE file_versions', ["DROP", "TABLE", "file", "versions"]),
        ("AND OR NEAR(", ["AND", "OR", "NEAR"]),
        ("a'b\\c%d_e", ["a", "b", "c", "d", "e"]),
        ("{path} : ^shop + (x)", ["path", "shop", "x"]),
        ("-- ; * shop", ["shop"]),
    ],
)
def test_what_would_be_syntax_elsewhere_is_just_words(text: str, words: list[str]) -> None:
    assert [word for phrase in parsed(text).phrases for word in phrase.words] == words


@pytest.mark.parametrize("text", ["*.pdf", "report*.pdf", "20*-invoice.odt"])
def test_a_star_inside_a_word_makes_it_a_pattern_for_the_path(text: str) -> None:
    assert only_condition(text) == Condition("path", (text,))


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("category:document", Condition("category", ("document",))),
        ("CATEGORY:Document,IMAGE", Condition("category", ("document", "image"))),
        ("-category:video", Condition("category", ("video",), negated=True)),
        ("NOT category:video", Condition("category", ("video",), negated=True)),
        ("language:python,go,python", Condition("language", ("python", "go"))),
        ('project:"my shop, old",web', Condition("project", ("my shop, old", "web"))),
        ("at:s3://bucket/prefix", Condition("at", ("s3://bucket/prefix",))),
        ("only-at:s3", Condition("only-at", ("s3",))),
        ("ext:.PDF,*.tar.gz", Condition("ext", ("pdf", "tar.gz"))),
        ("path:/home/**/x", Condition("path", ("/home/**/x",))),
        ("snapshot:ABCDEF12", Condition("snapshot", ("abcdef12",))),
        ("git:modified", Condition("git", ("modified",))),
        ("deleted:YES", Condition("deleted", ("yes",))),
    ],
)
def test_fields_take_their_values_with_commas_for_or(text: str, condition: Condition) -> None:
    assert only_condition(text) == condition


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("importance:80", Span(80, 80)),
        ("importance:>80", Span(81, None)),
        ("importance:>=80", Span(80, None)),
        ("importance:<20", Span(None, 19)),
        ("importance:<=20", Span(None, 20)),
        ("importance:50..80", Span(50, 80)),
        ("importance:..80", Span(None, 80)),
        ("size:>10M", Span(10 * 2**20 + 1, None)),
        ("size:1M..2G", Span(2**20, 2**31)),
        ("size:<1.5KiB", Span(None, 1535)),
        ("size:0", Span(0, 0)),
        ("changed:<7d", Span(NOW - 7 * DAY + 1, None)),
        ("changed:7d", Span(NOW - 7 * DAY, None)),
        ("changed:>1y", Span(None, NOW - 365 * DAY - 1)),
        ("changed:1w..1mo", Span(NOW - 30 * DAY, NOW - 7 * DAY)),
        ("changed:<1.5h", Span(NOW - DAY // 16 + 1, None)),
    ],
)
def test_numbers_sizes_and_ages_become_whole_numbers_with_both_ends_included(text: str, wanted: Span) -> None:
    assert span(text) == wanted


def ns(*parts: int, offset: int = 0) -> int:
    year, month, day, *clock = (*parts, 1, 1)[:3] + parts[3:]
    moment = datetime(year, month, day, *clock, tzinfo=timezone(timedelta(hours=offset)))
    return int(moment.timestamp()) * 10**9


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("before:2026-01-01", Span(None, ns(2026, 1, 1) - 1)),
        ("after:2026-01-01", Span(ns(2026, 1, 1), None)),
        ("after:2025", Span(ns(2025, 1, 1), None)),
        ("after:2025-06", Span(ns(2025, 6, 1), None)),
        ("after:2025-06-01T12:30", Span(ns(2025, 6, 1, 12, 30), None)),
        ("after:2025-06-01T12:30:00+02:00", Span(ns(2025, 6, 1, 12, 30, offset=2), None)),
        ("before:1969-12-31", Span(None, -DAY - 1)),
    ],
)
def test_dates_begin_days_months_and_years(text: str, wanted: Span) -> None:
    assert span(text) == wanted


def test_dates_begin_when_they_do_in_the_zone_that_is_asked_for() -> None:
    zone = timezone(timedelta(hours=-5))
    query = parse_query("after:2026-01-01", now_ns=NOW, zone=zone)
    assert query.conditions[0].values == (Span(ns(2026, 1, 1, offset=-5), None),)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("langauge:python", ["'langauge'", "did you mean language?", "category, language, framework"]),
        ("http://example.org", ["'http'", "put it in quotes"]),
        ("category:dokument", ["category", "did you mean document?", "code, web, document"]),
        ("category:", ["category has no value", "category:document"]),
        ("category:document,", ["category has no value"]),
        ("git:modifed", ["git", "did you mean modified?", "untracked"]),
        ("regenerable:maybe", ["regenerable", "yes or no"]),
        ("importance:>101", ["importance", ["0", "to", "100"][0]]),
        ("importance:high", ["importance", "50..80"]),
        ("importance:80..50", ["importance"]),
        ("importance:..", ["importance"]),
        ("size:10X", ["size", "1M..2G"]),
        ("changed:yesterday", ["changed", "7d..30d"]),
        ("before:tomorrow", ["before", "2026-01-31"]),
        ("after:2026-02-30", ["after"]),
        ("snapshot:xyz", ["snapshot", "latest"]),
        ("ext:a/b", ["ext", "tar.gz"]),
    ],
)
def test_a_field_or_value_that_does_not_exist_is_refused_with_what_would_do(text: str, named: list[str]) -> None:
    message = refusal(text)
    for part in named:
        assert part in message


@pytest.mark.parametrize("text", ["", "   ", '""', "--- ;", "*", '"', "NOT -"])
def test_a_query_that_says_nothing_is_refused(text: str) -> None:
    assert "nothing to look for" in refusal(text)


def test_a_query_that_asks_too_much_is_refused() -> None:
    assert "characters" in refusal("x" * (MAX_TEXT + 1))
    assert "terms" in refusal(" ".join(["x"] * (MAX_TERMS + 1)))
    assert "values" in refusal("ext:" + ",".join(f"e{n}" for n in range(65)))
    assert "wildcards" in refusal("path:/" + "a*" * 17)
    assert "characters" in refusal("project:" + "x" * 1_001)


def test_a_message_shows_no_control_characters_of_the_query() -> None:
    assert "\\x1b" in refusal("category:\x1b[31m")


def test_every_field_has_an_example_that_is_a_query() -> None:
    for name, field in FIELDS.items():
        condition = only_condition(field.example)
        assert condition.field == name
        assert field.about
        assert field.takes


def test_words_are_runs_of_letters_and_digits() -> None:
    assert split_words("/a/shop_v2-final (1).PY") == ("a", "shop", "v2", "final", "1", "PY")


def parsed_or_refused(text: str) -> Query | None:
    """The query, or None when it was refused as it should be: in one printable line."""
    message = ""
    try:
        return parsed(text)
    except ValidationError as error:
        message = error.message
    assert message.isprintable()
    return None


@given(st.text(max_size=200))
def test_any_text_is_a_query_or_is_refused_in_one_printable_line(text: str) -> None:
    query = parsed_or_refused(text)
    if query is None:
        return
    assert query.phrases or query.conditions
    assert all(word for phrase in query.phrases for word in phrase.words)


_FIELD_TEXTS = st.tuples(st.sampled_from(sorted(FIELDS)), st.text(max_size=30)).map(":".join)


@given(st.lists(_FIELD_TEXTS, max_size=4).map(" ".join))
def test_any_value_of_any_field_is_read_or_refused(text: str) -> None:
    query = parsed_or_refused(text)
    if query is None:
        return
    for condition in query.conditions:
        for value in condition.values:
            if isinstance(value, Span):
                assert all(side is None or abs(side) < 2**63 for side in (value.low, value.high))


def test_dates_are_whole_without_a_zone_of_their_own() -> None:
    query = parse_query("after:2026-01-01", now_ns=NOW, zone=None)
    local = datetime(2026, 1, 1).astimezone(UTC)
    assert query.conditions[0].values == (Span(int(local.timestamp()) * 10**9, None),)

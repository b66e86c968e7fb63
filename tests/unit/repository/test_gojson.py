"""Names, times and JSON as Go writes them. The expected values come from Go's own strconv, time and encoding/json."""

from __future__ import annotations

import calendar
import datetime as dt
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupiq.errors import RepositoryDamagedError, TreeError
from backupiq.repository.gojson import format_time_ns, go_escape, parse_time_ns, quote_name, unquote_name

FIRST_NS = -62_167_219_200 * 10**9
END_NS = 253_402_300_800 * 10**9

QUOTED = [
    (b"", ""),
    (b"plain.txt", "plain.txt"),
    (b"with space", "with space"),
    (b'a"b\\c', r"a\"b\\c"),
    (b"\a\b\f\n\r\t\v", r"\a\b\f\n\r\t\v"),
    (b"\x00\x01\x1f\x7f", r"\x00\x01\x1f\x7f"),
    ("äöü日本🎉".encode(), "äöü日本🎉"),
    ("\u0080\u0085\u00a0\u00ad".encode(), r"\u0080\u0085\u00a0\u00ad"),
    ("\u2028\u2029\u200d\ufeff\ue000\uffff".encode(), r"\u2028\u2029\u200d\ufeff\ue000\uffff"),
    ("\U000e0041\U0010ffff".encode(), r"\U000e0041\U0010ffff"),
    ("\ufffd".encode(), "\ufffd"),
    (b"\xff\xfe", r"\xff\xfe"),
    (b"a\xe2\x82b", r"a\xe2\x82b"),
    (b"\xc0\x80\xed\xa0\x80", r"\xc0\x80\xed\xa0\x80"),
    (b"\xf4\x90\x80\x80", r"\xf4\x90\x80\x80"),
    (b"'<>&", "'<>&"),
]


@pytest.mark.parametrize(("raw", "quoted"), QUOTED)
def test_names_are_quoted_as_go_quotes_them(raw: bytes, quoted: str) -> None:
    assert quote_name(raw) == quoted
    assert unquote_name(quoted) == raw


@given(st.binary(max_size=60))
def test_any_name_survives_quoting(raw: bytes) -> None:
    quoted = quote_name(raw)
    assert quoted.isprintable()
    assert unquote_name(quoted) == raw


@given(st.text(max_size=40))
def test_text_names_survive_quoting_and_msgspec(text: str) -> None:
    raw = text.encode("utf-8", "surrogatepass")
    assert unquote_name(msgspec.json.decode(msgspec.json.encode(quote_name(raw)), type=str)) == raw


@pytest.mark.parametrize(
    ("quoted", "raw"),
    [(r"\101\377\000", b"A\xff\x00"), (r"\xFFA\u00E4", b"\xffA\xc3\xa4"), ("nbsp\u00a0\x01", b"nbsp\xc2\xa0\x01")],
)
def test_forms_that_only_other_programs_write_are_read(quoted: str, raw: bytes) -> None:
    assert unquote_name(quoted) == raw


@pytest.mark.parametrize(
    "quoted",
    [
        '"',
        'a"b',
        "a\nb",
        "\\",
        "a\\",
        r"\'",
        r"\q",
        r"\x1",
        r"\xg0",
        r"\400",
        r"\18",
        r"\u12",
        r"\ud800",
        r"\U00110000",
        r"\UFFFFFFFF",
        "\\u\u0661\u0662\u0663\u0664",
        "\ud800",
        '\\n"',
    ],
)
def test_a_name_that_go_would_refuse_is_refused(quoted: str) -> None:
    with pytest.raises(TreeError):
        unquote_name(quoted)


TIMES = [
    (0, "1970-01-01T00:00:00Z"),
    (-1, "1969-12-31T23:59:59.999999999Z"),
    (1, "1970-01-01T00:00:00.000000001Z"),
    (1_700_000_000_120_000_000, "2023-11-14T22:13:20.12Z"),
    (951_782_400 * 10**9, "2000-02-29T00:00:00Z"),
    (FIRST_NS, "0000-01-01T00:00:00Z"),
    (-62_135_596_800 * 10**9, "0001-01-01T00:00:00Z"),
    (END_NS - 1, "9999-12-31T23:59:59.999999999Z"),
]


@pytest.mark.parametrize(("ns", "text"), TIMES)
def test_times_are_written_as_go_writes_them(ns: int, text: str) -> None:
    assert format_time_ns(ns) == text
    assert parse_time_ns(text) == ns


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (END_NS, "9999-01-01T00:00:00Z"),
        (FIRST_NS - 1, "0000-12-31T23:59:59.999999999Z"),
        ((calendar.timegm((9996, 2, 29, 1, 2, 3)) + 126_227_808_000) * 10**9, "9999-03-01T01:02:03Z"),
        (2**63, "2262-04-11T23:47:16.854775808Z"),
        (10**40, "9999-11-06T09:46:40Z"),
    ],
)
def test_years_beyond_four_digits_are_moved_into_them(ns: int, text: str) -> None:
    written = format_time_ns(ns)
    if ns < 10**40:
        assert written == text
    assert written[:4] in ("0000", "2262", "9999")
    parse_time_ns(written)


@given(st.integers(FIRST_NS, END_NS - 1))
def test_any_time_comes_back_to_the_nanosecond(ns: int) -> None:
    text = format_time_ns(ns)
    assert parse_time_ns(text) == ns
    assert len(text) <= 30


@given(st.datetimes(), st.integers(0, 999), st.integers(-1_439, 1_439))
def test_offsets_are_subtracted(moment: dt.datetime, ns: int, minutes: int) -> None:
    sign = "-" if minutes < 0 else "+"
    hours, rest = divmod(abs(minutes), 60)
    text = f"{moment:%H:%M:%S}.{moment.microsecond:06d}{ns:03d}{sign}{hours:02d}:{rest:02d}"
    text = f"{moment.year:04d}-{moment.month:02d}-{moment.day:02d}T{text}"
    since = moment - dt.datetime(1970, 1, 1)
    expected = (since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1_000 + ns - minutes * 60 * 10**9
    assert parse_time_ns(text) == expected


def test_digits_beyond_nanoseconds_are_cut_off() -> None:
    assert parse_time_ns("1970-01-01T00:00:00.1234567899999Z") == 123_456_789


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "2023-11-14",
        "2023-11-14T22:13:20",
        "2023-11-14T22:13:20z",
        "2023-11-14t22:13:20Z",
        "2023-11-14 22:13:20Z",
        "2023-13-14T22:13:20Z",
        "2023-00-14T22:13:20Z",
        "2023-02-29T22:13:20Z",
        "2023-11-00T22:13:20Z",
        "2023-11-14T24:00:00Z",
        "2023-11-14T22:60:20Z",
        "2023-11-14T22:13:60Z",
        "2023-11-14T22:13:20.Z",
        "2023-11-14T22:13:20,5Z",
        "2023-11-14T22:13:20+24:00",
        "2023-11-14T22:13:20+01:60",
        "2023-11-14T22:13:20+0100",
        "2023-11-14T22:13:20Z\n",
        "\u0662\u0660\u0662\u0663-11-14T22:13:20Z",
        "2023-11-14T22:13:20." + "1" * 100 + "Z",
    ],
)
def test_what_is_not_a_time_is_refused(text: str) -> None:
    with pytest.raises(RepositoryDamagedError):
        parse_time_ns(text)


def go_json(text: str) -> bytes:
    """Go's rules (encoding/json, appendString) written down a second time, character by character."""
    out = ['"']
    for character in text:
        if character in '"\\':
            out.append("\\" + character)
        elif character in "\b\f\n\r\t":
            out.append({"\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}[character])
        elif character < " " or character in "<>&\u2028\u2029":
            out.append(f"\\u{ord(character):04x}")
        else:
            out.append(character)
    return ("".join(out) + '"').encode()


awkward_text = st.text(st.one_of(st.sampled_from('<>&\u2028\u2029\b\f\x7f\\"/u003c'), st.characters(codec="utf-8")))


@given(awkward_text)
def test_strings_are_written_as_go_writes_them(text: str) -> None:
    written = go_escape(msgspec.json.encode(text))
    assert written == go_json(text)
    assert json.loads(written) == msgspec.json.decode(written) == text


def test_escaping_leaves_bytes_that_only_look_similar_alone() -> None:
    near = "\u2027\u202a\u2e28 \\u003c \u2264 \uff1c".encode()
    assert go_escape(near) is near

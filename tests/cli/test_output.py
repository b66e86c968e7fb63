"""Names that are safe on a terminal, and progress on a stream that is none."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupiq.cli.output import clean_line, escape_name, human_bytes, human_seconds, json_path
from backupiq.cli.progress_display import PlainProgress


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"plain name.txt", "plain name.txt"),
        ("größe €😀".encode(), "größe €😀"),
        (b"a\nb\tc", "a\\nb\\tc"),
        (b"\x1b[31mred", "\\x1b[31mred"),
        (b"not \xff utf-8", "not \\xff utf-8"),
        (b"back\\slash", "back\\\\slash"),
        ("abc\u202egpj.exe".encode(), "abc\\u202egpj.exe"),
        (b"\x7f", "\\x7f"),
        ("\U000e0041".encode(), "\\U000e0041"),
    ],
)
def test_names_are_shown_escaped(raw: bytes, shown: str) -> None:
    assert escape_name(raw) == shown


@given(st.binary(max_size=40))
def test_no_name_reaches_the_terminal_raw(raw: bytes) -> None:
    assert escape_name(raw).isprintable()


@given(st.binary(max_size=12), st.binary(max_size=12))
def test_different_names_are_shown_differently(one: bytes, other: bytes) -> None:
    assert (escape_name(one) == escape_name(other)) == (one == other)


@given(st.text())
def test_a_message_stays_one_line(text: str) -> None:
    assert clean_line(text).isprintable()


def test_a_path_that_is_not_utf8_keeps_its_bytes_in_json() -> None:
    assert json_path(b"/a") == {"path": "/a"}
    assert json_path(b"/\xff") == {"path": "/\ufffd", "path_base64": "L/8="}


def test_sizes_and_times_are_written_for_people() -> None:
    assert [human_bytes(n) for n in (0, 1023, 1536, 5 << 30, 3 << 60)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "5.0 GiB",
        "3145728.0 TiB",
    ]
    assert [human_seconds(n) for n in (3.21, 125, 3725)] == ["3.2 s", "2:05", "1:02:05"]


def test_plain_progress_writes_a_line_every_ten_seconds_and_the_time_left() -> None:
    now = [100.0]
    stream = io.StringIO()
    progress = PlainProgress(stream, clock=lambda: now[0])
    progress.stage("storing")
    progress.total(10, 1000)
    for _ in range(25):
        now[0] += 1.0
        progress.advance(1, 10)
    assert stream.getvalue().splitlines() == [
        "backupiq: storing ...",
        "backupiq: 10 files, 1000 B to go through",
        "backupiq: storing: 10 files, 100 B of 1000 B (10%), about 1:30 left",
        "backupiq: storing: 20 files, 200 B of 1000 B (20%), about 1:20 left",
    ]


def test_progress_never_writes_control_characters() -> None:
    stream = io.StringIO()
    PlainProgress(stream).note("a \x1b[2J name")
    assert stream.getvalue() == "backupiq: a \\x1b[2J name\n"

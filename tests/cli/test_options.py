"""The small languages of option values."""

from __future__ import annotations

import contextlib
import os

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from backupiq.cli.options import absolute_destination, named_destinations, parse_duration, parse_size, split_snapshot
from backupiq.errors import ValidationError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("512", 512),
        ("10K", 10 << 10),
        ("10m", 10 << 20),
        ("1.5G", 3 << 29),
        ("2GiB", 2 << 30),
        ("1 TB", 1 << 40),
        ("999999999999999999", 999_999_999_999_999_999),
    ],
)
def test_sizes_are_powers_of_1024(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "-1", "1X", "10 M B", "1e9", "٣M", "1" * 40])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="10M"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("90", 90), ("90s", 90), ("10m", 600), ("1h30m", 5400), ("2d", 172_800), ("1.5h", 5400), (0.0, 0)],
)
def test_durations_are_seconds(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "-1s", "1y", "10 minutes", "²", "1" * 30])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="10m"):
        parse_duration(text)


@given(st.text())
def test_no_text_breaks_the_parsers(text: str) -> None:
    for parse in (parse_size, parse_duration):
        with contextlib.suppress(typer.BadParameter):
            assert parse(text) >= 0


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("latest", ("latest", None)),
        ("ab12:/home/a:b", ("ab12", "/home/a:b")),
        ("latest:/", ("latest", None)),
        ("latest:", ("latest", None)),
    ],
)
def test_a_snapshot_may_name_a_path(text: str, parts: tuple[str, str | None]) -> None:
    assert split_snapshot(text) == parts


def test_a_path_without_a_snapshot_is_refused() -> None:
    with pytest.raises(ValidationError, match="latest"):
        split_snapshot(":/home")


def test_folders_become_absolute_and_urls_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/anna")
    assert absolute_destination("here") == os.path.join(os.getcwd(), "here")
    assert absolute_destination("./s3:here") == os.path.join(os.getcwd(), "s3:here")
    assert absolute_destination("~/x") == "/home/anna/x"
    for same in ("s3://bucket/prefix", "block:usb", "file:///x", "icloud:/Folder"):
        assert absolute_destination(same) == same


def test_an_empty_destination_is_refused() -> None:
    with pytest.raises(ValidationError, match="empty"):
        absolute_destination(" ")


def test_options_win_over_the_variable_and_each_place_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKUPIQ_REPOSITORY", "/from/variable")
    assert named_destinations(None) == ["/from/variable"]
    assert named_destinations(["/a", "/b", "/a/"]) == ["/a", "/b"]

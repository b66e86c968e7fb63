"""Names of runs and tasks: short, printable, and never with a secret."""

from __future__ import annotations

import os

import pytest

from flows.naming import destination_label, human_bytes, short_destinations, short_list


def test_a_list_names_the_last_parts_of_the_first_three() -> None:
    assert short_list(["/home/anna/docs/", "/srv/photos"]) == "docs, photos"
    assert short_list(["/a", "/b", "/c", "/d", "/e"]) == "a, b, c and 2 more"
    assert short_list(["/"]) == "/"


@pytest.mark.parametrize(
    ("destination", "label"),
    [
        ("/mnt/disk/vault", "vault"),
        ("/mnt/disk/vault/", "vault"),
        ("block:nightly", "block:nightly"),
        ("s3://bucket/prefix", "s3://bucket/prefix"),
        ("s3://key:secret@bucket/prefix?endpoint=http://x&sig=abc", "s3://bucket/prefix"),
    ],
)
def test_a_destination_is_named_without_credentials_and_options(destination: str, label: str) -> None:
    assert destination_label(destination) == label


@pytest.mark.parametrize(
    ("destinations", "label"),
    [
        (["s3://anna/laptop", "az://anna/laptop"], "s3, azure"),
        (["/mnt/disk/vault/", "gs://anna", "icloud:/Backups"], "vault, gcs, icloud"),
        (
            ["s3://one/laptop", "s3://key:secret@two/laptop?endpoint=http://x", "block:nightly"],
            "s3 one, s3 two, block:nightly",
        ),
        (["/a", "/b", "/c", "s3://d"], "a, b, c and 1 more"),
    ],
)
def test_destinations_of_a_run_are_told_by_their_kind(destinations: list[str], label: str) -> None:
    assert short_destinations(destinations) == label


def test_names_of_any_bytes_are_printable() -> None:
    odd = os.fsdecode(b"/x/two\nlines \x1b[31m caf\xe9")
    for name in (short_list([odd]), destination_label(odd), destination_label("s3://" + odd)):
        assert name.isprintable()
        name.encode()


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (5 << 20, "5.0 MiB"),
        (3 << 40, "3.0 TiB"),
        (9 << 50, "9216.0 TiB"),
    ],
)
def test_bytes_for_people(size: int, shown: str) -> None:
    assert human_bytes(size) == shown

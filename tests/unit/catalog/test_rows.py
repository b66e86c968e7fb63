"""Paths as text and words, digests of contents, lineages."""

from __future__ import annotations

import dataclasses
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupiq.catalog.rows import SnapshotInfo, bounded, content_digest
from backupiq.catalog.staging import storable
from backupiq.catalog.text import MAX_WORDS_TEXT, path_text, search_text
from backupiq.repository.snapshot import Snapshot, Summary

TREE = "7e" * 32


@given(st.binary())
def test_paths_become_text_that_any_database_takes_and_lose_nothing(raw: bytes) -> None:
    shown, exact = path_text(raw)
    shown.encode()
    assert (shown.encode() if exact is None else exact) == raw


def test_bytes_that_are_not_text_are_shown_as_escapes() -> None:
    assert path_text(b"/a/\xff\n\xc3\xa9") == ("/a/\\udcff\né", b"/a/\xff\n\xc3\xa9")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/home/Shop_v2.py", " home shop v2 py"),
        ("/Résumé-É.PDF", " resume e pdf"),
        ("re\u0301sume\u0301", "resume"),
        ("ﬁle²", "file2"),
        ("日本語/文書", "日本語 文書"),
        ("a\nb\tc", "a b c"),
    ],
)
def test_words_are_letters_and_digits_in_small_letters_without_accents(path: str, words: str) -> None:
    assert search_text(path) == words


@given(st.text())
def test_words_of_any_text_hold_nothing_else(path: str) -> None:
    assert all(character.isalnum() or character == " " for character in search_text(path))


def test_endless_paths_have_bounded_words() -> None:
    assert len(search_text("é/" * 100_000)) <= MAX_WORDS_TEXT


def test_the_digest_of_a_content_is_that_of_its_blobs_in_order() -> None:
    one, two = "01" * 32, "02" * 32
    assert content_digest([one, two]) == hashlib.blake2b(bytes.fromhex(one + two), digest_size=16).digest()
    assert content_digest([one, two]) != content_digest([two, one])
    assert content_digest([]) == content_digest(())
    assert len(content_digest([])) == 16


@given(st.integers())
def test_numbers_fit_into_64_bits_and_keep_their_order(number: int) -> None:
    assert -(1 << 63) <= bounded(number) < 1 << 63
    assert bounded(number) <= bounded(number + 1)


@given(st.text(st.characters(codec=None), max_size=2_000))  # type: ignore[arg-type]
def test_texts_for_the_database_are_bounded_and_sound(value: str) -> None:
    found = storable(value)
    assert "\0" not in found
    found.encode()


def test_a_lineage_is_a_host_and_its_paths_in_any_order() -> None:
    info = SnapshotInfo("a" * 64, 1, "laptop", "anna", ("/home", "/etc"), (), TREE)
    assert info.lineage == dataclasses.replace(info, paths=("/etc", "/home"), tags=("x",), user="bob").lineage
    others = [
        dataclasses.replace(info, host="desktop"),
        dataclasses.replace(info, paths=("/home",)),
        dataclasses.replace(info, tags=("checkpoint",)),
    ]
    assert len({info.lineage, *(other.lineage for other in others)}) == 4


def test_a_snapshot_of_a_repository_tells_its_counts_where_it_has_them() -> None:
    when = "2026-05-04T03:02:01Z"
    summary = Summary(
        backup_start=when,
        backup_end=when,
        total_files_processed=3,
        total_bytes_processed=40,
        data_added=30,
        data_added_packed=20,
    )
    snapshot = Snapshot(time=when, tree=TREE, paths=["/h"], hostname="laptop", username="anna", summary=summary)
    info = SnapshotInfo.of("a" * 64, snapshot)
    assert (info.files, info.bytes, info.bytes_added, info.bytes_stored) == (3, 40, 30, 20)
    assert (info.host, info.user, info.paths, info.tags, info.time_ns) == (
        "laptop", "anna", ("/h",), (), snapshot.time_ns(),
    )  # fmt: skip
    assert SnapshotInfo.of("a" * 64, Snapshot(time=when, tree=TREE, paths=[])).files == 0

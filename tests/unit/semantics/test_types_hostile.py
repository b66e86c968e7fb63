"""Names and contents made to hurt: detection never raises, and never takes more than its bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupiq.semantics.containers import ZIP_MAGIC, ZIP_MEMBERS_LOOKED_AT, _zip_names
from backupiq.semantics.model import Category, FileType
from backupiq.semantics.roles import role_of
from backupiq.semantics.tables import load, tables
from backupiq.semantics.types import HEAD_BYTES, detect, detect_by_name, wants_content

MAGICS = [bytes.fromhex(text) for _, *several in load("signatures.toml")["binary"].values() for text in several]
STARTS = [
    *MAGICS,
    ZIP_MAGIC,
    b"RIFF",
    b"FORM",
    b"OggS",
    b"MZ",
    b"BM",
    b"\xca\xfe\xba\xbe",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
]
TEXTS = [
    b"#!",
    b"\xff\xfe",
    b"\xfe\xff",
    b"\xef\xbb\xbf",
    b"-----BEGIN ",
    b"# vim: ft=",
    b"-*- mode: ",
    b"<?xml",
    b"{",
    b"[",
    b"; ",
]
extensions = st.sampled_from(sorted(tables().extensions))
names = st.one_of(
    st.binary(max_size=40),
    st.builds(lambda stem, one: stem + b"." + one, st.binary(max_size=8), extensions),
    st.sampled_from(sorted(tables().names)),
)
heads = st.builds(lambda start, rest: start + rest, st.sampled_from([b"", *STARTS, *TEXTS]), st.binary(max_size=400))


@given(names, heads, st.integers(0, 1 << 62), st.integers(0, 0o177777))
def test_any_name_and_any_bytes_have_a_type(name: bytes, head: bytes, size: int, mode: int) -> None:
    found = detect(name, head, size, mode)
    assert type(found) is FileType
    assert 0 <= found.confidence <= 100
    assert found.category in Category
    assert found.name == "" or found.name in tables().types
    assert role_of(b"/a/b/" + name, found) in ("test", "documentation", "configuration", "")


@given(st.binary(max_size=60), st.integers(0, 0o177777))
def test_any_name_has_a_type_and_the_same_one_again(name: bytes, mode: int) -> None:
    found = detect_by_name(name, mode)
    assert detect_by_name(name, mode) == found
    assert wants_content(name, found) == (found.confidence < 80)
    assert detect(name, b"", 0, mode) == found


@given(names, heads)
def test_the_same_file_has_the_same_type_again(name: bytes, head: bytes) -> None:
    assert detect(name, head, len(head)) == detect(name, head, len(head))


@pytest.mark.parametrize(
    "line",
    [
        b"a",
        b" ",
        b"\t\n",
        b"(",
        b"{",
        b"[",
        b"<",
        b"; \n",
        b"# \n ",
        b"-*-",
        b"vim:",
        b"a=",
        b"\\",
        b"/*",
        b"-----BEGIN ",
        b"%",
        b"A-a: b\n",
        b"\x80",
    ],
)
@pytest.mark.parametrize(
    "name", [b"a", b"a.h", b"a.m", b"a.inc", b"a.pl", b"a.ts", b"a.sql", b"a.md", b"a.key", b"a.d", b"a.pro"]
)
def test_a_head_of_one_thing_over_and_over_ends(name: bytes, line: bytes) -> None:
    head = line * (HEAD_BYTES // len(line))
    assert not detect(name, head, 1 << 30).conflict


def test_a_zip_of_thousands_of_members_is_looked_at_for_some_only() -> None:
    member = ZIP_MAGIC + bytes(22) + b"\x01\0\0\0a"
    assert len(_zip_names(member * 5000)) == ZIP_MEMBERS_LOOKED_AT


def test_a_zip_that_lies_about_its_lengths_is_a_zip() -> None:
    assert detect(b"a.docx", ZIP_MAGIC + b"\xff" * 60, 64).name == "Word document"
    assert detect(b"a", ZIP_MAGIC, 4).name == "ZIP archive"


@pytest.mark.parametrize("length", range(1, 70))
def test_a_signature_cut_short_anywhere_does_no_harm(length: int) -> None:
    for start in STARTS:
        detect(b"nameless", (start + bytes(64))[:length], length)

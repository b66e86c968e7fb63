"""Contents made to hurt cost bounded work and memory, and never fail the analysis.

Work is counted, never timed: the bytes that are read, the bytes that searches go over, the matches that are judged.
"""

from __future__ import annotations

import random
import stat
import tracemalloc
from collections.abc import Callable, Iterator

import pytest

from backupiq.discovery.entry import Directory, EntryKind, FileEntry
from backupiq.semantics.model import FileType
from backupiq.semantics.projects import find_projects
from backupiq.semantics.secret_rules import load_rules
from backupiq.semantics.secrets import (
    MAX_BYTES,
    MAX_CANDIDATES,
    MAX_FINDINGS,
    MAX_LINE,
    OVERLAP,
    SecretScanner,
    may_hold_secrets,
)
from backupiq.semantics.types import detect, detect_by_name, wants_content

GIB = 1 << 30
ROOT = b"/home/anna/hostile"
LARGEST_READ = 4 << 20
"""More than this of one file nobody needs to see."""
KEY = b"key of the tests"


def repeated(piece: bytes) -> Callable[[int], bytes]:
    """A file without end that says one thing again and again: its first bytes."""
    return lambda limit: (piece * (limit // len(piece) + 1))[:limit]


def noise(limit: int) -> bytes:
    return random.Random(4).randbytes(limit)


def base64_line(limit: int) -> bytes:
    letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    return bytes(letters[byte & 63] for byte in random.Random(5).randbytes(limit))


def every_keyword(limit: int) -> bytes:
    """All words that any rule waits for, each followed by what looks like a value."""
    rules = load_rules().rules
    words = [word.encode() + b" = '" + b"0123456789abcdef" * 2 + b"'\n" for rule in rules for word in rule.keywords]
    return repeated(b"".join(words))(limit)


def xml_bomb(limit: int) -> bytes:
    laughs = b"".join(b'<!ENTITY a%d "%s">' % (n, b"&a%d;" % (n - 1) * 10) for n in range(1, 10))
    return (b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a0 "ha">' + laughs + b"]><project>&a9;</project>")[:limit]


HOSTILE: dict[str, Callable[[int], bytes]] = {
    "one line of letters": repeated(b"a"),
    "nothing but zero bytes": repeated(b"\0"),
    "random bytes": noise,
    "base64 without an end": base64_line,
    "deep JSON": repeated(b'{"a":['),
    "deep YAML": repeated(b"- - - ? "),
    "every keyword": every_keyword,
    "a name again and again": repeated(b"asana"),
    "assignments in one line": repeated(b"api_key='aaaaaaaaaaaaaaaaaaaa1',"),
    "beginnings of keys": repeated(b"-----BEGIN RSA PRIVATE KEY-----\n"),
    "beginnings of PuTTY keys": repeated(b"PuTTY-User-Key-File-2: x\n"),
    "commands of curl in one line": repeated(b" curl -u anna: -H 'x'"),
    "commands of curl": repeated(b'curl \n\r\n -u a -H "Authorization: \n'),
    "half a manifest of Kubernetes": repeated(b"kind: Secret\ndata:\n a:\n"),
    "addresses with passwords": repeated(b"ab://c:defghijk@"),
    "half a UTF-16 text": repeated(b"\xff\xfe\x00\xd8"),
    "an XML bomb": xml_bomb,
    "backslashes and quotes": repeated(b"\\\"'`"),
}
NAMES = [
    b"app.py", b"data.json", b"package.json", b"package-lock.json", b"pom.xml", b"pyproject.toml", b"requirements.txt",
    b"Cargo.toml", b"go.mod", b"composer.json", b"Gemfile", b"build.gradle", b"chart.yaml", b"values.yaml", b"main.tf",
    b"Dockerfile", b"page.html", b"x.csproj", b"letter.docx", b"noext", b"x.zip", b".env", b"id_rsa", b"x.m", b"x.h",
]  # fmt: skip


class EndlessFiles:
    """A folder of files of a gibibyte each, all of the same content; reading too much of one fails the test."""

    def __init__(self, content: Callable[[int], bytes]) -> None:
        self.content = content
        self.read_bytes = 0

    def directories(self) -> Iterator[Directory]:
        children = [entry(name, EntryKind.FILE, stat.S_IFREG | 0o644, GIB) for name in sorted(NAMES)]
        yield Directory(ROOT, entry(b"", EntryKind.DIR, stat.S_IFDIR | 0o755, 0), children)

    def read(self, path: bytes, limit: int) -> bytes:
        assert 0 <= limit <= LARGEST_READ, f"asked for {limit} bytes of {path!r}"
        self.read_bytes += limit
        return self.content(limit)


def entry(name: bytes, kind: EntryKind, mode: int, size: int) -> FileEntry:
    return FileEntry(name, kind, size, 0, 0, 1, 1, mode, 0, 0, 1, 0)


@pytest.mark.parametrize("name", HOSTILE)
def test_searching_a_hostile_text_costs_bounded_work(name: str) -> None:
    files = EndlessFiles(HOSTILE[name])
    scanner = SecretScanner(KEY)
    found = scanner.scan_file(files, ROOT + b"/secrets.yaml")
    rules = len(load_rules().rules)
    assert files.read_bytes == MAX_BYTES
    assert scanner.work.bytes <= MAX_BYTES
    assert scanner.work.candidates <= (rules + 1) * MAX_CANDIDATES
    # UTF-16 may grow by half as UTF-8, and windows overlap.
    assert scanner.work.searched_bytes <= 1.5 * MAX_BYTES * MAX_LINE / (MAX_LINE - OVERLAP) * (rules + 3)
    assert len(found) <= MAX_FINDINGS


def test_an_ordinary_text_is_searched_three_times_and_not_once_for_each_rule() -> None:
    scanner = SecretScanner(KEY)
    text = b"A letter to the bank about the mortgage, and nothing else.\n" * 1000
    assert scanner.scan(b"/letter.txt", text) == []
    assert scanner.work.searches == 4
    assert scanner.work.searched_bytes <= 3 * len(text) + 4096


def test_only_the_first_mebibyte_is_looked_at() -> None:
    token = b"gh" + b"p_" + b"0aB1cD2eF3gH4iJ5kL6mN7oP8qR9sT0uV1wX"
    scanner = SecretScanner(KEY)
    assert scanner.scan(b"/x", b"\n" * (MAX_BYTES - len(token)) + token) != []
    assert scanner.scan(b"/x", b"\n" * (MAX_BYTES - len(token) + 1) + token) == []


@pytest.mark.parametrize("name", ["every keyword", "base64 without an end", "assignments in one line", "random bytes"])
def test_searching_a_hostile_text_takes_little_memory(name: str) -> None:
    data = HOSTILE[name](MAX_BYTES)
    scanner = SecretScanner(KEY)
    scanner.scan(b"/x", data)  # so that the rules are compiled
    tracemalloc.start()
    try:
        scanner.scan(b"/x", data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * MAX_BYTES


@pytest.mark.parametrize("content", HOSTILE)
def test_telling_the_type_of_a_hostile_file_never_fails(content: str) -> None:
    head = HOSTILE[content](64 << 10)
    for name in NAMES:
        by_name = detect_by_name(name)
        found = detect(name, head, GIB)
        assert isinstance(found, FileType)
        assert wants_content(name, by_name) in (True, False)
        assert may_hold_secrets(ROOT + b"/" + name, found, GIB) in (True, False)


@pytest.mark.parametrize("content", HOSTILE)
def test_projects_of_hostile_manifests_are_looked_for_with_bounded_reading(content: str) -> None:
    files = EndlessFiles(HOSTILE[content])
    for project in find_projects(files):
        assert project.root == ROOT
    assert files.read_bytes <= len(NAMES) * LARGEST_READ


def test_a_binary_named_as_a_program_is_no_text() -> None:
    found = detect(b"app.py", b"\x7fELF\x02\x01\x01" + bytes(57) + noise(4096), GIB)
    assert found.conflict
    assert SecretScanner(KEY).scan(b"/app.py", b"\x7fELF\x02\x01\x01" + bytes(57) + noise(4096)) == []

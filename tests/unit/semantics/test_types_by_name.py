"""What a name alone says about a file's type, and when it says too little."""

from __future__ import annotations

import pytest

from backupiq.semantics.model import UNKNOWN, Category
from backupiq.semantics.types import detect_by_name, wants_content

EXECUTABLE = 0o100755


@pytest.mark.parametrize(
    ("name", "expected", "by"),
    [
        (b"shop.py", "Python", "extension"),
        (b"SHOP.PY", "Python", "extension"),
        (b"Makefile", "Makefile", "name"),
        (b"makefile", "Makefile", "name"),
        (b"Dockerfile.dev", "Dockerfile", "extension"),
        (b"shop.tar.gz", "Compressed tar archive", "extension"),
        (b"shop.gz", "gzip", "extension"),
        (b"shop.d.ts", "TypeScript", "extension"),
        (b"page.blade.php", "Blade", "extension"),
        (b"page.php", "PHP", "extension"),
        (b"jquery.min.js", "JavaScript", "extension"),
        (b"shop.v2.final.docx", "Word document", "extension"),
        (b"IMG_0001.CR2", "Canon raw (CR2)", "extension"),
        (b"Thumbs.db", "Thumbnails", "name"),
        (b".DS_Store", "Folder view settings", "name"),
        (b"NTUSER.DAT", "Registry hive", "name"),
        (b"id_ed25519", "Private key", "name"),
        (b"authorized_keys", "Public Key", "name"),
        (b"passwords.kdbx", "KeePass database", "extension"),
        (b"home.qcow2", "QEMU disk", "extension"),
        (b"mail.eml", "E-mail", "extension"),
        (b"calendar.ics", "iCalendar", "extension"),
        (b"global.gitignore", "Ignore List", "extension"),
        (b".gitignore", "Ignore List", "name"),
        (b"go.mod", "Go Module", "name"),
        (b"tea.mod", "Tracker module", "extension"),
        (b"ls.1", "Roff", "extension"),
        (b"libz.so.1.2.13", "Shared library", "extension"),
        (b"libz.so", "Shared library", "extension"),
        (b"backup.log.1", "Log", "extension"),
        (b"b" * 38, "Git object", "name"),
    ],
)
def test_a_name_stands_for_its_type(name: bytes, expected: str, by: str) -> None:
    found = detect_by_name(name)
    assert (found.name, found.detected_by) == (expected, by)


@pytest.mark.parametrize(
    ("name", "category"),
    [
        (b"a.py", Category.CODE),
        (b"a.html", Category.WEB),
        (b"a.odt", Category.DOCUMENT),
        (b"a.yaml", Category.CONFIG),
        (b"a.csv", Category.DATA),
        (b"a.heic", Category.IMAGE),
        (b"a.mkv", Category.VIDEO),
        (b"a.flac", Category.AUDIO),
        (b"a.sqlite", Category.DATABASE),
        (b"a.7z", Category.ARCHIVE),
        (b"a.exe", Category.EXECUTABLE),
        (b"a.ttf", Category.FONT),
        (b"a.p12", Category.SECRET),
        (b"Thumbs.db", Category.SYSTEM),
        (b"a.nothing-known", Category.OTHER),
    ],
)
def test_every_category_has_its_names(name: bytes, category: Category) -> None:
    assert detect_by_name(name).category is category


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b"shop.py.bak", "Python"),
        (b"shop.py~", "Python"),
        (b"shop.py.orig.bak", "Python"),
        (b"shop.tar.gz.old", "Compressed tar archive"),
        (b"Makefile.am.orig", "Makefile"),
        (b"php.ini.dist", "INI"),
        (b"config.h.in", "C"),
    ],
)
def test_a_copy_has_the_type_of_what_it_is_a_copy_of(name: bytes, expected: str) -> None:
    assert detect_by_name(name).name == expected


def test_a_copy_of_a_copy_of_a_copy_is_nobodys() -> None:
    assert detect_by_name(b"shop.py.bak.bak.bak.bak") == UNKNOWN


@pytest.mark.parametrize(
    "name", [b"", b".", b"..", b"...", b"~", b"~~", b".~", b"a.", b"a..", b".bak", b"\xff\xfe", b"a\0b"]
)
def test_a_name_that_says_nothing_is_unknown_and_wants_its_content(name: bytes) -> None:
    found = detect_by_name(name)
    assert found == UNKNOWN
    assert wants_content(name, found)


def test_a_program_without_extension_is_known_by_its_mode() -> None:
    assert detect_by_name(b"shop", EXECUTABLE).category is Category.EXECUTABLE
    assert detect_by_name(b"python3.11", EXECUTABLE).category is Category.EXECUTABLE
    assert detect_by_name(b"python3.11").name == ""
    assert wants_content(b"shop", detect_by_name(b"shop", EXECUTABLE))


def test_a_program_named_like_a_document_is_no_document() -> None:
    assert detect_by_name(b"INSTALL").category is Category.DOCUMENT
    assert detect_by_name(b"install", EXECUTABLE).category is Category.EXECUTABLE
    assert detect_by_name(b"gradlew", EXECUTABLE).name == "Shell"


@pytest.mark.parametrize(
    "name", [b"a.h", b"a.m", b"a.pl", b"a.v", b"a.ts", b"a", b"a.bin", b"a.db", b"server.key", b"a.inc"]
)
def test_a_name_that_several_types_share_wants_the_content(name: bytes) -> None:
    assert wants_content(name, detect_by_name(name))


@pytest.mark.parametrize("name", [b"a.py", b"a.json", b"a.md", b"a.jpg", b"a.mp4", b"a.d.ts", b"Makefile", b"a.py.bak"])
def test_a_sure_name_wants_nothing(name: bytes) -> None:
    assert not wants_content(name, detect_by_name(name))


def test_the_same_name_gives_the_same_object() -> None:
    assert detect_by_name(b"one.py") is detect_by_name(b"two.py")


def test_an_extension_of_a_million_characters_is_only_unknown() -> None:
    assert detect_by_name(b"a." + b"x" * 1_000_000) == UNKNOWN
    assert detect_by_name(b"." * 100_000) == UNKNOWN
    assert detect_by_name(b".bak" * 100_000) == UNKNOWN
    assert detect_by_name(b"~" * 100_000) == UNKNOWN
    assert detect_by_name(b"a" + b".tar~" * 100_000).name == "Tar archive"

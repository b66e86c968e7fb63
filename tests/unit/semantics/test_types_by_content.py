"""What the first bytes of a file say about its type, and when they contradict its name."""

from __future__ import annotations

import gzip
import io
import random
import sqlite3
import struct
import sys
import tarfile
import wave
import zipfile
from pathlib import Path

import pytest

from backupiq.semantics.model import UNKNOWN, Category, FileType
from backupiq.semantics.types import HEAD_BYTES, detect, detect_by_name

NOISE = random.Random(1).randbytes(4096)
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
ELF = b"\x7fELF\x02\x01\x01" + bytes(64)
PRIVATE = b"-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\n-----END OPENSSH PRIVATE KEY-----\n"
CERTIFICATE = b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"


def found(name: bytes, content: bytes) -> FileType:
    return detect(name, content[:HEAD_BYTES], len(content))


def archive(*members: str, first: tuple[str, bytes] | None = None) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as packed:
        if first is not None:
            packed.writestr(*first)
        for member in members:
            packed.writestr(member, b"x" * 100)
    return made.getvalue()


def ole(stream: str) -> bytes:
    return b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(1016) + stream.encode("utf-16-le")


def media(brand: bytes) -> bytes:
    return struct.pack(">I", 24) + b"ftyp" + brand + bytes(12)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (PNG, "PNG"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF\0", "JPEG"),
        (b"GIF89a\x01\0\x01\0\0\0\0", "GIF"),
        (b"%PDF-1.7\n", "PDF"),
        (ELF, "ELF"),
        (b"\x1f\x8b\x08" + NOISE, "gzip"),
        (b"BZh91AY&SY" + NOISE, "bzip2"),
        (b"7z\xbc\xaf\x27\x1c" + NOISE, "7-Zip archive"),
        (b"\x28\xb5\x2f\xfd" + NOISE, "Zstandard"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "WebP"),
        (b"RIFF\x10\0\0\0AVI LIST", "AVI"),
        (b"RIFF\x10\0\0\0ACONLIST", "Animated cursor"),
        (b"FORM\0\0\0\x10AIFFCOMM\0", "AIFF"),
        (b"OggS\0\x02" + bytes(22) + b"OpusHead", "Opus"),
        (b"OggS\0\x02" + bytes(22) + b"\x01vorbis", "Ogg audio"),
        (b"OggS\0\x02" + bytes(22) + b"\x80theora", "Ogg video"),
        (b"\x1a\x45\xdf\xa3\x9fB\x86\x81\x01B\x82\x84webm", "WebM"),
        (b"\x1a\x45\xdf\xa3\x9fB\x86\x81\x01B\x82\x88matroska", "Matroska"),
        (media(b"isom"), "MP4"),
        (media(b"qt  "), "QuickTime"),
        (media(b"heic"), "HEIF"),
        (media(b"avif"), "AVIF"),
        (media(b"crx "), "Canon raw (CR3)"),
        (media(b"3gp5"), "3GPP video"),
        (media(b"M4A "), "MPEG-4 audio"),
        ((b"\x47" + bytes(187)) * 6, "MPEG transport stream"),
        ((bytes(4) + b"\x47" + bytes(187)) * 6, "MPEG transport stream"),
        (b"MZ" + bytes(58) + struct.pack("<I", 64) + b"PE\0\0", "Windows executable"),
        (b"\xca\xfe\xba\xbe\0\0\0\x3d", "Java class"),
        (b"\xca\xfe\xba\xbe\0\0\0\x02", "Mach-O"),
        (b"BM" + struct.pack("<IIII", 100, 0, 54, 40) + bytes(40), "BMP"),
        (bytes(128) + b"DICM" + bytes(9), "DICOM"),
        (b"SQLite format 3\0" + bytes(84), "SQLite database"),
        (b"DIRC\0\0\0\x02\0\0\0\x01", "Git index"),
        (b"\x03\xd9\xa2\x9a\x67\xfb\x4b\xb5" + NOISE, "KeePass database"),
        (archive("word/document.xml"), "Word document"),
        (archive("[Content_Types].xml", "xl/workbook.xml"), "Excel workbook"),
        (archive("ppt/presentation.xml"), "PowerPoint presentation"),
        (archive("META-INF/MANIFEST.MF", "Shop.class"), "Java archive"),
        (archive("META-INF/MANIFEST.MF", "AndroidManifest.xml"), "Android package"),
        (archive("shop/__init__.py", "shop-1.0.dist-info/WHEEL"), "Python wheel"),
        (archive("content.xml", first=("mimetype", b"application/vnd.oasis.opendocument.text")), "OpenDocument text"),
        (archive("OEBPS/a.html", first=("mimetype", b"application/epub+zip")), "EPUB"),
        (archive("photos/one.jpg"), "ZIP archive"),
        (ole("WordDocument"), "Word 97 document"),
        (ole("Workbook"), "Excel 97 workbook"),
        (ole("PowerPoint Document"), "PowerPoint 97 presentation"),
        (ole("__properties_version1.0"), "Outlook message"),
        (ole("nothing"), "OLE document"),
    ],
)
def test_a_file_without_a_telling_name_is_known_by_its_first_bytes(content: bytes, expected: str) -> None:
    told = found(b"nameless", content)
    assert (told.name, told.detected_by, told.conflict) == (expected, "signature", False)


@pytest.mark.parametrize(
    "content",
    [
        b"BM is a car maker",
        b"MZ is a code",
        b"RIFF raff",
        b"FLIF lies",
        b"true",
        b"caffeine",
        b"The wide, wide world",
        b"PK\n",
        b"GIF89a",
        b"070701 is a date",
        b"ID3 is a decision tree",
    ],
)
def test_a_text_that_begins_like_a_binary_format_is_a_text(content: bytes) -> None:
    assert found(b"nameless", content).name == "Text"
    assert not found(b"note.txt", content).conflict


def test_files_that_libraries_write_agree_with_their_names(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "shop.db") as database:
        database.execute("CREATE TABLE item (name TEXT)")
    with wave.open(str(tmp_path / "tone.wav"), "wb") as tone:
        tone.setparams((1, 2, 8000, 0, "NONE", "not compressed"))
        tone.writeframes(bytes(100))
    with tarfile.open(tmp_path / "a.tar", "w") as packed:
        packed.add(tmp_path / "tone.wav")
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"tea"))
    types = {path.name: found(path.name.encode(), path.read_bytes()) for path in tmp_path.iterdir()}
    expected = {"shop.db": "SQLite database", "tone.wav": "WAV", "a.tar": "Tar archive", "a.gz": "gzip"}
    assert {name: one.name for name, one in types.items()} == expected
    assert not any(one.conflict for one in types.values())
    program = Path(sys.executable).resolve().read_bytes()[:HEAD_BYTES]
    assert detect(b"python", program, 1 << 20).category is Category.EXECUTABLE


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (b"shop.py", ELF, "ELF"),
        (b"photo.jpg", PNG, "PNG"),
        (b"invoice.pdf", b"MZ" + bytes(58) + struct.pack("<I", 64) + b"PE\0\0", "Windows executable"),
        (b"letter.docx", NOISE, "Word document"),
        (b"letter.docx", b"just a text", "Word document"),
        (b"letter.docx", archive("xl/workbook.xml"), "Excel workbook"),
        (b"photo.png", b"<html>not found</html>", "PNG"),
        (b"shop.py", NOISE, "Python"),
        (b"note.txt", NOISE, "Text"),
        (b"film.mkv", b"%PDF-1.4", "PDF"),
    ],
)
def test_content_that_contradicts_the_extension_is_a_conflict(name: bytes, content: bytes, expected: str) -> None:
    told = found(name, content)
    assert (told.name, told.conflict) == (expected, True)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (b"letter.docx", archive("word/document.xml"), "Word document"),
        (b"letter.docx", archive("customXml/item1.xml"), "Word document"),
        (b"letter.docx", ole("EncryptedPackage"), "Word document"),
        (b"letter.zip", archive("word/document.xml"), "Word document"),
        (b"shop.jar", archive("META-INF/MANIFEST.MF"), "Java archive"),
        (b"add-on.xpi", archive("META-INF/MANIFEST.MF"), "Browser extension"),
        (b"photo.nef", b"MM\0\x2a\0\0\0\x08" + NOISE, "Nikon raw"),
        (b"film.mov", media(b"qt  "), "QuickTime"),
        (b"film.mov", bytes(4) + b"mdat" + NOISE, "QuickTime"),
        (b"film.mp4", media(b"M4V "), "MP4"),
        (b"song.mp3", NOISE, "MP3"),
        (b"shop.tgz", gzip.compress(b"x", mtime=0), "Compressed tar archive"),
        (b"shop.tar.gz", b"BZh91AY&SY" + NOISE, "Compressed tar archive"),
        (b"data.dat", NOISE, "Binary data"),
        (b"data.dat", PNG, "PNG"),
        (b"firmware.bin", ELF, "ELF"),
        (b"font.ttf", b"OTTO\0\x0b" + NOISE, "TrueType font"),
        (b"Info.plist", b"bplist00" + NOISE, "XML Property List"),
        (b"utf16.txt", "\ufefftea and milk".encode("utf-16-le"), "Text"),
        (b"utf16.txt", "tea and milk, every day".encode("utf-16-le"), "Text"),
        (b"utf32.txt", "tea".encode("utf-32"), "Text"),
        (b"latin.txt", "thé glacé".encode("latin-1"), "Text"),
        (b"vars.yml", b"$ANSIBLE_VAULT;1.1;AES256\n6162\n", "Ansible vault"),
    ],
)
def test_content_that_fits_the_extension_is_no_conflict(name: bytes, content: bytes, expected: str) -> None:
    told = found(name, content)
    assert (told.name, told.conflict) == (expected, False)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (b"server.key", PRIVATE, "Private key"),
        (b"server.pem", CERTIFICATE + PRIVATE, "Private key"),
        (b"server.pem", CERTIFICATE, "Key or certificate"),
        (b"nameless", PRIVATE, "Private key"),
        (b"nameless", b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 me@home\n", "Public Key"),
        (b"talk.key", archive("Index/Document.iwa"), "Keynote presentation"),
    ],
)
def test_keys_are_told_from_certificates_and_from_presentations(name: bytes, content: bytes, expected: str) -> None:
    told = found(name, content)
    assert (told.name, told.conflict) == (expected, False)


@pytest.mark.parametrize(
    ("content", "expected", "by"),
    [
        (b"#!/usr/bin/env python3\n", "Python", "shebang"),
        (b"#!/usr/bin/python3.11 -u\n", "Python", "shebang"),
        (b"#! /usr/bin/env -S FOO=1 node --harmony\n", "JavaScript", "shebang"),
        (b'#!/bin/sh\nexec tclsh "$0" "$@"\n', "Tcl", "shebang"),
        (b"#!/bin/sh\nexec something-else --now\n", "Shell", "shebang"),
        (b"#!C:\\Perl\\bin\\perl.exe\n", "Perl", "shebang"),
        (b"\xef\xbb\xbf#!/bin/bash\n", "Shell", "shebang"),
        (b"#!\n", "Text", "heuristic"),
        (b"#!/opt/unheard-of\n", "Text", "heuristic"),
        (b"# -*- mode: ruby -*-\n", "Ruby", "modeline"),
        (b"// -*- C++ -*-\n", "C++", "modeline"),
        (b"one\n# vim: set ft=perl :\n", "Perl", "modeline"),
        (b"one\n/* vi: syntax=c */\n", "C", "modeline"),
        (b"# -*- coding: utf-8 -*-\n", "Text", "heuristic"),
        (b"# vim: set ts=4 :\n", "Text", "heuristic"),
    ],
)
def test_a_text_names_its_own_language(content: bytes, expected: str, by: str) -> None:
    told = found(b"nameless", content)
    assert (told.name, told.detected_by) == (expected, by)


def test_a_modeline_at_the_end_counts_only_where_the_end_is_seen() -> None:
    text = b"x = 1\n" * 1000 + b"# vim: ft=python\n"
    assert detect(b"nameless", text, len(text)).name == "Python"
    assert detect(b"nameless", text, len(text) + 1).name != "Python"


def test_a_shebang_outside_what_the_extension_allows_does_not_count() -> None:
    assert found(b"shop.h", b"#!/usr/bin/python\nint x;\n").name == "C"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"<?xml version='1.0'?><a/>", "XML"),
        (b"<?xml version='1.0'?>\n<svg xmlns='x'/>", "SVG"),
        (b"\n<!DOCTYPE html><p>", "HTML"),
        (b'{"a": 1}', "JSON"),
        (b"[1, 2]", "JSON"),
        (b"[section]\na = 1\n", "INI"),
        (b"; words\n\n[section]\na = 1\n", "INI"),
        (b"From me@home Mon Jan  1 00:00:00 2024\n", "Mailbox"),
        (b"Date: today\nFrom: me@home\n\nhello\n", "E-mail"),
        (b".TH SHOP 1\n", "Roff"),
        (b"--- a/x\n+++ b/x\n@@ -1 +1 @@\n", "Diff"),
        (b"BEGIN:VCARD\nVERSION:3.0\n", "vCard"),
        (b"export HOME_URL=https://example.org\n", "Configuration"),
        (b"FROM alpine:3 AS base\nRUN true\n", "Dockerfile"),
        (b"FROM here\nto there\n", "Text"),
        (b"{ no json", "Text"),
        (b"[ no section\n", "Text"),
        (b"From here to there\n", "Text"),
        (b"Dear all,\nFrom: nobody\n", "Text"),
        (b"a < b", "Text"),
    ],
)
def test_a_text_without_a_telling_name_is_known_by_what_it_looks_like(content: bytes, expected: str) -> None:
    assert found(b"nameless", content).name == expected


def test_bytes_that_mean_nothing_are_unknown() -> None:
    assert found(b"nameless", NOISE) == UNKNOWN
    assert found(b"x.unheard", NOISE) == UNKNOWN


def test_an_empty_or_unread_file_is_what_its_name_says() -> None:
    assert detect(b"letter.docx", b"", 0) == detect_by_name(b"letter.docx")
    assert not detect(b"letter.docx", b"", 1 << 30).conflict


def test_only_the_head_is_looked_at() -> None:
    text = b"x\n" * HEAD_BYTES
    assert detect(b"a.h", text + b"class Shop {\npublic:\n};\n", 1 << 20).name == "C"

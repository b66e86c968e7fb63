"""What a text without a telling name looks like: mark-up, data, mail, keys, or just text."""

from __future__ import annotations

import re

SNIFFED = 4096
"""Bytes at the beginning of a text that are looked at."""
COMMENT_LINES = 60
"""Lines in which the first section of an INI file must open."""
SURE_MARK = 85
LIKELY = 70
PLAIN = 40
"""Confidences. At `PLAIN` the answer is "Text" and a model may know better."""

_XML_ROOTS = (
    (b"<svg", "SVG"),
    (b"<!doctype html", "HTML"),
    (b"<html", "HTML"),
    (b"<plist", "XML Property List"),
    (b"<rss", "XML"),
)
_BEGINNINGS = (
    (b"%!PS", "PostScript"),
    (b"{\\rtf", "Rich Text Format"),
    (b"BEGIN:VCARD", "vCard"),
    (b"BEGIN:VCALENDAR", "iCalendar"),
    (b"<?php", "PHP"),
    (b"<!DOCTYPE html", "HTML"),
    (b"diff --git ", "Diff"),
    (b"PuTTY-User-Key-File-", "Private key"),
    (b"ssh-rsa AAAA", "Public Key"),
    (b"ssh-ed25519 AAAA", "Public Key"),
    (b"\\documentclass", "TeX"),
    (b"#EXTM3U", "M3U"),
    (b"WEBVTT", "WebVTT"),
    (b"gitdir: ", "Git Config"),
    (b"Return-Path: ", "E-mail"),
    (b"Received: ", "E-mail"),
    (b"Delivered-To: ", "E-mail"),
    (b"MIME-Version: ", "E-mail"),
)
_PEM = re.compile(rb"^-----BEGIN ([A-Z0-9 ]{3,40})-----", re.MULTILINE)
_MBOX = re.compile(rb"From \S{1,200} {1,2}\w{3} \w{3} ")
_MAIL = re.compile(rb"(?:[A-Z][\w-]{1,40}: [^\r\n]{0,500}\r?\n)+(?:From|Subject|Message-I[dD]): ")
_SECTION = re.compile(rb"\[[\w .:/-]{1,80}\]\s*$")
_MAN = re.compile(rb"^\.(?:TH|Dd) ", re.MULTILINE)
_KEY_VALUE = re.compile(rb"(?:(?:#[^\n]{0,300})?\n){0,40}(?:export )?[A-Z][A-Z0-9_]{1,60}=")
_DOCKER = re.compile(rb"FROM [\w./:@$-]{1,200}(?: [Aa][Ss] [\w-]{1,80})?\r?\n\s{0,80}(?:#|[A-Z]{3,11} )")
_MAKE = re.compile(rb"^(?:\.PHONY|all|clean|install)\s{0,4}:", re.MULTILINE)


def sniff(text: bytes) -> tuple[str, int]:
    """The format's name and how sure that is. The text has no byte order mark."""
    sample = text[:SNIFFED]
    start = sample.lstrip()
    found = _marked(start) or _structured(start, sample)
    return found if found is not None else ("Text", PLAIN)


def _marked(start: bytes) -> tuple[str, int] | None:
    for beginning, name in _BEGINNINGS:
        if start.startswith(beginning):
            return name, SURE_MARK
    pem = _PEM.search(start)
    if pem is not None and (pem.start() == 0 or b"PRIVATE" in pem.group(1)):
        return pem_type(pem.group(1)), SURE_MARK
    if start.startswith(b"<"):
        return _mark_up(start)
    return None


def pem_type(label: bytes) -> str:
    """The type of a PEM file by the label of its first block."""
    if b"PRIVATE KEY" in label:
        return "Private key"
    if b"PUBLIC KEY" in label:
        return "Public Key"
    if b"PGP MESSAGE" in label:
        return "GnuPG file"
    if b"PGP SIGNATURE" in label:
        return "GnuPG signature"
    return "Key or certificate" if b"CERTIFICATE" in label or b"PKCS" in label else "PEM file"


def _mark_up(start: bytes) -> tuple[str, int] | None:
    lower = start[:2048].lower()
    for root, name in _XML_ROOTS:
        if lower.startswith(root) or (lower.startswith((b"<?xml", b"<!--")) and root in lower):
            return name, SURE_MARK
    return ("XML", SURE_MARK) if lower.startswith(b"<?xml") else None


def _structured(start: bytes, sample: bytes) -> tuple[str, int] | None:
    if start[:1] == b"{" and re.match(rb'\{\s{0,400}(?:"|\})', start):
        return "JSON", LIKELY
    if start[:1] == b"[" and re.match(rb'\[\s{0,400}(?:[{"\d\]-]|null|true|false)', start) and not _is_ini(start):
        return "JSON", LIKELY
    if _MBOX.match(start):
        return "Mailbox", SURE_MARK
    if _MAIL.match(start):
        return "E-mail", LIKELY
    if _MAN.search(sample):
        return "Roff", LIKELY
    if _is_ini(start):
        return "INI", LIKELY
    if start.startswith(b"--- ") and b"\n+++ " in start[:2048]:
        return "Diff", LIKELY
    if start.startswith(b"---\n") and b": " in start[:512]:
        return "YAML", LIKELY
    if _DOCKER.match(start):
        return "Dockerfile", LIKELY
    if _MAKE.search(sample) and b"\n\t" in sample:
        return "Makefile", LIKELY
    if _KEY_VALUE.match(sample):
        return "Configuration", LIKELY
    return None


def _is_ini(start: bytes) -> bool:
    """Whether the first line that is no comment opens a section."""
    for line in start.splitlines()[:COMMENT_LINES]:
        if line.strip() and not line.lstrip().startswith((b";", b"#")):
            return _SECTION.match(line) is not None
    return False

"""What a file's first bytes say: magic signatures, and whether it is text at all."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from backupiq.semantics.containers import look_inside
from backupiq.semantics.tables import load, tables

SHORT_TEXT = 8
"""A signature of printable letters shorter than this may be the beginning of a text."""
STRONG_TRIPLES = frozenset({b"\xff\xd8\xff", b"\x1f\x8b\x08"})
"""The signatures of three bytes that do not happen by chance in practice: JPEG and gzip."""
CONTROL_SHARE = 0.05
"""Share of control characters above which bytes are no text. Random bytes have 10 %."""
LOOKED_AT = 8192
"""Bytes that decide between text and not text."""

_TEXT_BYTES = bytes(range(0x20, 0x100)) + b"\t\n\v\f\r\b\x0e\x0f\x1b"


@dataclass(frozen=True, slots=True)
class Signature:
    """A recognised beginning: the format, its family, and how much it says.

    ``generic``: only the family is sure (a ZIP archive that may be anything made of one). ``weak``: so short that it
    happens by chance. ``textual``: made of letters, so that a text may begin with it.
    """

    name: str
    family: str
    generic: bool = False
    weak: bool = False
    textual: bool = False


@dataclass(frozen=True, slots=True)
class _Index:
    """Signatures by where they stand and how long they are, longest first, so that a look-up is a few dict reads."""

    levels: tuple[tuple[int, int, dict[bytes, Signature]], ...]


def signature_of(head: bytes) -> Signature | None:
    """The format that ``head`` (a file's beginning) begins with, or None."""
    inside = look_inside(head)
    if inside is not None:
        family = inside[1] or tables().families.get(inside[0], inside[0])
        return Signature(inside[0], family, generic=tables().families.get(inside[0]) == family)
    for offset, length, known in _index().levels:
        found = known.get(head[offset : offset + length])
        if found is not None:
            return found
    return None


@functools.cache
def _index() -> _Index:
    levels: dict[tuple[int, int], dict[bytes, Signature]] = {}
    families = tables().families
    for name, (offset, *several) in load("signatures.toml")["binary"].items():
        for text in several:
            magic = bytes.fromhex(text)
            textual = len(magic) < SHORT_TEXT and magic != b"%PDF-" and all(0x20 <= one < 0x7F for one in magic)
            levels.setdefault((offset, len(magic)), {})[magic] = Signature(
                name, families.get(name, name), name in families, _is_weak(magic), textual
            )
    # Longer first; at the same length those at the beginning of the file first.
    ordered = sorted(levels.items(), key=lambda item: (-item[0][1], item[0][0]))
    return _Index(tuple((offset, length, known) for (offset, length), known in ordered))


def _is_weak(magic: bytes) -> bool:
    if len(magic) < 4:
        return magic not in STRONG_TRIPLES
    return len(magic) == 4 and magic.count(0) >= 2


def text_of(head: bytes) -> bytes | None:
    """``head`` as text without its byte order mark, UTF-16 and UTF-32 as UTF-8; None when it is no text."""
    if head.startswith(b"\xef\xbb\xbf"):
        head = head[3:]
    elif head.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return head.decode("utf-32", "replace").encode("utf-8", "replace")
    elif head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return head.decode("utf-16", "replace").encode("utf-8", "replace")
    sample = head[:LOOKED_AT]
    zeros = sample.count(0)
    if zeros:
        return _utf16_without_mark(head, sample, zeros)
    controls = len(sample.translate(None, _TEXT_BYTES))
    return None if controls > 1 and controls > len(sample) * CONTROL_SHARE else head


def _utf16_without_mark(head: bytes, sample: bytes, zeros: int) -> bytes | None:
    """Windows writes UTF-16 without a mark too: then every second byte of Latin text is zero."""
    half = len(sample) // 2
    if half < 4 or zeros < half * 0.7:
        return None
    for first, codec in ((1, "utf-16-le"), (0, "utf-16-be")):
        if sample[first::2].count(0) == zeros:
            return head.decode(codec, "replace").encode("utf-8", "replace")
    return None

"""What a file's name alone says: the claim that its content may confirm or contradict. Constant time for each name."""

from __future__ import annotations

from backupiq.semantics.model import UNKNOWN, Category, FileType
from backupiq.semantics.tables import COPY_PENALTY, SURE, Claim, Tables

COPIES_DEEP = 2
"""How many endings of copies (``name.py.orig.bak``) are taken off."""
GIT_OBJECT_LENGTH = 38
"""Hexadecimal digits in the name of a loose git object."""

NOTHING = Claim(UNKNOWN, ())
PROGRAM = Claim(FileType("", Category.EXECUTABLE, "application/octet-stream", "none", 0), ())
"""A name that says nothing, of a file that may be executed."""

_HEX = frozenset(b"0123456789abcdef")
_DIGITS = frozenset(b"0123456789")
_EXECUTE = 0o111


def claim_of(name: bytes, mode: int, known: Tables) -> Claim:
    """The types that the last component of a path, raw, stands for; ``mode`` is the file's ``st_mode``."""
    lower = name.lower()
    found = known.names.get(name) or known.names.get(lower)
    dot = lower.rfind(b".")
    if found is not None:
        return found if dot >= 0 or not mode & _EXECUTE else _executable(found)
    if dot <= 0:
        return _without_extension(lower, dot, mode, known)
    extension = lower[dot + 1 :]
    if extension in known.tails:
        return _several_parts(name, lower, dot, mode, known)
    found = known.extensions.get(extension)
    if found is not None:
        return found
    if extension.isdigit():
        return _numbered(lower, dot, mode, known)
    if lower.endswith(b"~") and not lower.endswith(b"~~"):
        return claim_of(name[:-1], mode, known)
    return _by_first_part(lower, known)


def _by_first_part(lower: bytes, known: Tables) -> Claim:
    """Dockerfile.dev, Makefile.win, LICENSE.apache: a whole name with an addition that is no extension."""
    claim = known.names.get(lower[: lower.find(b".")])
    return _copied(claim) if claim is not None else NOTHING


def _executable(found: Claim) -> Claim:
    """/usr/bin/install is no text although INSTALL is one; gradlew is a script although it has no extension."""
    return found if found.candidates[0].category in (Category.CODE, Category.CONFIG) else PROGRAM


def _without_extension(lower: bytes, dot: int, mode: int, known: Tables) -> Claim:
    if dot == 0:
        return known.extensions.get(lower[1:], NOTHING)
    if lower.endswith(b"~"):
        return known.names.get(lower[:-1], NOTHING)
    if len(lower) == GIT_OBJECT_LENGTH and _HEX.issuperset(lower):
        kind = known.types["Git object"]
        return Claim(kind.found("name", SURE), (kind,))
    return PROGRAM if mode & _EXECUTE else NOTHING


def _several_parts(name: bytes, lower: bytes, dot: int, mode: int, known: Tables) -> Claim:
    """A last part that may belong to a longer extension, be a number, or mean a copy of what stands before it."""
    if lower[dot + 1 :].isdigit():
        return _numbered(lower, dot, mode, known)
    for deep in range(COPIES_DEEP + 1):
        found = _longest(lower, dot, known)
        if found is not None:
            return _copied(found) if deep else found
        if lower[dot + 1 :] not in known.copies:
            break
        name, lower = name[:dot], lower[:dot]
        found = known.names.get(name) or known.names.get(lower)
        if found is not None:
            return _copied(found)
        dot = lower.rfind(b".")
        if dot <= 0:
            break
    return _by_first_part(lower, known) if lower else NOTHING


def _longest(lower: bytes, dot: int, known: Tables) -> Claim | None:
    """The longest extension that is known, of at most three parts. A last part that only copies have is none."""
    second = lower.rfind(b".", 1, dot)
    if second > 0:
        third = lower.rfind(b".", 1, second)
        found = known.extensions.get(lower[third + 1 :]) if third > 0 else None
        found = found or known.extensions.get(lower[second + 1 :])
        if found is not None:
            return found
    return known.extensions.get(lower[dot + 1 :]) if lower[dot + 1 :] not in known.copies else None


def _copied(claim: Claim) -> Claim:
    """The claim of a copy: a little less sure, and never so little that a sure name has to be read."""
    sure = claim.found.confidence
    confidence = max(SURE, sure - COPY_PENALTY) if sure >= SURE else sure
    return Claim(claim.candidates[0].found("extension", confidence), claim.candidates, claim.extension)


def _numbered(lower: bytes, dot: int, mode: int, known: Tables) -> Claim:
    """A number at the end: a version of a shared library or of a program, an older log, a page of a manual."""
    if b".so." in lower:
        return known.extensions[b"so"]
    before = lower.rfind(b".", 1, dot)
    if before > 0 and lower[before + 1 : dot] == b"log":
        return known.extensions[b"log"]
    if lower[dot - 1] in _DIGITS:
        return PROGRAM if mode & _EXECUTE else NOTHING
    return known.extensions.get(lower[dot + 1 :], NOTHING)

"""What a file is there for in its project: a test, documentation, configuration. Used for weights."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass

from backupiq.semantics.model import Category, FileType
from backupiq.semantics.tables import tables

FOLDERS_KEPT = 1 << 16
"""Folders whose role is remembered: the files of one folder come one after the other."""
TOP_LEVELS = 2
"""Folders at the top that say nothing: the home folder of a user named "test" is no test."""

TEST = "test"
DOCUMENTATION = "documentation"
CONFIGURATION = "configuration"

_TESTABLE = frozenset({Category.CODE, Category.WEB, Category.CONFIG, Category.DATA})
_WRITTEN = frozenset({Category.DOCUMENT, Category.WEB})
_TEST_ENDINGS = (b"_test", b"_spec", b"_tests", b"Test", b"Tests", b"Spec", b"TestCase")
_FOREIGN_SEPARATOR = os.sep.encode() if os.sep != "/" else b""
"""What stands between folders besides the slash: the backslash on Windows."""


@dataclass(frozen=True, slots=True)
class _Names:
    test_folders: frozenset[bytes]
    test_names: frozenset[bytes]
    documentation_folders: frozenset[bytes]
    documentation_names: frozenset[bytes]
    documentation_types: frozenset[str]
    configuration_names: frozenset[bytes]


@functools.cache
def _names() -> _Names:
    rules = tables().rules["roles"]

    def several(key: str) -> frozenset[bytes]:
        return frozenset(os.fsencode(one) for one in rules[key].split())

    return _Names(
        several("test_folders"),
        several("test_names"),
        several("documentation_folders"),
        several("documentation_names"),
        frozenset(rules["documentation_types"]),
        several("configuration_names"),
    )


def role_of(path: bytes, found: FileType) -> str:
    """ "test", "documentation", "configuration" or "" for a file by its raw path and its type.

    A test is code or data in a folder of tests or named as one; documentation a README or its kin, mark-up made for it
    (Markdown, man pages, ...), or what is written in a folder of documentation; configuration is by type or by name.
    """
    if _FOREIGN_SEPARATOR:
        path = path.replace(_FOREIGN_SEPARATOR, b"/")
    cut = path.rfind(b"/")
    in_tests, in_documentation = _folder(path[:cut] if cut > 0 else b"")
    names = _names()
    name = path[cut + 1 :].lower()
    category = found.category
    if category in _TESTABLE and (in_tests or name in names.test_names or _is_test(path[cut + 1 :], name, category)):
        return TEST
    if found.name in names.documentation_types or (in_documentation and category in _WRITTEN):
        return DOCUMENTATION
    if category is Category.DOCUMENT and name.partition(b".")[0] in names.documentation_names:
        return DOCUMENTATION
    if category is Category.CONFIG or name in names.configuration_names:
        return CONFIGURATION
    return ""


@functools.lru_cache(maxsize=FOLDERS_KEPT)
def _folder(folder: bytes) -> tuple[bool, bool]:
    """Whether a folder is one of tests, and one of documentation."""
    parts = folder.lower().split(b"/")[1 + TOP_LEVELS :]
    names = _names()
    return not names.test_folders.isdisjoint(parts), not names.documentation_folders.isdisjoint(parts)


def _is_test(name: bytes, lower: bytes, category: Category) -> bool:
    if category is not Category.CODE:
        return False
    stem = name.partition(b".")[0]
    if lower.startswith(b"test_") or stem.endswith(_TEST_ENDINGS):
        return True
    return b".test." in lower or b".spec." in lower

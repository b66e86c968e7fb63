"""Text that may be shown: one line, nothing a terminal would act on."""

from __future__ import annotations

import os


def printable(text: str) -> str:
    """The text in one line, with everything a terminal would act on written as its escape."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def printable_lines(text: str) -> str:
    """The same for text of several lines, which stay lines."""
    return "\n".join(map(printable, text.split("\n")))


def printable_path(path: bytes) -> str:
    """A raw path the same way; bytes that are not UTF-8 are shown as escapes too."""
    return printable(os.fsdecode(path).encode("utf-8", "backslashreplace").decode())

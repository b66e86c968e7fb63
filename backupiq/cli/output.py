"""What commands print: escaped names, sizes, tables, JSON. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

_SHORT_ESCAPES = {"\a": "\\a", "\b": "\\b", "\t": "\\t", "\n": "\\n", "\v": "\\v", "\f": "\\f", "\r": "\\r"}


def escape_name(name: bytes | str) -> str:
    """A file name or path that is safe on a terminal and tells every name apart, as ``ls -b`` would show it.

    Control and other unprintable characters (also those that change the direction of text) and bytes that are not
    UTF-8 appear as escapes; a backslash appears twice.
    """
    text = name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else name
    if text.isprintable() and "\\" not in text:
        return text
    return _escape(text.replace("\\", "\\\\"))


def clean_line(text: str) -> str:
    """A message as one line without characters that a terminal would act upon."""
    return text if text.isprintable() else _escape(text)


def _escape(text: str) -> str:
    return "".join(c if c.isprintable() else _SHORT_ESCAPES.get(c) or _code(ord(c)) for c in text)


def _code(point: int) -> str:
    if 0xDC80 <= point <= 0xDCFF:  # a byte that is not UTF-8, as surrogateescape carries it
        return f"\\x{point - 0xDC00:02x}"
    if point < 0x80:
        return f"\\x{point:02x}"
    return f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}"


def json_path(raw: bytes) -> dict[str, str]:
    """A path for JSON: ``path``, and where it is not UTF-8 also ``path_base64`` with the exact bytes."""
    try:
        return {"path": raw.decode()}
    except UnicodeDecodeError:
        import base64

        return {"path": raw.decode("utf-8", "replace"), "path_base64": base64.b64encode(raw).decode()}


def human_bytes(count: float) -> str:
    """``1.5 GiB`` and the like."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1024 or unit == "TiB":
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("unreachable")


def human_seconds(seconds: float) -> str:
    """``3.2 s``, ``2:05`` or ``1:02:03``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def human_time(ns: int) -> str:
    """Local time to the second; the year zero of a missing time as a dash."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ns // 1_000_000_000))
    except (OverflowError, ValueError, OSError):
        return "-"


def note(text: str) -> None:
    """One line for the person, beside the results."""
    sys.stderr.write(f"backupiq: {clean_line(text)}\n")
    sys.stderr.flush()


def print_line(text: str = "") -> None:
    """One line of the results."""
    sys.stdout.write(f"{text}\n")


def print_json(value: Any, *, indent: bool = False) -> None:
    """One JSON document on stdout, in ASCII so that no terminal or locale changes it; one line unless ``indent``."""
    sys.stdout.write(json.dumps(value, indent=2 if indent else None) + "\n")


def print_table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, right: frozenset[int] = frozenset()) -> None:
    """A table: drawn on a terminal, plain aligned columns elsewhere. ``right`` names the columns of numbers.

    A cell may hold several lines. Cells must be escaped already.
    """
    if sys.stdout.isatty():
        _draw_table(headings, rows, right)
        return
    lines = [tuple(headings)]
    for row in rows:
        split = [cell.split("\n") for cell in row]
        height = max(len(cell) for cell in split)
        lines.extend(tuple(cell[i] if i < len(cell) else "" for cell in split) for i in range(height))
    widths = [max(len(line[i]) for line in lines) for i in range(len(headings))]
    for line in lines:
        cells = (cell.rjust(widths[i]) if i in right else cell.ljust(widths[i]) for i, cell in enumerate(line))
        print_line("  ".join(cells).rstrip())


def _draw_table(headings: Sequence[str], rows: Iterable[Sequence[str]], right: frozenset[int]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for position, heading in enumerate(headings):
        table.add_column(heading, justify="right" if position in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: names are never read as markup
    Console(highlight=False).print(table)


def silence_closed_stdout() -> None:
    """After the reader of a pipe has gone, keep the interpreter's last flush from complaining."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

"""The table of all errors for people: ``python -m backupiq.errors_table > docs/errors.md``.

Made from the classes themselves, so it cannot say other things than the program does; a test compares the two.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator

from backupiq import errors
from backupiq.errors import BackupIQError

_HEADING = re.compile(r"^# --- (?P<title>.+?) -+$")
_CLASS = re.compile(r"^class (?P<name>\w+)\(")

_INTRODUCTION = """\
# Errors

Every error that BackupIQ raises on purpose. The *code* is stable and meant for programs (`--json`, logs, the API);
*retry* says whether the same call may succeed when it is made again, and only such errors are retried by the flows;
*HTTP* is the status a service answers with, *exit* what the command line ends with. The classes stand in
`backupiq/errors.py`; an indented class is a kind of the one above it.

Made by `python -m backupiq.errors_table > docs/errors.md`; do not edit it by hand.
"""

_COLUMNS = """\
| code | class | retry | HTTP | exit | meaning | what to do |
|---|---|---|---|---|---|---|
"""


def groups() -> Iterator[tuple[str, list[type[BackupIQError]]]]:
    """The classes in the order of their file, under its comment headings."""
    title = "The base of all"
    members: list[type[BackupIQError]] = []
    for line in inspect.getsource(errors).splitlines():
        if heading := _HEADING.match(line):
            yield title, members
            title, members = heading["title"], []
            title = title[0].upper() + title[1:]
        elif found := _CLASS.match(line):
            members.append(getattr(errors, found["name"]))
    yield title, members


def render() -> str:
    """The whole document as Markdown."""
    parts = [_INTRODUCTION]
    for title, members in groups():
        rows = "".join(_row(kind, depth=_depth(kind, members)) for kind in members)
        parts.append(f"\n## {title}\n\n{_COLUMNS}{rows}")
    return "".join(parts)


def _depth(kind: type[BackupIQError], members: list[type[BackupIQError]]) -> int:
    return sum(base in members for base in kind.__mro__[1:])


def _row(kind: type[BackupIQError], *, depth: int) -> str:
    cells = (
        f"`{kind.code}`",
        f"{'&emsp;' * depth}`{kind.__name__}`",
        "yes" if kind.retryable else "no",
        str(kind.http_status),
        str(kind.exit_code),
        kind.summary,
        kind.hint,
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


if __name__ == "__main__":
    sys.stdout.write(render())

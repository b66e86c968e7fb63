"""The pages of the documentation: what they print, where they link, and running their commands.

A fenced block marked ``console`` holds commands after ``$ `` and, below each, what it prints; one marked ``sh`` holds
only commands, one marked ``crontab`` a command after five fields of time. A comment directly above a block says what a
test needs to know: ``<!-- not run: REASON -->``, or ``<!-- ends with: 3 -->`` for the exit code of its last command.
"""

from __future__ import annotations

import dataclasses
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.support.programs import ROOT

SHELLS = ("console", "sh", "crontab")
RUN_SECONDS = 300.0

_FENCE = re.compile(
    r"^(?:<!-- (?P<note>[^\n]*?) -->\n)?```(?P<language>[a-z]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL
)
_LINK = re.compile(r"(?<!!)\[[^\]\n]+\]\((?P<target>[^)\s]+)\)")
_CRON = re.compile(r"(?:[\d*/,-]+ ){5}(?P<command>.+)")
_MARK = "--- end of command "
# What differs between two runs of the same command: ids, sizes with their units, times and other numbers.
_VARIES = re.compile(r"(?P<id>\b[0-9a-f]{8,64}\b)|\d[\d.,:]*(?: (?:B|[KMGT]iB)\b)?")


@dataclasses.dataclass(frozen=True)
class Block:
    """One fenced block: its language, what the comment above it says, its lines, where it begins."""

    page: str
    line: int
    language: str
    note: str
    body: str


@dataclasses.dataclass(frozen=True)
class Command:
    """One command as printed, what the page shows of its output, and the exit code it should have."""

    where: str
    text: str
    shown: list[str]
    code: int = 0


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a command did."""

    code: int
    output: str


def page_names() -> list[str]:
    """Every page, relative to the project."""
    return ["README.md", *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").glob("*.md"))]


def blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text()
    return [
        Block(page, text.count("\n", 0, found.start()) + 1, found["language"], found["note"] or "", found["body"])
        for found in _FENCE.finditer(text)
    ]


def commands(page: str) -> list[Command]:
    """The commands of a page that are to be run, in order."""
    return [
        command
        for block in blocks(page)
        if block.language in SHELLS and not block.note.startswith("not run:")
        for command in block_commands(block)
    ]


def block_commands(block: Block) -> list[Command]:
    where = f"{block.page}:{block.line}"
    if block.language == "sh":
        found = [Command(where, block.body, [])]
    elif block.language == "crontab":
        found = [Command(where, cron["command"], []) for cron in map(_CRON.fullmatch, block.body.splitlines()) if cron]
    else:
        found = list(_console_commands(where, block.body))
    wanted = re.fullmatch(r"ends with: (\d+)", block.note)
    if wanted and found:
        found[-1] = dataclasses.replace(found[-1], code=int(wanted[1]))
    return found


def _console_commands(where: str, body: str) -> Iterator[Command]:
    text: list[str] = []
    shown: list[str] = []
    for line in body.splitlines():
        if line.startswith("$ "):
            if text:
                yield Command(where, "\n".join(text), shown)
            text, shown = [line[2:]], []
        elif text and text[-1].endswith("\\") and not shown:
            text.append(line)
        else:
            shown.append(line)
    if text:
        yield Command(where, "\n".join(text), shown)


def links(page: str) -> list[str]:
    """The targets of the links of a page, outside of fenced blocks."""
    return [found["target"] for found in _LINK.finditer(_FENCE.sub("", (ROOT / page).read_text()))]


def anchors(path: Path) -> set[str]:
    """The names by which the headings of a page are linked to, as GitHub makes them."""
    text = _FENCE.sub("", path.read_text())
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def run_commands(
    listed: list[Command], *, functions: str, env: Mapping[str, str], cwd: Path, stand_ins: dict[str, str]
) -> Iterator[tuple[Command, Outcome]]:
    """Runs commands one after another in one shell, as a person types them, and gives each with what came of it.

    ``functions`` is shell code that comes first. ``stand_ins`` are texts of the page and what stands for them here; the
    ids that commands print are added to it as they come, since later commands name them.
    """
    shell = subprocess.Popen(
        ["bash", "--noprofile", "--norc"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=dict(env),
        cwd=cwd,
        encoding="utf-8",
        errors="surrogateescape",
    )
    if shell.stdin is None or shell.stdout is None:
        raise AssertionError("both are pipes")
    with shell:
        try:
            shell.stdin.write(functions + "\n")
            for command in listed:
                text = translate(command.text, stand_ins)
                # The command reads nothing: the shell's own input holds the commands after it.
                shell.stdin.write(f"{{ {text}\n}} </dev/null\nprintf '\\n{_MARK}%d\\n' $?\n")
                shell.stdin.flush()
                outcome = _read_outcome(shell.stdout)
                learn_ids(command.shown, outcome.output, stand_ins)
                yield command, outcome
        finally:
            shell.stdin.close()
            shell.terminate()


def _read_outcome(stream: Iterator[str]) -> Outcome:
    lines: list[str] = []
    for line in stream:
        if line.startswith(_MARK):
            return Outcome(int(line[len(_MARK) :]), "".join(lines))
        lines.append(line)
    raise AssertionError(f"the shell ended after:\n{''.join(lines)}")


def translate(text: str, stand_ins: Mapping[str, str]) -> str:
    """The text with everything that stands for something else here replaced, the longest first."""
    if not stand_ins:
        return text
    longest = sorted(stand_ins, key=len, reverse=True)
    return re.sub("|".join(map(re.escape, longest)), lambda found: stand_ins[found[0]], text)


def matched(shown: list[str], output: str, stand_ins: Mapping[str, str]) -> list[tuple[str, str | None]]:
    """Each line a page shows, with the line of the output that it stands for, None when there is none.

    They agree but for ids, sizes, times and numbers. Lines come in order where they can; lists that are sorted by id
    come in any. A line ``...`` stands for lines left out.
    """
    actual = output.splitlines()
    patterns: list[str | None] = [pattern_of(line) for line in actual]
    found: list[tuple[str, str | None]] = []
    at = 0
    for line in shown:
        if not line.strip() or line.strip() == "...":
            continue
        wanted = pattern_of(translate(line, stand_ins))
        place = next((n for n in (*range(at, len(actual)), *range(at)) if patterns[n] == wanted), None)
        found.append((line, None if place is None else actual[place]))
        if place is not None:
            patterns[place], at = None, place + 1
    return found


def learn_ids(shown: list[str], output: str, stand_ins: dict[str, str]) -> None:
    """Note which id the page's stands for, in full and as its first eight digits; the first meaning stays."""
    for line, actual in matched(shown, output, stand_ins):
        theirs = [found["id"] for found in _VARIES.finditer(line) if found["id"]]
        ours = [found["id"] for found in _VARIES.finditer(actual or "") if found["id"]]
        for one, other in zip(theirs, ours, strict=False):
            stand_ins.setdefault(one, other)
            stand_ins.setdefault(one[:8], other[:8])


def missing_lines(shown: list[str], output: str, stand_ins: Mapping[str, str]) -> list[str]:
    """The lines a page shows that the output does not have; see `matched`."""
    return [line for line, actual in matched(shown, output, stand_ins) if actual is None]


def pattern_of(line: str) -> str:
    """A line without what differs from run to run, and with single blanks."""
    return " ".join(_VARIES.sub("#", line).split())

"""How right and how fast types are told: ``python -m benchmarks.languages [--cache FOLDER] [--tree FOLDER] [--save]``.

Accuracy of the core languages (backupiq/semantics/data/types.toml) on two labelled sets: the example files of Pygments,
whose source distribution pip downloads once into the cache folder, and the corpus of the tests. Each file is treated as
a backup does: by its name, and with its first bytes where the name leaves it open; no answer counts as wrong. The names
of Pygments' folders are its own; LANGUAGES says which language each is, and RELABELLED which single files are another.
With Magika installed the ties go to it and the accuracy is told with it, too.

Speed is that of the names of a tree alone, and of its files as they are backed up, reading included. Ends with 1 when a
budget is missed.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from statistics import median

from backupiq.semantics.magika_tie import Tie, settle
from backupiq.semantics.model import FileType
from backupiq.semantics.tables import tables
from backupiq.semantics.types import HEAD_BYTES, detect, detect_by_name, wants_content
from benchmarks.report import Verdict
from benchmarks.results import write_results
from tests.unit.semantics.corpus import labelled_files

PYGMENTS = "2.21.0"
BY_RULES, WITH_MODEL = 0.97, 0.985
NAMES_A_SECOND, FILES_A_SECOND = 10_000, 5_000
ROUNDS = 3
MOST_FILES = 50_000

LANGUAGES = {
    "bash": "Shell", "bat": "Batchfile", "c": "C", "clojure": "Clojure", "clojurescript": "Clojure",
    "cmake": "CMake", "common-lisp": "Common Lisp", "cpp": "C++", "csharp": "C#", "css": "CSS", "d": "D",
    "dart": "Dart", "delphi": "Pascal", "docker": "Dockerfile", "elixir": "Elixir", "emacs": "Emacs Lisp",
    "erlang": "Erlang", "fortran": "Fortran", "fortranfixed": "Fortran", "fsharp": "F#", "go": "Go",
    "graphql": "GraphQL", "groovy": "Groovy", "haskell": "Haskell", "html": "HTML", "ini": "INI", "java": "Java",
    "js": "JavaScript", "json": "JSON", "jsx": "JavaScript", "julia": "Julia", "kotlin": "Kotlin", "lua": "Lua",
    "make": "Makefile", "markdown": "Markdown", "matlab": "MATLAB", "md": "Markdown", "nasm": "Assembly",
    "nim": "Nim", "objective-c": "Objective-C", "ocaml": "OCaml", "perl": "Perl", "php": "PHP",
    "powershell": "PowerShell", "prolog": "Prolog", "protobuf": "Protocol Buffer", "python": "Python", "rb": "Ruby",
    "rust": "Rust", "scala": "Scala", "scheme": "Scheme", "splus": "R", "swift": "Swift", "tasm": "Assembly",
    "tcl": "Tcl", "tex": "TeX", "toml": "TOML", "ts": "TypeScript", "vb.net": "Visual Basic .NET",
    "verilog": "Verilog", "vhdl": "VHDL", "vim": "Vim Script", "vue": "Vue", "xml": "XML", "yaml": "YAML",
    "zig": "Zig",
}  # fmt: skip
"""Folder of Pygments' example files -> core language."""
RELABELLED = {"verilog/example_coq.v": "Rocq Prover", "groovy/test.gradle": "Gradle"}
"""Files that are another language by their content or, with a name of its own here, by their file name."""


@dataclasses.dataclass(frozen=True, slots=True)
class Labelled:
    """A file whose language is known."""

    language: str
    name: bytes
    content: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Accuracy:
    """How many of a set's files of core languages were told right, and those that were not."""

    files: int
    right: int
    wrong: tuple[str, ...]

    @property
    def share(self) -> float:
        return self.right / self.files


@dataclasses.dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure."""

    what: str
    found: float


def as_backed_up(name: bytes, read: Callable[[], bytes], size: int, mode: int = 0) -> FileType:
    """A file's type by its name, and by its head where the name leaves it open."""
    found = detect_by_name(name, mode)
    return detect(name, read(), size, mode) if wants_content(name, found) else found


def accuracy(files: Sequence[Labelled], model: bool) -> Accuracy:
    """Over the files of ``files`` that are of core languages; ``model``: ties go to Magika."""
    core = set(tables().core)
    chosen = [one for one in files if one.language in core]
    found = [as_backed_up(one.name, lambda one=one: one.content[:HEAD_BYTES], len(one.content)) for one in chosen]
    if model:
        pairs = zip(chosen, found, strict=True)
        found = settle([Tie(one.name, one.content[:HEAD_BYTES], guess) for one, guess in pairs])
    wrong = [
        f"{os.fsdecode(one.name)}: {guess.name or 'nothing'}, not {one.language}"
        for one, guess in zip(chosen, found, strict=True)
        if guess.name != one.language
    ]
    return Accuracy(len(chosen), len(chosen) - len(wrong), tuple(wrong))


def pygments_examples(cache: Path) -> Iterator[Labelled]:
    """Pygments' example files of core languages. Downloads its source distribution into ``cache`` once."""
    archive = cache / f"pygments-{PYGMENTS}.tar.gz"
    if not archive.exists():
        cache.mkdir(parents=True, exist_ok=True)
        options = ["--no-deps", "--no-binary", ":all:", "--quiet", "--dest", str(cache)]
        subprocess.run([sys.executable, "-m", "pip", "download", *options, f"pygments=={PYGMENTS}"], check=True)
    with tarfile.open(archive) as packed:
        for member in packed:
            below = member.name.partition("/tests/examplefiles/")[2]
            folder, _, name = below.partition("/")
            if not member.isfile() or not name or name.endswith(".output"):
                continue
            language = RELABELLED.get(below) or LANGUAGES.get(folder, "")
            stream = packed.extractfile(member)
            if language and stream is not None:
                yield Labelled(language, os.fsencode(name.rpartition("/")[2]), stream.read())


def files_below(tree: Path) -> list[tuple[str, bytes, int, int]]:
    """Path, name, size and mode of regular files below ``tree``, at most `MOST_FILES`."""
    found: list[tuple[str, bytes, int, int]] = []
    for folder, _, names in os.walk(tree):
        for name in names:
            path = os.path.join(folder, name)
            if os.path.isfile(path) and not os.path.islink(path):
                state = os.stat(path)
                found.append((path, os.fsencode(name), state.st_size, state.st_mode))
        if len(found) >= MOST_FILES:
            break
    return found[:MOST_FILES]


def rate(count: int, work: Callable[[], None]) -> float:
    """Files a second: the median of some rounds, after one that is not counted."""
    work()
    seconds = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begin)
    return count / median(seconds)


def speeds(tree: Path) -> list[Figure]:
    """Files a second by name, and as they are backed up; and the share of files that was read."""
    files = files_below(tree)
    read = 0

    def by_name() -> None:
        for _, name, _, mode in files:
            detect_by_name(name, mode)

    def head_of(path: str) -> bytes:
        nonlocal read
        read += 1
        with open(path, "rb") as stream:
            return stream.read(HEAD_BYTES)

    def overall() -> None:
        for path, name, size, mode in files:
            as_backed_up(name, lambda path=path: head_of(path), size, mode)

    def every_one() -> None:
        for path, name, size, mode in files[: MOST_FILES // 5]:
            detect(name, head_of(path), size, mode)

    names, together = rate(len(files), by_name), rate(len(files), overall)
    share = read / (ROUNDS + 1) / len(files)
    every = rate(len(files[: MOST_FILES // 5]), every_one)
    return [
        Figure("files", len(files)),
        Figure("by name, files/s", names),
        Figure("as backed up, files/s", together),
        Figure("share of files read", share),
        Figure("all of them read, files/s", every),
    ]


def judge(accuracies: dict[str, Accuracy], figures: Sequence[Figure]) -> list[Verdict]:
    """The budgets, in the order in which they are printed."""
    verdicts = []
    for what, one in accuracies.items():
        least = WITH_MODEL if "Magika" in what else BY_RULES
        told = f"{one.share:.1%} ({one.right} of {one.files})"
        verdicts.append(Verdict(what, f"at least {least:.1%}", told, one.share >= least))
    found = {figure.what: figure.found for figure in figures}
    limits = (("by name, files/s", NAMES_A_SECOND), ("as backed up, files/s", FILES_A_SECOND))
    for what, limit in limits:
        verdicts.append(Verdict(what, f"at least {limit:,}", f"{found[what]:,.0f}", found[what] >= limit))
    return verdicts


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=Path(".tools/pygments"), help="where Pygments' files are kept")
    parser.add_argument("--tree", type=Path, default=Path(sys.prefix), help="the tree whose files speed is measured on")
    parser.add_argument("--save", action="store_true", help="leave the figures in benchmarks/results/")
    options = parser.parse_args(given)
    corpus = [Labelled(*one) for one in labelled_files()]
    sets: dict[str, Iterable[Labelled]] = {
        "Pygments' example files": pygments_examples(options.cache),
        "corpus": corpus,
    }
    accuracies: dict[str, Accuracy] = {}
    for name, files in sets.items():
        several = list(files)
        accuracies[name] = accuracy(several, model=False)
        if importlib.util.find_spec("magika") is not None:
            accuracies[f"{name}, with Magika"] = accuracy(several, model=True)
    figures = speeds(options.tree)
    for what, one in accuracies.items():
        for line in one.wrong:
            print(f"{what}: {line}")
    for figure in figures:
        print(f"{figure.what}: {figure.found:,.2f}")
    verdicts = judge(accuracies, figures)
    for verdict in verdicts:
        state = "met" if verdict.met else "MISSED"
        print(f"{verdict.what}: {verdict.found} (budget: {verdict.limit}, {state})")
    print(f"core languages: {len(tables().core)}; languages and formats: {len(tables().types)}")
    if options.save:
        print(write_results("languages-", figures, verdicts))
    return 0 if all(verdict.met for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())

"""How fast secrets are looked for: ``python -m benchmarks.secrets [--files 4000] [--folder DIR]``.

Without a folder, over a generated corpus: code, configuration, tables and prose in the proportions of a home folder, a
secret in one file of a hundred. Prints files and megabytes a second of processor time of one process, the best of three
rounds, how many files hold a finding, and how fast names are judged.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

from backupiq.semantics.model import Category, FileType
from backupiq.semantics.secrets import MAX_BYTES, SecretScanner, may_hold_secrets

ROUNDS = 3
WORDS = [
    "account", "address", "buffer", "cache", "client", "config", "connection", "content", "context", "counter",
    "data", "default", "delete", "document", "element", "error", "event", "field", "file", "filter", "folder",
    "format", "handler", "header", "height", "image", "index", "input", "item", "key", "label", "length", "line",
    "list", "loader", "manager", "message", "method", "model", "name", "node", "number", "object", "option",
    "order", "output", "package", "page", "parent", "password", "path", "pattern", "point", "position", "process",
    "product", "query", "reader", "record", "request", "response", "result", "return", "row", "schema", "secret",
    "section", "select", "server", "service", "session", "size", "source", "state", "string", "style", "table",
    "target", "test", "text", "time", "title", "token", "total", "type", "update", "user", "value", "version",
    "view", "widget", "width", "window", "writer",
]  # fmt: skip
PYTHON = FileType("Python", Category.CODE, "text/x-python", "extension", 100)
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


def corpus(count: int, seed: int = 2026) -> Iterator[tuple[bytes, bytes]]:
    """``count`` files of 200 bytes to some 60 KB, as paths and contents; the same for the same seed."""
    draw = random.Random(seed)
    kinds = [(_code, b".py"), (_code, b".js"), (_settings, b".yaml"), (_table, b".csv"), (_prose, b".md")]
    for number in range(count):
        make, extension = draw.choices(kinds, [40, 20, 15, 5, 20])[0]
        lines = [make(draw) for _ in range(int(draw.lognormvariate(4.6, 1.0)) + 5)]
        if number % 100 == 50:
            lines.insert(len(lines) // 2, "token: gh" + "p_" + "".join(draw.choices(LETTERS, k=36)))
        yield b"/home/anna/file-%d" % number + extension, "\n".join(lines).encode()


def _code(draw: random.Random) -> str:
    first, second, third = draw.sample(WORDS, 3)
    shapes = (
        f"def {first}_{second}(self, {third}: str) -> None:",
        f"    self.{first} = {second}.{third}({draw.randint(0, 999)})",
        f"    if {first}.{second} is None or {third} == '{draw.choice(WORDS)}': return",
        f"    # {first} of the {second} before the {third} is {draw.choice(WORDS)}",
        f'    const {first}Key = {{ {second}: "{third}-{draw.choice(WORDS)}", size: {draw.randint(1, 99)} }};',
        "",
    )
    return draw.choice(shapes)


def _settings(draw: random.Random) -> str:
    first, second, third = draw.sample(WORDS, 3)
    return f"{'  ' * draw.randint(0, 3)}{first}_{second}: {draw.choice((third, str(draw.randint(1, 9999)), 'true'))}"


def _table(draw: random.Random) -> str:
    return ",".join(f"{draw.random():.6f}" for _ in range(8))


def _prose(draw: random.Random) -> str:
    return " ".join(draw.choices(WORDS, k=14)).capitalize() + "."


def from_folder(folder: Path, count: int) -> Iterator[tuple[bytes, bytes]]:
    """The first ``count`` text files of at most 1 MiB below a folder."""
    left = count
    for where, _, names in os.walk(os.fsencode(folder)):
        for name in sorted(names):
            path = os.path.join(where, name)
            if left and os.path.isfile(path) and not os.path.islink(path) and os.path.getsize(path) <= MAX_BYTES:
                with open(path, "rb") as handle:
                    data = handle.read()
                if b"\0" not in data[:8192]:
                    left -= 1
                    yield path, data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=4000)
    parser.add_argument("--folder", type=Path)
    chosen = parser.parse_args()
    files = list(from_folder(chosen.folder, chosen.files) if chosen.folder else corpus(chosen.files))
    size = sum(len(data) for _, data in files)
    scanner = SecretScanner(b"key of the benchmark")
    begin = time.process_time()
    scanner.scan(*files[0])
    print(f"first file, with loading the rules: {(time.process_time() - begin) * 1e3:.0f} ms")
    seconds, found = min(_round(scanner, files) for _ in range(ROUNDS))
    print(f"{len(files)} files, {size / 1e6:.1f} MB, {size / len(files):.0f} bytes a file; {found} with a finding")
    print(f"searching: {len(files) / seconds:,.0f} files/s, {size / seconds / 1e6:.1f} MB/s")
    begin = time.process_time()
    for path, data in files:
        may_hold_secrets(path, PYTHON, len(data))
    print(f"judging names: {len(files) / (time.process_time() - begin):,.0f} files/s")


def _round(scanner: SecretScanner, files: list[tuple[bytes, bytes]]) -> tuple[float, int]:
    begin = time.process_time()
    found = sum(bool(scanner.scan(path, data)) for path, data in files)
    return time.process_time() - begin, found


if __name__ == "__main__":
    main()

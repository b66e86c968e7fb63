"""A folder as people have them: source code, data files, settings, media, copies. Made fast and the same every time."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

FILES_PER_FOLDER = 10
# Times are set, so that two trees of one seed are equal to the last attribute but ctime and inode.
BASE_TIME_NS = 1_600_000_000 * 10**9


@dataclass(frozen=True, slots=True)
class MixedTree:
    """What was made below ``root``: files, folders (without the root), bytes of all files, and files of each sort."""

    root: Path
    files: int
    folders: int
    total_bytes: int
    sorts: dict[str, int]


@dataclass(frozen=True, slots=True)
class Mutation:
    """What ``mutate_tree`` did, as paths relative to the root."""

    changed: list[str]
    added: list[str]
    deleted: list[str]


@dataclass(frozen=True, slots=True)
class _Sort:
    name: str
    share: float  # of the number of files
    weight: float  # mean size against the other sorts
    endings: tuple[str, ...]


SORTS = (
    _Sort("source", 0.56, 0.6, (".py", ".c", ".ts", ".go", ".java", ".md")),
    _Sort("data", 0.14, 1.5, (".json", ".csv", ".xml", ".log")),
    _Sort("settings", 0.14, 0.05, (".toml", ".yaml", ".ini", ".conf")),
    _Sort("media", 0.12, 4.5, (".jpg", ".mp3", ".zip", ".png")),
    _Sort("copy", 0.04, 0.6, (".bak", ".orig")),
)


class Contents:
    """Makes contents from pools that are prepared once: words with Zipf's frequencies, lines of them, rows of data."""

    def __init__(self, rng: random.Random, lines: int) -> None:
        self.rng = rng
        syllables = [
            "ba",
            "con",
            "de",
            "el",
            "fi",
            "get",
            "ha",
            "in",
            "jo",
            "key",
            "lo",
            "map",
            "no",
            "op",
            "put",
            "re",
        ]
        syllables += ["set", "to", "un", "val", "wr", "ex", "y", "zip"]
        words = [
            "_".join("".join(rng.choices(syllables, k=2)) for _ in range(rng.randint(1, 2)))
            for _ in range(min(8000, lines))
        ]
        zipf = list(accumulate(1 / rank for rank in range(1, len(words) + 1)))
        glue = [" = ", "(", ", ", ".", " ", ": ", " + ", ") -> ", "[", " in "]

        def line() -> bytes:
            picked = rng.choices(words, cum_weights=zipf, k=rng.randint(1, 8))
            body = "".join(word + rng.choice(glue) for word in picked)
            return ("    " * rng.randint(0, 4) + body.rstrip() + "\n").encode()

        def row() -> bytes:
            numbers = rng.randrange(10**6), rng.randrange(10**9) / 1000
            word = rng.choices(words, cum_weights=zipf)[0]
            return f'{{"id": {numbers[0]}, "name": "{word}", "value": {numbers[1]}, "ok": true}},\n'.encode()

        self.lines = [line() for _ in range(lines)]
        self.rows = [row() for _ in range(lines // 2)]

    def text(self, size: int) -> bytes:
        """Text like source code of exactly that size; zstd brings it to about a quarter."""
        return self._of(self.lines, 35, size)

    def data(self, size: int) -> bytes:
        """Rows of JSON of exactly that size."""
        return self._of(self.rows, 55, size)

    def media(self, size: int) -> bytes:
        """Bytes that do not compress, behind a head as JPEG files have it."""
        return (b"\xff\xd8\xff\xe0\x00\x10JFIF\x00" + self.rng.randbytes(max(size - 11, 0)))[:size]

    def _of(self, pool: list[bytes], mean: int, size: int) -> bytes:
        made = b"".join(self.rng.choices(pool, k=size // mean + 4))
        while len(made) < size:
            made += b"".join(self.rng.choices(pool, k=(size - len(made)) // mean + 4))
        return made[:size]


def make_mixed_tree(root: Path, *, files: int = 50_000, total_bytes: int = 1_000_000_000, seed: int = 1) -> MixedTree:
    """Makes the tree in ``root`` (made when missing, must be empty). Sizes are log-normal, ``total_bytes`` or so.

    By number most files are small text, by bytes more than half are media that do not compress; one in 25 is a copy
    of an earlier file. About one folder for ten files, up to six levels deep.
    """
    rng = random.Random(seed)
    contents = Contents(rng, lines=min(30_000, 2_000 + files))
    plan = _plan(rng, files, total_bytes)
    base = os.fsencode(root)
    os.makedirs(base, exist_ok=True)
    folders = _make_folders(base, rng, max(1, files // FILES_PER_FOLDER))
    makers: dict[str, Callable[[int], bytes]] = {
        "source": contents.text,
        "settings": contents.text,
        "data": contents.data,
        "media": contents.media,
    }
    sorts: dict[str, int] = {}
    written = 0
    earlier: list[bytes] = []
    for number, (sort, size) in enumerate(plan):
        if sort.name == "copy" and earlier:
            data = rng.choice(earlier)
        else:
            data = makers.get(sort.name, contents.text)(size)
            if len(earlier) < 64:
                earlier.append(data)
            elif size < 200_000 and rng.random() < 0.05:
                earlier[rng.randrange(64)] = data
        path = b"%s/%s%05d%s" % (rng.choice(folders), sort.name[:1].encode(), number, rng.choice(sort.endings).encode())
        _write(path, data, BASE_TIME_NS + number * 1_000_003)
        sorts[sort.name] = sorts.get(sort.name, 0) + 1
        written += len(data)
    for number, folder in enumerate(reversed(folders)):
        os.utime(folder, ns=(BASE_TIME_NS, BASE_TIME_NS - number * 1_000_003))
    return MixedTree(root, files, len(folders) - 1, written, sorts)


def _plan(rng: random.Random, files: int, total_bytes: int) -> list[tuple[_Sort, int]]:
    """A sort and a size in bytes for each file. The heavy end is cut, so that no one file is a fifth of the whole."""
    picked = rng.choices(SORTS, weights=[sort.share for sort in SORTS], k=files)
    raw = [min(rng.lognormvariate(0, 1.6), 300.0) * sort.weight for sort in picked]
    scale = total_bytes / sum(raw) if raw else 0
    sizes = [int(size * scale) for size in raw]
    if sizes:
        largest = max(range(files), key=sizes.__getitem__)
        sizes[largest] += total_bytes - sum(sizes)
    return list(zip(picked, sizes, strict=True))


def _make_folders(base: bytes, rng: random.Random, count: int) -> list[bytes]:
    folders = [base]
    levels = {base: 0}
    while len(folders) <= count:
        parent = rng.choice(folders)
        if levels[parent] == 6:
            continue
        path = b"%s/dir%04d" % (parent, len(folders))
        os.mkdir(path)
        folders.append(path)
        levels[path] = levels[parent] + 1
    return folders


def _write(path: bytes, data: bytes, mtime_ns: int | None) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    finally:
        os.close(descriptor)
    if mtime_ns is not None:
        os.utime(path, ns=(mtime_ns, mtime_ns))


def mutate_tree(root: Path, seed: int, fraction: float) -> Mutation:
    """Changes, adds and deletes files: ``fraction`` of them in all, half changed, a quarter each added and deleted.

    A changed file has bytes put in, taken away, overwritten in place (size kept) or is written anew; its mtime always
    differs from before. The same tree and seed give the same outcome.
    """
    rng = random.Random(seed)
    contents = Contents(rng, lines=2_000)
    base = os.fsencode(root)
    names = sorted(_files(base))
    count = max(1, round(len(names) * fraction)) if names else 0
    picked = rng.sample(names, min(count, len(names)))
    deleted = picked[: len(picked) // 4]
    copied = picked[len(picked) // 4 : len(picked) // 2]
    changed = picked[len(picked) // 2 :]
    for name in deleted:
        os.unlink(base + b"/" + name)
    added = []
    for number, name in enumerate(copied):
        new = b"%s/new%d_%04d.txt" % (os.path.dirname(name), seed, number)
        new = new.lstrip(b"/")
        _write(base + b"/" + new, contents.text(rng.randrange(20_000)), None)
        added.append(new)
    for name in changed:
        _change(base + b"/" + name, rng, contents)
    return Mutation(*(sorted(os.fsdecode(name) for name in group) for group in (changed, added, deleted)))


def _change(path: bytes, rng: random.Random, contents: Contents) -> None:
    before = os.stat(path)
    with open(path, "rb") as file:
        data = file.read()
    place = rng.randrange(len(data) + 1)
    piece = contents.text(rng.randint(1, 400))
    data = rng.choice(
        [
            data[:place] + piece + data[place:],
            data[:place] + data[place + len(piece) :] if place < len(data) else piece,
            (data[:place] + piece + data[place + len(piece) :])[: max(len(data), 1)],
            contents.text(max(1, len(data))),
        ]
    )
    _write(path, data, None)
    if os.stat(path).st_mtime_ns <= before.st_mtime_ns:
        os.utime(path, ns=(before.st_mtime_ns + 1, before.st_mtime_ns + 1))


def _files(base: bytes) -> list[bytes]:
    found: list[bytes] = []
    for folder, _, names in os.walk(base):
        found.extend((folder + b"/" + name)[len(base) + 1 :] for name in names)
    return found

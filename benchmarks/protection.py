"""Measures how early what matters is safe: ``make bench BENCH_ARGS="--protection"``.

A home folder is made: a few hundred small files that somebody would miss, and media that are 95 % of the bytes.
`backupiq backup` stores it at a local folder through ``--limit-upload``, once by path (``--analysis names``) and once
by importance (the default). As soon as a snapshot or checkpoint stands in the repository, the repository is frozen as
it is at that moment, in hard links; afterwards restic checks each frozen state and says what the snapshot in it holds.
A file is safe from the first snapshot on that holds it; seconds count from the first byte that the run stored. The
figure is the mean of these seconds over all files, weighted by the importance that analysis gives them. Ends with 1
when restic finds fault with a frozen state, or the last snapshot lacks a file; a missed budget is printed and is no
failure.

A limit is for bytes that are copied, and packs are moved where spool and repository share a disk: so they need two.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from backupiq.archive.inventory import Inventory
from backupiq.discovery.entry import EntryKind
from backupiq.discovery.walk import walk
from backupiq.semantics.analysis import Analysis
from backupiq.semantics.live import LiveFiles, live_attributes, read_contents
from benchmarks.contest import PASSWORD, WrongResultError
from benchmarks.report import Verdict
from benchmarks.results import write_results
from tests.support.prefect_server import start_server, stop_server
from tests.support.programs import BackupIQ, Restic, restic_version

TIMES_EARLIER = 10.0
TOTAL_BYTES = 120_000_000
SECONDS = 120.0
MEDIA_SHARE = 0.95
POLL_SECONDS = 0.1
BY_PATH, BY_IMPORTANCE = "by path", "by importance"
ORDERS = {BY_PATH: "names", BY_IMPORTANCE: "auto"}
DAY_SECONDS = 86_400
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - a second disk, in a folder with a name of its own there


@dataclasses.dataclass(frozen=True, slots=True)
class Protected:
    """What became of files of one sort in one run, or of all of them ("all").

    ``seconds`` is the mean over the files, weighted by importance, ``last_seconds`` when the last of them was safe.
    """

    order: str
    sort: str
    files: int
    bytes: int
    importance: float
    seconds: float
    last_seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class Published:
    """A snapshot that stood in the repository: when, in seconds since the first byte, its tags and the paths in it."""

    seconds: float
    tags: tuple[str, ...]
    paths: frozenset[str]


@dataclasses.dataclass(frozen=True, slots=True)
class Sort:
    """Files of one sort: the folder they lie in, their endings and first bytes, how many, how large on average."""

    name: str
    folder: str
    endings: tuple[str, ...]
    head: bytes
    files: int
    share: float
    """Of the bytes."""
    text: bool = False


SORTS = (
    Sort("keys", ".ssh", ("", ".pub", ".pem"), b"-----BEGIN OPENSSH PRIVATE KEY-----\n", 6, 0.0005, text=True),
    Sort("documents", "Documents", (".odt", ".pdf", ".docx", ".xlsx"), b"PK\x03\x04", 120, 0.0200),
    Sort("photos", "Pictures", (".jpg",), b"\xff\xd8\xff\xe0\x00\x10JFIF\x00", 40, 0.0200),
    Sort("code", "Projects/shop/src", (".py", ".ts", ".sql"), b"# work in progress\n", 200, 0.0095, text=True),
    Sort("media", "Downloads", (".iso", ".mp4"), b"", 6, 0.25),
    Sort("media", "Music", (".mp3", ".flac"), b"ID3\x03\x00", 12, 0.15),
    Sort("media", "Videos", (".mp4", ".mkv"), b"\0\0\0\x18ftypmp42", 20, 0.55),
)
"""All but the media have 5 % of the bytes together."""


# --- the home folder -----------------------------------------------------------------------------------------------


def make_home(root: Path, total_bytes: int, *, now: float) -> dict[str, str]:
    """Makes the files below ``root``, the same for the same bytes; the sort of each by its path.

    ``now``: seconds since 1970 that ages are counted from. Nothing in it compresses well but text.
    """
    draw = random.Random(7)
    made: dict[str, str] = {}
    for sort in SORTS:
        folder = root / sort.folder
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(sort.files):
            size = int(total_bytes * sort.share / sort.files * draw.uniform(0.5, 1.5))
            path = folder / f"{sort.name}-{number:03d}{sort.endings[number % len(sort.endings)]}"
            with path.open("wb") as file:
                file.write(sort.head)
                for piece in _pieces(draw, size - len(sort.head), text=sort.text):
                    file.write(piece)
            _age(path, now - draw.uniform(1, 700) * DAY_SECONDS)
            made[str(path)] = sort.name
    manifest = root / "Projects/shop/pyproject.toml"
    manifest.write_text('[project]\nname = "shop"\ndependencies = ["django>=5"]\n')
    _age(manifest, now - DAY_SECONDS)
    made[str(manifest)] = "code"
    return made


def _pieces(draw: random.Random, size: int, *, text: bool) -> Iterator[bytes]:
    while size > 0:
        piece = min(size, 1 << 20)
        yield draw.randbytes(piece // 2 + 1).hex().encode()[:piece] if text else draw.randbytes(piece)
        size -= piece


def _age(path: Path, seconds: float) -> None:
    os.utime(path, (seconds, seconds))


def importance_of(root: Path, *, now_ns: int) -> dict[str, int]:
    """What analysis says the files below ``root`` are worth, 0 to 100, by path; their contents are read."""
    inventory = Inventory()
    for directory in walk([root], on_unreadable=_refuse):
        inventory.add(directory)
    analysis = Analysis(LiveFiles(inventory), now_ns=now_ns, attributes=live_attributes)
    folders = [directory for _, directory in inventory.directories()]
    wanted = (file for directory in folders for file in analysis.wanted(directory))
    contents = read_contents(wanted, b"a key of the benchmark", stopped=lambda: False)
    found = {}
    for directory in folders:
        for entry, facts in analysis.facts(directory, contents):
            if entry.kind is EntryKind.FILE:
                path = os.fsdecode(directory.path.rstrip(b"/") + b"/" + entry.name)
                found[path] = 0 if facts.regenerable else max(1, facts.importance)
    return found


def _refuse(item: object) -> None:
    raise WrongResultError(f"a file that was just made cannot be read: {item}")


# --- watching a run ------------------------------------------------------------------------------------------------


class Watch(threading.Thread):
    """Looks at a local repository while a run stores into it, until `finish`.

    ``first_byte`` is when its first pack was begun and ``seen`` when each snapshot (id in hex) appeared, on the clock
    of ``time.monotonic``. The state of the repository at that moment is kept below ``frozen``, in a folder of that id.
    """

    def __init__(self, repository: Path, frozen: Path) -> None:
        super().__init__(daemon=True)
        self.first_byte: float | None = None
        self.seen: dict[str, float] = {}
        self._repository = repository
        self._frozen = frozen
        self._ended = threading.Event()

    def run(self) -> None:
        """Looks every tenth of a second, and once more at the end."""
        while True:
            ends = self._ended.is_set()
            self.look(time.monotonic())
            if ends:
                return
            self._ended.wait(POLL_SECONDS)

    def look(self, now: float) -> None:
        """Note what is there."""
        if self.first_byte is None and any(_files_below(self._repository / "data")):
            self.first_byte = now
        for snapshot in _files_below(self._repository / "snapshots"):
            if _is_stored(snapshot) and snapshot.name not in self.seen and self._freeze(snapshot):
                self.seen[snapshot.name] = now

    def _freeze(self, snapshot: Path) -> bool:
        """Keep the repository as it is; False when the snapshot has gone meanwhile.

        The snapshot comes first: what it needs was there before it, and only snapshots are ever removed in a run.
        """
        target = self._frozen / snapshot.name
        if not _link(snapshot, target / "snapshots" / snapshot.name):
            return False
        for part in ("index", "data", "keys", "config"):
            for file in _files_below(self._repository / part):
                if _is_stored(file) or part == "config":
                    _link(file, target / file.relative_to(self._repository))
        return True

    def finish(self) -> None:
        """Look once more and end."""
        self._ended.set()
        self.join()


def _files_below(path: Path) -> list[Path]:
    return [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]


def _is_stored(file: Path) -> bool:
    """Whether it has the name of an object; what is being written has another one."""
    return len(file.name) == 64


def _link(file: Path, target: Path) -> bool:
    target.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        target.hardlink_to(file)
        return True
    return False


def read_published(restic: Restic, frozen: Path, watch: Watch) -> list[Published]:
    """What the snapshots held that a watch has seen, oldest first.

    WrongResultError when restic finds fault with a frozen state.
    """
    published = []
    for name, moment in sorted(watch.seen.items(), key=lambda item: item[1]):
        checked = restic.run("check", repo=frozen / name, password=PASSWORD, check=False)
        if checked.returncode != 0:
            raise WrongResultError(f"restic check when snapshot {name[:8]} appeared: {checked.stdout}{checked.stderr}")
        snapshot, *nodes = restic.json("ls", "latest", repo=frozen / name, password=PASSWORD)
        paths = frozenset(node["path"] for node in nodes if node["type"] == "file")
        seconds = moment - (moment if watch.first_byte is None else watch.first_byte)
        published.append(Published(seconds, tuple(snapshot.get("tags") or ()), paths))
    return published


# --- what it comes to ----------------------------------------------------------------------------------------------


def safe_after(published: Sequence[Published], paths: Sequence[str]) -> dict[str, float]:
    """When each file was safe. Raises WrongResultError when one never was, or the last snapshot lacks it."""
    safe: dict[str, float] = {}
    for each in published:
        for path in each.paths:
            safe.setdefault(path, each.seconds)
    missing = [path for path in paths if path not in safe or path not in published[-1].paths]
    if missing or not published:
        raise WrongResultError(f"the last snapshot lacks {len(missing)} files, such as {missing[:1]}")
    return {path: safe[path] for path in paths}


def summarise(
    order: str, safe: Mapping[str, float], sorts: Mapping[str, str], importance: Mapping[str, int]
) -> list[Protected]:
    """The figures of all files, and of each sort."""

    def of(name: str, paths: Sequence[str]) -> Protected:
        weight = sum(importance[path] for path in paths)
        seconds = sum(importance[path] * safe[path] for path in paths) / weight
        size = sum(os.path.getsize(path) for path in paths)
        last = max(safe[path] for path in paths)
        return Protected(order, name, len(paths), size, weight / len(paths), seconds, last)

    groups: dict[str, list[str]] = {"all": list(sorts)}
    for path, sort in sorts.items():
        groups.setdefault(sort, []).append(path)
    return [of(name, paths) for name, paths in groups.items()]


def judge(protected: Sequence[Protected]) -> list[Verdict]:
    """The budget: of all files, weighted."""
    found = {one.order: one.seconds for one in protected if one.sort == "all"}
    ratio = found[BY_PATH] / max(found[BY_IMPORTANCE], POLL_SECONDS)
    told = f"{ratio:.1f} times ({found[BY_IMPORTANCE]:.1f} s against {found[BY_PATH]:.1f} s by path)"
    limit = f"at least {TIMES_EARLIER:g} times earlier"
    return [Verdict("importance-weighted time until safe", limit, told, ratio >= TIMES_EARLIER)]


# --- the measurement -----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Setting:
    """Where everything is: the program with its environment, restic, the home to back up, a folder to work in."""

    backupiq: BackupIQ
    restic: Restic
    home: Path
    work: Path
    limit: int
    """Bytes a second."""

    def back_up(self, order: str) -> list[Published]:
        """One backup into a new repository, watched; what it published."""
        repository, frozen = self.work / "repository", self.work / "frozen"
        for folder in (repository, frozen):
            shutil.rmtree(folder, ignore_errors=True)
        self.backupiq("init", "--to", repository)
        watch = Watch(repository, frozen)
        watch.start()
        try:
            limited = ["--limit-upload", str(self.limit), "--analysis", ORDERS[order]]
            self.backupiq("backup", self.home, "--to", repository, *limited, timeout=3600.0)
        finally:
            watch.finish()
        return read_published(self.restic, frozen, watch)


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks.protection", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bytes", type=int, default=TOTAL_BYTES, help=f"bytes of the home folder ({TOTAL_BYTES})")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"what sending all is to take ({SECONDS:g})")
    parser.add_argument("--quick", action="store_true", help="a look: 24 MB in a minute")
    parser.add_argument("--work", type=Path, help="where to put home folder and repository (the temporary folder)")
    parser.add_argument("--spool", type=Path, default=SHARED_MEMORY, help=f"a folder on another disk ({SHARED_MEMORY})")
    options = parser.parse_args(given)
    if options.quick:
        options.bytes, options.seconds = 24_000_000, 60.0
    if options.bytes < 1_000_000 or options.seconds < 1:
        parser.error("--bytes must be at least 1000000, --seconds at least 1")
    return options


def main(given: Sequence[str] | None = None) -> int:
    """Measures, prints and writes one JSON file below benchmarks/results. The exit code."""
    options = arguments(given)
    program = shutil.which("restic")
    if program is None:
        print("restic is not on this machine: install it (make programs, as root) to measure with it")
        return 1
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="backupiq-bench-", dir=options.work))
        work = Path(folder).absolute()
        if not options.spool.is_dir() or options.spool.stat().st_dev == work.stat().st_dev:
            print(f"{options.spool} is not on another disk than {work}: name a folder that is with --spool or --work")
            return 1
        spool = stack.enter_context(tempfile.TemporaryDirectory(prefix="backupiq-bench-", dir=options.spool))
        now = time.time()
        sorts = make_home(work / "home/ada", options.bytes, now=now)
        importance = importance_of(work / "home/ada", now_ns=int(now * 1e9))
        server = start_server(work / "prefect")
        stack.callback(stop_server, server)
        settings = server.settings(work / "own") | {"BACKUPIQ_SPOOL": spool}
        backupiq = BackupIQ(Path(sys.executable).with_name("backupiq"), work / "own", PASSWORD, settings)
        restic = Restic(Path(program), restic_version(Path(program)), work / "restic-home")
        setting = Setting(backupiq, restic, work / "home", work, int(options.bytes / options.seconds))
        try:
            protected = _measure(setting, sorts, importance)
        except WrongResultError as error:
            print(f"WRONG: {error}")
            return 1
    verdicts = judge(protected)
    for verdict in verdicts:
        state = "met" if verdict.met else "MISSED"
        print(f"{verdict.what}: {verdict.found} (budget: {verdict.limit}, {state})")
    made = {"files": len(sorts), "bytes": options.bytes, "bytes_a_second": setting.limit}
    print(f"written: {write_results('protection-', protected, verdicts, home=made)}")
    return 0


def _measure(setting: Setting, sorts: Mapping[str, str], importance: Mapping[str, int]) -> list[Protected]:
    protected: list[Protected] = []
    for order in ORDERS:
        published = setting.back_up(order)
        for each in published:
            what = "checkpoint" if "checkpoint" in each.tags else "snapshot"
            print(f"{order}: {what} after {each.seconds:.1f} s, {len(each.paths):,} files", flush=True)
        found = summarise(order, safe_after(published, list(sorts)), sorts, importance)
        for one in found:
            print(
                f"{order}: {one.sort}: {one.files} files, {one.bytes / 1e6:.1f} MB, importance {one.importance:.0f}: "
                f"safe after {one.seconds:.1f} s, the last after {one.last_seconds:.1f} s",
                flush=True,
            )
        protected += found
    return protected


if __name__ == "__main__":
    sys.exit(main())

"""The analysis of a snapshot for the catalog: what each entry is, by names, contents and what was read before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from backupiq.catalog.snapshot_files import SnapshotFiles
from backupiq.catalog.update import Analysis as EntryAnalysis
from backupiq.catalog.update import Analyze, KnownLookup
from backupiq.discovery.entry import Directory
from backupiq.semantics.analysis import Analysis
from backupiq.semantics.contents import Content, Wanted, examine
from backupiq.semantics.model import FileFacts, Project
from backupiq.semantics.pins import Pins
from backupiq.semantics.secrets import SecretScanner

FILES_AT_ONCE = 1000
"""Files that are looked up and read together; the folders that hold them are kept in memory meanwhile."""
FOLDERS_AT_ONCE = 500
READERS = 4
"""Threads that fetch contents; they wait for the destination most of the time."""


def snapshot_analyzer(
    key: bytes, *, pins: Pins | None = None, contents: Mapping[bytes, Content] | None = None
) -> Analyze:
    """What looks at snapshots for the catalog.

    ``key``: of the hashes of secrets. ``contents``: what was read out of files a moment ago, by raw path; those files
    are not read again.
    """

    def analyze(files: SnapshotFiles, *, now_ns: int, known: KnownLookup) -> EntryAnalysis:
        return SnapshotAnalysis(files, key, now_ns, pins, contents or {}, known)

    return analyze


class SnapshotAnalysis:
    """What was found out about a snapshot. Contents are read as its folders are gone through, once."""

    def __init__(
        self,
        files: SnapshotFiles,
        key: bytes,
        now_ns: int,
        pins: Pins | None,
        contents: Mapping[bytes, Content],
        known: KnownLookup,
    ) -> None:
        self._analysis = Analysis(files, now_ns=now_ns, pins=pins, attributes=files.attributes)
        self._files = files
        self._key = key
        self._contents = contents
        self._known = known

    @property
    def projects(self) -> Sequence[Project]:
        """The projects in it."""
        return self._analysis.projects

    def folders(self, directories: Iterator[Directory]) -> Iterator[tuple[Directory, Sequence[FileFacts]]]:
        """Each of these folders, in order, with what is said about each of its children."""
        with ThreadPoolExecutor(READERS, thread_name_prefix="backupiq-catalog") as pool:
            waiting: list[Directory] = []
            wanted: list[tuple[Wanted, int]] = []
            for directory in directories:
                times = {child.name: child.mtime_ns for child in directory.children}
                for file in self._analysis.wanted(directory):
                    wanted.append((file, times[file.path.rpartition(b"/")[2]]))
                waiting.append(directory)
                if len(wanted) >= FILES_AT_ONCE or len(waiting) >= FOLDERS_AT_ONCE:
                    yield from self._tell(waiting, self._read(wanted, pool))
                    waiting, wanted = [], []
            yield from self._tell(waiting, self._read(wanted, pool))

    def _tell(
        self, directories: Sequence[Directory], contents: Mapping[bytes, Content]
    ) -> Iterator[tuple[Directory, Sequence[FileFacts]]]:
        for directory in directories:
            yield directory, [facts for _, facts in self._analysis.facts(directory, contents)]

    def _read(self, wanted: Sequence[tuple[Wanted, int]], pool: ThreadPoolExecutor) -> dict[bytes, Content]:
        found = {file.path: self._contents[file.path] for file, _ in wanted if file.path in self._contents}
        rest = [(file, mtime_ns) for file, mtime_ns in wanted if file.path not in found]
        known = self._known((file.path, file.size, mtime_ns) for file, mtime_ns in rest)
        found |= {path: Content(each.type, each.findings) for path, each in known.items()}
        unread = [file for file, _ in rest if file.path not in found]
        scanners = [SecretScanner(self._key) for _ in range(READERS)]

        def work(number: int) -> list[tuple[bytes, Content]]:
            return [(file.path, examine(file, self._files.read, scanners[number])) for file in unread[number::READERS]]

        for part in pool.map(work, range(READERS) if unread else ()):
            found.update(part)
        return found

"""Analysis in a run: what it holds, which folders can be made again, and what each file to read is worth."""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left

from backupiq.archive.session import BackupSession
from backupiq.discovery.entry import Directory, EntryKind
from backupiq.discovery.sources import clean
from backupiq.profile import BackupOptions
from backupiq.semantics.analysis import Analysis
from backupiq.semantics.contents import Content, finding_key
from backupiq.semantics.live import LiveFiles, live_attributes, read_contents
from backupiq.semantics.model import Decision
from backupiq.semantics.pins import Pins, parse_pin
from backupiq.semantics.summary import Counting, Summary
from backupiq.semantics.types import detect_by_name

DAY_NS = 86_400 * 10**9


class RunAnalysis:
    """The analysis of a run's inventory. Its methods work in a thread of the session, one at a time."""

    def __init__(self, session: BackupSession, options: BackupOptions, now_ns: int) -> None:
        self._session = session
        self.pins = Pins(map(parse_pin, options.pin), [clean(path)[0] for path in options.paths])
        self.now_ns = now_ns
        self._analysis: Analysis | None = None
        self.contents: dict[bytes, Content] = {}
        self.is_full = False
        self.summary: Summary | None = None

    def survey(self) -> Analysis:
        """Look at the folders, once."""
        if self._analysis is None:
            files = LiveFiles(self._session.join())
            self._analysis = Analysis(files, now_ns=self.now_ns, pins=self.pins, attributes=live_attributes)
        return self._analysis

    @property
    def decisions(self) -> list[Decision]:
        """What was decided about folders that may be made again."""
        return self._analysis.decisions if self._analysis is not None else []

    def leave_out_regenerable(self) -> int:
        """Take the folders that can be made again out of the run; how many."""
        gone = {decision.path for decision in self.survey().decisions if decision.regenerable}
        if gone:
            self._session.leave_out(gone)
        return len(gone)

    def read_contents(self) -> int:
        """Read the contents of what is new or changed, as far as they tell more than names; how many files."""
        analysis, session = self.survey(), self._session
        if session.repository is None:
            return 0
        key = finding_key(session.repository.master)
        wanted = (
            file
            for first, directory in session.inventory.directories()
            if (due := self._due(first, directory))
            for file in analysis.wanted(directory)
            if file.path.rpartition(b"/")[2] in due
        )
        self.contents = read_contents(wanted, key, stopped=session.is_stopping)
        self.is_full = True
        return len(self.contents)

    def importance(self) -> array[int]:
        """What the files to read are worth, 0 to 100, in the order of ``session.changes.to_read``."""
        analysis = self.survey()
        values = array("B")
        for first, directory in self._session.inventory.directories():
            due = self._due(first, directory)
            if due:
                for entry, facts in analysis.facts(directory, self.contents):
                    if entry.name in due:
                        values.append(0 if facts.regenerable else max(1, facts.importance))
        return values

    def waited_days(self) -> array[float]:
        """How long the files to read have been waiting to be stored as they are now, in the same order, in days."""
        waits = array("d")
        for _, files in self._session.inventory.select(self._session.changes.to_read):
            waits.extend(max(0.0, (self.now_ns - entry.ctime_ns) / DAY_NS) for _, entry in files)
        return waits

    def _due(self, first: int, directory: Directory) -> set[bytes]:
        """The names of the folder's files that are to be read."""
        to_read = self._session.changes.to_read
        at = bisect_left(to_read, first)
        end = first + len(directory.children)
        found = set()
        while at < len(to_read) and to_read[at] < end:
            found.add(directory.children[to_read[at] - first].name)
            at += 1
        return found

    def count(self) -> Summary:
        """Add up what the run holds."""
        counting = Counting()
        analysis, inventory = self.survey(), self._session.inventory
        for _, directory in inventory.directories():
            regenerable = analysis.is_regenerable(directory.path)
            root = analysis.project_of(directory.path)
            prefix = os.path.join(directory.path, b"")
            for child in directory.children:
                if child.kind is not EntryKind.FILE:
                    continue
                if regenerable:
                    counting.add_regenerable(child.size)
                    continue
                path = prefix + child.name
                content = self.contents.get(path)
                found = content.type if content is not None else detect_by_name(child.name, child.mode)
                counting.add(path, child.size, found, root)
                if content is not None and content.findings:
                    counting.add_risky(path, [finding.rule for finding in content.findings])
        self.summary = counting.summary(analysis.projects)
        return self.summary

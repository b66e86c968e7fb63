"""Analysis of a tree of files: first its folders (projects, git, what can be made again), then file by file.

Everything it says follows from the tree, the contents, the time of the snapshot and the pins, so that a snapshot in a
repository gives the same answers as the disk did.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from backupiq.discovery.entry import Directory, EntryKind, FileEntry
from backupiq.semantics.contents import Content, Wanted
from backupiq.semantics.git import find_git
from backupiq.semantics.importance import Scorer, load_weights
from backupiq.semantics.landmarks import survey
from backupiq.semantics.model import FileFacts, Finding, GitState, Importance, Project, Severity
from backupiq.semantics.origin import download_origin, zone_files
from backupiq.semantics.pins import Pins
from backupiq.semantics.projects import ProjectIndex, find_projects
from backupiq.semantics.regenerable import RegenerableIndex, decide
from backupiq.semantics.roles import role_of
from backupiq.semantics.secrets import may_hold_secrets
from backupiq.semantics.types import detect_by_name, wants_content
from backupiq.semantics.view import Files

Attributes = Callable[[bytes], Mapping[str, bytes]]
"""The extended attributes of a path, by name."""


def no_attributes(path: bytes) -> Mapping[str, bytes]:
    """For trees whose attributes are not known."""
    return {}


class Analysis:
    """What is known of a tree once its folders have been looked at. Used by one thread at a time.

    ``now_ns`` is the snapshot's time. `wanted` names the files whose contents tell more than their names; what was read
    out of them goes into `facts`.
    """

    def __init__(
        self, files: Files, *, now_ns: int, pins: Pins | None = None, attributes: Attributes = no_attributes
    ) -> None:
        landmarks = survey(files)
        self.git = find_git(files)
        self.projects: list[Project] = find_projects(files, landmarks)
        self.decisions = decide(landmarks, self.git.tracks)
        self._by_folder = ProjectIndex(self.projects)
        self._rebuilt = RegenerableIndex(self.decisions)
        self._scorer = Scorer(load_weights(), pins or Pins(), now_ns)
        self._attributes = attributes
        self._read = files.read

    def is_regenerable(self, folder: bytes) -> bool:
        """Whether the folder, or one above it, can be made again."""
        return self._rebuilt.covers(folder) is not None

    def project_of(self, folder: bytes) -> bytes | None:
        """The root of the project that the folder belongs to."""
        found = self._by_folder.of(folder)
        return found.root if found is not None else None

    def wanted(self, directory: Directory) -> Iterator[Wanted]:
        """The files of the folder whose contents are to be read: for their type, or for secrets."""
        if self.is_regenerable(directory.path) or _is_gits(directory.path):
            return
        prefix = _prefix(directory.path)
        for child in directory.children:
            if child.kind is not EntryKind.FILE or not child.size:
                continue
            path, found = prefix + child.name, detect_by_name(child.name, child.mode)
            secrets = may_hold_secrets(path, found, child.size)
            if secrets or wants_content(child.name, found):
                yield Wanted(path, child.size, child.mode, secrets)

    def facts(self, directory: Directory, contents: Mapping[bytes, Content]) -> Iterator[tuple[FileEntry, FileFacts]]:
        """What is to be said about each entry of the folder, in their order. ``contents``: of files that were read."""
        prefix = _prefix(directory.path)
        regenerable = self.is_regenerable(directory.path)
        project = self._by_folder.of(directory.path)
        root = project.root if project is not None and not regenerable else None
        zones = {} if regenerable else zone_files(directory, self._read)
        for child in directory.children:
            if child.kind is EntryKind.FILE:
                yield child, self._of_file(prefix + child.name, child, contents, regenerable, root, zones)
            else:
                yield child, FileFacts(regenerable=regenerable, project=root)

    def _of_file(
        self,
        path: bytes,
        entry: FileEntry,
        contents: Mapping[bytes, Content],
        regenerable: bool,
        root: bytes | None,
        zones: Mapping[bytes, bytes],
    ) -> FileFacts:
        content = contents.get(path)
        found, findings = content if content is not None else (detect_by_name(entry.name, entry.mode), ())
        role = role_of(path, found)
        git = GitState.NONE if regenerable else self.git.state(path, entry)
        origin = ""
        if not regenerable and git is GitState.NONE:
            origin = download_origin(path, entry, self._attributes, zone=zones.get(entry.name, b""))
        value = self._scorer.value(
            path,
            entry,
            found,
            role,
            git=git,
            origin=origin,
            regenerable=regenerable,
            secrets=certain(findings) if findings else 0,
        )
        return FileFacts(found, role, value, git, regenerable, origin, root, findings)

    def explain(self, path: bytes, entry: FileEntry, facts: FileFacts) -> Importance:
        """The score that `facts` told, and all the factors it comes from."""
        return self._scorer.explain(
            path,
            entry,
            facts.type,
            facts.role,
            git=GitState(facts.git),
            origin=facts.origin,
            regenerable=facts.regenerable,
            secrets=certain(facts.findings),
        )


def certain(findings: tuple[Finding, ...]) -> int:
    """How many of the findings are more than a guess."""
    return sum(finding.severity is not Severity.LOW for finding in findings)


def _prefix(folder: bytes) -> bytes:
    return folder if folder.endswith(b"/") else folder + b"/"


def _is_gits(folder: bytes) -> bool:
    return b"/.git/" in folder or folder.endswith(b"/.git")

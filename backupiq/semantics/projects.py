"""Projects: the folders that manifests make one, with what they are built with."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator
from itertools import islice

from backupiq.semantics.frameworks import as_frameworks, framework_table, frameworks_of
from backupiq.semantics.landmarks import Landmarks, at_and_above, join, name_of, nearest, read_head, survey
from backupiq.semantics.manifest_parsing import Manifest
from backupiq.semantics.manifests import Kind, kind_of, read_manifest
from backupiq.semantics.model import Project
from backupiq.semantics.regenerable import decide
from backupiq.semantics.view import Files
from backupiq.telemetry.text import printable_path

MOST_MANIFESTS = 50_000
"""How many manifests are read of a tree; the folders of the others are projects by the name of the manifest alone."""
MOST_BYTES = 512 << 20
"""How many bytes of manifests are read of a tree."""
MOST_OF_A_FOLDER = 20
"""How many manifests of one folder are looked at."""
MOST_LISTED = 50
"""How many manifests a project names."""
PART_LEVELS = 4
"""How far below a project's root a Dockerfile and the like still count as parts of it."""


def find_projects(files: Files, landmarks: Landmarks | None = None) -> list[Project]:
    """Every project of the tree, sorted by its root. A project in another is one of its own.

    Folders that can be made again, and those of installed packages, hold none. Contents are read through
    ``files.read`` with limits; a manifest that cannot be read or understood tells by its name alone. ``landmarks``
    saves the walk when ``survey`` made it.
    """
    landmarks = landmarks or survey(files)
    reading = _Reading(files)
    drafts: dict[bytes, _Draft] = {}
    for folder in _own_folders(landmarks):  # a folder comes before all that is below it
        told = list(reading.read_folder(folder, landmarks.manifests[folder]))
        if not told:
            continue
        root = folder
        if not any(manifest.root for _, manifest in told):
            root = _root_of_parts(folder, [name for name, _ in told], drafts.keys(), landmarks.working_copies)
        draft = drafts.setdefault(root, _Draft(root))
        for name, manifest in told:
            draft.add(folder, name, manifest)
    return [drafts[root].project() for root in sorted(drafts)]


class ProjectIndex:
    """Finds the project that a folder belongs to."""

    def __init__(self, projects: Iterable[Project]) -> None:
        self._by_root = {project.root: project for project in projects}

    def of(self, folder: bytes) -> Project | None:
        """The project whose root is this folder, or the nearest above it."""
        return nearest(folder, self._by_root) if self._by_root else None


def _own_folders(landmarks: Landmarks) -> list[bytes]:
    """The folders with manifests that are not in folders of installed or rebuilt files, parents first."""
    table = framework_table()
    # Whether git tracks something there does not matter here: what others made is no project of this person.
    rebuilt = {decision.path for decision in decide(landmarks, lambda _: False) if decision.regenerable}
    return sorted(
        folder
        for folder in landmarks.manifests
        if not any(above in rebuilt or table.is_installed(above) for above in at_and_above(folder))
    )


def _root_of_parts(
    folder: bytes, names: list[bytes], roots: Collection[bytes], working_copies: Collection[bytes]
) -> bytes:
    """The root of the project that what was found in this folder is a part of.

    That is the nearest project above within ``PART_LEVELS``, but never one beyond the working copy of git that the
    folder lies in; without one the working copy itself, or the folder where such parts begin.
    """
    for above in islice(at_and_above(folder), PART_LEVELS + 1):
        if above in roots or above in working_copies:
            return above
    levels = min(kind.up for name in names if (kind := kind_of(folder, name)))
    return next(islice(at_and_above(folder), levels, None), folder)


@dataclasses.dataclass(slots=True)
class _Draft:
    """A project while its manifests come in."""

    root: bytes
    name: str = ""
    manifests: list[str] = dataclasses.field(default_factory=list)
    frameworks: dict[str, str] = dataclasses.field(default_factory=dict)

    def add(self, folder: bytes, name: bytes, manifest: Manifest) -> None:
        if len(self.manifests) < MOST_LISTED:
            self.manifests.append(printable_path(join(folder, name)[len(self.root) :].lstrip(b"/")))
        if folder == self.root and not self.name:
            self.name = manifest.name
        for framework, version in frameworks_of(manifest.uses).items():
            self.frameworks[framework] = self.frameworks.get(framework) or version

    def project(self) -> Project:
        name = self.name or printable_path(name_of(self.root) or self.root)
        return Project(self.root, name, tuple(self.manifests), as_frameworks(self.frameworks))


class _Reading:
    """Reads manifests until the limits of the tree are used up; after that it gives none."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._manifests = MOST_MANIFESTS
        self._bytes = MOST_BYTES

    def read_folder(self, folder: bytes, names: list[bytes]) -> Iterator[tuple[bytes, Manifest]]:
        """The manifests of a folder that prove something, the most telling first; of each kind of YAML one."""
        kinds = {name: kind for name in names if (kind := kind_of(folder, name))}
        ranked = sorted(kinds, key=lambda name: (kinds[name].rank, name))
        said: set[int] = set()
        for name in ranked[:MOST_OF_A_FOLDER]:
            kind = kinds[name]
            if kind.once and kind.rank in said:
                continue
            manifest = read_manifest(folder, name, self._read(folder, name, kind))
            if manifest is not None:
                said.add(kind.rank)
                yield name, manifest

    def _read(self, folder: bytes, name: bytes, kind: Kind) -> bytes | None:
        if kind.read is None or self._manifests <= 0 or self._bytes <= 0:
            return None
        data = read_head(self._files, join(folder, name), kind.limit)
        self._manifests -= 1
        self._bytes -= len(data or b"")
        return data

"""What git makes of files, read from its own files alone: tracked or not, changed since, and pushed or not.

Nothing is run and nothing but ``Files.read`` is asked, so a snapshot gives the same answers as the disk did. Where
git's files cannot be understood (damaged, changing while they are read, of a kind that is not known) the answer is
"none" with a reason, never an error. Where it is not certain that something is committed or pushed it is taken as not
so, since that raises its importance.
"""

from __future__ import annotations

import contextlib
import hashlib
import posixpath
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

from backupiq.discovery.entry import Directory, EntryKind, FileEntry
from backupiq.discovery.gitignore import (
    MAX_FILE_BYTES,
    Layer,
    Pattern,
    PatternError,
    PatternSet,
    parse_pattern,
    split_lines,
)
from backupiq.semantics.git_index import (
    EMPTY_INDEX,
    MAX_INDEX_BYTES,
    MAX_LINE_FILE_BYTES,
    Index,
    IndexFormatError,
    LastCommit,
    Refs,
    is_changed,
    is_committed,
    parse_index,
    read_quietly,
)
from backupiq.semantics.model import GitState
from backupiq.semantics.view import Files

KEPT_INDEXES = 8
KEPT_ENTRIES = 1_000_000
"""How many repositories, and entries of their indexes, are in memory at a time beside the one in use. Files are asked
for folder by folder, so few are needed at once."""
MAX_RACY_BYTES = 1 << 20
MAX_REMOTE_REFS = 10_000  # loose ones, a repository
MAX_PATTERNS_IN_FORCE = 2_000
KEPT_FOLDERS = 4096
"""How many folders' owners and ignore patterns are remembered, so that a deep tree costs one step a folder."""
NOTED_AT_ONCE = 256

_name_of = attrgetter("name")


@dataclass(slots=True)
class _GitFolder:
    """A folder that git keeps itself in: its index, whether it is a repository by itself, its loose remote refs."""

    index: FileEntry | None
    bare: bool
    remote_refs: list[bytes] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _WorkingCopy:
    """One working copy as far as it is understood; ``index`` is None when it is not, and ``reason`` says why."""

    root: bytes
    index: Index | None
    reason: str
    committed: GitState = GitState.NONE
    last: LastCommit | None = None
    file_modes: bool = True
    untracked: GitState = GitState.UNTRACKED
    excludes: bytes = b""
    entries: int = 0


@dataclass(frozen=True, slots=True)
class _Ignores:
    """The ignore patterns in force in a folder, weakest first, and how many they are."""

    layers: tuple[Layer, ...] = ()
    count: int = 0


@dataclass(frozen=True, slots=True)
class _Place:
    """What one folder is to git: inside its own files, inside a working copy, or neither (both are unset).

    ``is_clean``: nothing in it waits staged; else ``last`` tells what the last commit has there, None when not known.
    """

    internal: bool = False
    copy: _WorkingCopy | None = None
    names: Mapping[bytes, int] = field(default_factory=dict)
    folder: bytes = b""
    is_clean: bool = True
    last: Mapping[bytes, tuple[int, bytes]] | None = None


def find_git(files: Files) -> GitRepositories:
    """Every repository and working copy in the tree, found in one pass over its folders; their indexes are read later.

    A `.git` file (worktrees, submodules) is followed when it leads to a folder of the tree.
    """
    copies: set[bytes] = set()
    folders: dict[bytes, _GitFolder] = {}
    ignoring: set[bytes] = set()
    for directory in files.directories():
        children = directory.children
        path = _key(directory.path)
        place = bisect_left(children, b".git", key=_name_of)
        if place < len(children) and children[place].name.startswith(b".git"):
            if children[place].name == b".git" and children[place].kind in (EntryKind.DIR, EntryKind.FILE):
                copies.add(path)
            if _child(children, b".gitignore") is not None:
                ignoring.add(path)
        if b"/refs/remotes" in path and _take_remote_refs(directory, folders):
            continue  # it holds a HEAD too: the remote's branch
        head = _child(children, b"HEAD")
        if head is not None and head.kind is EntryKind.FILE:
            folders[path] = _git_folder(children)
    return GitRepositories(files, copies, folders, ignoring)


def _child(children: Sequence[FileEntry], name: bytes) -> FileEntry | None:
    place = bisect_left(children, name, key=_name_of)
    return children[place] if place < len(children) and children[place].name == name else None


def _git_folder(children: Sequence[FileEntry]) -> _GitFolder:
    parts = [_child(children, name) for name in (b"objects", b"refs")]
    bare = all(part is not None and part.kind is EntryKind.DIR for part in parts)
    index = _child(children, b"index")
    return _GitFolder(index if index is not None and index.kind is EntryKind.FILE else None, bare)


def _take_remote_refs(directory: Directory, folders: Mapping[bytes, _GitFolder]) -> bool:
    above, _, below = directory.path.rpartition(b"/refs/remotes")
    owner = folders.get(above)
    if owner is None or not (below == b"" or below.startswith(b"/")):
        return False
    room = MAX_REMOTE_REFS - len(owner.remote_refs)
    names = [child.name for child in directory.children if child.kind is EntryKind.FILE]
    owner.remote_refs += [b"refs/remotes" + below + b"/" + name for name in names[:room]]
    return True


class GitRepositories:
    """Answers for files and folders what git makes of them. Not for several threads at once.

    Invariants: a repository is read when a file in it is first asked for; at most `KEPT_INDEXES` of them are kept, with
    at most `KEPT_ENTRIES` entries but for the last, so memory does not grow with their number; reading one again gives
    the same answers. No call raises for what it finds in files.
    """

    def __init__(
        self, files: Files, copies: set[bytes], folders: Mapping[bytes, _GitFolder], ignoring: set[bytes]
    ) -> None:
        self._files = files
        self._copies = copies
        self._sorted = sorted(copies)
        self._folders = folders
        self._ignoring = ignoring
        self._loaded: dict[bytes, _WorkingCopy] = {}
        self._last: bytes | None = None
        self._place = _Place()
        self._owners: dict[bytes, bytes | None] = {}
        self._ignores: dict[bytes, _Ignores | None] = {}

    @property
    def roots(self) -> list[bytes]:
        """The top folders of all working copies, sorted."""
        return [root or b"/" for root in self._sorted]

    def state(self, path: bytes, entry: FileEntry) -> GitState:
        """How safe git makes this file. Of a folder only whether it is git's own; else it has no state of its own."""
        if entry.kind is EntryKind.DIR:
            return GitState.INTERNAL if self._is_internal(path) else GitState.NONE
        folder, _, name = path.rpartition(b"/")
        if folder != self._last:
            self._place = self._enter(folder)
            self._last = folder
        place = self._place
        copy = place.copy
        if place.internal or (copy is not None and name == b".git"):
            return GitState.INTERNAL
        if copy is None or copy.index is None:
            return GitState.NONE
        packed = place.names.get(name)
        if packed is None:
            return GitState.NONE if self._is_ignored(copy, folder, entry) else copy.untracked
        if is_changed(packed, entry, file_modes=copy.file_modes):
            return GitState.MODIFIED
        if not place.is_clean and (place.last is None or not is_committed(packed, place.last.get(name))):
            return GitState.MODIFIED
        is_racy = copy.index.racy and path[len(copy.root) + 1 :] in copy.index.racy
        if is_racy and self._differs(copy.index.content_id(packed), path, entry):
            return GitState.MODIFIED
        return copy.committed

    def tracks(self, folder: bytes) -> bool:
        """Whether git tracks anything in the folder or below it, or may do so: where an index cannot be read it may.

        A working copy of its own below the folder counts, as git's own files do.
        """
        folder = _key(folder)
        inside = folder + b"/"
        next_root = bisect_left(self._sorted, inside)
        if next_root < len(self._sorted) and self._sorted[next_root].startswith(inside):
            return True
        place = self._enter(folder)
        if place.copy is None or place.copy.index is None:
            return place.internal or place.copy is not None
        return place.copy.index.tracks(place.folder)

    def reason(self, path: bytes) -> str:
        """Why nothing is known of this file though it lies in a working copy; empty when that is not so."""
        copy = self._enter(_key(path).rpartition(b"/")[0]).copy
        return copy.reason if copy is not None else ""

    # --- where a folder lies ---------------------------------------------------------------------------------------

    def _is_internal(self, folder: bytes) -> bool:
        found = self._folders.get(folder)
        return (found is not None and found.bare) or (folder.endswith(b"/.git") and folder[:-5] in self._copies)

    def _owner(self, folder: bytes) -> bytes | None:
        """The nearest git folder or top of a working copy, at this folder or above it."""
        if not self._copies and not self._folders:
            return None
        owner: bytes | None = None
        passed: list[bytes] = []
        for above in _upwards(folder):
            if above in self._owners:
                owner = self._owners[above]
                break
            if above in self._copies or self._is_internal(above):
                owner = above
                break
            if len(passed) < NOTED_AT_ONCE:
                passed.append(above)
        if len(self._owners) > KEPT_FOLDERS:
            self._owners.clear()
        self._owners.update(dict.fromkeys(passed, owner))
        return owner

    def _enter(self, folder: bytes) -> _Place:
        owner = self._owner(folder)
        if owner is None:
            return _Place()
        if self._is_internal(owner):
            return _Place(internal=True)
        copy = self._copy(owner)
        if copy.index is None:
            return _Place(copy=copy)
        relative = folder[len(owner) + 1 :]
        names = copy.index.folders.get(relative)
        if names is None:
            return _Place(False, copy, {}, relative)
        return _Place(False, copy, names, relative, *_last_content(copy.index, copy.last, relative))

    def _copy(self, root: bytes) -> _WorkingCopy:
        copy = self._loaded.pop(root, None)
        if copy is None:
            copy = self._load(root)
            kept = sum(other.entries for other in self._loaded.values())
            while self._loaded and (len(self._loaded) >= KEPT_INDEXES or kept + copy.entries > KEPT_ENTRIES):
                kept -= self._loaded.pop(next(iter(self._loaded))).entries
        self._loaded[root] = copy  # last, as the one used last
        return copy

    def _load(self, root: bytes) -> _WorkingCopy:
        git = self._git_folder_of(root)
        if git is None:
            return _WorkingCopy(root, None, "its .git leads to no repository among these files")
        common = self._common(git)
        refs = Refs(self._files, git, common, self._folders[common].remote_refs)
        if git == common and refs.config.get(b"core", b"", b"bare") == b"true":
            return _WorkingCopy(root, None, "its repository says that it has no working copy")
        if not refs.head and not refs.branch:
            return _WorkingCopy(root, None, "its HEAD cannot be read")
        try:
            index = self._index(git, refs)
        except IndexFormatError as error:
            return _WorkingCopy(root, None, str(error))
        hides = refs.config.get(b"status", b"", b"showuntrackedfiles") in (b"no", b"false")
        return _WorkingCopy(
            root,
            index,
            "",
            GitState.PUSHED if refs.is_pushed() else GitState.UNPUSHED,
            last=LastCommit(self._files, common, refs.head) if refs.head else None,
            file_modes=refs.config.get(b"core", b"", b"filemode") != b"false",
            untracked=GitState.NONE if hides else GitState.UNTRACKED,
            excludes=refs.common + b"/info/exclude",
            entries=len(index),
        )

    def _index(self, git: bytes, refs: Refs) -> Index:
        entry = self._folders[git].index
        if entry is None:
            return EMPTY_INDEX
        if entry.size > MAX_INDEX_BYTES:
            raise IndexFormatError(f"its index is larger than {MAX_INDEX_BYTES} bytes")
        data = read_quietly(self._files, git + b"/index", MAX_INDEX_BYTES)
        if data is None:
            raise IndexFormatError("its index cannot be read")
        sha256 = refs.config.get(b"extensions", b"", b"objectformat") == b"sha256"
        return parse_index(data, written_ns=entry.mtime_ns, id_bytes=32 if sha256 else 20)

    def _git_folder_of(self, root: bytes) -> bytes | None:
        own = root + b"/.git"
        if own in self._folders:
            return own
        text = read_quietly(self._files, own, MAX_LINE_FILE_BYTES) or b""
        if not text.startswith(b"gitdir:"):
            return None
        found = posixpath.normpath(posixpath.join(root or b"/", text[7:].strip(b" \r\n")))
        return found if found in self._folders else None

    def _common(self, git: bytes) -> bytes:
        """The folder with the refs and the config: of a worktree, the repository it belongs to."""
        text = (read_quietly(self._files, git + b"/commondir", MAX_LINE_FILE_BYTES) or b"").strip(b" \r\n")
        found = posixpath.normpath(posixpath.join(git, text)) if text else git
        return found if found in self._folders else git

    # --- one file ------------------------------------------------------------------------------------------------

    def _differs(self, content_id: bytes, path: bytes, entry: FileEntry) -> bool:
        """Whether a file that was changed in the moment the index was written is another one than the index has."""
        if entry.kind is not EntryKind.FILE or entry.size > MAX_RACY_BYTES:
            return True
        data = read_quietly(self._files, path, MAX_RACY_BYTES)
        if data is None:
            return True
        make = hashlib.sha1 if len(content_id) == 20 else hashlib.sha256
        return make(b"blob %d\0" % len(data) + data, usedforsecurity=False).digest() != content_id

    def _is_ignored(self, copy: _WorkingCopy, folder: bytes, entry: FileEntry) -> bool:
        """Whether the working copy's ignore files leave this untracked file out."""
        missing: list[bytes] = []
        for above in _upwards(folder):
            if above in self._ignores or len(missing) > KEPT_FOLDERS:
                break
            missing.append(above)
            if above == copy.root:
                break
        if len(missing) > KEPT_FOLDERS:
            return False
        if len(self._ignores) + len(missing) > 2 * KEPT_FOLDERS:
            self._ignores.clear()
            return self._is_ignored(copy, folder, entry)
        for below in reversed(missing):
            self._ignores[below] = self._ignores_in(copy, below)
        found = self._ignores[folder]
        return found is None or _is_left_out(found, entry)

    def _ignores_in(self, copy: _WorkingCopy, folder: bytes) -> _Ignores | None:
        """The patterns in force in a folder; None when the folder itself is ignored."""
        if folder == copy.root:
            found = self._with_file(_Ignores(), copy.excludes)
        else:
            parent, _, name = folder.rpartition(b"/")
            above = self._ignores[parent]
            if above is None or _is_left_out(above, _folder_entry(name)):
                return None
            found = _Ignores(tuple([layer.descend(name) for layer in above.layers]), above.count)
        return self._with_file(found, folder + b"/.gitignore") if folder in self._ignoring else found

    def _with_file(self, above: _Ignores, path: bytes) -> _Ignores:
        patterns: list[Pattern] = []
        for _, line in split_lines(read_quietly(self._files, path, MAX_FILE_BYTES) or b""):
            with contextlib.suppress(PatternError):  # git passes over such lines as well
                pattern = parse_pattern(line, "")
                if pattern is not None:
                    patterns.append(pattern)
        count = above.count + len(patterns)
        if not patterns or count > MAX_PATTERNS_IN_FORCE:
            return above
        return _Ignores((*above.layers, Layer(PatternSet(patterns))), count)


def _last_content(
    index: Index, last: LastCommit | None, folder: bytes
) -> tuple[bool, Mapping[bytes, tuple[int, bytes]] | None]:
    """Whether nothing right in the folder waits staged; where something may, what the last commit has there.

    The index alone says so for whole folders, and often of too many; the last commit's trees are exact where they are
    loose objects, as those of recent work are.
    """
    if last is None:  # no commit yet
        return False, {}
    if last.tree and last.tree == index.trees.get(b""):
        return True, None
    committed = last.folder_id(folder)
    if committed is None:
        return not index.may_wait(folder), None
    if committed == b"":
        return False, {}
    if committed == index.trees.get(folder):
        return True, None
    return False, last.names(committed)


def _is_left_out(ignores: _Ignores, entry: FileEntry) -> bool:
    """Whether the strongest pattern that matches the entry ignores it."""
    decided: dict[bytes, Pattern] = {}
    for layer in reversed(ignores.layers):
        layer.decide((entry,), decided)
        if decided:
            return not decided[entry.name].negated
    return False


def _folder_entry(name: bytes) -> FileEntry:
    return FileEntry(name, EntryKind.DIR, 0, 0, 0, 0, 0, 0o040755, 0, 0, 1, 0)


def _key(path: bytes) -> bytes:
    """A folder's path without a slash at its end, so that ``/`` is empty and is a prefix like every other."""
    return path.rstrip(b"/")


def _upwards(folder: bytes) -> Iterator[bytes]:
    """The folder and all those above it, up to ``/`` (empty)."""
    yield folder
    while folder:
        folder = folder.rpartition(b"/")[0]
        yield folder

"""What a restore will do, computed from the repository alone: nothing of the target's disk is read or written here."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from backupiq.archive.metadata import Attributes, RestoreProblem
from backupiq.archive.restore_table import (
    AttributeTable,
    FileTable,
    PlannedFolder,
    PlannedHardLink,
    PlannedOther,
    RestorePlan,
)
from backupiq.errors import (
    BackupIQError,
    PathNotInSnapshotError,
    RepositoryDamagedError,
    RestoreError,
    StorageCorruptError,
    StorageNotFoundError,
    TreeError,
    ValidationError,
)
from backupiq.repository.snapshot import Snapshot
from backupiq.repository.tree import Node, check_name, posix_mode
from backupiq.telemetry.text import printable_path

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

__all__ = ["DAMAGE", "MAX_DEPTH", "MAX_ITEMS", "RestorePlan", "TreeSource", "plan_restore"]

PATTERN_ENGINE: Literal["simple"] = "simple"
"""Of pathspec's engines the one that takes names which are not text: RE2 wants UTF-8."""
MAX_DEPTH = 16_384
"""Folders within folders; no program could have read deeper ones in one piece."""
MAX_ITEMS = 100_000_000
"""A small repository can describe endless folders by naming one tree many times."""

DAMAGE = (RepositoryDamagedError, StorageNotFoundError, StorageCorruptError)
"""What makes one item a problem, and no more than that."""


class TreeSource(Protocol):
    """Where folder listings come from: the repository's blob reader."""

    async def load_tree(self, tree_hex: str) -> list[Node]:
        """The nodes of the tree."""


async def plan_restore(
    reader: TreeSource,
    snapshot: Snapshot,
    *,
    subpath: bytes | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    target: Path,
) -> RestorePlan:
    """Plan the restore of a snapshot below ``target``.

    Absolute paths of the snapshot stand below the target; with ``subpath`` the contents of that folder stand directly
    in it (a single file or link stands there by its name). ``include`` and ``exclude`` are gitignore patterns for the
    paths as they will stand below the target; folders above something included come with it.

    Damaged folders and names are recorded in ``plan.problems`` and left out. Raises ``PathNotInSnapshotError``,
    ``ValidationError`` for a bad pattern, and what ``reader.load_tree`` raises for the topmost tree.
    """
    planner = _Planner(reader, target, _Selection(include, exclude))
    parts = [part for part in (subpath or b"").split(b"/") if part]
    nodes = await reader.load_tree(snapshot.tree)
    tree = snapshot.tree
    for depth, part in enumerate(parts, 1):
        node = _find(nodes, part)
        if node is None or (node.subtree is None and depth < len(parts)):
            missing = printable_path(b"/" + b"/".join(parts[:depth]))
            raise PathNotInSnapshotError(f"The snapshot holds no {missing}. {PathNotInSnapshotError.hint}")
        if node.subtree is None:
            nodes = [node]
            parts = parts[:-1]
            break
        tree = node.subtree
        nodes = await reader.load_tree(tree)
    planner.plan.tree = tree
    planner.plan.base = b"".join(b"/" + part for part in parts)
    await planner.walk(tree, nodes)
    return planner.plan


def _find(nodes: Sequence[Node], name: bytes) -> Node | None:
    for node in nodes:
        try:
            if node.raw_name() == name:
                return node
        except TreeError:
            continue
    return None


class _Selection:
    """Which paths below the target are wanted."""

    def __init__(self, include: Sequence[str], exclude: Sequence[str]) -> None:
        self._include: GitIgnoreSpec | None = None
        self._exclude: GitIgnoreSpec | None = None
        self.all = not include and not exclude
        if self.all:
            return
        from pathspec import GitIgnoreSpec

        try:
            self._include = GitIgnoreSpec.from_lines(include, backend=PATTERN_ENGINE) if include else None
            self._exclude = GitIgnoreSpec.from_lines(exclude, backend=PATTERN_ENGINE) if exclude else None
        except ValueError as error:
            raise ValidationError(
                "A pattern to include or exclude is not valid. Check its gitignore syntax."
            ) from error

    def includes(self, path: str) -> bool:
        return self._include is None or self._include.match_file(path)

    def excludes(self, path: str) -> bool:
        return self._exclude is not None and self._exclude.match_file(path)


class _Draft:
    """A folder on the way; it gets its number when something in it, or itself, is wanted."""

    __slots__ = ("depth", "name", "node", "number", "parent", "path", "tree")

    def __init__(self, parent: _Draft | None, node: Node | None, name: bytes, tree: str, path: str) -> None:
        self.parent = parent
        self.node = node
        self.name = name
        self.tree = tree
        self.path = path
        self.depth: int = parent.depth + 1 if parent else 0
        self.number = -1 if parent else 0

    def raw_path(self) -> bytes:
        parts: list[bytes] = []
        at: _Draft | None = self
        while at is not None:
            parts.append(at.name)
            at = at.parent
        return b"/".join(reversed(parts))


class _Planner:
    """Walks trees depth first and fills the plan."""

    def __init__(self, reader: TreeSource, target: Path, selection: _Selection) -> None:
        self._reader = reader
        self._select = selection
        top = PlannedFolder(-1, b"", -1, 0, 0)
        self.plan = RestorePlan(target, "", b"", [top], FileTable(), [], [], AttributeTable())
        self._attributes: dict[tuple[int, int, int, str], int] = {}
        self._linked_files: dict[tuple[int, int], int] = {}
        self._linked_others: dict[tuple[int, int, int], int] = {}

    async def walk(self, tree: str, nodes: list[Node]) -> None:
        top = _Draft(None, None, b"", tree, "")
        stack: list[_Draft | str] = []
        above = {tree}
        self._enter(top, nodes, stack)
        while stack:
            draft = stack.pop()
            if isinstance(draft, str):
                above.discard(draft)
                continue
            if draft.tree in above or draft.depth > MAX_DEPTH:
                self._problem(draft, b"", "folder", TreeError("The folder contains itself, or is nested too deeply."))
                continue
            try:
                nodes = await self._reader.load_tree(draft.tree)
            except DAMAGE as error:
                self._problem(draft, b"", "folder", error)
                continue
            above.add(draft.tree)
            stack.append(draft.tree)
            self._enter(draft, nodes, stack)

    def _enter(self, draft: _Draft, nodes: list[Node], stack: list[_Draft | str]) -> None:
        """Take over one folder's entries and put its folders on the stack."""
        seen: set[bytes] = set()
        folders: list[_Draft] = []
        for node in nodes:
            name = b""
            try:
                name = node.raw_name()
                check_name(name)
                if name in seen:
                    raise TreeError("The folder names this entry twice; the first one is restored.")
                seen.add(name)
                if node.type == "dir":
                    self._folder(draft, node, name, folders)
                elif self._wanted(draft, name):
                    self._item(draft, node, name)
            except (RepositoryDamagedError, RestoreError) as error:
                self._problem(draft, name or node.name.encode(errors="replace"), "entry", error)
        stack.extend(reversed(folders))
        if len(self.plan.files) + len(self.plan.folders) + len(self.plan.others) > MAX_ITEMS:
            raise RestoreError(f"The snapshot describes more than {MAX_ITEMS} items. Restore parts of it by path.")

    def _wanted(self, draft: _Draft, name: bytes) -> bool:
        if self._select.all:
            return True
        path = draft.path + os.fsdecode(name)
        return not self._select.excludes(path) and self._select.includes(path)

    def _folder(self, parent: _Draft, node: Node, name: bytes, folders: list[_Draft]) -> None:
        if node.subtree is None:
            raise TreeError("The folder's contents are not named.")
        path = ""
        wanted = True
        if not self._select.all:
            path = parent.path + os.fsdecode(name) + "/"
            if self._select.excludes(path):
                return
            wanted = self._select.includes(path)
        draft = _Draft(parent, node, name, node.subtree, path)
        if wanted:
            self._number(draft)
        folders.append(draft)

    def _number(self, draft: _Draft) -> int:
        """The folder's number, taking it and all above it into the plan."""
        chain: list[_Draft] = []
        at = draft
        while at.number < 0:
            chain.append(at)
            assert at.parent is not None  # noqa: S101 - only the topmost has none, and it has a number
            at = at.parent
        for each in reversed(chain):
            assert each.parent is not None  # noqa: S101
            assert each.node is not None  # noqa: S101
            node = each.node
            each.number = len(self.plan.folders)
            self.plan.folders.append(
                PlannedFolder(
                    each.parent.number, each.name, self._attributes_of(node), *self._times(each.parent, node, each.name)
                )
            )
            each.node = None
        return draft.number

    def _item(self, draft: _Draft, node: Node, name: bytes) -> None:
        """Take over a file, link or special file."""
        plan = self.plan
        mtime, atime = self._times(draft, node, name)
        if node.type != "file":
            self._other(draft, node, name, mtime, atime)
            return
        if node.content is None:
            raise TreeError("The file's content is not named.")
        content = node.content
        ids = bytes.fromhex(content[0] if len(content) == 1 else "".join(content))
        key = (node.inode, node.device_id) if node.links > 1 and node.inode else None
        if key is not None and (row := self._linked_files.get(key)) is not None:
            # A file that changed while it was saved may stand there with two contents; then each name gets its own.
            if plan.files.size[row] == node.size and plan.files.ids(row) == ids:
                plan.hard_links.append(PlannedHardLink(self._number(draft), name, row))
                return
            key = None
        row = plan.files.add(self._number(draft), name, node.size, mtime, atime, self._attributes_of(node), ids)
        plan.total_bytes += node.size
        if key is not None:
            self._linked_files[key] = row

    def _other(self, draft: _Draft, node: Node, name: bytes, mtime: int, atime: int) -> None:
        kind = stat.S_IFMT(posix_mode(node.mode, node.type))
        try:
            link = node.raw_linktarget() if node.type == "symlink" else b""
        except UnicodeEncodeError:
            raise TreeError("The symlink's target is not valid text.") from None
        if node.type == "symlink" and (not link or b"\0" in link):
            raise TreeError("The symlink's target is empty or impossible.")
        same_as = -1
        if node.links > 1 and node.inode:
            number = len(self.plan.others)
            same_as = self._linked_others.setdefault((node.inode, node.device_id, kind), number)
            known = self.plan.others[same_as] if same_as < number else None
            if known is None or (known.link, known.device) != (link, node.device):
                same_as = -1
        self.plan.others.append(
            PlannedOther(
                self._number(draft), name, kind, self._attributes_of(node), mtime, atime, link, node.device, same_as
            )
        )

    def _times(self, draft: _Draft, node: Node, name: bytes) -> tuple[int, int]:
        """Modification and access time; one that cannot be read is a problem, but no reason to leave the item out."""
        try:
            mtime = node.mtime_ns()
            return mtime, mtime if node.atime == node.mtime else node.atime_ns()
        except TreeError as error:
            self._problem(draft, name, "times", error)
            return 0, 0

    def _attributes_of(self, node: Node) -> int:
        if node.extended_attributes:
            xattrs = tuple((each.name, each.value or b"") for each in node.extended_attributes)
            mode = posix_mode(node.mode, node.type) & 0o7777
            return self.plan.attributes.number(Attributes(mode, node.uid, node.gid, xattrs))
        key = (node.mode, node.uid, node.gid, node.type)
        number = self._attributes.get(key)
        if number is None:
            mode = posix_mode(node.mode, node.type) & 0o7777
            number = self.plan.attributes.number(Attributes(mode, node.uid, node.gid))
            self._attributes[key] = number
        return number

    def _problem(self, draft: _Draft, name: bytes, what: str, error: BackupIQError) -> None:
        path = self.plan.base + draft.raw_path() + (b"/" + name if name else b"")
        self.plan.problems.append(RestoreProblem.of(path or b"/", what, error))

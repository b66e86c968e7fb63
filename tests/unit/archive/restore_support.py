"""Repositories with any tree a test can think of, sound or hostile, and restores out of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from backupiq.archive.restore import RestoreReport, execute_restore
from backupiq.archive.restore_plan import RestorePlan, plan_restore
from backupiq.repository.gojson import format_time_ns, quote_name
from backupiq.repository.pack import BlobType, FinishedPack
from backupiq.repository.reader import BlobReader
from backupiq.repository.repository import Repository
from backupiq.repository.snapshot import Snapshot
from backupiq.repository.tree import Node, encode_linktarget, go_mode
from tests.unit.repository.repositories import new_repository, store_pack

MTIME_NS = 1_600_000_000_123_456_789
FORMATS = {
    "file": 0o100000,
    "dir": 0o040000,
    "symlink": 0o120000,
    "fifo": 0o010000,
    "socket": 0o140000,
    "chardev": 0o020000,
}


class Archive:
    """A repository in a folder, filled node by node. Trees are stored as given: unsorted, with bad names, twice."""

    def __init__(self, repository: Repository, spool: Path) -> None:
        self.repository = repository
        self.spool = spool
        self.data: list[bytes] = []
        self.trees: list[bytes] = []
        self.packs: list[FinishedPack] = []

    @classmethod
    async def make(cls, folder: Path) -> Archive:
        return cls(await new_repository(folder / "repository"), folder / "spool")

    def file(self, name: bytes | str, *blobs: bytes, **fields: Any) -> Node:
        """A file made of these blobs."""
        for blob in blobs:
            if blob not in self.data:
                self.data.append(blob)
        ids = [hashlib.sha256(blob).hexdigest() for blob in blobs]
        fields = {"size": sum(map(len, blobs)), "links": 1, "content": ids, **fields}
        return node(name, "file", **fields)

    def folder(self, name: bytes | str, *nodes: Node, **fields: Any) -> Node:
        """A folder with these entries."""
        return node(name, "dir", perm=fields.pop("perm", 0o755), **{"subtree": self.tree(*nodes), **fields})

    def tree(self, *nodes: Node) -> str:
        """Store a tree as it is; its id."""
        plain = b'{"nodes":' + msgspec.json.encode(list(nodes)) + b"}\n"
        if plain not in self.trees:
            self.trees.append(plain)
        return hashlib.sha256(plain).hexdigest()

    async def snapshot(self, *nodes: Node, packs_of: int = 1000) -> Snapshot:
        """Store everything; ``packs_of``: blobs a pack."""
        root = self.tree(*nodes)
        for kind, blobs in ((BlobType.DATA, self.data), (BlobType.TREE, self.trees)):
            for first in range(0, len(blobs), packs_of):
                self.packs.append(await store_pack(self.repository, self.spool, blobs[first : first + packs_of], kind))
        return Snapshot(time=format_time_ns(MTIME_NS), tree=root, paths=["/"])

    def reader(self) -> BlobReader:
        return BlobReader(self.repository)


def node(name: bytes | str, kind: str, *, perm: int = 0o644, mtime_ns: int = MTIME_NS, **fields: Any) -> Node:
    """A node with a quoted name and one time for everything."""
    raw = name.encode() if isinstance(name, str) else name
    time = format_time_ns(mtime_ns)
    ids: dict[str, Any] = {"uid": 0, "gid": 0, "mode": go_mode(FORMATS[kind] | perm), "atime": time, "mtime": time}
    return Node(**{"name": quote_name(raw), "type": kind, **ids, **fields})


def symlink(name: bytes | str, target: bytes, **fields: Any) -> Node:
    """A symlink node."""
    text, raw = encode_linktarget(target)
    return node(name, "symlink", perm=0o777, linktarget=text, linktarget_raw=raw, links=1, **fields)


async def plan(archive: Archive, snapshot: Snapshot, target: Path, **options: Any) -> RestorePlan:
    """What a restore would do."""
    return await plan_restore(archive.reader(), snapshot, target=target, **options)


async def restore(
    archive: Archive,
    snapshot: Snapshot,
    target: Path,
    *,
    subpath: bytes | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    **options: Any,
) -> RestoreReport:
    """Plan and execute."""
    reader = archive.reader()
    made = await plan_restore(reader, snapshot, target=target, subpath=subpath, include=include, exclude=exclude)
    return await execute_restore(made, reader, target, **options)


def leftovers(target: Path) -> list[Path]:
    """Temporary files of a restore that were left behind."""
    return [path for path in target.rglob("*") if path.name.startswith(".backupiq-restore-")]


def codes(report: RestoreReport) -> dict[bytes, str]:
    """The problems as path -> code of the error."""
    return {problem.path: problem.code for problem in report.problems}

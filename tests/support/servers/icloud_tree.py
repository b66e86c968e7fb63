"""The drive of the loopback iCloud: folders, documents and contents, with Apple's ways of saying no without an error.

As measured: names are split at the last dot into a name and an extension, differ by more than case and are composed;
adding a name that is taken makes "name 2"; a stale etag, a taken name and an unknown item are a ``status`` in an answer
of 200.
"""

from __future__ import annotations

import json
import threading
import time
import unicodedata
import uuid
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ZONE = "com.apple.CloudDocs"
ROOT = "root"
FIRST_ETAG = 10


@dataclass
class Node:
    """A folder or a document."""

    id: str
    parent: str
    name: str
    folder: bool
    size: int = 0
    version: int = FIRST_ETAG
    modified: float = 0.0
    trashed: bool = False

    @property
    def etag(self) -> str:
        return f"{self.version:x}::{self.version - 1:x}"

    @property
    def drivewsid(self) -> str:
        return f"{'FOLDER' if self.folder else 'FILE'}::{ZONE}::{self.id}"


def split_name(name: str) -> tuple[str, str]:
    """A name and its extension, as Apple's answers give them."""
    stem, dot, extension = name.rpartition(".")
    return (stem, extension) if dot and stem and extension else (name, "")


class Tree:
    """All nodes in memory, all contents as files below ``folder``; `save` keeps the nodes for the next start."""

    def __init__(self, folder: Path) -> None:
        self.contents = folder / "contents"
        self.contents.mkdir(parents=True, exist_ok=True)
        self._state = folder / "nodes.json"
        self.lock = threading.RLock()
        self.nodes: dict[str, Node] = {ROOT: Node(ROOT, "", "", True)}
        if self._state.exists():
            self.nodes = {entry["id"]: Node(**entry) for entry in json.loads(self._state.read_text())}
        self.rename_makes_second = False
        """Whether renaming to a name that is taken makes "name 2" instead of saying no."""
        self.listed_short = 0
        """How many items each listing leaves out; that of the drive's root is whole."""
        self.silent = False
        """Whether answers leave out what pyicloud does not need: names, etags."""

    def save(self) -> None:
        with self.lock:
            self._state.write_text(json.dumps([asdict(node) for node in self.nodes.values()]))

    def content(self, node_id: str) -> Path:
        return self.contents / node_id

    def children(self, parent: str) -> list[Node]:
        return [node for node in self.nodes.values() if node.parent == parent and not node.trashed]

    def used(self) -> int:
        return sum(node.size for node in self.nodes.values())

    def find(self, path: str) -> Node | None:
        """The node at a path from the drive's root."""
        node: Node | None = self.nodes[ROOT]
        for name in path.strip("/").split("/"):
            node = next((child for child in self.children(node.id) if child.name == name), None) if node else None
        return node

    def files(self, path: str = "") -> dict[str, Path]:
        """Every document below a folder: its path there, and the file that holds its bytes."""
        with self.lock:
            top = self.find(path) if path else self.nodes[ROOT]
            return dict(sorted(self._files(top.id, ""))) if top else {}

    def _files(self, parent: str, prefix: str) -> list[tuple[str, Path]]:
        found: list[tuple[str, Path]] = []
        for node in self.children(parent):
            if node.folder:
                found += self._files(node.id, f"{prefix}{node.name}/")
            else:
                found.append((prefix + node.name, self.content(node.id)))
        return found

    # --- answers ---------------------------------------------------------------------------------------------------

    def describe(self, node: Node) -> dict[str, Any]:
        name, extension = split_name(node.name)
        moment = datetime.fromtimestamp(int(node.modified), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        entry: dict[str, Any] = {
            "dateCreated": moment,
            "drivewsid": node.drivewsid,
            "docwsid": node.id,
            "zone": ZONE,
            "name": name,
            "parentId": f"FOLDER::{ZONE}::{node.parent}",
            "etag": node.etag,
            "type": "FOLDER" if node.folder else "FILE",
            "status": "OK",
        }
        if extension:
            entry["extension"] = extension
        if not node.folder:
            entry |= {"size": node.size, "dateModified": moment, "dateChanged": moment}
        return entry

    def details(self, drivewsid: str) -> dict[str, Any]:
        """A folder with its items."""
        with self.lock:
            node = self.nodes.get(drivewsid.rpartition("::")[2])
            if node is None or not node.folder:
                return {"drivewsid": drivewsid, "status": "ID_INVALID"}
            items = [self.describe(child) for child in self.children(node.id)]
            shown = items[: len(items) - self.listed_short] if node.id != ROOT else items
            return {**self.describe(node), "numberOfItems": len(items), "items": shown}

    def make_folder(self, parent: str, name: str) -> dict[str, Any]:
        with self.lock:
            folder = self.nodes.get(parent.rpartition("::")[2])
            if folder is None:
                return {"status": "PARENT_NOT_FOUND"}
            if self._taken(folder.id, name) is not None:
                return {"status": "ALREADY_EXISTS"}
            return self.describe(self._add(Node(str(uuid.uuid4()).upper(), folder.id, _composed(name), True)))

    def rename(self, drivewsid: str, etag: str, name: str) -> dict[str, Any]:
        with self.lock:
            node, problem = self._checked(drivewsid, etag)
            if node is None:
                return problem
            taken = self._taken(node.parent, name)
            if taken is not None and taken is not node:
                if not self.rename_makes_second:
                    return {**self.describe(node), "status": "NAME_CONFLICT"}
                name = self._second(node.parent, name)
            node.name = _composed(name)
            node.version += 1
            answer = self.describe(node)
            return {"status": "OK", "drivewsid": drivewsid} if self.silent else answer

    def delete(self, drivewsid: str, etag: str) -> dict[str, Any]:
        with self.lock:
            node, problem = self._checked(drivewsid, etag)
            if node is None:
                return problem
            self.remove(node)
            return {"drivewsid": drivewsid, "status": "OK"}

    def trash(self, drivewsid: str, etag: str) -> dict[str, Any]:
        with self.lock:
            node, problem = self._checked(drivewsid, etag)
            if node is None:
                return problem
            node.trashed = True
            return self.describe(node)

    def move(self, drivewsid: str, etag: str, parent: str) -> dict[str, Any]:
        with self.lock:
            node, problem = self._checked(drivewsid, etag)
            target = self.nodes.get(parent.rpartition("::")[2])
            if node is None or target is None:
                return problem
            node.parent, node.version = target.id, node.version + 1
            return self.describe(node)

    def add_document(self, document_id: str, parent: str, name: str, size: int, mtime: float) -> dict[str, Any] | None:
        """Put an uploaded content into a folder; ``None`` when there is no such folder."""
        with self.lock:
            folder = self.nodes.get(parent)
            if folder is None or not folder.folder or document_id in self.nodes:
                return None
            if self._taken(parent, name) is not None:
                name = self._second(parent, name)
            node = self._add(Node(document_id, parent, _composed(name), False, size, modified=mtime))
            stem, extension = split_name(node.name)
            answer = {"document_id": node.id, "type": "FILE", "size": size, "zone": ZONE, "mtime": int(mtime * 1000)}
            if not self.silent:
                answer |= {"etag": node.etag, "name": stem} | ({"extension": extension} if extension else {})
            return answer

    def remove(self, node: Node) -> None:
        for child in [child for child in self.nodes.values() if child.parent == node.id]:
            self.remove(child)
        del self.nodes[node.id]
        self.content(node.id).unlink(missing_ok=True)

    def _add(self, node: Node) -> Node:
        node.modified = node.modified or time.time()
        self.nodes[node.id] = node
        return node

    def _checked(self, drivewsid: str, etag: str) -> tuple[Node | None, dict[str, Any]]:
        node = self.nodes.get(drivewsid.rpartition("::")[2])
        if node is None:
            return None, {"drivewsid": drivewsid, "status": "ITEM_NOT_FOUND"}
        if node.etag != etag:
            return None, {**self.describe(node), "status": "ETAG_CONFLICT"}
        return node, {}

    def _taken(self, parent: str, name: str) -> Node | None:
        wanted = _composed(name).casefold()
        return next((node for node in self.children(parent) if node.name.casefold() == wanted), None)

    def _second(self, parent: str, name: str) -> str:
        stem, extension = split_name(name)
        number = 2
        while self._taken(parent, beside := f"{stem} {number}" + (f".{extension}" if extension else "")) is not None:
            number += 1
        return beside


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)

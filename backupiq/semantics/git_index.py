"""Git's own files as values: the index, versions 2 to 4, and below it the refs and settings of a working copy.

The formats are git's (https://git-scm.com/docs/index-format, gitrepository-layout, git-config). They are hostile input
like any other file: the number of an index's entries and the bytes that its names unpack to are bounded, what does not
fit the format raises `IndexFormatError` and nothing else, and refs lead to no place but below ``refs/``.
"""

from __future__ import annotations

import hashlib
import re
import struct
import zlib
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from backupiq.discovery.entry import EntryKind, FileEntry
from backupiq.errors import BackupIQError
from backupiq.semantics.view import Files

MAX_INDEX_BYTES = 256 << 20
MAX_ENTRIES = 1_000_000
MAX_PATH_BYTES = 4096
MAX_UNPACKED_BYTES = 256 << 20
"""What all names of entries and folders may come to: version 4 cuts names short, so a small file may hold long ones."""
MAX_LINE_FILE_BYTES = 4096  # HEAD, a ref, .git as a file
MAX_CONFIG_BYTES = 1 << 20
MAX_PACKED_REFS_BYTES = 16 << 20
MAX_OBJECT_BYTES = 4 << 20
KEPT_TREE_ENTRIES = 200_000  # of one repository's last commit
MAX_REF_STEPS = 5

_HEADER = struct.Struct(">4sII")
_EXTENSION = struct.Struct(">4sI")
_LOW = 0xFFFFFFFF
_SECOND = 1_000_000_000

_ID = re.compile(rb"[0-9a-f]{40}(?:[0-9a-f]{24})?\Z")
_SECTION = re.compile(rb'\[\s*([\w.-]+)(?:\s+"((?:[^"\\]|\\.)*)")?\s*\]')
_UNESCAPED = re.compile(rb"\\(.)")
_VALUE_PARTS = re.compile(rb'("((?:[^"\\]|\\.)*)"?|(?:[^"\\#;]|\\.)+|[#;].*)')
_OCTAL = re.compile(rb"[0-7]{5,6}\Z")
_TREE_LINE = re.compile(rb"tree ([0-9a-f]{40}(?:[0-9a-f]{24})?)\n")
_UNSAFE_REF = re.compile(rb"[\x00-\x20\x7f~^:?*\[\\]|//|\.\.|/\Z")

_ASSUME_VALID, _EXTENDED, _STAGE, _NAME_BYTES = 0x8000, 0x4000, 0x3000, 0x0FFF
_SKIP_WORKTREE, _INTENT_TO_ADD = 0x4000, 0x2000
_FOLDER_FORMAT, _SYMLINK_FORMAT, _GITLINK_FORMAT, _FORMATS = 0o040000, 0o120000, 0o160000, 0o170000
_UNDERSTOOD = frozenset({b"sdir"})

# What an entry says, packed into one int, as there may be very many: 32 bits of size, of seconds and of nanoseconds of
# the time, two of the kind (a plain file, a program, a link), two marks, and the id of the content.
_KIND, _ID_PLACE = 96, 100
_PROGRAM, _LINK = 1, 2
_CHANGED, _TRUSTED = 1 << 98, 1 << 99


class IndexFormatError(ValueError):
    """The bytes are no index that can be read; the text says why, in a person's words."""


@dataclass(frozen=True, slots=True)
class Index:
    """What git tracks in a working copy. Folders are relative to its top, which is ``b""``.

    ``folders`` gives for each folder that holds a tracked file the names in it with what the index says of each, packed
    (see `is_changed`), and ``order`` the folders sorted. ``trees`` gives for each folder of the cache tree the id under
    which its content was written as a tree; empty when something in it or below it waits staged, or may. ``racy`` are
    the files that were changed no earlier than the index was written, so that their time proves nothing.
    """

    folders: Mapping[bytes, Mapping[bytes, int]]
    order: Sequence[bytes]
    trees: Mapping[bytes, bytes]
    racy: frozenset[bytes]
    id_bytes: int

    def tracks(self, folder: bytes) -> bool:
        """Whether anything in the folder or below it is tracked."""
        if not folder or folder in self.folders:
            return bool(self.folders)
        inside = folder + b"/"
        place = bisect_left(self.order, inside)
        return place < len(self.order) and self.order[place].startswith(inside)

    def may_wait(self, folder: bytes) -> bool:
        """Whether a file right in the folder may be staged and not committed. Without a cache tree: always."""
        trees = self.trees
        while folder and folder not in trees:
            folder = folder.rpartition(b"/")[0]
        return not trees.get(folder)

    def __len__(self) -> int:
        return sum(map(len, self.folders.values()))

    def content_id(self, packed: int) -> bytes:
        """The id of the content that an entry stands for."""
        return (packed >> _ID_PLACE).to_bytes(self.id_bytes, "big")


EMPTY_INDEX = Index({}, (), {}, frozenset(), 20)


def is_changed(packed: int, entry: FileEntry, *, file_modes: bool) -> bool:
    """Whether the file is another one than the index has seen, by its size, time and kind.

    ``file_modes`` tells whether the executable bit counts (git's core.fileMode). Entries that the user told git to
    take as unchanged are so. Nanoseconds are compared only when the index and the file both have them.
    """
    if packed & (_CHANGED | _TRUSTED):
        return bool(packed & _CHANGED)
    seconds, nanoseconds = divmod(entry.mtime_ns, _SECOND)
    shape = (entry.size & _LOW) | (seconds & _LOW) << 32
    if packed & 0xFFFFFFFF_FFFFFFFF != shape:
        return True
    stored = packed >> 64 & _LOW
    if stored and nanoseconds and stored != nanoseconds:
        return True
    kind = packed >> _KIND & 3
    if (entry.kind is EntryKind.SYMLINK) != (kind == _LINK):
        return True
    return file_modes and kind != _LINK and bool(entry.mode & 0o100) != bool(kind)


def parse_index(data: bytes, *, written_ns: int, id_bytes: int = 20) -> Index:
    """The index in these bytes, which were written at ``written_ns``. Raises IndexFormatError.

    ``id_bytes`` is 20, or 32 in a repository with SHA-256.
    """
    end = len(data) - id_bytes
    if end < _HEADER.size:
        raise IndexFormatError("its index is cut short")
    signature, version, count = _HEADER.unpack_from(data)
    if signature != b"DIRC" or version not in (2, 3, 4):
        raise IndexFormatError("its index has a format that is not known")
    if count > MAX_ENTRIES:
        raise IndexFormatError(f"its index has more than {MAX_ENTRIES} entries")
    _check_sum(data, end, id_bytes)
    try:
        reader = _Entries(data, end, version, id_bytes, written_ns)
        position = reader.read(count)
        trees = _read_extensions(data, position, end, id_bytes)
    except (struct.error, IndexError) as error:
        raise IndexFormatError("its index is damaged") from error
    return Index(reader.folders, sorted(reader.folders), trees, frozenset(reader.racy), id_bytes)


def _check_sum(data: bytes, end: int, id_bytes: int) -> None:
    stored = data[end:]
    if not any(stored):  # git's index.skipHash writes zeros
        return
    make = hashlib.sha1 if id_bytes == 20 else hashlib.sha256  # git's names for content, no protection of ours
    if make(memoryview(data)[:end], usedforsecurity=False).digest() != stored:
        raise IndexFormatError("its index is damaged: the checksum is wrong")


class _Entries:
    """Reads the entries of one index into ``folders`` and ``racy``."""

    def __init__(self, data: bytes, end: int, version: int, id_bytes: int, written_ns: int) -> None:
        self._data, self._end, self._version, self._id_bytes = data, end, version, id_bytes
        self._written_ns = written_ns
        self.folders: dict[bytes, dict[bytes, int]] = {}
        self.racy: list[bytes] = []

    def read(self, count: int) -> int:
        """Reads them all; gives the offset behind the last."""
        data, end, id_bytes, folders, racy = self._data, self._end, self._id_bytes, self.folders, self.racy
        unpack = struct.Struct(f">8xII8xI8xI{id_bytes}sH").unpack_from
        fixed = 42 + id_bytes
        written = self._written_ns
        short_names = self._version == 4
        position, unpacked = _HEADER.size, 0
        name, folder = b"", None
        names: dict[bytes, int] = {}
        for _ in range(count):
            seconds, nanoseconds, mode, size, object_id, flags = unpack(data, position)
            start = position + fixed
            extended = 0
            if flags & _EXTENDED:
                extended = data[start] << 8 | data[start + 1]
                start += 2
            if short_names:
                name, position = self._short_name(start, name)
            else:
                length = flags & _NAME_BYTES
                stop = start + length if length < _NAME_BYTES else data.find(b"\0", start, end)
                name = data[start:stop]
                position += (stop - position + 8) & ~7
            if len(name) > MAX_PATH_BYTES or position > end:  # a split index has empty names
                raise IndexFormatError("its index is damaged")
            unpacked += len(name)
            if unpacked > MAX_UNPACKED_BYTES:
                raise IndexFormatError(f"its index unpacks to more than {MAX_UNPACKED_BYTES} bytes")
            packed = size | seconds << 32 | nanoseconds << 64 | int.from_bytes(object_id, "big") << _ID_PLACE
            if mode != 0o100644 or flags & ~_NAME_BYTES:
                packed |= _marks(mode, flags, extended)
            above, _, last = name.rpartition(b"/")
            if mode & _FORMATS in (_FOLDER_FORMAT, _GITLINK_FORMAT):
                # A folder that sparse checkout left out, or another repository: it is tracked, and holds no file here.
                above, last = name.removesuffix(b"/"), b""
            if above != folder:
                folder, names = above, folders.setdefault(above, {})
            names[last] = packed
            if written <= seconds * _SECOND + (nanoseconds or _SECOND - 1):
                racy.append(name)
        return position

    def _short_name(self, start: int, before: bytes) -> tuple[bytes, int]:
        """The name of a version 4 entry, which tells how many bytes of the one before are cut off its end."""
        data = self._data
        byte = data[start]
        cut = byte & 0x7F
        while byte & 0x80:
            start += 1
            byte = data[start]
            cut = (cut + 1) << 7 | byte & 0x7F
            if cut > MAX_PATH_BYTES:
                raise IndexFormatError("its index is damaged")
        stop = data.find(b"\0", start + 1, self._end)
        if stop < 0 or cut > len(before):
            raise IndexFormatError("its index is damaged")
        return before[: len(before) - cut] + data[start + 1 : stop], stop + 1


def _marks(mode: int, flags: int, extended: int) -> int:
    marks = _kind(mode) << _KIND
    if flags & _STAGE or extended & _INTENT_TO_ADD:  # a conflict, or announced and not added
        marks |= _CHANGED
    elif flags & _ASSUME_VALID or extended & _SKIP_WORKTREE:
        marks |= _TRUSTED
    return marks


def _kind(mode: int) -> int:
    return _LINK if mode & _FORMATS == _SYMLINK_FORMAT else _PROGRAM if mode & 0o100 else 0


def _read_extensions(data: bytes, position: int, end: int, id_bytes: int) -> dict[bytes, bytes]:
    trees: dict[bytes, bytes] = {}
    while position < end:
        signature, length = _EXTENSION.unpack_from(data, position)
        position += _EXTENSION.size
        if position + length > end:
            raise IndexFormatError("its index is damaged")
        if signature == b"TREE":
            trees = _read_trees(data[position : position + length], id_bytes)
        elif signature == b"link":
            raise IndexFormatError("its index is a split one, which is not read")
        elif not signature[:1].isupper() and signature not in _UNDERSTOOD:
            raise IndexFormatError("its index has an extension that is not known")
        position += length
    return trees


def _read_trees(data: bytes, id_bytes: int) -> dict[bytes, bytes]:
    """The cache tree: each folder with its id, which is empty where it is not valid."""
    trees: dict[bytes, bytes] = {}
    above: list[tuple[bytes, int]] = []  # folders, as prefixes, that still await this many subfolders
    position, unpacked = 0, 0
    while position < len(data) and (above or not trees):
        name_end = data.find(b"\0", position, position + MAX_PATH_BYTES)
        line_end = data.find(b"\n", name_end, name_end + 64)
        entries, _, below = data[name_end + 1 : line_end].partition(b" ")
        if name_end < 0 or line_end < 0 or not entries.removeprefix(b"-").isdigit() or not below.isdigit():
            raise IndexFormatError("its index is damaged")
        prefix = b""
        if above:
            prefix, waiting = above.pop()
            if waiting > 1:
                above.append((prefix, waiting - 1))
        folder = prefix + data[position:name_end]
        position = line_end + 1
        length = 0 if entries.startswith(b"-") else id_bytes
        trees[folder] = data[position : position + length]
        position += length
        unpacked += len(folder)
        if len(trees) > MAX_ENTRIES or len(folder) > MAX_PATH_BYTES or unpacked > MAX_UNPACKED_BYTES:
            raise IndexFormatError("its index is damaged")
        if int(below):
            above.append((folder + b"/" if folder else b"", int(below)))
    return trees


# --- refs and settings ---------------------------------------------------------------------------------------------


class _Config:
    """Git's settings of one repository (https://git-scm.com/docs/git-config); files that it includes are not read."""

    def __init__(self, data: bytes) -> None:
        self._values: dict[tuple[bytes, bytes, bytes], list[bytes]] = {}
        section, name = b"", b""
        for raw in data.replace(b"\\\n", b"").split(b"\n"):
            line = raw.strip()
            if (found := _SECTION.match(line)) is not None:
                section, name = found[1].lower(), _UNESCAPED.sub(rb"\1", found[2] or b"")
                line = line[found.end() :].strip()
            if line and line[:1] not in b"#;":
                key, equals, value = line.partition(b"=")
                plain = _value(value) if equals else b"true"
                self._values.setdefault((section, name, key.strip().lower()), []).append(plain)

    def all(self, section: bytes, name: bytes, key: bytes) -> list[bytes]:
        """Every value of the setting, in order."""
        return self._values.get((section, name, key), [])

    def get(self, section: bytes, name: bytes, key: bytes) -> bytes:
        """The setting's last value, empty when it is not set."""
        return (self.all(section, name, key) or [b""])[-1]


def _value(text: bytes) -> bytes:
    """A setting's value without its quotes and the comment behind it."""
    parts = _VALUE_PARTS.findall(text.strip())
    plain = b"".join(quoted if quoted or part[:1] == b'"' else part for part, quoted in parts)
    return _UNESCAPED.sub(rb"\1", plain).strip()


class Refs:
    """Where the branches of one working copy stand, here and as last seen at its remotes."""

    def __init__(self, files: Files, git: bytes, common: bytes, remote_refs: Sequence[bytes]) -> None:
        self._files = files
        self._git = git
        self.common = common
        self._remote_refs = remote_refs
        self._packed: bytes | None = None
        self.config = _Config(read_quietly(files, common + b"/config", MAX_CONFIG_BYTES) or b"")
        text = (read_quietly(files, git + b"/HEAD", MAX_LINE_FILE_BYTES) or b"").strip()
        branch = text[5:] if text.startswith(b"ref: ") else b""
        self.branch = branch if _is_safe_ref(branch) else b""
        self.head = self._id_of(self.branch) if self.branch else text if _ID.match(text) else b""

    def is_pushed(self) -> bool:
        """Whether the commit that is checked out is that of its branch's upstream; detached, of any remote branch."""
        if not self.head:
            return False
        if self.branch:
            upstream = self._upstream()
            return bool(upstream) and self._id_of(upstream) == self.head
        if b"\n" + self.head + b" refs/remotes/" in self._packed_refs():
            return True
        return any(self._id_of(name) == self.head for name in self._remote_refs)

    def _upstream(self) -> bytes:
        """The ref that stands for the branch's upstream, empty when it has none at another place."""
        short = self.branch.removeprefix(b"refs/heads/")
        remote, merge = (self.config.get(b"branch", short, key) for key in (b"remote", b"merge"))
        if remote in (b"", b"."):
            return b""
        for spec in self.config.all(b"remote", remote, b"fetch"):
            source, _, target = spec.removeprefix(b"+").partition(b":")
            before, star, after = source.partition(b"*")
            if not target.startswith(b"refs/remotes/"):  # a mirror's fetch overwrites the branch itself
                continue
            if merge == source and not star:
                return target
            if star and merge.startswith(before) and merge.endswith(after) and len(merge) >= len(before + after):
                return target.replace(b"*", merge[len(before) : len(merge) - len(after)], 1)
        return b""

    def _id_of(self, name: bytes) -> bytes:
        for _ in range(MAX_REF_STEPS):
            if not _is_safe_ref(name):
                return b""
            text = (read_quietly(self._files, self.common + b"/" + name, MAX_LINE_FILE_BYTES) or b"").strip()
            if not text.startswith(b"ref: "):
                return text if _ID.match(text) else self._packed_id(name)
            name = text[5:]
        return b""

    def _packed_id(self, name: bytes) -> bytes:
        packed = self._packed_refs()
        end = packed.find(b" " + name + b"\n")
        found = packed[packed.rfind(b"\n", 0, max(end, 0)) + 1 : max(end, 0)]
        return found if _ID.match(found) else b""

    def _packed_refs(self) -> bytes:
        if self._packed is None:
            self._packed = b"\n" + (
                read_quietly(self._files, self.common + b"/packed-refs", MAX_PACKED_REFS_BYTES) or b""
            )
        return self._packed


class LastCommit:
    """What the last commit holds, folder by folder, as far as its objects are loose ones; packs are not read.

    ``tree`` is the id of the whole of it, empty when that is not known.
    """

    def __init__(self, files: Files, common: bytes, head: bytes) -> None:
        self._files = files
        self._objects = common + b"/objects/"
        self._kept: dict[bytes, Mapping[bytes, tuple[int, bytes]] | None] = {}
        self._kept_entries = 0
        found = _TREE_LINE.match(self._read(head, b"commit") or b"")
        self.tree = bytes.fromhex(found[1].decode()) if found is not None else b""

    def folder_id(self, folder: bytes) -> bytes | None:
        """The id of a folder (relative, ``b""`` is the top): empty when the commit has none, None when not known."""
        found = self.tree
        if not found:
            return None
        for name in folder.split(b"/") if folder else ():
            names = self.names(found)
            if names is None:
                return None
            mode, found = names.get(name, (0, b""))
            if mode & _FORMATS != _FOLDER_FORMAT:
                return b""
        return found

    def names(self, tree: bytes) -> Mapping[bytes, tuple[int, bytes]] | None:
        """Mode and id of everything right in the tree of this id; None when it is not known."""
        if tree not in self._kept:
            data = self._read(tree.hex().encode(), b"tree")
            found = None if data is None else _parse_tree(data, len(tree))
            self._kept_entries += len(found or ()) + 1
            if self._kept_entries > KEPT_TREE_ENTRIES:
                self._kept.clear()
                self._kept_entries = len(found or ()) + 1
            self._kept[tree] = found
        return self._kept[tree]

    def _read(self, name: bytes, kind: bytes) -> bytes | None:
        """The content of a loose object, as much as the limit allows."""
        data = read_quietly(self._files, self._objects + name[:2] + b"/" + name[2:], MAX_OBJECT_BYTES)
        try:
            text = zlib.decompressobj().decompress(data or b"", MAX_OBJECT_BYTES)
        except zlib.error:
            return None
        head, _, content = text.partition(b"\0")
        return content if head == b"%b %d" % (kind, len(content)) else None


def is_committed(packed: int, committed: tuple[int, bytes] | None) -> bool:
    """Whether the last commit holds what the index has: the same content, as the same kind of file."""
    if committed is None:
        return False
    mode, content_id = committed
    return packed >> _ID_PLACE == int.from_bytes(content_id, "big") and packed >> _KIND & 3 == _kind(mode)


def _parse_tree(data: bytes, id_bytes: int) -> Mapping[bytes, tuple[int, bytes]] | None:
    found: dict[bytes, tuple[int, bytes]] = {}
    position = 0
    while position < len(data):
        end = data.find(b"\0", position)
        mode, _, name = data[position:end].partition(b" ")
        position = end + 1 + id_bytes
        if end < 0 or _OCTAL.match(mode) is None or position > len(data):
            return None
        found[name] = (int(mode, 8), data[end + 1 : position])
    return found


def _is_safe_ref(name: bytes) -> bool:
    """Whether the name is one that git allows, so that it leads to no place but below refs/."""
    return name.startswith(b"refs/") and _UNSAFE_REF.search(name) is None


def read_quietly(files: Files, path: bytes, limit: int) -> bytes | None:
    """The beginning of the file, or None when it cannot be read."""
    try:
        return files.read(path, limit)
    except (OSError, ValueError, BackupIQError):  # ValueError: a NUL in a name taken from git's files
        return None

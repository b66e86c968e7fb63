"""Trees: the listing of one folder, as JSON that is byte for byte restic's.

Format: restic's design document, "Trees and Data".

A ``Node`` holds what the JSON holds: the name quoted, times as text. So a tree that was read encodes to the same bytes
and an unchanged file is recognised by comparing strings; methods give the raw values.
"""

from __future__ import annotations

import functools
import re
import stat
from collections.abc import Sequence
from typing import Annotated

import msgspec

from backupiq.errors import RepositoryDamagedError, TreeError, UnsafePathError
from backupiq.repository.gojson import decode_json, go_escape, parse_time_ns, unquote_name

_Hex = Annotated[str, msgspec.Meta(min_length=64, max_length=64)]
_Time = Annotated[str, msgspec.Meta(min_length=20, max_length=64)]
_U32 = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF_FFFF)]
# JSON constraints end at 2**63; the upper half of an unsigned 64-bit number is checked in decode_tree.
_U64 = Annotated[int, msgspec.Meta(ge=0)]
_Size = Annotated[int, msgspec.Meta(ge=0, le=0x7FFF_FFFF_FFFF_FFFF)]

ZERO_TIME = "0001-01-01T00:00:00Z"
"""What Go writes for a time that was never set."""


class ExtendedAttribute(msgspec.Struct, gc=False):
    """One extended attribute; ``value`` is raw bytes, or None where restic wrote ``null`` for an empty one."""

    name: str
    value: bytes | None


def _none() -> None:
    """A default that omit_defaults does not recognise: the key is written although it is null."""


def _zero_time() -> str:
    return ZERO_TIME


class Node(msgspec.Struct, omit_defaults=True, kw_only=True, gc=False):
    """One entry of a folder, its fields in the order of the JSON's keys.

    ``name`` is quoted (``quote_name``), ``type`` one of file dir symlink dev chardev fifo socket, ``mode`` Go's
    os.FileMode (``go_mode``), times RFC 3339 text (``format_time_ns``), ``size`` bytes, ``device`` st_rdev,
    ``content`` hex ids of data blobs (a list for files, None for all else), ``subtree`` the hex id of a folder's tree.
    Fields with a plain default are left out of the JSON when they hold it; the others are always written.
    """

    name: str
    type: str
    mode: _U32 = 0
    mtime: _Time = msgspec.field(default_factory=_zero_time)
    atime: _Time = msgspec.field(default_factory=_zero_time)
    ctime: _Time = msgspec.field(default_factory=_zero_time)
    uid: _U32 = msgspec.field(default_factory=int)
    gid: _U32 = msgspec.field(default_factory=int)
    user: str = ""
    group: str = ""
    inode: _U64 = 0
    device_id: _U64 = 0
    size: _Size = 0
    links: _Size = 0
    linktarget: str = ""
    linktarget_raw: bytes = b""
    extended_attributes: list[ExtendedAttribute] | None = None
    generic_attributes: dict[str, msgspec.Raw] | None = None
    device: _U64 = 0
    content: list[_Hex] | None = msgspec.field(default_factory=_none)
    subtree: _Hex | None = None
    error: str = ""

    def raw_name(self) -> bytes:
        """The name's bytes. Raises TreeError when it is not quoted validly. It may still be unsafe: ``check_name``."""
        return unquote_name(self.name)

    def raw_linktarget(self) -> bytes:
        """The bytes a symbolic link points to."""
        return self.linktarget_raw or self.linktarget.encode()

    def mtime_ns(self) -> int:
        """Modification time, nanoseconds since 1970. Raises TreeError when the text is not a time."""
        return _time_ns(self.mtime)

    def atime_ns(self) -> int:
        """Access time, nanoseconds since 1970. Raises TreeError when the text is not a time."""
        return _time_ns(self.atime)

    def ctime_ns(self) -> int:
        """Change time, nanoseconds since 1970. Raises TreeError when the text is not a time."""
        return _time_ns(self.ctime)


def _time_ns(text: str) -> int:
    try:
        return parse_time_ns(text)
    except RepositoryDamagedError as error:
        raise TreeError(error.message) from None


class _Tree(msgspec.Struct, gc=False):
    nodes: list[Node]


_DECODER = msgspec.json.Decoder(_Tree)
_ENCODER = msgspec.json.Encoder()


# --- trees ---------------------------------------------------------------------------------------------------------


def decode_tree(data: bytes | memoryview) -> list[Node]:
    """The nodes of a tree, in the order they stand. Unknown keys are ignored, as restic does.

    Raises TreeError when the JSON, a type, a number's range or an id is wrong. Names and times are checked when they
    are asked for, so that one bad entry does not hide its siblings.
    """
    nodes = decode_json(_DECODER, data, TreeError, "A folder listing (tree)").nodes
    ids: list[str] = []
    wide = 0
    for node in nodes:
        wide |= node.inode | node.device_id | node.device
        if node.content:
            ids += node.content
        if node.subtree is not None:
            ids.append(node.subtree)
    if wide >> 64:
        raise TreeError(f"A folder listing (tree) holds a number out of range. {TreeError.hint}")
    try:
        # One pass in C over all ids; each has 64 characters, so skipped white space would show in the length.
        sound = len(bytes.fromhex("".join(ids))) == 32 * len(ids)
    except ValueError:
        sound = False
    if not sound:
        raise TreeError(f"A folder listing (tree) holds an id that is not hexadecimal. {TreeError.hint}")
    return nodes


def encode_tree(nodes: Sequence[Node]) -> bytes:
    """The bytes of a tree blob, trailing newline included; its id is their SHA-256.

    The nodes come strictly ascending by raw name; TreeError otherwise (a duplicate or wrong order makes restic's
    binary search and merge miss files).
    """
    previous = ""
    mangled = False
    for node in nodes:
        name = node.name
        # UTF-8 keeps the order of code points, so only quoted names need their bytes to be compared.
        if not (previous < name if "\\" not in name and "\\" not in previous else _before(previous, name)):
            raise TreeError("The entries of a folder are not in strict order of their names. Report this as a bug.")
        previous = name
        if node.linktarget_raw:
            mangled = True
    json = b",".join(map(_encode_node, nodes)) if mangled else _ENCODER.encode(nodes)[1:-1]
    return b'{"nodes":[' + go_escape(json) + b"]}\n"


def _before(a: str, b: str) -> bool:
    return unquote_name(a) < unquote_name(b)


def _encode_node(node: Node) -> bytes:
    json = _ENCODER.encode(node)
    if not node.linktarget_raw:
        return json
    # Go writes each bad byte of the link target as the escape \ufffd, but a real U+FFFD as itself. An unescaped
    # quote followed by a colon stands after keys only, so the first match is the key.
    text = node.linktarget_raw.decode("utf-8", "surrogateescape")
    good = (_ENCODER.encode(part)[1:-1] for part in _BAD_BYTE.split(text))
    shown = b'"linktarget":"' + b"\\ufffd".join(good) + b'"'
    return json.replace(b'"linktarget":' + _ENCODER.encode(node.linktarget), shown, 1)


_BAD_BYTE = re.compile("[\udc80-\udcff]")


def encode_linktarget(raw: bytes) -> tuple[str, bytes]:
    """The fields ``linktarget`` and ``linktarget_raw`` for a symbolic link that points to ``raw``.

    The second is empty unless ``raw`` is not UTF-8; restic before 0.16 then restores the mangled first one.
    """
    try:
        return raw.decode(), b""
    except UnicodeDecodeError:
        return _BAD_BYTE.sub("\ufffd", raw.decode("utf-8", "surrogateescape")), raw


def check_name(raw: bytes) -> None:
    """Refuse a name that is not that of one entry of a folder.

    Raises UnsafePathError for ".", ".." and names holding a slash, TreeError for an empty one or one holding NUL.
    """
    if raw in (b".", b"..") or b"/" in raw:
        raise UnsafePathError(name=repr(raw[:200]))
    if not raw or b"\0" in raw:
        raise TreeError(f"A folder listing (tree) holds a name that no file can have. {TreeError.hint}")


# --- modes and device numbers --------------------------------------------------------------------------------------

_GO_DIR = 1 << 31
_GO_SYMLINK = 1 << 27
_GO_DEVICE = 1 << 26
_GO_FIFO = 1 << 25
_GO_SOCKET = 1 << 24
_GO_SETUID = 1 << 23
_GO_SETGID = 1 << 22
_GO_CHAR = 1 << 21
_GO_STICKY = 1 << 20

_GO_TYPES = {
    stat.S_IFREG: 0,
    stat.S_IFDIR: _GO_DIR,
    stat.S_IFLNK: _GO_SYMLINK,
    stat.S_IFBLK: _GO_DEVICE,
    stat.S_IFCHR: _GO_DEVICE | _GO_CHAR,
    stat.S_IFIFO: _GO_FIFO,
    stat.S_IFSOCK: _GO_SOCKET,
}
_NODE_TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "symlink",
    stat.S_IFBLK: "dev",
    stat.S_IFCHR: "chardev",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}
_FORMATS = {name: bits for bits, name in _NODE_TYPES.items()}


@functools.lru_cache(maxsize=4_096)
def go_mode(st_mode: int) -> int:
    """Go's os.FileMode of a POSIX st_mode (Go's os.fillFileStatFromSys); a type it does not know counts as 0."""
    return (
        _GO_TYPES.get(stat.S_IFMT(st_mode), 0)
        | st_mode & 0o777
        | (_GO_SETUID if st_mode & stat.S_ISUID else 0)
        | (_GO_SETGID if st_mode & stat.S_ISGID else 0)
        | (_GO_STICKY if st_mode & stat.S_ISVTX else 0)
    )


def posix_mode(go: int, type: str) -> int:  # noqa: A002
    """The st_mode (type bits included) of a node. The node's ``type`` decides the type, not the mode's own bits.

    Raises TreeError for a type that is not known.
    """
    bits = _FORMATS.get(type)
    if bits is None:
        raise TreeError(f"A folder listing (tree) holds an entry of a type that is not known. {TreeError.hint}")
    return (
        bits
        | go & 0o777
        | (stat.S_ISUID if go & _GO_SETUID else 0)
        | (stat.S_ISGID if go & _GO_SETGID else 0)
        | (stat.S_ISVTX if go & _GO_STICKY else 0)
    )


def node_type(st_mode: int) -> str | None:
    """The node type of a POSIX st_mode; None for one that the format does not know."""
    return _NODE_TYPES.get(stat.S_IFMT(st_mode))


def make_device(major: int, minor: int) -> int:
    """The ``device`` of a node: Linux' 64-bit st_rdev (glibc's makedev), on every platform."""
    return (major & 0xFFF) << 8 | (major & ~0xFFF) << 32 | minor & 0xFF | (minor & ~0xFF) << 12


def device_numbers(device: int) -> tuple[int, int]:
    """Major and minor number of a node's ``device``: the inverse of ``make_device``."""
    return (device >> 8 & 0xFFF | device >> 32 & 0xFFFF_F000, device & 0xFF | device >> 12 & 0xFFFF_FF00)

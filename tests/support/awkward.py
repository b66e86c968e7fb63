"""A folder that holds every kind of thing a backup can meet. What the file system refuses is skipped and named."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import socket
import stat
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

AWKWARD_NAMES: dict[str, bytes] = {
    "latin-1": b"caf\xe9",
    "broken UTF-8": b"\xff\xfe\x80 half \xc3",
    "overlong UTF-8": b"\xc0\xaf",
    "newline": b"two\nlines",
    "trailing newline": b"ends\n",
    "tab": b"a\tb",
    "carriage return": b"a\rb",
    "quotes": b"\"double\" and 'single' and `back`",
    "backslash": b"back\\slash\\x41\\n",
    "emoji": "\U0001f4be\U0001f469\u200d\U0001f4bb".encode(),
    "line separator": "a\u2028b\u2029c".encode(),
    "no-break space": "a\u00a0b\u00adc".encode(),
    "decomposed": "e\u0301".encode(),
    "composed": "\u00e9".encode(),
    "right to left": "\u202eabc".encode(),
    "replacement character": "\ufffd".encode(),
    "private use": "\ue000\U000f0000".encode(),
    "byte order mark": "\ufeffbom".encode(),
    "control characters": bytes(range(1, 32)) + b"\x7f",
    "255 bytes": b"n" * 255,
    "255 bytes of two-byte characters": "\u00e9".encode() * 127 + b"x",
    "trailing spaces": b"ends with spaces  ",
    "leading space": b" starts with a space",
    "only a space": b" ",
    "leading dash": b"-rf",
    "two dashes": b"--help",
    "star": b"*",
    "glob": b"[a-z]?*{x}",
    "percent": b"%s%n%00",
    "dollar": b"$HOME ${x} $(id)",
    "html": b"<a href='x'>&amp;<br>",
    "colon": b"C:",
    "con": b"con",
    "nul": b"NUL.txt",
    "three dots": b"...",
    "dot at the end": b"ends.",
    "hidden": b".hidden",
    "tilde": b"~",
    "hash": b"#comment",
    "upper": b"CASE",
    "lower": b"case",
}

PATTERN_SIZES = [size + delta for size in (4 * KIB, 512 * KIB, MIB, 8 * MIB) for delta in (-1, 0, 1)]

# Before 1970, 1970 itself, beyond 32-bit seconds, and one nanosecond of each kind of fraction.
TIMES_NS = [
    -2_000_000_000 * 10**9 - 1,
    -1,
    0,
    1,
    999_999_999,
    1_000_000_000 * 10**9 + 123_456_789,
    1_700_000_000 * 10**9 + 120_000_000,
    (1 << 31) * 10**9 + 5,
    (1 << 32) * 10**9 + 987_654_321,
    7_000_000_000 * 10**9 + 1,
]


@dataclass(slots=True)
class AwkwardTree:
    """What was made: the root, how many entries of each kind are below it, and what the file system refused."""

    root: Path
    counts: dict[str, int] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    @property
    def entries(self) -> int:
        """All entries below the root."""
        return sum(self.counts.values())


def make_awkward_tree(
    root: Path, *, seed: int = 1, as_root: bool, big: bool = False, levels: int = 60, width: int = 3_000
) -> AwkwardTree:
    """Makes the tree in ``root`` (made when missing, must be empty) and tells what is there.

    The same seed gives the same tree, but for inode numbers, ctimes and what the file system refuses. ``as_root`` adds
    owners, devices and trusted xattrs. ``big`` adds a sparse file of more than 4 GiB that takes about 3 MiB of disk.
    ``levels`` is the depth of the deep part, ``width`` the number of entries of the wide folder.
    """
    root.mkdir(parents=True, exist_ok=True)
    maker = _Maker(os.fsencode(root), random.Random(seed), AwkwardTree(root))
    maker.contents()
    maker.sparse(big)
    maker.names()
    maker.modes()
    maker.symlinks()
    maker.hard_links()
    maker.xattrs(as_root)
    maker.acls()
    maker.special(as_root)
    maker.shapes(levels, width)
    if as_root:
        maker.owners()
    maker.folder_modes()
    maker.times()
    maker.count()
    return maker.made


class _Maker:
    def __init__(self, root: bytes, rng: random.Random, made: AwkwardTree) -> None:
        self.root = root
        self.rng = rng
        self.made = made
        self.late_modes: list[tuple[bytes, int]] = []

    def path(self, *parts: bytes) -> bytes:
        return b"/".join((self.root, *parts))

    def folder(self, *parts: bytes) -> bytes:
        path = self.path(*parts)
        os.makedirs(path, exist_ok=True)
        return path

    def write(self, path: bytes, data: bytes) -> bytes:
        with open(path, "wb") as file:
            file.write(data)
        return path

    @contextlib.contextmanager
    def may_refuse(self, feature: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            name = errno.errorcode.get(error.errno or 0, "?")
            self.made.skipped.append(f"{feature} ({name})")

    def text(self, size: int) -> bytes:
        words = [self.rng.randbytes(3).hex().encode() for _ in range(200)]
        line = b" ".join(self.rng.choices(words, k=400)) + b"\n"
        return (line * (size // len(line) + 1))[:size]

    def contents(self) -> None:
        here = self.folder(b"contents")
        self.write(here + b"/empty", b"")
        self.write(here + b"/one byte", b"x")
        self.write(here + b"/one zero byte", b"\0")
        for size in PATTERN_SIZES:
            self.write(here + b"/random %d" % size, self.rng.randbytes(size))
        self.write(here + b"/text 3 MiB", self.text(3 * MIB))
        self.write(here + b"/zeros 2 MiB written", bytes(2 * MIB))
        self.write(here + b"/random then zeros", self.rng.randbytes(700 * KIB) + bytes(1500 * KIB))
        same = self.rng.randbytes(1500 * KIB)
        for number in range(3):
            self.write(here + b"/same %d" % number, same)
        self.write(here + b"/same with a byte before", b"!" + same)
        small = self.text(2000)
        for number in range(20):
            self.write(here + b"/small same %d" % number, small)

    def sparse(self, big: bool) -> None:
        here = self.folder(b"sparse")
        data = self.rng.randbytes(200 * KIB)

        def make(name: bytes, size: int, *places: int) -> None:
            with open(here + b"/" + name, "wb") as file:
                for place in places:
                    file.seek(place)
                    file.write(data)
                file.truncate(size)

        make(b"all hole", 5 * MIB)
        make(b"hole of one byte", 1)
        make(b"hole at the start", 4 * MIB, 4 * MIB - len(data))
        make(b"hole at the end", 4 * MIB, 0)
        make(b"hole in the middle", 6 * MIB, 0, 6 * MIB - len(data))
        make(b"many holes", 12 * MIB, *range(0, 12 * MIB - len(data), MIB))
        make(b"odd size", 3 * MIB + 17, MIB + 5)
        if big:
            with self.may_refuse("file larger than 4 GiB"):
                make(b"beyond 4 GiB", 4 * GIB + 5 * MIB + 3, 0, 2 * GIB + 11, 4 * GIB + 4 * MIB + 1)

    def names(self) -> None:
        here = self.folder(b"names")
        for what, name in AWKWARD_NAMES.items():
            with self.may_refuse(f"name: {what}"):
                self.write(here + b"/" + name, what.encode())
        folders = self.folder(b"names of folders")
        for what, name in AWKWARD_NAMES.items():
            with self.may_refuse(f"folder name: {what}"):
                os.mkdir(folders + b"/" + name)
                self.write(folders + b"/" + name + b"/inside", what.encode())
        # Sorted by raw bytes these stand otherwise than sorted as paths or as folders with a slash behind them.
        order = self.folder(b"order")
        for name in (b"a", b"a.b", b"a-b", b"a b", b"ab", b"A", b"a\xff", b"a\x01"):
            with self.may_refuse(f"name in order: {name!r}"):
                os.mkdir(order + b"/" + name)
        for name in (b"a0", b"a/x", b"a-b/x"):
            self.write(order + b"/" + name, name)

    def modes(self) -> None:
        here = self.folder(b"modes")
        for mode in (0o644, 0o000, 0o400, 0o111, 0o777, 0o4755, 0o2755, 0o6711, 0o1644, 0o7777, 0o4000, 0o2644):
            path = self.write(here + b"/file %04o" % mode, b"%o" % mode)
            # Writing clears setuid, an owner change too, so modes come last of all.
            self.late_modes.append((path, mode))
        for mode in (0o000, 0o500, 0o700, 0o1777, 0o2755, 0o3777, 0o4711):
            path = here + b"/folder %04o" % mode
            os.mkdir(path)
            self.write(path + b"/inside", b"in a folder of mode %o" % mode)
            self.late_modes.append((path, mode))

    def symlinks(self) -> None:
        here = self.folder(b"symlinks")
        self.write(here + b"/target", b"the target")
        os.mkdir(here + b"/folder")
        links = {
            b"to file": b"target",
            b"to folder": b"folder",
            b"to folder with slash": b"folder/",
            b"dangling": b"nowhere",
            b"to itself": b"to itself",
            b"absolute": b"/etc/passwd",
            b"up and out": b"../../../../../../etc",
            b"to its folder": b".",
            b"target not UTF-8": b"caf\xe9/\xff",
            b"target with newline": b"a\nb",
            b"target with quotes": b'"<&>\\x41"\x7f\x01',
            b"target U+2028": "\u2028\u00a0".encode(),
            b"target 4000 bytes": b"/".join([b"t" * 249] * 16),
            b"link n\xe4me": b"target",
        }
        for name, target in links.items():
            with self.may_refuse(f"symlink: {name.decode(errors='backslashreplace')}"):
                os.symlink(target, here + b"/" + name)

    def hard_links(self) -> None:
        here, other = self.folder(b"links"), self.folder(b"links in another folder")
        with self.may_refuse("hard link"):
            first = self.write(here + b"/first", self.rng.randbytes(30_000))
            os.link(first, here + b"/second")
            os.link(first, other + b"/third")
            empty = self.write(here + b"/empty", b"")
            os.link(empty, here + b"/empty too")
        self.write(here + b"/not linked, same bytes", b"same")
        self.write(other + b"/not linked, same bytes", b"same")
        with self.may_refuse("hard link of a symlink"):
            os.symlink(b"first", here + b"/symlink")
            os.link(here + b"/symlink", other + b"/symlink too", follow_symlinks=False)
        with self.may_refuse("hard link of a FIFO"):
            os.mkfifo(here + b"/fifo")
            os.link(here + b"/fifo", other + b"/fifo too")

    def xattrs(self, as_root: bool) -> None:
        here = self.folder(b"xattrs")
        if not hasattr(os, "setxattr"):
            self.made.skipped.append("xattr (this system has none)")
            return
        path = self.write(here + b"/file", b"with attributes")
        values = {
            "user.text": b"value",
            "user.empty": b"",
            "user.binary": bytes(range(256)),
            "user.long": self.rng.randbytes(1500),
            "user.n\u00e4me with space": b"x",
        }
        os.mkdir(here + b"/folder")
        for name, value in values.items():
            with self.may_refuse(f"xattr {name}"):
                os.setxattr(path, name, value)
                os.setxattr(here + b"/folder", name, value)
        if as_root:
            symlink, fifo = here + b"/symlink", here + b"/fifo"
            os.symlink(b"file", symlink)
            os.mkfifo(fifo)
            for target in (path, symlink, fifo):
                with self.may_refuse("xattr trusted.*"):
                    os.setxattr(target, "trusted.note", b"only root\0sees this", follow_symlinks=False)
            with self.may_refuse("xattr security.capability"):
                # VFS_CAP_REVISION_2 with the effective bit: cap_net_bind_service permitted (linux/capability.h).
                capability = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
                os.setxattr(self.write(here + b"/capable", b"#!"), "security.capability", capability)

    def acls(self) -> None:
        here = self.folder(b"acls")
        if not hasattr(os, "setxattr"):
            self.made.skipped.append("ACL (this system has no xattrs)")
            return
        path = self.write(here + b"/file", b"with an ACL")
        os.mkdir(here + b"/folder")
        with self.may_refuse("POSIX ACL"):
            os.setxattr(path, "system.posix_acl_access", posix_acl(user=(12345, 6), group=(54321, 4), mask=6))
            folder = here + b"/folder"
            os.setxattr(
                folder, "system.posix_acl_access", posix_acl(user=(12345, 7), group=(54321, 5), mask=7, owner=7)
            )
            os.setxattr(
                folder, "system.posix_acl_default", posix_acl(user=(12345, 7), group=(54321, 5), mask=7, owner=7)
            )
            self.write(folder + b"/inherits", b"made below a default ACL")

    def special(self, as_root: bool) -> None:
        here = self.folder(b"special")
        with self.may_refuse("FIFO"):
            os.mkfifo(here + b"/fifo", 0o640)
        with self.may_refuse("socket"):
            # A socket's address holds 107 bytes at most, so it is made under a short name for its folder.
            folder = os.open(here, os.O_RDONLY)
            try:
                with socket.socket(socket.AF_UNIX) as made:
                    made.bind(f"/proc/self/fd/{folder}/socket")
            finally:
                os.close(folder)
        if as_root:
            for name, kind, device in (
                (b"char device", 0o020000, os.makedev(1, 3)),
                (b"char device with large numbers", 0o020000, os.makedev(4000, 300_000)),
                (b"block device", 0o060000, os.makedev(7, 200)),
            ):
                with self.may_refuse(name.decode()):
                    os.mknod(here + b"/" + name, kind | 0o600, device)

    def shapes(self, levels: int, width: int) -> None:
        os.mkdir(self.path(b"empty folder"))
        wide = self.folder(b"wide")
        for number in range(width):
            if number % 10:
                self.write(wide + b"/f%05d" % number, b"%d" % (number // 3))
            else:
                os.mkdir(wide + b"/d%05d" % number)
        deep = self.folder(b"deep")
        with self.may_refuse(f"{levels} levels"):
            for level in range(levels):
                deep += b"/level %d" % level
                os.mkdir(deep)
                if level % 10 == 9:
                    self.write(deep + b"/file", b"at level %d" % level)

    def owners(self) -> None:
        here = self.folder(b"owners")
        makers: dict[bytes, Callable[[bytes], object]] = {
            b"file": lambda path: self.write(path, b"owned"),
            b"folder": os.mkdir,
            b"symlink": lambda path: os.symlink(b"nowhere", path),
            b"fifo": os.mkfifo,
        }
        for uid, gid in ((0, 0), (1, 1), (65534, 65534), (12345, 54321), (4_000_000_000, 4_000_000_001)):
            with self.may_refuse(f"owner {uid}:{gid}"):
                for kind, make in makers.items():
                    path = here + b"/%s of %d" % (kind, uid)
                    make(path)
                    os.chown(path, uid, gid, follow_symlinks=False)
        setuid = self.write(here + b"/setuid of another", b"#!/bin/true\n")
        os.chown(setuid, 12345, 54321)
        self.late_modes.append((setuid, 0o6755))

    def folder_modes(self) -> None:
        for path, mode in self.late_modes:
            if not os.path.isdir(path):
                os.chmod(path, mode)

    def times(self) -> None:
        """Every entry gets its own mtime, folders bottom up and after all else in them; then their last modes."""
        number = 0
        extreme = self.folder(b"times")
        for index in range(len(TIMES_NS)):
            self.write(extreme + b"/time %d" % index, b"%d" % index)
        for folder, names, others in reversed(self._folders()):
            for path in (*(folder + b"/" + name for name in names if name in others), folder):
                number += 1
                self._touch(path, 1_400_000_000 * 10**9 + number * 7_000_000_003)
        for index, moment in enumerate(TIMES_NS):
            self._touch(extreme + b"/time %d" % index, moment)
        self._touch(extreme, -1_000_000_000 * 10**9 + 5)
        for path, mode in self.late_modes:
            if os.path.isdir(path):
                os.chmod(path, mode)

    def _folders(self) -> list[tuple[bytes, list[bytes], set[bytes]]]:
        """Every folder with its sorted names and which of them are no folders, parents before children."""
        found = []
        pending = [self.root]
        while pending:
            folder = pending.pop()
            names = sorted(os.listdir(folder))
            inner = [name for name in names if stat.S_ISDIR(os.lstat(folder + b"/" + name).st_mode)]
            found.append((folder, names, set(names).difference(inner)))
            pending.extend(folder + b"/" + name for name in reversed(inner))
        return found

    def _touch(self, path: bytes, moment: int) -> None:
        try:
            os.utime(path, ns=(moment, moment), follow_symlinks=False)
        except (OSError, OverflowError) as error:
            self.made.skipped.append(f"time {moment} ({error})")

    def count(self) -> None:
        counts = self.made.counts
        pending = [self.root]
        while pending:
            folder = pending.pop()
            try:
                entries = list(os.scandir(folder))
            except PermissionError:
                # Not for root: a folder of mode 0000 that holds one file.
                counts["file"] = counts.get("file", 0) + 1
                continue
            for entry in entries:
                kind = _KINDS[entry.stat(follow_symlinks=False).st_mode & 0o170000]
                counts[kind] = counts.get(kind, 0) + 1
                if kind == "folder":
                    pending.append(entry.path)


_KINDS = {
    0o100000: "file",
    0o040000: "folder",
    0o120000: "symlink",
    0o010000: "fifo",
    0o020000: "device",
    0o060000: "device",
    0o140000: "socket",
}


def posix_acl(*, user: tuple[int, int], group: tuple[int, int], mask: int, owner: int = 6) -> bytes:
    """The bytes of ``system.posix_acl_access`` with one named user and one named group (linux/posix_acl_xattr.h).

    ``user`` and ``group`` are an id and its permission bits; ``owner`` and ``mask`` are permission bits.
    """
    nobody = 0xFFFFFFFF
    rows = [
        (0x01, owner, nobody),
        (0x02, user[1], user[0]),
        (0x04, 4, nobody),  # the group
        (0x08, group[1], group[0]),
        (0x10, mask, nobody),
        (0x20, 0, nobody),  # everyone else
    ]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *row) for row in rows)


def remove_awkward_tree(root: Path) -> None:
    """Removes the tree, opening folders that their modes close to an ordinary user first."""
    for folder, subfolders, _ in os.walk(os.fsencode(root)):
        for name in subfolders:
            path = folder + b"/" + name
            if not os.path.islink(path):
                os.chmod(path, 0o700)
    shutil.rmtree(root)

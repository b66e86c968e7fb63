"""Compares two trees of files down to the last attribute, independently of the code under test."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

CHECKS = frozenset(
    {
        "content",  # bytes of regular files
        "folder_mtime",
        "links",  # which names are one file
        "mode",  # permission bits with setuid, setgid, sticky
        "mtime",  # of all but folders and symlinks
        "owner",
        "rdev",
        "root",  # the attributes of the two roots themselves
        "size",
        "socket",  # sockets, which backups leave out
        "symlink_mtime",
        "target",
        "xattr",  # with ACLs
    }
)
BLOCK = 1 << 20
_PIECE = 3000


def compare_trees(
    a: Path, b: Path, *, ignore: frozenset[str] | set[str] = frozenset(), sparse: bool = False, limit: int = 1000
) -> list[str]:
    """What differs between two trees, a line for each difference, in the order of names; empty when nothing does.

    ``ignore`` names checks (see ``CHECKS``) to leave out. ``sparse`` also wants a file of ``b`` to take not much more
    disk than that of ``a``. Stops after ``limit`` differences.
    """
    unknown = frozenset(ignore) - CHECKS
    if unknown:
        raise ValueError(f"no such checks: {sorted(unknown)}")
    comparer = _Comparer(os.fsencode(a), os.fsencode(b), CHECKS - frozenset(ignore), sparse)
    found: list[str] = []
    for line in comparer.run():
        found.append(line)
        if len(found) == limit:
            found.append(f"... and perhaps more: stopped after {limit} differences")
            break
    return found


def assert_same_tree(
    a: Path, b: Path, *, ignore: frozenset[str] | set[str] = frozenset(), sparse: bool = False
) -> None:
    """Fails with the list of differences, when there are any."""
    differences = compare_trees(a, b, ignore=ignore, sparse=sparse)
    assert not differences, "\n".join(["the trees differ:", *differences[:50]])


class _Comparer:
    def __init__(self, a: bytes, b: bytes, checks: frozenset[str], sparse: bool) -> None:
        self.a, self.b, self.checks, self.sparse = a, b, checks, sparse
        # The first name seen of each inode, on either side: equal partitions give equal first names.
        self.first_a: dict[tuple[int, int], bytes] = {}
        self.first_b: dict[tuple[int, int], bytes] = {}

    def run(self) -> Iterator[str]:
        if "root" in self.checks:
            with _reach(self.a) as here, _reach(self.b) as there:
                yield from self._attributes(b".", here, there, os.stat(here), os.stat(there))
        pending = [b""]
        while pending:
            below = pending.pop()
            with _reach(_join(self.a, below)) as here, _reach(_join(self.b, below)) as there:
                names_a, names_b = _list(here), _list(there)
                if names_a is None or names_b is None:
                    yield f"{_show(below)}: cannot be listed"
                    continue
                inner = []
                for name in sorted(names_a | names_b):
                    path = _join(below, name)
                    found_a = os.lstat(here + b"/" + name) if name in names_a else None
                    found_b = os.lstat(there + b"/" + name) if name in names_b else None
                    if "socket" not in self.checks:
                        found_a = None if found_a and stat.S_ISSOCK(found_a.st_mode) else found_a
                        found_b = None if found_b and stat.S_ISSOCK(found_b.st_mode) else found_b
                    if found_a is None and found_b is None:
                        continue
                    if found_a is None or found_b is None:
                        yield f"{_show(path)}: only in {'b' if found_a is None else 'a'}"
                        continue
                    yield from self._entry(path, here + b"/" + name, there + b"/" + name, found_a, found_b)
                    if stat.S_ISDIR(found_a.st_mode) and stat.S_ISDIR(found_b.st_mode):
                        inner.append(path)
                pending.extend(reversed(inner))

    def _entry(self, path: bytes, here: bytes, there: bytes, a: os.stat_result, b: os.stat_result) -> Iterator[str]:
        if stat.S_IFMT(a.st_mode) != stat.S_IFMT(b.st_mode):
            yield f"{_show(path)}: kind {_kind(a)} / {_kind(b)}"
            return
        yield from self._attributes(path, here, there, a, b)
        if not stat.S_ISDIR(a.st_mode) and "links" in self.checks:
            first_a = self.first_a.setdefault((a.st_dev, a.st_ino), path)
            first_b = self.first_b.setdefault((b.st_dev, b.st_ino), path)
            if first_a != first_b:
                yield f"{_show(path)}: one file with {_show(first_a)} / one file with {_show(first_b)}"
        if stat.S_ISREG(a.st_mode):
            yield from self._file(path, here, there, a, b)
        elif stat.S_ISLNK(a.st_mode) and "target" in self.checks:
            target_a, target_b = os.readlink(here), os.readlink(there)
            if target_a != target_b:
                yield f"{_show(path)}: symlink to {target_a!r} / {target_b!r}"
        elif (stat.S_ISCHR(a.st_mode) or stat.S_ISBLK(a.st_mode)) and "rdev" in self.checks and a.st_rdev != b.st_rdev:
            yield f"{_show(path)}: device {a.st_rdev:#x} / {b.st_rdev:#x}"

    def _attributes(
        self, path: bytes, here: bytes, there: bytes, a: os.stat_result, b: os.stat_result
    ) -> Iterator[str]:
        mode_a, mode_b = stat.S_IMODE(a.st_mode), stat.S_IMODE(b.st_mode)
        if "mode" in self.checks and mode_a != mode_b:
            yield f"{_show(path)}: mode {mode_a:04o} / {mode_b:04o}"
        if "owner" in self.checks and (a.st_uid, a.st_gid) != (b.st_uid, b.st_gid):
            yield f"{_show(path)}: owner {a.st_uid}:{a.st_gid} / {b.st_uid}:{b.st_gid}"
        times = "mtime"
        if stat.S_ISLNK(a.st_mode):
            times = "symlink_mtime"
        elif stat.S_ISDIR(a.st_mode):
            times = "folder_mtime"
        if times in self.checks and a.st_mtime_ns != b.st_mtime_ns:
            yield f"{_show(path)}: {times} {a.st_mtime_ns} / {b.st_mtime_ns}"
        if "xattr" in self.checks:
            yield from _xattr_differences(path, here, there)

    def _file(self, path: bytes, here: bytes, there: bytes, a: os.stat_result, b: os.stat_result) -> Iterator[str]:
        if a.st_size != b.st_size:
            if "size" in self.checks:
                yield f"{_show(path)}: size {a.st_size} / {b.st_size}"
        elif "content" in self.checks:
            try:
                place = first_difference(here, there)
            except PermissionError as error:
                # Saying nothing would pass off an unread file as equal.
                yield f"{_show(path)}: contents cannot be compared: {error.strerror}"
            else:
                if place is not None:
                    yield f"{_show(path)}: contents differ in the MiB at {place}"
        if self.sparse and hasattr(a, "st_blocks"):
            disk_a, disk_b = a.st_blocks * 512, b.st_blocks * 512
            if disk_b > disk_a + disk_a // 50 + (1 << 20):
                yield f"{_show(path)}: takes {disk_a} / {disk_b} bytes of disk"


def first_difference(a: bytes, b: bytes) -> int | None:
    """Where the first MiB begins in which two files of one size differ. Holes in both are passed over unread."""
    with open(a, "rb", buffering=0) as file_a, open(b, "rb", buffering=0) as file_b:
        place = 0
        while True:
            place = max(place, min(_next_data(file_a.fileno(), place), _next_data(file_b.fileno(), place)))
            data_a = os.pread(file_a.fileno(), BLOCK, place)
            data_b = os.pread(file_b.fileno(), BLOCK, place)
            if data_a != data_b:
                return place
            if not data_a:
                return None
            place += len(data_a)


def _next_data(descriptor: int, place: int) -> int:
    if not hasattr(os, "SEEK_DATA"):
        return place
    try:
        return os.lseek(descriptor, place, os.SEEK_DATA)
    except OSError:  # nothing but a hole from here on, or a file system that cannot tell
        return os.fstat(descriptor).st_size


def _xattr_differences(path: bytes, here: bytes, there: bytes) -> Iterator[str]:
    a, b = _xattrs(here), _xattrs(there)
    for name in sorted(a.keys() | b.keys()):
        if a.get(name) != b.get(name):
            yield f"{_show(path)}: xattr {name} {a.get(name)!r} / {b.get(name)!r}"


def _xattrs(path: bytes) -> dict[str, bytes]:
    if not hasattr(os, "listxattr"):
        return {}
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError:
        return {}
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}


@contextlib.contextmanager
def _reach(path: bytes) -> Iterator[bytes]:
    """A name of the folder short enough for every call, however long its path is."""
    if len(path) < _PIECE:
        yield path
        return
    held = os.open(b"/", os.O_RDONLY)
    try:
        rest = path.lstrip(b"/")
        while rest:
            cut = len(rest) if len(rest) < _PIECE else rest.rfind(b"/", 0, _PIECE)
            below = os.open(rest[:cut], os.O_RDONLY | os.O_DIRECTORY, dir_fd=held)
            os.close(held)
            held, rest = below, rest[cut + 1 :]
        yield b"/proc/self/fd/%d" % held
    finally:
        os.close(held)


def _list(path: bytes) -> set[bytes] | None:
    try:
        return set(os.listdir(path))
    except PermissionError:
        return None


def _join(folder: bytes, name: bytes) -> bytes:
    return folder + b"/" + name if folder and name else folder or name


def _show(path: bytes) -> str:
    return repr(path)[1:]


def _kind(found: os.stat_result) -> str:
    letter = stat.filemode(found.st_mode)[0]
    words = {"-": "file", "d": "folder", "l": "symlink", "p": "FIFO", "c": "character device", "b": "block device"}
    return words.get(letter, "socket" if letter == "s" else letter)

"""Repositories made by the real restic are read, and every file in them encodes to the same bytes again."""

from __future__ import annotations

import hashlib
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import zstandard

from backupiq.errors import WrongPasswordError
from backupiq.repository.config import decode_config, encode_config
from backupiq.repository.crypto import MasterKey
from backupiq.repository.envelope import decode_unpacked, encode_unpacked
from backupiq.repository.gojson import format_time_ns, quote_name
from backupiq.repository.keyfile import open_key_file, parse_key_file
from backupiq.repository.lockfile import decode_lock, encode_lock
from backupiq.repository.snapshot import decode_snapshot, encode_snapshot, find_parent, resolve_snapshot
from backupiq.repository.tree import Node, check_name, decode_tree, device_numbers, encode_tree, posix_mode
from tests.vectors.make import NAMES, PASSWORD, SECOND_PASSWORD

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Vector:
    root: Path
    master: MasterKey

    def files(self, kind: str) -> list[Path]:
        return sorted(path for path in (self.root / kind).rglob("*") if path.is_file())

    def unpacked(self, kind: str) -> dict[str, bytes]:
        found = {path.name: decode_unpacked(self.master, path.read_bytes()) for path in self.files(kind)}
        assert found
        return found

    def trees(self) -> dict[str, bytes]:
        return {blob_id: plain for is_tree, blob_id, plain in self.blobs() if is_tree}

    def blobs(self) -> Iterator[tuple[bool, str, bytes]]:
        """Every blob of every pack, by a reader of packs that shares nothing with the project's own."""
        for path in self.files("data"):
            pack = path.read_bytes()
            (length,) = struct.unpack("<I", pack[-4:])
            header = self.master.open(pack[-4 - length : -4])
            position = offset = 0
            while position < len(header):
                kind = header[position]
                (stored,) = struct.unpack_from("<I", header, position + 1)
                position += 9 if kind >= 2 else 5
                blob_id = header[position : position + 32].hex()
                position += 32
                plain = self.master.open(pack[offset : offset + stored])
                offset += stored
                yield (
                    kind in (1, 3),
                    blob_id,
                    zstandard.decompress(plain, max_output_size=1 << 20) if kind >= 2 else plain,
                )


@pytest.fixture(scope="module", params=["restic-0.14", "restic-0.19.1"])
def vector(request: pytest.FixtureRequest) -> Vector:
    root = FOLDER / request.param
    masters = []
    for path in sorted((root / "keys").iterdir()):
        for password in (PASSWORD, SECOND_PASSWORD):
            try:
                masters.append(open_key_file(path.read_bytes(), password))
            except WrongPasswordError:
                continue
    assert len(masters) == 2
    assert masters[0] == masters[1]
    return Vector(root, masters[0])


def test_every_file_is_named_by_its_hash(vector: Vector) -> None:
    for kind in ("keys", "snapshots", "index", "locks", "data"):
        for path in vector.files(kind):
            assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name


def test_key_files_of_restic_are_read(vector: Vector) -> None:
    for path in vector.files("keys"):
        file = parse_key_file(path.read_bytes())
        assert file.kdf == "scrypt"
        assert file.username == "root"
        assert file.hostname
        assert file.created.endswith("+05:45")


def test_the_config_encodes_to_the_same_bytes(vector: Vector) -> None:
    plain = vector.master.open((vector.root / "config").read_bytes())
    config = decode_config(plain)
    assert config.version == 2
    assert encode_config(config) == plain


def test_every_tree_encodes_to_the_same_bytes(vector: Vector) -> None:
    trees = vector.trees()
    assert len(trees) > 8
    for blob_id, plain in trees.items():
        assert hashlib.sha256(plain).hexdigest() == blob_id
        assert encode_tree(decode_tree(plain)) == plain


def test_every_snapshot_encodes_to_the_same_bytes(vector: Vector) -> None:
    for plain in vector.unpacked("snapshots").values():
        assert encode_snapshot(decode_snapshot(plain)) == plain


def test_a_lock_that_restic_left_encodes_to_the_same_bytes(vector: Vector) -> None:
    (plain,) = vector.unpacked("locks").values()
    lock = decode_lock(plain)
    assert encode_lock(lock) == plain
    assert not lock.exclusive
    assert lock.pid > 0


def test_the_envelope_of_every_index_can_be_closed_again(vector: Vector) -> None:
    for plain in vector.unpacked("index").values():
        assert plain.startswith(b'{"packs":[{"id":"')
        assert decode_unpacked(vector.master, encode_unpacked(vector.master, plain)) == plain


def test_every_blob_hashes_to_its_id(vector: Vector) -> None:
    contents = set()
    for _, blob_id, plain in vector.blobs():
        assert hashlib.sha256(plain).hexdigest() == blob_id
        contents.add(plain)
    assert b"more" in contents


def nodes_by_name(vector: Vector) -> dict[bytes, Node]:
    found = {}
    for plain in vector.trees().values():
        for node in decode_tree(plain):
            check_name(node.raw_name())
            found[node.raw_name()] = node
    return found


def test_awkward_names_come_back_and_quote_as_restic_quoted_them(vector: Vector) -> None:
    found = nodes_by_name(vector)
    for name in NAMES:
        assert quote_name(name) == found[name].name


def test_times_of_restic_are_read_to_the_nanosecond(vector: Vector) -> None:
    found = nodes_by_name(vector)
    # restic 0.14 and 0.19 write the zone of the machine; the instant is what counts.
    assert found[b"plain.txt"].mtime_ns() == -1
    assert found[b"with space"].mtime_ns() == 1_700_000_000_000_000_010
    assert format_time_ns(-1) == "1969-12-31T23:59:59.999999999Z"
    assert found[b"plain.txt"].mtime.endswith("+05:30")


def test_modes_owners_and_devices_of_restic_are_read(vector: Vector) -> None:
    found = nodes_by_name(vector)
    expected = {
        b"setuid": stat.S_IFDIR | 0o4755,
        b"setgid": stat.S_IFDIR | 0o2710,
        b"sticky": stat.S_IFDIR | 0o1777,
        b"fifo": stat.S_IFIFO | 0o600,
        b"null": stat.S_IFCHR | 0o644,
        b"block": stat.S_IFBLK | 0o600,
        b"link": stat.S_IFLNK | 0o777,
    }
    for name, mode in expected.items():
        node = found[name]
        assert posix_mode(node.mode, node.type) == mode
    assert device_numbers(found[b"null"].device) == (1, 3)
    assert device_numbers(found[b"block"].device) == (259, 1_000_000)
    assert (found[b"Z upper"].uid, found[b"Z upper"].gid) == (65534, 4_000_000_000)
    assert found[b"hard link"].links == 2
    assert found[b"hard link"].inode == found[b"plain.txt"].inode
    attributes = {one.name: one.value for one in found[b"with space"].extended_attributes or []}
    assert attributes["user.note"] == b"\x00\xffvalue"
    assert not attributes["user.empty"]


def test_link_targets_come_back_even_when_they_are_not_text(vector: Vector) -> None:
    found = nodes_by_name(vector)
    assert found[b"odd link"].raw_linktarget() == '<b>&\u2028\ufffd\u00a0\n"\\'.encode()
    if vector.root.name == "restic-0.19.1":
        assert found[b"raw link"].raw_linktarget() == b"bad \xff<\xe2\x82 and \xef\xbf\xbd \x08"


def test_snapshots_of_restic_resolve_as_restic_would(vector: Vector) -> None:
    snapshots = [(name, decode_snapshot(plain)) for name, plain in vector.unpacked("snapshots").items()]
    assert len(snapshots) == 3
    _, latest = resolve_snapshot(snapshots, "latest")
    assert latest.hostname == "älpha <1>"
    for name, snapshot in snapshots:
        assert resolve_snapshot(snapshots, name[:8]) == (name, snapshot)
    parent = find_parent(snapshots, "älpha <1>", latest.paths)
    assert parent is not None
    assert parent[1] == latest
    (beta,) = [snapshot for _, snapshot in snapshots if snapshot.hostname == "beta"]
    assert beta.original is not None
    assert beta.tags == ["tagged"]
    assert beta.time == "2001-02-03T04:05:06+05:45"
    (first,) = [snapshot for _, snapshot in snapshots if snapshot.excludes]
    assert first.tags == ["one", "two & three"]
    assert latest.parent is not None
    if vector.root.name == "restic-0.19.1":
        assert latest.program_version == "restic 0.19.1"
        assert latest.summary is not None
        assert latest.summary.files_new == 1

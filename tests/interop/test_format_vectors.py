"""Every kind of file of repositories that the real restic made encodes to the same bytes again.

Of the kept repositories in ``tests/vectors``, and of new ones that both versions make here of an awkward tree.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path

import pytest
import zstandard

from backupiq.errors import WrongPasswordError
from backupiq.repository.config import decode_config, encode_config
from backupiq.repository.crypto import MasterKey
from backupiq.repository.envelope import decode_unpacked, encode_unpacked
from backupiq.repository.index import decode_index, encode_index
from backupiq.repository.keyfile import encode_key_file, open_key_file, parse_key_file
from backupiq.repository.lockfile import decode_lock, encode_lock
from backupiq.repository.pack import BlobType, PackBlob, decode_header, encode_header, packed_size
from backupiq.repository.snapshot import decode_snapshot, encode_snapshot
from backupiq.repository.tree import decode_tree, encode_tree
from tests.interop.support import PASSWORD, locks, restic_of, stopped_with_an_exclusive_lock
from tests.support.awkward import make_awkward_tree, remove_awkward_tree
from tests.support.programs import ROOT, Restic, is_root
from tests.vectors.make import PASSWORD as KEPT_PASSWORD

KEPT = ROOT / "tests" / "vectors"
MOST_PLAIN = 16 << 20


@dataclasses.dataclass(frozen=True)
class Vector:
    """A repository by restic, and its master key."""

    root: Path
    master: MasterKey

    def files(self, kind: str) -> dict[str, bytes]:
        """The stored bytes of every file of a kind, by name."""
        found = {path.name: path.read_bytes() for path in (self.root / kind).rglob("*") if path.is_file()}
        assert found, f"the vector {self.root} holds no {kind}"
        return found

    def plain(self, kind: str) -> list[bytes]:
        """The JSON of every file of a kind."""
        return [decode_unpacked(self.master, stored) for stored in self.files(kind).values()]

    def headers(self) -> dict[str, bytes]:
        """The open header of every pack, by its name."""
        return {name: self.master.open(pack[-4 - _length(pack) : -4]) for name, pack in self.files("data").items()}

    def trees(self) -> dict[str, bytes]:
        """The plain bytes of every tree, by its id in hex."""
        packs = self.files("data")
        found = {}
        for name, header in self.headers().items():
            for blob in decode_header(header):
                if blob.type is BlobType.TREE:
                    plain = self.master.open(packs[name][blob.offset : blob.offset + blob.length])
                    if blob.uncompressed_length:
                        plain = zstandard.decompress(plain, max_output_size=MOST_PLAIN)
                    found[blob.id.hex()] = plain
        return found


def _length(pack: bytes) -> int:
    return int.from_bytes(pack[-4:], "little")


def open_vector(root: Path, password: str) -> Vector:
    for path in sorted((root / "keys").iterdir()):
        try:
            return Vector(root, open_key_file(path.read_bytes(), password))
        except WrongPasswordError:
            continue
    raise AssertionError(f"no key of {root} opens with the password")


def make_repository(restic: Restic, base: Path) -> Path:
    """Two backups of an awkward tree, a tag, a second key, and a lock that a killed restic left."""
    repo, source = base / "repo", base / "source"
    make_awkward_tree(source, as_root=is_root(), width=200, levels=10)
    restic.run("init", repo=repo, password=PASSWORD)
    options = ("--host", "höst <&> \u2028", "--tag", "a & b,\\c", "--exclude", "*.<tmp>")
    # Who is not root may not read what the modes close.
    closed = () if is_root() else ("--exclude", f"{source}/modes")
    restic.run("backup", *options, *closed, source, repo=repo, password=PASSWORD)
    os.utime(source)
    restic.run("backup", "--time", "1999-12-31 23:59:59", *closed, source, repo=repo, password=PASSWORD)
    restic.run("tag", "--set", "kept", "latest", repo=repo, password=PASSWORD)
    (base / "password").write_text("second <&>")
    restic.run("key", "add", "--new-password-file", base / "password", repo=repo, password=PASSWORD)
    with stopped_with_an_exclusive_lock(restic, repo, PASSWORD) as check:
        check.kill()
        check.wait()
    assert len(locks(repo)) == 1
    remove_awkward_tree(source)
    return repo


@pytest.fixture(scope="module", params=["kept restic-0.14", "kept restic-0.19.1", "made now by old", "made now by new"])
def vector(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Vector:
    where, _, which = request.param.rpartition(" ")
    if where == "kept":
        return open_vector(KEPT / which, KEPT_PASSWORD)
    repo = make_repository(restic_of(which, tmp_path_factory), tmp_path_factory.mktemp("vector"))
    return open_vector(repo, PASSWORD)


def test_every_file_is_named_by_the_hash_of_its_bytes(vector: Vector) -> None:
    for kind in ("keys", "snapshots", "index", "locks", "data"):
        for name, stored in vector.files(kind).items():
            assert hashlib.sha256(stored).hexdigest() == name


def test_the_vector_holds_every_kind_of_file_and_nothing_else(vector: Vector) -> None:
    kinds = {path.relative_to(vector.root).parts[0] for path in vector.root.rglob("*") if path.is_file()}
    assert kinds == {"config", "data", "index", "keys", "locks", "snapshots"}


def test_keys_encode_to_the_same_bytes(vector: Vector) -> None:
    keys = vector.files("keys")
    assert len(keys) == 2
    for stored in keys.values():
        assert encode_key_file(parse_key_file(stored)) == stored


def test_the_config_encodes_to_the_same_bytes(vector: Vector) -> None:
    plain = vector.master.open((vector.root / "config").read_bytes())
    assert encode_config(decode_config(plain)) == plain


def test_snapshots_encode_to_the_same_bytes(vector: Vector) -> None:
    plains = vector.plain("snapshots")
    assert len(plains) >= 2
    for plain in plains:
        assert encode_snapshot(decode_snapshot(plain)) == plain


def test_locks_encode_to_the_same_bytes(vector: Vector) -> None:
    for plain in vector.plain("locks"):
        assert encode_lock(decode_lock(plain)) == plain


def test_indexes_encode_to_the_same_bytes(vector: Vector) -> None:
    for plain in vector.plain("index"):
        assert encode_index(decode_index(plain)) == _blobs_in_order(plain)


def _blobs_in_order(index: bytes) -> bytes:
    """restic 0.14 lists the blobs of a pack in no order at all; newer versions by offset, and their bytes stay."""
    document = json.loads(index)
    for pack in document["packs"]:
        pack["blobs"].sort(key=lambda blob: blob["offset"])
    ordered = json.dumps(document, separators=(",", ":")).encode() + b"\n"
    assert len(ordered) == len(index)
    return ordered


def test_pack_headers_encode_to_the_same_bytes_and_agree_with_the_index(vector: Vector) -> None:
    indexed: dict[str, list[PackBlob]] = {}
    for plain in vector.plain("index"):
        indexed |= {pack.hex(): list(blobs) for pack, blobs in decode_index(plain)}
    packs, headers = vector.files("data"), vector.headers()
    assert indexed.keys() == headers.keys()
    for name, header in headers.items():
        blobs = decode_header(header)
        assert encode_header(blobs) == header
        assert indexed[name] == blobs
        assert packed_size(blobs) == len(packs[name])


def test_trees_encode_to_the_same_bytes(vector: Vector) -> None:
    trees = vector.trees()
    assert len(trees) > 8
    for tree_id, plain in trees.items():
        assert hashlib.sha256(plain).hexdigest() == tree_id
        encoded = encode_tree(decode_tree(plain))
        if b'"linktarget_raw"' not in plain:
            # 0.14 writes each bad byte of a link's target as this escape, and the bytes themselves are gone for good.
            plain = plain.replace(b"\\ufffd", "\ufffd".encode())
        assert encoded == plain


def test_the_envelope_closes_again_over_every_json(vector: Vector) -> None:
    for kind in ("index", "snapshots", "locks"):
        for plain in vector.plain(kind):
            assert decode_unpacked(vector.master, encode_unpacked(vector.master, plain)) == plain

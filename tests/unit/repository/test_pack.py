"""Packs: the file that holds many blobs, and the list of them at its end."""

from __future__ import annotations

import hashlib
import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupiq.errors import DiskFullError, PackError, ResourceError
from backupiq.repository.crypto import MasterKey
from backupiq.repository.pack import (
    MAX_BLOBS,
    MAX_PACK_SIZE,
    MIN_PACK_SIZE,
    BlobType,
    PackBlob,
    PackFile,
    decode_header,
    encode_header,
    packed_size,
    sealed_header_length,
)

MASTER = MasterKey(bytes(32), bytes(16), bytes(16))


@st.composite
def packs(draw: st.DrawFn) -> list[PackBlob]:
    entry = st.tuples(
        st.binary(min_size=32, max_size=32),
        st.sampled_from(BlobType),
        st.integers(32, 1 << 20),
        st.integers(0, (1 << 32) - 1),
    )
    blobs, offset = [], 0
    for blob_id, kind, length, plain in draw(st.lists(entry, min_size=1, max_size=30)):
        blobs.append(PackBlob(blob_id, kind, offset, length, plain))
        offset += length
    return blobs


@given(packs())
def test_a_header_says_what_it_was_made_from(blobs: list[PackBlob]) -> None:
    header = encode_header(blobs)
    assert decode_header(header) == blobs
    assert packed_size(blobs) == sum(b.length for b in blobs) + len(header) + 32 + 4


def test_a_header_is_laid_out_byte_by_byte_as_the_format_says() -> None:
    blobs = [PackBlob(b"a" * 32, BlobType.TREE, 0, 100, 0), PackBlob(b"b" * 32, BlobType.DATA, 100, 77, 500)]
    assert encode_header(blobs) == (
        b"\x01" + struct.pack("<I", 100) + b"a" * 32 + b"\x02" + struct.pack("<II", 77, 500) + b"b" * 32
    )


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\x00",
        b"\x04" + bytes(40),
        struct.pack("<BI32s", 0, 31, b"x" * 32),
        struct.pack("<BII32s", 2, 100, 0, b"x" * 32),
        struct.pack("<BI32s", 0, 0xFFFFFFFF, b"x" * 32) * 2,
        struct.pack("<BI32s", 0, 100, b"x" * 32)[:-1],
    ],
    ids=["empty", "cut", "type", "no room for the seal", "compressed to nothing", "too large", "short entry"],
)
def test_a_header_that_cannot_be_is_refused(header: bytes) -> None:
    with pytest.raises(PackError):
        decode_header(header)


def test_a_pack_file_holds_its_blobs_its_sealed_header_and_the_length_of_that(tmp_path: Path) -> None:
    plains = [os.urandom(size) for size in (1, 3000, 2 << 20, 0, 700_000)]
    pack = PackFile(tmp_path / "spool", BlobType.DATA)
    for plain in plains:
        pack.add(hashlib.sha256(plain).digest(), MASTER.seal(plain), 0)
    assert pack.count == 5
    assert pack.size == sum(map(len, plains)) + 5 * 32
    done = pack.finish(MASTER)

    data = done.path.read_bytes()
    assert done.size == len(data) == packed_size(done.blobs)
    assert done.id == hashlib.sha256(data).digest()
    assert done.path.name == done.id.hex()
    length = sealed_header_length(data[-4:], len(data))
    assert decode_header(MASTER.open(data[-4 - length : -4])) == done.blobs
    for blob, plain in zip(done.blobs, plains, strict=True):
        assert MASTER.open(data[blob.offset : blob.offset + blob.length]) == plain
    assert os.listdir(tmp_path / "spool") == [done.id.hex()]


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX's")
def test_nobody_else_may_look_into_the_spool(tmp_path: Path) -> None:
    pack = PackFile(tmp_path / "spool", BlobType.DATA)
    pack.add(bytes(32), bytes(50), 0)
    done = pack.finish(MASTER)
    assert stat.S_IMODE(done.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(done.path.parent.stat().st_mode) == 0o700


def test_a_discarded_pack_leaves_nothing_behind(tmp_path: Path) -> None:
    pack = PackFile(tmp_path, BlobType.TREE)
    pack.add(bytes(32), bytes(50), 0)
    pack.discard()
    pack.discard()
    assert os.listdir(tmp_path) == []


def test_a_pack_that_could_not_be_finished_is_discarded_whole(tmp_path: Path) -> None:
    pack = PackFile(tmp_path, BlobType.DATA)
    pack.add(bytes(32), bytes(50), 0)
    (temporary,) = tmp_path.iterdir()
    temporary.unlink()
    with pytest.raises(ResourceError, match="spool folder"):
        pack.finish(MASTER)
    temporary.write_bytes(b"")
    pack.discard()
    assert os.listdir(tmp_path) == []


def test_discarding_does_not_touch_a_finished_pack(tmp_path: Path) -> None:
    pack = PackFile(tmp_path, BlobType.DATA)
    pack.add(bytes(32), bytes(50), 0)
    done = pack.finish(MASTER)
    pack.discard()
    assert done.path.exists()


def test_a_pack_without_blobs_is_not_stored(tmp_path: Path) -> None:
    pack = PackFile(tmp_path, BlobType.DATA)
    with pytest.raises(PackError):
        pack.finish(MASTER)
    pack.discard()


def test_a_pack_refuses_what_the_format_cannot_hold(tmp_path: Path) -> None:
    pack = PackFile(tmp_path, BlobType.DATA)
    assert pack.fits(MAX_PACK_SIZE - 100)
    assert not pack.fits(MAX_PACK_SIZE)
    for _ in range(MAX_BLOBS):
        pack.add(bytes(32), bytes(32), 1)
    assert not pack.fits(32)
    with pytest.raises(PackError):
        pack.add(bytes(32), bytes(32), 1)
    done = pack.finish(MASTER)
    assert sealed_header_length(done.path.read_bytes()[-4:], done.size) <= 16 << 20


@pytest.mark.parametrize("length", [0, 68, MIN_PACK_SIZE, (16 << 20) + 1, 0xFFFFFFFF])
def test_an_impossible_header_length_is_refused(length: int) -> None:
    with pytest.raises(PackError):
        sealed_header_length(struct.pack("<I", length), MIN_PACK_SIZE)


def test_a_pack_too_short_for_a_header_is_refused() -> None:
    with pytest.raises(PackError):
        sealed_header_length(b"\x45\0\0", 3)


def test_a_spool_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ResourceError, match="spool folder"):
        PackFile(tmp_path / "file" / "spool", BlobType.DATA)


@pytest.mark.root
def test_a_full_spool_disk_is_named_and_the_file_goes(tmpfs: Callable[[int], Path]) -> None:
    folder = tmpfs(1 << 20)
    pack = PackFile(folder, BlobType.DATA)
    with pytest.raises(DiskFullError, match=str(folder)):
        pack.add(bytes(32), bytes(3 << 20), 0)
    pack.discard()
    assert os.listdir(folder) == []

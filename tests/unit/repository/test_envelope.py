"""The envelope of index, snapshot and lock files."""

from __future__ import annotations

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from backupiq.errors import CryptoError, IndexDamagedError, RepositoryDamagedError, SnapshotDamagedError
from backupiq.repository import envelope
from backupiq.repository.crypto import MasterKey
from backupiq.repository.envelope import decode_unpacked, encode_unpacked

KEY = MasterKey.generate()


def undeclared(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=False).compress(data)


@given(st.binary(max_size=2_000))
def test_what_is_encoded_decodes_to_the_same(json: bytes) -> None:
    assert decode_unpacked(KEY, encode_unpacked(KEY, json)) == json


def test_the_stored_form_is_a_marked_zstd_frame_without_checksum() -> None:
    json = b'{"packs":[]}' * 1_000
    stored = encode_unpacked(KEY, json)
    plain = KEY.open(stored)
    assert plain[:1] == b"\x02"
    frame = zstandard.get_frame_parameters(plain[1:])
    assert frame.content_size == len(json)
    assert not frame.has_checksum
    assert len(stored) < len(json) / 10


@pytest.mark.parametrize("json", [b"{}", b"[]", b'{"a":1}\n'])
def test_json_that_was_not_compressed_is_read(json: bytes) -> None:
    assert decode_unpacked(KEY, KEY.seal(json)) == json


@pytest.mark.parametrize("size", [0, 1, 100, 5_000, 3_000_000])
def test_frames_that_do_not_say_their_size_are_read(size: int) -> None:
    json = bytes(index * index >> 3 & 0xFF for index in range(1_000)) * (size // 1_000 + 1)
    assert decode_unpacked(KEY, KEY.seal(b"\x02" + undeclared(json[:size]))) == json[:size]


@pytest.mark.parametrize("compress", [zstandard.compress, undeclared])
def test_a_frame_that_is_cut_off_or_followed_by_anything_is_refused(compress: object) -> None:
    frame = compress(bytes(range(256)) * 20)  # type: ignore[operator]
    for damaged in [frame[:end] for end in range(len(frame))] + [frame + b"x", frame + frame, frame + bytes(3_000)]:
        with pytest.raises(IndexDamagedError):
            decode_unpacked(KEY, KEY.seal(b"\x02" + damaged), what=IndexDamagedError)


@pytest.mark.parametrize("plain", [b"", b"\x00", b"\x01{}", b'"text"', b" {}", b"\x02", b"\x02not zstd"])
def test_an_envelope_that_is_not_known_is_refused_with_the_kind_asked_for(plain: bytes) -> None:
    with pytest.raises(SnapshotDamagedError):
        decode_unpacked(KEY, KEY.seal(plain), what=SnapshotDamagedError)


def test_a_file_that_is_not_authentic_is_refused() -> None:
    with pytest.raises(CryptoError):
        decode_unpacked(KEY, MasterKey.generate().seal(b"{}"))


@pytest.mark.parametrize("compress", [zstandard.compress, undeclared])
def test_a_small_file_cannot_unpack_to_more_than_the_limit(compress: object, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = KEY.seal(b"\x02" + compress(bytes(50_000_000)))  # type: ignore[operator]
    assert len(bomb) < 10_000
    monkeypatch.setattr(envelope, "MAX_UNPACKED_SIZE", 40_000_000)
    with pytest.raises(RepositoryDamagedError, match="unpacks to more"):
        decode_unpacked(KEY, bomb)
    monkeypatch.setattr(envelope, "MAX_UNPACKED_SIZE", 50_000_000)
    assert len(decode_unpacked(KEY, bomb)) == 50_000_000


def test_a_frame_that_lies_about_its_size_is_refused() -> None:
    frame = bytearray(zstandard.compress(bytes(1_000)))
    assert int.from_bytes(frame[5:7], "little") + 256 == 1_000  # two bytes of size, counted from 256
    for declared in (0, 999 - 256, 1_001 - 256, 0xFFFF):
        frame[5:7] = declared.to_bytes(2, "little")
        with pytest.raises(RepositoryDamagedError):
            decode_unpacked(KEY, KEY.seal(b"\x02" + bytes(frame)))


def test_a_compressor_that_errs_is_noticed_before_anything_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    class Flawed:
        def compress(self, json: bytes) -> bytes:
            return zstandard.compress(json[:-1] + b"X")

    monkeypatch.setattr(envelope._codecs, "compressor", Flawed())
    with pytest.raises(RepositoryDamagedError, match="do not decode"):
        encode_unpacked(KEY, b'{"a":1}')

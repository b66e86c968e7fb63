"""Damage of every kind in packs and indexes ends in one of our own errors, never in another exception."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Callable

import pytest
import zstandard

from backupiq.errors import BackupIQError
from backupiq.repository.crypto import MasterKey
from backupiq.repository.index import MasterIndex, decode_index, encode_index
from backupiq.repository.pack import BlobType, PackBlob, decode_header, encode_header, sealed_header_length
from backupiq.repository.reader import open_blob

ROUNDS = 10_000
MASTER = MasterKey(b"e" * 32, b"k" * 16, b"r" * 16)
PLAIN = b"what a blob holds, over and over. " * 20
PLAIN_ID = hashlib.sha256(PLAIN).digest()


def some_blobs() -> list[PackBlob]:
    dice, blobs, offset = random.Random(1), [], 0
    for number in range(12):
        length = dice.randint(32, 5000)
        blobs.append(PackBlob(dice.randbytes(32), BlobType(number % 2), offset, length, dice.choice([0, length * 3])))
        offset += length
    return blobs


def mutate(data: bytes, dice: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(dice.choice([1, 1, 1, 2, 5])):
        at = dice.randrange(len(changed) + 1)
        end = min(len(changed), at + dice.choice([1, 1, 4, 40]))
        match dice.randrange(7):
            case 0 if at < len(changed):
                changed[at] ^= 1 << dice.randrange(8)
            case 1:
                changed[at:end] = dice.randbytes(end - at)
            case 2:
                del changed[at:end]
            case 3:
                changed[at:at] = changed[at:end]
            case 4:
                changed[at:end] = dice.choice(
                    [b"\0", b"\xff\xff\xff\xff", b"-1", b"1e400", b"null", b'"', b"[", b"}", b"9" * 25]
                )
            case 5:
                del changed[at:]
            case _:
                start = dice.randrange(len(changed) + 1)
                changed[at:end] = changed[start : start + end - at]
    return bytes(changed)


def read_header(data: bytes) -> object:
    return encode_header(decode_header(data))


def read_index(data: bytes) -> object:
    index = MasterIndex()
    for pack_id, blobs in decode_index(data):
        index.add_pack(pack_id, blobs)
    return len(index)


def read_blob(data: bytes) -> object:
    return open_blob(MASTER, MASTER.seal(data), PLAIN_ID, len(PLAIN))


def read_sealed_blob(data: bytes) -> object:
    return open_blob(MASTER, data, PLAIN_ID, len(PLAIN))


def read_length_field(data: bytes) -> object:
    return sealed_header_length(data, 5000)


@pytest.mark.parametrize(
    ("read", "intact"),
    [
        (read_header, encode_header(some_blobs())),
        (read_index, encode_index([(b"p" * 32, some_blobs()), (b"q" * 32, some_blobs()[:3])])),
        (read_blob, zstandard.ZstdCompressor().compress(PLAIN)),
        (read_sealed_blob, MASTER.seal(zstandard.ZstdCompressor().compress(PLAIN))),
        (read_length_field, (200).to_bytes(4, "little")),
    ],
    ids=["pack header", "index", "blob", "sealed blob", "header length"],
)
def test_ten_thousand_mutations_raise_nothing_but_our_own_errors(
    read: Callable[[bytes], object], intact: bytes
) -> None:
    dice = random.Random(20260101)
    refused = 0
    read(intact)
    for _ in range(ROUNDS):
        changed = mutate(intact, dice)
        with contextlib.suppress(BackupIQError):
            read(changed)
            continue
        refused += 1
    assert refused > ROUNDS // 10

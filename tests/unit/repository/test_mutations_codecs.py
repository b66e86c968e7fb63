"""Damaged input of any kind makes the decoders raise our own errors and nothing else.

BACKUPIQ_FUZZ_EXAMPLES sets how many mutations each decoder gets (10,000 unless told otherwise).
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest
import zstandard

from backupiq.errors import BackupIQError
from backupiq.repository import envelope, keyfile
from backupiq.repository.config import RepositoryConfig, decode_config, encode_config
from backupiq.repository.crypto import MasterKey
from backupiq.repository.envelope import decode_unpacked
from backupiq.repository.gojson import parse_time_ns, unquote_name
from backupiq.repository.keyfile import KdfParams, create_key_file, open_key_file
from backupiq.repository.lockfile import LockFile, decode_lock, encode_lock, is_stale
from backupiq.repository.snapshot import Snapshot, Summary, decode_snapshot, encode_snapshot, find_parent
from backupiq.repository.tree import ExtendedAttribute, Node, check_name, decode_tree, encode_tree, posix_mode

EXAMPLES = int(os.environ.get("BACKUPIQ_FUZZ_EXAMPLES", "10000"))
SEED = 20_231_114

KEY = MasterKey(bytes(range(32)), bytes(range(16)), bytes(range(16)))
TIME = "2023-11-14T22:13:20.5+05:45"
TOKENS = [
    *(
        b'"',
        b"\\",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"null",
        b"true",
        b"-1",
        b"0",
        b"1e999",
        b"1.5",
        b"\x00",
        b"\xff",
    ),
    *(b"18446744073709551616", b"9" * 400, b"\\u0000", b"\\ud800", b"\\xff", b"../", b"\xed\xa0\x80", b"[" * 2_000),
    *(b"0000-00-00T00:00:00Z", b"9999-99-99T99:99:99+99:99", b"\\\\q", b"\\\\U00110000", b"\xe2\x80\xa8", b" " * 64),
]


def mutate(rng: random.Random, sample: bytes) -> bytes:
    """One to four changes: bits, bytes, cuts, repeats, and pieces that mean something to a parser."""
    data = bytearray(sample)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice((1, 1, 2, 8, 64)))
        match rng.randrange(6):
            case 0 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at:end] = rng.randbytes(end - at)
            case 2:
                del data[at:end]
            case 3:
                data[at:at] = data[at:end] * rng.randint(1, 20)
            case 4:
                data[at:end] = rng.choice(TOKENS)
            case _:
                del data[at:]
    return bytes(data)


def snapshot() -> Snapshot:
    return Snapshot(
        time=TIME,
        parent="ab" * 32,
        tree="cd" * 32,
        paths=["/home/ada", "/etc"],
        hostname="host",
        uid=1000,
        tags=["nightly"],
        summary=Summary(backup_start=TIME, backup_end=TIME, files_new=7),
    )


def nodes() -> list[Node]:
    times = {"mtime": TIME, "atime": TIME, "ctime": TIME}
    attributes = [ExtendedAttribute("user.x", b"\x00\xff"), ExtendedAttribute("user.y", None)]
    return [
        Node(name="a\\n\\xff", type="file", mode=0o644, size=9, content=["ab" * 32, "cd" * 32], inode=7, **times),
        Node(name="dir", type="dir", mode=1 << 31 | 0o755, subtree="ef" * 32, extended_attributes=attributes, **times),
        Node(name="link", type="symlink", linktarget="x\ufffd", linktarget_raw=b"x\xff", links=1, **times),
        Node(name="null", type="chardev", mode=1 << 26 | 1 << 21 | 0o666, device=259, user="root", **times),
    ]


def read_tree(data: bytes) -> None:
    found = decode_tree(data)
    uses: list[Callable[[Node], object]] = [
        Node.mtime_ns,
        Node.raw_linktarget,
        lambda node: check_name(node.raw_name()),
        lambda node: posix_mode(node.mode, node.type),
        lambda node: encode_tree([node]),
    ]
    for node in found:
        for use in uses:
            tolerate(lambda use=use, node=node: use(node))  # type: ignore[misc]
    encode_tree(found)


def read_snapshot(data: bytes) -> None:
    found = decode_snapshot(data)
    encode_snapshot(found)
    find_parent([("00" * 32, found)], found.hostname, found.paths)


def read_lock(data: bytes) -> None:
    found = decode_lock(data)
    encode_lock(found)
    is_stale(found, 0, found.hostname, lambda pid: True)


def read_frame(data: bytes) -> None:
    decode_unpacked(KEY, KEY.seal(b"\x02" + data))


def tolerate(call: Callable[[], object]) -> bool:
    try:
        call()
    except BackupIQError:
        return False
    return True


JSON = b'{"packs":[{"id":"' + b"ab" * 32 + b'","blobs":[]}]}' * 20
LOCK = LockFile(time=TIME, exclusive=True, hostname="host", username="ada", pid=42, uid=1000)
KEY_FILE = create_key_file(KEY, "pw", params=KdfParams(2, 1, 1), username="ada", hostname="host", created_ns=0)

DECODERS: dict[str, tuple[bytes, Callable[[bytes], object]]] = {
    "tree": (encode_tree(nodes()), read_tree),
    "snapshot": (encode_snapshot(snapshot()), read_snapshot),
    "lock": (encode_lock(LOCK), read_lock),
    "config": (encode_config(RepositoryConfig(2, "ab" * 32, "25b468838dcb75")), decode_config),
    "key file": (KEY_FILE, lambda data: open_key_file(data, "pw")),
    "frame": (zstandard.compress(JSON), read_frame),
    "frame without its size": (zstandard.ZstdCompressor(write_content_size=False).compress(JSON), read_frame),
    "sealed": (KEY.seal(b"\x02" + zstandard.compress(JSON)), lambda data: decode_unpacked(KEY, data)),
    "plain JSON": (b'{"a":1}', lambda data: decode_unpacked(KEY, KEY.seal(data))),
    "name": (b'a\\n\\xff\\u00e4\\U0001f389\\"\\\\\\377', lambda data: unquote_name(data.decode("utf-8", "replace"))),
    "time": (TIME.encode(), lambda data: parse_time_ns(data.decode("utf-8", "replace"))),
}


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_survives_mutations(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Smaller than the real limits, so that a mutation that asks for the most the product allows does not take long.
    monkeypatch.setattr(keyfile, "MAX_KDF_MEMORY", 1 << 20)
    monkeypatch.setattr(envelope, "MAX_UNPACKED_SIZE", 1 << 20)
    sample, decode = DECODERS[name]
    assert tolerate(lambda: decode(sample))
    rng = random.Random(f"{SEED} {name}")
    accepted = 0
    for _ in range(EXAMPLES):
        mutation = mutate(rng, sample)
        accepted += tolerate(lambda mutation=mutation: decode(mutation))  # type: ignore[misc]
    assert accepted < EXAMPLES * 0.95


def test_the_mutator_changes_its_sample_and_repeats_itself() -> None:
    sample = DECODERS["tree"][0]
    one = [mutate(random.Random(seed), sample) for seed in range(200)]
    assert one == [mutate(random.Random(seed), sample) for seed in range(200)]
    assert sum(found != sample for found in one) > 190

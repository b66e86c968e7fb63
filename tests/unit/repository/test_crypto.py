"""The seal: what it keeps secret, what it notices, and that threads do not disturb each other."""

from __future__ import annotations

import copy
import pickle
import sys
import threading

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.poly1305 import Poly1305
from hypothesis import given
from hypothesis import strategies as st

from backupiq.errors import CryptoError
from backupiq.repository.crypto import OVERHEAD, MasterKey

KEY = MasterKey(bytes(range(32)), bytes(range(32, 48)), bytes(range(48, 64)))
# Around the size where sealing changes its way of working, and beyond what a thread keeps a buffer for.
SIZES = [0, 1, 15, 16, 17, 3_000, 65_535, 65_536, 65_537, 1 << 20, (8 << 20) + (1 << 17)]


def open_by_the_book(key: MasterKey, sealed: bytes) -> bytes:
    """The format's definition, with fresh contexts for each message."""
    iv, ciphertext, tag = sealed[:16], sealed[16:-16], sealed[-16:]
    nonce = Cipher(algorithms.AES(key.mac_k), modes.ECB()).encryptor().update(iv)  # noqa: S305
    Poly1305.verify_tag(key.mac_r + nonce, ciphertext, tag)
    return Cipher(algorithms.AES(key.encrypt), modes.CTR(iv)).decryptor().update(ciphertext)


@pytest.mark.parametrize("size", SIZES)
def test_a_sealed_message_is_what_the_format_defines(size: int) -> None:
    plain = bytes(index * 7 & 0xFF for index in range(256)) * (size // 256 + 1)
    plain = plain[:size]
    sealed = KEY.seal(plain)
    assert type(sealed) is bytes
    assert len(sealed) == size + OVERHEAD
    assert open_by_the_book(KEY, sealed) == plain
    assert KEY.open(sealed) == plain


@given(st.binary(max_size=200), st.integers(0, 20))
def test_views_are_sealed_and_opened_like_bytes(plain: bytes, skip: int) -> None:
    sealed = KEY.seal(memoryview(plain)[skip:])
    assert KEY.open(memoryview(b"x" + sealed + b"yz")[1:-2]) == plain[skip:]


def test_the_same_message_never_seals_to_the_same_bytes() -> None:
    assert len({KEY.seal(b"message")[:16] for _ in range(1_000)}) == 1_000


@given(st.binary(max_size=100), st.data())
def test_any_flipped_bit_is_noticed(plain: bytes, data: st.DataObject) -> None:
    sealed = bytearray(KEY.seal(plain))
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(CryptoError):
        KEY.open(bytes(sealed))


@pytest.mark.parametrize("sealed", [b"", bytes(31), bytes(32), bytes(100)])
def test_what_was_never_sealed_is_refused(sealed: bytes) -> None:
    with pytest.raises(CryptoError):
        KEY.open(sealed)


def test_a_truncated_message_and_another_key_are_refused() -> None:
    sealed = KEY.seal(b"a message of some length")
    for end in range(len(sealed)):
        with pytest.raises(CryptoError):
            KEY.open(sealed[:end])
    with pytest.raises(CryptoError):
        MasterKey.generate().open(sealed)


def test_the_key_is_not_disturbed_by_a_message_that_fails() -> None:
    sealed = KEY.seal(b"good")
    with pytest.raises(CryptoError):
        KEY.open(bytes(64))
    assert KEY.open(sealed) == b"good"


def test_threads_that_share_a_key_do_not_disturb_each_other() -> None:
    failures: list[str] = []
    start = threading.Barrier(8)

    def work(number: int) -> None:
        plain = bytes([number]) * (70_000 if number % 2 else 900)
        start.wait()
        for _ in range(150):
            sealed = KEY.seal(plain)
            if KEY.open(sealed) != plain or open_by_the_book(KEY, sealed) != plain:
                failures.append(f"thread {number}")

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert failures == []


def test_large_messages_are_sealed_without_the_interpreter_lock() -> None:
    """With switching as good as off, another thread can only get on while this one has let go of the lock."""
    plain = bytes(1 << 20)
    KEY.seal(plain)
    go, ran = threading.Event(), threading.Event()
    other = threading.Thread(target=lambda: (go.wait(), ran.set()))
    interval = sys.getswitchinterval()
    other.start()
    sys.setswitchinterval(1_000)
    try:
        go.set()
        for _ in range(500):
            KEY.seal(plain)
            if ran.is_set():
                break
        assert ran.is_set()
    finally:
        sys.setswitchinterval(interval)
        other.join()


def test_the_key_is_neither_shown_nor_copied_out_nor_changed() -> None:
    assert repr(KEY) == str(KEY) == "MasterKey(hidden)"
    for leak in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            leak(KEY)
    with pytest.raises(AttributeError):
        KEY.encrypt = bytes(32)  # type: ignore[misc]
    with pytest.raises(AttributeError):
        del KEY.mac_k  # type: ignore[misc]
    assert not hasattr(KEY, "__dict__")


def test_keys_are_random_and_equal_only_to_themselves() -> None:
    one, other = MasterKey.generate(), MasterKey.generate()
    assert one != other
    assert one == MasterKey(one.encrypt, one.mac_k, one.mac_r)
    assert len({one, other, MasterKey(one.encrypt, one.mac_k, one.mac_r)}) == 2
    assert one != "MasterKey(hidden)"


@pytest.mark.parametrize("lengths", [(31, 16, 16), (32, 15, 16), (32, 16, 17)])
def test_a_key_of_the_wrong_length_is_refused(lengths: tuple[int, int, int]) -> None:
    with pytest.raises(CryptoError):
        MasterKey(*map(bytes, lengths))

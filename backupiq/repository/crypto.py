"""Sealing and opening with the repository's master key: AES-256-CTR with a Poly1305-AES tag.

Format: restic's design document, "Keys, Encryption and MAC". A sealed message is ``iv (16) || ciphertext || tag (16)``;
the tag covers the ciphertext only, under the one-time key ``mac_r || AES-128(mac_k, iv)``.
"""

from __future__ import annotations

import hmac
import os
import threading
from typing import NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from cryptography.hazmat.primitives.poly1305 import Poly1305

from backupiq.errors import CryptoError

OVERHEAD = 32
"""Bytes that sealing adds to a message: the initialisation vector and the tag."""

_IV_SIZE = 16
_TAG_SIZE = 16
# Above this size the copies of the simple way cost more than a scratch buffer kept by the thread.
_SCRATCH_FROM = 64 * 1024
# The largest chunk is 8 MiB; rarer, larger messages get a buffer of their own that is not kept.
_SCRATCH_MAX = 8 * 1024 * 1024 + 64 * 1024


class _ThreadState(threading.local):
    """Prepared cipher contexts of one thread. Contexts carry the position in their key stream, so none is shared."""

    def __init__(self, encrypt: bytes, mac_k: bytes) -> None:
        self.ctr: CipherContext = Cipher(algorithms.AES256(encrypt), modes.CTR(bytes(_IV_SIZE))).encryptor()
        # Poly1305-AES encrypts one lone AES-128 block, the vector, for each message.
        self.ecb: CipherContext = Cipher(algorithms.AES128(mac_k), modes.ECB()).encryptor()  # noqa: S305
        self.scratch = bytearray()

    def buffer(self, size: int) -> bytearray:
        if len(self.scratch) < size:
            grown = bytearray(size)
            if size > _SCRATCH_MAX:
                return grown
            self.scratch = grown
        return self.scratch


class MasterKey:
    """The secret of a repository: ``encrypt`` (32 bytes), ``mac_k`` (16) and ``mac_r`` (16).

    ``seal`` and ``open`` may be called from any number of threads at once; large messages are worked on without the
    interpreter's lock. They keep cipher contexts per thread and must not be called from a signal handler that may
    interrupt another call. The object cannot be changed, printed or pickled, so that the secret stays where it is.
    """

    __slots__ = ("_state", "encrypt", "mac_k", "mac_r")

    encrypt: bytes
    mac_k: bytes
    mac_r: bytes
    _state: _ThreadState

    def __init__(self, encrypt: bytes, mac_k: bytes, mac_r: bytes) -> None:
        """Raises CryptoError when a part does not have its length."""
        if len(encrypt) != 32 or len(mac_k) != 16 or len(mac_r) != 16:
            raise CryptoError("The master key does not have the right length. Restore the key file from a copy.")
        object.__setattr__(self, "encrypt", bytes(encrypt))
        object.__setattr__(self, "mac_k", bytes(mac_k))
        object.__setattr__(self, "mac_r", bytes(mac_r))
        object.__setattr__(self, "_state", _ThreadState(self.encrypt, self.mac_k))

    @classmethod
    def generate(cls) -> MasterKey:
        """A new random key from the operating system's generator."""
        return cls(os.urandom(32), os.urandom(16), os.urandom(16))

    def seal(self, plaintext: bytes | memoryview) -> bytes:
        """Encrypt and authenticate ``plaintext``: OVERHEAD bytes longer, different at each call."""
        state = self._state
        # Drawn from the system for each message: a pool would hand the same vectors to both sides of a fork.
        iv = os.urandom(_IV_SIZE)
        ctr = state.ctr
        ctr.reset_nonce(iv)
        size = len(plaintext)
        if size < _SCRATCH_FROM:
            ciphertext = ctr.update(plaintext)
            tag = Poly1305.generate_tag(self.mac_r + state.ecb.update(iv), ciphertext)
            return b"".join((iv, ciphertext, tag))
        with memoryview(state.buffer(size + OVERHEAD)) as out:
            out[:_IV_SIZE] = iv
            ctr.update_into(plaintext, out[_IV_SIZE:])
            end = _IV_SIZE + size
            out[end : end + _TAG_SIZE] = Poly1305.generate_tag(self.mac_r + state.ecb.update(iv), out[_IV_SIZE:end])
            return bytes(out[: end + _TAG_SIZE])

    def open(self, sealed: bytes | memoryview) -> bytes:
        """Verify and decrypt what ``seal`` made. Raises CryptoError, before decrypting, when it is not authentic."""
        if len(sealed) < OVERHEAD:
            raise CryptoError(size=len(sealed))
        state = self._state
        view = memoryview(sealed)
        iv = bytes(view[:_IV_SIZE])
        ciphertext = view[_IV_SIZE:-_TAG_SIZE]
        try:
            Poly1305.verify_tag(self.mac_r + state.ecb.update(iv), ciphertext, bytes(view[-_TAG_SIZE:]))
        except InvalidSignature:
            raise CryptoError(size=len(sealed)) from None
        ctr = state.ctr
        ctr.reset_nonce(iv)
        return ctr.update(ciphertext)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MasterKey):
            return NotImplemented
        return hmac.compare_digest(self.encrypt + self.mac_k + self.mac_r, other.encrypt + other.mac_k + other.mac_r)

    def __hash__(self) -> int:
        return hash((self.encrypt, self.mac_k, self.mac_r))

    def __repr__(self) -> str:
        return "MasterKey(hidden)"

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a MasterKey cannot be changed")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError("a MasterKey cannot be changed")

    def __reduce__(self) -> NoReturn:
        raise TypeError("a MasterKey is never pickled")

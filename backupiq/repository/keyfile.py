"""Key files: the master key, sealed under a key derived from a password. Format: restic's design document, "Keys"."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass

import msgspec

from backupiq.errors import CryptoError, KeyFileError, ValidationError, WrongPasswordError
from backupiq.repository.crypto import OVERHEAD, MasterKey
from backupiq.repository.gojson import decode_json, format_time_ns, go_escape

MAX_KDF_MEMORY = 1 << 30
"""Largest ``128 * N * r * p`` (bytes) that a key file may ask for; it bounds both the memory and the time of scrypt."""

_SALT_SIZE = 64
_MAX_FILE = 64 * 1024


@dataclass(frozen=True, slots=True)
class KdfParams:
    """scrypt's cost parameters. The default takes 32 MiB."""

    n: int = 32_768
    r: int = 8
    p: int = 1

    @property
    def memory(self) -> int:
        """Bytes of work: ``128 * N * r * p``."""
        return 128 * self.n * self.r * self.p


class KeyFile(msgspec.Struct, frozen=True, rename={"n": "N"}):
    """A key file as stored. ``created`` is the time as written; ``salt`` and ``data`` are raw bytes."""

    created: str
    username: str
    hostname: str
    kdf: str
    n: int
    r: int
    p: int
    salt: bytes
    data: bytes

    @property
    def params(self) -> KdfParams:
        return KdfParams(self.n, self.r, self.p)


class _Mac(msgspec.Struct):
    k: bytes
    r: bytes


class _MasterJson(msgspec.Struct):
    mac: _Mac
    encrypt: bytes


_KEY_FILE = msgspec.json.Decoder(KeyFile)
_MASTER = msgspec.json.Decoder(_MasterJson)


def create_key_file(
    master: MasterKey,
    password: str,
    *,
    params: KdfParams | None = None,
    username: str,
    hostname: str,
    created_ns: int,
) -> bytes:
    """The bytes of a new key file that opens ``master`` with ``password``; its name is their SHA-256.

    Raises ValidationError for an empty password, or scrypt parameters that ``open_key_file`` would refuse.
    """
    params = params or KdfParams()
    if not password:
        raise ValidationError("The password is empty. Give one that is not.")
    reason = _refusal(params)
    if reason:
        raise ValidationError(f"The scrypt parameters cannot be used: {reason}. Choose others.")
    salt = os.urandom(_SALT_SIZE)
    plain = msgspec.json.encode(_MasterJson(_Mac(master.mac_k, master.mac_r), master.encrypt))
    sealed = _derive(password, salt, params).seal(plain)
    created = format_time_ns(created_ns)
    return encode_key_file(KeyFile(created, username, hostname, "scrypt", params.n, params.r, params.p, salt, sealed))


def encode_key_file(file: KeyFile) -> bytes:
    """The file's JSON as restic writes it, byte for byte."""
    return go_escape(msgspec.json.encode(file))


def parse_key_file(data: bytes) -> KeyFile:
    """Read a key file without opening it. Raises KeyFileError when it is not one or asks for too much memory."""
    if len(data) > _MAX_FILE:
        raise KeyFileError(f"A key file is far too large. {KeyFileError.hint}", size=len(data))
    file = decode_json(_KEY_FILE, data, KeyFileError, "A key file")
    if file.kdf != "scrypt":
        raise KeyFileError(f"A key file uses a key derivation other than scrypt. {KeyFileError.hint}")
    if len(file.salt) != _SALT_SIZE or len(file.data) < OVERHEAD:
        raise KeyFileError(f"A key file has a salt or a key of the wrong length. {KeyFileError.hint}")
    reason = _refusal(file.params)
    if reason:
        raise KeyFileError(f"A key file has scrypt parameters that cannot be used: {reason}. {KeyFileError.hint}")
    return file


def open_key_file(data: bytes, password: str) -> MasterKey:
    """The master key. Takes as long as scrypt does; the interpreter's lock is free meanwhile.

    Raises WrongPasswordError when the password does not open it (a changed byte in the sealed part looks the same),
    KeyFileError for everything else.
    """
    file = parse_key_file(data)
    try:
        plain = _derive(password, file.salt, file.params).open(file.data)
    except CryptoError:
        raise WrongPasswordError("The password does not open this key. Check the password.") from None
    parts = decode_json(_MASTER, plain, KeyFileError, "The master key in a key file")
    lengths = len(parts.encrypt), len(parts.mac.k), len(parts.mac.r)
    if lengths != (32, 16, 16) or not (any(parts.encrypt) and any(parts.mac.k) and any(parts.mac.r)):
        raise KeyFileError(f"The master key in a key file is not a valid key. {KeyFileError.hint}")
    return MasterKey(parts.encrypt, parts.mac.k, parts.mac.r)


def _refusal(params: KdfParams) -> str | None:
    n, r, p = params.n, params.r, params.p
    # The 2**31 bounds only keep the products small; the limit on memory is far below them.
    if not (1 < n < 1 << 31 and 0 < r < 1 << 31 and 0 < p < 1 << 31) or n & (n - 1):
        return "N must be a power of two, r and p must be positive"
    if params.memory > MAX_KDF_MEMORY:
        return f"they ask for more than {MAX_KDF_MEMORY >> 20} MiB"
    return None


def _derive(password: str, salt: bytes, params: KdfParams) -> MasterKey:
    try:
        # Bytes of the environment that are not UTF-8 arrive as surrogate escapes; restic uses them as they are.
        secret = password.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise ValidationError("The password is not valid text. Give one that can be written as UTF-8.") from None
    try:
        derived = hashlib.scrypt(
            secret, salt=salt, n=params.n, r=params.r, p=params.p, dklen=64, maxmem=MAX_KDF_MEMORY + (64 << 20)
        )
    except (ValueError, MemoryError) as error:
        raise KeyFileError(
            f"A key file has scrypt parameters that this machine cannot compute. {KeyFileError.hint}", reason=str(error)
        ) from None
    return MasterKey(derived[:32], derived[32:48], derived[48:])

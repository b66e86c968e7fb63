"""The repository's config file: sealed JSON, never compressed.

Format: restic's design document, "Repository Layout".
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

import msgspec

from backupiq.errors import RepositoryDamagedError, UnsupportedVersionError
from backupiq.repository.gojson import decode_json

VERSION = 2
_DEGREE = 53
_ID = re.compile(r"[0-9a-f]{64}", re.ASCII)
_POLYNOMIAL = re.compile(r"[0-9a-fA-F]{1,16}", re.ASCII)


class _ConfigJson(msgspec.Struct):
    version: int
    id: str
    chunker_polynomial: str


_DECODER = msgspec.json.Decoder(_ConfigJson)


@dataclass(frozen=True, slots=True)
class RepositoryConfig:
    """``id``: 64 hex digits that name the repository; ``chunker_polynomial``: hex, irreducible, of degree 53."""

    version: int
    id: str
    chunker_polynomial: str

    @classmethod
    def new(cls) -> RepositoryConfig:
        """A config with a random id and a random irreducible polynomial."""
        return cls(VERSION, os.urandom(32).hex(), f"{_random_polynomial():x}")


def encode_config(config: RepositoryConfig) -> bytes:
    """The plain JSON, to be sealed as it is."""
    return msgspec.json.encode(_ConfigJson(config.version, config.id, config.chunker_polynomial))


def decode_config(json: bytes) -> RepositoryConfig:
    """Read the plain JSON; keys that are not known are ignored, as restic does.

    Raises UnsupportedVersionError for a version other than 2, RepositoryDamagedError for anything else.
    """
    raw = decode_json(_DECODER, json, RepositoryDamagedError, "The repository's config")
    if raw.version != VERSION:
        version = str(raw.version)[:20]
        raise UnsupportedVersionError(
            f"The repository has format version {version}, and BackupIQ knows version {VERSION}. "
            "Bring an older one up with `restic migrate upgrade_repo_v2`; read a newer one with a newer BackupIQ.",
            version=version,
        )
    if not _ID.fullmatch(raw.id):
        raise RepositoryDamagedError(f"The repository's config has an invalid id. {RepositoryDamagedError.hint}")
    if not _POLYNOMIAL.fullmatch(raw.chunker_polynomial) or not is_irreducible(int(raw.chunker_polynomial, 16)):
        raise RepositoryDamagedError(
            f"The repository's config has an invalid chunker polynomial. {RepositoryDamagedError.hint}"
        )
    return RepositoryConfig(raw.version, raw.id, raw.chunker_polynomial)


# --- polynomials over GF(2), one bit a coefficient -----------------------------------------------------------------


def is_irreducible(polynomial: int) -> bool:
    """Whether the polynomial over GF(2) has no factors: Ben-Or's test, as restic's chunker package does it."""
    degree = polynomial.bit_length() - 1
    if degree < 1:
        return False
    power = 2  # x^(2^i) mod polynomial, beginning at i = 0
    for _ in range(degree // 2):
        power = _square_mod(power, polynomial)
        if _gcd(polynomial, power ^ 2) != 1:
            return False
    return True


def _random_polynomial() -> int:
    # About one in 26 of the odd polynomials of this degree is irreducible; a thousand misses do not happen by chance.
    for _ in range(10_000):
        candidate = int.from_bytes(os.urandom(8), "big") & ((1 << _DEGREE) - 1) | 1 << _DEGREE | 1
        if is_irreducible(candidate):
            return candidate
    raise RepositoryDamagedError("The system's random generator gave no usable numbers. Check this machine.")


def _mod(value: int, modulus: int) -> int:
    length = modulus.bit_length()
    while (shift := value.bit_length() - length) >= 0:
        value ^= modulus << shift
    return value


def _square_mod(value: int, modulus: int) -> int:
    # Squaring over GF(2) spreads the bits: the decimal digits 0 and 1 of the binary form, read as base 4.
    return _mod(int(f"{value:b}", 4), modulus)


def _gcd(a: int, b: int) -> int:
    while b:
        a, b = b, _mod(a, b)
    return a

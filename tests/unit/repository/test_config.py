"""The config file and the polynomial in it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupiq.errors import RepositoryDamagedError, UnsupportedVersionError
from backupiq.repository.config import RepositoryConfig, decode_config, encode_config, is_irreducible

SOUND = {"version": 2, "id": "ab" * 32, "chunker_polynomial": "25b468838dcb75"}


def encoded(**fields: Any) -> bytes:
    return json.dumps(SOUND | fields).encode()


def test_a_config_is_written_as_restic_writes_it() -> None:
    config = RepositoryConfig(2, "ab" * 32, "25b468838dcb75")
    data = encode_config(config)
    assert data == b'{"version":2,"id":"' + b"ab" * 32 + b'","chunker_polynomial":"25b468838dcb75"}'
    assert decode_config(data) == config


def test_new_configs_are_random_and_valid() -> None:
    configs = [RepositoryConfig.new() for _ in range(20)]
    assert len({config.id for config in configs}) == len({config.chunker_polynomial for config in configs}) == 20
    for config in configs:
        assert decode_config(encode_config(config)) == config
        assert int(config.chunker_polynomial, 16).bit_length() == 54


def test_keys_that_other_programs_add_are_ignored() -> None:
    assert decode_config(encoded(append_only=True, chunker={"size": [1, 2]})).id == "ab" * 32


@pytest.mark.parametrize("version", [0, 1, 3, -1, 10**100])
def test_another_version_is_named_as_such(version: int) -> None:
    with pytest.raises(UnsupportedVersionError):
        decode_config(encoded(version=version))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[" * 100_000,
        b"\xff",
        encoded(version="2"),
        encoded(id="short"),
        encoded(id="zz" * 32),
        encoded(id="ab" * 32 + "\n"),
        encoded(chunker_polynomial=5),
        encoded(chunker_polynomial=""),
        encoded(chunker_polynomial="0"),
        encoded(chunker_polynomial="0x25b468838dcb7"),
        encoded(chunker_polynomial="25b468838dcb7_5"),
        encoded(chunker_polynomial="25b468838dcb74"),
        encoded(chunker_polynomial="f" * 17),
    ],
)
def test_a_damaged_config_is_refused(data: bytes) -> None:
    with pytest.raises(RepositoryDamagedError):
        decode_config(data)


def multiply(a: int, b: int) -> int:
    product = 0
    while b:
        if b & 1:
            product ^= a
        a, b = a << 1, b >> 1
    return product


def test_the_irreducible_polynomials_of_small_degree_are_found_exactly() -> None:
    products = {multiply(a, b) for a in range(2, 128) for b in range(2, 128)}
    for polynomial in range(2, 256):
        assert is_irreducible(polynomial) == (polynomial not in products)
    assert not is_irreducible(0)
    assert not is_irreducible(1)


@given(st.integers(2, 1 << 26), st.integers(2, 1 << 26))
def test_a_product_is_never_irreducible(a: int, b: int) -> None:
    assert not is_irreducible(multiply(a, b))


@pytest.mark.parametrize("known", [0x3DA3358B4DC173, 0x25B468838DCB75])
def test_polynomials_that_restic_uses_are_irreducible(known: int) -> None:
    assert is_irreducible(known)

"""Key files: passwords open them, everything else is told apart and bounded."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backupiq.errors import CryptoError, KeyFileError, ValidationError, WrongPasswordError
from backupiq.repository.crypto import MasterKey
from backupiq.repository.keyfile import KdfParams, _derive, create_key_file, open_key_file, parse_key_file

MASTER = MasterKey(bytes(range(1, 33)), bytes(range(33, 49)), bytes(range(49, 65)))
FAST = KdfParams(n=16, r=1, p=1)


def make(opened_by: str = "correct horse", params: KdfParams = FAST) -> bytes:
    return create_key_file(
        MASTER, opened_by, params=params, username="ada <a&b>", hostname="höst", created_ns=1_700_000_000_000_000_001
    )


def changed(**fields: Any) -> bytes:
    return json.dumps(json.loads(make()) | fields).encode()


@given(st.text(min_size=1, max_size=20))
def test_the_password_that_made_a_key_file_opens_it(password: str) -> None:
    assert open_key_file(make(password), password) == MASTER


def test_the_default_parameters_open_too() -> None:
    data = make(params=KdfParams())
    assert parse_key_file(data).params == KdfParams(32_768, 8, 1)
    assert open_key_file(data, "correct horse") == MASTER


def test_the_json_is_written_as_restic_writes_it() -> None:
    data = make()
    head = '{"created":"2023-11-14T22:13:20.000000001Z","username":"ada \\u003ca\\u0026b\\u003e","hostname":"höst",'
    assert data.decode().startswith(head + '"kdf":"scrypt","N":16,"r":1,"p":1,"salt":"')
    assert list(json.loads(data)) == ["created", "username", "hostname", "kdf", "N", "r", "p", "salt", "data"]
    file = parse_key_file(data)
    assert (file.username, file.hostname, len(file.salt)) == ("ada <a&b>", "höst", 64)


def test_two_key_files_of_one_password_share_nothing() -> None:
    one, other = parse_key_file(make()), parse_key_file(make())
    assert one.salt != other.salt
    assert one.data != other.data


def test_neither_the_password_nor_the_key_stands_in_the_file() -> None:
    data = make("correct horse")
    for secret in (b"correct horse", base64.b64encode(MASTER.encrypt), MASTER.encrypt.hex().encode()):
        assert secret not in data


@pytest.mark.parametrize("password", ["", "wrong", "correct horse ", "Correct horse", "correct horse\n"])
def test_another_password_is_told_so(password: str) -> None:
    with pytest.raises(WrongPasswordError) as caught:
        open_key_file(make(), password)
    assert caught.value.exit_code == 12
    assert "correct horse" not in str(caught.value.to_dict())


def test_a_password_of_the_environment_that_is_not_text_is_used_byte_for_byte() -> None:
    derived = _derive(b"p\xe4ss".decode("utf-8", "surrogateescape"), bytes(64), FAST)
    sealed = derived.seal(b"x")
    with pytest.raises(CryptoError):
        _derive("päss", bytes(64), FAST).open(sealed)
    assert derived.open(sealed) == b"x"
    with pytest.raises(ValidationError):
        open_key_file(make(), "\ud800")


@pytest.mark.parametrize(
    "fields",
    [
        {"kdf": "argon2"},
        {"kdf": None},
        {"salt": base64.b64encode(bytes(63)).decode()},
        {"salt": "not base64"},
        {"data": ""},
        {"data": base64.b64encode(bytes(31)).decode()},
        {"N": 0},
        {"N": 1},
        {"N": -2},
        {"N": 17},
        {"N": "16"},
        {"N": 1 << 200},
        {"r": 0},
        {"p": -1},
        {"p": 1.5},
        {"N": 1 << 23},
        {"N": 1 << 20, "r": 8, "p": 2},
        {"N": 2, "r": 1 << 23},
        {"N": 1 << 31, "r": 1 << 31, "p": 1 << 31},
    ],
    ids=str,
)
def test_a_key_file_that_is_damaged_or_asks_too_much_is_refused_before_any_work(fields: dict[str, Any]) -> None:
    with pytest.raises(KeyFileError):
        open_key_file(changed(**fields), "correct horse")


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"null", b"\xff", b"{" * 100_000, b" " * 100_000])
def test_what_is_no_key_file_is_refused(data: bytes) -> None:
    with pytest.raises(KeyFileError):
        parse_key_file(data)


@pytest.mark.parametrize(
    "plain",
    [
        b"",
        b"{}",
        b'{"mac":{"k":"","r":""},"encrypt":""}',
        json.dumps({"mac": {"k": "AA==", "r": "AA=="}, "encrypt": "AA=="}).encode(),
        json.dumps(
            {"mac": {"k": base64.b64encode(bytes(16)).decode(), "r": base64.b64encode(b"r" * 16).decode()}}
            | {"encrypt": base64.b64encode(b"e" * 32).decode()}
        ).encode(),
    ],
)
def test_a_sealed_part_that_is_no_master_key_is_damage_and_not_a_wrong_password(plain: bytes) -> None:
    salt = bytes(64)
    sealed = _derive("pw", salt, FAST).seal(plain)
    data = changed(salt=base64.b64encode(salt).decode(), data=base64.b64encode(sealed).decode())
    with pytest.raises(KeyFileError):
        open_key_file(data, "pw")


def test_a_changed_byte_in_the_sealed_part_looks_like_a_wrong_password() -> None:
    sealed = bytearray(parse_key_file(make()).data)
    sealed[40] ^= 1
    with pytest.raises(WrongPasswordError):
        open_key_file(changed(data=base64.b64encode(sealed).decode()), "correct horse")


@settings(max_examples=25)
@given(st.integers(-4, 1 << 40), st.integers(-4, 1 << 40), st.integers(-4, 1 << 40))
def test_no_key_file_is_made_that_could_not_be_opened(n: int, r: int, p: int) -> None:
    params = KdfParams(n, r, p)
    if n > 1 and n & (n - 1) == 0 and r > 0 and p > 0 and params.memory <= 1 << 20:
        assert open_key_file(make(params=params), "correct horse") == MASTER
    elif n <= 1 or n & (n - 1) or r <= 0 or p <= 0 or params.memory > 1 << 30:
        with pytest.raises(ValidationError):
            make(params=params)


def test_an_empty_password_makes_no_key_file() -> None:
    with pytest.raises(ValidationError):
        make("")

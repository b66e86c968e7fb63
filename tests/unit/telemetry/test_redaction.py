"""No secret passes, and what is none stays readable."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, SecretBytes, SecretStr

from backupiq.errors import StorageError
from backupiq.telemetry import redact, redact_text, register_secret
from backupiq.telemetry import redaction as module
from backupiq.telemetry.redaction import MASK, MAX_TEXT, names_a_secret, redact_mapping

AWS_SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test begins without registered secrets."""
    monkeypatch.setattr(module, "_registry", module._Registry())


# --- keys that name a secret ---------------------------------------------------------------------------------------

SECRET_NAMES = [
    "password", "repository_password", "PASSWORD", "passwd", "passphrase", "pwd", "secret", "client_secret",
    "aws_secret_access_key", "secret_access_key", "access_key", "access_key_id_secret", "token", "session_token",
    "refresh-token", "api_key", "apikey", "api-key", "account_key", "AccountKey", "private_key", "encryption_key",
    "master_key", "mac_key", "key_material", "authorization", "Authorization", "Proxy-Authorization", "auth",
    "connection_string", "connectionString", "sas", "sas_token", "container_sas", "credentials", "aws_credentials",
    "service_account_credential", "cookie", "Set-Cookie", "signature", "shared_access_signature", "ssh_key",
]  # fmt: skip
PLAIN_NAMES = [
    "key", "key_id", "keys", "path", "destination", "pack", "snapshot", "author", "passed", "bytes", "sasquatch",
    "compass", "password_file", "token_count", "secrets_found", "monkey", "run_id", "size",
]  # fmt: skip


@pytest.mark.parametrize("name", SECRET_NAMES)
@pytest.mark.parametrize("value", ["hunter2", 12345, b"hunter2", ["hunter2"], {"a": "hunter2"}])
def test_a_value_under_a_key_that_names_a_secret_is_hidden(name: str, value: object) -> None:
    assert redact_mapping({name: value}) == {name: MASK}


@pytest.mark.parametrize("name", PLAIN_NAMES)
def test_a_value_under_another_key_is_shown(name: str) -> None:
    assert not names_a_secret(name)
    assert redact_mapping({name: "value"}) == {name: "value"}


def test_secrets_are_hidden_at_any_depth_and_shapes_are_kept() -> None:
    event = {"options": [{"endpoint": "http://x", "password": "a"}, ("b", {"token": "c"})], "ok": True, "none": None}
    assert redact(event) == {
        "options": [{"endpoint": "http://x", "password": MASK}, ["b", {"token": MASK}]],
        "ok": True,
        "none": None,
    }


def test_that_there_is_no_secret_is_no_secret() -> None:
    assert redact_mapping({"password": None, "token": False}) == {"password": None, "token": False}


# --- objects -------------------------------------------------------------------------------------------------------


def test_pydantic_secrets_are_hidden_wherever_they_stand() -> None:
    class Settings(BaseModel):
        endpoint: str
        phrase: SecretStr

    hidden = redact(
        {
            "a": SecretStr("hunter2"),
            "b": [SecretBytes(b"hunter2")],
            "c": Settings(endpoint="e", phrase=SecretStr("hunter2")),
        }
    )
    assert "hunter2" not in json.dumps(hidden)
    assert hidden["a"] == MASK
    assert hidden["b"] == [MASK]


def test_an_object_is_shown_by_its_text_without_secrets() -> None:
    class Client:
        def __repr__(self) -> str:
            return "Client(url='http://me:hunter2@host', password='hunter2')"

    assert redact(Client()) == f"Client(url='http://me:{MASK}@host', password='{MASK}')"
    assert redact(Path("/a/b")) == "/a/b"
    assert redact(StorageError("It failed: token=hunter2")) == f"It failed: token={MASK}"


def test_an_object_that_cannot_be_shown_does_no_harm() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError("hunter2")

    assert redact(Broken()) == "<Broken that cannot be shown: RuntimeError>"


def test_bytes_are_shown_as_text_that_json_can_hold() -> None:
    assert redact(b"/caf\xc3\xa9/\xff") == "/café/\\xff"


def test_a_structure_without_end_is_cut() -> None:
    endless: list[object] = []
    endless.append(endless)
    assert len(json.dumps(redact(endless))) < 1000
    assert len(redact({"many": range(3)})) == 1
    assert len(redact(["x"] * 10_000)) == module.MAX_ITEMS


# --- free text -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("at https://me:hunter2@host:8333/b?x=1", f"at https://me:{MASK}@host:8333/b?x=1"),
        ("postgresql+asyncpg://u:hunter@2@db/x", f"postgresql+asyncpg://u:{MASK}@db/x"),
        ("redis://:hunter2@host/0", f"redis://:{MASK}@host/0"),
        (f"DefaultEndpointsProtocol=https;AccountName=me;AccountKey={AZURE_KEY};EndpointSuffix=core",
         f"DefaultEndpointsProtocol=https;AccountName=me;AccountKey={MASK};EndpointSuffix=core"),
        ("https://me.blob.core.windows.net/c?sv=2020&sig=hunter2%2Fx%3D&se=1",
         f"https://me.blob.core.windows.net/c?sv=2020&sig={MASK}&se=1"),
        ("https://b.s3.aws/k?X-Amz-Credential=hunter2&X-Amz-Date=1&X-Amz-Signature=hunter2",
         f"https://b.s3.aws/k?X-Amz-Credential={MASK}&X-Amz-Date=1&X-Amz-Signature={MASK}"),
        (f"aws_secret_access_key = {AWS_SECRET}", f"aws_secret_access_key = {MASK}"),
        (f"refused for {AWS_SECRET}, sorry", f"refused for {MASK}, sorry"),
        ("user AKIAIOSFODNN7EXAMPLE is unknown", f"user {MASK} is unknown"),
        ("Authorization: Bearer abcdef.ghijkl", f"Authorization: {MASK} {MASK}"),
        ("header Bearer abcdef.ghijkl", f"header Bearer {MASK}"),
        ('{"password": "hunter2", "n": 1}', f'{{"password": "{MASK}", "n": 1}}'),
        ("{'token': 'hun ter2'}", f"{{'token': '{MASK}'}}"),
        ("password=hunter2 next", f"password={MASK} next"),
        ("RESTIC_PASSWORD=hunter2", f"RESTIC_PASSWORD={MASK}"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.hunter2hunter2", MASK),
        ("key pnu_0123456789abcdefghijklmnopqrstuvwxyz", f"key {MASK}"),
        ("ghp_0123456789abcdefghijklmnopqrstuvwxyz", MASK),
        ("a\n-----BEGIN RSA PRIVATE KEY-----\nhunter2\n-----END RSA PRIVATE KEY-----\nb", f"a\n{MASK}\nb"),
        ("-----BEGIN PRIVATE KEY-----\nhunter2 cut off", MASK),
    ],
)  # fmt: skip
def test_a_secret_that_betrays_itself_in_text_is_hidden(text: str, expected: str) -> None:
    assert redact_text(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "stored data/ab/" + "0123456789abcdef" * 4,
        "commit da39a3ee5e6b4b0d3255bfef95601890afd80709 is there",
        "/usr/share/doc/libsomething/changelog.gz",
        "https://host:8333/bucket/a@b",
        "ssh://git@host/x",
        "The destination is full. Free space there or raise its quota, then run the command again.",
        "password_file=/etc/backupiq/password",
        "C:\\Users\\me: 12:30:45",
        "",
        "abc",
    ],
)
def test_text_without_secrets_is_left_as_it_is(text: str) -> None:
    assert redact_text(text) == text


def test_long_text_is_cut_after_known_secrets_are_gone() -> None:
    register_secret("correct horse")
    text = "x" * (MAX_TEXT // 2 - 5) + "correct horse" + "y" * MAX_TEXT
    cut = redact_text(text)
    assert len(cut) < MAX_TEXT + 100
    assert "corre" not in cut
    assert "characters left out" in cut


@pytest.mark.parametrize(
    "part",
    [
        "a",
        "password",
        "a=",
        "'",
        "x://",
        "eyJ",
        '"\\',
        "pwd:'",
        "-----BEGIN ",
        "-----BEGIN PRIVATE KEY-----",
        "eyJa.",
        "a:/",
    ],
)
def test_hostile_text_costs_little(part: str) -> None:
    # Each of these would take hours with a pattern that backtracks without bound; finishing is the test.
    assert isinstance(redact_text(part * (60_000 // len(part))), str)


# --- registered secrets --------------------------------------------------------------------------------------------

PASSWORD = "correct horse 'battery' \"staple\" $HOME é€😀"


@pytest.mark.parametrize(
    "spelling",
    [
        PASSWORD,
        quote(PASSWORD, safe=""),
        quote_plus(PASSWORD),
        json.dumps(PASSWORD),
        json.dumps(PASSWORD, ensure_ascii=False),
        repr(PASSWORD),
        ascii(PASSWORD),
        repr(PASSWORD.encode()),
        PASSWORD.replace("'", "'\"'\"'"),
        base64.b64encode(PASSWORD.encode()).decode(),
    ],
)
def test_a_registered_secret_is_hidden_in_every_spelling(spelling: str) -> None:
    register_secret(PASSWORD)
    shown = redact_text(f"<{spelling}>")
    assert MASK in shown
    assert "horse" not in shown
    assert "staple" not in shown
    assert base64.b64encode(PASSWORD.encode()).decode() not in shown


def test_a_registered_secret_is_hidden_in_keys_values_bytes_and_objects() -> None:
    register_secret("xyzzy plugh")
    event = {
        "xyzzy plugh": 1,
        "path": b"/a/xyzzy plugh/b",
        "list": ["xyzzy plugh", ("xyzzy plugh",), {"deep": "xyzzy plugh"}],
        "error": ValueError("xyzzy plugh"),
        "file": Path("/xyzzy plugh"),
        ("xyzzy plugh", 2): 3,
    }
    assert "xyzzy" not in json.dumps(redact(event))


@given(
    st.text(min_size=4, max_size=30).filter(lambda text: len(text.strip()) >= 4),
    st.text(max_size=20),
    st.text(max_size=20),
)
def test_any_registered_secret_is_hidden_between_any_text(secret: str, before: str, after: str) -> None:
    module._registry = module._Registry()
    register_secret(secret)
    shown = redact_text(f"{before}{secret}{after}")
    # What is left may hold the secret only where the mask and the text around it spell it anew.
    assert shown.count(MASK) >= 1
    assert f"{before}{secret}{after}" != shown or secret == MASK


def test_the_longer_of_two_secrets_is_hidden_whole() -> None:
    register_secret("hunter")
    register_secret("hunter2-and-more")
    assert redact_text("is hunter2-and-more here") == f"is {MASK} here"
    assert redact_text("is hunter here") == f"is {MASK} here"


def test_a_very_short_secret_is_hidden_where_it_stands_alone() -> None:
    register_secret("ab")
    assert redact_text("about ab, cab") == f"about {MASK}, cab"


def test_a_key_of_many_lines_is_hidden_line_by_line() -> None:
    register_secret("first-line-of-the-key\n  second-line-of-the-key\n")
    assert redact_text("  > second-line-of-the-key") == f"  > {MASK}"


def test_an_empty_secret_changes_nothing() -> None:
    register_secret("")
    register_secret("  \n")
    assert redact_text("all is  readable") == "all is  readable"


def test_a_secret_that_is_no_valid_text_is_hidden_too() -> None:
    register_secret("pass\udcffword!")
    assert "word!" not in redact_text("it was pass\udcffword!")
    assert "word!" not in str(redact(b"it was pass\xffword!"))

"""Finding secrets: what is found where, what is kept of it, what is worth reading."""

from __future__ import annotations

import base64
import hmac
import json
import random
import subprocess
import sys

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    pkcs12,
)
from hypothesis import given
from hypothesis import strategies as st

from backupiq.errors import ValidationError
from backupiq.semantics.entropy import shannon_entropy
from backupiq.semantics.model import UNKNOWN, Category, FileType, Finding, Severity
from backupiq.semantics.secret_rules import load_rules
from backupiq.semantics.secrets import MAX_FINDINGS, MAX_LINE, OVERLAP, SecretScanner, may_hold_secrets

KEY = b"0123456789abcdef"
HOME = b"/home/anna/"
DRAW = random.Random()
LETTERS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


@pytest.fixture
def scanner() -> SecretScanner:
    return SecretScanner(KEY)


@pytest.fixture(autouse=True)
def the_same_secrets_in_every_run() -> None:
    DRAW.seed(2026)  # a random one can hold a word that rules take for harmless


def letters(count: int) -> str:
    return "".join(DRAW.choices(LETTERS, k=count))


def github_token() -> str:
    return "gh" + "p_" + letters(36)


def rules_found(scanner: SecretScanner, path: bytes, data: bytes) -> set[str]:
    return {finding.rule for finding in scanner.scan(path, data)}


# --- private keys made by a real library ---------------------------------------------------------------------------

RSA_KEY = rsa.generate_private_key(65537, 1024)  # noqa: S505 - the form is what matters
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()


@pytest.mark.parametrize("key", [RSA_KEY, EC_KEY, ED_KEY], ids=["rsa", "ec", "ed25519"])
@pytest.mark.parametrize(
    ("form", "encryption"),
    [
        (PrivateFormat.PKCS8, NoEncryption()),
        (PrivateFormat.PKCS8, BestAvailableEncryption(b"pw")),
        (PrivateFormat.OpenSSH, NoEncryption()),
    ],
    ids=["pkcs8", "encrypted", "openssh"],
)
def test_a_private_key_in_pem_is_found(scanner: SecretScanner, key: object, form: object, encryption: object) -> None:
    pem = key.private_bytes(Encoding.PEM, form, encryption)  # type: ignore[attr-defined]
    found = scanner.scan(HOME + b".ssh/id_work", b"# my key\n\n" + pem)
    assert [(finding.rule, finding.line, finding.severity) for finding in found] == [("private-key", 3, Severity.HIGH)]


@pytest.mark.parametrize("key", [RSA_KEY, EC_KEY, ED_KEY], ids=["rsa", "ec", "ed25519"])
def test_a_private_key_in_der_is_found_by_its_structure(scanner: SecretScanner, key: object) -> None:
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())  # type: ignore[attr-defined]
    assert rules_found(scanner, HOME + b"whatever.bin", der) == {"der-private-key"}


@pytest.mark.parametrize("key", [RSA_KEY, EC_KEY], ids=["pkcs1", "sec1"])
def test_the_older_forms_in_der_are_found_too(scanner: SecretScanner, key: object) -> None:
    der = key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())  # type: ignore[attr-defined]
    assert rules_found(scanner, HOME + b"whatever.bin", der) == {"der-private-key"}


def test_a_pkcs12_file_is_found_and_a_public_key_is_not(scanner: SecretScanner) -> None:
    packed = pkcs12.serialize_key_and_certificates(b"me", RSA_KEY, None, None, BestAvailableEncryption(b"pw"))
    assert rules_found(scanner, HOME + b"me.p12", packed) == {"pkcs12-file"}
    for encoding in (Encoding.PEM, Encoding.DER):
        public = RSA_KEY.public_key().public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)
        assert scanner.scan(HOME + b"public.key", public) == []


def test_a_service_account_of_google_cloud_is_told_from_other_keys(scanner: SecretScanner) -> None:
    pem = RSA_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    account = {"type": "service_account", "private_key_id": DRAW.randbytes(20).hex(), "private_key": pem}
    found = rules_found(scanner, HOME + b"gcp.json", json.dumps(account, indent=1).encode())
    assert found >= {"gcp-service-account", "private-key"}


# --- credentials in files that programs keep -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "text", "rule"),
    [
        (b".netrc", "machine example.org login anna password {}", "netrc-password"),
        (b".pgpass", "db.example.org:5432:*:anna:{}", "pgpass-password"),
        (b".my.cnf", "[client]\nuser=anna\npassword={}", "mysql-client-password"),
        (b".npmrc", "//registry.example.org/:_authToken={}", "npmrc-credentials"),
        (b".pypirc", "[server]\nusername: anna\npassword: {}", "pypirc-password"),
        (b".git-credentials", "https://anna:{}@git.example.org", "git-credentials"),
        (b".env", "export DATABASE_PASSWORD='{}'", "dotenv-secret"),
        (b".kube/config", "users:\n- name: anna\n  user:\n    token: {}", "kubeconfig-token"),
        (b".aws/credentials", "[default]\naws_secret_access_key = {}", "aws-secret-access-key"),
        (b"wg0.conf", "[Interface]\nPrivateKey = {}", "wireguard-private-key"),
        (b"notes.md", "psql postgres://anna:{}@db.example.org/shop", "url-password"),
    ],
    ids=lambda value: value if isinstance(value, str) and "{}" not in value else "",
)
def test_a_password_where_a_program_keeps_it_is_found(
    scanner: SecretScanner, path: bytes, text: str, rule: str
) -> None:
    key = base64.b64encode(DRAW.randbytes(32)).decode()
    secret = {"wireguard-private-key": key, "aws-secret-access-key": letters(40)}.get(rule, letters(20))
    assert rule in rules_found(scanner, HOME + path, (text.format(secret) + "\n").encode())
    assert rule not in rules_found(scanner, HOME + path, (text.format("${SECRET}") + "\n").encode())


def test_a_line_of_a_netrc_is_nothing_in_another_file(scanner: SecretScanner) -> None:
    line = b"my password lives elsewhere\n"
    assert rules_found(scanner, HOME + b".netrc", line) == {"netrc-password"}
    assert scanner.scan(HOME + b"diary.txt", line) == []


def test_a_hash_of_a_password_is_found_as_htpasswd_and_shadow_have_it(scanner: SecretScanner) -> None:
    for made in ("$ap" + "r1$" + letters(8) + "$" + letters(22), "$2" + "y$10$" + letters(53)):
        assert rules_found(scanner, HOME + b"web/users", f"anna:{made}\n".encode()) == {"password-hash"}
    assert rules_found(scanner, b"/etc/shadow", b"daemon:*:19000:0:99999:7:::\n") == set()


# --- what is kept of a secret --------------------------------------------------------------------------------------


def test_a_finding_holds_rule_line_severity_and_a_keyed_hash_and_no_secret(scanner: SecretScanner) -> None:
    token = github_token()
    (found,) = scanner.scan(HOME + b"notes.txt", f"one\ntwo\nthree {token}\n".encode())
    expected = hmac.digest(KEY, b"github-pat\0" + token.encode(), "sha256").hex()[:16]
    assert found == Finding(3, "github-pat", Severity.HIGH, expected)
    kept = msgspec.json.encode(found).decode() + repr(found)
    assert not any(token[begin : begin + 6] in kept for begin in range(4, len(token) - 6))


def test_the_same_secret_has_the_same_hash_in_every_file_and_only_with_the_same_key() -> None:
    token = github_token().encode()
    first = SecretScanner(KEY).scan(b"/a", token)[0].hash
    assert SecretScanner(KEY).scan(b"/other/b.py", b"x = '" + token + b"'\n")[0].hash == first
    assert SecretScanner(b"another key, 16+").scan(b"/a", token)[0].hash != first
    assert SecretScanner(KEY).scan(b"/a", github_token().encode())[0].hash != first


def test_line_ends_of_windows_do_not_make_another_key_of_it(scanner: SecretScanner) -> None:
    pem = EC_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    there = scanner.scan(b"/k", pem)
    assert there == scanner.scan(b"/k", pem.replace(b"\n", b"\r\n"))
    assert there


def test_a_scanner_shows_nothing_of_its_key() -> None:
    scanner = SecretScanner(b"a key that nobody may see")
    assert "nobody" not in repr(scanner) + str(scanner) + f"{scanner!s}"
    assert not hasattr(scanner, "__dict__")


def test_a_key_that_is_too_short_is_refused() -> None:
    with pytest.raises(ValidationError, match="at least 16 bytes"):
        SecretScanner(b"short")


# --- the text around a secret --------------------------------------------------------------------------------------


def test_text_in_utf16_is_read_as_text(scanner: SecretScanner) -> None:
    text = f"first\n{github_token()}\n"
    for encoding in ("utf-16", "utf-16-le", "utf-16-be"):
        mark = b"" if encoding == "utf-16" else "\ufeff".encode(encoding)
        found = scanner.scan(b"/x.reg", mark + text.encode(encoding))
        assert [(finding.rule, finding.line) for finding in found] == [("github-pat", 2)]
    assert scanner.scan(b"/x", text.encode("utf-16"))[0].hash == scanner.scan(b"/x", text.encode())[0].hash


def test_binary_data_is_not_searched_as_text(scanner: SecretScanner) -> None:
    token = github_token().encode()
    assert scanner.scan(b"/x.bin", b"\x7fELF\0\0\0" + token + b"\n") == []
    assert scanner.scan(b"/x.txt", b"\x7fELF\1\1\1" + token + b"\n") != []


@pytest.mark.parametrize("place", [MAX_LINE - 20, MAX_LINE - OVERLAP, MAX_LINE - 4, 3 * MAX_LINE, 10])
def test_a_secret_in_a_very_long_line_is_found_once_wherever_a_window_is_cut(
    scanner: SecretScanner, place: int
) -> None:
    token = github_token().encode()
    line = b"-" * place + token + b"-" * (5 * MAX_LINE - place)
    (found,) = scanner.scan(b"/x.js", line)
    assert found.hash == scanner.scan(b"/y", token)[0].hash


def test_a_secret_is_found_when_it_is_all_there_is(scanner: SecretScanner) -> None:
    for begin, end in ((b"", b""), (b"\n", b""), (b"", b"\n"), (b"\xff\xfe=", b"\xc3")):
        assert rules_found(scanner, b"/x", begin + github_token().encode() + end) == {"github-pat"}


def test_a_weak_finding_is_left_out_where_a_better_one_covers_it(scanner: SecretScanner) -> None:
    found = rules_found(scanner, b"/x.py", f"api_token = '{github_token()}'\n".encode())
    assert found == {"github-pat"}


def test_a_name_behind_the_value_of_another_is_still_looked_for(scanner: SecretScanner) -> None:
    text = f'adobe = "launchdarkly_token": "{letters(40).lower()}"\n'
    assert "launchdarkly-access-token" in rules_found(scanner, b"/x.txt", text.encode())


def test_lists_of_checksums_make_no_noise(scanner: SecretScanner) -> None:
    line = b'{"token": "' + DRAW.randbytes(24).hex().encode() + b'"}\n'
    assert rules_found(scanner, b"/shop/config.json", line) == {"generic-api-key"}
    assert scanner.scan(b"/shop/package-lock.json", line) == []


def test_a_file_full_of_secrets_keeps_the_severest_findings(scanner: SecretScanner) -> None:
    weak = "".join(f"auth_token_{number} = '{letters(32)}'\n" for number in range(2 * MAX_FINDINGS))
    strong = "".join(f"{github_token()}\n" for _ in range(MAX_FINDINGS))
    found = scanner.scan(b"/x.txt", (weak + strong).encode())
    assert len(found) == MAX_FINDINGS
    assert {finding.rule for finding in found} == {"github-pat"}
    assert [finding.line for finding in found] == list(range(2 * MAX_FINDINGS + 1, 3 * MAX_FINDINGS + 1))


def test_the_same_secret_twice_on_a_line_is_one_finding_and_on_two_lines_two(scanner: SecretScanner) -> None:
    token = github_token().encode()
    assert [finding.line for finding in scanner.scan(b"/x", token + b" " + token + b"\n" + token)] == [1, 2]


# --- any bytes -----------------------------------------------------------------------------------------------------

PIECES = [word for rule in load_rules().rules for word in rule.keywords] + ["=", ": '", '"', "\n", "-----BEGIN", "\0"]


@given(st.lists(st.one_of(st.binary(max_size=60), st.sampled_from(PIECES).map(str.encode)), max_size=30), st.binary())
def test_any_bytes_are_scanned_without_an_error(parts: list[bytes], path: bytes) -> None:
    data = b"".join(parts)
    found = SecretScanner(KEY).scan(path, data)
    assert len(found) <= MAX_FINDINGS
    assert found == sorted(set(found))
    assert all(1 <= finding.line <= data.count(b"\n") + 1 and len(finding.hash) == 16 for finding in found)


@given(st.binary(max_size=100), st.integers(-1, 1 << 40))
def test_any_name_is_judged_without_an_error(path: bytes, size: int) -> None:
    assert may_hold_secrets(path, UNKNOWN, size) in (True, False)


@given(st.binary(max_size=300))
def test_entropy_is_between_0_and_8_bits_and_does_not_depend_on_the_order(data: bytes) -> None:
    entropy = shannon_entropy(data)
    assert 0 <= entropy <= 8
    assert entropy == pytest.approx(shannon_entropy(bytes(sorted(data))))


def test_entropy_of_known_texts() -> None:
    assert shannon_entropy(b"") == shannon_entropy(b"aaaa") == 0
    assert shannon_entropy(b"abab") == pytest.approx(1)
    assert shannon_entropy(bytes(range(256))) == pytest.approx(8)


# --- what is worth reading -----------------------------------------------------------------------------------------

PYTHON = FileType("Python", Category.CODE, "text/x-python", "extension", 100)
PICTURE = FileType("PNG", Category.IMAGE, "image/png", "signature", 100)
JSON = FileType("JSON", Category.DATA, "application/json", "extension", 100)
PARQUET = FileType("Parquet", Category.DATA, "application/vnd.apache.parquet", "extension", 100)
LETTER = FileType("Word", Category.DOCUMENT, "application/msword", "extension", 100)
NOTES = FileType("Text", Category.DOCUMENT, "text/plain", "extension", 100)
MIB = 1 << 20


@pytest.mark.parametrize(
    ("path", "found", "size", "expected"),
    [
        (b"/shop/app.py", PYTHON, 4000, True),
        (b"/shop/app.py", PYTHON, MIB, True),
        (b"/shop/app.py", PYTHON, MIB + 1, False),
        (b"/shop/app.py", PYTHON, 0, False),
        (b"/shop/data.json", JSON, 4000, True),
        (b"/shop/data.parquet", PARQUET, 4000, False),
        (b"/shop/logo.png", PICTURE, 4000, False),
        (b"/letters/bank.doc", LETTER, 4000, False),
        (b"/letters/bank.txt", NOTES, 4000, True),
        (b"/shop/unknown", UNKNOWN, 4000, True),
        (b"/shop/unknown", UNKNOWN, 400_000, False),
        (b"/home/anna/.ssh/id_rsa", UNKNOWN, 4000, True),
        (b"/home/anna/.ENV", UNKNOWN, 40 * MIB, True),
        (b"/shop/.env.production", UNKNOWN, 400, True),
        (b"/keys/server.PEM", PICTURE, 4000, True),
        (b"/passwords.kdbx", UNKNOWN, 40 * MIB, True),
        (b"/shop/node_modules/x/key.pem", UNKNOWN, 4000, False),
        (b"/venv/lib/python3.11/site-packages/x.py", PYTHON, 4000, False),
        (b"/shop/package-lock.json", JSON, 4000, False),
    ],
)
def test_which_files_are_worth_reading(path: bytes, found: FileType, size: int, expected: bool) -> None:
    assert may_hold_secrets(path, found, size) is expected


def test_nothing_is_loaded_before_the_first_file_is_scanned() -> None:
    program = (
        "import sys; from backupiq.semantics import secrets; before = 're2' in sys.modules;"
        "secrets.SecretScanner(b'k' * 16).scan(b'/x', b'text'); print(before, 're2' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_the_rules_are_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_rules() is load_rules()
    with pytest.raises(TypeError, match="loaded in each process"):
        load_rules().__reduce__()

"""Every rule finds a right case and lets a near miss go, and the data of the rules says where it comes from."""

from __future__ import annotations

import re

import pytest

from backupiq.semantics.model import Severity
from backupiq.semantics.secret_rules import RuleBook, SecretRule, load_rules
from backupiq.semantics.secrets import SecretScanner
from tests.support import make_secret_rules
from tests.support.programs import ROOT
from tests.unit.semantics.secret_cases import Case, case_of, without_keywords

SEEDS = 30
"""Draws for a right case: a random one can hold what a rule takes for harmless."""
NOWHERE = b"/home/anna/plain.txt"
LETTERLESS = "\x01"
"""A character of no token's alphabet."""

# Values that may hold any character, so that none of them is wrong.
ANY_ALPHABET = {
    "azure-publish-password",
    "azure-token-cache",
    "cargo-credentials",
    "django-secret-key",
    "dotenv-secret",
    "filezilla-password",
    "freemius-secret-key",
    "gcp-service-account",
    "git-credentials",
    "kubeconfig-token",
    "mail-client-password",
    "mysql-client-password",
    "netrc-password",
    "npmrc-credentials",
    "nuget-config-password",
    "openvpn-static-key",
    "pgpass-password",
    "private-key",
    "pypirc-password",
    "rclone-config",
    "s3-tool-config",
    "smb-credentials",
    "ssh2-private-key",
    "url-password",
    "wifi-password",
    "wordpress-secret",
}
# What is fixed in them varies more than they ask for.
FIXED_PART_VARIES = {
    "aws-amazon-bedrock-api-key-short-lived",
    "flutterwave-encryption-key",
    "flutterwave-public-key",
    "slack-app-token",
    "slack-legacy-token",
    "stripe-access-token",
}

RULES = load_rules().rules
TEXT_RULES = [rule for rule in RULES if not rule.container]


@pytest.fixture(scope="module")
def book() -> RuleBook:
    return load_rules()


@pytest.fixture(scope="module")
def scanner() -> SecretScanner:
    return SecretScanner(b"key of the tests")


def finds(scanner: SecretScanner, rule: SecretRule, path: bytes, data: bytes) -> bool:
    return any(finding.rule == rule.id for finding in scanner.scan(path, data))


def right_case(scanner: SecretScanner, rule: SecretRule) -> Case:
    for seed in range(SEEDS):
        case = case_of(rule, seed)
        if finds(scanner, rule, case.path, case.data):
            return case
    raise AssertionError(f"none of {SEEDS} secrets drawn from the pattern of {rule.id} is found")


@pytest.mark.parametrize("rule", TEXT_RULES, ids=lambda rule: rule.id)
def test_a_rule_finds_a_right_case_and_lets_near_misses_go(rule: SecretRule, scanner: SecretScanner) -> None:
    case = right_case(scanner, rule)
    found = [finding for finding in scanner.scan(case.path, case.data) if finding.rule == rule.id]
    assert {finding.severity for finding in found} == {rule.severity}
    assert not finds(scanner, rule, case.path, case.with_secret(case.secret[: max(0, case.least - 3)])), "too short"
    if rule.id not in ANY_ALPHABET:
        half = case.least // 2
        broken = case.secret[:half] + LETTERLESS + case.secret[half + 1 : case.least]
        assert not finds(scanner, rule, case.path, case.with_secret(broken)), "another alphabet"
    if rule.keywords:
        assert not finds(scanner, rule, case.path, without_keywords(rule, case.data)), "another name"
    if rule.endings:
        assert not finds(scanner, rule, NOWHERE, case.data), "another path"


@pytest.mark.parametrize("rule", [rule for rule in TEXT_RULES if rule.entropy], ids=lambda rule: rule.id)
def test_a_secret_that_hardly_varies_is_none(rule: SecretRule, scanner: SecretScanner) -> None:
    dull = [case_of(rule, seed, varied=False) for seed in range(3)]
    seen = [finds(scanner, rule, case.path, case.data) for case in dull]
    assert all(seen) if rule.id in FIXED_PART_VARIES else not all(seen)


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule.container], ids=lambda rule: rule.id)
def test_a_container_is_told_by_how_it_begins(rule: SecretRule, scanner: SecretScanner) -> None:
    case = right_case(scanner, rule)
    assert [finding.line for finding in scanner.scan(case.path, case.data) if finding.rule == rule.id] == [1]
    assert not finds(scanner, rule, case.path, b"\x7f" + case.data), "the signature is not at the beginning"
    assert not finds(scanner, rule, case.path, case.data[:1] + b"\xff" * 64), "another signature"


def test_the_rules_are_gitleaks_and_our_own(book: RuleBook) -> None:
    ids = [rule.id for rule in book.rules]
    assert len(set(ids)) == len(ids)
    assert sum(rule.source == "gitleaks" for rule in book.rules) == 221
    assert sum(rule.source == "own" for rule in book.rules) >= 55
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) for name in ids)
    assert all(rule.title and rule.title.strip() == rule.title for rule in book.rules)
    needed = {"private-key", "putty-private-key", "netrc-password", "pgpass-password", "aws-access-token"}
    needed |= {"aws-secret-access-key", "gcp-service-account", "azure-storage-key", "kubeconfig-client-key"}
    assert set(ids) >= needed | {"npmrc-credentials", "password-hash", "keepass-database", "java-keystore"}


def test_what_is_often_something_else_is_of_low_severity(book: RuleBook) -> None:
    by_id = {rule.id: rule for rule in book.rules}
    assert by_id["generic-api-key"].severity is Severity.LOW
    assert by_id["discord-client-id"].severity is Severity.LOW
    assert by_id["private-key"].severity is Severity.HIGH
    assert [rule.id for rule in book.always] == ["generic-api-key"]


def test_the_data_names_its_source_and_licence() -> None:
    text = make_secret_rules.DATA.read_text()
    for word in ("gitleaks", "MIT", "Zachary Rice", "commit", "2026-"):
        assert word in text.partition('"rules"')[0]


def test_the_page_says_what_the_rules_are() -> None:
    page = make_secret_rules.PAGE.read_text()
    table = page.partition(make_secret_rules.BEGIN)[2].partition(make_secret_rules.END)[0]
    assert table == f"\n{make_secret_rules.render()}\n", "run `python -m tests.support.make_secret_rules page`"


def test_a_patterns_search_space_is_small_enough_for_its_memory(book: RuleBook) -> None:
    for rule in book.rules:
        assert book.pattern(rule).groups >= 0  # RE2 refuses what does not fit
        for what in ("allow", "allow_match", "allow_line"):
            book.allowed(rule, what)


def test_no_token_stands_in_the_tests_or_in_the_data(scanner: SecretScanner) -> None:
    tests = sorted((ROOT / "tests/unit/semantics").glob("*secret*.py"))
    data = [make_secret_rules.DATA, make_secret_rules.DATA.with_name("secrets-own.toml"), make_secret_rules.PAGE]
    # The fixed text of one pattern, and the commit of gitleaks in a file that names Sourcegraph.
    known = {"aws-amazon-bedrock-api-key-short-lived", "sourcegraph-access-token"}
    found = {
        (path.name, finding.line, finding.rule)
        for path in tests + data
        for finding in scanner.scan(b"/" + path.name.encode(), path.read_bytes())
        if finding.severity is not Severity.LOW and finding.rule not in known
    }
    assert found == set()

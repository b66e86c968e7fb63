"""The page about destinations agrees with the code: options, fields, variables, kinds, and its policies are JSON."""

from __future__ import annotations

import json
import re
import tomllib
from typing import Any

import pytest

from backupiq.errors import UnknownDestinationError
from backupiq.storage import azure_config, gcs_config, s3_config
from backupiq.storage.factory import CLOUDS, open_destination
from blocks.destinations import TYPES, type_named
from tests.docs.pages import blocks
from tests.support.programs import ROOT

PAGE = "docs/destinations.md"
TEXT = (ROOT / PAGE).read_text()
SCHEMES = {"s3": s3_config.OPTIONS, "gs": gcs_config.OPTIONS, "az": azure_config.OPTIONS, "icloud": ("china_mainland",)}
SOURCES = "".join(path.read_text() for path in (ROOT / "backupiq").rglob("*.py"))
ELSEWHERE = {"PREFECT_SERVER_ENCRYPTION_KEY", "PREFECT_SERVER_API_AUTH_STRING"}
"""Variables of Prefect's own."""


def section(heading: str) -> str:
    return re.split(r"^#", TEXT.partition(f"\n{heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def first_cells(text: str) -> list[str]:
    return re.findall(r"^\| `([a-z_]+)` \|", text, re.MULTILINE)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_options_of_a_scheme_are_those_it_takes(scheme: str) -> None:
    assert sorted(first_cells(section(f"### Options of {scheme}:"))) == sorted(SCHEMES[scheme])


def test_icloud_takes_no_other_option_than_the_page_says() -> None:
    env = {"BACKUPIQ_ICLOUD_APPLE_ID": "anna@example.com"}
    open_destination("icloud:/Folder?china_mainland=true", env=env)
    with pytest.raises(UnknownDestinationError, match=re.escape(", ".join(SCHEMES["icloud"]))):
        open_destination("icloud:/Folder?other=true", env=env)


def test_every_scheme_and_every_extra_is_listed() -> None:
    assert set(SCHEMES) == set(CLOUDS)
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = set(tomllib.load(file)["project"]["optional-dependencies"]) - {"dev", "magika", "postgres"}
    assert set(re.findall(r'pip install "backupiq\[([a-z0-9]+)\]"', TEXT)) == extras
    assert {kind.extra for kind in TYPES if kind.extra} <= extras
    for scheme in CLOUDS:
        assert f"`{scheme}:" in section("## How they are written")


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.kind)
def test_the_fields_of_a_block_are_those_it_has(kind: Any) -> None:
    cls = kind.load_class()
    (row,) = [line for line in TEXT.splitlines() if line.startswith(f"| {kind.class_name} |")]
    told = set(re.findall(r"[a-z_]+", row.split("|")[3]))
    fields = set(cls.model_fields) - {"credentials"}
    if kind.kind == "s3":
        assert fields == {"bucket", "prefix", "sse_customer_key", *s3_config.OPTIONS} - {"profile"}
        assert {"bucket", "prefix", "profile", "sse_customer_key"} <= told
    else:
        assert fields == told
    assert type_named(kind.kind) is kind


def test_variables_that_the_page_names_are_read() -> None:
    named = set(re.findall(r"`([A-Z][A-Z0-9]*_[A-Z0-9_]+)`", TEXT)) - ELSEWHERE
    classes = {"GLACIER_IR", "STANDARD_IA", "DEEP_ARCHIVE"}
    assert len(named - classes) > 15
    for name in named - classes:
        assert f'"{name}"' in SOURCES, name


def test_policies_and_rules_are_json_and_name_the_places_of_the_examples() -> None:
    documents = [json.loads(block.body) for block in blocks(PAGE) if block.language == "json"]
    policy, lifecycle, google = documents
    actions = {action for statement in policy["Statement"] for action in statement["Action"]}
    assert {"s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:DeleteObject"} <= actions
    assert all(statement["Resource"].startswith("arn:aws:s3:::anna-backup") for statement in policy["Statement"])
    assert lifecycle["Rules"][0]["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 7}
    assert google["rule"][0]["action"] == {"type": "AbortIncompleteMultipartUpload"}

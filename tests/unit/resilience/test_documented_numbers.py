"""The page about resilience tells the numbers and classes of the code."""

from __future__ import annotations

import dataclasses
import re

import pytest

from backupiq.errors import RetryExhaustedError, StorageError, all_errors
from backupiq.resilience.breaker import BreakerPolicy, Outcome, classify
from backupiq.resilience.retry import PRESETS, RetryPolicy
from tests.support.programs import ROOT

PAGE = (ROOT / "docs" / "resilience.md").read_text()


@pytest.mark.parametrize("policy", PRESETS.values(), ids=lambda policy: policy.name)
def test_the_table_of_presets_is_that_of_the_code(policy: RetryPolicy) -> None:
    waits = ", ".join(f"{delay:g}" for delay in policy.delays())
    assert f"| `{policy.name}` | {policy.tries} | {waits} |" in PAGE
    assert policy.jitter == 0.5


def test_the_table_of_settings_is_that_of_the_code() -> None:
    shown = dict(re.findall(r"^\| `BACKUPIQ_BREAKER_(\w+)` \| (\d+) \|", PAGE, re.MULTILINE))
    real = {field.name.upper(): f"{field.default:g}" for field in dataclasses.fields(BreakerPolicy)}
    assert shown == real


def test_the_table_of_what_counts_is_that_of_the_code() -> None:
    section = PAGE.partition("\n## What counts\n")[2].partition("\n## ")[0]
    wanted = {"counts it": Outcome.FAILURE, "opens at once": Outcome.PERMANENT, "passes over it": Outcome.IGNORED}
    shown = {
        code: next(outcome for text, outcome in wanted.items() if verdict.startswith(text))
        for codes, verdict in re.findall(r"^\| (`storage[^|]*) \| ([^|]+) \|$", section, re.MULTILINE)
        for code in re.findall(r"`([a-z_.]+)`", codes)
    }
    storage = [kind for kind in all_errors() if issubclass(kind, StorageError)]
    assert shown == {kind.code: classify(kind()) for kind in storage}
    others = [kind for kind in all_errors() if not issubclass(kind, (StorageError, RetryExhaustedError))]
    assert {classify(kind()) for kind in others} == {Outcome.IGNORED}

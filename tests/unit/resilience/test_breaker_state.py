"""The breaker as values."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupiq.errors import ConfigurationError, ValidationError
from backupiq.resilience.breaker import BreakerPolicy, BreakerState, breaker_key
from backupiq.resilience.breaker_state import MOST_TEXT, claimed, clip, closed, given_back, opened

NOW = 1_800_000_000.0
POLICY = BreakerPolicy(threshold=3, window_seconds=100, cooldown=60, longest_cooldown=300, probe_seconds=120)

times = st.floats(0, 1e10)
states = st.builds(
    BreakerState,
    phase=st.sampled_from(["closed", "open", "half-open"]),
    generation=st.integers(0, 10**8 - 1),
    since=times,
    until=times,
    cooldown=times,
    reason=st.text(max_size=300),
    probe_owner=st.text(max_size=60),
    probe_until=times,
    label=st.text(max_size=300),
)


# --- JSON ----------------------------------------------------------------------------------------------------------


@given(states)
def test_a_state_comes_back_from_json_as_it_was(state: BreakerState) -> None:
    assert BreakerState.from_json(json.loads(json.dumps(state.to_json()))) == state


@given(states, st.text(), st.text())
def test_a_state_always_fits_into_a_variable(state: BreakerState, reason: str, label: str) -> None:
    new = opened(state, NOW, POLICY, reason=reason * 500)
    stored = BreakerState(**{**new.to_json(), "label": clip(label * 500), "probe_owner": "x" * 80})
    assert len(json.dumps(stored.to_json())) < 5000


@given(st.text())
def test_cut_text_is_a_beginning_and_no_shorter_than_needed(text: str) -> None:
    found = clip(text * 400)
    assert len(json.dumps(found)) <= MOST_TEXT
    if found != text * 400:
        assert (text * 400).startswith(found.removesuffix("..."))
        assert len(json.dumps(found)) > MOST_TEXT - 15


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(json_values, st.sampled_from(list(BreakerState().to_json())))
def test_damage_anywhere_is_our_error_or_a_state_that_can_be_used(value: Any, name: str) -> None:
    for damaged in (value, {**BreakerState().to_json(), name: value}):
        try:
            state = BreakerState.from_json(damaged)
        except ValidationError:
            continue
        state.is_due(NOW)
        assert BreakerState.from_json(json.loads(json.dumps(state.to_json()))) == state


@pytest.mark.parametrize(
    "damage",
    [
        {"phase": "ajar"},
        {"phase": None},
        {"generation": -1},
        {"generation": True},
        {"generation": 1.5},
        {"until": math.nan},
        {"until": math.inf},
        {"since": 10**400},
        {"cooldown": "long"},
        {"reason": 7},
    ],
    ids=str,
)
def test_values_of_the_wrong_kind_are_damage(damage: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="providers --reset"):
        BreakerState.from_json({**BreakerState().to_json(), **damage})


def test_fields_of_other_versions_are_passed_over_and_missing_ones_have_their_default() -> None:
    assert BreakerState.from_json({"phase": "closed", "colour": "red"}) == BreakerState()


# --- steps ---------------------------------------------------------------------------------------------------------


def test_the_cool_down_doubles_with_each_failed_probe_up_to_the_longest_and_starts_anew_after_closing() -> None:
    state = opened(BreakerState(), NOW, POLICY, reason="down")
    cooldowns = [state.cooldown]
    for _ in range(4):
        state = opened(claimed(state, NOW, "me", POLICY), NOW, POLICY, reason="still down")
        cooldowns.append(state.cooldown)
        assert state.until == NOW + state.cooldown
    assert cooldowns == [60, 120, 240, 300, 300]
    state = opened(closed(claimed(state, NOW, "me", POLICY), NOW), NOW, POLICY, reason="again")
    assert state.cooldown == 60


def test_a_probe_without_an_answer_leaves_cool_down_and_reason_and_lets_the_next_call_probe() -> None:
    before = opened(BreakerState(), NOW, POLICY, reason="down")
    after = given_back(claimed(before, NOW + 60, "me", POLICY), NOW + 61)
    assert (after.phase, after.cooldown, after.reason, after.probe_owner) == ("open", 60, "down", "")
    assert after.is_due(NOW + 61)
    assert opened(claimed(after, NOW + 61, "me", POLICY), NOW + 62, POLICY, reason="down").cooldown == 120


def test_every_step_is_the_next_generation_and_leaves_nothing_of_an_older_probe() -> None:
    state = claimed(opened(BreakerState(generation=7), NOW, POLICY, reason="x"), NOW, "me", POLICY)
    assert (state.generation, state.probe_owner, state.probe_until) == (9, "me", NOW + 120)
    for after in (opened(state, NOW, POLICY, reason="x"), closed(state, NOW), given_back(state, NOW)):
        assert (after.generation, after.probe_owner, after.probe_until) == (10, "", 0)
    assert closed(state, NOW).reason == ""


@pytest.mark.parametrize(("asked", "pause"), [(0, 60), (30, 60), (200, 200), (1e9, 300)])
def test_a_pause_that_the_destination_asks_for_lengthens_the_first_cool_down_within_bounds(
    asked: float, pause: float
) -> None:
    state = opened(BreakerState(), NOW, POLICY, reason="throttled", retry_after=asked)
    assert (state.until, state.cooldown) == (NOW + pause, 60)


def test_a_time_further_away_than_any_cool_down_comes_from_a_wrong_clock_and_keeps_nobody_out() -> None:
    state = opened(BreakerState(), NOW, POLICY, reason="down")
    assert not state.is_due(NOW + 59.9)
    assert state.is_due(NOW + 60)
    assert state.is_due(NOW - 3 * 24 * 3600)
    assert not closed(state, NOW).is_due(NOW + 1e9)


# --- policies and keys ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        {"threshold": 0},
        {"cooldown": 0.0},
        {"cooldown": math.nan},
        {"cooldown": 400.0, "longest_cooldown": 300.0},
        {"probe_seconds": -1.0},
        {"window_seconds": math.inf},
        {"longest_cooldown": 1e6},
    ],
    ids=str,
)
def test_a_policy_that_makes_no_sense_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        BreakerPolicy(**values)


def test_the_environment_may_set_the_policy() -> None:
    env = {
        "BACKUPIQ_BREAKER_THRESHOLD": "2",
        "BACKUPIQ_BREAKER_COOLDOWN": " 1.5 ",
        "BACKUPIQ_BREAKER_PROBE_SECONDS": "",
    }
    assert BreakerPolicy.from_environment(env) == BreakerPolicy(threshold=2, cooldown=1.5)
    assert BreakerPolicy.from_environment({}) == BreakerPolicy()


@pytest.mark.parametrize("text", ["soon", "0x3", "1.5"])
def test_a_setting_that_is_no_number_is_named_and_not_repeated(text: str) -> None:
    with pytest.raises(ConfigurationError, match="BACKUPIQ_BREAKER_THRESHOLD must be a number") as caught:
        BreakerPolicy.from_environment({"BACKUPIQ_BREAKER_THRESHOLD": text})
    assert text not in caught.value.message


@given(st.text(), st.text())
def test_keys_are_short_plain_and_differ_where_identities_do(one: str, other: str) -> None:
    key = breaker_key(one)
    assert len(key) <= 51
    assert set(key) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert (breaker_key(other) == key) == (one == other)


def test_a_key_shows_which_destination_it_is() -> None:
    assert breaker_key("s3:s3://My_Bucket/prefix").startswith("s3-s3-my-bucket-prefix-")
    assert breaker_key("s3://a-b") != breaker_key("s3://a/b")

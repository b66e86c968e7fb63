"""Health as values: what counts as ok, as a warning and as a failure, and what to do about it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupiq.cli.health import clock_url
from backupiq.errors import StorageConnectionError
from backupiq.health import (
    LOW_SPACE,
    MOST_SKEW,
    NO_SPACE,
    WORST_SKEW,
    Check,
    DestinationFacts,
    Status,
    check_folder,
    human_age,
    judge_age,
    judge_clock,
    judge_destinations,
    judge_space,
    overall,
    to_document,
)

HOUR = 3600.0
NOW = 1_790_000_000.0
OK, WARN, FAIL = Status.OK, Status.WARN, Status.FAIL
AWAY = StorageConnectionError()


def statuses(checks: list[Check], name: str = "") -> list[Status]:
    return [check.status for check in checks if not name or check.name == name]


@given(st.lists(st.sampled_from(Status)))
def test_the_whole_is_as_bad_as_its_worst_part(found: list[Status]) -> None:
    whole = overall(Check("x", status, "") for status in found)
    order = [OK, WARN, FAIL]
    assert order.index(whole) == max(map(order.index, found), default=0)


@pytest.mark.parametrize(
    ("free", "status"),
    [(None, OK), (LOW_SPACE, OK), (LOW_SPACE - 1, WARN), (NO_SPACE, WARN), (NO_SPACE - 1, FAIL), (0, FAIL)],
)
def test_space_is_judged_by_what_is_left(free: int | None, status: Status) -> None:
    check = judge_space("disk", "/spool", free, "free some")
    assert check.status is status
    assert bool(check.advice) == (status is not OK)


def test_a_folder_that_is_not_there_yet_is_judged_by_what_is_above_it(tmp_path: Path) -> None:
    assert check_folder("spool", tmp_path / "a" / "b", "").text.startswith(str(tmp_path / "a" / "b"))
    (tmp_path / "file").write_bytes(b"")
    blocked = check_folder("spool", tmp_path / "file" / "b", "set BACKUPIQ_SPOOL")
    assert (blocked.status, blocked.advice) == (FAIL, "set BACKUPIQ_SPOOL")


def test_the_clock_is_wrong_only_when_all_others_say_so() -> None:
    assert judge_clock({}).status is OK
    assert judge_clock({"a": 0.4}).status is OK
    assert judge_clock({"a": MOST_SKEW + 1}).status is WARN
    assert judge_clock({"a": -WORST_SKEW - 1}).status is FAIL
    assert judge_clock({"wrong": 9999.0, "right": -1.0}).status is OK
    assert "301 s" in judge_clock({"a": -301.0, "b": 5000.0}).text


def test_that_one_of_several_destinations_is_away_is_a_warning_and_that_all_are_a_failure() -> None:
    here, away = DestinationFacts("/vault"), DestinationFacts("s3://b", AWAY)
    assert statuses(judge_destinations([here, away])) == [OK, WARN]
    assert statuses(judge_destinations([away, away])) == [FAIL, FAIL]
    assert AWAY.hint in judge_destinations([away])[0].text


def test_an_open_breaker_counts_as_a_destination_that_is_away() -> None:
    open_, closed = DestinationFacts("s3://b", breaker="open", breaker_reason="timeouts"), DestinationFacts("/vault")
    assert statuses(judge_destinations([open_, closed]), "breaker") == [WARN]
    assert statuses(judge_destinations([open_, open_]), "breaker") == [FAIL, FAIL]
    (check,) = [check for check in judge_destinations([open_, closed]) if check.name == "breaker"]
    assert "timeouts" in check.text
    assert "--reset" in check.advice
    assert statuses(judge_destinations([DestinationFacts("/vault", breaker="closed")])) == [OK]


def test_a_destination_without_repository_or_space_is_told() -> None:
    empty, full = DestinationFacts("/vault", repository=False), DestinationFacts("/vault", free_bytes=5)
    assert statuses(judge_destinations([empty])) == [WARN]
    assert statuses(judge_destinations([full])) == [FAIL]


def test_every_profile_has_to_be_recent() -> None:
    ages = {"home": NOW - 3 * HOUR, "work": NOW - 27 * HOUR}
    checks = judge_age(ages, None, NOW, 26 * HOUR)
    assert statuses(checks) == [OK, FAIL]
    assert checks[0].text == "profile home: the last backup is 3 hours old"
    assert checks[1].text == "profile work: the last backup is 27 hours old, more than 26 hours"
    assert "backupiq metrics forget --profile work" in checks[1].advice
    assert statuses(judge_age(ages, None, NOW, 28 * HOUR)) == [OK, OK]


def test_without_figures_of_this_machine_the_newest_snapshot_counts() -> None:
    assert statuses(judge_age({}, NOW - HOUR, NOW, 2 * HOUR)) == [OK]
    assert statuses(judge_age({}, NOW - 3 * HOUR, NOW, 2 * HOUR)) == [FAIL]
    assert statuses(judge_age({"home": NOW - 3 * HOUR}, NOW, NOW, 2 * HOUR)) == [FAIL], "another machine's is no help"
    (none,) = judge_age({}, None, NOW, HOUR)
    assert (none.status, none.text) == (FAIL, "no backup is known")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5.0, "0 minutes"), (59 * 60.0, "59 minutes"), (26 * HOUR, "26 hours"), (12 * 24 * HOUR, "12 days")],
)
def test_ages_are_told_as_people_do(seconds: float, text: str) -> None:
    assert human_age(seconds) == text


def test_the_document_says_the_whole_and_each_part() -> None:
    document = to_document([Check("a", OK, "fine"), Check("b", WARN, "not so", "do it")], "2026-11-23T12:00:00+00:00")
    assert document["status"] == "warn"
    assert document["checks"][1] == {"name": "b", "status": "warn", "text": "not so", "advice": "do it"}


@pytest.mark.parametrize(
    ("destination", "env", "url"),
    [
        ("/mnt/disk", {}, None),
        ("icloud:/Backup", {}, None),
        ("block:ops", {}, None),
        ("s3://bucket/prefix", {}, "https://s3.amazonaws.com/"),
        ("gs://bucket", {}, "https://storage.googleapis.com/"),
        ("s3://bucket?endpoint=http://user:word@127.0.0.1:8333/x", {}, "http://127.0.0.1:8333/"),
        ("s3://bucket", {"AWS_ENDPOINT_URL": "https://nas:9000"}, "https://nas:9000/"),
        ("s3://bucket?endpoint=file:///etc/passwd", {}, None),
    ],
)
def test_the_time_is_asked_of_the_servers_of_destinations(
    destination: str, env: dict[str, str], url: str | None
) -> None:
    assert clock_url(destination, env) == url

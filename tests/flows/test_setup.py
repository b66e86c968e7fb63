"""Prefect's API made ready: types of blocks and limits appear, keep what people changed, and come again unchanged."""

from __future__ import annotations

from typing import Any

import pytest

from backupiq.errors import OrchestrationError, ValidationError
from blocks import destinations
from blocks.destinations import TYPES, DestinationType
from flows.setup import TAG_LIMIT, Outcome, SetupItem, parse_limits, set_up
from tests.flows.conftest import Api

KINDS = ("s3", "gcs", "azure", "icloud")


def limit_of(api: Api, name: str) -> int | None:
    """The slots of a limit as the API tells them; tags are limits named tag:NAME."""
    listed = api.ask("/v2/concurrency_limits/filter", limit=200)
    return next((int(each["limit"]) for each in listed if each["name"] == name), None)


def remove_limits(api: Api, *names: str) -> None:
    for name in names:
        if limit_of(api, name) is not None:
            api.server.call(f"/v2/concurrency_limits/{name}", method="DELETE")


def found(done: list[SetupItem], name: str) -> SetupItem:
    (item,) = [item for item in done if item.name == name]
    return item


def block_types(api: Api) -> dict[str, dict[str, Any]]:
    listed = api.ask("/block_types/filter", block_types={"slug": {"any_": [kind.slug for kind in TYPES]}})
    return {each["slug"]: each for each in listed}


def describe(api: Api, block_type: dict[str, Any], description: str) -> None:
    body = {"description": description, "logo_url": block_type["logo_url"]}
    api.server.call(f"/block_types/{block_type['id']}", body, "PATCH")


async def test_types_and_limits_are_made_and_a_second_run_changes_nothing(api: Api) -> None:
    remove_limits(api, *(f"tag:backupiq-{kind}" for kind in KINDS), "backupiq-test-slots")
    first = await set_up({"s3": 8}, {"backupiq-test-slots": 3})
    assert not [item for item in first if item.outcome is Outcome.LEFT_OUT]
    assert found(first, "backupiq-s3") == SetupItem("limit on a tag", "backupiq-s3", Outcome.CREATED, 8)
    assert found(first, "backupiq-gcs").limit == TAG_LIMIT
    assert found(first, "backupiq-test-slots").outcome is Outcome.CREATED
    assert {kind: limit_of(api, f"tag:backupiq-{kind}") for kind in KINDS} == dict.fromkeys(KINDS, 16) | {"s3": 8}
    types = block_types(api)
    assert set(types) == {kind.slug for kind in TYPES}
    assert all(each["logo_url"] and each["description"] for each in types.values())

    second = await set_up({"s3": 8}, {"backupiq-test-slots": 3})
    assert {item.outcome for item in second} == {Outcome.UNCHANGED}
    assert [item.name for item in second] == [item.name for item in first]
    assert block_types(api) == types


async def test_a_limit_that_people_changed_stays_unless_another_one_is_asked_for(api: Api) -> None:
    await set_up({"gcs": 5}, {"backupiq-test-slots": 3})
    again = await set_up({}, {})
    assert found(again, "backupiq-gcs") == SetupItem("limit on a tag", "backupiq-gcs", Outcome.UNCHANGED, 5)
    assert limit_of(api, "backupiq-test-slots") == 3
    changed = await set_up({"gcs": 7}, {"backupiq-test-slots": 4})
    assert found(changed, "backupiq-gcs").outcome is Outcome.UPDATED
    assert found(changed, "backupiq-test-slots").outcome is Outcome.UPDATED
    assert (limit_of(api, "tag:backupiq-gcs"), limit_of(api, "backupiq-test-slots")) == (7, 4)


async def test_a_type_whose_description_is_outdated_is_updated(api: Api) -> None:
    await set_up({}, {})
    slug = type_slug("local")
    kept = block_types(api)[slug]
    describe(api, kept, "outdated")
    done = await set_up({}, {})
    assert found(done, "BackupIQ Local Destination").outcome is Outcome.UPDATED
    assert block_types(api)[slug]["description"] == kept["description"]


def type_slug(kind: str) -> str:
    return next(each.slug for each in TYPES if each.kind == kind)


async def test_a_type_without_its_libraries_is_left_out_and_says_why(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    import flows.setup

    absent = DestinationType("s3", "S3", "blocks.s3_destination", "S3Destination", "s3", ("no_such_library",))
    monkeypatch.setattr(flows.setup, "TYPES", (destinations.TYPES[0], absent))
    item = found(await set_up({}, {}), "S3")
    assert item.outcome is Outcome.LEFT_OUT
    assert item.reason == 'S3 blocks need more libraries: pip install "backupiq[s3]"'
    assert item.to_dict()["outcome"] == "left out"


async def test_an_api_that_does_not_answer_is_told_in_one_line(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api", PREFECT_CLIENT_MAX_RETRIES: 0}),
        pytest.raises(OrchestrationError, match="does not answer"),
    ):
        await set_up({}, {})


def test_limits_are_read_from_options() -> None:
    assert parse_limits(["s3=8", "gcs=1"], kinds=True) == {"s3": 8, "gcs": 1}
    assert parse_limits(["my-slots=8"], kinds=False) == {"my-slots": 8}


@pytest.mark.parametrize(
    "text", ["s3", "s3=", "s3=0", "s3=-1", "s3=10001", "s3=1e3", "s3=99999999999", "ftp=3", "local=3", "s3=8.5"]
)
def test_what_is_no_limit_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        parse_limits([text], kinds=True)


@pytest.mark.parametrize("text", ["a/b=1", "tag:x=1", "=3", "Ä=1", "A=1"])
def test_a_name_that_no_limit_may_bear_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        parse_limits([text], kinds=False)

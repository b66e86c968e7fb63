"""A profile as a block: the API keeps it, hides its URLs, and gives back the same profile."""

from __future__ import annotations

import json
import traceback
from typing import Any

import pytest

from backupiq.errors import BackupIQError, ConfigurationError, MissingConfigurationError, OrchestrationError
from backupiq.profile import Profile, ProfileSettings
from backupiq.profiles import load_profile, make_profile, resolve_profile
from backupiq.telemetry import redact_text
from tests.flows.conftest import Api

TOKEN = "5a1c0de5-5eca-kept-in-the-api"
VALUES: dict[str, Any] = {
    "backup": {"paths": ["/data", "~/docs"], "to": ["block:vault", "s3://b/p"], "exclude": ["*.iso"], "threads": 3},
    "key": {"key_block": "family"},
    "schedule": {"cron": "30 2 * * *", "timezone": "Europe/Berlin"},
    "hooks": {
        "before": [{"command": ["pg_dump", "shop"], "time_limit": 5}],
        "webhooks": {"ping": f"https://hc.example/{TOKEN}", "after": f"https://other.example/{TOKEN}"},
    },
}


def save(name: str, **values: Any) -> None:
    from blocks.backup_profile import BackupProfile

    BackupProfile(**values).save(name, overwrite=True, _sync=True)  # type: ignore[call-arg]


def document(api: Api, name: str, *, secrets: bool) -> Any:
    (found,) = api.ask(
        "/block_documents/filter",
        block_documents={"name": {"any_": [name]}},
        block_types={"slug": {"any_": ["backupiq-profile"]}},
        include_secrets=secrets,
    )
    return found


def test_a_block_is_the_same_profile_as_a_file(api: Api) -> None:
    save("nightly", **VALUES)
    loaded = load_profile("block:nightly")
    assert loaded == make_profile(name="nightly", **VALUES)
    assert resolve_profile("block:nightly").key.block == "family"
    assert TOKEN not in redact_text(f"calls https://hc.example/{TOKEN}/start")


async def test_a_block_is_found_inside_a_running_loop(api: Api) -> None:
    from blocks.backup_profile import BackupProfile

    await BackupProfile(**VALUES).save("in-a-loop", overwrite=True)
    assert load_profile("block:in-a-loop").name == "in-a-loop"


def test_the_api_keeps_urls_as_secrets_and_a_form_may_send_them_back_hidden(api: Api) -> None:
    save("hidden", **VALUES)
    shown = document(api, "hidden", secrets=False)
    assert TOKEN not in json.dumps(shown)
    assert shown["data"]["hooks"]["before"][0]["command"] == ["pg_dump", "shop"]
    assert TOKEN in json.dumps(document(api, "hidden", secrets=True))

    edited = shown["data"]
    edited["backup"]["threads"] = 7
    send_back(api, shown["id"], edited)
    loaded = load_profile("block:hidden")
    assert loaded.backup.threads == 7
    assert loaded.hooks == make_profile(name="hidden", **VALUES).hooks


def send_back(api: Api, identifier: str, data: Any) -> None:
    """What the page of a block does when it is saved."""
    body = {"data": data, "merge_existing_data": False}
    assert api.server.call(f"/block_documents/{identifier}", body, "PATCH") is None


def test_the_form_has_every_field_of_the_model_with_its_description(api: Api) -> None:
    from blocks.backup_profile import BackupProfile

    save("form", **VALUES)
    schema = document(api, "form", secrets=False)["block_schema"]["fields"]
    assert list(schema["properties"]) == list(ProfileSettings.model_fields) == list(BackupProfile.model_fields)
    assert set(Profile.model_fields) - set(ProfileSettings.model_fields) == {"name"}
    described = schema["definitions"]["ProfileBackup"]["properties"]
    assert all(field["description"] for field in described.values())
    assert described["analysis"]["enum"] == ["auto", "full", "names"]


def test_a_profile_block_that_is_not_there_is_named(api: Api) -> None:
    with pytest.raises(MissingConfigurationError, match="'no-such-profile'"):
        load_profile("block:no-such-profile")


def test_a_block_that_does_not_fit_is_said_without_its_values(api: Api) -> None:
    save("broken", **VALUES)
    found = document(api, "broken", secrets=False)
    data = document(api, "broken", secrets=True)["data"]
    data["backup"]["paths"] = ["hunter2"]
    data["hooks"]["webhooks"]["ping"] = "hunter2"
    send_back(api, found["id"], data)
    with pytest.raises(ConfigurationError) as caught:
        load_profile("block:broken")
    assert caught.value.message.startswith("The profile block broken cannot be used: backup.paths: number 1 is no")
    assert len(caught.value.details["problems"]) == 2
    said = "".join(traceback.format_exception(caught.value))
    assert "hunter2" not in said
    assert TOKEN not in said


def test_an_api_that_does_not_answer_is_said(api: Api) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}), pytest.raises(BackupIQError) as caught:
        load_profile("block:any")
    assert isinstance(caught.value, OrchestrationError)

"""Deployments in a real Prefect: made from prefect.yaml, kept up to date, what people set left alone; their flows."""

from __future__ import annotations

import dataclasses
import uuid
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from backupiq.catalog.maintenance import maintain
from backupiq.catalog.store import Catalog
from backupiq.errors import CatalogError, ConfigurationError, DegradedRunError
from backupiq.passwords import Password, keep_password_for
from backupiq.profile import BackupOptions, Profile, Schedule
from backupiq.profiles import profiles_dir, write_profile
from backupiq.progress import SilentProgress
from flows.deployments import (
    Definition,
    Timing,
    apply_deployments,
    definitions_path,
    load_definitions,
    load_flow,
    local_timezone,
    make_work_pool,
    profile_timings,
)
from flows.local_api import LocalApi
from flows.local_server import WORK_POOL, mark_crashed
from flows.setup import Outcome
from tests.flows.conftest import PASSWORD, Api, Flows

VARIABLES = {"BACKUPIQ_QUEUE": "laptop", "BACKUPIQ_TIMEZONE": "Europe/Berlin"}


def shipped() -> dict[str, Definition]:
    return {each.name: each for each in load_definitions(definitions_path(), VARIABLES)}


@pytest.fixture
async def wanted(api: Api) -> Definition:
    """The shipped backup under a name of its own, so that tests do not see each other's."""
    await make_work_pool()
    return dataclasses.replace(shipped()["backup-nightly"], name=f"backup-{uuid.uuid4().hex[:8]}")


def deployment(api: Api, name: str, flow: str = "backup") -> dict[str, Any]:
    found: dict[str, Any] = LocalApi(api.server.api_url).get(f"/deployments/name/{flow}/{name}")
    return found


def schedules(api: Api, name: str) -> dict[str, dict[str, Any]]:
    return {each["slug"]: each for each in deployment(api, name)["schedules"]}


# --- the file ------------------------------------------------------------------------------------------------------


def test_the_file_defines_deployments_of_flows_that_exist() -> None:
    found = shipped()
    assert set(found) == {"backup-nightly", "heal-hourly", "catalog-maintenance"}
    for each in found.values():
        assert load_flow(each.entrypoint).name
        assert (each.pool, each.queue, each.limit) == (WORK_POOL, "laptop", 1)
        assert all(timing.timezone == "Europe/Berlin" for timing in each.timings)
    assert found["backup-nightly"].collision == "ENQUEUE"
    assert found["heal-hourly"].collision == "CANCEL_NEW"


@pytest.mark.parametrize(
    "text", ["", "deployments: [", "deployments: [{name: x}]", "deployments: 5", "a: {{ $NOBODY }}"]
)
def test_a_file_that_is_not_as_it_has_to_be_is_told_in_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "prefect.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load_definitions(path, VARIABLES)
    assert "\n" not in caught.value.message
    assert str(path) in caught.value.message


def test_the_time_zone_is_this_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    assert local_timezone() == "Asia/Tokyo"


# --- in Prefect ----------------------------------------------------------------------------------------------------


async def test_all_are_made_and_a_second_time_nothing_changes(api: Api) -> None:
    await make_work_pool()
    assert (await make_work_pool()).outcome is Outcome.UNCHANGED
    await apply_deployments(shipped().values())
    again = await apply_deployments(shipped().values())
    assert {item.name: item.outcome for item in again} == dict.fromkeys(shipped(), Outcome.UNCHANGED)
    heal = deployment(api, "heal-hourly", "heal-lagging")
    assert heal["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"
    assert heal["global_concurrency_limit"]["limit"] == 1
    assert heal["work_queue_name"] == "laptop"
    assert heal["job_variables"] == {"command": "python -m flows.engine"}
    assert heal["tags"] == ["backupiq", "heal"]


async def test_what_the_file_says_now_takes_the_place_of_what_it_said(api: Api, wanted: Definition) -> None:
    await apply_deployments([wanted])
    changed = dataclasses.replace(
        wanted, description="Another one.", limit=2, collision="CANCEL_NEW", queue="desktop",
        timings=[dataclasses.replace(wanted.timings[0], cron="0 4 * * *")],
    )  # fmt: skip
    (item,) = await apply_deployments([changed])
    assert item.outcome is Outcome.UPDATED
    found = deployment(api, wanted.name)
    assert (found["description"], found["work_queue_name"]) == ("Another one.", "desktop")
    assert found["global_concurrency_limit"]["limit"] == 2
    assert schedules(api, wanted.name)["nightly"]["schedule"]["cron"] == "0 4 * * *"
    assert (await apply_deployments([changed]))[0].outcome is Outcome.UNCHANGED


async def test_what_people_set_stays(api: Api, wanted: Definition) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentUpdate
    from prefect.client.schemas.schedules import CronSchedule

    await apply_deployments([wanted])
    async with get_client() as client:
        found = await client.read_deployment_by_name(f"backup/{wanted.name}")
        (nightly,) = found.schedules
        await client.update_deployment_schedule(found.id, nightly.id, active=True)
        noon = DeploymentScheduleCreate(schedule=CronSchedule(cron="0 12 * * *", timezone="UTC"), active=False)
        await client.create_deployment_schedules(found.id, [noon])
        await client.update_deployment(found.id, DeploymentUpdate(parameters={"key_block": "vault"}))
        await client.pause_deployment(found.id)
    changed = dataclasses.replace(wanted, description="Another one.")
    assert [item.outcome for item in await apply_deployments([changed])] == [Outcome.UPDATED]
    after = deployment(api, wanted.name)
    assert (after["paused"], after["parameters"]) == (True, {"key_block": "vault"})
    assert {(each["slug"], each["active"], each["schedule"]["cron"]) for each in after["schedules"]} == {
        ("nightly", True, "30 2 * * *"),
        (None, False, "0 12 * * *"),
    }


async def test_each_profile_with_a_schedule_has_one_that_goes_with_it(
    api: Api, wanted: Definition, monkeypatch: pytest.MonkeyPatch
) -> None:
    import flows.deployments

    monkeypatch.setattr(flows.deployments, "BACKUP", wanted.name)
    home = Timing("profile-home", "0 3 * * *", "Asia/Tokyo", parameters={"profile": "home"})
    await apply_deployments([wanted], [home])
    made = schedules(api, wanted.name)
    assert set(made) == {"nightly", "profile-home"}
    assert made["profile-home"]["schedule"]["timezone"] == "Asia/Tokyo"
    assert (made["profile-home"]["active"], made["profile-home"]["parameters"]) == (True, {"profile": "home"})
    assert (await apply_deployments([wanted], [home]))[0].outcome is Outcome.UNCHANGED
    await apply_deployments([wanted])
    assert set(schedules(api, wanted.name)) == {"nightly"}


def test_profiles_that_cannot_be_used_are_told_and_left_out(api: Api, tmp_path: Path) -> None:
    env = {"XDG_CONFIG_HOME": str(tmp_path)}
    backup = {"paths": ["/home/anna"], "to": ["/mnt/disk"]}
    for name, schedule in (("home", Schedule(cron="0 3 * * *", timezone="Asia/Tokyo")), ("by-hand", None)):
        write_profile(Profile(name=name, backup=backup, schedule=schedule), profiles_dir(env) / f"{name}.toml")
    (profiles_dir(env) / "broken.toml").write_text("no toml")
    told: list[str] = []
    assert profile_timings(told.append, env) == [
        Timing("profile-home", "0 3 * * *", "Asia/Tokyo", parameters={"profile": "home"})
    ]
    assert len(told) == 1
    assert "broken" in told[0]


async def test_runs_of_a_worker_that_ended_keep_nobody_waiting(api: Api, wanted: Definition) -> None:
    queue = f"queue-{uuid.uuid4().hex[:8]}"
    await apply_deployments([dataclasses.replace(wanted, queue=queue)])
    asked = LocalApi(api.server.api_url)
    identifier = deployment(api, wanted.name)["id"]
    options = {"paths": ["/a"], "to": ["/b"]}
    run = asked.post(f"/deployments/{identifier}/create_flow_run", parameters={"options": options})["id"]
    asked.post(f"/flow_runs/{run}/set_state", state={"type": "RUNNING", "name": "Running"}, force=True)
    mark_crashed(asked, "another-queue")
    assert api.flow_run(run)["state_type"] == "RUNNING"
    mark_crashed(asked, queue)
    assert api.flow_run(run)["state_type"] == "CRASHED"


# --- what they run -------------------------------------------------------------------------------------------------


def replicas(flows: Flows, tmp_path: Path) -> list[Path]:
    """Two replicas with a snapshot, of a profile whose password is kept; the second then loses the snapshot."""
    from flows.launch import run_backup

    places = [tmp_path / "one", tmp_path / "two"]
    to = [str(place) for place in places]
    run_backup(BackupOptions(paths=[str(flows.source)], to=to), password=SecretStr(PASSWORD), progress=SilentProgress())
    for place in to:
        keep_password_for(Password(SecretStr(PASSWORD), "a test"), place)
    write_profile(Profile(name="both", backup={"paths": [str(flows.source)], "to": to}), profiles_dir() / "both.toml")
    for snapshot in (places[1] / "snapshots").iterdir():
        snapshot.unlink()
    return places


def names(place: Path) -> set[str]:
    return {path.name for path in (place / "snapshots").iterdir()}


async def test_a_replica_that_lags_is_healed_and_then_left_alone(
    flows: Flows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import asyncio

    from flows.scheduled import heal_lagging

    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    one, two = await asyncio.to_thread(replicas, flows, tmp_path)
    assert await heal_lagging() == {"profiles": 1, "healed": ["both"]}
    assert names(two) == names(one) != set()
    assert await heal_lagging() == {"profiles": 1, "healed": []}


async def test_a_profile_that_cannot_be_healed_does_not_keep_the_others_from_it(
    flows: Flows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.scheduled import heal_lagging

    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    backup = {"paths": ["/home/anna"], "to": [str(tmp_path / "alone")]}
    write_profile(Profile(name="single", backup=backup), profiles_dir() / "single.toml")
    (profiles_dir() / "broken.toml").write_text("no toml")
    with pytest.raises(DegradedRunError, match="broken"):
        await heal_lagging()
    assert await heal_lagging("single") == {"profiles": 1, "healed": []}


async def test_the_catalog_is_looked_after_where_there_is_one(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.scheduled import maintain_catalog

    monkeypatch.setenv("BACKUPIQ_CATALOG_URL", f"sqlite:///{tmp_path}/catalog.db")
    assert await maintain_catalog() == {}
    assert not (tmp_path / "catalog.db").exists()
    Catalog.open().close()
    done = await maintain_catalog()
    assert done["bytes_after"] == (tmp_path / "catalog.db").stat().st_size


def test_a_damaged_catalog_is_noticed_and_unused_space_is_given_back(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    with Catalog.open(f"sqlite:///{path}") as catalog:
        with catalog.engine.connect() as connection:
            connection.exec_driver_sql("CREATE TABLE large AS SELECT zeroblob(5000000) AS bytes")
            connection.commit()
            connection.exec_driver_sql("DROP TABLE large")
            connection.commit()
        done = maintain(catalog.engine)
        assert done.compacted
        assert (done.bytes_after or 0) < 1_000_000
        assert not maintain(catalog.engine).compacted
    data = bytearray(path.read_bytes())
    data[4096 * 5 : 4096 * 12] = b"\xff" * 4096 * 7
    path.write_bytes(data)
    with pytest.raises(CatalogError) as caught, Catalog.open(f"sqlite:///{path}") as catalog:
        maintain(catalog.engine)
    assert caught.value.details["reason"] == "damaged"

"""The deployments of prefect.yaml, made in Prefect and kept as they stand there.

The file is the one place where they are defined. What people set in Prefect's UI stays: values of parameters,
schedules of their own, and whether a schedule is paused.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefect import Flow
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.objects import ConcurrencyOptions, DeploymentSchedule
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.utilities.callables import parameter_schema
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from backupiq.errors import BackupIQError, ConfigurationError, MissingConfigurationError
from backupiq.profiles import list_profiles, load_profile
from flows.local_server import WORK_POOL
from flows.reach import api_errors
from flows.setup import Outcome, SetupItem

PROFILE_SLUG = "profile-"
"""How the names of schedules begin that are made of profiles; no other is ever removed."""
BACKUP = "backup-nightly"
_VARIABLE = re.compile(r"\{\{\s*\$(\w+)\s*\}\}")


@dataclass(frozen=True, slots=True)
class Timing:
    """When something runs by itself: a cron line in a time zone, with parameters of its own."""

    slug: str
    cron: str
    timezone: str
    active: bool = True
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Definition:
    """One deployment of prefect.yaml. ``entrypoint`` is the dotted path of its flow."""

    name: str
    entrypoint: str
    description: str
    tags: Sequence[str]
    parameters: Mapping[str, Any]
    timings: Sequence[Timing]
    limit: int
    collision: str
    pool: str
    queue: str
    job_variables: Mapping[str, Any]


def definitions_path() -> Path:
    """prefect.yaml of this installation. MissingConfigurationError when it was not installed with it."""
    top = Path(__file__).resolve().parent.parent
    for path in (top / "prefect.yaml", top / "deployments" / "prefect.yaml"):
        if path.is_file():
            return path
    raise MissingConfigurationError(f"There is no prefect.yaml at {top}; install BackupIQ from its whole source.")


def load_definitions(path: Path, variables: Mapping[str, str]) -> list[Definition]:
    """The deployments of a file, ``{{ $NAME }}`` in it replaced by the variables.

    ConfigurationError when it cannot be read or something in it is not as it has to be.
    """
    try:
        text = _VARIABLE.sub(lambda found: variables[found[1]], path.read_text(encoding="utf-8"))
        return [_definition(each) for each in YAML(typ="safe").load(text)["deployments"]]
    except (OSError, UnicodeDecodeError, YAMLError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(
            f"{path} is not as it has to be ({type(error).__name__}: {_one_line(error)}). Bring back the shipped one."
        ) from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def _definition(given: Mapping[str, Any]) -> Definition:
    pool = given["work_pool"]
    limit = given["concurrency_limit"]
    return Definition(
        name=given["name"],
        entrypoint=given["entrypoint"],
        description=given["description"],
        tags=given.get("tags", []),
        parameters=given.get("parameters", {}),
        timings=[Timing(**each) for each in given.get("schedules", [])],
        limit=limit["limit"],
        collision=limit["collision_strategy"],
        pool=pool["name"],
        queue=pool["work_queue_name"],
        job_variables=pool.get("job_variables", {}),
    )


def profile_timings(note: Callable[[str], None], env: Mapping[str, str] = os.environ) -> list[Timing]:
    """A timing for each of the user's profiles that has a schedule; ``note`` is told of those that cannot be used."""
    found = []
    for path in list_profiles(env):
        try:
            profile = load_profile(path.stem, env)
        except BackupIQError as error:
            note(f"the profile {path.stem} is left out: {error.message}")
            continue
        if profile.schedule is not None:
            slug, plan = PROFILE_SLUG + profile.name, profile.schedule
            found.append(Timing(slug, plan.cron, plan.timezone, parameters={"profile": profile.name}))
    return found


def local_timezone() -> str:
    """The name of this machine's time zone, such as Europe/Berlin; UTC when it has none."""
    from tzlocal import get_localzone_name

    try:
        return str(get_localzone_name() or "UTC")
    except Exception as error:
        raise ConfigurationError(
            f"This machine's time zone cannot be found out ({_one_line(error)}). Set TZ, for example to Europe/Berlin."
        ) from error


async def apply_deployments(wanted: Iterable[Definition], timings: Iterable[Timing] = ()) -> list[SetupItem]:
    """Make these deployments, or bring them up to date; what was done, in order. Their work pool has to be there.

    ``timings`` are the profiles'. OrchestrationError when Prefect's API does not answer or refuses.
    """
    wanted, profiles = list(wanted), list(timings)
    with api_errors():
        async with get_client() as client:
            return [await _apply(client, each, profiles if each.name == BACKUP else []) for each in wanted]


async def make_work_pool() -> SetupItem:
    """Make the work pool unless it is there."""
    with api_errors():
        async with get_client() as client:
            try:
                await client.read_work_pool(WORK_POOL)
            except ObjectNotFound:
                return SetupItem("work pool", WORK_POOL, await _create_pool(client))
    return SetupItem("work pool", WORK_POOL, Outcome.UNCHANGED)


async def _create_pool(client: PrefectClient) -> Outcome:
    from prefect.workers.process import ProcessWorker

    template = ProcessWorker.get_default_base_job_template()
    try:
        await client.create_work_pool(WorkPoolCreate(name=WORK_POOL, type="process", base_job_template=template))
    except ObjectAlreadyExists:  # a worker was faster
        return Outcome.UNCHANGED
    return Outcome.CREATED


async def _apply(client: PrefectClient, wanted: Definition, profiles: Sequence[Timing]) -> SetupItem:
    flow = load_flow(wanted.entrypoint)
    try:
        found = await client.read_deployment_by_name(f"{flow.name}/{wanted.name}")
    except ObjectNotFound:
        found = None
    schedules = merge_schedules([*wanted.timings, *profiles], found.schedules if found is not None else [])
    values: dict[str, Any] = {
        "description": wanted.description,
        "tags": list(wanted.tags),
        "entrypoint": wanted.entrypoint,
        "parameters": {**wanted.parameters, **(found.parameters if found is not None else {})},
        "parameter_openapi_schema": parameter_schema(flow).model_dump(exclude_unset=True),
        "work_pool_name": wanted.pool,
        "work_queue_name": wanted.queue,
        "job_variables": dict(wanted.job_variables),
        "enforce_parameter_schema": True,
        "pull_steps": [],
    }
    if found is not None and not _differs(found, values, schedules, wanted):
        return SetupItem("deployment", wanted.name, Outcome.UNCHANGED)
    await client.create_deployment(
        await client.create_flow_from_name(flow.name),
        wanted.name,
        schedules=schedules,
        concurrency_limit=wanted.limit,
        concurrency_options=ConcurrencyOptions(collision_strategy=wanted.collision),
        **values,
    )
    return SetupItem("deployment", wanted.name, Outcome.CREATED if found is None else Outcome.UPDATED)


def load_flow(entrypoint: str) -> Flow[..., Any]:
    """The flow of that dotted path."""
    module, _, name = entrypoint.rpartition(".")
    flow = getattr(importlib.import_module(module), name, None)
    if not isinstance(flow, Flow):
        raise ConfigurationError(f"{entrypoint} in prefect.yaml is no flow. Bring the file back from the source.")
    return flow


def merge_schedules(timings: Iterable[Timing], present: Iterable[DeploymentSchedule]) -> list[DeploymentScheduleCreate]:
    """The schedules that a deployment should have: ours, as active as people left them, and those of people.

    A profile's that is no longer wanted goes.
    """
    by_slug = {each.slug: each for each in present if each.slug}
    merged = []
    for timing in timings:
        before = by_slug.get(timing.slug)
        merged.append(
            DeploymentScheduleCreate(
                schedule=CronSchedule(cron=timing.cron, timezone=timing.timezone),
                active=timing.active if before is None else before.active,
                parameters=dict(timing.parameters),
                slug=timing.slug,
            )
        )
    ours = {each.slug for each in merged}
    for each in present:
        if each.slug not in ours and not (each.slug or "").startswith(PROFILE_SLUG):
            merged.append(
                DeploymentScheduleCreate(
                    schedule=each.schedule, active=each.active, parameters=each.parameters, slug=each.slug
                )
            )
    return merged


def _differs(
    found: DeploymentResponse, values: Mapping[str, Any], schedules: Sequence[DeploymentScheduleCreate], to: Definition
) -> bool:
    limit = found.global_concurrency_limit
    options = found.concurrency_options
    present = {
        **{name: getattr(found, name) for name in values},
        "pull_steps": found.pull_steps or [],
    }
    return (
        present != dict(values)
        or (limit.limit if limit is not None else None) != to.limit
        or (options.collision_strategy.value if options is not None else None) != to.collision
        or sorted(map(_comparable, found.schedules)) != sorted(map(_comparable, schedules))
    )


def _comparable(schedule: DeploymentSchedule | DeploymentScheduleCreate) -> str:
    return repr((schedule.slug or "", schedule.active, sorted(schedule.parameters.items()), schedule.schedule))

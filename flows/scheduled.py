"""What runs by itself beside backups: replicas that lag are healed, the catalog is looked after."""

from __future__ import annotations

import asyncio
from typing import Any

from prefect import flow, task
from prefect.artifacts import acreate_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Cancelled

from backupiq.errors import BackupIQError, CatalogError, DegradedRunError, StorageError, StorageNotFoundError
from backupiq.passwords import find_password
from backupiq.profile import HealOptions
from backupiq.profiles import Resolved, list_profiles, resolve_profile
from backupiq.replicas.objects import kind_of
from backupiq.repository.repository import FileType, in_parallel
from backupiq.storage.provider import StorageProvider
from backupiq.telemetry import get_logger
from blocks.destinations import provider_for
from flows.context import RunContext, current_run, running
from flows.heal import heal
from flows.portable import to_prefect
from flows.reporting import as_code, store_artifact, tell_prefect
from flows.tasks.options import RETRIED, STEP

COMPARED = (FileType.KEY, FileType.SNAPSHOT)
"""What a replica that fell behind lacks. Their names are few, so asking every hour costs next to nothing."""

log = get_logger("backupiq.flows.scheduled")


@flow(name="heal-lagging", flow_run_name="heal what lags", persist_result=False, log_prints=False)
async def heal_lagging(profile: str | None = None) -> dict[str, Any] | State[Any]:
    """Bring replicas up to date that lack a snapshot which another one has.

    Args:
        profile: Name of a profile, its file, or block:NAME; every profile of this machine when it is left out.
    """
    tell_prefect()
    names = [profile] if profile else [path.stem for path in list_profiles()]
    lines, healed, failed = [], [], []
    for name in names:
        try:
            resolved = resolve_profile(name)
            lagging = await find_lagging(name, _destinations(resolved))
            if lagging:
                state = await _heal(resolved)
                if state.is_cancelled():
                    return Cancelled(message="The run was ended.")
                await state.result()
                healed.append(name)
            lines.append(f"- {as_code(name)}: {', '.join(map(as_code, lagging)) or 'nothing'} lagged")
        except BackupIQError as error:
            log.warning("heal.failed", profile=name, error=error.code)
            failed.append(name)
            lines.append(f"- {as_code(name)}: {as_code(error.message)}")
    text = "\n".join(["# Replicas", "", *(lines or ["There is no profile on this machine."])])
    await store_artifact(acreate_markdown_artifact(key="heal-lagging", markdown=text))
    if failed:
        raise DegradedRunError(f"Not everything could be healed, of: {', '.join(failed)}. The artifact says why.")
    return {"profiles": len(names), "healed": healed}


@task(name="compare", task_run_name="compare the replicas of {name}", **RETRIED)
async def find_lagging(name: str, destinations: list[str]) -> list[str]:
    """The locations of the replicas that lack a key or a snapshot that another one has.

    One that does not answer is told in the log and waited for. With a single destination there is none.
    """
    if len(destinations) < 2:
        return []
    providers = [provider_for(each) for each in destinations]
    try:
        held = await in_parallel(providers, _names, limit=len(providers))
    finally:
        for provider in providers:
            await provider.close()
    known = {provider.location: names for provider, names in zip(providers, held, strict=True) if names is not None}
    everything = frozenset().union(*known.values())
    return [location for location, names in known.items() if names != everything]


async def _names(provider: StorageProvider) -> frozenset[str] | None:
    found = set()
    try:
        for kind in COMPARED:
            async for info in provider.list_files(kind):
                if kind_of(info.key) is kind:
                    found.add(info.key)
    except StorageNotFoundError:
        log.warning("replica.absent", replica=provider.location)
        return None
    except StorageError as error:
        log.warning("replica.unreachable", replica=provider.location, error=error.code)
        return None
    return frozenset(found)


async def _heal(resolved: Resolved) -> State[Any]:
    """The heal flow as a part of this run, with the profile's own password."""
    destinations = _destinations(resolved)
    found = await asyncio.to_thread(find_password, resolved.key, destinations, note=current_run().progress.note)
    with running(RunContext(password=found.secret if found is not None else None)):
        state: State[Any] = await heal(to_prefect(HealOptions(repo=destinations)), return_state=True)
    return state


def _destinations(resolved: Resolved) -> list[str]:
    return list(dict.fromkeys(resolved.options.to))


@flow(name="maintain-catalog", flow_run_name="look after the catalog", persist_result=False, log_prints=False)
async def maintain_catalog() -> dict[str, Any]:
    """Check the catalog of this machine, tidy its index for searching and give unused space back.

    A damaged one is moved aside and made anew by the next backup: everything in it stands in the repositories.
    """
    tell_prefect()
    return await tidy_catalog()


@task(name="tidy", task_run_name="tidy the catalog", **STEP)
async def tidy_catalog() -> dict[str, Any]:
    """Check, tidy, compact; what came of it."""
    return await asyncio.to_thread(_tidy)


def _tidy() -> dict[str, Any]:
    from backupiq.catalog.maintenance import maintain
    from backupiq.catalog.store import Catalog

    try:
        with Catalog.open(create=False, repair=True) as catalog:
            done = maintain(catalog.engine).to_dict()
    except CatalogError as error:
        if error.details.get("reason") != "missing":
            raise
        done = {}  # nothing was cataloged on this machine yet
    log.info("catalog.maintained", **done)
    return done

"""Opening a repository for flows that read it, at one destination or at several replicas of it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Sequence

from backupiq.replicas.opening import OpenReplicas, name_replicas, open_replicas, probe_replicas, require_repository
from backupiq.repository.repository import Repository
from backupiq.storage.throttle import NO_LIMITS, Limits
from blocks.destinations import provider_for
from flows.context import RunContext
from flows.guard import Breakers, guarding
from flows.opening import resolve_password


def replica_list(repo: str | list[str]) -> list[str]:
    """The replicas that an option names."""
    return [repo] if isinstance(repo, str) else repo


@contextlib.asynccontextmanager
async def open_to_read(
    run: RunContext, repo: Sequence[str], key_block: str | None, *, limits: Limits = NO_LIMITS
) -> AsyncIterator[Repository]:
    """The repository; with several replicas, what one of them lacks or gives wrongly is read from the next."""
    if len(repo) > 1:
        async with open_all(run, repo, key_block, note=run.progress.note, limits=limits) as replicas:
            yield replicas.repository
        return
    async with provider_for(repo[0], limits=limits) as provider:
        password = resolve_password(run, [provider.location], key_block)
        run.progress.stage("opening the repository")
        yield await Repository.open(provider, password.get_secret_value())


@contextlib.asynccontextmanager
async def open_all(
    run: RunContext,
    repo: Sequence[str],
    key_block: str | None,
    *,
    note: Callable[[str], None] | None = None,
    limits: Limits = NO_LIMITS,
) -> AsyncIterator[OpenReplicas]:
    """The repository at all of its replicas; one whose breaker is open is asked only when no other has the answer.

    ``note`` is told what one of them lacks or gives wrongly.
    """
    async with contextlib.AsyncExitStack() as stack:
        breakers = await stack.enter_async_context(guarding(Breakers(note=run.progress.note)))
        replicas = name_replicas([await stack.enter_async_context(provider_for(each, limits=limits)) for each in repo])
        run.progress.stage("opening the repository")
        probes = await probe_replicas(
            replicas, lambda provider: breakers.for_destination(provider.identity, provider.location).attempt()
        )
        require_repository(probes)
        password = resolve_password(run, list(replicas), key_block)
        yield await open_replicas(probes, password.get_secret_value(), note=note)

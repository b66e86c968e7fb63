"""Bringing snapshots that were made on this machine into the catalog before something is looked up in it."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import closing

from backupiq.cli.output import note
from backupiq.cli.session import open_among, open_at, open_provider, run_async
from backupiq.errors import BackupIQError
from backupiq.state import forget_uncatalogued, uncatalogued


def catch_up() -> None:
    """Bring them in where the password can be found without asking; else say how to do it."""
    for destinations in uncatalogued():
        named = " ".join(f"--repo {each}" for each in destinations)
        try:
            done = run_async(_update(destinations))
        except BackupIQError as error:
            note(f"the newest snapshots at {', '.join(destinations)} are not in the catalog: {error.message}")
            done = True  # it was said
        if not done:
            note(f"the newest snapshots are not in the catalog; bring them in: backupiq catalog update {named}")


async def _update(destinations: Sequence[str]) -> bool:
    """Whether the password was found, so that it could be done."""
    from backupiq.catalog.analyzing import snapshot_analyzer
    from backupiq.catalog.store import Catalog
    from backupiq.catalog.update import update_catalog
    from backupiq.passwords import PasswordSources, find_password
    from backupiq.repository.locking import lock_for_reading
    from backupiq.semantics.contents import finding_key

    sources = PasswordSources(env=dict(os.environ))
    providers = [open_provider(each) for each in destinations]
    locations = [provider.location for provider in providers]
    for provider in providers:
        await provider.close()
    if find_password(sources, locations, note=lambda _: None) is None:
        return False
    note(f"bringing the newest snapshots at {', '.join(locations)} into the catalog")
    one = len(destinations) == 1
    repository = await (open_at(destinations[0], sources) if one else open_among(destinations, sources))
    try:
        async with lock_for_reading(repository, note=note):
            with closing(Catalog.open()) as catalog:
                analyze = snapshot_analyzer(finding_key(repository.master))
                await update_catalog(catalog, repository, analyze, now_ns=time.time_ns())
    finally:
        await repository.provider.close()
    forget_uncatalogued(destinations)
    return True

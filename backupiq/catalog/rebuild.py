"""Building the catalog anew: all that it says about a repository is in the repository."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from sqlalchemy import text

from backupiq.catalog.database import catalog_error, catalog_url, file_errors, reading, set_aside
from backupiq.catalog.store import Catalog
from backupiq.catalog.update import Analyze, Told, UpdateReport, update_catalog
from backupiq.errors import CatalogError
from backupiq.repository.repository import Repository

_USELESS = frozenset({"damaged", "newer"})


def open_for_rebuild(
    url: str | None = None, *, tell: Callable[[Path], None] = lambda moved: None, env: Mapping[str, str] = os.environ
) -> Catalog:
    """The catalog, in a state that can be filled: a file that is damaged, or that a newer program made, is moved aside.

    ``tell`` is told where it went. CatalogError when it cannot be used for another reason.
    """
    address = catalog_url(url, env)
    try:
        catalog = Catalog.open(url, env=env)
        try:
            if address.get_backend_name() == "sqlite":
                with reading(catalog.engine) as connection:
                    if connection.execute(text("PRAGMA quick_check(1)")).scalar() != "ok":
                        raise catalog_error(address, "damaged")
        except CatalogError:
            catalog.close()
            raise
    except CatalogError as error:
        if error.details.get("reason") not in _USELESS or address.get_backend_name() != "sqlite":
            raise
        with file_errors(address):
            tell(set_aside(Path(str(address.database))))
        return Catalog.open(url, env=env)
    return catalog


async def rebuild_catalog(
    catalog: Catalog,
    repository: Repository,
    analyze: Analyze,
    *,
    now_ns: int,
    tell: Told = lambda info, number, total: None,
) -> UpdateReport:
    """Take out all that the catalog says about the repository's snapshots, and bring them in again from it.

    What is not in a repository stays: runs, and how destinations have been. Raises as `update_catalog` does.
    """
    lineages = {each.lineage for each in (await asyncio.to_thread(catalog.snapshots, repository.config.id)).values()}
    for key in sorted(lineages):
        await asyncio.to_thread(catalog.drop_lineage, repository.config.id, key)
    return await update_catalog(catalog, repository, analyze, now_ns=now_ns, tell=tell)

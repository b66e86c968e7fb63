"""Commands about the catalog itself: bringing it up to date, building it anew, its state, its tables' revision."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from backupiq.cli.options import Json, KeyBlock, NoLock, PasswordCommand, PasswordFile, Quiet, Repo, RetryLock
from backupiq.cli.output import human_time, note, print_json, print_line
from backupiq.cli.session import Access, choose_destinations, opened, run_async
from backupiq.state import forget_uncatalogued

if TYPE_CHECKING:
    from backupiq.catalog.rows import SnapshotInfo
    from backupiq.catalog.store import Catalog
    from backupiq.catalog.update import Analyze, UpdateReport
    from backupiq.repository.repository import Repository

app = typer.Typer(
    name="catalog",
    help="The catalog: what all snapshots hold, for finding things. No backup and no restore needs it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
def update(
    repo: Repo = None,
    quiet: Quiet = False,
    json: Json = False,
    password_file: PasswordFile = None,
    password_command: PasswordCommand = None,
    key_block: KeyBlock = None,
    retry_lock: RetryLock = 0.0,
    no_lock: NoLock = False,
) -> None:
    """Bring snapshots into the catalog that are not in it yet, and take out those that are gone."""
    access = Access(repo, password_file, password_command, key_block, retry_lock, no_lock)
    _fill(access, _open_catalog, anew=False, quiet=quiet, json=json)


@app.command()
def rebuild(
    repo: Repo = None,
    quiet: Quiet = False,
    json: Json = False,
    password_file: PasswordFile = None,
    password_command: PasswordCommand = None,
    key_block: KeyBlock = None,
    retry_lock: RetryLock = 0.0,
    no_lock: NoLock = False,
) -> None:
    """Build the catalog anew from the repository; a damaged file is moved aside."""
    access = Access(repo, password_file, password_command, key_block, retry_lock, no_lock)
    _fill(access, _open_for_rebuild, anew=True, quiet=quiet, json=json)


@app.command()
def status(json: Json = False) -> None:
    """Show where the catalog is, what it holds and the revision of its tables."""
    from backupiq.catalog.database import catalog_name
    from backupiq.catalog.schema import HEAD
    from backupiq.catalog.store import Catalog

    with Catalog.open(create=False) as catalog:
        sizes, last = catalog.sizes(), catalog.last_snapshot_ns()
        document: dict[str, Any] = {
            "catalog": catalog_name(catalog.engine.url),
            "database": catalog.engine.dialect.name,
            "revision": HEAD,
            **sizes,
            "newest_snapshot_ns": last,
        }
    if json:
        print_json(document, indent=True)
        return
    lines = [("catalog", document["catalog"]), ("revision", HEAD)]
    lines += [(name.replace("_", " "), f"{count:,}") for name, count in sizes.items()]
    lines.append(("newest snapshot", "-" if last is None else human_time(last)))
    for name, value in lines:
        print_line(f"{name + ':':<18}{value}")


@app.command()
def upgrade() -> None:
    """Bring the catalog's tables to the revision that this BackupIQ works with. Every command does so by itself."""
    from backupiq.catalog.schema import HEAD
    from backupiq.catalog.store import Catalog

    with Catalog.open() as catalog:
        print_line(f"{catalog.name} is at revision {HEAD}")


@app.command()
def downgrade(
    revision: Annotated[
        str, typer.Argument(metavar="REVISION", help='The revision to go back to; "base" removes the tables.')
    ],
) -> None:
    """Bring the catalog's tables back to an earlier revision, for an older BackupIQ."""
    from backupiq.catalog import schema
    from backupiq.catalog.store import Catalog

    with Catalog.open(create=False) as catalog:
        schema.downgrade(catalog.engine, revision)
        print_line(f"{catalog.name} is at revision {revision}")


# --- the work ------------------------------------------------------------------------------------------------------


def _open_catalog() -> Catalog:
    from backupiq.catalog.store import Catalog

    return Catalog.open()


def _open_for_rebuild() -> Catalog:
    from backupiq.catalog.rebuild import open_for_rebuild

    def tell(moved: Path) -> None:
        note(f"the catalog that was there cannot be used; it was moved to {moved}")

    return open_for_rebuild(tell=tell)


def _fill(access: Access, open_catalog: Callable[[], Catalog], *, anew: bool, quiet: bool, json: bool) -> None:
    from backupiq.catalog.rebuild import rebuild_catalog
    from backupiq.catalog.update import update_catalog

    def tell(info: SnapshotInfo, number: int, total: int) -> None:
        if not (quiet or json):
            note(f"snapshot {info.hex_id[:8]} of {human_time(info.time_ns)} ({number} of {total})")

    destinations = choose_destinations(access.repo)
    access = dataclasses.replace(access, repo=destinations)

    async def main() -> UpdateReport:
        fill = rebuild_catalog if anew else update_catalog
        async with opened(access) as repository:
            with closing(open_catalog()) as catalog:
                done = await fill(catalog, repository, _analyzer(repository), now_ns=time.time_ns(), tell=tell)
            forget_uncatalogued(destinations)
            return done

    _show(run_async(main()), json=json)


def _analyzer(repository: Repository) -> Analyze:
    from backupiq.catalog.analyzing import snapshot_analyzer
    from backupiq.semantics.contents import finding_key

    return snapshot_analyzer(finding_key(repository.master))


def _show(report: UpdateReport, *, json: bool) -> None:
    if json:
        print_json(
            {
                "added": report.added,
                "forgotten": report.forgotten,
                "damaged": {name: error.code for name, error in report.damaged.items()},
                "unreadable_folders": report.unreadable,
                "silent_destinations": {name: error.code for name, error in report.silent.items()},
            },
            indent=True,
        )
    else:
        print_line(f"{len(report.added)} added, {len(report.forgotten)} taken out")
        if report.unreadable:
            note(f"{report.unreadable} folders of these snapshots cannot be read from the repository")
    for error in (*report.damaged.values(), *report.silent.values()):
        note(error.message)
    if report.damaged:
        raise typer.Exit(next(iter(report.damaged.values())).exit_code)

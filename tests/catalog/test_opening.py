"""Catalogs that are missing, damaged, locked, on full disks or on disks that take no writes."""

from __future__ import annotations

import multiprocessing
import re
import sqlite3
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from backupiq.catalog.adding import Added, SnapshotRows
from backupiq.catalog.database import URL_VARIABLE, catalog_url
from backupiq.catalog.rebuild import open_for_rebuild, rebuild_catalog
from backupiq.catalog.rows import FileRow
from backupiq.catalog.store import Catalog
from backupiq.errors import CatalogError
from tests.catalog.contents import REPOSITORY, empty_catalog, everything, is_sound, row, snapshot
from tests.catalog.growing import KEY, growing
from tests.support.servers.postgres import PASSWORD, PostgreSQL


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"


def filled(folder: Path, rows: int = 50) -> Path:
    """A catalog's file with a snapshot of so many files, closed."""
    with empty_catalog(folder) as catalog:
        given = SnapshotRows(row(b"/home/%d" % number) for number in range(rows))
        assert catalog.add_snapshot(REPOSITORY, snapshot(1), given) is Added.ADDED
    return folder / "catalog.sqlite3"


def reason(raised: pytest.ExceptionInfo[CatalogError]) -> str:
    return str(raised.value.details["reason"])


# --- making one ----------------------------------------------------------------------------------------------------


def test_by_default_it_is_a_private_file_in_the_state_folder(tmp_path: Path) -> None:
    with Catalog.open(env={"XDG_STATE_HOME": str(tmp_path)}) as catalog:
        catalog.add_snapshot(REPOSITORY, snapshot(1), SnapshotRows([row(b"/h/a")]))
        folder = tmp_path / "backupiq"
        assert catalog.name == str(folder / "catalog.sqlite3")
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {
            "catalog.sqlite3": 0o600,
            "catalog.sqlite3-shm": 0o600,
            "catalog.sqlite3-wal": 0o600,
        }


def test_the_environment_names_another_one(postgres_url: str) -> None:
    with Catalog.open(env={URL_VARIABLE: postgres_url}) as catalog:
        assert catalog.engine.dialect.name == "postgresql"


def test_searching_without_a_catalog_says_how_to_make_one(url: str, tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="backupiq catalog update") as raised:
        Catalog.open(url, create=False)
    assert reason(raised) == "missing"
    assert not list(tmp_path.rglob("*.sqlite3"))
    Catalog.open(url).close()
    Catalog.open(url, create=False).close()


def test_a_deleted_catalog_is_made_anew_and_its_old_log_is_not_taken_for_its_own(tmp_path: Path) -> None:
    catalog = empty_catalog(tmp_path)
    catalog.add_snapshot(REPOSITORY, snapshot(1), SnapshotRows([row(b"/h/a")]))
    (tmp_path / "catalog.sqlite3").unlink()
    catalog.close()
    (tmp_path / "catalog.sqlite3-wal").write_bytes(b"what is left of another one")
    with Catalog.open(url_of(tmp_path / "catalog.sqlite3")) as anew:
        assert everything(anew)["versions"] == []
        assert is_sound(anew)
    assert (tmp_path / "catalog.sqlite3-wal.broken-1").read_bytes() == b"what is left of another one"


def open_and_add(url: str, number: int, barrier: Any) -> None:
    """What each of several processes does: all bring the same snapshot in, and each one of its own."""
    barrier.wait(60)
    with Catalog.open(url) as catalog:
        rows = [row(b"/home/%d" % each) for each in range(300)]
        catalog.add_snapshot(REPOSITORY, snapshot(1), SnapshotRows(rows))
        catalog.add_snapshot(REPOSITORY, snapshot(2 + number, host=f"host-{number}"), SnapshotRows(rows))


def test_processes_that_make_and_fill_it_at_once_do_not_disturb_each_other(url: str) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    processes = [context.Process(target=open_and_add, args=(url, number, barrier)) for number in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    with Catalog.open(url) as catalog:
        assert catalog.sizes()["snapshots"] == 3
        assert catalog.sizes()["file_versions"] == 900
        assert is_sound(catalog)


def test_a_writer_that_waits_too_long_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = filled(tmp_path)
    monkeypatch.setattr("backupiq.catalog.database.BUSY_SECONDS", 0.0)
    with closing(sqlite3.connect(path, isolation_level=None)) as other, Catalog.open(url_of(path)) as catalog:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(CatalogError, match="another program") as raised:
            catalog.add_snapshot(REPOSITORY, snapshot(2), SnapshotRows([row(b"/h/b")]))
        assert reason(raised) == "busy"
        assert catalog.sizes()["file_versions"] == 50
        other.execute("ROLLBACK")
        assert catalog.add_snapshot(REPOSITORY, snapshot(2), SnapshotRows([row(b"/h/b")])) is Added.ADDED


def test_slow_analysis_keeps_nobody_from_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backupiq.catalog.database.BUSY_SECONDS", 0.0)
    path = filled(tmp_path)
    with Catalog.open(url_of(path)) as one, Catalog.open(url_of(path)) as two:

        def rows() -> Iterator[FileRow]:
            yield row(b"/h/one")
            assert two.add_snapshot(REPOSITORY, snapshot(1, host="x"), SnapshotRows([])) is Added.PRESENT
            yield row(b"/h/two")

        assert one.add_snapshot(REPOSITORY, snapshot(2), SnapshotRows(rows())) is Added.ADDED


# --- damage --------------------------------------------------------------------------------------------------------


def no_database(path: Path) -> None:
    path.write_bytes(b"this is no database" * 1_000)


def cut_short(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 3)


def overwritten(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xa5" * 60_000)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [no_database, cut_short, overwritten])
async def test_a_damaged_catalog_is_told_and_kept_and_costs_only_time(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    from backupiq.catalog.analyzing import snapshot_analyzer

    async with growing(tmp_path) as place:
        place.write("a.txt")
        await place.back_up()
        with await place.anew("catalog.sqlite3") as catalog:
            before = everything(catalog)
        path = tmp_path / "catalog.sqlite3"
        damage(path)
        damaged = path.read_bytes()
        with (
            pytest.raises(CatalogError, match="backupiq catalog rebuild") as raised,
            Catalog.open(url_of(path), create=False) as opened,
        ):
            everything(opened)
        assert reason(raised) == "damaged"
        assert path.read_bytes() == damaged
        moved: list[Path] = []
        with open_for_rebuild(url_of(path), tell=moved.append) as catalog:
            await rebuild_catalog(catalog, place.repository, snapshot_analyzer(KEY), now_ns=1)
            assert everything(catalog) == before
            assert is_sound(catalog)
        assert [each.name for each in moved] == ["catalog.sqlite3.broken-1"]
        assert moved[0].read_bytes() == damaged


def test_a_run_moves_a_damaged_catalog_aside_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = filled(tmp_path)
    for number in (1, 2):
        no_database(path)
        with Catalog.open(url_of(path), repair=True) as catalog:
            assert everything(catalog)["versions"] == []
        away = tmp_path / f"catalog.sqlite3.broken-{number}"
        assert away.exists()
        assert str(away) in caplog.records[-1].getMessage()


def test_an_empty_file_is_an_empty_catalog(tmp_path: Path) -> None:
    path = filled(tmp_path)
    empty(path)
    with Catalog.open(url_of(path)) as catalog:
        assert everything(catalog)["versions"] == []


def test_a_catalog_of_a_newer_program_is_moved_aside_by_a_rebuild_only(tmp_path: Path) -> None:
    path = filled(tmp_path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
    with pytest.raises(CatalogError, match="newer"):
        Catalog.open(url_of(path), repair=True)
    moved: list[Path] = []
    with open_for_rebuild(url_of(path), tell=moved.append) as catalog:
        assert everything(catalog)["versions"] == []
    assert moved == [tmp_path / "catalog.sqlite3.broken-1"]


def test_a_sound_catalog_is_not_moved_by_a_rebuild(tmp_path: Path) -> None:
    path = filled(tmp_path)
    with open_for_rebuild(url_of(path)) as catalog:
        assert catalog.sizes()["file_versions"] == 50
    assert not list(tmp_path.glob("*broken*"))


# --- disks ---------------------------------------------------------------------------------------------------------


@pytest.mark.root
def test_a_full_disk_costs_the_snapshot_and_nothing_else(tmpfs: Callable[[int], Path]) -> None:
    disk = tmpfs(2 << 20)
    path = filled(disk)
    with Catalog.open(url_of(path)) as catalog:
        before = everything(catalog)
        big = SnapshotRows(row(b"/home/%d/%s" % (number, b"x" * 100)) for number in range(20_000))
        with pytest.raises(CatalogError, match="full") as raised:
            catalog.add_snapshot(REPOSITORY, snapshot(2), big)
        assert reason(raised) == "full"
        assert everything(catalog) == before
        assert is_sound(catalog)
    (disk / "catalog.sqlite3-wal").unlink(missing_ok=True)
    with Catalog.open(url_of(path)) as catalog:
        assert catalog.add_snapshot(REPOSITORY, snapshot(2), SnapshotRows([row(b"/h/a")])) is Added.ADDED


@pytest.mark.root
def test_a_full_disk_on_which_it_cannot_even_be_made(tmpfs: Callable[[int], Path]) -> None:
    disk = tmpfs(64 << 10)
    (disk / "ballast").write_bytes(bytes((64 << 10) - 4_096))
    with pytest.raises(CatalogError, match="full"):
        Catalog.open(url_of(disk / "catalog.sqlite3"))


@pytest.mark.root
def test_on_a_disk_that_takes_no_writes_it_can_be_read(tmpfs: Callable[[int], Path]) -> None:
    disk = tmpfs(8 << 20)
    path = filled(disk)
    with Catalog.open(url_of(path)) as catalog:
        before = everything(catalog)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(CatalogError, match=URL_VARIABLE) as raised:
        Catalog.open(url_of(path))
    assert reason(raised) == "read-only"
    with Catalog.open(url_of(path), create=False) as catalog:
        assert everything(catalog) == before
        with pytest.raises(CatalogError):
            catalog.add_snapshot(REPOSITORY, snapshot(2), SnapshotRows([row(b"/h/a")]))


def test_a_folder_in_its_place_is_told(tmp_path: Path) -> None:
    with pytest.raises(CatalogError):
        Catalog.open(url_of(tmp_path))


# --- PostgreSQL ----------------------------------------------------------------------------------------------------


def test_nothing_shows_the_password(postgres: PostgreSQL, postgres_url: str) -> None:
    with Catalog.open(postgres_url) as catalog:
        shown = f"{catalog!r} {catalog.name} {catalog.engine!r} {catalog.engine.url!r} {catalog_url(postgres_url)}"
    wrong = postgres_url.replace(postgres_url.split("@")[0], "postgresql://catalog:an%2Fother%20secret")
    gone = re.sub(r":\d+/", f":{postgres.ports[0] + 1}/", postgres_url)
    for url in (wrong, gone, postgres_url.replace("/postgres?", "/nowhere?")):
        with pytest.raises(CatalogError, match="cannot be reached") as raised:
            Catalog.open(url)
        shown += f" {raised.value} {raised.value.to_dict()} {raised.value.__cause__!r}"
    for secret in (PASSWORD, "an/other secret", "an%2Fother", postgres_url.split(":")[2].split("@")[0]):
        assert secret not in shown


def test_a_connection_that_the_server_ended_is_replaced(postgres_url: str) -> None:
    import psycopg

    with Catalog.open(postgres_url) as catalog:
        assert catalog.sizes()["snapshots"] == 0
        with psycopg.connect(postgres_url, autocommit=True) as other:
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
        assert catalog.add_snapshot(REPOSITORY, snapshot(1), SnapshotRows([row(b"/h/a")])) is Added.ADDED


def test_a_server_that_goes_away_in_the_middle_is_told(postgres_url: str) -> None:
    import psycopg

    with Catalog.open(postgres_url) as catalog:

        def rows() -> Iterator[FileRow]:
            yield row(b"/h/a")
            with psycopg.connect(postgres_url, autocommit=True) as other:
                other.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
                )
            yield row(b"/h/b")

        with pytest.raises(CatalogError, match="cannot be reached"):
            catalog.add_snapshot(REPOSITORY, snapshot(1), SnapshotRows(rows()))
        assert catalog.sizes()["snapshots"] == 0
        assert catalog.add_snapshot(REPOSITORY, snapshot(1), SnapshotRows([row(b"/h/a")])) is Added.ADDED

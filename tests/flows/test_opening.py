"""Opening what a run works on: made when there is nothing, refused when there is something else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import SecretStr

from backupiq.archive.lanes import Lanes
from backupiq.archive.publisher import IndexBook
from backupiq.errors import MissingConfigurationError, RepositoryMissingError, WrongPasswordError
from backupiq.repository.lockfile import LockFile, encode_lock
from backupiq.repository.locking import lock_repository
from backupiq.repository.pack import BlobType
from backupiq.repository.repository import FileType, Repository
from backupiq.resilience.breaker import MemoryBreakerStore
from backupiq.storage.local import LocalProvider
from backupiq.telemetry import redact_text
from flows.backup_destinations import Destinations, take_stock
from flows.context import RunContext
from flows.guard import Breakers
from flows.opening import (
    absolute,
    choose_parent,
    open_or_create,
    resolve_password,
)
from tests.unit.archive.saving import PASSWORD, Kitchen, back_up, names_of, new_kitchen, reopened
from tests.unit.repository.repositories import new_repository

SECRET = SecretStr(PASSWORD)


# --- the repository ------------------------------------------------------------------------------------------------


async def test_a_repository_that_is_there_is_opened_and_not_made_again(tmp_path: Path) -> None:
    made = await new_repository(tmp_path / "vault")
    opened, created = await open_or_create(LocalProvider(tmp_path / "vault"), SECRET)
    assert (opened.config, created) == (made.config, False)


@pytest.mark.parametrize("exists", [True, False])
async def test_an_empty_or_missing_folder_becomes_a_repository(tmp_path: Path, exists: bool) -> None:
    if exists:
        (tmp_path / "vault").mkdir()
    made, created = await open_or_create(LocalProvider(tmp_path / "vault"), SECRET)
    assert created
    again, created = await open_or_create(LocalProvider(tmp_path / "vault"), SECRET)
    assert (again.config, created) == (made.config, False)


@pytest.mark.parametrize("name", ["holiday.jpg", "data/ab/cd", "snapshots/x"])
async def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path, name: str) -> None:
    stranger = tmp_path / "vault" / name
    stranger.parent.mkdir(parents=True)
    stranger.write_bytes(b"mine")
    with pytest.raises(RepositoryMissingError, match="not empty"):
        await open_or_create(LocalProvider(tmp_path / "vault"), SECRET)
    assert [path for path in (tmp_path / "vault").rglob("*") if path.is_file()] == [stranger]


async def test_a_wrong_password_makes_no_second_repository(tmp_path: Path) -> None:
    await new_repository(tmp_path / "vault")
    with pytest.raises(WrongPasswordError):
        await open_or_create(LocalProvider(tmp_path / "vault"), SecretStr("another"))


# --- what an interrupted run left ----------------------------------------------------------------------------------


@pytest.fixture
async def kitchen(tmp_path: Path) -> Kitchen:
    made = await new_kitchen(tmp_path)
    writer = made.new_writer()
    writer.save(b"left behind", BlobType.DATA)
    writer.flush()
    await made.store_finished()
    return made


async def adopted(repository: Repository) -> int:
    """The bytes that a run takes over, as it begins."""
    found = Destinations(repository, Lanes(IndexBook(repository.master)), Breakers(MemoryBreakerStore()))
    found.lanes.add("vault", repository)
    return (await take_stock(found))[0]


async def test_a_run_alone_in_the_repository_adopts_what_was_left(kitchen: Kitchen) -> None:
    fresh = await reopened(kitchen.repository)
    async with lock_repository(fresh):
        assert await adopted(fresh) > 0
        assert await adopted(fresh) == 0
    assert len(await names_of(fresh, FileType.INDEX)) == 1


@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize(("host", "pid"), [("another-machine", 1), (None, 1)])
async def test_beside_another_program_nothing_is_adopted(
    kitchen: Kitchen, host: str | None, pid: int, exclusive: bool
) -> None:
    import socket

    other = LockFile(
        time="2026-05-04T03:02:01Z",
        exclusive=exclusive,
        hostname=host or socket.gethostname(),
        username="bert",
        pid=pid,
    )
    await kitchen.repository.save_file(FileType.LOCK, encode_lock(other))
    fresh = await reopened(kitchen.repository)
    assert await adopted(fresh) == 0
    assert await names_of(fresh, FileType.INDEX) == set()


async def test_temporary_files_of_the_day_before_yesterday_are_swept_and_fresh_ones_are_not(kitchen: Kitchen) -> None:
    assert isinstance(kitchen.repository.provider, LocalProvider)
    root = kitchen.repository.provider.root
    old, new = root / "data" / "x-tmp-0123456789abcdef", root / "data" / "y-tmp-0123456789abcdef"
    for path in (old, new):
        path.write_bytes(b"unfinished")
    os.utime(old, (1, 1))
    fresh = await reopened(kitchen.repository)
    await adopted(fresh)
    assert (old.exists(), new.exists()) == (False, True)


# --- the parent ----------------------------------------------------------------------------------------------------


@pytest.fixture
async def repository(tmp_path: Path) -> Repository:
    return await new_repository(tmp_path / "repository")


async def test_the_parent_is_the_newest_of_this_host_and_these_paths_unless_told_otherwise(
    repository: Repository, tmp_path: Path
) -> None:
    (tmp_path / "source").mkdir()
    paths = [str(tmp_path / "source")]
    saved = await back_up(repository, tmp_path / "spool", tmp_path / "source")

    async def chosen(**wanted: object) -> str | None:
        asked = {"host": "here", "paths": paths, "wanted": None, "force": False} | wanted
        found = await choose_parent(repository, **asked)  # type: ignore[arg-type]
        return found[0] if found else None

    assert await chosen() == saved.snapshot_id
    assert await chosen(host="elsewhere") is None
    assert await chosen(paths=["/another"]) is None
    assert await chosen(force=True) is None
    assert await chosen(host="elsewhere", wanted=saved.snapshot_id[:8]) == saved.snapshot_id


# --- small things --------------------------------------------------------------------------------------------------


def test_a_source_is_named_in_snapshots_by_its_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("docs/../photos/") == str(tmp_path / "photos")
    assert absolute("//srv/x") == "/srv/x"
    assert absolute(os.fsdecode(b"/caf\xe9")) == "/caf\ufffd"


def test_the_callers_password_is_used_and_known_to_the_logs_redaction() -> None:
    secret = SecretStr("a-password-given-by-the-caller")
    assert resolve_password(RunContext(password=secret), ["/vault"], None) is secret
    assert "given-by-the-caller" not in redact_text("it was a-password-given-by-the-caller indeed")


def test_a_missing_password_says_how_to_give_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BACKUPIQ_PASSWORD", "BACKUPIQ_PASSWORD_FILE", "BACKUPIQ_PASSWORD_COMMAND"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with pytest.raises(MissingConfigurationError, match="password"):
        resolve_password(RunContext(), ["/vault"], None)

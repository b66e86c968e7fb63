"""One run as a library object: sources of every kind, and nothing left behind however it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from backupiq.archive import reading
from backupiq.archive.session import (
    MOST_WARNINGS,
    BackupSession,
    RunSettings,
    closing,
    group_sources,
)
from backupiq.discovery.rules import ExcludeRules
from backupiq.errors import BackupIQError, CancelledRunError, SourceNotFoundError
from backupiq.repository.pack import BlobType
from backupiq.repository.repository import FileType, Repository
from backupiq.telemetry import correlation
from tests.unit.archive.saving import back_up, names_of, node_at, only_delivery, read_back, reopened
from tests.unit.repository.repositories import new_repository


@pytest.fixture
async def repository(tmp_path: Path) -> Repository:
    return await new_repository(tmp_path / "repository")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    root = tmp_path / "files"
    for name in ("one/a", "one/below/b", "two/c", "three/d", "beside"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode() * 10)
    return root


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def run_threads() -> list[str]:
    """Threads of a run that are alive."""
    return [
        thread.name for thread in threading.enumerate() if thread.name.startswith(("backupiq-pack", "backupiq-blob"))
    ]


def new_session(repository: Repository | None, spool: Path, *sources: Path, dry_run: bool = False) -> BackupSession:
    names = [os.fspath(source) for source in sources]
    return BackupSession(repository, sources=names, rules=ExcludeRules(), settings=RunSettings(2, spool, dry_run))


async def stored(repository: Repository, tree: str, path: Path) -> bytes:
    node = await node_at(repository, tree, path)
    assert node.content is not None
    return await read_back(repository, node.content)


# --- sources -------------------------------------------------------------------------------------------------------


async def test_several_sources_become_one_snapshot_that_holds_nothing_beside_them(
    repository: Repository, spool: Path, files: Path
) -> None:
    saved = await back_up(repository, spool, files / "one", files / "three")
    for name in ("one/a", "one/below/b", "three/d"):
        assert await stored(repository, saved.tree, files / name) == name.encode() * 10
    for name in ("two", "beside"):
        with pytest.raises(KeyError):
            await node_at(repository, saved.tree, files / name)
    assert saved.session.tree_counts.files == 3


async def test_a_source_within_another_is_stored_once(repository: Repository, spool: Path, files: Path) -> None:
    saved = await back_up(repository, spool, files / "one" / "below", files, files / "one" / "a")
    assert saved.session.inventory.files == 5
    assert saved.session.bytes_read == sum(path.stat().st_size for path in files.rglob("*") if path.is_file())
    assert await stored(repository, saved.tree, files / "one" / "below" / "b") == b"one/below/b" * 10


async def test_files_are_sources_too(repository: Repository, spool: Path, files: Path) -> None:
    saved = await back_up(repository, spool, files / "beside", files / "one" / "a")
    assert await stored(repository, saved.tree, files / "beside") == b"beside" * 10
    assert await stored(repository, saved.tree, files / "one" / "a") == b"one/a" * 10
    assert saved.session.inventory.files == 2
    with pytest.raises(KeyError):
        await node_at(repository, saved.tree, files / "one" / "below")


async def test_a_link_is_stored_as_a_link_and_with_a_slash_as_the_folder_it_leads_to(
    repository: Repository, spool: Path, files: Path
) -> None:
    (files / "link").symlink_to("one")
    plain = await back_up(repository, spool, files / "link")
    assert (await node_at(repository, plain.tree, files / "link")).linktarget == "one"
    followed = await back_up(repository, spool, f"{files}/link/")
    assert await stored(repository, followed.tree, files / "link" / "a") == b"one/a" * 10


async def test_sources_may_be_relative_and_odd_spellings_of_one_place_are_one_source(
    repository: Repository, spool: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files)
    saved = await back_up(repository, spool, "one", f"/{files}/one", "./two/../one/", f"{files}/one/below")
    assert saved.session.inventory.files == 2
    assert await stored(repository, saved.tree, files / "one" / "a") == b"one/a" * 10


async def test_a_source_that_does_not_exist_ends_the_run_before_anything_is_read(
    repository: Repository, spool: Path, files: Path
) -> None:
    with pytest.raises(SourceNotFoundError):
        await back_up(repository, spool, files / "one", files / "nowhere")
    assert await names_of(repository, FileType.SNAPSHOT) == set()
    assert run_threads() == []


async def test_excluded_and_unreadable_things_are_counted_and_named(
    repository: Repository, spool: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_file(path: bytes) -> int:
        if path.endswith(b"/c"):
            raise PermissionError(13, "Permission denied")
        return os.open(path, os.O_RDONLY)

    monkeypatch.setattr(reading, "open_file", open_file)
    saved = await back_up(repository, spool, files, rules=ExcludeRules(patterns=("below/", "beside")))
    assert saved.session.excluded == 2
    assert [item.path for item in saved.session.unreadable] == [os.fsencode(files / "two" / "c")]
    with pytest.raises(KeyError):
        await node_at(repository, saved.tree, files / "two" / "c")
    assert saved.session.tree_counts.files == 2


@pytest.mark.parametrize(
    ("sources", "groups"),
    [
        (["/a", "/b"], [["/a"], ["/b"]]),
        (["/a/b", "/a", "/a/b/c"], [["/a", "/a/b", "/a/b/c"]]),
        (["/a", "/ab"], [["/a"], ["/ab"]]),
        (["/a/", "/a", "/a"], [["/a/", "/a"]]),
        (["/", "/etc", "/home/x"], [["/", "/etc", "/home/x"]]),
        (["/x/b", "/x/a", "/y"], [["/y"], ["/x/b"], ["/x/a"]]),
    ],
)
def test_sources_that_lie_within_each_other_are_walked_together(sources: list[str], groups: list[list[str]]) -> None:
    assert group_sources(sources) == groups


# --- the steps -----------------------------------------------------------------------------------------------------


async def test_packs_go_to_the_delivery_of_the_batch_that_filled_them(
    repository: Repository, spool: Path, files: Path, tmp_path: Path
) -> None:
    (files / "one" / "large").write_bytes(os.urandom(40 << 20))
    (files / "two" / "large").write_bytes(os.urandom(20 << 20))
    async with closing(new_session(repository, spool, files)) as session:
        await session.discover(0, [str(files)])
        changes = await session.compare(None)
        session.prepare()
        half = len(changes.to_read) // 2
        sent = []
        for ordinals in (changes.to_read[:half], changes.to_read[half:]):
            delivery = only_delivery(session)
            await session.pack(ordinals)
            delivery.close()
            await delivery.send(repository.provider)
            sent.append(delivery.packs)
        delivery = only_delivery(session)
        tree = await session.build_trees()
        delivery.close()
        await delivery.send(repository.provider)
    assert sent[0] + sent[1] >= 2
    assert await names_of(repository, FileType.PACK) == {pack.hex() for pack in repository.index.packs()}
    assert await stored(repository, tree, files / "two" / "large") == (files / "two" / "large").read_bytes()


async def test_a_dry_run_says_what_it_would_read_and_writes_nothing(
    repository: Repository, spool: Path, files: Path, tmp_path: Path
) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "repository").rglob("*"))
    for known in (repository, None):
        async with closing(new_session(known, spool, files, dry_run=True)) as session:
            await session.discover(0, [str(files)])
            changes = await session.compare(None)
            assert (changes.files_new, len(changes.to_read)) == (5, 5)
            assert changes.bytes_to_read == sum(path.stat().st_size for path in files.rglob("*") if path.is_file())
            assert session.counts == (0, 0, 0, 0)
    assert not spool.exists()
    assert sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "repository").rglob("*")) == before


async def test_a_second_run_into_the_same_repository_adds_only_what_is_new(
    repository: Repository, spool: Path, files: Path
) -> None:
    first = await back_up(repository, spool, files)
    (files / "new").write_bytes(b"new")
    fresh = await reopened(repository)
    second = await back_up(fresh, spool, files, parent_tree=first.tree)
    assert second.session.counts[0] == 1
    for snapshot, tree in ((first.snapshot_id, first.tree), (second.snapshot_id, second.tree)):
        assert (await fresh.load_snapshot(snapshot))[1].tree == tree
        assert await stored(fresh, tree, files / "two" / "c") == b"two/c" * 10


async def test_what_two_runs_store_at_the_same_time_is_whole_in_both(
    repository: Repository, spool: Path, files: Path
) -> None:
    other = await reopened(repository)
    one, two = await asyncio.gather(back_up(repository, spool, files), back_up(other, spool, files))
    fresh = await reopened(repository)
    for saved in (one, two):
        assert await stored(fresh, saved.tree, files / "one" / "below" / "b") == b"one/below/b" * 10


# --- the end -------------------------------------------------------------------------------------------------------


def spool_folders(spool: Path) -> list[Path]:
    return list(spool.iterdir()) if spool.exists() else []


@contextlib.contextmanager
def nothing_left(spool: Path) -> Iterator[None]:
    yield
    assert run_threads() == []
    assert spool_folders(spool) == []


async def test_a_finished_run_leaves_no_thread_and_no_spool(repository: Repository, spool: Path, files: Path) -> None:
    with nothing_left(spool):
        await back_up(repository, spool, files)


async def test_an_error_in_any_step_leaves_no_thread_and_no_spool(
    repository: Repository, spool: Path, files: Path
) -> None:
    with nothing_left(spool), pytest.raises(RuntimeError, match="whatever"):
        async with closing(new_session(repository, spool, files)) as session:
            await session.discover(0, [str(files)])
            await session.compare(None)
            session.prepare()
            session.new_deliveries()
            await session.pack(session.changes.to_read)
            assert run_threads()
            assert spool_folders(spool)
            raise RuntimeError("whatever")


async def test_an_error_in_one_packing_thread_stops_the_others_and_is_the_one_that_is_raised(
    repository: Repository, spool: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (files / "one" / "large").write_bytes(os.urandom(64 << 20))
    with nothing_left(spool):
        async with closing(new_session(repository, spool, files)) as session:
            await session.discover(0, [str(files)])
            await session.compare(None)
            session.prepare()
            session.new_deliveries()
            (folder,) = spool_folders(spool)
            (folder / "owner").unlink()
            folder.rmdir()
            folder.write_bytes(b"in the way of every pack")
            with pytest.raises(BackupIQError) as caught:
                await session.pack(session.changes.to_read)
            assert not isinstance(caught.value, CancelledRunError)
            folder.unlink()


async def test_a_cancelled_run_leaves_no_thread_and_no_spool(
    repository: Repository, spool: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def open_slowly(path: bytes) -> int:
        loop.call_soon_threadsafe(begun.set)
        go_on.wait(20)
        return os.open(path, os.O_RDONLY)

    monkeypatch.setattr(reading, "open_file", open_slowly)
    with nothing_left(spool):
        run = asyncio.ensure_future(back_up(repository, spool, files))
        await begun.wait()
        run.cancel()
        await asyncio.sleep(0)
        assert not run.done()  # it waits for the thread that is in the middle of a file
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await run
    assert await names_of(repository, FileType.SNAPSHOT) == set()


async def test_a_run_cancelled_while_it_cleans_up_still_cleans_up(
    repository: Repository, spool: Path, files: Path
) -> None:
    session = new_session(repository, spool, files)
    true_close = session.close
    closing_now, go_on = asyncio.Event(), asyncio.Event()

    async def close_slowly() -> None:
        closing_now.set()
        await go_on.wait()
        await true_close()

    async def run() -> None:
        async with closing(session):
            session.prepare()

    session.close = close_slowly  # type: ignore[method-assign]
    with nothing_left(spool):
        task = asyncio.ensure_future(run())
        await closing_now.wait()
        task.cancel()
        await asyncio.sleep(0)
        go_on.set()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.mark.parametrize("step", ["discover", "pack", "build_trees"])
async def test_every_step_of_a_stopped_run_ends_at_once(
    repository: Repository, spool: Path, files: Path, step: str
) -> None:
    async with closing(new_session(repository, spool, files)) as session:
        if step != "discover":
            await session.discover(0, [str(files)])
            await session.compare(None)
        session.prepare()
        session.new_deliveries()
        session.stop()
        with pytest.raises(CancelledRunError):
            match step:
                case "discover":
                    await session.discover(0, [str(files)])
                case "pack":
                    await session.pack(session.changes.to_read)
                case _:
                    await session.build_trees()


# --- what it tells -------------------------------------------------------------------------------------------------


class Sink:
    """Counts what it is told."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.files = self.bytes = 0
        self.totals: list[tuple[int, int]] = []

    def stage(self, name: str) -> None: ...

    def note(self, text: str) -> None: ...

    def total(self, files: int, bytes_: int) -> None:
        self.totals.append((files, bytes_))

    def advance(self, files: int, bytes_: int) -> None:
        with self.lock:
            self.files += files
            self.bytes += bytes_


async def test_progress_reaches_exactly_what_was_announced(repository: Repository, spool: Path, files: Path) -> None:
    (files / "two" / "large").write_bytes(os.urandom(9 << 20))
    sink = Sink()
    saved = await back_up(repository, spool, files, progress=sink)
    assert sink.totals == [(6, saved.session.changes.bytes_to_read)]
    assert (sink.files, sink.bytes) == sink.totals[0]


async def test_lines_logged_by_packing_threads_name_run_and_batch(
    repository: Repository, spool: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    true_read = os.read

    def read_and_append(descriptor: int, count: int) -> bytes:
        data = true_read(descriptor, count)
        with open(f"/proc/self/fd/{descriptor}", "ab") as file:
            file.write(b"+")
        return data

    handler = Keep()
    logging.getLogger("backupiq").addHandler(handler)
    monkeypatch.setattr(os, "read", read_and_append)  # so that every file changes while it is read
    try:
        with correlation(run_id="run-7", batch=3):
            saved = await back_up(repository, spool, files)
    finally:
        monkeypatch.undo()
        logging.getLogger("backupiq").removeHandler(handler)
    lines = [record.getMessage() for record in records if record.getMessage().startswith("run.warning")]
    assert len(lines) == 5 == len(saved.session.warnings)
    assert all("run_id=run-7" in line and "batch=3" in line for line in lines)
    # They were logged where the files were read.
    names = {record.threadName or "" for record in records if record.getMessage().startswith("run.warning")}
    assert all(name.startswith("backupiq-pack") for name in names)


async def test_warnings_are_bounded(repository: Repository, spool: Path, files: Path) -> None:
    session = new_session(repository, spool, files)
    for number in range(MOST_WARNINGS + 10):
        session.warn(f"warning {number}")
    assert len(session.warnings) == MOST_WARNINGS
    await session.close()


async def test_a_path_in_a_warning_cannot_steer_a_terminal(
    repository: Repository, spool: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (files / "two\nlines \x1b[31m\u202e \udce9").write_bytes(b"x")
    true_read = os.read

    def read_and_append(descriptor: int, count: int) -> bytes:
        data = true_read(descriptor, count)
        with open(f"/proc/self/fd/{descriptor}", "ab") as file:
            file.write(b"+")
        return data

    monkeypatch.setattr(os, "read", read_and_append)
    saved = await back_up(repository, spool, files)
    monkeypatch.undo()
    assert len(saved.session.warnings) == 6
    assert all(text.isprintable() for text in saved.session.warnings)
    json.dumps(saved.session.warnings, ensure_ascii=False).encode()


async def test_trees_are_stored_apart_from_data(repository: Repository, spool: Path, files: Path) -> None:
    await back_up(repository, spool, files)
    for pack in repository.index.packs():
        assert len({blob.type for blob in repository.index.pack_blobs(pack)}) == 1
    kinds = {repository.index.pack_blobs(pack)[0].type for pack in repository.index.packs()}
    assert kinds == {BlobType.DATA, BlobType.TREE}


async def test_closing_twice_is_harmless(repository: Repository, spool: Path, files: Path) -> None:
    session = new_session(repository, spool, files)
    session.prepare()
    with nothing_left(spool):
        await session.close()
        await session.close()

"""One run to several destinations: all the same at its end, whatever one of them does meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import os
import random
import re
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import httpx
import pytest
from pydantic import SecretStr

from backupiq.archive import lanes, session
from backupiq.archive.lanes import Lanes
from backupiq.archive.pack_writer import PackWriter
from backupiq.archive.publisher import IndexBook
from backupiq.archive.spool import Spool
from backupiq.errors import (
    DegradedRunError,
    RepositoryLockedError,
    StorageConnectionError,
    StorageError,
    StorageQuotaError,
    UnknownDestinationError,
    ValidationError,
)
from backupiq.planning import batches
from backupiq.profile import BackupOptions
from backupiq.progress import SilentProgress
from backupiq.replicas.opening import open_replicas, probe_replicas
from backupiq.reports import BackupReport
from backupiq.repository.locking import RepositoryLock
from backupiq.repository.pack import BlobType, PackFile
from backupiq.repository.repository import Repository, pack_key
from backupiq.resilience.breaker import MemoryBreakerStore
from backupiq.storage.local import LocalProvider
from backupiq.storage.provider import FileInfo, StorageInfo, UploadResult
from backupiq.storage.throttle import NO_LIMITS, Limits
from flows.backup_destinations import Destinations
from flows.guard import Breakers
from tests.faults.support import files_of, locks_of, wait_for
from tests.flows.conftest import PASSWORD, Flows

PACK = 1 << 20
"""Packs of a mebibyte instead of sixteen, so that a few mebibytes of files fill a spool."""


class WhenFull(asyncio.Event):
    """Happens when the spool takes no more packs."""

    def __init__(self, held: list[int]) -> None:
        super().__init__()
        self.held = held

    async def wait(self) -> Literal[True]:
        await asyncio.to_thread(wait_for, lambda: max(self.held, default=0) >= 12 * PACK, "the spool to fill")
        return True


@dataclasses.dataclass
class Weather:
    """What a destination does; changed at any time by a test."""

    refuse: Mapping[str, StorageError] = dataclasses.field(default_factory=dict)
    """Uploads of keys that begin so fail."""
    times: int = 1_000_000
    unreadable: StorageError | None = None
    down: StorageError | None = None
    hold: asyncio.Event | None = None
    """Uploads of packs wait for it."""
    then: StorageError | None = None
    """They fail after that."""
    on_upload: Callable[[str], object] = lambda key: None
    uploads: Counter[str] = dataclasses.field(default_factory=Counter)
    limits: Limits = NO_LIMITS


class Moody(LocalProvider):
    """The real local destination, in changing weather."""

    def __init__(self, root: Path, weather: Weather) -> None:
        super().__init__(root, limits=weather.limits)
        self.weather = weather

    def _check(self) -> None:
        if self.weather.down is not None:
            raise self.weather.down

    async def authenticate(self) -> StorageInfo:
        self._check()
        return await super().authenticate()

    async def upload_file(self, source: Path | bytes | memoryview, key: str, **options: Any) -> UploadResult:
        self._check()
        weather = self.weather
        weather.uploads[key] += 1
        weather.on_upload(key)
        for begin, error in weather.refuse.items():
            if key.startswith(begin) and weather.times:
                weather.times -= 1
                raise error
        if weather.hold is not None and key.startswith("data/"):
            await weather.hold.wait()
            if weather.then is not None:
                raise weather.then
        return await super().upload_file(source, key, **options)

    async def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        self._check()
        return await super().read(key, offset, length)

    async def download_file(self, key: str, target: Path, **options: Any) -> Any:
        self._check()
        if self.weather.unreadable is not None and key.startswith("data/"):
            raise self.weather.unreadable
        return await super().download_file(key, target, **options)

    async def get_file_info(self, key: str) -> FileInfo:
        self._check()
        return await super().get_file_info(key)


@dataclasses.dataclass
class Several:
    """Runs to two destinations or more, each with its weather."""

    flows: Flows
    folder: Path
    weather: dict[str, Weather]

    def at(self, name: str) -> Path:
        return self.folder / name

    def back_up(self, *names: str, **options: Any) -> BackupReport:
        from flows.launch import run_backup

        wanted = BackupOptions(paths=[str(self.flows.source)], to=[str(self.at(name)) for name in names], **options)
        return run_backup(wanted, password=SecretStr(PASSWORD), progress=SilentProgress())

    def change(self, name: str, size: int = 200_000) -> None:
        """A new file among those that are backed up."""
        (self.flows.source / name).write_bytes(random.Random(name).randbytes(size))

    def assert_same(self, *names: str) -> None:
        """The destinations hold the same objects, and their indexes name exactly the packs that are there."""
        first, *others = (files_of(self.at(name)) for name in names)
        assert all(other == first for other in others)
        for name in names:
            repository = asyncio.run(opened(self.at(name)))
            packs = {path.name for path in self.at(name).glob("data/*/*")}
            assert {pack.hex() for pack in repository.index.packs()} == packs

    def snapshots(self, name: str) -> set[str]:
        return {path.name for path in (self.at(name) / "snapshots").glob("*")}


def close_breakers(several: Several) -> None:
    """Let the next run try what has just failed."""
    from flows.guard import reset_breaker

    async def reset() -> None:
        for name in several.weather:
            with contextlib.suppress(UnknownDestinationError):
                await reset_breaker(str(several.at(name)))

    asyncio.run(reset())


async def opened(root: Path) -> Repository:
    repository = await Repository.open(LocalProvider(root), PASSWORD)
    await repository.load_index()
    await repository.provider.close()
    return repository


@pytest.fixture
def several(flows: Flows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Several:
    from flows import backup_destinations
    from flows.tasks import publish, store

    found = Several(flows, tmp_path, {})

    def provider_for(destination: str, limits: Limits) -> LocalProvider:
        weather = found.weather.setdefault(Path(destination).name, Weather())
        weather.limits = limits
        return Moody(Path(destination), weather)

    monkeypatch.setattr(backup_destinations, "provider_for", provider_for)
    for task in (store.upload_batch, publish._publish, publish.catch_up):
        monkeypatch.setattr(task, "retry_delay_seconds", [0.0])
    store.upload_to.cache_clear()
    found.weather = {name: Weather() for name in ("here", "there", "third")}
    return found


@pytest.fixture
def small_spool(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A spool of 12 packs of a mebibyte each; the bytes of it that were held, whenever some were reserved."""
    held: list[int] = []

    class Small(Spool):
        def reserve(self, size: int, stopped: Callable[[], bool]) -> None:
            super().reserve(size, stopped)
            held.append(self.held)

    def create(cls: type[Spool], parent: Path) -> Spool:
        return Spool.create.__func__(Small, parent, limit=12 * PACK)  # type: ignore[attr-defined,no-any-return]

    fake = type("Fake", (), {"create": classmethod(create)})
    monkeypatch.setattr(session, "Spool", fake)
    monkeypatch.setattr(lanes, "PACK_SIZE", PACK)
    monkeypatch.setitem(PackWriter.__init__.__kwdefaults__, "pack_size", PACK)  # type: ignore[arg-type]
    return held


# --- as it should be -----------------------------------------------------------------------------------------------


def test_two_destinations_are_the_same_after_each_run_and_nothing_is_copied_between_them(several: Several) -> None:
    first = several.back_up("here", "there")
    assert first.exit_code == 0
    several.assert_same("here", "there")
    several.change("more")
    second = several.back_up("here", "there")
    assert (second.exit_code, second.parent_id, second.files_new) == (0, first.snapshot_id, 1)
    several.assert_same("here", "there")
    for report in (first, second):
        assert [(each["complete"], each["objects_caught_up"]) for each in report.destinations] == [(True, 0)] * 2
    sent = several.weather["there"].uploads
    assert {key: count for key, count in sent.items() if count > 1} == {}


def test_a_destination_that_is_added_gets_everything(several: Several) -> None:
    several.back_up("here")
    several.change("more")
    report = several.back_up("here", "there", "third")
    assert report.exit_code == 0
    several.assert_same("here", "there", "third")
    assert [each["objects_caught_up"] > 0 for each in report.destinations] == [False, True, True]
    assert len(several.snapshots("third")) == 2


def test_the_upload_limit_is_one_for_all_destinations(several: Several) -> None:
    assert several.back_up("here", "there", limit_upload=50 << 20, limit_download=60 << 20).exit_code == 0
    here, there = several.weather["here"].limits, several.weather["there"].limits
    assert here.upload is not None
    assert here.upload is there.upload
    assert here.download is there.download is not here.upload
    assert several.back_up("here", "there").exit_code == 0
    assert several.weather["here"].limits == NO_LIMITS


def test_more_batches_ask_no_more_of_the_breakers_state(several: Several, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    true_send = httpx.AsyncClient.send

    async def send(client: httpx.AsyncClient, request: httpx.Request, **options: Any) -> httpx.Response:
        asked.append(request.url.path)
        return await true_send(client, request, **options)

    monkeypatch.setattr(httpx.AsyncClient, "send", send)
    runs = []
    for number, size in enumerate((batches.SMALLEST_BATCH, 1)):
        monkeypatch.setattr(batches, "batch_size", lambda total, size=size, **_: size)
        for name in range(6):
            several.change(f"run {number}, file {name}", 20_000)
        asked.clear()
        report = several.back_up("here", "there")
        assert report.exit_code == 0
        assert report.flow_run_id is not None
        tasks = several.flows.api.finished_tasks(report.flow_run_id, 20 if number else 10)
        packed = sum(task["name"].startswith("pack") for task in tasks)
        # What Prefect itself sends about task runs goes through its event stream, not through calls.
        kinds = Counter(re.sub(r"[0-9a-f-]{36}", "ID", path) for path in asked)
        runs.append((packed, {path: count for path, count in kinds.items() if "variable" in path}))
    (few, calls_of_few), (many, calls_of_many) = runs
    assert (few, many) == (1, 6)
    assert sum(calls_of_many.values()) <= sum(calls_of_few.values()) + 2
    assert 0 < sum(calls_of_many.values()) < 2 * many


# --- one of them fails ---------------------------------------------------------------------------------------------


def test_a_failing_destination_is_named_and_the_next_run_catches_it_up(several: Several) -> None:
    several.back_up("here", "there")
    several.change("more")
    several.weather["there"] = Weather(refuse={"data/": StorageQuotaError("The destination is full.")})
    degraded = several.back_up("here", "there")
    assert degraded.exit_code == 4
    here, there = degraded.destinations
    assert (here["complete"], there["complete"], there["error"]) == (True, False, "The destination is full.")
    assert any(str(several.at("there")) in text for text in degraded.warnings)
    assert (len(several.snapshots("here")), len(several.snapshots("there"))) == (2, 1)

    several.weather["there"] = Weather()
    close_breakers(several)
    several.change("still more")
    report = several.back_up("here", "there")
    assert report.exit_code == 0
    several.assert_same("here", "there")
    assert report.destinations[1]["objects_caught_up"] >= 3


def test_a_destination_that_comes_back_during_the_run_is_caught_up_at_its_end(several: Several) -> None:
    several.back_up("here", "there")
    several.change("more")
    # Five tries of the first upload, and the breaker's threshold is five.
    several.weather["there"] = Weather(refuse={"snapshots/": StorageConnectionError("The line is down.")}, times=4)
    report = several.back_up("here", "there")
    assert report.exit_code == 0
    several.assert_same("here", "there")


@pytest.mark.parametrize("kind", ["data/", "index/", "snapshots/"])
def test_when_all_fail_the_run_fails_with_an_error_of_theirs_and_publishes_nothing(several: Several, kind: str) -> None:
    several.back_up("here", "there")
    several.change("more")
    error = StorageQuotaError("The destination is full.")
    several.weather = {name: Weather(refuse={kind: error}) for name in ("here", "there")}
    with pytest.raises(StorageQuotaError, match="The destination is full"):
        several.back_up("here", "there")
    assert (len(several.snapshots("here")), len(several.snapshots("there"))) == (1, 1)
    assert list((several.folder / "spool").iterdir()) == []
    assert [locks_of(several.at(name)) for name in ("here", "there")] == [[], []]
    close_breakers(several)


def test_no_snapshot_is_published_where_what_it_needs_could_not_be_copied(several: Several) -> None:
    several.back_up("here", "there")
    several.change("only here")
    several.weather["there"] = Weather(refuse={"data/": StorageQuotaError("The destination is full.")})
    assert several.back_up("here", "there").exit_code == 4
    close_breakers(several)
    before = files_of(several.at("there"))
    # Now the only one that has it takes nothing new and gives nothing away, and the other one is well again.
    several.weather["there"] = Weather()
    gone = StorageQuotaError("The disk is broken.")
    several.weather["here"] = Weather(refuse={"data/": gone}, unreadable=gone)
    several.change("new")
    with pytest.raises(StorageError):
        several.back_up("here", "there")
    assert several.snapshots("there") == {Path(name).name for name in before if name.startswith("snapshots/")}
    close_breakers(several)
    several.weather["here"] = Weather()
    assert several.back_up("here", "there").exit_code == 0
    several.assert_same("here", "there")


def test_a_destination_that_does_not_answer_is_skipped_and_not_waited_for(several: Several) -> None:
    several.back_up("here", "there")
    several.change("more")
    several.weather["there"] = Weather(down=StorageConnectionError("The line is down."))
    report = several.back_up("here", "there")
    assert report.exit_code == 4
    assert [(each["complete"], each["error"]) for each in report.destinations] == [
        (True, ""),
        (False, "The line is down."),
    ]
    assert several.weather["there"].uploads == {}


def test_beside_one_that_does_not_answer_no_second_repository_is_made(several: Several) -> None:
    several.weather["there"] = Weather(down=StorageConnectionError("The line is down."))
    with pytest.raises(StorageConnectionError, match="The line is down"):
        several.back_up("here", "there")
    assert not several.at("here").exists()


def test_different_repositories_are_refused(several: Several) -> None:
    several.back_up("here")
    several.back_up("there")
    before = [files_of(several.at(name)) for name in ("here", "there")]
    with pytest.raises(ValidationError, match="different repositories"):
        several.back_up("here", "there")
    assert [files_of(several.at(name)) for name in ("here", "there")] == before


def test_a_locked_destination_is_left_out_and_when_all_are_locked_the_run_says_so(several: Several) -> None:
    several.back_up("here", "there")

    async def locked_run(*names: str) -> BackupReport:
        async with contextlib.AsyncExitStack() as stack:
            for name in names:
                repository = await opened(several.at(name))
                lock = await RepositoryLock.acquire(repository, exclusive=True, hostname="another-machine")
                await stack.enter_async_context(lock)
                stack.push_async_callback(repository.provider.close)
            return await asyncio.to_thread(several.back_up, "here", "there")

    report = asyncio.run(locked_run("there"))
    assert (report.exit_code, [each["complete"] for each in report.destinations]) == (4, [True, False])
    assert "locked" in report.destinations[1]["error"]
    with pytest.raises(RepositoryLockedError):
        asyncio.run(locked_run("here", "there"))
    assert several.back_up("here", "there").exit_code == 0
    several.assert_same("here", "there")


@pytest.fixture
async def lagging(several: Several) -> AsyncIterator[Destinations]:
    """Two open destinations: ``here`` has one backup more than ``there``."""
    await asyncio.to_thread(several.back_up, "here", "there")
    several.change("only here")
    await asyncio.to_thread(several.back_up, "here")
    probes = await probe_replicas({name: LocalProvider(several.at(name)) for name in ("here", "there")})
    replicas = await open_replicas(probes, PASSWORD)
    found = Destinations(
        replicas.repository, Lanes(IndexBook(replicas.repository.master)), Breakers(MemoryBreakerStore()), replicas
    )
    for name in probes:
        found.lanes.add(name, replicas.at(name))
    yield found
    await replicas.provider.close()


async def test_without_the_only_source_nothing_counts_as_caught_up(
    several: Several, lagging: Destinations, tmp_path: Path
) -> None:
    (newest,) = several.snapshots("here") - several.snapshots("there")
    lagging.lanes.give_up(lagging.lane("here"), StorageConnectionError("The line is down."))
    for snapshot in (None, newest):
        with pytest.raises(DegradedRunError, match="could not be caught up"):
            await lagging.catch_up("there", tmp_path, snapshot=snapshot)
    assert newest not in several.snapshots("there")


async def test_at_the_end_a_destination_is_caught_up_when_the_snapshot_has_come_with_it(
    several: Several, lagging: Destinations, tmp_path: Path
) -> None:
    (newest,) = several.snapshots("here") - several.snapshots("there")
    lagging.complete.add("here")
    await lagging.catch_up("there", tmp_path, snapshot=newest)
    await asyncio.to_thread(several.assert_same, "here", "there")
    with pytest.raises(DegradedRunError, match="the snapshot did not get there"):
        await lagging.catch_up("there", tmp_path, snapshot="ab" * 32)


async def test_what_goes_down_the_lane_is_not_copied_as_well(
    several: Several, lagging: Destinations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files_of(several.at("there"))
    monkeypatch.setattr(Lanes, "is_own", lambda lanes, key: True)
    assert (await lagging.catch_up("there", tmp_path)).objects == 0
    assert files_of(several.at("there")) == before
    monkeypatch.undo()
    assert (await lagging.catch_up("there", tmp_path)).objects > 0
    await asyncio.to_thread(several.assert_same, "here", "there")


# --- slow ones and a small spool -----------------------------------------------------------------------------------


def test_a_slow_destination_holds_up_no_other_and_is_caught_up_at_the_end(
    several: Several, small_spool: list[int]
) -> None:
    several.back_up("here", "there")
    for number in range(3):
        several.change(f"large {number}", 10 * PACK)
    # It lets nothing in before the other one has everything, although the spool takes less than half of that.
    slow = several.weather["there"] = Weather(hold=asyncio.Event())

    def published(key: str) -> None:
        if key.startswith("snapshots/"):
            slow.hold = None

    several.weather["here"] = Weather(on_upload=published)
    small_spool.clear()
    report = several.back_up("here", "there")
    assert report.exit_code == 0
    assert max(small_spool) <= 12 * PACK
    several.assert_same("here", "there")
    assert report.destinations[1]["objects_caught_up"] > 20
    assert list((several.folder / "spool").iterdir()) == []


def test_within_its_share_a_slow_destination_gets_its_packs_without_copying_and_the_other_does_not_wait(
    several: Several, small_spool: list[int]
) -> None:
    several.back_up("here", "there")
    several.change("small", PACK)
    release = asyncio.Event()
    several.weather["there"] = Weather(hold=release)
    several.weather["here"] = Weather(on_upload=lambda key: release.set() if key.startswith("snapshots/") else None)
    report = several.back_up("here", "there")
    assert report.exit_code == 0
    assert [each["objects_caught_up"] for each in report.destinations] == [0, 0]
    several.assert_same("here", "there")


def test_when_the_last_destination_fails_while_packing_waits_for_room_the_run_ends(
    several: Several, small_spool: list[int]
) -> None:
    several.back_up("here", "there")
    several.change("large", 40 * PACK)
    several.weather["there"] = Weather(refuse={"data/": StorageQuotaError("The destination is full.")})
    several.weather["here"] = Weather(hold=WhenFull(small_spool), then=StorageQuotaError("It is full here, too."))
    small_spool.clear()
    with pytest.raises(StorageQuotaError, match="It is full here, too"):
        several.back_up("here", "there")
    assert max(small_spool) <= 12 * PACK
    assert list((several.folder / "spool").iterdir()) == []
    close_breakers(several)


# --- what an interrupted run left ------------------------------------------------------------------------------------


def test_packs_left_at_different_destinations_are_used_and_named_at_both(several: Several, tmp_path: Path) -> None:
    several.back_up("here", "there")

    async def leave() -> None:
        repository = await opened(several.at("here"))
        for number, names in enumerate((("here",), ("here", "there"), ("there",))):
            file = PackFile(tmp_path, BlobType.DATA)
            content = b"left by an interrupted run %d" % number
            (several.flows.source / f"left {number}").write_bytes(content)
            file.add(hashlib.sha256(content).digest(), repository.master.seal(content), 0)
            pack = file.finish(repository.master)
            for name in names:
                provider = LocalProvider(several.at(name))
                await provider.upload_file(pack.path, pack_key(pack.id.hex()))
                await provider.close()
            os.unlink(pack.path)

    asyncio.run(leave())
    report = several.back_up("here", "there")
    assert (report.exit_code, report.files_new) == (0, 3)
    assert report.bytes_resumed > 0
    several.assert_same("here", "there")
    # Each can be used without the other one.
    shutil.rmtree(several.at("here"))
    again = several.back_up("there")
    assert (again.files_unmodified, again.bytes_read) == (5, 0)

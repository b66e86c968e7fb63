"""Lanes: each pack goes to every destination, its file stays as long as one needs it, and a slow one stops no other."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backupiq.archive.delivery import Delivery
from backupiq.archive.lanes import Lane, Lanes
from backupiq.archive.pack_writer import PACK_SIZE
from backupiq.archive.publisher import IndexBook
from backupiq.archive.spool import Spool
from backupiq.errors import StorageConnectionError, StorageCorruptError
from backupiq.repository.config import RepositoryConfig
from backupiq.repository.crypto import MasterKey
from backupiq.repository.pack import BlobType, FinishedPack, PackFile
from backupiq.repository.repository import Repository, pack_key
from backupiq.repository.snapshot import Snapshot
from backupiq.storage.local import LocalProvider
from backupiq.storage.provider import UploadResult

PATIENCE = 60.0
MASTER = MasterKey.generate()
CONFIG = RepositoryConfig.new()
ROOM = 10
"""Packs that the spool takes in these tests; a lane's share is half of them."""


class Gated(LocalProvider):
    """The real local destination; while its gate is shut, each upload of a pack waits until it is let in."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.shut = False
        self.error: Exception | None = None
        self.let_in = asyncio.Semaphore(0)
        self.waiting = 0
        self.moved = 0
        self.files_when_cancelled: list[bool] = []

    async def upload_file(self, source: Path | bytes | memoryview, key: str, **options: Any) -> UploadResult:
        if key.startswith("data/"):
            assert isinstance(source, Path)
            self.moved += bool(options.get("move"))
            self.waiting += 1
            try:
                if self.shut:
                    await self.let_in.acquire()
                if self.error is not None:
                    raise self.error
            except asyncio.CancelledError:
                self.files_when_cancelled.append(source.exists())
                raise
            finally:
                self.waiting -= 1
        return await super().upload_file(source, key, **options)

    def holds(self, pack: FinishedPack) -> bool:
        return (self.root / pack_key(pack.id.hex())).exists()


async def until(condition: Callable[[], object]) -> None:
    """Wait for what tasks and threads do meanwhile; only a hang takes as long as the patience."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        await asyncio.sleep(0.001)


@dataclasses.dataclass
class Road:
    """Lanes to some destinations, and their deliveries being sent."""

    spool: Spool
    lanes: Lanes
    providers: dict[str, Gated]
    packs: list[FinishedPack] = dataclasses.field(default_factory=list)
    deliveries: list[dict[str, Delivery]] = dataclasses.field(default_factory=list)
    senders: dict[str, list[asyncio.Task[None]]] = dataclasses.field(default_factory=dict)

    def lane(self, name: str) -> Lane:
        return next(lane for lane in self.lanes.lanes if lane.name == name)

    def new_batch(self) -> None:
        opened = self.lanes.open_deliveries()
        self.deliveries.append(opened)
        for name, delivery in opened.items():
            task = asyncio.create_task(delivery.send(self.providers[name]))
            self.senders.setdefault(name, []).append(task)

    def close_batch(self) -> None:
        for delivery in self.deliveries[-1].values():
            delivery.close()

    def pack(self) -> FinishedPack:
        """A small pack that takes up the room of a full one."""
        self.spool.reserve(PACK_SIZE, lambda: False)
        file = PackFile(self.spool.folder, BlobType.DATA)
        content = b"blob %d" % len(self.packs)
        file.add(hashlib.sha256(content).digest(), MASTER.seal(content), 0)
        pack = file.finish(MASTER)
        self.packs.append(pack)
        return pack

    def put(self, count: int = 1) -> list[FinishedPack]:
        made = [self.pack() for _ in range(count)]
        for pack in made:
            self.lanes.put(pack)
        return made

    async def all_at(self, *names: str) -> None:
        """Wait until these lanes have nothing left to send."""
        await asyncio.sleep(0)  # what was put is taken in the loop
        await until(lambda: all(self.lane(name).backlog == 0 for name in names))

    async def end(self) -> None:
        self.close_batch()
        tasks = [task for each in self.senders.values() for task in each]
        for provider in self.providers.values():
            provider.shut = False
            for _ in range(2 * ROOM):
                provider.let_in.release()
        for task in tasks:
            with contextlib.suppress(StorageConnectionError):
                await asyncio.wait_for(task, PATIENCE)


@contextlib.asynccontextmanager
async def road(folder: Path, *names: str) -> AsyncIterator[Road]:
    lanes = Lanes(IndexBook(MASTER))
    providers = {name: Gated(folder / name) for name in names}
    for name, provider in providers.items():
        await provider.create()
        lanes.add(name, Repository(provider, MASTER, CONFIG, ""))
    spool = Spool.create(folder / "spool", limit=ROOM * PACK_SIZE)
    lanes.use(spool)
    made = Road(spool, lanes, providers)
    made.new_batch()
    try:
        yield made
    finally:
        await made.end()
        for provider in providers.values():
            await provider.close()
        spool.close()


# --- what is kept ----------------------------------------------------------------------------------------------------


async def test_every_pack_goes_down_every_lane_and_the_last_one_takes_the_file_itself(tmp_path: Path) -> None:
    async with road(tmp_path, "here", "there") as it:
        it.providers["there"].shut = True
        packs = it.put(3)
        await it.all_at("here")
        assert [pack.path.exists() for pack in packs] == [True] * 3
        assert it.spool.held == 3 * PACK_SIZE
        late = it.put(2)
        await it.all_at("here")
        # The first three are being copied by now; of the others nobody else needs the file any more.
        for _ in range(5):
            it.providers["there"].let_in.release()
        await it.all_at("there")
        assert not any(pack.path.exists() for pack in packs + late)
        assert it.spool.held == 0
        assert all(provider.holds(pack) for provider in it.providers.values() for pack in packs + late)
        assert it.providers["there"].moved >= 2


steps = st.lists(
    st.sampled_from(["put", "batch", "send a", "send b", "send c", "behind b", "lose c", "lose b"]), max_size=25
)


@given(steps)
@settings(max_examples=40)
def test_a_file_is_removed_exactly_when_no_lane_needs_it_any_more(does: list[str]) -> None:
    async def run(folder: Path) -> None:
        async with road(folder, "a", "b", "c") as it:
            for provider in it.providers.values():
                provider.shut = True
            sent = dict.fromkeys("abc", 0)  # uploads that were let in
            for step in does:
                word, _, name = step.partition(" ")
                flows = not name or it.lane(name).flows
                if word == "put" and len(it.packs) < ROOM:
                    it.put()
                elif word == "batch":
                    it.close_batch()
                    it.new_batch()
                elif word == "send" and flows and sent[name] < len(it.packs):
                    sent[name] += 1
                    it.providers[name].let_in.release()
                elif word == "behind" and flows:
                    it.lanes.leave_behind(it.lane(name))
                elif word == "lose" and flows:
                    it.lanes.give_up(it.lane(name), StorageConnectionError())
                await settle(it, sent)
                check(it)

    async def settle(it: Road, sent: dict[str, int]) -> None:
        """Wait until as much is confirmed as was let in, and what was cancelled has ended."""
        for lane in it.lanes.lanes:
            wanted = PACK_SIZE * (len(it.packs) - sent[lane.name]) if lane.flows else 0
            await until(lambda lane=lane, wanted=wanted: lane.backlog == wanted)  # type: ignore[misc]

    def check(it: Road) -> None:
        for pack in it.packs:
            needed = any(lane.flows and not it.providers[lane.name].holds(pack) for lane in it.lanes.lanes)
            assert pack.path.exists() == needed
        assert it.spool.held == PACK_SIZE * sum(pack.path.exists() for pack in it.packs)

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder)))


async def test_uploads_under_way_have_ended_before_their_file_goes(tmp_path: Path) -> None:
    async with road(tmp_path, "here", "there") as it:
        there = it.providers["there"]
        there.shut = True
        packs = it.put(4)
        await it.all_at("here")
        await until(lambda: there.waiting == 3)
        it.lanes.give_up(it.lane("there"), StorageConnectionError())
        await until(lambda: it.spool.held == 0)
        assert there.files_when_cancelled == [True] * 3
        assert not any(pack.path.exists() for pack in packs)
        assert it.lane("there").backlog == 0
        # Its upload task ends as well, although its batch is not closed yet, and not with an error.
        await asyncio.wait_for(it.senders["there"][0], PATIENCE)


async def test_a_pack_finished_after_its_batch_was_sent_goes_with_the_next(tmp_path: Path) -> None:
    async with road(tmp_path, "here") as it:
        it.close_batch()
        await asyncio.wait_for(it.senders["here"][0], PATIENCE)
        (pack,) = it.put()  # by a thread that was just too late
        it.new_batch()
        await it.all_at("here")
        await until(lambda: it.providers["here"].holds(pack))


# --- slow ones -------------------------------------------------------------------------------------------------------


async def test_a_slow_lane_falls_behind_once_more_than_its_share_waits_for_it_and_another_is_idle(
    tmp_path: Path,
) -> None:
    async with road(tmp_path, "quick", "slow") as it:
        it.providers["slow"].shut = True
        it.put(ROOM // 2)
        await it.all_at("quick")
        assert it.lane("slow").flows
        it.put()
        await until(lambda: it.lane("slow").behind)
        await until(lambda: it.spool.held == 0)
        assert it.lane("slow").error is None
        more = it.put(ROOM)  # which the spool would not take if the slow one still held its files
        await it.all_at("quick")
        assert all(it.providers["quick"].holds(pack) for pack in more)


async def test_lanes_that_are_equally_slow_leave_none_behind(tmp_path: Path) -> None:
    async with road(tmp_path, "one", "two") as it:
        for provider in it.providers.values():
            provider.shut = True
        it.put(ROOM)
        await until(lambda: all(provider.waiting == 3 for provider in it.providers.values()))
        it.providers["one"].let_in.release()
        await until(lambda: it.lane("one").backlog == (ROOM - 1) * PACK_SIZE)
        assert [lane.behind for lane in it.lanes.lanes] == [False, False]


async def test_a_lane_that_fills_the_spool_falls_behind_when_the_other_has_caught_up_and_packing_waits(
    tmp_path: Path,
) -> None:
    # Nothing is put any more by then, so that a confirmation has to be what shows it.
    async with road(tmp_path, "quick", "slow") as it:
        for provider in it.providers.values():
            provider.shut = True
        it.put(ROOM)
        await until(lambda: it.lane("quick").backlog == ROOM * PACK_SIZE)
        for _ in range(ROOM):
            it.providers["quick"].let_in.release()
        await it.all_at("quick")
        await until(lambda: it.lane("slow").behind)
        await until(lambda: it.spool.held == 0)


async def test_the_only_lane_that_flows_never_falls_behind(tmp_path: Path) -> None:
    async with road(tmp_path, "one", "two") as it:
        it.lanes.give_up(it.lane("two"), StorageConnectionError())
        it.providers["one"].shut = True
        it.put(ROOM)
        await until(lambda: it.lane("one").backlog == ROOM * PACK_SIZE)
        assert it.lane("one").flows
        assert it.lanes.flowing == [it.lane("one")]


# --- publishing ------------------------------------------------------------------------------------------------------


async def test_nothing_is_published_at_a_lane_that_was_closed(tmp_path: Path) -> None:
    async with road(tmp_path, "here", "there") as it:
        it.lanes.leave_behind(it.lane("there"))
        snapshot = Snapshot(time="2026-05-04T03:02:01Z", tree="ab" * 32, paths=["/x"], hostname="here")
        with pytest.raises(StorageCorruptError):
            await it.lane("there").publisher.publish(snapshot)
        assert not list((tmp_path / "there").rglob("snapshots/*"))


async def test_the_runs_own_objects_are_known_by_their_keys(tmp_path: Path) -> None:
    async with road(tmp_path, "here") as it:
        (pack,) = it.put()
        await it.all_at("here")
        assert it.lanes.is_own(pack_key(pack.id.hex()))
        assert not it.lanes.is_own(pack_key("ab" * 32))
        snapshot = Snapshot(time="2026-05-04T03:02:01Z", tree="ab" * 32, paths=["/x"], hostname="here")
        snapshot_id = await it.lane("here").publisher.publish(snapshot)
        (index,) = (tmp_path / "here" / "index").iterdir()
        assert it.lanes.is_own(f"index/{index.name}")
        assert it.lanes.is_own(f"snapshots/{snapshot_id}")
        assert not it.lanes.is_own(f"keys/{snapshot_id}")

"""Deliveries: packs on their way to a destination, sent again only where it did not confirm them."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from backupiq.archive.delivery import UPLOADS_AT_ONCE, Delivery
from backupiq.errors import StorageConnectionError, StorageCorruptError, StorageError
from backupiq.repository.pack import BlobType, FinishedPack
from backupiq.repository.repository import FileType, pack_key
from backupiq.storage.local import LocalProvider
from backupiq.storage.provider import UploadResult
from tests.unit.archive.saving import Kitchen, names_of, new_kitchen, reopened


class Flaky(LocalProvider):
    """The real local destination; some of its uploads fail, before or after they are in place."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.tries: Counter[str] = Counter()
        self.fail_before = 0
        self.fail_after = 0
        self.under_way = 0
        self.most_under_way = 0
        self.hold: asyncio.Event | None = None
        self.holding = asyncio.Event()

    async def upload_file(self, source: Path | bytes | memoryview, key: str, **options: Any) -> UploadResult:
        self.tries[key] += 1
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            if self.hold is not None:
                self.holding.set()
                await self.hold.wait()
            await asyncio.sleep(0)
            if self.fail_before:
                self.fail_before -= 1
                raise StorageConnectionError("The line is down.")
            done = await super().upload_file(source, key, **options)
            if self.fail_after:
                self.fail_after -= 1
                raise StorageConnectionError("The answer was lost.")
            return done
        finally:
            self.under_way -= 1


class Post:
    """A delivery with a flaky destination and some packs to send."""

    def __init__(self, kitchen: Kitchen, provider: Flaky, packs: int = 7) -> None:
        self.kitchen = kitchen
        self.provider = provider
        writer = kitchen.new_writer()
        for number in range(packs):
            writer.save(b"pack %d" % number, BlobType.DATA)
            writer.flush()
        self.packs = list(kitchen.finished)
        self.confirmed: list[FinishedPack] = []
        self.delivery = Delivery(asyncio.get_running_loop(), self.confirmed.append)

    def hand_over(self) -> None:
        for pack in self.packs:
            self.delivery.put(pack)
        self.delivery.close()

    async def assert_delivered_once(self) -> None:
        assert Counter(pack.id for pack in self.confirmed) == Counter(pack.id for pack in self.packs)
        assert await names_of(self.kitchen.repository, FileType.PACK) == {pack.id.hex() for pack in self.packs}
        for pack in self.packs:
            assert len(await self.provider.read(pack_key(pack.id.hex()))) == pack.size
        assert self.delivery.waiting == {}
        assert self.delivery.packs == len(self.packs)
        assert self.delivery.bytes == sum(pack.size for pack in self.packs)


@pytest.fixture
async def post(tmp_path: Path) -> AsyncIterator[Post]:
    kitchen = await new_kitchen(tmp_path)
    provider = Flaky(tmp_path / "repository")
    yield Post(kitchen, provider)
    await provider.close()
    kitchen.close()


async def test_every_pack_is_sent_and_confirmed_once(post: Post) -> None:
    post.hand_over()
    await post.delivery.send(post.provider)
    await post.assert_delivered_once()
    assert set(post.provider.tries.values()) == {1}
    assert post.provider.most_under_way == UPLOADS_AT_ONCE


async def test_an_empty_delivery_ends_when_it_is_closed(post: Post) -> None:
    post.delivery.close()
    await post.delivery.send(post.provider)
    assert post.delivery.packs == 0


async def test_packs_from_other_threads_are_sent_while_more_come(post: Post) -> None:
    def pack_slowly() -> None:
        for number, pack in enumerate(post.packs):
            if number == 3:
                assert first_ones_sent.wait(20)
            post.delivery.put(pack)
        post.delivery.close()

    first_ones_sent = threading.Event()

    def confirm(pack: FinishedPack) -> None:
        post.confirmed.append(pack)
        if len(post.confirmed) == 3:
            first_ones_sent.set()

    post.delivery = Delivery(asyncio.get_running_loop(), confirm)
    thread = threading.Thread(target=pack_slowly)
    thread.start()
    await post.delivery.send(post.provider)
    thread.join()
    await post.assert_delivered_once()


async def test_a_retry_sends_only_what_the_destination_has_not_confirmed(post: Post) -> None:
    post.provider.fail_before = 2
    post.hand_over()
    with pytest.raises(StorageConnectionError):
        await post.delivery.send(post.provider)
    sent_before = {pack_key(pack.id.hex()) for pack in post.confirmed}
    assert sent_before
    await post.delivery.send(post.provider)
    await post.assert_delivered_once()
    assert all(post.provider.tries[key] == 1 for key in sent_before)
    assert sum(post.provider.tries.values()) == len(post.packs) + 2


async def test_a_retry_after_an_answer_that_was_lost_finds_the_pack_in_place(post: Post) -> None:
    # The local destination moves a pack out of the spool, so that it cannot be sent a second time.
    post.provider.fail_after = 2
    post.hand_over()
    with pytest.raises(StorageConnectionError):
        await post.delivery.send(post.provider)
    assert any(not pack.path.exists() for pack in post.delivery.waiting.values())
    while post.delivery.waiting:
        try:
            await post.delivery.send(post.provider)
        except StorageConnectionError:
            continue
    await post.assert_delivered_once()
    assert (await reopened(post.kitchen.repository)) is not None


async def test_a_pack_that_is_gone_here_and_not_whole_there_is_never_confirmed(post: Post) -> None:
    post.provider.fail_after = 1
    post.hand_over()
    with pytest.raises(StorageConnectionError):
        await post.delivery.send(post.provider)
    (lost,) = [pack for pack in post.delivery.waiting.values() if not pack.path.exists()]
    stored = post.provider.root / pack_key(lost.id.hex())
    stored.chmod(0o600)
    os.truncate(stored, lost.size - 1)
    with pytest.raises(StorageCorruptError):
        await post.delivery.send(post.provider)
    stored.unlink()
    with pytest.raises(StorageError):
        await post.delivery.send(post.provider)
    assert lost not in post.confirmed


async def test_when_one_upload_fails_those_beside_it_are_finished_and_confirmed(post: Post) -> None:
    post.provider.hold = asyncio.Event()
    post.hand_over()
    sending = asyncio.ensure_future(post.delivery.send(post.provider))
    await post.provider.holding.wait()
    post.provider.fail_before = 1
    post.provider.hold.set()
    with pytest.raises(StorageConnectionError):
        await sending
    assert post.provider.under_way == 0
    assert len(post.confirmed) == sum(post.provider.tries.values()) - 1 > 0


async def test_a_cancelled_delivery_leaves_nothing_running_and_can_be_taken_up_again(post: Post) -> None:
    post.provider.hold = asyncio.Event()
    post.hand_over()
    sending = asyncio.ensure_future(post.delivery.send(post.provider))
    await post.provider.holding.wait()
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert post.provider.under_way == 0
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []
    assert list(post.provider.root.rglob("*-tmp-*")) == []

    post.provider.hold = None
    await post.delivery.send(post.provider)
    await post.assert_delivered_once()

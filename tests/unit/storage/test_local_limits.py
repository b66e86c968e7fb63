"""Bandwidth limits of the local destination: which bytes count, how long they take, that a wait can be ended."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from pathlib import Path

import pytest

from backupiq.storage.local import LocalProvider
from backupiq.storage.throttle import BURST_SECONDS, Limits, Throttle

RATE = 100_000
CONTENT = bytes(range(256)) * 4000  # about ten seconds at that rate
SECONDS = len(CONTENT) / RATE


class _Time:
    """A clock that moves only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept = threading.Event()
        self._lock = threading.Lock()

    def clock(self) -> float:
        return self.now

    def thread_sleep(self, seconds: float) -> None:
        with self._lock:
            self.now += seconds
        self.slept.set()

    async def sleep(self, seconds: float) -> None:
        self.thread_sleep(seconds)

    def throttle(self) -> Throttle:
        return Throttle(RATE, clock=self.clock, sleep=self.sleep, thread_sleep=self.thread_sleep)


@pytest.fixture
def time() -> _Time:
    return _Time()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


def _took(time: _Time) -> float:
    return time.now - 1000.0


@pytest.mark.parametrize("known_hash", [False, True])
async def test_an_upload_of_a_file_takes_as_long_as_the_limit_wants(
    time: _Time, root: Path, source: Path, known_hash: bool
) -> None:
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    async with LocalProvider(root, limits=Limits(upload=time.throttle())) as provider:
        await provider.upload_file(source, "data/x", sha256=sha256 if known_hash else None)
    assert SECONDS - BURST_SECONDS <= _took(time) <= SECONDS + 1e-6
    assert (root / "data" / "x").read_bytes() == CONTENT


async def test_an_upload_of_bytes_is_limited_as_well(time: _Time, root: Path) -> None:
    async with LocalProvider(root, limits=Limits(upload=time.throttle())) as provider:
        await provider.upload_file(CONTENT, "data/x")
    assert SECONDS - BURST_SECONDS <= _took(time) <= SECONDS + 1e-6


async def test_limited_bytes_flow_in_small_pieces(time: _Time, root: Path) -> None:
    pieces: list[int] = []
    async with LocalProvider(root, limits=Limits(upload=time.throttle())) as provider:
        await provider.upload_file(CONTENT, "data/x", progress=pieces.append)
    assert sum(pieces) == len(CONTENT)
    assert max(pieces) <= RATE


async def test_downloads_and_reads_share_the_other_limit(time: _Time, root: Path, tmp_path: Path) -> None:
    (root / "x").write_bytes(CONTENT)
    async with LocalProvider(root, limits=Limits(download=time.throttle())) as provider:
        await provider.upload_file(CONTENT, "unlimited")
        assert _took(time) == 0
        await provider.download_file("x", tmp_path / "target")
        assert SECONDS - BURST_SECONDS <= _took(time) <= SECONDS + 1e-6
        await provider.read("x", 0, 2 * RATE)
    assert SECONDS + 2 - BURST_SECONDS <= _took(time) <= SECONDS + 2 + 1e-6
    assert (tmp_path / "target").read_bytes() == CONTENT


async def test_transfers_at_once_share_one_limit(time: _Time, root: Path) -> None:
    async with LocalProvider(root, limits=Limits(upload=time.throttle())) as provider:
        await asyncio.gather(*(provider.upload_file(CONTENT, f"data/{number}") for number in range(3)))
    assert _took(time) >= 3 * SECONDS - BURST_SECONDS


async def test_a_source_that_is_renamed_into_place_moves_no_bytes(time: _Time, root: Path, source: Path) -> None:
    moved: list[int] = []
    async with LocalProvider(root, limits=Limits(upload=time.throttle())) as provider:
        result = await provider.upload_file(source, "data/x", move=True, progress=moved.append)
    assert (_took(time), sum(moved), result.size) == (0, len(CONTENT), len(CONTENT))
    assert not source.exists()


async def test_a_cancelled_upload_does_not_wait_for_its_limit_and_leaves_nothing(root: Path) -> None:
    waiting = threading.Event()
    # The clock stands still, so that only the cancellation can end the wait.
    throttle = Throttle(1, clock=lambda: 0.0, thread_sleep=lambda _: waiting.set())
    async with LocalProvider(root, limits=Limits(upload=throttle)) as provider:
        upload = asyncio.ensure_future(provider.upload_file(CONTENT, "data/x"))
        assert await asyncio.to_thread(waiting.wait, 60)
        upload.cancel()
        with pytest.raises(asyncio.CancelledError):
            await upload
        assert [info async for info in provider.list_files()] == []
    assert [path for path in root.rglob("*") if path.is_file()] == []

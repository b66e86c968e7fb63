"""Reading files into blobs: every size, files that change under the reader, holes, and what cannot be read."""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from backupiq.archive import reading
from backupiq.archive.content import ContentState, ContentTable
from backupiq.archive.pack_writer import PackWriter
from backupiq.discovery.entry import FileEntry
from backupiq.errors import CancelledRunError, TooManyOpenFilesError
from backupiq.repository.chunker import MAX, ZERO_BLOB
from backupiq.repository.pack import BlobType
from tests.unit.archive.saving import Kitchen, as_ordinary_user, entry_of, new_kitchen, read_back

KIB, MIB = 1 << 10, 1 << 20


class Desk:
    """Reads files one by one into a content table and gives their stored bytes back."""

    def __init__(self, kitchen: Kitchen) -> None:
        self.kitchen = kitchen
        self.writer = kitchen.new_writer()
        self.content = ContentTable(100)
        self.reader = kitchen.new_reader(self.writer, self.content)
        self.next = 0

    def read(self, path: Path | bytes, entry: FileEntry | None = None) -> int:
        """Read the file (as the walk would have seen it now, unless told otherwise); its ordinal."""
        ordinal, self.next = self.next, self.next + 1
        self.reader.read(os.fsencode(path), ordinal, entry or entry_of(path))
        return ordinal

    async def stored(self, ordinal: int) -> bytes:
        assert self.content.state(ordinal) is ContentState.STORED
        self.writer.flush()
        await self.kitchen.store_finished()
        return await read_back(self.kitchen.repository, self.content.hex_ids(ordinal))

    @property
    def bytes_read(self) -> int:
        return sum(self.kitchen.read_sizes)

    def refusal(self, ordinal: int) -> tuple[str, str]:
        """Code and reason of the one file that could not be read."""
        assert self.content.state(ordinal) is ContentState.FAILED
        (item,) = self.content.unreadable
        return item.error, item.reason


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    kitchen = await new_kitchen(tmp_path / "kitchen")
    yield Desk(kitchen)
    kitchen.close()


@pytest.fixture
def shared_path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="backupiq-") as name:
        os.chmod(name, 0o755)  # noqa: S103 - others are meant to reach it
        yield Path(name)


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


SIZES = [0, 1, *(size + delta for size in (512 * KIB, MIB, 8 * MIB) for delta in (-1, 0, 1))]


@pytest.mark.parametrize("size", SIZES)
async def test_a_file_of_any_size_is_stored_whole(desk: Desk, tmp_path: Path, size: int) -> None:
    data = noise(size)
    path = tmp_path / "file"
    path.write_bytes(data)
    ordinal = desk.read(path)
    assert await desk.stored(ordinal) == data
    assert desk.bytes_read == size
    ids = desk.content.hex_ids(ordinal)
    assert (ids == []) == (size == 0)
    assert size > 512 * KIB or len(ids) <= 1
    assert desk.content.restated == {}
    assert desk.kitchen.warnings == []


async def test_no_blob_is_larger_than_the_format_allows(desk: Desk, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a" * (17 * MIB))
    ordinal = desk.read(path)
    assert len(await desk.stored(ordinal)) == 17 * MIB
    index = desk.kitchen.repository.index
    for name in desk.content.hex_ids(ordinal):
        location = index.find(bytes.fromhex(name), BlobType.DATA)
        assert location is not None
        assert location.uncompressed_length <= MAX


async def test_the_same_content_gives_the_same_blobs_however_it_is_read(desk: Desk, tmp_path: Path) -> None:
    data = noise(9 * MIB)
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(data)
    one, two = desk.read(tmp_path / "one"), desk.read(tmp_path / "two")
    assert desk.content.hex_ids(one) == desk.content.hex_ids(two)
    assert desk.writer.counts.plain_bytes == len(data)


# --- files that change ---------------------------------------------------------------------------------------------


def meddle(monkeypatch: pytest.MonkeyPatch, deed: Callable[[], object]) -> None:
    """Have something done once, right after the first bytes of a file have been read."""
    true_read = os.read
    done: list[bool] = []

    def read_then_meddle(descriptor: int, count: int) -> bytes:
        data = true_read(descriptor, count)
        if not done:
            done.append(True)
            deed()
        return data

    monkeypatch.setattr(os, "read", read_then_meddle)


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


@pytest.mark.parametrize("size", [5 * MIB, 12 * MIB])
async def test_a_file_that_shrinks_while_it_is_read_is_stored_as_it_was_read(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    data = noise(size)
    path = tmp_path / "log"
    path.write_bytes(data)
    entry = entry_of(path)
    meddle(monkeypatch, lambda: os.truncate(path, 600 * KIB))
    ordinal = desk.read(path, entry)
    monkeypatch.undo()
    stored = await desk.stored(ordinal)
    assert len(stored) < size
    assert data.startswith(stored)
    # The size in the snapshot is that of the blobs, or no program could restore it.
    assert desk.content.restated[ordinal].size == len(stored)
    assert desk.kitchen.warnings == [(os.fsencode(path), "changed while it was read; it is stored as it was read")]


@pytest.mark.parametrize("size", [700 * KIB, 5 * MIB, 12 * MIB])
async def test_a_file_that_grows_while_it_is_read_is_stored_as_it_was_read(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    data, more = noise(size), noise(3 * MIB, seed=2)
    path = tmp_path / "log"
    path.write_bytes(data)
    os.utime(path, ns=(1, 1))
    entry = entry_of(path)
    meddle(monkeypatch, lambda: append(path, more))
    ordinal = desk.read(path, entry)
    monkeypatch.undo()
    stored = await desk.stored(ordinal)
    assert (data + more).startswith(stored)
    assert len(stored) >= size
    recorded = desk.content.restated.get(ordinal, entry)
    assert recorded.size == len(stored)
    # The old time stays with it, so that the next run sees that it has changed.
    assert recorded.mtime_ns == 1
    assert len(desk.kitchen.warnings) == 1


@pytest.mark.parametrize("grown_to", [20, 511 * KIB, 512 * KIB, 3 * MIB])
async def test_a_small_file_that_grows_after_it_was_opened_is_stored_as_it_was_read(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grown_to: int
) -> None:
    data = noise(grown_to)
    path = tmp_path / "small"
    path.write_bytes(data[:10])
    os.utime(path, ns=(1, 1))
    true_fstat = os.fstat
    calls: list[int] = []

    def fstat_then_grow(descriptor: int) -> os.stat_result:
        found = true_fstat(descriptor)
        if not calls:
            append(path, data[10:])
        calls.append(descriptor)
        return found

    entry = entry_of(path)
    monkeypatch.setattr(os, "fstat", fstat_then_grow)
    ordinal = desk.read(path, entry)
    monkeypatch.undo()
    assert await desk.stored(ordinal) == data
    assert desk.content.restated[ordinal].size == grown_to
    assert desk.content.restated[ordinal].mtime_ns == 1
    assert len(desk.kitchen.warnings) == 1


async def test_a_file_changed_between_the_walk_and_its_reading_is_stored_as_it_is_now(
    desk: Desk, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"as the walk saw it")
    walked = entry_of(path)
    path.write_bytes(b"as it is now, and longer")
    path.chmod(0o600)
    ordinal = desk.read(path, walked)
    assert await desk.stored(ordinal) == b"as it is now, and longer"
    assert desk.content.restated[ordinal] == entry_of(path)
    assert desk.kitchen.warnings == []


async def test_a_file_replaced_by_another_of_the_same_size_and_time_is_noticed_by_its_inode(
    desk: Desk, tmp_path: Path
) -> None:
    path, other = tmp_path / "file", tmp_path / "other"
    for made, data in ((path, b"one"), (other, b"two")):
        made.write_bytes(data)
        os.utime(made, ns=(5, 5))
    walked = entry_of(path)
    other.replace(path)
    ordinal = desk.read(path, walked)
    assert await desk.stored(ordinal) == b"two"
    assert desk.content.restated[ordinal].inode == entry_of(path).inode != walked.inode


async def test_a_file_that_says_it_is_empty_but_is_not_is_read(desk: Desk) -> None:
    # Files below /proc have size 0 and content.
    ordinal = desk.read(b"/proc/self/status")
    stored = await desk.stored(ordinal)
    assert b"Name:" in stored
    assert desk.content.restated[ordinal].size == len(stored)


async def test_a_file_that_vanished_is_recorded(desk: Desk, tmp_path: Path) -> None:
    path = tmp_path / "gone"
    path.write_bytes(b"x")
    walked = entry_of(path)
    path.unlink()
    code, reason = desk.refusal(desk.read(path, walked))
    assert code == "discovery.not_found"
    assert "vanished" in reason


def replace_by_symlink(path: Path) -> None:
    path.symlink_to("/etc/passwd")


@pytest.mark.parametrize("replace", [replace_by_symlink, os.mkfifo, os.mkdir], ids=["symlink", "fifo", "folder"])
async def test_a_file_replaced_by_something_else_is_recorded_and_never_followed_or_waited_for(
    desk: Desk, tmp_path: Path, replace: Callable[[Path], object]
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    walked = entry_of(path)
    path.unlink()
    replace(path)
    ordinal = desk.read(path, walked)
    desk.refusal(ordinal)
    assert desk.bytes_read == 0
    desk.writer.flush()
    assert desk.kitchen.finished == []


# --- hard links and holes ------------------------------------------------------------------------------------------


async def test_another_name_of_a_file_is_not_read_again(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "first"
    path.write_bytes(noise(700 * KIB))
    os.link(path, tmp_path / "second")
    first = desk.read(path)

    def refuse(path: bytes) -> int:
        raise AssertionError("it was opened")

    monkeypatch.setattr(reading, "open_file", refuse)
    second = desk.read(tmp_path / "second")
    assert desk.content.hex_ids(second) == desk.content.hex_ids(first)
    assert desk.bytes_read == 700 * KIB
    assert await desk.stored(second) == noise(700 * KIB)


async def test_names_of_one_small_file_that_are_read_together_are_read_once(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "first").write_bytes(b"small")
    for name in ("second", "third"):
        os.link(tmp_path / "first", tmp_path / name)
    paths = [tmp_path / name for name in ("first", "second", "third")]
    desk.reader.read_all((os.fsencode(path), place, entry_of(path)) for place, path in enumerate(paths))
    assert desk.bytes_read == 5
    assert desk.content.hex_ids(0) == desk.content.hex_ids(1) == desk.content.hex_ids(2)
    assert await desk.stored(2) == b"small"


async def test_files_read_together_are_stored_each_as_its_own(desk: Desk, tmp_path: Path) -> None:
    contents = [
        noise(size, seed) for seed, size in enumerate([0, 10, 600 * KIB, 0, 300_000, 9 * MIB, 1, 511 * KIB] * 3)
    ]
    files = []
    for place, data in enumerate(contents):
        path = tmp_path / f"{place}"
        path.write_bytes(data)
        files.append((os.fsencode(path), place, entry_of(path)))
    (tmp_path / "4").unlink()
    desk.reader.read_all(files)
    for place, data in enumerate(contents):
        if place == 4:
            desk.refusal(4)
        else:
            assert await desk.stored(place) == data
    assert desk.bytes_read == sum(map(len, contents)) - len(contents[4])


async def test_another_name_of_a_file_that_changed_meanwhile_is_read_again(desk: Desk, tmp_path: Path) -> None:
    path = tmp_path / "first"
    path.write_bytes(b"before")
    os.link(path, tmp_path / "second")
    desk.read(path)
    path.write_bytes(b"after!")
    os.utime(path, ns=(77, 77))
    second = desk.read(tmp_path / "second")
    assert await desk.stored(second) == b"after!"


HOLES = {
    "all hole": (5 * MIB, ()),
    "at the start": (4 * MIB, (4 * MIB - 200_000,)),
    "at the end": (6 * MIB, (0,)),
    "in the middle": (20 * MIB, (0, 15 * MIB)),
    "many": (12 * MIB, tuple(range(0, 12 * MIB - 200_000, MIB))),
    "odd": (3 * MIB + 17, (MIB + 5,)),
}


@pytest.mark.parametrize("shape", HOLES)
async def test_holes_are_not_read_and_come_back_as_zeros(desk: Desk, tmp_path: Path, shape: str) -> None:
    size, places = HOLES[shape]
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        for place in places:
            file.seek(place)
            file.write(noise(200_000))
        file.truncate(size)
    if path.stat().st_blocks * 512 >= size:
        pytest.skip("this file system keeps no holes")
    ordinal = desk.read(path)
    assert await desk.stored(ordinal) == path.read_bytes()
    # File systems keep blocks, so a little around the data may count as data.
    assert desk.bytes_read <= len(places) * (200_000 + 128 * KIB)
    assert desk.kitchen.warnings == []


async def test_a_hole_is_one_blob_of_zeros_however_long_it_is(desk: Desk, tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    path.touch()
    os.truncate(path, 1 << 33)
    if path.stat().st_blocks:
        pytest.skip("this file system keeps no holes")
    ordinal = desk.read(path)
    ids = desk.content.hex_ids(ordinal)
    assert len(ids) == (1 << 33) // len(ZERO_BLOB)
    assert len(set(ids)) == 1
    assert desk.bytes_read == 0
    assert desk.writer.counts.data_blobs == 1


async def test_a_sparse_file_that_shrinks_keeps_the_size_of_what_was_read(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.write(noise(6 * MIB))
        file.truncate(30 * MIB)
    if path.stat().st_blocks * 512 >= 30 * MIB:
        pytest.skip("this file system keeps no holes")
    entry = entry_of(path)
    meddle(monkeypatch, lambda: os.truncate(path, 600 * KIB))
    ordinal = desk.read(path, entry)
    monkeypatch.undo()
    stored = await desk.stored(ordinal)
    assert len(stored) == desk.content.restated[ordinal].size
    assert stored.rstrip(b"\0") == noise(6 * MIB)[: len(stored)].rstrip(b"\0")
    assert len(desk.kitchen.warnings) == 1


# --- what cannot be read -------------------------------------------------------------------------------------------


async def test_a_path_longer_than_the_system_takes_is_read(desk: Desk, tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    path = os.fsencode(tmp_path)
    try:
        for _ in range(20):
            os.mkdir(b"d" * 250, dir_fd=folder)
            below = os.open(b"d" * 250, os.O_RDONLY, dir_fd=folder)
            os.close(folder)
            folder = below
            path += b"/" + b"d" * 250
        descriptor = os.open(b"file", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=folder)
        os.write(descriptor, b"far below")
        os.close(descriptor)
    finally:
        os.close(folder)
    assert len(path) > 4096
    assert await desk.stored(desk.read(path + b"/file")) == b"far below"
    shutil.rmtree(tmp_path / ("d" * 250))


async def test_a_file_this_user_may_not_read_is_recorded_and_the_run_goes_on(desk: Desk, shared_path: Path) -> None:
    secret, public = shared_path / "secret", shared_path / "public"
    secret.write_bytes(b"x")
    secret.chmod(0)
    public.write_bytes(b"y")
    public.chmod(0o644)
    before = entry_of(secret), entry_of(public)
    desk.kitchen.spool.folder.chmod(0o777)
    for folder in desk.kitchen.spool.folder.parents:
        if folder.stat().st_uid == os.geteuid() and stat.S_IMODE(folder.stat().st_mode) == 0o700:
            folder.chmod(0o711)
    with as_ordinary_user():
        refused, read = desk.read(secret, before[0]), desk.read(public, before[1])
    code, reason = desk.refusal(refused)
    assert (code, reason) == ("discovery.permission", "this user may not read it")
    assert desk.content.state(read) is ContentState.STORED


async def test_no_descriptors_left_ends_the_run_instead_of_skipping_files(desk: Desk, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    entry = entry_of(path)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(TooManyOpenFilesError):
            desk.read(path, entry)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert desk.content.unreadable == []


async def test_a_disk_error_in_the_middle_is_recorded_once_and_leaves_nothing_running(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(noise(24 * MIB))
    entry = entry_of(path)
    true_read, true_save = os.read, PackWriter.save
    running: list[int] = []
    failed = threading.Event()

    def read_then_fail(descriptor: int, count: int) -> bytes:
        if os.lseek(descriptor, 0, os.SEEK_CUR) > 16 * MIB:
            failed.set()
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return true_read(descriptor, count)

    def save(self: PackWriter, data: bytes, kind: BlobType) -> bytes:
        running.append(1)
        failed.wait(30)
        try:
            return true_save(self, data, kind)
        finally:
            running.pop()

    # Blobs are held back until the disk has failed, so that they are under way when the file is given up.
    monkeypatch.setattr(reading, "BLOBS_IN_FLIGHT", 1000)
    monkeypatch.setattr(PackWriter, "save", save)
    monkeypatch.setattr(os, "read", read_then_fail)
    ordinal = desk.read(path, entry)
    assert running == []
    monkeypatch.undo()
    code, reason = desk.refusal(ordinal)
    assert code == "discovery.read"
    assert "disk" in reason


# --- stopping ------------------------------------------------------------------------------------------------------


async def test_a_stopped_run_opens_no_file(desk: Desk, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    desk.kitchen.stopping.set()
    with pytest.raises(CancelledRunError):
        desk.read(path)
    assert desk.bytes_read == 0


@pytest.mark.parametrize("size", [7 * MIB, 40 * MIB])
async def test_stopping_ends_the_reading_of_a_large_file_at_its_next_chunk(
    desk: Desk, tmp_path: Path, size: int
) -> None:
    path = tmp_path / "large"
    path.write_bytes(noise(size))
    sizes: list[int] = []

    def stop_at_the_second(chunk: int) -> None:
        sizes.append(chunk)
        if len(sizes) == 2:
            desk.kitchen.stopping.set()

    desk.reader = desk.kitchen.new_reader(desk.writer, desk.content, on_read=stop_at_the_second)
    with pytest.raises(CancelledRunError):
        desk.read(path)
    assert len(sizes) == 2
    assert desk.content.state(0) is ContentState.PENDING


async def test_a_file_that_another_program_has_leased_is_read_once_it_is_given_back(desk: Desk, tmp_path: Path) -> None:
    path = tmp_path / "leased"
    path.write_bytes(b"under a lease")
    # The system tells the holder by SIGIO that somebody wants the file; that ends this one, and with it its lease.
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import fcntl, os, sys, time\n"
            "fd = os.open(sys.argv[1], os.O_RDWR)\n"
            "fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)\n"
            "print('held', flush=True)\n"
            "time.sleep(60)\n",
            os.fspath(path),
        ],
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(BlockingIOError):
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
        assert await desk.stored(desk.read(path)) == b"under a lease"
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()

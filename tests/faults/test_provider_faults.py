"""Every kind of destination meets every fault: the right error, nothing left half done, and afterwards it works."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import random
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from backupiq.errors import BackupIQError, StorageConnectionError, StorageCorruptError, StorageTimeoutError
from backupiq.storage.provider import StorageProvider
from tests.faults import faults_table
from tests.faults.cloud_places import PLACES, Place
from tests.faults.faults_table import CUT_AFTER, KINDS, ROWS, Call, Row
from tests.support.fault_rules import BlackHole, Fault, Reset
from tests.support.programs import ROOT

SMALL = random.Random(1).randbytes(700_000)
LARGE = random.Random(2).randbytes(9_500_000)
"""Sent in two parts."""
HASTY_SECONDS = 1.0


def key_of(data: bytes) -> str:
    name = hashlib.sha256(data).hexdigest()
    return f"data/{name[:2]}/{name}"


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Place]]:
    """Gives the place of a kind, whose server starts when it is first asked for."""
    with contextlib.ExitStack() as stack:

        @functools.cache
        def find(kind: str) -> Place:
            return stack.enter_context(PLACES[kind](tmp_path_factory.mktemp(kind)))

        yield find


@pytest.fixture
def place(request: pytest.FixtureRequest, places: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch) -> Place:
    found = places(request.param)
    found.proxy.clear()
    for name, value in found.environment.items():
        monkeypatch.setenv(name, value)
    return found


@pytest.fixture
def name(place: Place) -> str:
    """An empty bucket, container or folder."""
    return place.new()


@pytest.fixture
async def provider(place: Place, name: str) -> AsyncIterator[StorageProvider]:
    """A provider there that waits as long as a busy machine needs."""
    async with place.at(name) as opened:
        yield opened


@pytest.fixture
async def hasty(place: Place, name: str) -> AsyncIterator[StorageProvider]:
    """Another one that gives up early, for black holes."""
    async with place.at(name, seconds=HASTY_SECONDS) as opened:
        yield opened


def with_places(call: Call) -> pytest.MarkDecorator:
    """Every fault of that call at every kind of destination that notices it in that call."""
    rows = [row for row in ROWS if row.call is call]
    cases = [
        pytest.param(kind, row, id=f"{kind}-{row.name}")
        for kind in PLACES
        for row in rows
        if row.errors[kind] is not None
    ]
    return pytest.mark.parametrize(("place", "row"), cases, indirect=["place"])


each_place = pytest.mark.parametrize("place", [*PLACES], indirect=True)


@contextlib.contextmanager
def broken(place: Place, row: Row) -> Iterator[None]:
    """The row's fault, which has to have happened at the end of the block."""
    if row.closed:
        with place.proxy.refused():
            yield
        return
    fault = row.faults[place.kind]
    assert fault is not None
    meeting = place.uploads_meet if row.call is Call.UPLOAD else place.downloads_meet
    with meeting(fault) as rule:
        yield
    assert rule.applied >= 1


def assert_documented(caught: BackupIQError, row: Row, place: Place) -> None:
    assert type(caught) is row.errors[place.kind], caught.to_dict()
    assert "\n" not in caught.message
    assert caught.message.isprintable()


@with_places(Call.UPLOAD)
async def test_an_upload_that_fails_says_why_leaves_nothing_and_can_be_repeated(
    place: Place, name: str, provider: StorageProvider, hasty: StorageProvider, row: Row, tmp_path: Path
) -> None:
    key = key_of(SMALL)
    source = tmp_path / "pack"
    source.write_bytes(SMALL)
    failing = hasty if isinstance(row.faults[place.kind], BlackHole) else provider
    with broken(place, row), pytest.raises(BackupIQError) as caught:
        await failing.upload_file(source, key, move=True, sha256=key[-64:])
    assert_documented(caught.value, row, place)
    assert source.read_bytes() == SMALL
    assert [info async for info in provider.list_files()] == []
    assert place.leftovers(name) == []
    await provider.upload_file(source, key, move=True, sha256=key[-64:])
    assert await provider.read(key) == SMALL
    assert [(info.key, info.size) async for info in provider.list_files()] == [(key, len(SMALL))]


@pytest.mark.parametrize("fault", [Reset(CUT_AFTER), BlackHole()], ids=["reset", "black hole"])
@each_place
async def test_an_upload_in_parts_that_fails_leaves_no_parts_at_the_server(
    place: Place, name: str, provider: StorageProvider, hasty: StorageProvider, fault: Fault
) -> None:
    key = key_of(LARGE)
    expected = StorageConnectionError if isinstance(fault, Reset) else StorageTimeoutError
    failing = hasty if isinstance(fault, BlackHole) else provider
    with place.uploads_meet(fault) as rule, pytest.raises(expected):
        await failing.upload_file(LARGE, key)
    assert rule.applied >= 1
    assert [info async for info in provider.list_files()] == []
    assert place.leftovers(name) == []
    await provider.upload_file(LARGE, key)
    assert await provider.read(key, len(LARGE) - 100) == LARGE[-100:]


@each_place
async def test_an_upload_that_is_cancelled_in_a_black_hole_ends_and_leaves_nothing(
    place: Place, name: str, provider: StorageProvider, hasty: StorageProvider
) -> None:
    key = key_of(LARGE)
    with place.uploads_meet(BlackHole()) as rule:
        upload = asyncio.ensure_future(hasty.upload_file(LARGE, key))
        while not rule.applied:
            assert not upload.done()
            await asyncio.sleep(0.01)
        upload.cancel()
        with pytest.raises(asyncio.CancelledError):
            await upload
    assert [info async for info in provider.list_files()] == []
    assert place.leftovers(name) == []


@each_place
async def test_a_throttled_upload_tells_how_long_to_wait_where_the_client_does(
    place: Place, provider: StorageProvider
) -> None:
    row = next(row for row in ROWS if row.name == "throttled (429)")
    with broken(place, row), pytest.raises(BackupIQError) as caught:
        await provider.upload_file(SMALL, key_of(SMALL))
    expected = faults_table.RETRY_AFTER if place.kind in faults_table.TELL_HOW_LONG else None
    assert caught.value.details.get("retry_after") == expected


@each_place
async def test_bits_flipped_in_an_upload_are_noticed_at_the_latest_when_the_object_is_read(
    place: Place, provider: StorageProvider, tmp_path: Path
) -> None:
    row = next(row for row in ROWS if row.name == "bit flipped in an upload")
    key, noticed = key_of(SMALL), row.errors[place.kind]
    with broken(place, row), pytest.raises(noticed) if noticed else contextlib.nullcontext():
        await provider.upload_file(SMALL, key)
    if noticed is None:
        with pytest.raises(StorageCorruptError):
            await provider.download_file(key, tmp_path / "target")
        assert list(tmp_path.iterdir()) == []
    await provider.upload_file(SMALL, key)
    assert (await provider.download_file(key, tmp_path / "target")).sha256 == key[-64:]


@with_places(Call.DOWNLOAD)
async def test_a_download_that_fails_says_why_leaves_no_file_and_can_be_repeated(
    place: Place, provider: StorageProvider, row: Row, tmp_path: Path
) -> None:
    key, target = key_of(SMALL), tmp_path / "target"
    await provider.upload_file(SMALL, key)
    with broken(place, row), pytest.raises(BackupIQError) as caught:
        await provider.download_file(key, target)
    assert_documented(caught.value, row, place)
    assert list(tmp_path.iterdir()) == []
    result = await provider.download_file(key, target)
    assert (target.read_bytes(), result.sha256) == (SMALL, key[-64:])


@with_places(Call.OPEN)
async def test_a_destination_that_does_not_exist_is_never_read_as_an_empty_one(place: Place, row: Row) -> None:
    expected = row.errors[place.kind]
    assert expected is not None
    async with place.at(place.missing()) as provider:
        with pytest.raises(expected):
            await provider.authenticate()
        with pytest.raises(expected):
            assert [info async for info in provider.list_files()]
        await provider.create()
        await provider.authenticate()
        assert [info async for info in provider.list_files()] == []


def test_the_document_says_what_the_tests_prove() -> None:
    page = (ROOT / "docs/faults.md").read_text(encoding="utf-8")
    assert page == faults_table.render(), "make it anew: python -m tests.faults.faults_table > docs/faults.md"


def test_every_fault_is_described_for_every_kind_of_destination() -> None:
    assert set(PLACES) == set(KINDS)
    for row in ROWS:
        assert set(row.faults) == set(row.errors) == set(KINDS), row.name
        assert any(row.errors.values()), row.name

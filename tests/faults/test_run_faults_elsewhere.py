"""Runs meet a failing Google, Azure or iCloud destination, as `test_run_faults` has it for S3.

A few faults of different classes each; BACKUPIQ_CAMPAIGN=full takes every fault that uploads can meet.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from backupiq.errors import StorageAuthenticationError, StorageThrottledError
from tests.faults.cloud_places import PLACES, Place
from tests.faults.faults_table import ROWS, Call, Row
from tests.faults.hasty_driver import HastyCommands
from tests.faults.support import files_of, misnamed
from tests.faults.test_provider_faults import broken
from tests.faults.test_run_faults import FULL, PASSWORD, PROBE_AT_ONCE, WHOLE, assert_sound, kinds, snapshots
from tests.support.fault_rules import BlackHole, Reset
from tests.support.prefect_server import PrefectServer
from tests.support.programs import isolated_home, plain_environment
from tests.support.servers.azurite import Azurite
from tests.support.servers.gcs import GcsServer
from tests.support.servers.icloud import ICloudServer

KINDS = ("gcs", "azure", "icloud")


def chosen_rows(kind: str) -> list[Row]:
    """The faults that runs meet there. The iCloud client of a run waits two minutes for an answer, so no black hole."""
    rows = [row for row in ROWS if row.call is Call.UPLOAD and not row.closed and row.faults[kind] is not None]
    if FULL:
        return [row for row in rows if kind != "icloud" or not isinstance(row.faults[kind], BlackHole)]
    wanted = (StorageThrottledError, StorageAuthenticationError)
    first = {row.errors[kind]: row for row in reversed(rows) if row.errors[kind] in wanted}
    return [next(row for row in rows if isinstance(row.faults[kind], Reset)), *first.values()]


@dataclasses.dataclass(frozen=True)
class Elsewhere:
    """The three servers behind their proxies."""

    places: dict[str, Place]
    environment: dict[str, str]

    def destination(self, kind: str, name: str) -> str:
        """As a person writes it."""
        if kind == "gcs":
            return f"gs://{name}/repo?endpoint={self.places[kind].proxy.url}"
        return f"az://{name}/repo" if kind == "azure" else f"icloud:/{name}"


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Elsewhere]:
    with contextlib.ExitStack() as stack:
        folder = tmp_path_factory.mktemp("elsewhere")
        places = {kind: stack.enter_context(PLACES[kind](folder / kind)) for kind in KINDS}
        google, azure, apple = (place.server for place in places.values())
        assert isinstance(google, GcsServer)
        assert isinstance(azure, Azurite)
        assert isinstance(apple, ICloudServer)
        address = f"{places['azure'].proxy.url}/{azure.account}"
        sessions = folder / "sessions"
        apple.trust(sessions)
        yield Elsewhere(
            places,
            {
                **google.environment,
                "AZURE_STORAGE_CONNECTION_STRING": azure.connection_string.replace(azure.url, address),
                **apple.environment(sessions),
                "BACKUPIQ_ICLOUD_ENDPOINT": places["icloud"].proxy.url,
            },
        )


@pytest.fixture(scope="module")
def hasty(
    prefect_server: PrefectServer, elsewhere: Elsewhere, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HastyCommands]:
    home = tmp_path_factory.mktemp("home")
    env = plain_environment() | isolated_home(home) | prefect_server.settings(home) | PROBE_AT_ONCE
    running = HastyCommands(env | elsewhere.environment, home)
    try:
        yield running
    finally:
        running.close()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of half a megabyte in all, which make a pack that every fault of the table is in the middle of."""
    folder = tmp_path_factory.mktemp("source")
    for number in range(5):
        (folder / f"file-{number}").write_bytes(random.Random(number).randbytes(100_000))
    return folder


def stored(place: Place, name: str) -> dict[str, str]:
    """Every object of the repository there but its locks, with the hash of its bytes."""

    async def read() -> dict[str, str]:
        async with place.at(name) as provider:
            keys = [info.key async for info in provider.list_files() if not info.key.startswith("locks/")]
            return {key: hashlib.sha256(await provider.read(key)).hexdigest() for key in keys}

    with pytest.MonkeyPatch.context() as patch:
        for variable, value in place.environment.items():
            patch.setenv(variable, value)
        return asyncio.run(read())


@pytest.mark.parametrize(
    ("kind", "row"), [pytest.param(kind, row, id=f"{kind}-{row.name}") for kind in KINDS for row in chosen_rows(kind)]
)
def test_a_run_completes_at_the_healthy_destination_and_the_next_one_catches_the_other_up(
    elsewhere: Elsewhere, hasty: HastyCommands, source: Path, kind: str, row: Row, tmp_path: Path
) -> None:
    place = elsewhere.places[kind]
    place.proxy.clear()
    name = place.new()
    local, to = tmp_path / "local", elsewhere.destination(kind, name)
    with broken(place, row):
        degraded = hasty.run("backup", source, "--to", local, "--to", to, "--json", password=PASSWORD)
    assert degraded.returncode == 4, degraded
    assert "Traceback" not in degraded.stdout + degraded.stderr
    assert name in degraded.stdout + degraded.stderr
    assert kinds(files_of(local)) == WHOLE
    assert misnamed(local) == []
    left = stored(place, name)
    assert snapshots(left) == set()
    assert_sound(left)

    done = hasty.run("backup", source, "--to", local, "--to", to, "--json", password=PASSWORD)
    assert done.returncode == 0, done
    assert stored(place, name) == files_of(local)

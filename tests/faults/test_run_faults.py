"""Runs meet a failing destination: how they end, what they leave, and that the next run puts it right.

One fault for each class of error, and a server that is not there; BACKUPIQ_CAMPAIGN=full takes every fault.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from backupiq.errors import StorageConnectionError, StoragePermissionError
from tests.faults.cloud_places import S3Place, s3_place
from tests.faults.faults_table import ROWS, Call, Row
from tests.faults.hasty_driver import TRIES, HastyCommands
from tests.faults.support import OBJECT_NAME, PATIENCE_SECONDS, files_of, locks_of, misnamed
from tests.faults.test_provider_faults import broken
from tests.support.compare import compare_trees
from tests.support.fault_rules import BlackHole, Reset
from tests.support.prefect_server import PrefectServer
from tests.support.programs import Completed, isolated_home, plain_environment

PASSWORD = "a password for runs that fail"
WHOLE = {"config", "keys", "data", "index", "snapshots"}
PROBE_AT_ONCE = {"BACKUPIQ_BREAKER_COOLDOWN": "0.001"}
"""The breaker that a failed run opened lets the next one try at once."""

FULL = os.environ.get("BACKUPIQ_CAMPAIGN") == "full"


def chosen_rows() -> list[Row]:
    """The faults that runs meet."""
    rows = [row for row in ROWS if row.call is Call.UPLOAD]
    first_of_class = {row.errors["s3"]: row for row in reversed(rows)}
    return [row for row in rows if FULL or row.closed or row in first_of_class.values()]


def each(rows: list[Row]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("row", rows, ids=lambda row: row.name)


RESET = next(row for row in ROWS if isinstance(row.faults["s3"], Reset))
REFUSED = next(row for row in ROWS if row.errors["s3"] is StoragePermissionError)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Place]:
    with s3_place(tmp_path_factory.mktemp("s3")) as made:
        yield made


@pytest.fixture(scope="module")
def hasty(
    prefect_server: PrefectServer, place: S3Place, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HastyCommands]:
    home = tmp_path_factory.mktemp("home")
    keys = place.server.environment
    env = plain_environment() | isolated_home(home) | prefect_server.settings(home) | keys | PROBE_AT_ONCE
    running = HastyCommands(env, home)
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


@pytest.fixture
def bucket(place: S3Place) -> str:
    place.proxy.clear()
    return place.new()


def destination(place: S3Place, bucket: str) -> str:
    """The bucket behind the proxy, as a person writes it."""
    return f"s3://{bucket}/repo?endpoint={quote(place.proxy.url, safe='')}&checksum=SHA256"


def stored(place: S3Place, bucket: str) -> dict[str, str]:
    """Every object of the repository there but its locks, with the hash of its bytes."""
    found = {}
    for key in place.server.keys(bucket):
        name = key.removeprefix("repo/")
        if not name.startswith("locks/"):
            found[name] = hashlib.sha256(place.server.read(bucket, key)).hexdigest()
    return found


def snapshots(objects: dict[str, str]) -> set[str]:
    return {name for name in objects if name.startswith("snapshots/")}


def kinds(objects: dict[str, str]) -> set[str]:
    return {name.partition("/")[0] for name in objects}


def assert_sound(objects: dict[str, str]) -> None:
    """Every object holds the bytes that its name says."""
    for name, digest in objects.items():
        last = name.rpartition("/")[2]
        assert last == digest or not OBJECT_NAME.fullmatch(last), name


def error_of(done: Completed) -> dict[str, Any]:
    """The error that a command printed with --json: one object on one line, and no traceback."""
    assert "Traceback" not in done.stdout + done.stderr
    said: dict[str, Any] = json.loads(done.stderr.strip().splitlines()[-1])
    return said


@each(chosen_rows())
def test_a_run_completes_at_the_healthy_destination_and_the_next_one_catches_the_other_up(
    place: S3Place, hasty: HastyCommands, source: Path, bucket: str, row: Row, tmp_path: Path
) -> None:
    local, to = tmp_path / "local", destination(place, bucket)
    if row.closed:  # no first run makes a repository then, as the next test shows
        assert hasty.run("init", "--to", local, "--to", to, password=PASSWORD).returncode == 0
    with broken(place, row):
        degraded = hasty.run("backup", source, "--to", local, "--to", to, "--json", password=PASSWORD)
    assert degraded.returncode == 4, degraded
    assert "Traceback" not in degraded.stdout + degraded.stderr
    assert f"s3://{bucket}/repo" in degraded.stdout + degraded.stderr
    assert kinds(files_of(local)) == WHOLE
    assert misnamed(local) == []
    assert_nothing_is_half_done(place, bucket)

    done = hasty.run("backup", source, "--to", local, "--to", to, "--json", password=PASSWORD)
    assert done.returncode == 0, done
    assert stored(place, bucket) == files_of(local)
    assert_sound(stored(place, bucket))


def test_a_server_that_goes_away_in_the_middle_of_a_run_and_stays_away_costs_only_its_own_replica(
    place: S3Place, hasty: HastyCommands, source: Path, bucket: str, tmp_path: Path
) -> None:
    local, to = tmp_path / "local", destination(place, bucket)
    goes_away = GoesAway(place)
    degraded = hasty.run("backup", source, "--to", local, "--to", to, "--json", password=PASSWORD)
    goes_away.come_back()
    assert degraded.returncode == 4, degraded
    assert "Traceback" not in degraded.stdout + degraded.stderr
    assert kinds(files_of(local)) == WHOLE
    assert locks_of(local) == []
    # The lock that could not be removed there is one of a dead process, and no run waits for such.
    assert hasty.run("backup", source, "--to", local, "--to", to, password=PASSWORD).returncode == 0
    assert stored(place, bucket) == files_of(local)


class GoesAway:
    """Closes the server's port as soon as the first pack is on its way there."""

    def __init__(self, place: S3Place) -> None:
        self._place = place
        self._seen = place.proxy.count("PUT", "/data/")
        self._back = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        # Held there, so that the port is closed in the middle of it.
        with self._place.uploads_meet(BlackHole()):
            while self._place.proxy.count("PUT", "/data/") == self._seen:
                if self._back.wait(0.01):
                    return
            with self._place.proxy.refused():
                self._back.wait(PATIENCE_SECONDS)

    def come_back(self) -> None:
        """Opens the port again."""
        self._back.set()
        self._thread.join()


def test_no_repository_is_made_while_a_destination_that_may_hold_one_does_not_answer(
    place: S3Place, hasty: HastyCommands, source: Path, bucket: str, tmp_path: Path
) -> None:
    local, to = tmp_path / "local", destination(place, bucket)
    with place.proxy.refused():
        done = hasty.run("backup", source, "--to", local, "--to", to, "--json", password=PASSWORD)
    assert (done.returncode, error_of(done)["code"]) == (1, StorageConnectionError.code)
    assert not local.exists() or list(local.iterdir()) == []
    assert stored(place, bucket) == {}


def test_a_destination_that_fails_later_keeps_its_snapshots_and_is_caught_up(
    place: S3Place, hasty: HastyCommands, source: Path, bucket: str, tmp_path: Path
) -> None:
    local, to = tmp_path / "local", destination(place, bucket)
    assert hasty.run("backup", source, "--to", local, "--to", to, password=PASSWORD).returncode == 0
    assert stored(place, bucket) == files_of(local)
    added = tmp_path / "added"
    added.write_bytes(random.Random("added").randbytes(500_000))
    before = stored(place, bucket)
    with broken(place, RESET):
        degraded = hasty.run("backup", source, added, "--to", local, "--to", to, password=PASSWORD)
    assert degraded.returncode == 4, degraded
    assert snapshots(files_of(local)) > snapshots(before) == snapshots(stored(place, bucket))
    assert before.items() <= stored(place, bucket).items()
    assert hasty.run("backup", source, added, "--to", local, "--to", to, password=PASSWORD).returncode == 0
    assert stored(place, bucket) == files_of(local)


@each(chosen_rows() if FULL else [RESET, REFUSED])
def test_a_run_to_a_failing_destination_alone_says_why_and_the_next_one_completes_it(
    place: S3Place, hasty: HastyCommands, source: Path, bucket: str, row: Row, tmp_path: Path
) -> None:
    to, expected = destination(place, bucket), row.errors["s3"]
    assert expected is not None
    before = place.proxy.count("PUT", "/data/")
    with broken(place, row):
        failed = hasty.run("backup", source, "--to", to, "--json", password=PASSWORD)
    assert failed.returncode == 1, failed
    assert error_of(failed)["code"] == expected.code
    assert_nothing_is_half_done(place, bucket)
    tried = place.proxy.count("PUT", "/data/") - before
    assert tried >= TRIES or not expected.retryable or row.closed

    done = hasty.run("backup", source, "--to", to, password=PASSWORD)
    assert done.returncode == 0, done
    assert kinds(stored(place, bucket)) == WHOLE
    assert_sound(stored(place, bucket))
    restored = hasty.run("restore", "latest", "--repo", to, "--target", tmp_path / "target", password=PASSWORD)
    assert restored.returncode == 0, restored
    assert compare_trees(source, tmp_path / "target" / source.relative_to("/")) == []


def assert_nothing_is_half_done(place: S3Place, bucket: str) -> None:
    left = stored(place, bucket)
    assert snapshots(left) == set()
    assert_sound(left)
    assert place.leftovers(bucket) == []

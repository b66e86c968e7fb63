"""A destination's breaker among processes: one run trips it, others leave it alone, one probes, all come back."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any
from urllib.parse import quote

import pytest

from tests.faults.cloud_places import S3Place, s3_place
from tests.faults.driver import Commands
from tests.faults.support import PATIENCE_SECONDS, files_of, wait_for
from tests.faults.test_run_faults import stored
from tests.support.fault_rules import BlackHole, answer_s3
from tests.support.prefect_server import PrefectServer
from tests.support.programs import ROOT, BackupIQ, Completed, backupiq_program, isolated_home, plain_environment

PASSWORD = "a password for runs side by side"
PROCESSES = 3
OPENS_SOON = {"BACKUPIQ_BREAKER_THRESHOLD": "1", "BACKUPIQ_BREAKER_COOLDOWN": "3600"}
DUE_AT_ONCE = {"BACKUPIQ_BREAKER_THRESHOLD": "1", "BACKUPIQ_BREAKER_COOLDOWN": "0.001"}
SERVE = f"""
import dataclasses
from backupiq.storage import transfer_options
from tests.faults import hasty_driver

hasty_driver.HASTY_SECONDS = {PATIENCE_SECONDS}
hasty_driver.hurry()
transfer_options.DEFAULT_TRANSFER = dataclasses.replace(transfer_options.DEFAULT_TRANSFER, retries=2)
hasty_driver.serve()
"""


class Runner(Commands):
    """A process of its own that runs commands; its tasks retry at once, and it waits long for an answer."""

    def __init__(self, env: Mapping[str, str], folder: Path) -> None:
        folder.mkdir()
        self._process = Popen(
            [sys.executable, "-c", SERVE],
            env={**env, **isolated_home(folder), "PYTHONPATH": str(ROOT)},
            cwd=folder,
            stdin=PIPE,
            stdout=PIPE,
            encoding="utf-8",
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Place]:
    with s3_place(tmp_path_factory.mktemp("s3")) as made:
        yield made


@pytest.fixture(scope="module")
def processes(
    prefect_server: PrefectServer, place: S3Place, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Runner]]:
    folder = tmp_path_factory.mktemp("homes")
    env = plain_environment() | place.server.environment
    with contextlib.ExitStack() as stack:
        made = []
        for number in range(PROCESSES):
            home = folder / str(number)
            made.append(Runner(env | prefect_server.settings(home), home))
            stack.callback(made[-1].close)
        yield made


class Fleet:
    """Three machines that back up the same files to a folder of their own each, and to one bucket."""

    def __init__(self, place: S3Place, processes: list[Runner], server: PrefectServer, folder: Path) -> None:
        self.place = place
        self.bucket = place.new()
        self.folder = folder
        self.source = folder / "source"
        self.source.mkdir()
        (self.source / "file").write_bytes(random.Random(1).randbytes(100_000))
        self._processes = processes
        self._server = server

    @property
    def s3(self) -> str:
        return f"s3://{self.bucket}/repo?endpoint={quote(self.place.proxy.url, safe='')}"

    def run(self, process: int, local: str = "local", env: Mapping[str, str] = OPENS_SOON) -> Completed:
        return self._processes[process].run(
            "backup", self.source, "--to", self.folder / local, "--to", self.s3, "--json", password=PASSWORD, env=env
        )

    def requests(self) -> int:
        """How many requests have come to S3, of which kind ever."""
        return len(self.place.proxy.requests)

    def breaker(self) -> dict[str, Any]:
        """The newest state of S3's breaker, as all processes see it."""
        listed = self._server.call("/variables/filter", {"limit": 200, "sort": "CREATED_DESC"})
        found = [each["value"] for each in listed if each["name"].startswith("backupiq-breaker-")]
        # Other tests leave variables there too, damaged ones among them.
        mine = [each for each in found if isinstance(each, dict) and f"s3://{self.bucket}/" in each.get("label", "")]
        return dict(max(mine, key=lambda each: each["generation"])) if mine else {"phase": "closed", "generation": 0}


@pytest.fixture
def fleet(place: S3Place, processes: list[Runner], prefect_server: PrefectServer, tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(place, processes, prefect_server, tmp_path)
    done = made.run(0)
    assert done.returncode == 0, done
    yield made
    place.proxy.clear()


def why_not(done: Completed) -> str:
    """Why a run that completed elsewhere did not at S3."""
    assert done.returncode == 4, done
    (error,) = [each["error"] for each in json.loads(done.stdout)["destinations"] if each["name"].startswith("s3:")]
    return str(error)


def test_what_one_run_found_out_another_process_need_not_and_does_not_touch_the_destination(fleet: Fleet) -> None:
    (fleet.source / "more").write_bytes(b"more" * 1000)
    with fleet.place.proxy.fault(answer_s3(503, "ServiceUnavailable"), method="PUT", path="/data/"):
        tripped = fleet.run(0)
    assert tripped.returncode == 4, tripped
    assert fleet.breaker()["phase"] == "open"

    # The destination works again, which nobody may find out before the cool-down is over.
    before, connections = fleet.requests(), fleet.place.proxy.connections
    with ThreadPoolExecutor() as pool:
        others = list(pool.map(fleet.run, (1, 2)))
    assert [("left alone until" in why_not(done)) for done in others] == [True, True]
    assert (fleet.requests(), fleet.place.proxy.connections) == (before, connections)
    assert fleet.breaker()["generation"] == 1


def test_one_of_several_runs_probes_and_its_success_closes_the_breaker_for_all(fleet: Fleet) -> None:
    (fleet.source / "more").write_bytes(b"more" * 1000)
    with fleet.place.proxy.refused():
        assert fleet.run(0, env=DUE_AT_ONCE).returncode == 4
    assert fleet.breaker()["phase"] == "open"

    # The cool-down is over. Whoever comes first probes, and is kept waiting; the others come meanwhile.
    before = fleet.requests()
    hole = fleet.place.proxy.add(BlackHole())
    with ThreadPoolExecutor() as pool:
        first = pool.submit(fleet.run, 0, env=DUE_AT_ONCE)
        wait_for(lambda: fleet.requests() > before, "the probe")
        assert fleet.breaker()["phase"] == "half-open"
        others = list(pool.map(lambda number: fleet.run(number, env=DUE_AT_ONCE), (1, 2)))
        assert ["trying it right now" in why_not(done) for done in others] == [True, True]
        assert fleet.requests() == before + 1
        hole.off()
        done = first.result(PATIENCE_SECONDS)
    assert done.returncode == 0, done
    assert fleet.breaker()["phase"] == "closed"
    again = [fleet.run(number, env=DUE_AT_ONCE) for number in (1, 2)]
    assert [each.returncode for each in again] == [0, 0], again
    assert stored(fleet.place, fleet.bucket) == files_of(fleet.folder / "local")


def test_a_probe_that_fails_doubles_the_cool_down(fleet: Fleet) -> None:
    cooldowns, requests = [], []
    with fleet.place.proxy.refused():
        for number in range(PROCESSES):
            before = fleet.breaker()["generation"]
            assert fleet.run(number, env=DUE_AT_ONCE).returncode == 4
            state = fleet.breaker()
            assert state["phase"] == "open"
            cooldowns.append(state["cooldown"])
            requests.append(state["generation"] - before)
    assert cooldowns == [0.001, 0.002, 0.004]
    # Opened at first; then claimed and opened again.
    assert requests == [1, 2, 2]


def test_a_destination_that_hangs_does_not_keep_ctrl_c_from_ending_the_run(
    fleet: Fleet, prefect_server: PrefectServer, tmp_path: Path
) -> None:
    (fleet.source / "more").write_bytes(b"more" * 1000)
    home = tmp_path / "home"
    home.mkdir()
    settings = prefect_server.settings(home) | fleet.place.server.environment
    program = BackupIQ(backupiq_program(), home, PASSWORD, settings)
    hole = fleet.place.proxy.add(BlackHole(), method="PUT", path="/data/")
    try:
        process = program.start("backup", fleet.source, "--to", fleet.folder / "local", "--to", fleet.s3)
        wait_for(lambda: hole.applied, "the upload")
        killer = threading.Timer(PATIENCE_SECONDS, process.kill)
        killer.start()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
        killer.cancel()
    finally:
        program.stop_all()
    assert process.returncode == 130, (out, err)
    assert list((fleet.folder / "local" / "locks").iterdir()) == []
    assert "locks" not in {key.split("/")[1] for key in fleet.place.server.keys(fleet.bucket)}

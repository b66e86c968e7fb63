"""Runs that nobody watches: they begin by themselves, give way to each other, and come to a good end after a crash.

Everything is the real thing on one machine: `backupiq up`, its server, its worker, and the deployment backup-nightly.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.faults.support import locks_of, pack_sizes, spool_folders, wait_for
from tests.faults.worker_support import CRASHED, PASSWORD, Machine, films, is_alive, kill, machine_that_is_up
from tests.flows.test_automations import Receiver
from tests.support.programs import Restic

WAITING = ("Scheduled", "Late", "AwaitingConcurrencySlot", "Pending")


@pytest.fixture(scope="module")
def told() -> Iterator[Receiver]:
    """The webhook that hears what people are told."""
    with Receiver().listening() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, told: Receiver) -> Iterator[Machine]:
    """One machine for the tests of this file: it takes a quarter of a minute to come up."""
    with machine_that_is_up(tmp_path_factory.mktemp("machine")) as found:
        found.tell(told.url)
        yield found


@pytest.fixture(scope="module")
def silent_run(machine: Machine) -> Iterator[str]:
    """A run from the command line that was killed: no worker knows of it, and no other command looks after it."""
    gate, documents = machine.folder / "never", machine.folder / "silent"
    documents.mkdir()
    machine.make_profile("silent", source=documents, gate=gate)
    process = machine.program.start("backup", "--profile", "silent")
    try:
        wait_for(lambda: running(machine, "backup silent"), "the run to begin")
        (run,) = running(machine, "backup silent")
        wait_for(lambda: has_said_that_it_lives(machine, run["id"]), "its first heartbeat")
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        yield run["id"]
    finally:
        gate.touch()


def running(machine: Machine, name: str) -> list[dict[str, Any]]:
    return machine.runs(name={"like_": name}, state={"type": {"any_": ["RUNNING"]}})


def has_said_that_it_lives(machine: Machine, run: str) -> bool:
    which = {"event": {"name": ["prefect.flow-run.heartbeat"]}, "resource": {"id": [f"prefect.flow-run.{run}"]}}
    return bool(machine.call("/events/filter", {"filter": which})["events"])


@contextlib.contextmanager
def often(machine: Machine, profile: str) -> Iterator[None]:
    """A schedule that somebody adds in the UI, for the length of the block: every five seconds."""
    place = f"/deployments/{machine.nightly()['id']}/schedules"
    given = {"schedule": {"interval": 5}, "active": True, "slug": "often", "parameters": {"profile": profile}}
    (made,) = machine.call(place, [given])
    try:
        yield
    finally:
        machine.call(f"{place}/{made['id']}", method="DELETE")


@pytest.mark.usefixtures("silent_run")
def test_runs_begin_by_schedule_give_way_as_configured_and_outlive_their_server_and_worker(
    machine: Machine, restic_old: Restic
) -> None:
    gate, documents = machine.folder / "gate", machine.folder / "documents"
    documents.mkdir()
    (documents / "letter.txt").write_text("Dear Anna,\n")
    vault = machine.make_profile("letters", source=documents, gate=gate)
    try:
        with often(machine, "letters"):
            wait_for(lambda: by_schedule(machine, "Running"), "the schedule to start a run")
            wait_for(lambda: by_schedule(machine, "AwaitingConcurrencySlot"), "the next one to wait for it")
        (first,) = by_schedule(machine, "Running")
        machine.call(f"/deployments/{machine.nightly()['id']}", configured("CANCEL_NEW"), "PATCH")
        assert machine.wait_for_state(machine.start("letters"), "Cancelled") == "Deployment concurrency limit reached."
        wait_for(lambda: not by_schedule(machine, *WAITING), "those of the schedule to be dropped as well")
        machine.call(f"/deployments/{machine.nightly()['id']}", configured("ENQUEUE"), "PATCH")
        second = machine.start("letters")
        machine.wait_for_state(second, "AwaitingConcurrencySlot")

        process = machine.process_of(first)
        (place,) = places_held(machine)
        server, worker = machine.pid("server"), machine.pid("worker")
        kill(worker)
        kill(server)
        again = machine.up()
        assert (again["server"], again["worker"]) == ("started", "started")
        assert is_alive(process)
        assert machine.state_of(first)[0] == "Running"
        assert machine.state_of(second)[0] == "AwaitingConcurrencySlot"
        assert places_held(machine) == [place], "the server forgot who has the deployment's only place"
        gate.touch()
        for run in (first, second):
            machine.wait_for_state(run, "Completed")
    finally:
        gate.touch()
    assert len(restic_old.json("snapshots", repo=vault, password=PASSWORD)) == 2
    wait_for(lambda: not places_held(machine), "the place to be given back")
    wait_for(lambda: not list((machine.state / "runs").iterdir()), "the notes about processes to go")


def configured(strategy: str) -> dict[str, Any]:
    return {"concurrency_options": {"collision_strategy": strategy}}


def by_schedule(machine: Machine, *states: str) -> list[str]:
    """The runs of people's own schedules that are in one of these states."""
    which = {"state": {"name": {"any_": list(states)}}, "deployment_id": {"any_": [machine.nightly()["id"]]}}
    return [run["id"] for run in machine.runs(**which) if run["auto_scheduled"]]


def places_held(machine: Machine) -> list[str]:
    """The leases of limits that the server knows."""
    found = (machine.state / "concurrency_leases").glob("*-*.json")
    return sorted(path.name for path in found)


def test_a_run_that_is_killed_with_its_worker_has_crashed_and_the_next_goes_on_from_there(
    machine: Machine, told: Receiver, restic_old: Restic
) -> None:
    source = films(machine.folder / "films", 60)
    vault = machine.make_profile("films", source=source)
    worker = machine.pid("worker")
    first = machine.start("films")
    machine.wait_for_state(first, "Pending", "Submitting", "Running")
    second = machine.start("films")
    wait_for(lambda: len(pack_sizes(vault)) >= 2, "two packs")
    kill(worker, group=True)
    wait_for(lambda: not is_alive(machine.process_of(first)), "the end of the run's process")
    assert machine.state_of(first)[0] == "Running"
    assert machine.state_of(second)[0] in WAITING
    left = pack_sizes(vault)
    assert locks_of(vault), "the run was killed before it had to give its lock back"

    assert machine.up()["worker"] == "started"
    assert machine.wait_for_state(first, "Crashed") == CRASHED
    machine.wait_for_state(second, "Completed")
    stored = pack_sizes(vault)
    assert left.keys() <= stored.keys()
    assert sum(stored.values()) < 1.05 * 60 * 3_000_000, "what the killed run had stored was sent again"
    assert locks_of(vault) == []
    assert spool_folders(machine.home) == []
    assert "no errors were found" in restic_old.run("check", repo=vault, password=PASSWORD).stdout
    hears(told, "BackupIQ: backup films -> vault-films crashed", CRASHED)


def test_a_run_of_the_worker_that_fails_reaches_a_webhook(machine: Machine, told: Receiver) -> None:
    machine.make_profile("lost", source=machine.folder / "not there")
    machine.wait_for_state(machine.start("lost"), "Failed")
    hears(told, "BackupIQ: backup lost -> vault-lost failed", "does not exist")


def test_a_run_that_falls_silent_is_marked_as_crashed_by_the_shipped_automation(
    machine: Machine, silent_run: str
) -> None:
    assert machine.wait_for_state(silent_run, "Crashed") == CRASHED


def hears(told: Receiver, subject: str, text: str) -> None:
    wait_for(lambda: subject in [each["subject"] for each in told.told], f"the news: {subject}", 60.0)
    (news,) = [each for each in told.told if each["subject"] == subject]
    assert text in news["body"]

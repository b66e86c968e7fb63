"""A machine on which `backupiq up` ran: its server, its worker, its profiles, and what a person does with them."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from backupiq.profile import Profile
from backupiq.profiles import profiles_dir, write_profile
from flows.processes import mark_of
from tests.faults.support import wait_for
from tests.support.prefect_server import PrefectServer
from tests.support.programs import BackupIQ, backupiq_program, isolated_home, run_program

QUICK = {
    "PREFECT_WORKER_QUERY_SECONDS": "1",
    "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "2",
    "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
    "DO_NOT_TRACK": "1",
}
"""Settings of a person in a hurry: how often worker and scheduler look, and how soon a run that waits asks again."""
PASSWORD = "a password that stands nowhere else"
BLOCK = "custom-webhook/ops"
SAVE_BLOCK = """
import sys
from prefect.blocks.notifications import CustomWebhookNotificationBlock
shape = {"subject": "{{subject}}", "body": "{{body}}"}
CustomWebhookNotificationBlock(name="ops", url=sys.argv[1], json_data=shape).save("ops", overwrite=True)
"""
CRASHED = "Its process is gone; the next run goes on from here."


class Machine:
    """A user's home with a server and a worker of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.program = BackupIQ(backupiq_program(), self.home, None, QUICK)
        self.state = self.home / ".local/state/backupiq/prefect"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.call = PrefectServer(0, self.port, str(self.home), "").call

    def up(self) -> dict[str, Any]:
        """`backupiq up`, which a person or systemd gives after a crash too."""
        done: dict[str, Any] = self.program.json("up", "--port", str(self.port))
        return done

    def pid(self, role: str) -> int:
        """The process id of the server or the worker."""
        return int(self.program.json("status", check=False)[f"{role}_pid"])

    def tell(self, url: str) -> None:
        """Have people told at that webhook, as the pages say."""
        env = self.program.environment(env={"PREFECT_API_URL": f"http://127.0.0.1:{self.port}/api"})
        run_program([sys.executable, "-c", SAVE_BLOCK, url], env=env)
        self.program("setup", "--notify", BLOCK)

    # --- profiles ----------------------------------------------------------------------------------------------------

    def make_profile(self, name: str, *, source: Path, gate: Path | None = None) -> Path:
        """A profile of that name; its repository. Its runs stand still until the file ``gate`` is there."""
        vault, password = self.folder / f"vault-{name}", self.home / "password"
        hold = f'until [ -e "{gate}" ]; do sleep 0.1; done'
        profile = Profile(
            name=name,
            backup={"paths": [str(source)], "to": [str(vault)], "threads": 1},
            key={"password_file": str(password)},
            hooks={"before": [{"command": ["sh", "-c", hold], "time_limit": 600}] if gate is not None else []},
        )
        write_profile(profile, profiles_dir(isolated_home(self.home)) / f"{name}.toml")
        password.write_text(PASSWORD)
        password.chmod(0o600)
        return vault

    # --- runs --------------------------------------------------------------------------------------------------------

    def nightly(self) -> dict[str, Any]:
        """The deployment that backs profiles up."""
        found: dict[str, Any] = self.call("/deployments/name/backup/backup-nightly")
        return found

    def start(self, profile: str) -> str:
        """A run of that profile, as somebody starts it in the UI; its id."""
        body = {"parameters": {"profile": profile}, "state": {"type": "SCHEDULED"}}
        return str(self.call(f"/deployments/{self.nightly()['id']}/create_flow_run", body)["id"])

    def runs(self, **which: Any) -> list[dict[str, Any]]:
        """Runs of flows, oldest first."""
        found = self.call("/flow_runs/filter", {"flow_runs": which, "sort": "EXPECTED_START_TIME_ASC", "limit": 200})
        return list(found)

    def state_of(self, run: str) -> tuple[str, str]:
        """The name and the message of a run's state."""
        state = self.call(f"/flow_runs/{run}")["state"]
        return state["name"], state["message"] or ""

    def wait_for_state(self, run: str, *names: str) -> str:
        """The message of the state, once the run is in one of these."""
        wait_for(lambda: self.state_of(run)[0] in names, f"the run to be {' or '.join(names)}")
        return self.state_of(run)[1]

    def process_of(self, run: str) -> int:
        """The process that carries out a run of the worker."""
        return int(self.call(f"/flow_runs/{run}")["infrastructure_pid"])


@contextlib.contextmanager
def machine_that_is_up(folder: Path) -> Iterator[Machine]:
    """A machine with its server and its worker, which are stopped at the end."""
    machine = Machine(folder)
    machine.home.mkdir()
    try:
        machine.up()
        yield machine
    finally:
        machine.program("down", check=False)
        machine.program.stop_all()


def kill(pid: int, *, group: bool = False) -> None:
    """kill -9, of the process alone or of all that it started as well; until nothing of it is there."""
    (os.killpg if group else os.kill)(pid, signal.SIGKILL)
    wait_for(lambda: mark_of(pid) is None, "the end of what was killed")


def is_alive(pid: int) -> bool:
    return mark_of(pid) is not None


def films(folder: Path, count: int) -> Path:
    """Files of 3 MB each that do not compress."""
    folder.mkdir()
    rng = random.Random(5)
    for number in range(count):
        (folder / f"film-{number}").write_bytes(rng.randbytes(3_000_000))
    return folder

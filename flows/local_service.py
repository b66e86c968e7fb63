"""The processes of this machine's Prefect: ``python -m flows.local_service server|worker|end-runs``.

Both `backupiq up` and the systemd units start them this way, so that their settings stand in one place. The third ends
the worker's runs cleanly, which systemd has done before it stops the worker.
"""

from __future__ import annotations

import argparse
import os
import runpy
import signal
import sys
from pathlib import Path

from flows.bounded_log import print_into
from flows.environment import HEARTBEAT_SECONDS
from flows.local_api import LocalApi
from flows.local_server import HOST, WORK_POOL, api_url, end_runs, folder, settle_runs, wait_for_api, worker_name

SERVER = {
    # The UI's own address of the API is made of it, whatever --port says.
    "PREFECT_SERVER_API_PORT": "{port}",
    # What notifications link to.
    "PREFECT_UI_URL": "http://{host}:{port}",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # Who holds which limit would be forgotten with the server, and with it the places of runs that live on.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    # Flow runs are kept for ever without it; with it for 90 days.
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs,orphans",
    "PREFECT_CLI_PROMPT": "false",
    "PREFECT_CLI_COLORS": "false",
}
WORKER = {
    "PREFECT_API_URL": "http://{host}:{port}/api",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_WORKER_QUERY_SECONDS": "5",
    # A run that stops telling that it lives can be marked as crashed.
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_CLI_PROMPT": "false",
    "PREFECT_CLI_COLORS": "false",
}
ALWAYS = frozenset({"PREFECT_SERVER_API_PORT", "PREFECT_API_URL"})
"""What the user's own settings do not change: it belongs to the port that was asked for."""


def settings(role: str, port: int, environment: dict[str, str]) -> dict[str, str]:
    """The environment of a role: our settings below the user's own, and a Prefect folder apart from the user's."""
    ours = {
        name: value.format(host=HOST, port=port) for name, value in (SERVER if role == "server" else WORKER).items()
    }
    forced = {name: value for name, value in ours.items() if name in ALWAYS}
    merged = {**ours, **environment, **forced, "PREFECT_HOME": str(folder())}
    if role == "server":
        merged.pop("PREFECT_API_URL", None)  # a stale one would win over the port
    # A deployment says `python`: the one of this installation.
    merged["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", os.defpath)])
    return merged


def arguments(role: str, port: int, queue: str) -> list[str]:
    """What Prefect's own command line is told."""
    if role == "server":
        return ["server", "start", "--host", HOST, "--port", str(port)]
    started = ["worker", "start", "--type", "process", "--pool", WORK_POOL]
    return [*started, "--work-queue", queue, "--name", worker_name(queue)]


def main() -> None:
    """Become that process."""
    parser = argparse.ArgumentParser(prog="flows.local_service")
    parser.add_argument("role", choices=("server", "worker", "end-runs"))
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--queue", default="")
    parser.add_argument("--log", type=Path)
    given = parser.parse_args()
    if given.role == "end-runs":
        end_runs(LocalApi(api_url(given.port)), given.queue)
        return
    os.umask(0o077)
    # Started in the background by a shell they are ignored, and Prefect's worker would not end when it is told to.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if given.log is not None:
        print_into(given.log)
    new = settings(given.role, given.port, dict(os.environ))
    os.environ.clear()
    os.environ.update(new)
    folder().mkdir(mode=0o700, parents=True, exist_ok=True)
    os.chdir(folder())  # a prefect.toml of the folder where the command was given is not meant
    if given.role == "worker":
        wait_for_api(new["PREFECT_API_URL"], lambda: None)
        settle_runs(LocalApi(new["PREFECT_API_URL"]), given.queue)
    sys.argv = ["prefect", *arguments(given.role, given.port, given.queue)]
    runpy.run_module("prefect", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()

"""The commands up, down and status: a Prefect server that stays, with its UI, and a worker for what runs by itself."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from backupiq.cli.options import Json
from backupiq.cli.output import clean_line, note, print_json, print_line, print_table

EXIT_DOWN = 3  # as `systemctl is-active` ends


def up(
    port: Annotated[
        int | None,
        typer.Option("--port", metavar="N", min=1024, max=65535, help="The server's port; 4200 unless it had another."),
    ] = None,
    no_worker: Annotated[
        bool, typer.Option("--no-worker", help="Start the server alone; deployments wait for a worker.")
    ] = False,
    systemd: Annotated[
        bool, typer.Option("--systemd", help="Have systemd keep both, also after a reboot (user units).")
    ] = False,
    json: Json = False,
) -> None:
    """Start a lasting Prefect server with its UI and a worker, and make the deployments. Safe to run again.

    From then on the other commands use that server. Deployments are those of prefect.yaml; profiles that have a
    schedule run by it.
    """
    from backupiq.errors import ValidationError
    from flows.bringing_up import Up, bring_up, bring_up_by_systemd, worker_word

    tell = _quiet if json else note
    if systemd and no_worker:
        raise ValidationError("--systemd installs both units; leave --no-worker out.")
    done = bring_up_by_systemd(port, tell) if systemd else bring_up(port, worker=not no_worker, note=tell)
    if not isinstance(done, Up):
        if json:
            print_json({"installed": True, "commands": done}, indent=True)
            return
        print_line("Systemd does not run for this user here. The units are installed; when you are logged in, run:")
        for command in done:
            print_line(f"  {command}")
        return
    if json:
        print_json(done.to_dict(), indent=True)
        return
    for item in done.items:
        if item["outcome"] != "unchanged":
            reason = f": {clean_line(item['reason'])}" if item["reason"] else ""
            print_line(f"{item['what']} {item['name']}: {item['outcome']}{reason}")
    print_line(f"server:  {'started' if done.server_started else 'runs already'}")
    print_line(f"worker:  {worker_word(done)}")
    print_line(f"UI:      {done.state.ui_url}")


def down(json: Json = False) -> None:
    """Stop the server and the worker that `backupiq up` started, and nothing else.

    A backup under way ends cleanly, and the next one goes on where it stopped. Units of systemd are disabled.
    """
    from flows.bringing_up import bring_down

    stopped = bring_down()
    if json:
        print_json({"stopped": [role for role, ran in stopped.items() if ran]})
        return
    for role, ran in stopped.items():
        print_line(f"{role}:  {'stopped' if ran else 'did not run'}")


def status(json: Json = False) -> None:
    """Say whether the server and the worker run, where the UI is, and what runs next.

    Ends with 0 when all that `backupiq up` started runs, with 3 when it does not.
    """
    from flows.bringing_up import look

    found = look()
    if json:
        print_json(found.to_dict(), indent=True)
    elif found.state is None:
        print_line("Nothing is up. Start it with `backupiq up`.")
    else:
        version = f" (Prefect {found.prefect_version})" if found.prefect_version else ""
        print_line(f"server:  {'running' if found.server else 'stopped'}{version}")
        print_line(f"worker:  {'running' if found.worker else 'stopped'}, queue {found.state.queue or 'none'}")
        if found.server:
            print_line(f"UI:      {found.state.ui_url}")
        if found.deployments:
            rows = [
                (each["name"], "paused" if each["paused"] else _local(each["next_run"])) for each in found.deployments
            ]
            print_line()
            print_table(("Deployment", "Next run"), rows)
    if not found.is_up:
        raise typer.Exit(EXIT_DOWN)


def _quiet(text: str) -> None:
    """With --json nobody reads along."""


def _local(time: str | None) -> str:
    if time is None:
        return "-"
    return datetime.fromisoformat(time.replace("Z", "+00:00")).astimezone().strftime("%Y-%m-%d %H:%M")

"""Flows run in this process against the session's real Prefect server, and what its API then tells of them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from pydantic import SecretStr

from backupiq.profile import BackupOptions
from backupiq.progress import SilentProgress
from backupiq.reports import BackupReport
from tests.support.prefect_server import PrefectServer
from tests.support.programs import isolated_home

T = TypeVar("T")

PASSWORD = "s3cret-swordfish-that-stands-nowhere-else"
WAIT_SECONDS = 60.0
"""How long the server may take to show what it was told; it takes in task runs and logs in the background."""


@dataclasses.dataclass(frozen=True)
class Api:
    """Prefect's API, and the folder that clients and server keep their files in."""

    server: PrefectServer
    home: Path

    def ask(self, path: str, **body: Any) -> Any:
        return self.server.call(path, body)

    def of_run(self, what: str, run: str, **more: Any) -> list[dict[str, Any]]:
        """Task runs, logs or artifacts of a flow run."""
        if what == "logs":
            return list(self.ask("/logs/filter", logs={"flow_run_id": {"any_": [run]}}, limit=200, **more))
        if what == "artifacts":
            return list(self.ask("/artifacts/filter", artifacts={"flow_run_id": {"any_": [run]}}, **more))
        return list(self.ask("/task_runs/filter", flow_runs={"id": {"any_": [run]}}, limit=200, **more))

    def flow_run(self, run: str) -> dict[str, Any]:
        (found,) = self.ask("/flow_runs/filter", flow_runs={"id": {"any_": [run]}})
        return dict(found)

    def wait(self, look: Callable[[], T], enough: Callable[[T], bool]) -> T:
        """What the server shows once it is enough; what it shows last when that never comes."""
        from prefect.events.worker import EventsWorker
        from prefect.logging.handlers import APILogWorker

        APILogWorker.drain_all(timeout=10)
        EventsWorker.drain_all(timeout=10)
        deadline = time.monotonic() + WAIT_SECONDS
        while not enough(found := look()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return found

    def finished_tasks(self, run: str, count: int) -> list[dict[str, Any]]:
        """The run's task runs, once that many have ended."""

        def look() -> list[dict[str, Any]]:
            return self.of_run("task_runs", run)

        def enough(found: list[dict[str, Any]]) -> bool:
            return sum(task["state_type"] in ("COMPLETED", "FAILED") for task in found) >= count

        return self.wait(look, enough)

    def logs(self, run: str, *wanted: str) -> list[dict[str, Any]]:
        """The run's log lines, once there is one with each of these words."""
        return self.wait(
            lambda: self.of_run("logs", run),
            lambda found: all(any(word in line["message"] for line in found) for word in wanted),
        )


@pytest.fixture(scope="session")
def api(prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """The session's server as the Prefect API of this very process."""
    from flows.environment import DEFAULTS

    home = tmp_path_factory.mktemp("flow-home")
    (home / ".prefect").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("BACKUPIQ_PASSWORD", "BACKUPIQ_PASSWORD_FILE", "BACKUPIQ_PASSWORD_COMMAND"):
            patch.delenv(name, raising=False)
        for name, value in (DEFAULTS | isolated_home(home) | prefect_server.settings(home)).items():
            patch.setenv(name, value)
        import prefect.context

        # Prefect may have been imported by another test, with other settings.
        prefect.context.refresh_global_settings_context()
        yield Api(prefect_server, home)
        from prefect.events.worker import EventsWorker
        from prefect.logging.handlers import APILogWorker

        # Before the server goes, or this process would try to reach it for a minute when it ends.
        APILogWorker.drain_all(timeout=10)
        EventsWorker.drain_all(timeout=10)


@dataclasses.dataclass
class Flows:
    """Runs of the backup flow from a folder into a new repository."""

    api: Api
    source: Path
    to: Path

    def back_up(self, *paths: str, to: str | None = None, password: str = PASSWORD, **options: Any) -> BackupReport:
        from flows.launch import run_backup

        wanted = BackupOptions(paths=list(paths) or [str(self.source)], to=[to or str(self.to)], **options)
        return run_backup(wanted, password=SecretStr(password), progress=SilentProgress())


@pytest.fixture
def flows(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Flows:
    monkeypatch.setenv("BACKUPIQ_SPOOL", str(tmp_path / "spool"))
    source = tmp_path / "documents"
    (source / "below").mkdir(parents=True)
    (source / "letter.txt").write_bytes(b"Dear Anna,\n" * 100)
    (source / "below" / "photo.raw").write_bytes(bytes(range(256)) * 5000)
    return Flows(api, source, tmp_path / "vault")

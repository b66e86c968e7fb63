"""The backup flow on a real Prefect server: names, artifacts, logs, retries, and nothing secret anywhere."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from backupiq.errors import StorageConnectionError, StorageQuotaError, WrongPasswordError
from backupiq.storage.local import LocalProvider
from backupiq.storage.provider import StorageProvider, UploadResult
from flows import reporting
from tests.flows.conftest import PASSWORD, Flows
from tests.support.programs import ROOT, plain_environment


def artifacts_of(flows: Flows, run: str) -> dict[str, Any]:
    return {artifact["key"]: artifact for artifact in flows.api.of_run("artifacts", run)}


# --- what a person sees --------------------------------------------------------------------------------------------


def test_a_run_and_its_tasks_are_named_for_what_they_do(flows: Flows) -> None:
    report = flows.back_up()
    assert report.flow_run_name == "backup documents -> vault"
    assert report.flow_run_id is not None
    assert flows.api.flow_run(report.flow_run_id)["name"] == "backup documents -> vault"
    tasks = flows.api.finished_tasks(report.flow_run_id, 9)
    assert Counter(task["name"] for task in tasks) == Counter(
        [
            "discover documents",
            "compare with the last snapshot",
            "plan batches",
            "add up what the backup holds",
            "pack batch 1 of 1",
            "upload batch 1 to vault",
            "upload batch 2 to vault",
            "write folder listings",
            "publish snapshot to vault",
        ]
    )
    assert {task["state_name"] for task in tasks} == {"Completed"}


def test_uploads_and_publication_are_retried_and_reading_is_not(flows: Flows) -> None:
    report = flows.back_up()
    assert report.flow_run_id is not None
    tasks = flows.api.finished_tasks(report.flow_run_id, 9)
    retries = {task["name"].split()[0]: task["empirical_policy"]["retries"] for task in tasks}
    assert retries["upload"] == retries["publish"] == 4
    assert retries["pack"] == retries["discover"] == retries["write"] == 0
    (upload, *_) = [task for task in tasks if task["name"].startswith("upload")]
    delays = upload["empirical_policy"]["retry_delay"]
    assert delays == sorted(delays)
    assert delays[-1] > 2 * delays[0]


def test_the_summary_and_the_destinations_are_artifacts_of_the_run(flows: Flows) -> None:
    report = flows.back_up()
    assert report.flow_run_id is not None
    assert report.snapshot_id is not None
    artifacts = artifacts_of(flows, report.flow_run_id)
    summary = artifacts["backup-summary"]
    assert summary["type"] == "markdown"
    assert f"# Snapshot `{report.snapshot_id[:8]}`" in summary["data"]
    assert str(flows.source) in summary["data"]
    assert "| Files | 2 (2 new, 0 changed, 0 unmodified) |" in summary["data"]
    table = artifacts["backup-destinations"]
    assert table["type"] == "table"
    assert json.loads(table["data"]) == [
        {
            "destination": str(flows.to),
            "complete": True,
            "bytes sent": report.bytes_sent,
            "objects caught up": 0,
            "why not": "",
        }
    ]
    assert "backup-unreadable" not in artifacts


def test_what_could_not_be_read_is_a_table_of_the_run(flows: Flows, monkeypatch: pytest.MonkeyPatch) -> None:
    from backupiq.archive import reading

    name = b"no\nentry <b>`|` \x1b[31m caf\xe9"
    (Path(os.fsdecode(os.fsencode(flows.source) + b"/" + name))).write_bytes(b"x")
    true_open = reading.open_file

    def open_file(path: bytes) -> int:
        if path.endswith(name):
            raise PermissionError(13, "Permission denied")
        return true_open(path)

    monkeypatch.setattr(reading, "open_file", open_file)
    report = flows.back_up()
    assert report.exit_code == 3
    assert report.flow_run_id is not None
    artifacts = artifacts_of(flows, report.flow_run_id)
    (row,) = json.loads(artifacts["backup-unreadable"]["data"])
    assert row == report.unreadable[0]
    assert row["reason"] == "this user may not read it"
    assert row["path"].isprintable()
    assert "no\\nentry" in row["path"]
    assert "**1 items could not be read**" in artifacts["backup-summary"]["data"]


def test_progress_is_an_artifact_that_ends_at_a_hundred(flows: Flows, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporting, "UPDATE_SECONDS", 0.01)
    (flows.source / "large").write_bytes(os.urandom(5 << 20))
    report = flows.back_up()
    assert report.flow_run_id is not None
    (progress,) = [found for found in flows.api.of_run("artifacts", report.flow_run_id) if found["type"] == "progress"]
    assert progress["data"] == 100


def test_our_events_stand_in_the_runs_log_with_its_id(flows: Flows) -> None:
    report = flows.back_up()
    assert report.flow_run_id is not None
    lines = flows.api.logs(report.flow_run_id, "snapshot.published")
    (published,) = [line for line in lines if line["message"].startswith("snapshot.published")]
    assert published["name"] == "backupiq.flows.backup"
    assert f"run_id={report.flow_run_id}" in published["message"]
    assert "destination=vault" in published["message"]
    assert f"snapshot={(report.snapshot_id or '')[:8]}" in published["message"]


def test_a_warning_from_a_packing_thread_stands_in_the_log_of_its_task(
    flows: Flows, monkeypatch: pytest.MonkeyPatch
) -> None:
    true_read = os.read

    def read_and_append(descriptor: int, count: int) -> bytes:
        data = true_read(descriptor, count)
        if data.startswith(b"Dear Anna"):
            with open(f"/proc/self/fd/{descriptor}", "ab") as file:
                file.write(b"PS: love\n")
        return data

    monkeypatch.setattr(os, "read", read_and_append)
    report = flows.back_up()
    monkeypatch.undo()
    assert report.flow_run_id is not None
    lines = flows.api.logs(report.flow_run_id, "changed while it was read")
    (warning,) = [line for line in lines if "changed while it was read" in line["message"]]
    assert f"run_id={report.flow_run_id}" in warning["message"]
    assert "batch=1" in warning["message"]
    tasks = {task["id"]: task["name"] for task in flows.api.finished_tasks(report.flow_run_id, 8)}
    assert tasks[warning["task_run_id"]] == "pack batch 1 of 1"
    assert any("letter.txt" in text for text in report.warnings)


# --- awkward names -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [b"caf\xe9 \xff", b"two\nlines \x1b[31m\x07", b"a`b`|c|<script>alert(1)</script>\r\n# Heading", b"bytes:%41"],
    ids=["no UTF-8", "terminal", "markup", "escape"],
)
def test_a_source_of_any_name_is_backed_up_and_cannot_break_what_is_shown(flows: Flows, name: bytes) -> None:
    source = os.path.join(os.fsencode(flows.source.parent), b"awkward", name.replace(b"/", b":"))
    os.makedirs(source)
    with open(source + b"/" + name.replace(b"/", b":"), "wb") as file:
        file.write(b"content")
    report = flows.back_up(os.fsdecode(source))
    assert (report.exit_code, report.files_new) == (0, 1)
    assert report.flow_run_id is not None
    run_name = flows.api.flow_run(report.flow_run_id)["name"]
    assert run_name.isprintable()
    assert all(path.isprintable() for path in report.paths)
    markdown = artifacts_of(flows, report.flow_run_id)["backup-summary"]["data"]
    (row,) = [line for line in markdown.splitlines() if line.startswith("| Paths |")]
    # One cell, all of it code: no markup in the name means anything.
    assert re.fullmatch(r"\| Paths \| `[^`|]*` \|", row)
    assert all(line.isprintable() for line in markdown.splitlines())
    names = [task["name"] for task in flows.api.finished_tasks(report.flow_run_id, 8)]
    assert all(name.isprintable() for name in names)

    again = flows.back_up(os.fsdecode(source))
    assert again.parent_id == report.snapshot_id
    assert (again.files_unmodified, again.bytes_read) == (1, 0)


# --- errors --------------------------------------------------------------------------------------------------------


class Flaky(LocalProvider):
    """The real local destination; the first uploads of packs fail."""

    def __init__(self, root: Path, error: Exception, times: int) -> None:
        super().__init__(root)
        self.error = error
        self.left = times
        self.tries = 0

    async def upload_file(self, source: Path | bytes | memoryview, key: str, **options: Any) -> UploadResult:
        if key.startswith("data/"):
            self.tries += 1
            if self.left:
                self.left -= 1
                raise self.error
        return await super().upload_file(source, key, **options)


def with_destination(monkeypatch: pytest.MonkeyPatch, provider: StorageProvider) -> None:
    from flows import backup_destinations
    from flows.tasks import store

    monkeypatch.setattr(backup_destinations, "provider_for", lambda destination, limits: provider)
    monkeypatch.setattr(store.upload_batch, "retry_delay_seconds", [0.0])
    store.upload_to.cache_clear()


def test_an_upload_that_fails_for_a_while_is_retried_by_prefect_and_the_run_completes(
    flows: Flows, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = Flaky(flows.to, StorageConnectionError("The line is down."), 2)
    with_destination(monkeypatch, provider)
    report = flows.back_up()
    assert report.snapshot_id is not None
    assert report.flow_run_id is not None
    tasks = flows.api.finished_tasks(report.flow_run_id, 8)
    assert max(task["run_count"] for task in tasks if task["name"].startswith("upload")) in (2, 3)
    assert sum(1 for _ in (flows.to / "data").rglob("*") if _.is_file()) == provider.tries - 2


def test_an_error_that_cannot_pass_is_not_retried_and_ends_the_run_as_itself(
    flows: Flows, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    provider = Flaky(flows.to, StorageQuotaError("The destination is full."), 1000)
    with_destination(monkeypatch, provider)
    with pytest.raises(StorageQuotaError, match="The destination is full"):
        flows.back_up()
    # One try for each pack that was under way, none after.
    assert provider.tries <= 3
    assert list((flows.to / "snapshots").iterdir()) == []
    assert list((flows.to / "locks").iterdir()) == []
    assert list((tmp_path / "spool").iterdir()) == []


def test_a_wrong_password_ends_the_run_as_our_own_error(flows: Flows) -> None:
    flows.back_up()
    with pytest.raises(WrongPasswordError):
        flows.back_up(password="another " + PASSWORD)


# --- secrets -------------------------------------------------------------------------------------------------------


def spellings(secret: str) -> set[bytes]:
    return {
        secret.encode(),
        quote(secret).encode(),
        json.dumps(secret)[1:-1].encode(),
        base64.b64encode(secret.encode()).rstrip(b"="),
        secret.encode().hex().encode(),
    }


def files_with(secret: str, *folders: Path) -> list[str]:
    """Files below the folders that hold the secret in some spelling; databases with their write-ahead logs."""
    found = []
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file():
                data = path.read_bytes()
                found += [str(path) for spelling in spellings(secret) if spelling in data]
    return found


def test_the_password_stands_nowhere_in_prefects_files(flows: Flows, tmp_path: Path) -> None:
    from blocks.repository_key import RepositoryKey

    RepositoryKey(password=PASSWORD).save("secret-test", overwrite=True, _sync=True)  # type: ignore[call-arg]
    report = flows.back_up()
    assert report.flow_run_id is not None
    flows.api.finished_tasks(report.flow_run_id, 8)
    flows.api.logs(report.flow_run_id, "snapshot.published")
    with pytest.raises(WrongPasswordError):
        flows.back_up(password="wrong-" + PASSWORD)
    server = Path(flows.api.server.home)
    assert any(path.name.startswith("prefect.db") for path in server.iterdir())
    # The search itself works: what is not secret is found.
    assert files_with("backup documents -> vault", server)
    assert files_with(PASSWORD, server.parent, flows.api.home, flows.to) == []


# --- as a worker starts it -----------------------------------------------------------------------------------------

WORKER = """
import asyncio, json, sys
from backupiq.profile import BackupOptions
from flows.backup import backup
options = BackupOptions(paths=[sys.argv[1]], to=[sys.argv[2]])
state = asyncio.run(backup(options=options, key_block=sys.argv[3], return_state=True))
print(json.dumps([state.name, str(state.state_details.flow_run_id), asyncio.run(state.aresult())]))
"""


def test_a_flow_that_a_worker_starts_takes_password_and_destination_from_blocks_and_logs_to_its_run(
    flows: Flows, tmp_path: Path
) -> None:
    from blocks.local_destination import LocalDestination
    from blocks.repository_key import RepositoryKey

    RepositoryKey(password=PASSWORD).save("worker-key", overwrite=True, _sync=True)  # type: ignore[call-arg]
    LocalDestination(path=flows.to).save("worker-vault", overwrite=True, _sync=True)  # type: ignore[call-arg]
    home = tmp_path / "worker-home"
    (home / ".prefect").mkdir(parents=True)
    env = plain_environment() | flows.api.server.settings(home) | {"HOME": str(home), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", WORKER, str(flows.source), "block:worker-vault", "worker-key"],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    name, run, result = json.loads(done.stdout.splitlines()[-1])
    assert name == "Completed"
    assert result["exit_code"] == 0
    assert flows.api.flow_run(run)["name"] == "backup documents -> block:worker-vault"
    lines = flows.api.logs(run, "snapshot.published")
    assert any(f"run_id={run}" in line["message"] for line in lines if "snapshot.published" in line["message"])
    assert PASSWORD not in done.stdout + done.stderr

    again = flows.back_up()
    assert again.parent_id == result["snapshot"]
    assert not again.created_repository


def test_a_dry_run_says_what_it_would_store_and_makes_nothing(flows: Flows, tmp_path: Path) -> None:
    report = flows.back_up(dry_run=True)
    assert (report.snapshot_id, report.files_new, report.exit_code) == (None, 2, 0)
    assert report.data_added == sum(path.stat().st_size for path in flows.source.rglob("*") if path.is_file())
    assert not flows.to.exists()
    assert not (tmp_path / "spool").exists()

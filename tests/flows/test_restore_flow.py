"""The restore flow on a real Prefect server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from backupiq.errors import SnapshotNotFoundError
from backupiq.profile import RestoreOptions
from backupiq.progress import SilentProgress
from backupiq.reports import RestoreSummary
from tests.flows.conftest import PASSWORD, Flows
from tests.support.compare import assert_same_tree


def restore(flows: Flows, target: str, **options: Any) -> RestoreSummary:
    from flows.launch import run_restore

    wanted = RestoreOptions(repo=str(flows.to), target=target, **options)
    return run_restore(wanted, password=SecretStr(PASSWORD), progress=SilentProgress())


def test_a_restore_is_named_reported_and_gives_the_tree_back(flows: Flows, tmp_path: Path) -> None:
    saved = flows.back_up()
    target = tmp_path / "back"
    summary = restore(flows, str(target))
    assert summary.snapshot_id == saved.snapshot_id
    assert_same_tree(flows.source, target / str(flows.source).lstrip("/"))
    run = summary.flow_run_id
    assert run is not None
    assert flows.api.flow_run(run)["name"] == "restore latest of vault -> back"
    tasks = flows.api.finished_tasks(run, 2)
    assert {task["name"] for task in tasks} == {"plan the restore", "write files"}
    (summary_shown,) = [a for a in flows.api.of_run("artifacts", run) if a["key"] == "restore-summary"]
    assert f"# Restored snapshot `{summary.snapshot_id[:8]}`" in summary_shown["data"]


def test_a_target_and_a_part_of_any_name_work(flows: Flows, tmp_path: Path) -> None:
    part = os.fsencode(flows.source) + b"/caf\xe9\n`|"
    os.mkdir(part)
    with open(part + b"/inside", "wb") as file:
        file.write(b"content")
    flows.back_up()
    target = os.fsencode(tmp_path) + b"/t\xe4rget\x1b[31m"
    summary = restore(flows, os.fsdecode(target), subpath=os.fsdecode(part))
    assert summary.target.isprintable()
    assert summary.exit_code == 0
    found = [os.path.join(folder, name) for folder, _, names in os.walk(target) for name in names if name == b"inside"]
    assert len(found) == 1
    with open(found[0], "rb") as file:
        assert file.read() == b"content"
    assert summary.flow_run_id is not None
    (shown,) = [a for a in flows.api.of_run("artifacts", summary.flow_run_id) if a["key"] == "restore-summary"]
    assert all(line.isprintable() for line in shown["data"].splitlines())


def test_a_snapshot_that_is_not_there_ends_the_run_as_our_own_error(flows: Flows, tmp_path: Path) -> None:
    flows.back_up()
    with pytest.raises(SnapshotNotFoundError):
        restore(flows, str(tmp_path / "back"), snapshot="0123456789")
    assert not (tmp_path / "back").exists()

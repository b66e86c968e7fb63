"""Runs by a profile: started by a worker or from the command line, with the hooks around them."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from backupiq.errors import HookError, MissingConfigurationError
from backupiq.profiles import make_profile, profile_path, resolve_profile, write_profile
from backupiq.progress import SilentProgress
from tests.flows.conftest import PASSWORD, Flows


def write(flows: Flows, folder: Path, **hooks: Any) -> None:
    """The profile ``home`` of the source, with the password in a file."""
    password = folder / "password"
    password.write_text(PASSWORD)
    password.chmod(0o600)
    backup = {"paths": [str(flows.source)], "to": [str(flows.to)]}
    profile = make_profile(name="home", backup=backup, key={"password_file": str(password)}, hooks=hooks)
    write_profile(profile, profile_path("home"), force=True)


def telling(path: Path) -> dict[str, Any]:
    """A hook that prints a line and writes down what it was told."""
    told = "{k: v for k, v in os.environ.items() if k.startswith('BACKUPIQ_')}"
    code = f"import json, os, sys; json.dump({told}, open(sys.argv[1], 'w')); print('said by the hook')"
    return {"command": [sys.executable, "-c", code, str(path)]}


async def test_a_worker_needs_nothing_but_the_name_of_a_profile(flows: Flows, tmp_path: Path) -> None:
    from flows.backup import backup

    write(flows, tmp_path, before=[telling(tmp_path / "before")], after=[telling(tmp_path / "after")])
    state = await backup(profile="home", return_state=True)
    assert state.is_completed()
    before, after = (json.loads((tmp_path / name).read_text()) for name in ("before", "after"))
    assert (before["BACKUPIQ_EXIT_CODE"], before["BACKUPIQ_SNAPSHOT"]) == ("", "")
    assert (after["BACKUPIQ_EXIT_CODE"], after["BACKUPIQ_PROFILE"], after["BACKUPIQ_FILES_NEW"]) == ("0", "home", "2")
    assert len(after["BACKUPIQ_SNAPSHOT"]) == 64
    run = after["BACKUPIQ_RUN_ID"]
    assert flows.api.flow_run(run)["name"] == "backup home -> vault"
    lines = await asyncio.to_thread(flows.api.logs, run, "said by the hook")
    assert any("said by the hook" in line["message"] for line in lines)


def test_a_hook_before_that_fails_leaves_the_destination_as_it_was(flows: Flows, tmp_path: Path) -> None:
    from flows.launch import run_backup

    write(flows, tmp_path, before=[{"command": ["false"]}], on_failure=[telling(tmp_path / "failed")])
    resolved = resolve_profile("home")
    with pytest.raises(HookError, match="the command false ended with exit code 1"):
        run_backup(resolved.options, password=SecretStr(PASSWORD), progress=SilentProgress(), resolved=resolved)
    assert json.loads((tmp_path / "failed").read_text())["BACKUPIQ_ERROR"] == "run.hook"
    assert not flows.to.exists()


def test_a_dry_run_has_no_hooks(flows: Flows, tmp_path: Path) -> None:
    from flows.launch import run_backup

    write(flows, tmp_path, before=[telling(tmp_path / "before")])
    resolved = resolve_profile("home", {"dry_run": True})
    run_backup(resolved.options, password=SecretStr(PASSWORD), progress=SilentProgress(), resolved=resolved)
    assert not (tmp_path / "before").exists()


async def test_a_profile_that_is_not_there_fails_the_run_and_is_named(flows: Flows) -> None:
    from flows.backup import backup

    state = await backup(profile="no-such-profile", return_state=True)
    assert state.is_failed()
    with pytest.raises(MissingConfigurationError, match="no-such-profile"):
        await state.result()

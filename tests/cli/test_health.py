"""The commands health and metrics, as a monitor runs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from backupiq.errors import StorageTimeoutError
from backupiq.telemetry.metrics import metrics_path, observe_failure, observe_run, read_figures
from tests.cli.conftest import PASSWORD, Sample
from tests.support.programs import BackupIQ, isolated_home
from tests.unit.telemetry.reports import make_report


def named(document: dict[str, Any]) -> dict[str, str]:
    """The worst status of each check."""
    found: dict[str, str] = {}
    for check in document["checks"]:
        found[check["name"]] = max(found.get(check["name"], "ok"), check["status"], key=["ok", "warn", "fail"].index)
    return found


def test_all_is_well_where_a_backup_was_just_made(backupiq: BackupIQ, own_sample: Sample) -> None:
    arguments = ["--repo", own_sample.repo, "--password-file", own_sample.password_file]
    done = backupiq.run("health", *arguments, "--json", "--max-age", "1d", password=None)
    document = json.loads(done.stdout)
    checks = named(document)
    assert checks.pop("destination") in ("ok", "warn")  # how full this machine's disk is
    assert checks == dict.fromkeys(["spool folder", "state folder", "prefect", "clock", "key", "last success"], "ok")
    texts = {check["name"]: check["text"] for check in document["checks"]}
    assert "127.0.0.1" in texts["clock"]
    assert texts["key"] == f"the password is found: the file {own_sample.password_file}"
    assert PASSWORD not in done.stdout + done.stderr
    figures = read_figures(isolated_home(backupiq.home))
    assert figures.all("backupiq_destination_up") == [({"destination": str(own_sample.repo)}, 1)]
    assert figures.all("backupiq_breaker_state") == [({"destination": str(own_sample.repo)}, 0)]


def test_what_fails_is_said_with_what_to_do_and_the_exit_code_is_1(backupiq_alone: BackupIQ, tmp_path: Path) -> None:
    env = isolated_home(backupiq_alone.home)
    observe_run(make_report(), profile="work", env=env, now=lambda: 1_000_000_000.0)
    done = backupiq_alone.run(
        "health", "--repo", tmp_path / "absent", "--password-file", tmp_path / "no-file", password=None, check=False
    )
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert f"FAIL  destination: There is no folder {tmp_path / 'absent'}" in done.stdout
    assert any(line.startswith(f"FAIL  key: The password file {tmp_path / 'no-file'} cannot be read") for line in lines)
    assert any(line.startswith("FAIL  last success: profile work: the last backup is ") for line in lines)
    assert any("backupiq metrics forget --profile work" in line for line in lines)
    assert any(line.startswith("ok    prefect: no API is configured") for line in lines)


def test_an_api_that_is_away_and_a_password_that_nobody_keeps_are_told(
    backupiq_alone: BackupIQ, own_sample: Sample
) -> None:
    away = {"PREFECT_API_URL": "http://127.0.0.1:9/api", "PREFECT_CLIENT_MAX_RETRIES": "0"}
    found = backupiq_alone.run(
        "health", "--repo", own_sample.repo, "--json", "--max-age", "1h", password=None, env=away, check=False
    )
    assert found.returncode == 1
    checks = named(json.loads(found.stdout))
    assert (checks["prefect"], checks["key"]) == ("fail", "warn")
    assert "breaker" not in checks


def test_a_profile_is_looked_at_by_its_own_destinations_key_and_age(
    backupiq_alone: BackupIQ, own_sample: Sample
) -> None:
    env = isolated_home(backupiq_alone.home)
    observe_run(make_report(), profile="work", env=env, now=lambda: 1_000_000_000.0)
    observe_run(make_report(), profile="home", env=env)
    folder = Path(env["XDG_CONFIG_HOME"]) / "backupiq" / "profiles"
    folder.mkdir(parents=True)
    (folder / "home.toml").write_text(
        f'[backup]\npaths = ["~"]\nto = [{json.dumps(str(own_sample.repo))}]\n'
        f"[key]\npassword_file = {json.dumps(str(own_sample.password_file))}\n"
    )
    done = backupiq_alone.run("health", "--profile", "home", "--json", password=None)
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert checks["last success"]["text"] == "profile home: the last backup is 0 minutes old"
    assert str(own_sample.repo) in checks["destination"]["text"]
    assert checks["key"]["status"] == "ok"
    missing = backupiq_alone.run("health", "--profile", "hone", password=None, check=False)
    assert missing.returncode == 1
    assert "Did you mean home?" in missing.stdout


def test_figures_are_shown_and_forgotten(backupiq_alone: BackupIQ) -> None:
    env = isolated_home(backupiq_alone.home)
    assert backupiq_alone.run("metrics", "show").stdout == ""
    observe_failure(StorageTimeoutError(), profile="work", seconds=1.0, env=env)
    assert backupiq_alone.run("metrics", "show").stdout == metrics_path(env).read_text()
    gone = backupiq_alone.json("metrics", "forget", "--profile", "work")["forgotten"]
    assert gone > 10
    assert "work" not in metrics_path(env).read_text()
    nothing = backupiq_alone.run("metrics", "forget", check=False)
    assert nothing.returncode == 1
    assert "--profile NAME or --destination DEST" in nothing.stderr

"""init, key, unlock, doctor, and which repository serves when none is named."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import PASSWORD, Sample
from tests.cli.test_errors import lock_exclusively, wait_until
from tests.support.prefect_server import PrefectServer
from tests.support.programs import BackupIQ, Restic


def private(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


# --- init ----------------------------------------------------------------------------------------------------------


def test_init_makes_a_repository_that_restic_opens(program: BackupIQ, restic_old: Restic, tmp_path: Path) -> None:
    repo = tmp_path / "new" / "repo"
    made = program.json("init", "--to", repo, password=PASSWORD)
    assert made["repository"] == str(repo)
    assert restic_old.json("cat", "config", repo=repo, password=PASSWORD)["id"] == made["id"]
    restic_old.run("check", repo=repo, password=PASSWORD)


def test_init_refuses_a_place_that_holds_a_repository(program: BackupIQ, own_sample: Sample) -> None:
    done = program.run("init", "--to", own_sample.repo, password=PASSWORD, check=False)
    assert done.returncode == 1
    assert "already" in done.stderr
    assert len(list((own_sample.repo / "keys").iterdir())) == 1


def test_init_needs_a_destination(program: BackupIQ, sample: Sample) -> None:
    assert "--to" in program.run("init", password=PASSWORD, check=False).stderr
    known = program.run("init", "--repo", sample.repo, "--to", sample.repo, password=PASSWORD, check=False)
    assert (known.returncode, known.stderr.count("--to DEST")) == (1, 1)


def test_without_a_password_a_strong_one_is_made_and_restic_can_use_it(
    program: BackupIQ, restic_old: Restic, tmp_path: Path
) -> None:
    repo = tmp_path / "repo"
    done = program.run("init", "--to", repo)
    (kept,) = (program.home / ".config" / "backupiq" / "passwords").iterdir()
    assert str(kept) in done.stderr
    assert f"restic -r {repo} --password-file {kept} restore latest --target DIR" in done.stderr
    assert kept.read_text().strip() not in done.stdout + done.stderr
    restic_old.run("-r", repo, "--password-file", kept, "snapshots")
    assert program.json("snapshots") == []


def test_a_kept_password_serves_only_its_own_repository(program: BackupIQ, sample: Sample, tmp_path: Path) -> None:
    program.run("init", "--to", tmp_path / "repo")
    done = program.run("snapshots", "--repo", sample.repo, check=False)
    assert "password is not known" in done.stderr


# --- which repository ----------------------------------------------------------------------------------------------


def test_the_repository_used_last_serves_and_is_named(program: BackupIQ, sample: Sample) -> None:
    program.run("snapshots", "--repo", os.path.relpath(sample.repo), password=PASSWORD)
    done = program.run("ls", "latest", password=PASSWORD, cwd=sample.repo)
    assert done.stderr == f"backupiq: using the repository last used on this machine: {sample.repo}\n"


def test_a_repository_that_could_not_be_opened_is_not_remembered(program: BackupIQ, sample: Sample) -> None:
    program.run("snapshots", "--repo", sample.repo, password="wrong", check=False)
    assert "No repository is named" in program.run("snapshots", password=PASSWORD, check=False).stderr


@pytest.mark.parametrize("command", [["key", "remove", "ab"], ["unlock", "--remove-all"]])
def test_commands_that_delete_refuse_to_guess(program: BackupIQ, own_sample: Sample, command: list[str]) -> None:
    program.run("snapshots", "--repo", own_sample.repo, password=PASSWORD)
    done = program.run(*command, password=PASSWORD, check=False)
    assert done.returncode == 1
    assert "must be named" in done.stderr
    program.run("unlock", "--remove-all", password=PASSWORD, env={"BACKUPIQ_REPOSITORY": str(own_sample.repo)})


def test_the_next_replica_is_read_when_one_is_gone(program: BackupIQ, sample: Sample, tmp_path: Path) -> None:
    done = program.run("snapshots", "--repo", tmp_path / "gone", "--repo", sample.repo, "--json", password=PASSWORD)
    assert sample.second in done.stdout
    assert "The next replica is used." in done.stderr


# --- keys ----------------------------------------------------------------------------------------------------------


def test_a_key_is_added_listed_and_removed(
    program: BackupIQ, restic_old: Restic, own_sample: Sample, tmp_path: Path
) -> None:
    repo = own_sample.repo
    second = private(tmp_path / "second", "another password\n")
    added = program.json("key", "add", "--repo", repo, "--new-password-file", second, password=PASSWORD)
    keys = program.json("key", "list", "--repo", repo, "--password-file", second)
    assert [key["current"] for key in keys if key["id"] == added["id"]] == [True]
    assert len(keys) == 2
    shown = program.run("key", "list", "--repo", repo, password=PASSWORD).stdout.splitlines()
    (marked,) = [line for line in shown if line.startswith("*")]
    assert added["id"][:8] not in marked
    restic_old.run("-r", repo, "--password-file", second, "snapshots")
    theirs = restic_old.json("key", "list", repo=repo, password=PASSWORD)
    assert {key["id"] for key in theirs} == {key["id"][:8] for key in keys}
    program.run("key", "remove", added["id"][:10], "--repo", repo, password=PASSWORD)
    gone = program.run("snapshots", "--repo", repo, "--password-file", second, check=False)
    assert gone.returncode == 12
    assert str(second) in gone.stderr


def test_the_key_in_use_and_so_the_last_one_cannot_be_removed(program: BackupIQ, own_sample: Sample) -> None:
    (key,) = (own_sample.repo / "keys").iterdir()
    done = program.run("key", "remove", key.name, "--repo", own_sample.repo, password=PASSWORD, check=False)
    assert done.returncode == 1
    assert "in use" in done.stderr
    assert key.exists()


def test_a_key_that_is_not_there_is_not_removed(program: BackupIQ, own_sample: Sample) -> None:
    done = program.run("key", "remove", "nothing", "--repo", own_sample.repo, password=PASSWORD, check=False)
    assert done.returncode == 1
    assert "backupiq key list" in done.stderr


def test_a_new_password_needs_a_file_or_a_terminal(program: BackupIQ, own_sample: Sample) -> None:
    done = program.run("key", "add", "--repo", own_sample.repo, password=PASSWORD, check=False)
    assert done.returncode == 1
    assert "--new-password-file" in done.stderr


# --- unlock --------------------------------------------------------------------------------------------------------


def test_unlock_leaves_locks_of_others_and_remove_all_does_not(program: BackupIQ, own_sample: Sample) -> None:
    lock_exclusively(program, own_sample)
    assert program.json("unlock", "--repo", own_sample.repo, password=PASSWORD) == {"removed": []}
    removed = program.json("unlock", "--remove-all", "--repo", own_sample.repo, password=PASSWORD)["removed"]
    assert len(removed) == 1
    assert list((own_sample.repo / "locks").iterdir()) == []


def test_unlock_removes_the_lock_of_a_restic_that_was_killed(
    program: BackupIQ, restic_old: Restic, own_sample: Sample
) -> None:
    process = subprocess.Popen(
        [str(restic_old.program), "backup", "--stdin"],
        stdin=subprocess.PIPE,
        env=restic_old.environment(own_sample.repo, PASSWORD),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: any(len(name) == 64 for name in os.listdir(own_sample.repo / "locks")))
    process.kill()
    process.wait()
    assert len(program.json("unlock", "--repo", own_sample.repo, password=PASSWORD)["removed"]) == 1


# --- doctor --------------------------------------------------------------------------------------------------------


def findings(document: object, check: str) -> list[dict[str, str]]:
    assert isinstance(document, dict)
    return [one for one in document["findings"] if one["check"] == check]


def test_doctor_works_without_a_repository(program: BackupIQ) -> None:
    document = program.json("doctor")
    assert document["problems"] == 0
    assert {one["check"] for one in document["findings"]} >= {
        "python",
        "libraries",
        "clock",
        "open files",
        "configuration",
        "spool folder",
        "restic",
        "prefect",
        "repository",
    }
    assert "embedded server with SQLite" in findings(document, "prefect")[0]["text"]
    assert "sqlalchemy 2.0" in findings(document, "libraries")[-1]["text"]


def test_doctor_examines_prefects_server(backupiq: BackupIQ, prefect_server: PrefectServer) -> None:
    text = findings(backupiq.json("doctor"), "prefect")[0]["text"]
    assert "answers: Prefect 3." in text
    assert "127.0.0.1" in text


def test_doctor_finds_a_server_that_does_not_answer(program: BackupIQ) -> None:
    env = {"PREFECT_API_URL": "http://127.0.0.1:9/api"}
    document = program.json("doctor", env=env, check=False)
    assert document["problems"] == 1
    (finding,) = findings(document, "prefect")
    assert finding["level"] == "problem"
    assert "PREFECT_API_URL" in finding["advice"]
    assert program.run("doctor", env=env, check=False).returncode == 1


def test_doctor_opens_the_repository_and_tells_its_locks(program: BackupIQ, own_sample: Sample) -> None:
    lock_exclusively(program, own_sample)
    document = program.json("doctor", "--repo", own_sample.repo, password=PASSWORD)
    assert findings(document, "destination")[0]["level"] == "ok"
    assert "opens" in findings(document, "repository")[0]["text"]
    assert "somebody at elsewhere" in findings(document, "locks")[0]["text"]
    assert findings(document, "snapshots")[0]["text"].startswith("2, the newest is ")


def test_doctor_says_what_is_wrong_with_a_repository(program: BackupIQ, own_sample: Sample, tmp_path: Path) -> None:
    unknown = program.json("doctor", "--repo", own_sample.repo)
    assert findings(unknown, "repository")[0]["level"] == "warning"
    wrong = program.json("doctor", "--repo", own_sample.repo, password="wrong", check=False)
    assert findings(wrong, "repository")[0]["level"] == "problem"
    missing = program.json("doctor", "--repo", tmp_path / "gone", password=PASSWORD, check=False)
    assert missing["problems"] == 1
    shutil.rmtree(own_sample.repo / "keys")
    damaged = program.json("doctor", "--repo", own_sample.repo, password=PASSWORD, check=False)
    assert findings(damaged, "repository")[0]["level"] == "problem"


def test_doctor_finds_a_kept_password_that_others_may_read(program: BackupIQ, tmp_path: Path) -> None:
    program.run("init", "--to", tmp_path / "repo")
    (kept,) = (program.home / ".config" / "backupiq" / "passwords").iterdir()
    kept.chmod(0o644)
    document = program.json("doctor", check=False)
    (finding,) = findings(document, "configuration")
    assert finding["level"] == "problem"
    assert str(kept) in finding["advice"]

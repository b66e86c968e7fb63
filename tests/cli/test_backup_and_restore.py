"""backup and restore from the command line, through the real flows, against a real Prefect server."""

from __future__ import annotations

import dataclasses
import filecmp
import json
import os
import re
import sys
from pathlib import Path

import pytest

from backupiq.cli.backup import show
from backupiq.reports import BackupReport
from tests.support.programs import ROOT, BackupIQ, Restic, is_root, run_program


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "sub").mkdir(parents=True)
    (folder / "a").write_bytes(b"a" * 10_000)
    (folder / "sub" / "b").write_bytes(os.urandom(300_000))
    (folder / "sub" / "empty").write_bytes(b"")
    return folder


def test_a_backup_tells_its_end_one_thing_a_line_and_is_restored(
    backupiq: BackupIQ, restic_old: Restic, repo_password: str, source: Path, tmp_path: Path
) -> None:
    repo, target = tmp_path / "repo", tmp_path / "target"
    done = backupiq.run("backup", source, "--to", repo, "--tag", "first")
    lines = dict(line.split(":", 1) for line in done.stdout.splitlines())
    assert list(lines) == ["snapshot", "files", "bytes", "added", "seconds"]
    assert re.fullmatch(r" +[0-9a-f]{64}", lines["snapshot"])
    assert lines["files"].strip() == "3 (3 new, 0 changed, 0 unmodified)"
    assert lines["bytes"].strip().startswith("310000 (")
    assert re.match(r" +\d+ bytes \(.*\), stored in \d+ bytes", lines["added"])
    assert "created repository" in done.stderr
    theirs = restic_old.json("snapshots", repo=repo, password=repo_password)
    assert [(one["id"], one["tags"]) for one in theirs] == [(lines["snapshot"].strip(), ["first"])]
    restored = backupiq.run("restore", "latest", "--target", target)
    assert f"using the repository last used on this machine: {repo}" in restored.stderr
    assert "files:     3\n" in restored.stdout
    compared = filecmp.dircmp(source, target / source.relative_to("/"))
    assert (compared.left_only, compared.right_only, compared.diff_files) == ([], [], [])


def test_the_second_backup_finds_nothing_new_and_speaks_json(backupiq: BackupIQ, source: Path, tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    first = backupiq.json("backup", source, "--to", repo)
    second = backupiq.json("backup", source, "--to", repo)
    assert first["created_repository"] is True
    assert (second["created_repository"], second["parent_id"]) == (False, first["snapshot_id"])
    assert (second["files_new"], second["files_unmodified"], second["bytes_read"]) == (0, 3, 0)
    assert [one["id"] for one in backupiq.json("snapshots")] == [first["snapshot_id"], second["snapshot_id"]]


def test_a_part_of_a_snapshot_is_restored(backupiq: BackupIQ, source: Path, tmp_path: Path) -> None:
    backupiq.run("backup", source, "--to", tmp_path / "repo")
    target = tmp_path / "target"
    summary = backupiq.json("restore", f"latest:{source / 'sub'}", "--target", target, "--exclude", "empty")
    assert summary["exit_code"] == 0
    assert sorted(os.listdir(target)) == ["b"]


def test_excludes_sizes_and_hosts_reach_the_backup(backupiq: BackupIQ, source: Path, tmp_path: Path) -> None:
    patterns = tmp_path / "patterns"
    patterns.write_text("sub/empty\n")
    arguments = ["--exclude-file", str(patterns), "--exclude-larger-than", "200K", "--host", "another"]
    report = backupiq.json("backup", source, "--to", tmp_path / "repo", *arguments)
    assert report["total_files"] == 1
    assert backupiq.json("snapshots")[0]["hostname"] == "another"


def test_a_dry_run_stores_nothing(backupiq: BackupIQ, source: Path, tmp_path: Path) -> None:
    done = backupiq.run("backup", source, "--to", tmp_path / "repo", "--dry-run", password=None)
    assert "dry run" in done.stdout
    assert not (tmp_path / "repo" / "config").exists()
    assert not (backupiq.home / ".config" / "backupiq" / "passwords").exists()


def test_without_a_password_the_backup_makes_keeps_and_uses_one(
    backupiq: BackupIQ, restic_old: Restic, source: Path, tmp_path: Path
) -> None:
    repo = tmp_path / "repo"
    done = backupiq.run("backup", source, "--to", repo, password=None)
    (kept,) = (backupiq.home / ".config" / "backupiq" / "passwords").iterdir()
    assert f"--password-file {kept} restore latest" in done.stderr
    again = backupiq.run("backup", source, "--to", repo, password=None)
    assert "password" not in again.stderr
    restic_old.run("-r", repo, "--password-file", kept, "check", "--read-data")
    restic_old.run("-r", repo, "--password-file", kept, "restore", "latest", "--target", tmp_path / "target")
    assert (tmp_path / "target" / source.relative_to("/") / "a").read_bytes() == b"a" * 10_000


def test_a_wrong_password_says_where_it_came_from(backupiq: BackupIQ, source: Path, tmp_path: Path) -> None:
    backupiq.run("backup", source, "--to", tmp_path / "repo")
    for command in (["backup", str(source), "--to", str(tmp_path / "repo")], ["restore", "latest", "--target", "x"]):
        done = backupiq.run(*command, password="wrong", check=False, cwd=tmp_path)
        assert done.returncode == 12
        assert "BACKUPIQ_PASSWORD opens no key" in done.stderr.splitlines()[-1]


def test_restoring_from_nowhere_ends_with_10(backupiq: BackupIQ, tmp_path: Path) -> None:
    done = backupiq.run("restore", "latest", "--target", tmp_path / "t", "--repo", tmp_path / "nothing", check=False)
    assert (done.returncode, done.stderr.count("\n")) == (10, 1)
    assert not (tmp_path / "t").exists()


@pytest.mark.skipif(is_root(), reason="the super-user may read everything")
def test_files_that_cannot_be_read_are_named_and_end_with_3(backupiq: BackupIQ, source: Path, tmp_path: Path) -> None:
    (source / "a").chmod(0)
    done = backupiq.run("backup", source, "--to", tmp_path / "repo", check=False)
    assert done.returncode == 3
    assert f"could not be read: {source / 'a'}" in done.stderr


def test_many_unreadable_files_are_told_as_fifty_and_a_number(capsys: pytest.CaptureFixture[str]) -> None:
    numbers = {field.name: 0 for field in dataclasses.fields(BackupReport) if field.type in ("int", "float")}
    lists: dict[str, list[object]] = {"paths": [], "warnings": ["odd\nthing"], "destinations": [], "decisions": []}
    nothing = dict.fromkeys(("snapshot_id", "parent_id", "flow_run_id", "flow_run_name"))
    unreadable = [{"path": f"/f{n}", "reason": "no"} for n in range(60)]
    report = BackupReport(
        **numbers, **lists, **nothing, holds={}, unreadable=unreadable, repository_id="", created_repository=False
    )
    show(report, dry_run=False, json=False)
    errors = capsys.readouterr().err.splitlines()
    assert errors[0] == "backupiq: warning: odd\\nthing"
    assert errors[1] == "backupiq: could not be read: /f0: no"
    assert errors[50] == "backupiq: could not be read: /f49: no"
    assert errors[51:] == ["backupiq: and 10 more that could not be read"]


def test_a_source_that_is_not_there_fails_in_one_line_of_json(backupiq: BackupIQ, tmp_path: Path) -> None:
    done = backupiq.run("backup", tmp_path / "gone", "--to", tmp_path / "repo", "--json", check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert json.loads(done.stderr.splitlines()[-1])["code"] == "discovery.not_found"


def test_the_password_and_the_destination_may_be_prefect_blocks(
    backupiq: BackupIQ, restic_old: Restic, repo_password: str, source: Path, tmp_path: Path
) -> None:
    repo = tmp_path / "repo"
    code = (
        "import sys; from blocks.local_destination import LocalDestination;"
        "from blocks.repository_key import RepositoryKey;"
        "RepositoryKey(password=sys.argv[1]).save('cli-key', overwrite=True);"
        "LocalDestination(path=sys.argv[2]).save('cli-disk', overwrite=True)"
    )
    run_program([sys.executable, "-c", code, repo_password, repo], env=backupiq.environment(), cwd=ROOT)
    access = ["--key-block", "cli-key"]
    report = backupiq.json("backup", source, "--to", "block:cli-disk", *access, password=None)
    assert restic_old.json("snapshots", repo=repo, password=repo_password)[0]["id"] == report["snapshot_id"]
    listed = backupiq.json("snapshots", "--repo", "block:cli-disk", *access, password=None)
    assert [one["id"] for one in listed] == [report["snapshot_id"]]
    missing = backupiq.run("snapshots", "--repo", repo, "--key-block", "no-such-block", password=None, check=False)
    assert missing.returncode == 1
    assert "no-such-block" in missing.stderr.splitlines()[-1]

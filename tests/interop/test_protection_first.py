"""A run that is killed while it still sends films has made the letters safe: the real restic restores them."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.interop.support import below, finish
from tests.support.compare import assert_same_tree
from tests.support.programs import BackupIQ, Restic
from tests.support.servers.seaweedfs import SeaweedFS

PATIENCE_SECONDS = 120.0


def make_home(folder: Path) -> tuple[Path, Path]:
    """A home whose bytes are films, which come first by path, and whose worth is in small files."""
    noise = random.Random(20)
    films, letters = folder / "a films", folder / "letters"
    films.mkdir(parents=True)
    for number in range(8):
        (films / f"film {number}.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + noise.randbytes(5_000_000))
    letters.mkdir()
    for number in range(200):
        (letters / f"to {number}.odt").write_bytes(noise.randbytes(2000))
    (letters / "id_ed25519").write_bytes(b"-----BEGIN " + b"OPENSSH PRIVATE KEY-----\n" + noise.randbytes(300))
    return films, letters


def snapshots_in(server: SeaweedFS, bucket: str) -> list[str]:
    listed = server.client.list_objects_v2(Bucket=bucket, Prefix="repo/snapshots/")
    return [item["Key"].rpartition("/")[2] for item in listed.get("Contents", [])]


def test_after_kill_9_the_first_checkpoint_restores_what_matters(
    backupiq: BackupIQ, restic_old: Restic, tmp_path: Path, repo_password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    films, letters = make_home(home)
    with SeaweedFS(tmp_path / "server") as server:
        bucket = server.new_bucket()
        keys = server.environment
        ours = f"s3://{bucket}/repo?endpoint={quote(server.url)}"
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, keys[name])  # restic takes them from there
        restic = restic_old
        theirs = f"s3:{server.url}/{bucket}/repo"

        run = backupiq.start("backup", home, "--to", ours, "--limit-upload", "500K", env=keys)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (found := snapshots_in(server, bucket)):
            assert run.poll() is None, finish(run)
            assert time.monotonic() < deadline, "no checkpoint came"
            time.sleep(0.1)
        os.kill(run.pid, signal.SIGKILL)
        finish(run)
        restic.run("unlock", "--remove-all", repo=theirs, password=repo_password)
        (listed,) = restic.json("snapshots", repo=theirs, password=repo_password)
        assert [listed["id"]] == found
        assert listed["tags"] == ["checkpoint"]
        target = tmp_path / "target"
        restic.run("restore", found[0], "--target", target, repo=theirs, password=repo_password)
        assert_same_tree(letters, below(target, letters))
        there = below(target, films)
        stored = len(os.listdir(there)) if there.exists() else 0
        assert stored < len(os.listdir(films)), "the films were not all sent yet"

        report = backupiq.json("backup", home, "--to", ours, env=keys)
        assert report["parent_id"] == found[0]
        assert report["files_unmodified"] >= 201
        assert snapshots_in(server, bucket) == [report["snapshot_id"]]
        restic.run("check", repo=theirs, password=repo_password)

"""The password and the keys appear nowhere but where they belong: in nothing printed, logged or kept, nor in Prefect.

Runs of every kind are made with a password that is a word of its own, so that no encoding hides it; then everything
that the runs left or showed is searched for it, and for the repository's master key.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.support import PATIENCE_SECONDS, open_repository
from tests.support.prefect_server import PrefectServer
from tests.support.programs import BackupIQ

SECRET = "Zx9qVw3mKtWordThatStandsNowhereElse7"
OTHER = "Nb5rHy8pLsAnotherWordOfTheSameKind2"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    for number in range(50):
        (folder / f"file-{number}").write_bytes(b"content %d\n" % number * 4000)
    return folder


def spellings(secret: bytes) -> Iterator[bytes]:
    """The ways in which programs write bytes."""
    yield secret
    yield secret.hex().encode()
    for shift in range(3):  # base64 of a text that holds it, whatever stands before it
        coded = base64.b64encode(b"\0" * shift + secret)
        yield coded[4 if shift else 0 : -4]
    yield base64.b64encode(secret)
    yield base64.urlsafe_b64encode(secret)


def assert_absent(secrets: list[bytes], data: bytes, where: str) -> None:
    for secret in secrets:
        for spelling in spellings(secret):
            assert spelling not in data, f"a secret stands in {where}"


def assert_absent_below(secrets: list[bytes], folder: Path) -> int:
    """Searches every file; returns how many."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        assert_absent(secrets, path.read_bytes(), str(path))
    return len(files)


def master_key(repo: Path) -> list[bytes]:
    """The parts of the repository's master key."""

    async def read() -> list[bytes]:
        repository = await open_repository(repo, SECRET)
        async with repository.provider:
            return [repository.master.encrypt, repository.master.mac_k, repository.master.mac_r]

    return asyncio.run(read())


def runs_of_every_kind(backupiq: BackupIQ, source: Path, folder: Path) -> list[subprocess.CompletedProcess[str]]:
    """Runs that succeed and runs that fail, plain, as JSON and with --debug."""
    repo, target = folder / "repo", folder / "target"
    password_file = folder / "password"
    password_file.write_text(OTHER + "\n")
    password_file.chmod(0o600)
    done = []
    for number, options in enumerate(([], ["--debug"], ["--log-level", "debug", "--log-json"])):
        (source / f"new-{number}").write_bytes(b"new")
        done.append(backupiq.run("backup", source, "--to", repo, *options, password=SECRET))
    for options in (["--debug"], ["--json"]):
        done.append(backupiq.run("restore", "latest", "--repo", repo, "--target", target, *options, password=SECRET))
    for words in (["snapshots"], ["ls", "latest"], ["stats"], ["key", "list"], ["unlock"]):
        done.append(backupiq.run(*words, "--debug", "--repo", repo, password=SECRET))
    done.append(
        backupiq.run("key", "add", "--new-password-file", password_file, "--debug", "--repo", repo, password=SECRET)
    )
    for words in (
        ["backup", str(source), "--to", str(repo)],
        ["restore", "latest", "--repo", str(repo), "--target", str(target)],
        ["snapshots", "--repo", str(repo)],
    ):
        failed = backupiq.run(*words, "--debug", password=SECRET + OTHER, check=False)
        assert failed.returncode == 12
        done.append(failed)
    done.append(backupiq.run("snapshots", "--repo", folder / "nothing", "--debug", password=SECRET, check=False))
    done.append(backupiq.run("backup", folder / "gone", "--to", repo, "--debug", password=SECRET, check=False))
    return done


def test_no_output_no_log_and_no_database_holds_a_password_or_a_key(
    backupiq: BackupIQ, prefect_server: PrefectServer, source: Path, tmp_path: Path
) -> None:
    done = runs_of_every_kind(backupiq, source, tmp_path)
    secrets = [SECRET.encode(), OTHER.encode(), *master_key(tmp_path / "repo")]
    for run in done:
        assert_absent(secrets, f"{run.stdout}{run.stderr}".encode(), f"what {run.args} printed")
    assert any("Traceback" in run.stderr for run in done), "--debug showed nothing that could hold a secret"
    assert_absent_below(secrets, backupiq.home)
    assert_absent(secrets, Path(prefect_server.log).read_bytes(), "the log of Prefect's server")
    database = Path(prefect_server.home) / "prefect.db"
    assert_absent(secrets, everything(database), "Prefect's database")
    assert assert_absent_below(secrets, tmp_path / "repo") > 5
    # The search finds what is there: the place of the repository, which is no secret, stands in the database.
    with pytest.raises(AssertionError):
        assert_absent([tmp_path.name.encode()], everything(database), "Prefect's database")


def everything(database: Path) -> bytes:
    """All bytes of an SQLite database with what is not yet merged into it, and all its rows as text."""
    raw = b"".join(path.read_bytes() for path in sorted(database.parent.glob(database.name + "*")))
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return raw + "\n".join(connection.iterdump()).encode(errors="surrogateescape")


class Watcher:
    """Reads the command line and the environment of every process that a program starts, for as long as it runs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.seen: dict[str, bytes] = {}
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        own = Path(f"/proc/{self._process.pid}/cmdline").read_bytes()
        while self._process.poll() is None:
            for pid in descendants(self._process.pid):
                try:
                    command = Path(f"/proc/{pid}/cmdline").read_bytes()
                    # Between fork and exec a child is its parent still, down to the environment.
                    if command and command != own:
                        self.seen[f"the arguments of {command[:80]!r}"] = command
                        self.seen[f"the environment of {command[:80]!r}"] = Path(f"/proc/{pid}/environ").read_bytes()
                except OSError:
                    continue
            time.sleep(0.01)

    def finish(self) -> tuple[str, str]:
        output = self._process.communicate(timeout=PATIENCE_SECONDS)
        self._thread.join(PATIENCE_SECONDS)
        return output


def descendants(pid: int) -> list[int]:
    """Children, their children and so on."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
    found = [pid]
    for one in found:
        found.extend(child for child, parent in parents.items() if parent == one)
    return found[1:]


def test_no_process_that_a_run_starts_is_told_the_password(
    backupiq_alone: BackupIQ, source: Path, tmp_path: Path
) -> None:
    process = backupiq_alone.start("backup", source, "--to", tmp_path / "repo", "--debug", password=SECRET)
    watcher = Watcher(process)
    output = "".join(watcher.finish())
    assert process.returncode == 0, output
    secrets = [SECRET.encode(), *master_key(tmp_path / "repo")]
    assert any("uvicorn" in name for name in watcher.seen), f"the embedded server was not seen: {list(watcher.seen)}"
    assert any(name.startswith("the environment") and data for name, data in watcher.seen.items())
    for name, data in watcher.seen.items():
        assert_absent(secrets, data, name)
    own = Path(f"/proc/{process.pid}/cmdline")
    assert not own.exists() or SECRET.encode() not in own.read_bytes()
    assert_absent(secrets, output.encode(), "what it printed")
    assert_absent_below(secrets, backupiq_alone.home)

"""Trying a destination out: it tells what works and what does not, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from backupiq.errors import StorageAuthenticationError, StorageCorruptError, StoragePermissionError
from backupiq.storage.local import LocalProvider
from backupiq.storage.provider import FileInfo, StorageInfo, UploadResult
from backupiq.storage.trial import FOLDER, STEPS, try_destination


class Faulty(LocalProvider):
    """A folder whose calls can be made to go wrong, one at a time."""

    fault: str = ""

    async def authenticate(self) -> StorageInfo:
        if self.fault == "connect":
            raise StorageAuthenticationError("The destination refused the credentials. Renew them.")
        if self.fault == "hang":
            await asyncio.Event().wait()
        return await super().authenticate()

    async def upload_file(self, source: Any, key: str, **options: Any) -> UploadResult:
        done = await super().upload_file(source, key, **options)
        if self.fault == "write":
            raise StoragePermissionError("Writing is not allowed. Grant it.")
        return done

    async def list_files(self, prefix: str = "") -> AsyncIterator[FileInfo]:
        async for info in super().list_files(prefix):
            if self.fault != "list":
                yield info

    async def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        return b"other bytes" if self.fault == "read" else await super().read(key, offset, length)

    async def delete_file(self, key: str) -> None:
        if self.fault == "delete":
            self.fault = "once"
            raise StoragePermissionError("Deleting is not allowed. Grant it.")
        await super().delete_file(key)


def everything_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


async def test_a_destination_that_works_passes_every_step_and_is_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "config").write_bytes(b"a repository's")
    async with LocalProvider(tmp_path) as provider:
        trial = await try_destination(provider)
    assert trial.ok
    assert trial.passed == STEPS
    assert trial.failed is None
    assert trial.to_dict()["message"] == f"{tmp_path} works."
    assert everything_in(tmp_path) == ["config"]


async def test_a_folder_that_is_not_there_is_told_with_the_command_that_makes_it(tmp_path: Path) -> None:
    async with LocalProvider(tmp_path / "new") as provider:
        trial = await try_destination(provider, written="block:attic")
    assert (trial.failed, trial.passed) == ("connect", ())
    assert trial.message == (
        f"The folder of {tmp_path / 'new'} does not exist. Create it, or run `backupiq init --to block:attic`."
    )
    assert not (tmp_path / "new").exists()


async def test_the_command_that_makes_it_can_be_copied_to_a_shell(tmp_path: Path) -> None:
    async with LocalProvider(tmp_path / "my $HOME") as provider:
        trial = await try_destination(provider)
    assert trial.message.endswith(f"run `backupiq init --to '{tmp_path}/my $HOME'`.")


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("connect", StorageAuthenticationError),
        ("write", StoragePermissionError),
        ("list", StorageCorruptError),
        ("read", StorageCorruptError),
        ("delete", StoragePermissionError),
    ],
)
async def test_the_step_that_fails_is_named_and_nothing_is_left(
    fault: str, error: type[Exception], tmp_path: Path
) -> None:
    async with Faulty(tmp_path) as provider:
        provider.fault = fault
        trial = await try_destination(provider)
    assert trial.failed == fault
    assert trial.passed == STEPS[: STEPS.index(fault)]
    assert isinstance(trial.error, error)
    assert trial.error.message == trial.message
    assert everything_in(tmp_path) == []


async def test_a_destination_that_never_answers_is_given_up(tmp_path: Path) -> None:
    async with Faulty(tmp_path) as provider:
        provider.fault = "hang"
        trial = await try_destination(provider, longest_seconds=0.01)
    assert trial.failed == "connect"
    assert trial.to_dict()["code"] == "storage.timeout"
    assert "did not answer" in trial.message


async def test_what_a_killed_trial_left_is_removed_but_not_what_another_one_uses(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    for name, age in (("old", 7200), ("new", 0)):
        (tmp_path / FOLDER / name).write_bytes(b"x")
        if age:
            os.utime(tmp_path / FOLDER / name, (1_000_000, 1_000_000))
    async with LocalProvider(tmp_path) as provider:
        assert (await try_destination(provider)).ok
    assert everything_in(tmp_path) == [FOLDER, f"{FOLDER}/new"]


async def test_an_interrupted_trial_removes_its_object(tmp_path: Path) -> None:
    reading = asyncio.Event()

    class Slow(LocalProvider):
        async def read(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
            reading.set()
            await asyncio.Event().wait()
            raise AssertionError("unreachable")

    async with Slow(tmp_path) as provider:
        task = asyncio.create_task(try_destination(provider))
        await reading.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert everything_in(tmp_path) == []

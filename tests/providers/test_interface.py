"""Keys, destinations as people write them, and the table of the system's errors."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupiq.errors import (
    BackupIQError,
    DiskFullError,
    OutOfMemoryError,
    ResourceError,
    StorageConflictError,
    StorageConnectionError,
    StorageError,
    StorageNotFoundError,
    StoragePermissionError,
    StorageQuotaError,
    StorageTimeoutError,
    StorageUnsupportedError,
    TooManyOpenFilesError,
    UnknownDestinationError,
    ValidationError,
)
from backupiq.storage.factory import open_destination
from backupiq.storage.local import LocalProvider
from backupiq.storage.oserrors import destination_errors, machine_errors
from backupiq.storage.provider import check_key, is_temporary_key, temporary_name

# --- keys ----------------------------------------------------------------------------------------------------------


@given(st.text(max_size=40) | st.lists(st.sampled_from(["a", "..", ".", "", "\0", "b"]), max_size=5).map("/".join))
def test_a_key_that_passes_stays_below_any_root(key: str) -> None:
    try:
        check_key(key)
    except ValidationError:
        return
    root = os.path.abspath("root")
    assert os.path.normpath(os.path.join(root, key)) == f"{root}{os.sep}{key}"
    key.encode()


@pytest.mark.parametrize(
    "key",
    ["a\\b", "..\\x", "C:x", "a:stream", "nul", "data/CON.txt", "com1", "dot.", "space ", "data/what?", 'q"', "a*"],
)
def test_a_name_that_windows_cannot_store_is_refused_there_only(key: str) -> None:
    with pytest.raises(ValidationError):
        check_key(key, windows=True)
    assert check_key(key, windows=False) == key


@given(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=255))
def test_a_temporary_name_is_recognised_and_fits_where_the_name_fits(name: str) -> None:
    temporary = temporary_name(name)
    assert is_temporary_key(temporary)
    assert is_temporary_key(f"data/ab/{temporary}")
    assert len(temporary.encode()) <= max(255, len(name.encode()))
    assert temporary_name(name) != temporary


# --- destinations --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "dest", ["/backup/here", "file:///backup/here", "file://localhost/backup/here", "FILE:/backup/here"]
)
def test_a_path_and_its_url_open_the_folder(dest: str) -> None:
    provider = open_destination(dest)
    assert isinstance(provider, LocalProvider)
    assert provider.root == Path("/backup/here")


def test_a_relative_path_a_home_and_an_encoded_url_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("USERPROFILE", "/home/somebody")
    assert open_destination("some/folder").location == os.path.abspath("some/folder")
    assert open_destination("~/backup").location == os.path.abspath("/home/somebody/backup")
    assert open_destination("file:///with%20space").location == os.path.abspath("/with space")
    assert open_destination("./odd:name").location == os.path.abspath("odd:name")


def test_opening_a_destination_makes_nothing(tmp_path: Path) -> None:
    open_destination(str(tmp_path / "new"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dest", ["s3://bucket/x", "gs://bucket", "az://container", "icloud:/Folder", "S3://bucket"])
def test_a_cloud_destination_says_that_it_is_not_available_yet(dest: str) -> None:
    with pytest.raises(UnknownDestinationError, match="not available yet"):
        open_destination(dest)


@pytest.mark.parametrize(
    "dest", ["", " ", "ftp://host", "sftp:user@host:/x", "block:nightly", "file://otherhost/x", "file:relative", "a\0b"]
)
def test_what_is_no_destination_is_refused(dest: str) -> None:
    with pytest.raises(UnknownDestinationError):
        open_destination(dest)


def test_the_refusal_repeats_no_password_of_the_url() -> None:
    with pytest.raises(UnknownDestinationError) as caught:
        open_destination("rest:https://user:hunter2@host/")
    assert "hunter2" not in str(caught.value.to_dict())


# --- the system's errors -------------------------------------------------------------------------------------------

AT_DESTINATION = {
    "ENOSPC": StorageQuotaError,
    "EDQUOT": StorageQuotaError,
    "EACCES": StoragePermissionError,
    "EPERM": StoragePermissionError,
    "EROFS": StoragePermissionError,
    "ENOENT": StorageNotFoundError,
    "ENOTDIR": StorageNotFoundError,
    "EEXIST": StorageConflictError,
    "ETIMEDOUT": StorageTimeoutError,
    "ESTALE": StorageConnectionError,
    "ENOTCONN": StorageConnectionError,
    "EHOSTDOWN": StorageConnectionError,
    "EMFILE": TooManyOpenFilesError,
    "ENFILE": TooManyOpenFilesError,
    "ENOMEM": OutOfMemoryError,
    "ENAMETOOLONG": ValidationError,
    "EFBIG": StorageUnsupportedError,
    "EIO": StorageError,
    "EDOM": StorageError,
}
AT_THIS_MACHINE = {
    "ENOSPC": DiskFullError,
    "EDQUOT": DiskFullError,
    "EMFILE": TooManyOpenFilesError,
    "ENOMEM": OutOfMemoryError,
    "EACCES": ResourceError,
    "EIO": ResourceError,
    "EDOM": ResourceError,
}


@pytest.mark.parametrize(("name", "kind"), AT_DESTINATION.items())
def test_an_error_at_the_destination_becomes_the_one_it_stands_for(name: str, kind: type[BackupIQError]) -> None:
    if not hasattr(errno, name):
        pytest.skip(f"this system has no {name}")
    number = getattr(errno, name)
    with pytest.raises(BackupIQError) as caught, destination_errors("write the\nfile", key="data/ab/x"):
        raise OSError(number, os.strerror(number))
    assert type(caught.value) is kind
    assert caught.value.details == {"errno": number, "reason": os.strerror(number), "key": "data/ab/x"}
    assert os.strerror(number) in caught.value.message
    assert caught.value.message.isprintable()
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize(("name", "kind"), AT_THIS_MACHINE.items())
def test_an_error_of_this_machine_becomes_the_one_it_stands_for(name: str, kind: type[BackupIQError]) -> None:
    number = getattr(errno, name)
    with pytest.raises(BackupIQError) as caught, machine_errors("write the spool"):
        raise OSError(number, os.strerror(number))
    assert type(caught.value) is kind


def test_an_error_without_a_number_is_still_ours() -> None:
    with pytest.raises(StorageError), destination_errors("do it"):
        raise OSError("something odd")


def test_other_errors_pass_unchanged() -> None:
    with pytest.raises(ZeroDivisionError), destination_errors("do it"):
        raise ZeroDivisionError

"""Keys, destinations as people write them, and the table of the system's errors."""

from __future__ import annotations

import errno
import os

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
    ValidationError,
)
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

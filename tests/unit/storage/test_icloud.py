"""The parts of the iCloud provider that need no server: settings, names, what is known of folders, the lock."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupiq.errors import (
    CancelledRunError,
    MissingConfigurationError,
    ResourceError,
    StorageTimeoutError,
    UnknownDestinationError,
    ValidationError,
)
from backupiq.storage.disk import Transfer
from backupiq.storage.icloud_config import ICloudConfig
from backupiq.storage.icloud_folders import FolderCache, Listing
from backupiq.storage.icloud_items import Item
from backupiq.storage.icloud_lock import AccountLock
from backupiq.storage.icloud_names import MAX_NAME, item_name, key_part, retired_name, retired_of
from backupiq.storage.icloud_sending import FormBody, open_source
from backupiq.storage.provider import check_key, is_temporary_key
from tests.support.programs import ROOT

ENV = {"BACKUPIQ_ICLOUD_APPLE_ID": "person@example.com", "BACKUPIQ_ICLOUD_PASSWORD": "hush-hush-17"}


# --- settings -------------------------------------------------------------------------------------------------------


def test_a_url_names_the_folder_and_the_environment_the_account() -> None:
    config = ICloudConfig.from_url("icloud:/Backups/My%20Laptop/", ENV)
    assert (config.apple_id, config.password) == ("person@example.com", "hush-hush-17")
    assert config.folder == "Backups/My Laptop"
    assert config.location == config.login == "icloud:/Backups/My Laptop"
    assert not config.china_mainland
    assert ICloudConfig.from_url("icloud:/B?china_mainland=true", ENV).china_mainland


def test_a_decomposed_name_is_the_composed_one() -> None:
    assert ICloudConfig("a@b.c", folder="e\u0301").folder == "\u00e9"


def test_neither_the_account_nor_the_password_are_shown() -> None:
    config = ICloudConfig.from_url("icloud:/B", ENV)
    for shown in (repr(config), str(config), config.location, config.identity, config.account):
        assert "person" not in shown
        assert "hush" not in shown


def test_an_identity_tells_accounts_folders_and_servers_apart() -> None:
    configs = [
        ICloudConfig("a@b.c", folder="X"),
        ICloudConfig("a@b.c", folder="Y"),
        ICloudConfig("d@b.c", folder="X"),
        ICloudConfig("a@b.c", folder="X", china_mainland=True),
        ICloudConfig("a@b.c", folder="X", endpoint="https://127.0.0.1:1"),
    ]
    assert len({config.identity for config in configs}) == len(configs)
    assert ICloudConfig("A@b.c", folder="X").identity == configs[0].identity


@pytest.mark.parametrize(
    "url",
    [
        "icloud:",
        "icloud:/",
        "icloud://person:secret@example.com/Folder",
        "icloud://Folder",
        "icloud:/Folder#part",
        "icloud:/Folder?password=secret",
        "icloud:/Folder?x",
        "s3://bucket",
    ],
)
def test_another_form_of_url_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(UnknownDestinationError) as caught:
        ICloudConfig.from_url(url, ENV)
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("folder", ["", "/", "a/../b", "a//b", "new\nline", "a:b", "x" * 300, ".."])
def test_a_folder_that_cannot_be_is_refused(folder: str) -> None:
    with pytest.raises(ValidationError):
        ICloudConfig("a@b.c", folder=folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"endpoint": "http://127.0.0.1:1"},
        {"endpoint": "nonsense"},
        {"endpoint": "https://u:p@127.0.0.1"},
        {"connect_seconds": 0.0},
        {"read_seconds": -1.0},
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ICloudConfig("a@b.c", **changes)  # type: ignore[arg-type]


def test_an_apple_id_is_needed() -> None:
    with pytest.raises(MissingConfigurationError, match="BACKUPIQ_ICLOUD_APPLE_ID"):
        ICloudConfig.from_url("icloud:/B", {})
    for wrong in ("", "  ", "a\nb"):
        with pytest.raises(ValidationError):
            ICloudConfig(wrong)


# --- names ----------------------------------------------------------------------------------------------------------


def is_key_part(part: str) -> bool:
    try:
        return "/" not in part and bool(check_key(part)) and len(item_name(part)) <= MAX_NAME
    except (ValidationError, UnicodeEncodeError):
        return False


@given(st.text(max_size=60).filter(is_key_part))
def test_every_key_has_a_name_that_icloud_keeps_and_that_tells_the_key(part: str) -> None:
    name = item_name(part)
    assert key_part(name) == part
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_")
    aside = retired_name(name)
    assert len(aside) <= 255
    assert is_temporary_key(aside)
    assert retired_of(aside) == name
    assert key_part(aside) is None


@given(st.text(alphabet="ab_-0f2.X \u00e9", max_size=12))
def test_a_name_stands_for_one_key_at_most(name: str) -> None:
    part = key_part(name)
    assert part is None or item_name(part) == name


@pytest.mark.parametrize("name", ["_", "_2", "_61", "_GG", "_2E", "a b", "", "_ff", "_2f", "_2e_2e", "x-tmp-0"])
def test_names_that_no_key_has_are_none_of_ours(name: str) -> None:
    assert key_part(name) is None


@pytest.mark.parametrize("name", ["config", "config-tmp-" + "a" * 16, "config-tmp-01d", "-tmp-01d" + "a" * 12])
def test_other_names_stepped_aside_for_nobody(name: str) -> None:
    assert retired_of(name) is None


def test_a_name_that_is_too_long_is_refused() -> None:
    item_name("k" * MAX_NAME)
    with pytest.raises(ValidationError):
        item_name("k" * (MAX_NAME + 1))


# --- what is known of folders ---------------------------------------------------------------------------------------


def item(name: str) -> Item:
    return Item(f"FILE::z::{name}", name, "z", name, False, 1, "1", None)


def listing(names: list[str]) -> Listing:
    return Listing(item("folder"), map(item, names), 0.0, 0)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["put", "add", "drop", "forget", "below", "get"]),
            st.sampled_from([(), ("a",), ("a", "b"), ("c",), ("d",)]),
            st.lists(st.sampled_from("pqrstuvw"), max_size=6, unique=True),
        ),
        max_size=40,
    )
)
def test_what_is_known_of_folders_is_bounded_and_counted(steps: list[tuple[str, tuple[str, ...], list[str]]]) -> None:
    cache = FolderCache(max_folders=3, max_items=8)
    for what, path, names in steps:
        if what == "put":
            cache.put(path, listing(names))
        elif what == "add":
            for name in names:
                cache.add(path, item(name))
        elif what == "drop":
            for name in names:
                cache.drop(path, name)
        elif what == "forget":
            cache.forget(path)
        elif what == "below":
            cache.forget_below(path)
            assert cache.get(path) is None
        else:
            cache.get(path)
        known = [found for path in [(), ("a",), ("a", "b"), ("c",), ("d",)] if (found := cache.get(path))]
        assert cache.weight == sum(len(found.items) for found in known)
        assert len(cache) == len(known) <= 3
        assert cache.weight <= 8 or len(known) == 1


# --- sending --------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=300))
def test_a_form_is_as_long_as_it_says_and_holds_the_bytes(data: bytes) -> None:
    transfer = Transfer()
    with open_source(data) as source:
        body = FormBody("name", source, transfer)
        sent = b"".join(bytes(piece) for piece in body)
    assert len(sent) == len(body)
    boundary = body.content_type.partition("boundary=")[2].encode()
    head, _, rest = sent.partition(b"\r\n\r\n")
    assert head.startswith(b"--" + boundary)
    assert rest == data + b"\r\n--" + boundary + b"--\r\n"
    assert transfer.size == len(data)


def test_a_file_that_grows_is_sent_as_it_was_and_one_that_shrinks_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    with open_source(path) as source:
        path.write_bytes(b"1234567890")
        assert b"".join(bytes(piece) for piece in source.pieces(3)) == b"12345"
    with open_source(path) as source:
        path.write_bytes(b"1")
        with pytest.raises(ResourceError, match="shorter"):
            list(source.pieces(3))


# --- the lock -------------------------------------------------------------------------------------------------------

HOLDER = """
import sys
from pathlib import Path
from backupiq.storage.icloud_lock import AccountLock
with AccountLock(Path(sys.argv[1])).held(lambda: None):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_program_waits_for_another_one_and_gives_up_after_a_while(tmp_path: Path) -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += 100 * seconds

    lock = AccountLock(tmp_path, clock=lambda: now[0], sleep=sleep)
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(StorageTimeoutError, match="Another program"), lock.held(lambda: None):
            pytest.fail("two at once")
        assert now[0] >= 900

        def cancelled() -> None:
            raise CancelledRunError

        with pytest.raises(CancelledRunError), lock.held(cancelled):
            pytest.fail("two at once")
        process.kill()  # the system lets go of a dead program's lock
        process.wait()
    with lock.held(cancelled):
        pass


def test_a_program_that_calls_without_pause_lets_a_waiting_one_in(tmp_path: Path) -> None:
    order: list[str] = []

    def first_sleeps(seconds: float) -> None:
        pytest.fail("nobody holds it")

    def second_sleeps(seconds: float) -> None:
        # The second one waits for the first, and so holds the turn: the first cannot come in again before it.
        if "released" not in order:
            stack.close()
            order.append("released")
            with pytest.raises(StorageTimeoutError), AccountLock(tmp_path, longest_wait=0).held(lambda: None):
                pytest.fail("came in out of turn")

    import contextlib

    with contextlib.ExitStack() as stack:
        stack.enter_context(AccountLock(tmp_path, sleep=first_sleeps).held(lambda: None))
        with AccountLock(tmp_path, sleep=second_sleeps).held(lambda: None):
            order.append("second")
    assert order == ["released", "second"]

"""Signing in to iCloud with a person and without one: codes, security keys, trust, and how it is kept."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from backupiq.errors import (
    BackupIQError,
    MissingConfigurationError,
    StorageAuthenticationError,
    StorageConnectionError,
    StorageThrottledError,
    ValidationError,
)
from backupiq.storage.icloud import ICloudConfig, ICloudProvider
from backupiq.storage.icloud_login import ICloudLogin
from tests.support.programs import ROOT, plain_environment
from tests.support.servers.icloud import ICloudServer
from tests.support.servers.icloud_key import SoftwareKey

posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ICloudServer]:
    with ICloudServer(tmp_path / "server") as started:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(started.ca_file))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        started.tree.make_folder("FOLDER::com.apple.CloudDocs::root", "Backups")
        yield started


@pytest.fixture
def sessions(tmp_path: Path) -> Path:
    return tmp_path / "state" / "sessions"


@pytest.fixture
def config(server: ICloudServer, sessions: Path) -> ICloudConfig:
    return ICloudConfig.from_url("icloud:/Backups", server.environment(sessions))


def session_file(sessions: Path) -> Path:
    return next(sessions.glob("*.session"))


# --- with a person --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delivery", ["sms", "device"])
async def test_a_code_makes_apple_trust_this_machine(config: ICloudConfig, server: ICloudServer, delivery: str) -> None:
    server.accounts.delivery = delivery
    with ICloudLogin(config) as login:
        assert login.start() == "code"
        assert server.accounts.codes_sent == 0
        assert login.request_code() == delivery
        assert server.accounts.codes_sent == (1 if delivery == "sms" else 0)
        assert login.submit_code(f"{server.code[:3]} {server.code[3:]}")
    async with ICloudProvider(config) as provider:
        await provider.authenticate()
    with ICloudLogin(config) as again:
        assert again.start() == "none"


async def test_a_wrong_code_is_told_and_the_right_one_still_counts(config: ICloudConfig, server: ICloudServer) -> None:
    with ICloudLogin(config) as login:
        login.start()
        before = len(server.requests)
        for nonsense in ("", "12345", "abcdef", "1234567", "١٢٣٤٥٦"):
            assert not login.submit_code(nonsense)
        assert len(server.requests) == before
        assert not login.submit_code("000000")
        async with ICloudProvider(config) as provider:
            with pytest.raises(StorageAuthenticationError):
                await provider.authenticate()
        assert login.submit_code(server.code)


def test_a_security_key_makes_apple_trust_this_machine(config: ICloudConfig, server: ICloudServer) -> None:
    key = SoftwareKey(server.accounts.key_handle)
    server.accounts.delivery, server.accounts.security_key = "key", key.public_key
    with ICloudLogin(config) as login:
        assert login.start() == "security-key"
        assert login.security_keys() == ["Key on the ring"]
        assert login.confirm_security_key(device=key)
    with ICloudLogin(config) as again:
        assert again.start() == "none"


def test_another_security_key_is_refused(config: ICloudConfig, server: ICloudServer) -> None:
    server.accounts.delivery = "key"
    server.accounts.security_key = SoftwareKey(server.accounts.key_handle).public_key
    with ICloudLogin(config) as login:
        login.start()
        for wrong in (SoftwareKey(b"handle of another"), SoftwareKey(server.accounts.key_handle)):
            with pytest.raises(StorageAuthenticationError):
                login.confirm_security_key(device=wrong)


def test_waiting_for_a_security_key_can_be_given_up(config: ICloudConfig, server: ICloudServer) -> None:
    key = SoftwareKey(server.accounts.key_handle, touched=False)
    server.accounts.delivery, server.accounts.security_key = "key", key.public_key
    cancel = threading.Event()
    with ICloudLogin(config) as login:
        login.start()
        threading.Thread(target=lambda: (key.asked.wait(30), cancel.set())).start()
        with pytest.raises(StorageAuthenticationError, match="security key"):
            login.confirm_security_key(device=key, cancel=cancel)


async def test_a_new_sign_in_can_be_made_while_the_old_one_is_good(config: ICloudConfig, server: ICloudServer) -> None:
    server.trust(config.sessions())
    with ICloudLogin(config) as login:
        assert login.start() == "none"
        assert login.start(anew=True) == "code"
        assert login.submit_code(server.code)


async def test_a_running_program_takes_over_a_sign_in_of_another_one(
    config: ICloudConfig, server: ICloudServer
) -> None:
    server.trust(config.sessions())
    async with ICloudProvider(config) as provider:
        await provider.authenticate()
        server.accounts.end_trust()
        with pytest.raises(StorageAuthenticationError):
            await provider.check_space()
        with ICloudLogin(config) as login:
            assert login.start() == "code"
            assert login.submit_code(server.code)
        sign_ins = server.accounts.sign_ins
        await provider.check_space()
        assert server.accounts.sign_ins == sign_ins


async def test_a_running_program_does_not_undo_a_sign_in_of_another_one(
    config: ICloudConfig, server: ICloudServer
) -> None:
    server.trust(config.sessions())
    async with ICloudProvider(config) as provider:
        await provider.authenticate()
        with ICloudLogin(config) as login:
            login.start(anew=True)
            login.submit_code(server.code)
        kept = session_file(config.sessions()).read_text()
        await provider.upload_file(b"x", "config")
        assert json.loads(kept)["trust_token"] == json.loads(session_file(config.sessions()).read_text())["trust_token"]


@pytest.mark.parametrize("step", ["request_code", "security_keys"])
def test_a_step_before_the_start_is_refused(config: ICloudConfig, step: str) -> None:
    with pytest.raises(ValidationError, match="start"):
        getattr(ICloudLogin(config), step)()


# --- what Apple refuses ---------------------------------------------------------------------------------------------


def test_a_wrong_password_is_told(server: ICloudServer, sessions: Path) -> None:
    env = server.environment(sessions) | {"BACKUPIQ_ICLOUD_PASSWORD": "wrong-password-1"}
    with pytest.raises(StorageAuthenticationError, match="refused the Apple ID or its password") as caught:
        ICloudLogin(ICloudConfig.from_url("icloud:/Backups", env)).start()
    assert "wrong-password-1" not in f"{caught.value.message}{caught.value.details}"


def test_without_a_password_one_is_asked_for_only_when_it_is_needed(server: ICloudServer, sessions: Path) -> None:
    env = server.environment(sessions)
    del env["BACKUPIQ_ICLOUD_PASSWORD"]
    config = ICloudConfig.from_url("icloud:/Backups", env)
    with pytest.raises(MissingConfigurationError, match="BACKUPIQ_ICLOUD_PASSWORD"):
        ICloudLogin(config).start()
    server.trust(sessions)
    assert ICloudLogin(config).start() == "none"


def test_a_locked_account_is_explained(config: ICloudConfig, server: ICloudServer) -> None:
    server.accounts.locked = True
    with pytest.raises(StorageAuthenticationError, match=r"iforgot\.apple\.com"):
        ICloudLogin(config).start()


async def test_new_terms_are_explained(config: ICloudConfig, server: ICloudServer) -> None:
    server.trust(config.sessions())
    server.accounts.terms_needed = True
    async with ICloudProvider(config) as provider:
        with pytest.raises(StorageAuthenticationError, match="terms"):
            await provider.authenticate()


@pytest.mark.parametrize("status", [500, 503])
async def test_an_outage_while_signing_in_is_no_refusal(
    config: ICloudConfig, server: ICloudServer, status: int
) -> None:
    server.trust(config.sessions())
    server.fail_next("accountLogin", status, times=9)
    server.fail_next("signin/init", status, times=9)
    async with ICloudProvider(config) as provider:
        with pytest.raises(StorageThrottledError if status == 503 else StorageConnectionError) as caught:
            await provider.authenticate()
        assert caught.value.retryable
        server.behave()
        await provider.authenticate()


async def test_a_server_that_cannot_be_reached_is_no_refusal(config: ICloudConfig, server: ICloudServer) -> None:
    server.trust(config.sessions())
    server.stop()
    async with ICloudProvider(config) as provider:
        with pytest.raises(StorageConnectionError):
            await provider.authenticate()


# --- without a person -----------------------------------------------------------------------------------------------


async def test_trust_that_has_ended_is_reported_by_authenticate_and_nobodys_phone_rings(
    config: ICloudConfig, server: ICloudServer
) -> None:
    server.trust(config.sessions())
    async with ICloudProvider(config) as provider:
        await provider.authenticate()
    server.accounts.end_trust()
    async with ICloudProvider(config) as provider:
        for _ in range(2):
            with pytest.raises(StorageAuthenticationError, match="backupiq providers login icloud:/Backups") as caught:
                await provider.authenticate()
            assert not caught.value.retryable
    assert server.accounts.codes_sent == 0


async def test_the_name_a_person_gave_the_destination_is_in_the_advice(server: ICloudServer, sessions: Path) -> None:
    config = ICloudConfig(
        server.apple_id,
        server.password,
        folder="Backups",
        session_folder=sessions,
        endpoint=server.url,
        login_name="block:cloud",
    )
    async with ICloudProvider(config) as provider:
        with pytest.raises(StorageAuthenticationError, match="backupiq providers login block:cloud"):
            await provider.authenticate()


async def test_a_kept_trust_signs_in_without_a_person_when_only_the_session_has_ended(
    config: ICloudConfig, server: ICloudServer
) -> None:
    server.trust(config.sessions())
    server.accounts.end_sessions()
    async with ICloudProvider(config) as provider:
        await provider.authenticate()
    assert server.accounts.sign_ins == 1


# --- how it is kept -------------------------------------------------------------------------------------------------


@posix
async def test_the_session_is_kept_where_nobody_else_can_read_it(
    config: ICloudConfig, server: ICloudServer, sessions: Path
) -> None:
    sessions.mkdir(parents=True, mode=0o755)
    sessions.chmod(0o755)
    with ICloudLogin(config) as login:
        login.start()
        login.submit_code(server.code)
    async with ICloudProvider(config) as provider:
        await provider.upload_file(b"x", "config")
    assert stat.S_IMODE(sessions.stat().st_mode) == 0o700
    files = list(sessions.iterdir())
    assert len(files) >= 4
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


@pytest.mark.parametrize("damage", [b"", b'{"session_tok', b"[]", None])
async def test_a_session_whose_file_was_damaged_by_a_power_cut_comes_back(
    config: ICloudConfig, server: ICloudServer, damage: bytes | None
) -> None:
    with ICloudLogin(config) as login:
        login.start()
        login.submit_code(server.code)
    sign_ins = server.accounts.sign_ins
    path = session_file(config.sessions())
    path.unlink() if damage is None else path.write_bytes(damage)
    async with ICloudProvider(config) as provider:
        await provider.authenticate()
    assert server.accounts.sign_ins == sign_ins


async def test_two_programs_take_turns_with_one_account(config: ICloudConfig, server: ICloudServer) -> None:
    server.trust(config.sessions())
    program = """
import asyncio, os, sys
from backupiq.storage.icloud import ICloudConfig, ICloudProvider
async def main():
    async with ICloudProvider(ICloudConfig.from_url("icloud:/Backups", os.environ)) as provider:
        for n in range(2):
            await provider.upload_file(b"theirs", f"data/{sys.argv[1]}/{n}")
        try:
            await provider.upload_file(sys.argv[1].encode(), "config", create_only=True)
            print("won")
        except Exception as error:
            print(type(error).__name__)
asyncio.run(main())
"""
    env = plain_environment() | server.environment(config.sessions()) | {"NO_PROXY": "127.0.0.1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program, name], env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for name in ("a", "b")
    ]
    said = [process.communicate(timeout=120) for process in started]
    assert sorted(out.decode().strip() for out, _ in said) == ["StorageConflictError", "won"], said
    assert len(server.files("Backups")) == 5


def test_the_session_lies_in_the_users_state_folder_by_a_name_that_does_not_tell_the_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    one, two = ICloudConfig("person@example.com").sessions(), ICloudConfig("other@example.com").sessions()
    assert one.parent == two.parent == tmp_path / "backupiq" / "icloud"
    assert one != two
    assert one == ICloudConfig(" Person@Example.com ").sessions()
    assert "person" not in str(one.name)


# --- as a program ---------------------------------------------------------------------------------------------------


def test_the_server_runs_as_a_program_and_keeps_what_is_stored(tmp_path: Path) -> None:
    told = []
    for _ in range(2):
        command = [sys.executable, "-m", "tests.support.servers.icloud", "--folder", str(tmp_path / "f")]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            told.append(json.loads(process.stdout.readline()))
            process.terminate()
        assert process.returncode == 0
    assert told[0]["port"] > 0
    assert told[0]["REQUESTS_CA_BUNDLE"] == told[1]["REQUESTS_CA_BUNDLE"]
    assert (tmp_path / "f" / "drive" / "nodes.json").exists()


def test_nothing_of_icloud_is_loaded_before_it_is_used() -> None:
    program = (
        "import sys, backupiq.storage.icloud, backupiq.storage.icloud_login; "
        "print([name for name in ('pyicloud', 'requests', 'urllib3', 'prefect') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


async def test_missing_libraries_are_named_with_the_command_that_brings_them(
    config: ICloudConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(sys.modules):
        if name.startswith(("backupiq.storage.icloud_client", "backupiq.storage.icloud_session")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyicloud", None)
    monkeypatch.setitem(sys.modules, "pyicloud.exceptions", None)
    monkeypatch.setitem(sys.modules, "pyicloud.services.account", None)
    async with ICloudProvider(config) as provider:
        with pytest.raises(MissingConfigurationError, match=r'pip install "backupiq\[icloud\]"'):
            await provider.authenticate()
    with pytest.raises(MissingConfigurationError, match=r'pip install "backupiq\[icloud\]"'):
        ICloudLogin(config).start()


async def test_a_state_folder_that_cannot_be_made_is_an_error_of_this_machine(
    server: ICloudServer, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    config = ICloudConfig.from_url("icloud:/Backups", server.environment(tmp_path / "file" / "below"))
    async with ICloudProvider(config) as provider:
        with pytest.raises(BackupIQError, match="session"):
            await provider.authenticate()

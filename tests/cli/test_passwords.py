"""Where passwords come from, in which order, and what is kept."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupiq.errors import ConfigurationError
from backupiq.passwords import (
    PasswordSources,
    ask_password,
    find_password,
    generate_password,
    keep_new_password,
    keep_password_for,
    kept_password_path,
    read_password_file,
    run_password_command,
)
from backupiq.telemetry import redact_text


def private(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    path.chmod(0o600)
    return path


def found(sources: PasswordSources, *locations: str) -> str | None:
    password = find_password(sources, locations, note=lambda _: None)
    return password.secret.get_secret_value() if password else None


def test_sources_are_asked_in_the_documented_order(tmp_path: Path) -> None:
    env = {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    option_file = private(tmp_path / "option", b"option file")
    variable_file = private(tmp_path / "variable", b"variable file")
    command = f"{sys.executable} -c 'print(\"command\")'"
    assert found(PasswordSources(env=env), "/r") is None
    keep_new_password(["/r"], env)
    kept = kept_password_path("/r", env).read_text().strip()
    assert found(PasswordSources(env=env), "/r") == kept
    env["BACKUPIQ_PASSWORD_COMMAND"] = f"{sys.executable} -c 'print(\"variable command\")'"
    assert found(PasswordSources(env=env), "/r") == "variable command"
    assert found(PasswordSources(command=command, env=env), "/r") == "command"
    env["BACKUPIQ_PASSWORD_FILE"] = str(variable_file)
    assert found(PasswordSources(command=command, env=env), "/r") == "variable file"
    assert found(PasswordSources(file=option_file, command=command, env=env), "/r") == "option file"
    env["BACKUPIQ_PASSWORD"] = "variable"
    assert found(PasswordSources(file=option_file, command=command, env=env), "/r") == "variable"


def test_an_option_that_the_variable_overrides_is_mentioned(tmp_path: Path) -> None:
    notes: list[str] = []
    sources = PasswordSources(file=tmp_path / "unused", env={"BACKUPIQ_PASSWORD": "x1"})
    find_password(sources, [], note=notes.append)
    assert len(notes) == 1
    assert "BACKUPIQ_PASSWORD" in notes[0]


@pytest.mark.parametrize(
    ("data", "password"),
    [
        (b"secret", "secret"),
        (b"secret\n", "secret"),
        (b" \t secret with spaces \r\n\n", "secret with spaces"),
        (b"two\nlines\n", "two\nlines"),
        (b"\xef\xbb\xbfsecret", "secret"),
        ("größe".encode("utf-16"), "größe"),
        ("größe\r\n".encode("utf-16-be").join([b"\xfe\xff", b""]), "größe"),
        (b"\x1ckept\x1f", "\x1ckept\x1f"),
        ("\u2003secret\u00a0".encode(), "secret"),
    ],
)
def test_a_password_file_is_read_as_restic_reads_it(tmp_path: Path, data: bytes, password: str) -> None:
    assert read_password_file(private(tmp_path / "p", data), note=lambda _: None) == password


@pytest.mark.parametrize("data", [b"", b" \n", b"\xff\xfa\xff", b"x" * 100_000])
def test_a_password_file_that_holds_no_password_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ConfigurationError, match="password"):
        read_password_file(private(tmp_path / "p", data), note=lambda _: None)


def test_a_missing_password_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nothing-here.*check the path"):
        read_password_file(tmp_path / "nothing-here", note=lambda _: None)


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such modes")
def test_a_password_file_that_others_may_read_is_warned_about(tmp_path: Path) -> None:
    notes: list[str] = []
    file = private(tmp_path / "p", b"secret")
    read_password_file(file, note=notes.append)
    assert notes == []
    file.chmod(0o640)
    read_password_file(file, note=notes.append)
    assert "chmod 600" in notes[0]


def test_a_password_command_runs_without_a_shell(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    assert run_password_command(f"printf '%s' 'a b; touch {touched}'") == f"a b; touch {touched}"
    assert not touched.exists()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("", "empty"),
        ("unclosed 'quote", "quotation"),
        ("/no/such/program", "cannot be run"),
        (f"{sys.executable} -c 'print(\"s3cr3t\"); raise SystemExit(7)'", "exit code 7"),
        ("true", "empty"),
    ],
)
def test_a_password_command_that_fails_is_an_error_without_its_output(command: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as raised:
        run_password_command(command)
    assert "s3cr3t" not in raised.value.message.replace(command, "")


def test_a_new_password_is_asked_for_twice() -> None:
    asked: list[str] = []

    def answer(prompt: str) -> str:
        asked.append(prompt)
        return "typed"

    assert ask_password(answer, twice=True).secret.get_secret_value() == "typed"
    assert len(asked) == 2


def test_two_different_answers_are_refused() -> None:
    answers = iter(["one", "other"])
    with pytest.raises(ConfigurationError, match="differ"):
        ask_password(lambda _: next(answers), twice=True)


def test_an_empty_answer_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="empty"):
        ask_password(lambda _: "", twice=False)


def test_made_passwords_are_long_and_differ() -> None:
    made = {generate_password() for _ in range(100)}
    assert len(made) == 100
    assert all(len(one.replace("-", "")) == 30 and one.replace("-", "").islower() for one in made)


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such modes")
def test_a_kept_password_is_private_and_is_never_overwritten(tmp_path: Path) -> None:
    env = {"XDG_CONFIG_HOME": str(tmp_path)}
    first = keep_new_password(["/r", "/replica"], env)
    path = kept_password_path("/r", env)
    assert first.kept_in == path
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    again = keep_new_password(["/r"], env)
    assert again.secret == first.secret
    assert found(PasswordSources(env=env), "/replica") == first.secret.get_secret_value()
    keep_password_for(first, "/third", env)
    assert found(PasswordSources(env=env), "/third") == first.secret.get_secret_value()
    assert sorted(os.listdir(path.parent)) == sorted(
        kept_password_path(r, env).name for r in ("/r", "/replica", "/third")
    )


def test_a_password_that_cannot_be_kept_stops_the_creation(tmp_path: Path) -> None:
    (tmp_path / "backupiq").write_text("in the way")
    with pytest.raises(ConfigurationError, match="--password-file"):
        keep_new_password(["/r"], {"XDG_CONFIG_HOME": str(tmp_path)})


@given(
    st.text(st.characters(exclude_categories=()), min_size=1), st.text(st.characters(exclude_categories=()), min_size=1)
)
def test_kept_files_have_safe_names_that_tell_destinations_apart(one: str, other: str) -> None:
    env = {"XDG_CONFIG_HOME": "/config"}
    try:
        first, second = kept_password_path(one, env), kept_password_path(other, env)
    except UnicodeEncodeError:  # no path of a file system and no URL
        return
    assert first.parent == Path("/config/backupiq/passwords")
    assert (first == second) == (one == other)
    assert first.name.isascii()
    assert not first.name.startswith((".", "-"))


def test_a_found_password_is_hidden_and_never_logged() -> None:
    password = find_password(PasswordSources(env={"BACKUPIQ_PASSWORD": "hunter2-hunter2"}), [], note=lambda _: None)
    assert "hunter2" not in repr(password)
    assert "hunter2" not in redact_text("the password is hunter2-hunter2.")

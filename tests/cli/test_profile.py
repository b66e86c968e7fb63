"""The commands about profiles, run in this process."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from backupiq.cli.profile import app, local_timezone
from backupiq.errors import BackupIQError, ConfigurationError, MissingConfigurationError, ValidationError
from backupiq.profiles import load_profile

SECRET = "hunter2-5a1c0de5"
Command = Callable[..., Result]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own with a folder of documents and a password; it is the working folder too."""
    for name in ("BACKUPIQ_PASSWORD", "BACKUPIQ_PASSWORD_FILE", "BACKUPIQ_PASSWORD_COMMAND", "BACKUPIQ_REPOSITORY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "password").write_text("swordfish\n")
    (tmp_path / "password").chmod(0o600)
    return tmp_path


@pytest.fixture
def command(home: Path) -> Command:
    def run(*arguments: str, code: int = 0) -> Result:
        done = CliRunner().invoke(app, list(arguments))
        if isinstance(done.exception, BackupIQError):
            raise done.exception
        assert done.exit_code == code, f"{done.output}{done.exception!r}"
        return done

    return run


def new(command: Command, *more: str) -> Path:
    done = command("new", "home", "docs", "--to", "vault", "--password-file", "password", *more, "--json")
    return Path(json.loads(done.stdout)["file"])


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text().replace("[hooks.webhooks]\n", text + "\n[hooks.webhooks]\n"))


def findings(command: Command, *arguments: str, code: int = 0) -> list[tuple[str, str, str]]:
    document: Any = json.loads(command("check", *arguments, "--json", code=code).stdout)
    found = [item for each in document["profiles"] for item in each["findings"]]
    assert document["problems"] == sum(item["level"] == "problem" for item in found)
    return [(item["check"], item["level"], item["text"]) for item in found]


def test_a_new_profile_is_private_complete_and_passes_its_check(command: Command, home: Path) -> None:
    path = new(command, "--exclude", "*.iso", "--cron", "30 2 * * *", "--timezone", "Europe/Berlin", "-x")
    assert path == home / "config" / "backupiq" / "profiles" / "home.toml"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    profile = load_profile("home")
    assert (profile.backup.paths, profile.backup.to) == ([str(home / "docs")], [str(home / "vault")])
    assert (profile.backup.exclude, profile.backup.one_file_system) == (["*.iso"], True)
    assert profile.key.password_file == str(home / "password")
    assert profile.schedule is not None
    assert (profile.schedule.cron, profile.schedule.timezone) == ("30 2 * * *", "Europe/Berlin")
    assert {level for _, level, _ in findings(command, "home")} == {"ok"}
    assert "PROBLEM" not in command("check").output
    assert not (home / "vault").exists()


def test_a_profile_that_is_there_is_replaced_only_when_told(command: Command) -> None:
    path = new(command)
    before = path.read_text()
    with pytest.raises(ConfigurationError, match="--force"):
        new(command, "--exclude", "*.iso")
    assert path.read_text() == before
    new(command, "--exclude", "*.iso", "--force")
    assert load_profile("home").backup.exclude == ["*.iso"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--cron", "every night"], "schedule.cron: write five fields"),
        (["--cron", "0 0 * * *", "--timezone", "Nowhere"], "schedule.timezone: there is no such time zone"),
        (["--timezone", "UTC"], "give both or neither"),
        (["--key-block", "k"], "key: give one of"),
        (["--tag", "checkpoint"], "backup.tags: the tag 'checkpoint'"),
    ],
)
def test_what_a_new_profile_does_not_take_is_said_and_nothing_is_written(
    command: Command, home: Path, more: list[str], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        new(command, *more)
    assert not (home / "config").exists()


def test_check_tells_every_key_that_is_wrong(command: Command) -> None:
    path = new(command)
    path.write_text(path.read_text().replace("exclude = ", "exlude = ").replace("# exlude", "exlude"))
    path.write_text(path.read_text().replace("# threads = ...", "threads = 1000"))
    found = findings(command, "home", code=1)
    assert [text.partition(":")[0] for _, _, text in found] == ["backup.threads", "backup.exlude"]
    shown = command("check", str(path), code=1).stdout
    assert "PROBLEM  settings: backup.exlude: there is no such key; did you mean exclude?" in shown


def test_check_finds_what_would_fail_at_night(command: Command, home: Path) -> None:
    path = new(command, "--to", "gopher://x", "--exclude", "a[")
    (home / "docs").rmdir()
    (home / "password").unlink()
    append(path, '[[hooks.before]]\ncommand = ["no-such-program", "x"]\n[[hooks.after]]\ncommand = ["true"]\n')
    text = path.read_text().replace("# exclude_file = []", 'exclude_file = ["/no/such/file"]')
    path.write_text(text.replace("# pin = []", 'pin = ["*.raw=enormous"]'))
    found = findings(command, code=1)
    problems = {check: text for check, level, text in found if level == "problem"}
    assert set(problems) == {"sources", "patterns", "destination", "key", "hooks"}
    assert f"{home / 'docs'} is not there" in problems["sources"]
    assert "no-such-program" in problems["hooks"]
    assert ("hooks", "ok", "after: true") in found
    assert sum(check == "patterns" for check, _, _ in found) >= 2


def test_a_password_that_nobody_tells_is_a_problem(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    command("new", "home", "docs", "--to", "vault")
    assert ("key", "problem", "the repository's password cannot be found") in findings(command, code=1)
    monkeypatch.setenv("BACKUPIQ_PASSWORD", "swordfish")
    assert ("key", "ok", "the password comes from the variable BACKUPIQ_PASSWORD") in findings(command)


def test_urls_that_others_may_read_are_a_warning(command: Command) -> None:
    path = new(command)
    path.write_text(path.read_text().replace('# ping = "..."', f'ping = "https://host/{SECRET}"'))
    path.chmod(0o644)
    assert ("file", "warning", "other users may read the webhooks' URLs in it") in findings(command)
    path.chmod(0o600)
    assert all(level == "ok" for _, level, _ in findings(command))


def test_what_is_shown_holds_no_secret(command: Command) -> None:
    path = new(command, "--to", f"s3://key:{SECRET}@bucket/prefix", "--cron", "0 0 * * *")
    text = path.read_text().replace("password_file =", "# ")
    text = text.replace('# password_command = "..."', f'password_command = "echo {SECRET}"')
    path.write_text(text.replace('# after = "..."', f'after = "https://host/{SECRET}"'))
    append(path, f'[[hooks.before]]\ncommand = ["curl", "{SECRET}"]\n')
    for arguments in (["show", "home"], ["show", "home", "--json"], ["list"], ["list", "--json"], ["check"]):
        done = command(*arguments, code=1 if arguments == ["check"] else 0)
        assert "home" in done.output
        assert SECRET not in done.output, arguments
    shown = command("show", str(path)).stdout
    for line in ("before:    curl ...", "after:     webhook (URL not shown)", "password_command: echo ..."):
        assert line in shown


def test_show_tells_what_differs_from_the_defaults(command: Command, home: Path) -> None:
    new(command, "--exclude", "*.iso", "--exclude-caches")
    lines = command("show", "home").stdout.splitlines()
    assert lines == [
        "name:      home",
        f"paths:     {home / 'docs'}",
        f"to:        {home / 'vault'}",
        "exclude:   *.iso",
        "exclude_caches: yes",
        f"password_file: {home / 'password'}",
    ]


def test_profiles_are_listed_with_those_that_cannot_be_read(command: Command, home: Path) -> None:
    assert "there are no profiles" in command("list").output
    assert "there are no profiles" in command("check").output
    new(command, "--cron", "0 3 * * *")
    (home / "config" / "backupiq" / "profiles" / "broken.toml").write_text("backup = 1")
    found = json.loads(command("list", "--json").stdout)["profiles"]
    assert [(each["name"], bool(each["problem"])) for each in found] == [("broken", True), ("home", False)]
    assert found[1]["to"] == [str(home / "vault")]
    assert "0 3 * * *" in command("list").stdout


def test_a_profile_that_is_not_there_is_an_error(command: Command) -> None:
    with pytest.raises(MissingConfigurationError, match="backupiq profile new home"):
        command("show", "home")
    assert [check for check, _, _ in findings(command, "home", code=1)] == ["settings"]


def test_the_time_zone_is_this_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = tmp_path / "localtime"
    link.symlink_to("/usr/share/zoneinfo/Europe/Berlin")
    monkeypatch.setenv("TZ", "America/New_York")
    assert local_timezone(link) == "America/New_York"
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    assert local_timezone(tmp_path / "nothing") == "UTC"
    monkeypatch.delenv("TZ")
    assert local_timezone(link) == "Europe/Berlin"

"""The pages about commands and about disasters say what is true."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer

from backupiq.cli.main import app
from backupiq.errors import all_errors
from tests.cli.conftest import PASSWORD, Sample
from tests.support.programs import ROOT, Restic, run_program

COMMANDS = ROOT / "docs" / "commands.md"
DISASTER = ROOT / "docs" / "disaster-recovery.md"


def real_commands() -> dict[str, set[str]]:
    """Every command, ``""`` for the program itself, with the names of its options."""
    found: dict[str, set[str]] = {}

    def visit(path: str, command: Any) -> None:
        below = getattr(command, "commands", {})
        if path == "" or not below or command.invoke_without_command:
            options = (p for p in command.params if p.param_type_name == "option")
            found[path] = {name for p in options for name in (*p.opts, *p.secondary_opts)} - {"-h", "--help"}
        for name, child in below.items():
            visit(f"{path} {name}".strip(), child)

    visit("", typer.main.get_command(app))
    return found


def documented_commands() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for section in COMMANDS.read_text().split("\n## ")[1:]:
        heading, _, body = section.partition("\n")
        command = re.match(r"`backupiq ([a-z]+(?: [a-z]+)*)", heading)
        if command is None and heading != "Options of every command":
            continue
        cells = re.findall(r"^\| (`-.*?) \|", body, re.MULTILINE)
        names = {name for cell in cells for name in re.findall(r"`(-[^`]+)`", cell)} - {"-h", "--help"}
        found[command[1] if command else ""] = names
    return found


def test_the_page_names_every_command_and_no_other() -> None:
    assert set(documented_commands()) == set(real_commands())


@pytest.mark.parametrize("command", sorted(real_commands()))
def test_the_page_names_every_option_and_no_other(command: str) -> None:
    assert documented_commands()[command] == real_commands()[command]


def test_the_page_names_every_exit_code() -> None:
    named = {int(code) for code in re.findall(r"^\| (\d+) \|", COMMANDS.read_text(), re.MULTILINE)}
    assert named == {error.exit_code for error in all_errors()} | {0, 2, 141}


def test_options_that_pages_mention_exist() -> None:
    every = set().union(*real_commands().values()) | {"--help"}
    for page in (COMMANDS, DISASTER):
        for line in re.findall(r"`backupiq [^`]*`", page.read_text()):
            assert set(re.findall(r"(?<!\S)--[a-z-]+", line)) <= every, line


def test_the_commands_for_a_disaster_restore_the_files(restic: Restic, own_sample: Sample, tmp_path: Path) -> None:
    script = "\n".join(re.findall(r"^```sh\n(.*?)^```", DISASTER.read_text(), re.MULTILINE | re.DOTALL))
    assert "check --read-data" in script
    restored = tmp_path / "restored"
    env = restic.environment() | {
        "PATH": f"{restic_on_path(restic, tmp_path)}:/usr/bin:/bin",
        "REPOSITORY": str(own_sample.repo),
        "PASSWORD_FILE": str(own_sample.password_file),
        "RESTORED": str(restored),
        "SOMETHING": own_sample.within("kept", "deep", "same"),
    }
    assert PASSWORD not in script
    done = run_program(["bash", "-euc", script], env=env)
    assert "no errors were found" in done.stdout
    assert own_sample.second[:8] in done.stdout
    content = Path(own_sample.within("kept", "deep", "same")).read_bytes()
    inside = own_sample.within("kept", "deep", "same").lstrip("/")
    assert (restored / inside).read_bytes() == content
    assert (restored / "part" / inside).read_bytes() == content
    assert (restored / "one-file").read_bytes() == content


def restic_on_path(restic: Restic, tmp_path: Path) -> Path:
    """A folder that holds this version under the name people type."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "restic").symlink_to(restic.program)
    return folder

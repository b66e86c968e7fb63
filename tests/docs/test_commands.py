"""Every command that the pages print does what they say."""

from __future__ import annotations

import getpass
import grp
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backupiq.passwords import kept_password_path
from tests.cli import test_documents
from tests.docs import pages
from tests.docs.documents import make_documents
from tests.docs.pages import SHELLS, Command, Outcome, blocks, commands, page_names, run_commands
from tests.support.prefect_server import PrefectServer
from tests.support.programs import ROOT, BackupIQ, require
from tests.support.servers.azurite import Azurite
from tests.support.servers.gcs import GcsServer
from tests.support.servers.icloud import ICloudServer
from tests.support.servers.moto import Moto

# `make backup` does the real thing without installing anything; the other targets are only looked at. The server that
# the commands use was started by the fixture, with the very command that the page prints.
FUNCTIONS = """
make() {
    if [ "$1" = backup ]; then
        command make --no-print-directory -C "$PROJECT" -o "$VENV/.installed" VENV="$VENV" "$@"
    else
        command make -n -C "$PROJECT" "$@" >/dev/null
    fi
}
prefect() {
    [ "$*" = "server start" ] || command prefect "$@"
}
"""
RUN_ELSEWHERE: dict[str, Callable[..., None]] = {
    "docs/disaster-recovery.md": test_documents.test_the_commands_for_a_disaster_restore_the_files
}
"""Pages whose `sh` blocks another test runs, on disks and passwords of its own."""
WITH_ITS_OWN_TEST = ("README.md", "docs/destinations.md", "docs/tutorial.md")
"""Pages that need a home, servers and stand-ins; their tests are below."""
ONLY_LOOKED_AT = {"docs/disaster-recovery.md": "needs another machine's package manager and a disk to mount"}
"""Pages whose `console` blocks change the machine."""


def runnable() -> list[str]:
    return [page for page in page_names() if page not in RUN_ELSEWHERE and commands(page)]


def test_the_pages_with_commands_are_known() -> None:
    assert {"README.md", "docs/development.md"} <= set(runnable())
    for page in RUN_ELSEWHERE:
        assert commands(page), f"{page} prints no commands any more"


@pytest.mark.parametrize("page", page_names())
def test_every_block_that_looks_like_commands_is_marked_as_such(page: str) -> None:
    for block in blocks(page):
        first = block.body.split(maxsplit=1)[0] if block.body.strip() else ""
        if first in ("$", "backupiq", "restic", "prefect", "sudo", "export"):
            assert block.language in SHELLS, f"{page}:{block.line}"


@pytest.mark.parametrize("page", page_names())
def test_a_block_that_is_not_run_says_why_and_is_valid_shell(page: str) -> None:
    for block in blocks(page):
        if block.language not in SHELLS:
            continue
        skipped = block.note.startswith("not run:")
        if skipped:
            assert len(block.note.removeprefix("not run:").split()) > 2, f"{page}:{block.line}"
        if skipped or page in ONLY_LOOKED_AT:
            done = subprocess.run(["bash", "-n"], input=block.body, text=True, capture_output=True, check=False)
            assert done.returncode == 0, f"{page}:{block.line}: {done.stderr}"


@pytest.mark.parametrize("page", [page for page in runnable() if page not in WITH_ITS_OWN_TEST])
def test_the_commands_of_a_page_run(page: str, tmp_path: Path) -> None:
    listed = commands(page)
    env = dict(os.environ) | {"PROJECT": str(ROOT), "VENV": sys.prefix}
    for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
        env.pop(name, None)
    check(run_commands(listed, functions=FUNCTIONS, env=env, cwd=tmp_path, stand_ins={}), {}, len(listed))


def test_the_commands_of_the_readme_do_what_it_shows(
    backupiq: BackupIQ, prefect_server: PrefectServer, tmp_path: Path
) -> None:
    require("restic")
    listed = commands("README.md")
    disk = tmp_path / "disk"
    disk.mkdir()
    make_documents(backupiq.home / "Documents")
    env = backupiq.environment(password=None) | {
        "PROJECT": str(ROOT),
        "VENV": sys.prefix,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "TZ": "UTC",
    }
    for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
        env.pop(name, None)
    kept = {
        str(place): kept_password_path(str(place), env).name for place in (Path("/mnt/disk/backup"), disk / "backup")
    }
    user = getpass.getuser()
    stand_ins = {
        "/mnt/disk": str(disk),
        kept["/mnt/disk/backup"]: kept[str(disk / "backup")],
        "/home/anna": str(backupiq.home),
        "/opt/backupiq/.venv": sys.prefix,
        "http://127.0.0.1:4200": prefect_server.api_url.removesuffix("/api"),
        "anna     anna": f"{user} {grp.getgrgid(os.getegid()).gr_name}",
        "anna": user,
        "laptop": socket.gethostname(),
    }
    assert kept["/mnt/disk/backup"] in (ROOT / "README.md").read_text(), "the kept password's file has another name"
    check(run_commands(listed, functions=FUNCTIONS, env=env, cwd=ROOT, stand_ins=stand_ins), stand_ins, len(listed))
    letter = Path("Documents/letters/landlord.txt")
    restored = [backupiq.home / place / str(backupiq.home).lstrip("/") for place in ("restored", "restored-by-restic")]
    for place in restored:
        assert (place / letter).read_bytes() == (backupiq.home / letter).read_bytes()
    assert b"P.S." not in (backupiq.home / "old-letters" / letter.name).read_bytes()


# The code that Apple sends is typed by a script, and other tests may have set the Prefect server up before.
WITH_A_CODE = """
backupiq() {
    case "$1 $2" in
        "providers login") printf '%s\n' "$CODE" | command backupiq "$@" --code-stdin ;;
        "setup ") command backupiq setup | sed 's/: [a-z]*$/: created/' ;;
        *) command backupiq "$@" ;;
    esac
}
"""


def test_the_commands_about_destinations_do_what_the_page_shows(backupiq: BackupIQ, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    with (
        Moto(tmp_path / "moto") as s3,
        GcsServer(tmp_path / "gcs") as google,
        Azurite(tmp_path / "azurite") as azure,
        ICloudServer(tmp_path / "icloud") as icloud,
    ):
        env = backupiq.environment(env=s3.environment | google.environment | azure.environment)
        # All but the addresses of the servers is as the page says.
        env |= {"AWS_ENDPOINT_URL_S3": s3.url, "STORAGE_EMULATOR_HOST": google.url, "CODE": icloud.code}
        env |= icloud.environment()
        env.pop("AWS_REGION")
        env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        env["PYTHONPATH"] = str(ROOT)
        stand_ins = {"/mnt/disk": str(disk), "https://nas.home:9000": s3.url}
        listed = commands("docs/destinations.md")
        outcomes = run_commands(listed, functions=WITH_A_CODE, env=env, cwd=tmp_path, stand_ins=stand_ins)
        check(outcomes, stand_ins, len(listed))
        assert s3.keys("anna-backup")[0] == "laptop/config"


def test_the_commands_of_the_tutorial_do_what_it_shows(backupiq: BackupIQ, tmp_path: Path) -> None:
    make_documents(backupiq.home / "Documents")
    with Moto(tmp_path / "moto") as s3, Azurite(tmp_path / "azurite") as azure:
        env = backupiq.environment(password=None, env=s3.environment | azure.environment)
        env |= {"AWS_ENDPOINT_URL_S3": s3.url, "PROJECT": str(ROOT), "VENV": sys.prefix, "PYTHONPATH": str(ROOT)}
        env |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "TZ": "UTC"}
        for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):
            env.pop(name, None)
        stand_ins = {"/home/anna": str(backupiq.home), "  laptop  ": f"  {socket.gethostname()}  "}
        listed = commands("docs/tutorial.md")
        check(
            run_commands(listed, functions=FUNCTIONS, env=env, cwd=tmp_path, stand_ins=stand_ins),
            stand_ins,
            len(listed),
        )
        letters = backupiq.home / "Documents" / "letters"
        assert (backupiq.home / "restored" / "landlord.txt").read_bytes() == (letters / "landlord.txt").read_bytes()
        assert s3.keys("anna-backup") == azure.keys("anna-backup")


def check(outcomes: Iterator[tuple[Command, Outcome]], stand_ins: dict[str, str], expected: int) -> None:
    """Every command ends as it should and prints what the page shows."""
    count = 0
    for command, outcome in outcomes:
        what = f"{command.where}: {command.text}"
        assert outcome.code == command.code, f"{what}\nended with {outcome.code}:\n{outcome.output}"
        missing = pages.missing_lines(command.shown, outcome.output, stand_ins)
        assert not missing, f"{what}\ndid not print\n" + "\n".join(missing) + f"\nbut\n{outcome.output}"
        count += 1
    assert count == expected


def run_page(text: str, folder: Path, stand_ins: dict[str, str]) -> None:
    """Runs the commands of a page that is given as text."""
    (folder / "page.md").write_text(text)
    listed = commands(str(folder / "page.md"))
    env = {"PATH": os.environ["PATH"]}
    check(run_commands(listed, functions="", env=env, cwd=folder, stand_ins=stand_ins), stand_ins, len(listed))


def test_outputs_may_differ_in_ids_and_numbers_and_later_commands_name_the_new_ids(tmp_path: Path) -> None:
    page = """
```console
$ export COUNT=7 ID=0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
$ echo "snapshot:   $ID"; echo "took $COUNT.5 s"
snapshot: ffff0000ffff0000ffff0000ffff0000ffff0000ffff0000ffff0000ffff0000
...
took 3.2 s
$ [ ffff0000 = 01234567 ] && echo same
same
```
<!-- ends with: 3 -->
```sh
exit_code() { return 3; }
exit_code
```
<!-- not run: it would take this test down -->
```sh
kill $$
```
```crontab
0 3 * * * touch nightly
```
"""
    run_page(page, tmp_path, {})
    assert (tmp_path / "nightly").exists()


@pytest.mark.parametrize(
    ("block", "complaint"),
    [
        ("console\n$ echo two words\ntwo other words\n", "did not print"),
        ("console\n$ echo once\nonce\nonce\n", "did not print"),
        ("console\n$ false\n", "ended with 1"),
        ("sh\nno-such-program-here\n", "ended with 127"),
    ],
)
def test_a_page_that_shows_what_does_not_happen_is_noticed(block: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=complaint):
        run_page(f"```{block}```\n", tmp_path, {})

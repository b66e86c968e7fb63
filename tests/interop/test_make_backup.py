"""What a newcomer does: clone the project, `make backup` of a real folder, restore it. Nothing is configured."""

from __future__ import annotations

import os
import re
import shutil
import stat
import sys
from pathlib import Path

import pytest

from tests.interop.support import below, objects, rsync_differences
from tests.support.compare import compare_trees
from tests.support.programs import (
    ROOT,
    BackupIQ,
    Restic,
    is_root,
    isolated_home,
    plain_environment,
    run_program,
    unavailable,
)

SOURCE = Path("/usr/share/doc")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The project as `git clone` gives it, or a copy where this is no git repository.

    Its ``.venv`` uses the programs of the environment that runs the tests, and counts as installed.
    """
    folder = tmp_path / "checkout"
    if (ROOT / ".git").exists() and shutil.which("git"):
        home = tmp_path / "git-home"
        home.mkdir()
        # The checkout may belong to another user than the one who runs the tests.
        (home / ".gitconfig").write_text("[safe]\n\tdirectory = *\n")
        env = plain_environment() | isolated_home(home)
        run_program(["git", "clone", "--quiet", "--depth", "1", ROOT.as_uri(), folder], env=env)
    else:
        shutil.copytree(
            ROOT, folder, ignore=shutil.ignore_patterns(".*_cache", ".git", ".venv", ".tools", ".hypothesis")
        )
    venv = folder / ".venv"
    venv.mkdir()
    (venv / "bin").symlink_to(Path(sys.executable).parent)
    (venv / ".installed").touch()
    return folder


@pytest.fixture
def newcomer(backupiq_alone: BackupIQ, checkout: Path) -> BackupIQ:
    """The clone's console script, as somebody has it who has configured neither a password nor Prefect."""
    # Before the installed package, so that it is the clone that runs.
    settings = {**backupiq_alone.settings, "PYTHONPATH": str(checkout)}
    del settings["PREFECT_HOME"]
    return BackupIQ(checkout / ".venv/bin/backupiq", backupiq_alone.home, None, settings)


def test_a_fresh_clone_backs_a_real_folder_up_and_gives_it_back_identical(
    newcomer: BackupIQ, checkout: Path, restic_old: Restic, tmp_path: Path
) -> None:
    if not SOURCE.is_dir() or not any(SOURCE.iterdir()):
        unavailable(f"{SOURCE} is missing or empty on this machine")
    env = newcomer.environment(env=dict.fromkeys(("MAKEFLAGS", "MAKELEVEL", "FROM", "TO")))
    where = [checkout / ".venv/bin/python", "-c", "import backupiq, flows; print(backupiq.__file__, flows.__file__)"]
    loaded = run_program(where, env=env, cwd=tmp_path).stdout.split()
    assert loaded == [str(checkout / package / "__init__.py") for package in ("backupiq", "flows")]

    repo = tmp_path / "repo"
    made = run_program(
        ["make", "-C", checkout, "--no-print-directory", "backup", f"FROM={SOURCE}", f"TO={repo}"], env=env
    )
    files, total = _regular_files(SOURCE)
    lines = dict(line.split(":", 1) for line in made.stdout.splitlines())
    snapshot = lines["snapshot"].strip()
    assert re.fullmatch(r"[0-9a-f]{64}", snapshot)
    assert lines["files"].split()[:3] == [str(files), f"({files}", "new,"]
    assert lines["bytes"].split()[0] == str(total)
    assert 0 < int(lines["added"].split()[0]) <= total + 50_000_000
    assert float(lines["seconds"].split()[0].rstrip(",")) > 0
    assert snapshot in (name.removeprefix("snapshots/") for name in objects(repo))

    # Neither repository nor password is named: it is the one last used, and the password was made and kept.
    (password,) = re.findall(r"(/\S+/backupiq/\S+)", made.stderr)[:1]
    assert stat.S_IMODE(os.stat(password).st_mode) == 0o600
    target = tmp_path / "target"
    newcomer("restore", "latest", "--target", target)
    restored = below(target, SOURCE)
    assert compare_trees(SOURCE, restored, ignore=frozenset() if is_root() else {"owner"}) == []
    assert rsync_differences(SOURCE, restored) == ""

    # The second program needs nothing but what was printed.
    checked = restic_old.run("check", "--read-data", "--password-file", password, repo=repo)
    assert "no errors were found" in checked.stdout


def _regular_files(folder: Path) -> tuple[int, int]:
    sizes = []
    for parent, _, names in os.walk(folder):
        for name in names:
            found = os.lstat(os.path.join(parent, name))
            if stat.S_ISREG(found.st_mode):
                sizes.append(found.st_size)
    return len(sizes), sum(sizes)

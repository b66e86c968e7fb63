"""Every kind of item a backup can meet, through both programs in both directions, by the command line."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.interop.support import PASSWORD, VERSIONS, assert_clean, below, console_script, restic_of
from tests.support.awkward import AwkwardTree, make_awkward_tree, remove_awkward_tree
from tests.support.compare import compare_trees
from tests.support.prefect_server import PrefectServer
from tests.support.programs import BackupIQ, Restic

pytestmark = pytest.mark.root

BIG = "sparse/beyond 4 GiB"

LINKED_FIFO = "'links in another folder/fifo too'"
LINKED_SYMLINK = "'links in another folder/symlink too'"
TARGET_NOT_TEXT = "'symlinks/target not UTF-8'"
XATTR_OF_SYMLINK = "'xattrs/symlink'"

FORMAT_MISSES = (LINKED_FIFO,)
"""The format keeps a count of links for files, symlinks and devices only: two names of a FIFO become two FIFOs."""
RESTIC_RESTORES_NOT = (LINKED_SYMLINK,)
"""restic joins the names of regular files only."""
OLD_RESTIC_LOSES = (TARGET_NOT_TEXT, XATTR_OF_SYMLINK)
"""0.14 keeps a link's target as text (raw targets came with 0.16), and neither stores nor sets xattrs of symlinks."""


@dataclasses.dataclass(frozen=True)
class Saved:
    """The awkward tree with a file beyond 4 GiB, and the repository that holds BackupIQ's backup of it."""

    made: AwkwardTree
    repo: Path
    report: dict[str, Any]

    @property
    def source(self) -> Path:
        return self.made.root


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory, prefect_server: PrefectServer) -> Iterator[BackupIQ]:
    with console_script(tmp_path_factory, prefect_server) as program:
        yield program


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, ours: BackupIQ) -> Iterator[Saved]:
    base = tmp_path_factory.mktemp("awkward")
    made = make_awkward_tree(base / "source", as_root=True, big=True)
    report = ours.json("backup", made.root, "--to", base / "repo")
    yield Saved(made, base / "repo", report)
    remove_awkward_tree(made.root)


@pytest.fixture(scope="module", params=VERSIONS)
def restic(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Restic:
    return restic_of(request.param, tmp_path_factory)


def differences(saved: Saved, target: Path, known: tuple[str, ...]) -> list[str]:
    """What differs between the source and a restore of it below ``target``, but for what starts with one of ``known``.

    Restored files have to be as sparse as those of the source. Sockets are not compared: neither program stores them.
    """
    found = compare_trees(saved.source, below(target, saved.source), ignore={"socket"}, sparse=True)
    return [line for line in found if not line.startswith(known)]


def test_the_report_counts_everything_and_calls_nothing_unreadable(saved: Saved) -> None:
    assert saved.report["exit_code"] == 0
    assert saved.report["unreadable"] == []
    assert saved.report["total_files"] == saved.made.counts["file"]
    # Holes are not read: the file beyond 4 GiB holds under a MiB of data.
    assert saved.report["total_bytes"] > 4 << 30
    assert saved.report["bytes_read"] < 200 << 20


def test_backupiq_restores_what_it_stored(saved: Saved, ours: BackupIQ, tmp_path: Path) -> None:
    ours("restore", "latest", "--repo", saved.repo, "--target", tmp_path)
    assert differences(saved, tmp_path, FORMAT_MISSES) == []
    remove_awkward_tree(below(tmp_path, saved.source))


def test_a_second_run_finds_nothing_of_it_changed(saved: Saved, ours: BackupIQ) -> None:
    report = ours.json("backup", saved.source, "--to", saved.repo)
    assert (report["files_new"], report["files_changed"], report["bytes_read"]) == (0, 0, 0)
    assert report["files_unmodified"] == saved.made.counts["file"]


def test_sockets_are_not_stored(saved: Saved, ours: BackupIQ) -> None:
    nodes = ours.json("ls", "latest", str(saved.source / "special"), "--repo", saved.repo)
    types = {node["path"]: node["type"] for node in nodes if node["struct_type"] == "node"}
    assert (saved.source / "special/socket").is_socket()
    assert str(saved.source / "special/socket") not in types
    assert types[str(saved.source / "special/fifo")] == "fifo"
    assert "socket" not in types.values()


def test_the_newest_restic_restores_the_identical_tree(
    saved: Saved, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    restic = restic_of("new", tmp_path_factory)
    assert_clean(restic, saved.repo)
    restic.run("restore", "latest", "--sparse", "--target", tmp_path, repo=saved.repo, password=PASSWORD)
    assert differences(saved, tmp_path, FORMAT_MISSES + RESTIC_RESTORES_NOT) == []
    remove_awkward_tree(below(tmp_path, saved.source))


def test_debians_restic_restores_the_identical_tree(
    saved: Saved, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    restic = restic_of("old", tmp_path_factory)
    assert_clean(restic, saved.repo)
    # 0.14 cannot restore holes (--sparse came with 0.15) and would write 4 GiB of zeros; it is read below instead.
    options = ("--exclude", f"{saved.source}/{BIG}", "--target", tmp_path)
    restic.run("restore", "latest", *options, repo=saved.repo, password=PASSWORD)
    known = (f"'{BIG}'", "'sparse", *FORMAT_MISSES, *RESTIC_RESTORES_NOT, *OLD_RESTIC_LOSES)
    assert differences(saved, tmp_path, known) == []
    remove_awkward_tree(below(tmp_path, saved.source))

    dump = [str(restic.program), "dump", "latest", str(saved.source / BIG)]
    with subprocess.Popen(dump, env=restic.environment(saved.repo, PASSWORD), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        read = hashlib.file_digest(process.stdout, "sha256").hexdigest()
    assert process.returncode == 0
    with (saved.source / BIG).open("rb") as file:
        assert read == hashlib.file_digest(file, "sha256").hexdigest()


def test_backupiq_restores_what_restic_stored(saved: Saved, restic: Restic, ours: BackupIQ, tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    restic.run("init", repo=repo, password=PASSWORD)
    restic.run("backup", saved.source, repo=repo, password=PASSWORD)
    ours("restore", "latest", "--repo", repo, "--target", tmp_path / "target")
    known = FORMAT_MISSES + (OLD_RESTIC_LOSES if restic.version.startswith("0.14") else ())
    assert differences(saved, tmp_path / "target", known) == []
    remove_awkward_tree(below(tmp_path / "target", saved.source))

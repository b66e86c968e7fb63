"""Repositories that the real restic made, of every awkward kind of item, restored by BackupIQ and compared."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from backupiq.archive.restore import RestoreReport, execute_restore
from backupiq.archive.restore_plan import plan_restore
from backupiq.repository.reader import BlobReader
from backupiq.repository.repository import Repository
from backupiq.storage.local import LocalProvider
from tests.support.awkward import make_awkward_tree, remove_awkward_tree
from tests.support.compare import assert_same_tree, compare_trees
from tests.support.programs import Restic, is_root, require, run_program

OLD_RESTIC_MISSES = ("'symlinks/target not UTF-8'", "'xattrs/symlink'")
"""What restic 0.14 does not store: raw link targets that are not text, attributes of symlinks."""
FORMAT_MISSES = ("'links in another folder/fifo too'",)
"""restic stores no count of links for a FIFO, so two names of one cannot be told from two FIFOs."""


async def restore(repo: Path, password: str, target: Path, **options: object) -> RestoreReport:
    plan_options = {name: options.pop(name) for name in ("subpath", "include", "exclude") if name in options}
    repository = await Repository.open(LocalProvider(repo), password)
    _, snapshot = await repository.load_snapshot("latest")
    await repository.load_index()
    reader = BlobReader(repository)
    plan = await plan_restore(reader, snapshot, target=target, **plan_options)  # type: ignore[arg-type]
    return await execute_restore(plan, reader, target, **options)  # type: ignore[arg-type]


def back_up(restic: Restic, tmp_path: Path, password: str, *sources: Path) -> Path:
    repo = tmp_path / "repo"
    restic.run("init", repo=repo, password=password)
    restic.run("backup", *sources, repo=repo, password=password)
    return repo


def below(target: Path, source: Path) -> Path:
    """Where an absolute path stands after a restore."""
    return target / source.relative_to("/")


async def test_an_awkward_tree_comes_back_identical(restic: Restic, tmp_path: Path, repo_password: str) -> None:
    source = tmp_path / "source"
    make_awkward_tree(source, as_root=is_root())
    repo = back_up(restic, tmp_path, repo_password, source)
    target = tmp_path / "target"
    report = await restore(repo, repo_password, target, verify=is_root())
    assert report.problems == []
    differences = compare_trees(source, below(target, source), ignore={"socket"}, sparse=True)
    known = FORMAT_MISSES + (OLD_RESTIC_MISSES if restic.version.startswith("0.14") else ())
    assert [line for line in differences if not line.startswith(known)] == []
    remove_awkward_tree(source)


async def test_a_second_restore_over_the_first_changes_nothing(
    restic_old: Restic, tmp_path: Path, repo_password: str
) -> None:
    source = tmp_path / "source"
    make_awkward_tree(source, as_root=is_root(), width=300)
    repo = back_up(restic_old, tmp_path, repo_password, source)
    target = tmp_path / "target"
    await restore(repo, repo_password, target)
    first = tmp_path / "first"
    os.rename(below(target, source), first)
    await restore(repo, repo_password, target)
    report = await restore(repo, repo_password, target, overwrite="if-changed")
    assert_same_tree(first, below(target, source))
    assert (report.files, report.problems) == (0, [])
    report = await restore(repo, repo_password, target, overwrite="always")
    assert_same_tree(first, below(target, source))
    assert report.problems == []


async def test_restic_and_backupiq_restore_the_same(restic: Restic, tmp_path: Path, repo_password: str) -> None:
    """Ordinary input, a third opinion: rsync finds nothing to do between the two restores."""
    source = Path("/usr/share/doc")
    rsync = require("rsync")
    repo = back_up(restic, tmp_path, repo_password, source)
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    await restore(repo, repo_password, ours)
    restic.run("restore", "latest", "--target", theirs, repo=repo, password=repo_password)
    for other in (theirs, Path("/")):
        command = [rsync, "-aHAXn", "--checksum", "--delete", "--itemize-changes"]
        command += [f"{below(other, source)}/", f"{below(ours, source)}/"]
        assert run_program(command, env=dict(os.environ)).stdout == ""


@pytest.fixture
def simple(tmp_path: Path) -> Path:
    """A small tree of text and other files."""
    source = tmp_path / "source"
    for name in ("docs/a.txt", "docs/deep/b.txt", "docs/deep/c.bin", "src/d.txt", "src/e.c"):
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return source


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


async def test_a_folder_of_the_snapshot_is_restored_right_into_the_target(
    restic_old: Restic, tmp_path: Path, repo_password: str, simple: Path
) -> None:
    repo = back_up(restic_old, tmp_path, repo_password, simple)
    target = tmp_path / "target"
    await restore(repo, repo_password, target, subpath=os.fsencode(simple / "docs"))
    assert_same_tree(simple / "docs", target, ignore={"root"})


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"include": ["*.txt"]}, {"docs/a.txt", "docs/deep/b.txt", "src/d.txt"}),
        ({"include": ["docs/deep/"]}, set()),
        ({"include": ["**/docs/deep/"]}, {"docs/deep/b.txt", "docs/deep/c.bin"}),
        ({"exclude": ["docs"]}, {"src/d.txt", "src/e.c"}),
        ({"include": ["docs"], "exclude": ["*.bin"]}, {"docs/a.txt", "docs/deep/b.txt"}),
    ],
)
async def test_patterns_choose_from_a_repository_of_restic(
    restic_old: Restic,
    tmp_path: Path,
    repo_password: str,
    simple: Path,
    options: dict[str, list[str]],
    expected: set[str],
) -> None:
    repo = back_up(restic_old, tmp_path, repo_password, simple)
    target = tmp_path / "target"
    await restore(repo, repo_password, target, **options)
    assert files_below(below(target, simple)) == expected

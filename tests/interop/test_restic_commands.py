"""The real restic works on a repository that BackupIQ made: every command, in both versions."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.interop.support import (
    PASSWORD,
    VERSIONS,
    assert_clean,
    below,
    changes_in_text,
    console_script,
    copy_tree,
    listing_of_json,
    listing_of_tree,
    make_small_tree,
    objects,
    restic_of,
    rsync_differences,
    summary_of,
)
from tests.support.compare import assert_same_tree
from tests.support.mixed_tree import Mutation, mutate_tree
from tests.support.prefect_server import PrefectServer
from tests.support.programs import BackupIQ, Restic


@dataclasses.dataclass(frozen=True)
class Made:
    """A repository with two snapshots by BackupIQ of one folder, and the folder's state in each."""

    repo: Path
    source: Path
    states: tuple[Path, Path]
    reports: tuple[dict[str, Any], dict[str, Any]]
    changes: Mutation

    @property
    def ids(self) -> tuple[str, str]:
        return self.reports[0]["snapshot_id"], self.reports[1]["snapshot_id"]

    def copy(self, to: Path) -> Path:
        """A copy of the repository that a test may change."""
        return shutil.copytree(self.repo, to / "repo")


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory, prefect_server: PrefectServer) -> Iterator[BackupIQ]:
    with console_script(tmp_path_factory, prefect_server) as program:
        yield program


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, ours: BackupIQ) -> Made:
    base = tmp_path_factory.mktemp("made")
    repo, source = base / "repo", base / "source"
    make_small_tree(source)
    first = ours.json("backup", source, "--to", repo, "--tag", "first")
    before = copy_tree(source, base / "before")
    changes = mutate_tree(source, 5, 0.2)
    (source / "added folder").mkdir()
    (source / "added folder" / "inside").write_bytes(b"inside")
    second = ours.json("backup", source, "--to", repo)
    return Made(repo, source, (before, copy_tree(source, base / "after")), (first, second), changes)


@pytest.fixture(scope="module", params=VERSIONS)
def restic(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Restic:
    return restic_of(request.param, tmp_path_factory)


def test_check_reads_all_data_and_finds_nothing_wrong(made: Made, restic: Restic) -> None:
    assert_clean(restic, made.repo)


def test_snapshots_say_what_the_runs_reported(made: Made, restic: Restic) -> None:
    found = restic.json("snapshots", repo=made.repo, password=PASSWORD)
    assert [one["id"] for one in found] == list(made.ids)
    assert [one.get("parent") for one in found] == [None, made.ids[0]]
    assert [one.get("tags") for one in found] == [["first"], None]
    assert all(one["paths"] == [str(made.source)] for one in found)
    if restic.version.startswith("0.14"):
        return  # it knows no summaries
    for one, report in zip(found, made.reports, strict=True):
        names = {"files_new", "files_changed", "files_unmodified", "data_added", "data_added_packed"}
        assert {name: one["summary"][name] for name in names} == {name: report[name] for name in names}
        assert one["summary"]["total_files_processed"] == report["total_files"]
        assert one["summary"]["total_bytes_processed"] == report["total_bytes"]


@pytest.mark.parametrize("number", [0, 1])
def test_restore_gives_back_the_identical_tree(made: Made, restic: Restic, number: int, tmp_path: Path) -> None:
    restic.run("restore", made.ids[number], "--target", tmp_path, repo=made.repo, password=PASSWORD)
    restored = below(tmp_path, made.source)
    assert_same_tree(made.states[number], restored)
    assert rsync_differences(made.states[number], restored) == ""


def test_ls_lists_every_item_with_its_attributes(made: Made, restic: Restic) -> None:
    nodes = restic.json("ls", made.ids[1], repo=made.repo, password=PASSWORD)
    assert listing_of_json(nodes, made.source) == listing_of_tree(made.source)


def test_find_finds_files_by_name_and_by_the_blobs_they_hold(made: Made, restic: Restic) -> None:
    added, kept = made.changes.added[0], "odd/several blobs"
    found = restic.json("find", os.path.basename(added), repo=made.repo, password=PASSWORD)
    assert [(one["snapshot"], one["hits"], one["matches"][0]["path"]) for one in found] == [
        (made.ids[1], 1, str(made.source / added))
    ]
    found = restic.json("find", os.path.basename(kept), repo=made.repo, password=PASSWORD)
    assert {one["snapshot"] for one in found} == set(made.ids)

    # A small file is one blob, named by the hash of its bytes.
    blob = hashlib.sha256((made.source / added).read_bytes()).hexdigest()
    said = restic.run("find", "--blob", blob, repo=made.repo, password=PASSWORD).stdout
    assert f"Found blob {blob}" in said
    assert f"in file {made.source / added}" in said


def test_diff_shows_exactly_what_changed(made: Made, restic: Restic) -> None:
    said = restic.run("diff", *made.ids, repo=made.repo, password=PASSWORD).stdout
    # A name with a newline breaks its line, but nothing changed there.
    assert changes_in_text(said) == {
        *(("M", str(made.source / name)) for name in made.changes.changed),
        *(("+", str(made.source / name)) for name in made.changes.added),
        *(("-", str(made.source / name)) for name in made.changes.deleted),
        ("+", f"{made.source}/added folder/"),
        ("+", f"{made.source}/added folder/inside"),
    }


def test_backup_with_our_snapshot_as_parent_reads_and_adds_nothing(made: Made, restic: Restic, tmp_path: Path) -> None:
    repo = made.copy(tmp_path)
    arguments = ("backup", "--parent", made.ids[1], made.source)
    summary = summary_of(restic.json(*arguments, repo=repo, password=PASSWORD))
    assert (summary["files_new"], summary["files_changed"]) == (0, 0)
    assert summary["files_unmodified"] == made.reports[1]["total_files"]
    assert summary["data_blobs"] == 0
    # Found by host and path too, without being named.
    found = restic.json("snapshots", repo=repo, password=PASSWORD)
    assert found[-1]["parent"] == made.ids[1]
    assert_clean(restic, repo)


def test_prune_finds_nothing_to_repack_or_remove(made: Made, restic: Restic) -> None:
    said = restic.run("prune", "--dry-run", "--max-unused", "0", repo=made.repo, password=PASSWORD).stdout
    for what in ("to repack", "this removes", "to delete"):
        (line,) = [line for line in said.splitlines() if line.startswith(what)]
        assert line.split()[-5:] == ["0", "blobs", "/", "0", "B"], said


def test_backupiq_restores_what_forget_and_prune_left(
    made: Made, restic: Restic, ours: BackupIQ, tmp_path: Path
) -> None:
    repo = made.copy(tmp_path)
    restic.run("forget", "--keep-last", "1", "--prune", "--max-unused", "0", repo=repo, password=PASSWORD)
    assert [one["id"] for one in ours.json("snapshots", "--repo", repo)] == [made.ids[1]]
    assert set(objects(repo)) != set(objects(made.repo))
    ours("restore", "latest", "--repo", repo, "--target", tmp_path / "target")
    assert_same_tree(made.states[1], below(tmp_path / "target", made.source))
    assert_clean(restic, repo)


def test_tag_and_rebuilding_the_index_leave_a_repository_that_is_right(
    made: Made, restic: Restic, ours: BackupIQ, tmp_path: Path
) -> None:
    repo = made.copy(tmp_path)
    restic.run("tag", "--add", "kept", made.ids[0], repo=repo, password=PASSWORD)
    old = restic.version.startswith("0.14")
    rebuild = ["rebuild-index"] if old else ["repair", "index"]
    restic.run(*rebuild, "--read-all-packs", repo=repo, password=PASSWORD)
    assert_clean(restic, repo)
    tagged, second = ours.json("snapshots", "--repo", repo)
    assert (tagged["tags"], tagged["original"], second["id"]) == (["first", "kept"], made.ids[0], made.ids[1])


def test_rewrite_takes_our_trees_for_its_own(
    made: Made, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """It refuses a tree that it would not encode to the same bytes."""
    restic = restic_of("new", tmp_path_factory)
    repo = made.copy(tmp_path)
    restic.run("rewrite", "--forget", "--exclude", "several blobs", made.ids[1], repo=repo, password=PASSWORD)
    nodes = restic.json("ls", "latest", repo=repo, password=PASSWORD)
    expected = listing_of_tree(made.source)
    del expected[str(made.source / "odd" / "several blobs")]
    assert listing_of_json(nodes, made.source) == expected
    assert_clean(restic, repo)


def test_copy_takes_our_snapshots_into_another_repository(
    made: Made, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    restic = restic_of("new", tmp_path_factory)
    other, password = tmp_path / "other", tmp_path / "password"
    password.write_text(PASSWORD)
    source = ("--from-repo", made.repo, "--from-password-file", password)
    restic.run("init", "--copy-chunker-params", *source, repo=other, password="another")
    restic.run("copy", *source, repo=other, password="another")
    assert len(restic.json("snapshots", repo=other, password="another")) == len(made.ids)
    restic.run("restore", "latest", "--target", tmp_path / "target", repo=other, password="another")
    assert_same_tree(made.states[1], below(tmp_path / "target", made.source))

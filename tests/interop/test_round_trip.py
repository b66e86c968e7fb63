"""A repository that the real restic made: BackupIQ lists it, restores it and adds to it."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

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
from tests.support.mixed_tree import mutate_tree
from tests.support.prefect_server import PrefectServer
from tests.support.programs import BackupIQ, Restic


@dataclasses.dataclass(frozen=True)
class Made:
    """A repository with two snapshots by restic of one folder, and the folder's state in each."""

    restic: Restic
    repo: Path
    source: Path
    states: tuple[Path, Path]
    ids: tuple[str, str]


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory, prefect_server: PrefectServer) -> Iterator[BackupIQ]:
    with console_script(tmp_path_factory, prefect_server) as program:
        yield program


@pytest.fixture(scope="module", params=VERSIONS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    restic = restic_of(request.param, tmp_path_factory)
    base = tmp_path_factory.mktemp("made")
    repo, source = base / "repo", base / "source"
    make_small_tree(source)
    restic.run("init", repo=repo, password=PASSWORD)
    restic.run("backup", "--tag", "first,of two", source, repo=repo, password=PASSWORD)
    before = copy_tree(source, base / "before")
    mutate_tree(source, 5, 0.2)
    (source / "odd" / "empty").chmod(0o4711)
    restic.run("backup", source, repo=repo, password=PASSWORD)
    first, second = (one["id"] for one in restic.json("snapshots", repo=repo, password=PASSWORD))
    return Made(restic, repo, source, (before, copy_tree(source, base / "after")), (first, second))


def test_snapshots_are_listed_as_restic_lists_them(made: Made, ours: BackupIQ) -> None:
    theirs = made.restic.json("snapshots", repo=made.repo, password=PASSWORD)
    names = ("id", "short_id", "time", "tree", "parent", "paths", "hostname", "username", "tags", "summary")
    listed = ours.json("snapshots", "--repo", made.repo)
    assert [{name: one.get(name) for name in names} for one in listed] == [
        {name: one.get(name) for name in names} for one in theirs
    ]


def test_ls_lists_every_item_with_its_attributes(made: Made, ours: BackupIQ) -> None:
    nodes = ours.json("ls", made.ids[1], "--repo", made.repo)
    state = listing_of_tree(made.states[1])
    expected = {str(made.source) + path.removeprefix(str(made.states[1])): item for path, item in state.items()}
    assert listing_of_json(nodes, made.source) == expected


def test_diff_shows_what_restic_shows(made: Made, ours: BackupIQ) -> None:
    said = made.restic.run("diff", "--metadata", *made.ids, repo=made.repo, password=PASSWORD).stdout
    lines = ours.json("diff", *made.ids, "--repo", made.repo)
    shown = {(line["modifier"], line["path"]) for line in lines if line["message_type"] == "change"}
    theirs = changes_in_text(said)
    # restic marks every folder above a change too, BackupIQ those whose own attributes changed.
    folders = {(modifier, path) for modifier, path in theirs if modifier == "U" and path.endswith("/")}
    assert theirs - folders <= shown <= theirs
    assert {modifier for modifier, _ in shown} == {"+", "-", "M", "U"}
    assert ("U", f"{made.source}/odd/empty") in shown


def test_stats_count_what_restic_counts(made: Made, ours: BackupIQ) -> None:
    counted = ours.json("stats", "--repo", made.repo)
    sizes = made.restic.json("stats", repo=made.repo, password=PASSWORD)
    raw = made.restic.json("stats", "--mode", "raw-data", repo=made.repo, password=PASSWORD)
    assert counted["snapshots"] == sizes["snapshots_count"] == len(made.ids)
    assert counted["restore_bytes"] == sizes["total_size"]
    assert counted["files"] + counted["dirs"] + counted["others"] == sizes["total_file_count"]
    assert counted["stored_bytes"] == raw["total_size"]
    assert counted["data_blobs"] + counted["tree_blobs"] == raw["total_blob_count"]


@pytest.mark.parametrize("number", [0, 1])
def test_restore_gives_back_the_identical_tree(made: Made, ours: BackupIQ, number: int, tmp_path: Path) -> None:
    ours("restore", made.ids[number], "--repo", made.repo, "--target", tmp_path / "target")
    restored = below(tmp_path / "target", made.source)
    assert_same_tree(made.states[number], restored)
    assert rsync_differences(made.states[number], restored) == ""


def test_a_backup_into_it_builds_on_what_restic_stored_and_restic_restores_it(
    made: Made, ours: BackupIQ, tmp_path: Path
) -> None:
    repo = shutil.copytree(made.repo, tmp_path / "repo")
    before = objects(repo)
    unchanged = ours.json("backup", made.source, "--to", repo)
    assert unchanged["parent_id"] == made.ids[1]
    assert (unchanged["files_new"], unchanged["files_changed"], unchanged["bytes_read"]) == (0, 0, 0)
    assert not unchanged["created_repository"]
    after = objects(repo)
    assert before.items() <= after.items()

    (made.source / "odd" / "new").write_bytes(b"new" * 1000)
    try:
        added = ours.json("backup", made.source, "--to", repo, "--tag", "ours")
        assert (added["files_new"], added["files_changed"], added["bytes_read"]) == (1, 0, 3000)
        assert_clean(made.restic, repo)
        made.restic.run("restore", "latest", "--target", tmp_path / "target", repo=repo, password=PASSWORD)
        assert_same_tree(made.source, below(tmp_path / "target", made.source))
        # And restic goes on from there.
        summary = summary_of(made.restic.json("backup", made.source, repo=repo, password=PASSWORD))
        assert (summary["files_new"], summary["files_changed"], summary["data_blobs"]) == (0, 0, 0)
        assert made.restic.json("snapshots", repo=repo, password=PASSWORD)[-1]["parent"] == added["snapshot_id"]
    finally:
        (made.source / "odd" / "new").unlink()

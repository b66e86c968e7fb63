"""The catalog follows a real repository, and comes out the same however it got there."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from backupiq.catalog.adding import SnapshotRows
from backupiq.catalog.rebuild import rebuild_catalog
from backupiq.catalog.snapshot_files import SnapshotFiles
from backupiq.catalog.store import Catalog
from backupiq.catalog.update import KnownLookup
from backupiq.discovery.entry import Directory
from backupiq.errors import StorageConnectionError
from backupiq.replicas.reading import ReplicatedProvider
from backupiq.repository.index import BlobLocation
from backupiq.repository.pack import BlobType
from backupiq.repository.repository import Repository, pack_key
from backupiq.semantics.model import FileFacts, Project
from backupiq.storage.local import LocalProvider
from tests.catalog.contents import everything, is_sound, words_find
from tests.catalog.growing import KEY, Growing, growing
from tests.support.programs import plain_environment, require, run_program
from tests.unit.repository.repositories import stored_file

SECRET_NAME = "deploy.env"


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Growing]:
    async with growing(tmp_path) as found:
        yield found


class Counting:
    """An analysis that notes which folders it was given, and says little."""

    projects: Sequence[Project] = ()

    def __init__(self) -> None:
        self.given: list[list[str]] = []

    def __call__(self, files: SnapshotFiles, *, now_ns: int, known: KnownLookup) -> Counting:
        self.given.append([])
        return self

    def folders(self, directories: Iterator[Directory]) -> Iterator[tuple[Directory, Sequence[FileFacts]]]:
        for directory in directories:
            self.given[-1].append(directory.path.decode())
            yield directory, [FileFacts()] * len(directory.children)


def home(place: Growing) -> None:
    """A home folder with a project, documents and odd names."""
    place.write("notes/letter.txt", "dear")
    place.write("shop/pyproject.toml", '[project]\nname = "shop"\ndependencies = ["django==5.1"]\n')
    place.write("shop/shop_v2.py", "import django\n")
    place.write("shop/__pycache__/shop_v2.pyc", b"\0\0")
    place.write(b"odd/\xff\xfe.txt", "x")
    place.write("odd/two\nlines", "x")
    key = "-----BEGIN OPENSSH " + "PRIVATE KEY-----\n" + "QUFB" * 40 + "\n-----END OPENSSH " + "PRIVATE KEY-----\n"
    place.write("keys/id_ed25519", key)


def paths_of(catalog: Catalog) -> set[str]:
    return {version[1].rpartition("/home/")[2] for version in everything(catalog)["versions"]}


# --- what enters ---------------------------------------------------------------------------------------------------


async def test_a_snapshot_enters_with_all_that_analysis_says_about_it(place: Growing, either: Catalog) -> None:
    home(place)
    only = await place.back_up()
    report = await place.update(either)
    assert report.added == [only]
    found = everything(either)
    shown = {version[3]: version for version in found["versions"]}
    assert shown["shop_v2.py"][10][1] == "Python"
    assert shown["shop_v2.py"][11].endswith(b"/home/shop")
    assert shown["shop_v2.pyc"][10][9] == 1
    assert shown["id_ed25519"][12]
    assert shown["letter.txt"][8] == (only,)
    assert [project[3] for project in found["projects"]] == ["shop"]
    assert "Django" in found["projects"][0][5]
    assert place.repository.provider.location in {name for _, name in found["places"]}
    assert is_sound(either)


async def test_a_second_update_finds_nothing_to_do(place: Growing, catalog: Catalog) -> None:
    home(place)
    await place.back_up()
    await place.update(catalog)
    before = everything(catalog)
    report = await place.update(catalog)
    assert (report.added, report.forgotten) == ([], [])
    assert everything(catalog) == before


async def test_growing_with_each_backup_and_building_anew_say_the_same(place: Growing, either: Catalog) -> None:
    home(place)
    await place.back_up()
    await place.update(either)
    place.write("notes/letter.txt", "dear all")
    place.write("shop/README.md", "# shop")
    await place.back_up()
    await place.update(either)
    shutil.rmtree(place.source / "odd")
    (place.source / "shop/pyproject.toml").unlink()
    place.write("notes", "a file now") if not (place.source / "notes").exists() else None
    await place.back_up()
    await place.update(either)
    place.write(b"odd/\xff\xfe.txt", "back again")
    await place.back_up()
    await place.update(either)
    grown = everything(either)
    with await place.anew("anew.sqlite3") as anew:
        assert everything(anew) == grown
        assert words_find(anew, "letter") == words_find(either, "letter") != set()
    await rebuild_catalog(either, place.repository, snapshot_analysis(), now_ns=99)
    assert everything(either) == grown
    assert is_sound(either)


def snapshot_analysis() -> Any:
    from backupiq.catalog.analyzing import snapshot_analyzer

    return snapshot_analyzer(KEY)


async def test_an_unchanged_file_gets_no_row_and_keeps_what_was_said(place: Growing, catalog: Catalog) -> None:
    home(place)
    await place.back_up()
    await place.update(catalog)
    place.write("notes/letter.txt", "other")
    second = await place.back_up()
    await place.update(catalog)
    rows = [version for version in everything(catalog)["versions"] if version[4] == 0]
    assert len(rows) == 8
    assert sum(version[3] == "letter.txt" for version in rows) == 2
    assert all(second in version[8] for version in rows if version[9])


async def test_git_state_follows_commits_that_change_no_file(place: Growing, catalog: Catalog) -> None:
    git = require("git")
    place.write("work/a.txt", "one")

    def run(*arguments: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        run_program([git, "-C", place.source / "work", *who, *arguments], env=plain_environment())

    run("init", "-q")
    await place.back_up()
    await place.update(catalog)
    run("add", "a.txt")
    run("commit", "-q", "-m", "one")
    await place.back_up()
    await place.update(catalog)
    (version,) = (each for each in everything(catalog)["versions"] if each[3] == "a.txt")
    assert version[10][8] == "unpushed"
    assert len(version[8]) == 2


async def test_the_type_of_a_file_is_not_read_again_when_only_its_project_changed(
    place: Growing, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.write("app/package.json", '{"name": "app"}')
    place.write("app/start", "#!/usr/bin/env python3\nprint()\n")
    await place.back_up()
    await place.update(catalog)
    place.write("app/package.json", '{"name": "renamed"}')
    await place.back_up()
    read: list[bytes] = []
    original = SnapshotFiles.read

    def noting(self: SnapshotFiles, path: bytes, limit: int) -> bytes:
        read.append(path.rpartition(b"/")[2])
        return original(self, path, limit)

    monkeypatch.setattr(SnapshotFiles, "read", noting)
    await place.update(catalog)
    assert b"package.json" in read
    assert b"start" not in read
    (version,) = (each for each in everything(catalog)["versions"] if each[3] == "start")
    assert version[10][1] == "Python"


async def test_only_folders_that_changed_are_looked_at(place: Growing, catalog: Catalog) -> None:
    for folder in ("one", "two/deep", "three"):
        place.write(f"{folder}/file.txt")
    analysis = Counting()
    await place.back_up()
    await place.update(catalog, analysis)
    assert sum(path.endswith(("/one", "/two/deep", "/three")) for path in analysis.given[0]) == 3
    place.write("two/deep/file.txt", "changed")
    await place.back_up()
    await place.update(catalog, analysis)
    below = {path.rpartition("/home")[2] for path in analysis.given[1] if "/home" in path}
    assert below == {"", "/two", "/two/deep"}


async def test_a_project_is_looked_at_as_a_whole(place: Growing, catalog: Catalog) -> None:
    place.write("app/package.json", "{}")
    place.write("app/src/a.js")
    place.write("app/lib/b.js")
    analysis = Counting()
    await place.back_up()
    await place.update(catalog, analysis)
    place.write("app/src/a.js", "changed")
    await place.back_up()
    await place.update(catalog, analysis)
    assert any(path.endswith("/app/lib") for path in analysis.given[1])


async def test_a_run_that_changed_nothing_is_not_analysed(place: Growing, catalog: Catalog) -> None:
    place.write("a.txt")
    analysis = Counting()
    first = await place.back_up()
    await place.update(catalog, analysis)
    second = await place.store(place.trees[-1], minute=9)
    await place.update(catalog, analysis)
    assert len(analysis.given) == 1
    assert {version[8] for version in everything(catalog)["versions"]} == {(first, second)}


async def test_checkpoints_are_apart_from_whole_snapshots(place: Growing, catalog: Catalog) -> None:
    place.write("a.txt")
    first = await place.back_up()
    place.write("b.txt")
    checkpoint = await place.back_up(tags=["checkpoint"])
    await place.update(catalog)
    held = {version[3]: version[8] for version in everything(catalog)["versions"] if version[9]}
    assert held["b.txt"] == (checkpoint,)
    assert {each[8] for each in everything(catalog)["versions"] if each[3] == "a.txt"} == {(first,), (checkpoint,)}
    await place.forget(checkpoint)
    await place.update(catalog)
    assert paths_of(catalog) >= {"a.txt"}
    assert "b.txt" not in paths_of(catalog)


# --- what leaves, and what comes late ------------------------------------------------------------------------------


@pytest.mark.parametrize("gone", [(0,), (1, 2), (0, 2), (2, 3), (0, 1, 2, 3)])
async def test_after_forgetting_it_says_what_a_new_catalog_says(
    place: Growing, catalog: Catalog, gone: tuple[int, ...]
) -> None:
    ids = []
    for number in range(4):
        place.write("changing.py", f"number = {number}")
        place.write(f"only-{number}.txt")
        if number:
            (place.source / f"only-{number - 1}.txt").unlink()
        if number == 0:
            place.write("app/package.json", "{}")
            place.write("stays.txt")
        ids.append(await place.back_up())
        await place.update(catalog)
    await place.forget(*(ids[number] for number in gone))
    report = await place.update(catalog)
    assert report.forgotten == sorted(ids[number] for number in gone)
    with await place.anew("anew.sqlite3") as anew:
        assert everything(catalog) == everything(anew)
        assert is_sound(catalog)


async def test_a_snapshot_that_comes_late_takes_its_place(place: Growing, catalog: Catalog) -> None:
    place.write("a.txt", "first")
    await place.back_up(minute=1)
    place.write("a.txt", "second")
    await place.back_up(minute=5)
    early, late = [hex_id for hex_id, _ in await place.repository.snapshots()]
    middle = await place.store(place.trees[0], minute=3)
    await place.forget(middle)
    await place.update(catalog)
    middle = await place.store(place.trees[0], minute=3)
    await place.update(catalog)
    held = [version[8] for version in everything(catalog)["versions"] if version[3] == "a.txt"]
    assert sorted(held) == sorted([(early, middle), (late,)])


async def test_two_snapshots_of_one_moment_are_told_apart(place: Growing, tmp_path: Path) -> None:
    place.write("a.txt", "first")
    one = await place.back_up(minute=1)
    place.write("a.txt", "second")
    two = await place.back_up(minute=1)
    with await place.anew("one.sqlite3") as catalog:
        held = {version[8] for version in everything(catalog)["versions"] if version[3] == "a.txt"}
        assert held == {(one,), (two,)}


async def test_snapshots_of_other_hosts_stay_apart(place: Growing, catalog: Catalog) -> None:
    place.write("a.txt")
    one = await place.back_up(host="laptop")
    two = await place.back_up(host="desktop")
    await place.update(catalog)
    held = {version[8] for version in everything(catalog)["versions"] if version[3] == "a.txt"}
    assert held == {(one,), (two,)}


async def test_another_repository_in_the_same_catalog_is_left_alone(
    place: Growing, catalog: Catalog, tmp_path: Path
) -> None:
    place.write("a.txt")
    await place.back_up()
    await place.update(catalog)
    (tmp_path / "other").mkdir()
    async with growing(tmp_path / "other") as other:
        other.write("b.txt")
        await other.back_up()
        await other.update(catalog)
        await rebuild_catalog(catalog, place.repository, snapshot_analysis(), now_ns=1)
        assert paths_of(catalog) >= {"a.txt", "b.txt"}
        assert is_sound(catalog)


# --- trouble -------------------------------------------------------------------------------------------------------


async def test_a_damaged_snapshot_is_told_and_the_others_enter(place: Growing, catalog: Catalog) -> None:
    place.write("a.txt")
    first = await place.back_up()
    await place.update(catalog)
    place.write("a.txt", "b")
    second = await place.back_up()
    stored_file(place.repository, f"snapshots/{first}").write_bytes(b"nonsense")
    fresh = await Repository.open(place.repository.provider, "open sesame")
    place.repository = fresh
    report = await place.update(catalog)
    assert list(report.damaged) == [first]
    assert report.added == [second]
    assert report.forgotten == []


async def test_a_folder_that_cannot_be_read_is_counted_and_the_rest_enters(place: Growing, catalog: Catalog) -> None:
    place.write("broken/a.txt")
    place.write("whole/b.txt")
    await place.back_up()
    folder = await tree_at(place, "broken")
    lost = place.repository.index.find(bytes.fromhex(folder), BlobType.TREE)
    assert lost is not None
    overwrite(place, lost)
    report = await place.update(catalog)
    assert report.unreadable == 1
    assert "whole/b.txt" in paths_of(catalog)
    assert "broken" in paths_of(catalog)
    assert "broken/a.txt" not in paths_of(catalog)


async def tree_at(place: Growing, name: str) -> str:
    from tests.unit.archive.saving import node_at

    node = await node_at(place.repository, place.trees[-1], place.source / name)
    assert node.subtree is not None
    return node.subtree


def overwrite(place: Growing, where: BlobLocation) -> None:
    path = stored_file(place.repository, pack_key(where.pack.hex()))
    data = bytearray(path.read_bytes())
    data[where.offset : where.offset + where.length] = bytes(where.length)
    path.write_bytes(data)


async def test_a_destination_that_fails_ends_the_update_and_the_next_one_goes_on(
    place: Growing, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.write("a.txt")
    first = await place.back_up()
    place.write("b.txt")
    second = await place.back_up()
    original = LocalProvider.read
    broken = (await place.repository.load_snapshot(second))[1].tree

    async def failing(self: LocalProvider, key: str, offset: int = 0, length: int | None = None) -> bytes:
        if key == pack_key(place.repository.index.find(bytes.fromhex(broken), BlobType.TREE).pack.hex()):  # type: ignore[union-attr]
            raise StorageConnectionError
        return await original(self, key, offset, length)

    monkeypatch.setattr("tests.unit.repository.repositories.CountingProvider.read", failing)
    with pytest.raises(StorageConnectionError):
        await place.update(catalog)
    monkeypatch.undo()
    assert [first] == list(catalog.snapshots(place.repository.config.id))
    assert (await place.update(catalog)).added == [second]
    with await place.anew("anew.sqlite3") as anew:
        assert everything(anew) == everything(catalog)


async def test_a_snapshot_that_another_program_brought_in_meanwhile_is_no_trouble(
    place: Growing, either: Catalog
) -> None:
    place.write("a.txt")
    first = await place.back_up()
    place.write("a.txt", "second")
    second = await place.back_up()
    url = either.engine.url.render_as_string(hide_password=False)

    class Meddling(Counting):
        """While it looks at the first snapshot, the other program brings both in."""

        def __call__(self, files: SnapshotFiles, *, now_ns: int, known: KnownLookup) -> Counting:
            super().__call__(files, now_ns=now_ns, known=known)
            if len(self.given) == 1:
                with Catalog.open(url) as other:
                    for number, hex_id in enumerate((first, second)):
                        self.bring(other, hex_id, number)
            return self

        def bring(self, other: Catalog, hex_id: str, number: int) -> None:
            from backupiq.catalog.rows import SnapshotInfo

            info = SnapshotInfo.of(hex_id, place.repository._snapshots[hex_id])
            base = first if number else None
            other.add_snapshot(place.repository.config.id, info, SnapshotRows((), base=base))

    report = await place.update(either, Meddling())
    assert report.added == []
    assert list(either.snapshots(place.repository.config.id)) == [first, second]


async def test_every_replica_tells_which_snapshots_it_holds(place: Growing, catalog: Catalog, tmp_path: Path) -> None:
    place.write("a.txt")
    first = await place.back_up()
    shutil.copytree(place.folder / "repository", tmp_path / "copy")
    place.write("b.txt")
    second = await place.back_up()
    one, two = place.repository.provider, LocalProvider(tmp_path / "copy")
    whole = Repository(
        ReplicatedProvider({"here": one, "there": two}),
        place.repository.master,
        place.repository.config,
        place.repository.key_id,
    )
    place.repository = whole
    await place.update(catalog)
    assert everything(catalog)["places"] == sorted([(first, "here"), (first, "there"), (second, "here")])
    shutil.rmtree(tmp_path / "copy/snapshots")
    (tmp_path / "copy/snapshots").mkdir()
    await place.update(catalog)
    assert everything(catalog)["places"] == sorted([(first, "here"), (second, "here")])
    await two.close()


async def test_names_of_any_kind_are_kept_exactly(place: Growing, either: Catalog) -> None:
    names = [
        b"\xff\xfe",
        b"line\nbreak",
        "é".encode(),
        "e\u0301".encode(),
        b"\\udcff\\udcfe",
        b"tab\t",
        b"%_'\"",
        b"a" * 255,
    ]
    for name in names:
        place.write(name, name)
    deep = b"/".join([b"d" * 200] * 19) + b"/end.txt"
    make_deep(place, deep)
    await place.back_up()
    await place.update(either)
    found = {version[2] or version[1].encode() for version in everything(either)["versions"]}
    source = str(place.source).encode()
    assert {source + b"/" + name for name in names} <= found
    assert any(path.endswith(b"/end.txt") and len(path) > 3_800 for path in found)
    assert is_sound(either)
    place.write(b"\xff\xfe", b"changed")
    (place.source / "\\udcff\\udcfe").unlink()
    await place.back_up()
    await place.update(either)
    with await place.anew("anew.sqlite3") as anew:
        assert everything(anew) == everything(either)


def make_deep(place: Growing, name: bytes) -> None:
    """A file whose path is longer than a system call takes."""
    import os

    folder = os.open(place.source, os.O_RDONLY)
    *folders, last = name.split(b"/")
    for part in folders:
        os.mkdir(part, dir_fd=folder)
        deeper = os.open(part, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = deeper
    os.close(os.open(last, os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=folder))
    os.close(folder)

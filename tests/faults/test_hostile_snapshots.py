"""Snapshots and targets made to write elsewhere: each item is refused, the rest restored, nothing outside changed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from backupiq.repository.gojson import quote_name
from backupiq.repository.repository import FileType
from backupiq.repository.snapshot import encode_snapshot
from backupiq.repository.tree import Node
from tests.faults.driver import Commands
from tests.faults.support import Surroundings
from tests.support.programs import Completed
from tests.unit.archive.restore_support import Archive, node, symlink
from tests.unit.repository.repositories import PASSWORD

HOSTILE_NAMES = {
    "above": b"../outside/planted",
    "absolute": b"/tmp/backupiq-planted",
    "two parts": b"good/planted",
    "parent": b"..",
    "itself": b".",
    "empty": b"",
    "NUL": b"planted\0.txt",
    "NUL in front": b"\0",
    "slash at the end": b"planted/",
    "deep": b"../../../../../../tmp/backupiq-planted",
}
Store = Callable[..., Awaitable[str]]


class World:
    """A folder with a repository, a target and something outside that must stay as it is."""

    def __init__(self, folder: Path, commands: Commands) -> None:
        self.folder = folder
        self.commands = commands
        self.target = folder / "target"
        self.outside = folder / "outside"
        self.outside.mkdir()
        (self.outside / "precious").write_bytes(b"precious")

    def store(self, make: Callable[[Archive], list[Node]]) -> None:
        """A repository with one snapshot whose root folder has these entries."""

        async def run() -> None:
            archive = await Archive.make(self.folder)
            snapshot = await archive.snapshot(*make(archive))
            await archive.repository.save_file(FileType.SNAPSHOT, encode_snapshot(snapshot))
            await archive.repository.provider.close()

        asyncio.run(run())

    def restore(self, *options: str) -> Completed:
        """Restore it by the command line; fails when anything outside the target changed."""
        around = Surroundings.of(self.folder, but="target")
        done = self.commands.run(
            "restore", "latest", "--quiet", "--repo", self.folder / "repository", "--target", self.target, *options,
            password=PASSWORD,
        )  # fmt: skip
        around.assert_untouched()
        assert not Path("/tmp/backupiq-planted").exists()
        assert "Traceback" not in done.stderr
        return done


@pytest.fixture
def world(tmp_path: Path, commands: Commands) -> World:
    return World(tmp_path, commands)


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_restore_refuses_entries_whose_name_leaves_their_folder(world: World, name: str) -> None:
    def make(archive: Archive) -> list[Node]:
        bad = [
            archive.file(b"x", b"planted"),
            archive.folder(b"x", archive.file(b"planted", b"planted")),
            symlink(b"x", os.fsencode(world.outside)),
        ]
        for entry in bad:
            entry.name = quote_name(HOSTILE_NAMES[name])
        return [*bad, archive.folder(b"good", archive.file(b"inner", b"inner")), archive.file(b"plain", b"plain")]

    world.store(make)
    done = world.restore()
    assert done.returncode == 1
    assert done.stderr.count("could not be restored") == len(done.stderr.splitlines()) == 3
    assert sorted(path.name for path in world.target.rglob("*")) == ["good", "inner", "plain"]
    assert (world.target / "good" / "inner").read_bytes() == b"inner"


def test_an_entry_that_stands_twice_is_restored_once_and_named(world: World) -> None:
    world.store(lambda archive: [archive.file(b"twice", b"first"), archive.file(b"twice", b"second")])
    done = world.restore()
    assert done.returncode == 1
    assert "twice" in done.stderr
    assert (world.target / "twice").read_bytes() == b"first"


@pytest.mark.parametrize("link_first", [True, False])
def test_a_symlink_and_a_folder_of_one_name_never_meet(world: World, link_first: bool) -> None:
    def make(archive: Archive) -> list[Node]:
        link = symlink(b"way-out", os.fsencode(world.outside))
        folder = archive.folder(b"way-out", archive.file(b"precious", b"overwritten"), archive.file(b"new", b"planted"))
        return [link, folder] if link_first else [folder, link]

    world.store(make)
    done = world.restore()
    assert done.returncode == 1
    assert "way-out" in done.stderr
    assert (world.target / "way-out").is_symlink() == link_first


def test_a_folder_of_the_target_that_became_a_symlink_is_not_followed(world: World) -> None:
    world.store(
        lambda archive: [archive.folder(b"album", archive.file(b"precious", b"a photo")), archive.file(b"z", b"z")]
    )
    assert world.restore().returncode == 0
    (world.target / "album" / "precious").unlink()
    (world.target / "album").rmdir()
    (world.target / "album").symlink_to(world.outside)
    done = world.restore()
    assert done.returncode == 1
    assert "album" in done.stderr
    assert (world.target / "z").read_bytes() == b"z"


def test_a_file_of_the_target_that_became_a_symlink_is_replaced_and_not_written_through(world: World) -> None:
    world.store(lambda archive: [archive.file(b"photo", b"a photo"), archive.file(b"film", b"a", b"b")])
    world.target.mkdir()
    for name in ("photo", "film"):
        (world.target / name).symlink_to(world.outside / "precious")
    assert world.restore().returncode == 0
    assert not (world.target / "photo").is_symlink()
    assert (world.target / "photo").read_bytes() == b"a photo"
    assert (world.target / "film").read_bytes() == b"ab"


def test_a_hard_link_to_a_file_outside_is_cut_and_not_written_through(world: World) -> None:
    world.store(lambda archive: [archive.file(b"photo", b"a photo"), archive.file(b"film", b"a", b"b")])
    world.target.mkdir()
    for name in ("photo", "film"):
        os.link(world.outside / "precious", world.target / name)
    assert world.restore().returncode == 0
    assert (world.target / "photo").read_bytes() == b"a photo"
    assert (world.outside / "precious").read_bytes() == b"precious"


def test_a_symlink_out_of_the_snapshot_is_restored_as_a_link_and_not_followed_by_its_metadata(world: World) -> None:
    mode = (world.outside / "precious").stat().st_mode
    world.store(lambda archive: [symlink(b"link", os.fsencode(world.outside / "precious"), mode=0o777)])
    assert world.restore().returncode == 0
    assert os.readlink(world.target / "link") == str(world.outside / "precious")
    assert (world.outside / "precious").stat().st_mode == mode


def test_a_folder_without_contents_is_named_and_the_rest_restored(world: World) -> None:
    world.store(lambda archive: [archive.folder(b"inner", archive.file(b"file", b"content")), node(b"nonsense", "dir")])
    done = world.restore()
    assert done.returncode == 1
    assert "nonsense" in done.stderr
    assert (world.target / "inner" / "file").read_bytes() == b"content"


def test_listing_a_hostile_snapshot_shows_names_as_text(world: World) -> None:
    def make(archive: Archive) -> list[Node]:
        bad = archive.file(b"x", b"planted")
        bad.name = quote_name(b"../\x1b[2Jx")
        return [bad, archive.file(b"plain", b"plain")]

    world.store(make)
    done = world.commands.run("ls", "latest", "--repo", world.folder / "repository", password=PASSWORD)
    assert "\x1b" not in done.stdout + done.stderr
    assert "plain" in done.stdout or done.returncode == 1

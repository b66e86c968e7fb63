"""kill -9 at fifty random moments of a run.

The moments lie in fifty equal parts of a run, one at random in each (seeded), from the line in which the run opens its
repository to its end; ten of them hit the very first run, which makes the repository. After every kill the repository
is checked, every earlier snapshot restored, and a whole run goes on from there. A kill that came too late (the machine
was faster than measured) is repeated a little earlier. All fifty run everywhere, in five tests of ten;
BACKUPIQ_CAMPAIGN=full makes it two hundred, in pairs: then half of the killed runs themselves began with what a killed
one had left.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from backupiq.errors import RepositoryMissingError
from backupiq.repository.repository import Repository
from backupiq.storage.local import LocalProvider
from tests.faults.support import (
    OBJECT_NAME,
    PATIENCE_SECONDS,
    files_of,
    listed_names,
    locks_of,
    misnamed,
    open_repository,
    orphans_of,
    pack_sizes,
    restore_below,
    spool_folders,
    wait_for,
)
from tests.support.compare import assert_same_tree
from tests.support.mixed_tree import make_mixed_tree, mutate_tree
from tests.support.programs import BackupIQ, Restic
from tests.unit.archive.saving import back_up
from tests.unit.repository.repositories import PASSWORD, new_repository

SEED = 20_260_501
FULL = os.environ.get("BACKUPIQ_CAMPAIGN") == "full"
PARTS, KILLS_EACH, IN_A_ROW = (5, 40, 2) if FULL else (5, 10, 1)
KILLS = PARTS * KILLS_EACH
OPENING = "opening the repository"
SAME_BYTES = 1.02
"""Packs of the same blobs differ a little: in their headers, and in trees that were written twice."""


@dataclasses.dataclass
class Scene:
    """A repository with two snapshots of small trees, whose files no kill may harm, and a larger tree to back up."""

    folder: Path
    template: Path
    earlier: dict[str, Path]
    source: Path
    sent: int = 0
    seconds: float = 0.0


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """Made by the library; its key costs nothing to open."""
    source = tmp_path / "source"
    make_mixed_tree(source, files=900, total_bytes=20_000_000, seed=7)
    rng = random.Random(SEED)
    for number in range(20):
        (source / f"film-{number}").write_bytes(rng.randbytes(3_000_000))
    template = tmp_path / "template"
    earlier: dict[str, Path] = {}

    async def make() -> None:
        repository = await new_repository(template)
        small = tmp_path / "small"
        make_mixed_tree(small, files=60, total_bytes=2_000_000, seed=3)
        for name in ("first", "second"):
            saved = await back_up(repository, tmp_path / "spool", small)
            earlier[saved.snapshot_id] = tmp_path / name
            shutil.copytree(small, tmp_path / name, symlinks=True)
            mutate_tree(small, seed=4, fraction=0.3)
        await repository.provider.close()

    asyncio.run(make())
    return Scene(tmp_path, template, earlier, source)


def fresh_copy(scene: Scene) -> Path:
    """The template by hard links: no program changes a file of a repository in place."""
    repo = no_repository(scene)
    shutil.copytree(scene.template, repo, copy_function=os.link)
    return repo


def no_repository(scene: Scene) -> Path:
    shutil.rmtree(scene.folder / "repo", ignore_errors=True)
    return scene.folder / "repo"


def measure(backupiq: BackupIQ, scene: Scene) -> None:
    """One whole run: how long it takes from its first line on, and what it sends."""
    process = backupiq.start("backup", scene.source, "--to", fresh_copy(scene), password=PASSWORD)
    wait_for_line(process, OPENING)
    began = time.monotonic()
    rest, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, rest
    scene.seconds = time.monotonic() - began
    scene.sent = sum(pack_sizes(scene.folder / "repo").values()) - sum(pack_sizes(scene.template).values())


def wait_for_line(process: subprocess.Popen[str], text: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"the program ended before it said {text!r}")


def kill_during_run(
    backupiq: BackupIQ, scene: Scene, repo: Path, moment: float, spool: Path | None, whole: bool
) -> bool:
    """Start a run and kill it at that part of its length; False when it had ended by then."""
    env = {"BACKUPIQ_SPOOL": str(spool)} if spool else None
    process = backupiq.start("backup", scene.source, "--to", repo, password=PASSWORD, env=env)
    wait_for_line(process, OPENING)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(moment * scene.seconds)
        return False
    if whole:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.communicate(timeout=PATIENCE_SECONDS)
    return process.returncode == -signal.SIGKILL


@pytest.fixture
def other_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder on another file system, so that packs are copied to the destination and not renamed."""
    place = Path("/dev/shm")
    own = tmp_path_factory.mktemp("spool")
    if place.is_dir() and place.stat().st_dev != own.stat().st_dev:
        own = place / f"backupiq-test-spool-{os.getpid()}"
    try:
        yield own
    finally:
        shutil.rmtree(own, ignore_errors=True)


@pytest.mark.parametrize("part", range(PARTS))
def test_a_run_that_is_killed_at_any_moment_harms_nothing_and_the_next_goes_on(
    part: int, backupiq: BackupIQ, restic_old: Restic, scene: Scene, other_disk: Path
) -> None:
    measure(backupiq, scene)
    rng = random.Random(f"{SEED} {part}")
    moments = [(step * PARTS + part + rng.random()) / KILLS for step in range(KILLS_EACH)]
    rng.shuffle(moments)
    for begin in range(0, KILLS_EACH, IN_A_ROW):
        first_run = begin // IN_A_ROW % 5 == 4
        repo = no_repository(scene) if first_run else fresh_copy(scene)
        earlier = {} if first_run else scene.earlier
        spool = other_disk if rng.random() < 0.5 else None
        for moment in moments[begin : begin + IN_A_ROW]:
            whole = rng.random() < 0.5
            while not kill_during_run(backupiq, scene, repo, moment, spool, whole):
                moment *= 0.9
                repo = no_repository(scene) if first_run else fresh_copy(scene)
            orphans = asyncio.run(look_after_kill(restic_old, scene, repo, earlier, unlock=rng.random() < 0.5))
        go_on(backupiq, restic_old, scene, repo, orphans, spool)


def test_what_a_killed_run_had_uploaded_is_not_sent_again(backupiq: BackupIQ, restic_old: Restic, scene: Scene) -> None:
    measure(backupiq, scene)
    repo = fresh_copy(scene)
    had = len(pack_sizes(repo))
    process = backupiq.start("backup", scene.source, "--to", repo, "--quiet", "--threads", "1", password=PASSWORD)
    wait_for(lambda: len(pack_sizes(repo)) >= had + 2, "two packs")
    process.kill()
    process.communicate(timeout=PATIENCE_SECONDS)
    orphans = asyncio.run(look_after_kill(restic_old, scene, repo, scene.earlier, unlock=False))
    assert len(orphans) >= 2
    go_on(backupiq, restic_old, scene, repo, orphans, None)


async def look_after_kill(
    restic: Restic, scene: Scene, repo: Path, earlier: dict[str, Path], *, unlock: bool
) -> dict[str, int]:
    """What must hold right after a kill; the packs that no index names yet."""
    assert misnamed(repo) == []
    try:
        async with LocalProvider(repo) as provider:
            await Repository.open(provider, PASSWORD)
    except RepositoryMissingError:
        assert not earlier, "a repository that was there has gone"
        return {}
    # Half of the time our own next run has to find out by itself that the holder of the lock is dead.
    if unlock:
        restic.run("unlock", repo=repo, password=PASSWORD)
        assert locks_of(repo) == []
    checked = restic.run("check", *([] if unlock else ["--no-lock"]), repo=repo, password=PASSWORD)
    assert "no errors were found" in checked.stdout
    repository = await open_repository(repo, PASSWORD)
    async with repository.provider:
        assert await listed_names(repository) == {
            os.path.basename(name) for name in files_of(repo) if OBJECT_NAME.fullmatch(os.path.basename(name))
        }
        for snapshot, tree in earlier.items():
            await assert_restores(scene, repository, snapshot, tree, scene.folder / "small")
        return await orphans_of(repository, repo)


async def assert_restores(scene: Scene, repository: Repository, snapshot: str, tree: Path, source: Path) -> None:
    target = scene.folder / "restored"
    report = await restore_below(repository, snapshot, target)
    assert report.problems == []
    assert_same_tree(tree, target / source.relative_to("/"), ignore={"root"})
    shutil.rmtree(target)


def go_on(
    backupiq: BackupIQ, restic: Restic, scene: Scene, repo: Path, orphans: dict[str, int], spool: Path | None
) -> None:
    """The next run: it takes over what the killed one had stored, and leaves everything in order."""
    earlier = pack_sizes(scene.template)
    stored = sum(size for name, size in pack_sizes(repo).items() if name not in earlier)
    env = {"BACKUPIQ_SPOOL": str(spool)} if spool else None
    done = backupiq.run("backup", scene.source, "--to", repo, "--json", password=PASSWORD, env=env)
    report = json.loads(done.stdout)
    assert report["bytes_resumed"] == sum(orphans.values())
    assert report["bytes_sent"] <= scene.sent * SAME_BYTES - stored + 65_536
    assert locks_of(repo) == []
    assert spool_folders(backupiq.home) == []
    assert spool is None or list(spool.glob("run-*")) == []
    assert "no errors were found" in restic.run("check", repo=repo, password=PASSWORD).stdout

    async def restore_it() -> None:
        repository = await open_repository(repo, PASSWORD)
        async with repository.provider:
            await assert_restores(scene, repository, report["snapshot_id"], scene.source, scene.source)

    asyncio.run(restore_it())

"""What git's own files tell, checked against the real git: repositories are made with it and asked about both ways."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from backupiq.discovery.entry import Directory, EntryKind, FileEntry
from backupiq.discovery.rules import ExcludeRules
from backupiq.discovery.walk import walk
from backupiq.semantics import git as git_module
from backupiq.semantics import git_index as git_index_module
from backupiq.semantics.git import find_git
from backupiq.semantics.model import GitState
from tests.support.programs import isolated_home, plain_environment, require

NONE, PUSHED, UNPUSHED = GitState.NONE, GitState.PUSHED, GitState.UNPUSHED
MODIFIED, UNTRACKED, INTERNAL = GitState.MODIFIED, GitState.UNTRACKED, GitState.INTERNAL


@dataclass
class DiskFiles:
    """A folder of the disk as analysis sees it; notes what was read."""

    base: Path
    reads: list[bytes] = field(default_factory=list)

    def directories(self) -> Iterator[Directory]:
        return walk([self.base], ExcludeRules(ignore_file=None), on_unreadable=lambda item: None)

    def read(self, path: bytes, limit: int) -> bytes:
        self.reads.append(path)
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            return file.read(limit)


@dataclass
class KeptFiles:
    """The same files taken into memory, as a snapshot has them: nothing of the disk is asked any more."""

    folders: list[Directory]
    contents: dict[bytes, bytes]

    def directories(self) -> Iterator[Directory]:
        return iter(self.folders)

    def read(self, path: bytes, limit: int) -> bytes:
        if path not in self.contents:
            raise FileNotFoundError(path)
        return self.contents[path][:limit]


@dataclass
class Git:
    """Runs the real git, without any settings of the machine it runs on."""

    program: Path
    home: Path

    def __call__(self, folder: Path, *args: str | bytes, check: bool = True) -> str:
        own = {name: value for name, value in plain_environment().items() if not name.startswith("GIT_")}
        env = own | isolated_home(self.home) | {"GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C"}
        who = ["-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "protocol.file.allow=always"]
        command = [self.program, *who, *args]
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, check=False)
        if check and done.returncode:
            raise AssertionError(f"git {args} ended with {done.returncode}: {done.stdout!r} {done.stderr!r}")
        return done.stdout.decode("utf-8", "surrogateescape")


@pytest.fixture(scope="module")
def git(tmp_path_factory: pytest.TempPathFactory) -> Git:
    return Git(require("git"), tmp_path_factory.mktemp("git-home"))


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The folder that is analysed; what lies beside it is not part of the backup."""
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture
def make(git: Git, base: Path) -> Callable[..., Path]:
    """Makes a repository with one commit; ``pushed``: to a bare one that lies outside the analysed folder."""

    def make(name: str = "shop", *options: str, pushed: bool = True) -> Path:
        repo = base / name
        repo.mkdir(parents=True)
        git(repo, "init", "-q", "-b", "main", *options)
        write(repo, {"README.md": "shop", "src/app.py": "app", "src/deep/er/x.py": "x", "docs/a.md": "a"})
        git(repo, "add", ".")
        git(repo, "commit", "-q", "-m", "first")
        if pushed:
            remote = base.parent / f"{name}.git"
            git(base, "init", "-q", "--bare", "-b", "main", *options, str(remote))
            git(repo, "remote", "add", "origin", str(remote))
            git(repo, "push", "-q", "-u", "origin", "main")
        return repo

    return make


def states(base: Path, *, internal: bool = False) -> dict[str, GitState]:
    """The state of every file that is not a folder, by its path below the base."""
    files = DiskFiles(base)
    found = find_git(files)
    prefix = os.fsencode(base) + b"/"
    answers = {
        os.fsdecode((path := folder.path + b"/" + entry.name).removeprefix(prefix)): found.state(path, entry)
        for folder in files.directories()
        for entry in folder.children
        if entry.kind is not EntryKind.DIR and (folder.path + b"/").startswith(prefix)
    }
    return answers if internal else {name: state for name, state in answers.items() if state is not INTERNAL}


def of_git(git: Git, repo: Path) -> tuple[dict[str, str], GitState]:
    """What `git status` says of the files it has something to say of, and what of all others."""
    listed = git(repo, "--no-optional-locks", "status", "--porcelain", "-z", "-uall", "--ignored", "--no-renames")
    codes = {line[3:]: line[:2] for line in listed.split("\0") if line}
    ahead = subprocess.run(
        [git.program, "log", "--format=%H", "@{u}.."], cwd=repo, capture_output=True, text=True, check=False
    )
    return codes, PUSHED if ahead.returncode == 0 and not ahead.stdout else UNPUSHED


def assert_same_as_git(git: Git, base: Path, repo: Path) -> None:
    """Each file's state is that of `git status`."""
    ours = {name.removeprefix(repo.name + "/"): state for name, state in states(base).items()}
    codes, committed = of_git(git, repo)
    ignored = tuple(name for name, code in codes.items() if code == "!!")
    wanted = {
        name: NONE
        if name in ignored or name.startswith(tuple(folder for folder in ignored if folder.endswith("/")))
        else UNTRACKED
        if codes.get(name) == "??"
        else MODIFIED
        if name in codes
        else committed
        for name in ours
    }
    assert ours == wanted


# --- one change at a time ------------------------------------------------------------------------------------------


def test_a_pushed_repository_is_pushed_and_its_own_files_are_internal(make: Callable[..., Path], base: Path) -> None:
    make()
    found = states(base, internal=True)
    assert {state for name, state in found.items() if "/.git/" not in name} == {PUSHED}
    assert {state for name, state in found.items() if "/.git/" in name} == {INTERNAL}


def test_a_file_outside_any_working_copy_has_no_state(make: Callable[..., Path], base: Path) -> None:
    make()
    write(base, {"notes.txt": "x", "shop2/a.txt": "x"})
    assert {name: state for name, state in states(base).items() if not name.startswith("shop/")} == {
        "notes.txt": NONE,
        "shop2/a.txt": NONE,
    }


def test_changed_staged_untracked_and_untouched_files_are_told_apart(
    make: Callable[..., Path], git: Git, base: Path
) -> None:
    repo = make()
    write(repo, {"src/app.py": "changed", "new.txt": "new", "docs/b.md": "staged"})
    git(repo, "add", "docs/b.md")
    found = states(base)
    assert found["shop/src/app.py"] == found["shop/docs/b.md"] == MODIFIED
    assert found["shop/new.txt"] == UNTRACKED
    assert found["shop/src/deep/er/x.py"] == PUSHED
    assert_same_as_git(git, base, repo)


def test_a_staged_and_otherwise_unchanged_file_counts_as_changed(
    make: Callable[..., Path], git: Git, base: Path
) -> None:
    repo = make()
    write(repo, {"src/app.py": "changed"})
    git(repo, "add", "src/app.py")
    assert states(base)["shop/src/app.py"] == MODIFIED
    git(repo, "commit", "-q", "-m", "second")
    assert states(base)["shop/src/app.py"] == UNPUSHED
    git(repo, "push", "-q")
    assert states(base)["shop/src/app.py"] == PUSHED


def test_the_last_commits_folders_are_exact_also_when_few_of_them_are_kept(
    make: Callable[..., Path], git: Git, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(git_index_module, "KEPT_TREE_ENTRIES", 2)
    repo = make()
    write(repo, {"docs/b.md": "staged", "src/deep/er/y.py": "staged"})
    git(repo, "add", ".")
    assert {name for name, state in states(base).items() if state is MODIFIED} == {
        "shop/docs/b.md",
        "shop/src/deep/er/y.py",
    }


def test_when_the_last_commit_lies_in_a_pack_a_staged_file_takes_its_folder_with_it(
    make: Callable[..., Path], git: Git, base: Path
) -> None:
    repo = make()
    git(repo, "gc", "-q")
    write(repo, {"docs/b.md": "staged"})
    git(repo, "add", "docs/b.md")
    found = states(base)
    assert found["shop/docs/b.md"] == found["shop/docs/a.md"] == MODIFIED  # the index tells no more than that
    assert found["shop/src/app.py"] == PUSHED


def test_a_commit_that_was_taken_back_and_is_still_staged_counts_as_changed(
    make: Callable[..., Path], git: Git, base: Path
) -> None:
    repo = make()
    write(repo, {"src/app.py": "changed"})
    git(repo, "commit", "-q", "-a", "-m", "second")
    git(repo, "reset", "-q", "--soft", "HEAD~1")
    assert states(base)["shop/src/app.py"] == MODIFIED


def test_before_the_first_commit_everything_added_counts_as_changed(git: Git, base: Path) -> None:
    git(base, "init", "-q", "shop")
    write(base / "shop", {"a.txt": "a", "b.txt": "b"})
    assert set(states(base).values()) == {UNTRACKED}
    git(base / "shop", "add", "a.txt")
    assert states(base) == {"shop/a.txt": MODIFIED, "shop/b.txt": UNTRACKED}


def test_a_file_that_was_changed_within_the_tick_of_the_index_is_found_by_its_content(
    make: Callable[..., Path], base: Path
) -> None:
    """Git's "racy" case: same size, same time, and the index no younger than the file."""
    repo = make()
    index = (repo / ".git/index").stat().st_mtime_ns
    for name, text in (("src/app.py", "APP"), ("README.md", "shop")):
        path = repo / name
        before = path.stat().st_mtime_ns
        path.write_text(text)
        os.utime(path, ns=(before, before))
    os.utime(repo / ".git/index", ns=(index, min(p.stat().st_mtime_ns for p in repo.glob("*.md"))))
    found = states(base)
    assert (found["shop/src/app.py"], found["shop/README.md"]) == (MODIFIED, PUSHED)


def test_a_change_of_kind_or_of_the_executable_bit_counts_unless_git_is_told_otherwise(
    make: Callable[..., Path], git: Git, base: Path
) -> None:
    repo = make()
    (repo / "src/app.py").chmod(0o755)
    assert states(base)["shop/src/app.py"] == MODIFIED
    assert_same_as_git(git, base, repo)
    git(repo, "config", "core.fileMode", "false")
    assert states(base)["shop/src/app.py"] == PUSHED
    (repo / "README.md").unlink()
    (repo / "README.md").symlink_to("shop")  # its text, and so its size, is what the file held
    assert states(base)["shop/README.md"] == MODIFIED


def test_links_are_tracked_as_links(make: Callable[..., Path], git: Git, base: Path) -> None:
    repo = make()
    (repo / "link").symlink_to("README.md")
    git(repo, "add", "link")
    git(repo, "commit", "-q", "-m", "link")
    git(repo, "push", "-q")
    assert states(base)["shop/link"] == PUSHED


@pytest.mark.parametrize("flag", ["--assume-unchanged", "--skip-worktree"])
def test_a_file_git_was_told_to_take_as_unchanged_is_as_committed(
    flag: str, make: Callable[..., Path], git: Git, base: Path
) -> None:
    repo = make()
    git(repo, "update-index", flag, "src/app.py")
    write(repo, {"src/app.py": "changed"})
    assert states(base)["shop/src/app.py"] == PUSHED


def test_conflicts_and_announced_files_count_as_changed(make: Callable[..., Path], git: Git, base: Path) -> None:
    repo = make()
    write(repo, {"later.py": "x"})
    git(repo, "add", "-N", "later.py")
    assert states(base)["shop/later.py"] == MODIFIED
    git(repo, "rm", "-q", "--cached", "later.py")
    git(repo, "switch", "-q", "-c", "side")
    write(repo, {"docs/a.md": "side"})
    git(repo, "commit", "-q", "-a", "-m", "side")
    git(repo, "switch", "-q", "main")
    write(repo, {"docs/a.md": "main"})
    git(repo, "commit", "-q", "-a", "-m", "main")
    git(repo, "merge", "-q", "side", check=False)
    assert states(base)["shop/docs/a.md"] == MODIFIED
    assert_same_as_git(git, base, repo)


@pytest.mark.parametrize("options", [(), ("--object-format=sha256",)], ids=["sha1", "sha256"])
@pytest.mark.parametrize("version", ["2", "4"])
def test_every_version_of_the_index_is_read(
    version: str, options: tuple[str, ...], make: Callable[..., Path], git: Git, base: Path
) -> None:
    repo = make("shop", *options)
    git(repo, "update-index", "--index-version", version)
    write(repo, {"src/deep/er/y.py": "y", "src/app.py": "changed"})
    assert_same_as_git(git, base, repo)
    assert states(base)["shop/src/deep/er/x.py"] == PUSHED
    assert (repo / ".git/index").read_bytes()[7] == int(version)


def test_names_that_are_not_text_are_found(make: Callable[..., Path], git: Git, base: Path) -> None:
    repo = make()
    names = [b"caf\xe9.txt", b"two\nlines.txt", b"-rf", '\N{SNOWMAN} "quoted".md'.encode(), b"a" * 250, b"HEAD"]
    for name in names:
        (repo / os.fsdecode(name)).write_text("x")
    git(repo, "add", ".")
    git(repo, "commit", "-q", "-m", "names")
    git(repo, "push", "-q")
    assert set(states(base).values()) == {PUSHED}
    assert len(states(base)) == len(names) + 4


# --- pushed or not -------------------------------------------------------------------------------------------------


def test_without_an_upstream_nothing_is_pushed(make: Callable[..., Path], git: Git, base: Path) -> None:
    repo = make(pushed=False)
    assert set(states(base).values()) == {UNPUSHED}
    git(repo, "switch", "-q", "-c", "side")
    git(repo, "branch", "-q", "-u", "main")  # an upstream, but of this very repository
    assert set(states(base).values()) == {UNPUSHED}


def test_packed_refs_are_read(make: Callable[..., Path], git: Git, base: Path) -> None:
    repo = make()
    git(repo, "pack-refs", "--all")
    git(repo, "gc", "-q")
    assert not (repo / ".git/refs/remotes/origin/main").exists()
    assert set(states(base).values()) == {PUSHED}
    write(repo, {"src/app.py": "changed"})
    git(repo, "commit", "-q", "-a", "-m", "second")
    assert set(states(base).values()) == {UNPUSHED}


def test_a_branch_with_slashes_and_a_renamed_remote_find_their_upstream(
    make: Callable[..., Path], git: Git, base: Path
) -> None:
    repo = make()
    git(repo, "switch", "-q", "-c", 'feature/one#"two"')
    git(repo, "push", "-q", "-u", "origin", "HEAD:refs/heads/other")
    git(repo, "remote", "rename", "origin", "away")
    assert set(states(base).values()) == {PUSHED}


@pytest.mark.parametrize("packed", [False, True])
def test_a_detached_head_is_pushed_when_any_remote_branch_is_there(
    packed: bool, make: Callable[..., Path], git: Git, base: Path
) -> None:
    repo = make()
    git(repo, "checkout", "-q", "--detach")
    if packed:
        git(repo, "pack-refs", "--all")
    assert set(states(base).values()) == {PUSHED}
    write(repo, {"src/app.py": "changed"})
    git(repo, "commit", "-q", "-a", "-m", "second")
    assert set(states(base).values()) == {UNPUSHED}


def test_a_clone_is_pushed_and_its_remotes_head_is_taken_for_no_repository(
    make: Callable[..., Path], git: Git, base: Path
) -> None:
    make()
    git(base, "clone", "-q", str(base.parent / "shop.git"), "clone")
    assert (base / "clone/.git/refs/remotes/origin/HEAD").exists()
    assert {state for name, state in states(base).items() if name.startswith("clone/")} == {PUSHED}
    git(base / "clone", "checkout", "-q", "--detach")
    assert {state for name, state in states(base).items() if name.startswith("clone/")} == {PUSHED}


# --- ignored files -------------------------------------------------------------------------------------------------


def test_ignored_files_are_not_counted_as_work(make: Callable[..., Path], git: Git, base: Path) -> None:
    repo = make()
    write(repo, {".gitignore": "*.log\n/build/\n!keep.log\n[bad\n", "src/.gitignore": "!seen.log\n*.tmp\n"})
    write(repo, {".git/info/exclude": "*.secret\n"})
    write(repo, {"a.log": "", "keep.log": "", "src/seen.log": "", "src/b.tmp": "", "c.tmp": "", "d.secret": ""})
    write(repo, {"build/x/y.txt": "", "src/build/z.txt": "", "src/deep/er/w.log": ""})
    write(repo, {"build/tracked.txt": ""})
    git(repo, "add", "-f", "build/tracked.txt", ".gitignore", "src/.gitignore")
    git(repo, "commit", "-q", "-m", "ignores")
    git(repo, "push", "-q")
    found = states(base)
    assert {name for name, state in found.items() if state is NONE} == {
        f"shop/{name}" for name in ("a.log", "src/b.tmp", "d.secret", "build/x/y.txt", "src/deep/er/w.log")
    }
    assert {name for name, state in found.items() if state is UNTRACKED} == {
        f"shop/{name}" for name in ("keep.log", "src/seen.log", "c.tmp", "src/build/z.txt")
    }
    assert found["shop/build/tracked.txt"] == PUSHED
    assert_same_as_git(git, base, repo)


def test_a_home_under_git_that_hides_untracked_files_does_not_raise_them(
    make: Callable[..., Path], git: Git, base: Path
) -> None:
    repo = make()
    git(repo, "config", "status.showUntrackedFiles", "no")
    write(repo, {"photo.jpg": ""})
    assert states(base)["shop/photo.jpg"] == NONE


# --- other ways to keep a repository -------------------------------------------------------------------------------


def test_worktrees_and_submodules_are_followed_inside_the_tree(make: Callable[..., Path], git: Git, base: Path) -> None:
    repo = make()
    make("library")
    git(repo, "submodule", "--quiet", "add", str(base.parent / "library.git"), "lib")
    git(repo, "commit", "-q", "-m", "submodule")
    git(repo, "push", "-q")
    git(repo, "worktree", "add", "-q", "-b", "side", str(base / "side"))
    write(repo, {"lib/src/app.py": "changed"})
    write(base / "side", {"new.txt": ""})
    found = states(base, internal=True)
    assert found["shop/lib/src/app.py"] == MODIFIED
    assert found["shop/lib/README.md"] == found["shop/README.md"] == PUSHED
    assert found["side/README.md"] == UNPUSHED  # a branch without an upstream
    assert found["side/new.txt"] == UNTRACKED
    assert found["side/.git"] == found["shop/lib/.git"] == found["shop/.git/worktrees/side/index"] == INTERNAL


def test_a_git_file_that_leads_out_of_the_tree_gives_no_state_and_says_so(
    make: Callable[..., Path], git: Git, base: Path
) -> None:
    make()
    outside = base.parent / "outside"
    (base / "shop").rename(outside)
    git(outside, "worktree", "add", "-q", "-b", "side", str(base / "side"))
    assert set(states(base).values()) == {NONE}
    found = find_git(DiskFiles(base))
    assert "leads to no repository" in found.reason(os.fsencode(base / "side/README.md"))


def test_a_bare_repository_is_gits_own_and_its_worktrees_are_working_copies(
    make: Callable[..., Path], git: Git, base: Path
) -> None:
    make("library")
    git(base, "clone", "-q", "--bare", str(base.parent / "library.git"), "shop/.bare")
    git(base / "shop/.bare", "worktree", "add", "-q", "../main", "main")
    (base / "shop/.git").write_text("gitdir: ./.bare\n")
    write(base, {"shop/notes.txt": "", "shop/main/new.txt": ""})
    found = states(base, internal=True)
    assert {state for name, state in found.items() if "/.bare/" in name} == {INTERNAL}
    assert found["shop/main/README.md"] == UNPUSHED  # a bare clone has no remote branches
    assert found["shop/main/new.txt"] == UNTRACKED
    assert found["shop/notes.txt"] == NONE
    reason = find_git(DiskFiles(base)).reason(os.fsencode(base / "shop/notes.txt"))
    assert "no working copy" in reason


def test_a_sparse_checkout_with_a_sparse_index_is_read(make: Callable[..., Path], git: Git, base: Path) -> None:
    repo = make()
    git(repo, "sparse-checkout", "set", "--cone", "--sparse-index", "docs")
    found = states(base)
    assert found == {"shop/README.md": PUSHED, "shop/docs/a.md": PUSHED}
    assert find_git(DiskFiles(base)).tracks(os.fsencode(repo / "src"))


def test_a_split_index_is_not_understood_and_said_so(make: Callable[..., Path], git: Git, base: Path) -> None:
    repo = make()
    git(repo, "update-index", "--split-index")
    assert set(states(base).values()) == {NONE}
    found = find_git(DiskFiles(base))
    assert "split" in found.reason(os.fsencode(repo / "README.md"))
    assert found.tracks(os.fsencode(repo / "docs"))  # it may


def test_nested_working_copies_answer_for_themselves(make: Callable[..., Path], base: Path) -> None:
    make()
    inner = make("shop/vendor/inner", pushed=False)
    write(inner, {"new.txt": ""})
    found = states(base)
    assert found["shop/vendor/inner/README.md"] == UNPUSHED
    assert found["shop/vendor/inner/new.txt"] == UNTRACKED
    assert found["shop/README.md"] == PUSHED


# --- damaged and changing repositories -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "damage", "words"),
    [
        ("index", lambda data: data[: len(data) // 2], "damaged"),
        ("index", lambda data: data[:40] + b"\xff" + data[41:], "checksum"),
        ("index", lambda data: b"", "cut short"),
        ("index", lambda data: b"DIRC\0\0\0\x09" + data[8:], "format"),
        ("HEAD", lambda data: b"\0\xff", "HEAD"),
        ("HEAD", lambda data: b"ref: refs/../../../etc/passwd\n", "HEAD"),
    ],
    ids=["half", "flipped", "empty", "version", "head", "head-outside"],
)
def test_a_damaged_repository_gives_no_state_and_a_reason(
    file: str, damage: Callable[[bytes], bytes], words: str, make: Callable[..., Path], base: Path
) -> None:
    path = make() / ".git" / file
    path.write_bytes(damage(path.read_bytes()))
    assert set(states(base).values()) == {NONE}
    found = find_git(DiskFiles(base))
    assert words in found.reason(os.fsencode(base / "shop/README.md"))
    assert found.reason(os.fsencode(base / "notes.txt")) == ""


def test_a_git_folder_without_a_repository_is_none(base: Path) -> None:
    write(base, {"shop/.git/config": "", "shop/a.txt": ""})
    assert states(base) == {"shop/a.txt": NONE}


def test_a_repository_that_goes_away_while_it_is_read_gives_no_state(make: Callable[..., Path], base: Path) -> None:
    repo = make()
    found = find_git(DiskFiles(base))
    (repo / ".git").rename(repo / "moved")
    entry = FileEntry(b"README.md", EntryKind.FILE, 4, 0, 0, 0, 0, 0o100644, 0, 0, 1, 0)
    assert found.state(os.fsencode(repo / "README.md"), entry) is NONE
    assert found.reason(os.fsencode(repo / "README.md"))


def test_an_index_larger_than_the_limit_is_not_read(
    make: Callable[..., Path], base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = make()
    monkeypatch.setattr(git_module, "MAX_INDEX_BYTES", 100)
    files = DiskFiles(base)
    found = find_git(files)
    assert "larger" in found.reason(os.fsencode(repo / "README.md"))
    assert os.fsencode(repo / ".git/index") not in files.reads


# --- folders that git tracks something in --------------------------------------------------------------------------


def test_a_folder_is_tracked_when_anything_below_it_is(make: Callable[..., Path], base: Path) -> None:
    repo = make()
    write(repo, {"srcs/a.txt": "", "src/deep/node_modules/x.js": ""})
    make("shop/vendor/inner")
    found = find_git(DiskFiles(base))
    answers = {
        name: found.tracks(os.fsencode(base / name))
        for name in (
            "shop",
            "shop/src",
            "shop/src/deep",
            "shop/src/deep/er",
            "shop/srcs",
            "shop/src/deep/node_modules",
            "shop/vendor",
            "shop/vendor/inner",
            ".",
            "other",
            "shop/.git/objects",
        )
    }
    assert {name for name, tracked in answers.items() if not tracked} == {
        "shop/srcs",
        "shop/src/deep/node_modules",
        "other",
    }


# --- all together --------------------------------------------------------------------------------------------------


def change_something(git: Git, repo: Path, dice: random.Random) -> None:
    """One step of somebody's work, with git or without it."""
    folder = dice.choice(["", "src/", "src/deep/", "docs/"])
    name = folder + dice.choice(["a.py", "b.md", "c.log", "d.txt"])
    match dice.randrange(9):
        case 0 | 1 | 2:
            write(repo, {name: f"text {dice.random()}"})
        case 3:
            git(repo, "add", folder or ".", check=False)
        case 4:
            git(repo, "commit", "-q", "-a", "-m", "work", check=False)
        case 5:
            git(repo, "push", "-q", check=False)
        case 6:
            (repo / name).unlink(missing_ok=True)
        case 7:
            git(repo, "stash", "-q", check=False)
        case 8:
            write(repo, {folder + ".gitignore": dice.choice(["*.log\n", "/d.txt\n", "deep/\n!*.log\n"])})


@pytest.mark.parametrize("seed", range(8))
def test_whatever_somebody_does_the_states_are_those_of_git(
    seed: int, make: Callable[..., Path], git: Git, base: Path
) -> None:
    repo, dice = make(), random.Random(seed)
    for _ in range(12):
        change_something(git, repo, dice)
        assert_same_as_git(git, base, repo)


def test_a_snapshot_gives_the_same_answers_as_the_disk(make: Callable[..., Path], git: Git, base: Path) -> None:
    repo = make()
    dice = random.Random(7)
    for _ in range(20):
        change_something(git, repo, dice)
    wanted = states(base, internal=True)
    disk = DiskFiles(base)
    folders = list(disk.directories())
    paths = [f.path + b"/" + e.name for f in folders for e in f.children if e.kind is EntryKind.FILE]
    kept = KeptFiles(folders, {path: disk.read(path, 1 << 24) for path in paths})
    (base / "shop").rename(base / "gone")
    found = find_git(kept)
    prefix = os.fsencode(base) + b"/"
    for folder in folders:
        for entry in folder.children:
            path = folder.path + b"/" + entry.name
            if entry.kind is not EntryKind.DIR and path.startswith(prefix):
                assert found.state(path, entry) is wanted[os.fsdecode(path.removeprefix(prefix))]


@pytest.mark.parametrize(("limit", "value"), [("KEPT_INDEXES", 2), ("KEPT_ENTRIES", 9)])
def test_more_repositories_than_are_kept_give_the_same_answers_in_any_order(
    limit: str, value: int, make: Callable[..., Path], base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(git_module, limit, value)
    for number in range(4):
        make(f"repo{number}", pushed=number % 2 == 0)
    files = DiskFiles(base)
    found = find_git(files)
    entries = [
        (folder.path + b"/" + entry.name, entry)
        for folder in files.directories()
        for entry in folder.children
        if entry.name == b"README.md"
    ]
    for _ in range(2):
        assert [found.state(path, entry) for path, entry in entries] == [PUSHED, UNPUSHED] * 2
    index_reads = [path for path in files.reads if path.endswith(b"/.git/index")]
    assert len(index_reads) == 8  # each was dropped before it was asked for again
    assert found.roots == sorted(os.fsencode(base / f"repo{number}") for number in range(4))

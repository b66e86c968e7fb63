"""Folders that can be made again: every rule where it holds, where it nearly holds, and what nothing may override."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupiq.semantics.landmarks import survey
from backupiq.semantics.model import Decision
from backupiq.semantics.regenerable import RegenerableIndex, find_regenerable
from backupiq.semantics.regenerable_rules import PROOF_BYTES, render, rule_book
from tests.unit.semantics.project_trees import Content, MemoryFiles

ROOT = Path(__file__).resolve().parents[3]
TAG = b"Signature: 8a477f597d28d172789f06886806bc55"
PYVENV = b"home = /usr/bin\nversion = 3.12\n"

Tree = dict[str, Content]

# By rule: the folder, and the tree in which it can be made again.
RIGHT: dict[str, tuple[str, Tree]] = {
    "node-modules": ("/p/node_modules", {"/p/package.json": b"{}", "/p/node_modules/a/index.js": b"x"}),
    "parcel-cache": ("/p/.parcel-cache", {"/p/package.json": b"{}", "/p/.parcel-cache/data": b"x"}),
    "angular-cache": ("/p/.angular", {"/p/package.json": b"{}", "/p/.angular/cache/x": b"x"}),
    "cargo-target": ("/p/target", {"/p/Cargo.toml": b"[package]", "/p/target/debug/app": b"x"}),
    "maven-target": ("/p/target", {"/p/pom.xml": b"<project/>", "/p/target/app.jar": b"x"}),
    "sbt-target": ("/p/target", {"/p/build.sbt": b"name", "/p/target/x": b"x"}),
    "gradle-build": ("/p/build", {"/p/build.gradle.kts": b"plugins", "/p/build/libs/x.jar": b"x"}),
    "gradle-cache": ("/p/.gradle", {"/p/build.gradle": b"plugins", "/p/.gradle/x": b"x"}),
    "virtual-environment": ("/p/env", {"/p/env/pyvenv.cfg": PYVENV, "/p/env/bin/python": b"x", "/p/env/lib/x": b"x"}),
    "python-bytecode": ("/p/__pycache__", {"/p/a.py": b"", "/p/__pycache__/a.cpython-311.pyc": b"x"}),
    "pytest-cache": ("/p/.pytest_cache", {"/p/src/deep/a.py": b"x", "/p/.pytest_cache/v/x": b"x"}),
    "mypy-cache": ("/p/.mypy_cache", {"/p/a.py": b"x", "/p/.mypy_cache/x": b"x"}),
    "ruff-cache": ("/p/.ruff_cache", {"/p/src/a.py": b"x", "/p/.ruff_cache/x": b"x"}),
    "tox": ("/p/.tox", {"/p/tests/a.py": b"x", "/p/.tox/py311/x": b"x"}),
    "nox": ("/p/.nox", {"/p/noxfile.py": b"x", "/p/.nox/tests/x": b"x"}),
    "cmake-build-kind": ("/p/cmake-build-debug", {"/p/CMakeLists.txt": b"x", "/p/cmake-build-debug/x": b"x"}),
    "cmake-build": ("/p/build", {"/p/CMakeLists.txt": b"x", "/p/build/CMakeCache.txt": b"", "/p/build/x.o": b"x"}),
    "dotnet-obj": ("/p/obj", {"/p/App.csproj": b"<Project/>", "/p/obj/project.assets.json": b"x"}),
    "composer-vendor": ("/p/vendor", {"/p/composer.json": b"{}", "/p/vendor/autoload.php": b"x"}),
    "cocoapods": ("/p/Pods", {"/p/Podfile": b"x", "/p/Pods/Manifest.lock": b"x"}),
    "carthage": ("/p/Carthage", {"/p/Cartfile": b"x", "/p/Carthage/Build/x": b"x"}),
    "dart-tool": ("/p/.dart_tool", {"/p/pubspec.yaml": b"name: a", "/p/.dart_tool/x": b"x"}),
    "flutter-build": ("/p/build", {"/p/pubspec.yaml": b"name: a", "/p/build/app.apk": b"x"}),
    "mix-build": ("/p/_build", {"/p/mix.exs": b"x", "/p/_build/dev/x": b"x"}),
    "mix-deps": ("/p/deps", {"/p/mix.exs": b"x", "/p/deps/phoenix/x": b"x"}),
    "swift-build": ("/p/.build", {"/p/Package.swift": b"x", "/p/.build/debug/x": b"x"}),
    "zig-out": ("/p/zig-out", {"/p/build.zig": b"x", "/p/zig-out/bin/x": b"x"}),
    "zig-cache": ("/p/.zig-cache", {"/p/build.zig": b"x", "/p/.zig-cache/x": b"x"}),
    "stack-work": ("/p/.stack-work", {"/p/stack.yaml": b"x", "/p/.stack-work/x": b"x"}),
    "cabal-dist": ("/p/dist-newstyle", {"/p/cabal.project": b"x", "/p/dist-newstyle/x": b"x"}),
    "terraform": (
        "/p/.terraform",
        {"/p/main.tf": b"x", "/p/.terraform.lock.hcl": b"x", "/p/.terraform/providers/x": b"x"},
    ),
    "cache-tag": ("/p/anything", {"/p/anything/CACHEDIR.TAG": TAG + b"\n# by a program", "/p/anything/x": b"x"}),
}

# Trees that come near, and the folder that must not count as one that can be made again.
NEAR: dict[str, tuple[str, Tree]] = {
    "node_modules without package.json": ("/p/node_modules", {"/p/node_modules/mine.js": b"x"}),
    "the manifest one level up": ("/p/a/node_modules", {"/p/package.json": b"{}", "/p/a/node_modules/x": b"x"}),
    "the manifest only inside": ("/p/node_modules", {"/p/node_modules/package.json": b"{}"}),
    "an empty manifest": ("/p/node_modules", {"/p/package.json": b"", "/p/node_modules/x": b"x"}),
    "a folder with the manifest's name": ("/p/node_modules", {"/p/package.json/x": b"x", "/p/node_modules/x": b"x"}),
    "another case": ("/p/target", {"/p/cargo.toml": b"x", "/p/target/x": b"x"}),
    "parcel's cache alone": ("/p/.parcel-cache", {"/p/x": b"x", "/p/.parcel-cache/x": b"x"}),
    "Angular's cache alone": ("/p/.angular", {"/p/angular.json": b"{}", "/p/.angular/x": b"x"}),
    "a target of shooting": ("/p/target", {"/p/package.json": b"{}", "/p/target/photo.jpg": b"x"}),
    "build beside package.json": ("/p/build", {"/p/package.json": b"{}", "/p/build/x": b"x"}),
    "build beside settings.gradle": ("/p/build", {"/p/settings.gradle": b"x", "/p/build/x": b"x"}),
    ".gradle at home": ("/p/.gradle", {"/p/gradle.properties": b"x", "/p/.gradle/gradle.properties": b"secret"}),
    "build of CMake without its cache": ("/p/build", {"/p/CMakeLists.txt": b"x", "/p/build/notes.txt": b"x"}),
    "CMake's cache without CMakeLists.txt": ("/p/build", {"/p/build/CMakeCache.txt": b"x"}),
    "cmake-build without CMakeLists.txt": ("/p/cmake-build-debug", {"/p/x": b"x", "/p/cmake-build-debug/x": b"x"}),
    "venv without pyvenv.cfg": ("/p/venv", {"/p/venv/bin/python": b"x"}),
    "pyvenv.cfg that says nothing": ("/p/venv", {"/p/venv/pyvenv.cfg": b"homework = 1\n"}),
    "a project in its environment": ("/p/env", {"/p/env/pyvenv.cfg": PYVENV, "/p/env/src/mine.py": b"x"}),
    "a project in an environment that uv marked": (
        "/p/.venv",
        {"/p/.venv/pyvenv.cfg": PYVENV, "/p/.venv/CACHEDIR.TAG": TAG, "/p/.venv/thesis.tex": b"x"},
    ),
    "a project in an environment named build": (
        "/p/build",
        {"/p/build.gradle": b"x", "/p/build/pyvenv.cfg": PYVENV, "/p/build/thesis.tex": b"x"},
    ),
    "bytecode without source": ("/p/__pycache__", {"/p/__pycache__/lost.cpython-311.pyc": b"x"}),
    "bytecode with source elsewhere": ("/p/__pycache__", {"/p/b/a.py": b"x", "/p/__pycache__/a.pyc": b"x"}),
    "pytest's cache without Python": ("/p/.pytest_cache", {"/p/a.rb": b"x", "/p/.pytest_cache/x": b"x"}),
    "Python only beside the project": ("/p/.mypy_cache", {"/q/a.py": b"x", "/p/.mypy_cache/x": b"x"}),
    "Python only inside": ("/p/.tox", {"/p/.tox/py311/lib/a.py": b"x"}),
    "ruff's cache without Python": ("/p/.ruff_cache", {"/p/py": b"x", "/p/.ruff_cache/x": b"x"}),
    "nox without Python": ("/p/.nox", {"/p/noxfile": b"x", "/p/.nox/x": b"x"}),
    "obj of a modeller": ("/p/obj", {"/p/scene.blend": b"x", "/p/obj/teapot.obj": b"x"}),
    "obj beside a folder App.csproj": ("/p/obj", {"/p/App.csproj/x": b"x", "/p/obj/x": b"x"}),
    "vendor of Go": ("/p/vendor", {"/p/go.mod": b"module x", "/p/vendor/modules.txt": b"x"}),
    "Pods without Podfile": ("/p/Pods", {"/p/Podfile.lock": b"x", "/p/Pods/x": b"x"}),
    "Carthage without Cartfile": ("/p/Carthage", {"/p/history.md": b"x", "/p/Carthage/hannibal.md": b"x"}),
    "dart's folder without pubspec": ("/p/.dart_tool", {"/p/pubspec.lock": b"x", "/p/.dart_tool/x": b"x"}),
    "_build without mix.exs": ("/p/_build", {"/p/conf.py": b"x", "/p/_build/x": b"x"}),
    "deps without mix.exs": ("/p/deps", {"/p/Makefile": b"x", "/p/deps/x": b"x"}),
    ".build without Package.swift": ("/p/.build", {"/p/Package.resolved": b"x", "/p/.build/x": b"x"}),
    "zig-out without build.zig": ("/p/zig-out", {"/p/main.zig": b"x", "/p/zig-out/x": b"x"}),
    "zig's cache without build.zig": ("/p/.zig-cache", {"/p/main.zig": b"x", "/p/.zig-cache/x": b"x"}),
    "stack-work without stack.yaml": ("/p/.stack-work", {"/p/a.cabal": b"x", "/p/.stack-work/x": b"x"}),
    "dist-newstyle without cabal.project": ("/p/dist-newstyle", {"/p/a.hs": b"x", "/p/dist-newstyle/x": b"x"}),
    "Terraform without a lock": ("/p/.terraform", {"/p/main.tf": b"x", "/p/.terraform/x": b"x"}),
    "Terraform's lock without configuration": (
        "/p/.terraform",
        {"/p/.terraform.lock.hcl": b"x", "/p/.terraform/x": b"x"},
    ),
    "a tag without its signature": ("/p/c", {"/p/c/CACHEDIR.TAG": b"this is a cache, honestly", "/p/c/x": b"x"}),
    "a signature that is not at the beginning": ("/p/c", {"/p/c/CACHEDIR.TAG": b" " + TAG}),
    "half a signature": ("/p/c", {"/p/c/CACHEDIR.TAG": TAG[:-1]}),
}


def nothing_tracked(_: bytes) -> bool:
    return False


def decisions_of(tree: Tree, **more: tuple[str, ...]) -> dict[str, Decision]:
    found = find_regenerable(MemoryFiles(tree, **more), nothing_tracked)
    return {decision.path.decode(): decision for decision in found}


@pytest.mark.parametrize("rule", RIGHT)
def test_a_rule_accepts_what_it_is_made_for(rule: str) -> None:
    folder, tree = RIGHT[rule]
    assert list(decisions_of(tree)) == [folder]
    decision = decisions_of(tree)[folder]
    assert (decision.regenerable, decision.rule) == (True, rule)
    assert decision.reason.endswith(" again.")
    assert decision.reason[0].isupper()


def test_every_rule_has_a_tree_in_which_it_holds() -> None:
    assert set(RIGHT) == {rule.id for rule in rule_book().rules}


@pytest.mark.parametrize("case", NEAR)
def test_what_only_comes_near_is_listed_and_kept(case: str) -> None:
    folder, tree = NEAR[case]
    decision = decisions_of(tree)[folder]
    assert not decision.regenerable
    assert decision.reason.endswith(".")
    assert decision.reason[0].isupper()


@pytest.mark.parametrize("rule", RIGHT)
def test_a_folder_in_which_git_tracks_something_is_kept(rule: str) -> None:
    folder, tree = RIGHT[rule]
    asked: list[bytes] = []

    def tracks(path: bytes) -> bool:
        asked.append(path)
        return True

    (decision,) = find_regenerable(MemoryFiles(tree), tracks)
    assert asked == [folder.encode()]
    assert decision == Decision(folder.encode(), False, rule, "Git tracks files inside it.")


@pytest.mark.parametrize("rule", [rule for rule in RIGHT if rule != "cache-tag"])
def test_without_its_evidence_the_same_folder_is_not_accepted(rule: str) -> None:
    folder, tree = RIGHT[rule]
    inside_only = {path: data for path, data in tree.items() if path.startswith(folder + "/")}
    bare = {path: data for path, data in inside_only.items() if not path.endswith(("pyvenv.cfg", "CMakeCache.txt"))}
    assert not any(decision.regenerable for decision in decisions_of(bare).values())


def test_the_decision_says_why_in_a_persons_words() -> None:
    _, tree = RIGHT["terraform"]
    assert decisions_of(tree)["/p/.terraform"].reason == (
        "The backup holds *.tf and .terraform.lock.hcl beside it; terraform init fetches it again."
    )
    assert decisions_of({"/p/target/x": b"x"})["/p/target"].reason == (
        "The backup holds no Cargo.toml, pom.xml or build.sbt beside it."
    )
    _, tree = NEAR["a project in its environment"]
    assert decisions_of(tree)["/p/env"].reason == "It also holds src, which no tool put there."


def test_a_refusal_names_the_rule_that_came_nearest() -> None:
    _, tree = NEAR["build of CMake without its cache"]
    decision = decisions_of(tree)["/p/build"]
    assert decision.rule == "cmake-build"
    assert "CMakeCache.txt" in decision.reason


def test_what_lies_in_an_accepted_folder_is_not_listed_again() -> None:
    tree: Tree = {
        "/p/package.json": b"{}",
        "/p/node_modules/a/package.json": b"{}",
        "/p/node_modules/a/node_modules/b/x.js": b"x",
        "/p/node_modules/gyp/a.py": b"x",
        "/p/node_modules/gyp/__pycache__/a.pyc": b"x",
        "/p/node_modules/.cache/CACHEDIR.TAG": TAG,
    }
    assert list(decisions_of(tree)) == ["/p/node_modules"]


def test_what_lies_in_a_refused_folder_is_decided_by_itself() -> None:
    tree: Tree = {
        "/p/package.json": b"{}",
        "/p/node_modules/a/package.json": b"{}",
        "/p/node_modules/a/node_modules/b/x.js": b"x",
    }
    found = find_regenerable(MemoryFiles(tree), lambda path: path == b"/p/node_modules")
    assert [(item.path, item.regenerable) for item in found] == [
        (b"/p/node_modules", False),
        (b"/p/node_modules/a/node_modules", True),
    ]


def test_siblings_whose_names_begin_alike_are_told_apart() -> None:
    tree: Tree = {
        "/p/Cargo.toml": b"x",
        "/p/target/x": b"x",
        "/p/target-shooting/Cargo.toml": b"x",
        "/p/target-shooting/target/x": b"x",
        "/p/target.d/x": b"x",
    }
    assert list(decisions_of(tree)) == ["/p/target", "/p/target-shooting/target"]


def test_a_symbolic_link_is_no_candidate_and_no_manifest() -> None:
    tree: Tree = {"/p/node_modules/x": b"x", "/q/package.json": b"{}"}
    found = decisions_of(tree, links=("/p/package.json", "/q/node_modules"))
    assert {path: decision.regenerable for path, decision in found.items()} == {"/p/node_modules": False}


def test_a_manifest_that_exclude_rules_leave_out_proves_nothing() -> None:
    folder, tree = RIGHT["cargo-target"]
    kept = {path: data for path, data in tree.items() if path != "/p/Cargo.toml"}
    assert not decisions_of(kept)[folder].regenerable


def test_an_environment_that_could_not_be_listed_completely_is_kept() -> None:
    folder, tree = RIGHT["virtual-environment"]
    assert not decisions_of(tree, incomplete=(folder,))[folder].regenerable


def test_an_empty_stamp_in_an_environment_is_no_work_of_a_person() -> None:
    folder, tree = RIGHT["virtual-environment"]
    assert decisions_of({**tree, f"{folder}/.installed": b""})[folder].regenerable
    assert not decisions_of({**tree, f"{folder}/.env": b"TOKEN=x"})[folder].regenerable
    assert not decisions_of({**tree, f"{folder}/empty": None})[folder].regenerable


def test_nothing_in_a_git_folder_is_a_candidate() -> None:
    tree: Tree = {"/p/.git/refs/heads/target/x": b"x", "/p/.git/x/CACHEDIR.TAG": TAG, "/p/.github/target/x": b"x"}
    assert list(decisions_of(tree)) == ["/p/.github/target"]


def test_a_marker_that_cannot_be_read_proves_nothing() -> None:
    folder, tree = RIGHT["cache-tag"]
    assert not decisions_of(tree, unreadable=(f"{folder}/CACHEDIR.TAG",))[folder].regenerable


def test_a_named_folder_is_saved_by_its_tag_when_its_own_rule_does_not_hold() -> None:
    found = decisions_of({"/p/target/CACHEDIR.TAG": TAG, "/p/target/x": b"x"})
    assert (found["/p/target"].regenerable, found["/p/target"].rule) == (True, "cache-tag")


def test_the_signature_is_the_one_of_the_specification() -> None:
    proof = next(rule.proof for rule in rule_book().rules if rule.id == "cache-tag")
    assert proof is not None
    digest = hashlib.md5(b".IsCacheDirectory", usedforsecurity=False).hexdigest()
    assert proof.begins == f"Signature: {digest}"


def test_only_markers_are_read_and_no_more_of_them_than_needed() -> None:
    files = MemoryFiles({**RIGHT["cache-tag"][1], **RIGHT["virtual-environment"][1], **RIGHT["cargo-target"][1]})
    find_regenerable(files, nothing_tracked)
    assert sorted(files.reads) == [(b"/p/anything/CACHEDIR.TAG", 43), (b"/p/env/pyvenv.cfg", PROOF_BYTES)]


def test_the_walk_is_not_made_again_when_its_landmarks_are_given() -> None:
    folder, tree = RIGHT["cargo-target"]
    landmarks = survey(MemoryFiles(tree))
    (decision,) = find_regenerable(MemoryFiles({}), nothing_tracked, landmarks)
    assert (decision.path.decode(), decision.regenerable) == (folder, True)


def test_the_index_covers_the_folder_and_all_below_it_and_nothing_else() -> None:
    accepted = Decision(b"/p/target", True, "cargo-target", "")
    index = RegenerableIndex([accepted, Decision(b"/q/target", False, "cargo-target", "")])
    assert index.covers(b"/p/target") is accepted
    assert index.covers(b"/p/target/debug/deps") is accepted
    for folder in (b"/p", b"/", b"/p/target2", b"/q/target/debug", b"", b"target"):
        assert index.covers(folder) is None
    assert RegenerableIndex([]).covers(b"/p/target") is None


def test_the_page_says_what_the_data_says() -> None:
    assert (ROOT / "docs/regenerable.md").read_text(encoding="utf-8") == render(), (
        "make it anew: python -m backupiq.semantics.regenerable_rules > docs/regenerable.md"
    )


def test_the_table_names_every_rule_once() -> None:
    rows = [line for line in render().splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == [rule.id for rule in rule_book().rules]
    assert len({rule.id for rule in rule_book().rules}) == len(rows)


NAMES = st.sampled_from(
    [
        b"target",
        b"Cargo.toml",
        b"build",
        b"CMakeCache.txt",
        b"pyvenv.cfg",
        b"CACHEDIR.TAG",
        b"a.py",
        b"__pycache__",
        b".tox",
    ]
) | st.binary(min_size=1, max_size=8).map(lambda name: name.replace(b"/", b"_"))
CONTENTS = st.sampled_from([TAG, PYVENV, b""]) | st.binary(max_size=60)


@given(st.dictionaries(st.lists(NAMES, min_size=1, max_size=5).map(tuple), CONTENTS, max_size=12), st.booleans())
def test_any_names_and_contents_give_sorted_decisions_that_do_not_nest(
    tree: dict[tuple[bytes, ...], bytes], tracked: bool
) -> None:
    paths = {b"/" + b"/".join(parts): content for parts, content in tree.items()}
    folders = {path[:cut] for path in paths for cut in range(1, len(path)) if path[cut : cut + 1] == b"/"}
    files = MemoryFiles({path: content for path, content in paths.items() if path not in folders})
    found = find_regenerable(files, lambda _: tracked)
    assert [item.path for item in found] == sorted({item.path for item in found})
    accepted = [item.path for item in found if item.regenerable]
    assert not (tracked and accepted)
    for item in found:
        assert not any(item.path.startswith(above + b"/") for above in accepted)
        assert item.rule
        assert item.reason

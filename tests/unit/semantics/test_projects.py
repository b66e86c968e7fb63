"""Projects in trees: where their roots are, what belongs to them, what does not, and what bounds the work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupiq.discovery.entry import Directory
from backupiq.discovery.walk import walk
from backupiq.errors import CancelledRunError, RepositoryDamagedError
from backupiq.semantics import projects as module
from backupiq.semantics.landmarks import survey
from backupiq.semantics.model import Framework, Project
from backupiq.semantics.projects import ProjectIndex, find_projects
from tests.unit.semantics.project_trees import Content, MemoryFiles

Tree = dict[str, Content]
REACT = json.dumps({"name": "web", "dependencies": {"react": "^18.2.0"}}).encode()
DJANGO = b'[project]\nname = "api"\ndependencies = ["django>=4.2"]\n'


def projects_of(tree: Tree, **more: tuple[str, ...]) -> dict[str, Project]:
    return {project.root.decode(): project for project in find_projects(MemoryFiles(tree, **more))}


def frameworks_of(project: Project) -> set[str]:
    return {framework.name for framework in project.frameworks}


def test_a_project_has_the_name_and_the_frameworks_of_its_manifest() -> None:
    assert find_projects(MemoryFiles({"/home/ann/shop/package.json": REACT, "/home/ann/photo.jpg": b"x"})) == [
        Project(b"/home/ann/shop", "web", ("package.json",), (Framework("Node.js"), Framework("React", "18.2.0")))
    ]


def test_a_manifest_without_a_name_gives_the_name_of_the_folder() -> None:
    found = projects_of({"/a/b/c/d/shop/requirements.txt": b"flask", "/Gemfile": b"", "/p/broken/package.json": b"{"})
    assert {root: project.name for root, project in found.items()} == {
        "/": "/",
        "/a/b/c/d/shop": "shop",
        "/p/broken": "broken",
    }


def test_projects_in_a_project_are_projects_of_their_own() -> None:
    found = projects_of(
        {
            "/mono/package.json": b'{"name": "mono", "workspaces": ["packages/*"]}',
            "/mono/packages/web/package.json": REACT,
            "/mono/services/api/pyproject.toml": DJANGO,
            "/mono/services/api/src/api/x.py": b"x",
        }
    )
    assert {root: project.name for root, project in found.items()} == {
        "/mono": "mono",
        "/mono/packages/web": "web",
        "/mono/services/api": "api",
    }
    assert frameworks_of(found["/mono"]) == {"Node.js"}


def test_parts_below_a_project_belong_to_it() -> None:
    found = projects_of(
        {
            "/p/pyproject.toml": DJANGO,
            "/p/docs/requirements.txt": b"sphinx==7.2",
            "/p/docker/Dockerfile": b"FROM scratch",
            "/p/deploy/k8s/base/app.yaml": b"apiVersion: v1\nkind: Pod\n",
            "/p/.github/workflows/ci.yml": b"on: push",
            "/p/lib/CMakeLists.txt": b"add_library(x)",
        }
    )
    (project,) = found.values()
    assert project.manifests == (
        "pyproject.toml",
        ".github/workflows/ci.yml",
        "deploy/k8s/base/app.yaml",
        "docker/Dockerfile",
        "docs/requirements.txt",
        "lib/CMakeLists.txt",
    )
    assert frameworks_of(project) == {"CMake", "Django", "Docker", "GitHub Actions", "Kubernetes", "Python", "Sphinx"}


def test_parts_without_a_project_above_are_a_project() -> None:
    found = projects_of(
        {
            "/infra/main.tf": b'terraform {\n  required_version = "~> 1.6"\n}\n',
            "/infra/modules/net/main.tf": b'resource "a" "b" {\n}\n',
            "/play/roles/web/tasks/main.yml": b"- debug:\n",
            "/play/roles/db/tasks/main.yml": b"- debug:\n",
        }
    )
    assert {root: frameworks_of(project) for root, project in found.items()} == {
        "/infra": {"Terraform"},
        "/play": {"Ansible"},
    }
    assert found["/infra"].frameworks == (Framework("Terraform", "1.6"),)


def test_parts_of_a_working_copy_are_not_drawn_to_a_project_outside_of_it() -> None:
    found = projects_of(
        {
            "/home/package.json": b"{}",
            "/home/shop/.git/HEAD": b"x",
            "/home/shop/requirements.txt": b"flask",
            "/home/tool/.git": b"gitdir: ../x",
            "/home/tool/docker/dev/Dockerfile": b"x",
            "/home/notes/Dockerfile": b"x",
        }
    )
    assert {root: project.manifests for root, project in found.items()} == {
        "/home": ("package.json", "notes/Dockerfile"),
        "/home/shop": ("requirements.txt",),
        "/home/tool": ("docker/dev/Dockerfile",),
    }


def test_parts_far_below_a_project_are_not_drawn_to_it() -> None:
    found = projects_of({"/home/package.json": b"{}", "/home/ann/work/2024/client/infra/main.tf": b"resource x {"})
    assert set(found) == {"/home", "/home/ann/work/2024/client/infra"}


def test_a_project_call_makes_a_folder_of_cmake_a_project() -> None:
    found = projects_of(
        {
            "/p/CMakeLists.txt": b"project(top)\nadd_subdirectory(lib)",
            "/p/lib/CMakeLists.txt": b"add_library(x)",
            "/p/vendored/CMakeLists.txt": b"project(other)",
        }
    )
    assert {root: project.name for root, project in found.items()} == {"/p": "top", "/p/vendored": "other"}


def test_of_several_manifests_the_first_that_gives_a_name_names_the_project() -> None:
    found = projects_of(
        {"/p/package.json": b'{"devDependencies": {"vite": "5"}}', "/p/pyproject.toml": DJANGO, "/p/setup.cfg": b"[x]"}
    )
    assert found["/p"].name == "api"
    assert found["/p"].manifests == ("package.json", "pyproject.toml")


def test_the_exact_version_of_a_lock_is_believed_before_the_wish() -> None:
    lock = b"GEM\n  specs:\n    rails (7.1.3)\n\nDEPENDENCIES\n  rails (~> 7.0)\n"
    found = projects_of({"/p/Gemfile": b'gem "rails", "~> 7.0"', "/p/Gemfile.lock": lock})
    assert Framework("Rails", "7.1.3") in found["/p"].frameworks


def test_installed_and_rebuilt_folders_hold_no_projects() -> None:
    tag = b"Signature: 8a477f597d28d172789f06886806bc55"
    found = projects_of(
        {
            "/p/package.json": REACT,
            "/p/node_modules/react/package.json": b'{"name": "react"}',
            "/alone/node_modules/x/package.json": b"{}",
            "/p/composer.json": b"{}",
            "/p/vendor/laravel/framework/composer.json": b"{}",
            "/p/env/pyvenv.cfg": b"home = /usr/bin",
            "/p/env/lib/python3/weird/pyproject.toml": DJANGO,
            "/usr/lib/python3/dist-packages/x/setup.py": b"x",
            "/home/.cargo/registry/src/tokio/Cargo.toml": b"[package]",
            "/home/go/pkg/mod/example.org/x@v1.0.0/go.mod": b"module x",
            "/home/.git/modules/x/go.mod": b"module x",
            "/work/scratch/CACHEDIR.TAG": tag,
            "/work/scratch/checkout/go.mod": b"module x",
        }
    )
    assert set(found) == {"/p"}


def test_a_target_that_is_no_build_may_hold_projects() -> None:
    assert set(projects_of({"/p/target/Cargo.toml": b"[package]"})) == {"/p/target"}


def test_a_symbolic_link_is_no_manifest() -> None:
    assert projects_of({"/p/x": b"x"}, links=("/p/package.json",)) == {}


def test_a_manifest_that_cannot_be_read_leaves_a_project_by_its_name() -> None:
    found = projects_of({"/p/go.mod": b"module x", "/q/manage.py": b"x"}, unreadable=("/p/go.mod", "/q/manage.py"))
    assert {root: project.name for root, project in found.items()} == {"/p": "p"}


def test_a_damaged_repository_costs_the_manifest_and_a_cancel_ends_the_search() -> None:
    class Failing(MemoryFiles):
        error: Exception = RepositoryDamagedError()

        def read(self, path: bytes, limit: int) -> bytes:
            raise self.error

    files = Failing({"/p/go.mod": b"module x"})
    assert [project.name for project in find_projects(files)] == ["p"]
    files.error = CancelledRunError()
    with pytest.raises(CancelledRunError):
        find_projects(files)


def test_raw_names_are_shown_as_their_escapes() -> None:
    (project,) = find_projects(MemoryFiles({b"/p/caf\xe9\n/Cargo.toml": b"", b"/p/caf\xe9\n/\xff/Dockerfile": b""}))
    assert project.root == b"/p/caf\xe9\n"
    assert project.name.isprintable()
    assert "caf" in project.name
    assert project.manifests == ("Cargo.toml", "\\udcff/Dockerfile")


def test_contents_are_read_with_limits_and_once_in_a_folder_of_kubernetes() -> None:
    pod = b"apiVersion: v1\nkind: Pod\n"
    files = MemoryFiles({"/p/k8s/a.yaml": b"x", "/p/k8s/b.yaml": pod, "/p/k8s/c.yaml": pod, "/p/Dockerfile": b"x"})
    find_projects(files)
    assert files.reads == [(b"/p/k8s/a.yaml", 64 << 10), (b"/p/k8s/b.yaml", 64 << 10)]


def test_of_a_folder_full_of_manifests_only_a_few_are_read() -> None:
    files = MemoryFiles({f"/p/{number}.csproj": b"<Project/>" for number in range(100)})
    (project,) = find_projects(files)
    assert len(files.reads) == len(project.manifests) == module.MOST_OF_A_FOLDER


def test_a_project_names_a_limited_number_of_manifests() -> None:
    tree: Tree = {"/p/go.mod": b"module x"}
    tree |= {f"/p/{number:03}/Dockerfile": b"" for number in range(100)}
    assert len(projects_of(tree)["/p"].manifests) == module.MOST_LISTED


@pytest.mark.parametrize("limit", ["MOST_MANIFESTS", "MOST_BYTES"])
def test_when_the_limits_of_a_tree_are_used_up_projects_are_known_by_name(
    limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, limit, 1)
    files = MemoryFiles({f"/{name}/package.json": REACT for name in "abc"})
    found = find_projects(files)
    assert [project.name for project in found] == ["web", "b", "c"]
    assert len(files.reads) == 1


def test_the_walk_is_not_made_again_when_its_landmarks_are_given() -> None:
    class Once(MemoryFiles):
        walks = 0

        def directories(self) -> Iterator[Directory]:
            self.walks += 1
            return super().directories()

    files = Once({"/p/package.json": REACT})
    landmarks = survey(files)
    assert [project.root for project in find_projects(files, landmarks)] == [b"/p"]
    assert files.walks == 1


def test_the_index_gives_the_nearest_project_above() -> None:
    outer, inner = Project(b"/p", "outer", ()), Project(b"/p/a/b", "inner", ())
    index = ProjectIndex([outer, inner])
    assert index.of(b"/p") is index.of(b"/p/a") is index.of(b"/p/a/bc") is outer
    assert index.of(b"/p/a/b") is index.of(b"/p/a/b/c/d") is inner
    assert index.of(b"/") is index.of(b"/pp") is index.of(b"") is None
    everything = Project(b"/", "root", ())
    assert ProjectIndex([everything]).of(b"/any/where") is everything
    assert ProjectIndex([]).of(b"/p") is None


def test_a_folder_on_the_disk_gives_what_it_gives_in_memory(tmp_path: Path) -> None:
    class Disk:
        def directories(self) -> Iterator[Directory]:
            return walk([tmp_path], on_unreadable=lambda item: pytest.fail(str(item)))

        def read(self, path: bytes, limit: int) -> bytes:
            with open(path, "rb") as file:
                return file.read(limit)

    for name, content in {"web/package.json": REACT, "web/Dockerfile": b"x", "web/api/pyproject.toml": DJANGO}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    base = os.fsencode(tmp_path)
    # A file of the machine above the folder is no part of the view: folders above it hold only what leads to it.
    assert [(project.root, project.name, project.manifests) for project in find_projects(Disk())] == [
        (base + b"/web", "web", ("package.json", "Dockerfile")),
        (base + b"/web/api", "api", ("pyproject.toml",)),
    ]


def test_importing_reads_no_data_and_loads_no_orchestration() -> None:
    program = (
        "import sys, backupiq.semantics.projects as p\n"
        "from backupiq.semantics import frameworks, manifests, regenerable_rules\n"
        "cached = [frameworks.framework_table, regenerable_rules.rule_book, manifests._kinds]\n"
        "print(sum(f.cache_info().currsize for f in cached), 'prefect' in sys.modules, 'tomllib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "False", "False"]


NAMES = st.sampled_from(
    [b"package.json", b"Cargo.toml", b"target", b"k8s", b"a.yaml", b"roles", b"tasks", b"main.yml", b"CMakeLists.txt",
     b"node_modules", b"x.csproj", b"requirements.txt", b"main.tf"]
) | st.binary(min_size=1, max_size=8).map(lambda name: name.replace(b"/", b"_"))  # fmt: skip
CONTENTS = st.sampled_from([REACT, DJANGO, b"", b"apiVersion: v1\nkind: Pod\n"]) | st.binary(max_size=60)


@given(st.dictionaries(st.lists(NAMES, min_size=1, max_size=5).map(tuple), CONTENTS, max_size=12))
def test_any_names_and_contents_give_projects_whose_roots_hold_their_manifests(
    tree: dict[tuple[bytes, ...], bytes],
) -> None:
    paths = {b"/" + b"/".join(parts): content for parts, content in tree.items()}
    folders = {path[:cut] for path in paths for cut in range(1, len(path)) if path[cut : cut + 1] == b"/"}
    files = MemoryFiles({path: content for path, content in paths.items() if path not in folders})
    found = find_projects(files)
    assert [project.root for project in found] == sorted({project.root for project in found})
    for project in found:
        assert project.manifests
        assert project.name.isprintable()
        assert ProjectIndex(found).of(project.root) is project
        assert list(project.frameworks) == sorted(project.frameworks, key=lambda framework: framework.name)

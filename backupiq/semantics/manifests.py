"""Which files tell about projects, and what they say.

A file whose name alone makes its folder a project stays one when it cannot be read or understood; a file that only adds
to a project must say what such a file says.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import msgspec

from backupiq.semantics import manifest_data as structured
from backupiq.semantics import manifest_lines as plain
from backupiq.semantics.frameworks import framework_table
from backupiq.semantics.manifest_parsing import LIMIT, LONGEST_NAME, UNREADABLE, Manifest
from backupiq.telemetry.text import printable, printable_path

Reader = Callable[[bytes, str], Manifest]

YAML_LIMIT = 64 << 10
"""How many bytes of a YAML file are read that may be a manifest of Kubernetes or a playbook."""


class Kind(msgspec.Struct, frozen=True):
    """A kind of manifest. ``read`` is None when the name says all; ``root``: its folder is a project of its own.

    ``rank`` orders the manifests of a folder: the first that gives a name names the project, and the first that gives
    the version of a framework is believed. ``once``: one such file in a folder says as much as all of them.
    ``up``: how many levels above its folder a project would be rooted that has nothing else.
    """

    rank: int
    read: Reader | None
    root: bool
    limit: int = LIMIT
    once: bool = False
    up: int = 0


# In the order of their rank. True: the folder is a project of its own.
_EXACT: tuple[tuple[str, Reader | None, bool], ...] = (
    ("Gemfile.lock", plain.gemfile_lock, True),
    ("package.json", structured.package_json, True),
    ("deno.json", structured.deno_json, True),
    ("pyproject.toml", structured.pyproject_toml, True),
    ("setup.cfg", plain.setup_cfg, False),
    ("setup.py", plain.setup_py, False),
    ("Pipfile", structured.pipfile, True),
    ("Cargo.toml", structured.cargo_toml, True),
    ("go.mod", plain.go_mod, True),
    ("pom.xml", structured.pom_xml, True),
    ("settings.gradle", plain.gradle_build, True),
    ("settings.gradle.kts", plain.gradle_build, True),
    ("build.gradle", plain.gradle_build, True),
    ("build.gradle.kts", plain.gradle_build, True),
    ("build.sbt", plain.sbt_build, True),
    ("Gemfile", plain.gemfile, True),
    ("composer.json", structured.composer_json, True),
    ("pubspec.yaml", plain.pubspec_yaml, True),
    ("mix.exs", plain.mix_exs, True),
    ("Package.swift", plain.package_swift, True),
    ("CMakeLists.txt", plain.cmake_lists, True),
    ("Project.toml", structured.julia_project, False),
    ("project.godot", plain.godot_project, True),
    ("stack.yaml", None, True),
    ("cabal.project", None, True),
    ("build.zig", None, True),
    ("dune-project", None, True),
    ("rebar.config", None, True),
    ("project.clj", None, True),
    ("elm.json", None, True),
    ("meson.build", None, True),
    ("shard.yml", plain.line_after("name:"), True),
    ("Chart.yaml", plain.helm_chart, False),
    ("environment.yml", plain.conda_environment, False),
    ("environment.yaml", plain.conda_environment, False),
    ("libs.versions.toml", structured.version_catalog, False),
    ("AndroidManifest.xml", structured.android_manifest, False),
    ("Podfile", plain.podfile, False),
    ("manage.py", plain.saying(b"DJANGO_SETTINGS_MODULE", "pypi", "django"), False),
    ("artisan", plain.saying(b"Illuminate", "composer", "laravel/framework"), False),
    ("compose.yaml", plain.line_after("name:", root=False), False),
    ("compose.yml", plain.line_after("name:", root=False), False),
    ("docker-compose.yml", plain.line_after("name:", root=False), False),
    ("docker-compose.yaml", plain.line_after("name:", root=False), False),
)
_ENDINGS: tuple[tuple[str, Reader | None, bool], ...] = (
    (".sln", None, True),
    (".csproj", structured.dotnet_project, True),
    (".fsproj", structured.dotnet_project, True),
    (".vbproj", structured.dotnet_project, True),
    (".uproject", structured.unreal_project, True),
    (".gemspec", plain.gemfile, True),
    (".cabal", None, True),
    (".nimble", None, True),
    (".tf", plain.terraform, False),
    (".dockerfile", None, False),
)
_AFTER_ALL = len(_EXACT) + len(_ENDINGS)

_REQUIREMENTS = Kind(_AFTER_ALL, plain.requirements_txt, root=False)
_REQUIREMENTS_FOLDER = Kind(_AFTER_ALL, plain.requirements_txt, root=False, up=1)
_ROLE = Kind(_AFTER_ALL + 1, None, root=False, up=3)
_WORKFLOW = Kind(_AFTER_ALL + 1, None, root=False, once=True, up=2)
_MARKER = Kind(_AFTER_ALL + 1, None, root=False)
_DOCKER = Kind(_AFTER_ALL + 1, None, root=False)
_WORDPRESS = Kind(_AFTER_ALL + 1, plain.wordpress_version, root=False, up=1)
_PLAYBOOK = Kind(_AFTER_ALL + 2, plain.playbook, root=False, limit=YAML_LIMIT, once=True)
_KUBERNETES = Kind(_AFTER_ALL + 3, plain.kubernetes, root=False, limit=YAML_LIMIT, once=True)

# Folders in which YAML files are looked at for what they say; everywhere else there are far too many of them.
_KUBERNETES_FOLDERS = frozenset(
    b"k8s kubernetes kube manifests deploy deployment deployments base overlays kustomize argocd flux openshift".split()
)
_PLAYBOOK_FOLDERS = frozenset(b"playbooks playbook ansible".split())
_PLAYBOOKS = frozenset(b"site.yml site.yaml playbook.yml playbook.yaml".split())
_ROLE_MAIN = frozenset(b"main.yml main.yaml".split())
_YAML = (b".yml", b".yaml")
_BEGINNINGS = (b"requirements", b"Dockerfile", b"docker-compose.", b"compose.")


@functools.cache
def _kinds() -> tuple[dict[bytes, Kind], dict[bytes, Kind]]:
    """Kinds by exact name and by ending."""
    exact = {name.encode(): _MARKER for name in framework_table().file_names()}
    exact.update({name.encode(): Kind(rank, read, root) for rank, (name, read, root) in enumerate(_EXACT)})
    endings = {
        name.encode(): Kind(rank, read, root) for rank, (name, read, root) in enumerate(_ENDINGS, start=len(_EXACT))
    }
    return exact, endings


def names_that_tell() -> tuple[frozenset[bytes], frozenset[bytes], tuple[bytes, ...]]:
    """The names, the endings (with their dot) and the beginnings of files that ``kind_of`` may know."""
    exact, endings = _kinds()
    return (
        frozenset((*exact, *_PLAYBOOKS, b"version.php")),
        frozenset((*endings, *_YAML, b".txt")),
        _BEGINNINGS,
    )


def kind_of(folder: bytes, name: bytes) -> Kind | None:
    """The kind of manifest that a file of this name in this folder may be; None for none."""
    exact, endings = _kinds()
    found = exact.get(name)
    if found is not None:
        return found
    ending = name[name.rfind(b".") :]
    if (found := endings.get(ending)) is not None:
        return found if len(name) > len(ending) else None
    if ending == b".txt":
        if folder.endswith(b"/requirements"):
            return _REQUIREMENTS_FOLDER
        return _REQUIREMENTS if name.startswith(b"requirements") else None
    if name.startswith((b"Dockerfile.", b"Dockerfile-")):
        return _DOCKER
    if ending in _YAML:
        return _yaml_kind(folder, name)
    if name == b"version.php" and folder.endswith(b"/wp-includes"):
        return _WORDPRESS
    return None


def _yaml_kind(folder: bytes, name: bytes) -> Kind | None:
    if name.startswith((b"docker-compose.", b"compose.")):
        return _DOCKER
    above, _, last = folder.rpartition(b"/")
    if last in _PLAYBOOK_FOLDERS or name in _PLAYBOOKS:
        return _PLAYBOOK
    if last == b"tasks" and name in _ROLE_MAIN:
        return _ROLE if above.rpartition(b"/")[0].endswith(b"/roles") else None
    if last == b"workflows" and above.endswith(b"/.github"):
        return _WORKFLOW
    if last in _KUBERNETES_FOLDERS or above.rpartition(b"/")[2] in _KUBERNETES_FOLDERS:
        return _KUBERNETES
    return None


def standard_name(folder: bytes, name: bytes) -> str:
    """The name by which frameworks.toml knows such a file: ``Dockerfile`` for ``Dockerfile.dev``."""
    ending = name[name.rfind(b".") :]
    if name.startswith((b"Dockerfile.", b"Dockerfile-")) or ending == b".dockerfile":
        return "Dockerfile"
    if name.startswith((b"docker-compose.", b"compose.")) and ending in _YAML:
        return "compose.yaml"
    if ending in _YAML and folder.endswith(b"/.github/workflows"):
        return ".github/workflows"
    if ending in _YAML and folder.endswith(b"/tasks"):
        return "roles/*/tasks"
    return "*" + ending.decode("ascii", "replace") if ending in _kinds()[1] else printable_path(name)


def read_manifest(folder: bytes, name: bytes, data: bytes | None) -> Manifest | None:
    """What the manifest says, given its first ``kind_of(folder, name).limit`` bytes (None: it could not be read).

    None when it proves nothing. Never raises: what cannot be understood says nothing.
    """
    kind = kind_of(folder, name)
    if kind is None:
        return None
    uses = {("file", standard_name(folder, name).lower()): ""}
    if kind.read is None:
        return Manifest("", uses, kind.root)
    try:
        found = kind.read(data, printable_path(name)) if data is not None else None
    except UNREADABLE:
        found = None
    if found is None:
        return Manifest("", uses, root=True) if kind.root else None
    return Manifest(printable(found.name)[:LONGEST_NAME], {**found.uses, **uses}, found.root)

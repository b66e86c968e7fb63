"""Readers of manifests that are programs or notations of their own, line by line with plain expressions.

Only what such files usually say in one line is found; nothing is run. Every expression is linear on a cut line.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from backupiq.semantics.manifest_parsing import (
    Manifest,
    Uses,
    ini,
    lines,
    note,
    note_requirement,
    note_requirements,
    plain_version,
    scalar,
    text_of,
    yaml_pairs,
)

_QUOTED = re.compile(r"""["']([^"']{1,200})["']""")


# --- Python --------------------------------------------------------------------------------------------------------


def requirements_txt(data: bytes, _: str) -> Manifest:
    """pip's requirements files."""
    uses: Uses = {("platform", "python"): ""}
    note_requirements(uses, (line for line in lines(data) if line[:1] not in ("-", "#")))
    return Manifest("", uses, root=False)


def setup_cfg(data: bytes, _: str) -> Manifest:
    """setuptools' setup.cfg. Many have only settings of tools, and prove nothing."""
    found = ini(data)
    uses: Uses = {("platform", "python"): plain_version(" ".join(found.get(("options", "python_requires"), [])))}
    for (section, key), values in found.items():
        if (section, key) == ("options", "install_requires") or section == "options.extras_require":
            note_requirements(uses, (piece for value in values for piece in value.split(";;")))
    name = " ".join(found.get(("metadata", "name"), []))
    if not name and len(uses) == 1:
        raise ValueError("not setuptools'")
    return Manifest(text_of(name), uses, root=bool(name))


_SETUP_NAME = re.compile(r"""\bname\s{0,9}=\s{0,9}["']([^"']{1,200})["']""")


def setup_py(data: bytes, _: str) -> Manifest:
    """setup.py: the name, and the quoted requirements from ``install_requires`` to the end of its list.

    Many a module has that name; it must call ``setup`` of setuptools or its forerunner.
    """
    if b"setup(" not in data or not (b"setuptools" in data or b"distutils" in data):
        raise ValueError("not setuptools'")
    uses: Uses = {("platform", "python"): ""}
    name, listing = "", False
    for line in lines(data):
        if not name and (found := _SETUP_NAME.search(line)):
            name = found[1]
        if "install_requires" in line:
            listing, line = True, line.partition("install_requires")[2]
        if listing:
            for requirement in _QUOTED.findall(line.partition("#")[0]):
                note_requirement(uses, requirement)
            listing = "]" not in _QUOTED.sub("", line)
    return Manifest(text_of(name), uses)


_LISTED = re.compile(r"\s*-\s+([A-Za-z0-9._-]{1,100})\s*([=<>!~][^;#]{0,100})?$")
_BUILD = re.compile(r"(?<=[\w.*])=[^=]*$")  # numpy=1.26=py312h: the build behind the version


def conda_environment(data: bytes, _: str) -> Manifest:
    """conda's environment.yml, with the list of pip in it."""
    uses: Uses = {("platform", "python"): ""}
    for line in lines(data):
        if found := _LISTED.match(line.partition(" #")[0]):
            ecosystem = "platform" if found[1] == "python" else "pypi"
            note(uses, ecosystem, found[1], plain_version(_BUILD.sub("", found[2] or "")))
    return Manifest("", uses, root=False)


# --- Java, Kotlin --------------------------------------------------------------------------------------------------

_COORDINATES = re.compile(r"""["']([\w.-]{1,100}):([\w.-]{1,100})(?::([^"':@]{1,60}))?[:@]?[^"']{0,60}["']""")
_PLUGIN = re.compile(
    r"""\bid\s{0,9}\(?\s{0,9}["']([\w.-]{1,100})["']\)?(?:\s{1,9}version\s{1,9}["']([^"']{1,60})["'])?"""
)
_APPLIED = re.compile(r"""\bapply\s{1,9}plugin\s{0,9}:\s{0,9}["']([\w.-]{1,100})["']""")
_ROOT_PROJECT = re.compile(r"""\brootProject\.name\s{0,9}=\s{0,9}["']([^"']{1,200})["']""")


def gradle_build(data: bytes, _: str) -> Manifest:
    """build.gradle and settings.gradle, in Groovy or Kotlin."""
    uses: Uses = {("platform", "gradle"): ""}
    name = ""
    for line in lines(data):
        for group, artifact, version in _COORDINATES.findall(line):
            note(uses, "maven", f"{group}:{artifact}", plain_version(version))
        for plugin, version in _PLUGIN.findall(line):
            note(uses, "gradle", plugin, plain_version(version))
        for plugin in _APPLIED.findall(line):
            note(uses, "gradle", plugin)
        if not name and (found := _ROOT_PROJECT.search(line)):
            name = found[1]
    return Manifest(text_of(name), uses)


_SBT = re.compile(r'"([\w.-]{1,100})"\s{0,9}%{1,3}\s{0,9}"([\w.-]{1,100})"\s{0,9}%\s{0,9}"([^"]{1,60})"')
_SBT_SETTING = re.compile(r'\b(name|scalaVersion)\s{0,9}:=\s{0,9}"([^"]{1,200})"')


def sbt_build(data: bytes, _: str) -> Manifest:
    """sbt's build.sbt (Scala)."""
    uses: Uses = {}
    settings: dict[str, str] = {}
    for line in lines(data):
        for group, artifact, version in _SBT.findall(line):
            note(uses, "maven", f"{group}:{artifact}", plain_version(version))
        for key, value in _SBT_SETTING.findall(line):
            settings.setdefault(key, value)
    note(uses, "platform", "scala", plain_version(settings.get("scalaVersion")))
    return Manifest(text_of(settings.get("name")), uses)


# --- Go, Ruby, Elixir, Swift, Dart ---------------------------------------------------------------------------------

_GO_REQUIRED = re.compile(r"\s*(?:require\s+)?([\w.~/-]{3,200})\s+(v\d[\w.+-]{0,99})\s*(?://.*)?$")
_GO_MAJOR = re.compile(r"(?:/v\d+|\.v\d+)$")


def go_mod(data: bytes, _: str) -> Manifest:
    """go.mod. A module is known without the major version at the end of its path."""
    uses: Uses = {}
    name = version = ""
    for line in lines(data):
        word, _, rest = line.strip().partition(" ")
        if word == "module" and not name:
            name = rest.partition("//")[0].strip().strip('"')
        elif word == "go" and not version:
            version = plain_version(rest)
        elif word not in ("replace", "exclude", "retract") and (found := _GO_REQUIRED.match(line)):
            note(uses, "go", _GO_MAJOR.sub("", found[1]), found[2][1:])
    note(uses, "platform", "go", version)
    return Manifest(text_of(_GO_MAJOR.sub("", name).rpartition("/")[2]), uses)


_GEM = re.compile(
    r"""\s*(?:gem|\w{1,20}\.add_(?:\w{1,12}_)?dependency)\s*\(?\s*["']([\w.-]{1,100})["']"""
    r"""(?:\s*,\s*["']([^"']{1,60})["'])?"""
)
_RUBY = re.compile(r"""\s*ruby\s+["']([^"']{1,60})["']""")


def gemfile(data: bytes, name: str) -> Manifest:
    """Bundler's Gemfile, and gemspecs."""
    uses: Uses = {("platform", "ruby"): ""}
    for line in lines(data):
        if found := _GEM.match(line):
            note(uses, "gem", found[1], plain_version(found[2]))
        elif found := _RUBY.match(line):
            note(uses, "platform", "ruby", plain_version(found[1]))
    return Manifest(name.removesuffix(".gemspec") if name.endswith(".gemspec") else "", uses)


_GEM_LOCKED = re.compile(r" {4}([\w.-]{1,100}) \(([^()\s]{1,60})\)$")
_GEM_WANTED = re.compile(r" {2}([\w.-]{1,100})!?(?: \(|$)")


def gemfile_lock(data: bytes, _: str) -> Manifest:
    """Bundler's Gemfile.lock: the exact versions of what the Gemfile asks for by name."""
    locked: dict[str, str] = {}
    uses: Uses = {("platform", "ruby"): ""}
    section = ""
    for line in lines(data):
        if line[:1].isalpha():
            section = line.strip()
        elif found := _GEM_LOCKED.match(line):
            locked.setdefault(found[1], found[2])
        elif section == "DEPENDENCIES" and (found := _GEM_WANTED.match(line)):
            note(uses, "gem", found[1], plain_version(locked.get(found[1])))
    return Manifest("", uses)


_MIX_DEPENDENCY = re.compile(r"""\{\s*:(\w{1,100})\s*,\s*(?:"([^"]{1,60})")?""")
_MIX_APP = re.compile(r"\bapp:\s{0,9}:(\w{1,100})")
_MIX_ELIXIR = re.compile(r'\belixir:\s{0,9}"([^"]{1,60})"')


def mix_exs(data: bytes, _: str) -> Manifest:
    """Mix's mix.exs (Elixir)."""
    uses: Uses = {("platform", "elixir"): ""}
    name = ""
    for line in lines(data):
        for dependency, version in _MIX_DEPENDENCY.findall(line):
            note(uses, "hex", dependency, plain_version(version))
        if not name and (found := _MIX_APP.search(line)):
            name = found[1]
        if found := _MIX_ELIXIR.search(line):
            note(uses, "platform", "elixir", plain_version(found[1]))
    return Manifest(name, uses)


_SWIFT_TOOLS = re.compile(r"//\s{0,9}swift-tools-version\s{0,9}:\s{0,9}([\d.]{1,20})")
_SWIFT_NAME = re.compile(r'\bname:\s{0,9}"([^"]{1,200})"')
_SWIFT_PACKAGE = re.compile(r'\burl:\s{0,9}"[^"]{0,200}/([^"/]{1,100}?)(?:\.git)?"(?:[^"]{0,60}"([\d][^"]{0,40})")?')


def package_swift(data: bytes, _: str) -> Manifest:
    """Swift's Package.swift; the first name in it is the package's."""
    uses: Uses = {("platform", "swift"): ""}
    name = ""
    for line in lines(data):
        if found := _SWIFT_TOOLS.match(line):
            note(uses, "platform", "swift", found[1])
        if not name and (found := _SWIFT_NAME.search(line)):
            name = found[1]
        for package, version in _SWIFT_PACKAGE.findall(line):
            note(uses, "swift", package, plain_version(version))
    return Manifest(name, uses)


_POD = re.compile(
    r"""\s*(pod|platform)\s+(?:["']([^"'/]{1,100})[^"']{0,100}["']|:(\w{1,20}))"""
    r"""(?:\s*,\s*["']([^"']{1,60})["'])?"""
)


def podfile(data: bytes, _: str) -> Manifest:
    """CocoaPods' Podfile."""
    uses: Uses = {("platform", "cocoapods"): ""}
    for line in lines(data):
        if found := _POD.match(line):
            note(uses, "pod" if found[1] == "pod" else "platform", found[2] or found[3], plain_version(found[4]))
    return Manifest("", uses, root=False)


def pubspec_yaml(data: bytes, _: str) -> Manifest:
    """Dart's pubspec.yaml."""
    uses: Uses = {("platform", "dart"): ""}
    name = ""
    for keys, value in yaml_pairs(data):
        match keys:
            case ("name",):
                name = value
            case ("environment", "sdk"):
                note(uses, "platform", "dart", plain_version(value))
            case ("environment", "flutter"):
                note(uses, "pub", "flutter", plain_version(value))
            case ("dependencies" | "dev_dependencies", package):
                note(uses, "pub", package, plain_version(value))
    return Manifest(text_of(name), uses)


# --- C and C++ -----------------------------------------------------------------------------------------------------

_CMAKE_PROJECT = re.compile(r'\s*project\s*\(\s*"?([\w.+-]{1,100})', re.IGNORECASE)
_CMAKE_LEAST = re.compile(r"\s*cmake_minimum_required\s*\(\s*VERSION\s+([\d.]{1,20})", re.IGNORECASE)
_CMAKE_PACKAGE = re.compile(r"\s*find_package\s*\(\s*(\w{1,100})(?:\s+([\d.]{1,20}))?", re.IGNORECASE)


def cmake_lists(data: bytes, _: str) -> Manifest:
    """CMakeLists.txt: a project of its own when it calls ``project()``, else a part of the one above."""
    uses: Uses = {("platform", "cmake"): ""}
    name = ""
    for line in lines(data):
        if found := _CMAKE_PACKAGE.match(line):
            note(uses, "cmake", found[1], plain_version(found[2]))
        elif found := _CMAKE_LEAST.match(line):
            note(uses, "platform", "cmake", found[1])
        elif not name and (found := _CMAKE_PROJECT.match(line)):
            name = found[1]
    return Manifest(name, uses, root=bool(name))


# --- operating -----------------------------------------------------------------------------------------------------

_TERRAFORM_LEAST = re.compile(r'\s*required_version\s*=\s*"([^"]{1,60})"')
_TERRAFORM_BLOCK = re.compile(
    r"\s*(?:terraform|provider|resource|module|data|variable|output|locals|moved|import)\b[^{]{0,300}\{"
)


def terraform(data: bytes, _: str) -> Manifest:
    """A file of Terraform, when it has one of its blocks."""
    version, blocks = "", False
    for line in lines(data):
        blocks = blocks or _TERRAFORM_BLOCK.match(line) is not None
        if found := _TERRAFORM_LEAST.match(line):
            version = plain_version(found[1])
    if not blocks:
        raise ValueError("not Terraform's")
    return Manifest("", {("platform", "terraform"): version}, root=False)


def kubernetes(data: bytes, _: str) -> Manifest:
    """A manifest of Kubernetes: YAML with both ``apiVersion`` and ``kind`` at the top."""
    keys = {line.partition(":")[0] for line in lines(data) if line[:1] in "ak"}
    if not {"apiVersion", "kind"} <= keys:
        raise ValueError("not Kubernetes'")
    return Manifest("", {("platform", "kubernetes"): ""}, root=False)


def playbook(data: bytes, _: str) -> Manifest:
    """A playbook of Ansible: a list of plays, each with its hosts."""
    if not any(line.lstrip(" -").startswith("hosts:") and line[:1] in " -" for line in lines(data)):
        raise ValueError("not Ansible's")
    return Manifest("", {("platform", "ansible"): ""}, root=False)


def helm_chart(data: bytes, _: str) -> Manifest:
    """Helm's Chart.yaml."""
    found = {keys[0]: value for keys, value in yaml_pairs(data) if len(keys) == 1}
    if not {"apiVersion", "name"} <= found.keys():
        raise ValueError("not Helm's")
    return Manifest(text_of(found["name"]), {("platform", "helm"): ""})


# --- one line that tells -------------------------------------------------------------------------------------------


def line_after(start: str, *, root: bool = True) -> Callable[[bytes, str], Manifest]:
    """A reader of a file whose project's name stands in the line that begins with ``start``."""

    def read(data: bytes, _: str) -> Manifest:
        found = next((line for line in lines(data) if line.startswith(start)), start)
        return Manifest(text_of(scalar(found.removeprefix(start))), root=root)

    return read


def saying(needle: bytes, ecosystem: str, name: str) -> Callable[[bytes, str], Manifest]:
    """A reader of a file that proves one thing when it holds these bytes, and nothing when it does not."""

    def read(data: bytes, _: str) -> Manifest:
        if needle not in data:
            raise ValueError("another program's")
        return Manifest("", {(ecosystem, name): ""}, root=False)

    return read


_WORDPRESS_VERSION = re.compile(r"\s*\$wp_version\s*=\s*'([^']{1,40})'")


def wordpress_version(data: bytes, _: str) -> Manifest:
    """wp-includes/version.php of WordPress."""
    found = next(filter(None, map(_WORDPRESS_VERSION.match, lines(data))), None)
    if found is None:
        raise ValueError("not WordPress's")
    return Manifest("", {("platform", "wordpress"): plain_version(found[1])}, root=False)


_GODOT_VERSION = re.compile(r'config/features\s*=\s*PackedStringArray\(\s*"([\d.]{1,20})"')


def godot_project(data: bytes, _: str) -> Manifest:
    """Godot's project.godot."""
    name = version = ""
    for line in lines(data):
        if line.startswith("config/name="):
            name = scalar(line.removeprefix("config/name="))
        elif found := _GODOT_VERSION.match(line):
            version = found[1]
    return Manifest(text_of(name), {("platform", "godot"): version})

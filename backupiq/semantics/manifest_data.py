"""Readers of manifests that are JSON, TOML or XML. Each takes the bytes and the file's name and returns a Manifest."""

from __future__ import annotations

import re
from collections.abc import Mapping

from backupiq.semantics.manifest_parsing import (
    Manifest,
    Uses,
    child_text,
    inside,
    note,
    note_requirements,
    note_table,
    parse_json,
    parse_toml,
    parse_xml,
    plain_version,
    table,
    text_of,
    texts,
    wanted_version,
)

_MOST_ELEMENTS = 50_000


def package_json(data: bytes, _: str) -> Manifest:
    """npm's package.json."""
    found = parse_json(data)
    uses: Uses = {("platform", "node"): plain_version(inside(found, "engines", "node"))}
    for key in ("dependencies", "devDependencies", "peerDependencies", "optionalDependencies"):
        note_table(uses, "npm", found.get(key))
    return Manifest(text_of(found.get("name")), uses)


def deno_json(data: bytes, _: str) -> Manifest:
    """Deno's deno.json: its imports name packages of npm and JSR."""
    found = parse_json(data)
    uses: Uses = {("platform", "deno"): ""}
    for address in table(found.get("imports")).values():
        if isinstance(address, str) and address.startswith(("npm:", "jsr:")):
            name, _, version = address[4:].removeprefix("/").rpartition("@")
            note(uses, "npm", *((name, plain_version(version)) if name else (address[4:], "")))
    return Manifest(text_of(found.get("name")), uses)


def composer_json(data: bytes, _: str) -> Manifest:
    """Composer's composer.json (PHP)."""
    found = parse_json(data)
    uses: Uses = {("platform", "php"): plain_version(inside(found, "require", "php"))}
    for key in ("require", "require-dev"):
        note_table(uses, "composer", found.get(key))
    return Manifest(text_of(found.get("name")), uses)


def unreal_project(data: bytes, name: str) -> Manifest:
    """Unreal Engine's *.uproject."""
    version = plain_version(parse_json(data).get("EngineAssociation"))
    return Manifest(name.rpartition(".")[0], {("platform", "unreal"): version})


def pyproject_toml(data: bytes, _: str) -> Manifest:
    """pyproject.toml: PEP 621, PEP 735 and Poetry."""
    found = parse_toml(data)
    project, poetry = table(found.get("project")), table(inside(found, "tool", "poetry"))
    wanted = project.get("requires-python") or inside(poetry, "dependencies", "python")
    uses: Uses = {("platform", "python"): wanted_version(wanted)}
    note_requirements(uses, texts(project.get("dependencies")))
    for extras in (project.get("optional-dependencies"), found.get("dependency-groups")):
        for group in table(extras).values():
            note_requirements(uses, texts(group))
    note_table(uses, "pypi", poetry.get("dependencies"))
    note_table(uses, "pypi", poetry.get("dev-dependencies"))
    for group in table(poetry.get("group")).values():
        note_table(uses, "pypi", inside(group, "dependencies"))
    return Manifest(text_of(project.get("name")) or text_of(poetry.get("name")), uses)


def pipfile(data: bytes, _: str) -> Manifest:
    """Pipenv's Pipfile."""
    found = parse_toml(data)
    uses: Uses = {("platform", "python"): plain_version(inside(found, "requires", "python_version"))}
    note_table(uses, "pypi", found.get("packages"))
    note_table(uses, "pypi", found.get("dev-packages"))
    return Manifest("", uses)


def cargo_toml(data: bytes, _: str) -> Manifest:
    """Cargo.toml of a package or a workspace."""
    found = parse_toml(data)
    rust = inside(found, "package", "rust-version") or inside(found, "workspace", "package", "rust-version")
    uses: Uses = {("platform", "rust"): plain_version(rust)}
    targets = table(found.get("target")).values()
    for holder in (found, table(found.get("workspace")), *map(table, targets)):
        for key in ("dependencies", "dev-dependencies", "build-dependencies"):
            for alias, wanted in table(holder.get(key)).items():
                note(uses, "crate", text_of(inside(wanted, "package")) or alias, wanted_version(wanted))
    return Manifest(text_of(inside(found, "package", "name")), uses)


def julia_project(data: bytes, _: str) -> Manifest:
    """Julia's Project.toml; other programs use that name too, so it must name a uuid or dependencies."""
    found = parse_toml(data)
    if not ({"uuid", "deps"} & found.keys()):
        raise ValueError("not Julia's")
    uses: Uses = {("platform", "julia"): plain_version(inside(found, "compat", "julia"))}
    for name in table(found.get("deps")):
        note(uses, "julia", name, plain_version(inside(found, "compat", name)))
    return Manifest(text_of(found.get("name")), uses)


def version_catalog(data: bytes, _: str) -> Manifest:
    """Gradle's libs.versions.toml, to which build files refer by alias."""
    found = parse_toml(data)
    versions = table(found.get("versions"))

    def version_of(entry: Mapping[str, object]) -> str:
        given = entry.get("version")
        reference = inside(given, "ref")
        return plain_version(versions.get(reference) if isinstance(reference, str) else given)

    uses: Uses = {}
    for library in map(table, table(found.get("libraries")).values()):
        name = text_of(library.get("module")) or f"{text_of(library.get('group'))}:{text_of(library.get('name'))}"
        note(uses, "maven", name, version_of(library))
    for plugin in map(table, table(found.get("plugins")).values()):
        note(uses, "gradle", text_of(plugin.get("id")), version_of(plugin))
    return Manifest("", uses, root=False)


_PROPERTY = re.compile(r"\$\{([^{}]{1,100})\}")


def pom_xml(data: bytes, _: str) -> Manifest:
    """Maven's pom.xml; a version may be a property of the same file."""
    root = parse_xml(data)
    properties = {item.tag: (item.text or "").strip() for item in root.iterfind("properties/*")}

    def resolved(text: str) -> str:
        return _PROPERTY.sub(lambda reference: properties.get(reference[1], ""), text[:200])

    java = next((properties[key] for key in _JAVA_VERSIONS if key in properties), "")
    uses: Uses = {("platform", "java"): plain_version(java)}
    for number, element in enumerate(root.iter()):
        if number >= _MOST_ELEMENTS:
            break
        if element.tag in ("parent", "dependency", "plugin"):
            name = f"{child_text(element, 'groupId')}:{child_text(element, 'artifactId')}"
            note(uses, "maven", name, plain_version(resolved(child_text(element, "version"))))
    return Manifest(text_of(child_text(root, "artifactId")), uses)


_JAVA_VERSIONS = ("maven.compiler.release", "java.version", "maven.compiler.source", "maven.compiler.target")


def dotnet_project(data: bytes, name: str) -> Manifest:
    """A project of MSBuild (*.csproj, *.fsproj, *.vbproj), in the old and the new style."""
    root = parse_xml(data)
    settings = {item.tag: (item.text or "").strip() for item in root.iterfind("PropertyGroup/*")}
    target = settings.get("TargetFramework") or settings.get("TargetFrameworks", "").partition(";")[0]
    target = target or settings.get("TargetFrameworkVersion", "")
    uses: Uses = {("platform", "dotnet"): target if re.fullmatch(r"[A-Za-z0-9.-]{1,40}", target) else ""}
    for sdk in [root.get("Sdk", ""), *(item.get("Name", "") for item in root.iterfind("Sdk"))]:
        note(uses, "nuget", sdk.partition("/")[0])
    for switch in ("UseWPF", "UseWindowsForms", "UseMaui"):
        if settings.get(switch, "").lower() == "true":
            note(uses, "nuget", switch)
    for item in root.iterfind("ItemGroup/PackageReference"):
        version = item.get("Version") or child_text(item, "Version")
        note(uses, "nuget", item.get("Include") or item.get("Update") or "", plain_version(version))
    return Manifest(text_of(settings.get("AssemblyName")) or name.rpartition(".")[0], uses)


def android_manifest(data: bytes, _: str) -> Manifest:
    """AndroidManifest.xml, which lies some folders below the project."""
    if parse_xml(data).tag != "manifest":
        raise ValueError("not Android's")
    return Manifest("", {("platform", "android"): ""}, root=False)

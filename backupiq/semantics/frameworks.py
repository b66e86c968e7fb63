"""Which frameworks the dependencies of a manifest are, by the table ``data/frameworks.toml``."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from importlib.resources import files as package_files

import msgspec

from backupiq.semantics.manifest_parsing import Uses
from backupiq.semantics.model import Framework


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One framework of the table. The fields are explained at the head of the data file."""

    name: str
    npm: tuple[str, ...] = ()
    pypi: tuple[str, ...] = ()
    maven: tuple[str, ...] = ()
    gradle: tuple[str, ...] = ()
    go: tuple[str, ...] = ()
    gem: tuple[str, ...] = ()
    composer: tuple[str, ...] = ()
    crate: tuple[str, ...] = ()
    nuget: tuple[str, ...] = ()
    pub: tuple[str, ...] = ()
    hex: tuple[str, ...] = ()
    swift: tuple[str, ...] = ()
    pod: tuple[str, ...] = ()
    cmake: tuple[str, ...] = ()
    julia: tuple[str, ...] = ()
    platform: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    def keys(self) -> Iterable[tuple[str, str]]:
        """Every (ecosystem, name) that shows it, in lower case as the readers of manifests give them."""
        for field in self.__struct_fields__[1:]:
            ecosystem = "file" if field == "files" else field
            yield from ((ecosystem, name.lower()) for name in getattr(self, field))


class FrameworkTable(msgspec.Struct, frozen=True):
    """The table: its entries, the name of a framework by (ecosystem, name), and the folders of installed packages, by
    name and by the end of their path."""

    entries: tuple[Entry, ...]
    by_use: Mapping[tuple[str, str], str]
    installed_names: frozenset[bytes]
    installed_ends: tuple[bytes, ...]

    def is_installed(self, folder: bytes) -> bool:
        """Whether a folder holds installed packages, by its own path alone."""
        return folder[folder.rfind(b"/") + 1 :] in self.installed_names or folder.endswith(self.installed_ends)

    def file_names(self) -> tuple[str, ...]:
        """The plain names of files that show a framework by themselves."""
        return tuple(name for entry in self.entries for name in entry.files if "*" not in name and "/" not in name)


@functools.cache
def framework_table() -> FrameworkTable:
    """The table, read once."""
    import tomllib

    text = package_files("backupiq.semantics").joinpath("data/frameworks.toml").read_text(encoding="utf-8")
    data = tomllib.loads(text)
    entries = msgspec.convert(data["framework"], tuple[Entry, ...])
    return FrameworkTable(
        entries,
        {key: entry.name for entry in entries for key in entry.keys()},  # noqa: SIM118 - not a mapping
        frozenset(name.encode() for name in data["installed_below"] if "/" not in name),
        tuple(b"/" + name.encode() for name in data["installed_below"] if "/" in name),
    )


def frameworks_of(uses: Uses) -> dict[str, str]:
    """The frameworks among these dependencies with their versions; of several versions the first that is not empty.

    A dependency of Maven shows the framework of its group when the table does not name the artifact itself.
    """
    by_use = framework_table().by_use
    found: dict[str, str] = {}
    for (ecosystem, name), version in uses.items():
        framework = by_use.get((ecosystem, name))
        if framework is None and ecosystem == "maven":
            framework = by_use.get((ecosystem, name.partition(":")[0]))
        if framework is not None:
            found[framework] = found.get(framework) or version
    return found


def as_frameworks(found: Mapping[str, str]) -> tuple[Framework, ...]:
    """The same as values, sorted by name."""
    return tuple(Framework(name, found[name]) for name in sorted(found))

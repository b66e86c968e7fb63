"""Reading manifests that nobody vouches for: bounded in size, depth and number, and never with an error of their own.

A reader may raise any of ``UNREADABLE``; whoever calls it takes the file for one that says nothing.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator

import msgspec

LIMIT = 1 << 20
"""How many bytes of a manifest are read."""
TOML_LIMIT = 256 << 10
"""How many bytes a TOML manifest may have: parsing takes time with the square of what a dotted key holds."""
MOST_DOTS = 30
"""How many dots a line of TOML may have outside of strings."""
MOST_LINES = 20_000
LONGEST_LINE = 1_000
MOST_USES = 5_000
"""How many dependencies of a manifest are looked at."""
DEEPEST_XML = 64
LONGEST_NAME = 200
LONGEST_VERSION = 40

UNREADABLE = (ValueError, TypeError, RecursionError, msgspec.MsgspecError, ET.ParseError)

Uses = dict[tuple[str, str], str]
"""What a project uses: the version by (ecosystem, name); an empty version where the manifest gives none."""


class Manifest(msgspec.Struct, frozen=True):
    """What a manifest says. ``root``: whether its folder is a project of its own, or only a part of the one above."""

    name: str = ""
    uses: Uses = msgspec.field(default_factory=dict)
    root: bool = True


# --- versions ------------------------------------------------------------------------------------------------------

_PIECES = re.compile(r"[,|\s]+")
_AFTER_OPERATOR = re.compile(r"(?<=[<>=~^!])\s+")
_VERSION = re.compile(r"[\[(]?(?:===?|~=|~>|>=?|=|\^|~)?v?([0-9][0-9A-Za-z.+-]*)\*?")
_OPEN_END = re.compile(r"[.+]+(?:[xX][.xX]*)?$")


def plain_version(wanted: object) -> str:
    """The first version that a requirement names as one it accepts: "4.2" of ">=4.2,<5", "" of "*" or of an address."""
    if not isinstance(wanted, str):
        return ""
    for piece in _PIECES.split(_AFTER_OPERATOR.sub("", wanted[:100].strip())):
        piece = piece.rstrip("])")
        if len(piece) <= LONGEST_VERSION and (found := _VERSION.fullmatch(piece)):
            return _OPEN_END.sub("", found[1])
    return ""


# --- plain text ----------------------------------------------------------------------------------------------------


def as_text(data: bytes) -> str:
    """The bytes as text: UTF-16 where a byte order mark says so, else UTF-8 with what is not replaced."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", "replace")
    return data.decode("utf-8-sig", "replace")


def lines(data: bytes) -> Iterator[str]:
    """The lines, cut to a length at which no expression is slow; not more than ``MOST_LINES`` of them."""
    for number, line in enumerate(as_text(data).splitlines()):
        if number >= MOST_LINES:
            return
        yield line[:LONGEST_LINE]


def ini(data: bytes) -> dict[tuple[str, str], list[str]]:
    """The values of an INI file by (section, key), each as its lines. configparser is slow on hostile lines."""
    values: dict[tuple[str, str], list[str]] = {}
    section, current = "", None
    for line in lines(data):
        stripped = line.strip()
        if not stripped or stripped[0] in "#;":
            continue
        if stripped[0] == "[" and stripped[-1] == "]":
            section, current = stripped[1:-1].strip(), None
        elif line[0].isspace() and current is not None:
            current.append(stripped)
        else:
            key, _, value = stripped.partition("=")
            current = values.setdefault((section, key.strip().lower()), [])
            if value.strip():
                current.append(value.strip())
    return values


_DEEPEST_YAML = 8


def yaml_pairs(data: bytes) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every ``key: value`` of block mappings with the keys above it, for manifests that people write by hand.

    Lists, flow style, anchors and text of several lines are passed over, and keys deeper than eight cut; the value is
    without quotes and comment.
    """
    stack: list[tuple[int, str]] = []
    for line in lines(data):
        content = line.lstrip(" ")
        if not content or content[0] in "#-\t%&*{}[]!|>'\"?@`":
            continue
        key, colon, value = content.partition(":")
        if not colon or (value and value[0] not in " \t"):
            continue
        indent = len(line) - len(content)
        while stack and stack[-1][0] >= indent:
            stack.pop()
        stack.append((indent, key.strip()))
        yield tuple(name for _, name in stack[:_DEEPEST_YAML]), scalar(value)


def scalar(value: str) -> str:
    """A value of YAML without its quotes or the comment behind it."""
    value = value.strip()
    if value[:1] in ("'", '"'):
        return value[1:].partition(value[0])[0]
    return value.partition(" #")[0].strip()


# --- structured text -----------------------------------------------------------------------------------------------


def parse_json(data: bytes) -> dict[str, object]:
    """A JSON object. ValueError when it is none."""
    return table(msgspec.json.decode(data.removeprefix(b"\xef\xbb\xbf")))


_TOML_STRING = re.compile(rb'"[^"\n]*"|\'[^\'\n]*\'')


def parse_toml(data: bytes) -> dict[str, object]:
    """A TOML document. ValueError when it is none, or one that would take long."""
    import tomllib

    if len(data) > TOML_LIMIT:
        raise ValueError("too large")
    if any(line.count(b".") > MOST_DOTS for line in _TOML_STRING.sub(b"", data).split(b"\n")):
        raise ValueError("too many dots in a line")
    return tomllib.loads(as_text(data))


class _Shallow(ET.TreeBuilder):
    """Builds a tree of limited depth, without namespaces, from XML that declares no document type."""

    depth = 0

    def start(self, tag: str, attrs: dict[str, str], /) -> ET.Element:
        self.depth += 1
        if self.depth > DEEPEST_XML:
            raise ValueError("nested too deeply")
        return super().start(tag.rpartition("}")[2], attrs)

    def end(self, tag: str, /) -> ET.Element:
        self.depth -= 1
        return super().end(tag.rpartition("}")[2])

    def doctype(self, name: str, public: str | None, system: str | None, /) -> None:
        raise ValueError("declares a document type")


def parse_xml(data: bytes) -> ET.Element:
    """The root element, names without namespaces. ValueError for entities, a document type, depth; ParseError."""
    text = as_text(data)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError("declares entities or a document type")
    # As text, so that an encoding that the file declares cannot bring a declaration past the look at it.
    parser = ET.XMLParser(target=_Shallow())  # noqa: S314
    parser.feed(text)
    root = parser.close()
    if not isinstance(root, ET.Element):
        raise ValueError("no element")
    return root


def child_text(element: ET.Element, name: str) -> str:
    """The text of the first child of that name, without the space around it."""
    return (element.findtext(name) or "").strip()


# --- values of any shape -------------------------------------------------------------------------------------------


def table(value: object) -> dict[str, object]:
    """The value when it is a table, else an empty one."""
    return value if isinstance(value, dict) else {}


def inside(value: object, *keys: str) -> object:
    """The value that these keys lead to, None when they do not."""
    for key in keys:
        value = table(value).get(key)
    return value


def text_of(value: object) -> str:
    """The value when it is text, cut to the length of a name."""
    return value.strip()[:LONGEST_NAME] if isinstance(value, str) else ""


def texts(value: object) -> Iterator[str]:
    """The texts of a list."""
    if isinstance(value, list):
        for item in value[:MOST_USES]:
            if isinstance(item, str):
                yield item


def wanted_version(value: object) -> str:
    """The version of a dependency that is given as text or as a table with a version."""
    return plain_version(value.get("version") if isinstance(value, dict) else value)


def note(uses: Uses, ecosystem: str, name: str, version: str = "") -> None:
    """Adds a dependency; the first version that is not empty stays."""
    key = (ecosystem, name.strip().lower())
    if key in uses:
        uses[key] = uses[key] or version
    elif name and len(name) <= LONGEST_NAME and len(uses) < MOST_USES:
        uses[key] = version


def note_table(uses: Uses, ecosystem: str, dependencies: object) -> None:
    """Adds the dependencies of a table from names to versions (or to tables with a version)."""
    for name, wanted in table(dependencies).items():
        note(uses, ecosystem, name, wanted_version(wanted))


_REQUIREMENT = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]{0,99})\s*(?:\[[^\]]{0,200}\])?\s*\(?([^;#@)]{0,100})")
_SEPARATORS = re.compile(r"[-_.]+")


def note_requirement(uses: Uses, requirement: str) -> None:
    """Adds a Python requirement (PEP 508) by its normal name (PEP 503)."""
    if found := _REQUIREMENT.match(requirement):
        note(uses, "pypi", _SEPARATORS.sub("-", found[1]), plain_version(found[2]))


def note_requirements(uses: Uses, requirements: Iterable[str]) -> None:
    """Adds Python requirements."""
    for requirement in requirements:
        note_requirement(uses, requirement)

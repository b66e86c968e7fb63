"""The tables that say what a name means: languages and formats out of data/*.json and data/*.toml, made ready once."""

from __future__ import annotations

import functools
import json
import os
import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import Any

from backupiq.semantics.model import Category, FileType

BY_NAME = 95
BY_ONLY_EXTENSION = 90
BY_SETTLED_EXTENSION = 80
BY_SHARED_EXTENSION = 60
"""Confidences of what a name alone says. At `SURE` and above nobody needs to look into the file."""
SURE = 80
COPY_PENALTY = 10
"""How much less sure the type of a copy (``name.py.bak``) is than that of ``name.py``."""

KINDS = {"programming": Category.CODE, "markup": Category.WEB, "prose": Category.DOCUMENT, "data": Category.DATA}
"""linguist's kinds of languages."""
PLAIN_TEXT = "text/plain"
DIGITS = frozenset(b"%d" % one for one in range(10))
DOTTED = (b"rc", b"ignore", b"attributes", b"gitconfig", b"gitmodules", b"env", b"htaccess", b"htpasswd", b"_profile")
"""Ends of names such as .gitignore that serve as extensions as well."""
COMPRESSED = ("gzip", "bzip2", "xz", "Zstandard", "LZ4", "lzip", "lzop", "compress", "LZMA", "Brotli")


@dataclass(frozen=True, slots=True)
class Type:
    """A language or format: ``text`` says whether its files must be text (True), must not be (False), or may (None);
    ``family`` is what such a file begins with (see formats.toml), empty when nothing is known about that."""

    name: str
    category: Category
    mime: str
    text: bool | None
    family: str = ""

    def found(self, by: str, confidence: int, conflict: bool = False) -> FileType:
        return FileType(self.name, self.category, self.mime, by, confidence, conflict)


@dataclass(frozen=True, slots=True)
class Claim:
    """What a name says: the type to go by, all the types it may be (likeliest first), and what was recognised in it."""

    found: FileType
    candidates: tuple[Type, ...]
    extension: str = ""


@dataclass(frozen=True, slots=True)
class Tables:
    """Everything that detection looks up. Keys are raw bytes; extensions are lower-case, without their first dot."""

    types: dict[str, Type]
    names: dict[bytes, Claim]
    extensions: dict[bytes, Claim]
    tails: frozenset[bytes]
    """Last parts of extensions that have several (``gz`` of ``tar.gz``), and endings of copies."""
    copies: frozenset[bytes]
    interpreters: dict[str, tuple[str, ...]]
    aliases: dict[str, str]
    families: dict[str, str]
    """Name of a format -> its family, for those whose signature several formats share."""
    rules: dict[str, Any]
    core: tuple[str, ...]
    vague: frozenset[str]
    """Types that say so little that every signature says more."""


def load(name: str) -> dict[str, Any]:
    """One of the data files. Raises OSError or ValueError only when the installation is damaged."""
    text = resources.files("backupiq.semantics").joinpath("data", name).read_text("utf-8")
    parsed: dict[str, Any] = tomllib.loads(text) if name.endswith(".toml") else json.loads(text)
    return parsed


@functools.cache
def tables() -> Tables:
    """The tables, read and joined at the first call (some 50 ms)."""
    rules = load("types.toml")
    languages = _folded(load("languages.json")["languages"], rules["same"])
    formats = load("formats.toml")
    formats.pop("header")
    families = {name: family for family, name in load("signatures.toml")["families"].items()}
    types = _language_types(languages, rules) | _format_types(formats, families)
    extensions = _extensions(languages, formats, rules)
    named = _names(languages, rules, types)
    claims = _dotted(named) | {os.fsencode(one): _claim(one, names, types, rules) for one, names in extensions.items()}
    copies = frozenset(os.fsencode(one) for one in rules["copies"]["endings"].split())
    return Tables(
        types=types,
        names=named,
        extensions=claims,
        tails=frozenset(one.rpartition(b".")[2] for one in claims if b"." in one) | copies | DIGITS,
        copies=copies,
        interpreters=_interpreters(languages, rules),
        aliases=_aliases(languages),
        families=families,
        rules=rules,
        core=tuple(rules["languages"]["core"]),
        vague=frozenset(rules["open"]["types"]),
    )


def _folded(languages: dict[str, dict[str, Any]], same: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Without the languages that count as another one, which takes over what they are known by."""
    for name, other in same.items():
        for key, several in languages.pop(name).items():
            if isinstance(several, list):
                mine = languages[other].setdefault(key, [])
                mine += [one for one in several if one not in mine]
    return languages


def _language_types(languages: dict[str, dict[str, Any]], rules: dict[str, Any]) -> dict[str, Type]:
    categories = {name: Category(category) for category, names in rules["categories"].items() for name in names}
    may_be_binary = set(rules["binary"]["languages"])
    types: dict[str, Type] = {}
    for name, entry in languages.items():
        mime = rules["mime"].get(name) or entry.get("mime", PLAIN_TEXT)
        category = categories.get(name, KINDS[entry["kind"]])
        types[name] = Type(name, category, mime, None if name in may_be_binary else True)
    return types


def _format_types(formats: dict[str, Any], families: dict[str, str]) -> dict[str, Type]:
    types: dict[str, Type] = {}
    for category, entries in formats.items():
        for name, (mime, _extensions, family) in entries.items():
            if family == "own":
                family = families.get(name, name)
            text = True if _is_text(mime) else False if family else None
            types[name] = Type(name, Category(category), mime, text, family)
    return types


def _is_text(mime: str) -> bool:
    return mime.startswith("text/") or mime.endswith(("/json", "+json", "+xml", "/xml"))


def _extensions(
    languages: dict[str, dict[str, Any]], formats: dict[str, Any], rules: dict[str, Any]
) -> dict[str, list[str]]:
    """Extension -> names of the types that use it, likeliest first."""
    users: dict[str, list[str]] = {}
    primary: set[tuple[str, str]] = set()
    for name, entry in languages.items():
        for position, one in enumerate(entry.get("extensions", [])):
            users.setdefault(one, []).append(name)
            if position == 0:
                primary.add((one, name))
    for name, several in rules["extensions"].items():
        for one in several.split():
            if name not in users.setdefault(one, []):
                users[one].append(name)
    for entries in formats.values():
        for name, (_mime, several, _family) in entries.items():
            for one in several.split():
                users.setdefault(one, []).append(name)
    popular = {name: at for at, name in enumerate(rules["languages"]["core"] + rules["languages"]["popular"])}
    for one, names in users.items():
        first = rules["first"].get(one, "")
        names.sort(key=lambda name: (name != first, popular.get(name, 999), (one, name) not in primary))
    return users


def _claim(extension: str, names: list[str], types: dict[str, Type], rules: dict[str, Any]) -> Claim:
    candidates = tuple(types[name] for name in names)
    confidence = BY_ONLY_EXTENSION
    if extension in rules["open"]["extensions"].split():
        confidence = BY_SHARED_EXTENSION
    elif len(names) > 1:
        settled = extension in rules["languages"]["settled"].split()
        confidence = BY_SETTLED_EXTENSION if settled else BY_SHARED_EXTENSION
    return Claim(candidates[0].found("extension", confidence), candidates, extension)


def _names(languages: dict[str, dict[str, Any]], rules: dict[str, Any], types: dict[str, Type]) -> dict[bytes, Claim]:
    """Whole names; those of linguist as they are, our own in lower case."""
    named: dict[str, str] = {}
    unheeded = set(rules["unheeded"]["names"].split())
    for name, entry in languages.items():
        for one in entry.get("names", []):
            if one not in unheeded:
                named.setdefault(one, name)
    for name, several in rules["names"].items():
        named.update(dict.fromkeys(several.split(), name))
    return {os.fsencode(one): Claim(types[name].found("name", BY_NAME), (types[name],)) for one, name in named.items()}


def _dotted(named: dict[bytes, Claim]) -> dict[bytes, Claim]:
    """Extensions out of names such as .gitignore: global.gitignore is another one."""
    return {
        name[1:]: Claim(claim.candidates[0].found("extension", BY_SETTLED_EXTENSION), claim.candidates)
        for name, claim in named.items()
        if name.startswith(b".") and name.count(b".") == 1 and name.endswith(DOTTED)
    }


def _interpreters(languages: dict[str, dict[str, Any]], rules: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    users: dict[str, list[str]] = {}
    for name, several in rules["interpreters"].items():
        for one in several.split():
            users.setdefault(one, []).append(name)
    ours = set(users)
    for name, entry in languages.items():
        for one in entry.get("interpreters", []):
            if one not in ours:
                users.setdefault(one, []).append(name)
    return {one: tuple(names) for one, names in users.items()}


def _aliases(languages: dict[str, dict[str, Any]]) -> dict[str, str]:
    """What modelines call a language, in lower case."""
    aliases: dict[str, str] = {}
    for name, entry in languages.items():
        for one in entry["aliases"]:
            aliases.setdefault(one, name)
    return aliases | {name.lower(): name for name in languages}

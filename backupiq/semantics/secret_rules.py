"""The rules that tell private keys and credentials: loaded from data, compiled with RE2 when first needed.

A rule is of one of four kinds:

- *token*: the secret tells itself ("ghp_..."). All their ``gate`` patterns make one search over a file; only when it
  hits are the rules tried, each only where one of its keywords is in the file.
- *assigned*: a service's name, an assignment, a value. Again one search for all of them decides.
- *placed*: tried only in files whose path has one of the ``endings``; their gate is the path.
- *container*: a file that is a secret as a whole, told by how it begins.

RE2 takes time that is linear in the input, whatever the pattern and the input are. Patterns see bytes as Latin-1: any
byte is a character.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Iterator
from importlib import resources
from typing import Protocol

import msgspec

from backupiq.semantics.model import Severity

ASSIGNMENT = r"""(?:[ \t\w.-]{0,20})[\s'"]{0,3}(?:=|>|:{1,3}=|\|\||:|=>|\?=|,)[\x60'"\s=]{0,5}"""
"""What stands between a name and its value in configuration and code (gitleaks' GenerateSemiGenericRegex)."""
VALUE_END = r"""(?:[\x60'"\s;]|\\[nr]|$)"""
"""What ends a value."""
_ANY_VALUE = r"""[\w"./+=:%-]{10}"""
"""How a value of any assigned rule begins."""

RULE_MEMORY = 2 << 20
"""Bytes that RE2 may use for the states of one rule; beyond them it drops states, and is slower."""
GATE_MEMORY = 64 << 20
"""The same for the search over all tokens at once."""


class Match(Protocol):
    """What RE2 gives for a match."""

    def span(self, group: int = 0) -> tuple[int, int]: ...


class Pattern(Protocol):
    """A pattern compiled by RE2."""

    @property
    def groups(self) -> int: ...
    def search(self, text: bytes, pos: int | None = None, endpos: int | None = None) -> Match | None: ...
    def finditer(self, text: bytes, pos: int | None = None, endpos: int | None = None) -> Iterator[Match]: ...


class SecretRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One rule. ``severity``: high for what can hardly be anything else, low for what is often something else.

    ``entropy``: bits per byte that the secret must exceed; ``allow``, ``allow_match`` and ``allow_line`` match secrets,
    whole matches and lines that are harmless; ``placeholders``: values such as "changeme" are harmless; ``stopwords``:
    so are secrets that hold one of the book's stopwords; ``always``: tried in every file, because its search is as
    cheap as a gate; ``group``: the capture that is the secret, 0 for the first that took part.
    """

    id: str
    title: str
    severity: Severity
    regex: str = ""
    names: str = ""
    value: str = ""
    exact: bool = False
    keywords: tuple[str, ...] = ()
    entropy: float = 0.0
    gate: str = ""
    endings: tuple[str, ...] = ()
    container: str = ""
    group: int = 0
    allow: str = ""
    allow_match: str = ""
    allow_line: str = ""
    placeholders: bool = False
    stopwords: bool = False
    always: bool = False
    source: str = "gitleaks"

    @property
    def assigned(self) -> bool:
        return bool(self.names)

    def pattern(self) -> str:
        """The whole pattern, in RE2's syntax."""
        if self.container or not self.names:
            return self.container or self.regex
        names = f"(?i:{self.names})" if self.exact else f"(?:{self.names})"
        return f"{'' if self.exact else '(?i)'}{names}{ASSIGNMENT}({self.value}){VALUE_END}"

    def token_gate(self) -> str:
        """A pattern that is found wherever a token rule is: its own, or the rule without what ends the value."""
        return self.gate or self.regex.removesuffix(VALUE_END)


class _Made(msgspec.Struct, frozen=True):
    """The file made from gitleaks' rules."""

    header: dict[str, str]
    allow: str
    stopwords: tuple[str, ...]
    rules: tuple[SecretRule, ...]


class Places(msgspec.Struct, frozen=True):
    """Names that decide whether a file is worth reading, in lower case.

    ``names`` and ``extensions`` (without their dot) always are, ``quiet_names`` (lists of checksums) and what lies in
    ``installed_folders`` never; ``text_types`` are MIME types of text that do not begin with "text/".
    """

    names: tuple[str, ...] = ()
    extensions: tuple[str, ...] = ()
    quiet_names: tuple[str, ...] = ()
    installed_folders: tuple[str, ...] = ()
    text_types: tuple[str, ...] = ()


class _Own(msgspec.Struct, frozen=True):
    """The file of our own rules."""

    placeholders: str = "^$"
    places: Places = Places()
    rule: tuple[SecretRule, ...] = ()


class RuleBook:
    """All rules, sorted into their kinds, the severest first, and their patterns.

    Immutable but for the cache of compiled patterns, which only grows, at most one entry a rule and a purpose; two
    threads that need the same pattern at once compile it twice and keep one.
    """

    def __init__(self, made: _Made, own: _Own) -> None:
        severities = list(Severity)
        self.rules = tuple(sorted((*own.rule, *made.rules), key=lambda rule: severities.index(rule.severity)))
        self._order = {rule.id: number for number, rule in enumerate(self.rules)}
        self.places = own.places
        self.containers = tuple(rule for rule in self.rules if rule.container)
        self.placed = tuple(rule for rule in self.rules if rule.endings and not rule.container)
        free = [rule for rule in self.rules if not rule.endings and not rule.container]
        self.always = tuple(rule for rule in free if rule.always)
        self.assigned = tuple(rule for rule in free if rule.assigned and not rule.always)
        self.tokens = tuple(rule for rule in free if not rule.assigned and not rule.always)
        self.keywords = {rule.id: tuple(word.encode() for word in rule.keywords) for rule in self.rules}
        self.endings = {rule.id: tuple(end.encode() for end in rule.endings) for rule in self.rules}
        self.all_endings = tuple({end for rule in self.placed for end in self.endings[rule.id]})
        self._texts = (made.allow, own.placeholders, made.stopwords)
        self._compiled: dict[tuple[str, str], Pattern] = {}

    def __reduce__(self) -> str:
        raise TypeError("rules are loaded in each process, not sent")

    def order(self, rule: SecretRule) -> int:
        """The place of a rule among all."""
        return self._order[rule.id]

    def pattern(self, rule: SecretRule) -> Pattern:
        """The compiled pattern of a rule."""
        return self._get("rule", rule.id, rule.pattern())

    def allowed(self, rule: SecretRule, what: str) -> Pattern | None:
        """The compiled ``allow``, ``allow_match`` or ``allow_line`` of a rule; None when it has none."""
        text: str = getattr(rule, what)
        return self._get(what, rule.id, text) if text else None

    @functools.cached_property
    def harmless(self) -> Pattern:
        """Secrets that are none, whatever the rule: variables, templates, one character repeated, paths."""
        return compile_pattern(self._texts[0])

    @functools.cached_property
    def placeholders(self) -> Pattern:
        """Values that stand for a password that is not there."""
        return compile_pattern(self._texts[1])

    @functools.cached_property
    def stopwords(self) -> Pattern:
        """Words that no generated key holds."""
        words = "|".join(_quote(word) for word in self._texts[2])
        return compile_pattern(f"(?i){words}" if words else r"^\b$")

    @functools.cached_property
    def token_gate(self) -> Pattern:
        """Found in every file in which a token rule finds something."""
        return compile_pattern("|".join(f"(?:{rule.token_gate()})" for rule in self.tokens) or r"^\b$", GATE_MEMORY)

    @functools.cached_property
    def assigned_gate(self) -> Pattern:
        """Found in every file in which an assigned rule finds something."""
        names = "|".join(sorted({rule.names for rule in self.assigned}))
        return compile_pattern(f"(?i)(?:{names}){ASSIGNMENT}{_ANY_VALUE}" if names else r"^\b$", GATE_MEMORY)

    @functools.cached_property
    def container_gate(self) -> Pattern:
        """Found at the beginning of every file that is a container."""
        return compile_pattern("|".join(f"(?:{rule.container})" for rule in self.containers) or r"^\b$")

    def _get(self, purpose: str, name: str, text: str) -> Pattern:
        found = self._compiled.get((purpose, name))
        if found is None:
            found = self._compiled[purpose, name] = compile_pattern(text)
        return found


def _quote(text: str) -> str:
    return "".join(letter if letter.isalnum() or letter == "_" else f"\\{letter}" for letter in text)


def compile_pattern(text: str, memory: int = RULE_MEMORY) -> Pattern:
    """A pattern over bytes, compiled by RE2 with at most ``memory`` bytes for it and its states."""
    import re2  # type: ignore[import-untyped]

    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.log_errors = False
    options.max_mem = memory
    compiled: Pattern = re2.compile(text.encode("latin-1"), options)
    return compiled


def parse_rules(made: bytes, own: bytes) -> RuleBook:
    """The rules of the two data files: JSON made from gitleaks' and our own TOML.

    Raises msgspec.ValidationError or ValueError when one has another form.
    """
    loaded = msgspec.convert(tomllib.loads(own.decode()), _Own)
    return RuleBook(msgspec.json.decode(made, type=_Made), loaded)


@functools.cache
def load_rules() -> RuleBook:
    """The rules that come with this program; loaded once in a process."""
    data = resources.files("backupiq.semantics") / "data"
    return parse_rules((data / "secrets.json").read_bytes(), (data / "secrets-own.toml").read_bytes())

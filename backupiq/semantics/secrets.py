"""Finds private keys and credentials in files. What is kept of one: its rule, its line and a keyed hash, nothing else.

A finding raises the protection of a file; it never leaves the file out.

Bounds: `MAX_BYTES` of a file are looked at; a text with a line of more than `MAX_LINE` is searched in windows of that
length; a rule looks at `MAX_CANDIDATES` matches of a file, and a file has at most `MAX_FINDINGS`. For each rule RE2
takes time that is linear in the text.
"""

from __future__ import annotations

import functools
import hmac
import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass

from backupiq.errors import ValidationError
from backupiq.semantics.entropy import shannon_entropy
from backupiq.semantics.model import Category, FileType, Finding, Severity
from backupiq.semantics.secret_rules import Match, RuleBook, SecretRule, load_rules
from backupiq.semantics.view import Files

MAX_BYTES = 1 << 20
"""Bytes of a file that are looked at: its first MiB."""
MAX_UNKNOWN = 256 << 10
"""Size up to which a file of unknown type is worth reading."""
MAX_LINE = 64 << 10
"""Longest line in bytes that is searched in one piece."""
OVERLAP = 16 << 10
"""Bytes that two windows of a long line share, so that a secret at a cut is whole in one of them."""
MAX_FINDINGS = 100
"""Findings of one file."""
MAX_CANDIDATES = 1000
"""Matches of one rule in one file that are judged."""
BINARY_PROBE = 8 << 10
"""A file with a NUL among its first bytes is binary, and only its signature is looked at."""
CONTAINER_PROBE = 4 << 10
"""Bytes that a signature is looked for in."""
NAME_BEHIND = 64
"""Bytes behind an assignment in which another name may begin that the same search went over."""
LONGEST_PLACEHOLDER = 256
"""Longest secret in bytes that is compared with what is harmless: longer ones hold a word such as "false" by chance."""
LEAST_KEY = 16
"""Fewest bytes of a key for the hashes."""

_NAME_BYTES = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-"
_WIDEN = 50
_LINE_CONTEXT = 4 << 10
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


@dataclass
class Work:
    """What scanning has cost so far: files and their bytes, searches and the bytes they went over, matches judged."""

    files: int = 0
    bytes: int = 0
    searches: int = 0
    searched_bytes: int = 0
    candidates: int = 0


@dataclass(frozen=True, slots=True)
class _Hit:
    """One secret in a text: where it begins and ends."""

    rule: SecretRule
    begin: int
    end: int


class SecretScanner:
    """Looks for secrets in the contents of files, one file after another.

    ``key``: at least 16 bytes that nobody else knows and that stay the same, so that the same secret has the same hash
    again. One scanner serves one thread (its counters are not locked); the rules behind it are shared by all.
    Raises ValidationError when the key is too short.
    """

    __slots__ = ("_key", "work")

    def __init__(self, key: bytes) -> None:
        if len(key) < LEAST_KEY:
            raise ValidationError(f"The key for the hashes of secrets must have at least {LEAST_KEY} bytes.")
        self._key = bytes(key)
        self.work = Work()

    def __repr__(self) -> str:
        return "SecretScanner()"

    def scan(self, path: bytes, data: bytes) -> list[Finding]:
        """The secrets in a file that begins with ``data``, by line; at most `MAX_FINDINGS`, the severest first to stay.

        ``path`` decides which rules for certain files are tried. Never raises, whatever the bytes are.
        """
        rules = load_rules()
        place = _place(path)
        whole = data[:MAX_BYTES]
        self.work.files += 1
        self.work.bytes += len(whole)
        found = self._container(rules, place, whole)
        text = _as_text(whole)
        if text is not None:
            found += self._text_findings(rules, place, text)
        return sorted(set(found))[:MAX_FINDINGS]

    def scan_file(self, files: Files, path: bytes) -> list[Finding]:
        """The secrets in a file, of which at most `MAX_BYTES` are read. Raises what ``files.read`` raises."""
        return self.scan(path, files.read(path, MAX_BYTES))

    def _container(self, rules: RuleBook, place: bytes, data: bytes) -> list[Finding]:
        head = data[:CONTAINER_PROBE]
        self._count(len(head))
        if rules.container_gate.search(head) is None:
            return []
        found = []
        for rule in rules.containers:
            endings = rules.endings[rule.id]
            if (not endings or place.endswith(endings)) and rules.pattern(rule).search(head) is not None:
                found.append(self._finding(rule, 1, data))
        return found

    def _text_findings(self, rules: RuleBook, place: bytes, text: bytes) -> list[Finding]:
        windows = _windows(text)
        hits: list[_Hit] = []
        for rule in self._worth_trying(rules, place, text):
            if len(hits) >= MAX_FINDINGS:
                break
            hits += self._hits(rules, rule, text, windows)[: MAX_FINDINGS - len(hits)]
        found = []
        line, counted = 1, 0
        for hit in sorted(_without_shadows(hits), key=lambda hit: hit.begin):
            line += text.count(b"\n", counted, hit.begin)
            counted = hit.begin
            found.append(self._finding(hit.rule, line, text[hit.begin : hit.end]))
        return found

    def _worth_trying(self, rules: RuleBook, place: bytes, text: bytes) -> list[SecretRule]:
        """The rules that may find something, the severest first."""
        gated: list[SecretRule] = []
        if place.endswith(rules.all_endings):
            gated += (rule for rule in rules.placed if place.endswith(rules.endings[rule.id]))
        self._count(len(text))
        if rules.token_gate.search(text) is not None:
            gated += rules.tokens
        if gated:
            gated = _with_keyword(rules, gated, text.lower())
        gated += _with_keyword(rules, rules.assigned, self._assignments(rules, text))
        if not _is_quiet(place):
            gated += rules.always
        return sorted(gated, key=rules.order)

    def _assignments(self, rules: RuleBook, text: bytes) -> bytes:
        """In lower case, what stands around each name that an assigned rule knows and that is given a value.

        All of the text when there are too many.
        """
        self._count(len(text))
        spans = [match.span() for match in itertools.islice(rules.assigned_gate.finditer(text), MAX_CANDIDATES)]
        self.work.candidates += len(spans)
        if len(spans) == MAX_CANDIDATES:
            return text.lower()
        return b"\n".join(text[begin : end + NAME_BEHIND] for begin, end in spans).lower()

    def _hits(self, rules: RuleBook, rule: SecretRule, text: bytes, windows: list[tuple[int, int]]) -> list[_Hit]:
        pattern = rules.pattern(rule)
        hits: dict[tuple[int, int], _Hit] = {}
        judged = 0
        for begin, end in windows:
            self._count(end - begin)
            for match in pattern.finditer(text, begin, end):
                if judged == MAX_CANDIDATES or len(hits) == MAX_FINDINGS:
                    return list(hits.values())
                judged += 1
                self.work.candidates += 1
                if match.span()[1] == end < len(text):
                    continue  # it may go on behind the cut: the next window has the whole of it
                hit = _judge(rules, rule, pattern.groups, text, match)
                if hit is not None:
                    hits[hit.begin, hit.end] = hit
        return list(hits.values())

    def _count(self, size: int) -> None:
        self.work.searches += 1
        self.work.searched_bytes += size

    def _finding(self, rule: SecretRule, line: int, secret: bytes) -> Finding:
        message = rule.id.encode() + b"\0" + secret.replace(b"\r\n", b"\n")
        return Finding(line, rule.id, rule.severity, hmac.digest(self._key, message, "sha256").hex()[:16])


def may_hold_secrets(path: bytes, found: FileType, size: int) -> bool:
    """Whether a file of this path, type and size in bytes is worth reading for secrets.

    Names of keys and credentials always are, text up to `MAX_BYTES`, unknown types up to `MAX_UNKNOWN`; programs that a
    package manager installed and lists of checksums never.
    """
    if size <= 0:
        return False
    folder, _, name = (path.replace(b"\\", b"/") if os.name == "nt" else path).rpartition(b"/")
    if _is_installed(folder):
        return False
    lowered = name.lower()
    worth, quiet, extensions = _names()
    if lowered in worth or lowered.rpartition(b".")[2] in extensions or lowered.startswith(b".env."):
        return True
    if size > MAX_BYTES or lowered in quiet:
        return False
    return size <= _largest(found)


# --- parts ---------------------------------------------------------------------------------------------------------


@functools.cache
def _names() -> tuple[frozenset[bytes], frozenset[bytes], frozenset[bytes]]:
    """Names that are always worth reading, names that never are, extensions that always are."""
    places = load_rules().places
    worth, quiet, extensions = (
        frozenset(word.encode() for word in words) for words in (places.names, places.quiet_names, places.extensions)
    )
    return worth, quiet, extensions


@functools.lru_cache(maxsize=1024)
def _is_installed(folder: bytes) -> bool:
    names = {name.encode() for name in load_rules().places.installed_folders}
    return not names.isdisjoint(folder.split(b"/"))


@functools.lru_cache(maxsize=4096)
def _largest(found: FileType) -> int:
    """The size up to which a file of this type is worth reading."""
    if found.category is Category.SECRET:
        return MAX_BYTES
    if not found.name:
        return MAX_UNKNOWN
    text = found.mime.startswith("text/") or found.mime.endswith(("+json", "+xml"))
    if found.mime == "image/svg+xml":
        return 0
    if text or found.mime in load_rules().places.text_types:
        return MAX_BYTES
    return MAX_BYTES if found.category in (Category.CODE, Category.CONFIG) else 0


def _place(path: bytes) -> bytes:
    """The path in the form that endings are compared with: lower case, slashes, one in front."""
    return b"/" + (path.replace(b"\\", b"/") if os.name == "nt" else path).lower()


def _is_quiet(place: bytes) -> bool:
    return place.rpartition(b"/")[2] in _names()[1]


def _as_text(data: bytes) -> bytes | None:
    """The data to search as text; None for binary data. UTF-16 with its mark becomes UTF-8."""
    if b"\0" not in data[:BINARY_PROBE]:
        return data
    if data[:2] in _UTF16:
        return data.decode("utf-16", "replace").encode("utf-8", "replace")
    return None


def _with_keyword(rules: RuleBook, some: Sequence[SecretRule], lowered: bytes) -> list[SecretRule]:
    """Those rules of which a keyword is in a text, and those without keywords."""
    if not lowered:
        return []
    words = rules.keywords
    return [rule for rule in some if not words[rule.id] or any(word in lowered for word in words[rule.id])]


def _windows(text: bytes) -> list[tuple[int, int]]:
    """The pieces in which a text is searched: all of it, or windows when a line is longer than `MAX_LINE`."""
    size = len(text)
    position = 0
    while size - position > MAX_LINE:
        newline = text.rfind(b"\n", position, position + MAX_LINE)
        if newline < 0:
            step = MAX_LINE - OVERLAP
            return [(begin, min(begin + MAX_LINE, size)) for begin in range(0, max(size - OVERLAP, 1), step)]
        position = newline + 1
    return [(0, size)]


def _judge(rules: RuleBook, rule: SecretRule, groups: int, text: bytes, match: Match) -> _Hit | None:
    """The secret of a match, when it varies enough and nothing says that it is harmless."""
    begin, end = _secret_span(rule, groups, match)
    secret = text[begin:end]
    if rule.entropy and shannon_entropy(secret) <= rule.entropy:
        return None
    if len(secret) <= LONGEST_PLACEHOLDER and _is_harmless(rules, rule, secret):
        return None
    whole = rules.allowed(rule, "allow_match")
    if whole is not None and whole.search(_widened(rule, text, match)):
        return None
    line = rules.allowed(rule, "allow_line")
    if line is not None and line.search(_line_of(text, match)):
        return None
    return _Hit(rule, begin, end)


def _is_harmless(rules: RuleBook, rule: SecretRule, secret: bytes) -> bool:
    allow = rules.allowed(rule, "allow")
    return (
        rules.harmless.search(secret) is not None
        or (rule.placeholders and rules.placeholders.search(secret) is not None)
        or (rule.stopwords and rules.stopwords.search(secret) is not None)
        or (allow is not None and allow.search(secret) is not None)
    )


def _secret_span(rule: SecretRule, groups: int, match: Match) -> tuple[int, int]:
    if rule.group:
        return match.span(rule.group)
    for group in range(1, groups + 1):
        begin, end = match.span(group)
        if end > begin:
            return begin, end
    return match.span()


def _widened(rule: SecretRule, text: bytes, match: Match) -> bytes:
    """The match with the rest of the name before it, which gitleaks' own patterns take in."""
    begin, end = match.span()
    if not rule.assigned:
        return text[begin:end]
    before = text[max(0, begin - _WIDEN) : begin]
    return text[begin - len(before) + len(before.rstrip(_NAME_BYTES)) : end]


def _line_of(text: bytes, match: Match) -> bytes:
    begin, end = match.span()
    first = text.rfind(b"\n", max(0, begin - _LINE_CONTEXT), begin) + 1
    last = text.find(b"\n", end, end + _LINE_CONTEXT)
    return text[max(first, begin - _LINE_CONTEXT, 0) : last if last >= 0 else end + _LINE_CONTEXT]


def _without_shadows(hits: list[_Hit]) -> list[_Hit]:
    """The hits without those of low severity that lie over a better one."""
    better = [hit for hit in hits if hit.rule.severity is not Severity.LOW]
    return [
        hit
        for hit in hits
        if hit.rule.severity is not Severity.LOW
        or not any(hit.begin < other.end and other.begin < hit.end for other in better)
    ]

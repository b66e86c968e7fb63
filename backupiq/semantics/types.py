"""The language or format of a file: by its name in constant time, or by its name and its first bytes.

The cascade: whole name, extension (the longest that is known), then, for those that are read, signature, modeline,
shebang, rules on the content, the likeliest type of the extension, and what the text itself looks like.
"""

from __future__ import annotations

from backupiq.semantics.heuristics import by_content
from backupiq.semantics.hints import by_modeline, by_shebang
from backupiq.semantics.model import Category, FileType
from backupiq.semantics.name_rules import claim_of
from backupiq.semantics.signatures import Signature, signature_of, text_of
from backupiq.semantics.sniff import pem_type, sniff
from backupiq.semantics.tables import COMPRESSED, SURE, Claim, Tables, Type, tables

HEAD_BYTES = 50 * 1024
"""How much of a file's beginning is looked at; `detect` ignores what is beyond."""
BY_SIGNATURE = 98
BY_WEAK_SIGNATURE = 50
BY_SHEBANG = 95
BY_MODELINE = 92
BY_RULE = 88
NOT_DECIDED = 55
"""Several languages share the extension and nothing in the content decides: a tie."""
CONTRADICTED = 30


def detect_by_name(name: bytes, mode: int = 0) -> FileType:
    """The type that the last component of a path, raw, stands for; `UNKNOWN` when it says nothing.

    ``mode`` is the file's ``st_mode``: a name without an extension that may be executed counts as a program. Takes
    constant time, about a microsecond.
    """
    return claim_of(name, mode, tables()).found


def wants_content(name: bytes, found: FileType) -> bool:
    """Whether the name leaves the type open, so that `detect` with the file's head would know more."""
    return found.confidence < SURE


def detect(name: bytes, head: bytes, size: int, mode: int = 0) -> FileType:
    """The type of a file of ``size`` bytes that begins with ``head`` (`HEAD_BYTES` of it are looked at).

    The same as `detect_by_name` when the head is empty. ``conflict`` is set when the content contradicts the extension:
    it has another format's signature, lacks the one that every file of its format has, or is no text under a
    language's name. Never raises.
    """
    known = tables()
    claim = claim_of(name, mode, known)
    if not head:
        return claim.found
    head = head[:HEAD_BYTES]
    signature = signature_of(head)
    text = None if signature is not None and not signature.textual else text_of(head)
    if signature is not None and signature.textual and text is not None and not _names(claim, signature.name):
        signature = None
    if signature is not None:
        weighed = _by_signature(claim, signature, known)
        if weighed is not None:
            return weighed
        text = text_of(head)
    if text is None:
        return _binary(claim)
    return _text(claim, text, len(head) >= size, known)


def is_tie(found: FileType) -> bool:
    """Whether a text's language is still a guess after `detect`, so that a model may be asked (magika_tie.py)."""
    return found.detected_by in ("extension", "heuristic") and CONTRADICTED < found.confidence <= NOT_DECIDED


# --- the content ---------------------------------------------------------------------------------------------------


def _names(claim: Claim, name: str) -> bool:
    return any(one.name == name for one in claim.candidates)


def _by_signature(claim: Claim, signature: Signature, known: Tables) -> FileType | None:
    """What a name and a signature say together; None when the signature says too little to count."""
    kind = known.types[signature.name]
    if not claim.candidates:
        return kind.found("signature", BY_WEAK_SIGNATURE if signature.weak else BY_SIGNATURE)
    for one in claim.candidates:
        agreed = _agreed(one, kind, signature)
        if agreed is not None:
            return agreed.found("signature", BY_SIGNATURE)
    if signature.weak:
        return None
    if any(one.name in known.vague for one in claim.candidates):
        return kind.found("signature", BY_SIGNATURE)
    for one in claim.candidates:
        if one.text is not True and not one.family and (kind.category is not Category.EXECUTABLE or _runs(one)):
            return one.found("extension", claim.found.confidence)
    if kind.category is Category.SECRET and any(one.text for one in claim.candidates):
        return kind.found("signature", BY_SIGNATURE)
    return kind.found("signature", BY_SIGNATURE, conflict=True)


def _runs(kind: Type) -> bool:
    return kind.category in (Category.EXECUTABLE, Category.ARCHIVE, Category.SYSTEM)


def _agreed(claimed: Type, kind: Type, signature: Signature) -> Type | None:
    """The type of a file named as ``claimed`` that has the signature of ``kind``; None when the two do not fit."""
    if claimed.name == kind.name:
        return claimed
    if claimed.family == "compressed" and kind.name in COMPRESSED:
        return claimed
    if claimed.family == "zip" and kind.name == "Encrypted Office document":
        return claimed
    if not claimed.family or claimed.family != signature.family:
        return None
    if signature.generic or signature.family not in ("zip", "ole"):
        return claimed
    return kind if _is_generic(claimed) else _same_maker(claimed, kind)


def _is_generic(claimed: Type) -> bool:
    return claimed.name in ("ZIP archive", "OLE document")


def _same_maker(claimed: Type, kind: Type) -> Type | None:
    """Formats made of another one: a browser extension with a manifest of Java is still one."""
    plain = ("Java archive", "Android package", "Python wheel", "NuGet package", "Encrypted Office document")
    return claimed if kind.name in plain and claimed.category is not Category.DOCUMENT else None


def _binary(claim: Claim) -> FileType:
    """No text, and no signature that counts."""
    if not claim.candidates:
        return claim.found
    for one in claim.candidates:
        if one.text is not True and not one.family:
            return one.found("extension", claim.found.confidence)
    return claim.candidates[0].found(claim.found.detected_by, CONTRADICTED, conflict=True)


def _text(claim: Claim, text: bytes, whole: bool, known: Tables) -> FileType:
    if claim.found.detected_by == "name":
        return claim.found
    if b"-----BEGIN " in text and any(one.category is Category.SECRET for one in claim.candidates):
        return _pem(text, known)
    possible = [one for one in claim.candidates if not one.family]
    if claim.candidates and not possible:
        return claim.candidates[0].found("extension", CONTRADICTED, conflict=True)
    if possible and claim.found.confidence >= SURE:
        return claim.found
    hinted = _hinted(possible, text, whole, known)
    if hinted is not None:
        return hinted
    if possible:
        return _shared(claim, possible, text, known)
    name, confidence = sniff(text)
    return known.types[name].found("heuristic", confidence)


def _pem(text: bytes, known: Tables) -> FileType:
    """A file of keys: a private key in it counts more than the certificates that may stand before it."""
    labels = [one.partition(b"-----")[0] for one in text.split(b"-----BEGIN ")[1:]]
    private = [one for one in labels if one.endswith(b"PRIVATE KEY")]
    return known.types[pem_type((private or labels)[0])].found("signature", BY_SIGNATURE)


def _hinted(possible: list[Type], text: bytes, whole: bool, known: Tables) -> FileType | None:
    """The language that the text itself names. With an extension it must be one of the extension's."""
    names = {one.name for one in possible}
    modeline = by_modeline(text, whole)
    if modeline and (not names or modeline in names):
        return known.types[modeline].found("modeline", BY_MODELINE)
    for name in by_shebang(text):
        if not names or name in names:
            return known.types[name].found("shebang", BY_SHEBANG)
    return None


def _shared(claim: Claim, possible: list[Type], text: bytes, known: Tables) -> FileType:
    """An extension of several languages: rules decide, else the likeliest one of those that are text."""
    texts = [one for one in possible if one.text is not False]
    chosen = by_content(claim.extension, text, {one.name for one in texts})
    if chosen:
        return known.types[chosen].found("heuristic", BY_RULE)
    certain = [one for one in texts if one.text] or texts or possible
    confidence = BY_RULE if len(certain) == 1 else NOT_DECIDED
    return certain[0].found("extension", confidence)

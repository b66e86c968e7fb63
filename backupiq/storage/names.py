"""What names tell: of an object its kind and hash, of a destination's URL its parts."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

from backupiq.errors import UnknownDestinationError, ValidationError
from backupiq.storage.provider import check_key

KINDS = ("data", "index", "snapshots", "keys", "config", "locks")
"""The kinds of objects of a repository: the first part of their keys."""

_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_CLASS = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}\Z")


def expected_sha256(key: str) -> str | None:
    """The SHA-256 in hex that the object's bytes must have: its name, when that is one (packs, indexes, ...)."""
    name = key.rpartition("/")[2]
    return name if _SHA256.match(name) else None


def kind_of(key: str) -> str:
    """The kind of object: the first part of its key."""
    return key.partition("/")[0]


def classes_by_kind(text: str) -> dict[str, str]:
    """Storage classes by kind of object, from ``CLASS`` (for packs) or ``data:CLASS,index:CLASS``.

    A class alone is for ``data``, where the bytes are: everything else is small and read by every run. Locks are made
    and deleted all the time and take no class. Raises ``ValidationError``.
    """
    classes: dict[str, str] = {}
    for part in text.split(","):
        kind, _, name = part.rpartition(":")
        kind = kind or "data"
        if kind not in KINDS or kind == "locks" or kind in classes or not _CLASS.match(name):
            raise ValidationError(
                "The option storage_class is not valid. Give one class for the packs (storage_class=CLASS), or one for "
                "each kind of object (storage_class=data:CLASS,index:CLASS; kinds: data, index, snapshots, keys, "
                "config)."
            )
        classes[kind] = name
    return classes


def check_classes(classes: Mapping[str, str]) -> None:
    """Refuse kinds that take no storage class and names that cannot be one (``ValidationError``)."""
    if classes:
        classes_by_kind(",".join(f"{kind}:{name}" for kind, name in classes.items()))


@dataclass(frozen=True, slots=True)
class UrlParts:
    """A destination's URL taken apart: bucket or container, prefix without slashes around it, options."""

    container: str
    prefix: str
    options: Mapping[str, str] = field(default_factory=dict)


def split_url(url: str, scheme: str, allowed: Collection[str]) -> UrlParts:
    """Take ``scheme://container/prefix?option=value`` apart.

    Raises ``UnknownDestinationError`` for another form, an unknown or repeated option, or credentials; the message
    names the option and repeats no value, since any of them may be a secret.
    """
    form = f"{scheme}://{_CONTAINER.get(scheme, 'bucket')}/prefix"
    try:
        parts = urlsplit(url)
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query), max_num_fields=50)
    except ValueError:
        raise UnknownDestinationError(f"The destination is not written as {form}?option=value.") from None
    if parts.scheme.lower() != scheme or parts.fragment:
        raise UnknownDestinationError(f"The destination is not written as {form}.")
    if "@" in parts.netloc or ":" in parts.netloc:
        raise UnknownDestinationError(
            f"A destination's URL holds no credentials and no port. Write {form}, give another server as "
            "?endpoint=..., and credentials in the environment or in a block."
        )
    if not parts.netloc:
        raise UnknownDestinationError(f"The destination names no {_CONTAINER.get(scheme, 'bucket')}. Write {form}.")
    options: dict[str, str] = {}
    for name, value in pairs:
        shown = name if re.fullmatch(r"[A-Za-z0-9_-]{1,40}", name) else "?"
        if name not in allowed:
            known = ", ".join(sorted(allowed))
            raise UnknownDestinationError(f"{scheme}: destinations know no option {shown}. They know: {known}.")
        if name in options or not value:
            raise UnknownDestinationError(f"The option {shown} of the destination is empty or given twice.")
        options[name] = value
    return UrlParts(parts.netloc, check_destination_prefix(unquote(parts.path)), options)


_CONTAINER = {"az": "container"}


def check_destination_prefix(prefix: str) -> str:
    """The prefix without slashes around it; ``UnknownDestinationError`` when it can be none."""
    trimmed = prefix.strip("/")
    try:
        return check_key(trimmed) if trimmed else ""
    except ValidationError as error:
        raise UnknownDestinationError(
            f"The destination's prefix cannot be used: {error.message} Give another prefix."
        ) from None


def check_endpoint(endpoint: str) -> str:
    """An ``http(s)://host[:port][/path]`` address without a slash at its end; ``ValidationError`` otherwise."""
    try:
        parts = urlsplit(endpoint)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable or "@" in parts.netloc or parts.query or parts.fragment or not endpoint.isprintable():
        raise ValidationError(
            "The option endpoint is not an address such as https://host:port; credentials have no place in it."
        )
    return endpoint.rstrip("/")


def flag(options: Mapping[str, str], name: str) -> bool | None:
    """A yes-or-no option, ``None`` when it is not given; ``ValidationError`` for anything else."""
    if name not in options:
        return None
    value = options[name].lower()
    if value not in ("true", "false", "yes", "no", "1", "0"):
        raise ValidationError(f"The option {name} must be true or false.")
    return value in ("true", "yes", "1")

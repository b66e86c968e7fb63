"""Names that say what a run does."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from backupiq.telemetry.text import printable_path


def short_list(items: Iterable[str], most: int = 3) -> str:
    """The last parts of a few paths or URLs in one printable line: ``docs, photos and 2 more``."""
    names = [printable_path(os.fsencode(os.path.basename(item.rstrip("/")) or item)) for item in items]
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def destination_label(destination: str) -> str:
    """A destination for names and tags: the folder's own name, ``s3://bucket``, ``block:NAME``; never with options."""
    text = destination.split("?", 1)[0]
    found = re.match(r"^(?:[a-z0-9]+://[^/]*@?|icloud:/)", text)
    return printable_path(os.fsencode(re.sub(r"//[^/@]*@", "//", text))) if found else short_list([text])


_KINDS = {"s3": "s3", "gs": "gcs", "az": "azure", "icloud": "icloud"}


def short_destinations(destinations: Iterable[str], most: int = 3) -> str:
    """Where to, in one printable line: ``s3, azure``. Clouds are named by their kind, two of one by buckets."""
    given = list(destinations)
    kinds = [_KINDS.get(item.split(":", 1)[0]) for item in given]
    names = [
        kind if kind is not None and kinds.count(kind) == 1 else _bucket_label(item)
        for kind, item in zip(kinds, given, strict=True)
    ]
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def _bucket_label(destination: str) -> str:
    label = destination_label(destination)
    scheme, separator, rest = label.partition("://")
    return f"{_KINDS[scheme]} {rest.partition('/')[0]}" if separator and scheme in _KINDS else label


TAGGED = frozenset({"s3", "gcs", "azure", "icloud"})
"""Kinds of destinations whose uploads carry a tag that can be limited. For a disk it would only cost time: Prefect asks
its server before each task with a tag, and with SQLite that waits two seconds when another write comes between."""


def tag_of(kind: str) -> str:
    """The tag of tasks that upload to destinations of that kind."""
    return f"backupiq-{kind}"


def human_bytes(size: float) -> str:
    """Bytes for a person, in binary units: ``1.5 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(size) < 1024 or unit == "TiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError("unreachable")

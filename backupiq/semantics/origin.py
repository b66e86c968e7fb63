"""Where a file was downloaded from, as browsers note it: the host's name and nothing else of the address.

Linux browsers and curl write ``user.xdg.origin.url`` (freedesktop.org, CommonExtendedAttributes), macOS a property list
of addresses, Windows a stream ``Zone.Identifier`` that Linux shows as an attribute or, on drives shared with WSL, as a
file beside. Addresses may hold tokens, so that no more than the host leaves this module.
"""

from __future__ import annotations

import plistlib
import re
import struct
from collections.abc import Callable, Iterable, Mapping
from urllib.parse import urlsplit

from backupiq.discovery.entry import Directory, EntryKind, FileEntry
from backupiq.errors import BackupIQError

MAX_VALUE_BYTES = 64 << 10
MAX_URL_CHARS = 8192
MAX_HOST_CHARS = 253  # RFC 1035
MAX_ADDRESSES = 16
ZONE_SUFFIX = b":Zone.Identifier"
UNKNOWN_HOST = "unknown"
"""The answer for a file that is marked as downloaded by a mark that names no host."""

_URLS = ("user.xdg.origin.url", "user.xdg.referrer.url")
_PLISTS = ("com.apple.metadata:kMDItemWhereFroms", "user.com.apple.metadata:kMDItemWhereFroms")
_ZONES = ("Zone.Identifier", "user.Zone.Identifier")
_ZONE_KEYS = (b"hosturl", b"referrerurl")
_INTERNET_ZONE = 3  # URLZONE_INTERNET; 4 is the zone of sites that are not trusted
_SCHEMES = frozenset({"http", "https", "ftp", "ftps", "sftp"})
_HOST = re.compile(r"[a-z0-9_.:-]+\Z")


def download_origin(
    path: bytes, entry: FileEntry, attributes: Callable[[bytes], Mapping[str, bytes]], *, zone: bytes = b""
) -> str:
    """The host that the file was downloaded from, `UNKNOWN_HOST` when it was but none is named, empty when it was not.

    ``attributes`` gives the extended attributes of a path; ``zone`` is the content of the file's Zone.Identifier where
    that is a file beside it (see `zone_files`). What is damaged, or cannot be read, counts as not there.
    """
    if entry.kind is not EntryKind.FILE:
        return ""
    try:
        found = attributes(path)
    except (OSError, BackupIQError):
        found = {}
    if not found and not zone:
        return ""
    for name in _URLS:
        if host := _host(_text(found.get(name, b""))):
            return host
    for name in _PLISTS:
        if host := _first_host(_listed(found.get(name, b""))):
            return host
    zones = [found[name] for name in _ZONES if name in found]
    answers = [_zone_host(value) for value in [*zones, zone] if value]
    return next((host for host in answers if host), "")


def zone_files(directory: Directory, read: Callable[[bytes, int], bytes]) -> dict[bytes, bytes]:
    """For each file of the folder with a Zone.Identifier beside it, the content of that; most folders have none."""
    found: dict[bytes, bytes] = {}
    for child in directory.children:
        if child.name.endswith(ZONE_SUFFIX) and child.kind is EntryKind.FILE:
            path = directory.path.rstrip(b"/") + b"/" + child.name
            try:
                found[child.name.removesuffix(ZONE_SUFFIX)] = read(path, MAX_VALUE_BYTES)
            except (OSError, BackupIQError):
                continue
    return found


def _text(value: bytes) -> str:
    return value[:MAX_URL_CHARS].rstrip(b"\0").decode("utf-8", "replace")


def _host(url: str) -> str:
    """The host in lower case; empty for anything that is no address at another machine."""
    url = url[:MAX_URL_CHARS].strip()
    try:
        parts = urlsplit(url.removeprefix("blob:"))
        host = (parts.hostname or "").rstrip(".")
        plain = host if host.isascii() else host.encode("idna").decode("ascii")
    except ValueError:  # brackets that hold no address, a label that is too long
        return ""
    if parts.scheme not in _SCHEMES or len(plain) > MAX_HOST_CHARS or _HOST.match(plain) is None:
        return ""
    return plain


def _first_host(urls: Iterable[str]) -> str:
    return next((host for url in urls if (host := _host(url))), "")


def _listed(value: bytes) -> list[str]:
    """The texts of a binary property list that is a list; XML is not taken, nobody writes it there."""
    if not value.startswith(b"bplist") or len(value) > MAX_VALUE_BYTES:
        return []
    try:
        found = plistlib.loads(value, fmt=plistlib.FMT_BINARY)
    except (ValueError, TypeError, LookupError, ArithmeticError, RecursionError, struct.error, MemoryError):
        return []
    listed = found if isinstance(found, list) else [found]
    return [item for item in listed[:MAX_ADDRESSES] if isinstance(item, str)]


def _zone_host(value: bytes) -> str:
    """What a Zone.Identifier tells, an INI file: ``[ZoneTransfer]``, ``ZoneId=3``, ``HostUrl=``, ``ReferrerUrl=``."""
    text = value[:MAX_VALUE_BYTES]
    if text.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = text.decode("utf-16", "replace").encode()
    values: dict[bytes, bytes] = {}
    for line in text.removeprefix(b"\xef\xbb\xbf").splitlines():
        key, equals, rest = line.partition(b"=")
        if equals:
            values.setdefault(key.strip().lower(), rest.strip())
    host = _first_host(_text(values.get(key, b"")) for key in _ZONE_KEYS)
    zone = values.get(b"zoneid", b"")
    is_remote = zone.isdigit() and len(zone) < 4 and int(zone) >= _INTERNET_ZONE
    return host or (UNKNOWN_HOST if is_remote else "")

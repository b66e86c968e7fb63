"""What files say by their contents: their type where the name leaves it open, and secrets. In bounded parts only."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable
from typing import NamedTuple

from backupiq.errors import BackupIQError, CancelledRunError
from backupiq.repository.crypto import MasterKey
from backupiq.semantics.model import FileType, Finding
from backupiq.semantics.secrets import MAX_BYTES, SecretScanner
from backupiq.semantics.types import HEAD_BYTES, detect, detect_by_name
from backupiq.telemetry import get_logger

Read = Callable[[bytes, int], bytes]
"""At most so many of the first bytes of a path."""

log = get_logger("backupiq.semantics.contents")


class Wanted(NamedTuple):
    """A file to be read: raw path, bytes, ``st_mode``, and whether it is to be searched for secrets."""

    path: bytes
    size: int
    mode: int
    secrets: bool


class Content(NamedTuple):
    """What a file's content said."""

    type: FileType
    findings: tuple[Finding, ...] = ()


def finding_key(master: MasterKey) -> bytes:
    """The key of the hashes of secrets: the same for a repository everywhere, unknown without its master key."""
    return hmac.digest(master.encrypt + master.mac_k + master.mac_r, b"backupiq findings 1", hashlib.sha256)


def examine(file: Wanted, read: Read, scanner: SecretScanner) -> Content:
    """Read the beginning of one file and say what it is.

    A file that cannot be read, or that no part of analysis can cope with, is what its name says: analysis never keeps a
    file from being stored. CancelledRunError passes through.
    """
    name = file.path.rpartition(b"/")[2]
    try:
        data = read(file.path, MAX_BYTES if file.secrets else HEAD_BYTES)
        findings = tuple(scanner.scan(file.path, data)) if file.secrets else ()
        return Content(detect(name, data[:HEAD_BYTES], file.size, file.mode), findings)
    except CancelledRunError:
        raise
    except (OSError, BackupIQError):
        return Content(detect_by_name(name, file.mode))
    except Exception as error:  # noqa: BLE001 - a mistake in a rule is no reason to lose a file
        log.warning("analysis.failed", error=type(error).__name__)
        return Content(detect_by_name(name, file.mode))


def examine_all(files: Iterable[Wanted], read: Read, key: bytes) -> dict[bytes, Content]:
    """The same for many, in this thread; by path."""
    scanner = SecretScanner(key)
    return {file.path: examine(file, read, scanner) for file in files}

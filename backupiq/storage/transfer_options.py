"""The timeouts and bounds of transfers to an object store."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from backupiq.errors import ValidationError

MIB = 1 << 20
PART_SIZE = 8 * MIB
MAX_PARTS = 9000  # the services take 10,000


def part_size(size: int) -> int:
    """Bytes of each part of an upload of ``size`` bytes: 8 MiB, or more where that would be too many parts."""
    return max(PART_SIZE, math.ceil(size / MAX_PARTS))


@dataclass(frozen=True, slots=True)
class TransferOptions:
    """Timeouts and bounds of a provider's transfers (seconds, bytes).

    ``read_seconds``: how long the service may stay silent while we wait for its answer or the next bytes.
    ``slowest_upload``: bytes per second below which the upload of one part counts as dead; parts share the line.
    ``probe_seconds``: how long an upload may take before the service is asked, and asked again, whether it still is
    there, so that a dead line is noticed long before that. ``cancel_seconds``: how long a cancelled upload may take to
    end.
    ``memory_bytes``: what all uploads of the provider hold in memory at once. ``whole_bytes``: objects up to this size
    are sent in one request, larger ones in parts, ``parts_at_once`` of each. ``create_bytes``: the largest object that
    can be stored with ``create_only``, which takes one request. ``retries``: what obstore itself does within
    ``retry_seconds``; the rest is done above.
    """

    connect_seconds: float = 10.0
    read_seconds: float = 30.0
    download_seconds: float = 7200.0
    slowest_upload: int = 16 * 1024
    memory_bytes: int = 48 * MIB  # three packs of the usual size
    whole_bytes: int = 25 * MIB  # a pack of the usual size
    parts_at_once: int = 4
    create_bytes: int = 64 * MIB
    retries: int = 2
    retry_seconds: float = 60.0
    probe_seconds: float = 60.0
    cancel_seconds: float = 5.0

    def __post_init__(self) -> None:
        # A timeout of zero would fail every call at once.
        if any(getattr(self, name.name) <= 0 for name in fields(self) if name.name != "retries") or self.retries < 0:
            raise ValidationError("Timeouts and bounds of transfers must be greater than zero.")


DEFAULT_TRANSFER = TransferOptions()

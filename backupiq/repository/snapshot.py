"""Snapshots: who backed up what, when, and the tree it became. Format: restic's design document, "Snapshots"."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec

from backupiq.errors import (
    AmbiguousSnapshotError,
    RepositoryDamagedError,
    SnapshotDamagedError,
    SnapshotNotFoundError,
)
from backupiq.repository.gojson import decode_json, go_escape, parse_time_ns

_Hex = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-fA-F]{64}\Z")]
_Time = Annotated[str, msgspec.Meta(min_length=20, max_length=64)]
_U32 = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF_FFFF)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=0x7FFF_FFFF_FFFF_FFFF)]


def _count() -> int:
    """A default that omit_defaults does not recognise: the key is written although it is zero."""
    return 0


class Summary(msgspec.Struct, omit_defaults=True, kw_only=True, frozen=True):
    """Statistics of the run that made a snapshot (restic 0.17 and later): counts, and sizes in bytes.

    ``data_added`` counts plain bytes, ``data_added_packed`` the bytes they take in packs.
    """

    backup_start: _Time
    backup_end: _Time
    files_new: _Count = msgspec.field(default_factory=_count)
    files_changed: _Count = msgspec.field(default_factory=_count)
    files_unmodified: _Count = msgspec.field(default_factory=_count)
    dirs_new: _Count = msgspec.field(default_factory=_count)
    dirs_changed: _Count = msgspec.field(default_factory=_count)
    dirs_unmodified: _Count = msgspec.field(default_factory=_count)
    data_blobs: _Count = msgspec.field(default_factory=_count)
    tree_blobs: _Count = msgspec.field(default_factory=_count)
    data_added: _Count = msgspec.field(default_factory=_count)
    data_added_packed: _Count = msgspec.field(default_factory=_count)
    total_files_processed: _Count = msgspec.field(default_factory=_count)
    total_bytes_processed: _Count = msgspec.field(default_factory=_count)


class Snapshot(msgspec.Struct, omit_defaults=True, kw_only=True, frozen=True):
    """A snapshot, its fields in the order of the JSON's keys. ``time`` is kept as written, offset and all."""

    time: _Time
    parent: _Hex | None = None
    tree: _Hex
    paths: list[str]
    hostname: str = ""
    username: str = ""
    uid: _U32 = 0
    gid: _U32 = 0
    excludes: list[str] | None = None
    tags: list[str] | None = None
    original: _Hex | None = None
    program_version: str = ""
    summary: Summary | None = None

    def time_ns(self) -> int:
        """When it was taken, nanoseconds since 1970. Raises SnapshotDamagedError when the text is not a time."""
        try:
            return parse_time_ns(self.time)
        except RepositoryDamagedError as error:
            raise SnapshotDamagedError(error.message) from None


CHECKPOINT_TAG = "checkpoint"
"""Of a snapshot that a run published on its way: it does not hold everything, and the run's last one replaces it."""
OWN_PROGRAM = "backupiq "


def is_checkpoint(snapshot: Snapshot) -> bool:
    """Whether a run of ours published it on its way. Others may use the tag for what they like."""
    return CHECKPOINT_TAG in (snapshot.tags or ()) and snapshot.program_version.startswith(OWN_PROGRAM)


_DECODER = msgspec.json.Decoder(Snapshot)


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """The JSON of a snapshot, as restic would write it; to be put into the envelope."""
    return go_escape(msgspec.json.encode(snapshot))


def decode_snapshot(json: bytes) -> Snapshot:
    """Read a snapshot's JSON; unknown keys are ignored. Raises SnapshotDamagedError, also for a time that is none."""
    snapshot = decode_json(_DECODER, json, SnapshotDamagedError, "A snapshot")
    snapshot.time_ns()
    return snapshot


_PREFIX = re.compile(r"[0-9a-f]{1,64}", re.ASCII)


def resolve_snapshot(snapshots: Iterable[tuple[str, Snapshot]], text: str) -> tuple[str, Snapshot]:
    """The snapshot a person means by "latest" or by the beginning of its id (hex).

    Raises SnapshotNotFoundError, and AmbiguousSnapshotError when more than one id begins so.
    """
    if text == "latest":
        newest = _newest(snapshots)
        if newest is None:
            raise SnapshotNotFoundError("The repository holds no snapshots yet. Make one with `backupiq backup`.")
        return newest
    prefix = text.lower()
    matches = [found for found in snapshots if found[0].startswith(prefix)] if _PREFIX.fullmatch(prefix) else []
    if not matches:
        raise SnapshotNotFoundError(
            f"There is no snapshot {text[:64]!r}. {SnapshotNotFoundError.hint}", snapshot=text[:64]
        )
    if len(matches) > 1:
        raise AmbiguousSnapshotError(
            f"More than one snapshot begins with {text[:64]!r}. {AmbiguousSnapshotError.hint}",
            snapshot=text[:64],
            matches=[found for found, _ in matches[:10]],
        )
    return matches[0]


def find_parent(
    snapshots: Iterable[tuple[str, Snapshot]], host: str, paths: Sequence[str], *, before_ns: int | None = None
) -> tuple[str, Snapshot] | None:
    """The newest snapshot of ``host`` that holds all of ``paths``: what restic takes for a backup's parent.

    ``before_ns`` leaves out snapshots taken after that time. None when there is none.
    """
    wanted = set(paths)
    return _newest(
        found
        for found in snapshots
        if found[1].hostname == host
        and wanted.issubset(found[1].paths)
        and (before_ns is None or found[1].time_ns() <= before_ns)
    )


def _newest(snapshots: Iterable[tuple[str, Snapshot]]) -> tuple[str, Snapshot] | None:
    return max(snapshots, key=lambda found: (found[1].time_ns(), found[0]), default=None)

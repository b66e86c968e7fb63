"""What a run tells when it has ended: plain values that every face prints in its own way."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True)
class BackupReport:
    """The end of a backup. Bytes and seconds; ids in hex; paths escaped for printing."""

    snapshot_id: str | None
    parent_id: str | None
    repository_id: str
    created_repository: bool
    paths: list[str]
    files_new: int
    files_changed: int
    files_unmodified: int
    dirs_new: int
    dirs_changed: int
    dirs_unmodified: int
    total_files: int
    total_bytes: int
    bytes_read: int
    data_added: int
    """Plain bytes of the blobs that were not known before."""
    data_added_packed: int
    """The same as stored: compressed and sealed."""
    bytes_sent: int
    """Bytes of every object that was uploaded: packs, indexes, the snapshot."""
    bytes_resumed: int
    """Bytes that an interrupted run had uploaded and that this one reused."""
    seconds: float
    seconds_prefect: float
    """Of the seconds before the flow began: importing Prefect and reaching its API."""
    unreadable: list[dict[str, str]]
    warnings: list[str]
    excluded: int
    destinations: list[dict[str, Any]]
    holds: dict[str, Any]
    """What the backup holds by category, language, framework and project, its largest files and those with secrets."""
    decisions: list[dict[str, Any]]
    """Folders that may be made again from the rest, with what was decided about each and why; at most 1,000."""
    checkpoints: int
    """How often what was stored by then was made restorable on the way."""
    flow_run_id: str | None
    flow_run_name: str | None
    exit_code: int

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, slots=True)
class RestoreSummary:
    """The end of a restore. Bytes and seconds; ids in hex; paths escaped for printing."""

    snapshot_id: str
    target: str
    dry_run: bool
    files: int
    bytes: int
    skipped: int
    problems: list[dict[str, str]]
    seconds: float
    seconds_prefect: float
    flow_run_id: str | None
    flow_run_name: str | None
    exit_code: int

    def to_dict(self) -> dict[str, Any]:
        """The summary as plain JSON values."""
        return dataclasses.asdict(self)

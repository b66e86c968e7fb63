"""Reports of backups that never ran."""

from __future__ import annotations

import dataclasses
from typing import Any

from backupiq.reports import BackupReport

_EMPTY: dict[str, Any] = {"str": "", "int": 0, "float": 0.0, "bool": False}


def make_report(**values: Any) -> BackupReport:
    """A report with these values; everything else is empty, and the snapshot has an id."""
    empty: dict[str, Any] = {}
    for field in dataclasses.fields(BackupReport):
        kind = str(field.type)
        empty[field.name] = [] if kind.startswith("list") else {} if kind.startswith("dict") else _EMPTY.get(kind)
    return BackupReport(**empty | {"snapshot_id": "0123abcd" * 8} | values)

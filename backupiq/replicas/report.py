"""What a healing tells when it has ended: plain values that every face prints in its own way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from backupiq.replicas.healing import HealOutcome


@dataclass(frozen=True, slots=True)
class HealReport:
    """The end of a healing. Bytes and seconds; ids in hex."""

    repository_id: str
    dry_run: bool
    read_data: bool
    outcome: HealOutcome
    seconds: float
    seconds_prefect: float
    """Of the seconds before the flow began: importing Prefect and reaching its API."""
    flow_run_id: str | None
    flow_run_name: str | None

    @property
    def exit_code(self) -> int:
        """0 when all replicas hold the same now (or would), 4 when one does not, 1 when an object is lost."""
        return self.outcome.exit_code

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return {
            "repository_id": self.repository_id,
            "dry_run": self.dry_run,
            "read_data": self.read_data,
            **self.outcome.to_dict(),
            "seconds": self.seconds,
            "seconds_prefect": self.seconds_prefect,
            "flow_run_id": self.flow_run_id,
            "flow_run_name": self.flow_run_name,
            "exit_code": self.exit_code,
        }

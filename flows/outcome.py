"""The event of a run that is complete, but not at every destination: what automations wait for."""

from __future__ import annotations

from prefect.events import emit_event

from backupiq.reports import BackupReport
from backupiq.telemetry import get_logger

DEGRADED_EVENT = "backupiq.run.degraded"

log = get_logger("backupiq.flows.outcome")


def tell_outcome(report: BackupReport) -> None:
    """Emit the event of a run that is complete, but not at every destination; never raises, never waits for the API."""
    lagging = [str(each["name"]) for each in report.destinations if not each["complete"]]
    if not lagging or report.snapshot_id is None:
        return
    resource = {
        "prefect.resource.id": f"backupiq.run.{report.flow_run_id or report.snapshot_id}",
        "prefect.resource.name": report.flow_run_name or "backup",
    }
    payload = {"snapshot": report.snapshot_id[:8], "lagging": lagging}
    try:
        emit_event(DEGRADED_EVENT, resource=resource, payload=payload)
    except Exception as error:  # noqa: BLE001 - news about a backup must not end it
        log.warning("event.lost", error=type(error).__name__)

"""Logging that tells which run it belongs to and never tells a secret."""

from backupiq.telemetry.correlation import (
    ContextThreadPool,
    bind_run,
    correlation,
    current_correlation,
    run_in_context,
)
from backupiq.telemetry.logs import (
    EventLogger,
    RedactingFilter,
    attach_handler,
    configure_logging,
    detach_handler,
    get_logger,
)
from backupiq.telemetry.redaction import redact, redact_text, register_secret

__all__ = [
    "ContextThreadPool",
    "EventLogger",
    "RedactingFilter",
    "attach_handler",
    "bind_run",
    "configure_logging",
    "correlation",
    "current_correlation",
    "detach_handler",
    "get_logger",
    "redact",
    "redact_text",
    "register_secret",
    "run_in_context",
]

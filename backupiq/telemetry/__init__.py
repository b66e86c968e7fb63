"""Logging that tells which run it belongs to and never tells a secret.

Its parts are imported when they are first used: helper processes need the text functions and never log.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from backupiq.telemetry.context import (
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

_PARTS = {
    "context": ("ContextThreadPool", "bind_run", "correlation", "current_correlation", "run_in_context"),
    "logs": (
        "EventLogger",
        "RedactingFilter",
        "attach_handler",
        "configure_logging",
        "detach_handler",
        "get_logger",
    ),
    "redaction": ("redact", "redact_text", "register_secret"),
}
_HOME = {name: part for part, names in _PARTS.items() for name in names}


def __getattr__(name: str) -> Any:
    part = _HOME.get(name)
    if part is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{part}"), name)
    globals()[name] = value
    return value

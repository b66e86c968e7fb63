"""Prefect's settings for runs started here; what the user has set in the environment or a profile wins."""

from __future__ import annotations

import os

DEFAULTS = {
    # The first start of an embedded server migrates its database, which takes longer than Prefect's own 20 s.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # Our own lines tell a person how a run goes; Prefect's own stay in the run's log.
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_CLI_COLORS": "false",
}
SECRET_VARIABLES = ("BACKUPIQ_PASSWORD",)


def prepare_environment(*, show_prefect_logs: bool = False) -> None:
    """Set what is not set yet, before Prefect is imported; secrets leave the environment that servers would inherit."""
    for name, value in DEFAULTS.items():
        if name == "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL" and show_prefect_logs:
            continue
        os.environ.setdefault(name, value)
    for name in SECRET_VARIABLES:
        os.environ.pop(name, None)

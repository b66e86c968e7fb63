"""Prefect's settings for runs started here; what the user has set in the environment or a profile wins."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

HEARTBEAT_SECONDS = 30
"""How often a run says that it lives, unless PREFECT_FLOWS_HEARTBEAT_FREQUENCY says otherwise; Prefect takes no less.

Its own 180 seconds are longer than the silence after which a run is marked as crashed (see `flows.automations`).
"""
DEFAULTS = {
    # The first start of an embedded server migrates its database, which takes longer than Prefect's own 20 s.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
    # Our own lines tell a person how a run goes; Prefect's own stay in the run's log.
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_CLI_COLORS": "false",
}
SECRET_VARIABLES = ("BACKUPIQ_PASSWORD",)


DASHBOARD = (
    "runs are recorded by a Prefect server of their own; `backupiq up` starts one that stays: runs begin sooner, and "
    "its dashboard shows them"
)
_TOLD = "dashboard-told"


def prepare_environment(*, show_prefect_logs: bool = False, tell: Callable[[str], None] | None = None) -> None:
    """Set what is not set yet, before Prefect is imported; secrets leave the environment that servers would inherit.

    Where the user has set no Prefect API, the server that `backupiq up` started serves. Where there is none either,
    ``tell`` hears once on this machine how to get one.
    """
    for name, value in DEFAULTS.items():
        if name == "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL" and show_prefect_logs:
            continue
        os.environ.setdefault(name, value)
    for name in SECRET_VARIABLES:
        os.environ.pop(name, None)
    if has_api(os.environ):
        return
    from flows.local_server import running_api_url

    url = running_api_url()
    if url is not None:
        os.environ["PREFECT_API_URL"] = url
    elif tell is not None and _is_first_time():
        tell(DASHBOARD)


def has_api(env: Mapping[str, str]) -> bool:
    """Whether the user has named a Prefect API, in the environment or in Prefect's active profile."""
    if env.get("PREFECT_API_URL"):
        return True
    home = Path(env.get("PREFECT_HOME") or "~/.prefect")
    path = Path(env.get("PREFECT_PROFILES_PATH") or home / "profiles.toml")
    try:
        document = tomllib.loads(path.expanduser().read_text(encoding="utf-8"))
        active = env.get("PREFECT_PROFILE") or document.get("active", "")
        return bool(document["profiles"][active].get("PREFECT_API_URL"))
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _is_first_time() -> bool:
    from backupiq.errors import ConfigurationError
    from backupiq.state import state_dir, write_private

    try:
        return write_private(state_dir() / _TOLD, b"", create_only=True)
    except (OSError, ConfigurationError):
        return False  # a disk that keeps nothing would have it said at every run

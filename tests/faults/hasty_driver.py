"""`tests.faults.driver` with waits of seconds, for runs against destinations that are made to fail.

The waits are values that other modules take over when they are imported, so they are set before anything else is.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.faults.driver import Commands, serve

HASTY_SECONDS = 5.0
"""For a black hole a long time, for a server on a busy machine a short one."""
TRIES = 2


class HastyCommands(Commands):
    """The other end: starts that process and asks it."""

    def __init__(self, env: Mapping[str, str], folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.hasty_driver"],
            env={**env, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )


def hurry() -> None:
    """Shorten the waits of this process's retries and of its transfers."""
    from backupiq.resilience import retry
    from backupiq.storage import transfer_options

    for name in ("QUICK", "STANDARD", "AGGRESSIVE", "PATIENT"):
        policy = dataclasses.replace(getattr(retry, name), tries=TRIES, first_delay=0.05, longest_delay=0.1)
        setattr(retry, name, policy)
    transfer_options.DEFAULT_TRANSFER = dataclasses.replace(
        transfer_options.DEFAULT_TRANSFER,
        connect_seconds=HASTY_SECONDS,
        read_seconds=HASTY_SECONDS,
        slowest_upload=64 << 20,
        retries=0,
    )


if __name__ == "__main__":
    hurry()
    serve()

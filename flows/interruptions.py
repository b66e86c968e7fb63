"""Signals while Prefect is being loaded: noted at once, acted upon between two steps."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM)
EXIT_INTERRUPTED = 130


class Interruptions:
    """SIGINT and SIGTERM from a command's first line until its event loop takes over.

    Raised inside an import, KeyboardInterrupt can leave the interpreter's import lock taken for ever, and every other
    thread waiting for it. So the first signal is only noted, and `check` raises. A second one ends the process at once:
    nothing is locked and nothing is stored by then.
    """

    def __init__(self) -> None:
        self.name: str | None = None

    def check(self) -> None:
        """Raise KeyboardInterrupt when a signal has come."""
        if self.name is not None:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def noted(self) -> Iterator[None]:
        """Note signals for the length of the block, where signals can be handled at all (in the main thread)."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._note) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: object) -> None:
        if self.name is not None:
            os._exit(EXIT_INTERRUPTED)
        self.name = signal.Signals(number).name

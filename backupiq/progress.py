"""How long work tells a person where it is."""

from __future__ import annotations

from typing import Protocol


class ProgressSink(Protocol):
    """Receives progress from any thread; every method returns at once and never raises."""

    def stage(self, name: str) -> None:
        """A new stage begins: a few words for a person."""

    def total(self, files: int, bytes_: int) -> None:
        """How much the stages ahead will handle altogether."""

    def advance(self, files: int, bytes_: int) -> None:
        """That much more is done."""

    def note(self, text: str) -> None:
        """One line that a person should see now."""


class SilentProgress:
    """Tells nobody anything."""

    def stage(self, name: str) -> None:
        """Ignored."""

    def total(self, files: int, bytes_: int) -> None:
        """Ignored."""

    def advance(self, files: int, bytes_: int) -> None:
        """Ignored."""

    def note(self, text: str) -> None:
        """Ignored."""

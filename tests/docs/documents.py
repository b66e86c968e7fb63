"""The folder of documents that the README backs up, the same in every run."""

from __future__ import annotations

import os
import random
from datetime import UTC, datetime
from pathlib import Path

LETTER = "Dear landlord,\n\nthe heating in the kitchen does not work again.\n\nAnna\n"


def make_documents(folder: Path) -> None:
    """Letters, a recipe, a table and forty pictures of pseudo-random bytes, with fixed times."""
    _write(folder / "letters" / "insurance.txt", b"Dear insurance,\n\nplease find the receipts enclosed.\n\nAnna\n", 3)
    _write(folder / "letters" / "landlord.txt", LETTER.encode(), 9)
    _write(folder / "recipes" / "bread.md", b"# Bread\n\n500 g flour, 350 g water, 10 g salt, time.\n" * 20, 14)
    rows = "".join(f"2025-{month:02}-{day:02},{month * day}.00\n" for month in range(1, 13) for day in range(1, 29))
    _write(folder / "taxes" / "2025.csv", rows.encode(), 20)
    picture = random.Random(2025)
    for number in range(40):
        _write(folder / "photos" / f"img-{number:04}.jpg", picture.randbytes(120_000 + 1_000 * number), 21)
    for path in (*folder.iterdir(), folder):
        _set_time(path, 22)


def _write(path: Path, data: bytes, day: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(0o644)
    _set_time(path, day)


def _set_time(path: Path, day: int) -> None:
    seconds = datetime(2025, 11, day, 10, 30, tzinfo=UTC).timestamp()
    os.utime(path, (seconds, seconds))

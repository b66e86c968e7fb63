"""Ties between languages settled by Magika, Google's model for content types: an optional extra, asked last."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from backupiq.errors import MissingConfigurationError
from backupiq.semantics.model import FileType
from backupiq.semantics.name_rules import claim_of
from backupiq.semantics.tables import tables
from backupiq.semantics.types import HEAD_BYTES, is_tie

TIES_AT_ONCE = 32
"""Files that are before the model at once: it takes 7 MB for each of a batch."""
LEAST_SCORE = 0.7
"""Below this the model's word on a file without a telling name does not count."""
LEAST_SCORE_AMONG = 0.3
"""The same where the answer is one of the languages that the extension stands for."""


@dataclass(frozen=True, slots=True)
class Tie:
    """A file that `detect` could not decide: the last component of its path, its head, and what was found."""

    name: bytes
    head: bytes
    found: FileType


def settle(ties: Sequence[Tie], model: Any = None) -> list[FileType]:
    """The types of ``ties``, in order: the model's answer where it is one that the name allows, else what was found.

    Those that are no ties (`types.is_tie`) are not shown to the model. ``model`` is a ``magika.Magika``; without it the
    one of this process is used. Raises MissingConfigurationError when Magika is not installed.
    """
    asked = [at for at, tie in enumerate(ties) if is_tie(tie.found) and tie.head]
    results = [tie.found for tie in ties]
    if not asked:
        return results
    model = model or magika()
    for start in range(0, len(asked), TIES_AT_ONCE):
        for at in asked[start : start + TIES_AT_ONCE]:
            results[at] = _settled(ties[at], model.identify_bytes(ties[at].head[:HEAD_BYTES]))
    return results


@functools.cache
def magika() -> Any:
    """The model, loaded once in a process (some 100 MB). Raises MissingConfigurationError when it is not installed."""
    try:
        from magika import Magika
    except ImportError as error:
        raise MissingConfigurationError(
            'Settling ties between languages needs Magika, which is not installed. Run: pip install "backupiq[magika]"',
            package="magika",
        ) from error
    return Magika()


def _settled(tie: Tie, answer: Any) -> FileType:
    known = tables()
    label, score = str(answer.output.label), float(answer.score)
    name = known.rules["magika"].get(label, known.aliases.get(label, ""))
    if not name:
        return tie.found
    candidates = {one.name for one in claim_of(tie.name, 0, known).candidates}
    least = LEAST_SCORE_AMONG if candidates else LEAST_SCORE
    if score < least or (candidates and name not in candidates):
        return tie.found
    return known.types[name].found("magika", round(100 * score))

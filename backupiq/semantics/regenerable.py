"""Which folders can be made again from what is in the backup: a decision, with its reason, for every candidate."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from backupiq.semantics.landmarks import Candidate, Landmarks, nearest, parent_of, survey
from backupiq.semantics.model import Decision
from backupiq.semantics.regenerable_rules import Groups, Rule
from backupiq.semantics.view import Files
from backupiq.telemetry.text import printable_path


def find_regenerable(
    files: Files, tracks: Callable[[bytes], bool], landmarks: Landmarks | None = None
) -> list[Decision]:
    """A decision for every folder that is a candidate by its name or by a marker inside, sorted by path.

    ``tracks`` tells whether git tracks anything inside a folder; it is asked only where all else holds. What lies
    inside a folder that is regenerable is not listed again. ``landmarks`` saves the walk when ``survey`` made it.
    """
    return decide(landmarks or survey(files), tracks)


def decide(landmarks: Landmarks, tracks: Callable[[bytes], bool]) -> list[Decision]:
    """The same from what a walk has found."""
    decisions: list[Decision] = []
    accepted: dict[bytes, bool] = {}
    below = landmarks.evidence_below()
    for path in sorted(landmarks.candidates):  # a folder sorts before all that is below it
        if nearest(path, accepted):
            continue
        candidate = landmarks.candidates[path]
        decision = _decide(candidate, below.get(parent_of(path), frozenset()), tracks)
        if decision.regenerable:
            accepted[path] = True
        decisions.append(decision)
    return decisions


class RegenerableIndex:
    """Finds the regenerable folder that a folder is, or lies in. Refused candidates are not in it."""

    def __init__(self, decisions: Iterable[Decision]) -> None:
        self._accepted = {decision.path: decision for decision in decisions if decision.regenerable}

    def covers(self, folder: bytes) -> Decision | None:
        """The decision about this folder or the nearest one above it that can be made again."""
        return nearest(folder, self._accepted) if self._accepted else None


# A folder in which a person's own files lie is kept, also when another rule would let it go: uv, for one, marks every
# environment as a cache.
_HOLDS_MORE = 3


def _decide(candidate: Candidate, below: frozenset[str], tracks: Callable[[bytes], bool]) -> Decision:
    refusals: list[tuple[Rule, _Missing]] = []
    for rule in sorted(candidate.rules, key=lambda rule: not rule.only):
        missing = _missing(rule, candidate, below)
        if missing:
            refusals.append((rule, missing))
            if missing.steps >= _HOLDS_MORE:
                break
        elif tracks(candidate.path):
            return Decision(candidate.path, False, rule.id, "Git tracks files inside it.")
        else:
            return Decision(candidate.path, True, rule.id, f"{_proof(rule, candidate, below)}; {rule.remake} again.")
    closest, farthest = max(refusals, key=lambda refusal: refusal[1].steps)
    said = [farthest] if farthest.steps >= _HOLDS_MORE else [missing for _, missing in refusals]
    return Decision(candidate.path, False, closest.id, _sentence(said))


class _Missing(NamedTuple):
    """How far a rule holds, and what it lacks: words with a gap for the names."""

    steps: int
    words: str
    names: tuple[str, ...] = ()


def _missing(rule: Rule, candidate: Candidate, below: frozenset[str]) -> _Missing | None:
    """What the rule lacks; None when it holds."""
    for group in rule.beside:
        if not candidate.beside.intersection(group):
            return _Missing(0, "the backup holds no {} beside it", group)
    for group in rule.below:
        if not below.intersection(group) and not candidate.beside.intersection(group):
            return _Missing(0, "the backup holds no {} beside it or deeper", group)
    for group in rule.inside:
        if not candidate.inside.intersection(group):
            return _Missing(1, "it holds no {}", group)
    if rule.proof and rule.proof.file not in candidate.proven:
        return _Missing(2, "its {} does not say what such a file says", (rule.proof.file,))
    if rule.only and not candidate.complete:
        return _Missing(_HOLDS_MORE, "not all that it holds could be listed")
    if rule.only and candidate.foreign is not None:
        return _Missing(_HOLDS_MORE, "it also holds {}, which no tool put there", (printable_path(candidate.foreign),))
    return None


def _proof(rule: Rule, candidate: Candidate, below: frozenset[str]) -> str:
    parts = []
    if rule.beside:
        parts.append(f"the backup holds {' and '.join(_present(rule.beside, candidate.beside))} beside it")
    if rule.below:
        found = _present(rule.below, candidate.beside | below)
        parts.append(f"the backup holds {' and '.join(found)} beside it or deeper")
    if rule.inside:
        parts.append(f"it holds {' and '.join(_present(rule.inside, candidate.inside))}")
    return _capital(" and ".join(parts))


def _present(groups: Groups, found: frozenset[str]) -> list[str]:
    return [next(name for name in group if name in found) for group in groups]


def _sentence(said: Iterable[_Missing]) -> str:
    """What is missing in one sentence; what several rules say in the same words is said once with all their names."""
    names: dict[str, dict[str, None]] = {}
    for missing in said:
        names.setdefault(missing.words, {}).update(dict.fromkeys(missing.names))
    return _capital(", and ".join(words.format(_either([*given])) for words, given in names.items())) + "."


def _either(names: list[str]) -> str:
    return " or ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]

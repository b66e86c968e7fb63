"""Which replica to ask first: the ones that answered lately, in the order in which they were named."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable

FIRST_COOL_DOWN = 30.0
LONGEST_COOL_DOWN = 600.0
MOST_WRONG_KEYS = 10_000


class ReplicaHealth:
    """What is known of some replicas by now. Times are seconds of ``clock``; belongs to one event loop.

    A replica that failed as a whole comes last for a while, which doubles with every failure in a row; one that gave a
    wrong copy of an object (or none) comes last for that object. None is ever left out: the last one may be right.
    """

    def __init__(self, names: Iterable[str], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._names = tuple(names)
        self._clock = clock
        self._failures = dict.fromkeys(self._names, 0)
        self._until = dict.fromkeys(self._names, clock())
        self._wrong: OrderedDict[tuple[str, str], None] = OrderedDict()

    def without(self, name: str) -> ReplicaHealth:
        """What is known of the others."""
        rest = ReplicaHealth((each for each in self._names if each != name), clock=self._clock)
        for each in rest._names:
            rest._failures[each], rest._until[each] = self._failures[each], self._until[each]
        rest._wrong = OrderedDict.fromkeys(known for known in self._wrong if known[0] != name)
        return rest

    def order(self, key: str = "", among: Iterable[str] | None = None) -> list[str]:
        """All of them (or those ``among`` which the object is), the best first."""
        names = self._names if among is None else tuple(among)
        return sorted(names, key=lambda name: ((name, key) in self._wrong, not self.answers(name)))

    def answers(self, name: str) -> bool:
        """Whether the replica did not fail as a whole just now."""
        return self._clock() >= self._until[name]

    def failed(self, name: str) -> bool:
        """The replica failed as a whole; whether it was thought to answer before."""
        before = self.answers(name)
        self._failures[name] += 1
        cool_down = min(LONGEST_COOL_DOWN, FIRST_COOL_DOWN * 2.0 ** min(self._failures[name] - 1, 10))
        self._until[name] = self._clock() + cool_down
        return before

    def succeeded(self, name: str) -> None:
        """The replica gave a right answer."""
        if self._failures[name]:
            self._failures[name] = 0
            self._until[name] = self._clock()

    def wrong(self, name: str, key: str) -> bool:
        """The replica's copy of this object is wrong or missing; whether that is news."""
        if (name, key) in self._wrong:
            self._wrong.move_to_end((name, key))
            return False
        self._wrong[name, key] = None
        if len(self._wrong) > MOST_WRONG_KEYS:
            self._wrong.popitem(last=False)
        return True

"""Any history of several processes, calls, failures, crashes and passing time keeps what the breaker promises."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from backupiq.errors import CircuitOpenError
from backupiq.resilience.breaker import Breaker, BreakerPolicy, BreakerState, Outcome, Permit
from tests.unit.resilience.worlds import World

PROCESSES = 3
POLICY = BreakerPolicy(threshold=2, window_seconds=50, cooldown=10, longest_cooldown=40, probe_seconds=30)


class Histories(RuleBasedStateMachine):
    """Processes share one store; calls overlap; each call that was permitted ends somehow, or never."""

    calls = Bundle("calls")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.world = World(POLICY)
        self.processes = [self.world.process() for _ in range(PROCESSES)]
        self.refusals: list[tuple[str, float]] = []
        self.newest = BreakerState()
        self.probes: dict[int, float] = {}

    def run(self, work: Any) -> Any:
        return self.runner.run(work)

    def teardown(self) -> None:
        self.runner.close()

    @rule(target=calls, number=st.integers(0, PROCESSES - 1))
    def begin(self, number: int) -> Any:
        process = self.processes[number]
        try:
            permit = self.run(process.allow())
        except CircuitOpenError as error:
            self.refusals.append((process.state.phase, error.details["until"] - self.world.clock()))
            return multiple()
        if permit.probe:
            now = self.world.clock()
            assert all(until <= now for until in self.probes.values()), "two live probes"
            self.probes = {permit.generation: now + POLICY.probe_seconds}
        return process, permit

    @rule(call=consumes(calls), outcome=st.sampled_from(Outcome))
    def end(self, call: tuple[Breaker, Permit], outcome: Outcome) -> None:
        process, permit = call
        before = self.run(self.world.stored())
        self.run(process.record(permit, outcome, reason="because"))
        after = self.run(self.world.stored())
        self.probes.pop(permit.generation if permit.probe else -1, None)
        if permit.generation != before.generation:
            assert after == before
        elif permit.probe:
            wanted = "closed" if outcome is Outcome.SUCCESS else "open"
            assert after.phase == wanted
            if outcome in (Outcome.FAILURE, Outcome.PERMANENT):
                assert after.cooldown == min(before.cooldown * 2, POLICY.longest_cooldown)
        elif outcome is Outcome.PERMANENT:
            assert after.phase == "open"

    @rule(number=st.integers(0, PROCESSES - 1))
    def die(self, number: int) -> None:
        self.processes[number] = self.world.process()

    @rule(seconds=st.sampled_from([0.5, 4, 11, 31, 61]))
    def wait(self, seconds: float) -> None:
        self.world.clock.pass_(seconds)

    @rule(number=st.integers(0, PROCESSES - 1))
    def reset(self, number: int) -> None:
        before = self.run(self.world.stored())
        assert self.run(self.processes[number].reset()) == (before.phase != "closed")
        assert self.run(self.world.stored()).phase == "closed"
        self.probes.clear()

    @invariant()
    def generations_only_grow_and_closed_never_becomes_half_open(self) -> None:
        found = self.run(self.world.stored())
        assert found.generation >= self.newest.generation
        if found.generation == self.newest.generation + 1:
            assert (self.newest.phase, found.phase) not in (("closed", "half-open"), ("open", "open"))
        self.newest = found

    @invariant()
    def calls_are_refused_only_while_it_is_not_closed_and_never_for_longer_than_the_longest_pause(self) -> None:
        while self.refusals:
            phase, seconds = self.refusals.pop()
            assert phase != "closed"
            assert 0 < seconds <= POLICY.longest_cooldown

    @invariant()
    def nothing_stays_open_without_end(self) -> None:
        found = self.run(self.world.stored())
        longest = max(POLICY.longest_cooldown, POLICY.probe_seconds)
        assert found.is_due(self.world.clock() + longest) or found.phase == "closed"


Histories.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestHistories = Histories.TestCase

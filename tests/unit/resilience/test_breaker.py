"""One breaker, and several processes that share one."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

import pytest

from backupiq.errors import (
    CircuitOpenError,
    DiskFullError,
    OrchestrationError,
    StorageAuthenticationError,
    StorageConnectionError,
    StorageNotFoundError,
    StorageThrottledError,
)
from backupiq.resilience.breaker import (
    CACHE_SECONDS,
    LONGEST_TRUST,
    Breaker,
    BreakerState,
    MemoryBreakerStore,
    Outcome,
    breaker_key,
)
from backupiq.telemetry import register_secret
from tests.unit.resilience.worlds import KEY, POLICY, World

DOWN = "The line is down."


@pytest.fixture
def world() -> World:
    return World()


async def fail(breaker: Breaker, error: BaseException | None = None) -> None:
    """One call that ends with the error."""
    error = error or StorageConnectionError(DOWN)
    with pytest.raises(type(error)):
        async with breaker.attempt():
            raise error


async def succeed(breaker: Breaker) -> None:
    async with breaker.attempt():
        pass


async def refused(breaker: Breaker) -> CircuitOpenError:
    with pytest.raises(CircuitOpenError) as caught:
        await breaker.allow()
    return caught.value


async def tripped(world: World) -> Breaker:
    """A process whose calls have opened the breaker."""
    breaker = world.process()
    await fail(breaker, StorageAuthenticationError("The destination refused the credentials."))
    return breaker


# --- opening -------------------------------------------------------------------------------------------------------


async def test_it_opens_at_the_threshold_and_not_before(world: World) -> None:
    breaker = world.process()
    for _ in range(world.policy.threshold - 1):
        await fail(breaker)
    await succeed(world.process())
    assert (await world.stored()).generation == 0
    await fail(breaker)
    stored = await world.stored()
    assert (stored.phase, stored.generation, stored.reason, stored.label) == ("open", 1, DOWN, "s3://bucket")
    await refused(breaker)


async def test_failures_outside_of_the_window_do_not_count(world: World) -> None:
    breaker = world.process()
    for _ in range(20):
        await fail(breaker)
        world.clock.pass_(world.policy.window_seconds / 2 + 1)
    assert (await world.stored()).phase == "closed"


async def test_a_destination_that_mostly_works_stays_open_for_calls(world: World) -> None:
    breaker = world.process()
    for _ in range(30):
        await fail(breaker)
        await succeed(breaker)
    assert (await world.stored()).phase == "closed"


async def test_an_error_that_does_not_pass_opens_it_at_once(world: World) -> None:
    await tripped(world)
    assert (await world.stored()).phase == "open"


@pytest.mark.parametrize(
    "error", [StorageNotFoundError(), DiskFullError(), asyncio.CancelledError(), ValueError("a bug")], ids=repr
)
async def test_what_does_not_speak_against_the_destination_never_opens_it(world: World, error: BaseException) -> None:
    breaker = world.process()
    for _ in range(20):
        await fail(breaker, error)
    await succeed(breaker)
    assert world.store.advances == 0


async def test_calls_that_end_after_it_opened_change_nothing(world: World) -> None:
    breaker = world.process()
    permits = [await breaker.allow() for _ in range(10)]
    for permit in permits[:3]:
        await breaker.record(permit, Outcome.FAILURE)
    opened = await world.stored()
    for permit, outcome in zip(permits[3:], [*Outcome] * 2, strict=False):
        await breaker.record(permit, outcome)
    assert await world.stored() == opened
    assert world.store.advances == 1


async def test_failures_from_before_a_reset_are_forgotten(world: World) -> None:
    breaker = world.process()
    for _ in range(3):
        await fail(breaker)
    assert await breaker.reset()
    for _ in range(2):
        await fail(breaker)
    assert (await world.stored()).phase == "closed"


async def test_the_error_says_until_when_why_and_how_to_reset(world: World) -> None:
    breaker = await tripped(world)
    world.clock.pass_(18.5)
    error = await refused(breaker)
    assert "s3://bucket is left alone until " in error.message
    assert "(for 42 s) because it failed: The destination refused the credentials. It is" in error.message
    assert "`backupiq providers --reset s3://bucket`" in error.message
    assert "\n" not in error.message
    assert error.details["until"] == (await world.stored()).until
    assert error.details["breaker"] == KEY
    assert not error.retryable


async def test_neither_secrets_nor_terminal_codes_get_into_what_is_stored_and_shown(world: World) -> None:
    register_secret("sesame-open-0815")
    breaker = world.process(label="/mnt/a\nb\x1b[31m disk\udce9")
    await fail(breaker, StorageAuthenticationError("refused sesame-open-0815\x1b[2J\nfor ever"))
    stored = await world.stored()
    assert "sesame" not in str(stored)
    assert stored.reason.isprintable()
    assert stored.label.isprintable()
    error = await refused(breaker)
    assert "'/mnt/a" in error.message
    assert error.message.isprintable()


async def test_a_pause_that_the_destination_asks_for_is_kept(world: World) -> None:
    breaker = world.process()
    for _ in range(3):
        await fail(breaker, StorageThrottledError("slow down", retry_after=100))
    assert (await world.stored()).until == world.clock() + 100


# --- the probe -----------------------------------------------------------------------------------------------------


async def test_after_the_cool_down_one_call_probes_and_its_success_closes_it_for_all(world: World) -> None:
    one, other = await tripped(world), world.process()
    world.clock.pass_(60)
    permit = await one.allow()
    assert permit.probe
    assert "one call is trying it right now" in (await refused(one)).message
    await refused(other)
    await one.record(permit, Outcome.SUCCESS)
    world.clock.pass_(CACHE_SECONDS)
    assert not (await other.allow()).probe
    assert world.changes == [("closed", "open"), ("open", "half-open"), ("half-open", "closed")]


async def test_of_many_calls_in_many_processes_at_once_exactly_one_probes(world: World) -> None:
    await tripped(world)
    world.clock.pass_(60)
    processes = [world.process() for _ in range(8)]
    asked = [process.allow() for process in processes for _ in range(5)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    permits = [answer for answer in answers if not isinstance(answer, BaseException)]
    assert [permit.probe for permit in permits] == [True]
    assert all(isinstance(answer, CircuitOpenError) for answer in answers if isinstance(answer, BaseException))


async def test_a_failed_probe_doubles_the_cool_down_up_to_the_longest(world: World) -> None:
    breaker = await tripped(world)
    pauses = []
    for _ in range(5):
        stored = await world.stored()
        pauses.append(stored.until - world.clock())
        world.clock.pass_(pauses[-1] - 1)
        await refused(breaker)
        world.clock.pass_(1)
        await fail(breaker)
    assert pauses == [60, 120, 240, 300, 300]


@pytest.mark.parametrize("error", [asyncio.CancelledError(), DiskFullError(), StorageNotFoundError()], ids=repr)
async def test_a_probe_without_an_answer_gives_its_place_back(world: World, error: BaseException) -> None:
    breaker = await tripped(world)
    world.clock.pass_(60)
    await fail(breaker, error)
    stored = await world.stored()
    assert (stored.phase, stored.cooldown) == ("open", 60)
    assert (await world.process().allow()).probe


async def test_a_probe_that_never_ends_is_taken_over_when_its_time_is_up_and_its_late_end_changes_nothing(
    world: World,
) -> None:
    one, other = await tripped(world), world.process()
    world.clock.pass_(60)
    late = await one.allow()
    world.clock.pass_(world.policy.probe_seconds - 1)
    await refused(other)
    world.clock.pass_(1)
    second = await other.allow()
    assert second.probe
    await one.record(late, Outcome.SUCCESS)
    assert (await world.stored()).phase == "half-open"
    await refused(one)
    await other.record(second, Outcome.FAILURE)
    assert (await world.stored()).cooldown == 120


async def test_a_probe_that_is_cancelled_again_and_again_still_tells_its_end(world: World) -> None:
    breaker = await tripped(world)
    world.clock.pass_(60)
    asked, answer = asyncio.Event(), asyncio.Event()
    true_advance = world.store.advance

    async def slow_advance(destination: str, old: BreakerState, new: BreakerState) -> bool:
        if new.phase == "open":
            asked.set()
            await answer.wait()
        return await true_advance(destination, old, new)

    world.store.advance = slow_advance  # type: ignore[method-assign]
    begun = asyncio.Event()

    async def probe() -> None:
        async with breaker.attempt():
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.ensure_future(probe())
    await begun.wait()
    task.cancel()
    await asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await world.stored()).phase == "half-open"
    answer.set()
    await breaker.settle()
    assert (await world.stored()).phase == "open"


# --- reset ---------------------------------------------------------------------------------------------------------


async def test_reset_closes_it_for_all_whatever_it_was(world: World) -> None:
    one, other = await tripped(world), world.process()
    await refused(one)
    assert await other.reset()
    assert not await other.reset()
    world.clock.pass_(CACHE_SECONDS)
    assert not (await one.allow()).probe
    assert (await world.stored()).generation == 2


async def test_reset_while_a_probe_is_under_way_wins(world: World) -> None:
    one, other = await tripped(world), world.process()
    world.clock.pass_(60)
    probe = await one.allow()
    assert await other.reset()
    await one.record(probe, Outcome.FAILURE)
    assert (await world.stored()).phase == "closed"


async def test_reset_without_the_store_is_refused(world: World) -> None:
    breaker = await tripped(world)
    world.store.down = True
    with pytest.raises(OrchestrationError, match="cannot be reset"):
        await world.process().reset()
    with pytest.raises(OrchestrationError, match="cannot be reset"):
        await breaker.reset()
    world.store.down = False
    assert (await world.stored()).phase == "open"


async def test_reset_is_not_called_done_when_the_store_goes_away_in_its_middle(world: World) -> None:
    breaker = await tripped(world)
    true_load = world.store.load

    async def load_and_go(destination: str) -> BreakerState:
        found = await true_load(destination)
        world.store.down = True
        return found

    world.store.load = load_and_go  # type: ignore[method-assign]
    with pytest.raises(OrchestrationError, match="cannot be reset"):
        await breaker.reset()
    world.store.down = False
    assert (await world.stored()).phase == "open"


# --- what it costs -------------------------------------------------------------------------------------------------


async def test_healthy_calls_read_the_store_by_time_and_never_write(world: World) -> None:
    breaker = world.process()
    for _ in range(600):
        permits = [await breaker.allow() for _ in range(3)]
        world.clock.pass_(1)
        for permit in permits:
            await breaker.record(permit, Outcome.SUCCESS)
    assert world.store.advances == 0
    assert world.store.loads == 600 / LONGEST_TRUST


async def test_long_calls_read_the_store_no_more_often_than_short_ones(world: World) -> None:
    breaker = world.process()
    for _ in range(10):
        permit = await breaker.allow()
        world.clock.pass_(20)
        await breaker.record(permit, Outcome.SUCCESS)
    assert world.store.loads == 4


async def test_after_a_failure_of_its_own_it_looks_what_others_know(world: World) -> None:
    one, other = world.process(), world.process()
    await succeed(one)
    await fail(other, StorageAuthenticationError())
    world.clock.pass_(CACHE_SECONDS - 1)
    await succeed(one)
    world.clock.pass_(CACHE_SECONDS - 1)
    await fail(one)
    await refused(one)


async def test_others_opening_it_is_seen_after_the_longest_trust_at_the_latest() -> None:
    world = World(replace(POLICY, cooldown=300))
    one, other = world.process(), world.process()
    await succeed(one)
    await fail(other, StorageAuthenticationError())
    seen = 0
    while seen < LONGEST_TRUST:
        try:
            await succeed(one)
        except CircuitOpenError:
            break
        world.clock.pass_(1)
        seen += 1
    assert seen == LONGEST_TRUST
    await refused(one)


async def test_many_first_calls_at_once_read_the_store_once(world: World) -> None:
    breaker = world.process()
    await asyncio.gather(*(breaker.allow() for _ in range(50)))
    assert world.store.loads == 1


# --- two processes -------------------------------------------------------------------------------------------------


async def test_of_two_processes_that_fail_at_once_one_opens_it_and_both_keep_away(world: World) -> None:
    one, other = world.process(), world.process()
    for _ in range(2):
        await fail(one)
        await fail(other)
    await asyncio.gather(fail(one), fail(other))
    assert (await world.stored()).generation == 1
    await refused(one)
    await refused(other)
    assert world.changes == [("closed", "open")]


async def test_a_clock_that_is_set_back_keeps_nobody_out_for_long(world: World) -> None:
    breaker = await tripped(world)
    world.clock.pass_(-10 * 24 * 3600)
    assert (await breaker.allow()).probe


# --- without the store ---------------------------------------------------------------------------------------------


async def test_without_an_answer_from_the_beginning_calls_pass_and_it_is_said_once(world: World) -> None:
    world.store.down = True
    breaker = world.process()
    for _ in range(20):
        await succeed(breaker)
        world.clock.pass_(1)
    assert len(world.alone) == 1
    assert world.store.loads == 1


async def test_what_was_known_when_the_store_went_away_goes_on(world: World) -> None:
    breaker = await tripped(world)
    world.store.down = True
    world.clock.pass_(30)
    await refused(breaker)
    world.clock.pass_(30)
    async with breaker.attempt() as permit:
        assert permit.probe
    await succeed(breaker)
    assert len(world.alone) == 1


async def test_without_the_store_it_opens_for_this_process_and_tells_the_others_when_it_is_back(world: World) -> None:
    breaker = world.process()
    await succeed(breaker)
    world.store.down = True
    for _ in range(3):
        await fail(breaker)
    await refused(breaker)
    assert world.changes == []
    world.store.down = False
    assert (await world.stored()).generation == 0
    world.clock.pass_(31)
    await refused(breaker)
    stored = await world.stored()
    assert (stored.phase, stored.generation, stored.reason) == ("open", 1, DOWN)
    assert world.changes == [("closed", "open")]
    await refused(world.process())


async def test_without_the_store_still_only_one_of_many_calls_probes_and_nobody_waits_for_the_store(
    world: World,
) -> None:
    breaker = await tripped(world)
    world.store.down = True
    world.clock.pass_(60)
    answers = await asyncio.gather(*(breaker.allow() for _ in range(9)), return_exceptions=True)
    (permit,) = [answer for answer in answers if not isinstance(answer, BaseException)]
    assert permit.probe
    asked = world.store.loads + world.store.advances
    await breaker.record(permit, Outcome.SUCCESS)
    await succeed(breaker)
    assert world.store.loads + world.store.advances == asked


async def test_without_the_store_a_closed_breaker_has_forgotten_the_failures_from_before(world: World) -> None:
    breaker = world.process()
    for _ in range(3):
        await fail(breaker)
    world.store.down = True
    world.clock.pass_(60)
    await succeed(breaker)
    await fail(breaker)
    assert breaker.state.phase == "closed"


async def test_a_probe_begun_without_the_store_and_ended_with_it_is_told(world: World) -> None:
    breaker = await tripped(world)
    world.store.down = True
    world.clock.pass_(60)
    permit = await breaker.allow()
    world.store.down = False
    world.clock.pass_(31)
    await breaker.record(permit, Outcome.SUCCESS)
    assert (await world.stored()).phase == "closed"


async def test_what_others_decided_meanwhile_is_worth_more_than_what_was_decided_alone(world: World) -> None:
    one, other = world.process(), world.process()
    await succeed(one)
    world.store.down = True
    for _ in range(3):
        await fail(one)
    world.store.down = False
    await fail(other, StorageAuthenticationError())
    assert await other.reset()
    world.clock.pass_(31)
    assert not (await one.allow()).probe
    assert (await world.stored()).generation == 2


async def test_without_prefect_the_store_in_memory_shares_states_in_the_process() -> None:
    store = MemoryBreakerStore()
    one, other = Breaker(store, KEY), Breaker(store, KEY)
    await fail(one, StorageAuthenticationError())
    await refused(other)
    assert (await store.load(breaker_key("another"))).phase == "closed"


async def test_only_the_next_generation_can_be_stored() -> None:
    store = MemoryBreakerStore()
    first = BreakerState(phase="open", generation=1)
    answers = await asyncio.gather(*(store.advance(KEY, BreakerState(), first) for _ in range(9)))
    assert Counter(answers) == {True: 1, False: 8}
    assert not await store.advance(KEY, BreakerState(), first)
    assert not await store.advance(KEY, first, BreakerState(generation=3))

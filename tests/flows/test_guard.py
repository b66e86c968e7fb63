"""The guard around real tasks on a real Prefect server: what is asked, what is not called, what it costs."""

from __future__ import annotations

import asyncio
import inspect
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from prefect import flow, task

from backupiq.errors import (
    CircuitOpenError,
    OrchestrationError,
    StorageAuthenticationError,
    StorageConnectionError,
    UnknownDestinationError,
)
from backupiq.resilience.breaker import BreakerPolicy, BreakerState, MemoryBreakerStore, Outcome, breaker_key
from backupiq.resilience.retry import AGGRESSIVE, PATIENT, PRESETS, RetryPolicy
from flows import guard
from flows.breaker_store import PrefectBreakerStore
from flows.guard import Breakers, current_breakers, guarded, guarding, list_breakers, reset_breaker, tell_change
from flows.tasks.options import STEP, can_pass, retried
from tests.flows.conftest import Api

AT_ONCE = RetryPolicy("at once", tries=4, first_delay=0, factor=1, longest_delay=0, jitter=0)


@dataclass
class Destination:
    """Somewhere to send to; fails with the given errors, one after another."""

    identity: str = field(default_factory=lambda: f"s3:s3://{uuid.uuid4()}")
    errors: list[BaseException] = field(default_factory=list)
    calls: int = 0

    @property
    def key(self) -> str:
        return breaker_key(self.identity)

    async def send(self) -> int:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return self.calls


_destinations: dict[str, Destination] = {}


@pytest.fixture
def there(api: Api) -> Iterator[Destination]:
    found = Destination()
    _destinations[found.key] = found
    yield found
    del _destinations[found.key]


@task(name="send", **retried(AT_ONCE))
@guarded(lambda arguments: arguments["destination"])
async def send(destination: str, number: int = 0) -> int:
    """Send one batch."""
    return await _destinations[destination].send()


@task(name="send unguarded", **retried(AT_ONCE))
async def send_unguarded(destination: str, number: int = 0) -> int:
    return await _destinations[destination].send()


@flow(name="guard-test", persist_result=False)
async def sending(destination: str, count: int, at_once: int, work: Any) -> list[int]:
    found = []
    for begin in range(0, count, at_once):
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work(destination, number)) for number in range(begin, begin + at_once)]
        found += [task.result() for task in tasks]
    return found


async def run(
    destination: Destination, count: int = 1, at_once: int = 1, work: Any = send, breakers: Breakers | None = None
) -> list[int]:
    async with guarding(breakers or Breakers(policy=BreakerPolicy(threshold=3))):
        result: list[int] = await sending(destination.key, count, at_once, work)
        return result


def only_error(caught: pytest.ExceptionInfo[BaseExceptionGroup[Any]]) -> BaseException:
    (error,) = caught.value.exceptions
    assert isinstance(error, BaseException)
    return error


# --- tasks ---------------------------------------------------------------------------------------------------------


async def test_a_guarded_task_keeps_name_signature_and_documentation() -> None:
    assert list(inspect.signature(send.fn).parameters) == ["destination", "number"]
    assert send.fn.__doc__ == "Send one batch."
    assert send.fn.__name__ == "send"


async def test_what_works_is_called_once_and_its_result_comes_back(there: Destination) -> None:
    assert await run(there, 2) == [1, 2]


async def test_each_try_counts_and_an_open_breaker_ends_the_retries(there: Destination) -> None:
    there.errors = [StorageConnectionError(f"try {number}") for number in range(10)]
    with pytest.raises(BaseExceptionGroup) as caught:
        await run(there)
    error = only_error(caught)
    assert isinstance(error, CircuitOpenError)
    assert there.calls == 3
    assert "try 2" in error.message


async def test_an_error_that_passes_within_the_tries_leaves_no_trace(api: Api, there: Destination) -> None:
    there.errors = [StorageConnectionError(), StorageConnectionError()]
    assert await run(there) == [3]
    assert await PrefectBreakerStore().load(there.key) == BreakerState()


async def test_refused_credentials_keep_the_next_run_away_until_it_is_reset(api: Api, there: Destination) -> None:
    there.errors = [StorageAuthenticationError("The destination refused the credentials.")]
    with pytest.raises(BaseExceptionGroup):
        await run(there)
    with pytest.raises(BaseExceptionGroup) as caught:
        await run(there)
    assert isinstance(only_error(caught), CircuitOpenError)
    assert there.calls == 1
    assert [found.state.phase for found in await reset_breaker(there.identity)] == ["open"]
    assert await run(there) == [2]


async def test_a_destination_function_may_give_the_breaker_itself() -> None:
    breakers = Breakers(MemoryBreakerStore())
    breaker = breakers.for_destination("memory:x", "x")

    @guarded(lambda arguments: breaker)
    async def work(number: int, *, more: int = 2) -> int:
        return number + more

    assert await work(1) == 3
    assert await breaker.reset() is False
    permit = await breaker.allow()
    await breaker.record(permit, Outcome.PERMANENT)
    with pytest.raises(CircuitOpenError):
        await work(1)


async def test_arguments_are_known_by_name_however_they_are_given() -> None:
    seen: list[dict[str, Any]] = []

    @guarded(lambda arguments: seen.append(dict(arguments)) or "some-key")
    async def work(one: int, two: int = 2, *, three: int = 3) -> int:
        return one + two + three

    async with guarding(Breakers(MemoryBreakerStore())):
        assert await work(1, three=4) == 7
        assert await work(two=5, one=6) == 14
    assert seen == [{"one": 1, "two": 2, "three": 4}, {"one": 6, "two": 5, "three": 3}]


async def test_outside_of_a_run_a_guarded_call_is_refused_and_not_made(there: Destination) -> None:
    with pytest.raises(OrchestrationError, match="no run"):
        await send.fn(there.key)
    assert there.calls == 0
    async with guarding(Breakers(MemoryBreakerStore())) as breakers:
        assert current_breakers() is breakers
        assert breakers.of(there.key) is breakers.for_destination(there.identity, "x")
    with pytest.raises(OrchestrationError):
        current_breakers()


# --- what it costs -------------------------------------------------------------------------------------------------


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every request that goes out to Prefect's API, as method and path."""
    seen: list[str] = []
    true_send = httpx.AsyncHTTPTransport.handle_async_request

    async def handle(self: httpx.AsyncHTTPTransport, request: httpx.Request) -> httpx.Response:
        seen.append(f"{request.method} {request.url.path}")
        return await true_send(self, request)

    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", handle)
    return seen


async def test_a_healthy_run_adds_one_question_in_all_and_none_per_batch(
    there: Destination, requests: list[str]
) -> None:
    kinds: dict[Any, set[str]] = {}
    for work, batches in ((send_unguarded, 36), (send, 3), (send, 36)):
        requests.clear()
        await run(there, batches, at_once=3, work=work)
        kinds[work] = {re.sub(r"[0-9a-f-]{36}", "ID", request) for request in requests}
        of_breakers = [request for request in requests if "/variables" in request]
        assert of_breakers == (["POST /api/variables/filter"] if work is send else [])
        # Prefect's own: the flow and its run, a version, a token, log lines in the background.
        assert len(requests) < 18, requests
    in_the_background = {"POST /api/logs/", "GET /api/admin/version", "GET /api/csrf-token", "GET /api/flows/ID"}
    assert kinds[send] - kinds[send_unguarded] - in_the_background == {"POST /api/variables/filter"}


async def test_an_unreachable_api_in_mid_run_stops_nothing_and_is_said_once(there: Destination) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    notes: list[str] = []
    now = [1_800_000_000.0]
    store = PrefectBreakerStore(request_seconds=0.3)
    breakers = Breakers(store, policy=BreakerPolicy(), clock=lambda: now[0], note=notes.append)
    other = breakers.for_destination("s3:another", "s3://another")
    async with guarding(breakers):
        assert await send.fn(there.key) == 1
        with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
            for number in range(2, 6):
                now[0] += 100
                assert await send.fn(there.key) == number
            await other.allow()
    assert len(notes) == 1
    assert "does not answer" in notes[0]


# --- events --------------------------------------------------------------------------------------------------------


def events_of(api: Api, key: str, count: int) -> list[dict[str, Any]]:
    def look() -> list[dict[str, Any]]:
        wanted = {"event": {"prefix": ["backupiq.breaker."]}, "resource": {"id": [f"backupiq.breaker.{key}"]}}
        return list(api.ask("/events/filter", filter={**wanted, "order": "ASC"}, limit=50)["events"])

    return api.wait(look, lambda found: len(found) >= count)


async def test_every_transition_is_an_event_that_says_what_and_why(api: Api, there: Destination) -> None:
    now = [1_800_000_000.0]
    breaker = Breakers(policy=BreakerPolicy(), clock=lambda: now[0]).for_destination(there.identity, "s3://bucket")
    there.errors = [StorageAuthenticationError("No."), StorageConnectionError("Still down.")]
    for error in (StorageAuthenticationError, StorageConnectionError):
        with pytest.raises(error):
            async with breaker.attempt():
                await there.send()
        now[0] += 120
    async with breaker.attempt():
        await there.send()
    found = await asyncio.to_thread(events_of, api, there.key, 5)
    assert [event["event"].removeprefix("backupiq.breaker.") for event in found] == [
        "opened",
        "half-opened",
        "opened",
        "half-opened",
        "closed",
    ]
    assert [event["payload"]["reason"] for event in found] == ["No.", "No.", "Still down.", "Still down.", ""]
    assert [event["payload"]["cooldown"] for event in found] == [60, 60, 120, 120, 0]
    assert {event["payload"]["destination"] for event in found} == {"s3://bucket"}
    assert {event["resource"]["prefect.resource.name"] for event in found} == {"s3://bucket"}


async def test_an_event_that_cannot_be_sent_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no events today")

    monkeypatch.setattr(guard, "emit_event", broken)
    tell_change("key", BreakerState(), BreakerState(phase="open", generation=1))
    assert any("breaker.event_lost" in line for line in caplog.messages)


def test_a_probe_that_gives_its_place_back_is_no_news(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(guard, "emit_event", lambda event, **more: told.append(event))
    before = BreakerState(phase="half-open", generation=2)
    tell_change("key", before, BreakerState(phase="open", generation=3, since=100, until=100))
    assert told == []
    tell_change("key", before, BreakerState(phase="open", generation=3, since=100, until=160))
    assert told == ["backupiq.breaker.opened"]


# --- for the command line ------------------------------------------------------------------------------------------


async def test_known_breakers_are_listed_with_their_destination_and_reason(there: Destination) -> None:
    breaker = Breakers().for_destination(there.identity, f"s3://label-of-{there.key}")
    with pytest.raises(StorageAuthenticationError):
        async with breaker.attempt():
            raise StorageAuthenticationError("Renew the key.")
    (found,) = [found for found in await list_breakers() if found.key == there.key]
    assert found.name == f"s3://label-of-{there.key}"
    assert (found.state.phase, found.state.reason) == ("open", "Renew the key.")
    assert found.state.until == pytest.approx(found.state.since + 60)


@pytest.mark.parametrize("name_of", [lambda t: t.key, lambda t: t.identity, lambda t: f"s3://label-of-{t.key}"])
async def test_a_breaker_is_reset_by_key_identity_or_location_and_only_once(
    there: Destination, name_of: Callable[[Destination], str]
) -> None:
    breaker = Breakers().for_destination(there.identity, f"s3://label-of-{there.key}")
    with pytest.raises(StorageAuthenticationError):
        async with breaker.attempt():
            raise StorageAuthenticationError
    assert [found.key for found in await reset_breaker(name_of(there))] == [there.key]
    assert await reset_breaker(name_of(there)) == []
    assert (await PrefectBreakerStore().load(there.key)).phase == "closed"


async def test_a_name_that_no_breaker_has_is_answered_with_those_there_are() -> None:
    store = MemoryBreakerStore()
    with pytest.raises(UnknownDestinationError, match="none so far"):
        await reset_breaker("s3://bucket", store)
    await store.advance("k", BreakerState(), BreakerState(phase="open", generation=1, label="s3://other"))
    with pytest.raises(UnknownDestinationError, match="s3://other"):
        await reset_breaker("s3://bucket", store)


# --- what the tasks declare ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", PRESETS.values(), ids=lambda policy: policy.name)
def test_prefect_retries_as_the_preset_says(policy: RetryPolicy) -> None:
    @task(**retried(policy))
    async def work() -> None: ...

    assert work.retries == policy.tries - 1
    assert work.retry_delay_seconds == list(policy.delays())
    assert work.retry_jitter_factor == policy.jitter
    assert work.retry_condition_fn is can_pass
    assert {name: retried(policy)[name] for name in STEP} == STEP


async def test_prefects_server_takes_the_longest_preset(there: Destination) -> None:
    for policy in (AGGRESSIVE, PATIENT):
        work = task(name=f"send {policy.name}", **retried(policy))(send_unguarded.fn)
        await run(there, work=work)


async def test_a_task_without_a_second_try_fails_with_its_first_error(there: Destination) -> None:
    once = RetryPolicy("once", tries=1, first_delay=0, factor=1, longest_delay=0, jitter=0)
    there.errors = [StorageConnectionError("down")]
    with pytest.raises(BaseExceptionGroup) as caught:
        await run(there, work=task(name="send once", **retried(once))(send_unguarded.fn))
    assert isinstance(only_error(caught), StorageConnectionError)
    assert there.calls == 1

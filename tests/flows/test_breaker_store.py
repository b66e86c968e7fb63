"""Breakers' states in a real Prefect API: one winner, bounded leftovers, damage, and an API that is away."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from backupiq.errors import OrchestrationError
from backupiq.resilience.breaker import Breaker, BreakerPolicy, BreakerState, breaker_key
from backupiq.resilience.breaker_state import claimed, closed, opened
from flows.breaker_store import KEPT_GENERATIONS, MOST_REMOVED, PREFIX, PrefectBreakerStore
from tests.flows.conftest import Api
from tests.support.programs import ROOT, plain_environment

NOW = 1_800_000_000.0
POLICY = BreakerPolicy()
LONG = 'a reason with "quotes", é€😀 and \\ ' * 40


@pytest.fixture
def key(api: Api) -> str:
    """A destination that no other test has."""
    return breaker_key(f"s3:s3://{uuid.uuid4()}")


@pytest.fixture
def store(api: Api) -> PrefectBreakerStore:
    return PrefectBreakerStore()


def names(api: Api, key: str) -> list[str]:
    rows = api.ask("/variables/filter", variables={"name": {"like_": f"{PREFIX}{key}-"}}, limit=200)
    return sorted(row["name"] for row in rows)


def put(api: Api, name: str, value: Any) -> None:
    api.ask("/variables/", name=name, value=value)


async def advanced(store: PrefectBreakerStore, key: str, times: int) -> BreakerState:
    state = await store.load(key)
    for _ in range(times):
        change = opened(state, NOW, POLICY, reason="down") if state.phase == "closed" else closed(state, NOW)
        assert await store.advance(key, state, change)
        state = change
    return state


# --- storing -------------------------------------------------------------------------------------------------------


async def test_a_destination_that_never_failed_is_closed_and_has_no_variable(
    api: Api, store: PrefectBreakerStore, key: str
) -> None:
    assert await store.load(key) == BreakerState()
    assert names(api, key) == []


async def test_a_state_comes_back_as_it_was_stored_for_everybody(store: PrefectBreakerStore, key: str) -> None:
    first = opened(BreakerState(label="s3://bucket/prefix"), NOW + 0.123456, POLICY, reason=LONG, retry_after=61.07)
    assert await store.advance(key, BreakerState(), first)
    assert await PrefectBreakerStore().load(key) == first
    second = claimed(first, NOW, "host:1:abc", POLICY)
    assert await store.advance(key, first, second)
    assert await PrefectBreakerStore().load(key) == second


async def test_of_many_that_advance_at_once_exactly_one_does(store: PrefectBreakerStore, key: str) -> None:
    state = await advanced(store, key, 1)
    wanted = [claimed(state, NOW, f"owner {number}", POLICY) for number in range(8)]
    answers = await asyncio.gather(*(PrefectBreakerStore().advance(key, state, new) for new in wanted))
    assert Counter(answers) == {True: 1, False: 7}
    assert await store.load(key) == wanted[answers.index(True)]


async def test_one_whose_idea_of_the_newest_is_long_outdated_never_wins(
    api: Api, store: PrefectBreakerStore, key: str
) -> None:
    old = await advanced(store, key, 1)
    newest = await advanced(store, key, 4)
    assert f"{PREFIX}{key}-{old.generation + 1:08d}" not in names(api, key)
    assert not await PrefectBreakerStore().advance(key, old, claimed(old, NOW, "late", POLICY))
    assert await store.load(key) == newest
    assert len(names(api, key)) == KEPT_GENERATIONS


async def test_a_change_whose_first_answer_was_lost_is_known_as_ones_own(
    api: Api, store: PrefectBreakerStore, key: str
) -> None:
    state = await advanced(store, key, 1)
    mine = claimed(state, NOW, "me", POLICY)
    put(api, f"{PREFIX}{key}-{mine.generation:08d}", mine.to_json())
    assert await store.advance(key, state, mine)
    assert not await store.advance(key, state, claimed(state, NOW, "somebody else", POLICY))


async def test_old_generations_are_removed_also_those_that_killed_runs_left(
    api: Api, store: PrefectBreakerStore, key: str
) -> None:
    left_over = MOST_REMOVED + 5
    for number in range(1, left_over + 1):
        put(api, f"{PREFIX}{key}-{number:08d}", BreakerState(generation=number).to_json())
    newest = await advanced(store, key, 1)
    assert len(names(api, key)) == left_over + 1 - MOST_REMOVED
    newest = await advanced(store, key, 1)
    assert names(api, key) == [f"{PREFIX}{key}-{newest.generation - back:08d}" for back in (1, 0)]


async def test_destinations_whose_keys_begin_alike_do_not_mix(store: PrefectBreakerStore, key: str) -> None:
    longer = f"{key}-00000007"
    await advanced(store, longer, 3)
    assert await store.load(key) == BreakerState()
    await advanced(store, key, 1)
    assert (await store.load(longer)).generation == 3
    known = await store.known()
    assert (known[key].generation, known[longer].generation) == (1, 3)


@pytest.mark.parametrize(
    "value", ["not what was stored", 7, None, [], {"phase": "ajar"}, {"phase": "open", "until": "soon"}], ids=json.dumps
)
async def test_a_damaged_state_counts_as_closed_and_is_written_anew_by_the_next_change(
    api: Api, store: PrefectBreakerStore, key: str, value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    put(api, f"{PREFIX}{key}-00000005", value)
    state = await store.load(key)
    assert state == BreakerState(generation=5)
    await store.load(key)
    assert sum("breaker.damaged" in line for line in caplog.messages) == 1
    assert (await store.known())[key] == state
    new = opened(state, NOW, POLICY, reason="down")
    assert await store.advance(key, state, new)
    assert await store.load(key) == new


async def test_the_name_and_not_the_value_says_which_generation_it_is(
    api: Api, store: PrefectBreakerStore, key: str
) -> None:
    put(api, f"{PREFIX}{key}-00000003", BreakerState(phase="open", generation=99).to_json())
    assert (await store.load(key)).generation == 3
    await advanced(store, key, 1)


# --- an API that is away -------------------------------------------------------------------------------------------


@pytest.fixture
async def black_hole() -> AsyncIterator[str]:
    """An address that takes connections and never answers."""
    ended = asyncio.Event()

    async def ignore(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await ended.wait()
        writer.close()

    async with await asyncio.start_server(ignore, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/api"
        ended.set()


@pytest.fixture
async def no_api() -> AsyncIterator[str]:
    """An address that answers, but is no Prefect API."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\nconnection: close\r\n\r\n<html>")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/api"


@pytest.mark.parametrize("address", ["closed", "black_hole", "no_api"])
async def test_an_api_that_does_not_answer_is_our_error_after_a_bounded_time(
    api: Api, key: str, address: str, request: pytest.FixtureRequest, black_hole: str, no_api: str
) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    url = {"closed": "http://127.0.0.1:9/api", "black_hole": black_hole, "no_api": no_api}[address]
    store = PrefectBreakerStore(request_seconds=0.3)
    with temporary_settings({PREFECT_API_URL: url}):
        with pytest.raises(OrchestrationError, match="PREFECT_API_URL"):
            await store.load(key)
        with pytest.raises(OrchestrationError):
            await store.advance(key, BreakerState(), opened(BreakerState(), NOW, POLICY, reason="x"))
        with pytest.raises(OrchestrationError):
            await store.known()


async def test_a_breaker_goes_on_while_the_api_is_away_and_tells_it_afterwards(api: Api, key: str) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from backupiq.errors import CircuitOpenError, StorageConnectionError

    now = [NOW]
    store = PrefectBreakerStore(request_seconds=0.3)
    breaker = Breaker(store, key, policy=BreakerPolicy(threshold=1), clock=lambda: now[0])
    async with breaker.attempt():
        pass
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        with pytest.raises(StorageConnectionError):
            async with breaker.attempt():
                raise StorageConnectionError("The line is down.")
        with pytest.raises(CircuitOpenError):
            await breaker.allow()
    assert names(api, key) == []
    now[0] += 31
    with pytest.raises(CircuitOpenError):
        await breaker.allow()
    assert (await store.load(key)).reason == "The line is down."


# --- several processes ---------------------------------------------------------------------------------------------

PROBE = """
import asyncio, sys
from backupiq.errors import CircuitOpenError
from backupiq.resilience.breaker import Breaker, BreakerPolicy, Outcome
from flows.breaker_store import PrefectBreakerStore

async def main(key, now, outcome):
    breaker = Breaker(PrefectBreakerStore(), key, policy=BreakerPolicy(), clock=lambda: now)
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        permit = await breaker.allow()
    except CircuitOpenError as error:
        print("refused", flush=True)
        sys.stdin.readline()
    else:
        print("probe" if permit.probe else "call", flush=True)
        sys.stdin.readline()
        await breaker.record(permit, Outcome(outcome), reason="still down")
    print("end", flush=True)

asyncio.run(main(sys.argv[1], float(sys.argv[2]), sys.argv[3]))
"""


class Contenders:
    """Processes that ask the same breaker at the same moment and tell how it ended when told to."""

    def __init__(self, api: Api, folder: Path, key: str, now: float, outcome: str, count: int) -> None:
        home = folder / "home"
        (home / ".prefect").mkdir(parents=True, exist_ok=True)
        env = plain_environment() | api.server.settings(home) | {"HOME": str(home), "PYTHONPATH": str(ROOT)}
        self.processes = [
            subprocess.Popen(
                [sys.executable, "-c", PROBE, key, str(now), outcome],
                env=env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(count)
        ]

    def read(self) -> list[str]:
        found = []
        for process in self.processes:
            assert process.stdout is not None
            found.append(process.stdout.readline().strip())
        return found

    def go_on(self) -> None:
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()

    def __enter__(self) -> Contenders:
        return self

    def __exit__(self, *error: object) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()


@pytest.mark.parametrize(
    ("outcome", "count", "phase", "cooldown"), [("success", 3, "closed", 0), ("failure", 2, "open", 120)]
)
async def test_of_several_processes_after_the_cool_down_exactly_one_probes_and_its_end_holds_for_all(
    api: Api,
    store: PrefectBreakerStore,
    key: str,
    tmp_path: Path,
    outcome: str,
    count: int,
    phase: str,
    cooldown: float,
) -> None:
    state = opened(BreakerState(), NOW, POLICY, reason="down")
    assert await store.advance(key, BreakerState(), state)
    with Contenders(api, tmp_path, key, NOW + 60, outcome, count) as contenders:
        assert contenders.read() == ["ready"] * count
        contenders.go_on()
        assert Counter(contenders.read()) == {"probe": 1, "refused": count - 1}
        assert (await store.load(key)).phase == "half-open"
        contenders.go_on()
        assert contenders.read() == ["end"] * count
    found = await store.load(key)
    assert (found.phase, found.cooldown) == (phase, cooldown)


async def test_a_probe_whose_process_is_killed_is_taken_over_when_its_time_is_up(
    api: Api, store: PrefectBreakerStore, key: str, tmp_path: Path
) -> None:
    assert await store.advance(key, BreakerState(), opened(BreakerState(), NOW, POLICY, reason="down"))
    with Contenders(api, tmp_path, key, NOW + 60, "success", 1) as contenders:
        contenders.read()
        contenders.go_on()
        assert contenders.read() == ["probe"]
    assert (await store.load(key)).phase == "half-open"
    later = Breaker(store, key, policy=POLICY, clock=lambda: NOW + 60 + POLICY.probe_seconds)
    assert (await later.allow()).probe

"""Ids that follow the work wherever it runs."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from backupiq.telemetry import ContextThreadPool, bind_run, correlation, current_correlation, run_in_context


def in_a_fresh_context(work: object) -> None:
    import contextvars

    contextvars.Context().run(work)  # type: ignore[arg-type]


def test_nothing_is_bound_at_first() -> None:
    in_a_fresh_context(lambda: pytest.fail("bound") if current_correlation() else None)


def test_ids_hold_inside_the_block_and_the_former_ones_after_it() -> None:
    with correlation(run_id="r1", batch=3):
        with correlation(batch=4, destination="disk"):
            assert current_correlation() == {"run_id": "r1", "batch": 4, "destination": "disk"}
        assert current_correlation() == {"run_id": "r1", "batch": 3}
    assert current_correlation() == {}


def test_ids_are_put_back_when_the_block_fails() -> None:
    with pytest.raises(ZeroDivisionError), correlation(run_id="r1"):
        raise ZeroDivisionError
    assert current_correlation() == {}


def test_a_run_starts_without_the_ids_of_the_one_before() -> None:
    def work() -> None:
        bind_run("r1", snapshot="s", batch=1, destination="d")
        assert current_correlation() == {"run_id": "r1", "snapshot": "s", "batch": 1, "destination": "d"}
        bind_run("r2")
        assert current_correlation() == {"run_id": "r2"}

    in_a_fresh_context(work)


def test_what_is_handed_out_is_a_copy_that_can_be_sent_elsewhere_and_bound_there() -> None:
    with correlation(run_id="r1", batch=7):
        sent = json.dumps(current_correlation())
        current_correlation()["run_id"] = "changed"
        assert current_correlation()["run_id"] == "r1"
    with correlation(**json.loads(sent)):
        assert current_correlation() == {"run_id": "r1", "batch": 7}


async def test_ids_survive_awaits_tasks_and_to_thread() -> None:
    async def deep() -> dict[str, str | int]:
        await asyncio.sleep(0)
        return current_correlation()

    with correlation(run_id="r1"):
        assert await deep() == {"run_id": "r1"}
        assert await asyncio.create_task(deep()) == {"run_id": "r1"}
        assert await asyncio.to_thread(current_correlation) == {"run_id": "r1"}


async def test_tasks_at_once_do_not_see_each_others_ids() -> None:
    async def one(batch: int) -> None:
        with correlation(batch=batch):
            for _ in range(5):
                await asyncio.sleep(0)
                assert current_correlation() == {"run_id": "r1", "batch": batch}
                assert (await asyncio.to_thread(current_correlation))["batch"] == batch

    with correlation(run_id="r1"):
        await asyncio.gather(*map(one, range(8)))
        assert current_correlation() == {"run_id": "r1"}


def test_a_plain_pool_loses_the_ids_and_run_in_context_keeps_them() -> None:
    with ThreadPoolExecutor(1) as pool, correlation(run_id="r1"):
        assert pool.submit(current_correlation).result() == {}
        assert run_in_context(pool, current_correlation).result() == {"run_id": "r1"}


def test_each_work_of_the_context_pool_sees_the_ids_of_its_submitter() -> None:
    def tell(prefix: str, *, suffix: str) -> str:
        return f"{prefix}{current_correlation()['batch']}{suffix}"

    with ContextThreadPool(2) as pool:
        futures = []
        for batch in range(6):
            with correlation(batch=batch):
                futures.append(pool.submit(tell, "<", suffix=">"))
        assert [future.result() for future in futures] == [f"<{n}>" for n in range(6)]
        with correlation(batch=9):
            assert list(pool.map(lambda n: (n, current_correlation()["batch"]), range(2))) == [(0, 9), (1, 9)]
        assert pool.submit(current_correlation).result() == {}


def test_an_error_in_the_context_pool_reaches_its_future() -> None:
    with ContextThreadPool(1) as pool, pytest.raises(ZeroDivisionError):
        pool.submit(lambda: 1 / 0).result()

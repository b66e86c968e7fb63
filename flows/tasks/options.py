"""What our tasks have in common: no caching, no stored results, and retries only of errors that can pass."""

from __future__ import annotations

from typing import Any

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from backupiq.resilience.retry import STANDARD, RetryPolicy, is_retryable


async def can_pass(task: Task[Any, Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Whether the error that ended the task may be gone at the next try: what its class says."""
    error = await state.result(raise_on_failure=False)  # type: ignore[misc]
    return isinstance(error, BaseException) and is_retryable(error)


STEP: dict[str, Any] = {"cache_policy": NO_CACHE, "persist_result": False, "log_prints": False}


def retried(policy: RetryPolicy) -> dict[str, Any]:
    """Options for ``@task`` that make Prefect retry it as the policy says."""
    return {
        **STEP,
        "retries": policy.tries - 1,
        "retry_delay_seconds": list(policy.delays()),
        "retry_jitter_factor": policy.jitter,
        "retry_condition_fn": can_pass,
    }


RETRIED: dict[str, Any] = retried(STANDARD)

"""What our tasks have in common: no caching, no stored results, and retries only of errors that can pass."""

from __future__ import annotations

from typing import Any

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import exponential_backoff

from backupiq.errors import BackupIQError


async def can_pass(task: Task[Any, Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Whether the error that ended the task may be gone at the next try: what its class says."""
    error = await state.result(raise_on_failure=False)  # type: ignore[misc]
    return isinstance(error, BackupIQError) and error.retryable


STEP: dict[str, Any] = {"cache_policy": NO_CACHE, "persist_result": False, "log_prints": False}
RETRIED: dict[str, Any] = {
    **STEP,
    "retries": 4,
    "retry_delay_seconds": exponential_backoff(backoff_factor=2),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": can_pass,
}

"""Reaching Prefect's API from a command that runs no flow."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from backupiq.errors import BackupIQError, OrchestrationError
from flows.embedded import EmbeddedServer
from flows.environment import prepare_environment
from flows.interruptions import Interruptions


def reach_prefect() -> None:
    """See to it that there is an API to ask: the one that is configured, else the embedded server, started now.

    OrchestrationError when the embedded server does not come up; whether a configured API answers shows at the first
    call (`api_errors`).
    """
    signals, server = Interruptions(), EmbeddedServer()
    try:
        with signals.noted(), api_errors():
            prepare_environment()
            import prefect.client.orchestration  # noqa: F401 - before the server's thread imports other parts of it

            server.start()
            server.wait(signals.check)
    except KeyboardInterrupt:
        server.give_up()
        raise


def why_unreachable() -> BackupIQError | None:
    """As `reach_prefect`, for what can do without the API: the error that it would raise, or None."""
    try:
        reach_prefect()
    except BackupIQError as error:
        return error
    return None


@contextlib.contextmanager
def api_errors() -> Iterator[None]:
    """Turn what Prefect's client raises when its API does not answer, or refuses, into OrchestrationError."""
    import httpx

    try:
        yield
    except BackupIQError:
        raise
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        advice = "Check PREFECT_API_AUTH_STRING." if status in (401, 403) else OrchestrationError.hint
        raise OrchestrationError(f"Prefect's API answered with HTTP {status}. {advice}", status=status) from error
    except (httpx.HTTPError, OSError, RuntimeError) as error:
        raise OrchestrationError(
            f"Prefect's API does not answer ({type(error).__name__}). {OrchestrationError.hint}"
        ) from error

"""Asking a Prefect server a few things without importing Prefect."""

from __future__ import annotations

import base64
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from typing import Any

from backupiq.errors import OrchestrationError

TIMEOUT_SECONDS = 5.0
HEALTH_SECONDS = 2.0
BUSY_SECONDS = 20.0
"""How long a server is asked again that answers that it is busy (503): another writer holds its database."""
PAUSE_SECONDS = 0.5
MOST_BYTES = 32 * 1024 * 1024


class LocalApi:
    """Prefect's API at an address of this machine."""

    def __init__(self, url: str) -> None:
        self._url = url
        # Proxies are for the world outside: the environment's must not get what is asked of this machine.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def is_healthy(self) -> bool:
        """Whether it answers; never raises."""
        try:
            return self._call_once("/health", None, HEALTH_SECONDS) is True
        except OrchestrationError:
            return False

    def get(self, path: str) -> Any:
        """What it answers to GET. OrchestrationError."""
        return self._call(path, None)

    def post(self, path: str, **body: Any) -> Any:
        """What it answers to POST with that JSON body. OrchestrationError."""
        return self._call(path, json.dumps(body).encode())

    def _call(self, path: str, body: bytes | None) -> Any:
        end = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                return self._call_once(path, body, TIMEOUT_SECONDS)
            except OrchestrationError as error:
                if error.details.get("status") != http.HTTPStatus.SERVICE_UNAVAILABLE or time.monotonic() > end:
                    raise
            time.sleep(PAUSE_SECONDS)

    def _call_once(self, path: str, body: bytes | None, seconds: float) -> Any:
        request = urllib.request.Request(  # noqa: S310 - always http, to this machine
            self._url + path, data=body, headers={"content-type": "application/json", **_authorization()}
        )
        try:
            with self._opener.open(request, timeout=seconds) as answer:
                return json.loads(answer.read(MOST_BYTES))
        except urllib.error.HTTPError as error:
            advice = "Check PREFECT_API_AUTH_STRING." if error.code in (401, 403) else "Start it with `backupiq up`."
            raise OrchestrationError(
                f"Prefect's server at {self._url} answered with HTTP {error.code}. {advice}", status=error.code
            ) from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise OrchestrationError(
                f"Prefect's server at {self._url} does not answer. Start it with `backupiq up`."
            ) from error


def _authorization() -> dict[str, str]:
    text = os.environ.get("PREFECT_API_AUTH_STRING")
    return {"authorization": f"Basic {base64.b64encode(text.encode()).decode()}"} if text else {}

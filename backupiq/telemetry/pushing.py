"""Pushing figures to a Prometheus Pushgateway at the end of a run."""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Callable, Mapping
from urllib.parse import unquote, urlsplit, urlunsplit

from backupiq.telemetry.figures import Figures
from backupiq.telemetry.logs import get_logger
from backupiq.telemetry.redaction import register_secret

GATEWAY_VARIABLE = "BACKUPIQ_PUSHGATEWAY"
PUSH_SECONDS = 5.0
"""How long a run waits for the gateway, all in all."""

log = get_logger("backupiq.telemetry.pushing")


def push(figures: Figures, env: Mapping[str, str] = os.environ, *, longest: float = PUSH_SECONDS) -> bool:
    """Replace this machine's figures at the gateway that BACKUPIQ_PUSHGATEWAY names; whether it took them.

    The address may hold a user and a password. Never raises: a failure is told in the log, without the address.
    """
    address = env.get(GATEWAY_VARIABLE, "").strip()
    if not address:
        return False
    problem: list[str] = []

    def send() -> None:
        try:
            _send(address, figures, longest)
        except Exception as error:  # noqa: BLE001 - whatever a gateway answers, the backup is done
            problem.append(type(error).__name__)

    # A gateway that answers byte after byte would hold the run up beyond any limit on one read.
    thread = threading.Thread(target=send, name="backupiq-push", daemon=True)
    thread.start()
    thread.join(longest)
    if thread.is_alive():
        problem.append("no answer in time")
    if problem:
        log.warning("metrics.not_pushed", error=problem[0])
    return not problem


def _send(address: str, figures: Figures, longest: float) -> None:
    from prometheus_client import push_to_gateway
    from prometheus_client.exposition import basic_auth_handler, default_handler

    url, user, password = split_credentials(address)

    def handler(
        url: str, method: str, timeout: float | None, headers: list[tuple[str, str]], data: bytes
    ) -> Callable[[], None]:
        if user:
            return basic_auth_handler(url, method, timeout, headers, data, user, password)
        return default_handler(url, method, timeout, headers, data)

    machine = {"instance": socket.gethostname()}
    push_to_gateway(url, "backupiq", figures.registry(), machine, timeout=longest, handler=handler)


def split_credentials(address: str) -> tuple[str, str, str]:
    """The address without user and password, and these two; the password is hidden in every log from now on."""
    if re.match(r"https?://", address) is None:
        address = f"http://{address}"
    parts = urlsplit(address)
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if password:
        register_secret(password)
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2])
    return urlunsplit(bare), user, password

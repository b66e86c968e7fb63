"""Asking a server without Prefect: one that is busy is asked again, one that refuses is not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from backupiq.errors import OrchestrationError
from flows import local_api
from flows.local_api import LocalApi


class Answering(HTTPServer):
    """Answers each request with the next of its statuses; the last one for ever."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.statuses: list[int] = []
        self.asked = 0


class Answer(BaseHTTPRequestHandler):
    server: Answering

    def do_GET(self) -> None:
        statuses = self.server.statuses
        status = statuses[min(self.server.asked, len(statuses) - 1)]
        self.server.asked += 1
        self.send_response(status)
        self.send_header("content-length", "4")
        self.end_headers()
        self.wfile.write(b"true")

    def log_message(self, *_: object) -> None:
        """Nobody reads along."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Answering]:
    monkeypatch.setattr(local_api, "PAUSE_SECONDS", 0.0)
    made = Answering()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def ask(server: Answering) -> object:
    return LocalApi(f"http://127.0.0.1:{server.server_address[1]}").get("/anything")


def test_a_server_whose_database_is_busy_is_asked_again(server: Answering) -> None:
    server.statuses = [503, 503, 200]
    assert ask(server) is True
    assert server.asked == 3


def test_a_server_that_stays_busy_is_told_after_a_while(server: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_api, "BUSY_SECONDS", 0.05)
    server.statuses = [503]
    with pytest.raises(OrchestrationError, match="HTTP 503"):
        ask(server)
    assert server.asked > 1


def test_a_server_that_refuses_is_asked_once(server: Answering) -> None:
    server.statuses = [401]
    with pytest.raises(OrchestrationError, match="PREFECT_API_AUTH_STRING"):
        ask(server)
    assert server.asked == 1

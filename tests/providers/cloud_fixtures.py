"""The servers of Google Cloud Storage and Azure, one of each for the whole session of a worker."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

import pytest

from tests.support.servers.azurite import Azurite
from tests.support.servers.base import HOST
from tests.support.servers.fake_gcs import FakeGcs
from tests.support.servers.gcs import GcsServer


@pytest.fixture(scope="session")
def gcs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GcsServer]:
    """A GCS server for obstore: the XML API, and buckets."""
    with GcsServer(tmp_path_factory.mktemp("gcs")) as server:
        yield server


@pytest.fixture(scope="session")
def fake_gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeGcs]:
    """A GCS server for Google's SDK: the JSON API."""
    with FakeGcs(tmp_path_factory.mktemp("fake-gcs")) as server:
        yield server


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    """An Azure server that checks keys and SAS tokens."""
    with Azurite(tmp_path_factory.mktemp("azurite")) as server:
        yield server


class Answers:
    """A server on 127.0.0.1 that gives every request the same answer, but for the methods in ``answers``.

    It keeps what was asked, and the bodies.
    """

    def __init__(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.asked: list[str] = []
        self.bodies: list[bytes] = []
        self.answers: dict[str, tuple[int, bytes]] = {}
        asked, bodies, answers = self.asked, self.bodies, self.answers

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                bodies.append(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
                asked.append(f"{self.command} {self.path}")
                code, content = answers.get(self.command, (status, body))
                self.send_response(code)
                for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            def log_message(self, *args: object) -> None:
                """Says nothing."""

        for method in ("GET", "HEAD", "PUT", "POST", "DELETE"):
            setattr(Handler, f"do_{method}", Handler.answer)
        self._server = ThreadingHTTPServer((HOST, 0), Handler)
        self.url = f"http://{HOST}:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

"""A loopback iCloud that the unmodified pyicloud client signs in to and stores files at.

    with ICloudServer(folder) as server:
        os.environ |= server.environment()     # Apple ID, password, endpoint, certificate
        server.fail_next("upload/web", 503)

or as a program: ``python -m tests.support.servers.icloud --folder D --port 0``, which prints one line of JSON with its
address and credentials and then serves until it is told to end. Everything is served over https at one address, with a
certificate of its own. What is stored stays in the folder for the next start; who is signed in does not.
"""

from __future__ import annotations

import argparse
import collections
import json
import secrets
import signal
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from tests.support.servers.icloud_auth import Accounts, Answer
from tests.support.servers.icloud_certificate import HOST, make_certificate
from tests.support.servers.icloud_http import Failure, Listener, Request
from tests.support.servers.icloud_tree import Tree

MAX_LOGGED = 100_000
TOTAL_BYTES = 50 * 10**9


class ICloudServer:
    """See the module. Attributes may be changed from any thread while it runs."""

    def __init__(self, folder: Path, *, port: int = 0, total_bytes: int = TOTAL_BYTES) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = port
        self.total_bytes = total_bytes
        self.tree = Tree(folder / "drive")
        self.accounts = Accounts("person@example.com", "correct-horse-battery-42")
        self.requests: collections.deque[Request] = collections.deque(maxlen=MAX_LOGGED)
        self.ranges = True
        """Whether ranges of contents are known."""
        self.redirect = False
        """Whether contents are given by Apple's own redirect (330)."""
        self.json_contents = False
        """Whether every content is said to be JSON."""
        self.cut_contents_at: int | None = None
        """After how many bytes of a content the connection ends."""
        self.lock = threading.RLock()
        self._hooks: list[tuple[str, Callable[[], object]]] = []
        self._failures: list[Failure] = []
        self._uploads: dict[str, int] = {}
        self._server: Listener | None = None
        self.ca_file = folder / "certificate.pem"
        self._key_file = folder / "key.pem"
        if not self.ca_file.exists():
            make_certificate(self.ca_file, self._key_file)

    # --- what tests use --------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"https://{HOST}:{self.port}"

    @property
    def apple_id(self) -> str:
        return self.accounts.apple_id

    @property
    def password(self) -> str:
        return self.accounts.password

    @property
    def code(self) -> str:
        return self.accounts.code

    def environment(self, session_folder: Path | None = None) -> dict[str, str]:
        """The variables that make a program use this server."""
        found = {
            "BACKUPIQ_ICLOUD_APPLE_ID": self.apple_id,
            "BACKUPIQ_ICLOUD_PASSWORD": self.password,
            "BACKUPIQ_ICLOUD_ENDPOINT": self.url,
            "REQUESTS_CA_BUNDLE": str(self.ca_file),
        }
        return found | ({"BACKUPIQ_ICLOUD_SESSION_DIR": str(session_folder)} if session_folder else {})

    def fail_next(
        self,
        endpoint: str,
        status: int,
        times: int = 1,
        *,
        skip: int = 0,
        retry_after: int | None = None,
        document: dict[str, Any] | None = None,
        hang_up: bool = False,
        after: bool = False,
    ) -> None:
        """Answer the next requests whose path ends with ``endpoint`` (``content`` is any content) with a status.

        ``skip`` lets as many pass first. ``hang_up`` closes the connection without an answer, and with ``after`` when
        all was done.
        """
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        with self.lock:
            self._failures.append(
                Failure(
                    endpoint,
                    status,
                    skip,
                    times,
                    headers,
                    {"message": "no"} if document is None else document,
                    hang_up,
                    after,
                )
            )

    def before_next(self, endpoint: str, call: Callable[[], object]) -> None:
        """Call this in the server's thread before the next request of the endpoint is looked at."""
        with self.lock:
            self._hooks.append((endpoint, call))

    def behave(self) -> None:
        """Answer as it should from now on: forget all that tests have asked for."""
        with self.lock:
            self._failures.clear()
            self._hooks.clear()
        self.ranges, self.redirect, self.json_contents, self.cut_contents_at = True, False, False, None
        self.total_bytes = TOTAL_BYTES
        self.tree.silent, self.tree.rename_makes_second, self.tree.listed_short = False, False, 0
        self.accounts.behave()

    def trust(self, session_folder: Path) -> None:
        """Leave a trusted session in a client's folder, as a person's sign-in would have."""
        with self.lock:
            tokens = self.accounts.trust()
        session_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        stem = "".join(c for c in self.apple_id if c.isalnum() or c == "_")
        session = {"session_token": tokens["session_token"], "trust_token": tokens["trust_token"]}
        (session_folder / f"{stem}.session").write_text(json.dumps(session))

    def files(self, path: str = "") -> dict[str, Path]:
        """Every document below a folder of the drive, and the file with its bytes."""
        return self.tree.files(path)

    def server_tls(self) -> ssl.SSLContext:
        """What a proxy in front of this server needs to be taken for it."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.ca_file, self._key_file)
        return context

    def client_tls(self) -> ssl.SSLContext:
        """What a proxy in front of this server needs to trust it."""
        return ssl.create_default_context(cafile=str(self.ca_file))

    def paths(self, since: int = 0) -> list[str]:
        """The paths that were asked for, from the request of that number on."""
        return [request.path for request in list(self.requests)[since:]]

    # --- running ---------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        self._server = Listener((HOST, self.port), self, self.server_tls())
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="icloud", daemon=True).start()
        return self

    def stop(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
            server.hang_up_all()
            self.tree.save()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- what requests meet ----------------------------------------------------------------------------------------

    def failure_for(self, path: str) -> Failure | None:
        with self.lock:
            for failure in self._failures:
                content = failure.endpoint == "content" and path.startswith("/content/")
                if content or path.rstrip("/").endswith(failure.endpoint.rstrip("/")):
                    if failure.skip:
                        failure.skip -= 1
                        return None
                    failure.times -= 1
                    if failure.times <= 0:
                        self._failures.remove(failure)
                    return failure
        return None

    def hook_for(self, path: str) -> Callable[[], object] | None:
        with self.lock:
            for entry in self._hooks:
                if path.endswith(entry[0]) or (entry[0] == "content" and path.startswith("/content/")):
                    self._hooks.remove(entry)
                    return entry[1]
        return None

    def begin_upload(self, size: int) -> str | None:
        """A new document's id; ``None`` when it does not fit."""
        with self.lock:
            if self.tree.used() + size > self.total_bytes:
                return None
            document_id = secrets.token_hex(16).upper()
            self._uploads[document_id] = size
            return document_id

    def finish_upload(self, document_id: str, size: int) -> bool:
        with self.lock:
            return self._uploads.get(document_id) == size

    def place_upload(self, body: dict[str, Any]) -> Answer:
        with self.lock:
            document_id, data = str(body["document_id"]), body["data"]
            known = self._uploads.get(document_id)
            good = known is not None and known == data["size"] and data.get("signature") == f"sig-{document_id}"
            if not good or (known and data.get("receipt") != f"receipt-{document_id}"):
                return Answer(200, {"status": {"status_code": 0}, "results": [{"status": {"status_code": 22}}]})
            place = body["path"]
            document = self.tree.add_document(
                document_id, str(place["starting_document_id"]), str(place["path"]), data["size"], body["mtime"] / 1000
            )
            code = 0 if document is not None else 2
            result = {"status": {"status_code": code, "error_message": ""}, "document": document}
            return Answer(200, {"status": {"status_code": 0}, "results": [result]})


def main() -> None:
    parser = argparse.ArgumentParser(description="A loopback iCloud for tests.")
    parser.add_argument("--folder", type=Path, required=True, help="where what is stored lies")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    given = parser.parse_args()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with ICloudServer(given.folder, port=given.port) as server:
        told = {"port": server.port, "code": server.code, **server.environment()}
        print(json.dumps(told), flush=True)
        ended.wait()


if __name__ == "__main__":
    main()

"""The endpoints of the loopback iCloud: which request is answered by what."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import mimetypes
import secrets
import ssl
from collections.abc import Callable
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import parse_qs, urlsplit

from tests.support.servers.icloud_auth import Answer

if TYPE_CHECKING:
    from tests.support.servers.icloud import ICloudServer

WEB_COOKIE = "X-APPLE-WEBAUTH-TOKEN"
VALIDATE_COOKIE = "X-APPLE-WEBAUTH-VALIDATE"
PIECE = 1 << 16


@dataclasses.dataclass(frozen=True)
class Request:
    """One request that was answered."""

    method: str
    path: str
    status: int


@dataclasses.dataclass
class Failure:
    """An answer that requests of one endpoint get instead of the right one."""

    endpoint: str
    status: int
    skip: int
    times: int
    headers: dict[str, str]
    document: dict[str, Any]
    hang_up: bool
    after: bool


class Listener(ThreadingHTTPServer):
    """Accepts connections and serves each in a thread of its own."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], owner: ICloudServer, context: ssl.SSLContext) -> None:
        self.owner = owner
        self._context = context
        self._open: set[Any] = set()
        super().__init__(address, Handler)

    def get_request(self) -> tuple[Any, Any]:
        connection, address = super().get_request()
        # The handshake is the handler thread's: one slow client must not hold up the others.
        wrapped = self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        self._open.add(wrapped)
        return wrapped, address

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def hang_up_all(self) -> None:
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up in the middle is a test's doing."""


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # a head and a body in one packet, or every answer waits for the client's delayed ACK
    disable_nagle_algorithm = True
    server: Listener
    _left = 0

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Requests are in ``ICloudServer.requests``."""

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_GET  # noqa: N815 - the base class looks for these names
    do_PUT = do_GET  # noqa: N815

    # --- one request -----------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        self.owner = self.server.owner
        self.url_path = urlsplit(self.path).path
        self.query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        self._left = int(self.headers.get("Content-Length") or 0)
        if (hook := self.owner.hook_for(self.url_path)) is not None:
            hook()
        failure = self.owner.failure_for(self.url_path)
        if failure is not None and failure.after:
            with self.owner.lock:
                self._route(json.loads(self._read_all()))
            self.close_connection = True
        elif failure is not None:
            self._discard()
            if failure.hang_up:
                self.close_connection = True
                self._log(0)
                return
            self._send(Answer(failure.status, failure.document, failure.headers))
        elif self.url_path.startswith("/content/"):
            self._content()
        else:
            body = self._read_all()
            document = json.loads(body) if body and body != b"null" else None
            with self.owner.lock:
                answer = self._route(document if document is not None else {})
            self._send(answer)

    def _route(self, body: Any) -> Answer:
        routes: dict[str, Callable[[Any], Answer]] = {
            "/appleauth/auth": self._auth,
            "/setup/ws/1": self._setup,
            "/drivews": self._drivews,
            "/docws": self._docws,
            "/account/setup/ws/1": self._account,
        }
        for prefix, route in routes.items():
            if self.url_path.startswith(prefix):
                self.endpoint = self.url_path.removeprefix(prefix)
                return route(body)
        return Answer(404, {"message": "no such endpoint"})

    def _auth(self, body: Any) -> Answer:
        accounts, attempt = self.owner.accounts, self.headers.get("X-Apple-ID-Session-Id", "")
        match (self.command, self.endpoint):
            case ("GET", "/authorize/signin"):
                return Answer(200, {})
            case ("POST", "/signin/init"):
                return accounts.begin(body)
            case ("POST", "/signin/complete"):
                return accounts.complete(body)
            case ("GET", ""):
                return accounts.options(attempt)
            case ("PUT", "/verify/phone"):
                return accounts.send_code(attempt)
            case ("POST", "/verify/phone/securitycode" | "/verify/trusteddevice/securitycode"):
                return accounts.check_code(attempt, body)
            case ("POST", "/verify/security/key"):
                return accounts.check_key(attempt, body)
            case ("GET", "/2sv/trust"):
                return accounts.grant_trust(attempt)
        return Answer(404, {"message": "no such endpoint"})

    def _setup(self, body: Any) -> Answer:
        accounts = self.owner.accounts
        if self.endpoint == "/accountLogin":
            found = accounts.login(body)
            if found is None:
                return Answer(421, {"error": 1, "reason": "Unknown token"})
            trusted, cookie = found
            answer = Answer(200, self._who(trusted))
            self._cookies = {WEB_COOKIE: cookie, VALIDATE_COOKIE: f"v=1:t={cookie[:16]}"}
            return answer
        cookie = self._cookie(WEB_COOKIE)
        if not accounts.is_signed_in(cookie):
            return Answer(421, {"error": 1, "reason": "Sign in"})
        match self.endpoint:
            case "/validate":
                return Answer(200, self._who(accounts.is_trusted(cookie)))
            case "/requestWebAccessState":
                return Answer(200, {"isICDRSDisabled": False})
            case "/requestPCS":
                return Answer(200, {"status": "success", "message": ""})
            case "/logout":
                accounts.end_web_sessions()
                return Answer(200, {"success": True})
        return Answer(404, {"message": "no such endpoint"})

    def _who(self, trusted: bool) -> dict[str, Any]:
        base = f"https://{self.headers['Host']}"  # a proxy in front of this server keeps it
        services = {"drivews": "/drivews", "docws": "/docws", "account": "/account"}
        return {
            "dsInfo": {"dsid": "1234567890", "hsaVersion": 2, "languageCode": "en_US"},
            "hsaTrustedBrowser": trusted,
            "hsaChallengeRequired": not trusted,
            "termsUpdateNeeded": self.owner.accounts.terms_needed,
            "webservices": {name: {"url": base + path, "status": "active"} for name, path in services.items()},
        }

    def _drivews(self, body: Any) -> Answer:
        if not self._is_trusted():
            return Answer(421, {"reason": "Sign in"})
        tree = self.owner.tree
        match self.endpoint:
            case "/retrieveItemDetailsInFolders":
                return Answer(200, [tree.details(str(entry["drivewsid"])) for entry in body])  # type: ignore[arg-type]
            case "/createFolders":
                made = [tree.make_folder(body["destinationDrivewsId"], entry["name"]) for entry in body["folders"]]
                return Answer(200, {"destinationDrivewsId": body["destinationDrivewsId"], "folders": made})
        actions: dict[str, Callable[[Any], dict[str, Any]]] = {
            "/deleteItems": lambda item: tree.delete(item["drivewsid"], item["etag"]),
            "/moveItemsToTrash": lambda item: tree.trash(item["drivewsid"], item["etag"]),
            "/renameItems": lambda item: tree.rename(item["drivewsid"], item["etag"], item["name"]),
            "/moveItems": lambda item: tree.move(item["drivewsid"], item["etag"], body["destinationDrivewsId"]),
        }
        if self.endpoint not in actions:
            return Answer(404, {"message": "no such endpoint"})
        return Answer(200, {"items": [actions[self.endpoint](item) for item in body["items"]]})

    def _docws(self, body: Any) -> Answer:
        if not self._is_trusted():
            return Answer(421, {"reason": "Sign in"})
        base = f"https://{self.headers['Host']}/content"
        if self.endpoint.endswith("/upload/web"):
            if self.query.get("token") != self._cookie(WEB_COOKIE)[:16]:
                return Answer(403, {"reason": "bad token"})
            document_id = self.owner.begin_upload(int(body["size"]))
            if document_id is None:
                return Answer(507, {"reason": "Quota exceeded"})
            return Answer(200, [{"document_id": document_id, "url": f"{base}/{document_id}"}])  # type: ignore[arg-type]
        if self.endpoint.endswith("/update/documents"):
            return self.owner.place_upload(body)
        if self.endpoint.endswith("/download/by_id"):
            node = self.owner.tree.nodes.get(self.query.get("document_id", ""))
            if node is None:
                return Answer(404, {"reason": "no such document"})
            if not node.size:
                return Answer(400, {"reason": "empty document"})
            return Answer(200, {"document_id": node.id, "data_token": {"url": f"{base}/{node.id}"}})
        return Answer(404, {"message": "no such endpoint"})

    def _account(self, body: Any) -> Answer:
        if self.endpoint != "/storageUsageInfo" or not self._is_trusted():
            return Answer(421, {"reason": "Sign in"})
        used = self.owner.tree.used()
        usage = {"usedStorageInBytes": used, "totalStorageInBytes": self.owner.total_bytes, "compStorageInBytes": 0}
        return Answer(200, {"storageUsageInfo": usage, "quotaStatus": {"overQuota": False}, "storageUsageByMedia": []})

    # --- contents --------------------------------------------------------------------------------------------------

    def _content(self) -> None:
        document_id = self.url_path.rpartition("/")[2]
        path = self.owner.tree.content(document_id)
        if self.command == "POST":
            self._receive(document_id, path)
            return
        with self.owner.lock:
            node = self.owner.tree.nodes.get(document_id)
        if node is None or not path.exists():
            self._send(Answer(404, {"reason": "gone"}))
        elif self.owner.redirect and "moved" not in self.query:
            self._send(Answer(330, None, {"Location": f"https://{self.headers['Host']}{self.url_path}?moved=1"}))
        else:
            with path.open("rb") as file:
                self._give(file, node.name)

    def _give(self, file: BinaryIO, name: str) -> None:
        size = file.seek(0, 2)
        start, end, wanted = 0, size, self.headers.get("Range")
        if wanted and self.owner.ranges:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end = int(first), min(size, int(last) + 1) if last else size
        status = 206 if (start, end) != (0, size) else 200
        self.send_response(status)
        kind = "application/json" if self.owner.json_contents else mimetypes.guess_type(name)[0]
        self.send_header("Content-Type", kind or "application/octet-stream")
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        self._log(status)
        file.seek(start)
        left = end - start
        if self.owner.cut_contents_at is not None:
            left = min(left, self.owner.cut_contents_at)
            self.close_connection = True
        while left and (data := file.read(min(PIECE, left))):
            self.wfile.write(data)
            left -= len(data)
        self.wfile.flush()

    def _receive(self, document_id: str, path: Path) -> None:
        """A form with one file: a head up to an empty line, the file, a tail as long as the boundary says."""
        boundary = self.headers["Content-Type"].partition("boundary=")[2].strip('"')
        while (line := self.rfile.readline()) not in (b"\r\n", b""):
            self._left -= len(line)
        self._left -= len(line)
        size = self._left - len(boundary) - len("\r\n----\r\n")
        partial = path.with_name(f"{path.name}.part-{secrets.token_hex(4)}")
        try:
            with partial.open("wb") as file:
                while self._left and (data := self.rfile.read(min(PIECE, self._left))):
                    self._left -= len(data)
                    file.write(data)
                file.truncate(size)
            if self._left:  # the client went away
                self.close_connection = True
                self._log(0)
                return
            if not self.owner.finish_upload(document_id, size):
                self._send(Answer(400, {"reason": "another size was announced"}))
                return
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        single = {
            "fileChecksum": f"sig-{document_id}",
            "referenceChecksum": f"ref-{document_id}",
            "wrappingKey": "key",
            "size": size,
        }
        self._send(Answer(200, {"singleFile": single | ({"receipt": f"receipt-{document_id}"} if size else {})}))

    # --- small things ----------------------------------------------------------------------------------------------

    def _cookie(self, name: str) -> str:
        morsel = SimpleCookie(self.headers.get("Cookie", "")).get(name)
        return morsel.value if morsel is not None else ""

    def _is_trusted(self) -> bool:
        return self.owner.accounts.is_trusted(self._cookie(WEB_COOKIE))

    def _read_all(self) -> bytes:
        data = self.rfile.read(self._left)
        self._left = 0
        return data

    def _discard(self) -> None:
        while self._left and (data := self.rfile.read(min(PIECE, self._left))):
            self._left -= len(data)

    def _send(self, answer: Answer) -> None:
        body = b"" if answer.document is None else json.dumps(answer.document).encode()
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        for name, value in self.__dict__.pop("_cookies", {}).items():
            self.send_header("Set-Cookie", f"{name}={value}; Path=/; Secure; HttpOnly; Max-Age=2592000")
        if body:
            self.send_header("Content-Type", "application/json; charset=utf-8")
        if answer.status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self._log(answer.status)  # before the client can see the answer, so that a test finds it in the list
        self.wfile.flush()

    def _log(self, status: int) -> None:
        self.owner.requests.append(Request(self.command, self.url_path, status))

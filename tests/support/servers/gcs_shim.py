"""A Google Cloud Storage server for tests: the XML API that obstore speaks, as a small WSGI layer over moto's S3.

The two APIs differ in the names of headers, in generations (a number for every version of an object) and in their
conditions; this layer translates those. Of the JSON API it has what makes and describes a bucket, and a token endpoint
for service accounts. Credentials are checked: the bearer token must be the one given, one the token endpoint handed
out, or a token signed by the service account's key.

`main` serves it on 127.0.0.1 for `servers.gcs.GcsServer`.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import itertools
import json
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote

Environ = dict[str, Any]
Headers = list[tuple[str, str]]

SIGNED = "AWS4-HMAC-SHA256 Credential=gcs/20200101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
"""moto lets nobody read a private bucket without a signature; it checks none."""
CLASS_KEY = "goog-storage-class"
"""Where the storage class is kept: moto knows only the classes of S3."""


@dataclasses.dataclass
class Answer:
    status: str
    headers: Headers
    body: bytes


@dataclasses.dataclass
class GcsShim:
    """The WSGI application. One request at a time reaches moto, so that conditions and writes are one step."""

    app: Callable[..., Iterable[bytes]]
    token: str
    public_key: bytes | None
    lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)
    generations: dict[str, int] = dataclasses.field(default_factory=dict)
    counter: Iterable[int] = dataclasses.field(default_factory=lambda: itertools.count(int(time.time() * 1e6)))
    started: dict[str, str] = dataclasses.field(default_factory=dict)
    handed_out: set[str] = dataclasses.field(default_factory=set)

    def __call__(self, environ: Environ, start_response: Callable[[str, Headers], Any]) -> Iterable[bytes]:
        # Read before the lock is taken: a slow sender must not hold up the others.
        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(length) if length else b""
        answer = self._answer(environ, body)
        if environ["REQUEST_METHOD"] != "HEAD":
            answer.headers = [(k, v) for k, v in answer.headers if k.lower() != "content-length"]
            answer.headers.append(("Content-Length", str(len(answer.body))))
        start_response(answer.status, answer.headers)
        return [answer.body]

    def _answer(self, environ: Environ, body: bytes) -> Answer:
        path = environ.get("PATH_INFO", "")
        if path == "/token":
            return self._hand_out_token(body)
        if not self._may_enter(environ.get("HTTP_AUTHORIZATION", "")):
            return _xml_error("401 Unauthorized", "AuthenticationRequired", "Authentication required.")
        with self.lock:
            if path.startswith("/storage/v1/b"):
                return self._json_api(environ, path, body)
            return self._xml_api(environ, path, body)

    # --- credentials ---------------------------------------------------------------------------------------------

    def _may_enter(self, authorization: str) -> bool:
        kind, _, token = authorization.partition(" ")
        if kind != "Bearer":
            return False
        return token == self.token or token in self.handed_out or self._is_signed(token)

    def _is_signed(self, token: str) -> bool:
        from google.auth import jwt

        if self.public_key is None:
            return False
        try:
            claims = jwt.decode(token, certs=self.public_key.decode())
        except ValueError:
            return False
        return "https://www.googleapis.com/auth/" in str(claims.get("scope", claims.get("aud")))

    def _hand_out_token(self, body: bytes) -> Answer:
        assertion = parse_qs(body.decode()).get("assertion", [""])[0]
        if not self._is_signed(assertion):
            return _json("400 Bad Request", {"error": "invalid_grant", "error_description": "Invalid JWT Signature."})
        token = secrets.token_urlsafe(24)
        self.handed_out.add(token)
        return _json("200 OK", {"access_token": token, "expires_in": 3600, "token_type": "Bearer"})

    # --- the JSON API: buckets -----------------------------------------------------------------------------------

    def _json_api(self, environ: Environ, path: str, body: bytes) -> Answer:
        method = environ["REQUEST_METHOD"]
        if method == "POST" and path == "/storage/v1/b":
            asked = json.loads(body)
            if self._moto(environ, "HEAD", f"/{asked['name']}").status.startswith("200"):
                return _json_error(409, "Your previous request to create the named bucket succeeded and you own it.")
            self._moto(environ, "PUT", f"/{asked['name']}")
            return _json("200 OK", {"kind": "storage#bucket", "id": asked["name"], **asked})
        name = path.removeprefix("/storage/v1/b/")
        if method == "GET" and "/" not in name:
            if self._moto(environ, "HEAD", f"/{name}").status.startswith("200"):
                return _json("200 OK", {"kind": "storage#bucket", "id": name, "name": name})
            return _json_error(404, "The specified bucket does not exist.")
        return _json_error(501, "This test server has no such call.")

    # --- the XML API: objects ------------------------------------------------------------------------------------

    def _xml_api(self, environ: Environ, path: str, body: bytes) -> Answer:
        method, query = environ["REQUEST_METHOD"], environ.get("QUERY_STRING", "")
        asked = parse_qs(query, keep_blank_values=True)
        wanted = environ.get("HTTP_X_GOOG_IF_GENERATION_MATCH")
        if wanted is not None and wanted != str(self._generation(environ, path)):
            return _xml_error("412 Precondition Failed", "PreconditionFailed", "A precondition did not hold.")
        if method == "DELETE" and "uploadId" not in asked and not self._generation(environ, path):
            return _xml_error("404 Not Found", "NoSuchKey", "The specified key does not exist.")
        answer = self._moto(environ, method, path, query, body, _amazon_headers(environ))
        if not answer.status.startswith("2"):
            return answer
        if "uploads" in asked:
            self._note_start(answer, starting=method == "POST")
        elif method in ("PUT", "POST") and "partNumber" not in asked:
            self.generations[path] = next(iter(self.counter))
        elif method == "DELETE" and "uploadId" not in asked:
            self.generations.pop(path, None)
        answer.headers = [*_google_headers(answer.headers), ("x-goog-generation", str(self.generations.get(path, 1)))]
        return answer

    def _generation(self, environ: Environ, path: str) -> int:
        there = self._moto(environ, "HEAD", path).status.startswith("200")
        return self.generations.get(path, 1) if there else 0

    def _note_start(self, answer: Answer, *, starting: bool) -> None:
        """Keeps when a multipart upload began, and puts it into listings: moto says 2010 for all of them."""
        text = answer.body.decode()
        if starting:
            for upload in re.findall(r"<UploadId>([^<]+)</UploadId>", text):
                self.started[upload] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
            return

        def with_time(match: re.Match[str]) -> str:
            upload = re.search(r"<UploadId>([^<]+)</UploadId>", match[0])
            began = self.started.get(upload[1] if upload else "", "2010-11-10T20:48:33.000Z")
            return re.sub(r"<Initiated>[^<]*</Initiated>", f"<Initiated>{began}</Initiated>", match[0])

        answer.body = re.sub(r"<Upload>.*?</Upload>", with_time, text, flags=re.DOTALL).encode()

    def _moto(
        self,
        environ: Environ,
        method: str,
        path: str,
        query: str = "",
        body: bytes = b"",
        headers: dict[str, str] | None = None,
    ) -> Answer:
        kept = {k: v for k, v in environ.items() if not k.startswith("HTTP_")}
        inner = kept | {
            "REQUEST_METHOD": method,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_HOST": environ.get("HTTP_HOST", "127.0.0.1"),
            "HTTP_AUTHORIZATION": SIGNED,
            "wsgi.input": io.BytesIO(body),
            **(headers or {}),
        }
        # moto reads the bucket from the address as it was sent, where obstore escapes even a dash.
        inner["RAW_URI"] = inner["REQUEST_URI"] = quote(path.encode("latin-1")) + (f"?{query}" if query else "")
        said: list[Any] = []
        parts = self.app(inner, lambda status, headers, *_: said.extend((status, headers)))
        try:
            content = b"".join(parts)
        finally:
            close = getattr(parts, "close", None)
            if close is not None:
                close()
        return Answer(said[0], list(said[1]), content)


def _amazon_headers(environ: Environ) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in environ.items():
        if name == "HTTP_X_GOOG_STORAGE_CLASS":
            headers["HTTP_X_AMZ_META_" + CLASS_KEY.upper().replace("-", "_")] = value
        elif name.startswith("HTTP_X_GOOG_") and name != "HTTP_X_GOOG_IF_GENERATION_MATCH":
            headers[name.replace("HTTP_X_GOOG_", "HTTP_X_AMZ_", 1)] = value
        elif name in ("HTTP_RANGE", "HTTP_IF_MATCH", "HTTP_IF_NONE_MATCH"):
            headers[name] = value
    return headers


def _google_headers(headers: Headers) -> Headers:
    renamed = {f"x-amz-meta-{CLASS_KEY}": "x-goog-storage-class"}
    return [(renamed.get(k.lower(), re.sub("^x-amz-", "x-goog-", k.lower())), v) for k, v in headers]


def _xml_error(status: str, code: str, message: str) -> Answer:
    body = f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return Answer(status, [("Content-Type", "application/xml; charset=UTF-8")], body.encode())


def _json(status: str, value: dict[str, Any]) -> Answer:
    return Answer(status, [("Content-Type", "application/json; charset=UTF-8")], json.dumps(value).encode())


def _json_error(code: int, message: str) -> Answer:
    return _json(f"{code} Error", {"error": {"code": code, "message": message, "errors": []}})


def main() -> None:
    """Serves the shim until it is told to stop."""
    from moto.moto_server.werkzeug_app import MotoRequestHandler, create_backend_app
    from werkzeug.serving import run_simple

    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--token", required=True)
    parser.add_argument("--public-key", type=Path)
    given = parser.parse_args()
    public_key = given.public_key.read_bytes() if given.public_key else None
    shim = GcsShim(create_backend_app("s3"), given.token, public_key)
    run_simple("127.0.0.1", given.port, shim, threaded=True, request_handler=MotoRequestHandler)


if __name__ == "__main__":
    main()

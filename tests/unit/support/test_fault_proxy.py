"""The fault proxy: what it passes on unchanged, and each way in which it breaks things."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import http.client
import http.server
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from tests.support.fault_proxy import FaultProxy
from tests.support.fault_rules import (
    Answer,
    BlackHole,
    End,
    FlipBit,
    Reset,
    Rule,
    Slow,
    Tap,
    Truncate,
    answer_json,
    answer_s3,
    choose,
)

BODY = bytes(range(256)) * 400
PATIENCE = 60.0
"""Only a hang takes that long."""


class _Target(http.server.BaseHTTPRequestHandler):
    """GET gives `BODY` (chunked below /chunked), PUT keeps what it was given."""

    protocol_version = "HTTP/1.1"
    stored: dict[str, bytes]
    heads: list[list[tuple[str, str]]]

    def log_message(self, *_: object) -> None:
        """The proxy's own list is the log."""

    def do_GET(self) -> None:
        self.heads.append(list(self.headers.items()))
        self.send_response(200)
        self.send_header("x-OwN-Name", "Kept As It Is")
        if self.path.startswith("/chunked"):
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for start in range(0, len(BODY), 10_000):
                piece = BODY[start : start + 10_000]
                self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            self.wfile.write(b"0\r\n\r\n")
            return
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(BODY)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_PUT(self) -> None:
        self.heads.append(list(self.headers.items()))
        if self.path == "/early":
            self.send_error(403)
            self.rfile.read(int(self.headers["Content-Length"]))
            self.close_connection = True
            return
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
        else:
            body = self.rfile.read(int(self.headers["Content-Length"]))
        self.stored[self.path] = body
        self.send_response(201)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def handler() -> type[_Target]:
    return type("Target", (_Target,), {"stored": {}, "heads": []})


@pytest.fixture
def target(handler: type[_Target]) -> Iterator[int]:
    """The port of a server."""
    with _serving(_Server(("127.0.0.1", 0), handler)) as port:
        yield port


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Connections that break are what these tests are about."""


@contextlib.contextmanager
def _serving(server: http.server.ThreadingHTTPServer) -> Iterator[int]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def proxy(target: int) -> Iterator[FaultProxy]:
    with FaultProxy("127.0.0.1", target) as running:
        yield running


@pytest.fixture
def client(proxy: FaultProxy) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=PATIENCE)
    yield connection
    connection.close()


def fetch(client: http.client.HTTPConnection, path: str = "/object") -> bytes:
    client.request("GET", path)
    return client.getresponse().read()


def put(client: http.client.HTTPConnection, body: bytes = BODY, path: str = "/object") -> int:
    client.request("PUT", path, body=body)
    answer = client.getresponse()
    answer.read()
    return answer.status


# --- what passes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/plain", "/chunked"])
def test_a_response_passes_unchanged(client: http.client.HTTPConnection, path: str) -> None:
    client.request("GET", path)
    answer = client.getresponse()
    assert (answer.status, answer.read()) == (200, BODY)
    assert ("x-OwN-Name", "Kept As It Is") in answer.getheaders()


def test_a_head_request_keeps_the_length_and_has_no_body(client: http.client.HTTPConnection) -> None:
    client.request("HEAD", "/object")
    answer = client.getresponse()
    assert (answer.getheader("Content-Length"), answer.read()) == (str(len(BODY)), b"")
    assert fetch(client) == BODY


def test_a_request_passes_unchanged_with_its_host(
    client: http.client.HTTPConnection, proxy: FaultProxy, handler: type[_Target]
) -> None:
    assert put(client) == 201
    assert handler.stored == {"/object": BODY}
    assert ("Host", f"127.0.0.1:{proxy.port}") in handler.heads[0]


def test_a_chunked_request_passes(client: http.client.HTTPConnection, handler: type[_Target]) -> None:
    client.request("PUT", "/object", body=iter([BODY[:1000], BODY[1000:]]), encode_chunked=True)
    assert client.getresponse().status == 201
    assert handler.stored == {"/object": BODY}


def test_one_connection_serves_many_requests(client: http.client.HTTPConnection, proxy: FaultProxy) -> None:
    for number in range(5):
        assert fetch(client, f"/object/{number}") == BODY
    assert proxy.connections == 1
    assert [seen.path for seen in proxy.requests] == [f"/object/{number}" for number in range(5)]


def test_a_client_that_expects_100_is_told_to_continue_by_the_target(proxy: FaultProxy) -> None:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE) as link:
        link.sendall(b"PUT /object HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        assert link.recv(1000).startswith(b"HTTP/1.1 100")
        link.sendall(b"hello")
        assert link.recv(1000).startswith(b"HTTP/1.1 201")


def test_an_answer_that_comes_early_reaches_the_client_that_is_still_sending(
    client: http.client.HTTPConnection, proxy: FaultProxy
) -> None:
    assert put(client, bytes(8_000_000), "/early") == 403
    assert [seen.status for seen in proxy.requests] == [403]


def test_requests_are_counted_by_method_and_path(client: http.client.HTTPConnection, proxy: FaultProxy) -> None:
    for path in ("/data/1", "/data/2", "/index/1"):
        put(client, b"x", path)
    fetch(client, "/data/1")
    assert (proxy.count(), proxy.count("PUT"), proxy.count("PUT", "^/data/"), proxy.count(path="1$")) == (4, 3, 2, 3)


# --- what breaks ---------------------------------------------------------------------------------------------------


def test_an_upload_is_reset_after_its_bytes_and_never_reaches_the_target(
    client: http.client.HTTPConnection, proxy: FaultProxy, handler: type[_Target]
) -> None:
    with proxy.fault(Reset(50_000), method="PUT") as rule, pytest.raises(ConnectionError):
        put(client, bytes(30_000_000))
    client.close()
    assert (rule.applied, handler.stored) == (1, {})
    assert put(client) == 201


def test_a_download_is_reset_after_its_bytes(client: http.client.HTTPConnection, proxy: FaultProxy) -> None:
    with proxy.fault(Reset(50_000, "download")) as rule:
        client.request("GET", "/object")
        with pytest.raises((ConnectionError, http.client.IncompleteRead)):
            client.getresponse().read()
    assert rule.applied == 1


def test_a_black_hole_answers_nothing_until_it_is_switched_off(proxy: FaultProxy) -> None:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE) as link:
        with proxy.fault(BlackHole()) as rule:
            link.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            link.settimeout(0.2)
            with pytest.raises(TimeoutError):
                link.recv(1)
            assert rule.applied == 1
        link.settimeout(PATIENCE)
        with pytest.raises(ConnectionResetError):
            link.recv(1)


def test_a_closed_port_refuses_and_opens_again_as_the_same(
    client: http.client.HTTPConnection, proxy: FaultProxy
) -> None:
    fetch(client)
    before = proxy.port
    with proxy.refused():
        with pytest.raises(ConnectionError):  # the one that was open
            fetch(client)
        client.close()
        with pytest.raises(ConnectionRefusedError):
            fetch(client)
    client.close()
    assert (proxy.port, fetch(client)) == (before, BODY)


def test_a_slow_link_passes_everything_all_the_same(
    client: http.client.HTTPConnection, proxy: FaultProxy, handler: type[_Target]
) -> None:
    with proxy.fault(Slow(2_000_000)) as rule:
        assert fetch(client) == BODY
        assert put(client) == 201
    assert (rule.applied, handler.stored) == (2, {"/object": BODY})


def test_an_answer_of_the_proxy_has_its_status_headers_and_body_and_spares_the_target(
    client: http.client.HTTPConnection, proxy: FaultProxy, handler: type[_Target]
) -> None:
    with proxy.fault(answer_s3(429, "SlowDown", ("Retry-After", "7"))) as rule:
        client.request("PUT", "/object", body=BODY)
        answer = client.getresponse()
        assert (answer.status, answer.getheader("Retry-After")) == (429, "7")
        assert b"<Code>SlowDown</Code>" in answer.read()
    assert (rule.applied, handler.heads) == (1, [])
    assert put(client) == 201
    assert proxy.connections == 1


def test_an_answer_to_a_client_that_waits_to_continue_comes_at_once(proxy: FaultProxy) -> None:
    with (
        proxy.fault(answer_json(507, {"error": "full"})),
        socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE) as link,
    ):
        link.sendall(b"PUT /object HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        assert link.recv(1000).startswith(b"HTTP/1.1 507")


@pytest.mark.parametrize("path", ["/plain", "/chunked"])
def test_a_truncated_response_is_noticed_by_the_client(
    client: http.client.HTTPConnection, proxy: FaultProxy, path: str
) -> None:
    with proxy.fault(Truncate(10_000), method="GET") as rule:
        client.request("GET", path)
        with pytest.raises(http.client.IncompleteRead) as caught:
            client.getresponse().read()
    assert (rule.applied, caught.value.partial) == (1, BODY[:10_000])


@pytest.mark.parametrize("path", ["/plain", "/chunked"])
def test_a_hidden_truncation_looks_like_a_whole_response(
    client: http.client.HTTPConnection, proxy: FaultProxy, path: str
) -> None:
    with proxy.fault(Truncate(10_000, hidden=True), method="GET") as rule:
        assert fetch(client, path) == BODY[:10_000]
    assert rule.applied == 1
    assert fetch(client, path) == BODY
    assert proxy.connections == 1


def test_one_bit_of_a_response_is_flipped(client: http.client.HTTPConnection, proxy: FaultProxy) -> None:
    with proxy.fault(FlipBit(70_001)):
        got = fetch(client)
    assert [(at, a ^ b) for at, (a, b) in enumerate(zip(BODY, got, strict=True)) if a != b] == [(70_001, 1)]


def test_one_bit_of_a_request_is_flipped(
    client: http.client.HTTPConnection, proxy: FaultProxy, handler: type[_Target]
) -> None:
    with proxy.fault(FlipBit(3, "upload")):
        put(client)
    assert handler.stored["/object"][:5] == bytes([0, 1, 2, 3 ^ 1, 4])


def test_a_rule_takes_the_nth_request_and_so_many_of_them(
    client: http.client.HTTPConnection, proxy: FaultProxy
) -> None:
    with proxy.fault(Answer(500), method="PUT", path="^/data/", nth=2, times=2):
        statuses = [put(client, b"x", f"/data/{number}") for number in range(5)]
        assert put(client, b"x", "/index/1") == 201
    assert statuses == [201, 500, 500, 201, 201]


def test_a_rule_holds_for_every_connection_at_once(proxy: FaultProxy) -> None:
    rule = proxy.add(Answer(503), times=5)

    async def ask() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        line = await reader.readline()
        writer.close()
        return line.split()[1]

    async def all_at_once() -> list[bytes]:
        return await asyncio.gather(*(ask() for _ in range(12)))

    assert sorted(asyncio.run(all_at_once())) == [b"200"] * 7 + [b"503"] * 5
    assert rule.applied == 5


def test_clearing_ends_all_faults(client: http.client.HTTPConnection, proxy: FaultProxy) -> None:
    proxy.add(Answer(500))
    proxy.add(Answer(503))
    assert put(client) == 500
    proxy.clear()
    assert put(client) == 201


# --- its life, TLS, raw bytes --------------------------------------------------------------------------------------


def test_a_closed_proxy_leaves_no_thread_and_no_open_port(target: int) -> None:
    threads = set(threading.enumerate())
    with FaultProxy("127.0.0.1", target) as proxy:
        proxy.add(BlackHole())
        held = socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE)
        held.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        port = proxy.port
    with contextlib.suppress(ConnectionError):
        assert held.recv(1) == b""
    held.close()
    assert not [thread for thread in set(threading.enumerate()) - threads if thread.name == "fault-proxy"]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)


def test_tls_is_spoken_on_both_sides(handler: type[_Target], tmp_path: Path) -> None:
    certificate, key = _certificate(tmp_path)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(certificate, key)
    trusting = ssl.create_default_context(cafile=str(certificate))
    server = _Server(("127.0.0.1", 0), handler)
    server.socket = serving.wrap_socket(server.socket, server_side=True)
    with _serving(server) as port, FaultProxy("127.0.0.1", port, tls=serving, target_tls=trusting) as proxy:
        assert proxy.url == f"https://127.0.0.1:{proxy.port}"
        client = http.client.HTTPSConnection("127.0.0.1", proxy.port, context=trusting, timeout=PATIENCE)
        assert fetch(client) == BODY
        with proxy.fault(Reset(1000, "download")), pytest.raises((OSError, http.client.HTTPException)):
            fetch(client)
        client.close()


def _certificate(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(address, critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate, private = folder / "certificate.pem", folder / "key.pem"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    return certificate, private


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that sends back what it gets."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_echo, args=(listener,), daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def _echo(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            link, _ = listener.accept()
            with link, contextlib.suppress(OSError):
                while data := link.recv(1 << 16):
                    link.sendall(data)


def test_raw_bytes_pass_and_the_end_of_one_direction_leaves_the_other_open(echo: int) -> None:
    with (
        FaultProxy("127.0.0.1", echo, raw=True) as proxy,
        socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE) as link,
    ):
        link.sendall(b"hello")
        link.shutdown(socket.SHUT_WR)
        assert _all(link) == b"hello"


def test_raw_bytes_meet_faults_by_connection(echo: int) -> None:
    with FaultProxy("127.0.0.1", echo, raw=True) as proxy:
        proxy.add(FlipBit(1), nth=2, times=1)
        proxy.add(Truncate(3), nth=2, times=1)
        got = []
        for _ in range(4):
            with socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE) as link:
                link.sendall(b"hello")
                link.shutdown(socket.SHUT_WR)
                got.append(_all(link))
        assert got == [b"hello", b"hdllo", b"hel", b"hello"]


def test_a_raw_connection_is_reset(echo: int) -> None:
    with FaultProxy("127.0.0.1", echo, raw=True) as proxy:
        rule = proxy.add(Reset(2))
        with (
            socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE) as link,
            pytest.raises(ConnectionResetError),
        ):
            link.sendall(b"hello")
            _all(link)
            link.sendall(b"hello")
            raise ConnectionResetError if link.recv(1) == b"" else AssertionError
        assert rule.applied == 1


def _all(link: socket.socket) -> bytes:
    got = b""
    while data := link.recv(1 << 16):
        got += data
    return got


# --- the rules as values -------------------------------------------------------------------------------------------

PIECES = st.lists(st.binary(max_size=40), max_size=12)


def _through(tap: Tap, pieces: list[bytes]) -> tuple[bytes, End | None]:
    out = b""
    for piece in pieces:
        data, end = tap.feed(piece)
        out += data
        if end is not None:
            return out, end
    return out, None


@given(PIECES, st.integers(0, 200), st.sampled_from([Reset, Truncate]))
def test_a_cut_keeps_exactly_its_bytes_however_the_body_is_split(
    pieces: list[bytes], after: int, kind: type[Reset] | type[Truncate]
) -> None:
    whole = b"".join(pieces)
    fault = Reset(after, "download") if kind is Reset else Truncate(after)
    tap = Tap(fault, "download")
    out, end = _through(tap, pieces)
    assert out == whole[:after]
    assert (end is not None) == tap.applied == (len(whole) > after)


@given(PIECES, st.integers(0, 200))
def test_a_flip_changes_one_bit_however_the_body_is_split(pieces: list[bytes], offset: int) -> None:
    whole = b"".join(pieces)
    out, end = _through(Tap(FlipBit(offset), "download"), pieces)
    changed = [(at, a ^ b) for at, (a, b) in enumerate(zip(whole, out, strict=True)) if a != b]
    assert (changed, end) == ([(offset, 1)] if offset < len(whole) else [], None)


@given(PIECES)
def test_a_fault_of_one_direction_leaves_the_other_alone(pieces: list[bytes]) -> None:
    for fault in (Reset(0, "download"), Truncate(0), FlipBit(0)):
        assert _through(Tap(fault, "upload"), pieces) == (b"".join(pieces), None)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 20))
def test_a_rule_takes_exactly_its_window(nth: int, times: int, requests: int) -> None:
    rule = Rule(BlackHole(), nth=nth, times=times)
    taken = [number for number in range(1, requests + 1) if rule.takes("GET", "/")]
    assert taken == [number for number in range(nth, nth + times) if number <= requests]


def test_a_rule_that_is_off_takes_nothing_and_tells_who_waits() -> None:
    told: list[str] = []
    rule = Rule(BlackHole())
    rule.when_off(lambda: told.append("waiting"))
    rule.off()
    rule.when_off(lambda: told.append("late"))
    assert (told, rule.takes("GET", "/"), rule.is_on) == (["waiting", "late"], False, False)


def test_the_first_rule_that_takes_a_request_wins() -> None:
    first, second = Rule(Answer(1), path="a"), Rule(Answer(2))
    assert choose([first, second], "GET", "/a") is first
    assert choose([first, second], "GET", "/b") is second
    assert choose([first], "GET", "/b") is None

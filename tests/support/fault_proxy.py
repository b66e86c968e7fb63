"""A proxy of our own in front of any HTTP (or TCP) server on loopback, that breaks things when a test says so.

    with FaultProxy("127.0.0.1", 8333) as proxy:
        with proxy.fault(Reset(after=1_000_000), method="PUT", path=r"/data/") as rule:
            ...                     # clients that use proxy.url meet the fault
        assert rule.applied == 1

Everything else passes unchanged: the Host header (signatures stay valid, as the target sees the address that the client
signed), the spelling and order of headers, chunked bodies with their trailers, ``Expect: 100-continue``, kept
connections. Invariants: rules may be changed from any thread at any time and hold for requests that begin afterwards;
every request is in ``requests`` once its head was read; after ``close`` nothing of the proxy runs and its port is free.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import socket
import ssl
import threading
from collections.abc import Coroutine, Iterator
from typing import Any, Self

import h11

from tests.support.fault_links import PIECE, Ended, HttpLink, RawLink, Seen, Side
from tests.support.fault_rules import BlackHole, Fault, Rule, choose

MAX_SEEN = 100_000
START_SECONDS = 30.0
BACKLOG = 128


class FaultProxy:
    """Listens on ``host:port`` while entered and passes on to the target.

    ``raw``: bytes of any protocol; rules then match connections, and bodies are all bytes of a direction. ``tls``: the
    context to serve https with; ``target_tls``: the one to reach the target with.
    """

    def __init__(
        self,
        target_host: str,
        target_port: int,
        *,
        raw: bool = False,
        tls: ssl.SSLContext | None = None,
        target_tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self.host = host
        self.port = 0
        self.requests: collections.deque[Seen] = collections.deque(maxlen=MAX_SEEN)
        self.connections = 0
        """Connections that were accepted."""
        self._target = (target_host, target_port)
        self._raw = raw
        self._tls = tls
        self._target_tls = target_tls
        self._rules: tuple[Rule, ...] = ()
        self._lock = threading.Lock()
        self._holder: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._accepting: asyncio.Future[None] | None = None
        self._links: set[asyncio.Future[None]] = set()

    @property
    def url(self) -> str:
        """The address for clients, without a path."""
        return f"{'https' if self._tls else 'http'}://{self.host}:{self.port}"

    # --- what a test switches on and off ---------------------------------------------------------------------------

    def add(
        self,
        fault: Fault,
        *,
        method: str | None = None,
        path: str | None = None,
        nth: int = 1,
        times: int | None = None,
    ) -> Rule:
        """From now on the fault happens to requests of that method (``GET|HEAD``) whose target the pattern is found in.

        It begins with the ``nth`` such request and happens ``times`` times. Of several rules the first that takes a
        request wins.
        """
        rule = Rule(fault, method=method, path=path, nth=nth, times=times)
        with self._lock:
            self._rules = (*self._rules, rule)
        return rule

    def clear(self) -> None:
        """Switches all rules off."""
        with self._lock:
            rules, self._rules = self._rules, ()
        for rule in rules:
            rule.off()

    @contextlib.contextmanager
    def fault(
        self,
        fault: Fault,
        *,
        method: str | None = None,
        path: str | None = None,
        nth: int = 1,
        times: int | None = None,
    ) -> Iterator[Rule]:
        """`add` for the length of a block."""
        rule = self.add(fault, method=method, path=path, nth=nth, times=times)
        try:
            yield rule
        finally:
            rule.off()
            with self._lock:
                self._rules = tuple(other for other in self._rules if other is not rule)

    @contextlib.contextmanager
    def refused(self) -> Iterator[None]:
        """For the length of a block the port is closed and what was connected is torn down."""
        self._call(self._stop_listening())
        try:
            yield
        finally:
            self._call(self._listen())

    def count(self, method: str | None = None, path: str | None = None) -> int:
        """How many requests of that method came whose target the pattern is found in."""
        probe = Rule(BlackHole(), method=method, path=path)
        return sum(probe.takes(seen.method, seen.path) for seen in tuple(self.requests))

    # --- its life --------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Listen; returns when connections are accepted."""
        # This socket keeps the port ours while it is closed to clients (`refused`).
        self._holder = _bound(self.host, 0)
        self.port = self._holder.getsockname()[1]
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._live(ready)), name="fault-proxy", daemon=True)
        self._thread.start()
        if not ready.wait(START_SECONDS):
            raise RuntimeError("the fault proxy did not start")
        self._call(self._listen())
        return self

    def close(self) -> None:
        """Tear every connection down and end."""
        self.clear()
        if self._loop is not None and self._thread is not None:
            self._call(self._stop_listening())
            self._loop.call_soon_threadsafe(self._over.set)
            self._thread.join(START_SECONDS)
            self._loop = self._thread = None
        if self._holder is not None:
            self._holder.close()
            self._holder = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    async def _live(self, ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._over = asyncio.Event()
        ready.set()
        await self._over.wait()

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        assert self._loop is not None, "the proxy is not running"
        asyncio.run_coroutine_threadsafe(work, self._loop).result(START_SECONDS)

    async def _listen(self) -> None:
        listener = _bound(self.host, self.port)
        listener.listen(BACKLOG)
        listener.setblocking(False)
        self._accepting = asyncio.ensure_future(self._accept(listener))

    async def _stop_listening(self) -> None:
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.gather(self._accepting, return_exceptions=True)
            self._accepting = None
        await asyncio.sleep(0)  # a link that has not begun could not close its socket
        for link in self._links:
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with listener:
            while True:
                accepted, _ = await loop.sock_accept(listener)
                self.connections += 1
                link = asyncio.ensure_future(self._serve(accepted))
                self._links.add(link)
                link.add_done_callback(self._links.discard)

    async def _serve(self, accepted: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(4 * PIECE, loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        try:
            transport, _ = await loop.connect_accepted_socket(lambda: protocol, accepted, ssl=self._tls)
        except (OSError, asyncio.CancelledError):
            accepted.close()
            return
        client = Side(reader, asyncio.StreamWriter(transport, protocol, reader, loop))
        exchange = (RawLink if self._raw else HttpLink)(client, self._reach, self._choose, self.requests.append)
        reset = True
        try:
            await exchange.run()
        except Ended as ended:
            reset = ended.reset
        except (OSError, h11.ProtocolError, EOFError):
            pass  # one side went away: so does the other
        except asyncio.CancelledError:
            pass  # the proxy stops, nobody waits for this task
        finally:
            exchange.close(reset=reset)

    async def _reach(self) -> Side:
        host, port = self._target
        reader, writer = await asyncio.open_connection(host, port, ssl=self._target_tls, limit=4 * PIECE)
        return Side(reader, writer)

    def _choose(self, method: str | None, path: str | None) -> Rule | None:
        return choose(self._rules, method, path)


def _bound(host: str, port: int) -> socket.socket:
    """A TCP socket with that port (0: a free one), which this process may bind a second time."""
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, getattr(socket, "SO_REUSEPORT", socket.SO_REUSEADDR), 1)
    made.bind((host, port))
    return made

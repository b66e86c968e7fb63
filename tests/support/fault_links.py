"""The two connections of a client of the fault proxy and what moves between them, exchange by exchange.

Everything here runs in the proxy's event loop. A link ends by raising: `Ended`, or whatever a socket or a protocol
error raises; its owner then closes both connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
import struct
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import h11

from tests.support.fault_rules import Answer, BlackHole, End, Fault, Rule, Tap

PIECE = 1 << 16
MAX_HEAD = 1 << 20
SLICE_SECONDS = 0.05
"""A slow body moves in pieces that take this long."""


@dataclasses.dataclass(slots=True)
class Seen:
    """One request that came: how it began, the fault it met and the status it was answered with, so far."""

    method: str
    path: str
    fault: Fault | None
    status: int | None = None


class Ended(Exception):
    """The connection is over: torn down when ``reset``, else closed."""

    def __init__(self, *, reset: bool = False) -> None:
        super().__init__()
        self.reset = reset


class Side:
    """One TCP connection of the two."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self) -> bytes:
        return await self._reader.read(PIECE)

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    def end_writing(self) -> None:
        with contextlib.suppress(OSError, RuntimeError, NotImplementedError):
            self._writer.write_eof()

    def close(self, *, reset: bool) -> None:
        if reset:
            raw = self._writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._writer.transport.abort()
        else:
            self._writer.close()


class Link:
    """One client's connection and the one to the target that belongs to it."""

    def __init__(
        self,
        client: Side,
        reach: Callable[[], Coroutine[Any, Any, Side]],
        choose_rule: Callable[[str | None, str | None], Rule | None],
        saw: Callable[[Seen], None],
    ) -> None:
        self._client = client
        self._reach = reach
        self._choose = choose_rule
        self._saw = saw
        self._target: Side | None = None

    async def run(self) -> None:
        raise NotImplementedError

    def close(self, *, reset: bool) -> None:
        """End both connections."""
        for side in (self._client, self._target):
            if side is not None:
                side.close(reset=reset)

    async def _hold(self, rule: Rule) -> None:
        """Read and say nothing until the client gives up or the rule is switched off."""
        rule.note()
        loop, released = asyncio.get_running_loop(), asyncio.Event()

        def release() -> None:
            with contextlib.suppress(RuntimeError):  # the proxy has ended
                loop.call_soon_threadsafe(released.set)

        async def swallow() -> None:
            while await self._client.read():
                pass

        rule.when_off(release)
        waits = [asyncio.ensure_future(swallow()), asyncio.ensure_future(released.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        raise Ended(reset=True)


class HttpLink(Link):
    """HTTP/1.1: one exchange after the other, the bodies of both directions moving at the same time."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._from_client = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        self._to_target = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        self._target_is_deaf = False

    async def run(self) -> None:
        while True:
            head = await self._next(self._from_client, self._client)
            if not isinstance(head, h11.Request):
                raise Ended
            method, path = head.method.decode(), head.target.decode("latin-1")
            rule = self._choose(method, path)
            seen = Seen(method, path, rule.fault if rule else None)
            self._saw(seen)
            if rule is not None and isinstance(rule.fault, BlackHole):
                await self._hold(rule)
            if rule is not None and isinstance(rule.fault, Answer):
                await self._answer(rule, rule.fault, seen)
            else:
                await self._pass_on(head, rule, seen)
            if self._from_client.our_state is not h11.DONE or self._from_client.their_state is not h11.DONE:
                raise Ended
            self._from_client.start_next_cycle()

    async def _answer(self, rule: Rule, fault: Answer, seen: Seen) -> None:
        if not self._from_client.they_are_waiting_for_100_continue:
            while not isinstance(await self._next(self._from_client, self._client), h11.EndOfMessage):
                pass
        headers = [*fault.headers, ("Content-Length", str(len(fault.body)))]
        rule.note()
        seen.status = fault.status
        await self._send(self._from_client, self._client, h11.Response(status_code=fault.status, headers=headers))
        if seen.method != "HEAD":
            await self._send(self._from_client, self._client, h11.Data(data=fault.body))
        await self._send(self._from_client, self._client, h11.EndOfMessage())

    async def _pass_on(self, head: h11.Request, rule: Rule | None, seen: Seen) -> None:
        # A new connection for each request: a kept one might be closed by the target just now, which no rule asked for.
        if self._target is not None:
            self._target.close(reset=False)
        self._target = await self._reach()
        self._target_is_deaf = False
        self._to_target = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        await self._send(self._to_target, self._target_side, _same(head))
        fault = rule.fault if rule else None
        up, down = Tap(fault, "upload"), Tap(fault, "download")
        sending = asyncio.ensure_future(self._body(self._from_client, self._client, self._upload, up, rule))
        answering = asyncio.ensure_future(self._response(down, rule, seen))
        try:
            await asyncio.wait({sending, answering}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
            await answering
            # Answered early: the rest of what the client sends is still taken from it, so that it reads the answer.
            if not self._from_client.they_are_waiting_for_100_continue:
                await sending
        finally:
            for task in (sending, answering):
                task.cancel()
            await asyncio.gather(sending, answering, return_exceptions=True)

    @property
    def _target_side(self) -> Side:
        assert self._target is not None
        return self._target

    async def _upload(self, event: h11.Data | h11.EndOfMessage) -> None:
        if self._to_target.our_state is h11.SEND_BODY and not self._target_is_deaf:
            try:
                await self._send(self._to_target, self._target_side, event)
            except OSError:  # a server may answer early and close: its answer counts
                self._target_is_deaf = True

    async def _download(self, event: h11.Data | h11.EndOfMessage) -> None:
        await self._send(self._from_client, self._client, event)

    async def _response(self, tap: Tap, rule: Rule | None, seen: Seen) -> None:
        while True:
            event = await self._next(self._to_target, self._target_side)
            if isinstance(event, h11.InformationalResponse):
                await self._send(self._from_client, self._client, event)
            elif isinstance(event, h11.Response):
                break
            else:
                raise Ended(reset=True)
        seen.status = event.status_code
        head = event if seen.method == "HEAD" else _shortened(event, tap)
        await self._send(self._from_client, self._client, _same(head))
        await self._body(self._to_target, self._target_side, self._download, tap, rule)

    async def _body(
        self,
        connection: h11.Connection,
        side: Side,
        send: Callable[[h11.Data | h11.EndOfMessage], Coroutine[Any, Any, None]],
        tap: Tap,
        rule: Rule | None,
    ) -> None:
        """Moves one body from a side on, as its tap says."""
        noted = False
        while True:
            event = await self._next(connection, side)
            if isinstance(event, h11.EndOfMessage):
                await send(event)
                return
            if not isinstance(event, h11.Data):
                raise Ended(reset=True)
            data, end = tap.feed(bytes(event.data))
            if tap.applied and rule is not None and not noted:
                rule.note()
                noted = True
            for piece in _pieces(data, tap.rate):
                await send(h11.Data(data=piece))
                if tap.rate:
                    await asyncio.sleep(len(piece) / tap.rate)
            if end is End.QUIET:
                await send(h11.EndOfMessage())
                return
            if end is not None:
                raise Ended(reset=end is End.RESET)

    @staticmethod
    async def _next(connection: h11.Connection, side: Side) -> Any:
        """The next event of a connection; raises EOFError or h11.ProtocolError when it ends in the middle."""
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await side.read())
            elif event is h11.PAUSED:
                raise EOFError
            else:
                return event

    @staticmethod
    async def _send(connection: h11.Connection, side: Side, event: Any) -> None:
        data = connection.send(event)
        if data:
            await side.write(data)


class RawLink(Link):
    """Any protocol: two streams of bytes."""

    async def run(self) -> None:
        rule = self._choose(None, None)
        fault = rule.fault if rule else None
        self._saw(Seen("", "", fault))
        if rule is not None and isinstance(fault, BlackHole):
            await self._hold(rule)
        self._target = await self._reach()
        up, down = Tap(fault, "upload"), Tap(fault, "download")
        streams = {
            asyncio.ensure_future(self._stream(self._client, self._target, up, rule)),
            asyncio.ensure_future(self._stream(self._target, self._client, down, rule)),
        }
        try:
            waiting = streams
            while waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for stream in done:
                    stream.result()
        finally:
            for stream in streams:
                stream.cancel()
            await asyncio.gather(*streams, return_exceptions=True)

    @staticmethod
    async def _stream(source: Side, sink: Side, tap: Tap, rule: Rule | None) -> None:
        noted = False
        while received := await source.read():
            data, end = tap.feed(received)
            if tap.applied and rule is not None and not noted:
                rule.note()
                noted = True
            for piece in _pieces(data, tap.rate):
                await sink.write(piece)
                if tap.rate:
                    await asyncio.sleep(len(piece) / tap.rate)
            if end is not None:
                raise Ended(reset=end is End.RESET)
        sink.end_writing()


def _pieces(data: bytes, rate: int | None) -> Iterator[bytes]:
    size = len(data) if not rate else max(1, int(rate * SLICE_SECONDS))
    return (data[start : start + size] for start in range(0, len(data), size or 1))


def _same(head: Any) -> Any:
    """A head with its headers spelled as they were received."""
    headers = head.headers.raw_items()
    if isinstance(head, h11.Request):
        return h11.Request(method=head.method, target=head.target, headers=headers)
    return h11.Response(status_code=head.status_code, reason=head.reason, headers=headers)


def _shortened(head: h11.Response, tap: Tap) -> h11.Response:
    """A response's head that announces what its body will be after the fault."""
    headers = [
        (name, str(tap.announce(int(value))).encode() if name.lower() == b"content-length" else value)
        for name, value in head.headers.raw_items()
    ]
    return h11.Response(status_code=head.status_code, reason=head.reason, headers=headers)

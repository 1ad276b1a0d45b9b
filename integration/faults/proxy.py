"""A TCP proxy before a RabbitMQ: cuts connections on demand, writes down what clients settle.

Only the consumers under test go through it, so what is buffered is bounded by their prefetch.
Connections are told apart by the `connection_name` in the client's properties.
"""

from __future__ import annotations

import asyncio
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from pika import spec

_GREETING_SIZE = 8
_HEADER = struct.Struct(">BHI")
_SETTLES = (spec.Basic.Ack, spec.Basic.Nack, spec.Basic.Reject)


class Settled(NamedTuple):
    """A settlement as it came in from the client."""

    verdict: str
    """ack, requeue or reject."""
    tag: int
    multiple: bool
    forwarded: bool
    """False where the cut was prepared already: the broker has never seen it."""
    at: float
    """When the proxy read it (`time.monotonic`, which on Linux all processes share)."""


class Link:
    """One client's connection. Written by the proxy's thread, safe to read by others."""

    def __init__(self, proxy: Proxy) -> None:
        self.name = ""
        self.settled: list[Settled] = []
        self.refusals: list[str] = []
        """Why the broker closed a channel or the connection: somebody broke the protocol."""
        self.cut = False
        self.closed = False
        self._proxy = proxy
        self._losing: int | None = None
        self._client: asyncio.Transport | None = None
        self._broker: asyncio.Transport | None = None
        self._early = bytearray()
        self._to_broker, self._to_client = bytearray(), bytearray()

    def lose(self, settlements: int) -> None:
        """Forward nothing from now on; cut when so many settlements have been swallowed."""
        self._losing = settlements
        if settlements <= 0:
            self.abort()

    def abort(self) -> None:
        """Drop both connections without a word, with whatever is on its way."""
        self.cut = True
        self.drop()

    def drop(self) -> None:
        """Drop both connections; no fault, the proxy is closing."""
        for transport in (self._client, self._broker):
            if transport is not None:
                transport.abort()

    # Called by the two sides

    def opened(self, client: asyncio.Transport) -> None:
        self._client = client

    def reached(self, broker: asyncio.Transport) -> None:
        self._broker = broker
        if self.closed:
            broker.abort()
            return
        broker.write(bytes(self._early))
        self._early.clear()

    def from_client(self, data: bytes) -> None:
        forwarding = self._losing is None
        self._to_broker += data
        for method in _methods(self._to_broker):
            self._sent(method, forwarded=forwarding)
        if forwarding and self._broker is None:
            self._early += data
        elif forwarding and self._broker is not None:
            self._broker.write(data)
        elif self._swallowed() >= (self._losing or 0):
            self.abort()

    def from_broker(self, data: bytes) -> None:
        self._to_client += data
        for method in _methods(self._to_client):
            if isinstance(method, spec.Channel.Close | spec.Connection.Close):
                self.refusals.append(f"{method.reply_code} {method.reply_text}")
        if self._client is not None:
            self._client.write(data)

    def left(self) -> None:
        """One side has gone: the other gets what is still on its way, and goes too."""
        self.closed = True
        for transport in (self._client, self._broker):
            if transport is not None and not transport.is_closing():
                transport.close()
        self._proxy.changed()

    def _swallowed(self) -> int:
        return sum(not settled.forwarded for settled in self.settled)

    def _sent(self, method: Any, *, forwarded: bool) -> None:
        if isinstance(method, spec.Connection.StartOk):
            self.name = str(method.client_properties.get("connection_name", ""))
        elif isinstance(method, _SETTLES):
            verdict = "ack"
            if not isinstance(method, spec.Basic.Ack):
                verdict = "requeue" if method.requeue else "reject"
            multiple = getattr(method, "multiple", False)
            settled = Settled(verdict, method.delivery_tag, multiple, forwarded, time.monotonic())
            self.settled.append(settled)


def _methods(buffer: bytearray) -> Iterator[Any]:
    """Decode and take out the whole frames; yield those of interest."""
    while True:
        if buffer.startswith(b"AMQP"):
            if len(buffer) < _GREETING_SIZE:
                return
            del buffer[:_GREETING_SIZE]
        if len(buffer) < _HEADER.size:
            return
        kind, _, size = _HEADER.unpack_from(buffer)
        if len(buffer) < _HEADER.size + size + 1:
            return
        if kind == spec.FRAME_METHOD:
            (index,) = struct.unpack_from(">I", buffer, _HEADER.size)
            if index in _INTERESTING:
                payload = bytes(buffer[_HEADER.size + 4 : _HEADER.size + size])
                method = spec.methods[index]()
                method.decode(payload, 0)
                yield method
        del buffer[: _HEADER.size + size + 1]


_INTERESTING = {
    method.INDEX
    for method in (*_SETTLES, spec.Connection.StartOk, spec.Connection.Close, spec.Channel.Close)
}


class _Side(asyncio.Protocol):
    def __init__(
        self,
        opened: Callable[[Any], None],
        received: Callable[[bytes], None],
        left: Callable[[], None],
    ) -> None:
        self._opened, self._received, self._left = opened, received, left

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._opened(transport)

    def data_received(self, data: bytes) -> None:
        self._received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._left()


class Proxy:
    """The proxy, running from construction until `close`. Its methods are safe from any thread."""

    def __init__(self, host: str, port: int) -> None:
        self.links: list[Link] = []
        self._target = (host, port)
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._server = self._loop.run_until_complete(
            self._loop.create_server(self._accept, "127.0.0.1", 0)
        )
        self.port: int = self._server.sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop every connection and stop."""
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(timeout=10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def link(self, name: str) -> Link | None:
        """The connection of this name, once the client has said its name."""
        return next((link for link in self.links if link.name == name), None)

    def cut(self, link: Link, losing: int, timeout: float) -> bool:
        """Cut a connection after it has lost so many settlements.

        Returns:
            False when they did not come in time; it is cut all the same.
        """
        self._loop.call_soon_threadsafe(link.lose, losing)
        with self._changed:
            if self._changed.wait_for(lambda: link.closed, timeout):
                return True
        self._loop.call_soon_threadsafe(link.abort)
        return False

    def changed(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _accept(self) -> _Side:
        link = Link(self)
        self.links.append(link)

        def opened(client: asyncio.Transport) -> None:
            link.opened(client)
            task = self._loop.create_task(self._reach(link))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        return _Side(opened, link.from_client, link.left)

    async def _reach(self, link: Link) -> None:
        try:
            await self._loop.create_connection(
                lambda: _Side(link.reached, link.from_broker, link.left), *self._target
            )
        except OSError:
            link.abort()
            link.left()

    async def _stop(self) -> None:
        self._server.close()
        for link in self.links:
            link.drop()
        while any(not link.closed for link in self.links) or self._tasks:  # noqa: ASYNC110
            await asyncio.sleep(0)

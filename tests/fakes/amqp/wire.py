"""A client's connection: its socket, its frames (pika's own codec does them) and its channels.

After every frame the state takes its turn, so an answer always precedes the deliveries it causes.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import struct
from collections.abc import Iterator
from typing import Any

from pika import amqp_object, frame, spec

from .channel import Channel
from .messages import Message, RefusedError
from .state import Queue, State

_SERVER_PROPERTIES = {
    "product": "RabbitMQ",
    "version": "3.10.8",
    "platform": "hopspan's fake",
    "capabilities": {
        "publisher_confirms": True,
        "basic.nack": True,
        "consumer_cancel_notify": True,
        "per_consumer_qos": True,
    },
}
_AROUND = spec.FRAME_HEADER_SIZE + spec.FRAME_END_SIZE


class Connection(asyncio.Protocol):
    """One client, from its first byte to its last."""

    def __init__(self, state: State, connections: set[Connection]) -> None:
        self.state = state
        self._connections = connections
        self._channels: dict[int, Channel] = {}
        self._buffer = bytearray()
        self._body_max = spec.FRAME_MAX_SIZE
        self._closing = False
        self._transport: asyncio.Transport

    # The socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        # asyncio does it only for sockets that name their protocol; without it an answer can take 40 ms.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._transport = transport
        with self.state.changed:
            self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        with self.state.changed:
            self._release()
            self._connections.discard(self)
            self.state.turn()

    def cut(self) -> None:
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        for raw in self._frames():
            with self.state.changed:
                self._receive(frame.decode_frame(raw)[1], raw)
                self.state.turn()

    def _frames(self) -> Iterator[bytes]:
        """Whole frames, as bytes; what is incomplete stays for the next time."""
        while len(self._buffer) >= _AROUND:
            is_greeting = self._buffer.startswith(b"AMQP")
            size = 8 if is_greeting else _AROUND + struct.unpack_from(">I", self._buffer, 3)[0]
            if size > len(self._buffer):
                return
            raw = bytes(self._buffer[:size])
            del self._buffer[:size]
            yield raw

    def send(
        self, channel: int, method: amqp_object.Method, message: Message | None = None
    ) -> None:
        if self._transport.is_closing():
            return
        frames = [frame.Method(channel, method).marshal()]
        if message is not None:
            frames += self._content(channel, message)
        self._transport.write(b"".join(frames))

    def _content(self, channel: int, message: Message) -> Iterator[bytes]:
        yield _framed(spec.FRAME_HEADER, channel, message.header)
        for at in range(0, len(message.body), self._body_max):
            yield _framed(spec.FRAME_BODY, channel, message.body[at : at + self._body_max])

    # The protocol

    def _receive(self, received: Any, raw: bytes) -> None:
        if isinstance(received, frame.ProtocolHeader):
            self.send(0, spec.Connection.Start(0, 9, _SERVER_PROPERTIES, "PLAIN", "en_US"))
        elif isinstance(received, frame.Heartbeat):
            return
        elif received.channel_number == 0:
            self._on_connection_method(received.method)
        elif not self._closing:
            self._on_channel_frame(received, raw)

    def _on_connection_method(self, method: amqp_object.Method) -> None:
        if isinstance(method, spec.Connection.StartOk):
            self.send(0, spec.Connection.Tune(2047, spec.FRAME_MAX_SIZE, heartbeat=0))
        elif isinstance(method, spec.Connection.TuneOk):
            self._body_max = (method.frame_max or spec.FRAME_MAX_SIZE) - _AROUND
        elif isinstance(method, spec.Connection.Open):
            self.send(0, spec.Connection.OpenOk())
        elif isinstance(method, spec.Connection.Close):
            self._release()
            self.send(0, spec.Connection.CloseOk())
            self._transport.close()
        elif isinstance(method, spec.Connection.CloseOk):
            self._transport.close()

    def _on_channel_frame(self, received: Any, raw: bytes) -> None:
        number, method = received.channel_number, getattr(received, "method", None)
        channel = self._channels.get(number)
        try:
            if isinstance(method, spec.Channel.Open):
                self._open(number)
            elif channel is None:
                raise RefusedError("CHANNEL_ERROR", "expected 'channel.open'")
            elif isinstance(method, spec.Channel.Close):
                self._on_close(channel)
            elif isinstance(method, spec.Channel.CloseOk):
                del self._channels[number]
            else:
                channel.receive(received, raw)
        except RefusedError as refusal:
            self._refuse(number, refusal, method)

    def _open(self, number: int) -> None:
        if number in self._channels:
            raise RefusedError("CHANNEL_ERROR", "second 'channel.open' seen")
        send = functools.partial(self.send, number)
        self._channels[number] = Channel(number, self.state, self, send)
        self.send(number, spec.Channel.OpenOk())

    def _on_close(self, channel: Channel) -> None:
        if not channel.released:  # otherwise both sides close at once, and CloseOk is still to come
            channel.release()
            del self._channels[channel.number]
        self.send(channel.number, spec.Channel.CloseOk())

    def _refuse(
        self, number: int, refusal: RefusedError, method: amqp_object.Method | None
    ) -> None:
        # Content is no method: what is refused is its publish.
        index = (method or spec.Basic.Publish).INDEX or 0
        details = (refusal.code, str(refusal), index >> 16, index & 0xFFFF)
        if refusal.closes_connection:
            self._closing = True
            self._release()
            self.send(0, spec.Connection.Close(*details))
        else:
            self._channels[number].release()
            self.send(number, spec.Channel.Close(*details))

    def _release(self) -> None:
        """Give back what this client holds: unsettled messages, consumers, exclusive queues."""
        for channel in self._channels.values():
            channel.release()
        self._channels.clear()
        for queue in [queue for queue in self.state.queues.values() if queue.owner is self]:
            self.state.delete_queue(queue)

    def holds(self, queue: Queue) -> int:
        channels = self._channels.values()
        return sum(one.entry.queue is queue for each in channels for one in each.unacked.values())


def _framed(kind: int, channel: int, payload: bytes) -> bytes:
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + bytes([spec.FRAME_END])

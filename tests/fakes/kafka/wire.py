"""A client's connection: its socket, its requests, and their answers one after the other.

As in Kafka, a request that has to wait keeps those behind it on the same connection waiting.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator

from .codec import Buffer, pack
from .groups import Answer
from .handlers import NO_ANSWER, Handlers, Later
from .protocol import APIS, Api, Error, encode, spoken
from .state import Request, State


class Connection(asyncio.Protocol):
    """One client, from its first byte to its last."""

    def __init__(self, state: State, handlers: Handlers, connections: set[Connection]) -> None:
        self._state, self._handlers, self._connections = state, handlers, connections
        self._buffer = bytearray()
        self._frames: asyncio.Queue[bytes] = asyncio.Queue()
        self._transport: asyncio.Transport
        self._task: asyncio.Task[None]

    # The socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        # asyncio does it only for sockets that name their protocol; without it an answer can take 40 ms.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._transport = transport
        with self._state.changed:
            self._connections.add(self)
        self._task = asyncio.get_running_loop().create_task(self._serve())
        self._task.add_done_callback(self._on_served)
        if self._state.stopped:  # while this one was being accepted
            self.cut()

    def connection_lost(self, exc: Exception | None) -> None:
        self._task.cancel()

    def cut(self) -> None:
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        for raw in self._whole_frames():
            self._frames.put_nowait(raw)

    def _whole_frames(self) -> Iterator[bytes]:
        """Whole frames, as bytes; what is incomplete stays for the next time."""
        while len(self._buffer) >= 4:
            end = 4 + struct.unpack_from(">i", self._buffer)[0]
            if end > len(self._buffer):
                return
            raw = bytes(self._buffer[4:end])
            del self._buffer[:end]
            yield raw

    # The requests

    async def _serve(self) -> None:
        while True:
            await self._receive(Buffer(await self._frames.get()))

    def _on_served(self, task: asyncio.Task[None]) -> None:
        """The connection is over: lost, or this end does not understand the other."""
        self._transport.abort()
        with self._state.changed:
            self._connections.discard(self)
            self._state.turn()
        if not task.cancelled():
            failure = {"message": "a request was not understood", "exception": task.exception()}
            asyncio.get_running_loop().call_exception_handler(failure)

    async def _receive(self, frame: Buffer) -> None:
        key, version = frame.number("i16"), frame.number("i16")
        correlation, client_id = frame.number("i32"), frame.text()
        api = APIS.get(key)
        if api is not None and api.name == "ApiVersions" and version not in api.versions:
            # To let a client from the future find out what to ask instead.
            answer = {"error": Error.UNSUPPORTED_VERSION, "apis": spoken()}
            self._send(correlation, encode(api, 0, answer))
            return
        if api is None or version not in api.versions:
            raise NotImplementedError(f"the fake broker has no API {key} in version {version}")
        body = api.request.read(frame, version)
        await self._answer(api, correlation, Request(api.name, version, client_id or "", body))

    async def _answer(self, api: Api, correlation: int, request: Request) -> None:
        with self._state.changed:
            self._state.log.append(request)
            self._state.turn()
        await self._until(lambda: None if request.api in self._state.held else {"go": True})
        with self._state.changed:
            answer = self._handlers.answer(request)
            self._state.turn()
        if callable(answer):
            answer = await self._until(answer)
        if answer is not NO_ANSWER:
            self._send(correlation, encode(api, request.version, answer))

    async def _until(self, later: Later) -> Answer:
        """The answer, when there is one."""
        while True:
            turned = self._state.turned
            with self._state.changed:
                answer = later()
            if answer is not None:
                return answer
            await turned.wait()

    def _send(self, correlation: int, body: bytes) -> None:
        if not self._transport.is_closing():
            payload = pack("i32", correlation) + body
            self._transport.write(pack("i32", len(payload)) + payload)

"""A small RabbitMQ in this process, for real AMQP clients to connect to over the loopback.

    with FakeRabbit() as broker:
        connection = pika.BlockingConnection(pika.URLParameters(broker.url))
        ...
        assert broker.until(lambda: broker.unacked("orders") == 0)
        assert broker.log == [("ack", 1, 1, False)]

Rules:

1. What it does, it does as RabbitMQ 3.10 does: `test_amqp.py` runs its scenarios on both.
2. What it cannot do, it refuses with 540 NOT_IMPLEMENTED: no test passes for being ignored.
3. One thread for each broker. State changes a whole frame at a time, under one lock; the hooks
   take it too.
4. Settlements are fire and forget, so a test waits with `until`. Nothing here sleeps.
5. After `close` no thread, socket or event loop is left, and a failure in here is raised.

Deliberately absent: authentication (anybody may enter), virtual hosts (all names are the same
one), TLS, heartbeats (announced as off), transactions, flow control, persistence, bindings between
exchanges, bindings that differ in their arguments only, consumer and message priorities, dropping
from the head of a full queue, detection of dead-letter cycles, `CC` and `BCC`. `x-expires` is
accepted and does nothing.

Layers: `wire` (connections, frames), `channel` (methods), `state` (exchanges, queues), `messages`.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from typing import Any, final

from .messages import Message
from .state import State
from .wire import Connection

__all__ = ["FakeRabbit", "Message"]


@final
class FakeRabbit:
    """A broker on an ephemeral port, from construction until `close`.

    Its hooks may be called from any thread.
    """

    def __init__(self) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = listener.getsockname()[1]
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}/%2F?heartbeat=0"
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(self._on_failure)
        self._stopping = asyncio.Event()
        self._state = State(self._schedule)
        self._connections: set[Connection] = set()
        self._accepting: set[asyncio.Task[Any]] = set()
        self._failures: list[dict[str, Any]] = []
        self._thread = threading.Thread(
            target=self._run, args=(listener,), name="FakeRabbit", daemon=True
        )
        self._thread.start()

    def __enter__(self) -> FakeRabbit:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop every connection and stop; raise what went wrong inside, if anything. Idempotent."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()
        if self._failures:
            failure = self._failures.pop(0)
            cause = failure.get("exception")
            raise RuntimeError(f"the fake broker failed: {failure['message']}") from cause

    # What a test can see

    @property
    def log(self) -> list[tuple[Any, ...]]:
        """Settlements as they came in on the wire, from all connections; may be cleared.

        ("ack", channel, tag, multiple), ("nack", channel, tag, multiple, requeue),
        ("reject", channel, tag, requeue), ("recover", channel, requeue).
        """
        return self._state.log

    def ready(self, queue: str) -> int:
        """How many messages wait in `queue`; KeyError when there is no such queue."""
        return len(self.messages(queue))

    def unacked(self, queue: str) -> int:
        """How many messages of `queue` clients have and did not settle."""
        with self._state.changed:
            found = self._state.queues[queue]
            return sum(connection.holds(found) for connection in self._connections)

    def consumers(self, queue: str) -> int:
        """How many consumers `queue` has."""
        with self._state.changed:
            return len(self._state.queues[queue].consumers)

    def messages(self, queue: str) -> list[Message]:
        """The messages that wait in `queue`, first to be delivered first."""
        with self._state.changed:
            return [entry.message for entry in self._state.queues[queue].ready]

    def until(self, condition: Callable[[], bool], timeout: float = 5.0) -> bool:
        """Wait until `condition`, made of these hooks, holds; False after `timeout` seconds."""
        with self._state.changed:
            return self._state.changed.wait_for(condition, timeout)

    # What a test can provoke

    def nack_publishes(self, nack: bool = True) -> None:
        """From now on refuse messages published in confirm mode; with False, take them again."""
        with self._state.changed:
            self._state.nacking = nack

    def cut_connections(self) -> None:
        """Close every socket without a word; return when the messages are back in their queues."""
        with self._state.changed:
            cut = set(self._connections)
            for connection in cut:
                self._loop.call_soon_threadsafe(connection.cut)
            self._state.changed.wait_for(lambda: not cut & self._connections)

    # The thread

    def _run(self, listener: socket.socket) -> None:
        try:
            self._loop.run_until_complete(self._serve(listener))
        finally:
            self._loop.close()

    async def _serve(self, listener: socket.socket) -> None:
        listener.setblocking(False)
        self._loop.add_reader(listener, self._accept, listener)
        await self._stopping.wait()
        self._loop.remove_reader(listener)
        listener.close()
        while self._connections or self._accepting:
            for connection in self._connections:
                connection.cut()
            await asyncio.sleep(0)

    def _accept(self, listener: socket.socket) -> None:
        # By hand: an asyncio server that is closed while it accepts leaves the socket open.
        client, _ = listener.accept()
        connect = self._loop.connect_accepted_socket(self._connect, client)
        task = self._loop.create_task(connect)
        self._accepting.add(task)
        task.add_done_callback(self._accepting.discard)

    def _connect(self) -> Connection:
        return Connection(self._state, self._connections)

    def _schedule(self, delay: float) -> None:
        self._loop.call_later(delay, self._state.turn)

    def _on_failure(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._failures.append(context)

"""pika's own channels, over a connection that takes note of what would go on the wire."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection
from pika.callback import CallbackManager
from pika.channel import Channel
from pika.spec import Basic, BasicProperties

from hopspan.adapters import pika as adapter
from hopspan.processing.delivery import Processing
from hopspan.processing.opening import begin
from hopspan.telemetry import Face
from tests.unit.support import Telemetry


class Loop:
    """An event loop that keeps what it is asked to run."""

    def __init__(self) -> None:
        self.scheduled: list[Callable[[], None]] = []

    def call_soon_threadsafe(self, callback: Callable[[], None]) -> None:
        self.scheduled.append(callback)


class Connection:
    """What a channel asks of its connection."""

    def __init__(self) -> None:
        self.callbacks = CallbackManager()
        self.params = pika.ConnectionParameters("broker", 5673)
        self.ioloop: Any = Loop()
        self.sent: list[Any] = []
        self.error: Exception | None = None
        self.publisher_confirms = self.basic_nack = True

    def _send_method(self, number: int, method: Any, content: Any = None) -> None:
        if self.error is not None:
            raise self.error
        self.sent.append((method, content))


def channel_of(connection: Connection) -> Channel:
    """An open channel of an asynchronous connection."""
    given: Any = connection
    channel = Channel(given, 1, None)
    channel._set_state(Channel.OPEN)
    return channel


@pytest.fixture
def connection() -> Connection:
    return Connection()


@pytest.fixture
def channel(connection: Connection) -> Channel:
    return channel_of(connection)


class Blocking(NamedTuple):
    """A blocking channel, and the one inside it."""

    channel: BlockingChannel
    inner: Channel


@pytest.fixture
def blocking(connection: Connection) -> Blocking:
    outer = BlockingConnection.__new__(BlockingConnection)
    outer._impl = connection  # type: ignore[assignment]
    inner = channel_of(connection)
    channel = BlockingChannel(inner, outer)
    channel._flush_output = lambda *waiters: None  # type: ignore[method-assign]
    return Blocking(channel, inner)


def deliver(tag: int = 1, *, redelivered: bool = False, consumer_tag: str = "c1") -> Basic.Deliver:
    return Basic.Deliver(consumer_tag, tag, redelivered, "orders", "created")


def got(tag: int = 1) -> Basic.GetOk:
    return Basic.GetOk(tag, False, "orders", "created", 0)


def properties(**fields: Any) -> BasicProperties:
    return BasicProperties(**fields)


Handle = Callable[..., Processing]


@pytest.fixture
def handling(telemetry: Telemetry) -> Handle:
    """Begin to handle what pika handed out."""

    def handle(native: Any, **settings: Any) -> Processing:
        given: Any = adapter
        return begin(given, [native], pushed=True, face=Face({**telemetry.settings, **settings}))

    return handle

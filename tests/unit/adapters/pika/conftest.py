"""pika's own channels, over a connection that takes note of what would go on the wire."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection
from pika.callback import CallbackManager
from pika.channel import Channel
from pika.spec import Basic, BasicProperties

import hopspan
from hopspan.delivery import Deferred, Delivery
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
        self.on_its_way: Callable[[], object] = lambda: None
        self.publisher_confirms = self.basic_nack = True

    @property
    def methods(self) -> list[Any]:
        """What was sent, without content."""
        return [method for method, _ in self.sent]

    def _send_method(self, number: int, method: Any, content: Any = None) -> None:
        self.on_its_way()
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


def fields(delivery: Any) -> tuple[Any, ...]:
    """All that a delivery has of what pika handed out, and of the call that asked for it."""
    return (
        delivery.channel,
        delivery.method,
        delivery.properties,
        delivery.body,
        delivery.queue,
        delivery.auto_ack,
    )


Begin = Callable[..., Delivery]


@pytest.fixture
def begin(telemetry: Telemetry) -> Iterator[Begin]:
    """Begin to handle what pika handed out; the handling goes on until the end of the test."""
    begun: list[Deferred] = []

    def handle(channel: Any, tag: int = 1, **settings: Any) -> Delivery:
        message = deliver(tag), properties(message_id=f"m{tag}"), b"body"
        with hopspan.process(message, via=channel, **{**telemetry.settings, **settings}) as going:
            begun.append(going.defer())
        return going

    yield handle
    for deferred in begun:
        if not deferred.delivery.is_over:
            end(deferred.delivery)


def end(delivery: Delivery) -> None:
    """Let a handling that goes on end well."""
    with delivery.defer():
        pass

"""A connection that is lost while a message is settled ends consuming as it does without hopspan.

pika goes on to hand out what it has prefetched as long as handlers return: on a channel where
nothing can be settled any more, so that each of those messages would be handled twice.
"""

from __future__ import annotations

import contextlib
import select
from collections.abc import Callable, Iterator
from typing import Any

import pika
import pytest
from pika import frame
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPConnectionError

import hopspan
from tests.fakes.amqp import FakeRabbit

DEADLINE = 5.0
Handler = Callable[[Any, Any, Any, bytes], None]


def acking_by_hand(handle: Handler) -> Handler:
    def on_message(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        handle(channel, method, properties, body)
        channel.basic_ack(method.delivery_tag)

    return on_message


def decorated(handle: Handler) -> Handler:
    return hopspan.consumer(policy=hopspan.requeue_once)(handle)


@pytest.fixture
def broker() -> Iterator[FakeRabbit]:
    with FakeRabbit() as broker:
        yield broker


def open_channel(broker: FakeRabbit) -> BlockingChannel:
    return pika.BlockingConnection(pika.URLParameters(broker.url)).channel()


def lose_connection(broker: FakeRabbit, channel: Any) -> None:
    """Cut it, and wait until the socket knows; pika finds out when it next uses it."""
    broker.cut_connections()
    sock = channel.connection._impl._transport._sock
    with contextlib.suppress(OSError):  # what is sent now is answered by a reset
        sock.send(frame.Heartbeat().marshal())
    news = select.poll()
    news.register(sock, 0)  # errors are told in any case
    assert news.poll(DEADLINE * 1000)


def consume_until_lost(broker: FakeRabbit, channel: BlockingChannel, settling: Any) -> Any:
    """Handle the first of ten messages, lose the connection; return the error, and what ran."""
    ran: list[bytes] = []

    def handle(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        ran.append(body)
        if len(ran) == 1:
            lose_connection(broker, channel)

    channel.queue_declare("orders", durable=True)
    for number in range(10):
        channel.basic_publish("", "orders", b"%d" % number)
    assert broker.until(lambda: broker.ready("orders") == 10)
    channel.basic_consume("orders", settling(handle))
    with pytest.raises(AMQPConnectionError) as lost:
        channel.start_consuming()
    return lost.value, ran


@pytest.mark.parametrize("wrapped", [False, True])
def test_nothing_is_handled_any_more_and_the_client_says_why(
    broker: FakeRabbit, wrapped: bool
) -> None:
    plain, ran_plain = consume_until_lost(broker, open_channel(broker), acking_by_hand)
    with pika.BlockingConnection(pika.URLParameters(broker.url)) as connection:
        connection.channel().queue_delete("orders")
    channel = hopspan.wrap(open_channel(broker)) if wrapped else open_channel(broker)
    error, ran = consume_until_lost(broker, channel, decorated)
    assert ran == ran_plain == [b"0"]
    assert type(error) is type(plain)
    assert broker.ready("orders") == 10


def test_a_failure_that_could_not_be_settled_is_what_is_raised(broker: FakeRabbit) -> None:
    channel = open_channel(broker)
    channel.queue_declare("orders", durable=True)
    channel.basic_publish("", "orders", b"bad")

    def handle(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        lose_connection(broker, channel)
        raise ValueError(body)

    channel.basic_consume("orders", decorated(handle))
    with pytest.raises(ValueError, match="bad"):
        channel.start_consuming()


def test_a_channel_that_the_handler_itself_closed_is_no_error(broker: FakeRabbit) -> None:
    channel = open_channel(broker)
    channel.queue_declare("orders", durable=True)
    channel.basic_publish("", "orders", b"last")

    def handle(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        channel.close()

    channel.basic_consume("orders", decorated(handle))
    channel.start_consuming()
    assert broker.until(lambda: broker.ready("orders") == 1)
    channel.connection.close()

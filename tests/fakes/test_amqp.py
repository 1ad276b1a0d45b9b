"""The fake RabbitMQ is faithful: scenarios for pika, run on it and on a real one, if there is one.

    TEST_RABBITMQ_URL=amqp://guest:guest@127.0.0.1:5672/%2F pytest tests/fakes

The real one should be a 3.10: newer ones differ where a scenario's name says "in 3.10".
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pika
import pytest
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection
from pika.adapters.select_connection import SelectConnection
from pika.exceptions import (
    AMQPConnectionError,
    AMQPError,
    ChannelClosedByBroker,
    ConnectionClosedByBroker,
    NackError,
    UnroutableError,
)

from tests.fakes.amqp import FakeRabbit

REAL = os.environ.get("TEST_RABBITMQ_URL", "")
BROKERS = [
    "fake",
    pytest.param("real", marks=pytest.mark.skipif(not REAL, reason="TEST_RABBITMQ_URL is not set")),
]

QUORUM = {"x-queue-type": "quorum"}


class Site:
    """A broker, connections to it, and names nobody else uses; `close` leaves nothing behind."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._suffix = uuid.uuid4().hex[:8]
        self._names: set[str] = set()
        self._connections: list[BlockingConnection] = []

    def name(self, stem: str) -> str:
        self._names.add(f"{stem}-{self._suffix}")
        return f"{stem}-{self._suffix}"

    def connect(self) -> BlockingConnection:
        self._connections.append(pika.BlockingConnection(pika.URLParameters(self.url)))
        return self._connections[-1]

    def channel(self) -> BlockingChannel:
        return self.connect().channel()

    def queue(self, stem: str = "queue", **arguments: Any) -> str:
        """A classic queue; `x_queue_type="quorum"` makes a quorum queue. Others in the same way."""
        given = {name.replace("_", "-"): value for name, value in arguments.items()}
        durable = given.get("x-queue-type") == "quorum"
        return (
            self.channel()
            .queue_declare(self.name(stem), durable=durable, arguments=given)
            .method.queue
        )

    def counts(self, queue: str) -> tuple[int, int]:
        """Ready messages and consumers."""
        method = self.channel().queue_declare(queue, passive=True).method
        return method.message_count, method.consumer_count

    def close(self) -> None:
        for connection in self._connections:
            with contextlib.suppress(AMQPError):  # some are closed, some cut
                connection.close()
        self._connections.clear()
        with pika.BlockingConnection(pika.URLParameters(self.url)) as connection:
            for name in self._names:
                connection.channel().queue_delete(name)
                connection.channel().exchange_delete(name)


@pytest.fixture
def fake() -> Iterator[FakeRabbit]:
    with FakeRabbit() as broker:
        yield broker


@pytest.fixture(params=BROKERS)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    url = REAL if request.param == "real" else request.getfixturevalue("fake").url
    site = Site(url)
    yield site
    site.close()


@pytest.fixture
def site_like_3(site: Site) -> Site:
    """A site whose broker is a RabbitMQ 3, as the fake is one."""
    release = site.connect()._impl.server_properties["version"]
    if not release.startswith("3."):
        pytest.skip(f"RabbitMQ {release} does otherwise, and the fake is like 3.10")
    return site


@pytest.fixture
def local(fake: FakeRabbit) -> Iterator[Site]:
    """A site on the fake only, where a test also looks behind the scenes."""
    site = Site(fake.url)
    yield site
    site.close()


def publish(channel: BlockingChannel, queue: str, *bodies: bytes, **properties: Any) -> None:
    for body in bodies:
        channel.basic_publish("", queue, body, pika.BasicProperties(**properties))


def take(channel: BlockingChannel, queue: str, *, auto_ack: bool = False) -> tuple[Any, Any, bytes]:
    """Get a message that is on its way, however long (5 s) it takes."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        method, properties, body = channel.basic_get(queue, auto_ack=auto_ack)
        if method is not None:
            return method, properties, body
        channel.connection.process_data_events(0.005)
    raise AssertionError(f"nothing came to {queue}")


def bodies(channel: BlockingChannel, queue: str, count: int) -> list[bytes]:
    return [take(channel, queue, auto_ack=True)[2] for _ in range(count)]


def eventually(channel: BlockingChannel, condition: Callable[[], bool]) -> bool:
    """Let the connection work until the condition holds."""
    deadline = time.monotonic() + 5
    while not condition() and time.monotonic() < deadline:
        channel.connection.process_data_events(0.005)
    return condition()


def refusal(act: Callable[[], object], channel: BlockingChannel) -> tuple[int, str]:
    """What the broker says when it closes the channel because of this."""
    with pytest.raises(ChannelClosedByBroker) as caught:  # noqa: PT012
        act()
        channel.queue_declare("", exclusive=True)  # acks and publishes wait for no answer
    return caught.value.reply_code, caught.value.reply_text


def collect(channel: BlockingChannel, queue: str, **consume: Any) -> list[tuple[Any, Any, bytes]]:
    """Consume into a list."""
    got: list[tuple[Any, Any, bytes]] = []
    channel.basic_consume(queue, lambda _, *message: got.append(message), **consume)
    return got


# Connections and channels


@pytest.mark.parametrize("adapter", [SelectConnection, AsyncioConnection])
def test_asynchronous_connections_publish_and_consume(site: Site, adapter: Any) -> None:
    queue = site.queue()
    got: list[bytes] = []

    def on_open(connection: Any) -> None:
        connection.channel(on_open_callback=on_channel)

    def on_channel(channel: Any) -> None:
        channel.confirm_delivery(lambda frame: None, callback=lambda frame: on_confirming(channel))

    def on_confirming(channel: Any) -> None:
        channel.basic_consume(queue, functools.partial(on_message, channel))
        channel.basic_publish("", queue, b"hello")

    def on_message(channel: Any, _: Any, method: Any, properties: Any, body: bytes) -> None:
        got.append(body)
        channel.basic_ack(method.delivery_tag)
        channel.connection.close()

    loop = asyncio.new_event_loop() if adapter is AsyncioConnection else None
    custom = {"custom_ioloop": loop} if loop else {}
    connection = adapter(
        pika.URLParameters(site.url),
        on_open_callback=on_open,
        on_close_callback=lambda connection, reason: connection.ioloop.stop(),
        **custom,
    )
    run = loop.run_forever if loop else connection.ioloop.start
    run()
    connection.ioloop.close()
    assert got == [b"hello"]
    assert site.counts(queue) == (0, 0)


def test_channels_number_their_deliveries_each_for_itself(site: Site) -> None:
    queue, connection = site.queue(), site.connect()
    publish(connection.channel(), queue, b"1", b"2")
    tags = [take(connection.channel(), queue)[0].delivery_tag for _ in range(2)]
    assert tags == [1, 1]


def test_both_sides_may_close_a_channel_at_once(site: Site) -> None:
    connection = site.connect()
    channel = connection.channel()
    channel.basic_ack(9)
    with pytest.raises(ChannelClosedByBroker):
        channel.close()
    assert connection.channel().queue_declare("", exclusive=True)


def test_a_channel_error_leaves_the_other_channels_alone(site: Site) -> None:
    connection = site.connect()
    broken, sound = connection.channel(), connection.channel()
    refusal(lambda: broken.queue_declare("missing", passive=True), broken)
    assert (broken.is_open, sound.is_open) == (False, True)
    again = connection.channel()
    assert again.queue_declare("", exclusive=True).method.queue.startswith("amq.gen-")


# Declaring


def test_a_passive_declaration_counts_ready_messages_and_consumers(site: Site) -> None:
    queue, channel = site.queue(), site.channel()
    publish(channel, queue, b"1", b"2", b"3")
    assert eventually(channel, lambda: site.counts(queue) == (3, 0))
    take(channel, queue)
    assert site.counts(queue) == (2, 0)


@pytest.mark.parametrize(
    "use",
    [
        lambda channel: channel.queue_declare("missing", passive=True),
        lambda channel: channel.basic_consume("missing", print),
        lambda channel: channel.basic_get("missing"),
        lambda channel: channel.queue_purge("missing"),
        lambda channel: channel.queue_bind("missing", "amq.direct"),
    ],
)
def test_a_missing_queue_is_404(site: Site, use: Callable[[BlockingChannel], object]) -> None:
    channel = site.channel()
    assert refusal(lambda: use(channel), channel) == (
        404,
        "NOT_FOUND - no queue 'missing' in vhost '/'",
    )


@pytest.mark.parametrize(
    "use",
    [
        lambda channel, queue: channel.exchange_declare("missing", passive=True),
        lambda channel, queue: channel.queue_bind(queue, "missing"),
        lambda channel, queue: channel.basic_publish("missing", "key", b""),
    ],
)
def test_a_missing_exchange_is_404(
    site: Site, use: Callable[[BlockingChannel, str], object]
) -> None:
    queue, channel = site.queue(), site.channel()
    assert refusal(lambda: use(channel, queue), channel) == (
        404,
        "NOT_FOUND - no exchange 'missing' in vhost '/'",
    )


def test_deleting_what_is_not_there_is_no_error(site: Site) -> None:
    channel = site.channel()
    assert channel.queue_delete("missing").method.message_count == 0
    channel.exchange_delete("missing")
    channel.queue_unbind("missing", exchange="missing", routing_key="key")


def test_the_server_names_queues_and_the_channel_remembers_the_last(site: Site) -> None:
    channel = site.channel()
    queue = channel.queue_declare("", exclusive=True).method.queue
    assert queue.startswith("amq.gen-")
    channel.queue_bind("", "amq.fanout")
    channel.basic_publish("amq.fanout", "", b"x")
    assert take(channel, queue)[2] == b"x"
    other = site.channel()
    answer = (404, "NOT_FOUND - no previously declared queue")
    assert refusal(lambda: other.queue_bind("", "amq.fanout"), other) == answer


def test_an_exclusive_queue_is_its_connections_own_and_goes_with_it(site: Site) -> None:
    owner, other = site.connect(), site.channel()
    queue = owner.channel().queue_declare(site.name("mine"), exclusive=True).method.queue
    assert refusal(lambda: other.basic_get(queue), other)[0] == 405
    owner.close()
    other = site.channel()
    assert refusal(lambda: other.basic_get(queue), other)[0] == 404


def test_an_auto_delete_queue_goes_with_its_last_consumer(site: Site) -> None:
    channel = site.channel()
    queue = channel.queue_declare(site.name("auto"), auto_delete=True).method.queue
    tags = [channel.basic_consume(queue, print) for _ in range(2)]
    channel.basic_cancel(tags[0])
    assert site.counts(queue) == (0, 1)
    channel.basic_cancel(tags[1])
    assert refusal(lambda: channel.basic_get(queue), channel)[0] == 404


@pytest.mark.parametrize(
    ("again", "argument"),
    [
        ({"durable": True}, "durable"),
        ({"auto_delete": True}, "auto_delete"),
        ({"arguments": {"x-dead-letter-exchange": "elsewhere"}}, "x-dead-letter-exchange"),
        ({"arguments": QUORUM}, "x-queue-type"),
    ],
)
def test_a_queue_is_declared_again_only_as_it_is(
    site: Site, again: dict[str, Any], argument: str
) -> None:
    queue, channel = site.queue(), site.channel()
    channel.queue_declare(queue, arguments={"x-queue-type": "classic", "anything": "else"})
    code, text = refusal(lambda: channel.queue_declare(queue, **again), channel)
    assert code == 406
    assert text.startswith(
        f"PRECONDITION_FAILED - inequivalent arg '{argument}' for queue '{queue}' in vhost '/': "
    )


def test_an_exchange_is_declared_again_only_as_it_is(site: Site) -> None:
    channel, exchange = site.channel(), site.name("exchange")
    channel.exchange_declare(exchange, "direct")
    channel.exchange_declare(exchange, "direct")
    code, text = refusal(lambda: channel.exchange_declare(exchange, "fanout"), channel)
    assert code == 406
    assert text == (
        f"PRECONDITION_FAILED - inequivalent arg 'type' for exchange '{exchange}' in vhost '/': "
        "received 'fanout' but current is 'direct'"
    )


@pytest.mark.parametrize(
    ("declared", "complaint"),
    [
        ({"arguments": QUORUM}, "invalid property 'non-durable'"),
        (
            {"arguments": QUORUM, "durable": True, "exclusive": True},
            "invalid property 'exclusive-owner'",
        ),
        (
            {"arguments": QUORUM, "durable": True, "auto_delete": True},
            "invalid property 'auto-delete'",
        ),
        ({"arguments": {"x-queue-type": "odd"}}, "invalid arg 'x-queue-type'"),
        ({"arguments": {"x-message-ttl": "odd"}}, "invalid arg 'x-message-ttl'"),
        ({"arguments": {"x-delivery-limit": 3}}, "invalid arg 'x-delivery-limit'"),
        (
            {"arguments": {"x-dead-letter-routing-key": "key"}},
            "invalid arg 'x-dead-letter-routing-key'",
        ),
    ],
)
def test_an_impossible_queue_is_406(site: Site, declared: dict[str, Any], complaint: str) -> None:
    channel, queue = site.channel(), site.name("impossible")
    code, text = refusal(lambda: channel.queue_declare(queue, **declared), channel)
    assert (code, text.partition(" for queue ")[0]) == (406, f"PRECONDITION_FAILED - {complaint}")


def test_reserved_names_are_refused(site: Site) -> None:
    channel = site.channel()
    answer = (403, "ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq.*'")
    assert refusal(lambda: channel.queue_declare("amq.mine"), channel) == answer
    queue, channel = site.queue(), site.channel()
    answer = (403, "ACCESS_REFUSED - operation not permitted on the default exchange")
    assert refusal(lambda: channel.queue_bind(queue, ""), channel) == answer


def test_a_queue_or_exchange_in_use_can_be_kept(site: Site) -> None:
    queue, exchange, channel = site.queue(), site.name("exchange"), site.channel()
    channel.exchange_declare(exchange)
    channel.queue_bind(queue, exchange, "key")
    code, text = refusal(lambda: channel.exchange_delete(exchange, if_unused=True), channel)
    assert (code, text) == (406, f"PRECONDITION_FAILED - exchange '{exchange}' in vhost '/' in use")
    channel = site.channel()
    publish(channel, queue, b"x")
    code, text = refusal(lambda: channel.queue_delete(queue, if_empty=True), channel)
    assert (code, text) == (406, f"PRECONDITION_FAILED - queue '{queue}' in vhost '/' not empty")
    channel = site.channel()
    channel.basic_consume(queue, print)
    code, text = refusal(lambda: channel.queue_delete(queue, if_unused=True), channel)
    assert (code, text) == (406, f"PRECONDITION_FAILED - queue '{queue}' in vhost '/' in use")


def test_an_auto_delete_exchange_goes_with_its_last_binding(site: Site) -> None:
    queue, exchange, channel = site.queue(), site.name("exchange"), site.channel()
    channel.exchange_declare(exchange, "fanout", auto_delete=True)
    channel.queue_bind(queue, exchange)
    channel.queue_unbind(queue, exchange)
    assert refusal(lambda: channel.exchange_declare(exchange, passive=True), channel)[0] == 404


def test_purging_and_deleting_say_how_many_messages_went(site: Site) -> None:
    queue, channel = site.queue(), site.channel()
    channel.confirm_delivery()
    publish(channel, queue, b"1", b"2", b"3")
    take(channel, queue)
    assert channel.queue_purge(queue).method.message_count == 2
    publish(channel, queue, b"4")
    assert channel.queue_delete(queue).method.message_count == 1


# Routing


@pytest.mark.parametrize(
    ("kind", "binding", "routed", "not_routed"),
    [
        ("direct", "a.b", ["a.b"], ["a", "a.b.c", "a.*"]),
        ("fanout", "a.b", ["a.b", "", "else"], []),
        ("topic", "a.*", ["a.b", "a."], ["a", "a.b.c", "b.a"]),
        ("topic", "a.#", ["a", "a.b", "a.b.c"], ["b", "aa", ""]),
        ("topic", "#.z.*", ["z.a", "a.z.b", "a.b.z.c", "z.z.z"], ["z", "a.z", "a.z.b.c"]),
        ("topic", "#", ["", "a", "a.b"], []),
        ("topic", "a.b", ["a.b"], ["a.c", "a"]),
    ],
)
def test_exchanges_route_by_their_kind(
    site: Site, kind: str, binding: str, routed: list[str], not_routed: list[str]
) -> None:
    queue, exchange, channel = site.queue(), site.name("exchange"), site.channel()
    channel.exchange_declare(exchange, kind)
    channel.queue_bind(queue, exchange, binding)
    channel.confirm_delivery()
    for key in routed:
        channel.basic_publish(exchange, key, b"", mandatory=True)
    for key in not_routed:
        with pytest.raises(UnroutableError):
            channel.basic_publish(exchange, key, b"", mandatory=True)
    assert [take(channel, queue)[0].routing_key for _ in routed] == routed


def test_a_queue_gets_a_message_once_however_often_it_is_bound(site: Site) -> None:
    queue, exchange, channel = site.queue(), site.name("exchange"), site.channel()
    channel.exchange_declare(exchange, "topic")
    for key in ("a.#", "#.b", "a.#"):
        channel.queue_bind(queue, exchange, key)
    channel.confirm_delivery()
    channel.basic_publish(exchange, "a.b", b"x")
    assert site.counts(queue)[0] == 1
    channel.queue_unbind(queue, exchange, "a.#")
    channel.queue_unbind(queue, exchange, "#.b")
    with pytest.raises(UnroutableError):
        channel.basic_publish(exchange, "a.b", b"x", mandatory=True)


@pytest.mark.parametrize("body", [b"", b"x", b"\x00\xce" * 200_000])
def test_messages_arrive_as_they_were_sent(site: Site, body: bytes) -> None:
    queue, channel = site.queue(), site.channel()
    headers = {
        "traceparent": "00-1-2-03",
        "none": None,
        "yes": True,
        "table": {"list": [1, "two", b"\xff"]},
    }
    sent = pika.BasicProperties(
        headers=headers, message_id="m", content_type="t", delivery_mode=2, priority=1
    )
    channel.basic_publish("", queue, body, sent)
    method, properties, received = take(channel, queue)
    assert (method.exchange, method.routing_key, method.redelivered) == ("", queue, False)
    assert (properties, received) == (sent, body)


def test_absent_headers_stay_absent(site: Site) -> None:
    queue, channel = site.queue(), site.channel()
    publish(channel, queue, b"")
    assert take(channel, queue)[1].headers is None


# Consuming


def test_prefetch_is_for_each_consumer_and_for_those_to_come(site: Site) -> None:
    queue, channel = site.queue(), site.channel()
    publish(channel, queue, *[b"x"] * 8)
    channel.basic_qos(prefetch_count=2)
    collect(channel, queue)
    got = collect(channel, queue)
    channel.basic_qos(prefetch_count=5)
    assert eventually(channel, lambda: site.counts(queue) == (4, 2) and len(got) == 2)
    channel.basic_ack(got[0][0].delivery_tag)
    assert eventually(channel, lambda: site.counts(queue) == (3, 2) and len(got) == 3)


def test_global_prefetch_is_for_all_consumers_of_a_channel(site: Site) -> None:
    queue, channel = site.queue(), site.channel()
    publish(channel, queue, *[b"x"] * 8)
    channel.basic_qos(prefetch_count=3, global_qos=True)
    take(channel, queue)  # does not count
    collect(channel, queue)
    collect(channel, queue)
    assert eventually(channel, lambda: site.counts(queue) == (4, 2))


def test_without_acks_prefetch_does_not_matter_and_nothing_comes_back(site: Site) -> None:
    queue, channel = site.queue(), site.channel()
    publish(channel, queue, b"1", b"2", b"3")
    channel.basic_qos(prefetch_count=1)
    got = collect(channel, queue, auto_ack=True)
    assert eventually(channel, lambda: len(got) == 3)
    channel.close()
    assert site.counts(queue) == (0, 0)


def test_consumers_take_turns(site: Site) -> None:
    queue, channel = site.queue(), site.channel()
    first, second = collect(channel, queue), collect(channel, queue)
    publish(channel, queue, b"1", b"2", b"3", b"4")
    assert eventually(channel, lambda: len(first) + len(second) == 4)
    assert {tuple(got[2] for got in each) for each in (first, second)} == {
        (b"1", b"3"),
        (b"2", b"4"),
    }


def test_a_delivery_names_its_consumer_and_where_it_came_from(site: Site) -> None:
    queue, channel = site.queue(), site.channel()
    channel.queue_bind(queue, "amq.topic", queue)
    got = collect(channel, queue, consumer_tag="mine")
    channel.basic_publish("amq.topic", queue, b"x")
    assert eventually(channel, lambda: len(got) == 1)
    method = got[0][0]
    assert (method.consumer_tag, method.delivery_tag, method.redelivered) == ("mine", 1, False)
    assert (method.exchange, method.routing_key) == ("amq.topic", queue)


def test_the_generator_consumes_too(site: Site) -> None:
    queue, channel = site.queue(), site.channel()
    publish(channel, queue, b"1", b"2")
    got = []
    for method, _, body in channel.consume(queue, inactivity_timeout=5):
        got.append(body)
        channel.basic_ack(method.delivery_tag)
        if len(got) == 2:
            break
    assert (got, channel.cancel()) == ([b"1", b"2"], 0)
    assert site.counts(queue) == (0, 0)


def test_a_cancelled_consumer_keeps_what_it_has(site: Site) -> None:
    queue, channel = site.queue(), site.channel()
    publish(channel, queue, b"1")
    got = collect(channel, queue, consumer_tag="mine")
    assert eventually(channel, lambda: len(got) == 1)
    channel.basic_cancel("mine")
    assert site.counts(queue) == (0, 0)
    channel.basic_ack(got[0][0].delivery_tag)
    channel.close()
    assert site.counts(queue) == (0, 0)


def test_deleting_a_queue_cancels_its_consumers(site: Site) -> None:
    queue, channel = site.queue(), site.channel()
    publish(channel, queue, b"1")
    got, cancelled = collect(channel, queue, consumer_tag="mine"), []
    channel.add_on_cancel_callback(lambda frame: cancelled.append(frame.method.consumer_tag))
    assert eventually(channel, lambda: len(got) == 1)
    site.channel().queue_delete(queue)
    assert eventually(channel, lambda: cancelled == ["mine"])
    channel.basic_nack(got[0][0].delivery_tag)  # of a message that is no more: nothing happens
    assert channel.queue_declare("", exclusive=True)


def test_exclusive_consumers_are_alone(site: Site) -> None:
    queue, channel = site.queue(), site.channel()
    answer = (403, f"ACCESS_REFUSED - queue '{queue}' in vhost '/' in exclusive use")
    channel.basic_consume(queue, print)
    other = site.channel()
    assert refusal(lambda: other.basic_consume(queue, print, exclusive=True), other) == answer
    channel.close()
    channel, other = site.channel(), site.channel()
    channel.basic_consume(queue, print, exclusive=True)
    assert refusal(lambda: other.basic_consume(queue, print), other) == answer


def test_getting_counts_what_is_left_and_says_when_nothing_is(site: Site) -> None:
    queue, channel = site.queue(), site.channel()
    channel.confirm_delivery()
    assert channel.basic_get(queue) == (None, None, None)
    publish(channel, queue, b"1", b"2")
    assert take(channel, queue)[0].message_count == 1
    assert take(channel, queue, auto_ack=True)[0].message_count == 0
    channel.close()
    assert site.counts(queue) == (1, 0)


# Settling


@pytest.mark.parametrize(
    ("ack", "left"),
    [
        ({"delivery_tag": 2}, [b"1", b"3", b"4"]),
        ({"delivery_tag": 3, "multiple": True}, [b"4"]),
        ({"delivery_tag": 0, "multiple": True}, []),
    ],
)
def test_an_ack_is_for_one_or_all_up_to_one_or_all(
    site: Site, ack: dict[str, Any], left: list[bytes]
) -> None:
    queue, channel = site.queue(), site.channel()
    publish(channel, queue, b"1", b"2", b"3", b"4")
    for _ in range(4):
        take(channel, queue)
    channel.basic_ack(**ack)
    channel.close()
    channel = site.channel()
    assert bodies(channel, queue, len(left)) == left
    assert site.counts(queue) == (0, 0)


@pytest.mark.parametrize(
    ("settle", "tag"),
    [
        (lambda channel: channel.basic_ack(9), 9),
        (lambda channel: channel.basic_ack(0), 0),
        (lambda channel: channel.basic_ack(9, multiple=True), 9),
        (lambda channel: channel.basic_nack(9), 9),
        (lambda channel: channel.basic_reject(9), 9),
        (lambda channel: (channel.basic_ack(1), channel.basic_ack(1)), 1),
        (lambda channel: (channel.basic_ack(2, multiple=True), channel.basic_ack(1)), 1),
        (lambda channel: (channel.basic_ack(1), channel.basic_ack(1, multiple=True)), 1),
        (lambda channel: (channel.basic_ack(0, multiple=True), channel.basic_reject(2)), 2),
    ],
)
def test_an_unknown_delivery_tag_closes_the_channel(
    site: Site, settle: Callable[[BlockingChannel], object], tag: int
) -> None:
    queue, channel = site.queue(), site.channel()
    publish(channel, queue, b"1", b"2", b"3")
    for _ in range(3):
        take(channel, queue)
    answer = (406, f"PRECONDITION_FAILED - unknown delivery tag {tag}")
    assert refusal(lambda: settle(channel), channel) == answer


def test_acking_everything_when_there_is_nothing_is_fine(site: Site) -> None:
    channel = site.channel()
    channel.basic_ack(0, multiple=True)
    channel.basic_nack(0, multiple=True)
    assert channel.queue_declare("", exclusive=True)


@pytest.mark.parametrize("requeue", [BlockingChannel.basic_nack, BlockingChannel.basic_reject])
def test_a_requeued_message_comes_again_redelivered(
    site: Site, requeue: Callable[..., None]
) -> None:
    queue, channel = site.queue(), site.channel()
    publish(channel, queue, b"x")
    got = collect(channel, queue)
    assert eventually(channel, lambda: len(got) == 1)
    requeue(channel, got[0][0].delivery_tag, requeue=True)
    assert eventually(channel, lambda: len(got) == 2)
    assert [(method.delivery_tag, method.redelivered) for method, _, _ in got] == [
        (1, False),
        (2, True),
    ]


def test_a_classic_queue_restores_the_order(site: Site) -> None:
    queue, channel = site.queue(), site.channel()
    publish(channel, queue, b"1", b"2", b"3", b"4", b"5")
    tags = [take(channel, queue)[0].delivery_tag for _ in range(4)]
    for index in (3, 1, 0, 2):
        channel.basic_nack(tags[index])
    assert eventually(channel, lambda: site.counts(queue)[0] == 5)
    assert bodies(channel, queue, 5) == [b"1", b"2", b"3", b"4", b"5"]


@pytest.mark.parametrize("leave", ["channel", "connection"])
def test_what_a_client_had_comes_back_first_and_redelivered_seen_or_not(
    site: Site, leave: str
) -> None:
    queue, channel = site.queue(), site.channel()
    publish(channel, queue, b"1", b"2", b"3", b"4")
    channel.basic_qos(prefetch_count=2)
    got = collect(channel, queue)
    assert eventually(site.channel(), lambda: site.counts(queue) == (2, 1))
    (channel if leave == "channel" else channel.connection).close()
    channel = site.channel()
    assert eventually(channel, lambda: site.counts(queue)[0] == 4)
    came = [take(channel, queue) for _ in range(4)]
    expected = [(b"1", True), (b"2", True), (b"3", False), (b"4", False)]
    assert [(body, method.redelivered) for method, _, body in came] == expected
    assert got == []  # pika had them, and never showed them


def test_recovery_brings_back_everything(site: Site) -> None:
    queue, channel = site.queue(), site.channel()
    publish(channel, queue, b"1", b"2")
    for _ in range(2):
        take(channel, queue)
    channel.basic_recover(requeue=True)
    came = [take(channel, queue) for _ in range(2)]
    seen = [(body, method.delivery_tag, method.redelivered) for method, _, body in came]
    assert seen == [(b"1", 3, True), (b"2", 4, True)]


def test_recovery_without_requeueing_is_not_implemented_there_either(site: Site) -> None:
    channel = site.channel()
    with pytest.raises(ConnectionClosedByBroker) as caught:
        channel.basic_recover(requeue=False)
    assert (caught.value.reply_code, caught.value.reply_text) == (
        540,
        "NOT_IMPLEMENTED - requeue=false",
    )


# Quorum queues


def test_a_quorum_queue_counts_deliveries_from_zero_in_3_10(site_like_3: Site) -> None:
    site = site_like_3
    queue, channel = site.queue(x_queue_type="quorum"), site.channel()
    publish(channel, queue, b"x", headers={"mine": 1, "x-delivery-count": 77})
    seen = []
    for leave in (BlockingChannel.basic_nack, BlockingChannel.basic_reject, None):
        method, properties, _ = take(channel, queue)
        seen.append((method.redelivered, properties.headers))
        if leave:
            leave(channel, method.delivery_tag, requeue=True)
    channel.close()
    method, properties, _ = take(site.channel(), queue)
    seen.append((method.redelivered, properties.headers))
    assert seen == [(count > 0, {"mine": 1, "x-delivery-count": count}) for count in range(4)]


@pytest.mark.parametrize(
    ("limit", "close", "order"),
    [
        ({}, False, [b"5", b"4", b"2", b"1", b"3"]),
        ({}, True, [b"1", b"2", b"3", b"4", b"5"]),
        ({"x_delivery_limit": 9}, False, [b"4", b"2", b"1", b"3", b"5"]),
        ({"x_delivery_limit": 9}, True, [b"1", b"2", b"3", b"4", b"5"]),
    ],
)
def test_a_quorum_queue_requeues_to_its_end_unless_it_has_a_limit_or_the_client_left(
    site_like_3: Site, limit: dict[str, Any], close: bool, order: list[bytes]
) -> None:
    site = site_like_3
    queue, channel = site.queue(x_queue_type="quorum", **limit), site.channel()
    publish(channel, queue, b"1", b"2", b"3", b"4", b"5")
    tags = [take(channel, queue)[0].delivery_tag for _ in range(4)]
    if close:
        channel.close()
    else:
        for index in (3, 1, 0, 2):
            channel.basic_nack(tags[index])
    assert eventually(site.channel(), lambda: site.counts(queue)[0] == 5)
    assert bodies(site.channel(), queue, 5) == order


def test_past_its_delivery_limit_a_message_is_dead(site: Site) -> None:
    dead = site.queue("dead")
    dead_letter = {"x_dead_letter_exchange": "", "x_dead_letter_routing_key": dead}
    queue, channel = (
        site.queue(x_queue_type="quorum", x_delivery_limit=2, **dead_letter),
        site.channel(),
    )
    publish(channel, queue, b"x")
    for _ in range(3):
        channel.basic_nack(take(channel, queue)[0].delivery_tag)
    method, properties, body = take(channel, dead)
    assert (method.redelivered, body) == (False, b"x")
    assert deaths(properties) == [(queue, "delivery_limit", 1)]
    assert "x-delivery-count" not in properties.headers


def test_quorum_queues_have_no_global_prefetch(site: Site) -> None:
    queue, channel = site.queue(x_queue_type="quorum"), site.channel()
    channel.basic_qos(prefetch_count=1, global_qos=True)
    with pytest.raises(ConnectionClosedByBroker) as caught:
        channel.basic_consume(queue, print)
    assert (
        caught.value.reply_text
        == f"NOT_IMPLEMENTED - queue '{queue}' in vhost '/' does not support global qos"
    )


# Dead letters


def deaths(properties: Any) -> list[tuple[str, str, int]]:
    return [
        (death["queue"], death["reason"], death["count"]) for death in properties.headers["x-death"]
    ]


def dying(site: Site, dead: str, stem: str = "queue", **arguments: Any) -> str:
    return site.queue(stem, x_dead_letter_exchange="", x_dead_letter_routing_key=dead, **arguments)


def test_a_rejected_message_goes_to_the_dead_letter_exchange_with_its_history(site: Site) -> None:
    exchange, channel = site.name("exchange"), site.channel()
    dead, queue = site.queue("dead"), site.queue(x_dead_letter_exchange=exchange)
    channel.exchange_declare(exchange, "fanout")
    channel.queue_bind(dead, exchange)
    publish(
        channel,
        queue,
        b"x",
        headers={"traceparent": "00-1-2-03"},
        expiration="60000",
        message_id="m",
    )
    channel.basic_reject(take(channel, queue)[0].delivery_tag, requeue=False)
    method, properties, body = take(channel, dead)
    assert (method.exchange, method.routing_key, method.redelivered, body) == (
        exchange,
        queue,
        False,
        b"x",
    )
    assert (properties.message_id, properties.expiration) == ("m", None)
    assert properties.headers["x-death"][0].pop("time").year > 2000
    since_3_13 = [name for name in properties.headers if name.startswith("x-last-death-")]
    assert {name: each for name, each in properties.headers.items() if name not in since_3_13} == {
        "traceparent": "00-1-2-03",
        "x-death": [
            {
                "count": 1,
                "reason": "rejected",
                "queue": queue,
                "exchange": "",
                "routing-keys": [queue],
                "original-expiration": "60000",
            }
        ],
        "x-first-death-reason": "rejected",
        "x-first-death-queue": queue,
        "x-first-death-exchange": "",
    }


def test_only_the_last_death_is_sure_to_come_first_in_3_10(site_like_3: Site) -> None:
    site = site_like_3
    names = [site.name(stem) for stem in "wxyz"] + [site.queue("end")]
    for stem, dead in zip("wxyz", names[1:], strict=True):
        dying(site, dead, stem)
    channel = site.channel()
    publish(channel, names[0], b"x")
    w, x, y, z, end = names
    for life in (1, 2):
        for name in (w, x, y, z):
            channel.basic_nack(take(channel, name)[0].delivery_tag, requeue=False)
        properties = take(channel, end)[1]
        assert deaths(properties) == [(name, "rejected", life) for name in (z, x, w, y)]
        assert properties.headers["x-first-death-queue"] == w
        channel.basic_publish("", w, b"again", properties)


@pytest.mark.parametrize("exchange", [{}, {"x_dead_letter_exchange": "missing"}])
def test_without_a_dead_letter_exchange_a_rejected_message_is_gone(
    site: Site, exchange: dict[str, str]
) -> None:
    queue, channel = site.queue(**exchange), site.channel()
    publish(channel, queue, b"x")
    channel.basic_reject(take(channel, queue)[0].delivery_tag, requeue=False)
    channel.close()
    assert site.counts(queue) == (0, 0)


@pytest.mark.parametrize(("arguments", "expiration"), [({"x_message_ttl": 20}, None), ({}, "20")])
def test_an_expired_message_is_dead(
    site: Site, arguments: dict[str, Any], expiration: str | None
) -> None:
    dead, channel = site.queue("dead"), site.channel()
    queue = dying(site, dead, **arguments)
    publish(channel, queue, b"x", expiration=expiration)
    properties = take(channel, dead)[1]
    assert deaths(properties) == [(queue, "expired", 1)]
    assert properties.headers["x-death"][0].get("original-expiration") == expiration


def test_a_message_expires_only_at_the_head_of_its_queue(site: Site) -> None:
    dead, channel = site.queue("dead"), site.channel()
    queue = dying(site, dead)
    publish(channel, queue, b"long")
    publish(channel, queue, b"short", expiration="1")
    publish(channel, dying(site, dead, "other"), b"other", expiration="20")
    assert take(channel, dead)[2] == b"other"  # so that much time has passed
    assert site.counts(queue)[0] == 2
    assert take(channel, queue)[2] == b"long"
    assert take(channel, dead)[2] == b"short"


def test_an_expiration_must_be_a_number(site: Site) -> None:
    queue, channel = site.queue(), site.channel()
    answer = (406, "PRECONDITION_FAILED - invalid expiration 'soon': no_integer")
    assert refusal(lambda: publish(channel, queue, b"", expiration="soon"), channel) == answer


# Publisher confirms, and messages that come back


def test_a_confirm_waits_for_routing(site: Site) -> None:
    queue, channel = site.queue(), site.channel()
    channel.confirm_delivery()
    channel.basic_publish("", queue, b"x", mandatory=True)
    channel.basic_publish("", "nobody", b"x")
    assert site.counts(queue)[0] == 1
    with pytest.raises(ChannelClosedByBroker, match="no exchange 'missing'"):
        channel.basic_publish("missing", "key", b"x")


def test_an_unroutable_message_comes_back_before_its_confirm(site: Site) -> None:
    channel, came = site.channel(), []
    channel._impl.add_callback(
        lambda frame: came.append("ack"), [pika.spec.Basic.Ack], one_shot=False
    )
    channel._impl.add_on_return_callback(lambda *_: came.append("return"))
    channel.confirm_delivery()
    with pytest.raises(UnroutableError) as caught:
        channel.basic_publish(
            "", "nobody", b"x", pika.BasicProperties(headers={"mine": 1}), mandatory=True
        )
    returned = caught.value.messages[0]
    method = returned.method
    assert (method.reply_code, method.reply_text) == (312, "NO_ROUTE")
    assert (method.exchange, method.routing_key) == ("", "nobody")
    assert (returned.properties.headers, returned.body, came) == (
        {"mine": 1},
        b"x",
        ["return", "ack"],
    )


def test_without_confirms_an_unroutable_message_comes_back_all_the_same(site: Site) -> None:
    channel, came = site.channel(), []
    channel.add_on_return_callback(
        lambda _, method, properties, body: came.append((method.reply_code, body))
    )
    channel.basic_publish("", "nobody", b"x", mandatory=True)
    channel.basic_publish("", "nobody", b"y")
    assert eventually(channel, lambda: came == [(312, b"x")])


def test_a_full_queue_refuses_with_a_nack(site: Site) -> None:
    queue, channel = site.queue(x_max_length=1, x_overflow="reject-publish"), site.channel()
    channel.confirm_delivery()
    channel.basic_publish("", queue, b"1")
    with pytest.raises(NackError):
        channel.basic_publish("", queue, b"2")
    assert bodies(channel, queue, 1) == [b"1"]
    channel.basic_publish("", queue, b"3")


# aio-pika


def test_aio_pika_publishes_consumes_and_keeps_floats(site: Site) -> None:
    aio_pika = pytest.importorskip("aio_pika")
    queue = site.queue()

    async def scenario() -> tuple[Any, ...]:
        async with await aio_pika.connect_robust(site.url) as connection:
            channel = await connection.channel(on_return_raises=True)
            with pytest.raises(aio_pika.exceptions.DeliveryError):
                await channel.default_exchange.publish(
                    aio_pika.Message(b""), "nobody", mandatory=True
                )
            message = aio_pika.Message(b"x", headers={"half": 0.5})
            await channel.default_exchange.publish(message, queue)
            async with (await channel.get_queue(queue)).iterator() as iterator:
                async for incoming in iterator:
                    async with incoming.process():
                        return incoming.body, incoming.headers
        raise AssertionError

    assert asyncio.run(scenario()) == (b"x", {"half": 0.5})
    assert site.counts(queue) == (0, 0)


# The fake alone: its hooks and its end


def test_the_log_tells_every_settlement_on_the_wire(fake: FakeRabbit, local: Site) -> None:
    queue, channel = local.queue(), local.channel()
    publish(channel, queue, *[b"x"] * 6)
    for _ in range(6):
        take(channel, queue)
    channel.basic_ack(1)
    channel.basic_ack(3, multiple=True)
    channel.basic_nack(4)
    channel.basic_nack(5, requeue=False)
    channel.basic_reject(6)
    channel.basic_recover(requeue=True)
    assert fake.until(lambda: len(fake.log) == 6)
    assert fake.log == [
        ("ack", 1, 1, False),
        ("ack", 1, 3, True),
        ("nack", 1, 4, False, True),
        ("nack", 1, 5, False, False),
        ("reject", 1, 6, True),
        ("recover", 1, True),
    ]


def test_the_hooks_see_messages_ready_and_unacked(fake: FakeRabbit, local: Site) -> None:
    queue, channel = local.queue(), local.channel()
    publish(channel, queue, b"1", b"2", headers={"mine": 1})
    publish(channel, queue, b"3")
    assert fake.until(lambda: fake.ready(queue) == 3)
    seen = [
        (message.body, message.headers, message.routing_key) for message in fake.messages(queue)
    ]
    assert seen == [(b"1", {"mine": 1}, queue), (b"2", {"mine": 1}, queue), (b"3", {}, queue)]
    tag = take(channel, queue)[0].delivery_tag
    assert (fake.ready(queue), fake.unacked(queue), fake.consumers(queue)) == (2, 1, 0)
    channel.basic_ack(tag)
    assert fake.until(lambda: fake.unacked(queue) == 0)
    assert not fake.until(lambda: fake.ready(queue) == 3, timeout=0.01)
    with pytest.raises(KeyError):
        fake.ready("missing")


def test_publishes_can_be_nacked_at_will(fake: FakeRabbit, local: Site) -> None:
    queue, channel = local.queue(), local.channel()
    channel.confirm_delivery()
    fake.nack_publishes()
    with pytest.raises(NackError):
        channel.basic_publish("", queue, b"1")
    fake.nack_publishes(False)
    channel.basic_publish("", queue, b"2")
    assert [message.body for message in fake.messages(queue)] == [b"2"]


def test_cut_connections_lose_nothing(fake: FakeRabbit, local: Site) -> None:
    queue, channel = local.queue(), local.channel()
    publish(channel, queue, b"1", b"2")
    take(channel, queue)
    fake.cut_connections()
    assert (fake.ready(queue), fake.unacked(queue)) == (2, 0)
    with pytest.raises(AMQPConnectionError):
        channel.queue_declare("", exclusive=True)
    channel = local.channel()
    assert [take(channel, queue)[0].redelivered for _ in range(2)] == [True, False]


@pytest.mark.parametrize("arguments", [{"x-single-active-consumer": True}, {"x-max-length": 1}])
def test_what_the_fake_cannot_do_it_refuses(local: Site, arguments: dict[str, Any]) -> None:
    with pytest.raises(ConnectionClosedByBroker) as caught:
        local.channel().queue_declare(local.name("odd"), arguments=arguments)
    assert caught.value.reply_code == 540
    with pytest.raises(ConnectionClosedByBroker) as caught:
        local.channel().tx_select()
    assert (caught.value.reply_code, caught.value.reply_text) == (
        540,
        "NOT_IMPLEMENTED - the fake broker has no Tx.Select",
    )


def held() -> tuple[int, int]:
    """Threads and file descriptors of this process."""
    gc.collect()
    return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_closing_leaves_no_thread_and_no_socket() -> None:
    before = held()
    for _ in range(20):  # to be caught accepting, sometimes
        broker = FakeRabbit()
        connection = pika.BlockingConnection(pika.URLParameters(broker.url))
        others = [socket.create_connection(("127.0.0.1", broker.port)) for _ in range(3)]
        broker.close()
        broker.close()
        for other in others:
            other.close()
        with pytest.raises(AMQPConnectionError):
            connection.channel()
    del connection
    assert held() == before


def test_a_failure_inside_is_not_kept_quiet() -> None:
    broker = FakeRabbit()
    with socket.create_connection(("127.0.0.1", broker.port)) as client:
        client.sendall(b"\x09\x00\x00\x00\x00\x00\x00\xce")  # a frame of a type that there is not
        assert client.recv(1) == b""
    with pytest.raises(RuntimeError, match="the fake broker failed"):
        broker.close()
    broker.close()

"""pika, as scenarios speak to it: on the fake broker, which sees each frame, or on a real one."""

from __future__ import annotations

import asyncio
import copy
import functools
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import datetime, timezone
from typing import Any

import pika
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection
from pika.adapters.select_connection import SelectConnection
from pika.channel import Channel
from pika.connection import Connection
from pika.exceptions import AMQPError
from pika.spec import Basic

import hopspan
from hopspan import Verdict
from tests.contract.amqp_client import AmqpClient, Frame
from tests.contract.client import DEADLINE, Handler, Message, Ran, Sent
from tests.contract.features import Features
from tests.contract.telemetry import silence
from tests.fakes.amqp import FakeRabbit

FEATURES = Features(
    pushes=True,
    calls_plainly=True,
    settles=True,
    redelivers=True,
    counts_deliveries=True,
    nacks=True,
    acks_on_the_wire=True,
    dead_letters=True,
    dead_letters_by_itself=True,
    generated_names=True,
    auto_acks=True,
    keeps_headers_on_requeue=True,
    batches=True,
    reports_completion=True,
    settles_on_its_own_thread=True,
    styles=(
        "basic_consume",
        "consume",
        "each over consume",
        "each over a list",
        "process of basic_get",
        "process in consume",
        "select",
        "select basic_get",
        "asyncio",
    ),
    loops=("consume", "each over consume", "each over a list"),
    typed_headers=True,
    outcomes=("unconfirmed", "confirmed", "unroutable", "refused", "nowhere"),
    senders=("blocking", "select", "asyncio"),
    confirmers=("select", "asyncio"),
    awaited=("confirmed", "unroutable", "refused"),
    event_loops=True,
    connections=True,
)

NAP = 0.02
"""Seconds for which the client does I/O before a condition is looked at again."""

_FRAMES: dict[type, tuple[str, ...]] = {
    Basic.Ack: ("ack", "delivery_tag", "multiple"),
    Basic.Nack: ("nack", "delivery_tag", "multiple", "requeue"),
    Basic.Reject: ("reject", "delivery_tag", "requeue"),
    Basic.Recover: ("recover", "requeue"),
}
_CONNECTIONS = {
    "select": SelectConnection,
    "select basic_get": SelectConnection,
    "asyncio": AsyncioConnection,
}


class PikaClient(AmqpClient):
    """A queue with a dead-letter queue behind it, a producing and a consuming channel."""

    NAME = "pika"
    producer: BlockingChannel
    consumer: BlockingChannel

    def __init__(
        self, url: str, features: Features, *, broker: FakeRabbit | None = None, **shape: Any
    ) -> None:
        super().__init__(features, **shape)
        self.url = url
        self.passwords = (pika.URLParameters(url).credentials.password,)
        self.broker = broker
        suffix = uuid.uuid4().hex[:6]
        self.queue, self.dead = f"orders-{suffix}", f"dead-{suffix}"
        self.frames: list[Frame] = []
        """Settlements that went out on the wire, from all of our connections."""
        self._queues = {self.dead}
        self._exchanges: set[str] = set()
        self._connections: list[BlockingConnection] = []
        self._evented: list[Evented] = []

    # -- from the first to the last word -----------------------------------------------------------

    def open(self) -> None:
        with silence():
            connection = self.connect()
            self.admin = connection.channel()
            self.admin.queue_declare(self.dead)
            self.use_queue(self.queue)
        self.producer = self._traced(connection.channel())
        self.consumer = self.open_channel()

    def use_queue(self, name: str, **arguments: Any) -> None:
        given = {key.replace("_", "-"): value for key, value in arguments.items()}
        dying = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": self.dead}
        durable = given.get("x-queue-type") == "quorum"
        self._queues.add(name)
        self.admin.queue_declare(name, durable=durable, arguments={**dying, **given})
        self.queue = name

    def use_exchange(self, name: str, routing_key: str) -> None:
        self._exchanges.add(name)
        self.admin.exchange_declare(name, "topic")
        self.admin.queue_bind(self.queue, name, routing_key)

    def connect(self) -> BlockingConnection:
        """Another connection, whose settlements are seen."""
        connection = pika.BlockingConnection(pika.URLParameters(self.url))
        self._connections.append(connection)
        self._spy(connection._impl)
        return connection

    def open_channel(self, prefetch: int = 1) -> BlockingChannel:
        """Another connection's channel to consume from."""
        channel = self.connect().channel()
        channel.basic_qos(prefetch_count=prefetch)
        return channel

    def evented(self, style: str) -> Evented:
        """A channel of an asynchronous connection."""
        evented = Evented(_CONNECTIONS[style], self.url)
        self._evented.append(evented)
        self._spy(evented.connection)
        return evented

    def _spy(self, connection: Any) -> None:
        send = connection._send_method

        def sent(number: int, method: Any, content: Any = None) -> Any:
            if type(method) in _FRAMES:
                name, *fields = _FRAMES[type(method)]
                self.frames.append((name, *(getattr(method, field) for field in fields)))
            return send(number, method, content)

        connection._send_method = sent

    def _traced(self, channel: BlockingChannel) -> BlockingChannel:
        return channel if self.face == "instrumented" else hopspan.wrap(channel, **self.settings())

    def check(self) -> None:
        assert self.ends_closed is not self._is_open()
        if self.broker is not None:
            broker = self.broker
            assert broker.until(lambda: sorted(self.frames) == sorted(self.seen_by_broker())), (
                broker.log
            )

    def _is_open(self) -> bool:
        """The broker is asked, because it closes a channel without our asking."""
        with suppress(AMQPError):
            self.sync()
        return bool(self.consumer.is_open)

    def seen_by_broker(self) -> list[Frame]:
        """The fake broker's log, without channel numbers."""
        assert self.broker is not None
        return [(entry[0], *entry[2:]) for entry in self.broker.log]

    def close(self) -> None:
        for evented in self._evented:
            evented.close()
        with silence():
            self._tidy()
        for connection in self._connections:
            if connection.is_open:
                with suppress(AMQPError):
                    connection.close()

    def _tidy(self) -> None:
        for name in self._queues:
            self.admin.queue_delete(name)
        for name in self._exchanges:
            self.admin.exchange_delete(name)

    # -- sending -----------------------------------------------------------------------------------

    @property
    def publishes(self) -> str:
        return f"publish {self.queue}"

    @property
    def processes(self) -> str:
        return f"process {self.queue}"

    @property
    def receives(self) -> str:
        return f"receive {self.queue}"

    def settle_name(self, settlement: str) -> str:
        return "ack" if settlement == "ack" else "nack"

    @property
    def rejects(self) -> str:
        return f"reject {self.queue}"

    @property
    def via(self) -> Any:
        return self.consumer

    @property
    def reject_on_error(self) -> hopspan.Policy:
        return hopspan.reject_on_error

    @property
    def requeue_once(self) -> hopspan.Policy:
        return hopspan.requeue_once

    def policy(
        self, name: str, decide: Callable[..., Any], verdicts: Iterable[Verdict] = tuple(Verdict)
    ) -> hopspan.Policy:
        return hopspan.Policy(name, decide, verdicts)

    def fields(self, headers: Any) -> dict[str, Any]:
        return _in_utc(headers or {})  # type: ignore[no-any-return]

    def body(self, native: Any) -> bytes:
        return native.body  # type: ignore[no-any-return]

    def carrier(self, headers: dict[str, Any] | None) -> Any:
        return pika.BasicProperties(headers=headers)

    def contents(self, carrier: Any) -> Any:
        return None if carrier is None else copy.deepcopy(vars(carrier))

    def send(self, body: bytes = b"order", carrier: Any = None) -> None:
        self.producer.basic_publish("", self.queue, body, carrier)
        self.producer.queue_declare(self.queue, passive=True)  # it has arrived

    def send_to(self, exchange: str, routing_key: str, **properties: Any) -> None:
        self.producer.basic_publish(
            exchange, routing_key, b"order", pika.BasicProperties(**properties)
        )
        self.producer.queue_declare(self.queue, passive=True)

    def ack(self, message: Message | None, *, multiple: bool = False) -> None:
        self.consumer.basic_ack(_tag(message), multiple)

    def nack(
        self, message: Message | None, *, multiple: bool = False, requeue: bool = True
    ) -> None:
        self.consumer.basic_nack(_tag(message), multiple, requeue)

    def recover(self) -> None:
        self.consumer.basic_recover(requeue=True)

    def when_prefetched(self, count: int) -> None:
        deadline = time.monotonic() + DEADLINE
        while len(self.consumer._pending_events) < count and time.monotonic() < deadline:
            self.sync()  # which dispatches nothing

    def when_closed(self) -> None:
        with suppress(AMQPError):
            self.sync()

    @property
    def server(self) -> dict[str, Any]:
        parameters = pika.URLParameters(self.url)
        return {"server.address": parameters.host, "server.port": parameters.port}

    def configure_sender(self, **settings: Any) -> None:
        hopspan.wrap(self.producer, **self.settings(**settings))

    def sender(self) -> Callable[..., None]:
        channel = self._traced(self.connect().channel())
        return functools.partial(channel.basic_publish, "", self.queue)

    def send_untraced(self, body: bytes = b"order", headers: dict[str, Any] | None = None) -> None:
        with silence():
            self.admin.basic_publish("", self.queue, body, pika.BasicProperties(headers=headers))
            self.admin.queue_declare(self.queue, passive=True)  # it has arrived

    def take_untraced(self, *, dead: bool = False) -> dict[str, Any]:
        with silence():
            _, properties, _ = _taken(self.admin, self.dead if dead else self.queue, auto_ack=True)
        return properties.headers or {}

    # -- handling ----------------------------------------------------------------------------------

    def receiver(self, handler: Handler, *, decorated: bool = False, **settings: Any) -> Any:
        def receive(channel: Any, method: Any, properties: Any, body: bytes) -> Any:
            return handler(_message(channel, method, properties, body))

        return hopspan.consumer(**self.settings(**settings))(receive) if decorated else receive

    def subscribe(
        self, handler: Handler, *, auto_ack: bool = False, prefetch: int = 1, **settings: Any
    ) -> Ran:
        ran = Ran()
        decorated = self.face in {"decorated", "together"}
        receive = self.receiver(
            ran.watched(handler), decorated=decorated, **settings if decorated else {}
        )
        self.enter_face(**settings)
        if prefetch != 1:
            self.consumer.basic_qos(prefetch_count=prefetch)
        self.consumer.basic_consume(self.queue, receive, auto_ack=auto_ack)
        return ran

    def enter_face(self, channel: Any = None, **settings: Any) -> None:
        channel = self.consumer if channel is None else channel
        if self.face == "instrumented":
            self.instrument(**settings)
        elif self.face == "wrapped":
            hopspan.wrap(channel, **self.settings(**settings))
        elif self.face == "together":
            hopspan.wrap(channel, **self.settings())

    def drive(self, until: Callable[[], Any], ran: Ran | None = None) -> None:
        deadline = time.monotonic() + DEADLINE
        while not until():
            assert time.monotonic() < deadline, f"still waiting; {ran}"
            try:
                self.consumer.connection.process_data_events(NAP)
            except BaseException as error:
                if ran is None:
                    raise
                ran.escaped.append(error)

    def sync(self) -> None:
        self.consumer.queue_declare(self.queue, passive=True)

    def settlements(self) -> list[str]:
        return [_word(frame) for frame in self.frames]

    def expect_queues(self, *, waiting: int = 0, dead: int = 0) -> None:
        if self.consumer.is_open:
            self.close_channel()
        expected, counted = (waiting, dead), (-1, -1)
        deadline = time.monotonic() + DEADLINE
        while counted != expected and time.monotonic() < deadline:
            counted = (self.waiting(self.queue), self.waiting(self.dead))
        assert expected == counted

    def waiting(self, queue: str) -> int:
        """How many messages the broker would hand out from a queue."""
        method = self.admin.queue_declare(queue, passive=True).method
        return int(method.message_count)

    def close_channel(self) -> None:
        # The outer channel's own way would first give back what it has not dispatched.
        self.ends_closed = True
        self.consumer._impl.close()
        self.consumer._flush_output(lambda: self.consumer.is_closed)

    def lose(self) -> None:
        self.ends_closed = True
        with suppress(AMQPError):  # the broker closes a channel that asks for what is not there
            self.consumer.queue_declare(f"nobody-{self.queue}", passive=True)
        assert not self.consumer.is_open

    def open_consumer(self) -> None:
        self.consumer = self.open_channel()

    def watch_threads(self, channel: Any = None) -> None:
        inner = self.consumer._impl if channel is None else channel
        for name in ("basic_ack", "basic_nack"):
            setattr(inner, name, self._watched(getattr(inner, name)))

    def _watched(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def settle(*args: Any, **kwargs: Any) -> Any:
            self.settling_threads.append(threading.get_ident())
            return method(*args, **kwargs)

        return settle

    def subscribe_decorated(
        self,
        handler: Handler,
        inner: dict[str, Any],
        outer: dict[str, Any],
        *,
        auto_ack: bool = False,
    ) -> Ran:
        ran = Ran()
        receive = self.receiver(ran.watched(handler), decorated=True, **inner)
        self.enter_face(**outer)
        self.consumer.basic_consume(self.queue, receive, auto_ack=auto_ack)
        return ran

    # -- the application asks for messages itself --------------------------------------------------

    def fetch(self) -> Message:
        return _message(self.consumer, *_taken(self.consumer, self.queue))

    def block(
        self, message: Message | list[Message], **settings: Any
    ) -> AbstractContextManager[Any]:
        native: Any = (
            [each.native for each in message] if isinstance(message, list) else message.native
        )
        return hopspan.process(native, via=self.consumer, **self.settings(**settings))

    def take_with(
        self, channel: BlockingChannel, *, auto_ack: bool = False
    ) -> tuple[Any, Any, bytes]:
        """The next message, asked for through some channel."""
        return _taken(channel, self.queue, auto_ack=auto_ack)

    def message(self, item: Any) -> Message:
        return _message(self.consumer, *item)

    def loop(self, style: str, *, prefetch: int = 1, **settings: Any) -> Any:
        if prefetch != 1:
            self.consumer.basic_qos(prefetch_count=prefetch)
        if style == "each over a list":
            return hopspan.each(self._several(), via=self.consumer, **self.settings(**settings))
        if style == "each over consume":
            return hopspan.each(self._consume(), via=self.consumer, **self.settings(**settings))
        self.enter_loop_face(**settings)
        return self._consume()

    def enter_loop_face(self, **settings: Any) -> None:
        """A loop has no handler to decorate: wrap the channel, or instrument the process."""
        if self.face == "instrumented":
            self.instrument(**settings)
        else:
            hopspan.wrap(self.consumer, **self.settings(**settings))

    def _consume(self) -> Any:
        return self.consumer.consume(self.queue, inactivity_timeout=DEADLINE)

    def _several(self) -> Iterator[Any]:
        """All that waits in the queue, as one list that was fetched before."""
        count = self.waiting(self.queue)
        return iter([_taken(self.consumer, self.queue) for _ in range(count)])

    def end_loop(self) -> None:
        self.consumer.cancel()

    def consume_by(self, style: str, body: Handler, **settings: Any) -> None:
        if style in _CONNECTIONS:
            self._consume_evented(style, body, **settings)
        elif style == "basic_consume":
            self.handle(body, **settings)
        elif style.startswith("process"):
            self._consume_in_block(style, body, **settings)
        else:
            for item in self.loop(style, **settings):
                body(self.message(item))
                break

    def _consume_evented(self, style: str, body: Handler, **settings: Any) -> None:
        evented = self.evented(style)
        ran = self.subscribe_on(evented, body, get=style.endswith("get"), **settings)
        evented.run(lambda: ran.times)
        evented.sync(self.queue)

    def subscribe_on(
        self, evented: Evented, body: Handler, *, get: bool = False, **settings: Any
    ) -> Ran:
        """Subscribe a handler on the channel of an asynchronous connection, or get one message."""
        ran = Ran()
        decorated = self.face in {"decorated", "together"}
        receive = self.receiver(
            ran.watched(body), decorated=decorated, **settings if decorated else {}
        )
        self.enter_face(evented.channel, **settings)
        if get:
            evented.channel.basic_get(self.queue, receive)
        else:
            evented.channel.basic_consume(self.queue, receive)
        return ran

    def _consume_in_block(self, style: str, body: Handler, **settings: Any) -> None:
        if style == "process of basic_get":
            message = self.fetch()
        else:
            loop = self._consume()
            message = self.message(next(loop))
        with self.block(message, **settings):
            body(message)

    # -- what metrics and instrumentation ask for --------------------------------------------------

    @property
    def metric_attributes(self) -> dict[str, Any]:
        parameters = pika.URLParameters(self.url)
        return {
            "messaging.system": "rabbitmq",
            "messaging.destination.name": self.queue,
            "server.address": parameters.host,
            "server.port": parameters.port,
        }

    @property
    def consumer_metric_attributes(self) -> dict[str, Any]:
        return self.metric_attributes

    def use_generated_queue(self, name: str) -> None:
        self.queue = self.admin.queue_declare(name).method.queue
        self._queues.add(self.queue)

    def ask_in_vain(self) -> None:
        assert (None, None, None) == self.consumer.basic_get(self.queue)

    def wrap_consumer(self, **settings: Any) -> Any:
        return hopspan.wrap(self.consumer, **self.settings(**settings))

    def register(self, receive: Callable[..., Any]) -> None:
        self.consumer.basic_consume(self.queue, receive)

    def registered(self) -> Callable[[Message], Any]:
        (consumer,) = self.consumer._consumer_infos.values()
        return lambda message: consumer.on_message_callback(message.via, *message.native)

    def own_loop(self) -> Any:
        return self._consume()

    @property
    def classes(self) -> tuple[type, ...]:
        return (
            BlockingChannel,
            BlockingConnection,
            Channel,
            Connection,
            SelectConnection,
            AsyncioConnection,
        )

    def use_wrapped_connection(self, **settings: Any) -> None:
        connection = hopspan.wrap(self.connect(), **self.settings(**settings))
        self.producer, self.consumer = connection.channel(), connection.channel()

    def send_by_wrapped_connection(self, style: str, **settings: Any) -> None:
        if style == "blocking":
            channel: Any = hopspan.wrap(self.connect(), **self.settings(**settings)).channel()
        else:
            evented = self.evented(style)
            channel = hopspan.wrap(evented.connection, **self.settings(**settings)).channel()
            evented.run(lambda: channel.is_open)
        channel.basic_publish("", self.queue, b"order")
        channel.close()
        if style != "blocking":
            evented.run(lambda: channel.is_closed)

    def send_wrongly(self, *, traced: bool) -> None:
        channel: Any = self.producer if traced else self.admin
        channel.basic_publish("", self.queue, colour="red")

    def send_so_that(self, outcome: str, style: str) -> Sent:
        if style == "blocking":
            return self._send_and_wait(outcome, *self._address(outcome))
        return self.send_at_once([outcome], style)[0]

    def _address(self, outcome: str) -> tuple[str, str]:
        """An exchange and a routing key by which a message meets its fate."""
        if outcome == "unroutable":
            return "", f"nobody-{self.queue}"
        if outcome == "nowhere":
            return f"nowhere-{self.queue}", "key"
        return "", self.full_queue() if outcome == "refused" else self.queue

    def full_queue(self) -> str:
        """A queue that takes no message more."""
        usual, full = self.queue, f"full-{uuid.uuid4().hex[:6]}"
        with silence():
            self.use_queue(full, x_max_length=1, x_overflow="reject-publish")
            self.admin.basic_publish("", full, b"the only one")
            self.admin.queue_declare(full, passive=True)  # it has arrived
        self.queue = usual
        return full

    def _send_and_wait(self, outcome: str, exchange: str, key: str) -> Sent:
        channel, name = self._traced(self.connect().channel()), _publish_name(exchange, key)
        if outcome != "unconfirmed":
            channel.confirm_delivery()
        try:
            channel.basic_publish(exchange, key, b"order", mandatory=outcome == "unroutable")
        except AMQPError as error:
            return Sent(name, ERRORS[outcome], str(error), error)
        return Sent(name)

    def send_at_once(
        self, outcomes: Sequence[str], style: str, *, unseen: bool = False
    ) -> list[Sent]:
        evented, addresses = self.evented(style), [self._address(outcome) for outcome in outcomes]
        if self.face != "instrumented":
            hopspan.wrap(evented.channel, **self.settings())
        told = evented.confirm() if outcomes[0] != "unconfirmed" else [None]
        for outcome, (exchange, key) in zip(outcomes, addresses, strict=True):
            with silence() if outcome == "untraced" else nullcontext():
                evented.channel.basic_publish(
                    exchange, key, b"order", mandatory=outcome == "unroutable"
                )
        sent = [
            Sent(_publish_name(*address), ERRORS.get(outcome), _description(outcome, *address))
            for outcome, address in zip(outcomes, addresses, strict=True)
            if outcome != "untraced"
        ]
        names = {each.name for each in sent}
        if unseen:
            evented.run(lambda: told or evented.channel.is_closed)
            return sent
        evented.run(lambda: len(sent) == sum(len(self.telemetry.named(name)) for name in names))
        return sent


def _description(outcome: str, exchange: str, _key: str) -> str | None:
    """What the broker says of a message that it does not take."""
    if outcome == "nowhere":
        return f"(404, \"NOT_FOUND - no exchange '{exchange}' in vhost '/'\")"
    return "NO_ROUTE" if outcome == "unroutable" else None


ERRORS = {"unroutable": "no-route", "refused": "nack", "nowhere": "not-found"}
"""`error.type` of messages that were not taken."""


def _publish_name(exchange: str, key: str) -> str:
    return "publish " + ":".join(part for part in (exchange, key) if part)


def _message(channel: Any, method: Any, properties: Any, body: bytes) -> Message:
    tag = method.delivery_tag
    return Message(
        body,
        _in_utc(properties.headers or {}),
        (method, properties, body),
        channel,
        functools.partial(channel.basic_ack, tag),
        functools.partial(channel.basic_nack, tag, requeue=True),
        functools.partial(channel.basic_reject, tag, requeue=False),
    )


def _in_utc(value: Any) -> Any:
    """Headers with the zone of their times, which pika 1.3 leaves out."""
    if isinstance(value, dict):
        return {key: _in_utc(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_in_utc(each) for each in value]
    naive = isinstance(value, datetime) and value.tzinfo is None
    return value.replace(tzinfo=timezone.utc) if naive else value


def _taken(
    channel: BlockingChannel, queue: str, *, auto_ack: bool = False
) -> tuple[Any, Any, bytes]:
    """Get a message that may still be on its way."""
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        method, properties, body = channel.basic_get(queue, auto_ack=auto_ack)
        if method is not None:
            return method, properties, body
        channel.connection.process_data_events(0)
    raise AssertionError(f"nothing came to {queue}")


def _tag(message: Message | None) -> int:
    return message.native[0].delivery_tag if message else 0


def _word(frame: Frame) -> str:
    name, *values = frame
    if name in {"ack", "recover"}:
        return str(name)
    return "requeue" if values[-1] else "reject"


class Evented:
    """A channel of an asynchronous connection, whose loop runs until something is so."""

    def __init__(self, kind: Any, url: str) -> None:
        self._own_loop = asyncio.new_event_loop() if kind is AsyncioConnection else None
        custom = {"custom_ioloop": self._own_loop} if self._own_loop else {}
        self.failures: list[BaseException] = []
        if self._own_loop:
            self._own_loop.set_exception_handler(
                lambda _, about: self.failures.append(about["exception"])
            )
        self.connection = kind(
            pika.URLParameters(url),
            on_open_error_callback=lambda _, error: self.failures.append(error),
            **custom,
        )
        self.run(lambda: self.connection.is_open)
        self.channel = self.connection.channel()
        self.run(lambda: self.channel.is_open)
        self.channel.basic_qos(prefetch_count=1)

    def run(self, until: Callable[[], Any]) -> None:
        """Let the connection's loop work until something is so."""
        loop, deadline = self.connection.ioloop, time.monotonic() + DEADLINE

        def look() -> None:
            if until() or self.failures or time.monotonic() > deadline:
                loop.stop()
            else:
                loop.call_later(0.002, look)

        if not until():
            loop.call_later(0, look)
            loop.run_forever() if self._own_loop else loop.start()
        assert until(), f"still waiting, {self.failures}"

    def confirm(self) -> list[Any]:
        """Ask the broker to confirm; return the list of what it will say."""
        confirmed: list[Any] = []
        agreed: list[Any] = []
        self.channel.confirm_delivery(confirmed.append, agreed.append)
        self.run(lambda: agreed)
        return confirmed

    def sync(self, queue: str) -> None:
        """Return when the broker has done all that it was told so far."""
        done: list[Any] = []
        self.channel.queue_declare(queue, passive=True, callback=done.append)
        self.run(lambda: done)

    def close(self) -> None:
        """Say goodbye to the broker."""
        if self.connection.is_open:
            self.connection.close()
            self.run(lambda: self.connection.is_closed)
        self.connection.ioloop.close()


@contextmanager
def on_fake(features: Features, **shape: Any) -> Iterator[PikaClient]:
    """A client of a fake broker of its own."""
    with FakeRabbit() as broker, PikaClient(broker.url, features, broker=broker, **shape) as client:
        yield client

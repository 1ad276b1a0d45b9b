"""aio-pika, as scenarios speak to it: on the fake broker, which sees each frame, or on a real one.

A scenario is plain code in a task (`aio_pika_loop.py`). Its handlers are called by coroutines, its
`with` blocks are `async with` and its `for` loops `async for` underneath, in the same task and
context. What is not aio-pika's, such as making queues, is done by pika.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from typing import Any
from unittest import mock

import aio_pika
import aiormq
import pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractQueue
from aio_pika.exceptions import AMQPError, ChannelInvalidStateError
from aio_pika.queue import QueueIterator
from aiormq.abc import ChannelFrame, DeliveredMessage

import hopspan
from hopspan import Verdict
from hopspan.delivery import Deferred
from hopspan.delivery.block import Block
from tests.contract.aio_pika_loop import Loop
from tests.contract.amqp_client import AmqpClient, Frame
from tests.contract.client import DEADLINE, Handler, Message, Ran, Sent
from tests.contract.features import Features
from tests.contract.suite import Play
from tests.contract.telemetry import silence
from tests.fakes.amqp import FakeRabbit

FEATURES = Features(
    pushes=True,
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
    asynchronous=True,
    styles=(
        "consume",
        "queue",
        "iterator",
        "each over iterator",
        "each over a list",
        "process of get",
        "process in iterator",
    ),
    loops=("queue", "iterator", "each over iterator", "each over a list"),
    typed_headers=True,
    outcomes=("unconfirmed", "confirmed", "unroutable", "refused", "nowhere"),
    awaited=("confirmed", "unroutable", "refused"),
    senders=("plain", "raising", "robust"),
    confirmers=("plain", "raising"),
    connections=True,
)

_FRAMES: dict[str, tuple[str, ...]] = {
    "Basic.Ack": ("ack", "delivery_tag", "multiple"),
    "Basic.Nack": ("nack", "delivery_tag", "multiple", "requeue"),
    "Basic.Reject": ("reject", "delivery_tag", "requeue"),
    "Basic.Recover": ("recover", "requeue"),
}
_FIELDS = tuple(
    name for name in aio_pika.Message.__slots__ if not name.startswith(("_", "body", "lock"))
)
CAN_END = hasattr(QueueIterator, "_set_closed")
"""Whether an iterator that was closed ends; those of aio-pika 9.4 begin to consume again."""
_closed: weakref.WeakSet[Any] = weakref.WeakSet()
LOST = (AMQPError, ChannelInvalidStateError)
"""What is raised where a channel is gone."""


_PLAIN = ("__enter__", "__exit__")
_PLAIN_METHODS = {
    (owner, name): vars(owner)[name] for owner in (Block, Deferred) for name in _PLAIN
}


class AioPikaClient(AmqpClient):
    """A queue with a dead-letter queue behind it, a producing and a consuming channel."""

    NAME = "aio-pika"
    not_called = ("adapter.is_here", "adapter.is_open")
    producer: AbstractChannel
    consumer: AbstractChannel

    def __init__(
        self,
        url: str,
        features: Features,
        *,
        loop: Loop,
        broker: FakeRabbit | None = None,
        **shape: Any,
    ) -> None:
        super().__init__(features, **shape)
        self.url, self.events, self.broker = url, loop, broker
        self.passwords = (pika.URLParameters(url).credentials.password,)
        suffix = uuid.uuid4().hex[:6]
        self.queue, self.dead = f"orders-{suffix}", f"dead-{suffix}"
        self.frames: list[Frame] = []
        """Settlements that went out on the wire, from all of our connections."""
        self.running = 0
        """How many handlers run."""
        self.callbacks: list[Any] = []
        """What was registered with the client, as hopspan has registered it."""
        self._main = asyncio.current_task(loop)
        self._rans: list[Ran] = []
        self._escaped: list[BaseException] = []
        self._all_escaped: list[BaseException] = []
        self._complaints: list[dict[str, Any]] = []
        self._iterators: list[weakref.ref[QueueIterator]] = []
        self._patches = ExitStack()
        self._queues = {self.dead}
        self._exchanges: set[str] = set()
        self._connections: list[AbstractConnection] = []

    # -- from the first to the last word -----------------------------------------------------------

    def open(self) -> None:
        self._patch()
        self.events.set_exception_handler(lambda _, about: self._complaints.append(about))
        self._admin = pika.BlockingConnection(pika.URLParameters(self.url))
        self.admin = self._admin.channel()
        self.admin.queue_declare(self.dead)
        self.use_queue(self.queue)
        self.producer = self._traced(self.open_channel())
        self.open_consumer()

    def _patch(self) -> None:
        """Let plain blocks be awaited ones, and see what comes and goes beneath the client."""
        step, spied = self.events.step, self._spied
        marshall, consume = ChannelFrame.marshall, aiormq.Channel.basic_consume

        def sent(*args: Any, **kwargs: Any) -> Any:
            frame = marshall(*args, **kwargs)
            for each in kwargs["frames"]:
                if getattr(each, "name", None) in _FRAMES:
                    name, *fields = _FRAMES[each.name]
                    self.frames.append((name, *(getattr(each, field) for field in fields)))
            return frame

        async def basic_consume(
            channel: Any, queue: str, consumer_callback: Any, **more: Any
        ) -> Any:
            return await consume(channel, queue, spied(consumer_callback), **more)

        for owner, name, replacement in (
            (ChannelFrame, "marshall", sent),
            (aiormq.Channel, "basic_consume", basic_consume),
            (Block, "__enter__", lambda block: step(block.__aenter__())),
            (Block, "__exit__", lambda block, *error: step(block.__aexit__(*error))),
            (Deferred, "__enter__", lambda deferred: step(deferred.__aenter__())),
            (Deferred, "__exit__", lambda deferred, *error: step(deferred.__aexit__(*error))),
            (asyncio, "run", self.events.done),
        ):
            self._patches.enter_context(mock.patch.object(owner, name, replacement))

    def _spied(self, given: Any) -> Any:
        """The outermost of all: what aio-pika calls with a delivery, and what comes out of that."""
        callback = given.args[0]
        self.callbacks.append(callback)
        if isinstance(getattr(callback, "__self__", None), QueueIterator):
            self._iterators.append(weakref.ref(callback.__self__))
            return given

        async def outermost(delivered: Any) -> None:
            self.running += 1
            try:
                await given(delivered)
            except BaseException as error:  # noqa: BLE001 - looked at later
                self._escaped.append(error)
                self._all_escaped.append(error)
            finally:
                self.running -= 1

        return outermost

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

    def connect(self, *, robust: bool = False) -> Any:
        """Another connection."""
        how = {"reconnect_interval": 0.01} if robust else {}
        connect = aio_pika.connect_robust if robust else aio_pika.connect
        connection = self.events.step(connect(self.url, **how))
        self._connections.append(connection)
        return connection

    def open_channel(self, *, robust: bool = False, **how: Any) -> Any:
        """A channel of a connection of its own."""
        return self.events.step(self.connect(robust=robust).channel(**how))

    def cut(self) -> None:
        """The newest connection is lost, without a word."""
        transport: Any = self.events.transports[-1]
        transport.abort()

    def _traced(self, channel: Any) -> Any:
        return channel if self.face == "instrumented" else hopspan.wrap(channel, **self.settings())

    @property
    def inbox(self) -> AbstractQueue:
        """The queue, by way of the consumer's channel as it is now."""
        if isinstance(self.consumer, aio_pika.RobustChannel):  # it restores what was declared
            asked = self.consumer.declare_queue(self.queue, passive=True)
        else:
            asked = self.consumer.get_queue(self.queue, ensure=False)
        queue: AbstractQueue = self.events.step(asked)
        return queue

    @property
    def underlay(self) -> Any:
        """The channel of aiormq beneath the consumer's."""
        return self.events.step(self.consumer.get_underlay_channel())

    def check(self) -> None:
        assert self.ends_closed is not self._is_open()
        known = [*self._all_escaped, *(each for ran in self._rans for each in ran.raised)]
        assert [] == [
            about
            for about in self._complaints
            if not any(about.get("exception") is each for each in known)
        ]
        if self.broker is not None:
            broker = self.broker
            assert broker.until(lambda: sorted(self.frames) == sorted(self.seen_by_broker())), (
                broker.log
            )

    def _is_open(self) -> bool:
        """The broker is asked, because it closes a channel without our asking."""
        with suppress(*LOST):
            self.sync()
        return not self.consumer.is_closed

    def seen_by_broker(self) -> list[Frame]:
        """The fake broker's log, without channel numbers."""
        assert self.broker is not None
        return [(entry[0], *entry[2:]) for entry in self.broker.log]

    def close(self) -> None:
        for connection in self._connections:
            with suppress(*LOST, asyncio.CancelledError):
                self.events.step(connection.close())
        self._patches.close()
        for name in self._queues:
            self.admin.queue_delete(name)
        for name in self._exchanges:
            self.admin.exchange_delete(name)
        self._admin.close()

    @contextmanager
    def plain_blocks(self) -> Iterator[None]:
        """A `with` block is a plain one here."""
        patched = [(owner, name) for owner in (Block, Deferred) for name in _PLAIN]
        with ExitStack() as stack:
            for owner, name in patched:
                stack.enter_context(mock.patch.object(owner, name, _PLAIN_METHODS[owner, name]))
            yield

    def in_thread(self, work: Callable[..., Any], *args: Any) -> Future[Any]:
        """In another task: this client belongs to one thread, whose loop hands it out."""
        return self.events.elsewhere(work, *args)

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
        return _as_sent(headers or {})  # type: ignore[no-any-return]

    def body(self, native: Any) -> bytes:
        return getattr(native, "message", native).body  # type: ignore[no-any-return]

    def carrier(self, headers: dict[str, Any] | None) -> Any:
        return aio_pika.Message(b"", headers=headers)

    def contents(self, carrier: Any) -> Any:
        if carrier is None:
            return None
        return copy.deepcopy({name: getattr(carrier, name) for name in _FIELDS})

    def send(self, body: bytes = b"order", carrier: Any = None) -> None:
        self._send(self.producer.default_exchange, self.queue, body, carrier)

    def _send(self, exchange: Any, key: str, body: bytes, carrier: Any = None) -> None:
        message = aio_pika.Message(b"") if carrier is None else carrier
        message.body = body
        result = self.events.step(exchange.publish(message, key))
        assert not isinstance(result, DeliveredMessage), "nobody takes it"

    def send_to(self, exchange: str, routing_key: str, **properties: Any) -> None:
        to = self.producer.default_exchange
        if exchange:
            to = self.events.step(self.producer.get_exchange(exchange, ensure=False))
        self._send(to, routing_key, b"order", aio_pika.Message(b"", **properties))

    def ack(self, message: Message | None, *, multiple: bool = False) -> None:
        if message is None:
            self.events.step(self.underlay.basic_ack(0, multiple))
        else:
            self.events.step(message.native.ack(multiple))

    def nack(
        self, message: Message | None, *, multiple: bool = False, requeue: bool = True
    ) -> None:
        if message is None:
            self.events.step(self.underlay.basic_nack(0, multiple, requeue))
        else:
            self.events.step(message.native.nack(multiple, requeue))

    def recover(self) -> None:
        self.events.step(self.underlay.basic_recover(requeue=True))

    def when_prefetched(self, count: int) -> None:
        assert self.events.until(lambda: self.prefetched() >= count), self.prefetched()

    def prefetched(self) -> int:
        """How many messages wait in the buffers of iterators."""
        iterators = filter(None, (each() for each in self._iterators))
        return sum(each._queue.qsize() for each in iterators)

    def when_closed(self) -> None:
        assert self.events.until(lambda: self.consumer.is_closed)

    @property
    def server(self) -> dict[str, Any]:
        parameters = pika.URLParameters(self.url)
        return {"server.address": parameters.host, "server.port": parameters.port}

    def configure_sender(self, **settings: Any) -> None:
        hopspan.wrap(self.producer, **self.settings(**settings))

    def sender(self) -> Callable[..., None]:
        channel = self._traced(self.open_channel())
        return lambda body, carrier: self._send(channel.default_exchange, self.queue, body, carrier)

    def send_untraced(self, body: bytes = b"order", headers: dict[str, Any] | None = None) -> None:
        self.admin.basic_publish("", self.queue, body, pika.BasicProperties(headers=headers))
        self.admin.queue_declare(self.queue, passive=True)  # it has arrived

    def take_untraced(self, *, dead: bool = False) -> dict[str, Any]:
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            method, properties, _ = self.admin.basic_get(
                self.dead if dead else self.queue, auto_ack=True
            )
            if method is not None:
                return properties.headers or {}
        raise AssertionError("nothing came")

    # -- handling ----------------------------------------------------------------------------------

    def receiver(self, handler: Handler, *, decorated: bool = False, **settings: Any) -> Any:
        async def receive(message: Any) -> Any:
            return handler(self.message(message))

        return hopspan.consumer(**self.settings(**settings))(receive) if decorated else receive

    def subscribe(
        self, handler: Handler, *, auto_ack: bool = False, prefetch: int = 1, **settings: Any
    ) -> Ran:
        ran = self._ran()
        decorated = self.face in {"decorated", "together"}
        receive = self.receiver(
            ran.watched(handler), decorated=decorated, **settings if decorated else {}
        )
        self.enter_face(**settings)
        self._prefetch(prefetch)
        self.events.step(self.inbox.consume(receive, no_ack=auto_ack))
        return ran

    def _ran(self) -> Ran:
        ran = Ran()
        self._rans.append(ran)
        return ran

    def _prefetch(self, count: int) -> None:
        if count != 1:
            self.events.step(self.consumer.set_qos(prefetch_count=count))

    def enter_face(self, channel: Any = None, **settings: Any) -> None:
        channel = self.consumer if channel is None else channel
        if self.face == "instrumented":
            self.instrument(**settings)
        elif self.face == "wrapped":
            hopspan.wrap(channel, **self.settings(**settings))
        elif self.face == "together":
            hopspan.wrap(channel, **self.settings())

    def drive(self, until: Callable[[], Any], ran: Ran | None = None) -> None:
        ran = ran or Ran()
        if ran not in self._rans:
            self._rans.append(ran)
        is_main = asyncio.current_task(self.events) is self._main

        def so_far() -> bool:
            ran.escaped += self._escaped
            self._escaped.clear()
            return bool(until()) and not (is_main and self.running)

        deadline = time.monotonic() + DEADLINE
        while not so_far():
            assert time.monotonic() < deadline, f"still waiting; {ran}"
            try:
                self.events.until(so_far)
            except BaseException as error:
                if not any(error is each for each in ran.raised):
                    raise

    def sync(self) -> None:
        self.events.step(self.underlay.queue_declare(self.queue, passive=True))

    def settlements(self) -> list[str]:
        return [_word(frame) for frame in self.frames]

    def expect_queues(self, *, waiting: int = 0, dead: int = 0) -> None:
        if not self.consumer.is_closed:
            self.close_channel()
        expected, counted = (waiting, dead), (-1, -1)
        deadline = time.monotonic() + DEADLINE
        while counted != expected and time.monotonic() < deadline:
            counted = (self.waiting(self.queue), self.waiting(self.dead))
        assert expected == counted

    def waiting(self, queue: str) -> int:
        """How many messages the broker would hand out from a queue."""
        return int(self.admin.queue_declare(queue, passive=True).method.message_count)

    def close_channel(self) -> None:
        self.ends_closed = True
        beneath = self.underlay  # aio-pika 9 calls itself closed when it begins to close
        closing = self.events.create_task(self.consumer.close())
        # A handler that closes its channel is one of those that closing waits for.
        if asyncio.current_task(self.events) is self._main:
            assert self.events.until(closing.done)
        else:
            assert self.events.until(lambda: beneath.is_closed)

    def lose(self) -> None:
        self.ends_closed = True
        with suppress(*LOST):  # the broker closes a channel that asks for what is not there
            self.events.step(self.underlay.queue_declare(f"nobody-{self.queue}", passive=True))
        self.when_closed()

    def open_consumer(self) -> None:
        self.consumer = self.open_channel()
        self.events.step(self.consumer.set_qos(prefetch_count=1))

    def watch_threads(self) -> None:
        self.settling_threads.append(threading.get_ident())

    def subscribe_decorated(
        self,
        handler: Handler,
        inner: dict[str, Any],
        outer: dict[str, Any],
        *,
        auto_ack: bool = False,
    ) -> Ran:
        ran = self._ran()
        receive = self.receiver(ran.watched(handler), decorated=True, **inner)
        self.enter_face(**outer)
        self.events.step(self.inbox.consume(receive, no_ack=auto_ack))
        return ran

    # -- the application asks for messages itself --------------------------------------------------

    def fetch(self) -> Message:
        return self.message(self.take())

    def take(self, **how: Any) -> Any:
        """The next message, by `Queue.get`."""
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            message = self.events.step(self.inbox.get(fail=False, **how))
            if message is not None:
                return message
        raise AssertionError(f"nothing came to {self.queue}")

    def block(
        self, message: Message | list[Message], **settings: Any
    ) -> AbstractContextManager[Any]:
        native: Any = (
            [each.native for each in message] if isinstance(message, list) else message.native
        )
        return hopspan.process(native, via=self.consumer, **self.settings(**settings))

    def message(self, item: Any) -> Message:
        step = self.events.step
        return Message(
            item.body,
            self.fields(item.headers),
            item,
            self.consumer,
            lambda: step(item.ack()),
            lambda: step(item.nack(requeue=True)),
            lambda: step(item.reject(requeue=False)),
        )

    def loop_over(self, messages: Any) -> Turns:
        """A plain iterator over an asynchronous one."""
        return Turns(self.events, messages)

    def loop_by(self, style: str, **settings: Any) -> Any:
        """What is iterated over with `async for`, in one of the styles."""
        if style == "each over iterator":
            messages = self.inbox.iterator()
            return hopspan.each(messages, via=self.consumer, **self.settings(**settings))
        self.enter_loop_face(**settings)
        return self.inbox if style == "queue" else self.inbox.iterator()

    def enter_loop_face(self, **settings: Any) -> None:
        """A loop has no handler to decorate: wrap the channel, or instrument the process."""
        if self.face == "instrumented":
            self.instrument(**settings)
        else:
            hopspan.wrap(self.consumer, **self.settings(**settings))

    def _several(self) -> Iterator[Any]:
        """All that waits in the queue, as one list that was fetched before."""
        return iter([self.take() for _ in range(self.waiting(self.queue))])

    def end_loop(self) -> None:
        for each in self._iterators:
            iterator = each()
            if iterator is not None:
                self.events.step(iterator.close())
                _closed.add(iterator)

    def consume_by(self, style: str, body: Handler, **settings: Any) -> None:
        if style == "consume":
            self.handle(body, **settings)
        elif style.startswith("process"):
            self._consume_in_block(style, body, **settings)
        else:
            for item in self.loop(style, **settings):
                body(self.message(item))
                break

    def _consume_in_block(self, style: str, body: Handler, **settings: Any) -> None:
        if style == "process of get":
            message = self.fetch()
        else:
            turns = self.loop_over(self.inbox)
            message = self.message(next(turns))
        with self.block(message, **settings):
            body(message)

    # -- what metrics and instrumentation ask for --------------------------------------------------

    @property
    def metric_attributes(self) -> dict[str, Any]:
        return {
            "messaging.system": "rabbitmq",
            "messaging.destination.name": self.queue,
            **self.server,
        }

    @property
    def consumer_metric_attributes(self) -> dict[str, Any]:
        return self.metric_attributes

    def use_generated_queue(self, name: str) -> None:
        self.queue = self.admin.queue_declare(name).method.queue
        self._queues.add(self.queue)

    def ask_in_vain(self) -> None:
        assert self.events.step(self.inbox.get(fail=False)) is None

    def wrap_consumer(self, **settings: Any) -> Any:
        return hopspan.wrap(self.consumer, **self.settings(**settings))

    def register(self, receive: Callable[..., Any]) -> None:
        self.events.step(self.inbox.consume(receive))

    def registered(self) -> Callable[[Message], Any]:
        (callback,) = self.callbacks
        return lambda message: self.events.step(callback(message.native))

    def own_loop(self) -> Any:
        return self.loop_over(self.inbox)

    @property
    def classes(self) -> tuple[type, ...]:
        plain = (aio_pika.Connection, aio_pika.Channel, aio_pika.Exchange, aio_pika.Queue)
        robust = (
            aio_pika.RobustConnection,
            aio_pika.RobustChannel,
            aio_pika.RobustExchange,
            aio_pika.RobustQueue,
        )
        return (*plain, *robust, QueueIterator, aio_pika.Message, aio_pika.IncomingMessage)

    def use_wrapped_connection(self, **settings: Any) -> None:
        connection = hopspan.wrap(self.connect(), **self.settings(**settings))
        self.producer = self.events.step(connection.channel())
        self.consumer = self.events.step(connection.channel())

    def send_by_wrapped_connection(self, style: str, **settings: Any) -> None:
        connection = hopspan.wrap(
            self.connect(robust=style == "robust"), **self.settings(**settings)
        )
        channel = self.events.step(connection.channel(on_return_raises=style == "raising"))
        self._send(channel.default_exchange, self.queue, b"order")
        self.events.step(channel.close())

    def send_wrongly(self, *, traced: bool) -> None:
        channel: Any = self.producer if traced else self.consumer
        message = aio_pika.Message(b"order")
        self.events.step(channel.default_exchange.publish(message, self.queue, colour="red"))

    def send_so_that(self, outcome: str, style: str) -> Sent:
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
        self.use_queue(full, x_max_length=1, x_overflow="reject-publish")
        self.admin.basic_publish("", full, b"the only one")
        self.admin.queue_declare(full, passive=True)  # it has arrived
        self.queue = usual
        return full

    def send_at_once(
        self, outcomes: Sequence[str], style: str, *, unseen: bool = False
    ) -> list[Sent]:
        confirms = outcomes[0] != "unconfirmed"
        channel = self._traced(
            self.open_channel(
                robust=style == "robust",
                publisher_confirms=confirms,
                on_return_raises=confirms and style == "raising",
            )
        )
        addresses = [self._address(outcome) for outcome in outcomes]
        tasks = []
        for outcome, (exchange, key) in zip(outcomes, addresses, strict=True):
            to = channel.default_exchange
            if exchange:
                to = self.events.step(channel.get_exchange(exchange, ensure=False))
            with silence() if outcome == "untraced" else nullcontext():
                tasks.append(self.events.create_task(to.publish(aio_pika.Message(b"order"), key)))
        assert self.events.until(lambda: all(task.done() for task in tasks))
        return [
            _sent(outcome, _publish_name(*address), task)
            for outcome, address, task in zip(outcomes, addresses, tasks, strict=True)
            if outcome != "untraced"
        ]

    def loop(self, style: str, *, prefetch: int = 1, **settings: Any) -> Any:
        """A plain iterator over the queue's messages, in one of the styles."""
        self._prefetch(prefetch)
        if style == "each over a list":
            return hopspan.each(self._several(), via=self.consumer, **self.settings(**settings))
        return self.loop_over(self.loop_by(style, **settings))


class Turns:
    """A plain iterator over an asynchronous one, each turn of which is awaited where it is asked."""

    def __init__(self, loop: Loop, messages: Any) -> None:
        self._loop, self._messages = loop, messages
        self._turns: Any = None

    def __iter__(self) -> Turns:
        self._turns = self._messages.__aiter__()
        self._messages = None
        return self

    def __next__(self) -> Any:
        if self._turns is None:
            iter(self)
        if not CAN_END and getattr(self._turns, "_source", self._turns) in _closed:
            self._turns.leave()
            raise StopIteration
        try:
            if threading.get_ident() == self._loop.thread:
                loop, turn = self._loop, _Awaitable(self._turns.__anext__())
                del self  # an exception that is kept must not keep the loop
                return loop.step(turn)
            # Somebody in another thread must have it done by the loop.
            return asyncio.run_coroutine_threadsafe(_next(self._turns), self._loop).result(DEADLINE)
        except StopAsyncIteration:
            raise StopIteration from None

    def close(self) -> None:
        """Leave the loop."""
        close = getattr(self._turns, "close", None) or self._turns.aclose
        self._loop.step(close())
        _closed.add(getattr(self._turns, "_source", self._turns))


class _Awaitable:
    """What is awaited without being kept, where an exception keeps the frames that it went through."""

    def __init__(self, awaitable: Any) -> None:
        self._awaitable = awaitable

    def __await__(self) -> Any:
        awaitable, self._awaitable = self._awaitable, None
        return awaitable.__await__()


async def _next(turns: Any) -> Any:
    return await turns.__anext__()


def _sent(outcome: str, name: str, task: asyncio.Task[Any]) -> Sent:
    error = task.exception()
    if error is not None:
        return Sent(name, ERRORS[outcome], str(error), error)
    if outcome == "unroutable":
        assert isinstance(task.result(), DeliveredMessage)
        return Sent(name, ERRORS[outcome], "NO_ROUTE")
    return Sent(name)


ERRORS = {"unroutable": "no-route", "refused": "nack", "nowhere": "not-found"}
"""`error.type` of messages that were not taken."""


def _publish_name(exchange: str, key: str) -> str:
    return "publish " + ":".join(part for part in (exchange, key) if part)


def _as_sent(value: Any) -> Any:
    """Headers as they were given to pika: aio-pika gives bytes as a `bytearray`."""
    if isinstance(value, dict):
        return {key: _as_sent(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_as_sent(each) for each in value]
    return bytes(value) if isinstance(value, bytearray) else value


def _word(frame: Frame) -> str:
    name, *values = frame
    if name in {"ack", "recover"}:
        return str(name)
    return "requeue" if values[-1] else "reject"


@contextmanager
def on_fake(loop: Loop, features: Features, **shape: Any) -> Iterator[AioPikaClient]:
    """A client of a fake broker of its own."""
    with (
        FakeRabbit() as broker,
        AioPikaClient(broker.url, features, loop=loop, broker=broker, **shape) as client,
    ):
        yield client


NOT_HERE = {
    "a_body_that_has_not_run_is_passed_on_and_left": "a coroutine's generator is its result",
    "a_counter_only_ever_rises": "a consumer goes on while somebody sends",
    "a_dead_letter_block_is_refused_on_entering": "told in pika's words",
    "a_dead_letter_decorator_is_refused_at_the_first_message": "told in pika's words",
    "a_dead_letter_policy_is_refused_where_the_broker_does_it": "told in pika's words",
    "a_decorator_that_the_channel_cannot_see_still_has_its_say": "by a plain function",
    "a_handler_that_raises_while_its_deferred_work_goes_on_leaves_it_to_the_work": "by a thread",
    "a_method_that_was_replaced_on_an_instance_is_left_alone_when_it_is_wrapped": "of a channel",
    "a_policy_that_would_be_lost_to_another_instrumentation_is_refused": "it has the whole client",
    "a_refused_policy_among_others_is_refused_too": "told in pika's words",
    "a_second_ack_of_the_users_own_is_the_users_own": "the client sends no second ack",
    "a_settling_decorator_is_refused_at_the_first_message_that_is_acked_already": "pika's words",
    "a_settling_policy_is_refused_when_its_consumer_acks_by_itself": "told in pika's words",
    "a_suppressed_handler_is_settled_by_its_policy_and_finds_its_delivery": "by who drives it",
    "deferred_work_in_a_thread_is_settled_when_it_is_done": "by a thread",
    "nothing_is_measured_where_instrumentation_is_suppressed": "by who drives it",
    "what_was_settled_before_it_was_handled_is_not_settled_again": "handled as it comes",
}
"""Scenarios that cannot be as they are, and why; `scenarios_aio_pika` has one in place of each."""


def play_on_fake(play: Play) -> None:
    """Play a scenario on a fake broker."""
    loop = Loop()
    loop.play(lambda: play(functools.partial(on_fake, loop)))


def play_on(play: Play, url: str) -> None:
    """Play a scenario on a real broker."""
    loop = Loop()
    loop.play(lambda: play(functools.partial(AioPikaClient, url, loop=loop)))

"""aio-pika: channels of aiormq whose frames are made and parsed by pamqp, and go nowhere."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from time import perf_counter
from typing import Any, TypeVar

import aiormq
import pamqp.frame
from aio_pika import Channel, Connection, Exchange, Message, Queue
from aio_pika.abc import UnderlayChannel, UnderlayConnection
from aio_pika.tools import OneShotCallback
from aiormq.abc import ChannelFrame
from opentelemetry import propagate, trace
from opentelemetry.context import attach, detach
from opentelemetry.instrumentation.aio_pika import AioPikaInstrumentor
from opentelemetry.instrumentation.aio_pika.version import __version__ as contrib_version
from opentelemetry.trace import Link, set_span_in_context
from pamqp import body, header
from pamqp.commands import Basic
from pamqp.commands import Connection as ConnectionMethods
from yarl import URL

import hopspan
from benchmarks.clients.captured import captured
from benchmarks.floors import Floor, traceparent
from benchmarks.modes import Telemetry
from benchmarks.sampling import Row, take

EXCHANGE, KEY, QUEUE, TAG = "orders", "created", "billing", "ctag1"
BODY = b"x" * 256
PLAIN: Mapping[str, Any] = {"tenant": "acme"}
_PREFETCH = 10
T = TypeVar("T")
_URL = "amqp://broker.example:5672/"

_ACK = (pamqp.frame.marshal(Basic.Ack(0), 1)[:11], pamqp.frame.marshal(Basic.Ack(0), 1)[19:])
"""A confirm as the broker sends it, without its tag: writing it is not what is measured."""

_loop = asyncio.new_event_loop()
_kept: list[Any] = []
"""Everything that was opened: what was never connected cannot be closed, and would try to."""


class _Drain:
    """The connection's queue of outgoing frames, each gone at once, and what the broker answers."""

    def __init__(self) -> None:
        self.written: list[bytes] | None = None
        self.channel: Any = None
        """Gets the answers."""
        self.confirms = False
        """Whether what goes out is messages, each to be confirmed; it is a channel's set-up otherwise."""
        self._tag = 0

    async def put(self, outgoing: ChannelFrame) -> None:
        outgoing.drain()
        if self.written is not None:
            self.written.append(outgoing.payload)
        if self.confirms:
            self._tag += 1
            self._answer(b"%b%b%b" % (_ACK[0], self._tag.to_bytes(8, "big"), _ACK[1]))
        elif self.channel is not None:
            _, _, method = pamqp.frame.unmarshal(outgoing.payload)
            if isinstance(method, Basic.Consume):
                self._answer(pamqp.frame.marshal(Basic.ConsumeOk(TAG), 1))

    def _answer(self, data: bytes) -> None:
        weight, _, parsed = pamqp.frame.unmarshal(data)
        self.channel.frames.put_nowait((weight, parsed))


async def _opened(*, confirms: bool) -> tuple[Channel, _Drain]:
    transport = aiormq.Connection(_URL)
    transport.write_queue = drain = _Drain()  # type: ignore[assignment]
    transport.connection_tune = ConnectionMethods.Tune(2047, 131072, 0)
    transport.server_properties = {"capabilities": {"publisher_confirms": True}}
    connection = Connection(URL(_URL))
    connection.transport = UnderlayConnection(transport, OneShotCallback(_ignored))
    channel = Channel(connection, publisher_confirms=confirms)
    beneath = aiormq.Channel(transport, 1, publisher_confirms=confirms)
    drain.channel, drain.confirms = beneath, confirms
    channel._channel = UnderlayChannel(beneath, OneShotCallback(_ignored))
    _kept.append((connection, channel))
    return channel, drain


async def _ignored(*_: Any) -> None: ...


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run something in the loop that the channels belong to."""
    return _loop.run_until_complete(work)


def open_channel(*, confirms: bool = False) -> tuple[Channel, _Drain]:
    """A channel as an application has it, and where its frames go."""
    return run(_opened(confirms=confirms))


def wrapped_by_contrib(telemetry: Telemetry, owner: type, method: str) -> type:
    """A class whose method is wrapped as contrib's instrumentor wraps it."""
    tracer = trace.get_tracer(
        "opentelemetry.instrumentation.aio_pika",
        contrib_version,
        telemetry.tracer_provider,
        schema_url="https://opentelemetry.io/schemas/1.11.0",
    )
    wire = {
        "publish": AioPikaInstrumentor._instrument_exchange,
        "consume": AioPikaInstrumentor._instrument_queue,
    }[method]
    return captured(owner, method, lambda: wire(tracer))


# -- publishing ------------------------------------------------------------------------------------


def _message(headers: dict[str, Any]) -> Message:
    return Message(
        BODY,
        headers=headers,
        content_type="application/json",
        delivery_mode=2,
        message_id="5f1d7f3c",
    )


class Publish:
    """`Exchange.publish`, with the confirms that a channel has unless it is told otherwise."""

    def __init__(self) -> None:
        self._drains: dict[str, _Drain] = {}

    def bare(self) -> Row:
        return self._row("bare", self._exchange("bare"))

    def contrib(self, telemetry: Telemetry) -> Row:
        exchange = self._exchange("contrib", wrapped_by_contrib(telemetry, Exchange, "publish"))
        return self._row("contrib", exchange, telemetry)

    def hopspan(self, name: str, telemetry: Telemetry, **settings: Any) -> Row:
        exchange = hopspan.wrap(self._exchange(name), **{**telemetry.providers, **settings})
        return self._row(name, exchange, telemetry)

    def floor(self, by: Floor, telemetry: Telemetry) -> Row:
        exchange = self._exchange(by.name)
        start, shape, measure = by.tracer.start_span, by.shape, by.measure
        name, kind, attributes = shape.name, shape.kind, shape.attributes

        async def publish(batch: Iterable[int]) -> None:
            for _ in batch:
                headers = {**PLAIN} if by.propagates else {**PLAIN, **by.carried}
                began = perf_counter()
                span = start(name, None, kind, attributes)
                if by.propagates:
                    propagate.inject(headers, set_span_in_context(span))
                await exchange.publish(_message(headers), KEY)
                if measure is not None:
                    measure(perf_counter() - began, set_span_in_context(span))
                span.end()

        return _timed(by.name, publish, telemetry)

    def carried(self, row: Row) -> Mapping[str, Any]:
        """The headers of a message that a row sends, as they are on the wire."""
        drain = self._drains[row.name]
        drain.written = []
        row.run(range(1))
        (payload,), drain.written = drain.written, None
        length, _, _ = pamqp.frame.unmarshal(payload)
        _, _, found = pamqp.frame.unmarshal(payload[length:])
        assert isinstance(found, header.ContentHeader)
        return dict(found.properties.headers or {})

    def _exchange(self, name: str, kind: Any = Exchange) -> Any:
        channel, self._drains[name] = open_channel(confirms=True)
        return kind(channel, EXCHANGE)

    def _row(self, name: str, exchange: Any, telemetry: Telemetry | None = None) -> Row:
        async def publish(batch: Iterable[int]) -> None:
            for _ in batch:
                await exchange.publish(_message({**PLAIN}), KEY)

        return _timed(name, publish, telemetry)


def _timed(
    name: str,
    work: Callable[[Any], Coroutine[Any, Any, None]],
    telemetry: Telemetry | None,
    **given: Any,
) -> Row:
    row = Row(name, lambda batch: run(work(batch)), **given)
    return row if telemetry is None else row._replace(flush=telemetry.flush)


# -- consuming -------------------------------------------------------------------------------------

Handler = Callable[[Any], Awaitable[None]]
Around = Callable[[Handler], Handler]


def _as_it_is(handler: Handler) -> Handler:
    return handler


async def acknowledge(message: Any) -> None:
    """A handler that does nothing but what every handler has to."""
    await message.ack()


POLICY = hopspan.requeue_once


async def leave(message: Any) -> None:
    """A handler that leaves it to a policy to settle."""


class _Feed:
    """A broker that delivers, as far ahead as a prefetch count lets it."""

    def __init__(self, channel: Any, headers: Mapping[str, Any]) -> None:
        properties = Basic.Properties(
            "application/json", delivery_mode=2, message_id="5f1d7f3c", headers=dict(headers)
        )
        self._channel = channel
        self._tail = (
            pamqp.frame.marshal(header.ContentHeader(0, len(BODY), properties), 1),
            pamqp.frame.marshal(body.ContentBody(BODY), 1),
        )
        self.tag = 0
        """Of the message that was made last."""
        self._open = 0
        self._done = asyncio.Event()

    def prepare(self, count: int) -> list[tuple[bytes, ...]]:
        """The next messages. Delivery tags count up on a channel, as the broker's do."""
        first, self.tag = self.tag + 1, self.tag + count
        return [
            (
                pamqp.frame.marshal(
                    Basic.Deliver(TAG, tag, redelivered=False, exchange=EXCHANGE, routing_key=KEY),
                    1,
                ),
                *self._tail,
            )
            for tag in range(first, self.tag + 1)
        ]

    async def run(self, messages: list[tuple[bytes, ...]]) -> None:
        """Receive, and wait for the handlers."""
        receive, parse = self._channel.frames.put, pamqp.frame.unmarshal
        for first in range(0, len(messages), _PREFETCH):
            several = messages[first : first + _PREFETCH]
            self._open = len(several)
            self._done.clear()
            for message in several:
                for data in message:
                    weight, _, parsed = parse(data)
                    await receive((weight, parsed))
            await self._done.wait()

    def counting(self, handler: Handler) -> Handler:
        """The handler, and when the last of several is done."""

        async def handle(message: Any) -> None:
            await handler(message)
            self._open -= 1
            if not self._open:
                self._done.set()

        return handle


class Consume:
    """A callback of `Queue.consume`: it acknowledges its message, or a policy does."""

    acks = True
    """Whether each row settles its message."""
    encloses = True
    """Whether contrib's span is current in the handler."""
    warm = 12_000
    """Hopspan's ledger keeps the last 10,000 settlements of a channel: it is measured full."""

    def __init__(self, mode: str, handler: Handler = acknowledge, leaves: Handler = leave) -> None:
        self.headers = {**PLAIN, "traceparent": traceparent(mode)}
        self.handler = handler
        self.leaves = leaves
        """The handler of rows with a policy."""
        self._mode = mode
        self._wires: dict[str, tuple[_Feed, _Drain]] = {}

    def looking(self, look: Callable[[], None]) -> Consume:
        """The same with handlers that look around."""

        async def handle(message: Any) -> None:
            look()
            await acknowledge(message)

        async def only_look(message: Any) -> None:
            look()

        return Consume(self._mode, handle, only_look)

    def policied(self) -> Consume:
        """The same where a policy is to settle: nothing else changes."""
        return self

    def bare(self) -> Row:
        return self._row("bare", Queue, self.handler)

    def contrib(self, telemetry: Telemetry) -> Row:
        kind = wrapped_by_contrib(telemetry, Queue, "consume")
        return self._row("contrib", kind, self.handler, telemetry)

    def hopspan(self, name: str, telemetry: Telemetry, **settings: Any) -> Row:
        return self._ours(name, self.handler, telemetry, settings)

    def decorated(self, name: str, telemetry: Telemetry, **settings: Any) -> Row:
        """A decorated handler with a policy, on a wrapped queue."""
        decorate = hopspan.consumer(policy=POLICY)
        return self._ours(name, self.leaves, telemetry, settings, decorate)

    def wrapped(self, name: str, telemetry: Telemetry, **settings: Any) -> Row:
        """A plain handler on a queue that is wrapped with a policy."""
        return self._ours(name, self.leaves, telemetry, {**settings, "policy": POLICY})

    def floor(self, by: Floor, telemetry: Telemetry) -> Row:
        return self._row(
            by.name, Queue, self.handler, telemetry, lambda handler: _by_hand(by, handler)
        )

    def is_settled(self, row: Row) -> bool:
        """Whether a message that a row handles is acked, once."""
        feed, drain = self._wires[row.name]
        drain.written = []
        take(row, 1)
        sent: list[Any] = [pamqp.frame.unmarshal(payload)[2] for payload in drain.written]
        drain.written = None
        return [(type(each), each.delivery_tag) for each in sent] == [(Basic.Ack, feed.tag)]

    def _ours(
        self,
        name: str,
        handler: Handler,
        telemetry: Telemetry,
        settings: Mapping[str, Any],
        around: Around = _as_it_is,
    ) -> Row:
        def kind(*args: Any) -> Any:
            return hopspan.wrap(Queue(*args), **{**telemetry.providers, **settings})

        return self._row(name, kind, handler, telemetry, around)._replace(warm=self.warm)

    def _row(
        self,
        name: str,
        kind: Any,
        handler: Handler,
        telemetry: Telemetry | None = None,
        around: Around = _as_it_is,
    ) -> Row:
        channel, drain = open_channel()
        queue = kind(channel, QUEUE, True, False, False, None)
        feed = _Feed(drain.channel, self.headers)
        self._wires[name] = feed, drain
        run(queue.consume(around(feed.counting(handler)), consumer_tag=TAG))
        drain.channel = None
        return _timed(name, feed.run, telemetry, prepare=feed.prepare)


def _by_hand(by: Floor, handler: Handler) -> Handler:
    start, shape, measure = by.tracer.start_span, by.shape, by.measure
    name, kind, attributes = shape.name, shape.kind, shape.attributes
    is_linked = shape.is_linked

    async def handle(message: Any) -> None:
        began = perf_counter()
        parent, links = by.parent, by.links
        if by.propagates:
            parent = propagate.extract(message.headers)
            if is_linked:
                links = (Link(trace.get_current_span(parent).get_span_context()),)
        span = start(name, parent, kind, attributes, links)
        current = set_span_in_context(span, parent)
        token = attach(current)
        try:
            await handler(message)
        finally:
            detach(token)
            if measure is not None:
                measure(perf_counter() - began, current)
            span.end()

    return handle

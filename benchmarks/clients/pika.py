"""pika: a `BlockingConnection` whose bytes are made and parsed by pika, and go nowhere."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from time import perf_counter
from types import SimpleNamespace
from typing import Any

import pika
from opentelemetry import propagate, trace
from opentelemetry.context import attach, detach
from opentelemetry.instrumentation.pika import PikaInstrumentor
from opentelemetry.trace import Link, Status, StatusCode, set_span_in_context
from pika import BasicProperties, frame, spec
from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection

import hopspan
from benchmarks.floors import Floor, traceparent
from benchmarks.modes import Telemetry
from benchmarks.sampling import Row, take

EXCHANGE, KEY, QUEUE, TAG = "orders", "created", "billing", "ctag1"
BODY = b"x" * 256
PLAIN: Mapping[str, Any] = {"tenant": "acme"}
"""What the application itself has in its headers."""

Headers = dict[str, Any]
_ANSWERS = {spec.Channel.Open: spec.Channel.OpenOk, spec.Basic.Qos: spec.Basic.QosOk}


_Beneath: Any = pika.connection.Connection
"""What it is made of is private: no stubs know it."""


class Wire(_Beneath):
    """A connection that is open, to a broker that answers what a channel needs to begin."""

    def __init__(self) -> None:
        self.written: list[bytes] | None = None
        """What goes out, while somebody is looking."""
        self._replies: deque[bytes] = deque()
        self._transport = None
        super().__init__(
            pika.ConnectionParameters("broker.example", 5672), internal_connection_workflow=False
        )
        self.ioloop = SimpleNamespace(
            poll=self._poll, process_timeouts=lambda: None, close=lambda: None
        )
        self.params.frame_max, self.params.channel_max = 131072, 2047
        self._body_max_length = self._get_body_frame_max_length()
        self.server_capabilities: dict[str, Any] = {}
        self._opened = True
        self._set_connection_state(self.CONNECTION_OPEN)
        self._answers = True

    def begun(self) -> None:
        """Everything is set up: nothing is answered any more, nor looked at."""
        self._answers = False

    def _adapter_emit_data(self, data: bytes) -> None:
        if self._answers:
            self._answer(data)
        if self.written is not None:
            self.written.append(data)

    def _answer(self, data: bytes) -> None:
        method: Any = frame.decode_frame(data)[1]
        asked = getattr(method, "method", None)
        if isinstance(asked, spec.Basic.Consume):
            self._reply(method.channel_number, spec.Basic.ConsumeOk(TAG))
        elif type(asked) in _ANSWERS:
            self._reply(method.channel_number, _ANSWERS[type(asked)]())

    def _reply(self, number: int, method: Any) -> None:
        self._replies.append(frame.Method(number, method).marshal())

    def _poll(self) -> None:
        while self._replies:
            self._on_data_available(self._replies.popleft())

    def _get_write_buffer_size(self) -> int:
        return 0

    def _adapter_call_later(self, delay: float, callback: Any) -> None: ...
    def _adapter_remove_timeout(self, timeout_id: object) -> None: ...
    def _adapter_add_callback_threadsafe(self, callback: Any) -> None: ...
    def _adapter_connect_stream(self) -> None: ...
    def _adapter_disconnect_stream(self) -> None: ...


class _Connection(BlockingConnection):
    def _create_connection(self, *_: Any) -> Any:
        return Wire()


def open_channel() -> BlockingChannel:
    """A channel as an application has it."""
    return _Connection().channel()


def wire_of(channel: BlockingChannel) -> Wire:
    """The connection beneath a channel."""
    connection: Any = channel.connection
    wire: Wire = connection._impl
    return wire


# -- publishing ------------------------------------------------------------------------------------


def publisher(channel: BlockingChannel) -> Callable[[Headers], None]:
    """What the application does to publish; its properties are fresh for each message."""

    def publish(headers: Headers) -> None:
        properties = BasicProperties(
            "application/json", delivery_mode=2, message_id="5f1d7f3c", headers=headers
        )
        channel.basic_publish(EXCHANGE, KEY, BODY, properties)

    return publish


def _publishes(
    name: str,
    channel: BlockingChannel,
    telemetry: Telemetry | None = None,
    plain: Mapping[str, Any] = PLAIN,
) -> Row:
    publish = publisher(channel)
    wire_of(channel).begun()

    def run(batch: Iterable[int]) -> None:
        for _ in batch:
            publish({**plain})

    return Row(name, run) if telemetry is None else Row(name, run, flush=telemetry.flush)


class Publish:
    """`basic_publish`, without confirms: there is nobody to wait for."""

    def __init__(self, added: Mapping[str, Any] | None = None) -> None:
        self._channels: dict[str, BlockingChannel] = {}
        self._plain = {**PLAIN, **(added or {})}

    def bare(self) -> Row:
        return _publishes("bare", self._open("bare"), plain=self._plain)

    def contrib(self, telemetry: Telemetry) -> Row:
        channel = self._open("contrib")
        PikaInstrumentor.instrument_channel(channel, tracer_provider=telemetry.tracer_provider)
        return _publishes("contrib", channel, telemetry)

    def hopspan(self, name: str, telemetry: Telemetry, **settings: Any) -> Row:
        channel = hopspan.wrap(self._open(name), **{**telemetry.providers, **settings})
        return _publishes(name, channel, telemetry)

    def floor(self, by: Floor, telemetry: Telemetry) -> Row:
        channel = self._open(by.name)
        publish = publisher(channel)
        wire_of(channel).begun()
        start, shape, measure = by.tracer.start_span, by.shape, by.measure
        name, kind, attributes = shape.name, shape.kind, shape.attributes

        def run(batch: Iterable[int]) -> None:
            for _ in batch:
                headers = {**PLAIN} if by.propagates else {**PLAIN, **by.carried}
                began = perf_counter()
                span = start(name, None, kind, attributes)
                if by.propagates:
                    propagate.inject(headers, set_span_in_context(span))
                publish(headers)
                if measure is not None:
                    measure(perf_counter() - began, set_span_in_context(span))
                span.end()

        return Row(by.name, run, flush=telemetry.flush)

    def carried(self, row: Row) -> Mapping[str, Any]:
        """The headers of a message that a row sends, as they are on the wire."""
        wire = wire_of(self._channels[row.name])
        wire.written = []
        row.run(range(1))
        frames = [frame.decode_frame(data)[1] for data in wire.written]
        wire.written = None
        (header,) = (each for each in frames if isinstance(each, frame.Header))
        return dict(header.properties.headers or {})

    def _open(self, name: str) -> BlockingChannel:
        channel = self._channels[name] = open_channel()
        return channel


# -- consuming -------------------------------------------------------------------------------------

Handler = Callable[[Any, Any, Any, bytes], None]


def acknowledge(channel: Any, method: Any, _properties: Any, _body: bytes) -> None:
    """A handler that does nothing but what every handler has to."""
    channel.basic_ack(method.delivery_tag)


POLICY = hopspan.requeue_once


def leave(_channel: Any, _method: Any, _properties: Any, _body: bytes) -> None:
    """A handler that leaves it to a policy to settle."""


class Feed:
    """A broker that delivers, each message as bytes of its own."""

    def __init__(self, channel: BlockingChannel, headers: Mapping[str, Any]) -> None:
        properties = BasicProperties(
            "application/json", delivery_mode=2, message_id="5f1d7f3c", headers=dict(headers)
        )
        number = channel.channel_number
        self._channel: Any = channel
        self.wire = wire_of(channel)
        self._number = number
        self._tail = (
            frame.Header(number, len(BODY), properties).marshal()
            + frame.Body(number, BODY).marshal()
        )
        self.tag = 0
        """Of the message that was made last."""

    def prepare(self, count: int) -> list[bytes]:
        """The next messages. Delivery tags count up on a channel, as the broker's do."""
        first, self.tag = self.tag + 1, self.tag + count
        return [self.message(tag) for tag in range(first, self.tag + 1)]

    def message(self, tag: int, key: str = KEY) -> bytes:
        """One message as the broker sends it."""
        method = spec.Basic.Deliver(TAG, tag, exchange=EXCHANGE, routing_key=key)
        return frame.Method(self._number, method).marshal() + self._tail

    def run(self, messages: list[bytes]) -> None:
        """Receive and dispatch."""
        receive, dispatch = self.wire._on_data_available, self._channel._dispatch_events
        for message in messages:
            receive(message)
            dispatch()

    def run_failing(self, messages: list[bytes]) -> None:
        """`run` for a handler that raises: pika lets it through, so the application has to catch it."""
        receive, dispatch = self.wire._on_data_available, self._channel._dispatch_events
        for message in messages:
            receive(message)
            with suppress(ValueError):
                dispatch()


class Consume:
    """A callback of `basic_consume`: it acknowledges its message, or a policy does."""

    acks = True
    """Whether each row settles its message."""
    encloses = True
    """Whether contrib's span is current in the handler."""
    warm = 12_000
    """Hopspan's ledger keeps the last 10,000 settlements of a channel: it is measured full."""

    def __init__(
        self,
        mode: str,
        handler: Handler = acknowledge,
        leaves: Handler = leave,
        *,
        baggage: str = "",
        raises: bool = False,
    ) -> None:
        self.headers = {**PLAIN, "traceparent": traceparent(mode)}
        if baggage:
            self.headers["baggage"] = baggage
        self.handler = handler
        self.leaves = leaves
        """The handler of rows with a policy."""
        self.raises = raises
        """Whether handlers fail with a `ValueError`."""
        self._mode = mode
        self._feeds: dict[str, Feed] = {}

    def looking(self, look: Callable[[], None]) -> Consume:
        """The same with handlers that look around."""

        def handle(*args: Any) -> None:
            look()
            acknowledge(*args)

        return Consume(self._mode, handle, lambda *_: look())

    def policied(self) -> Consume:
        """The same where a policy is to settle: nothing else changes."""
        return self

    def bare(self) -> Row:
        return self._row("bare", open_channel(), self.handler)

    def contrib(self, telemetry: Telemetry) -> Row:
        channel = open_channel()
        PikaInstrumentor.instrument_channel(channel, tracer_provider=telemetry.tracer_provider)
        return self._row("contrib", channel, self.handler, telemetry)

    def hopspan(self, name: str, telemetry: Telemetry, **settings: Any) -> Row:
        return self._ours(name, self.handler, telemetry, settings)

    def decorated(self, name: str, telemetry: Telemetry, **settings: Any) -> Row:
        """A decorated handler with a policy, on a wrapped channel."""
        handler = hopspan.consumer(policy=POLICY)(self.leaves)
        return self._ours(name, handler, telemetry, settings)

    def wrapped(self, name: str, telemetry: Telemetry, **settings: Any) -> Row:
        """A plain handler on a channel that is wrapped with a policy."""
        return self._ours(name, self.leaves, telemetry, {**settings, "policy": POLICY})

    def floor(self, by: Floor, telemetry: Telemetry) -> Row:
        return self._row(by.name, open_channel(), _by_hand(by, self.handler), telemetry)

    def is_settled(self, row: Row) -> bool:
        """Whether a message that a row handles is acked, once."""
        feed = self._feeds[row.name]
        feed.wire.written = []
        take(row, 1)
        sent: list[Any] = [frame.decode_frame(data)[1] for data in feed.wire.written]
        feed.wire.written = None
        methods = [each.method for each in sent]
        return [(type(each), each.delivery_tag) for each in methods] == [(spec.Basic.Ack, feed.tag)]

    def _ours(
        self, name: str, handler: Handler, telemetry: Telemetry, settings: Mapping[str, Any]
    ) -> Row:
        channel = hopspan.wrap(open_channel(), **{**telemetry.providers, **settings})
        return self._row(name, channel, handler, telemetry)._replace(warm=self.warm)

    def _row(
        self, name: str, channel: Any, handler: Handler, telemetry: Telemetry | None = None
    ) -> Row:
        channel.basic_consume(QUEUE, handler, consumer_tag=TAG)
        wire_of(channel).begun()
        feed = self._feeds[name] = Feed(channel, self.headers)
        row = Row(name, feed.run_failing if self.raises else feed.run, feed.prepare)
        return row if telemetry is None else row._replace(flush=telemetry.flush)


def _by_hand(by: Floor, handler: Handler) -> Handler:
    start, shape, measure = by.tracer.start_span, by.shape, by.measure
    name, kind, attributes = shape.name, shape.kind, shape.attributes
    is_linked = shape.is_linked

    def handle(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        began = perf_counter()
        parent, links = by.parent, by.links
        if by.propagates:
            parent = propagate.extract(properties.headers)
            if is_linked:
                links = (Link(trace.get_current_span(parent).get_span_context()),)
        span = start(name, parent, kind, attributes, links)
        current = set_span_in_context(span, parent)
        token = attach(current)
        try:
            handler(channel, method, properties, body)
        except Exception as error:
            if span.is_recording():
                span.set_attribute("error.type", type(error).__name__)
                span.record_exception(error)
                span.set_status(Status(StatusCode.ERROR, str(error)))
            raise
        finally:
            detach(token)
            if measure is not None:
                measure(perf_counter() - began, current)
            span.end()

    return handle

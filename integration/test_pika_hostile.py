"""No header stops a consumer: one consumer, hundreds of hostile messages, a real RabbitMQ.

Left out is what pika itself cannot read, with or without hopspan: a float that is not a number or
infinite, and a time after the year 9999; its connection dies of them. And what RabbitMQ refuses
from the publisher already: field types that it does not know (`U`, `L`), and headers longer than a
frame.
"""

from __future__ import annotations

import queue
import struct
import threading
import uuid
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pika
import pika.data
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import SpanKind, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import hopspan
from tests.property.hostile import FIELDS, TEXT, VALID, Hostile, any_case, hostile, nested

DEADLINE = 10.0
"""Seconds after which a message that has not been handled never will be."""
LONGEST = 100_000
"""Bytes of headers that fit into a frame beside everything else."""
EXAMPLES = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class Wire(bytes):
    """A field value as it goes over the wire, its type in front; pika's encoder has not all."""

    __slots__ = ()


class Entries(dict[Any, Any]):
    """A table in which a key can be there more than once."""

    def __init__(self, entries: Sequence[tuple[Any, Any]]) -> None:
        super().__init__(entries)
        self._entries = entries

    def items(self) -> Any:
        return self._entries


@pytest.fixture(scope="module", autouse=True)
def encoder() -> Iterator[None]:
    """Let pika send `Wire` values."""
    encode = pika.data.encode_value

    def encode_value(pieces: list[bytes], value: Any) -> int:
        if isinstance(value, Wire):
            pieces.append(bytes(value))
            return len(value)
        return encode(pieces, value)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pika.data, "encode_value", encode_value)
        yield


def as_received(headers: dict[Any, Any]) -> dict[Any, Any]:
    """Headers after a way over the wire."""
    pieces: list[bytes] = []
    pika.data.encode_table(pieces, headers)
    return pika.data.decode_table(b"".join(pieces), 0)[0]


def parent_in(headers: dict[Any, Any] | None) -> str | None:
    """Whom headers name, in the order in which they arrive: RabbitMQ 4 sends them in its own."""
    named = [value for key, value in (headers or {}).items() if _is_traceparent(key)]
    last = named[-1] if named else None
    if isinstance(last, bytes):
        last = last.decode("utf-8", "replace")
    carrier = {"traceparent": last} if isinstance(last, str) else {}
    span = get_current_span(TraceContextTextMapPropagator().extract(carrier)).get_span_context()
    return f"{span.trace_id:032x}-{span.span_id:016x}" if span.is_valid else None


def _is_traceparent(key: Any) -> bool:
    return isinstance(key, str) and key.lower() == "traceparent"


def fits(headers: dict[Any, Any]) -> bool:
    """Whether they can be sent in a frame."""
    pieces: list[bytes] = []
    pika.data.encode_table(pieces, headers)
    return sum(map(len, pieces)) < LONGEST


class Handled(NamedTuple):
    """What became of a message."""

    headers: Any
    """As the handler saw them."""
    span: ReadableSpan

    @property
    def parent(self) -> str | None:
        parent = self.span.parent
        return parent and f"{parent.trace_id:032x}-{parent.span_id:016x}"

    @property
    def settlement(self) -> Any:
        return (self.span.attributes or {}).get("hopspan.settlement")


class Consumer(SpanExporter):
    """A consumer in a thread of its own, on one connection from the first message to the last."""

    def __init__(self, url: str) -> None:
        self.ended: BaseException | None = None
        self.messages = self.failures = self.runs = 0
        self._url, self._name = url, f"hostile-{uuid.uuid4().hex[:8]}"
        self._seen: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._spans: queue.SimpleQueue[ReadableSpan] = queue.SimpleQueue()
        connection = pika.BlockingConnection(pika.URLParameters(url))
        self._publisher = connection.channel()
        release = connection._impl.server_properties["version"]
        self.keeps_order: bool = release.startswith("3.")
        """Whether headers arrive in the order in which they were sent."""
        self._declare()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="consumer")
        self._thread.start()
        assert self._ready.wait(DEADLINE)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for span in spans:
            if span.kind is SpanKind.CONSUMER:
                self._spans.put(span)
        return SpanExportResult.SUCCESS

    def _declare(self) -> None:
        declare = self._publisher
        declare.exchange_declare(self._name, "fanout")
        declare.queue_declare(f"{self._name}.dead")
        arguments = {
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": f"{self._name}.dead",
        }
        declare.queue_declare(self._name, arguments=arguments)
        declare.queue_bind(self._name, self._name)

    def _run(self) -> None:
        provider = TracerProvider(ALWAYS_ON, shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self))
        self._connection = pika.BlockingConnection(pika.URLParameters(self._url))
        self._channel = self._connection.channel()

        @hopspan.consumer(policy=hopspan.reject_on_error, tracer_provider=provider)
        def on_message(channel: Any, method: Any, properties: Any, body: bytes) -> None:
            self.runs += 1
            self._seen.put(properties.headers)
            if body == b"fail":
                raise ValueError(body)

        self._channel.basic_consume(self._name, on_message)
        self._ready.set()
        try:
            self._channel.start_consuming()
            self._connection.close()
        except BaseException as error:  # noqa: BLE001 - any end before the last message is a failure
            self.ended = error

    def handle(
        self, headers: Any, *, fail: bool = False, routing_key: Any = "key", **properties: Any
    ) -> Handled:
        """Send one message and wait until it has been handled and settled."""
        self.messages += 1
        self.failures += fail
        carrying = pika.BasicProperties(headers=headers, **properties)
        self._publisher.basic_publish(
            self._name, routing_key, b"fail" if fail else b"return", carrying
        )
        try:
            return Handled(self._seen.get(timeout=DEADLINE), self._spans.get(timeout=DEADLINE))
        except queue.Empty:
            raise AssertionError(f"never handled; the consumer: {self.ended!r}") from None

    def close(self) -> tuple[int, int]:
        """End it; return how many messages are in its queue and in the dead-letter queue."""
        if self.ended is None:
            self._connection.add_callback_threadsafe(self._channel.stop_consuming)
        self._thread.join(DEADLINE)
        left = [
            self._publisher.queue_declare(name, passive=True).method.message_count
            for name in (self._name, f"{self._name}.dead")
        ]
        for name in (self._name, f"{self._name}.dead"):
            self._publisher.queue_delete(name)
        self._publisher.exchange_delete(self._name)
        self._publisher.connection.close()
        return left[0], left[1]


@pytest.fixture(scope="module")
def consumer(rabbitmq_url: str, encoder: None) -> Iterator[Consumer]:
    """The consumer of all tests, which must never have stopped when they are over."""
    consumer = Consumer(rabbitmq_url)
    yield consumer
    left = consumer.close()
    assert consumer.ended is None, consumer.ended
    assert consumer.runs == consumer.messages, "each message is handled once"
    assert left == (0, consumer.failures), "each message is settled"


@EXAMPLES
@given(message=hostile().filter(lambda each: fits(each.headers)), fail=st.booleans())
def test_whatever_pika_can_send_is_handled_once_and_settled(
    consumer: Consumer, message: Hostile, fail: bool
) -> None:
    handled = consumer.handle(message.headers, fail=fail)
    assert handled.parent == parent_in(handled.headers)
    if consumer.keeps_order:
        assert repr(handled.headers) == repr(as_received(message.headers))
        assert handled.parent == (message.context and message.context[3:52])
    assert handled.settlement == ("reject" if fail else "ack")


def packed(kind: str, layout: str, values: st.SearchStrategy[Any]) -> st.SearchStrategy[Wire]:
    """Field values of one type."""
    return values.map(lambda value: Wire(kind.encode() + struct.pack(f">{layout}", value)))


def counted(kind: str, values: st.SearchStrategy[bytes]) -> st.SearchStrategy[Wire]:
    """Field values of one type that say how long they are."""
    return values.map(lambda value: Wire(kind.encode() + struct.pack(">I", len(value)) + value))


def integers(bits: int, *, signed: bool) -> st.SearchStrategy[int]:
    """Numbers that fit."""
    least = -(2 ** (bits - 1)) if signed else 0
    return st.integers(least, least + 2**bits - 1)


FOREIGN = st.one_of(
    packed("f", "f", st.floats(width=32, allow_nan=False, allow_infinity=False)),
    packed("d", "d", st.floats(allow_nan=False, allow_infinity=False)),
    packed("b", "b", integers(8, signed=True)),
    packed("B", "B", integers(8, signed=False)),
    packed("s", "h", integers(16, signed=True)),
    packed("u", "H", integers(16, signed=False)),
    packed("I", "i", integers(32, signed=True)),
    packed("i", "I", integers(32, signed=False)),
    packed("l", "q", integers(64, signed=True)),
    packed("t", "B", integers(8, signed=False)),
    packed("T", "Q", st.integers(0, 253_402_300_799)),
    counted("S", st.binary(max_size=60)),
    counted("x", st.binary(max_size=60)),
    st.builds(
        lambda scale, raw: Wire(b"D" + struct.pack(">Bi", scale, raw)),
        integers(8, signed=False),
        integers(32, signed=True),
    ),
)
FOREIGN_KEYS = st.binary(max_size=30).filter(lambda key: key.lower() not in {b"cc", b"bcc"})


@st.composite
def foreign(draw: st.DrawFn) -> Entries:
    """Headers of another client: every type, keys that are no text, keys that come twice."""
    special = st.one_of([any_case(name) for name in (*FIELDS, "x-delivery-count", "x-death")])
    pairs = st.tuples(special | FOREIGN_KEYS | TEXT.filter(_is_short), nested(FOREIGN | TEXT))
    entries = draw(st.lists(pairs, min_size=1, max_size=8))
    return Entries(entries + draw(st.lists(st.sampled_from(entries), max_size=2)))


def _is_short(key: str) -> bool:
    return len(key.encode()) < 256 and key.lower() not in {"cc", "bcc"}


@EXAMPLES
@given(headers=foreign(), fail=st.booleans())
@example(headers=Entries([("traceparent", Wire(b"S\0\0\0\2\xff\xfe"))]), fail=True)
@example(headers=Entries([(b"\xff\xfe", Wire(b"f\x3f\x80\0\0"))]), fail=True)
def test_whatever_other_clients_can_send_is_handled_once_and_settled(
    consumer: Consumer, headers: Entries, fail: bool
) -> None:
    handled = consumer.handle(headers, fail=fail)
    if consumer.keeps_order:
        assert repr(handled.headers) == repr(as_received(headers))
    assert handled.settlement == ("reject" if fail else "ack")


@given(first=VALID, second=VALID)
@settings(EXAMPLES, max_examples=10)
def test_of_two_headers_with_one_name_the_last_that_arrives_is_joined(
    consumer: Consumer, first: str, second: str
) -> None:
    handled = consumer.handle(Entries([("traceparent", first), ("traceparent", second)]))
    assert handled.parent in {first[3:52], second[3:52]}
    if consumer.keeps_order:
        assert handled.parent == second[3:52]
    assert handled.parent == parent_in(handled.headers)


@settings(EXAMPLES, max_examples=40)
@given(
    text=st.fixed_dictionaries(
        {},
        optional={
            name: st.binary(max_size=100)
            for name in (
                "message_id",
                "correlation_id",
                "reply_to",
                "type",
                "app_id",
                "content_type",
            )
        },
    ),
    routing_key=st.binary(max_size=100),
    fail=st.booleans(),
    traceparent=VALID,
)
def test_properties_and_routing_keys_that_are_no_text_do_no_harm(
    consumer: Consumer, text: dict[str, bytes], routing_key: bytes, fail: bool, traceparent: str
) -> None:
    handled = consumer.handle(
        {"traceparent": traceparent}, fail=fail, routing_key=routing_key, **text
    )
    assert handled.parent == traceparent[3:52]
    assert handled.settlement == ("reject" if fail else "ack")


def test_headers_that_fill_a_frame_do_no_harm(consumer: Consumer) -> None:
    parent = f"00-{1:032x}-{1:016x}-01"
    for name in FIELDS[1:]:
        for filling in (" ", "\t", "%", "=", ",", "a=b,", "a=" + " " * 200 + "b,", "é", "\0"):
            text = filling * (LONGEST // len(filling.encode()))
            handled = consumer.handle({"traceparent": parent, name: text})
            assert handled.parent == parent[3:52]
            assert handled.settlement == "ack"
